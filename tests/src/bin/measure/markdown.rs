//! `docs/measurements.md`.

use std::fmt::Write as _;

use crate::{
    contest::{CONNECTIONS, Contestant, Window},
    goals::{self, Verdict},
    machine::Commit,
    models::{Models, Round},
    report::Report,
    server::Memory,
    spread::Spread,
};

pub(crate) fn render(report: &Report) -> String {
    let sections = [
        head(report),
        goals(report),
        ratios(report),
        absolute(report),
        model(report),
        models(report),
        alone(report),
        method(report),
    ];
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
        text += "**A short run (`--short`): one round of short windows.**\n\n";
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
        "Written by `cargo xtask bench`; run it again to repeat them. `docs/measurements.json` has \
         every window.\n\n\
         - {}, {commit}\n\
         - {}, {} cores, {:.1} GiB{kind}; {:.0} % busy with something else before the run\n\
         - load by {}, on the same cores as the servers; {} threads for each server\n\
         - each number is the median of {}; in brackets the least and the greatest\n",
        report.date,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.busy_percent,
        report.generator,
        report.contest.threads,
        match report.plan.rounds {
            1 => "one round".to_owned(),
            rounds => format!("{rounds} rounds"),
        },
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
        row(&mut text, [goal.what, goal.goal, &goal.measured, verdict]);
    }
    text
}

fn ratios(report: &Report) -> String {
    let mut text = String::from(
        "## digits against hyper\n\n\
         The whole way — HTTP, sandbox, guest, model — divided by hyper that answers \"hello\", and by \
         hyper that parses the same JSON with serde_json and calls no model. Each ratio is of \
         neighbouring windows of one round.\n\n\
         | connections | requests/s, of hello | of serde_json | p50, × hello | × serde_json \
         | p99, × hello | × serde_json |\n|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let numbers: [fn(&Window) -> f64; 3] = [
        |window| window.answers.per_second,
        |window| window.answers.p50_us,
        |window| window.answers.p99_us,
    ];
    for connections in CONNECTIONS {
        let mut cells = vec![connections.to_string()];
        for number in numbers {
            for other in [Contestant::Hello, Contestant::ParseJson] {
                let ratio = report.contest.ratio(other, connections, number);
                cells.push(spread(ratio, |value| format!("{value:.2}")));
            }
        }
        row(&mut text, cells);
    }
    text
}

fn absolute(report: &Report) -> String {
    let mut text = String::from(
        "## The same in numbers\n\n\
         | connections | server | requests/s | p50 µs | p99 µs | server's processor time, µs a request \
         |\n|--:|---|--:|--:|--:|--:|\n",
    );
    for connections in CONNECTIONS {
        for contestant in Contestant::ALL {
            let cell = |number: fn(&Window) -> f64, written: fn(f64) -> String| {
                spread(
                    report.contest.spread(contestant, connections, number),
                    written,
                )
            };
            row(
                &mut text,
                [
                    connections.to_string(),
                    contestant.name().to_owned(),
                    cell(|window| window.answers.per_second, thousands),
                    cell(|window| window.answers.p50_us, thousands),
                    cell(|window| window.answers.p99_us, thousands),
                    cell(|window| window.cpu_us, tenths),
                ],
            );
        }
    }
    text
}

fn model(report: &Report) -> String {
    let contest = &report.contest;
    let call = contest.call_us();
    let mut text = format!(
        "## digits against tract in process\n\n\
         One call of the same model through `Model::infer_blocking` on one thread takes {} µs: {} \
         calls/s.\n\n\
         | connections | requests/s ÷ calls/s of one thread | ÷ calls/s of {} threads \
         | p50 ÷ one call | the model's part of the processor time |\n|--:|--:|--:|--:|--:|\n",
        spread(call, tenths),
        thousands(1e6 / call.median),
        contest.threads,
    );
    #[expect(clippy::cast_precision_loss, reason = "threads are few")]
    let threads = contest.threads as f64;
    for connections in CONNECTIONS {
        let digits = |number: fn(&Window) -> f64| {
            let digits = contest.spread(Contestant::Digits, connections, number);
            digits.median
        };
        let of_one = digits(|window| window.answers.per_second) * call.median / 1e6;
        row(
            &mut text,
            [
                connections.to_string(),
                format!("{of_one:.2}"),
                format!("{:.2}", of_one / threads),
                format!(
                    "{:.1}",
                    digits(|window| window.answers.p50_us) / call.median
                ),
                format!(
                    "{:.0} %",
                    100.0 * call.median / digits(|window| window.cpu_us)
                ),
            ],
        );
    }
    text
}

