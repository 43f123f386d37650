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

mod client;
mod contest;
mod goals;
mod hello;
mod in_process;
mod load;
mod machine;
mod markdown;
mod models;
mod node;
mod report;
mod server;
mod spread;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dunlin_tests::repository;

use crate::{
    client::Client, contest::Plan, in_process::InProcess, load::Generator, machine::Machine,
    report::Report,
};

/// Measure Dunlin beside plain hyper and in-process tract
#[derive(Debug, Parser)]
#[command(name = "measure")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,

    /// Less than a minute: one round of short windows. Good to see that it works
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
        "{}, {} cores, {:.0} % busy with something else; load by {}; about {} s",
        machine.cpu,
        machine.cores,
        machine.busy_percent,
        generator.name(),
        plan.about().as_secs()
    );

    let in_process = InProcess::find()?;
    let home = tempfile::tempdir().context("cannot make a folder for the node's data")?;
    let lone = node::measure(&client, home.path(), &plan)?;
    let contest = contest::run(&plan, &client, &generator, lone.node, &in_process)?;
    let models = models::measure(&plan, &client, &generator, home.path())?;
    let report = Report {
        short: args.short,
        debug_build: cfg!(debug_assertions),
        commit,
        date: jiff::Zoned::now().date().to_string(),
        generator: generator.name(),
        machine,
        plan,
        memory: lone.memory,
        start: lone.start,
        contest,
        models,
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

/// Three rounds, so that a disturbance of one is seen as its spread and not taken for the result.
const FULL: Plan = Plan {
    rounds: 3,
    warm_up: Duration::from_secs(3),
    window: Duration::from_secs(5),
    in_process: Duration::from_secs(3),
    starts: 9,
    settle: Duration::from_secs(2),
};

const SHORT: Plan = Plan {
    rounds: 1,
    warm_up: Duration::from_secs(1),
    window: Duration::from_secs(2),
    in_process: Duration::from_secs(1),
    starts: 3,
    settle: Duration::from_secs(1),
};
