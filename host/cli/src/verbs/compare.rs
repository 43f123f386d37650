//! `dunlin compare`: which way from the trained model to an answer is best, measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::import::argument;
use crate::cli::{Context, blocking, folder};
use crate::compare::{
    self, Cells, Export, Original, Plan, Report, Route, Row, Subject, Tolerances,
};
use crate::exit::{Exit, Failure};
use crate::paths;
use crate::progress::Steps;
use crate::project::is_deployment_file;
use crate::table::{Align, Table};

const DURATION_MIN: Duration = Duration::from_millis(100);
const DURATION_MAX: Duration = Duration::from_secs(600);

/// Measure a predictor on every route: ONNX on ONNX Runtime and on tract, TorchScript on libtorch
///
/// The predictor is built once. For each route a node of its own is started on this machine, with
/// the same predictor and the model exported that way; it is sent the golden samples, then the
/// recorded requests, then these again under load. The exports are the files beside the model's
/// with the same stem (digits.onnx, digits.pt), as 'dunlin import --via both' writes them, or those
/// of --model. The nodes, and all that they wrote, are gone afterwards.
///
/// The original module runs too where its checkpoint and its class are known: in your own Python,
/// alone, without HTTP and without the predictor ('no-http'). 'dunlin import' writes down where it
/// was.
///
/// Columns: 'difference' and 'relative' are the largest from the golden samples, which the original
/// module made ('relative' leaves out values below the tolerance); 'labels' are rows whose largest
/// output is the same; 'answers' are the predictor's, equal but for floats within the tolerance, to
/// those of the route that is nearest to the original; 'load' goes from the upload to the first
/// node that could answer: the compiling of the predictor and the opening of native libraries are
/// part of it; 'memory' is the node's resident memory after the run.
///
/// The best route answers most requests a second, within the tolerance; of routes within 5 % of it
/// the one with the least memory. Exit code 9: a route differs by more than the tolerance.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin compare predictors/digits
  dunlin compare predictors/digits --checkpoint digits.ckpt --module train.py:DigitsModel
  dunlin compare digits.dunlin.tar --model digits=exports/digits.pt --requests recorded/
  dunlin compare --requests queries.jsonl --duration 10s --concurrency 4 --html routes.html
  dunlin compare -o json | jq -r .best.route")]
pub(crate) struct Args {
    /// A folder with dunlin.yaml, a deployment file, or a package; without it the current folder
    #[arg(value_name = "DIR|FILE|PACKAGE")]
    what: Option<PathBuf>,

    /// A request to send, or a folder of them; a .jsonl file has one in each line. May be given
    /// again [default: samples/ and sample.json beside dunlin.yaml; for a deployment without a
    /// predictor its golden samples]
    #[arg(long, value_name = "FILE|FOLDER", num_args = 1..)]
    requests: Vec<PathBuf>,

    /// Another export of a model; may be given again
    #[arg(long, value_name = "NAME=PATH")]
    model: Vec<Export>,

    /// The Lightning checkpoint that the model was exported from: its module is asked and timed too,
    /// in Python [default: the one that 'dunlin import' exported]
    #[arg(long, value_name = "FILE.ckpt")]
    checkpoint: Option<PathBuf>,

    /// The class of the checkpoint, as FILE:CLASS or PACKAGE.MODULE:CLASS [default: that of the
    /// import]
    #[arg(long, value_name = "FILE:CLASS")]
    module: Option<String>,

    /// The Python that trained the model [default: that of the import, or of the active
    /// environment, or python3]
    #[arg(long, value_name = "EXE")]
    python: Option<PathBuf>,

