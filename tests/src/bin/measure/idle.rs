//! Deployments that nobody asks: what each costs, and how soon one answers again.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::{
    client::Client,
    entrants::{Arena, digits_package},
    node::{self, Engines, metric, metrics, ms},
    process_tree::Memory,
    server::Server,
    spread::Spread,
    workload::{Form, Road, Workload},
};

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) deployments: usize,
    /// With one deployment, and with all, none of them with a live instance.
    pub(crate) before: Memory,
    pub(crate) after: Memory,
    /// To a deployment without an instance, on a connection of its own.
    pub(crate) first_ms: Spread,
    /// The next on another.
    pub(crate) warm_ms: Spread,
}

pub(crate) fn measure(arena: &Arena<'_>) -> Result<Idle> {
    let many = arena.plan.deployments;
    println!("\nIdle: {many} deployments of digits");
    let home = arena.home.join("node-idle");
    fs::create_dir(&home)?;
    let node = node::start(&home, Engines::Embedded)?;
    let client = arena.client;
    let package = digits_package("digits", |yaml| {
        yaml["instances"] = serde_json::json!({"idle_timeout": "1s"});
    });
    let package = package.bytes();
    node::upload(client, &node, package.clone())?;

    let question = Workload::Digits.json("/digits", Form::Plain)?;
    let check = Workload::Digits.check(Road::Json, &[])?;
    let ask = || -> Result<f64> {
        let began = Instant::now();
        let answer = client.ask(node.data()?, &question)?;
        let took = ms(began.elapsed());
        check.verify(&answer)?;
        Ok(took)
    };
    let (mut first, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..arena.plan.wake_ups {
        wait_until_idle(client, &node)?;
        first.push(ask()?);
        // The one after it may still find caches cold.
        ask()?;
        warm.push(ask()?);
    }
    wait_until_idle(client, &node)?;
    let before = node.memory()?;
    for number in 1..many {
        node::upload_as(client, &node, package.clone(), &format!("digits-{number}"))?;
    }
    wait_until_idle(client, &node)?;
    let after = node.memory()?;
    ask()?;
    let idle = Idle {
        deployments: many,
        before,
        after,
        first_ms: Spread::of(first),
        warm_ms: Spread::of(warm),
    };
    println!(
        "  {:.0} KiB each; the first request {:.2} ms, warm {:.2} ms",
        idle.each_kib(),
        idle.first_ms.median,
        idle.warm_ms.median
    );
    Ok(idle)
}

impl Idle {
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    pub(crate) fn each_kib(&self) -> f64 {
        let more = self.deployments.saturating_sub(1).max(1);
        (self.after.resident_mib - self.before.resident_mib) * 1024.0 / more as f64
    }
}

fn wait_until_idle(client: &Client, node: &Server) -> Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(60);
    let began = Instant::now();
    while metric(&metrics(client, node)?, "dunlin_instances", &[]) > 0.0 {
        ensure!(began.elapsed() < PATIENCE, "idle instances do not go away");
        thread::sleep(STEP);
    }
    Ok(())
}
