//! Calls that share runs of a model get their own answers, over HTTP and through the guest.

use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_tests::{HeldOut, Node, NodeOptions, Variant, pixels_json, send};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
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

    let metrics = format!("{}/metrics", node.admin_url());
    let metrics = send(node.client().request(Method::GET, metrics)).await.ok();
    let figure = |name: &str| -> f64 {
        let line = format!("{name}{{deployment=\"digits\",model=\"digits\"}} ");
        let text = metrics.text();
        let value = text.lines().find_map(|found| found.strip_prefix(&line));
        value
            .expect("the figure is there")
            .parse()
            .expect("a number")
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
