//! `dunlin compare` as a user runs it: digits, from its package, for a short time.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use dunlin_tests::{Cli, Ran, Variant, backends, lightning, package, repository, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ROUTES: [&str; 3] = ["onnx/onnxruntime", "onnx/tract", "torchscript/libtorch"];
const ORIGINAL: &str = "original/python";

fn digits_folder(path: &str) -> PathBuf {
    repository().join("predictors/digits").join(path)
}

/// The arguments to compare a package of digits with, for a short time unless `more` says for how long.
fn arguments(package: &Path, more: &[&str]) -> Vec<OsString> {
    let mut export = OsString::from("digits=");
    export.push(digits_folder("models/digits.pt"));
    let mut arguments: Vec<OsString> = vec!["compare".into(), package.into()];
    arguments.extend(["--model".into(), export]);
    if !more.contains(&"--duration") {
        arguments.extend(["--duration", "200ms"].map(OsString::from));
    }
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

/// Compares with the backends in a folder, or with none.
fn compare(cli: &Cli, folder: Option<&Path>, arguments: &[OsString]) -> Ran {
    let mut command = cli.command();
    if let Some(folder) = folder {
        command.env("DUNLIN_BACKENDS", folder);
        command.env("HOME", cli.home());
        command.env_remove("XDG_CACHE_HOME");
        command.env_remove("ORT_DISABLE_TELEMETRY");
    }
    let output = command.args(arguments).output();
    output.expect("dunlin can be run").into()
}

fn samples() -> OsString {
    digits_folder("samples").into_os_string()
}

fn with_samples(more: &[&str]) -> Vec<OsString> {
    let mut arguments = arguments(&package("digits"), more);
    arguments.extend(["--requests".into(), samples()]);
    arguments
}

fn row<'a>(report: &'a Value, route: &str) -> &'a Value {
    let rows = report["routes"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["route"] == route);
    row.expect("every route has a row")
}

/// A row of a node with all its numbers, near to the original.
fn check_ran(row: &Value) {
    check_numbers(row);
    assert_eq!(row["labels"]["of"], 32, "every golden row");
    assert_eq!(row["answers"]["agree"], row["answers"]["of"], "{row}");
    assert_eq!(row["answers"]["of"], 2, "every sample");
}

/// What every row has that ran.
fn check_numbers(row: &Value) {
    assert_eq!(row["status"], "ran", "{row}");
    let difference = row["difference"]["absolute"].as_f64().expect("a number");
    assert!((0.0..=1e-4).contains(&difference), "{row}");
    assert_eq!(row["difference"]["outside"], 0, "{row}");
    assert_eq!(row["labels"]["agree"], row["labels"]["of"], "{row}");
    let speed = &row["speed"];
    let number = |key: &str| speed[key].as_f64().expect("a number");
    assert!(
        number("requests") >= 1.0 && number("requests_per_second") > 0.0,
        "{row}"
    );
    assert!(
        0.0 < number("p50_ms") && number("p50_ms") <= number("p99_ms"),
        "{row}"
    );
    assert!(row["load_ms"].as_f64().expect("a number") > 0.0, "{row}");
    assert!(
        row["resident_bytes"].as_u64().expect("a number") > 1 << 20,
        "{row}"
    );
    assert_eq!(row["problem"], Value::Null);
}

#[test]
fn digits_without_native_backends_says_how_to_have_them() {
    let cli = Cli::new();
    let report = compare(&cli, None, &with_samples(&["-o", "json"])).json(0);
    check_ran(row(&report, "onnx/tract"));
    assert_eq!(report["best"]["route"], "onnx/tract", "{report}");
    assert_eq!(report["within_tolerance"], true);
    for (route, backend) in [(ROUTES[0], "onnxruntime"), (ROUTES[2], "torchscript")] {
        let row = row(&report, route);
        assert_eq!(row["status"], "not_installed", "{row}");
        let reason = row["reason"].as_str().expect("a text");
        assert!(
            reason.contains(&format!("dunlin backend install {backend}")),
            "{reason}"
        );
    }

    let original = row(&report, ORIGINAL);
    assert_eq!(original["status"], "not_tried", "{original}");
    let reason = original["reason"].as_str().expect("a text");
    assert!(reason.contains("--checkpoint digits.ckpt"), "{reason}");

    let shown = compare(&cli, None, &with_samples(&[]));
    let text = shown.exit(0);
    for route in ROUTES {
        assert!(
            text.lines().any(|line| line.starts_with(route)),
            "{route}: {text}"
        );
    }
    assert!(
        text.contains("not-installed") && text.contains("best: onnx/tract"),
        "{text}"
    );
    assert!(
        shown.stderr.contains("timing for 0.2 s"),
        "progress: {}",
        shown.stderr
    );
}

