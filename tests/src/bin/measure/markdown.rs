//! `docs/measurements.md`.

use std::fmt::Write as _;

use crate::{
    contest::{Contest, Entry, Outcome, Window},
    goals::{self, Verdict},
    kind::{Kind, Setup},
    load::Answers,
    machine::Commit,
    node::Lone,
    plan::{CLOSE, IN_A_ROW},
    process_tree::Memory,
    report::Report,
    spread::Spread,
    workload::{Road, Workload},
};

pub(crate) fn render(report: &Report) -> String {
    let mut sections = vec![head(report), goals(report), contest(&report.digits)];
    match &report.models_skipped {
        Some(reason) => sections.push(format!(
            "## ResNet-18 and the encoder\n\nNot measured: {reason}.\n"
        )),
        None => sections.extend(report.models.iter().map(contest)),
    }
    sections.extend([alone(report), servers(report), method(report)]);
    sections.join("\n")
}

/// Above it, somebody else's work is part of the numbers.
const QUIET_PERCENT: f64 = 10.0;

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = String::from("# Measurements\n\n");
    if report.debug_build {
        text += "**A debug build: none of these numbers says anything.**\n\n";
    }
    if report.short {
        text += "**A short run (`--short`): one short window each.**\n\n";
    }
    if machine.busy_percent > QUIET_PERCENT {
        text += "**The machine was busy with something else: least of all trust p99.**\n\n";
    }
    let commit = match &report.commit {
        None => "sources without git".to_owned(),
        Some(Commit { id, changed: false }) => format!("commit {id}"),
        Some(Commit { id, changed: true }) => {
            format!("commit {id}, with changes that were not committed")
        }
    };
    let kind = if machine.virtual_machine {
        " (virtual machine)"
    } else {
        ""
    };
    text + &format!(
        "`cargo xtask bench --with all` repeats them. `docs/measurements.json` has \
         every window.\n\n\
         - {}, {commit}\n\
         - {}, {} cores, {:.1} GiB{kind}; {:.0} % busy with something else before the run\n\
         - load by {}, on the same cores as the servers\n",
        report.date,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.busy_percent,
        report.generator,
    )
}

fn goals(report: &Report) -> String {
    let mut text = String::from("## Goals\n\n| what | goal | measured | |\n|---|---|---|---|\n");
    for goal in goals::judge(report) {
        let verdict = match goal.verdict {
            Verdict::Reached => "reached",
            Verdict::NotReached => "**not reached**",
            Verdict::Open => "open",
        };
        row(&mut text, [&goal.what, goal.goal, &goal.measured, verdict]);
    }
    text
}

fn contest(contest: &Contest) -> String {
    let mut text = format!("## {}\n\n", title(contest.workload));
    for missing in &contest.missing {
        let _ = writeln!(
            text,
            "- {} is missing: {}",
            missing.kind.name(),
            line(&missing.reason)
        );
    }
    let unsettled = contest
        .entries
        .iter()
        .filter(|entry| entry.outcome == Outcome::Unsettled);
    let unsettled: Vec<String> = unsettled.map(Entry::shown).collect();
    if !unsettled.is_empty() {
        let _ = writeln!(
            text,
            "- the windows never came to lie together: {}",
            unsettled.join("; ")
        );
    }
    for entry in &contest.entries {
        if let Outcome::Failed(reason) = &entry.outcome {
            let _ = writeln!(text, "- {} failed: {}", entry.shown(), line(reason));
        }
    }
    if !text.ends_with("\n\n") {
        text.push('\n');
    }
    text += "| at once | server | tensors | requests/s | × Dunlin | p50 ms | p99 ms | p99.9 ms \
             | CPU, µs a request |\n|--:|---|---|--:|--:|--:|--:|--:|--:|\n";
    for entry in &contest.entries {
        contestant(&mut text, contest, entry);
    }
    text.push('\n');
    for limit in &contest.in_process {
        let number = |number: fn(&Answers) -> f64| limit.spread(number);
        let _ = writeln!(
            text,
            "- In process before the servers at {} at once, {}: {} runs/s, p50 {} µs.",
            limit.connections,
            limit.name,
            spread(number(|answers| answers.per_second), thousands),
            spread(number(|answers| answers.p50_us), tenths),
        );
    }
    text
}

