//! The goals beside speed: what the sandbox adds, batches, idle deployments, overload.

use crate::{
    batching::{Batching, Poison},
    contest::{Contest, Window},
    goals::{CONNECTIONS, DUNLIN, Goal, open, verdict},
    idle::Idle,
    kind::{Kind, Setup},
    overhead::Overhead,
    overload::{DEADLINE_MS, Overload},
    report::Report,
};

const NO_ENCODER: &str = "there is no encoder; cargo xtask bench --with lightning makes it";

pub(crate) fn judge(report: &Report) -> Vec<Goal> {
    let mut goals = sandbox(&report.overhead).to_vec();
    goals.extend(idle(&report.idle));
    goals.push(rows_in_a_run(report.batching));
    goals.push(batched_throughput(&report.digits));
    goals.push(poison(report.poison));
    goals.extend(overload(report.overload.as_ref()));
    goals
}

fn goal(what: &str, goal: &'static str, measured: String, reached: bool) -> Goal {
    Goal {
        what: what.to_owned(),
        goal,
        measured,
        verdict: verdict(reached),
    }
}

fn sandbox(overhead: &Overhead) -> [Goal; 2] {
    let added = |with: f64| {
        let added = with - overhead.native_us;
        let measured = format!("{added:.1} µs ({with:.1} − {:.1})", overhead.native_us);
        (added, measured)
    };
    let (warm, warm_measured) = added(overhead.warm_us);
    let (fresh, fresh_measured) = added(overhead.fresh_us);
    [
        goal(
            "a prediction of digits by the predictor, above the same JSON, model and softmax without Wasm, warm instance",
            "≤ 10 µs",
            warm_measured,
            warm <= 10.0,
        ),
        goal(
            "the same, fresh instance",
            "≤ 60 µs",
            fresh_measured,
            fresh <= 60.0,
        ),
    ]
}

fn idle(idle: &Idle) -> [Goal; 2] {
    let [first, warm] = [idle.first_ms.median, idle.warm_ms.median];
    let each = idle.each_kib();
    [
        goal(
            "first request to a deployment without an instance, above a warm one",
            "≤ 5 ms",
            format!("{:.2} ms ({first:.2} − {warm:.2})", first - warm),
            first - warm <= 5.0,
        ),
        goal(
            "a further idle deployment of a predictor that is there",
            "≤ 100 KiB",
            format!("{each:.0} KiB resident, each of {}", idle.deployments),
            each <= 100.0,
        ),
    ]
}

fn rows_in_a_run(batching: Option<Batching>) -> Goal {
    let what = "batching, digits at 32 at once: calls in a run";
    let least = "≥ 4";
    let Some(batching) = batching else {
        let why = "this machine has no ONNX Runtime; see dunlin doctor".to_owned();
        return open(what.to_owned(), least, why);
    };
    let Batching {
        inferences,
        executions,
    } = batching;
    let shared = inferences / executions;
    goal(
        what,
        least,
        format!("{shared:.1} ({inferences:.0} ÷ {executions:.0})"),
        shared >= 4.0,
    )
}

fn batched_throughput(digits: &Contest) -> Goal {
    let what = "the same: requests/s beside the same without batching";
    let least = "≥ 1";
    let kinds = [DUNLIN, Kind::Dunlin(Setup::Unbatched)];
    match kinds.map(|kind| digits.json(kind, CONNECTIONS, Window::per_second)) {
        [Some(batched), Some(single)] => goal(
            what,
            least,
            format!("{:.2} ({batched:.0} beside {single:.0})", batched / single),
            batched >= single,
        ),
        _ => open(
            what.to_owned(),
            least,
            digits.why_missing(Kind::Dunlin(Setup::Unbatched)),
        ),
    }
}

fn poison(poison: Option<Poison>) -> Goal {
    let what =
        "batching, one request in every 32 that makes the engine fail: the others answer right";
    let all = "all";
    let Some(poison) = poison else {
        return open(what.to_owned(), all, NO_ENCODER.to_owned());
    };
    let Poison {
        asked,
        right,
        poisoned,
        refused,
        inferences,
        executions,
    } = poison;
    goal(
        what,
        all,
        format!(
            "{right} of {asked}; {refused} of {poisoned} refused; {inferences:.0} rows in \
             {executions:.0} runs"
        ),
        right == asked && refused == poisoned,
    )
}

fn overload(overload: Option<&Overload>) -> Vec<Goal> {
    const WHAT: [&str; 4] = [
        "an encoder asked for 10 × what it can do: every answer is a 200, a 503 or a 504, within the deadline",
        "the same: answers a second beside those without overload",
        "the same: the node's memory stays within its bound",
        "the same: p99 of a quiet neighbour on the node, × alone",
    ];
    const GOAL: [&str; 4] = ["all", "≥ 0.9", "≤ the bound", "≤ 2 ×"];
    let Some(overload) = overload else {
        let all = WHAT.iter().zip(GOAL);
        return all
            .map(|(what, goal)| open((*what).to_owned(), goal, NO_ENCODER.to_owned()))
            .collect();
    };
    let flood = &overload.flood;
    let known = flood
        .answers
        .keys()
        .all(|status| [200, 503, 504].contains(status));
    let share = flood.accepted_per_second() / overload.peak_per_second;
    let Overload {
        memory_before_mib: before,
        memory_most_mib: most,
        memory_bound_mib: bound,
        ..
    } = overload;
    let [alone, beside] = [overload.quiet.p99_us, overload.quiet_beside.p99_us].map(|us| us / 1e3);
    let measured = [
        format!(
            "{}; {} lost, {} not sent; the longest took {:.0} ms",
            flood.told(),
            flood.lost,
            flood.unsent,
            flood.longest_ms
        ),
        format!(
            "{share:.2} ({:.0} beside {:.0}, asked {:.0})",
            flood.accepted_per_second(),
            overload.peak_per_second,
            overload.asked_per_second
        ),
        format!("{most:.0} MiB, before {before:.0} MiB; the bound is {bound:.0} MiB"),
        format!(
            "{:.1} ({beside:.1} ms beside {alone:.1} ms)",
            beside / alone
        ),
    ];
    let reached = [
        known && flood.lost == 0 && flood.longest_ms <= DEADLINE_MS,
        share >= 0.9,
        most <= bound,
        beside <= 2.0 * alone,
    ];
    let rows = WHAT.iter().zip(GOAL).zip(measured).zip(reached);
    rows.map(|(((what, least), measured), reached)| goal(what, least, measured, reached))
        .collect()
}
