//! `cargo xtask test`: everything that must pass, in the order in which it is cheapest to fail.

use std::{ffi::OsString, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    backends, browser, guests,
    process::{cargo, exists, root, step, work_dir},
    prometheus, python,
};

/// Whether the tests that need PyTorch Lightning run: its environment takes 3 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lightning {
    Skipped,
    Installed,
}

pub(crate) fn run(lightning: Lightning) -> Result<()> {
    let started = Instant::now();
    step("Formatting", cargo().args(["fmt", "--all", "--check"]))?;
    step(
        "Clippy",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]),
    )?;
    // The tests' own build also makes the binary: building it alone would choose other features of
    // the engines' dependencies, and compile the engines twice.
    step(
        "Build (the first time, wasmtime and tract take several minutes)",
        cargo().args(["test", "--workspace", "--no-run"]),
    )?;
    let packages = guests::package(&guests::binary("debug"))?;
    standard_library_from_source()?;
    let requirements = root().join("tests/python/requirements.txt");
    let python = python::environment("client", &requirements)?;
    let requirements = root().join("tests/python/otlp/requirements.txt");
    let otlp = python::environment("otlp", &requirements)?;
    let native = backends::variables(&guests::binary("debug"))?;
    let prometheus = prometheus::variables()?;
    let browser = browser::variables()?;
    let lightning = lightning_variables(lightning)?;
    step(
        "Tests of every crate, of the guests natively, and end to end",
        cargo()
            .args(["test", "--workspace"])
            .envs(lightning)
            .envs(prometheus)
            .envs(browser)
            .env("DUNLIN_BINARY", guests::binary("debug"))
            .env("DUNLIN_PACKAGES", &packages)
            .env("DUNLIN_PYTHON", &python)
            .env("DUNLIN_OTLP_PYTHON", &otlp)
            // Where one is left out, one that is set here would be another version's.
            .env_remove("DUNLIN_BACKENDS")
            .env_remove("DUNLIN_ONNX_CASES")
            .envs(native),
    )?;
    step(
        "Documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    println!(
        "\nEverything passed in {:.0} s.",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Where the tests find PyTorch Lightning; nothing where they are to skip what needs it.
fn lightning_variables(lightning: Lightning) -> Result<Vec<(&'static str, OsString)>> {
    if lightning == Lightning::Skipped {
        println!(
            "\n==> Skipped: the tests with PyTorch Lightning (run cargo xtask test --with \
             lightning; it installs 3 GB)"
        );
        return Ok(Vec::new());
    }
    let requirements = root().join("tests/python/lightning/requirements.txt");
    let python = python::environment("lightning", &requirements)?;
    Ok(vec![
        ("DUNLIN_LIGHTNING_PYTHON", python.into_os_string()),
        ("DUNLIN_REQUIRE_LIGHTNING", "1".into()),
    ])
}

/// A guest must also build where rustup cannot fetch the compiled standard library. `wasm32-wasip2`
/// needs the most: the library's sources and wasi-libc.
fn standard_library_from_source() -> Result<()> {
    if !exists("dpkg") || !exists("apt-get") {
        println!(
            "\n==> Skipped: a guest with the standard library from source (this machine has no \
             apt-get to fetch rust-src with)"
        );
        return Ok(());
    }
    step(
        "Compile a guest with the standard library from source",
        Command::new(guests::binary("debug"))
            .arg("build")
            .arg(root().join("predictors/echo"))
            .env("DUNLIN_GUEST_STD", "source"),
    )
}

/// Builds what is measured with optimisation and runs the benchmarks. `--with lightning` adds the
/// models of tens of milliseconds, which PyTorch writes; the other arguments are the program's.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let (arguments, models) = match arguments {
        ["--with", "lightning", rest @ ..] => (rest, reference_models()?),
        all => (all, Vec::new()),
    };
    let packages = guests::build()?;
    let native = backends::variables(&guests::binary("debug"))?;
    step(
        "Build with optimisation (the first time, several minutes)",
        cargo().args(["build", "--release", "--workspace", "--bins", "--examples"]),
    )?;
    let dunlin = guests::binary("release");
    step(
        "Measure",
        Command::new(dunlin.with_file_name("measure"))
            .current_dir(root())
            .args(arguments)
            .env("CARGO_MANIFEST_DIR", root().join("tests"))
            .env("DUNLIN_BINARY", &dunlin)
            .env("DUNLIN_PACKAGES", &packages)
            .envs(native)
            .envs(models),
    )
}

/// Where the benchmark finds ResNet-18 and the encoder, and a Python with ONNX Runtime.
fn reference_models() -> Result<Vec<(&'static str, OsString)>> {
    let requirements = root().join("tests/python/lightning/requirements.txt");
    let python = python::environment("lightning", &requirements)?;
    let models = work_dir("models")?;
    if !models.join("encoder.onnx").exists() {
        step(
            "Write ResNet-18 and an encoder",
            Command::new(&python)
                .arg(root().join("tests/python/reference_models.py"))
                .arg(&models),
        )?;
    }
    Ok(vec![
        ("DUNLIN_REFERENCE_MODELS", models.into_os_string()),
        ("DUNLIN_BENCH_PYTHON", python.into_os_string()),
    ])
}