fn models(report: &Report) -> String {
    let mut text = String::from("## Models of tens of milliseconds\n\n");
    let contests = match &report.models {
        Models::Measured(contests) => contests,
        Models::Skipped(reason) => return text + &format!("Not measured: {reason}.\n"),
    };
    text += "One row of binary tensors a request, through HTTP, a guest that hands them to `wasi:nn`, and \
             back; beside ONNX Runtime's own Python binding in process, which runs as many at once \
             with as many threads. The two take turns within each round.\n\n\
             | model | runs at once | connections | in process, runs/s | node, requests/s \
             | node ÷ in process | in process, p50 ms | node, p50 ms |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|\n";
    for contest in contests {
        let number = |number: fn(&Round) -> f64| Spread::of(contest.rounds.iter().map(number));
        row(
            &mut text,
            [
                contest.model.to_owned(),
                contest.workers.to_string(),
                contest.connections.to_string(),
                spread(number(|round| round.in_process.per_second), tenths),
                spread(number(|round| round.node.per_second), tenths),
                spread(contest.share(), |value| format!("{value:.3}")),
                spread(number(|round| round.in_process.p50_us / 1e3), tenths),
                spread(number(|round| round.node.p50_us / 1e3), tenths),
            ],
        );
    }
    text
}

fn alone(report: &Report) -> String {
    let mut text = String::from(
        "## Memory and start\n\n\
         Resident memory in MiB; pages of files are shared with the page cache.\n\n\
         | node | resident | anonymous | of files |\n|---|--:|--:|--:|\n",
    );
    let memory = &report.memory;
    for (when, memory) in [
        ("idle, nothing deployed", memory.empty),
        (
            "idle, digits just deployed (it has compiled it)",
            memory.deployed,
        ),
        ("idle, started with digits deployed", memory.restarted),
        ("after the load", report.contest.memory_after),
    ] {
        let Memory {
            resident_mib,
            anonymous_mib,
            file_mib,
        } = memory;
        let [resident, anonymous, file] = [resident_mib, anonymous_mib, file_mib].map(tenths);
        row(&mut text, [when, &resident, &anonymous, &file]);
    }
    let start = &report.start;
    let _ = write!(
        text,
        "\n| from | to | ms |\n|---|---|--:|\n\
         | start of the process, digits deployed and compiled | ready | {} |\n\
         | start of the process, digits deployed and compiled | first prediction | {} |\n\
         | upload of digits, nothing compiled | live | {} |\n\n\
         {} starts; the files are in the page cache.\n",
        spread(start.ready_ms, tenths),
        spread(start.prediction_ms, tenths),
        tenths(start.deploy_ms),
        report.plan.starts,
    );
    text
}

fn method(report: &Report) -> String {
    let plan = &report.plan;
    format!(
        "## How\n\n\
         The servers are three processes that stay up all the time. Each round takes 1, 8 and 32 \
         connections, and for each the servers in turn: {:.1} s of warm-up, {:.1} s that count. Every \
         answer must be a 200, and before each window one answer is compared with what the model is \
         known to see; anything else ends the benchmark. hyper has the node's settings (HTTP/1.1, \
         TCP_NODELAY, the same timeouts, as many threads) and does nothing else; the node has the \
         defaults of `dunlin serve`, its metrics and its log. \"hello\" is asked with GET and no \
         body, the others with POST and the 8×8 pixels of one held-out digit.\n\n\
         The load generator shares the cores with the server, which draws the ratios of requests/s \
         towards 1; processor time of the server alone has no such share in it.\n",
        plan.warm_up.as_secs_f64(),
        plan.window.as_secs_f64(),
    )
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
