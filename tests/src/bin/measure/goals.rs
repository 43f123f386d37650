//! What Dunlin is to reach, and what this run says of it.

use serde::Serialize;

use crate::{
    contest::{Contest, Window},
    extra_goals,
    kind::{Kind, Reuse, Setup},
    node::Lone,
    report::Report,
    workload::Road,
};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) goal: &'static str,
    pub(crate) measured: String,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Reached,
    NotReached,
    /// This run has not what it takes to say.
    Open,
}

/// Where the design sets its goals.
pub(crate) const CONNECTIONS: usize = 32;
/// More than any machine has cores to run a model on.
const SATURATED: usize = 8;

pub(crate) const DUNLIN: Kind = Kind::Dunlin(Setup::OnnxRuntime);
const FRESH: Kind = Kind::Dunlin(Setup::Fresh);
const FASTAPI: Kind = Kind::FastApi { workers: 1 };
const FASTAPI_2: Kind = Kind::FastApi { workers: 2 };
const FASTAPI_IN_POOL: Kind = Kind::FastApiInPool;
const LITSERVE: Kind = Kind::LitServe { workers: 1 };

pub(crate) fn judge(report: &Report) -> Vec<Goal> {
    let digits = &report.digits;
    let mut goals = vec![
        at_least(
            digits,
            "digits over JSON, 32 at once: requests/s beside hyper that only parses the same JSON",
            "≥ 0.5",
            0.5,
            [DUNLIN, Kind::ParseJson],
        ),
        at_least(
            digits,
            "the same beside FastAPI + onnxruntime, 1 worker",
            "≥ 15 ×",
            15.0,
            [DUNLIN, FASTAPI],
        ),
        at_least(
            digits,
            "the same beside FastAPI + onnxruntime, 2 workers",
            "≥ 15 ×",
            15.0,
            [DUNLIN, FASTAPI_2],
        ),
        at_least(
            digits,
            "the same beside FastAPI + onnxruntime, 1 worker, its handler a `def`, which runs in a pool of threads",
            "≥ 15 ×",
            15.0,
            [DUNLIN, FASTAPI_IN_POOL],
        ),
        at_least(
            digits,
            "the same beside LitServe",
            "≥ 40 ×",
            40.0,
            [DUNLIN, LITSERVE],
        ),
        tail(digits, FASTAPI),
        tail(digits, LITSERVE),
        latency(digits),
        at_least(
            digits,
            "digits beside `wasmtime serve` with a component that only parses the same JSON, both warm, 32 at once",
            "≥ 0.75",
            0.75,
            [DUNLIN, Kind::WasmtimeServe(Reuse::Warm)],
        ),
        at_least(
            digits,
            "the same, both with a fresh instance for each request",
            "≥ 1.5 ×",
            1.5,
            [FRESH, Kind::WasmtimeServe(Reuse::Fresh)],
        ),
    ];
    goals.extend(["resnet18", "encoder"].map(|model| saturated(report, model)));
    for lone in &report.alone {
        goals.push(start(lone, digits));
        goals.push(idle(lone, digits));
    }
    goals.extend(extra_goals::judge(report));
    goals
}

/// Requests/s of the first beside the second.
fn at_least(
    digits: &Contest,
    what: &str,
    goal: &'static str,
    least: f64,
    kinds: [Kind; 2],
) -> Goal {
    let numbers = kinds.map(|kind| digits.json(kind, CONNECTIONS, Window::per_second));
    match numbers {
        [Some(ours), Some(theirs)] => Goal {
            what: what.to_owned(),
            goal,
            measured: format!("{:.2} ({ours:.0} beside {theirs:.0})", ours / theirs),
            verdict: verdict(ours / theirs >= least),
        },
        _ => missing(what.to_owned(), goal, digits, kinds),
    }
}

fn tail(digits: &Contest, theirs: Kind) -> Goal {
    let what = format!("digits, 32 at once: p99 beside {}", theirs.name());
    let goal = "≤ 1/10";
    let kinds = [DUNLIN, theirs];
    match kinds.map(|kind| digits.json(kind, CONNECTIONS, |window| window.answers.p99_us)) {
        [Some(ours), Some(theirs)] => Goal {
            what,
            goal,
            measured: format!(
                "{:.2} ({:.1} ms beside {:.1} ms)",
                ours / theirs,
                ours / 1e3,
                theirs / 1e3
            ),
            verdict: verdict(ours <= theirs / 10.0),
        },
        _ => missing(what, goal, digits, kinds),
    }
}