#[test]
fn digits_by_all_three_routes() {
    let Some(folder) = backends(&["onnxruntime", "torchscript"]) else {
        return;
    };
    let cli = Cli::new();
    let page = cli.path("routes.html");
    let arguments = with_samples(&["-o", "json", "--html", &page.to_string_lossy()]);
    let report = compare(&cli, Some(&folder), &arguments).json(0);
    for route in ROUTES {
        check_ran(row(&report, route));
    }
    let best = report["best"]["route"].as_str().expect("one is best");
    assert!(ROUTES.contains(&best), "{best}");
    let page = fs::read_to_string(page).expect("the page was written");
    check_well_formed(&page);
    assert_eq!(page.matches("<svg").count(), 5, "a chart for each measure");
    let told = cli.path(".cache/Microsoft");
    assert!(
        !told.exists(),
        "ONNX Runtime notes down what it is used for"
    );
}

#[test]
fn the_page_stands_alone() {
    let cli = Cli::new();
    let page = cli.path("routes.html");
    let arguments = with_samples(&["--html", &page.to_string_lossy()]);
    let _ = compare(&cli, None, &arguments).exit(0);
    let page = fs::read_to_string(page).expect("the page was written");
    check_well_formed(&page);
    for route in ROUTES {
        assert!(page.contains(route), "{route}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    for elsewhere in ["<script", "src=", "href=", "url(", "@import", "http"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}

/// Every element is closed in its order, and every attribute is quoted.
fn check_well_formed(page: &str) {
    let rest = page.strip_prefix("<!doctype html>").expect("it is HTML");
    let mut open = Vec::new();
    for tag in rest.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "an escaped sign: {text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes: {tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in its order");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag has a name"));
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

/// Digits with other weights in its ONNX file: it loads, and answers otherwise.
fn spoiled() -> Variant {
    Variant::of_folder("digits", |folder| {
        let path = folder.join("models/digits.onnx");
        let mut bytes = fs::read(&path).expect("digits has a model");
        let middle = bytes.len() / 2;
        // 0.747 in whatever way the bytes are cut into floats.
        bytes[middle..middle + 256].fill(0x3f);
        fs::write(path, bytes).expect("the folder is the test's");
    })
}

#[test]
fn a_route_beyond_the_tolerance_fails_and_names_the_worst() {
    let cli = Cli::new();
    let spoiled = spoiled();
    let ran = compare(&cli, None, &arguments(&spoiled.path(), &["-o", "json"]));
    let report = ran.json(9);
    assert_eq!(report["within_tolerance"], false);
    assert_eq!(report["best"], Value::Null);
    let row = row(&report, "onnx/tract");
    assert!(
        row["difference"]["absolute"].as_f64().expect("a number") > 1e-4,
        "{row}"
    );
    let worst = row["difference"]["worst"].as_str().expect("a text");
    assert!(worst.starts_with("output logits["), "{worst}");
    assert!(
        ran.stderr.contains("onnx/tract differs from the original"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains(worst), "{}", ran.stderr);

    // What is allowed is no failure.
    let allowed = arguments(&spoiled.path(), &["--tolerance", "1000"]);
    let _ = compare(&cli, None, &allowed).exit(0);
}

#[test]
fn a_request_that_is_refused_is_named() {
    let cli = Cli::new();
    fs::write(cli.path("wrong.json"), "{\"pixels\": 1}").expect("the home is the test's");
    let given = arguments(&package("digits"), &["--requests", "wrong.json"]);
    let refused = compare(&cli, None, &given);
    let _ = refused.exit(4);
    assert!(
        refused.stderr.contains("wrong.json is answered with 400"),
        "{}",
        refused.stderr
    );

    let too_long = compare(&cli, None, &with_samples(&["--duration", "1h"]));
    let _ = too_long.exit(2);
    assert!(
        too_long.stderr.contains("a time such as 3s"),
        "{}",
        too_long.stderr
    );
}

/// The checkpoint and the class of digits, for a Python.
fn original_of_digits(python: &Path) -> [String; 6] {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    [
        "--checkpoint".to_owned(),
        text(&digits_folder("models/digits.ckpt")),
        "--module".to_owned(),
        text(&digits_folder("train.py:DigitsModel")),
        "--python".to_owned(),
        text(python),
    ]
}

#[test]
fn the_original_module_is_asked_in_python() {
    let Some(python) = lightning() else {
        return;
    };
    let cli = Cli::new();
    let mut arguments = with_samples(&[]);
    arguments.extend(original_of_digits(&python).map(OsString::from));
    let shown = compare(&cli, None, &arguments);
    let text = shown.exit(0);
    let line = text.lines().find(|line| line.starts_with(ORIGINAL));
    let line = line.expect("it has a row");
    assert!(
        line.contains("32/32") && line.ends_with("no-http"),
        "{text}"
    );
    assert!(
        shown.stderr.contains("single golden rows"),
        "how it was timed: {}",
        shown.stderr
    );

    arguments.extend(["-o".into(), "json".into()]);
    let report = compare(&cli, None, &arguments).json(0);
    let original = row(&report, ORIGINAL);
    check_numbers(original);
    assert_eq!(original["labels"]["of"], 32, "every golden row");
    assert_eq!(original["answers"], Value::Null, "it has no predictor");
    let platform = original["platform"].as_str().expect("a text");
    assert!(platform.contains("PyTorch"), "{platform}");
    assert_eq!(
        report["best"]["route"], "onnx/tract",
        "nobody serves the original"
    );
}

#[test]
fn an_import_says_where_the_original_is() {
    let Some(python) = lightning() else {
        return;
    };
    let cli = Cli::new();
    let [_, checkpoint, more @ ..] = original_of_digits(&python);
    let imported = cli.run(
        ["import".to_owned(), checkpoint]
            .into_iter()
            .chain(more)
            .chain(["--via", "both"].map(str::to_owned)),
    );
    let _ = imported.exit(0);
    let arguments: Vec<OsString> = ["compare", "digits", "--duration", "200ms", "-o", "json"]
        .map(OsString::from)
        .into();
    let report = compare(&cli, None, &arguments).json(0);
    check_numbers(row(&report, ORIGINAL));
    check_numbers(row(&report, "onnx/tract"));

    let without: Vec<OsString> = [&arguments[..], &["--no-original".into()]].concat();
    let report = compare(&cli, None, &without).json(0);
    let routes = report["routes"].as_array().expect("a list");
    assert!(routes.iter().all(|row| row["route"] != ORIGINAL));
}

#[test]
fn an_original_that_cannot_be_run_is_told_first() {
    let cli = Cli::new();
    let missing = Path::new("/no/such/python");
    for (more, code, message) in [
        (
            original_of_digits(missing).to_vec(),
            3,
            "there is no Python /no/such/python",
        ),
        (
            original_of_digits(missing)[..2].to_vec(),
            2,
            "--module train.py:CLASS",
        ),
    ] {
        let mut arguments = with_samples(&[]);
        arguments.extend(more.into_iter().map(OsString::from));
        let refused = compare(&cli, None, &arguments);
        let _ = refused.exit(code);
        assert!(refused.stderr.contains(message), "{}", refused.stderr);
        assert!(!refused.stderr.contains("a node"), "{}", refused.stderr);
    }
}

/// Starts a comparison that goes on for long, and waits until its node runs.
fn begin(cli: &Cli, temporary: &Path) -> Child {
    fs::create_dir(temporary).expect("the home is the test's");
    let arguments = with_samples(&["--duration", "600s"]);
    let child = cli
        .command()
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dunlin can be run");
    until("a node runs", Duration::from_secs(60), || {
        (!nodes_below(temporary).is_empty()).then_some(())
    });
    child
}

/// The processes that name a folder on their command line.
fn nodes_below(folder: &Path) -> Vec<OsString> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let folder = folder.as_os_str().as_encoded_bytes();
        line.windows(folder.len()).any(|window| window == folder)
    });
    named.map(|process| process.file_name()).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_stays_of_an_interrupted_comparison() {
    for signal in [Signal::INT, Signal::TERM] {
        let cli = Cli::new();
        let temporary = cli.path("tmp");
        let mut child = begin(&cli, &temporary);
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let status = child.wait().expect("a child can be waited for");
        assert_eq!(status.code(), Some(130), "{signal:?}");
        let left = nodes_below(&temporary);
        assert!(left.is_empty(), "{signal:?}: {left:?}");
        let left = fs::read_dir(&temporary)
            .expect("the folder is the test's")
            .count();
        assert_eq!(left, 0, "{signal:?}");
    }
}
