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
use clap::{Parser, Subcommand, ValueEnum};
use dunlin_tests::repository;
use serde::Serialize;

use crate::{
    batching::Poison,
    client::Client,
    contest::Contest,
    entrants::{Arena, References},
    in_process::Example,
    load::Generator,
    machine::Machine,
    node::{Engines, Lone},
    overload::Overload,
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

    /// Only this, printed as JSON instead of written
    #[arg(long, value_enum, conflicts_with = "output")]
    only: Option<Part>,

    /// Make the load in this program even where wrk is on PATH
    #[arg(long)]
    own_load: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// A node's memory and start.
    Alone,
    Digits,
    Resnet,
    Encoder,
    /// Deployments without traffic.
    Idle,
    /// What the sandbox adds.
    Overhead,
    Batching,
    /// A batch with a request that fails.
    Poison,
    Overload,
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
    let arena = Arena {
        plan: &plan,
        client: &client,
        generator: &generator,
        home: home.path(),
        cores: machine.cores,
    };
    let bench = Bench {
        arena: &arena,
        infer_time: &infer_time,
        references: References::find(),
    };
    if let Some(part) = args.only {
        return bench.only(part);
    }
    let alone = bench.alone()?;
    let digits = entrants::digits(&arena, &infer_time)?;
    let idle = idle::measure(&arena)?;
    let overhead = overhead::measure(&plan)?;
    let batching = entrants::has_onnxruntime()
        .then(|| batching::measure(&arena))
        .transpose()?;
    let (mut models, mut poison, mut overload) = (Vec::new(), None, None);
    if bench.references.is_some() {
        models = vec![
            bench.model(Workload::ResNet18)?,
            bench.model(Workload::Encoder)?,
        ];
        poison = Some(bench.poison()?);
        overload = Some(bench.overload()?);
    }
    let models_skipped = bench.references.is_none().then(|| {
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

/// What the parts need.
struct Bench<'a> {
    arena: &'a Arena<'a>,
    infer_time: &'a Example,
    references: Option<References>,
}

impl Bench<'_> {
    fn only(&self, part: Part) -> Result<()> {
        let arena = self.arena;
        match part {
            Part::Alone => print(&self.alone()?),
            Part::Digits => print(&entrants::digits(arena, self.infer_time)?),
            Part::Resnet => print(&self.model(Workload::ResNet18)?),
            Part::Encoder => print(&self.model(Workload::Encoder)?),
            Part::Idle => print(&idle::measure(arena)?),
            Part::Overhead => print(&overhead::measure(arena.plan)?),
            Part::Batching => print(&batching::measure(arena)?),
            Part::Poison => print(&self.poison()?),
            Part::Overload => print(&self.overload()?),
        }
    }

    fn alone(&self) -> Result<Vec<Lone>> {
        let installed = entrants::has_onnxruntime().then_some(Engines::Installed);
        let engines = installed.into_iter().chain([Engines::Embedded]);
        let Arena { client, plan, .. } = self.arena;
        engines
            .map(|engines| node::measure(client, engines, plan))
            .collect()
    }

    fn model(&self, workload: Workload) -> Result<Contest> {
        entrants::model(self.arena, workload, self.references()?)
    }

    fn poison(&self) -> Result<Poison> {
        let references = self.references()?;
        let numbers = entrants::numbers(self.arena, Workload::Encoder, references)?;
        batching::poison(self.arena, references, &numbers)
    }

    fn overload(&self) -> Result<Overload> {
        overload::measure(self.arena, self.references()?)
    }

    fn references(&self) -> Result<&References> {
        let references = self.references.as_ref();
        references
            .context("this needs models that PyTorch makes: cargo xtask bench --with lightning")
    }
}

fn print(measured: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(measured)?);
    Ok(())
}