    /// An argument of the class's constructor that the checkpoint does not hold
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = argument)]
    arguments: Vec<(String, Value)>,

    /// Load a checkpoint that holds more than weights, though loading it runs the code it names
    #[arg(long)]
    trust: bool,

    /// Leave the original module out, and start no Python
    #[arg(long, conflicts_with_all = ["checkpoint", "module", "python", "arguments", "trust"])]
    no_original: bool,

    /// How long each route is timed
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    duration: Duration,

    /// How many requests are under way at once while a route is timed
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,

    /// How far an output may be from the original's, absolute and relative [default: that of the
    /// model in dunlin.yaml, which is 1e-4 where nothing is written]
    #[arg(long, value_name = "X", value_parser = parse_tolerance)]
    tolerance: Option<f64>,

    /// The configuration of the nodes: threads, limits, where native backends are
    #[arg(short, long, value_name = "node.yaml")]
    config: Option<PathBuf>,

    /// Write a page with the table and charts to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // Ctrl-C is the caller's. Where something else ends us the nodes must end too.
    let ended = |kind| {
        signal(kind).map_err(|error| Failure::caused_by(Exit::Failed, "cannot start", &error))
    };
    let (mut terminate, mut hang_up) = (
        ended(SignalKind::terminate())?,
        ended(SignalKind::hangup())?,
    );
    let report = tokio::select! {
        report = measure(&args, context) => report?,
        _ = terminate.recv() => return Err(Failure::interrupted()),
        _ = hang_up.recv() => return Err(Failure::interrupted()),
    };
    if let Some(path) = &args.html {
        write_page(path, &report)?;
    }
    print(&report, &args, context)?;
    outcome(&report, context)
}

async fn measure(args: &Args, context: &Context) -> Result<Report, Failure> {
    let what = folder(args.what.clone());
    let beside = match what.is_dir() {
        true => what.clone(),
        false => what.parent().map(PathBuf::from).unwrap_or_default(),
    };
    // What is found beside a package need not be its own: requests are taken from a folder only.
    let is_package = !what.is_dir() && !is_deployment_file(&what);
    let recorded = match args.requests.is_empty() && is_package {
        true => compare::Recorded::default(),
        false => compare::recorded(&args.requests, &beside)?,
    };
    let steps = Steps::new(context.output);
    let exports = args.model.clone();
    let subject = blocking(move || {
        let subject = Subject::open(&what, &exports, &mut |line| steps.say(line))?;
        steps.done();
        Ok(subject)
    })
    .await?;
    let plan = Plan {
        tolerances: Tolerances::new(args.tolerance, &subject.project.deployment),
        duration: args.duration,
        concurrency: args.concurrency,
        original: original(args),
        config: args.config.clone(),
    };
    compare::compare(Arc::new(subject), recorded, &plan, context).await
}

fn original(args: &Args) -> Option<Original> {
    (!args.no_original).then(|| Original {
        checkpoint: args.checkpoint.clone(),
        module: args.module.clone(),
        python: args.python.clone(),
        arguments: args.arguments.iter().cloned().collect(),
        trust: args.trust,
    })
}

