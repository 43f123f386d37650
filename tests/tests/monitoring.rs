//! What a node counts of predictions is what it answered.

use std::collections::BTreeMap;

use dunlin_tests::{HeldOut, Node, NodeOptions, Variant, pixels_json};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_counted_as_they_were_answered() {
    let node = Node::start(&NodeOptions::default());
    let monitored = Variant::of("digits", |yaml| {
        yaml["monitoring"] = json!({"model_type": "classification", "key": "label"});
    });
    node.deploy(&monitored.path()).await;
    let held_out = HeldOut::read();
    let mut answered = BTreeMap::<i64, f64>::new();
    for pixels in &held_out.pixels[..50] {
        let answer = node.post_json("/digits", &pixels_json(pixels)).await.ok();
        let label = answer.json()["label"].as_i64().unwrap();
        *answered.entry(label).or_default() += 1.0;
    }
    assert!(answered.len() > 5, "{answered:?}");
    // An error predicts nothing.
    let _error = node.post_json("/digits", &json!({})).await.error(400);
    let metrics = node.metrics().await;
    let labels = "deployment=\"digits\",revision=\"1\"";
    for (class, count) in &answered {
        let name = format!("dunlin_predictions_total{{{labels},class=\"{class}\"}}");
        assert_eq!(metrics.value(&name), *count, "{name}");
    }
    let unread = format!("dunlin_predictions_unread_total{{{labels}}}");
    assert_eq!(metrics.value(&unread), 0.0);
}

/// A flood of labels is bounded; values go into a histogram; what is not there is said.
#[tokio::test(flavor = "multi_thread")]
async fn labels_are_bounded_and_values_are_measured() {
    let node = Node::start(&NodeOptions::default());
    let monitored = |model_type: &str, key: &str| {
        let monitoring = json!({"model_type": model_type, "key": key});
        Variant::of("echo", |yaml| yaml["monitoring"] = monitoring)
    };
    let labels = monitored("classification", "body.json.label");
    node.deploy_as("labels", &labels.path()).await;
    for label in 0..120 {
        let body = json!({"label": format!("l{label}")});
        let _answer = node.post_json("/labels", &body).await.ok();
    }
    let values = monitored("regression", "body.json");
    node.deploy_as("values", &values.path()).await;
    for value in [json!(-4), json!([0.5, 0.6]), json!("none")] {
        let _answer = node.post_json("/values", &value).await.ok();
    }
    // Tensors count where one of them is what is counted.
    let values = monitored("regression", "outputs.numbers");
    node.deploy_as("tensors", &values.path()).await;
    let question = json!({"inputs": [
        {"name": "numbers", "datatype": "FP32", "shape": [2], "data": [1.5, 2.5]},
        {"name": "words", "datatype": "BYTES", "shape": [0], "data": []},
    ]});
    let _answer = node
        .post_json("/v2/models/tensors/infer", &question)
        .await
        .ok();
    let _answer = node
        .post_json("/v2/models/values/infer", &question)
        .await
        .ok();
    let metrics = node.metrics().await;
    let series = metrics.text.lines();
    let series = series.filter(|line| line.starts_with("dunlin_predictions_total{"));
    assert_eq!(series.count(), 101);
    for (name, expected) in [
        (
            "dunlin_predictions_total{deployment=\"labels\",revision=\"1\",class=\"__other__\"}",
            20.0,
        ),
        (
            "dunlin_prediction_value_count{deployment=\"values\",revision=\"1\"}",
            3.0,
        ),
        (
            "dunlin_prediction_value_bucket{deployment=\"values\",revision=\"1\",le=\"-2\"}",
            1.0,
        ),
        (
            "dunlin_prediction_value_bucket{deployment=\"values\",revision=\"1\",le=\"0.5\"}",
            2.0,
        ),
        (
            "dunlin_prediction_value_sum{deployment=\"tensors\",revision=\"1\"}",
            4.0,
        ),
        (
            "dunlin_predictions_unread_total{deployment=\"values\",revision=\"1\"}",
            1.0,
        ),
    ] {
        assert_eq!(metrics.value(name), expected, "{name}");
    }
}
