//! Questions to the digits model over the Open Inference Protocol, and what their answers must be.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Answer, Golden, Node, NodeOptions, Variant, package, send};

/// Where the digits model is asked for tensors.
pub const INFER: &str = "/v2/models/digits/infer";

/// A node that serves digits.
pub async fn digits() -> Node {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node
}

/// A node with digits, which batches, and echo, which serves tensors of its own; `model_control` says who
/// may load and unload.
pub async fn digits_and_echo(model_control: &str) -> Node {
    let node = Node::start(&NodeOptions {
        config: format!("model_control: {model_control}\n"),
        ..NodeOptions::default()
    });
    let batching = Variant::of("digits", |yaml| {
        let model = &mut yaml["predictor"]["models"][0];
        model["max_batch_size"] = json!(8);
        model["dynamic_batching"] = json!({"preferred_batch_size": [4, 8]});
    });
    node.deploy(&batching.path()).await;
    node.deploy(&package("echo")).await;
    node
}

/// A request for the first golden sample, all in JSON.
#[must_use]
pub fn question() -> Value {
    let pixels = Golden::read().pixels[0];
    json!({"id": "q-1", "inputs": [{
        "name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": &pixels[..],
    }]})
}

/// The question with something changed.
#[must_use]
pub fn asked(change: impl FnOnce(&mut Value)) -> Value {
    let mut question = question();
    change(&mut question);
    question
}

/// The question with something of its input changed.
#[must_use]
pub fn with_input(change: impl FnOnce(&mut Value)) -> Value {
    asked(|question| change(&mut question["inputs"][0]))
}

/// The answer has the first golden sample's logits, in JSON.
///
/// # Panics
/// It has not.
pub fn check_logits(answer: &Answer) {
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

/// A body of JSON and tensors, and the header that says where one ends.
#[derive(Debug)]
pub struct Binary {
    pub head: Value,
    pub tensors: Vec<u8>,
}

impl Binary {
    /// The first golden sample.
    #[must_use]
    pub fn question() -> Self {
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

    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub async fn send(&self, node: &Node) -> Answer {
        self.send_to(node, INFER).await
    }

    /// To another model than digits.
    pub async fn send_to(&self, node: &Node, path: &str) -> Answer {
        let length = self.head.to_string().len().to_string();
        self.send_to_with_length(node, path, &length).await
    }

    /// With a header that says `length`, right or wrong.
    pub async fn send_with_length(&self, node: &Node, length: &str) -> Answer {
        self.send_to_with_length(node, INFER, length).await
    }

    async fn send_to_with_length(&self, node: &Node, path: &str, length: &str) -> Answer {
        let body = [self.head.to_string().as_bytes(), &self.tensors].concat();
        let request = node.request(Method::POST, path).body(body);
        // tritonclient sends no content type.
        send(request.header("Inference-Header-Content-Length", length)).await
    }
}

/// The answer has the first golden sample's logits, as bytes.
///
/// # Panics
/// It has not.
pub fn check_binary_logits(answer: &Answer) {
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

/// The logits of each row, asked for and given in the protocol's binary form.
///
/// # Panics
/// The answer is another.
pub async fn infer_binary(node: &Node, pixels: &[[f32; 64]]) -> Vec<[f32; 10]> {
    let flat = pixels.as_flattened();
    let tensors: Vec<u8> = flat.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let question = Binary {
        head: json!({
            "inputs": [{
                "name": "pixels", "datatype": "FP32", "shape": [pixels.len(), 1, 8, 8],
                "parameters": {"binary_data_size": tensors.len()},
            }],
            "parameters": {"binary_data_output": true},
        }),
        tensors,
    };
    let answer = question.send(node).await.ok();
    let length = answer.header("inference-header-content-length");
    let (head, tensor) = answer.body.split_at(length.parse().expect("a length"));
    let head: Value = serde_json::from_slice(head).expect("the head is JSON");
    let output = &head["outputs"][0];
    assert_eq!(output["name"], "logits");
    assert_eq!(output["shape"], json!([pixels.len(), 10]));
    assert_eq!(output["parameters"]["binary_data_size"], tensor.len());
    assert_eq!(output["data"], Value::Null);
    let floats = tensor.as_chunks().0.iter();
    let floats: Vec<f32> = floats.map(|bytes| f32::from_le_bytes(*bytes)).collect();
    floats.as_chunks().0.to_vec()
}
