//! `wasi:nn@0.2.0-rc-2024-10-28`: tensors, and the models of the package by their names.
//!
//! A tensor's bytes are copied once, out of the guest's memory, and once back into it. The
//! constructor cannot fail: a tensor whose data do not fill its dimensions is refused when it is
//! used, and one that must not be kept, for its size or its number of dimensions, is a trap.
//!
//! Whatever a guest keeps here has a [`Charge`] on `limits.tensor_memory`.

#![expect(
    unreachable_pub,
    reason = "the generated bindings re-export these types"
)]

use std::sync::Arc;

use bytes::Bytes;
use dunlin_inference::{
    BackendKind, CallOptions, DType, InferenceError, LoadRequest, Model, ModelOptions, ModelSource,
    RANK_MAX, Tensor, TensorError, one_line,
};
use wasmtime::component::Resource;

use crate::{
    bindings::nn::{
        errors::{self, ErrorCode},
        graph::{self, ExecutionTarget, GraphEncoding},
        inference,
        tensor::{self, TensorType},
    },
    guest::{Charge, Guest, MODELS_MAX},
    host::cut,
};

/// What the guest is told of an error; a name of the guest's own in it may be of any length.
const ERROR_BYTES_MAX: usize = 4 << 10;

pub struct GuestTensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Bytes,
    _charge: Charge,
}

pub struct GuestGraph {
    model: KeptModel,
    _charge: Charge,
}

pub struct GuestContext {
    model: KeptModel,
    _charge: Charge,
}

/// A model, and what it costs the guest as long as a graph or a context keeps it.
#[derive(Clone)]
struct KeptModel {
    model: Model,
    _brought: Option<Arc<Brought>>,
}

/// The cost of a model that the guest brought: its bytes, and one of the places for such models. One
/// of the package costs nothing: it is there anyway.
struct Brought {
    _bytes: Charge,
    _place: Charge,
}

pub struct GuestError {
    code: ErrorCode,
    data: String,
    _charge: Charge,
}

type NnResult<T> = wasmtime::Result<Result<T, Resource<GuestError>>>;

impl Guest {
    fn refuse<T>(&mut self, code: ErrorCode, data: impl Into<String>) -> NnResult<T> {
        let mut data = data.into();
        cut(&mut data, ERROR_BYTES_MAX);
        let error = GuestError {
            _charge: self.charge(data.len())?,
            code,
            data,
        };
        Ok(Err(self.table.push(error)?))
    }

    fn keep_tensor(
        &mut self,
        dimensions: Vec<u32>,
        ty: TensorType,
        data: Bytes,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        let tensor = GuestTensor {
            _charge: self.charge(data.len().saturating_add(size_of_val(&*dimensions)))?,
            dimensions,
            ty,
            data,
        };
        Ok(self.table.push(tensor)?)
    }

    fn keep_graph(&mut self, model: KeptModel) -> wasmtime::Result<Resource<GuestGraph>> {
        let graph = GuestGraph {
            _charge: self.charge(0)?,
            model,
        };
        Ok(self.table.push(graph)?)
    }
}

impl tensor::Host for Guest {}

impl tensor::HostTensor for Guest {
    fn new(
        &mut self,
        dimensions: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        let rank = dimensions.len();
        if rank > RANK_MAX {
            return Err(TensorError::TooManyDimensions { rank }.into());
        }
        self.keep_tensor(dimensions, ty, data.into())
    }

    fn dimensions(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dimensions.clone())
    }

    fn ty(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.ty)
    }

    fn data(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data.to_vec())
    }

    fn drop(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<()> {
        self.table.delete(tensor)?;
        Ok(())
    }
}

impl graph::Host for Guest {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> NnResult<Resource<GuestGraph>> {
        if !self.shared.grants.load {
            return self.refuse(
                ErrorCode::Security,
                "loading a model from bytes needs `load` in predictor.grants of the deployment file",
            );
        }
        if target != ExecutionTarget::Cpu {
            return self.refuse(
                ErrorCode::UnsupportedOperation,
                "this node runs models on the CPU only",
            );
        }
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            return self.refuse(
                ErrorCode::InvalidEncoding,
                "a model from bytes must be ONNX",
            );
        }
        let Ok([bytes]) = <[Vec<u8>; 1]>::try_from(builder) else {
            return self.refuse(
                ErrorCode::InvalidArgument,
                "an ONNX model is one builder with the whole file",
            );
        };
        let Some(place) = self.loaded_models.take(1) else {
            return self.refuse(
                ErrorCode::TooLarge,
                format!(
                    "an instance keeps at most {MODELS_MAX} models that it loaded from bytes; \
                     drop a graph and its contexts first"
                ),
            );
        };
        let brought = Brought {
            _bytes: self.charge(bytes.len())?,
            _place: place,
        };
        let loaded = self
            .shared
            .registry
            .get_or_load(LoadRequest {
                digest: crate::cache::digest(&bytes),
                source: ModelSource::bytes(bytes),
                backend: BackendKind::Auto,
                options: ModelOptions::default(),
                golden: None,
            })
            .await;
        match loaded {
            Ok(model) => {
                let model = KeptModel {
                    model,
                    _brought: Some(Arc::new(brought)),
                };
                Ok(Ok(self.keep_graph(model)?))
            }
            Err(error) => self.refuse(code_of(&error), one_line(&*error)),
        }
    }

    fn load_by_name(&mut self, name: String) -> NnResult<Resource<GuestGraph>> {
        let Some(model) = self.shared.models.get(&name).cloned() else {
            let mut names: Vec<&str> = self.shared.models.keys().map(String::as_str).collect();
            names.sort_unstable();
            let known = match names[..] {
                [] => "it has none".to_owned(),
                _ => format!("it has {}", names.join(", ")),
            };
            return self.refuse(
                ErrorCode::NotFound,
                format!("no model \"{name}\" in the package; {known}"),
            );
        };
        let model = KeptModel {
            model,
            _brought: None,
        };
        Ok(Ok(self.keep_graph(model)?))
    }
}

