//! The Open Inference Protocol, row by row, with the errors that clients must be able to rely on.

use std::io::Write as _;

use dunlin_tests::{Answer, Golden, Node, NodeOptions, Variant, package, send};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use reqwest::{Client, Method, Version};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/digits/infer";

async fn digits() -> Node {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node
}

/// A request for the first golden sample, all in JSON.
fn question() -> Value {
    let pixels = Golden::read().pixels[0];
    json!({"id": "q-1", "inputs": [{
        "name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": &pixels[..],
    }]})
}

fn check_logits(answer: &Answer) {
    let answer = answer.clone().ok().json();
    let data = answer["outputs"][0]["data"].as_array().expect("a list");
    check_floats(
        data.iter()
            .map(|number| number.as_f64().expect("a number") as f32),
    );
}

fn check_floats(logits: impl Iterator<Item = f32>) {
    let expected = Golden::read().logits[0];
    let mut count = 0;
    for (found, expected) in logits.zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-4,
            "{found} is not {expected}"
        );
        count += 1;
    }
    assert_eq!(count, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metadata() {
    let node = digits().await;
    let table = [
        ("/v2/health/live", json!({"live": true})),
        ("/v2/health/live?verbose=1", json!({"live": true})),
        ("/v2/health/ready", json!({"ready": true})),
        (
            "/v2/models/digits/ready",
            json!({"name": "digits", "ready": true}),
        ),
        (
            "/v2/models/digits/versions/1/ready",
            json!({"name": "digits", "ready": true}),
        ),
        (
            "/v2/models/digits.digits/ready",
            json!({"name": "digits.digits", "ready": true}),
        ),
        ("/v2/models/digits", metadata("digits")),
        ("/v2/models/digits/", metadata("digits")),
        ("/v2/models/digits/versions/1", metadata("digits")),
        ("/v2/models/digits.digits", metadata("digits.digits")),
    ];
    for (path, expected) in table {
        let mut found = node.fetch(path).await.ok().json();
        if let Some(platform) = found.get_mut("platform") {
            assert!(
                platform.as_str().is_some_and(|p| p.starts_with("onnx")),
                "{platform}"
            );
            *platform = json!("");
        }
        assert_eq!(found, expected, "{path}");
    }
    for path in ["/v2", "/v2/"] {
        let server = node.fetch(path).await.ok().json();
        assert_eq!(server["name"], "dunlin");
        assert!(server["version"].is_string());
        assert_eq!(server["extensions"][0], "binary_tensor_data");
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "versions": ["1"], "platform": "",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_the_revision_that_serves() {
    let node = digits().await;
    node.deploy(&package("digits")).await;
    let found = node.fetch("/v2/models/digits").await.ok().json();
    assert_eq!(found["versions"], json!(["2"]));
    let answer = node
        .post_json("/v2/models/digits/versions/2/infer", &question())
        .await;
    check_logits(&answer);
    assert_eq!(answer.json()["model_version"], "2");
    for path in [
        "/v2/models/digits/versions/1",
        "/v2/models/digits/versions/1/ready",
    ] {
        let error = node.fetch(path).await.error(404);
        assert!(error.contains("Request for unknown model"), "{error}");
        assert!(error.contains("version 2 serves"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_repeats_what_was_asked() {
    let node = digits().await;
    let answer = node.post_json(INFER, &question()).await;
    check_logits(&answer);
    assert_eq!(answer.header("content-type"), "application/json");
    let mut found = answer.json();
    found["outputs"][0]["data"] = json!([]);
    assert_eq!(
        found,
        json!({
            "id": "q-1", "model_name": "digits", "model_version": "1",
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": []}],
        })
    );
    // Without an id there is none in the answer; nested data are the same data.
    let nested: Vec<Vec<Vec<Vec<f32>>>> = vec![vec![
        Golden::read().pixels[0]
            .chunks(8)
            .map(<[f32]>::to_vec)
            .collect(),
    ]];
    let mut asked = question();
    asked["inputs"][0]["data"] = json!(nested);
    asked["outputs"] = json!([{"name": "logits"}]);
    asked.as_object_mut().expect("an object").remove("id");
    let answer = node.post_json(INFER, &asked).await;
    check_logits(&answer);
    assert_eq!(answer.json().get("id"), None);
    // No rows are an answer of no rows.
    let mut none = question();
    none["inputs"][0]["shape"] = json!([0, 1, 8, 8]);
    none["inputs"][0]["data"] = json!([]);
    let none = node.post_json(INFER, &none).await.ok().json();
    assert_eq!(none["outputs"][0]["shape"], json!([0, 10]));
    assert_eq!(none["outputs"][0]["data"], json!([]));
}

/// A body of JSON and tensors, and the header that says where one ends.
struct Binary {
    head: Value,
    tensors: Vec<u8>,
}

impl Binary {
    fn question() -> Self {
        let pixels = Golden::read().pixels[0];
        let tensors: Vec<u8> = pixels.iter().flat_map(|p| p.to_le_bytes()).collect();
        Self {
            head: json!({"inputs": [{
                "name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8],
                "parameters": {"binary_data_size": tensors.len()},
            }]}),
            tensors,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    async fn send(&self, node: &Node) -> Answer {
        let head = self.head.to_string();
        self.send_with_length(node, &head.len().to_string()).await
    }

    async fn send_with_length(&self, node: &Node, length: &str) -> Answer {
        let body = [self.head.to_string().as_bytes(), &self.tensors].concat();
        let request = node.request(Method::POST, INFER).body(body);
        // tritonclient sends no content type.
        send(request.header("Inference-Header-Content-Length", length)).await
    }
}

fn check_binary_logits(answer: &Answer) {
    let answer = answer.clone().ok();
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    let length = answer.header("inference-header-content-length");
    let (head, tensor) = answer.body.split_at(length.parse().expect("a length"));
    let head: Value = serde_json::from_slice(head).expect("the head is JSON");
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 40);
    assert_eq!(tensor.len(), 40);
    let floats = tensor.as_chunks().0.iter();
    check_floats(floats.map(|bytes| f32::from_le_bytes(*bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_travel_as_bytes_where_that_is_asked_for() {
    let node = digits().await;
    check_logits(&Binary::question().send(&node).await);
    let all = |ask: bool| {
        Binary::question().with(|q| q.head["parameters"] = json!({"binary_data_output": ask}))
    };
    check_binary_logits(&all(true).send(&node).await);
    check_logits(&all(false).send(&node).await);
    // What is said of one output wins over what is said of all.
    for (of_all, of_one) in [(false, true), (true, false)] {
        let question = all(of_all).with(|q| {
            q.head["outputs"] = json!([{"name": "logits", "parameters": {"binary_data": of_one}}]);
        });
        let answer = question.send(&node).await;
        match of_one {
            true => check_binary_logits(&answer),
            false => check_logits(&answer),
        }
    }
    // JSON in, bytes out.
    let mut asked = question();
    asked["parameters"] = json!({"binary_data_output": true});
    check_binary_logits(&node.post_json(INFER, &asked).await);
    // The whole body is JSON, and the header says so.
    let whole = Binary {
        head: question(),
        tensors: Vec::new(),
    };
    check_logits(&whole.send(&node).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_body_is_the_only_input() {
    let node = digits().await;
    let Binary { tensors, .. } = Binary::question();
    let raw = |body: Vec<u8>| {
        let request = node.request(Method::POST, INFER).body(body);
        send(request.header("inference-header-content-length", "0"))
    };
    check_binary_logits(&raw(tensors.clone()).await);
    let two = raw(tensors.repeat(2)).await.ok();
    let length: usize = two
        .header("inference-header-content-length")
        .parse()
        .unwrap();
    assert_eq!(two.body.len() - length, 2 * 40);
    let error = raw(tensors[1..].to_vec()).await.error(400);
    assert!(error.contains("'pixels'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_read() {
    let node = digits().await;
    let body = question().to_string();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(body.as_bytes()).unwrap();
    let deflate = deflate.finish().unwrap();
    let post = |encoding: &str, body: &[u8]| {
        let request = node.request(Method::POST, INFER).body(body.to_vec());
        send(request.header("content-encoding", encoding))
    };
    check_logits(&post("gzip", &gzip).await);
    check_logits(&post("deflate", &deflate).await);
    check_logits(&post("identity", body.as_bytes()).await);
    // The length of the JSON is that of the uncompressed one.
    let binary = Binary::question();
    let head = binary.head.to_string();
    let mut gzipped = GzEncoder::new(Vec::new(), Compression::default());
    gzipped.write_all(head.as_bytes()).unwrap();
    gzipped.write_all(&binary.tensors).unwrap();
    let request = node
        .request(Method::POST, INFER)
        .body(gzipped.finish().unwrap());
    let request = request.header("content-encoding", "gzip");
    check_logits(&send(request.header("inference-header-content-length", head.len())).await);

    let cut = post("gzip", &gzip[..gzip.len() - 12]).await.error(400);
    assert!(cut.contains("decompressed"), "{cut}");
    let other = post("br", &gzip).await.error(415);
    assert!(other.contains("gzip, deflate"), "{other}");
    // 64 MiB of zeros are 64 KiB: the bound is on what they become.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    bomb.write_all(&vec![b' '; 64 << 20]).unwrap();
    let bomb = post("gzip", &bomb.finish().unwrap()).await.error(413);
    assert!(bomb.contains("larger than"), "{bomb}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_without_an_upgrade() {
    let node = digits().await;
    let client = Client::builder().no_proxy().http2_prior_knowledge();
    let client = client.build().unwrap();
    let url = format!("{}{INFER}", node.data_url());
    let asks = (0..20).map(|_| client.post(&url).json(&question()).send());
    for answer in futures_util::future::join_all(asks).await {
        let answer = answer.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.status(), 200);
    }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn models_without_a_predictor_are_served() {
    let node = Node::start(&NodeOptions::default());
    let models = Variant::of("digits", |yaml| {
        let predictor = yaml["predictor"].as_object_mut().expect("an object");
        predictor.remove("path");
        predictor.remove("target");
    });
    node.deploy(&models.path()).await;
    check_logits(&node.post_json(INFER, &question()).await);
    let error = node.post_json("/digits", &json!({})).await.error(404);
    assert!(error.contains("/v2/models/digits/infer"), "{error}");

    let two = Variant::of("digits", |yaml| {
        let second = yaml["predictor"]["models"][0].clone();
        let models = yaml["predictor"]["models"].as_array_mut().expect("a list");
        models.push(second);
        models[1]["name"] = "second".into();
    });
    node.deploy_as("two", &two.path()).await;
    let error = node
        .post_json("/v2/models/two/infer", &question())
        .await
        .error(404);
    assert!(error.contains("two.digits, two.second"), "{error}");
    for path in ["/v2/models/two.digits/infer", "/v2/models/two.second/infer"] {
        check_logits(&node.post_json(path, &question()).await);
    }
}
