//! Models that cannot be loaded or run, and engines that are not there: each is told of over HTTP, and
//! what serves beside them serves on.

use std::{fs, path::PathBuf};

use dunlin_tests::{
    HeldOut, Node, NodeOptions, Variant, backends, package, pixels_json, repository, with_model,
};
use serde_json::{Value, json};

/// A node on which digits serves, with the native backends in `folder`, or with none.
async fn node(folder: Option<PathBuf>) -> Node {
    let without_backends = folder.is_none();
    let config = folder.map(|folder| json!({"backends": {"folder": folder}}).to_string());
    let node = Node::start(&NodeOptions {
        config: config.unwrap_or_default(),
        without_backends,
        ..NodeOptions::default()
    });
    node.deploy(&package("digits")).await;
    node
}

async fn check_digits(node: &Node) {
    let held_out = HeldOut::read();
    let question = pixels_json(&held_out.pixels[0]);
    let answer = node.post_json("/digits", &question).await.ok().json();
    assert_eq!(answer["label"], held_out.predicted[0]);
}

/// A deployment of one model, which has these bytes, and no predictor.
fn alone(file: &str, bytes: &[u8], backend: &str) -> Variant {
    Variant::of_folder("digits", |folder| {
        fs::write(folder.join(file), bytes).expect("the folder is the test's");
        let mut model = json!({"name": "model", "path": file, "backend": backend});
        if file.ends_with(".pt") {
            model["inputs"] = json!([{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]);
            model["outputs"] = json!([{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]);
        }
        let deployment = json!({"name": "broken", "predictor": {"models": [model]}});
        let path = folder.join("dunlin.yaml");
        fs::write(path, deployment.to_string()).expect("the folder is the test's");
    })
}

fn digits_model(name: &str) -> Vec<u8> {
    let path = repository().join("predictors/digits/models").join(name);
    fs::read(path).expect("the repository has the digits model")
}

async fn check_refused(node: &Node, package: Vec<u8>, status: u16, part: &str) {
    let answer = node.upload(package, Some("broken")).await;
    let reason = answer.error(status);
    assert!(reason.contains(part), "{reason}");
    assert!(node.get("broken").await.is_none());
    check_digits(node).await;
}

/// The first half of a file, one that begins otherwise, and none at all.
fn damaged(whole: &[u8]) -> [Vec<u8>; 3] {
    let mut changed = whole.to_vec();
    changed[..64].fill(0xff);
    [whole[..whole.len() / 2].into(), changed, b"no model".into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_model_is_refused() {
    let node = node(backends(&["onnxruntime", "torchscript"])).await;
    for bytes in damaged(&digits_model("digits.onnx")) {
        let package = with_model("digits", &bytes);
        check_refused(&node, package, 400, "digits.onnx: is not a").await;
    }
    // Whole, and yet nothing that an engine can load.
    let models = repository().join("host/inference/tests/models");
    let unknown = fs::read(models.join("unknown_operator.onnx")).expect("the repository has it");
    for backend in ["tract", "auto"] {
        let package = alone("unknown.onnx", &unknown, backend);
        check_refused(&node, package.bytes(), 422, "model \"model\"").await;
    }
    if backends(&["torchscript"]).is_some() {
        for bytes in damaged(&digits_model("digits.pt")) {
            let package = alone("digits.pt", &bytes, "torchscript");
            check_refused(&node, package.bytes(), 422, "model \"model\"").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_throws_fails_its_caller_alone() {
    let Some(folder) = backends(&["torchscript"]) else {
        return;
    };
    let node = node(Some(folder)).await;
    let models = repository().join("host/inference/tests/models/torchscript");
    let throws = fs::read(models.join("throws.pt")).expect("the repository has it");
    node.deploy(&alone("throws.pt", &throws, "torchscript").path())
        .await;
    let ask = async |shape: Value, data: Value| {
        let input = json!({"name": "x", "datatype": "FP32", "shape": shape, "data": data});
        let path = "/v2/models/broken/infer";
        node.post_json(path, &json!({"inputs": [input]})).await
    };
    for _ in 0..3 {
        let thrown = ask(json!([1, 3]), json!([1, -1, 0])).await;
        let _told = thrown.error(500);
        let misfit = ask(json!([1, 4]), json!([1, 1, 0, 2])).await.error(400);
        assert!(misfit.contains('x'), "{misfit}");
        let fine = ask(json!([1, 3]), json!([1, 1, 0])).await.ok().json();
        assert_eq!(fine["outputs"][0]["data"], json!([1.0, 1.0, 0.0]));
        check_digits(&node).await;
    }
    assert!(
        node.log()
            .contains("negative values are not for this model"),
        "what it threw is in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_missing_is_named_with_what_installs_it() {
    let node = node(None).await;
    for (file, backend) in [("digits.onnx", "onnxruntime"), ("digits.pt", "torchscript")] {
        let package = alone(file, &digits_model(file), backend);
        let install = format!("dunlin backend install {backend}");
        check_refused(&node, package.bytes(), 422, &install).await;
    }
}
