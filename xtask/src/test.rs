//! `cargo xtask test`: everything that must pass, in the order in which it is cheapest to fail.

use std::{ffi::OsString, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    backends, browser, guests, models, perf_analyzer,
    process::{cargo, exists, root, step, target_dir},
    prometheus, python,
};

const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// The guests that are no members of this workspace: their dependencies would change the features of
/// what the engines are built from.
const OWN_WORKSPACES: [&str; 1] = ["predictors/embedder"];

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
        cargo()
            .args(["clippy", "--workspace", "--all-targets"])
            .args(DENY_WARNINGS),
    )?;
    // Before the guests are built: a vocabulary is part of one.
    let lightning = lightning_variables(lightning)?;
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
    let perf_analyzer = perf_analyzer::variables()?;
    let prometheus = prometheus::variables()?;
    let browser = browser::variables()?;
    step(
        "Tests of every crate, of the guests natively, and end to end",
        cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .envs(lightning.clone())
            .envs(prometheus)
            .envs(browser)
            .env("DUNLIN_BINARY", guests::binary("debug"))
            .env("DUNLIN_PACKAGES", &packages)
            .env("DUNLIN_PYTHON", &python)
            .env("DUNLIN_OTLP_PYTHON", &otlp)
            // Where one is left out, one that is set here would be another version's.
            .env_remove("DUNLIN_BACKENDS")
            .env_remove("DUNLIN_ONNX_CASES")
            .env_remove("DUNLIN_PERF_ANALYZER")
            .envs(perf_analyzer)
            .envs(native),
    )?;
    for guest in OWN_WORKSPACES {
        own_workspace(guest, &lightning)?;
    }
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

fn own_workspace(guest: &str, lightning: &[(&'static str, OsString)]) -> Result<()> {
    let cargo_there = || {
        let mut cargo = cargo();
        cargo.current_dir(root().join(guest));
        cargo.env("CARGO_TARGET_DIR", target_dir());
        cargo
    };
    step(
        &format!("Formatting of {guest}"),
        cargo_there().args(["fmt", "--check"]),
    )?;
    step(
        &format!("Clippy of {guest}"),
        cargo_there()
            .args(["clippy", "--locked", "--all-targets"])
            .args(DENY_WARNINGS),
    )?;
    step(
        &format!("Tests of {guest}, natively"),
        cargo_there()
            .args(["test", "--locked"])
            .envs(lightning.iter().cloned()),
    )
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
    models::make(&python)?;
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