impl graph::HostGraph for Guest {
    fn init_execution_context(
        &mut self,
        graph: Resource<GuestGraph>,
    ) -> NnResult<Resource<GuestContext>> {
        let model = self.table.get(&graph)?.model.clone();
        let context = GuestContext {
            _charge: self.charge(0)?,
            model,
        };
        Ok(Ok(self.table.push(context)?))
    }

    fn drop(&mut self, graph: Resource<GuestGraph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for Guest {}

impl inference::HostGraphExecutionContext for Guest {
    async fn compute(
        &mut self,
        context: Resource<GuestContext>,
        inputs: Vec<(String, Resource<GuestTensor>)>,
    ) -> NnResult<Vec<(String, Resource<GuestTensor>)>> {
        // All inputs leave the table before the first is judged: the guest has given them away.
        let mut given = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            given.push((name, self.table.delete(tensor)?));
        }
        let mut tensors = Vec::with_capacity(given.len());
        for (name, tensor) in given {
            match to_host(tensor) {
                Ok(tensor) => tensors.push((name, tensor)),
                Err(error) => {
                    return self.refuse(
                        ErrorCode::InvalidArgument,
                        format!("input \"{name}\": {error}"),
                    );
                }
            }
        }
        let options = CallOptions {
            deadline: self.deadline,
            observer: self.runs.clone(),
        };
        let model = &self.table.get(&context)?.model.model;
        let outputs = match model.infer_with(tensors, options).await {
            Ok(outputs) => outputs,
            Err(error) => return self.refuse(code_of(&error), one_line(&error)),
        };
        let mut converted = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            match to_guest(tensor) {
                Ok(parts) => converted.push((name, parts)),
                Err(reason) => {
                    return self.refuse(
                        ErrorCode::UnsupportedOperation,
                        format!("output \"{name}\": {reason}"),
                    );
                }
            }
        }
        // Kept only now that none is refused: the guest would have no handle to drop them by.
        let mut kept = Vec::with_capacity(converted.len());
        for (name, (dimensions, ty, data)) in converted {
            kept.push((name, self.keep_tensor(dimensions, ty, data)?));
        }
        Ok(Ok(kept))
    }

    fn drop(&mut self, context: Resource<GuestContext>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

impl errors::Host for Guest {}

impl errors::HostError for Guest {
    fn code(&mut self, error: Resource<GuestError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<GuestError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    fn drop(&mut self, error: Resource<GuestError>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}

fn code_of(error: &InferenceError) -> ErrorCode {
    match error {
        InferenceError::InvalidInput { .. } => ErrorCode::InvalidArgument,
        InferenceError::Unsupported { .. } => ErrorCode::UnsupportedOperation,
        InferenceError::Load { .. } => ErrorCode::InvalidEncoding,
        // wasi:nn has no word for "busy"; a caller that waits and tries again is right in both.
        InferenceError::Overloaded { .. }
        | InferenceError::QueueTimeout { .. }
        | InferenceError::TooLate => ErrorCode::Timeout,
        _ => ErrorCode::RuntimeError,
    }
}

/// The charge ends here: what the run holds is bounded by the model's queue.
fn to_host(tensor: GuestTensor) -> Result<Tensor, TensorError> {
    let dtype = match tensor.ty {
        TensorType::Fp16 => DType::F16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::Bf16 => DType::BF16,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
    };
    let shape: Vec<u64> = tensor
        .dimensions
        .iter()
        .map(|&dim| u64::from(dim))
        .collect();
    Tensor::new(dtype, &shape, tensor.data)
}

fn to_guest(tensor: Tensor) -> Result<(Vec<u32>, TensorType, Bytes), String> {
    let ty = match tensor.dtype() {
        DType::F16 => TensorType::Fp16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::BF16 => TensorType::Bf16,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
        other => return Err(format!("wasi:nn has no datatype {}", other.name())),
    };
    let dimensions = tensor
        .shape()
        .iter()
        .map(|&dim| u32::try_from(dim).map_err(|_| format!("dimension {dim} does not fit 32 bits")))
        .collect::<Result<_, _>>()?;
    Ok((dimensions, ty, tensor.into_data()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::tests::guest;

    #[test]
    fn dimensions_are_counted_and_bounded() {
        // Two tensors without data, of 32 dimensions of 4 bytes.
        let mut guest = guest(2 * (256 + 32 * 4));
        let make = |guest: &mut Guest, rank: usize| {
            tensor::HostTensor::new(guest, vec![0; rank], TensorType::U8, Vec::new())
        };
        let error = make(&mut guest, RANK_MAX + 1).unwrap_err();
        assert!(error.to_string().contains("33 dimensions"), "{error}");
        let first = make(&mut guest, RANK_MAX).unwrap();
        let _second = make(&mut guest, RANK_MAX).unwrap();
        assert!(make(&mut guest, 0).is_err());
        tensor::HostTensor::drop(&mut guest, first).unwrap();
        make(&mut guest, RANK_MAX).unwrap();
    }

    #[test]
    fn what_the_guest_is_told_is_short() {
        let mut guest = guest(1 << 20);
        let asked = graph::Host::load_by_name(&mut guest, "n".repeat(1 << 19)).unwrap();
        let error = asked.expect_err("there is no such model");
        let text = errors::HostError::data(&mut guest, error).unwrap();
        assert_eq!(text.len(), ERROR_BYTES_MAX);
    }
}
