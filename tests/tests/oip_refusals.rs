//! The Open Inference Protocol: the errors that clients must be able to rely on.

use dunlin_tests::{
    Node, NodeOptions, Variant,
    infer::{Binary, INFER, check_logits, digits, question},
    send,
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_is_refused() {
    let node = digits().await;
    let changed = |change: fn(&mut Value)| {
        let mut question = question();
        change(&mut question["inputs"][0]);
        question
    };
    let max = i64::MAX;
    let table: Vec<(&str, u16, &str, Value)> = vec![
        ("no input", 400, "pixels", json!({"inputs": []})),
        ("no inputs", 400, "inputs", json!({})),
        ("not an object", 400, "", json!([])),
        ("a number for inputs", 400, "", json!({"inputs": 1})),
        (
            "an unknown input",
            400,
            "stranger",
            changed(|i| i["name"] = "stranger".into()),
        ),
        (
            "no shape",
            400,
            "shape",
            changed(|i| drop(i.as_object_mut().map(|i| i.remove("shape")))),
        ),
        (
            "no data",
            400,
            "pixels",
            changed(|i| drop(i.as_object_mut().map(|i| i.remove("data")))),
        ),
        (
            "a wrong shape",
            400,
            "pixels",
            changed(|i| i["shape"] = json!([1, 64])),
        ),
        (
            "another rank",
            400,
            "pixels",
            changed(|i| i["shape"] = json!([64])),
        ),
        (
            "too few data",
            400,
            "pixels",
            changed(|i| i["data"] = json!([1.0])),
        ),
        (
            "too many data",
            400,
            "pixels",
            changed(|i| i["data"] = json!(vec![0; 65])),
        ),
        (
            "a negative dimension",
            400,
            "negative",
            changed(|i| i["shape"] = json!([-1, 1, 8, 8])),
        ),
        (
            "a dimension that is no number",
            400,
            "",
            changed(|i| i["shape"] = json!(["1"])),
        ),
        (
            "a dimension of a half",
            400,
            "",
            changed(|i| i["shape"] = json!([0.5])),
        ),
        (
            "too large a dimension",
            400,
            "",
            changed(|i| i["shape"] = json!([1e30])),
        ),
        (
            "a texts' datatype",
            400,
            "pixels",
            changed(|i| i["datatype"] = "BYTES".into()),
        ),
        (
            "another datatype",
            400,
            "pixels",
            changed(|i| i["datatype"] = "FP64".into()),
        ),
        (
            "an unknown datatype",
            400,
            "FP31",
            changed(|i| i["datatype"] = "FP31".into()),
        ),
        (
            "texts as data",
            400,
            "FP32",
            changed(|i| i["data"] = json!(vec!["1"; 64])),
        ),
        (
            "nulls as data",
            400,
            "FP32",
            changed(|i| i["data"] = json!(vec![Value::Null; 64])),
        ),
        (
            "booleans as data",
            400,
            "FP32",
            changed(|i| i["data"] = json!(vec![true; 64])),
        ),
        (
            "an object as data",
            400,
            "pixels",
            changed(|i| i["data"] = json!({"a": 1})),
        ),
        ("the input twice", 400, "pixels", {
            let mut question = question();
            question["inputs"] = json!([question["inputs"][0], question["inputs"][0]]);
            question
        }),
        ("an overflowing shape", 400, "pixels", {
            let mut question = question();
            question["inputs"][0]["shape"] = json!([max, max, 8, 8]);
            question
        }),
        ("a shape whose bytes overflow", 400, "pixels", {
            let mut question = question();
            question["inputs"][0]["shape"] = json!([max, 1, 1, 1]);
            question
        }),
        ("a million dimensions", 400, "pixels", {
            let mut question = question();
            question["inputs"][0]["shape"] = json!(vec![1; 1_000_000]);
            question
        }),
        ("an unknown output", 400, "stranger", {
            let mut question = question();
            question["outputs"] = json!([{"name": "stranger"}]);
            question
        }),
        ("an output twice", 400, "twice", {
            let mut question = question();
            question["outputs"] = json!([{"name": "logits"}, {"name": "logits"}]);
            question
        }),
        (
            "binary data that are not there",
            400,
            "pixels",
            changed(|i| {
                i.as_object_mut().map(|i| i.remove("data"));
                i["parameters"] = json!({"binary_data_size": 256});
            }),
        ),
        (
            "data in both ways",
            400,
            "pixels",
            changed(|i| {
                i["parameters"] = json!({"binary_data_size": 0});
            }),
        ),
    ];
    for (what, status, part, body) in table {
        let answer = node.post_json(INFER, &body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let error = answer.error(status);
        assert!(error.contains(part), "{what}: {error}");
    }
    for (what, body) in [
        ("nothing", ""),
        ("no JSON", "pixels=1"),
        ("half of it", "{\"inputs\": [{\"name\""),
        ("two of it", "{\"inputs\": []} {}"),
        (
            "not a number",
            "{\"inputs\": [{\"name\": \"pixels\", \"data\": [NaN]}]}",
        ),
    ] {
        let error = node.post(INFER, "application/json", body).await.error(400);
        assert!(error.contains("JSON"), "{what}: {error}");
    }
    // Deeper than any stack: in the data, around the whole, and in a parameter nobody reads.
    let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
    for (what, body) in [
        (
            "the data",
            question()
                .to_string()
                .replace("\"data\":[", &format!("\"data\":{open}[")),
        ),
        ("the whole", open.clone()),
        (
            "a parameter",
            format!("{{\"inputs\": [], \"parameters\": {{\"x\": {open}{close}}}}}"),
        ),
        ("objects", "{\"a\":".repeat(200_000)),
    ] {
        let answer = node.post(INFER, "application/json", body).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let _one_form = answer.error(400);
    }
    check_logits(&node.post_json(INFER, &question()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_binary_question_is_refused() {
    let node = digits().await;
    for length in [
        "-1",
        "x",
        "",
        "1e2",
        " ",
        "0x10",
        "+5",
        "99999999999999999999999",
        "100000",
    ] {
        let answer = Binary::question().send_with_length(&node, length).await;
        assert_eq!(answer.status, 400, "{length:?}: {}", answer.text());
        let error = answer.error(400);
        assert!(
            error.contains("Inference-Header-Content-Length"),
            "{length:?}: {error}"
        );
    }
    let sized = |size: Value| {
        Binary::question().with(|q| q.head["inputs"][0]["parameters"]["binary_data_size"] = size)
    };
    let table = [
        (
            "bytes are left over",
            Binary::question().with(|q| q.tensors.push(0)),
            "1 bytes follow",
        ),
        (
            "bytes are missing",
            Binary::question().with(|q| q.tensors.truncate(255)),
            "255 bytes",
        ),
        ("a size that is less", sized(json!(252)), ""),
        (
            "a size that is more",
            sized(json!(1_u64 << 40)),
            "1099511627776",
        ),
        ("a size below zero", sized(json!(-1)), ""),
        ("a size that is a text", sized(json!("256")), ""),
        (
            "a size within an element",
            Binary::question().with(|q| {
                q.head["inputs"][0]["parameters"]["binary_data_size"] = json!(255);
                q.tensors.pop();
            }),
            "pixels",
        ),
    ];
    for (what, question, part) in table {
        let answer = question.send(&node).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let error = answer.error(400);
        assert!(error.contains(part), "{what}: {error}");
    }
    check_logits(&Binary::question().send(&node).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_methods() {
    let node = digits().await;
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let unknown = "Request for unknown model";
    let table = [
        (&get, "/v2/models/nobody", 404, unknown),
        (&get, "/v2/models/nobody/ready", 404, unknown),
        (&post, "/v2/models/nobody/infer", 404, unknown),
        (&get, "/v2/models/digits.nobody", 404, unknown),
        (&get, "/v2/models/digits/versions/7", 404, unknown),
        (&get, "/v2/models/digits/versions/x", 404, unknown),
        (&get, "/v2/models/..%2fdigits", 404, unknown),
        (&get, "/v2/models/%ff", 404, unknown),
        (&get, "/v2/models", 404, "/v2/models"),
        (&get, "/v2/nothing", 404, "/v2/nothing"),
        (&get, "/v2/models/digits/nothing", 404, "nothing"),
        (&get, INFER, 405, "POST"),
        (&put, INFER, 405, "POST"),
        (&post, "/v2", 405, "GET"),
        (&post, "/v2/health/live", 405, "GET"),
        (&delete, "/v2/health/ready", 405, "GET"),
        (&post, "/v2/models/digits", 405, "GET"),
        (&post, "/v2/models/digits/ready", 405, "GET"),
        (&post, "/healthz", 405, "GET"),
        (&get, "/", 404, "POST"),
        (&post, "/nobody", 404, "no deployment \"nobody\""),
        (&post, "/v2x", 404, "no deployment \"v2x\""),
    ];
    for (method, path, status, part) in table {
        let answer = send(node.request(method.clone(), path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let error = answer.error(status);
        assert!(error.contains(part), "{method} {path}: {error}");
    }
    for path in [
        "/v2",
        "/v2/health/live",
        "/v2/models/digits/ready",
        "/healthz",
    ] {
        let head = send(node.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_an_end() {
    let node = Node::start(&NodeOptions::default());
    let small = Variant::of("digits", |yaml| {
        yaml["limits"]["request_body"] = "4Ki".into()
    });
    node.deploy(&small.path()).await;
    for path in [INFER, "/digits"] {
        let error = node
            .post(path, "application/json", vec![b' '; 4097])
            .await
            .error(413);
        assert!(error.contains("4096 bytes"), "{error}");
        // Without a length in front, the end is found on the way.
        let chunks = (0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let request = node.request(Method::POST, path).body(body);
        let error = send(request).await.error(413);
        assert!(error.contains("4096 bytes"), "{error}");
    }
    check_logits(&node.post_json(INFER, &question()).await);
}
