//! What a server and its models say of themselves.

use dunlin_tests::infer::digits_and_echo;
use serde_json::{Value, json};

use super::{Check, any, get, post, run};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_and_its_models_say_of_themselves() {
    let node = digits_and_echo("none").await;
    let duration = || json!({"count": null, "ns": null});
    let statistics = |name: &str| {
        json!({
            "name": name, "version": "1", "last_inference": null, "inference_count": null,
            "execution_count": null, "batch_stats": null,
            "inference_stats": {
                "success": duration(), "fail": duration(), "queue": duration(),
                "compute_input": duration(), "compute_infer": duration(),
                "compute_output": duration(), "cache_hit": duration(), "cache_miss": duration(),
            },
        })
    };
    let config = json!({
        "name": "digits", "platform": any(), "backend": any(),
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}],
        "instance_group": [{"name": "digits_0", "kind": "KIND_CPU", "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": [4, 8], "max_queue_delay_microseconds": 0,
            "default_queue_policy": {"max_queue_size": 256, "default_timeout_microseconds": 0},
        },
        "model_transaction_policy": {"decoupled": false},
    });
    let texts = json!([{"name": "numbers", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "words", "data_type": "TYPE_STRING", "dims": [-1]}]);
    let echo_config = json!({
        "name": "echo", "platform": "dunlin_predictor", "backend": "dunlin",
        "version_policy": any(), "max_batch_size": 0, "input": texts, "output": texts,
        "instance_group": any(), "model_transaction_policy": any(),
    });
    let server = json!({"name": "dunlin", "version": any(), "extensions": [
        "binary_tensor_data", "classification", "model_configuration", "model_repository",
        "statistics",
    ]});
    let ready = |name: &str| json!({"name": name, "ready": true});
    let unknown = || Check::Says("Request for unknown model");
    let index = json!([
        {"name": "digits", "version": "1", "state": "READY", "reason": ""},
        {"name": "echo", "version": "1", "state": "READY", "reason": ""},
    ]);
    let stats = |names: &[&str]| {
        let stats: Vec<Value> = names.iter().map(|name| statistics(name)).collect();
        Check::Is(json!({"model_stats": stats}))
    };
    run(
        &node,
        vec![
            get("the server", "/v2", 200, Check::Is(server.clone())),
            get("with a slash", "/v2/", 200, Check::Is(server)),
            get(
                "live",
                "/v2/health/live?x=1",
                200,
                Check::Is(json!({"live": true})),
            ),
            get(
                "ready",
                "/v2/health/ready",
                200,
                Check::Is(json!({"ready": true})),
            ),
            get(
                "a model ready",
                "/v2/models/echo/ready",
                200,
                Check::Is(ready("echo")),
            ),
            get(
                "config",
                "/v2/models/digits/config",
                200,
                Check::Is(config.clone()),
            ),
            get(
                "of a version",
                "/v2/models/digits/versions/1/config",
                200,
                Check::Is(config),
            ),
            get(
                "of a predictor",
                "/v2/models/echo/config",
                200,
                Check::Is(echo_config),
            ),
            get(
                "of no version",
                "/v2/models/digits/versions/2/config",
                404,
                unknown(),
            ),
            get("of nobody", "/v2/models/nobody/config", 404, unknown()),
            get("stats", "/v2/models/digits/stats", 200, stats(&["digits"])),
            get(
                "of a version",
                "/v2/models/digits/versions/1/stats",
                200,
                stats(&["digits"]),
            ),
            get(
                "of a predictor",
                "/v2/models/echo/stats",
                200,
                stats(&["echo"]),
            ),
            get(
                "of all",
                "/v2/models/stats",
                200,
                stats(&["digits", "echo"]),
            ),
            get("of nobody", "/v2/models/nobody/stats", 404, unknown()),
            post(
                "index, no body",
                "/v2/repository/index",
                "",
                200,
                Check::Is(index.clone()),
            ),
            post(
                "index, of ready ones",
                "/v2/repository/index",
                r#"{"ready":true}"#,
                200,
                Check::Is(index),
            ),
            post(
                "index, no JSON",
                "/v2/repository/index",
                "{",
                400,
                Check::Says("JSON"),
            ),
            get(
                "index, another method",
                "/v2/repository/index",
                405,
                Check::Says("POST"),
            ),
            post(
                "config, another method",
                "/v2/models/digits/config",
                "",
                405,
                Check::Says("GET"),
            ),
            get(
                "KServe v1: list",
                "/v1/models",
                200,
                Check::Is(json!({"models": ["digits", "echo"]})),
            ),
            get(
                "KServe v1: ready",
                "/v1/models/digits",
                200,
                Check::Is(ready("digits")),
            ),
            get("KServe v1: nobody", "/v1/models/nobody", 404, unknown()),
            get(
                "TorchServe: ping",
                "/ping",
                200,
                Check::Is(json!({"status": "Healthy"})),
            ),
            post(
                "TorchServe: ping, another method",
                "/ping",
                "",
                405,
                Check::Says("GET"),
            ),
        ],
    )
    .await;
}
