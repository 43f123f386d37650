//! The node cases of the `onnx` package, run through the registry with each engine for ONNX.
//!
//! `DUNLIN_ONNX_CASES` names their folder, `onnx/backend/test/data/node` of the package's wheel, as of
//! onnx 1.22.0: 1,765 folders with a model, inputs and outputs each. A case passes where every output
//! has the expected datatype, shape and values; everything else is counted by what was said. What
//! passes is listed in `passed.txt`, and a case that is in the list and does not pass fails the
//! test, as do fewer passes than the engine's bound. `DUNLIN_CONFORMANCE_WRITE=1` writes the list.

#[path = "../support/mod.rs"]
mod support;

mod case;
mod compare;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dunlin_inference::{
    BackendKind, InferenceError, LoadRequest, ModelOptions, ModelSource, NamedTensors, Registry,
    one_line,
};

use case::Case;

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/passed.txt");

#[test]
fn tract_passes_what_it_passed() {
    let Some(folder) = cases_folder() else { return };
    let registry = Registry::default();
    check(&registry, BackendKind::Tract, &folder, 1186);
}

/// ONNX Runtime reads this variable when it loads a model. It refuses opsets that are newer than
/// those it was released with, 62 of the cases among them, unless this is 0. A process cannot set
/// a variable for itself while it has threads, so the test runs itself with it.
const RELEASED_OPSETS_ONLY: &str = "ALLOW_RELEASED_ONNX_OPSET_ONLY";

#[test]
fn onnxruntime_passes_what_it_passed() {
    let Some(folder) = cases_folder() else { return };
    let Some(registry) = support::registry(BackendKind::OnnxRuntime) else {
        return;
    };
    if std::env::var_os(RELEASED_OPSETS_ONLY).is_some_and(|value| value == "0") {
        return check(&registry, BackendKind::OnnxRuntime, &folder, 1457);
    }
    let program = std::env::current_exe().expect("a test is a program");
    let status = Command::new(program)
        .args([
            "--exact",
            "onnxruntime_passes_what_it_passed",
            "--nocapture",
        ])
        .env(RELEASED_OPSETS_ONLY, "0")
        .status()
        .expect("the test can run itself");
    assert!(status.success(), "{status}");
}

fn cases_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("DUNLIN_ONNX_CASES").filter(|folder| !folder.is_empty());
    match folder {
        Some(folder) => Some(folder.into()),
        None => support::skipped(
            "DUNLIN_ONNX_CASES names no folder; unpack onnx/backend/test/data/node of the wheel of \
             onnx 1.22.0 and set it to that folder",
        ),
    }
}

