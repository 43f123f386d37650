//! From a model's outputs to the body of an answer: JSON, and behind it the tensors that were wanted as
//! bytes.

use dunlin_inference::{NamedTensors, Tensor};
use http::{HeaderValue, Response, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    address::Addressed,
    request::{Form, JSON_LENGTH},
    tensor_json,
};
use crate::http::body::{ReplyBody, full};

/// The answer to an inference.
#[derive(Serialize, JsonSchema)]
pub(crate) struct InferResponse<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryData>,
    /// The elements, row by row; absent where they come as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    data: Option<tensor_json::Flat<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct BinaryData {
    binary_data_size: usize,
}

impl<'a> Output<'a> {
    fn new(name: &'a str, tensor: &'a Tensor, binary: bool) -> Self {
        Self {
            name,
            datatype: tensor.dtype().name(),
            shape: tensor.shape(),
            parameters: binary.then(|| BinaryData {
                binary_data_size: tensor.data().len(),
            }),
            data: (!binary).then_some(tensor_json::Flat(tensor)),
        }
    }
}

pub(super) fn encode(model: &Addressed, form: Form, outputs: &NamedTensors) -> Response<ReplyBody> {
    let Form {
        id,
        binary: all_binary,
        binary_each,
    } = form;
    let binary = |position: usize| {
        let own = binary_each.get(position).copied().flatten();
        own.unwrap_or(all_binary)
    };
    let described = outputs.iter().enumerate();
    let described = described.map(|(at, (name, tensor))| Output::new(name, tensor, binary(at)));
    let answer = InferResponse {
        model_name: &model.name,
        model_version: model.version(),
        id,
        outputs: described.collect(),
    };
    let mut body = serde_json::to_vec(&answer).expect("tensors have string keys and finite depth");
    let json_length = body.len();
    let mut any_binary = false;
    for (position, (_, tensor)) in outputs.iter().enumerate() {
        if binary(position) {
            any_binary = true;
            body.extend_from_slice(tensor.data());
        }
    }
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    let content_type = if any_binary {
        headers.insert(JSON_LENGTH, HeaderValue::from(json_length));
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
