//! Calls that share runs of a model get their own answers, over HTTP and through the guest.

use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_tests::{HeldOut, Node, NodeOptions, Variant, infer::INFER, pixels_json};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_the_answer_to_its_own_question() {
    let node = Node::start(&NodeOptions::default());
    let batching = Variant::of("digits", |yaml| {
        let model = &mut yaml["predictor"]["models"][0];
        model["max_batch_size"] = 16.into();
        model["dynamic_batching"] = json!({"preferred_batch_size": [8, 16]});
        yaml["instances"] = json!({"max": 32});
    });
    node.deploy(&batching.path()).await;
    let held_out = HeldOut::read();
    let (node, held_out, wrong) = (&node, &held_out, &AtomicU64::new(0));
    let count = 4 * held_out.pixels.len();
    stream::iter(0..count)
        .for_each_concurrent(32, |number| async move {
            let number = number % held_out.pixels.len();
            let question = pixels_json(&held_out.pixels[number]);
            let answer = node.post_json("/digits", &question).await.ok().json();
            if answer["label"] != held_out.predicted[number] {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "of {count}");

    let metrics = node.metrics().await;
    let figure = |name: &str| {
        let labels = "{deployment=\"digits\",revision=\"1\",model=\"digits\"}";
        metrics.value(&format!("{name}{labels}"))
    };
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let asked = count as f64;
    assert_eq!(figure("dunlin_model_inferences_total"), asked);
    let runs = figure("dunlin_model_executions_total");
    assert!(
        runs < asked,
        "{runs} runs for {asked} calls: none were shared"
    );
}

/// What does not fit into one run is not run at all: it would keep the model from everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_a_batch_are_refused() {
    let node = Node::start(&NodeOptions::default());
    let batching = Variant::of("digits", |yaml| {
        yaml["predictor"]["models"][0]["max_batch_size"] = 16.into();
    });
    node.deploy(&batching.path()).await;
    let ask = async |rows: usize| {
        let question = json!({"inputs": [{
            "name": "pixels", "datatype": "FP32", "shape": [rows, 1, 8, 8], "data": vec![0; rows * 64],
        }]});
        node.post_json(INFER, &question).await
    };
    let error = ask(17).await.error(400);
    assert_eq!(
        error,
        "the inputs have 17 rows, and the model takes 16 at once (max_batch_size); send them in \
         several requests"
    );
    let answer = ask(16).await.ok().json();
    assert_eq!(answer["outputs"][0]["shape"], json!([16, 10]));
}
