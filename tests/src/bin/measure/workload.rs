//! What the servers are asked, in each one's own way, and how a right answer is known.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dunlin_tests::{HeldOut, pixels_json, repository};
use http::{HeaderName, Method, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::Question;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    Digits,
    ResNet18,
    Encoder,
}

/// How tensors travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Road {
    Json,
    Binary,
}

/// How a server wants its JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `{"pixels": rows}` and `{"data": numbers}`.
    Plain,
    /// The Open Inference Protocol.
    Protocol,
}

/// Part of every right answer.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Text(&'static str),
    Label(u8),
    /// The first numbers of the answer.
    Numbers(Vec<f64>),
    /// Numbers at the end of it: so many, and the first of them.
    Binary(usize, Vec<f64>),
}

/// A model of tens of milliseconds: one input and one output, of one row.
#[derive(Debug)]
pub(crate) struct Tensors {
    pub(crate) input: Tensor,
    pub(crate) output: Tensor,
}

#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    shape: &'static [usize],
}

const RESNET18: Tensors = Tensors {
    input: Tensor {
        name: "image",
        datatype: "FP32",
        shape: &[3, 224, 224],
    },
    output: Tensor {
        name: "logits",
        datatype: "FP32",
        shape: &[1000],
    },
};

const ENCODER: Tensors = Tensors {
    input: Tensor {
        name: "ids",
        datatype: "INT64",
        shape: &[128],
    },
    output: Tensor {
        name: "embedding",
        datatype: "FP32",
        shape: &[384],
    },
};

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Digits => "digits",
            Workload::ResNet18 => "resnet18",
            Workload::Encoder => "encoder",
        }
    }

    /// The file that every server loads. `models` is where ResNet-18 and the encoder lie.
    pub(crate) fn model(self, models: &Path) -> PathBuf {
        match self {
            Workload::Digits => repository().join("predictors/digits/models/digits.onnx"),
            _ => models.join(self.name()).with_extension("onnx"),
        }
    }

    pub(crate) fn tensors(self) -> Option<&'static Tensors> {
        match self {
            Workload::Digits => None,
            Workload::ResNet18 => Some(&RESNET18),
            Workload::Encoder => Some(&ENCODER),
        }
    }

    pub(crate) fn json(self, path: &str, form: Form) -> Result<Question> {
        let body = match (self.tensors(), form) {
            (None, Form::Plain) => pixels_json(&digit()?.0),
            (None, Form::Protocol) => {
                let pixels = digit()?.0.to_vec();
                json!({"inputs": [{
                    "name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": pixels,
                }]})
            }
            (Some(tensors), Form::Plain) => json!({"data": tensors.input.values()}),
            (Some(tensors), Form::Protocol) => {
                let mut input = tensors.input.head();
                input["data"] = tensors.input.values().into();
                json!({"inputs": [input]})
            }
        };
        let json = (header::CONTENT_TYPE, "application/json".to_owned());
        Ok(post(path, vec![json], body.to_string()))
    }

    /// Binary tensors of the Open Inference Protocol, in and out.
    pub(crate) fn protocol_binary(self, path: &str) -> Result<Question> {
        let input = &self.tensors().context("digits takes JSON")?.input;
        let tensor = input.bytes();
        let mut described = input.head();
        described["parameters"] = json!({"binary_data_size": tensor.len()});
        let head = json!({
            "parameters": {"binary_data_output": true},
            "inputs": [described],
        })
        .to_string();
        let length = (
            HeaderName::from_static("inference-header-content-length"),
            head.len().to_string(),
        );
        Ok(post(
            path,
            vec![length],
            [head.into_bytes(), tensor].concat(),
        ))
    }

    /// The tensor's bytes alone.
    pub(crate) fn raw(self, path: &str) -> Result<Question> {
        let tensors = self.tensors().context("digits takes JSON")?;
        let kind = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
        Ok(post(path, vec![kind], tensors.input.bytes()))
    }

    /// `numbers` is what ONNX Runtime gives for the question in process.
    pub(crate) fn check(self, road: Road, numbers: &[f64]) -> Result<Check> {
        Ok(match (self.tensors(), road) {
            (None, _) => Check::Label(digit()?.1),
            (Some(_), Road::Json) => Check::Numbers(numbers.to_vec()),
            (Some(tensors), Road::Binary) => {
                Check::Binary(tensors.output.elements(), numbers.to_vec())
            }
        })
    }
}

impl Tensor {
    /// With any number of rows.
    pub(crate) fn metadata(&self) -> Value {
        let shape = self.shape.iter().map(|size| json!(size));
        let shape: Vec<Value> = [json!(-1)].into_iter().chain(shape).collect();
        json!({"name": self.name, "datatype": self.datatype, "shape": shape})
    }

