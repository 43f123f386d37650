//! The model without a server: `host/inference/examples/infer_time.rs`, a program of its own because
//! these tests see the host from the outside only.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use dunlin_tests::repository;
use serde::{Deserialize, Serialize};

const MODEL: &str = "predictors/digits/models/digits.onnx";

#[derive(Debug)]
pub(crate) struct InProcess {
    program: PathBuf,
}

/// Calls on one thread, one after another.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Calls {
    pub(crate) count: f64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl InProcess {
    /// Finds the program, which cargo builds beside this one.
    pub(crate) fn find() -> Result<Self> {
        let beside = std::env::current_exe()?;
        let examples = beside.with_file_name("examples");
        let program = examples.join(format!("infer_time{}", std::env::consts::EXE_SUFFIX));
        ensure!(
            program.exists(),
            "{} is missing; run cargo xtask bench, which builds it",
            program.display()
        );
        Ok(Self { program })
    }

    pub(crate) fn run(&self, duration: Duration) -> Result<Calls> {
        let output = Command::new(&self.program)
            .current_dir(repository())
            .args([MODEL, &duration.as_millis().to_string(), "tract"])
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "infer_time: {complaint}");
        serde_json::from_slice(&output.stdout).context("infer_time did not print its result")
    }
}
