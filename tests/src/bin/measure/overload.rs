//! A deployment that is asked for ten times what it can do, and a quiet one beside it on the same
//! node.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    client::Question,
    entrants::{Arena, References, digits_package},
    node::{self, Engines},
    open_loop::{FEW, Flood, MANY, flood},
    server::Server,
    workload::{Form, Workload},
};

/// What a deployment is asked for, as a multiple of what it can do.
const TIMES: f64 = 10.0;
/// Requests a second to the neighbour, far below what it can do.
const QUIET: f64 = 200.0;
/// Where the throughput without overload is taken.
const CONNECTIONS: usize = 8;
/// The node's default of `body_memory_max`: what requests and answers may take.
const BODIES_MIB: f64 = 512.0;
/// `instances.max` times `limits.memory`: the defaults of the encoder, and those of digits.
const INSTANCES_MIB: f64 = 8.0 * 64.0 + 32.0 * 256.0;
/// The default of `limits.deadline`, and a second for the way.
pub(crate) const DEADLINE_MS: f64 = 6_000.0;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overload {
    /// Answers a second with as many callers as it likes, before the flood and after it.
    pub(crate) peak_per_second: f64,
    pub(crate) asked_per_second: f64,
    pub(crate) flood: Flood,
    pub(crate) memory_before_mib: f64,
    pub(crate) memory_most_mib: f64,
    pub(crate) memory_bound_mib: f64,
    /// The neighbour alone, and during the flood.
    pub(crate) quiet: Flood,
    pub(crate) quiet_beside: Flood,
}

pub(crate) fn measure(arena: &Arena<'_>, references: &References) -> Result<Overload> {
    println!("\nOverload: the encoder at {TIMES} times its rate, digits beside it");
    let home = arena.home.join("node-overload");
    fs::create_dir(&home)?;
    let node = node::start(&home, Engines::Installed)?;
    let workload = Workload::Encoder;
    let package = references.package(workload, arena.cores)?;
    node::upload(arena.client, &node, package.bytes())?;
    node::upload(
        arena.client,
        &node,
        digits_package("digits", |_| ()).bytes(),
    )?;
    let address = node.data()?;
    let flooded = workload.protocol_binary("/v2/models/encoder/infer")?;
    let quiet = Workload::Digits.json("/digits", Form::Plain)?;

    let (client, generator, plan) = (arena.client, arena.generator, arena.plan);
    // As long as machines take to show their moods.
    let while_calm = plan.overload / 4;
    generator.run(client, address, &flooded, CONNECTIONS, plan.warm_up)?;
    let peak = || generator.run(client, address, &flooded, CONNECTIONS, while_calm);
    let peak_before = peak()?.per_second;
    neighbour(address, &quiet, plan.warm_up)?;
    let alone = neighbour(address, &quiet, while_calm)?;
    let before = node.resident_mib()?;
    let rate = TIMES * peak_before;
    let (both, most) = watched(&node, || {
        thread::scope(|scope| {
            let beside = scope.spawn(|| neighbour(address, &quiet, plan.overload));
            let flooded = on_this_thread(flood(address, &flooded, MANY, rate, plan.overload));
            let beside = beside.join().expect("it asks and returns what fails");
            (flooded, beside)
        })
    })?;
    let (flood, quiet_beside) = (both.0?, both.1?);
    let overload = Overload {
        peak_per_second: f64::midpoint(peak_before, peak()?.per_second),
        asked_per_second: rate,
        flood,
        memory_before_mib: before,
        memory_most_mib: most,
        memory_bound_mib: before + BODIES_MIB + INSTANCES_MIB,
        quiet: alone,
        quiet_beside,
    };
    println!(
        "  {:.0}/s asked of {:.0}/s: {:.0}/s answered ({}); the neighbour's p99 {:.1} ms, alone {:.1} ms",
        rate,
        overload.peak_per_second,
        overload.flood.accepted_per_second(),
        overload.flood.told(),
        overload.quiet_beside.p99_us / 1e3,
        overload.quiet.p99_us / 1e3,
    );
    // One that has fallen does not end with 0.
    node.stop().context("the node, after the overload")?;
    Ok(overload)
}

fn neighbour(server: SocketAddr, question: &Question, duration: Duration) -> Result<Flood> {
    on_this_thread(flood(server, question, FEW, QUIET, duration))
}

/// The cores are the node's too: a generator of several threads would keep them busy with its own
/// switches between them. And whoever asks beside the flood, asks from a thread of its own: it would
/// find its answers late.
fn on_this_thread<T>(flood: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(flood)
}

/// Does it, and gives the most memory that the node had meanwhile.
fn watched<T: Send>(node: &Server, work: impl FnOnce() -> T) -> Result<(T, f64)> {
    const STEP: Duration = Duration::from_millis(200);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !done.load(Ordering::Relaxed) {
                most = most.max(node.resident_mib()?);
                thread::sleep(STEP);
            }
            anyhow::Ok(most)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().expect("the watcher only reads files")?;
        Ok((result, most))
    })
}
