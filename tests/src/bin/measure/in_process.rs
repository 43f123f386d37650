//! Models without a server: the engines called in process.

use std::{path::Path, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use dunlin_tests::repository;
use serde::{Deserialize, de::DeserializeOwned};

use crate::load::Answers;

/// A program that cargo builds beside this one: these tests see the host from the outside only.
#[derive(Debug)]
pub(crate) struct Example {
    program: PathBuf,
}

impl Example {
    pub(crate) fn find(name: &str) -> Result<Self> {
        let beside = std::env::current_exe()?;
        let examples = beside.with_file_name("examples");
        let program = examples.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        ensure!(
            program.exists(),
            "{} is missing; run cargo xtask bench, which builds it",
            program.display()
        );
        Ok(Self { program })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(repository());
        command
    }

    /// Runs it and reads the JSON that it prints.
    pub(crate) fn run<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        printed(self.command().args(arguments))
    }
}

/// One call after another of a model on one thread, through the host's own engine.
pub(crate) fn calls(
    infer_time: &Example,
    model: &Path,
    duration: Duration,
    backend: &str,
) -> Result<Answers> {
    let model = model.to_str().context("the path is not text")?;
    infer_time.run(&[model, &duration.as_millis().to_string(), backend])
}

/// What ONNX Runtime's own Python binding does with a question.
#[derive(Debug, Deserialize)]
pub(crate) struct Binding {
    #[serde(flatten)]
    pub(crate) answers: Answers,
    /// The first numbers of its output.
    pub(crate) output: Vec<f64>,
}

/// The binding in a process of its own; `input` is the file with the tensor's bytes.
pub(crate) fn binding(
    python: &Path,
    model: &Path,
    input: &Path,
    callers: usize,
    duration: Duration,
) -> Result<Binding> {
    let mut command = Command::new(python);
    command
        .arg(repository().join("tests/python/onnxruntime_in_process.py"))
        .arg(model)
        .arg(input)
        .args(["--threads", "1", "--callers", &callers.to_string()])
        .args(["--seconds", &duration.as_secs_f64().to_string()]);
    printed(&mut command)
}

fn printed<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {complaint}");
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{program} did not print its result"))
}