fn title(workload: Workload) -> &'static str {
    match workload {
        Workload::Digits => "digits",
        Workload::ResNet18 => "ResNet-18",
        Workload::Encoder => "An encoder of 6 layers",
    }
}

fn contestant(text: &mut String, contest: &Contest, entry: &Entry) {
    let Some(per_second) = entry.spread(Window::per_second) else {
        return;
    };
    let dunlin = contest
        .entry(
            Kind::Dunlin(Setup::OnnxRuntime),
            entry.road,
            entry.connections,
        )
        .and_then(|entry| entry.spread(Window::per_second));
    let share = dunlin.map_or_else(String::new, |dunlin| {
        format!("{:.3}", per_second.median / dunlin.median)
    });
    let cell = |number: fn(&Window) -> f64, written: fn(f64) -> String| {
        entry
            .spread(number)
            .map_or_else(String::new, |found| spread(found, written))
    };
    row(
        text,
        [
            entry.connections.to_string(),
            entry.kind.name(),
            match (entry.kind.infers(), entry.road) {
                (false, _) => "none",
                (true, Road::Json) => "JSON",
                (true, Road::Binary) => "binary",
            }
            .to_owned(),
            spread(per_second, thousands),
            share,
            cell(|window| window.answers.p50_us / 1e3, hundredths),
            cell(|window| window.answers.p99_us / 1e3, hundredths),
            cell(|window| window.answers.p999_us / 1e3, hundredths),
            cell(|window| window.cpu_us, tenths),
        ],
    );
}

impl Entry {
    fn shown(&self) -> String {
        format!(
            "{} at {}, {:?}",
            self.kind.name(),
            self.connections,
            self.road
        )
    }
}

fn alone(report: &Report) -> String {
    let mut text = format!(
        "## A node's memory and start\n\n\
         Resident memory in MiB, {} s after the last request; pages of files are shared with the \
         page cache.\n\n\
         | node | resident | anonymous | of files |\n|---|--:|--:|--:|\n",
        report.plan.quiet.as_secs(),
    );
    for Lone {
        engines, memory, ..
    } in &report.alone
    {
        for (when, memory) in [
            ("idle, nothing deployed", memory.empty),
            (
                "idle, digits just deployed (it has compiled it)",
                memory.deployed,
            ),
            ("idle, started with digits deployed", memory.restarted),
        ] {
            let when = format!("{}: {when}", engines.name());
            row(&mut text, cells(when, memory));
        }
    }
    text += "\n| from | to | ms |\n|---|---|--:|\n";
    for Lone { engines, start, .. } in &report.alone {
        let name = engines.name();
        for (from, to, took) in [
            (
                "start of the process, digits deployed and compiled",
                "ready",
                start.ready_ms,
            ),
            (
                "start of the process, digits deployed and compiled",
                "first prediction",
                start.prediction_ms,
            ),
            (
                "upload of digits, nothing compiled",
                "live",
                Spread::of([start.deploy_ms]),
            ),
        ] {
            row(
                &mut text,
                [
                    format!("{name}: {from}"),
                    to.to_owned(),
                    spread(took, tenths),
                ],
            );
        }
    }
    let _ = write!(
        text,
        "\n{} starts; the files are in the page cache.\n",
        report.plan.starts,
    );
    text
}

fn cells(when: String, memory: Memory) -> Vec<String> {
    let numbers = [memory.resident_mib, memory.anonymous_mib, memory.file_mib];
    std::iter::once(when).chain(numbers.map(tenths)).collect()
}

fn servers(report: &Report) -> String {
    let mut text = String::from(
        "## The other servers' memory and start\n\n\
         With digits loaded and one question answered. All of a server's processes together; in the \
         proportional column a page that several of them share counts as a part for each.\n\n\
         | server | processes | resident MiB | proportional MiB | after the load | first answer, ms \
         |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for idle in &report.digits.idle {
        row(
            &mut text,
            [
                idle.kind.name(),
                idle.memory.processes.to_string(),
                tenths(idle.memory.resident_mib),
                tenths(idle.memory.proportional_mib),
                tenths(idle.memory_after.resident_mib),
                idle.first_answer_ms
                    .map_or_else(String::new, |took| spread(took, thousands)),
            ],
        );
    }
    text
}

