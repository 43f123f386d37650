//! A deployment without a predictor: `POST /{deployment}` takes named, nested lists to the model.

use dunlin_tests::{Golden, HeldOut, Node, NodeOptions, Variant};
use serde_json::{Value, json};

/// The digits model without its predictor; `change` gets the deployment file.
fn models(change: impl FnOnce(&mut Value)) -> Variant {
    Variant::of("digits", |yaml| {
        let predictor = yaml["predictor"]
            .as_object_mut()
            .expect("it has a predictor");
        predictor.retain(|key, _| key == "models");
        change(yaml);
    })
}

async fn node(change: impl FnOnce(&mut Value)) -> Node {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&models(change).path()).await;
    node
}

/// Pixels as `[1, 8, 8]`.
fn nested(pixels: &[f32; 64]) -> Value {
    json!([pixels.chunks(8).collect::<Vec<_>>()])
}

fn row(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().expect("a list").iter();
    numbers
        .map(|n| n.as_f64().expect("a number") as f32)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_lists_give_the_golden_logits() {
    let node = node(|_| {}).await;
    let golden = Golden::read();
    for rows in [golden.pixels.len(), 1] {
        let pixels: Vec<Value> = golden.pixels[..rows].iter().map(nested).collect();
        let body = json!({"inputs": {"pixels": pixels}});
        let answer = node.post_json("/digits", &body).await.ok().json();
        let logits = answer["outputs"]["logits"].as_array().expect("rows");
        assert_eq!(logits.len(), rows);
        for (found, expected) in logits.iter().zip(&golden.logits) {
            let found = row(found);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-4,
                    "{found} is not {expected}"
                );
            }
        }
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1));
    }
    // No rows are no error.
    let empty = json!({"inputs": {"pixels": []}});
    assert_eq!(node.post_json("/digits", &empty).await.status, 400);
    let deployed = node.get("digits").await.expect("it is deployed");
    assert_eq!(deployed["name"], "digits");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_models_is_named() {
    let node = node(|yaml| {
        let models = yaml["predictor"]["models"].as_array_mut().expect("a list");
        let mut second = models[0].clone();
        second["name"] = "second".into();
        models.push(second);
    })
    .await;
    let held_out = HeldOut::read();
    let pixels = held_out.pixels[3].map(f32::from);
    let inputs = json!({"pixels": [nested(&pixels)]});
    for model in ["digits", "second"] {
        let body = json!({"model": model, "inputs": inputs});
        let answer = node.post_json("/digits", &body).await.ok().json();
        let logits = row(&answer["outputs"]["logits"][0]);
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let label = best.map(|(digit, _)| digit);
        assert_eq!(label, Some(held_out.predicted[3].into()), "{model}");
    }
    for (body, part) in [
        (
            json!({"inputs": inputs}),
            "add \"model\" with one of digits, second",
        ),
        (
            json!({"model": "third", "inputs": inputs}),
            "there is digits, second",
        ),
    ] {
        let said = node.post_json("/digits", &body).await.error(400);
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_the_tensors_name() {
    let node = node(|_| {}).await;
    let zeros = nested(&[0.0; 64]);
    let mut ragged = zeros.clone();
    ragged[0][3] = json!([1.0, 2.0]);
    let table = [
        (json!({}), "missing field `inputs`"),
        (json!([1]), "send {\"inputs\": {name: nested lists}}"),
        (
            json!({"inputs": [[0.0]]}),
            "an object with an entry for each input",
        ),
        (json!({"inputs": {}}), "input \"pixels\" is missing"),
        (
            json!({"input": {"pixels": [zeros]}}),
            "unknown field `input`",
        ),
        (
            json!({"inputs": {"pixel": [zeros]}}),
            "unknown input \"pixel\"; the model takes pixels",
        ),
        (json!({"inputs": {"pixels": zeros}}), "\"pixels\""),
        (json!({"inputs": {"pixels": [[[0.0]]]}}), "\"pixels\""),
        (
            json!({"inputs": {"pixels": [ragged]}}),
            "input \"pixels\": a list has 2 elements",
        ),
        (
            json!({"inputs": {"pixels": "seven"}}),
            "input \"pixels\": invalid type: string",
        ),
        (
            json!({"inputs": {"pixels": [[[[null]]]]}}),
            "input \"pixels\": invalid type: null",
        ),
    ];
    for (body, part) in table {
        let said = node.post_json("/digits", &body).await.error(400);
        assert!(said.contains(part), "{body}: {said}");
    }
    let twice = format!(r#"{{"inputs": {{"pixels": [{zeros}], "pixels": [{zeros}]}}}}"#);
    let broken: [(&[u8], &str); 4] = [
        (twice.as_bytes(), "\"pixels\" is given more than once"),
        (b"{\"inputs\": {\"pixels\": [[", "send {\"inputs\""),
        (b"", "send {\"inputs\""),
        (b"\x00\xff", "send {\"inputs\""),
    ];
    for (body, part) in broken {
        let said = node
            .post("/digits", "application/json", body)
            .await
            .error(400);
        assert!(said.contains(part), "{said}");
    }
    let deep = format!(r#"{{"inputs": {{"pixels": {}}}}}"#, "[".repeat(100_000));
    let said = node
        .post("/digits", "application/json", deep)
        .await
        .error(400);
    assert!(said.contains("send {\"inputs\""), "{said}");

    let get = node.fetch("/digits").await.error(405);
    assert!(get.contains("POST"), "{get}");
    let below = node.post_json("/digits/seven", &json!({})).await.error(404);
    assert!(below.contains("no paths below"), "{below}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_hold_and_requests_are_counted() {
    let node = node(|yaml| {
        yaml["limits"] = json!({"request_body": "4Ki", "response_body": "1Ki"});
    })
    .await;
    let one = nested(&[1.0; 64]);
    let body = |rows: usize| json!({"inputs": {"pixels": vec![&one; rows]}});
    let _answer = node.post_json("/digits", &body(1)).await.ok();
    let too_long = node.post_json("/digits", &body(50)).await.error(413);
    assert!(too_long.contains("4096 bytes"), "{too_long}");
    // Ten rows of ten logits take more than 1 KiB of JSON.
    let too_large = node.post_json("/digits", &body(10)).await.error(500);
    assert!(
        !too_large.contains("1024"),
        "the client is not told of the inside"
    );

    let metrics = node.metrics().await;
    for (class, count) in [("2xx", 1), ("4xx", 1), ("5xx", 1)] {
        let labels = format!(r#"deployment="digits",revision="1",code="{class}""#);
        let counted = metrics.value(&format!("dunlin_requests_total{{{labels}}}"));
        assert_eq!(counted, f64::from(count), "{class}");
    }
}
