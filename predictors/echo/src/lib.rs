//! A predictor without a model: whatever is asked comes back, a request as JSON and tensors as they
//! are. For trying a node out, and as the smallest predictor there is.
//!
//! `GET /echo/events` answers with server-sent events, `?count=` of them or as many as the caller
//! stays for, and `GET /echo/events.html` is a page that reads them.

mod base64;

use std::collections::BTreeMap;

use dunlin_sdk::{
    Config, DType, Error, Form, Payload, Predictor, Request, Response, Signature, StreamError,
    TensorPredictor, TensorSpec, Tensors, log,
};
use serde::Serialize;
use serde_json::Value;

/// Keeps nothing from one request to the next.
#[derive(Debug)]
pub struct Echo;

impl Predictor for Echo {
    fn init(_: Config) -> Result<Self, Error> {
        Ok(Self)
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        match request.path() {
            "/events" => return events(&request),
            "/events.html" => {
                let page = Response::text(include_str!("events.html"));
                return Ok(page.with_header("content-type", "text/html; charset=utf-8"));
            }
            _ => {}
        }
        let content_type = request.content_type();
        Response::json(&Answer {
            id: request.id(),
            method: request.method(),
            path: request.path(),
            query: by_name(request.queries()),
            headers: by_name(request.headers()),
            timeout_ms: request.timeout().as_millis(),
            content_type: (!content_type.is_empty()).then_some(&content_type),
            body: match request.bytes() {
                [] => None,
                _ => Some(request.payload()?.into()),
            },
        })
    }
}

/// Numbers from 1 on, each an event of its own.
fn events(request: &Request) -> Result<Response, Error> {
    let count = request.query("count").map(str::parse::<u64>).transpose();
    let count = count.map_err(|error| Error::bad_request(format_args!("count: {error}")))?;
    let mut events = Response::events()?;
    for number in 1..=count.unwrap_or(u64::MAX) {
        match events.send(&number.to_string()) {
            Ok(()) => {}
            Err(StreamError::Closed) => {
                log::info!("the caller has left", events = number - 1);
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(events.finish())
}

/// `numbers` and `words` go through `/v2/models/echo/infer` and come back.
impl TensorPredictor for Echo {
    fn describe(&self) -> Signature {
        let tensors = vec![
            TensorSpec::new("numbers", DType::F32, &[-1]),
            TensorSpec::new("words", DType::Bytes, &[-1]),
        ];
        Signature {
            inputs: tensors.clone(),
            outputs: tensors,
        }
    }

    fn infer(&mut self, inputs: Tensors) -> Result<Tensors, Error> {
        if inputs
            .input("numbers")?
            .as_f32()?
            .iter()
            .any(|n| n.is_nan())
        {
            return Err(Error::bad_request("numbers has a NaN, which has no echo"));
        }
        Ok(inputs)
    }
}

dunlin_sdk::export!(Echo: tensors);

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    method: &'a str,
    path: &'a str,
    /// All values of a name, in their order.
    query: BTreeMap<&'a str, Vec<&'a str>>,
    headers: BTreeMap<&'a str, Vec<&'a str>>,
    /// How long the caller waits.
    timeout_ms: u128,
    content_type: Option<&'a str>,
    /// `{"json": …}`, `{"text": …}`, `{"form": [{"name", "text" or "base64", …}]}`,
    /// `{"base64": …}`, or null for an empty one.
    body: Option<Body>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Body {
    Json(Value),
    Text(String),
    Form(Vec<Field>),
    Base64(String),
}

#[derive(Serialize)]
struct Field {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(flatten)]
    value: Body,
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Json(value) => Self::Json(value),
            Payload::Text(text) => Self::Text(text),
            Payload::Form(form) => Self::Form(fields(&form)),
            Payload::Bytes(bytes) => Self::Base64(base64::encode(&bytes)),
        }
    }
}

fn fields(form: &Form) -> Vec<Field> {
    let value = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Body::Text(text.to_owned()),
        Err(_) => Body::Base64(base64::encode(bytes)),
    };
    form.fields()
        .iter()
        .map(|field| Field {
            name: field.name.clone(),
            file_name: field.file_name.clone(),
            content_type: field.content_type.clone(),
            value: value(&field.value),
        })
        .collect()
}

fn by_name(fields: &[(String, String)]) -> BTreeMap<&str, Vec<&str>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in fields {
        names.entry(name.as_str()).or_default().push(value.as_str());
    }
    names
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensor, testing};
    use serde_json::json;

    use super::*;

    fn check_body(content_type: &str, body: &[u8], expected: &Value) {
        let request = Request::new("POST", "/").with_body(content_type, body);
        let response = Echo.predict(request).unwrap();
        let answer: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(answer["body"], *expected, "{content_type}");
    }

    #[test]
    fn a_body_comes_back_by_its_content_type() {
        check_body(
            "application/json",
            b"{\"a\": [1]}",
            &json!({"json": {"a": [1]}}),
        );
        check_body("text/plain", "é".as_bytes(), &json!({"text": "é"}));
        check_body("image/png", &[0xff, 0, 1], &json!({"base64": "/wAB"}));
        check_body("image/png", b"", &Value::Null);
        check_body(
            "application/x-www-form-urlencoded",
            b"a=1&b=%FF",
            &json!({"form": [{"name": "a", "text": "1"}, {"name": "b", "text": "\u{fffd}"}]}),
        );
        check_body(
            "multipart/form-data; boundary=x",
            b"--x\r\ncontent-disposition: form-data; name=f; filename=p\r\n\r\n\xff\r\n--x--",
            &json!({"form": [{"name": "f", "file_name": "p", "base64": "/w=="}]}),
        );
    }

    #[test]
    fn everything_else_comes_back_too() {
        let request = Request::new("GET", "/a/b")
            .with_query("q", "1")
            .with_query("q", "2")
            .with_header("X-One", "1");
        let response = Echo.predict(request).unwrap();
        let answer: Value = serde_json::from_slice(response.body()).unwrap();
        let expected = json!({
            "id": "test", "method": "GET", "path": "/a/b", "query": {"q": ["1", "2"]},
            "headers": {"x-one": ["1"]}, "timeout_ms": 30000, "content_type": null, "body": null,
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn events_come_one_by_one() {
        let request = Request::new("GET", "/events").with_query("count", "2");
        Echo.predict(request).unwrap();
        let streamed = testing::streamed().unwrap();
        assert_eq!(streamed.pieces, [b"data: 1\n\n", b"data: 2\n\n"]);

        testing::caller_leaves_after(3);
        Echo.predict(Request::new("GET", "/events")).unwrap();
        assert_eq!(testing::streamed().unwrap().pieces.len(), 3);
        assert_eq!(testing::logs()[0].message, "the caller has left");
    }

    #[test]
    fn tensors_come_back() {
        let inputs = |number| {
            Tensors::from([
                ("numbers", Tensor::f32([2], vec![1.0, number]).unwrap()),
                ("words", Tensor::byte_strings([1], &["a\0é"]).unwrap()),
            ])
        };
        assert_eq!(Echo.infer(inputs(-2.5)).unwrap(), inputs(-2.5));
        assert!(matches!(
            Echo.infer(inputs(f32::NAN)),
            Err(Error::BadRequest(_))
        ));
    }

    #[test]
    fn a_body_that_is_not_what_it_says_is_a_bad_request() {
        let request = Request::new("POST", "/").with_body("application/json", "{");
        assert!(matches!(Echo.predict(request), Err(Error::BadRequest(_))));
    }
}
