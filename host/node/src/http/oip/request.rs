//! From the body of `…/infer` to a question: tensors as JSON or as raw bytes behind it (the binary
//! tensor data extension of KServe and Triton).

use std::{borrow::Cow, num::NonZeroU64, time::Duration};

use bytes::Bytes;
use dunlin_inference::{DType, Dim, NamedTensors, Signature, Tensor};
use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    question::{Parameters, Question, Wanted},
    shallow, tensor_json,
};
use crate::http::failure::Failure;

/// How many bytes of a body are JSON; the tensors follow.
pub(super) const JSON_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// A request for an inference.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct InferRequest<'a> {
    /// Comes back with the answer.
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "or_default")]
    #[schemars(with = "Option<RequestParameters>")]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    /// Without them all are given.
    #[serde(borrow, default, deserialize_with = "or_default")]
    #[schemars(with = "Option<Vec<RequestedOutput<'static>>>")]
    outputs: Vec<RequestedOutput<'a>>,
}

#[derive(Deserialize, JsonSchema, Default)]
pub(crate) struct RequestParameters {
    /// Outputs come as bytes, unless they say otherwise.
    binary_data_output: Option<bool>,
    /// Microseconds; 0 is none.
    timeout: Option<u64>,
    /// Refused, unless it is 0 or empty.
    sequence_id: Option<SequenceId>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum SequenceId {
    Number(u64),
    Text(String),
}

#[derive(Deserialize, JsonSchema)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    /// Such as FP32, INT64 or BYTES.
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    #[schemars(with = "Option<InputParameters>")]
    parameters: InputParameters,
    /// The elements, row by row, flat or nested.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, JsonSchema, Default)]
struct InputParameters {
    /// The bytes behind the JSON that are this tensor.
    binary_data_size: Option<u64>,
    /// Refused.
    shared_memory_region: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct RequestedOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    #[schemars(with = "Option<OutputParameters>")]
    parameters: OutputParameters,
}

#[derive(Deserialize, JsonSchema, Default)]
struct OutputParameters {
    /// It comes as bytes behind the JSON.
    binary_data: Option<bool>,
    /// So many of its greatest elements instead, as texts `score:index`; 0 is none.
    classification: Option<u64>,
    /// Refused.
    shared_memory_region: Option<String>,
}

/// Null is as good as absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How the answer is to be written.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) id: Option<String>,
    /// For outputs that do not say it themselves.
    pub(super) binary: bool,
    /// What the wanted outputs say, in their order.
    pub(super) binary_each: Vec<Option<bool>>,
}

pub(super) fn decode(
    headers: &HeaderMap,
    body: &Bytes,
    signature: &Signature,
) -> Result<(Question, Form), Failure> {
    let json_length = json_length(headers, body)?;
    if json_length == Some(0) {
        return decode_raw(body, signature);
    }
    let (json, mut binary) = match json_length {
        Some(length) => (body.slice(..length), body.slice(length..)),
        None => (body.clone(), Bytes::new()),
    };
    let request: InferRequest<'_> = shallow::object(&json)
        .and_then(|()| serde_json::from_slice(&json).map_err(|error| error.to_string()))
        .map_err(|reason| {
            Failure::bad_request(format!("the request is not inference JSON: {reason}"))
        })?;
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let tensor = decode_input(&input, &mut binary)
            .map_err(|reason| Failure::bad_request(format!("input '{}': {reason}", input.name)))?;
        inputs.push((input.name.into_owned(), tensor));
    }
    if !binary.is_empty() {
        return Err(Failure::bad_request(format!(
            "{} bytes follow the last tensor; give every binary input its binary_data_size",
            binary.len()
        )));
    }
    let mut form = Form {
        id: request.id.map(Cow::into_owned),
        binary: request.parameters.binary_data_output.unwrap_or_default(),
        binary_each: Vec::new(),
    };
    let mut outputs = Vec::with_capacity(request.outputs.len());
    for RequestedOutput { name, parameters } in request.outputs {
        if parameters.shared_memory_region.is_some() {
            return Err(no_shared_memory(&format!("output '{name}'")));
        }
        form.binary_each.push(parameters.binary_data);
        outputs.push(Wanted {
            name: name.into_owned(),
            classes: parameters.classification.and_then(NonZeroU64::new),
        });
    }
    let parameters = request.parameters;
    let question = Question {
        inputs,
        outputs,
        parameters: Parameters {
            timeout: timeout(parameters.timeout),
            in_sequence: parameters.sequence_id.is_some_and(|id| match id {
                SequenceId::Number(id) => id != 0,
                SequenceId::Text(id) => !id.is_empty(),
            }),
        },
    };
    Ok((question, form))
}

