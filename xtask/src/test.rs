//! `cargo xtask test`: everything that must pass, in the order in which it is cheapest to fail.

use std::time::Instant;

use anyhow::Result;

use crate::{
    guests,
    process::{cargo, root, step},
    python,
};

pub(crate) fn run() -> Result<()> {
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
    let packages = guests::build()?;
    let requirements = root().join("tests/python/requirements.txt");
    let python = python::environment("client", &requirements)?;
    step(
        "Tests of every crate, of the guests natively, and end to end",
        cargo()
            .args(["test", "--workspace"])
            .env("DUNLIN_BINARY", guests::binary("debug"))
            .env("DUNLIN_PACKAGES", &packages)
            .env("DUNLIN_PYTHON", &python),
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

/// Builds what is measured with optimisation and runs the benchmarks.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let packages = guests::build()?;
    step(
        "Build dunlin with optimisation",
        cargo().args(["build", "--release", "--workspace", "--bins"]),
    )?;
    step(
        "Measure",
        cargo()
            .args([
                "run",
                "--release",
                "--package",
                "dunlin-tests",
                "--bin",
                "measure",
                "--",
            ])
            .args(arguments)
            .env("DUNLIN_BINARY", guests::binary("release"))
            .env("DUNLIN_PACKAGES", &packages),
    )
}
