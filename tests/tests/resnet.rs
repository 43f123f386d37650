//! The classifier over HTTP: the same pictures as files give the classes and probabilities that the
//! original module gives in Python.

use std::{fs, path::PathBuf};

use dunlin_tests::{Node, NodeOptions, Variant, backends, lightning, repository};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::json;

/// Of a probability. PNG has no loss; two decoders of JPEG may round a colour differently, and the
/// classifier, whose weights are random, tells such pictures apart.
const TOLERANCE_PNG: f32 = 1e-3;
const TOLERANCE_JPEG: f32 = 0.1;

#[derive(Deserialize)]
struct Prediction {
    class: usize,
    probability: f32,
}

fn models() -> PathBuf {
    repository().join("predictors/resnet/models")
}

async fn check(backend: &str, folder: Option<PathBuf>) {
    let config = folder.map(|folder| json!({"backends": {"folder": folder}}).to_string());
    let node = Node::start(&NodeOptions {
        config: config.unwrap_or_default(),
        ..NodeOptions::default()
    });
    let package = Variant::of("resnet", |yaml| {
        yaml["predictor"]["models"][0]["backend"] = backend.into();
    });
    node.deploy(&package.path()).await;

    let reference = fs::read(models().join("reference.safetensors")).expect("export.py wrote it");
    let reference = SafeTensors::deserialize(&reference).expect("it is a safetensors file");
    let mut seen = 0;
    for entry in fs::read_dir(models().join("pictures")).expect("export.py wrote them") {
        let path = entry.expect("a folder can be read").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let expected = reference.tensor(&format!("probabilities.{name}"));
        let expected: Vec<f32> = expected
            .expect("each picture has its answer")
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();

        let picture = fs::read(&path).expect("a file can be read");
        let answer = node.post("/resnet?top=1000", "application/octet-stream", picture);
        let answer = answer.await.ok().json();
        let predictions: Vec<Prediction> =
            serde_json::from_value(answer["predictions"].clone()).expect("a list");
        assert_eq!(predictions.len(), 1000);
        assert!(predictions.is_sorted_by(|one, next| one.probability >= next.probability));
        let likeliest = (0..1000).max_by(|one, other| expected[*one].total_cmp(&expected[*other]));
        assert_eq!(Some(predictions[0].class), likeliest, "{name}");
        let tolerance = if name.ends_with(".png") {
            TOLERANCE_PNG
        } else {
            TOLERANCE_JPEG
        };
        for Prediction { class, probability } in predictions {
            let difference = (probability - expected[class]).abs();
            assert!(
                difference <= tolerance,
                "{name}: class {class} has {probability}, not {}",
                expected[class]
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 8);

    let refused = node.post("/resnet", "image/gif", "GIF89a").await.error(400);
    assert!(refused.contains("neither PNG nor JPEG"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tract_gives_what_the_original_gives() {
    if lightning().is_some() {
        check("tract", None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn onnx_runtime_gives_what_the_original_gives() {
    let (Some(_), Some(folder)) = (lightning(), backends(&["onnxruntime"])) else {
        return;
    };
    check("onnxruntime", Some(folder)).await;
}
