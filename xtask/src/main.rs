//! `cargo xtask`: every chore of the repository, so that nobody has to know its shell lore.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore tells what it does on the terminal"
)]

mod apt;
mod backends;
mod bench;
mod browser;
mod demo;
mod guests;
mod models;
mod perf_analyzer;
mod process;
mod prometheus;
mod python;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Chores of the Dunlin repository

Usage: cargo xtask <CHORE>

Chores:
  demo [--once]   Build what is needed, start a node, deploy digits, predict a real image; the node
                  stays up until Ctrl-C, or with --once ends after the prediction
  test [--with lightning]
                  Formatting, clippy, and every unit, guest and end-to-end test; with PyTorch
                  Lightning (3 GB, from PyPI) also those that import what it trained
  backends        Install the native engines for the tests, fetch the ONNX project's cases, and print
                  the variables by which a test run by hand finds them
  guests          Compile and package the predictors and the guests of the tests
  bench [--with lightning|servers|wasmtime|all]… [--short]
                  Measure, and write docs/measurements.md: with PyTorch also ResNet-18 and an encoder,
                  with servers beside FastAPI, LitServe, BentoML and MLServer, with wasmtime beside
                  wasmtime serve. What is not there is a row that says so
  bench --micro [FILTER]
                  Measure the parts: an instance's start and call, wasi:nn, batches, decoding

Build output goes to target/, or to $CARGO_TARGET_DIR.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        ["demo"] => demo::run(demo::Stay::UntilInterrupted),
        ["demo", "--once"] => demo::run(demo::Stay::Once),
        ["test"] => test::run(test::Lightning::Skipped),
        ["test", "--with", "lightning"] => test::run(test::Lightning::Installed),
        ["backends"] => backends::run(),
        ["guests"] => guests::build().map(drop),
        ["bench", ref arguments @ ..] => bench::run(arguments),
        _ => bail!(
            "there is no chore `{}`; see cargo xtask help",
            arguments.join(" ")
        ),
    }
}
