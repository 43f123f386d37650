//! One HTTP reply, on its way out.

use serde::Serialize;

use crate::Error;

/// The reply to a request: status 200 unless told otherwise.
///
/// ```
/// # use dunlin_sdk::{Error, Response};
/// let response = Response::text("gone").with_status(410).with_header("cache-control", "no-store");
/// assert_eq!(response.status(), 410);
/// assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// `application/json`.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Ok(Self::with_type(
            "application/json",
            serde_json::to_vec(value)?,
        ))
    }

    /// `text/plain`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::with_type("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// `application/octet-stream`; for anything else set the header `content-type`.
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self::with_type("application/octet-stream", body.into())
    }

    /// A reply without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn with_type(content_type: &str, body: Vec<u8>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".into(), content_type.into())],
            body,
        }
    }

    /// 200 to 599: the node answers 500 in place of anything else.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets a header in place of any of that name. The name becomes lower case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        let name = name.to_ascii_lowercase();
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        crate::request::find(&self.headers, name)
    }

    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The three parts, as they cross to the host.
    pub fn into_parts(self) -> (u16, Vec<(String, String)>, Vec<u8>) {
        (self.status, self.headers, self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_set_once() {
        let response = Response::bytes([1, 2]).with_header("Content-Type", "image/png");
        assert_eq!(
            response.headers(),
            [("content-type".to_owned(), "image/png".to_owned())]
        );
        assert_eq!(response.body(), [1, 2]);
    }

    #[test]
    fn what_json_cannot_say_is_an_internal_error() {
        let map = std::collections::BTreeMap::from([(vec![1], 2)]);
        assert!(matches!(Response::json(&map), Err(Error::Internal(_))));
    }
}
