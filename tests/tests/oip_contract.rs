//! The Open Inference Protocol's contract, row by row, and each of its refusals, against a running
//! node: a table of requests and of what must come of each. What takes more than a row is in
//! `oip_extensions` and `repository`.

use dunlin_tests::{
    Answer, Golden, Node,
    infer::{INFER, asked, check_logits, digits_and_echo, question, with_input},
    send,
};
use reqwest::Method;
use serde_json::{Value, json};

/// One row of the contract.
struct Row {
    what: &'static str,
    method: Method,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    status: u16,
    check: Check,
}

enum Check {
    /// The body is this document, but for fields that are null here.
    Is(Value),
    /// The body is an error whose text has this.
    Says(&'static str),
    Passes(fn(&Answer)),
}

/// A body as it is sent.
struct Text(String);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Value> for Text {
    fn from(json: Value) -> Self {
        Self(json.to_string())
    }
}

fn get(what: &'static str, path: &'static str, status: u16, check: Check) -> Row {
    Row {
        what,
        method: Method::GET,
        path,
        headers: &[],
        body: Vec::new(),
        status,
        check,
    }
}

fn post(
    what: &'static str,
    path: &'static str,
    body: impl Into<Text>,
    status: u16,
    check: Check,
) -> Row {
    Row {
        method: Method::POST,
        body: body.into().0.into_bytes(),
        ..get(what, path, status, check)
    }
}

async fn run(node: &Node, rows: Vec<Row>) {
    for row in rows {
        let mut request = node.request(row.method, row.path).body(row.body);
        for (name, value) in row.headers {
            request = request.header(*name, *value);
        }
        let answer = send(request).await;
        let what = format!("{} ({}): {}", row.what, row.path, answer.text());
        assert_eq!(answer.status, row.status, "{what}");
        match row.check {
            Check::Is(expected) => assert!(is(&answer.json(), &expected), "{what}"),
            Check::Says(part) => assert!(answer.error(row.status).contains(part), "{what}"),
            Check::Passes(check) => check(&answer),
        }
        match row.status {
            503 => assert_eq!(answer.header("retry-after"), "1", "{what}"),
            405 => assert!(!answer.header("allow").is_empty(), "{what}"),
            _ => {}
        }
    }
}

fn is(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (_, Value::Null) => true,
        (Value::Object(found), Value::Object(expected)) => {
            found.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, value)| found.get(key).is_some_and(|found| is(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| is(f, e))
        }
        (found, expected) => found == expected,
    }
}

fn any() -> Value {
    Value::Null
}

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

