//! What is loaded: once, and held to its golden sample.

use std::num::NonZeroUsize;
use std::sync::Arc;

use dunlin_inference::{
    BackendKind, Golden, InferenceError, LoadRequest, ModelOptions, ModelSource, Registry,
};

use super::{CLOSE, load, models::file, request, sample};

#[tokio::test]
async fn a_golden_sample_that_differs_names_the_worst_element() {
    let model = load("pairs").await;
    let bytes = std::fs::read(file("pairs.safetensors")).unwrap();
    Golden::parse(bytes.clone())
        .unwrap()
        .check(&model, CLOSE)
        .unwrap();

    // The outputs are 6 rows of 3 at the end of the file: row 3, column 1 is element 10.
    let mut wrong = bytes.clone();
    let at = |element: usize| bytes.len() - 4 * (18 - element);
    wrong[at(10)..][..4].copy_from_slice(&7_f32.to_le_bytes());
    wrong[at(2)..][..4].copy_from_slice(&2_f32.to_le_bytes());
    let error = Golden::parse(wrong)
        .unwrap()
        .check(&model, CLOSE)
        .unwrap_err();
    let InferenceError::GoldenMismatch(mismatch) = &error else {
        unreachable!("{error:?}");
    };
    assert_eq!(
        (mismatch.tensor.as_str(), &*mismatch.index),
        ("y", &[3, 1][..])
    );
    assert_eq!((mismatch.expected.as_str(), mismatch.mismatches), ("7", 2));
    assert_eq!(mismatch.elements, 18);
    assert!((mismatch.tolerance - 8e-5).abs() < 1e-9);

    let mut nan = bytes.clone();
    nan[at(0)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = Golden::parse(nan)
        .unwrap()
        .check(&model, CLOSE)
        .unwrap_err();
    assert!(
        error.to_string().contains(r#"output "y" at [0, 0] is "#),
        "{error}"
    );
    assert!(error.to_string().contains("expected NaN"), "{error}");
}

#[tokio::test]
async fn a_sample_of_another_model_is_unusable() {
    let cases = [
        ("pairs", "digits", r#"the model has no output "logits""#),
        (
            "fixed",
            "nameless",
            r#"input "x" has shape [2,5], expected [2,3]"#,
        ),
        (
            "identity_f32",
            "identity_f16",
            r#"output "y" is FP16 in the sample and FP32 in the model"#,
        ),
    ];
    for (name, other, message) in cases {
        let request = LoadRequest {
            golden: Some(sample(other)),
            ..request(name)
        };
        let error = Registry::default().get_or_load(request).await.unwrap_err();
        assert!(
            matches!(*error, InferenceError::GoldenUnusable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = Golden::parse(vec![0; 20]).unwrap_err();
    assert!(
        error.to_string().contains("not a safetensors file"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_model_is_loaded_once_however_many_ask() {
    let registry = Arc::new(Registry::default());
    let asked = (0..32).map(|_| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let request = LoadRequest {
                golden: Some(sample("digits")),
                ..request("digits")
            };
            registry.get_or_load(request).await.unwrap()
        })
    });
    let mut models = Vec::new();
    for task in asked.collect::<Vec<_>>() {
        models.push(task.await.unwrap());
    }
    assert!(models.iter().all(|model| model.shares_engine(&models[0])));
    assert_eq!(registry.len(), 1);

    // Other options make another model; a name that means the same backend does not.
    let tract = LoadRequest {
        backend: BackendKind::Tract,
        ..request("digits")
    };
    let same = registry.get_or_load(tract.clone()).await.unwrap();
    assert!(same.shares_engine(&models[0]));
    let two = NonZeroUsize::new(2).unwrap();
    let options = ModelOptions {
        instances: two,
        threads_per_run: two,
        ..ModelOptions::default()
    };
    let golden = Some(sample("digits"));
    let other = LoadRequest {
        options,
        golden,
        ..tract
    };
    let other = registry.get_or_load(other).await.unwrap();
    assert!(!other.shares_engine(&models[0]));
    assert_eq!(registry.len(), 2);

    // A loaded model is checked against a sample it has not seen.
    let refused = LoadRequest {
        golden: Some(sample("pairs")),
        ..request("digits")
    };
    assert!(registry.get_or_load(refused).await.is_err());

    drop((models, same, other));
    // The thread that loaded may not have let go yet.
    while !registry.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_failed_load_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.onnx");
    let registry = Registry::default();
    let late = || LoadRequest {
        source: ModelSource::path(&path),
        ..request("late")
    };
    assert!(registry.get_or_load(late()).await.is_err());
    std::fs::copy(file("fixed.onnx"), &path).unwrap();
    assert!(registry.get_or_load(late()).await.is_ok());
}
