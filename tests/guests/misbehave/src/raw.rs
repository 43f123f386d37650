//! Calls to `wasi:nn` that the SDK's types would not let by.

use dunlin_sdk::bindings::wasi::nn::errors;
use dunlin_sdk::bindings::wasi::nn::graph::{self, ExecutionTarget, GraphEncoding};
use dunlin_sdk::bindings::wasi::nn::tensor::{Tensor, TensorType};
use dunlin_sdk::{Error, Request};
use serde_json::json;

use crate::{Outcome, fields, number};

/// A tensor whose data ends within an element.
pub(crate) fn wrong_length(_: &Request) -> Result<Outcome, Error> {
    compute(Tensor::new(&[1, 1, 8, 8], TensorType::Fp32, &[0; 255]))
}

/// A tensor of more elements than a u64 counts.
pub(crate) fn overflow_dims(_: &Request) -> Result<Outcome, Error> {
    compute(Tensor::new(&[u32::MAX; 4], TensorType::Fp32, &[0; 256]))
}

/// A tensor of a million dimensions.
pub(crate) fn many_dimensions(_: &Request) -> Result<Outcome, Error> {
    compute(Tensor::new(&vec![1; 1 << 20], TensorType::Fp32, &[0; 4]))
}

/// A model from bytes, which needs the grant `load`; and these are no model.
pub(crate) fn load_bytes(_: &Request) -> Result<Outcome, Error> {
    let parts = [b"this is no model".to_vec()];
    said(graph::load(&parts, GraphEncoding::Onnx, ExecutionTarget::Cpu).map(drop))
}

/// Loads `?count=` models of its own, 100 by default, and keeps of each only what could run it.
pub(crate) fn load_many(request: &Request) -> Result<Outcome, Error> {
    let mut contexts = Vec::new();
    for number in 0..number(request, "count", 100)? {
        let parts = [identity(&[number + 1])];
        let graph = graph::load(&parts, GraphEncoding::Onnx, ExecutionTarget::Cpu);
        match graph.and_then(|graph| graph.init_execution_context()) {
            Ok(context) => contexts.push(context),
            Err(error) => return refused(&error, contexts.len()),
        }
    }
    fields(json!({"count": contexts.len()}))
}

/// Loads a hundred bytes that declare a tensor of 128 TiB.
pub(crate) fn load_huge(_: &Request) -> Result<Outcome, Error> {
    let parts = [identity(&[1 << 20, 1 << 25])];
    said(graph::load(&parts, GraphEncoding::Onnx, ExecutionTarget::Cpu).map(drop))
}

/// An ONNX file that gives its input of this shape back.
fn identity(shape: &[u64]) -> Vec<u8> {
    fn varint(bytes: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    fn number(field: u8, value: u64) -> Vec<u8> {
        let mut bytes = vec![field << 3];
        varint(&mut bytes, value);
        bytes
    }
    fn message(field: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![field << 3 | 2];
        varint(&mut bytes, content.len() as u64);
        bytes.extend_from_slice(content);
        bytes
    }
    let dims: Vec<u8> = shape
        .iter()
        .flat_map(|size| message(1, &number(1, *size)))
        .collect();
    let float = [number(1, 1), message(2, &dims)].concat();
    let value = |name: &[u8]| [message(1, name), message(2, &message(1, &float))].concat();
    let node = [message(1, b"x"), message(2, b"y"), message(4, b"Identity")].concat();
    let graph = [
        message(1, &node),
        message(2, b"g"),
        message(11, &value(b"x")),
        message(12, &value(b"y")),
    ];
    let opset = number(2, 13);
    [
        number(1, 8),
        message(7, &graph.concat()),
        message(8, &opset),
    ]
    .concat()
}

/// Keeps `?count=` tensors of a MiB, 100,000 by default.
pub(crate) fn many_tensors(request: &Request) -> Result<Outcome, Error> {
    let data = vec![0; 1 << 20];
    let mut tensors = Vec::new();
    for _ in 0..number(request, "count", 100_000)? {
        tensors.push(Tensor::new(&[1 << 20], TensorType::U8, &data));
    }
    fields(json!({"count": tensors.len()}))
}

fn compute(tensor: Tensor) -> Result<Outcome, Error> {
    let context = match graph::load_by_name("digits") {
        Ok(graph) => graph.init_execution_context(),
        Err(error) => Err(error),
    };
    said(
        context
            .and_then(|context| context.compute(vec![("pixels".into(), tensor)]))
            .map(drop),
    )
}

fn said(result: Result<(), errors::Error>) -> Result<Outcome, Error> {
    match result {
        Ok(()) => fields(json!({"code": null})),
        Err(error) => refused(&error, 0),
    }
}

/// What the host said after `count` times that it did not refuse.
fn refused(error: &errors::Error, count: usize) -> Result<Outcome, Error> {
    let code = match error.code() {
        errors::ErrorCode::InvalidArgument => "invalid-argument",
        errors::ErrorCode::InvalidEncoding => "invalid-encoding",
        errors::ErrorCode::Timeout => "timeout",
        errors::ErrorCode::RuntimeError => "runtime-error",
        errors::ErrorCode::UnsupportedOperation => "unsupported-operation",
        errors::ErrorCode::TooLarge => "too-large",
        errors::ErrorCode::NotFound => "not-found",
        errors::ErrorCode::Security => "security",
        errors::ErrorCode::Unknown => "unknown",
    };
    fields(json!({"code": code, "message": error.data(), "count": count}))
}
