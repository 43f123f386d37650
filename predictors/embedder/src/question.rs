//! What a request asks: which texts, and in which form the answer is to be.

use dunlin_sdk::{Error, Request};
use serde::Deserialize;

use crate::tokens::TOKENS_MAX;

/// In one request. They are one run of the model: more would make others wait.
const TEXTS_MAX: usize = 64;

/// Of one text. What the model looks at is shorter by far, but has to be found in it.
const TEXT_BYTES_MAX: usize = 64 << 10;

const EXPECTED: &str =
    "send {\"texts\": [\"…\", …]} or {\"text\": \"…\"} as JSON, or one text as text/plain";
const EXPECTED_BY_OPENAI: &str = "send {\"input\": \"…\"} or {\"input\": [\"…\", …]} as JSON";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) texts: Vec<String>,
    pub(crate) form: Form,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `{"embeddings": [[…]]}`.
    Plain,
    /// That of OpenAI's embeddings endpoint.
    OpenAi { numbers: Numbers, model: String },
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Numbers {
    #[default]
    Float,
    /// The bytes of its little-endian f32 in base64: what the Python client asks for.
    Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    text: Option<String>,
    texts: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OpenAi {
    input: OneOrMany,
    #[serde(default)]
    model: String,
    #[serde(default)]
    encoding_format: Numbers,
    dimensions: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a text nor a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Question {
    /// `width` is how many numbers a vector has.
    pub(crate) fn of(request: &Request, width: usize) -> Result<Self, Error> {
        let question = match request.path() {
            "/embeddings" | "/v1/embeddings" => Self::by_openai(request, width)?,
            _ => Self::plain(request)?,
        };
        let texts = &question.texts;
        if texts.is_empty() {
            return Err(Error::bad_request(
                "the list of texts is empty; send at least one",
            ));
        }
        if texts.len() > TEXTS_MAX {
            return Err(Error::bad_request(format_args!(
                "{} texts are too many; send at most {TEXTS_MAX} in one request",
                texts.len()
            )));
        }
        let mut lengths = texts.iter().map(String::len).enumerate();
        if let Some((at, length)) = lengths.find(|(_, length)| *length > TEXT_BYTES_MAX) {
            return Err(Error::bad_request(format_args!(
                "text {at} has {length} bytes; send at most {TEXT_BYTES_MAX} (the model reads no \
                 more than its first {TOKENS_MAX} tokens)"
            )));
        }
        Ok(question)
    }

    fn plain(request: &Request) -> Result<Self, Error> {
        let form = Form::Plain;
        if request.content_type() == "text/plain" {
            let texts = vec![request.text()?.to_owned()];
            return Ok(Self { texts, form });
        }
        let asked: Plain = request
            .json()
            .map_err(|error| expecting(&error, EXPECTED))?;
        let texts = match (asked.text, asked.texts) {
            (Some(text), None) => vec![text],
            (None, Some(texts)) => texts,
            (None, None) => {
                return Err(Error::bad_request(format_args!(
                    "there is no text; {EXPECTED}"
                )));
            }
            (Some(_), Some(_)) => {
                return Err(Error::bad_request(format_args!(
                    "`text` and `texts` are both there; {EXPECTED}"
                )));
            }
        };
        Ok(Self { texts, form })
    }

    fn by_openai(request: &Request, width: usize) -> Result<Self, Error> {
        let asked: OpenAi = request
            .json()
            .map_err(|error| expecting(&error, EXPECTED_BY_OPENAI))?;
        if let Some(dimensions) = asked.dimensions
            && usize::try_from(dimensions) != Ok(width)
        {
            return Err(Error::bad_request(format_args!(
                "the model's vectors have {width} dimensions, not {dimensions}; leave `dimensions` out"
            )));
        }
        let texts = match asked.input {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        };
        let form = Form::OpenAi {
            numbers: asked.encoding_format,
            model: asked.model,
        };
        Ok(Self { texts, form })
    }
}

fn expecting(error: &Error, expected: &str) -> Error {
    Error::bad_request(format_args!("{}; {expected}", error.message()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(path: &str, content_type: &str, body: &str) -> Result<Question, Error> {
        let request = Request::new("POST", path).with_body(content_type, body);
        Question::of(&request, 384)
    }

    #[test]
    fn texts_come_as_json_or_as_they_are() {
        let plain = |texts: &[&str]| {
            Ok(Question {
                texts: texts.iter().map(ToString::to_string).collect(),
                form: Form::Plain,
            })
        };
        let json = "application/json";
        assert_eq!(asked("/", json, r#"{"text": "a"}"#), plain(&["a"]));
        assert_eq!(asked("/", "", r#"{"texts": ["a", ""]}"#), plain(&["a", ""]));
        assert_eq!(
            asked("/", "text/plain; charset=utf-8", "{}"),
            plain(&["{}"])
        );
        assert_eq!(asked("/", "text/plain", ""), plain(&[""]));
    }

    #[test]
    fn openai_asks_in_its_own_way() {
        let body = |value: Value| value.to_string();
        let one = asked(
            "/v1/embeddings",
            "application/json",
            &body(json!({"input": "a", "model": "m", "encoding_format": "base64", "user": "u"})),
        );
        let form = Form::OpenAi {
            numbers: Numbers::Base64,
            model: "m".into(),
        };
        assert_eq!(
            one,
            Ok(Question {
                texts: vec!["a".into()],
                form
            })
        );
        let many = body(json!({"input": ["a", "b"], "dimensions": 384}));
        let many = asked("/embeddings", "application/json", &many).unwrap();
        assert_eq!(many.texts, ["a", "b"]);
    }

    fn check_refused(path: &str, content_type: &str, body: &str, part: &str) {
        let Err(Error::BadRequest(message)) = asked(path, content_type, body) else {
            panic!("not refused: {body}");
        };
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn what_is_no_question_is_refused_with_what_is() {
        let json = "application/json";
        check_refused("/", json, "", "the body is empty");
        check_refused("/", json, "hello", EXPECTED);
        check_refused("/", json, "{}", "there is no text; send");
        check_refused("/", json, r#"{"text": "a", "texts": []}"#, "both there");
        check_refused("/", json, r#"{"texts": []}"#, "at least one");
        check_refused(
            "/",
            json,
            r#"{"texts": "a"}"#,
            "texts: invalid type: string",
        );
        check_refused(
            "/",
            json,
            r#"{"texts": ["a", 1]}"#,
            "texts[1]: invalid type: integer `1`",
        );
        check_refused("/", json, r#"{"inputs": "a"}"#, "unknown field `inputs`");
        let many = json!({"texts": vec!["a"; 65]}).to_string();
        check_refused("/", json, &many, "65 texts are too many; send at most 64");
        let long = json!({"texts": ["a", "a".repeat(65_537)]}).to_string();
        check_refused(
            "/",
            json,
            &long,
            "text 1 has 65537 bytes; send at most 65536",
        );

        let path = "/v1/embeddings";
        check_refused(path, json, "{}", "missing field `input`");
        check_refused(
            path,
            json,
            r#"{"input": [[1, 2]]}"#,
            "neither a text nor a list",
        );
        check_refused(path, json, r#"{"input": []}"#, "at least one");
        check_refused(
            path,
            json,
            r#"{"input": "a", "dimensions": 64}"#,
            "384 dimensions, not 64",
        );
        check_refused(
            path,
            json,
            r#"{"input": "a", "encoding_format": "x"}"#,
            "encoding_format",
        );
    }
}
