//! `…/infer`: a request's tensors in, the model's tensors out, each as JSON or as raw bytes behind
//! it (the binary tensor data extension of KServe and Triton).

use std::borrow::Cow;

use bytes::Bytes;
use dunlin_inference::{DType, Dim, Signature, Tensor};
use dunlin_sandbox::Deadline;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Addressed, tensor_json};
use crate::{
    deployment::TensorTarget,
    http::{
        body::{ReplyBody, full},
        data::Exchange,
        failure::Failure,
        predict,
    },
    traces::PredictorCall,
};

/// How many bytes of the body are JSON; the tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Deserialize)]
struct InferRequest<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(borrow, default)]
    outputs: Vec<RequestedOutput<'a>>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    binary_data_size: Option<u64>,
}

#[derive(Deserialize)]
struct RequestedOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// What the client wants to see of the answer.
struct Wanted {
    id: Option<String>,
    /// Empty: all, in the model's order.
    outputs: Vec<(String, Option<bool>)>,
    binary: bool,
}

pub(super) async fn infer(
    mut exchange: Exchange,
    addressed: &Addressed,
) -> Result<Response<ReplyBody>, Failure> {
    let revision = predict::serving(&addressed.deployment)?;
    let target = addressed.target()?;
    let deadline = Deadline::after(revision.limits.deadline);
    let body = exchange.read_body(&revision.limits, deadline).await?;
    let trace = exchange.trace().cloned();
    let (headers, id) = (exchange.parts.headers, exchange.id);
    let (inputs, wanted) = decode(&headers, &body, target.signature())?;
    check_outputs(&wanted, target.signature())?;
    let outputs = match target {
        TensorTarget::Predictor(predictor, signature) => {
            // A guest gets what it has said it takes, as a model does.
            let names = signature.inputs.iter().map(|spec| spec.name.clone());
            let ordered = signature.order_inputs(inputs)?;
            let inputs: NamedTensors = names.zip(ordered).collect();
            let traced = trace.as_ref().map(PredictorCall::begin);
            let runs = traced.as_ref().map(PredictorCall::runs);
            let called = predictor.infer(&id, &inputs, deadline, runs).await;
            addressed.deployment.figures.called(&called.times);
            if let Some(traced) = traced {
                traced.end(&called.times);
            }
            called.answer?
        }
        TensorTarget::Model(model) => predict::run(model, inputs, deadline, trace.as_ref()).await?,
    };
    encode(addressed, wanted, &outputs)
}

type NamedTensors = Vec<(String, Tensor)>;

fn decode(
    headers: &HeaderMap,
    body: &Bytes,
    signature: &Signature,
) -> Result<(NamedTensors, Wanted), Failure> {
    let json_length = json_length(headers, body)?;
    if json_length == Some(0) {
        return decode_raw(body, signature);
    }
    let (json, mut binary) = match json_length {
        Some(length) => (body.slice(..length), body.slice(length..)),
        None => (body.clone(), Bytes::new()),
    };
    let request: InferRequest<'_> = serde_json::from_slice(&json).map_err(|error| {
        Failure::bad_request(format!("the request is not inference JSON: {error}"))
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
    let outputs = request.outputs.into_iter();
    let wanted = Wanted {
        id: request.id.map(Cow::into_owned),
        outputs: outputs
            .map(|output| (output.name.into_owned(), output.parameters.binary_data))
            .collect(),
        binary: request.parameters.binary_data_output,
    };
    Ok((inputs, wanted))
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
    let dtype = DType::from_name(&input.datatype).ok_or_else(|| {
        format!(
            "unsupported datatype '{}'; write one such as FP32 or INT64",
            input.datatype
        )
    })?;
    let mut shape = Vec::with_capacity(input.shape.len());
    for dim in &input.shape {
        let dim = u64::try_from(*dim).map_err(|_| format!("dimension {dim} is negative"))?;
        shape.push(dim);
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

/// The whole body is the only input: its shape is the model's, with the one open dimension as large
/// as the bytes make it.
fn decode_raw(body: &Bytes, signature: &Signature) -> Result<(NamedTensors, Wanted), Failure> {
    let [input] = &signature.inputs[..] else {
        return Err(Failure::bad_request(format!(
            "a raw body is for a model of one input, and this one has {}",
            signature.inputs.len()
        )));
    };
    let shape = raw_shape(&input.shape, input.dtype, body.len()).ok_or_else(|| {
        Failure::bad_request(format!(
            "a raw body of {} bytes does not fill input '{}'",
            body.len(),
            input.name
        ))
    })?;
    let tensor = Tensor::new(input.dtype, &shape, body.clone())
        .map_err(|error| Failure::bad_request(format!("input '{}': {error}", input.name)))?;
    let wanted = Wanted {
        id: None,
        outputs: Vec::new(),
        binary: true,
    };
    Ok((vec![(input.name.clone(), tensor)], wanted))
}

fn raw_shape(dims: &[Dim], dtype: DType, bytes: usize) -> Option<Vec<u64>> {
    let mut fixed = dtype.size()? as u64;
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

fn check_outputs(wanted: &Wanted, signature: &Signature) -> Result<(), Failure> {
    for (index, (name, _)) in wanted.outputs.iter().enumerate() {
        if !signature.outputs.iter().any(|output| output.name == *name) {
            let known: Vec<&str> = signature.outputs.iter().map(|o| &*o.name).collect();
            return Err(Failure::bad_request(format!(
                "unexpected inference output '{name}'; the model has {}",
                known.join(", ")
            )));
        }
        if wanted.outputs[..index]
            .iter()
            .any(|(other, _)| other == name)
        {
            return Err(Failure::bad_request(format!(
                "output '{name}' is asked for twice"
            )));
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<tensor_json::Flat<'a>>,
}

impl<'a> Output<'a> {
    fn new(&(name, tensor, binary): &(&'a str, &'a Tensor, bool)) -> Self {
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

#[derive(Serialize)]
struct BinaryData {
    binary_data_size: usize,
}

fn encode(
    addressed: &Addressed,
    wanted: Wanted,
    tensors: &[(String, Tensor)],
) -> Result<Response<ReplyBody>, Failure> {
    let mut chosen: Vec<(&str, &Tensor, bool)> = Vec::with_capacity(tensors.len());
    if wanted.outputs.is_empty() {
        chosen.extend(
            tensors
                .iter()
                .map(|(name, tensor)| (&**name, tensor, wanted.binary)),
        );
    } else {
        for (name, binary) in &wanted.outputs {
            let Some((name, tensor)) = tensors.iter().find(|(output, _)| output == name) else {
                return Err(Failure::internal(
                    "the predictor failed",
                    format!("its infer did not return the output {name:?} that it describes"),
                ));
            };
            chosen.push((name, tensor, binary.unwrap_or(wanted.binary)));
        }
    }
    let answer = InferResponse {
        model_name: &addressed.name,
        model_version: addressed.version(),
        id: wanted.id,
        outputs: chosen.iter().map(Output::new).collect(),
    };
    let mut body = serde_json::to_vec(&answer).expect("tensors have string keys and finite depth");
    let json_length = body.len();
    let mut any_binary = false;
    for (_, tensor, _) in chosen.iter().filter(|(_, _, binary)| *binary) {
        any_binary = true;
        body.extend_from_slice(tensor.data());
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
    Ok(response)
}