/// None for no microseconds.
pub(crate) fn timeout(microseconds: Option<u64>) -> Option<Duration> {
    microseconds
        .filter(|microseconds| *microseconds > 0)
        .map(Duration::from_micros)
}

pub(crate) fn no_shared_memory(what: &str) -> Failure {
    Failure::bad_request(format!(
        "{what}: shared_memory_region: this node shares no memory with its clients; send the data"
    ))
}

/// `None`: all of the body is JSON.
fn json_length(headers: &HeaderMap, body: &Bytes) -> Result<Option<usize>, Failure> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<usize>().ok())
        .filter(|length| *length <= body.len());
    match length {
        Some(length) => Ok(Some(length)),
        None => Err(Failure::bad_request(format!(
            "Inference-Header-Content-Length {value:?} is not a length within the body's {} bytes",
            body.len()
        ))),
    }
}

fn decode_input(input: &Input<'_>, binary: &mut Bytes) -> Result<Tensor, String> {
    let dtype = datatype(&input.datatype)?;
    let shape = shape(&input.shape)?;
    if input.parameters.shared_memory_region.is_some() {
        return Err("shared_memory_region: this node shares no memory; send the data".to_owned());
    }
    let data = match (input.parameters.binary_data_size, input.data) {
        (Some(_), Some(_)) => return Err("has both data and binary_data_size".to_owned()),
        (None, None) => return Err("has neither data nor binary_data_size".to_owned()),
        (Some(size), None) => {
            let size = usize::try_from(size)
                .ok()
                .filter(|size| *size <= binary.len())
                .ok_or_else(|| {
                    format!(
                        "binary_data_size is {size} and {} bytes are left in the body",
                        binary.len()
                    )
                })?;
            binary.split_to(size)
        }
        (None, Some(data)) => tensor_json::parse(dtype, data)
            .map_err(|error| format!("data: {error}"))?
            .into(),
    };
    Tensor::new(dtype, &shape, data).map_err(|error| error.to_string())
}

pub(crate) fn datatype(name: &str) -> Result<DType, String> {
    DType::from_name(name)
        .ok_or_else(|| format!("unsupported datatype '{name}'; write one such as FP32 or INT64"))
}

pub(crate) fn shape(dims: &[i64]) -> Result<Vec<u64>, String> {
    let sizes = dims
        .iter()
        .map(|dim| u64::try_from(*dim).map_err(|_negative| format!("dimension {dim} is negative")));
    sizes.collect()
}

/// The whole body is the only input: its shape is the model's, with the one open dimension as large
/// as the bytes make it. Of texts it is one, without its length.
fn decode_raw(body: &Bytes, signature: &Signature) -> Result<(Question, Form), Failure> {
    let [input] = &signature.inputs[..] else {
        return Err(Failure::bad_request(format!(
            "a raw body is for a model of one input, and this one has {}",
            signature.inputs.len()
        )));
    };
    let does_not_fill = || {
        Failure::bad_request(format!(
            "a raw body of {} bytes does not fill input '{}'",
            body.len(),
            input.name
        ))
    };
    let wrong = |error| Failure::bad_request(format!("input '{}': {error}", input.name));
    let tensor = if input.dtype == DType::Bytes {
        let shape = raw_shape(&input.shape, 1, 1).ok_or_else(does_not_fill)?;
        Tensor::from_byte_strings(&shape, [body]).map_err(wrong)?
    } else {
        let size = input.dtype.size().unwrap_or(1);
        let shape = raw_shape(&input.shape, size, body.len()).ok_or_else(does_not_fill)?;
        Tensor::new(input.dtype, &shape, body.clone()).map_err(wrong)?
    };
    let inputs: NamedTensors = vec![(input.name.clone(), tensor)];
    let question = Question {
        inputs,
        ..Question::default()
    };
    let form = Form {
        binary: true,
        ..Form::default()
    };
    Ok((question, form))
}

/// The declared shape, with its only variable dimension as `bytes` and the size of an element say.
fn raw_shape(dims: &[Dim], size: usize, bytes: usize) -> Option<Vec<u64>> {
    let mut fixed = size as u64;
    let mut open = 0;
    for dim in dims {
        match dim {
            Dim::Fixed(size) => fixed = fixed.checked_mul(*size)?,
            Dim::Any => open += 1,
        }
    }
    let rest = (bytes as u64).checked_div(fixed)?;
    (open <= 1).then(|| {
        dims.iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Any => rest,
            })
            .collect()
    })
}
