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
        Err(error) => {
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
            fields(json!({"code": code, "message": error.data()}))
        }
    }
}
