//! Extensions of the Open Inference Protocol that a row of its contract does not show: what is counted, and
//! what is compressed.

use std::io::{Read as _, Write as _};

use dunlin_tests::{
    Answer, Browser, Golden,
    infer::{Binary, INFER, digits_and_echo, with_input},
    send,
};
use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted() {
    let node = digits_and_echo("none").await;
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
async fn a_browser_shows_the_document() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let node = digits_and_echo("none").await;
    let shown = browser.dump(&format!("{}/v2/docs", node.data_url()));
    for part in ["/v2/models/{model}/infer", "InferRequest"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_those_who_read_that() {
    let node = digits_and_echo("none").await;
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
