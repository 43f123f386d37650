//! `dunlin import`, as its users have it: from a model they trained to answers over HTTP.
//!
//! What needs PyTorch Lightning runs with the Python that `DUNLIN_LIGHTNING_PYTHON` names, and is
//! skipped without it: `cargo xtask test --with lightning` sets it up.

mod refused;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use dunlin_tests::{
    Cli, Golden, HeldOut, Node, NodeOptions, Ran, backends, lightning, python, repository, until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// Runs `dunlin import` with what follows.
fn import(cli: &Cli, arguments: &[&str]) -> Ran {
    cli.run([&["import"], arguments].concat())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn digits(file: &str) -> String {
    text(&repository().join("predictors/digits").join(file))
}

fn node_with(backends: Option<&Path>) -> Node {
    Node::start(&NodeOptions {
        config: backends.map_or_else(String::new, |folder| {
            format!("backends: {{folder: {:?}}}\n", text(folder))
        }),
        ..NodeOptions::default()
    })
}

fn nested(pixels: &[u8; 64]) -> Value {
    json!([pixels.chunks(8).collect::<Vec<_>>()])
}

fn numbers(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| numbers(item, into)),
        _ => into.push(value.as_f64().expect("a number")),
    }
}

fn check_close(found: &Value, expected: &Value, tolerance: f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    numbers(found, &mut a);
    numbers(expected, &mut b);
    assert_eq!(a.len(), b.len(), "{found} is not {expected}");
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
}

