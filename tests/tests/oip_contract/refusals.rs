//! Questions that have none.

use dunlin_tests::infer::{INFER, asked, check_logits, digits_and_echo, question, with_input};
use serde_json::{Value, json};

use super::{Check, Row, get, post, run};

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
