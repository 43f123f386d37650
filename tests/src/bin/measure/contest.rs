//! The servers under the same load, window by window, in turns.

use std::{rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    client::{Client, Question},
    kind::Kind,
    load::{Answers, Generator},
    plan::{IN_A_ROW, Plan},
    process_tree::Memory,
    server::Server,
    spread::Spread,
    workload::{Check, Road, Workload},
};

/// A server that takes part, and what it is asked. Several may be deployments of one node.
#[derive(Debug)]
pub(crate) struct Entrant {
    pub(crate) kind: Kind,
    pub(crate) road: Road,
    pub(crate) server: Rc<Server>,
    pub(crate) question: Question,
    pub(crate) check: Check,
}

/// The model without a server, as many calls at once as there are cores.
pub(crate) struct Limit<'a> {
    pub(crate) name: &'static str,
    pub(crate) call: Box<dyn Fn(Duration) -> Result<Answers> + 'a>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contest {
    pub(crate) workload: Workload,
    pub(crate) entries: Vec<Entry>,
    pub(crate) in_process: Vec<InProcess>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) missing: Vec<Missing>,
}

/// One server at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) road: Road,
    pub(crate) connections: usize,
    pub(crate) outcome: Outcome,
    pub(crate) windows: Vec<Window>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Its last windows lie together.
    Settled,
    /// They do not, and there were as many as the plan has.
    Unsettled,
    /// It gave a wrong answer or none.
    Failed(String),
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Window {
    #[serde(flatten)]
    pub(crate) answers: Answers,
    /// Processor time of the server's processes for each answer, the kernel's part included.
    pub(crate) cpu_us: f64,
}

/// A limit beside the servers at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InProcess {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) windows: Vec<Answers>,
}

/// A server that has answered once and is asked nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) kind: Kind,
    pub(crate) memory: Memory,
    pub(crate) memory_after: Memory,
    /// From the start of the process to the first right answer, where it was started for this.
    pub(crate) first_answer_ms: Option<Spread>,
}

/// Who could not take part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

/// The servers take turns, so that a machine that grows slower does so for all of them. One whose
/// windows lie together at some number of connections has no more of them there. The limits come
/// first at each number of connections: what they are compared with is not minutes away.
pub(crate) fn run(
    plan: &Plan,
    client: &Client,
    generator: &Generator,
    entrants: &[Entrant],
    connections: &[usize],
    limits: &[Limit<'_>],
) -> Result<(Vec<Entry>, Vec<InProcess>)> {
    let mut entries: Vec<(&Entrant, Entry)> = connections
        .iter()
        .flat_map(|connections| entrants.iter().map(|entrant| (entrant, *connections)))
        .map(|(entrant, connections)| (entrant, entrant.entry(connections)))
        .collect();
    let mut in_process: Vec<InProcess> = connections
        .iter()
        .flat_map(|connections| limits.iter().map(|limit| limit.begin(*connections)))
        .collect();
    for round in 1..=plan.windows_max {
        if !entries.iter().any(|(_, entry)| entry.wants(plan)) {
            break;
        }
        println!("\nRound {round} of {} at most", plan.windows_max);
        for many in connections {
            let mut here = entries
                .iter_mut()
                .filter(|(_, entry)| entry.connections == *many && entry.wants(plan))
                .peekable();
            if here.peek().is_none() {
                continue;
            }
            let beside = in_process.iter_mut();
            let beside = beside.filter(|limit| limit.connections == *many);
            for (limit, measured) in limits.iter().zip(beside) {
                measured.windows.push(limit.window(plan.in_process)?);
            }
            for (entrant, entry) in here {
                let window = window(plan, client, generator, entrant, entry.connections);
                entry.take(window, plan);
            }
        }
    }
    Ok((
        entries.into_iter().map(|(_, entry)| entry).collect(),
        in_process,
    ))
}

impl Entrant {
    fn entry(&self, connections: usize) -> Entry {
        Entry {
            kind: self.kind,
            road: self.road,
            connections,
            outcome: Outcome::Unsettled,
            windows: Vec::new(),
        }
    }
}

impl Limit<'_> {
    fn begin(&self, connections: usize) -> InProcess {
        InProcess {
            name: self.name,
            connections,
            windows: Vec::new(),
        }
    }

    fn window(&self, duration: Duration) -> Result<Answers> {
        let answers = (self.call)(duration).with_context(|| format!("{} in process", self.name))?;
        println!(
            "  {:<42} in process  {:>9.1} calls/s",
            self.name, answers.per_second
        );
        Ok(answers)
    }
}

