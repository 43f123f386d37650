//! The Open Inference Protocol, row by row: what is asked rightly. See `oip_refusals` for the rest.

use std::io::Write as _;

use dunlin_tests::{
    Golden, Node, NodeOptions, Variant,
    infer::{Binary, INFER, check_binary_logits, check_logits, digits, question},
    package, send,
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use reqwest::{Client, Method, Version};
use serde_json::{Value, json};

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
    let member = |text: &str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    let gzip = member(&body);
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(body.as_bytes()).unwrap();
    let deflate = deflate.finish().unwrap();
    let post = |encoding: &str, body: &[u8]| {
        let request = node.request(Method::POST, INFER).body(body.to_vec());
        send(request.header("content-encoding", encoding))
    };
    check_logits(&post("gzip", &gzip).await);
    check_logits(&post("deflate", &deflate).await);
    // What is written in parts is one text.
    let (front, back) = body.split_at(body.len() / 2);
    check_logits(&post("gzip", &[member(front), member(back)].concat()).await);
    for (encoding, whole) in [("gzip", &gzip), ("deflate", &deflate)] {
        let followed = post(encoding, &[whole, &b"!"[..]].concat()).await;
        let refused = followed.error(400);
        assert!(refused.contains("decompressed"), "{encoding}: {refused}");
    }
    let both = node.request(Method::POST, INFER).body(gzip.clone());
    let both = both.header("content-encoding", "identity");
    check_logits(&send(both.header("content-encoding", "gzip")).await);
    let twice = post("gzip, gzip", &gzip).await.error(415);
    assert!(twice.contains("gzip, gzip"), "{twice}");
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
async fn models_without_a_predictor_are_served() {
    let node = Node::start(&NodeOptions::default());
    let models = Variant::of("digits", |yaml| {
        let predictor = yaml["predictor"].as_object_mut().expect("an object");
        predictor.remove("path");
        predictor.remove("target");
    });
    node.deploy(&models.path()).await;
    check_logits(&node.post_json(INFER, &question()).await);
    let error = node.post_json("/digits", &json!({})).await.error(400);
    assert!(error.contains(r#"send {"inputs""#), "{error}");

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

/// A predictor may serve tensors itself; those of echo come back as they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_serves_its_own_tensors() {
    const ECHO: &str = "/v2/models/echo/infer";
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let metadata = node.fetch("/v2/models/echo").await.ok().json();
    assert_eq!(metadata["platform"], "dunlin_predictor");
    let tensors = json!([
        {"name": "numbers", "datatype": "FP32", "shape": [-1]},
        {"name": "words", "datatype": "BYTES", "shape": [-1]},
    ]);
    assert_eq!(metadata["inputs"], tensors);
    assert_eq!(metadata["outputs"], tensors);

    let asked = json!({"inputs": [
        {"name": "words", "datatype": "BYTES", "shape": [2], "data": ["é", ""]},
        {"name": "numbers", "datatype": "FP32", "shape": [3], "data": [1, -2.5, 1e30]},
    ]});
    let answer = node.post_json(ECHO, &asked).await.ok().json();
    let mut outputs = answer["outputs"].as_array().expect("a list").clone();
    outputs.sort_by_key(|output| output["name"].to_string());
    assert_eq!(outputs[0]["name"], "numbers");
    assert_eq!(outputs[0]["shape"], json!([3]));
    let numbers = outputs[0]["data"].as_array().expect("a list").iter();
    let numbers: Vec<f32> = numbers
        .map(|n| n.as_f64().expect("a number") as f32)
        .collect();
    assert_eq!(numbers, [1.0, -2.5, 1e30]);
    assert_eq!(outputs[1]["data"], json!(["é", ""]));

    // What the protocol can carry and JSON cannot goes through as well.
    let words = [4_u32.to_le_bytes().as_slice(), b"a\0\xffb"].concat();
    let binary = Binary {
        head: json!({"parameters": {"binary_data_output": true}, "inputs": [
            {"name": "numbers", "datatype": "FP32", "shape": [1], "data": [7]},
            {"name": "words", "datatype": "BYTES", "shape": [1],
             "parameters": {"binary_data_size": words.len()}},
        ]}),
        tensors: words.clone(),
    };
    let answer = binary.send_to(&node, ECHO).await.ok();
    let length = answer.header("inference-header-content-length");
    let (_head, tensors) = answer.body.split_at(length.parse().expect("a length"));
    assert_eq!(tensors, [&7_f32.to_le_bytes(), &words[..]].concat());

    let refused = json!({"inputs": [
        {"name": "numbers", "datatype": "FP64", "shape": [1], "data": [1]},
        {"name": "words", "datatype": "BYTES", "shape": [0], "data": []},
    ]});
    let error = node.post_json(ECHO, &refused).await.error(400);
    assert!(
        error.contains("\"numbers\" has datatype FP64, expected FP32"),
        "{error}"
    );
    let binary = Binary {
        head: json!({"inputs": [
            {"name": "numbers", "datatype": "FP32", "shape": [1],
             "parameters": {"binary_data_size": 4}},
            {"name": "words", "datatype": "BYTES", "shape": [0], "data": []},
        ]}),
        tensors: f32::NAN.to_le_bytes().to_vec(),
    };
    let error = binary.send_to(&node, ECHO).await.error(400);
    assert_eq!(error, "numbers has a NaN, which has no echo");
}