    fn head(&self) -> Value {
        let shape = [&[1], self.shape].concat();
        json!({"name": self.name, "datatype": self.datatype, "shape": shape})
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// A picture's brightness from 0 to 1, or ids of words. No zeros: they would be short in JSON.
    fn values(&self) -> Vec<Value> {
        let element = |at: usize| match self.datatype {
            "INT64" => json!(at * 37 % 30_000 + 100),
            _ => json!(brightness(at)),
        };
        (0..self.elements()).map(element).collect()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let element = |at: usize| match self.datatype {
            "INT64" => (at as u64 * 37 % 30_000 + 100).to_le_bytes().to_vec(),
            _ => brightness(at).to_le_bytes().to_vec(),
        };
        (0..self.elements()).flat_map(element).collect()
    }
}

impl Check {
    /// # Errors
    /// The answer is another, and is told.
    pub(crate) fn verify(&self, (status, body): &(StatusCode, Bytes)) -> Result<()> {
        let text = || {
            let start = &body[..body.len().min(300)];
            String::from_utf8_lossy(start).into_owned()
        };
        ensure!(
            *status == StatusCode::OK,
            "the answer is {status} {}",
            text()
        );
        let right = match self {
            Check::Text(part) => text().contains(part),
            Check::Label(label) => label_of(body) == Some(u64::from(*label)),
            Check::Numbers(expected) => close(&numbers_of(body), expected),
            Check::Binary(count, expected) => close(&floats_at_end(body, *count), expected),
        };
        ensure!(right, "the answer is {}, and not {self:?}", text());
        Ok(())
    }
}

fn digit() -> Result<([u8; 64], u8)> {
    let images = HeldOut::read();
    let (Some(pixels), Some(label)) = (images.pixels.first(), images.predicted.first()) else {
        anyhow::bail!("the held-out part of digits is empty")
    };
    Ok((*pixels, *label))
}

#[expect(clippy::cast_precision_loss, reason = "a byte")]
fn brightness(at: usize) -> f32 {
    (at * 37 % 255 + 1) as f32 / 256.0
}

fn post(path: &str, headers: Vec<(HeaderName, String)>, body: impl Into<Bytes>) -> Question {
    Question {
        method: Method::POST,
        path: path.to_owned(),
        headers,
        body: body.into(),
    }
}

fn label_of(body: &[u8]) -> Option<u64> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let label = answer.get("label");
    label
        .or_else(|| answer.pointer("/outputs/0/data/0"))?
        .as_u64()
}

/// Of a list, of `data`, or of the first output, in whatever nesting.
fn numbers_of(body: &[u8]) -> Vec<f64> {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let data = answer
        .get("data")
        .or_else(|| answer.pointer("/outputs/0/data"));
    let mut data = data.unwrap_or(&answer);
    while let Some(inner) = data.get(0).filter(|inner| inner.is_array()) {
        data = inner;
    }
    let numbers = data.as_array().into_iter().flatten();
    numbers.filter_map(Value::as_f64).collect()
}

fn floats_at_end(body: &[u8], count: usize) -> Vec<f64> {
    let at = body.len().saturating_sub(4 * count);
    let (floats, _) = body[at..].as_chunks();
    floats
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes).into())
        .collect()
}

/// As far as one engine differs from itself with other shapes around.
fn close(numbers: &[f64], expected: &[f64]) -> bool {
    numbers.len() >= expected.len()
        && numbers
            .iter()
            .zip(expected)
            .all(|(number, expected)| (number - expected).abs() <= 1e-3 + 1e-3 * expected.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_form_are_understood() {
        for body in [
            r#"{"label": 7, "probabilities": [0.5]}"#,
            r#"{"outputs": [{"name": "label", "data": [7]}]}"#,
        ] {
            assert_eq!(label_of(body.as_bytes()), Some(7), "{body}");
        }
        for body in [
            "[[1.5, 2]]",
            r#"{"data": [1.5, 2]}"#,
            r#"{"outputs": [{"data": [1.5, 2]}]}"#,
        ] {
            assert_eq!(numbers_of(body.as_bytes()), [1.5, 2.0], "{body}");
        }
        let body = [b"{}".to_vec(), 1.5_f32.to_le_bytes().to_vec()].concat();
        assert_eq!(floats_at_end(&body, 1), [1.5]);
    }

    #[test]
    fn another_answer_is_not_close() {
        assert!(close(&[1.0, 2.0, 3.0], &[1.0, 2.0001]));
        assert!(!close(&[1.0], &[1.0, 2.0]));
        assert!(!close(&[1.0, 2.1], &[1.0, 2.0]));
    }
}
