//! A node on its own: its memory, and how soon it answers.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dunlin_tests::{binary, package};
use http::{Method, StatusCode, header};
use serde::Serialize;

use crate::{
    client::{Client, Question},
    plan::Plan,
    process_tree::Memory,
    server::Server,
    spread::Spread,
    workload::{Form, Road, Workload},
};

/// A node on its own, with one engine.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Lone {
    pub(crate) engines: Engines,
    pub(crate) memory: NodeMemory,
    pub(crate) start: Start,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct NodeMemory {
    /// Just started, nothing deployed.
    pub(crate) empty: Memory,
    /// The same process after digits was uploaded: it has compiled the component too.
    pub(crate) deployed: Memory,
    /// A process that was started with digits deployed, after its first prediction.
    pub(crate) restarted: Memory,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Start {
    /// From the upload of digits to its being live: compile, load, check against the golden sample.
    pub(crate) deploy_ms: f64,
    /// From the start of the process to its word that it is ready, digits deployed and compiled.
    pub(crate) ready_ms: Spread,
    /// From the start of the process to the first prediction.
    pub(crate) prediction_ms: Spread,
}

pub(crate) fn measure(client: &Client, engines: Engines, plan: &Plan) -> Result<Lone> {
    println!("\nA node on its own, {}: memory, start", engines.name());
    let home = tempfile::tempdir().context("cannot make a folder for the node's data")?;
    let home = home.path();
    let question = Workload::Digits.json("/digits", Form::Plain)?;
    let check = Workload::Digits.check(Road::Json, &[])?;
    let ask = |node: &Server| check.verify(&client.ask(node.data()?, &question)?);
    let node = start(home, engines)?;
    thread::sleep(plan.settle);
    let empty = node.memory()?;
    let deploy = upload(client, &node, std::fs::read(package("digits"))?)?;
    ask(&node)?;
    thread::sleep(plan.quiet);
    let deployed = node.memory()?;
    let mut node = Some(node);

    let (mut ready, mut prediction) = (Vec::new(), Vec::new());
    for _ in 0..plan.starts {
        if let Some(node) = node.take() {
            node.stop()?;
        }
        let began = Instant::now();
        let started = start(home, engines)?;
        ready.push(ms(began.elapsed()));
        ask(&started)?;
        prediction.push(ms(began.elapsed()));
        node = Some(started);
    }
    let node = node.context("the node is started at least once")?;
    thread::sleep(plan.quiet);
    let restarted = node.memory()?;
    Ok(Lone {
        engines,
        memory: NodeMemory {
            empty,
            deployed,
            restarted,
        },
        start: Start {
            deploy_ms: ms(deploy),
            ready_ms: Spread::of(ready),
            prediction_ms: Spread::of(prediction),
        },
    })
}

/// Which engines a node finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Engines {
    /// tract alone.
    Embedded,
    /// Those of the folder that `DUNLIN_BACKENDS` names too.
    Installed,
}

impl Engines {
    /// What digits runs on: the best there is.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engines::Embedded => "tract",
            Engines::Installed => "ONNX Runtime",
        }
    }
}

/// With the defaults of a node, its log included.
pub(crate) fn start(home: &Path, engines: Engines) -> Result<Server> {
    let mut command = Command::new(binary());
    command
        .args(["serve", "-o", "json", "--listen", "127.0.0.1:0"])
        .args(["--grpc-listen", "off"])
        .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(home.join("data"));
    if engines == Engines::Embedded {
        command.env("DUNLIN_BACKENDS", home.join("none"));
    }
    Server::start(&mut command, &home.join("node.log"))
}

/// Deploys a package under its own name. Gives the time until it was live.
pub(crate) fn upload(client: &Client, node: &Server, package: Vec<u8>) -> Result<Duration> {
    post(client, node, package, "/v1/deployments".to_owned())
}

/// The same under another name.
pub(crate) fn upload_as(
    client: &Client,
    node: &Server,
    package: Vec<u8>,
    name: &str,
) -> Result<Duration> {
    let path = format!("/v1/deployments?name={name}");
    post(client, node, package, path)
}

fn post(client: &Client, node: &Server, package: Vec<u8>, path: String) -> Result<Duration> {
    let token_file = node.ready.token_file.as_deref();
    let token_file = token_file.context("the node did not say where its token is")?;
    let token = std::fs::read_to_string(token_file)?;
    let upload = Question {
        method: Method::POST,
        path,
        headers: vec![(header::AUTHORIZATION, format!("Bearer {}", token.trim()))],
        body: Bytes::from(package),
    };
    let began = Instant::now();
    let (status, body) = client.ask(node.admin()?, &upload)?;
    ensure!(
        status == StatusCode::OK,
        "the package was refused: {body:?}"
    );
    Ok(began.elapsed())
}

/// The text of `/metrics`.
pub(crate) fn metrics(client: &Client, node: &Server) -> Result<String> {
    let scrape = Question {
        method: Method::GET,
        path: "/metrics".to_owned(),
        headers: Vec::new(),
        body: Bytes::new(),
    };
    let (status, body) = client.ask(node.admin()?, &scrape)?;
    ensure!(status == StatusCode::OK, "no metrics: {status}");
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The sum of a metric over its lines that have all of the labels.
pub(crate) fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    lines
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
