//! What the sandbox adds to a prediction: digits warm, with a fresh instance for each request, and
//! without Wasm, one call after another on one thread, in turns.
//!
//! `predict_time COMPONENTS MODEL MILLISECONDS [BACKEND]` prints one JSON object, its times in
//! microseconds. COMPONENTS is the folder of what `cargo xtask guests` compiled. The benchmark of the repository (`cargo xtask bench`) reads it.

#![expect(clippy::print_stdout, reason = "the result goes to whoever called it")]

#[expect(dead_code, reason = "the benchmarks beside it use more")]
#[path = "../benches/digits/mod.rs"]
mod digits;

use std::path::Path;
use std::time::{Duration, Instant};

use dunlin_inference::BackendKind;

use crate::digits::{Digits, Failure, question};

/// Of calls of one kind in a row: short, so that all three see the same machine.
const TURN: Duration = Duration::from_millis(20);
/// At the beginning of a turn, not counted.
const UNCOUNTED: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (components, model, milliseconds, backend) = match &arguments[..] {
        [components, model, milliseconds] => (components, model, milliseconds, None),
        [components, model, milliseconds, backend] => {
            (components, model, milliseconds, Some(backend))
        }
        _ => return Err("usage: predict_time COMPONENTS MODEL MILLISECONDS [BACKEND]".into()),
    };
    let backend = match backend {
        Some(name) => BackendKind::from_name(name).ok_or("there is no such backend")?,
        None => BackendKind::Auto,
    };
    let window = Duration::from_millis(milliseconds.parse()?);
    let digits = Digits::load(Path::new(components), model, backend).await?;
    let body = question();
    let (native, warm) = (digits.native(&body).await?, &digits.warm);
    let same = Digits::predict(warm, &body).await?;
    if label(&native)? != label(&same)? {
        return Err("the predictor answers another label than the same without Wasm".into());
    }

    let [mut native, mut warm, mut fresh] = [const { Vec::new() }; 3];
    let end = Instant::now() + window;
    while Instant::now() < end {
        turn(&mut native, async || digits.native(&body).await).await?;
        turn(&mut warm, async || {
            Digits::predict(&digits.warm, &body).await
        })
        .await?;
        turn(&mut fresh, async || {
            Digits::predict(&digits.fresh, &body).await
        })
        .await?;
    }
    let [native, warm, fresh] = [native, warm, fresh].map(|mut took| {
        took.sort_by(f64::total_cmp);
        took.get(took.len() / 2).copied().unwrap_or(f64::NAN)
    });
    println!("{{\"native_us\": {native:.3}, \"warm_us\": {warm:.3}, \"fresh_us\": {fresh:.3}}}");
    Ok(())
}

/// The microseconds of each call of one turn.
async fn turn(
    took: &mut Vec<f64>,
    mut call: impl AsyncFnMut() -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    for _ in 0..UNCOUNTED {
        call().await?;
    }
    let end = Instant::now() + TURN;
    let mut now = Instant::now();
    while now < end {
        call().await?;
        let answered = Instant::now();
        took.push((answered - now).as_secs_f64() * 1e6);
        now = answered;
    }
    Ok(())
}

fn label(answer: &[u8]) -> Result<Option<u64>, Failure> {
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    Ok(answer["label"].as_u64())
}