/// What became of a case.
enum Outcome {
    Passed,
    /// With the inputs that say how, not what, as constants of the model.
    PassedWithConstants,
    /// A clean refusal or failure, by kind.
    Refused(&'static str, String),
    Wrong(String),
}

fn check(registry: &Registry, kind: BackendKind, folder: &Path, passes_min: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime starts");
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder of the cases is readable")
        .map(|entry| entry.expect("so are its entries").file_name())
        .map(|name| name.into_string().expect("a case's name is text"))
        .collect();
    names.sort();

    let mut passed = BTreeSet::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for name in &names {
        let (count, line) = match runtime.block_on(outcome(registry, kind, &folder.join(name))) {
            Outcome::Passed => {
                passed.insert(name.clone());
                ("passed", None)
            }
            Outcome::PassedWithConstants => {
                passed.insert(name.clone());
                ("passed with constants", None)
            }
            Outcome::Refused(kind, said) => (kind, Some(said)),
            Outcome::Wrong(said) => ("WRONG ANSWER", Some(said)),
        };
        *counts.entry(count).or_default() += 1;
        lines.extend(line.map(|line| format!("{name}: {count}: {line}")));
    }
    for line in lines {
        support::say(format_args!("{}: {line}", kind.name()));
    }
    support::say(format_args!(
        "{}: {} of {} pass",
        kind.name(),
        passed.len(),
        names.len()
    ));
    for (count, cases) in &counts {
        support::say(format_args!("{}: {cases:5} {count}", kind.name()));
    }

    assert_eq!(counts.get("panicked"), None, "an engine panicked");
    assert!(passed.len() >= passes_min, "only {} pass", passed.len());
    if std::env::var_os("DUNLIN_CONFORMANCE_WRITE").is_some() {
        return write_list(kind, &passed);
    }
    let listed = listed(kind);
    let lost: Vec<&String> = listed.difference(&passed).collect();
    assert!(lost.is_empty(), "passed before: {lost:?}");
}

async fn outcome(registry: &Registry, kind: BackendKind, folder: &Path) -> Outcome {
    let case = match Case::read(folder) {
        Ok(case) => case,
        Err(said) => return Outcome::Refused("no tensors the protocol has", said),
    };
    let refused = match run(registry, kind, folder, &case).await {
        Ok(()) => return Outcome::Passed,
        Err(Outcome::Refused(kind, said)) => Outcome::Refused(kind, said),
        Err(other) => return other,
    };
    // tract plans for what it knows: the shape that a Reshape is to make is a constant in the
    // models that exporters write, and an input only in these cases.
    if kind != BackendKind::Tract {
        return refused;
    }
    let Some(constant) = case.with_constants() else {
        return refused;
    };
    match run(registry, kind, folder, &constant).await {
        Ok(()) => Outcome::PassedWithConstants,
        Err(Outcome::Wrong(said)) => Outcome::Wrong(said),
        Err(_) => refused,
    }
}

/// Loads the case's model and compares what it gives on every set of inputs.
async fn run(
    registry: &Registry,
    kind: BackendKind,
    folder: &Path,
    case: &Case,
) -> Result<(), Outcome> {
    let request = LoadRequest {
        digest: format!("{} {}", folder.display(), case.model.len()),
        source: ModelSource::bytes(case.model.clone()),
        backend: kind,
        options: ModelOptions::default(),
        golden: None,
    };
    let model = registry.get_or_load(request).await;
    let model = model.map_err(|error| refusal("not loaded", &error))?;
    for set in &case.sets {
        let inputs: NamedTensors = set.inputs.clone();
        let answer = model
            .infer_blocking(inputs)
            .map_err(|error| refusal("not run", &error))?;
        compare::compare(&set.outputs, &answer).map_err(Outcome::Wrong)?;
        // A comparison that lets a wrong value through would count it as right.
        for disturbed in compare::disturbed(&answer) {
            assert!(
                compare::compare(&set.outputs, &disturbed).is_err(),
                "{}: a wrong answer was taken for right",
                folder.display()
            );
        }
    }
    Ok(())
}

fn refusal(when: &'static str, error: &InferenceError) -> Outcome {
    let said = one_line(error);
    let kind = match error {
        _ if said.contains("panicked") && !said.contains("tract panicked") => "panicked",
        InferenceError::Unsupported { .. } => "unsupported",
        _ => when,
    };
    Outcome::Refused(kind, said)
}

fn listed(kind: BackendKind) -> BTreeSet<String> {
    let text = fs::read_to_string(LIST).expect("the list of what passes is readable");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs
        .filter(|(_, engines)| engines.split(' ').any(|engine| engine == kind.name()))
        .map(|(case, _)| case.to_owned())
        .collect()
}

fn write_list(kind: BackendKind, passed: &BTreeSet<String>) {
    use std::fmt::Write as _;
    // Both tests may write at once.
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _writing = WRITING.lock().expect("nobody panics while writing");
    let other = match kind {
        BackendKind::Tract => BackendKind::OnnxRuntime,
        _ => BackendKind::Tract,
    };
    let others = if Path::new(LIST).exists() {
        listed(other)
    } else {
        BTreeSet::new()
    };
    let mut text = "# The node cases of onnx 1.22.0 that pass, and with which engine.\n".to_owned();
    for case in passed.union(&others) {
        let engines = [
            (BackendKind::OnnxRuntime, "onnxruntime"),
            (BackendKind::Tract, "tract"),
        ];
        let engines = engines.into_iter().filter(|(engine, _)| {
            let set = if *engine == kind { passed } else { &others };
            set.contains(case)
        });
        let engines: Vec<&str> = engines.map(|(_, name)| name).collect();
        writeln!(text, "{case} {}", engines.join(" ")).expect("a text takes any line");
    }
    fs::write(LIST, text).expect("the list is writable");
}
