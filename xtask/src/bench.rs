//! `cargo xtask bench`: builds what is measured with optimisation, gets what it is measured beside,
//! and runs the benchmark. What was not asked for, or cannot be had, is a row that says so.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Result, bail, ensure};

use crate::{
    backends, guests, models,
    process::{cargo, root, step, target_dir, work_dir},
    python,
};

/// What takes long or much to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    /// ResNet-18 and an encoder, which PyTorch writes: 3 GB.
    Lightning,
    /// The Python servers: 1 GB.
    Servers,
    /// `wasmtime serve`: half an hour to build on 2 cores.
    Wasmtime,
}

const ALL: [With; 3] = [With::Lightning, With::Servers, With::Wasmtime];

/// Each with its requirements in `tests/python/bench`.
const SERVERS: [&str; 4] = ["fastapi", "litserve", "bentoml", "mlserver"];
/// What the benchmark looks for in the environment of a server that could not be installed.
const REASON: &str = "not-installed.txt";

const WASMTIME: &str = "^48";
const WASMTIME_FEATURES: &str = "run,serve,wasi-http,cranelift,pooling-allocator,component-model,\
    component-model-async,parallel-compilation,cache";

type Variables = Vec<(&'static str, OsString)>;

/// The arguments after any `--with` are the program's, those after `--micro` criterion's.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if let ["--micro", rest @ ..] = arguments {
        return micro(rest);
    }
    let (with, arguments) = asked(arguments)?;
    let packages = guests::build()?;
    let native = backends::variables(&guests::binary("debug"))?;
    let mut beside = Vec::new();
    for part in ALL {
        if with.contains(&part) {
            beside.extend(match part {
                With::Lightning => reference_models()?,
                With::Servers => servers()?,
                With::Wasmtime => wasmtime().unwrap_or_else(|error| {
                    println!("    wasmtime serve is not measured: {error:#}");
                    vec![("DUNLIN_BENCH_NO_WASMTIME", format!("{error:#}").into())]
                }),
            });
        }
    }
    step(
        "Build with optimisation (on two cores a quarter of an hour)",
        cargo()
            .args(["build", "--profile", "dist", "--workspace"])
            .args(["--bin", "dunlin", "--bin", "measure", "--examples"]),
    )?;
    let dunlin = guests::binary("dist");
    step(
        "Measure",
        Command::new(dunlin.with_file_name("measure"))
            .current_dir(root())
            .args(arguments)
            .env("CARGO_MANIFEST_DIR", root().join("tests"))
            .env("DUNLIN_BINARY", &dunlin)
            .env("DUNLIN_PACKAGES", &packages)
            .env("DUNLIN_COMPONENTS", components())
            .envs(native)
            .envs(beside),
    )
}

/// Where `dunlin package` leaves what it compiled.
fn components() -> PathBuf {
    target_dir().join("guests/wasm32-unknown-unknown/release")
}

/// The parts of the way of a request, each alone.
fn micro(arguments: &[&str]) -> Result<()> {
    guests::build()?;
    let benches = ["rows", "predictor", "decoding"].map(|name| ["--bench", name]);
    step(
        "Measure the parts",
        cargo()
            .args(["bench", "--workspace"])
            .args(benches.as_flattened())
            .arg("--")
            .args(arguments)
            .env("DUNLIN_COMPONENTS", components()),
    )
}

fn asked<'a>(mut arguments: &'a [&'a str]) -> Result<(Vec<With>, &'a [&'a str])> {
    let mut with = Vec::new();
    while let ["--with", what, rest @ ..] = arguments {
        match *what {
            "lightning" => with.push(With::Lightning),
            "servers" => with.push(With::Servers),
            "wasmtime" => with.push(With::Wasmtime),
            "all" => with.extend(ALL),
            other => bail!("--with {other}: write lightning, servers, wasmtime or all"),
        }
        arguments = rest;
    }
    Ok((with, arguments))
}

/// Where the benchmark finds ResNet-18 and the encoder, and a Python with ONNX Runtime.
fn reference_models() -> Result<Variables> {
    let requirements = root().join("tests/python/lightning/requirements.txt");
    let python = python::environment("lightning", &requirements)?;
    models::make(&python)?;
    let models = work_dir("models")?;
    let resnet = models::made("predictors/resnet")?.join("resnet18.onnx");
    fs::copy(resnet, models.join("resnet18.onnx"))?;
    let encoder = models.join("encoder.onnx");
    if !encoder.exists() {
        step(
            "Write an encoder",
            Command::new(&python)
                .arg(root().join("tests/python/reference_encoder.py"))
                .arg(encoder),
        )?;
    }
    Ok(vec![
        ("DUNLIN_REFERENCE_MODELS", models.into_os_string()),
        ("DUNLIN_BENCH_PYTHON", python.into_os_string()),
    ])
}

/// An environment for each server. One that pip cannot install has a file that says why.
fn servers() -> Result<Variables> {
    let environments = work_dir("python")?.join("bench");
    for server in SERVERS {
        let requirements = root()
            .join("tests/python/bench")
            .join(server)
            .with_extension("txt");
        let reason = environments.join(server).join(REASON);
        if reason.exists() {
            // What was missing then may be there now.
            fs::remove_file(&reason)?;
        }
        if let Err(error) = python::environment(&format!("bench/{server}"), &requirements) {
            println!("    {server} is not measured: {error:#}");
            fs::create_dir_all(environments.join(server))?;
            fs::write(reason, format!("{error:#}"))?;
        }
    }
    Ok(vec![(
        "DUNLIN_BENCH_SERVERS",
        environments.into_os_string(),
    )])
}

/// `wasmtime serve`, and the component that it is to serve.
fn wasmtime() -> Result<Variables> {
    let folder = work_dir("wasmtime")?;
    let program = folder
        .join("bin/wasmtime")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        step(
            "Install wasmtime's command line (half an hour on 2 cores)",
            cargo()
                .args(["install", "wasmtime-cli", "--version", WASMTIME])
                .args([
                    "--locked",
                    "--no-default-features",
                    "--features",
                    WASMTIME_FEATURES,
                ])
                .arg("--root")
                .arg(&folder)
                .env("CARGO_TARGET_DIR", folder.join("target")),
        )?;
    }
    Ok(vec![
        ("DUNLIN_BENCH_WASMTIME", program.into_os_string()),
        ("DUNLIN_BENCH_PARSE_JSON", parse_json()?.into_os_string()),
    ])
}

/// Not a predictor, so `dunlin build` refuses it. By now that has seen to the toolchain's standard
/// library for the same target.
fn parse_json() -> Result<PathBuf> {
    let target = target_dir().join("guests");
    step(
        "Build the component for wasmtime serve",
        cargo()
            .args(["build", "--release", "--target", "wasm32-wasip2"])
            .arg("--manifest-path")
            .arg(root().join("tests/guests/parse-json/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target),
    )?;
    let component = target.join("wasm32-wasip2/release/parse_json.wasm");
    ensure!(component.exists(), "{} was not built", component.display());
    Ok(component)
}
