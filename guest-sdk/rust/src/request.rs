//! One HTTP request, as it came in.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::form::Form;

/// One request to the deployment. The body is read by one of [`json`](Self::json),
/// [`text`](Self::text), [`form`](Self::form) and [`bytes`](Self::bytes), or, where callers may
/// choose, by [`payload`](Self::payload).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

/// What a request of a test has, as the node's own default.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A body by its content type.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// `application/json` and `application/…+json`.
    Json(Value),
    /// `application/x-www-form-urlencoded` and `multipart/form-data`.
    Form(Form),
    /// `text/…`.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Request {
    /// A request without query, headers and body, for tests.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            id: "test".into(),
            method: method.to_ascii_uppercase(),
            path: path.into(),
            timeout: TEST_TIMEOUT,
            ..Self::default()
        }
    }

    /// `POST /` with a JSON body, for tests.
    ///
    /// # Panics
    /// When the value does not become JSON.
    pub fn post_json<T: Serialize + ?Sized>(value: &T) -> Self {
        let body = serde_json::to_vec(value).expect("the test's value becomes JSON");
        Self::new("POST", "/").with_body("application/json", body)
    }

    #[must_use]
    pub fn with_query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.with_header("content-type", content_type)
    }

    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// So long after [`Predictor::predict`](crate::Predictor::predict) was called, nobody waits for
    /// its answer, and the call is ended: the deployment's `limits.deadline`, or the caller's
    /// `x-request-timeout-ms`, less what has passed.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The caller's `x-request-id`, or the one that the node made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `GET`, `POST`, …
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path below the deployment: `/top/3` for `POST /digits/top/3`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first query parameter of that name.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// All query parameters in their order, percent-decoded.
    pub fn queries(&self) -> &[(String, String)] {
        &self.query
    }

    /// The first header of that name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// All headers in their order, names in lower case.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The content type without its parameters, in lower case; `""` without one.
    pub fn content_type(&self) -> Cow<'_, str> {
        let value = self.header("content-type").unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(essence.to_ascii_lowercase())
        } else {
            Cow::Borrowed(essence)
        }
    }

    /// The body as it came.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.body
    }

    /// The body as JSON, whatever its content type. The error is a `BadRequest` that says where:
    ///
    /// ```
    /// # use dunlin_sdk::Request;
    /// #[derive(serde::Deserialize)]
    /// struct Digit {
    ///     pixels: Vec<Vec<f32>>,
    /// }
    ///
    /// let request = Request::post_json(&serde_json::json!({"pixels": [[0, 16], [0, "x"]]}));
    /// let error = request.json::<Digit>().err().unwrap();
    /// assert!(error.message().starts_with("pixels[1][1]: invalid type: string \"x\", expected f32"));
    /// ```
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        if self.body.is_empty() {
            return Err(Error::bad_request("the body is empty; send JSON"));
        }
        // To keep track of the place takes time, so that is for a body that is known to be wrong.
        serde_json::from_slice(&self.body).or_else(|_| self.json_tracked())
    }

    fn json_tracked<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| Error::BadRequest(located(&error)))?;
        json.end()
            .map_err(|error| Error::bad_request(format_args!("the body: {error}")))?;
        Ok(value)
    }

    /// The body as UTF-8, whatever its content type.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.body)
            .map_err(|error| Error::bad_request(format_args!("the body is not UTF-8: {error}")))
    }

    /// The body as a form; a `BadRequest` when its content type is not one of a form.
    pub fn form(&self) -> Result<Form, Error> {
        let essence = self.content_type();
        match essence.as_ref() {
            "application/x-www-form-urlencoded" => Form::from_urlencoded(&self.body),
            "multipart/form-data" => {
                Form::from_multipart(self.header("content-type").unwrap_or_default(), &self.body)
            }
            other => Err(Error::bad_request(format_args!(
                "the body is no form but {}; send multipart/form-data or \
                 application/x-www-form-urlencoded",
                if other.is_empty() {
                    "of no content type"
                } else {
                    other
                }
            ))),
        }
    }

    /// The body by its content type: JSON, a form, text, or else bytes.
    pub fn payload(&self) -> Result<Payload, Error> {
        let essence = self.content_type();
        Ok(match essence.as_ref() {
            "application/x-www-form-urlencoded" | "multipart/form-data" => {
                Payload::Form(self.form()?)
            }
            essence if essence == "application/json" || essence.ends_with("+json") => {
                Payload::Json(self.json()?)
            }
            essence if essence.starts_with("text/") => Payload::Text(self.text()?.to_owned()),
            _ => Payload::Bytes(self.body.clone()),
        })
    }
}

