//! The embedder with the real MiniLM-L6 gives what the original module gives in Python, for texts of
//! many languages, alone and in lists.

use std::{fs, path::PathBuf};

use dunlin_tests::{Node, NodeOptions, Variant, backends, lightning, repository};
use serde::Deserialize;
use serde_json::{Value, json};

const TOLERANCE: f32 = 1e-3;

/// A text, and what PyTorch and the `tokenizers` package make of it: `predictors/embedder/export.py`.
#[derive(Deserialize)]
struct Reference {
    text: String,
    tokens: Vec<i64>,
    embedding: Vec<f32>,
}

fn references() -> Vec<Reference> {
    let path = repository().join("predictors/embedder/models/reference.json");
    let file = fs::read(path).expect("cargo xtask test --with lightning makes it");
    serde_json::from_slice(&file).expect("it is as export.py writes it")
}

/// A node with the embedder on that engine, with the native ones in `folder`.
async fn embedder(backend: &str, folder: Option<PathBuf>) -> Node {
    let config = folder.map(|folder| json!({"backends": {"folder": folder}}).to_string());
    let node = Node::start(&NodeOptions {
        config: config.unwrap_or_default(),
        ..NodeOptions::default()
    });
    let package = Variant::of("embedder", |yaml| {
        yaml["predictor"]["models"][0]["backend"] = backend.into();
        // Several tests may share a slow machine.
        yaml["limits"]["deadline"] = "60s".into();
    });
    node.deploy(&package.path()).await;
    node
}

async fn embeddings(node: &Node, question: &Value) -> Vec<Vec<f32>> {
    let answer = node.post_json("/embedder", question).await.ok().json();
    serde_json::from_value(answer["embeddings"].clone()).expect("a list of lists of numbers")
}

#[track_caller]
fn check_close(found: &[f32], expected: &Reference) {
    assert_eq!(found.len(), 384);
    for (found, wanted) in found.iter().zip(&expected.embedding) {
        let difference = (found - wanted).abs();
        let text = expected.text.chars().take(80).collect::<String>();
        assert!(difference <= TOLERANCE, "{text:?}: {found} is not {wanted}");
    }
}

/// The short ones in one list, so that most have padding, and the long ones; and some alone.
async fn check(node: &Node, alone: &[Reference]) {
    let (short, long): (Vec<_>, Vec<_>) = references()
        .into_iter()
        .partition(|one| one.tokens.len() <= 64);
    for list in [short, long] {
        let texts: Vec<&str> = list.iter().map(|one| &one.text[..]).collect();
        let found = embeddings(node, &json!({"texts": texts})).await;
        assert!(list.len() >= 2);
        assert_eq!(found.len(), list.len());
        for (found, expected) in found.iter().zip(&list) {
            check_close(found, expected);
        }
    }
    for expected in alone {
        let found = embeddings(node, &json!({"text": expected.text})).await;
        assert_eq!(found.len(), 1);
        check_close(&found[0], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tract_gives_what_the_original_gives() {
    if lightning().is_none() {
        return;
    }
    check(&embedder("tract", None).await, &references()[..3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn onnx_runtime_gives_what_the_original_gives() {
    let (Some(_), Some(folder)) = (lightning(), backends(&["onnxruntime"])) else {
        return;
    };
    check(&embedder("onnxruntime", Some(folder)).await, &references()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_the_same_is_near() {
    if lightning().is_none() {
        return;
    }
    let node = embedder("tract", None).await;
    // Three pairs, each of one meaning in other words.
    let texts: Vec<String> = references()
        .into_iter()
        .map(|one| one.text)
        .take(6)
        .collect();
    let found = embeddings(&node, &json!({"texts": texts})).await;
    let cosine = |one: &[f32], other: &[f32]| -> f32 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    };
    for (at, vector) in found.iter().enumerate() {
        assert!(
            (cosine(vector, vector) - 1.0).abs() < 1e-5,
            "its length is 1"
        );
        let mut others: Vec<usize> = (0..found.len()).filter(|other| *other != at).collect();
        others.sort_by(|one, other| {
            cosine(vector, &found[*other]).total_cmp(&cosine(vector, &found[*one]))
        });
        assert_eq!(others[0], at ^ 1, "nearest to {:?}", texts[at]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_ways_of_asking_give_the_same() {
    if lightning().is_none() {
        return;
    }
    let node = embedder("tract", None).await;
    let expected = &references()[0];
    let plain = node.post("/embedder", "text/plain", expected.text.clone());
    let plain = plain.await.ok().json();
    let plain: Vec<Vec<f32>> = serde_json::from_value(plain["embeddings"].clone()).expect("lists");
    check_close(&plain[0], expected);

    let question = json!({"input": [expected.text], "model": "all-MiniLM-L6-v2"});
    let answer = node.post_json("/embedder/v1/embeddings", &question).await;
    let answer = answer.ok().json();
    assert_eq!(answer["model"], "all-MiniLM-L6-v2");
    assert_eq!(answer["usage"]["total_tokens"], expected.tokens.len());
    let found: Vec<f32> =
        serde_json::from_value(answer["data"][0]["embedding"].clone()).expect("numbers");
    check_close(&found, expected);

    let many = json!({"texts": vec!["a"; 65]});
    let refused = node.post_json("/embedder", &many).await.error(400);
    assert!(refused.contains("at most 64"), "{refused}");
    // The most that it takes, in pieces that are worst for it.
    let worst = node.post("/embedder", "text/plain", ".".repeat(65_536));
    let _ = worst.await.ok();
}
