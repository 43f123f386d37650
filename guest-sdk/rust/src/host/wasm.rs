//! The host that runs the component.

use std::fmt;

use crate::bindings::dunlin::predictor::{clock, logging, metrics, random, streaming};
use crate::bindings::wasi::nn::{errors, graph, inference, tensor};
use crate::dtype::DType;
use crate::log::Level;
use crate::model::{Encoding, ErrorCode, ModelError};
use crate::stream::StreamError;
use crate::tensor::Tensor;
use crate::tensors::Tensors;

pub(crate) use clock::{monotonic, now};
pub(crate) use metrics::{counter_add, gauge_set, histogram_observe};
pub(crate) use random::get_bytes as random_bytes;

/// An execution context; the graph it is of lives as long as it does.
pub(crate) struct Session {
    context: inference::GraphExecutionContext,
    _graph: graph::Graph,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

/// An answer that was begun.
pub(crate) struct BodyWriter(streaming::BodyWriter);

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}

impl BodyWriter {
    pub(crate) fn start(status: u16, headers: Vec<(String, String)>) -> Result<Self, StreamError> {
        let writer = streaming::BodyWriter::start(status, &headers);
        writer.map(Self).map_err(stream_error)
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        self.0.write(piece).map_err(stream_error)
    }
}

fn stream_error(error: streaming::StreamError) -> StreamError {
    match error {
        streaming::StreamError::Closed => StreamError::Closed,
        streaming::StreamError::Deadline => StreamError::Deadline,
        streaming::StreamError::TooLarge => StreamError::TooLarge,
        streaming::StreamError::Refused => StreamError::Refused,
    }
}

pub(crate) fn open(name: &str) -> Result<Session, ModelError> {
    session(graph::load_by_name(name))
}

pub(crate) fn load(parts: &[Vec<u8>], encoding: Encoding) -> Result<Session, ModelError> {
    let encoding = match encoding {
        Encoding::Onnx => graph::GraphEncoding::Onnx,
        Encoding::Pytorch => graph::GraphEncoding::Pytorch,
        Encoding::Autodetect => graph::GraphEncoding::Autodetect,
    };
    session(graph::load(parts, encoding, graph::ExecutionTarget::Cpu))
}

fn session(graph: Result<graph::Graph, errors::Error>) -> Result<Session, ModelError> {
    let graph = graph.map_err(|error| failure(&error))?;
    let context = graph
        .init_execution_context()
        .map_err(|error| failure(&error))?;
    Ok(Session {
        context,
        _graph: graph,
    })
}

impl Session {
    pub(crate) fn compute<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor<'_>)],
    ) -> Result<Tensors, ModelError> {
        let inputs = inputs
            .iter()
            .map(|(name, tensor)| Ok((name.as_ref().to_owned(), lower(name.as_ref(), tensor)?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        let outputs = self
            .context
            .compute(inputs)
            .map_err(|error| failure(&error))?;
        outputs
            .into_iter()
            .map(|(name, tensor)| lift(&name, &tensor).map(|tensor| (name, tensor)))
            .collect()
    }
}

fn lower(name: &str, tensor: &Tensor<'_>) -> Result<tensor::Tensor, ModelError> {
    let invalid = |what: String| {
        ModelError::new(
            ErrorCode::InvalidArgument,
            format_args!("tensor `{name}` {what}"),
        )
    };
    let dtype = match tensor.dtype() {
        DType::F16 => tensor::TensorType::Fp16,
        DType::BF16 => tensor::TensorType::Bf16,
        DType::F32 => tensor::TensorType::Fp32,
        DType::F64 => tensor::TensorType::Fp64,
        DType::U8 => tensor::TensorType::U8,
        DType::I32 => tensor::TensorType::I32,
        DType::I64 => tensor::TensorType::I64,
        other => {
            return Err(invalid(format!(
                "is of {other}, which wasi:nn does not carry"
            )));
        }
    };
    let dimensions = tensor
        .shape()
        .iter()
        .map(|dimension| u32::try_from(*dimension))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| invalid("has a dimension beyond u32".into()))?;
    Ok(tensor::Tensor::new(&dimensions, dtype, tensor.bytes()))
}

fn lift(name: &str, tensor: &tensor::Tensor) -> Result<Tensor<'static>, ModelError> {
    let dtype = match tensor.ty() {
        tensor::TensorType::Fp16 => DType::F16,
        tensor::TensorType::Fp32 => DType::F32,
        tensor::TensorType::Fp64 => DType::F64,
        tensor::TensorType::Bf16 => DType::BF16,
        tensor::TensorType::U8 => DType::U8,
        tensor::TensorType::I32 => DType::I32,
        tensor::TensorType::I64 => DType::I64,
    };
    let shape: Vec<_> = tensor
        .dimensions()
        .into_iter()
        .map(|size| size as usize)
        .collect();
    Tensor::new(dtype, shape, tensor.data()).map_err(|error| {
        ModelError::new(
            ErrorCode::Unknown,
            format_args!("the host gave output `{name}`: {error}"),
        )
    })
}

fn failure(error: &errors::Error) -> ModelError {
    let code = match error.code() {
        errors::ErrorCode::InvalidArgument => ErrorCode::InvalidArgument,
        errors::ErrorCode::InvalidEncoding => ErrorCode::InvalidEncoding,
        errors::ErrorCode::Timeout => ErrorCode::Timeout,
        errors::ErrorCode::RuntimeError => ErrorCode::RuntimeError,
        errors::ErrorCode::UnsupportedOperation => ErrorCode::UnsupportedOperation,
        errors::ErrorCode::TooLarge => ErrorCode::TooLarge,
        errors::ErrorCode::NotFound => ErrorCode::NotFound,
        errors::ErrorCode::Security => ErrorCode::Security,
        errors::ErrorCode::Unknown => ErrorCode::Unknown,
    };
    ModelError::new(code, error.data())
}

pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
    let level = match level {
        Level::Trace => logging::Level::Trace,
        Level::Debug => logging::Level::Debug,
        Level::Info => logging::Level::Info,
        Level::Warn => logging::Level::Warn,
        Level::Error => logging::Level::Error,
    };
    logging::log(level, message, fields);
}
