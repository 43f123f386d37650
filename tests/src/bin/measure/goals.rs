//! What Dunlin is to reach, and what this run says of it.

use serde::Serialize;

use crate::{contest::Contestant, models::Models, report::Report};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
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

/// Figures of FastAPI with onnxruntime, taken once on 2 cores and not in this run: a fixed goal, and
/// no comparison side by side.
const FASTAPI_START_MS: f64 = 600.0;
const FASTAPI_RESIDENT_MB: f64 = 96.0;

pub(crate) fn judge(report: &Report) -> Vec<Goal> {
    let contest = &report.contest;
    let most = CONNECTIONS_MOST;
    let throughput = contest.ratio(Contestant::ParseJson, most, |window| {
        window.answers.per_second
    });
    let overhead = {
        let cpu = |contestant| {
            contest
                .spread(contestant, most, |window| window.cpu_us)
                .median
        };
        cpu(Contestant::Digits) - cpu(Contestant::ParseJson) - contest.call_us().median
    };
    let start = report.start.prediction_ms;
    let memory = report.memory;
    let idle_mb = mb(memory
        .deployed
        .resident_mib
        .max(memory.restarted.resident_mib));
    vec![
        Goal {
            what: "digits over JSON HTTP, 32 connections",
            goal: "≥ 0.5 of the requests/s of hyper that only parses the same JSON",
            measured: format!("{:.2}", throughput.median),
            verdict: verdict(throughput.median >= 0.5),
        },
        Goal {
            what: "overhead of the predictor, warm instance",
            goal: "≤ 10 µs above the same call without Wasm",
            measured: format!(
                "about {overhead:.0} µs of processor time that neither hyper + serde_json nor the \
                 model takes: guest, routing, limits, metrics, softmax, the larger answer"
            ),
            // A difference of three measurements, and of more than the sandbox: it shows where the
            // time is, and proves nothing.
            verdict: Verdict::Open,
        },
        Goal {
            what: "start of the process to the first prediction, compiled cache warm",
            goal: "≤ 60 ms: 1/10 of FastAPI + onnxruntime (0.6–0.9 s, not in this run)",
            measured: format!("{:.0} ms", start.median),
            verdict: verdict(start.median <= FASTAPI_START_MS / 10.0),
        },
        Goal {
            what: "resident memory of an idle node with digits",
            goal: "≤ 32 MB: 1/3 of FastAPI + onnxruntime (96 MB, not in this run)",
            measured: format!("{idle_mb:.0} MB, the larger of the two below"),
            verdict: verdict(idle_mb <= FASTAPI_RESIDENT_MB / 3.0),
        },
        open(
            "digits beside FastAPI + onnxruntime and LitServe",
            "≥ 15 ×, ≥ 40 ×, p99 below 1/10",
        ),
        models(&report.models),
        open(
            "digits beside `wasmtime serve`, a component that parses the same JSON",
            "warm ≥ 0.75 of it with reuse, fresh ≥ 1.5 × of it without",
        ),
        open("overhead of the predictor, fresh instance", "≤ 60 µs"),
        open("a further idle predictor", "≤ 100 KiB"),
    ]
}

/// Where the design sets its goal.
const CONNECTIONS_MOST: usize = 32;

fn models(models: &Models) -> Goal {
    const WHAT: &str = "ResNet-18 and an encoder, binary tensors, saturated";
    const GOAL: &str = "≥ 0.95 of the throughput of ONNX Runtime in process, same threads";
    match models {
        Models::Skipped(_) => open(WHAT, GOAL),
        Models::Measured(contests) => {
            let shares = contests.iter().map(|contest| contest.share().median);
            let named = contests.iter().zip(shares.clone());
            let measured: Vec<String> = named
                .map(|(contest, share)| format!("{} {share:.2}", contest.model))
                .collect();
            Goal {
                what: WHAT,
                goal: GOAL,
                measured: measured.join(", "),
                verdict: verdict(shares.fold(f64::INFINITY, f64::min) >= 0.95),
            }
        }
    }
}

fn open(what: &'static str, goal: &'static str) -> Goal {
    Goal {
        what,
        goal,
        measured: "not by this benchmark".to_owned(),
        verdict: Verdict::Open,
    }
}

/// The measured goals of a debug build are open: it is not what they are about.
fn verdict(reached: bool) -> Verdict {
    if cfg!(debug_assertions) {
        Verdict::Open
    } else if reached {
        Verdict::Reached
    } else {
        Verdict::NotReached
    }
}

/// The goals count in powers of ten, the kernel in powers of two.
fn mb(mib: f64) -> f64 {
    mib * 1.048_576
}
