//! How long one call of a model takes in process, on one thread, one call after another.
//!
//! `infer_time MODEL MILLISECONDS [BACKEND]` prints one JSON object, its times in microseconds. The
//! benchmark of the repository (`cargo xtask bench`) sets them beside the same model behind HTTP.
//! The native backends are those in the folder that `DUNLIN_BACKENDS` names.

#![expect(clippy::print_stdout, reason = "the result goes to whoever called it")]

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use dunlin_inference::{
    BackendKind, BackendPaths, Backends, InferenceError, LoadRequest, Model, ModelOptions,
    ModelSource, NamedTensors, Registry, Tensor,
};

/// Of calls that do not count: caches fill, the processor comes to its speed.
const WARM_UP: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(milliseconds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: infer_time MODEL MILLISECONDS [BACKEND]".into());
    };
    let backend = match arguments.next() {
        Some(name) => BackendKind::from_name(&name).ok_or("there is no such backend")?,
        None => BackendKind::Auto,
    };
    let window = Duration::from_millis(milliseconds.parse()?);
    let request = LoadRequest {
        digest: path.clone(),
        source: ModelSource::path(path),
        backend,
        // One thread a run.
        options: ModelOptions::default(),
        golden: None,
    };
    // Only loading wants a runtime: the calls are this thread's own.
    let runtime = tokio::runtime::Runtime::new()?;
    let registry = Registry::new(Backends::new(BackendPaths {
        folder: std::env::var_os("DUNLIN_BACKENDS").map(Into::into),
        ..BackendPaths::default()
    }));
    let model = runtime.block_on(registry.get_or_load(request))?;

    calls_us(&model, WARM_UP)?;
    let mut calls = calls_us(&model, window)?;
    calls.sort_by(f64::total_cmp);
    let [Some(p50), Some(p99), Some(p999)] = [500, 990, 999].map(|share| quantile(&calls, share))
    else {
        return Err("no call ended in time".into());
    };
    let count = calls.len();
    // Not from the mean: a call that was interrupted is as long as the interruption.
    let per_second = 1e6 / p50;
    println!(
        "{{\"count\": {count}, \"per_second\": {per_second:.3}, \"p50_us\": {p50:.3}, \
         \"p99_us\": {p99:.3}, \"p999_us\": {p999:.3}}}"
    );
    Ok(())
}

/// The microseconds of each call of a window.
fn calls_us(model: &Model, window: Duration) -> Result<Vec<f64>, InferenceError> {
    let inputs = zeros(model)?;
    let mut calls = Vec::new();
    let end = Instant::now() + window;
    let mut now = Instant::now();
    while now < end {
        // The copy counts: whoever asks has to name and give the tensors. Their bytes are shared.
        black_box(model.infer_blocking(black_box(inputs.clone()))?);
        let answered = Instant::now();
        calls.push((answered - now).as_secs_f64() * 1e6);
        now = answered;
    }
    Ok(calls)
}

/// One row: what is in it does not change how long it takes.
fn zeros(model: &Model) -> Result<NamedTensors, InferenceError> {
    let inputs = model.signature().inputs.iter().map(|spec| {
        let zeros = Tensor::zeros(spec.dtype, &spec.shape_with(1))?;
        Ok((spec.name.clone(), zeros))
    });
    inputs.collect()
}

/// The value below which so many in a thousand of the sorted values lie.
fn quantile(sorted: &[f64], thousandths: usize) -> Option<f64> {
    let rank = (sorted.len() * thousandths).div_ceil(1000);
    sorted.get(rank.checked_sub(1)?).copied()
}
