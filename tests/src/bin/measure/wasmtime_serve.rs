//! `wasmtime serve` with a component that only parses the question of digits.

use std::{env, path::Path, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    client::{Client, Question},
    kind::Reuse,
    server::{Server, free_address},
};

/// The program, and the component of `tests/guests/parse-json`.
const PROGRAM: &str = "DUNLIN_BENCH_WASMTIME";
const COMPONENT: &str = "DUNLIN_BENCH_PARSE_JSON";
/// Instead of both: why they could not be built.
const REASON: &str = "DUNLIN_BENCH_NO_WASMTIME";

/// Calls of one instance.
const REUSED: &str = "128";

pub(crate) fn start(
    reuse: Reuse,
    client: &Client,
    question: &Question,
    log: &Path,
) -> Result<Server> {
    if let Ok(reason) = env::var(REASON) {
        bail!("{reason}");
    }
    let (Some(program), Some(component)) = (env::var_os(PROGRAM), env::var_os(COMPONENT)) else {
        bail!("not installed; cargo xtask bench --with wasmtime does it");
    };
    let address = free_address()?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--addr", &address.to_string()])
        .args(["-S", "cli", "-O", "pooling-allocator=y"])
        .args([
            "--max-instance-reuse-count",
            match reuse {
                Reuse::Warm => REUSED,
                Reuse::Fresh => "1",
            },
        ])
        .arg(PathBuf::from(component));
    Server::start_at(address, &mut command, log, || {
        client.ask(address, question).is_ok()
    })
    .context("wasmtime serve")
}
