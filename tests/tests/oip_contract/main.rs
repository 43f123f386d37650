//! The Open Inference Protocol's contract, row by row, and each of its refusals, against a running
//! node: a table of requests and of what must come of each. What takes more than a row is in
//! `oip_extensions` and `repository`.

mod documents;
mod inferences;
mod refusals;

use dunlin_tests::{Answer, Node, send};
use reqwest::Method;
use serde_json::Value;

/// One row of the contract.
struct Row {
    what: &'static str,
    method: Method,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    status: u16,
    check: Check,
}

enum Check {
    /// The body is this document, but for fields that are null here.
    Is(Value),
    /// The body is an error whose text has this.
    Says(&'static str),
    Passes(fn(&Answer)),
}

/// A body as it is sent.
struct Text(String);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Value> for Text {
    fn from(json: Value) -> Self {
        Self(json.to_string())
    }
}

fn get(what: &'static str, path: &'static str, status: u16, check: Check) -> Row {
    Row {
        what,
        method: Method::GET,
        path,
        headers: &[],
        body: Vec::new(),
        status,
        check,
    }
}

fn post(
    what: &'static str,
    path: &'static str,
    body: impl Into<Text>,
    status: u16,
    check: Check,
) -> Row {
    Row {
        method: Method::POST,
        body: body.into().0.into_bytes(),
        ..get(what, path, status, check)
    }
}

async fn run(node: &Node, rows: Vec<Row>) {
    for row in rows {
        let mut request = node.request(row.method, row.path).body(row.body);
        for (name, value) in row.headers {
            request = request.header(*name, *value);
        }
        let answer = send(request).await;
        let what = format!("{} ({}): {}", row.what, row.path, answer.text());
        assert_eq!(answer.status, row.status, "{what}");
        match row.check {
            Check::Is(expected) => assert!(is(&answer.json(), &expected), "{what}"),
            Check::Says(part) => assert!(answer.error(row.status).contains(part), "{what}"),
            Check::Passes(check) => check(&answer),
        }
        match row.status {
            503 => assert_eq!(answer.header("retry-after"), "1", "{what}"),
            405 => assert!(!answer.header("allow").is_empty(), "{what}"),
            _ => {}
        }
    }
}

fn is(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (_, Value::Null) => true,
        (Value::Object(found), Value::Object(expected)) => {
            found.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, value)| found.get(key).is_some_and(|found| is(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| is(f, e))
        }
        (found, expected) => found == expected,
    }
}

fn any() -> Value {
    Value::Null
}
