//! Takes more of something than a predictor should get. Where the host refuses instead of trapping,
//! the answer says how far it came.

use std::hint::black_box;
use std::time::Duration;

use dunlin_sdk::{Error, Model, Request, Response, clock, log, metrics};
use serde_json::json;

use crate::{Outcome, fields, number};

const MIB: usize = 1 << 20;

/// Spins for `?ms=` milliseconds, 100 by default.
pub(crate) fn slow(request: &Request) -> Result<Outcome, Error> {
    spin_for(number(request, "ms", 100)?);
    fields(json!({}))
}

pub(crate) fn spin_for(ms: u64) {
    let until = clock::monotonic() + Duration::from_millis(ms);
    while clock::monotonic() < until {
        for turn in 0..10_000 {
            black_box(turn);
        }
    }
}

/// Takes memory, a MiB at a time, until it gets none or has `?count=` of them.
pub(crate) fn memory(request: &Request) -> Result<Outcome, Error> {
    let count = number(request, "count", 1 << 20)?;
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut refused = false;
    for _ in 0..count {
        let mut part = Vec::new();
        if taken.try_reserve(1).is_err() || part.try_reserve_exact(MIB).is_err() {
            refused = true;
            break;
        }
        part.resize(MIB, 1);
        taken.push(black_box(part));
    }
    let mebibytes = taken.len();
    // The answer needs a little memory too.
    drop(taken);
    fields(json!({"mebibytes": mebibytes, "refused": refused}))
}

/// Answers with `?bytes=` bytes, by default a MiB more than a deployment allows unless told.
pub(crate) fn giant(request: &Request) -> Result<Outcome, Error> {
    let bytes = number(request, "bytes", 17 << 20)?;
    let bytes = usize::try_from(bytes).map_err(Error::bad_request)?;
    Ok(Outcome::Reply(Response::bytes(vec![b'x'; bytes])))
}

/// Logs `?count=` events, 100,000 by default.
pub(crate) fn log_flood(request: &Request) -> Result<Outcome, Error> {
    let count = number(request, "count", 100_000)?;
    for number in 0..count {
        log::info!("the guest floods the log", number = number);
    }
    fields(json!({"count": count}))
}

/// Counts under `?count=` names, 10,000 by default.
pub(crate) fn metric_flood(request: &Request) -> Result<Outcome, Error> {
    let count = number(request, "count", 10_000)?;
    for number in 0..count {
        metrics::counter_add(&format!("flood_{number}"), 1.0);
    }
    for (name, value) in [
        ("Not a name", 1.0),
        ("", 1.0),
        ("fine", f64::NAN),
        ("fine", -1.0),
    ] {
        metrics::counter_add(name, value);
    }
    fields(json!({"count": count}))
}

/// Opens a model `?count=` times, 100,000 by default, and keeps them all.
pub(crate) fn many_models(request: &Request) -> Result<Outcome, Error> {
    let mut models = Vec::new();
    for _ in 0..number(request, "count", 100_000)? {
        match Model::open("digits") {
            Ok(model) => models.push(model),
            Err(error) => {
                let (code, message) = (error.code().name(), error.message());
                return fields(json!({"count": models.len(), "code": code, "message": message}));
            }
        }
    }
    fields(json!({"count": models.len()}))
}
