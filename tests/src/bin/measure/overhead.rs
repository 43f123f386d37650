//! What the sandbox adds to a prediction: `host/sandbox/examples/predict_time.rs`.

use std::{env, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{entrants::has_onnxruntime, in_process::Example, plan::Plan, workload::Workload};

/// The folder with the components that `cargo xtask guests` compiled.
const COMPONENTS: &str = "DUNLIN_COMPONENTS";

/// The middle of the calls of each kind, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Overhead {
    /// The same JSON, model and softmax without Wasm.
    pub(crate) native_us: f64,
    pub(crate) warm_us: f64,
    pub(crate) fresh_us: f64,
}

pub(crate) fn components() -> Result<String> {
    env::var(COMPONENTS).with_context(|| format!("{COMPONENTS} is not set; run cargo xtask bench"))
}

pub(crate) fn measure(plan: &Plan) -> Result<Overhead> {
    println!("\nThe sandbox: digits warm, fresh and without Wasm");
    let components = components()?;
    let model = Workload::Digits.model(Path::new(""));
    let model = model.to_str().context("the path is not text")?;
    let milliseconds = plan.in_process.as_millis().to_string();
    let backend = if has_onnxruntime() {
        "onnxruntime"
    } else {
        "tract"
    };
    let overhead: Overhead =
        Example::find("predict_time")?.run(&[&components, model, &milliseconds, backend])?;
    println!(
        "  without {:.1} µs, warm {:.1} µs, fresh {:.1} µs",
        overhead.native_us, overhead.warm_us, overhead.fresh_us
    );
    Ok(overhead)
}
