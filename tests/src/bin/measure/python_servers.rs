//! The servers of `tests/python/bench`, each in the environment that `cargo xtask bench --with servers`
//! made for it.

use std::{
    cell::Cell,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dunlin_tests::repository;

use crate::{
    client::{Client, Question},
    kind::Kind,
    server::{Server, free_address},
    workload::{Check, Form, Road, Workload},
};

/// The folder with an environment for each.
const ENVIRONMENTS: &str = "DUNLIN_BENCH_SERVERS";
/// In an environment that could not be made: why.
const REASON: &str = "not-installed.txt";

#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) server: Server,
    /// From the start of the process to its first right answer.
    pub(crate) first_answer: Duration,
}

/// How one of them is asked for the workload; none where it has no such road.
pub(crate) fn question(kind: Kind, workload: Workload, road: Road) -> Option<Result<Question>> {
    let digits = workload == Workload::Digits;
    match (kind, road) {
        (Kind::FastApi { .. }, Road::Json) => {
            let path = if digits { "/digits" } else { "/tensors" };
            Some(workload.json(path, Form::Plain))
        }
        (Kind::FastApiInPool, Road::Json) if digits => {
            Some(workload.json("/digits/pool", Form::Plain))
        }
        (Kind::FastApi { .. }, Road::Binary) if !digits => Some(workload.raw("/tensors/binary")),
        (Kind::LitServe { .. } | Kind::BentoMl { .. }, Road::Json) => {
            Some(workload.json("/predict", Form::Plain))
        }
        (Kind::MlServer { .. }, Road::Json) => {
            let path = format!("/v2/models/{}/infer", workload.name());
            Some(workload.json(&path, Form::Protocol))
        }
        _ => None,
    }
}

/// Starts one and waits for its first right answer.
pub(crate) fn start(
    kind: Kind,
    workload: Workload,
    model: &Path,
    client: &Client,
    question: &Question,
    check: &Check,
    log: &Path,
) -> Result<Started> {
    let address = free_address()?;
    let mut command = command(kind, workload, address)?;
    command
        .env("MODEL", model)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", apps())
        .current_dir(log.parent().context("a log lies in a folder")?);
    let first_answer = Cell::new(Duration::ZERO);
    let began = Instant::now();
    let wrong = Cell::new(None);
    let server = Server::start_at(address, &mut command, log, || {
        let Ok(answer) = client.ask(address, question) else {
            return false;
        };
        match check.verify(&answer) {
            Ok(()) => {
                first_answer.set(began.elapsed());
                true
            }
            Err(error) => {
                wrong.set(Some(error));
                false
            }
        }
    });
    match (server, wrong.take()) {
        (Ok(server), _) => Ok(Started {
            server,
            first_answer: first_answer.get(),
        }),
        (Err(error), Some(wrong)) => Err(error.context(wrong)),
        (Err(error), None) => Err(error),
    }
}

fn command(kind: Kind, workload: Workload, address: SocketAddr) -> Result<Command> {
    let port = address.port().to_string();
    let digits = workload == Workload::Digits;
    let class = if digits { "Digits" } else { "Tensors" };
    let mut command;
    match kind {
        Kind::FastApi { .. } | Kind::FastApiInPool => {
            let workers = match kind {
                Kind::FastApi { workers } => workers,
                _ => 1,
            };
            command = Command::new(program("fastapi", "python")?);
            command
                .args(["-m", "uvicorn", "fastapi_app:app", "--no-access-log"])
                .args(["--loop", "uvloop", "--http", "httptools"])
                .args(["--port", &port, "--workers", &workers.to_string()]);
        }
        Kind::LitServe { workers } => {
            command = Command::new(program("litserve", "python")?);
            command
                .arg(apps().join("litserve_app.py"))
                .arg(class.to_lowercase())
                .args(["--port", &port, "--workers", &workers.to_string()]);
        }
        Kind::BentoMl { workers } => {
            command = Command::new(program("bentoml", "bentoml")?);
            command
                .arg("serve")
                .arg(format!("bentoml_app:{class}"))
                .arg("--working-dir")
                .arg(apps())
                .args(["--host", "127.0.0.1", "--port", &port])
                .env("WORKERS", workers.to_string())
                .env("BENTOML_DO_NOT_TRACK", "true");
        }
        Kind::MlServer { workers } => {
            command = Command::new(program("mlserver", "mlserver")?);
            command
                .args(["start", "."])
                .env("MLSERVER_HOST", "127.0.0.1")
                .env("MLSERVER_HTTP_PORT", port)
                .env("MLSERVER_GRPC_PORT", free_address()?.port().to_string())
                .env("MLSERVER_METRICS_PORT", free_address()?.port().to_string())
                .env("MLSERVER_PARALLEL_WORKERS", workers.to_string())
                .env("MLSERVER_DEBUG", "false")
                .env("MLSERVER_MODEL_NAME", workload.name())
                .env(
                    "MLSERVER_MODEL_IMPLEMENTATION",
                    format!("mlserver_app.{class}"),
                );
        }
        _ => bail!("{} is no Python server", kind.name()),
    }
    Ok(command)
}

fn apps() -> PathBuf {
    repository().join("tests/python/bench")
}

/// A program of the environment of that name.
fn program(environment: &str, program: &str) -> Result<PathBuf> {
    let Some(environments) = env::var_os(ENVIRONMENTS) else {
        bail!("not installed; cargo xtask bench --with servers does it");
    };
    let folder = PathBuf::from(environments).join(environment);
    if let Ok(reason) = fs::read_to_string(folder.join(REASON)) {
        bail!("pip could not install it: {}", reason.trim());
    }
    let program = folder.join("bin").join(program);
    if !program.exists() {
        bail!("not installed; cargo xtask bench --with servers does it");
    }
    Ok(program)
}