fn print(report: &Report, args: &Args, context: &Context) -> Result<(), Failure> {
    if context.output.json() {
        return context.output.document(report);
    }
    let style = context.output.style();
    let mut table = Table::new(
        style,
        &[
            ("route", Align::Left),
            ("difference", Align::Right),
            ("relative", Align::Right),
            ("labels", Align::Right),
            ("answers", Align::Right),
            ("p50", Align::Right),
            ("p99", Align::Right),
            ("req/s", Align::Right),
            ("load", Align::Right),
            ("memory", Align::Right),
            ("note", Align::Left),
        ],
    );
    for row in &report.routes {
        table.row(cells(report, row));
    }
    let mut text = table.to_string();
    // Reasons are too long for a column.
    for row in report.routes.iter().filter(|row| !row.remark().is_empty()) {
        text.push_str(&format!("\n{}: {}\n", row.route.name(), row.remark()));
    }
    let verdict = compare::verdict(report);
    let verdict = match report.within_tolerance {
        true => style.green(&verdict),
        false => style.red(&verdict),
    };
    text.push_str(&format!("\n{verdict}\n"));
    context.output.text(&text)?;
    for line in compare::method(report) {
        context.output.say(&line);
    }
    if let Some(path) = &args.html {
        context.output.say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn cells(report: &Report, row: &Row) -> [String; 11] {
    let name = row.route.name().to_owned();
    let Some(measured) = row.measured() else {
        let mut cells: [String; 11] = Default::default();
        cells[0] = name;
        cells[10] = row.state.word().to_owned();
        return cells;
    };
    let shown = Cells::of(measured);
    let best = report
        .best
        .as_ref()
        .is_some_and(|best| best.route == row.route);
    let word = match (measured.is_within_tolerance(), &measured.problem) {
        (_, Some(_)) => "failed",
        (false, _) => "too-far",
        _ if best => "best",
        _ if row.route == Route::Original => "no-http",
        _ => "",
    };
    [
        name,
        shown.difference,
        shown.relative,
        shown.labels,
        shown.answers,
        shown.p50,
        shown.p99,
        shown.rate,
        shown.load,
        shown.memory,
        word.to_owned(),
    ]
}

/// Success where every route that ran is near enough, and at least one ran.
fn outcome(report: &Report, context: &Context) -> Result<(), Failure> {
    let failure = match report.routes.iter().find(|row| !row.is_within_tolerance()) {
        Some(row) => {
            let worst = row.measured().and_then(|measured| measured.worst());
            let name = row.route.name();
            let (message, next) = match row.route {
                Route::Original => (
                    "answers otherwise than the golden samples say",
                    "name the checkpoint that they were made with, or import it again",
                ),
                _ => (
                    "differs from the original by more than the tolerance",
                    "export the model again, or allow what does not matter: --tolerance 1e-3",
                ),
            };
            Failure::new(Exit::Differs, format!("{name} {message}"))
                .because(worst.unwrap_or("an output is outside"))
                .next(next)
        }
        None if report.routes.iter().all(|row| row.measured().is_none()) => {
            let failure = Failure::new(Exit::Failed, "no route could be measured");
            let remarks = report.routes.iter();
            remarks.fold(failure, |failure, row| {
                failure.because(format!("{}: {}", row.route.name(), row.remark()))
            })
        }
        None => return Ok(()),
    };
    // The JSON document was written, and tells it too.
    Err(match context.output.json() {
        true => failure.documented(),
        false => failure,
    })
}

fn write_page(path: &PathBuf, report: &Report) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        let message = format!("cannot write {}", path.display());
        Failure::caused_by(Exit::Failed, message, error).next("give another file: --html FILE")
    };
    let file = paths::temporary_beside(path).map_err(|error| failed(&error))?;
    let page = compare::page(report, Timestamp::now());
    std::fs::write(file.path(), page).map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    Ok(())
}

/// `3s`, `500ms`, `2m`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => f64::NAN,
    };
    let duration = number.parse::<f64>().ok().map(|number| number * seconds);
    let duration = duration.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match duration {
        Some(duration) if (DURATION_MIN..=DURATION_MAX).contains(&duration) => Ok(duration),
        Some(_) => Err("write a time from 100ms to 10m".to_owned()),
        None => Err("write a time such as 3s, 500ms or 1m".to_owned()),
    }
}

fn parse_tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(tolerance) if (0.0..=1e6).contains(&tolerance) => Ok(tolerance),
        _ => Err("write a number from 0 on, such as 1e-4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_tolerances_are_read() {
        for (text, ms) in [("3s", 3000), ("500ms", 500), ("1m", 60_000), ("0.5", 500)] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "s", "3h", "-1s", "1ms", "11m", "NaN"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_tolerance("1e-3"), Ok(1e-3));
        for text in ["-1", "NaN", "x", "inf"] {
            assert!(parse_tolerance(text).is_err(), "{text}");
        }
    }
}