fn latency(digits: &Contest) -> Goal {
    let what = "digits, 1 at a time: p50 above hyper that only parses the same JSON".to_owned();
    let goal = "≤ 40 µs";
    let kinds = [DUNLIN, Kind::ParseJson];
    match kinds.map(|kind| digits.json(kind, 1, |window| window.answers.p50_us)) {
        [Some(ours), Some(theirs)] => Goal {
            what,
            goal,
            measured: format!("{:.0} µs ({ours:.0} − {theirs:.0})", ours - theirs),
            verdict: verdict(ours - theirs <= 40.0),
        },
        _ => missing(what, goal, digits, kinds),
    }
}

fn saturated(report: &Report, model: &'static str) -> Goal {
    let what = format!(
        "{model}, binary tensors, {SATURATED} at once: requests/s beside runs/s of ONNX Runtime in process, same threads"
    );
    let goal = "≥ 0.95";
    let contest = report
        .models
        .iter()
        .find(|contest| contest.workload.name() == model);
    let numbers = contest.and_then(|contest| {
        let ours = contest.entry(DUNLIN, Road::Binary, SATURATED)?;
        let theirs = contest.limit(SATURATED)?;
        Some((
            ours.beside(theirs)?,
            ours.spread(Window::per_second)?.median,
            theirs.spread(|answers| answers.per_second).median,
        ))
    });
    match numbers {
        Some((share, ours, theirs)) => Goal {
            what,
            goal,
            measured: format!(
                "{:.3}, {:.3} to {:.3} ({ours:.1} beside {theirs:.1})",
                share.median, share.min, share.max
            ),
            verdict: verdict(share.median >= 0.95),
        },
        None => open(
            what,
            goal,
            report
                .models_skipped
                .clone()
                .unwrap_or_else(|| "the server failed; see below".to_owned()),
        ),
    }
}

fn start(lone: &Lone, digits: &Contest) -> Goal {
    let what = format!(
        "start of the process to the first prediction, compiled cache warm, {}",
        lone.engines.name()
    );
    let goal = "≤ 1/10 of FastAPI + onnxruntime";
    let ours = lone.start.prediction_ms.median;
    let theirs = digits.idle(FASTAPI).and_then(|idle| idle.first_answer_ms);
    match theirs {
        Some(theirs) => Goal {
            what,
            goal,
            measured: format!("{ours:.0} ms beside {:.0} ms", theirs.median),
            verdict: verdict(ours <= theirs.median / 10.0),
        },
        None => open(
            what,
            goal,
            format!("{ours:.0} ms; {}", digits.why_missing(FASTAPI)),
        ),
    }
}

fn idle(lone: &Lone, digits: &Contest) -> Goal {
    let what = format!(
        "resident memory of an idle node with digits, {}",
        lone.engines.name()
    );
    let goal = "≤ 1/3 of FastAPI + onnxruntime";
    let memory = lone.memory;
    let ours = memory
        .deployed
        .resident_mib
        .max(memory.restarted.resident_mib);
    match digits.idle(FASTAPI) {
        Some(theirs) => {
            let theirs = theirs.memory.resident_mib;
            Goal {
                what,
                goal,
                measured: format!(
                    "{ours:.0} MiB beside {theirs:.0} MiB; of a node that was started with digits \
                     deployed {:.0} MiB",
                    memory.restarted.resident_mib
                ),
                verdict: verdict(ours <= theirs / 3.0),
            }
        }
        None => open(
            what,
            goal,
            format!("{ours:.0} MiB; {}", digits.why_missing(FASTAPI)),
        ),
    }
}

fn missing(what: String, goal: &'static str, digits: &Contest, kinds: [Kind; 2]) -> Goal {
    let absent = kinds.into_iter().filter(|kind| {
        let numbers = [1, CONNECTIONS].map(|many| digits.json(*kind, many, Window::per_second));
        numbers.contains(&None)
    });
    let reasons: Vec<String> = absent.map(|kind| digits.why_missing(kind)).collect();
    open(what, goal, reasons.join("; "))
}

pub(crate) fn open(what: String, goal: &'static str, why: String) -> Goal {
    Goal {
        what,
        goal,
        measured: why,
        verdict: Verdict::Open,
    }
}

/// The measured goals of a debug build are open: it is not what they are about.
pub(crate) fn verdict(reached: bool) -> Verdict {
    if cfg!(debug_assertions) {
        Verdict::Open
    } else if reached {
        Verdict::Reached
    } else {
        Verdict::NotReached
    }
}