#[tokio::test(flavor = "multi_thread")]
async fn inferences_as_the_contract_has_them() {
    let node = digits_and_echo("none").await;
    let pixels: Vec<f32> = Golden::read().pixels[0].to_vec();
    let rows: Vec<Vec<f32>> = pixels.chunks(8).map(<[f32]>::to_vec).collect();
    let logits = || Check::Passes(check_logits);
    let nulls = asked(|q| {
        q["id"] = Value::Null;
        q["outputs"] = Value::Null;
        q["parameters"] = Value::Null;
        q["inputs"][0]["parameters"] = Value::Null;
    });
    let output = |parameters: Value| {
        asked(|q| q["outputs"] = json!([{"name": "logits", "parameters": parameters}]))
    };
    let with = |parameters: Value| asked(|q| q["parameters"] = parameters);
    let top = |answer: &Answer| {
        let output = &answer.json()["outputs"][0];
        assert_eq!(
            (&output["datatype"], &output["shape"]),
            (&json!("BYTES"), &json!([1, 3]))
        );
        let classes = output["data"].as_array().expect("a list");
        let best = classes[0].as_str().and_then(|class| class.split_once(':'));
        let (score, index) = best.expect("score:index");
        let golden = Golden::read().logits[0];
        let index: usize = index.parse().expect("an index");
        assert!(golden.iter().all(|logit| *logit <= golden[index]));
        let score: f32 = score.parse().expect("a number");
        assert!((score - golden[index]).abs() < 1e-4);
    };
    let raw = Golden::read().pixels[0];
    let raw: Vec<u8> = raw.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    run(
        &node,
        vec![
            post("flat data", INFER, question(), 200, logits()),
            post(
                "nested data",
                INFER,
                with_input(|i| i["data"] = json!([[rows]])),
                200,
                logits(),
            ),
            post("nulls are absent", INFER, nulls, 200, logits()),
            post("a null for an output's parameters", INFER, output(Value::Null), 200, logits()),
            post("an output by name", INFER, output(json!({"binary_data": false})), 200, logits()),
            post("no classes", INFER, output(json!({"classification": 0})), 200, logits()),
            post(
                "the best three classes",
                INFER,
                output(json!({"classification": 3})),
                200,
                Check::Passes(top),
            ),
            post("a timeout that is long", INFER, with(json!({"timeout": 60_000_000})), 200, logits()),
            post("no timeout", INFER, with(json!({"timeout": 0})), 200, logits()),
            post("no sequence", INFER, with(json!({"sequence_id": 0})), 200, logits()),
            post("a parameter that we do not know", INFER, with(json!({"x": [1]})), 200, logits()),
            Row {
                headers: &[("inference-header-content-length", "0")],
                body: raw,
                ..post("a raw body", INFER, "", 200, Check::Passes(dunlin_tests::infer::check_binary_logits))
            },
            post(
                "KServe v1",
                "/v1/models/digits:predict",
                json!({"instances": [[rows], [rows]]}),
                200,
                Check::Passes(|answer| {
                    let predictions = &answer.json()["predictions"];
                    assert_eq!(predictions.as_array().map(Vec::len), Some(2));
                    assert_eq!(predictions[0].as_array().map(Vec::len), Some(10));
                    assert_eq!(predictions[0], predictions[1]);
                    let first = predictions[0][0].as_f64().expect("a number") as f32;
                    assert!((first - Golden::read().logits[0][0]).abs() < 1e-4);
                }),
            ),
            post(
                "KServe v1, several inputs",
                "/v1/models/echo:predict",
                json!({"instances": [{"numbers": 1, "words": "a"}, {"words": "é", "numbers": -2.5}]}),
                200,
                Check::Is(json!({"predictions": [
                    {"numbers": 1.0, "words": "a"}, {"numbers": -2.5, "words": "é"},
                ]})),
            ),
            post(
                "KServe v1, no rows",
                "/v1/models/digits:predict",
                json!({"instances": []}),
                200,
                Check::Is(json!({"predictions": []})),
            ),
            post("TorchServe", "/predictions/echo", "{}", 200, Check::Passes(|_| {})),
            post("TorchServe, a version", "/predictions/echo/1", "{}", 200, Check::Passes(|_| {})),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_as_the_contract_has_them() {
    let node = digits_and_echo("none").await;
    let max = i64::MAX;
    let deep = "[".repeat(100_000);
    let hidden = |key: &str| {
        let closed = "]".repeat(100_000);
        format!("{{\"{key}\": [], \"else\": {deep}{closed}}}")
    };
    let with = |parameters: Value| asked(|q| q["parameters"] = parameters);
    let output = |parameters: Value| {
        asked(|q| q["outputs"] = json!([{"name": "logits", "parameters": parameters}]))
    };
    let echo = |parameters: Value| {
        json!({
            "inputs": [{"name": "numbers", "datatype": "FP32", "shape": [0], "data": []},
                {"name": "words", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
            "outputs": [{"name": "words", "parameters": parameters}],
        })
    };
    let unknown = || Check::Says("Request for unknown model");
    let v1 = "/v1/models/digits:predict";
    let echo_v1 = "/v1/models/echo:predict";
    run(
        &node,
        vec![
            post(
                "an unknown model",
                "/v2/models/nobody/infer",
                question(),
                404,
                unknown(),
            ),
            get("another method", INFER, 405, Check::Says("POST")),
            post(
                "a missing tensor",
                INFER,
                json!({"inputs": []}),
                400,
                Check::Says("pixels"),
            ),
            post(
                "an unknown datatype",
                INFER,
                with_input(|i| i["datatype"] = json!("FP8")),
                400,
                Check::Says("unsupported datatype 'FP8'"),
            ),
            post(
                "elements that overflow",
                INFER,
                with_input(|i| i["shape"] = json!([max, max, 8, 8])),
                400,
                Check::Says("pixels"),
            ),
            post(
                "bytes that overflow",
                INFER,
                with_input(|i| i["shape"] = json!([max, 1, 1, 1])),
                400,
                Check::Says("larger than this machine"),
            ),
            post(
                "a negative dimension",
                INFER,
                with_input(|i| i["shape"] = json!([-1, 1, 8, 8])),
                400,
                Check::Says("dimension -1 is negative"),
            ),
            post(
                "an output twice",
                INFER,
                asked(|q| q["outputs"] = json!([{"name": "logits"}, {"name": "logits"}])),
                400,
                Check::Says("twice"),
            ),
            post(
                "very deep JSON",
                INFER,
                deep.clone(),
                400,
                Check::Says("JSON"),
            ),
            post(
                "very deep JSON where nobody looks",
                INFER,
                hidden("inputs"),
                400,
                Check::Says("deep"),
            ),
            post(
                "the same by KServe v1",
                v1,
                hidden("instances"),
                400,
                Check::Says("deep"),
            ),
            post(
                "a list of what an object would have",
                INFER,
                "[null, null, []]",
                400,
                Check::Says("object"),
            ),
            post(
                "a number beyond the datatype",
                INFER,
                with_input(|i| i["data"][0] = json!(1e39)),
                400,
                Check::Says("out of range for FP32"),
            ),
            post(
                "more rows than a run takes",
                INFER,
                with_input(|i| {
                    i["shape"] = json!([9, 1, 8, 8]);
                    i["data"] = json!(vec![0; 9 * 64]);
                }),
                400,
                Check::Says("max_batch_size"),
            ),
            post(
                "shared memory for an input",
                INFER,
                with_input(|i| i["parameters"] = json!({"shared_memory_region": "r"})),
                400,
                Check::Says("shared_memory_region"),
            ),
            post(
                "shared memory for an output",
                INFER,
                output(json!({"shared_memory_region": "r"})),
                400,
                Check::Says("shared_memory_region"),
            ),
            post(
                "a sequence",
                INFER,
                with(json!({"sequence_id": 7})),
                400,
                Check::Says("sequence_id"),
            ),
            post(
                "by a text",
                INFER,
                with(json!({"sequence_id": "a"})),
                400,
                Check::Says("sequence_id"),
            ),
            // A microsecond is over before the tensors are read.
            post(
                "a timeout that has passed",
                INFER,
                with(json!({"timeout": 1})),
                504,
                Check::Says("deadline"),
            ),
            post(
                "a negative timeout",
                INFER,
                with(json!({"timeout": -1})),
                400,
                Check::Says("JSON"),
            ),
            post(
                "classes below zero",
                INFER,
                output(json!({"classification": -1})),
                400,
                Check::Says("JSON"),
            ),
            post(
                "classes of texts",
                "/v2/models/echo/infer",
                echo(json!({"classification": 1})),
                400,
                Check::Says("'words' is BYTES, which has no greatest elements"),
            ),
            Row {
                headers: &[("inference-header-content-length", "-1")],
                ..post(
                    "a length below zero",
                    INFER,
                    question(),
                    400,
                    Check::Says("Content-Length"),
                )
            },
            Row {
                headers: &[("inference-header-content-length", "99999")],
                ..post(
                    "a length beyond the body",
                    INFER,
                    question(),
                    400,
                    Check::Says("Content-Length"),
                )
            },
            Row {
                headers: &[("inference-header-content-length", "0")],
                ..post(
                    "raw, for two inputs",
                    "/v2/models/echo/infer",
                    "x",
                    400,
                    Check::Says("one input"),
                )
            },
            Row {
                headers: &[("content-encoding", "br")],
                ..post(
                    "another encoding",
                    INFER,
                    question(),
                    415,
                    Check::Says("gzip, deflate"),
                )
            },
            post(
                "too large",
                INFER,
                " ".repeat((16 << 20) + 1),
                413,
                Check::Says("16777216 bytes"),
            ),
            post("v1: no instances", v1, "{}", 400, Check::Says("instances")),
            post("v1: no JSON", v1, "x", 400, Check::Says("instances")),
            post(
                "v1: rows of two shapes",
                v1,
                json!({"instances": [[[1.0]], [[1.0, 2.0]]]}),
                400,
                Check::Says("instance 1 has the shape"),
            ),
            post(
                "v1: another shape",
                v1,
                json!({"instances": [[1.0]]}),
                400,
                Check::Says("pixels"),
            ),
            post(
                "v1: an input is missing",
                echo_v1,
                json!({"instances": [{"numbers": 1}]}),
                400,
                Check::Says("input 'words' is in 0 of 1 instances"),
            ),
            post(
                "v1: an input is missing before",
                echo_v1,
                json!({"instances": [{"numbers": 1}, {"numbers": 1, "words": "a"}]}),
                400,
                Check::Says("missing before"),
            ),
            post(
                "v1: a stranger",
                echo_v1,
                json!({"instances": [{"stranger": 1}]}),
                400,
                Check::Says("unknown input 'stranger'"),
            ),
            post(
                "v1: no object",
                echo_v1,
                json!({"instances": [1]}),
                400,
                Check::Says("instance 0"),
            ),
            post(
                "v1: nobody",
                "/v1/models/nobody:predict",
                "{}",
                404,
                unknown(),
            ),
            post(
                "v1: another verb",
                "/v1/models/digits:explain",
                "{}",
                404,
                Check::Says("no such path"),
            ),
            get("v1: another method", v1, 405, Check::Says("POST")),
            post(
                "TorchServe: nobody",
                "/predictions/nobody",
                "",
                404,
                unknown(),
            ),
            post(
                "TorchServe: no version",
                "/predictions/echo/9",
                "",
                404,
                unknown(),
            ),
            post(
                "a load, where nobody may",
                "/v2/repository/models/digits/load",
                "",
                403,
                Check::Says("model_control"),
            ),
            post(
                "an unload, where nobody may",
                "/v2/repository/models/digits/unload",
                "",
                403,
                Check::Says("failed to unload 'digits'"),
            ),
        ],
    )
    .await;
    check_logits(&node.post_json(INFER, &question()).await);
}
