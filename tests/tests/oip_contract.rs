//! The Open Inference Protocol's contract, row by row, and each of its refusals, against a running
//! node: a table of requests and of what must come of each.

use std::io::{Read as _, Write as _};

use dunlin_tests::{
    Answer, Golden, Node, NodeOptions, Signal, Variant,
    infer::{Binary, INFER, check_logits, question},
    package, send,
};
use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use reqwest::Method;
use serde_json::{Value, json};

/// A node that lets anybody load and unload, with digits, which batches, and echo, which serves
/// tensors of its own.
async fn node(model_control: &str) -> Node {
    let node = Node::start(&NodeOptions {
        config: format!("model_control: {model_control}\n"),
        ..NodeOptions::default()
    });
    node.deploy(&batching().path()).await;
    node.deploy(&package("echo")).await;
    node
}

fn batching() -> Variant {
    Variant::of("digits", |yaml| {
        let model = &mut yaml["predictor"]["models"][0];
        model["max_batch_size"] = json!(8);
        model["dynamic_batching"] = json!({"preferred_batch_size": [4, 8]});
    })
}

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

/// The question for digits with something changed.
fn asked(change: impl FnOnce(&mut Value)) -> Value {
    let mut question = question();
    change(&mut question);
    question
}

fn with_input(change: impl FnOnce(&mut Value)) -> Value {
    asked(|question| change(&mut question["inputs"][0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_and_its_models_say_of_themselves() {
    let node = node("none").await;
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
    let node = node("none").await;
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
    let node = node("none").await;
    let max = i64::MAX;
    let deep = "[".repeat(100_000);
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
            post("very deep JSON", INFER, deep, 400, Check::Says("JSON")),
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted() {
    let node = node("none").await;
    for rows in [1, 1, 3] {
        let pixels = Golden::read().pixels[0].repeat(rows);
        let asked = with_input(|i| {
            i["shape"] = json!([rows, 1, 8, 8]);
            i["data"] = json!(pixels);
        });
        let _answer = node.post_json(INFER, &asked).await.ok();
    }
    let refused = with_input(|i| i["shape"] = json!([1, 64]));
    let _refused = node.post_json(INFER, &refused).await.error(400);
    let stats = node.fetch("/v2/models/digits/stats").await.ok().json();
    let stats = &stats["model_stats"][0];
    assert_eq!(
        (&stats["inference_count"], &stats["execution_count"]),
        (&json!(5), &json!(3))
    );
    assert!(stats["last_inference"].as_u64() > Some(1_600_000_000_000));
    let counts = &stats["inference_stats"];
    for (counter, count) in [
        ("success", 3),
        ("fail", 1),
        ("queue", 3),
        ("compute_infer", 3),
    ] {
        assert_eq!(
            counts[counter]["count"],
            json!(count),
            "{counter}: {counts}"
        );
    }
    assert!(counts["compute_infer"]["ns"].as_u64() > Some(0));
    assert_eq!(counts["cache_hit"], json!({"count": 0, "ns": 0}));
    let batches = stats["batch_stats"].as_array().expect("a list");
    let batches: Vec<_> = batches
        .iter()
        .map(|batch| (&batch["batch_size"], &batch["compute_infer"]["count"]))
        .collect();
    assert_eq!(batches, [(&json!(1), &json!(2)), (&json!(3), &json!(1))]);
    // A predictor's own tensors are counted, too.
    let echo = json!({"inputs": [
        {"name": "numbers", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "words", "datatype": "BYTES", "shape": [0], "data": []}]});
    let _answer = node.post_json("/v2/models/echo/infer", &echo).await.ok();
    let stats = node.fetch("/v2/models/echo/stats").await.ok().json();
    assert_eq!(
        stats["model_stats"][0]["inference_stats"]["success"]["count"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_those_who_read_that() {
    let node = node("none").await;
    let pixels = Golden::read().pixels[0].repeat(8);
    let asked = with_input(|i| {
        i["shape"] = json!([8, 1, 8, 8]);
        i["data"] = json!(pixels);
    });
    let mut asked = asked;
    asked["id"] = json!("x".repeat(2000));
    let plain = node.post_json(INFER, &asked).await.ok();
    assert_eq!(plain.header("content-encoding"), "");
    let inflate = |answer: &Answer, encoding: &str| {
        let mut body = Vec::new();
        match encoding {
            "gzip" => GzDecoder::new(&answer.body[..]).read_to_end(&mut body),
            "deflate" => ZlibDecoder::new(&answer.body[..]).read_to_end(&mut body),
            _ => (&answer.body[..]).read_to_end(&mut body),
        }
        .expect("it is what it says");
        body
    };
    for (accepted, encoding) in [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, GZIP;q=0.5, deflate;q=0.4", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0", ""),
        ("br", ""),
        ("gzip;q=0.5, identity", ""),
    ] {
        let request = node.request(Method::POST, INFER).json(&asked);
        let answer = send(request.header("accept-encoding", accepted)).await.ok();
        assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
        assert_eq!(inflate(&answer, encoding), plain.body, "{accepted}");
    }
    // In as well as out, and with tensors as bytes: the length is that of the plain JSON.
    let binary = Binary::question().with(|q| {
        q.tensors = q.tensors.repeat(8);
        q.head["parameters"] = json!({"binary_data_output": true});
        q.head["id"] = json!("x".repeat(2000));
        let input = &mut q.head["inputs"][0];
        input["shape"] = json!([8, 1, 8, 8]);
        input["parameters"]["binary_data_size"] = json!(q.tensors.len());
    });
    let head = binary.head.to_string();
    let whole = [head.as_bytes(), &binary.tensors].concat();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&whole).expect("a Vec takes any bytes");
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(&whole).expect("a Vec takes any bytes");
    for (encoding, body) in [("gzip", gzip.finish()), ("deflate", deflate.finish())] {
        let request = node
            .request(Method::POST, INFER)
            .body(body.expect("a Vec takes any bytes"));
        let request = request
            .header("content-encoding", encoding)
            .header("accept-encoding", encoding)
            .header("inference-header-content-length", head.len());
        let answer = send(request).await.ok();
        assert_eq!(answer.header("content-encoding"), encoding);
        let body = inflate(&answer, encoding);
        let length = answer.header("inference-header-content-length");
        let (head, tensor) = body.split_at(length.parse().expect("a length"));
        let head: Value = serde_json::from_slice(head).expect("JSON");
        assert_eq!(head["outputs"][0]["shape"], json!([8, 10]));
        assert_eq!(tensor.len(), 8 * 40);
    }
}

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
    let mut node = node("open").await;
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
    let mut node = node("open").await;
    let load = |config: Value| json!({"parameters": {"config": config}});
    let changed = json!({"max_batch_size": "16", "instance_group": [{"count": 2}]}).to_string();
    let _loaded = node.post_json(LOAD, &load(json!(changed))).await.ok();
    let config = node.fetch("/v2/models/digits/config").await.ok().json();
    assert_eq!(config["max_batch_size"], json!(16));
    assert_eq!(config["instance_group"][0]["count"], json!(2));
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
    let node = node("token").await;
    let _refused = node.post(UNLOAD, "", "").await.error(401);
    let wrong = node.request(Method::POST, UNLOAD).bearer_auth("wrong");
    let _refused = send(wrong).await.error(401);
    assert_eq!(state(&node).await, "READY");
    let right = node.request(Method::POST, UNLOAD).bearer_auth(node.token());
    let _unloaded = send(right).await.ok();
    assert_eq!(state(&node).await, "UNAVAILABLE");
}