fn method(report: &Report) -> String {
    let plan = &report.plan;
    format!(
        "## How\n\n\
         Servers are processes that stay up during a contest and are asked in turns: {:.1} s of \
         warm-up, then a window of {} s that counts, of {} s for the large models, and a wait until the server has nothing left to \
         do. A server has windows, {} at most, until the last {IN_A_ROW} lie within {:.0} % of each \
         other; each number is the median of those, in brackets the least and the greatest. Every \
         answer must be a 200, and before each window one is compared with what the model is known to \
         say. In process an engine runs right before the servers at each number of connections, of which \
         Dunlin with binary tensors is the first; the goal is about the middle of the windows' ratios to \
         those.\n\n\
         All load the same file, into ONNX Runtime of the same version but where it says tract, with one \
         thread for a run. Dunlin has the defaults of `dunlin serve`, its metrics and its log; digits is \
         deployed as it is shipped, with `max_batch_size: 32`, so that calls that wait share a run but \
         where it says otherwise, while no other server has batches; and for \
         ResNet-18 and the encoder an `instance_group` of as many as there are cores. hyper has the node's settings \
         (HTTP/1.1, TCP_NODELAY, as many threads) and does nothing else; with ONNX Runtime it is one function \
         that calls the node's engine, `host/sandbox/examples/native_server.rs`: the same answers without \
         Wasm, deployments, limits, batches, metrics or logs. The Python \
         servers are the small programs in `tests/python/bench`; FastAPI runs under uvicorn with uvloop \
         and httptools, its handler of digits on the event loop, which is the fast way for so short a run, and in a row of \
         its own in the thread pool, which its documentation advises for what blocks; those of the large \
         models in the thread pool. Dunlin, hyper and this program are built with `--profile dist`. \"binary\" is the Open Inference Protocol's for Dunlin and the tensor's bytes alone \
         for FastAPI; the others have no such road. `wasmtime serve` runs with the pooling allocator and \
         reuses an instance 128 times, or not at all.\n\n\
         The sandbox's part is taken in one process on one thread, in turns of 20 ms: the predictor of \
         digits, warm and fresh, and the same JSON, model and softmax natively; each number is the \
         middle of its calls. A deployment without an instance is one whose `idle_timeout` has passed. \
         The poisoned request has a word that is not in the encoder's table, so that the engine fails. \
         Overload lasts {:.0} s: an open loop of this program sends at a fixed rate over as many \
         connections as that takes, and counts latency from when a request was due; meanwhile digits on \
         the same node is asked 200 times a second. What the node answers without overload is the mean of \
         a window before and one after. The bound of memory is the default of \
         `body_memory_max` and the deployments' `limits.memory` × `instances.max`, above what the \
         node had.\n\n\
         The load generator shares the cores with the server, which draws the ratios of requests/s \
         towards 1; processor time of the server alone has no such share in it.\n",
        plan.warm_up.as_secs_f64(),
        plan.window.as_secs(),
        plan.model_window.as_secs(),
        plan.windows_max,
        CLOSE * 100.0,
        plan.overload.as_secs_f64(),
    )
}

/// What goes into one line of a list.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn row<C: AsRef<str>>(text: &mut String, cells: impl IntoIterator<Item = C>) {
    text.push('|');
    for cell in cells {
        let _ = write!(text, " {} |", cell.as_ref());
    }
    text.push('\n');
}

fn spread(spread: Spread, written: impl Fn(f64) -> String) -> String {
    let Spread { median, min, max } = spread;
    if min == max {
        return written(median);
    }
    format!("{} ({}–{})", written(median), written(min), written(max))
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

/// `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_three() {
        for (value, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (77_600.4, "77,600"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }

    #[test]
    fn one_value_has_no_bounds() {
        let once = Spread::of([2.0]);
        assert_eq!(spread(once, tenths), "2.0");
        let thrice = Spread::of([2.0, 1.0, 4.0]);
        assert_eq!(spread(thrice, tenths), "2.0 (1.0–4.0)");
    }
}
