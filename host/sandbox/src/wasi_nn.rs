//! `wasi:nn@0.2.0-rc-2024-10-28`: tensors, and the models of the package by their names.
//!
//! A tensor's bytes are copied once, out of the guest's memory, and once back into it. The
//! constructor cannot fail, so a tensor with impossible dimensions is refused when it is used.

#![expect(
    unreachable_pub,
    reason = "the generated bindings re-export these types"
)]

use bytes::Bytes;
use dunlin_inference::{
    BackendKind, DType, InferenceError, LoadRequest, Model, ModelOptions, ModelSource, Tensor,
    one_line,
};
use wasmtime::component::Resource;

use crate::{
    bindings::nn::{
        errors::{self, ErrorCode},
        graph::{self, ExecutionTarget, GraphEncoding},
        inference,
        tensor::{self, TensorType},
    },
    guest::Guest,
};

pub struct GuestTensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Bytes,
}

/// A model, and what it costs the guest's budget: nothing for one of the package, its size for one
/// that the guest brought.
pub struct GuestGraph {
    model: Model,
    brought: Option<usize>,
}

pub struct GuestContext {
    model: Model,
}

pub struct GuestError {
    code: ErrorCode,
    data: String,
}

type NnResult<T> = wasmtime::Result<Result<T, Resource<GuestError>>>;

impl Guest {
    fn refuse<T>(&mut self, code: ErrorCode, data: impl Into<String>) -> NnResult<T> {
        let error = GuestError {
            code,
            data: data.into(),
        };
        Ok(Err(self.table.push(error)?))
    }

    fn keep_tensor(&mut self, tensor: GuestTensor) -> wasmtime::Result<Resource<GuestTensor>> {
        self.tensor_memory.take(tensor.data.len())?;
        Ok(self.table.push(tensor)?)
    }

    fn take_tensor(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<GuestTensor> {
        let tensor = self.table.delete(tensor)?;
        self.tensor_memory.give_back(tensor.data.len());
        Ok(tensor)
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
        self.keep_tensor(GuestTensor {
            dimensions,
            ty,
            data: data.into(),
        })
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
        self.take_tensor(tensor).map(drop)
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
        let size = bytes.len();
        self.tensor_memory.take(size)?;
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
            Ok(model) => Ok(Ok(self.table.push(GuestGraph {
                model,
                brought: Some(size),
            })?)),
            Err(error) => {
                self.tensor_memory.give_back(size);
                self.refuse(code_of(&error), one_line(&*error))
            }
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
        let graph = GuestGraph {
            model,
            brought: None,
        };
        Ok(Ok(self.table.push(graph)?))
    }
}

impl graph::HostGraph for Guest {
    fn init_execution_context(
        &mut self,
        graph: Resource<GuestGraph>,
    ) -> NnResult<Resource<GuestContext>> {
        let model = self.table.get(&graph)?.model.clone();
        Ok(Ok(self.table.push(GuestContext { model })?))
    }

    fn drop(&mut self, graph: Resource<GuestGraph>) -> wasmtime::Result<()> {
        let graph = self.table.delete(graph)?;
        if let Some(size) = graph.brought {
            self.tensor_memory.give_back(size);
        }
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
        let model = self.table.get(&context)?.model.clone();
        // All inputs leave the table before the first is judged: the guest has given them away.
        let mut given = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            given.push((name, self.take_tensor(tensor)?));
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
        let outputs = match model.infer(tensors).await {
            Ok(outputs) => outputs,
            Err(error) => return self.refuse(code_of(&error), one_line(&error)),
        };
        let mut kept = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            match to_guest(tensor) {
                Ok(tensor) => kept.push((name, self.keep_tensor(tensor)?)),
                Err(reason) => {
                    return self.refuse(
                        ErrorCode::UnsupportedOperation,
                        format!("output \"{name}\": {reason}"),
                    );
                }
            }
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
        InferenceError::Overloaded { .. } => ErrorCode::Timeout,
        _ => ErrorCode::RuntimeError,
    }
}

fn to_host(tensor: GuestTensor) -> Result<Tensor, dunlin_inference::TensorError> {
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

fn to_guest(tensor: Tensor) -> Result<GuestTensor, String> {
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
    Ok(GuestTensor {
        dimensions,
        ty,
        data: tensor.into_data(),
    })
}
