//! From a message to a question, and from tensors to the message that answers it.

use std::{collections::HashMap, num::NonZeroU64};

use bytes::Bytes;
use dunlin_inference::{DType, NamedTensors, Tensor};

use super::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice, model_infer_request::InferInputTensor,
    model_infer_response::InferOutputTensor,
};
use crate::http::{
    failure::Failure,
    oip::{
        address::Addressed,
        question::{Parameters, Question, Wanted},
        request::{datatype, no_shared_memory, shape, timeout},
    },
};

type Given = HashMap<String, InferParameter>;

pub(super) fn question(request: ModelInferRequest) -> Result<Question, Failure> {
    let raw = request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        return Err(Failure::bad_request(format!(
            "there are {} raw_input_contents for {} inputs; send one for each, or contents in all",
            raw.len(),
            request.inputs.len()
        )));
    }
    let mut raw = raw.into_iter();
    let inputs = request.inputs.into_iter().map(|mut input| {
        let name = std::mem::take(&mut input.name);
        if input.parameters.contains_key("shared_memory_region") {
            return Err(no_shared_memory(&format!("input '{name}'")));
        }
        let tensor = tensor(input, raw.next())
            .map_err(|reason| Failure::bad_request(format!("input '{name}': {reason}")))?;
        Ok((name, tensor))
    });
    let inputs: NamedTensors = inputs.collect::<Result<_, Failure>>()?;
    let outputs = request.outputs.into_iter().map(|output| {
        let name = output.name;
        if output.parameters.contains_key("shared_memory_region") {
            return Err(no_shared_memory(&format!("output '{name}'")));
        }
        let classes = number(&output.parameters, "classification")?.and_then(NonZeroU64::new);
        Ok(Wanted { name, classes })
    });
    Ok(Question {
        inputs,
        outputs: outputs.collect::<Result<_, Failure>>()?,
        parameters: Parameters {
            timeout: timeout(number(&request.parameters, "timeout")?),
            in_sequence: match given(&request.parameters, "sequence_id") {
                Some(ParameterChoice::StringParam(id)) => !id.is_empty(),
                _ => number(&request.parameters, "sequence_id")?.is_some_and(|id| id != 0),
            },
        },
    })
}

fn given<'g>(parameters: &'g Given, name: &str) -> Option<&'g ParameterChoice> {
    parameters.get(name)?.parameter_choice.as_ref()
}

fn number(parameters: &Given, name: &str) -> Result<Option<u64>, Failure> {
    let number = match given(parameters, name) {
        None => return Ok(None),
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(*number),
        Some(_) => None,
    };
    let refused = || Failure::bad_request(format!("parameter '{name}' is not a number from 0 on"));
    number.map(Some).ok_or_else(refused)
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, String> {
    let dtype = datatype(&input.datatype)?;
    let shape = shape(&input.shape)?;
    let data = match (raw, input.contents) {
        (Some(_), Some(_)) => return Err("has both contents and raw_input_contents".to_owned()),
        (Some(raw), None) => raw,
        (None, contents) => data(dtype, contents.unwrap_or_default())?.into(),
    };
    Tensor::new(dtype, &shape, data).map_err(|error| error.to_string())
}

/// The list of the datatype's kind as little-endian bytes.
fn data(dtype: DType, contents: InferTensorContents) -> Result<Vec<u8>, String> {
    fn bytes<T, const N: usize>(elements: Vec<T>, to_le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        elements.into_iter().flat_map(to_le).collect()
    }
    fn narrow<W: Copy + std::fmt::Display, T: TryFrom<W>, const N: usize>(
        dtype: DType,
        elements: &[W],
        to_le: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(elements.len() * N);
        for element in elements {
            let narrow = T::try_from(*element)
                .map_err(|_| format!("contents: {element} is out of range for {dtype}"))?;
            bytes.extend_from_slice(&to_le(narrow));
        }
        Ok(bytes)
    }
    Ok(match dtype {
        DType::Bool => bytes(contents.bool_contents, |value| [u8::from(value)]),
        DType::I8 => narrow(dtype, &contents.int_contents, i8::to_le_bytes)?,
        DType::I16 => narrow(dtype, &contents.int_contents, i16::to_le_bytes)?,
        DType::I32 => bytes(contents.int_contents, i32::to_le_bytes),
        DType::I64 => bytes(contents.int64_contents, i64::to_le_bytes),
        DType::U8 => narrow(dtype, &contents.uint_contents, u8::to_le_bytes)?,
        DType::U16 => narrow(dtype, &contents.uint_contents, u16::to_le_bytes)?,
        DType::U32 => bytes(contents.uint_contents, u32::to_le_bytes),
        DType::U64 => bytes(contents.uint64_contents, u64::to_le_bytes),
        DType::F32 => bytes(contents.fp32_contents, f32::to_le_bytes),
        DType::F64 => bytes(contents.fp64_contents, f64::to_le_bytes),
        DType::F16 | DType::BF16 => {
            return Err(format!("{dtype} has no contents; send raw_input_contents"));
        }
        DType::Bytes => {
            let elements = contents.bytes_contents;
            let length = [elements.len() as u64];
            let joined = Tensor::from_byte_strings(&length, elements);
            joined
                .map_err(|error| error.to_string())?
                .into_data()
                .into()
        }
    })
}

pub(super) fn answer(model: &Addressed, id: String, outputs: NamedTensors) -> ModelInferResponse {
    let mut answer = ModelInferResponse {
        model_name: model.name.clone(),
        model_version: model.version(),
        id,
        ..ModelInferResponse::default()
    };
    for (name, tensor) in outputs {
        let sizes = tensor.shape().iter();
        answer.outputs.push(InferOutputTensor {
            name,
            datatype: tensor.dtype().name().to_owned(),
            shape: sizes
                .map(|size| i64::try_from(*size).unwrap_or(i64::MAX))
                .collect(),
            ..InferOutputTensor::default()
        });
        answer.raw_output_contents.push(tensor.into_data());
    }
    answer
}