/// Sends the whole held-out set through `POST /digits`: every label must be the original module's.
async fn check_held_out(node: &Node, output: &str) {
    let held_out = HeldOut::read();
    let images = held_out.pixels.iter().zip(&held_out.predicted);
    let images: Vec<_> = images.collect();
    for images in images.chunks(64) {
        let pixels: Vec<Value> = images.iter().map(|(pixels, _)| nested(pixels)).collect();
        let body = json!({"inputs": {"pixels": pixels}});
        let answer = node.post_json("/digits", &body).await.ok().json();
        let logits = answer["outputs"][output].as_array().expect("rows");
        assert_eq!(logits.len(), images.len());
        for (logits, (_, predicted)) in logits.iter().zip(images) {
            let mut row = Vec::new();
            numbers(logits, &mut row);
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            assert_eq!(best.map(|(label, _)| label), Some(usize::from(**predicted)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onnx_file_without_python() {
    let node = node_with(None);
    let cli = Cli::of(&node);
    let empty = cli.path("no-programs");
    fs::create_dir(&empty).expect("the home is the test's");
    let output = cli
        .command()
        .args(["import", &digits("models/digits.onnx"), "-o", "json"])
        .env("PATH", &empty)
        .output()
        .expect("dunlin can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let imported: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(imported["name"], "digits");
    assert_eq!(
        imported["inputs"],
        json!([{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}])
    );
    assert_eq!(imported["rows"], 8);
    assert!(
        !imported["reference"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    );
    let files = [
        "README.md",
        "dunlin.yaml",
        "import.json",
        "models/digits.onnx",
        "models/golden.safetensors",
        "sample.json",
    ];
    assert_eq!(imported["files"], json!(files));
    assert!(
        imported["routes"][0]["here"]["platform"].is_string(),
        "{imported}"
    );

    let _said = cli.run(["deploy", "digits"]).exit(0);
    let predicted = cli.run(["predict", "digits", "digits/sample.json"]);
    let answer: Value = serde_json::from_str(predicted.exit(0)).expect("the answer is JSON");
    assert_eq!(
        answer["outputs"]["logits"][0].as_array().map(Vec::len),
        Some(10)
    );
    check_held_out(&node, "logits").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_a_file_are_golden_and_their_outputs_are_held_to() {
    let cli = Cli::new();
    let golden = Golden::read();
    let make = |shift: f32| {
        let code = "import json, sys, numpy as np; d = json.load(sys.stdin)\n\
                    np.savez('samples.npz', pixels=np.array(d['pixels']).reshape(-1, 1, 8, 8), \
                    logits=np.array(d['logits'], dtype='float32'))";
        let logits: Vec<Vec<f32>> = golden
            .logits
            .iter()
            .map(|row| row.iter().map(|logit| logit + shift).collect())
            .collect();
        let pixels: Vec<&[f32]> = golden.pixels.iter().map(|row| &row[..]).collect();
        let mut child = Command::new(python())
            .args(["-c", code])
            .current_dir(cli.home())
            .stdin(Stdio::piped())
            .spawn()
            .expect("Python can be run");
        let stdin = child.stdin.take().expect("it is piped");
        serde_json::to_writer(stdin, &json!({"pixels": pixels, "logits": logits}))
            .expect("Python reads");
        assert!(child.wait().expect("a child can be waited for").success());
    };
    let model = digits("models/digits.onnx");
    make(0.0);
    let imported = import(&cli, &[&model, "--samples", "samples.npz", "-o", "json"]).json(0);
    assert_eq!(imported["rows"], golden.pixels.len());
    assert!(
        imported["routes"][0]["here"]["platform"].is_string(),
        "{imported}"
    );
    // Another model's answers.
    make(0.5);
    let other = ["--samples", "samples.npz", "--out", "other", "-o", "json"];
    let refused = import(&cli, &[&[model.as_str()], &other[..]].concat());
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("golden sample"),
        "{}",
        refused.stderr
    );
    assert!(!cli.path("other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_predictor_to_edit_answers_as_the_node_does() {
    let node = node_with(None);
    let cli = Cli::of(&node);
    let arguments = [&digits("models/digits.onnx"), "--predictor", "rust"];
    let _said = import(&cli, &arguments).exit(0);
    let target = env::current_exe().expect("a process knows its program");
    let target = target
        .parent()
        .expect("it lies in a folder")
        .join("../../dunlin/cli-test");
    fs::create_dir_all(&target).expect("the target directory is ours");
    let deployed = cli
        .command()
        .args(["deploy", "digits"])
        .env(
            "CARGO_TARGET_DIR",
            fs::canonicalize(target).expect("it is there"),
        )
        .output()
        .expect("dunlin can be run");
    let said = String::from_utf8_lossy(&deployed.stderr);
    assert!(deployed.status.success(), "{said}");
    check_held_out(&node, "logits").await;
    let ragged = json!({"inputs": {"pixels": [[[[1.0, 2.0], [3.0]]]]}});
    let said = node.post_json("/digits", &ragged).await.error(400);
    assert!(said.contains("pixels"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digits_checkpoint_by_both_routes() {
    let Some(lightning) = lightning() else { return };
    let backends = backends(&["torchscript"]);
    let node = node_with(backends.as_deref());
    let cli = Cli::of(&node);
    let module = format!("{}:DigitsModel", digits("train.py"));
    let arguments = [
        &digits("models/digits.ckpt"),
        "--module",
        &module,
        "--via",
        "both",
        "--python",
        &text(&lightning),
        "-o",
        "json",
    ];
    let imported = import(&cli, &arguments).json(0);
    let routes = imported["routes"].as_array().expect("two routes");
    let names: Vec<&Value> = routes.iter().map(|route| &route["route"]).collect();
    assert_eq!(names, ["onnx", "torchscript"]);
    for route in routes {
        let difference = route["difference"]["absolute"]
            .as_f64()
            .expect("it was compared");
        assert!(difference <= 1e-4, "{route}");
    }
    let deployed = cli.run(["deploy", "digits", "-o", "json"]).json(0);
    assert_eq!(deployed["name"], "digits");
    check_held_out(&node, "output").await;

    let deployed = cli.run(["deploy", "digits/dunlin.torchscript.yaml", "-o", "json"]);
    if backends.is_none() {
        let said = &deployed.stderr;
        assert!(
            said.contains("dunlin backend install torchscript"),
            "{said}"
        );
        return;
    }
    assert_eq!(deployed.json(0)["revision"], 2);
    check_held_out(&node, "output").await;
    let metadata = node.fetch("/v2/models/digits").await.ok().json();
    assert_eq!(metadata["platform"], "pytorch_libtorch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_in_the_repository() {
    let Some(lightning) = lightning() else { return };
    let node = node_with(None);
    let cli = Cli::of(&node);
    let source = repository().join("tests/python/lightning/ranker.py");
    fs::copy(source, cli.path("ranker.py")).expect("the home is the test's");
    train(&lightning, &cli, "ranker.py");
    let answers = fs::read(cli.path("answers.json")).expect("the training wrote it");
    let answers: Value = serde_json::from_slice(&answers).expect("it is JSON");

    // As the README says, in the folder with the model.
    let python = text(&lightning);
    let arguments = [
        "ranker.ckpt",
        "--module",
        "ranker.py:Ranker",
        "--python",
        &python,
    ];
    let said = import(&cli, &arguments);
    assert!(
        said.exit(0).contains("words INT64 [-1, 6]"),
        "{}",
        said.stdout
    );
    assert!(
        !cli.path("__pycache__").exists(),
        "the user's folder stays as it is"
    );
    let _said = cli.run(["deploy", "ranker"]).exit(0);
    let _said = cli.run(["predict", "ranker", "ranker/sample.json"]).exit(0);
    let request = json!({"inputs": answers["inputs"]});
    let answer = node.post_json("/ranker", &request).await.ok().json();
    check_close(
        &answer["outputs"]["scores"],
        &answers["outputs"]["scores"],
        1e-4,
    );
    assert_eq!(answer["outputs"]["best"], answers["outputs"]["best"]);
}

fn train(python: &Path, cli: &Cli, script: &str) {
    let output = Command::new(python)
        .arg("-B")
        .arg(script)
        .arg(cli.home())
        .current_dir(cli.home())
        .output()
        .expect("Python can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let cli = Cli::new();
    // A Python that never ends, and says when it has begun.
    let stub = cli.path("python");
    fs::write(&stub, "#!/bin/sh\necho $$ > started\nexec sleep 600\n").expect("the home is ours");
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    fs::write(cli.path("model.ckpt"), "").expect("the home is ours");
    let mut child = cli
        .command()
        .args([
            "import",
            "model.ckpt",
            "--module",
            "train.py:M",
            "--python",
            "./python",
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("dunlin can be run");
    let started = cli.path("started");
    let python = until("the helper runs", SOON, || {
        fs::read_to_string(&started)
            .ok()?
            .trim()
            .parse::<i32>()
            .ok()
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let ended = child.wait().expect("a child can be waited for");
    assert_eq!(ended.code(), Some(130));
    let names = fs::read_dir(cli.home()).expect("the home is ours");
    let mut names: Vec<_> = names
        .map(|entry| entry.expect("it is there").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["model.ckpt", "python", "started"]);
    until("the helper is ended", SOON, || {
        // Gone, or waiting to be collected by whoever adopted it.
        match fs::read_to_string(format!("/proc/{python}/stat")) {
            Ok(stat) => stat.contains(") Z ").then_some(()),
            Err(_) => Some(()),
        }
    });
}

/// The helper's own tests, with a real Lightning.
#[test]
fn the_python_helper() {
    let Some(lightning) = lightning() else { return };
    let output = Command::new(lightning)
        .args(["-B", "-m", "unittest", "discover", "-s", ".", "-t", "."])
        .current_dir(repository().join("host/cli/python"))
        .output()
        .expect("Python can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
