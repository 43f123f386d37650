//! What Dunlin costs, measured in one run beside what it is compared with.
//!
//! Everything that is compared runs here and now: absolute numbers differ from machine to machine
//! and from hour to hour, ratios of neighbouring windows far less. Servers are processes of their
//! own, started as an operator starts them; this program only asks, watches and writes
//! `docs/measurements.md` and, for programs, `docs/measurements.json`.

#![expect(
    clippy::print_stdout,
    reason = "a benchmark tells on the terminal what it does and what it found"
)]

mod batching;
mod charts;
mod client;
mod contest;
mod entrants;
mod extra_goals;
mod goals;
mod hello;
mod idle;
mod in_process;
mod kind;
mod load;
mod machine;
mod markdown;
mod node;
mod open_loop;
mod overhead;
mod overload;
mod plan;
mod process_tree;
mod python_servers;
mod report;
mod server;
mod spread;
mod wasmtime_serve;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dunlin_tests::repository;

use crate::{
    client::Client,
    entrants::{Arena, References},
    in_process::Example,
    load::Generator,
    machine::Machine,
    node::Engines,
    plan::{FULL, SHORT},
    report::Report,
    workload::Workload,
};

/// Measure Dunlin beside other servers, bare hyper, and the engines in process
#[derive(Debug, Parser)]
#[command(name = "measure")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,

    /// Less than two minutes: one short window each. Good to see that it works
    #[arg(long)]
    short: bool,

    /// Where measurements.md and measurements.json are written [default: docs/]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Make the load in this program even where wrk is on PATH
    #[arg(long)]
    own_load: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the server that Dunlin is compared with
    HelloServer(hello::Args),
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.role {
        Some(Role::HelloServer(hello)) => hello::run(hello),
        None => measure(&args),
    }
}

fn measure(args: &Args) -> Result<()> {
    let plan = if args.short { SHORT } else { FULL };
    // Before anything here writes to the checkout.
    let commit = machine::commit(repository());
    let machine = Machine::look()?;
    let generator = Generator::find(args.own_load);
    let client = Client::new(machine.cores)?;
    if cfg!(debug_assertions) {
        println!("This is a debug build: its numbers say nothing. Use `cargo xtask bench`.\n");
    }
    println!(
        "{}, {} cores, {:.0} % busy with something else; load by {}",
        machine.cpu,
        machine.cores,
        machine.busy_percent,
        generator.name(),
    );

    open_loop::raise_file_limit()?;
    let infer_time = Example::find("infer_time")?;
    let home = tempfile::tempdir().context("cannot make a folder for the servers")?;
    let mut alone = vec![node::measure(&client, Engines::Embedded, &plan)?];
    if entrants::has_onnxruntime() {
        alone.insert(0, node::measure(&client, Engines::Installed, &plan)?);
    }
    let arena = Arena {
        plan: &plan,
        client: &client,
        generator: &generator,
        home: home.path(),
        cores: machine.cores,
    };
    let digits = entrants::digits(&arena, &infer_time)?;
    let idle = idle::measure(&arena)?;
    let overhead = overhead::measure(&plan)?;
    let batching = entrants::has_onnxruntime()
        .then(|| batching::measure(&arena))
        .transpose()?;
    let references = References::find();
    let models = match &references {
        Some(references) => [Workload::ResNet18, Workload::Encoder]
            .into_iter()
            .map(|workload| entrants::model(&arena, workload, references))
            .collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let (mut poison, mut overload) = (None, None);
    if let Some(references) = &references {
        let numbers = entrants::numbers(&arena, Workload::Encoder, references)?;
        poison = Some(batching::poison(&arena, references, &numbers)?);
        overload = Some(overload::measure(&arena, references)?);
    }
    let models_skipped = references.is_none().then(|| {
        "the models are made with PyTorch; cargo xtask bench --with lightning does it".to_owned()
    });
    let report = Report {
        short: args.short,
        debug_build: cfg!(debug_assertions),
        commit,
        date: jiff::Zoned::now().date().to_string(),
        generator: generator.name(),
        machine,
        plan,
        alone,
        digits,
        models,
        models_skipped,
        idle,
        overhead,
        batching,
        poison,
        overload,
    };
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| repository().join("docs"));
    report.write(&output)?;
    println!("\n{}", markdown::render(&report));
    println!("Written: {}", output.join("measurements.md").display());
    Ok(())
}
