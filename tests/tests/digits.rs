//! The digits predictor over HTTP answers as the original PyTorch module does, and refuses what it
//! cannot read.

use dunlin_tests::{
    Golden, HeldOut, Node,
    infer::{digits, infer_binary},
    pixels_json, png, send,
};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};

const EXPECTED: &str = "send {\"pixels\": 8 rows of 8 numbers from 0 (no ink) to 16} as JSON, or \
                        one PNG or JPEG";

/// Sends every held-out image in the form that `body` gives it.
async fn check_held_out(body: impl Fn(&[u8; 64]) -> (&'static str, Vec<u8>)) {
    let node = &digits().await;
    let held_out = HeldOut::read();
    let bodies: Vec<_> = held_out.pixels.iter().map(body).collect();
    let answers = stream::iter(bodies).map(|(content_type, body)| async move {
        let answer = node.post("/digits", content_type, body).await.ok().json();
        let probabilities = answer["probabilities"].as_array().expect("a list").len();
        assert_eq!(probabilities, 10, "{answer}");
        answer["label"].as_u64().expect("a digit")
    });
    let labels: Vec<u64> = answers.buffered(4).collect().await;

    let predicted: Vec<u64> = held_out.predicted.iter().map(|&p| p.into()).collect();
    assert_eq!(labels, predicted, "what the original module predicts");
    let right = labels.iter().zip(&held_out.labels);
    let right = right.filter(|(label, truth)| **label == u64::from(**truth));
    let accuracy = right.count() as f64 / labels.len() as f64;
    assert!((accuracy - held_out.accuracy).abs() < 1e-6, "{accuracy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_held_out_set_as_json() {
    check_held_out(|pixels| {
        let body = pixels_json(pixels).to_string();
        ("application/json", body.into_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_held_out_set_as_pictures_of_its_own_size() {
    check_held_out(|pixels| ("image/png", png(pixels, 1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_held_out_set_as_larger_pictures() {
    check_held_out(|pixels| ("image/png", png(pixels, 20))).await;
}

fn check_close(logits: &[f32], expected: &[[f32; 10]], tolerance: f32) {
    assert_eq!(logits.len(), 10 * expected.len());
    let rows = logits.as_chunks::<10>().0.iter().zip(expected);
    for (row, (found, expected)) in rows.enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            assert!(
                difference <= tolerance,
                "row {row}: {found} is not {expected}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_give_the_golden_logits() {
    let node = digits().await;
    let golden = Golden::read();
    // All rows in one request, several, and one by one: the answers may not depend on it.
    for rows in [golden.pixels.len(), 5, 1] {
        for (pixels, logits) in golden.pixels.chunks(rows).zip(golden.logits.chunks(rows)) {
            check_close(&infer_json(&node, pixels).await, logits, 1e-4);
            let binary = infer_binary(&node, pixels).await;
            check_close(binary.as_flattened(), logits, 1e-4);
        }
    }
}

async fn infer_json(node: &Node, pixels: &[[f32; 64]]) -> Vec<f32> {
    let body = json!({"inputs": [{
        "name": "pixels", "datatype": "FP32", "shape": [pixels.len(), 1, 8, 8],
        "data": pixels.as_flattened(),
    }]});
    let answer = node.post_json("/v2/models/digits/infer", &body).await.ok();
    let answer = answer.json();
    let output = &answer["outputs"][0];
    assert_eq!(output["name"], "logits");
    assert_eq!(output["datatype"], "FP32");
    assert_eq!(output["shape"], json!([pixels.len(), 10]));
    let data = output["data"].as_array().expect("a list");
    let numbers = data.iter().map(|number| number.as_f64().expect("a number"));
    numbers.map(|number| number as f32).collect()
}

/// A PNG that says it has 60,000 × 60,000 pixels, and has none.
fn huge_picture() -> Vec<u8> {
    let mut file = Vec::new();
    let encoder = png::Encoder::new(&mut file, 60_000, 60_000);
    let writer = encoder.write_header();
    drop(writer);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_digit_is_refused_with_what_is_expected() {
    let node = digits().await;
    let row = [0; 8];
    let mut out_of_range = [[0.0; 8]; 8];
    out_of_range[2][1] = 16.5;
    let mut negative = [[0.0; 8]; 8];
    negative[7][7] = -1.0;
    let seven = png(&HeldOut::read().pixels[0], 20);
    let json = "application/json";
    let text = |value: Value| value.to_string().into_bytes();
    let pixels = |row: Value| text(json!({"pixels": vec![row; 8]}));
    let table: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        ("nothing", json, vec![], EXPECTED),
        ("only space", json, b" \n".to_vec(), EXPECTED),
        ("broken JSON", json, b"{\"pixels\": [[".to_vec(), EXPECTED),
        ("a list", json, b"[1, 2]".to_vec(), EXPECTED),
        ("no pixels", json, b"{}".to_vec(), EXPECTED),
        ("a number", json, text(json!({"pixels": 7})), EXPECTED),
        (
            "7 rows",
            json,
            text(json!({"pixels": vec![row; 7]})),
            EXPECTED,
        ),
        (
            "9 rows",
            json,
            text(json!({"pixels": vec![row; 9]})),
            EXPECTED,
        ),
        (
            "rows of 7",
            json,
            pixels(json!([0, 0, 0, 0, 0, 0, 0])),
            EXPECTED,
        ),
        (
            "64 in a row",
            json,
            text(json!({"pixels": vec![0; 64]})),
            EXPECTED,
        ),
        ("texts", json, pixels(json!(vec!["a"; 8])), EXPECTED),
        ("nulls", json, pixels(json!(vec![Value::Null; 8])), EXPECTED),
        (
            "NaN",
            json,
            b"{\"pixels\": [[NaN, 0, 0, 0, 0, 0, 0, 0]]}".to_vec(),
            EXPECTED,
        ),
        (
            "infinity",
            json,
            b"{\"pixels\": [[1e999]]}".to_vec(),
            EXPECTED,
        ),
        (
            "too much ink",
            json,
            text(json!({"pixels": out_of_range})),
            "pixels[2][1] is 16.5",
        ),
        (
            "too much ink",
            json,
            text(json!({"pixels": out_of_range})),
            EXPECTED,
        ),
        (
            "negative ink",
            json,
            text(json!({"pixels": negative})),
            "pixels[7][7] is -1",
        ),
        (
            "not UTF-8",
            json,
            b"{\"pixels\": \"\xff\"}".to_vec(),
            EXPECTED,
        ),
        ("deep", json, b"[".repeat(100_000), EXPECTED),
        (
            "no picture",
            "image/png",
            b"GIF89a, or something".to_vec(),
            EXPECTED,
        ),
        ("zeros", "application/octet-stream", vec![0; 4096], EXPECTED),
        (
            "a cut PNG",
            "image/png",
            seven[..seven.len() / 2].to_vec(),
            "the picture cannot be read",
        ),
        (
            "a PNG's first bytes",
            "image/png",
            seven[..8].to_vec(),
            "the picture cannot be read",
        ),
        (
            "a huge picture",
            "image/png",
            huge_picture(),
            "at most 16 megapixels",
        ),
        (
            "a form without a file",
            "multipart/form-data; boundary=x",
            b"--x--".to_vec(),
            EXPECTED,
        ),
    ];
    for (what, content_type, body, part) in table {
        let answer = node.post("/digits", content_type, body).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let text = answer.error(400);
        assert!(text.contains(part), "{what}: {text}");
    }
    let after = node.post("/digits", "image/png", seven).await.ok().json();
    assert_eq!(after["label"], HeldOut::read().predicted[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_its_id() {
    let node = digits().await;
    let body = pixels_json(&HeldOut::read().pixels[0]);
    let given = node.request(Method::POST, "/digits").json(&body);
    let given = send(given.header("x-request-id", "one-of-mine")).await;
    assert_eq!(given.ok().header("x-request-id"), "one-of-mine");

    let made = [
        node.post_json("/digits", &body).await,
        node.post_json("/digits", &json!({})).await,
        node.fetch("/v2").await,
        node.fetch("/no/such/deployment").await,
    ];
    let mut ids: Vec<_> = made
        .iter()
        .map(|answer| answer.header("x-request-id"))
        .collect();
    assert!(ids.iter().all(|id| id.len() >= 16), "{ids:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), made.len(), "no id is given twice");

    let long = "x".repeat(10_000);
    let replaced = node.request(Method::POST, "/digits").json(&body);
    let replaced = send(replaced.header("x-request-id", &long)).await.ok();
    assert_ne!(replaced.header("x-request-id"), long);
}
