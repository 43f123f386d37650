//! A predictor that does what no predictor should. The last segment of the path, or `?do=`, says
//! what; see `BEHAVIOURS`. Where it survives, it answers with what came of it: a JSON object with
//! `did`, `requests` (how many this instance has seen, so that a test can tell a new instance from
//! a used one), and, where the host refused, `code` and `message`.
//!
//! `config: {"init": …}` takes `ok`, `fail`, `trap` and `loop`; `{"init_ms": …}` makes it take so long.

#[cfg(target_family = "wasm")]
mod raw;
mod resources;

use std::hint::black_box;
use std::process;

use dunlin_sdk::{Config, Error, Model, ModelError, Predictor, Request, Response, Tensor, log};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a behaviour gives where it survives: either a reply as it stands, or fields of the answer.
pub(crate) enum Outcome {
    Fields(Value),
    Reply(Response),
}

type Behaviour = fn(&Request) -> Result<Outcome, Error>;

/// Every behaviour, with the numbers that its query may change.
const BEHAVIOURS: &[(&str, Behaviour)] = &[
    // Nothing wrong.
    ("ok", |_| fields(json!({}))),
    ("infer", infer),
    ("bad-request", |_| {
        Err(Error::bad_request("the guest blames the caller"))
    }),
    ("unavailable", |_| {
        Err(Error::unavailable("the guest asks for patience"))
    }),
    ("internal", |_| Err(Error::internal("the guest's secret"))),
    // Ends that are no answer.
    ("trap", |_| process::abort()),
    ("panic", panic),
    ("recurse", |_| fields(json!({"depth": recurse(0)}))),
    ("recurse-wide", |_| {
        fields(json!({"depth": recurse_wide(0)}))
    }),
    // Time. `?ms=` of slow, 100 by default.
    ("loop", |_| spin()),
    ("slow", resources::slow),
    // Resources. `?count=` or `?bytes=` bounds them where the host does not.
    ("memory", resources::memory),
    ("giant", resources::giant),
    ("log-flood", resources::log_flood),
    ("metric-flood", resources::metric_flood),
    ("many-models", resources::many_models),
    // Replies that are none. `?status=` of bad-status, 9999 by default.
    ("bad-status", |request| {
        reply(Response::empty(number(request, "status", 9999)? as u16))
    }),
    ("bad-header", |_| {
        reply(Response::text("x").with_header("not a name\r\n", "x"))
    }),
    ("bad-header-value", |_| {
        reply(Response::text("x").with_header("x-a", "1\r\nx-injected: 2"))
    }),
    // `?bytes=` of giant-header, 100,000 by default, and `?count=` of many-headers, 1000 by default.
    ("giant-header", |request| {
        let bytes = number(request, "bytes", 100_000)?;
        let bytes = usize::try_from(bytes).map_err(Error::bad_request)?;
        reply(Response::text("x").with_header("x-a", "v".repeat(bytes)))
    }),
    ("many-headers", |request| {
        let mut response = Response::text("x");
        for number in 0..number(request, "count", 1000)? {
            response = response.with_header(&format!("x-{number}"), "v");
        }
        reply(response)
    }),
    // Answers in pieces, `?bytes=` each, 1000 by default.
    ("stream-on", |request| stream(request, Then::GoOn)),
    ("stream-trap", |request| stream(request, Then::Trap)),
    ("stream-fail", |request| stream(request, Then::Fail)),
    ("stream-stubborn", |request| {
        stream(request, Then::IgnoreErrors)
    }),
    ("stream-twice", |_| {
        let first = Response::text("once").stream()?;
        let second = Response::text("twice").stream();
        log::info!("begun twice", refused = second.is_err());
        reply(first.finish())
    }),
    ("stream-bad-status", |_| {
        reply(Response::empty(9999).stream()?.finish())
    }),
    // What the host must refuse. `?name=` of unknown-model.
    ("unknown-model", unknown_model),
    ("wrong-input-name", |_| {
        infer_with("no-such-input", Tensor::f32([1, 1, 8, 8], vec![0.0; 64])?)
    }),
    ("wrong-input-type", |_| {
        infer_with("pixels", Tensor::i64([1, 1, 8, 8], vec![0; 64])?)
    }),
    ("wrong-input-shape", |_| {
        infer_with("pixels", Tensor::f32([1, 1, 8, 9], vec![0.0; 72])?)
    }),
    ("no-input", |_| {
        of_model(Model::open("digits").and_then(|m| m.infer::<&str>(&[]).map(drop)))
    }),
    // What the SDK would not let by, sent past it.
    #[cfg(target_family = "wasm")]
    ("wrong-length", raw::wrong_length),
    #[cfg(target_family = "wasm")]
    ("overflow-dims", raw::overflow_dims),
    #[cfg(target_family = "wasm")]
    ("load-bytes", raw::load_bytes),
    #[cfg(target_family = "wasm")]
    ("many-tensors", raw::many_tensors),
    #[cfg(target_family = "wasm")]
    ("giant-tensor-shape", raw::many_dimensions),
    #[cfg(target_family = "wasm")]
    ("load-many", raw::load_many),
    #[cfg(target_family = "wasm")]
    ("load-huge", raw::load_huge),
];

