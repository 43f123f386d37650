//! An answer over HTTP, read whole.

use bytes::Bytes;
use reqwest::{
    RequestBuilder, StatusCode,
    header::{HeaderMap, HeaderName},
};
use serde_json::Value;

/// A status, headers and the whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Sends a request and reads the answer; one that never came is a failed test.
///
/// # Panics
/// There was no whole answer.
pub async fn send(request: RequestBuilder) -> Answer {
    match Answer::to(request).await {
        Ok(answer) => answer,
        Err(error) => panic!("no answer: {error:?}"),
    }
}

impl Answer {
    /// As [`send`], for a request that may stay without an answer.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn to(request: RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = HeaderName::try_from(name)
            .ok()
            .and_then(|name| self.headers.get(name));
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// # Panics
    /// The body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {} {}", self.status, self.text()),
        }
    }

    /// The answer, having checked that it is a success.
    ///
    /// # Panics
    /// Its status is not 200.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self
    }

    /// The text of an error, having checked its status and that it has the one form all errors have.
    ///
    /// # Panics
    /// It is another answer.
    #[must_use]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        assert_ne!(self.header("x-request-id"), "", "an error has a request id");
        let body = self.json();
        match (body.as_object(), body["error"].as_str()) {
            (Some(fields), Some(text)) if fields.len() == 1 && !text.is_empty() => text.to_owned(),
            _ => panic!("not {{\"error\": \"…\"}}: {body}"),
        }
    }
}
