//! A request's trace arrives at a receiver of OpenTelemetry, below its caller's span.

use std::{net::TcpListener, thread, time::Duration};

use dunlin_tests::{
    HeldOut, Node, NodeOptions, OtlpReceiver, Signal, infer::INFER, package, pixels_json, send,
    until_async,
};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced(endpoint: &str) -> Node {
    Node::start(&NodeOptions {
        config: format!("traces: {{endpoint: '{endpoint}', sample_ratio: 0}}\n"),
        ..NodeOptions::default()
    })
}

fn named<'s>(spans: &'s [Value], name: &str) -> &'s Value {
    let found: Vec<&Value> = spans.iter().filter(|span| span["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

fn times(span: &Value) -> (u64, u64) {
    let time = |at: &str| span[at].as_u64().expect("a time");
    (time("start"), time("end"))
}

fn check_within(inner: &Value, outer: &Value) {
    assert_eq!(inner["parent"], outer["span"], "{inner}");
    let ((start, end), (outer_start, outer_end)) = (times(inner), times(outer));
    assert!(outer_start <= start && start <= end, "{inner} in {outer}");
    // Instants and the end of the whole are read one after the other.
    assert!(end <= outer_end, "{inner} in {outer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_arrives_below_its_caller() {
    let receiver = OtlpReceiver::start();
    let mut node = traced(receiver.endpoint());
    node.deploy(&package("digits")).await;
    let pixels = pixels_json(&HeldOut::read().pixels[0]);
    let ask = |id: &str, traceparent: &str| {
        let request = node.request(Method::POST, "/digits").json(&pixels);
        let request = request.header("tracestate", "vendor=1");
        request
            .header("x-request-id", id)
            .header("traceparent", traceparent)
    };
    let _answer = send(ask("asked", PARENT)).await.ok();
    let unsampled = PARENT.replace("-01", "-00");
    let _answer = send(ask("unsampled", &unsampled)).await.ok();
    let _answer = send(ask("untraced", "none")).await.ok();

    let (root, spans) = receiver.trace_of("asked");
    assert_eq!(root["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(root["parent"], "00f067aa0ba902b7");
    assert_eq!(
        (&root["kind"], &root["name"]),
        (&json!(2), &json!("POST digits"))
    );
    assert_eq!(root["state"], "vendor=1");
    assert_eq!(root["resource"]["service.name"], "dunlin");
    let attributes = &root["attributes"];
    assert_eq!(attributes["http.response.status_code"], 200);
    assert_eq!(attributes["dunlin.revision"], 1);
    let guest = named(&spans, "guest");
    for name in ["admission", "instance", "guest"] {
        check_within(named(&spans, name), &root);
    }
    for name in ["queue", "compute"] {
        check_within(named(&spans, name), guest);
    }
    assert_eq!(spans.len(), 5);

    // What is traced last is sent before the node ends; what was not sampled never is.
    let body = json!({"inputs": []});
    let request = node.request(Method::POST, INFER);
    let request = request
        .header("traceparent", PARENT)
        .header("x-request-id", "last");
    let _error = send(request.json(&body)).await.error(400);
    assert_eq!(node.stop(Signal::Term).code(), Some(0));
    let (last, _) = receiver.trace_of("last");
    assert_eq!(
        last["status"], 0,
        "the caller's mistake is no failure of ours"
    );
    // Every span tells of which request it is.
    let spans = receiver.spans();
    let mut ids: Vec<&Value> = spans
        .iter()
        .map(|span| &span["attributes"]["dunlin.request_id"])
        .collect();
    ids.dedup();
    assert_eq!(ids, ["asked", "last"]);
}

/// The collector takes connections and answers none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stalls_holds_up_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            open.push(stream);
        }
    });
    let node = traced(&endpoint);
    until_async("traces are dropped", Duration::from_secs(60), || async {
        stream::iter(0..500)
            .for_each_concurrent(8, |_| async {
                let request = node.request(Method::GET, "/healthz");
                let _healthy = send(request.header("traceparent", PARENT)).await.ok();
            })
            .await;
        let dropped = node.metrics().await.value("dunlin_traces_dropped_total");
        (dropped > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_there_are_no_traces() {
    let node = Node::start(&NodeOptions::default());
    let request = node.request(Method::GET, "/healthz");
    let _healthy = send(request.header("traceparent", PARENT)).await.ok();
    let dropped = node.metrics().await.get("dunlin_traces_dropped_total");
    assert_eq!(dropped, None);
}
