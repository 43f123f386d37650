//! The digits model by its three routes, each behind the same predictor: the same labels as the
//! Lightning module on everything that was held out, and outputs near to its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dunlin_tests::{
    Cli, Golden, HeldOut, Node, NodeOptions, Variant, backends, infer::infer_binary, pixels_json,
    repository,
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

const TOLERANCE: f32 = 1e-4;

/// How digits goes one way.
#[derive(Clone, Copy)]
struct Route {
    backend: &'static str,
    file: &'static str,
    platform: &'static str,
}

const TRACT: Route = Route {
    backend: "tract",
    file: "digits.onnx",
    platform: "onnx_tract",
};
const ONNXRUNTIME: Route = Route {
    backend: "onnxruntime",
    file: "digits.onnx",
    platform: "onnxruntime_onnx",
};
const TORCHSCRIPT: Route = Route {
    backend: "torchscript",
    file: "digits.pt",
    platform: "pytorch_libtorch",
};

/// The package of digits with the route's file and backend, and without its bound of rows.
fn variant(route: Route) -> Variant {
    Variant::of_folder("digits", |folder| {
        let models = repository().join("predictors/digits/models");
        let file = Path::new("models").join(route.file);
        fs::copy(models.join(route.file), folder.join(&file)).expect("the folder is the test's");
        let path = folder.join("dunlin.yaml");
        let yaml = fs::read_to_string(&path).expect("a package has a deployment file");
        let mut deployment: Value = serde_saphyr::from_str(&yaml).expect("it is YAML");
        let model = &mut deployment["predictor"]["models"][0];
        model["path"] = json!(file);
        model["backend"] = json!(route.backend);
        // All that was held out in one request.
        model["max_batch_size"] = json!(0);
        if route.file.ends_with(".pt") {
            model["inputs"] =
                json!([{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]);
            model["outputs"] = json!([{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]);
        }
        fs::write(path, deployment.to_string()).expect("the folder is the test's");
    })
}

/// Serves digits this way, with the native backends in `folder`, and asks for everything that is
/// known of it.
async fn check(route: Route, folder: Option<PathBuf>) {
    let config = folder.map(|folder| json!({"backends": {"folder": folder}}).to_string());
    let node = &Node::start(&NodeOptions {
        config: config.unwrap_or_default(),
        ..NodeOptions::default()
    });
    let deployment = node.deploy(&variant(route).path()).await;
    assert_eq!(deployment["models"][0]["platform"], route.platform);

    let held_out = HeldOut::read();
    assert_eq!(held_out.pixels.len(), 540);
    let bodies: Vec<Value> = held_out.pixels.iter().map(pixels_json).collect();
    let answers = stream::iter(bodies).map(|body| async move {
        let answer = node.post_json("/digits", &body).await.ok().json();
        answer["label"].as_u64().expect("a digit")
    });
    let labels: Vec<u64> = answers.buffered(4).collect().await;
    let predicted: Vec<u64> = held_out
        .predicted
        .iter()
        .map(|&label| label.into())
        .collect();
    assert_eq!(labels, predicted, "through the predictor");

    // The whole of it once more as tensors, in one request.
    let pixels: Vec<[f32; 64]> = held_out
        .pixels
        .iter()
        .map(|pixels| pixels.map(f32::from))
        .collect();
    let labels: Vec<u64> = infer_binary(node, &pixels)
        .await
        .iter()
        .map(largest)
        .collect();
    assert_eq!(labels, predicted, "as tensors");

    let golden = Golden::read();
    for rows in [golden.pixels.len(), 1] {
        for (pixels, expected) in golden.pixels.chunks(rows).zip(golden.logits.chunks(rows)) {
            let got = infer_binary(node, pixels).await;
            let pairs = got.as_flattened().iter().zip(expected.as_flattened());
            for (got, expected) in pairs {
                assert!(
                    (got - expected).abs() <= TOLERANCE,
                    "{got} is not {expected}"
                );
            }
            assert_eq!(got.len(), expected.len());
        }
    }
}

fn largest(logits: &[f32; 10]) -> u64 {
    let mut largest = 0;
    for (label, logit) in logits.iter().enumerate() {
        if *logit > logits[largest] {
            largest = label;
        }
    }
    largest as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn onnx_on_tract() {
    check(TRACT, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn onnx_on_onnxruntime() {
    if let Some(folder) = backends(&["onnxruntime"]) {
        check(ONNXRUNTIME, Some(folder)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn torchscript_on_libtorch() {
    if let Some(folder) = backends(&["torchscript"]) {
        check(TORCHSCRIPT, Some(folder)).await;
    }
}

#[test]
fn the_predictor_of_every_route_is_the_same_file() {
    let cli = Cli::new();
    let predictors = [TRACT, ONNXRUNTIME, TORCHSCRIPT].map(|route| {
        let variant = variant(route);
        let package = variant.path();
        let inspected = cli.run([
            "inspect".as_ref(),
            package.as_os_str(),
            "-o".as_ref(),
            "json".as_ref(),
        ]);
        let inspected = inspected.json(0);
        let files = inspected["files"].as_array().expect("a list").iter();
        let digest = |kind: &str| {
            let file = files.clone().find(|file| file["kind"] == kind);
            file.expect("a package has one")["digest"].clone()
        };
        (digest("predictor"), digest("model"))
    });
    let [
        (tract, onnx),
        (onnxruntime, same_onnx),
        (torchscript, other),
    ] = predictors;
    assert_eq!(tract, onnxruntime);
    assert_eq!(tract, torchscript);
    assert_eq!(onnx, same_onnx);
    assert_ne!(onnx, other);
}
