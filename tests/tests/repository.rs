//! The model repository of the Open Inference Protocol: what an unload and a load do, and who may.

use dunlin_tests::{
    Node, Signal,
    infer::{INFER, check_logits, digits_and_echo, question},
    package, send,
};
use reqwest::Method;
use serde_json::{Value, json};

const LOAD: &str = "/v2/repository/models/digits/load";
const UNLOAD: &str = "/v2/repository/models/digits/unload";

async fn state(node: &Node) -> Value {
    let index = node.post("/v2/repository/index", "", "").await.ok().json();
    let mut models = index.as_array().expect("a list").iter();
    let digits = models.find(|model| model["name"] == "digits");
    digits.expect("it is there")["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_model_stays_so_until_it_is_loaded() {
    let mut node = digits_and_echo("open").await;
    let unloaded = || async {
        assert_eq!(state(&node).await, "UNAVAILABLE");
        for path in [
            INFER,
            "/digits",
            "/v1/models/digits:predict",
            "/predictions/digits",
        ] {
            let refused = node.post_json(path, &question()).await;
            assert!(refused.error(503).contains("was unloaded"), "{path}");
        }
        for path in ["", "/ready", "/config", "/stats"] {
            let path = format!("/v2/models/digits{path}");
            let _refused = node.fetch(&path).await.error(503);
        }
        let ready = json!({"ready": true});
        let index = node
            .post_json("/v2/repository/index", &ready)
            .await
            .ok()
            .json();
        assert_eq!(index.as_array().map(Vec::len), Some(1), "{index}");
        let _others = node.fetch("/v2/models/echo/ready").await.ok();
        assert_eq!(
            node.get("digits").await.expect("it is there")["status"],
            "unloaded"
        );
    };
    for body in ["", r#"{"parameters": {"unload_dependents": false}}"#] {
        let answer = node.post(UNLOAD, "", body).await.ok();
        assert_eq!(answer.text(), "");
        unloaded().await;
    }
    for signal in [Signal::Term, Signal::Kill] {
        node.restart(signal);
        assert_eq!(state(&node).await, "UNAVAILABLE");
        let _ready = node.fetch("/v2/health/ready").await.ok();
    }
    assert_eq!(node.post(LOAD, "", "").await.ok().text(), "");
    assert_eq!(state(&node).await, "READY");
    check_logits(&node.post_json(INFER, &question()).await);
    // A deploy serves as well.
    let _unloaded = node.post(UNLOAD, "", "").await.ok();
    node.deploy(&package("digits")).await;
    check_logits(&node.post_json(INFER, &question()).await);
    assert_eq!(state(&node).await, "READY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_may_change_how_a_model_is_run() {
    let mut node = digits_and_echo("open").await;
    let load = |config: Value| json!({"parameters": {"config": config}});
    let changed = json!({"max_batch_size": "16", "instance_group": [{"count": 2}]}).to_string();
    let _loaded = node.post_json(LOAD, &load(json!(changed))).await.ok();
    let config = node.fetch("/v2/models/digits/config").await.ok().json();
    assert_eq!(config["max_batch_size"], json!(16));
    assert_eq!(config["instance_group"][0]["count"], json!(2));
    // What it said may come back, and stays.
    let _loaded = node
        .post_json(LOAD, &load(json!(config.to_string())))
        .await
        .ok();
    assert_eq!(
        node.fetch("/v2/models/digits/config").await.ok().json(),
        config
    );
    let other = json!({"backend": "tensorrt"}).to_string();
    let refused = node.post_json(LOAD, &load(json!(other))).await.error(400);
    assert!(refused.contains("backend"), "{refused}");
    assert_eq!(
        config["dynamic_batching"]["preferred_batch_size"],
        json!([4, 8])
    );
    check_logits(&node.post_json(INFER, &question()).await);
    // What cannot be honoured changes nothing.
    let refused = [
        (LOAD, load(json!("{")), 400, "is not JSON"),
        (LOAD, load(json!("[]")), 400, "not a JSON object"),
        (
            LOAD,
            load(json!("{\"backend\": \"tensorrt\"}")),
            400,
            "backend",
        ),
        (
            LOAD,
            load(json!("{\"max_batch_size\": \"x\"}")),
            400,
            "max_batch_size",
        ),
        (
            LOAD,
            load(json!("{\"max_batch_size\": -1}")),
            400,
            "max_batch_size",
        ),
        (
            LOAD,
            load(json!(" ".repeat(100_000))),
            400,
            "config has 100000 bytes",
        ),
        (
            LOAD,
            json!({"parameters": {"file:1/model.onnx": "AAAA"}}),
            400,
            "dunlin deploy",
        ),
        (LOAD, json!({"parameters": 1}), 400, "JSON"),
        (
            "/v2/repository/models/nobody/load",
            json!({}),
            404,
            "'nobody'",
        ),
        (
            "/v2/repository/models/digits.digits/load",
            json!({}),
            400,
            "name 'digits'",
        ),
        (
            "/v2/repository/models/echo/load",
            load(json!("{}")),
            400,
            "this one has 0",
        ),
    ];
    for (path, body, status, part) in refused {
        let error = node.post_json(path, &body).await.error(status);
        assert!(error.contains("failed to load"), "{body}: {error}");
        assert!(error.contains(part), "{body}: {error}");
    }
    let after = node.fetch("/v2/models/digits/config").await.ok().json();
    assert_eq!(after, config);
    // It lasts as long as the revision does, or until a load without it.
    node.restart(Signal::Kill);
    assert_eq!(
        node.fetch("/v2/models/digits/config").await.ok().json(),
        config
    );
    let _loaded = node.post(LOAD, "", "").await.ok();
    let config = node.fetch("/v2/models/digits/config").await.ok().json();
    assert_eq!(config["max_batch_size"], json!(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_may_need_the_token() {
    let node = digits_and_echo("token").await;
    let _refused = node.post(UNLOAD, "", "").await.error(401);
    let wrong = node.request(Method::POST, UNLOAD).bearer_auth("wrong");
    let _refused = send(wrong).await.error(401);
    assert_eq!(state(&node).await, "READY");
    let right = node.request(Method::POST, UNLOAD).bearer_auth(node.token());
    let _unloaded = send(right).await.ok();
    assert_eq!(state(&node).await, "UNAVAILABLE");
}