impl Entry {
    fn wants(&self, plan: &Plan) -> bool {
        self.outcome == Outcome::Unsettled && self.windows.len() < plan.windows_max
    }

    fn take(&mut self, window: Result<Window>, plan: &Plan) {
        let who = format!("{}, {:?}", self.kind.name(), self.road);
        let connections = self.connections;
        match window {
            Ok(window) => {
                let answers = window.answers;
                println!(
                    "  {who:<42} {connections:>3} at once {:>9.1} requests/s, p50 {:.0} µs, p99 {:.0} µs",
                    answers.per_second, answers.p50_us, answers.p99_us
                );
                self.windows.push(window);
                let numbers: Vec<f64> = self.windows.iter().map(Window::per_second).collect();
                if plan.settled(&numbers) {
                    self.outcome = Outcome::Settled;
                }
            }
            Err(error) => {
                println!("  {who:<42} {connections:>3} at once FAILED: {error:#}");
                self.outcome = Outcome::Failed(format!("{error:#}"));
            }
        }
    }

    /// A number over the windows that count: the last ones. None where it failed.
    pub(crate) fn spread(&self, number: impl Fn(&Window) -> f64) -> Option<Spread> {
        Some(Spread::of(self.last(&self.windows)?.iter().map(number)))
    }

    /// Requests/s beside those of a limit, each window beside the one that was taken just before.
    pub(crate) fn beside(&self, limit: &InProcess) -> Option<Spread> {
        let pairs = self.windows.iter().zip(&limit.windows);
        let shares: Vec<f64> = pairs
            .map(|(window, limit)| window.per_second() / limit.per_second)
            .collect();
        Some(Spread::of(self.last(&shares)?.iter().copied()))
    }

    fn last<'a, T>(&self, of_windows: &'a [T]) -> Option<&'a [T]> {
        if matches!(self.outcome, Outcome::Failed(_)) || of_windows.is_empty() {
            return None;
        }
        let last = of_windows.len().saturating_sub(IN_A_ROW);
        Some(&of_windows[last..])
    }
}

impl Window {
    pub(crate) fn per_second(&self) -> f64 {
        self.answers.per_second
    }
}

impl InProcess {
    /// A number over the rounds.
    pub(crate) fn spread(&self, number: impl Fn(&Answers) -> f64) -> Spread {
        Spread::of(self.windows.iter().map(number))
    }
}

impl Contest {
    pub(crate) fn entry(&self, kind: Kind, road: Road, connections: usize) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| {
            entry.kind == kind && entry.road == road && entry.connections == connections
        })
    }

    /// The middle of a number of JSON at so many connections.
    pub(crate) fn json(
        &self,
        kind: Kind,
        connections: usize,
        number: impl Fn(&Window) -> f64,
    ) -> Option<f64> {
        let entry = self.entry(kind, Road::Json, connections)?;
        Some(entry.spread(number)?.median)
    }

    /// The first limit beside so many connections.
    pub(crate) fn limit(&self, connections: usize) -> Option<&InProcess> {
        let mut limits = self.in_process.iter();
        limits.find(|limit| limit.connections == connections)
    }

    pub(crate) fn idle(&self, kind: Kind) -> Option<&Idle> {
        self.idle.iter().find(|idle| idle.kind == kind)
    }

    /// Why there is no number of it.
    pub(crate) fn why_missing(&self, kind: Kind) -> String {
        let missing = self.missing.iter().find(|missing| missing.kind == kind);
        if let Some(missing) = missing {
            return format!("{}: {}", kind.name(), missing.reason);
        }
        format!("{}: not in this run", kind.name())
    }
}

fn window(
    plan: &Plan,
    client: &Client,
    generator: &Generator,
    entrant: &Entrant,
    connections: usize,
) -> Result<Window> {
    let Entrant {
        server,
        question,
        check,
        ..
    } = entrant;
    let address = server.data()?;
    check.verify(&client.ask(address, question)?)?;
    generator.run(client, address, question, connections, plan.warm_up)?;
    server.settle()?;
    let before = server.cpu_time()?;
    let answers = generator.run(client, address, question, connections, plan.window);
    let cpu = server.cpu_time()?.saturating_sub(before);
    server.settle()?;
    let answers = answers?;
    ensure!(answers.count > 0.0, "nothing was answered in the window");
    Ok(Window {
        answers,
        cpu_us: cpu.as_secs_f64() * 1e6 / answers.count,
    })
}
