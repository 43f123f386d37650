//! A request leaves its id wherever it was, and an operator decides what is written.

use dunlin_tests::{Cli, Node, NodeOptions, package, send, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn node(log: &str) -> Node {
    Node::start(&NodeOptions {
        config: format!("log: {log}\n"),
        ..NodeOptions::default()
    })
}

/// The lines of the access log that are there once `last` has answered.
fn access_lines(node: &Node, last: &str) -> Vec<Value> {
    until("the last request is in the log", SOON, || {
        let log = node.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines
            .filter(|line: &Value| line["target"] == "access")
            .collect();
        let written = lines.iter().any(|line| line["request_id"] == last);
        written.then_some(lines)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_line() {
    let node = node("{access: all}");
    node.deploy(&package("echo")).await;
    let ask = async |path: &str, id: &str, body: &'static str| {
        let request = node.request(Method::POST, path).header("x-request-id", id);
        let request = request.header("content-type", "text/plain");
        let answer = send(request.body(body)).await;
        assert_eq!(answer.header("x-request-id"), id);
        answer
    };
    let whole = ask("/echo/a%20b?secret=1", "first", "12345").await.ok();
    let _error = ask("/nobody", "second", "").await.error(404);
    let lines = access_lines(&node, "second");
    let [first, second] = &lines[..] else {
        unreachable!("two requests: {lines:?}")
    };
    let expected = json!({
        "target": "access", "request_id": "first", "method": "POST", "path": "/echo/a%20b",
        "deployment": "echo", "revision": 1, "status": 200, "request_bytes": 5,
        "response_bytes": whole.body.len(),
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(first[field], *value, "{field}");
    }
    assert!(first["duration_ms"].as_f64().unwrap() > 0.0);
    let client = first["client"].as_str().unwrap();
    assert!(client.starts_with("127.0.0.1:"), "{client}");
    assert_eq!(
        (&second["deployment"], &second["status"]),
        (&Value::Null, &json!(404))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_errors_are_written_where_that_was_asked_for() {
    let node = node("{access: errors, format: json}");
    node.deploy(&package("echo")).await;
    let _answer = node.post_json("/echo", &json!(1)).await.ok();
    let request = node
        .request(Method::GET, "/nobody")
        .header("x-request-id", "lost");
    let _error = send(request).await.error(404);
    assert_eq!(access_lines(&node, "lost").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_changes_while_the_node_runs() {
    let node = node("{level: info}");
    let level = async |request| send(request).await.ok().json()["level"].clone();
    assert_eq!(level(node.admin(Method::GET, "/v1/log")).await, "info");
    let refused = async |id: &str| {
        let request = node
            .request(Method::GET, "/nobody")
            .header("x-request-id", id);
        let _error = send(request).await.error(404);
    };
    refused("unheard").await;
    let debug = node
        .admin(Method::PUT, "/v1/log")
        .json(&json!({"level": "debug"}));
    assert_eq!(level(debug).await, "debug");
    refused("heard").await;
    until("the refusal is in the log", SOON, || {
        node.log().contains("heard").then_some(())
    });
    assert!(!node.log().contains("unheard"));
    let loud = node
        .admin(Method::PUT, "/v1/log")
        .json(&json!({"level": "loud"}));
    let error = send(loud).await.error(400);
    assert!(error.contains("error, warn, info, debug, trace"), "{error}");
    let cli = Cli::of(&node);
    let told = cli.run(["log-level"]);
    assert_eq!(told.stdout, "debug\n", "{}", told.stderr);
    let changed = cli.run(["log-level", "warn", "-o", "json"]);
    assert_eq!(changed.json(0), json!({"level": "warn"}));
    let stranger = node.client().put(format!("{}/v1/log", node.admin_url()));
    assert_eq!(send(stranger.body("{}")).await.status, 401);
}

/// What a predictor logs and what fails inside both carry the caller's id.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_and_a_predictors_lines_have_the_id() {
    let node = node("{format: json}");
    node.deploy(&package("misbehave")).await;
    let request = node
        .request(Method::POST, "/misbehave/trap")
        .header("x-request-id", "t-1");
    let _error = send(request.json(&json!({}))).await.error(500);
    let lines = until("the failure is in the log", SOON, || {
        let log = node.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines
            .filter(|line: &Value| line["request_id"] == "t-1")
            .collect();
        let failed = |line: &Value| line["message"] == "a request failed";
        lines.iter().any(failed).then_some(lines)
    });
    assert!(lines.iter().all(|line| line["request_id"] == "t-1"));
}
