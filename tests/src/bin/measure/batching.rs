//! Calls that share runs: how many, and whether one that is wrong harms the others.

use std::fs;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{self, Question},
    entrants::{Arena, References, digits_package, forward},
    goals,
    node::{self, Engines, metric, metrics},
    server::Server,
    workload::{Check, Form, Road, Workload},
};

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Batching {
    /// Rows that went through digits, and times that the engine ran, at 32 at once.
    pub(crate) inferences: f64,
    pub(crate) executions: f64,
}

/// The encoder, where a word that is not in its table makes the whole run fail.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Poison {
    pub(crate) asked: usize,
    /// Of the others in the same runs, those with their right answer.
    pub(crate) right: usize,
    pub(crate) poisoned: usize,
    /// Of the poisoned, those with an error.
    pub(crate) refused: usize,
    pub(crate) inferences: f64,
    pub(crate) executions: f64,
}

pub(crate) fn measure(arena: &Arena<'_>) -> Result<Batching> {
    println!("\nBatching: digits at {} at once", goals::CONNECTIONS);
    let home = arena.home.join("node-batching");
    fs::create_dir(&home)?;
    let node = node::start(&home, Engines::Installed)?;
    let package = digits_package("digits", |_| ());
    node::upload(arena.client, &node, package.bytes())?;
    let question = Workload::Digits.json("/digits", Form::Plain)?;
    let (client, plan) = (arena.client, arena.plan);
    let before = counts(arena, &node, "digits")?;
    let many = goals::CONNECTIONS;
    arena
        .generator
        .run(client, node.data()?, &question, many, plan.model_window)?;
    let after = counts(arena, &node, "digits")?;
    let (inferences, executions) = (after.0 - before.0, after.1 - before.1);
    println!("  {:.1} calls in a run", inferences / executions);
    Ok(Batching {
        inferences,
        executions,
    })
}

/// As many rounds as the plan has wake-ups: in each, 32 at once, and one of them wrong.
pub(crate) fn poison(
    arena: &Arena<'_>,
    references: &References,
    numbers: &[f64],
) -> Result<Poison> {
    println!(
        "\nBatching: one wrong request in every {}",
        goals::CONNECTIONS
    );
    let workload = Workload::Encoder;
    let home = arena.home.join("node-poison");
    fs::create_dir(&home)?;
    let node = node::start(&home, Engines::Installed)?;
    let mut deployment = forward(workload, 1)?;
    // As many calls in a run as are asked at once.
    deployment["predictor"]["models"][0]["max_batch_size"] = goals::CONNECTIONS.into();
    let package = references.package_as(workload, &deployment)?;
    node::upload(arena.client, &node, package.bytes())?;
    let good = workload.protocol_binary("/v2/models/encoder/infer")?;
    let bad = poisoned(&good, workload)?;
    let check = workload.check(Road::Binary, numbers)?;
    let before = counts(arena, &node, "encoder")?;
    let mut poison = Poison::default();
    for round in 0..arena.plan.wake_ups {
        let wrong = round % goals::CONNECTIONS;
        let answers = arena
            .client
            .runtime()
            .block_on(at_once(&node, &good, &bad, wrong))?;
        poison.count(&answers, wrong, &check);
    }
    let after = counts(arena, &node, "encoder")?;
    poison.inferences = after.0 - before.0;
    poison.executions = after.1 - before.1;
    println!(
        "  {} of {} right beside {} wrong ones",
        poison.right, poison.asked, poison.poisoned
    );
    Ok(poison)
}

type Answer = (StatusCode, Bytes);

impl Poison {
    fn count(&mut self, answers: &[(usize, Answer)], wrong: usize, check: &Check) {
        for (at, answer) in answers {
            if *at == wrong {
                self.poisoned += 1;
                self.refused += usize::from(answer.0 != StatusCode::OK);
            } else {
                self.asked += 1;
                match check.verify(answer) {
                    Ok(()) => self.right += 1,
                    Err(error) => println!("  one of the others: {error:#}"),
                }
            }
        }
    }
}

async fn at_once(
    node: &Server,
    good: &Question,
    bad: &Question,
    wrong: usize,
) -> Result<Vec<(usize, Answer)>> {
    let address = node.data()?;
    let mut asking = JoinSet::new();
    for at in 0..goals::CONNECTIONS {
        let question = if at == wrong { bad } else { good }.clone();
        let mut connection = client::connect(address).await?;
        asking.spawn(async move {
            let answer = client::ask(&mut connection, &question).await?;
            anyhow::Ok((at, answer))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asking.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

/// The same with a word that no table has.
fn poisoned(good: &Question, workload: Workload) -> Result<Question> {
    let tensors = workload.tensors().context("digits takes any numbers")?;
    let at = good.body.len() - tensors.input.bytes().len();
    let mut body = good.body.to_vec();
    body[at..at + 8].copy_from_slice(&1_000_000_i64.to_le_bytes());
    Ok(Question {
        body: body.into(),
        ..good.clone()
    })
}

/// Rows and runs of the only model so far.
fn counts(arena: &Arena<'_>, node: &Server, model: &str) -> Result<(f64, f64)> {
    let text = metrics(arena.client, node)?;
    let label = format!("model=\"{model}\"");
    let count = |name| metric(&text, name, &[&label]);
    Ok((
        count("dunlin_model_inferences_total"),
        count("dunlin_model_executions_total"),
    ))
}
