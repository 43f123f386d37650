//! The model without a server: `host/inference/examples/infer_time.rs`, a program of its own because
//! these tests see the host from the outside only.

use std::{ffi::OsString, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use dunlin_tests::repository;
use serde::{Deserialize, Serialize};

const MODEL: &str = "predictors/digits/models/digits.onnx";

#[derive(Debug)]
pub(crate) struct InProcess {
    cargo: OsString,
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
    /// Builds the program, so that nothing is compiled while something is measured.
    pub(crate) fn build() -> Result<Self> {
        let this = Self {
            cargo: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        };
        println!("\nThe model in process: build the example infer_time of dunlin-inference");
        let status = this.command("build").status().context("cannot run cargo")?;
        ensure!(status.success(), "cargo build ended with {status}");
        Ok(this)
    }

    pub(crate) fn run(&self, duration: Duration) -> Result<Calls> {
        let output = self
            .command("run")
            .args(["--", MODEL, &duration.as_millis().to_string()])
            .output()
            .context("cannot run cargo")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "infer_time: {complaint}");
        serde_json::from_slice(&output.stdout).context("infer_time did not print its result")
    }

    /// In the profile of this program.
    fn command(&self, verb: &str) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.current_dir(repository()).args([verb, "--quiet"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        cargo.args(["--package", "dunlin-inference", "--example", "infer_time"]);
        cargo
    }
}
