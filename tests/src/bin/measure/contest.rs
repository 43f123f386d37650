//! The servers under the same load, window by window, in turns.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Serialize, Serializer};

use crate::{
    client::{Client, Question},
    in_process::{Calls, InProcess},
    load::{Answers, Generator},
    node,
    server::{Memory, Server},
    spread::Spread,
};

/// Connections that ask at once, each one request after another.
pub(crate) const CONNECTIONS: [usize; 3] = [1, 8, 32];

/// How long and how often.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    #[serde(rename = "warm_up_s", serialize_with = "seconds")]
    pub(crate) warm_up: Duration,
    #[serde(rename = "window_s", serialize_with = "seconds")]
    pub(crate) window: Duration,
    /// Of in-process calls in each round.
    #[serde(rename = "in_process_s", serialize_with = "seconds")]
    pub(crate) in_process: Duration,
    /// Of the node.
    pub(crate) starts: usize,
    /// Before memory is read.
    #[serde(rename = "settle_s", serialize_with = "seconds")]
    pub(crate) settle: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Contestant {
    /// hyper, the answer a constant.
    Hello,
    /// hyper, the question of digits parsed by `serde_json`.
    ParseJson,
    /// The node: HTTP, sandbox, guest, model.
    Digits,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contest {
    /// Of each server's runtime.
    pub(crate) threads: usize,
    pub(crate) windows: Vec<Window>,
    /// One for each round.
    pub(crate) in_process: Vec<Calls>,
    /// The node's, when all is over.
    pub(crate) memory_after: Memory,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) round: usize,
    pub(crate) connections: usize,
    pub(crate) contestant: Contestant,
    pub(crate) answers: Answers,
    /// Processor time of the server for each answer, on all threads, the kernel's part included.
    pub(crate) cpu_us: f64,
}

impl Plan {
    pub(crate) fn about(&self) -> Duration {
        let windows = CONNECTIONS.len() * Contestant::ALL.len();
        let round = (self.warm_up + self.window) * count(windows) + self.in_process;
        let starts = Duration::from_millis(200) * count(self.starts);
        round * count(self.rounds) + self.settle * 4 + starts
    }
}

impl Contestant {
    pub(crate) const ALL: [Contestant; 3] =
        [Contestant::Hello, Contestant::ParseJson, Contestant::Digits];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contestant::Hello => "hyper, \"hello\"",
            Contestant::ParseJson => "hyper + serde_json",
            Contestant::Digits => "Dunlin, digits",
        }
    }
}

struct Entrant {
    contestant: Contestant,
    server: Server,
    question: Question,
    /// Part of every right answer.
    answer: String,
}

/// The contestants take turns, so that a machine that grows slower does so for all of them.
pub(crate) fn run(
    plan: &Plan,
    client: &Client,
    generator: &Generator,
    node: Server,
    in_process: &InProcess,
) -> Result<Contest> {
    // What a node takes where nothing is configured.
    let threads = std::thread::available_parallelism()?.get();
    let logs = tempfile::tempdir().context("cannot make a folder for logs")?;
    let entrants = entrants(node, threads, logs.path())?;
    let (mut windows, mut calls) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        println!("\nRound {round} of {}", plan.rounds);
        for connections in CONNECTIONS {
            for entrant in &entrants {
                let contestant = entrant.contestant;
                let (answers, cpu_us) = window(plan, client, generator, entrant, connections)
                    .with_context(|| format!("{contestant:?} at {connections} connections"))?;
                println!(
                    "  {:<19} {connections:>2} connections {:>9.0} requests/s, p50 {:.0} µs, p99 {:.0} µs",
                    contestant.name(),
                    answers.per_second,
                    answers.p50_us,
                    answers.p99_us
                );
                windows.push(Window {
                    round,
                    connections,
                    contestant,
                    answers,
                    cpu_us,
                });
            }
        }
        let called = in_process.run(plan.in_process)?;
        println!("  tract in process    {:.1} µs a call", called.p50_us);
        calls.push(called);
    }
    let node = entrants
        .iter()
        .find(|entrant| entrant.contestant == Contestant::Digits);
    Ok(Contest {
        threads,
        windows,
        in_process: calls,
        memory_after: node.context("digits takes part")?.server.memory()?,
    })
}

impl Contest {
    /// A number of one contestant over the rounds.
    pub(crate) fn spread(
        &self,
        contestant: Contestant,
        connections: usize,
        number: impl Fn(&Window) -> f64,
    ) -> Spread {
        Spread::of(self.windows(contestant, connections).map(number))
    }

    /// A number of digits as a part of the other's, each taken within one round.
    pub(crate) fn ratio(
        &self,
        to: Contestant,
        connections: usize,
        number: impl Fn(&Window) -> f64,
    ) -> Spread {
        let digits = self.windows(Contestant::Digits, connections);
        let others = self.windows(to, connections);
        Spread::of(digits.zip(others).map(|(digits, other)| {
            debug_assert_eq!(digits.round, other.round);
            number(digits) / number(other)
        }))
    }

    /// Microseconds of one call of the model. Not the mean: a call that was interrupted is as long
    /// as the interruption, and says nothing of the model.
    pub(crate) fn call_us(&self) -> Spread {
        Spread::of(self.in_process.iter().map(|calls| calls.p50_us))
    }

    fn windows(&self, contestant: Contestant, connections: usize) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(move |window| {
            window.contestant == contestant && window.connections == connections
        })
    }
}

fn window(
    plan: &Plan,
    client: &Client,
    generator: &Generator,
    entrant: &Entrant,
    connections: usize,
) -> Result<(Answers, f64)> {
    let Entrant {
        server, question, ..
    } = entrant;
    let address = server.data()?;
    let (status, body) = client.ask(address, question)?;
    let text = String::from_utf8_lossy(&body);
    ensure!(
        status == StatusCode::OK && text.contains(&entrant.answer),
        "the answer is {status} {text}, not {}",
        entrant.answer
    );
    generator.run(client, address, question, connections, plan.warm_up)?;
    let before = server.cpu_time()?;
    let answers = generator.run(client, address, question, connections, plan.window)?;
    let cpu = server.cpu_time()?.saturating_sub(before);
    Ok((answers, cpu.as_secs_f64() * 1e6 / answers.count))
}

fn entrants(node: Server, threads: usize, logs: &Path) -> Result<Vec<Entrant>> {
    let digits = node::digits()?;
    let hello = Question {
        method: Method::GET,
        path: "/",
        headers: Vec::new(),
        body: Bytes::new(),
    };
    Ok(vec![
        Entrant {
            contestant: Contestant::Hello,
            server: yardstick(threads, &[], &logs.join("hello.log"))?,
            question: hello,
            answer: "hello".to_owned(),
        },
        Entrant {
            contestant: Contestant::ParseJson,
            server: yardstick(threads, &["--parse-json"], &logs.join("parse-json.log"))?,
            question: digits.question.clone(),
            answer: "\"rows\":8".to_owned(),
        },
        Entrant {
            contestant: Contestant::Digits,
            server: node,
            question: digits.question,
            answer: digits.answer,
        },
    ])
}

/// This program again, as the server that Dunlin is compared with.
fn yardstick(threads: usize, more: &[&str], log: &Path) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["hello-server", "--threads", &threads.to_string()])
        .args(more);
    Server::start(&mut command, log)
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn count(of: usize) -> u32 {
    u32::try_from(of).expect("a plan is short")
}