/// The first value of a name that is compared without regard to case.
pub(crate) fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// An error of serde with where it is; the root has no name, and neither has a place that was never
/// reached.
pub(crate) fn located(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    match path.trim_end_matches(['.', '?']) {
        "" => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_payload(content_type: &str, body: &str, expected: Result<Payload, &str>) {
        let request = Request::new("POST", "/").with_body(content_type, body);
        let payload = request.payload();
        match expected {
            Ok(expected) => assert_eq!(payload, Ok(expected), "{content_type}"),
            Err(part) => {
                let Err(Error::BadRequest(message)) = payload else {
                    panic!("{content_type}: {payload:?}");
                };
                assert!(message.contains(part), "{content_type}: {message}");
            }
        }
    }

    #[test]
    fn the_content_type_decides_what_a_body_is() {
        let text = |text: &str| Ok(Payload::Text(text.into()));
        check_payload("application/json", "[1]", Ok(Payload::Json(json!([1]))));
        check_payload(
            "Application/JSON; charset=utf-8",
            "1",
            Ok(Payload::Json(json!(1))),
        );
        check_payload(
            "application/problem+json",
            "{}",
            Ok(Payload::Json(json!({}))),
        );
        check_payload("text/csv", "a,b", text("a,b"));
        check_payload("image/png", "PNG", Ok(Payload::Bytes(b"PNG".to_vec())));
        check_payload("", "x", Ok(Payload::Bytes(b"x".to_vec())));
        check_payload("application/json", "[1", Err("EOF"));
        check_payload("application/json", "", Err("empty"));
        check_payload("application/json", "1 2", Err("trailing"));
        check_payload("multipart/form-data", "x", Err("boundary"));
    }

    #[test]
    fn an_error_in_json_is_located() {
        type Body = std::collections::BTreeMap<String, Vec<u8>>;
        let message = |body: &str| {
            let request = Request::new("POST", "/").with_body("", body);
            request.json::<Body>().unwrap_err().message().to_owned()
        };
        assert!(message("{").starts_with("EOF while"), "{}", message("{"));
        assert!(
            message("[]").starts_with("invalid type: sequence"),
            "{}",
            message("[]")
        );
        assert!(message(r#"{"a": [1, 300]}"#).starts_with("a[1]: invalid value"));
    }

    #[test]
    fn names_of_headers_have_no_case_and_queries_keep_theirs() {
        let request = Request::new("get", "/a")
            .with_header("X-One", "1")
            .with_query("Q", "2");
        assert_eq!(request.header("x-oNE"), Some("1"));
        assert_eq!((request.query("Q"), request.query("q")), (Some("2"), None));
        assert_eq!(request.method(), "GET");
    }

    #[test]
    fn text_that_is_not_utf8_and_forms_that_are_none_are_bad_requests() {
        let request = Request::new("POST", "/").with_body("text/plain", [0xff]);
        assert!(matches!(request.text(), Err(Error::BadRequest(_))));
        assert!(matches!(request.form(), Err(Error::BadRequest(m)) if m.contains("text/plain")));
    }

    #[test]
    fn deep_json_is_refused() {
        let request = Request::new("POST", "/").with_body("application/json", "[".repeat(100_000));
        assert!(matches!(request.json::<Value>(), Err(Error::BadRequest(_))));
    }
}