/// Counts its requests.
#[derive(Debug)]
pub struct Misbehave {
    requests: u64,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    init: Init,
    #[serde(default)]
    init_ms: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Init {
    #[default]
    Ok,
    Fail,
    Trap,
    Loop,
}

impl Predictor for Misbehave {
    fn init(config: Config) -> Result<Self, Error> {
        let settings = config.parse::<Settings>()?;
        if settings.init_ms > 0 {
            log::info!("init takes its time");
            resources::spin_for(settings.init_ms);
        }
        match settings.init {
            Init::Ok => Ok(Self { requests: 0 }),
            Init::Fail => Err(Error::internal("init fails as it was told to")),
            Init::Trap => process::abort(),
            Init::Loop => spin(),
        }
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        self.requests += 1;
        let last = request.path().rsplit('/').next().unwrap_or_default();
        let name = request.query("do").unwrap_or(last);
        let Some((name, behaviour)) = BEHAVIOURS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = BEHAVIOURS.iter().map(|(name, _)| *name).collect();
            return Err(Error::bad_request(format_args!(
                "`{name}` is nothing to do; it can do {}",
                known.join(", ")
            )));
        };
        match behaviour(&request)? {
            Outcome::Reply(response) => Ok(response),
            Outcome::Fields(fields) => {
                let mut answer = Map::new();
                answer.insert("did".into(), json!(name));
                answer.insert("requests".into(), json!(self.requests));
                if let Value::Object(fields) = fields {
                    answer.extend(fields);
                }
                Response::json(&answer)
            }
        }
    }
}

dunlin_sdk::export!(Misbehave);

pub(crate) fn fields(fields: Value) -> Result<Outcome, Error> {
    Ok(Outcome::Fields(fields))
}

/// What a stream does after its first piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Until the host says no; what it says is logged.
    GoOn,
    Trap,
    Fail,
    /// Whatever the host says.
    IgnoreErrors,
}

fn stream(request: &Request, then: Then) -> Result<Outcome, Error> {
    let piece = vec![b'x'; number(request, "bytes", 1000)? as usize];
    let mut body = Response::bytes([]).stream()?;
    body.write(&piece)?;
    match then {
        Then::Trap => process::abort(),
        Then::Fail => return Err(Error::internal("the guest's secret")),
        Then::GoOn | Then::IgnoreErrors => {}
    }
    loop {
        match body.write(&piece) {
            Err(error) if then == Then::GoOn => {
                log::info!("the stream has ended", error = error);
                return reply(body.finish());
            }
            _ => {}
        }
    }
}

fn reply(response: Response) -> Result<Outcome, Error> {
    Ok(Outcome::Reply(response))
}

/// A number of the query.
pub(crate) fn number(request: &Request, name: &str, default: u64) -> Result<u64, Error> {
    match request.query(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Error::bad_request(format_args!("`{name}` is a number, not {text}"))),
    }
}

/// What the host said of a call to a model.
fn of_model(result: Result<(), ModelError>) -> Result<Outcome, Error> {
    match result {
        Ok(()) => fields(json!({"code": null})),
        Err(error) => fields(json!({"code": error.code().name(), "message": error.message()})),
    }
}

fn infer(_: &Request) -> Result<Outcome, Error> {
    infer_with("pixels", Tensor::f32([1, 1, 8, 8], vec![0.0; 64])?)
}

fn infer_with(name: &str, tensor: Tensor<'_>) -> Result<Outcome, Error> {
    of_model(Model::open("digits").and_then(|model| model.infer(&[(name, tensor)]).map(drop)))
}

fn unknown_model(request: &Request) -> Result<Outcome, Error> {
    let name = request.query("name").unwrap_or("no-such-model");
    of_model(Model::open(name).map(drop))
}

#[expect(clippy::panic, reason = "it is what the test asks for")]
fn panic(_: &Request) -> Result<Outcome, Error> {
    panic!("the guest panics as it was told to");
}

/// Frames of next to nothing in linear memory: the host's stack for the guest is what ends.
#[expect(unconditional_recursion, reason = "it is what the test asks for")]
fn recurse(depth: u64) -> u64 {
    // Nothing that the compiler could turn into a loop.
    (recurse(black_box(depth) + 1) ^ depth).rotate_left(1)
}

/// Frames of a KiB: the guest's own stack, in linear memory, is what ends.
#[expect(unconditional_recursion, reason = "it is what the test asks for")]
fn recurse_wide(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    recurse_wide(depth + 1) + black_box(frame)[0]
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensors, testing};

    use super::*;

    fn misbehave(name: &str) -> Result<Value, Error> {
        testing::model("digits", |_| Ok(Tensors::default()));
        let mut guest = Misbehave::init(Config::default())?;
        let response = guest.predict(Request::new("POST", &format!("/a/{name}")))?;
        Ok(serde_json::from_slice(response.body()).unwrap())
    }

    #[test]
    fn what_survives_says_what_came_of_it() {
        assert_eq!(
            misbehave("ok").unwrap(),
            json!({"did": "ok", "requests": 1})
        );
        assert_eq!(misbehave("infer").unwrap()["code"], Value::Null);
        assert_eq!(misbehave("unknown-model").unwrap()["code"], "not-found");
        assert_eq!(misbehave("log-flood").unwrap()["count"], 100_000);
    }

    #[test]
    fn what_it_cannot_do_is_a_bad_request() {
        assert!(matches!(misbehave("sleep"), Err(Error::BadRequest(m)) if m.contains("memory")));
    }

    #[test]
    fn init_misbehaves_as_configured() {
        let config = Config::from_json(r#"{"init": "fail"}"#).unwrap();
        assert!(matches!(Misbehave::init(config), Err(Error::Internal(_))));
    }

    #[test]
    #[should_panic(expected = "as it was told to")]
    fn a_panic_panics() {
        let _ = misbehave("panic");
    }
}
