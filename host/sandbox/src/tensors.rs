//! Tensors of the `tensor-handler` interface, to and from the host's own.

use bytes::Bytes;
use dunlin_inference::{DType, Dim, Signature, Tensor, TensorSpec};

use crate::{
    bindings::{
        tensor_handler,
        types::{Datatype, NamedTensorParam, NamedTensorResult, TensorMetadata},
    },
    error::{CallError, GuestFailure},
};

pub(crate) fn signature(signature: tensor_handler::Signature) -> Signature {
    let specs = |tensors: Vec<TensorMetadata>| tensors.into_iter().map(spec).collect();
    Signature {
        inputs: specs(signature.inputs),
        outputs: specs(signature.outputs),
    }
}

fn spec(tensor: TensorMetadata) -> TensorSpec {
    TensorSpec {
        name: tensor.name,
        dtype: dtype(tensor.datatype),
        shape: tensor
            .shape
            .into_iter()
            .map(|dim| u64::try_from(dim).map_or(Dim::Any, Dim::Fixed))
            .collect(),
    }
}

pub(crate) fn to_guest<'a>(name: &'a str, tensor: &'a Tensor) -> NamedTensorParam<'a> {
    NamedTensorParam {
        name,
        datatype: datatype(tensor.dtype()),
        shape: tensor.shape(),
        data: tensor.data(),
    }
}

/// # Errors
/// The guest gave a shape that its data does not fill.
pub(crate) fn to_host(output: NamedTensorResult) -> Result<(String, Tensor), CallError> {
    let data = Bytes::from(output.data);
    match Tensor::new(dtype(output.datatype), &output.shape, data) {
        Ok(tensor) => Ok((output.name, tensor)),
        Err(error) => Err(CallError::Guest(GuestFailure::Internal(format!(
            "output \"{}\": {error}",
            output.name
        )))),
    }
}

fn dtype(datatype: Datatype) -> DType {
    match datatype {
        Datatype::Bool => DType::Bool,
        Datatype::Uint8 => DType::U8,
        Datatype::Uint16 => DType::U16,
        Datatype::Uint32 => DType::U32,
        Datatype::Uint64 => DType::U64,
        Datatype::Int8 => DType::I8,
        Datatype::Int16 => DType::I16,
        Datatype::Int32 => DType::I32,
        Datatype::Int64 => DType::I64,
        Datatype::Fp16 => DType::F16,
        Datatype::Bf16 => DType::BF16,
        Datatype::Fp32 => DType::F32,
        Datatype::Fp64 => DType::F64,
        Datatype::Bytes => DType::Bytes,
    }
}

fn datatype(dtype: DType) -> Datatype {
    match dtype {
        DType::Bool => Datatype::Bool,
        DType::U8 => Datatype::Uint8,
        DType::U16 => Datatype::Uint16,
        DType::U32 => Datatype::Uint32,
        DType::U64 => Datatype::Uint64,
        DType::I8 => Datatype::Int8,
        DType::I16 => Datatype::Int16,
        DType::I32 => Datatype::Int32,
        DType::I64 => Datatype::Int64,
        DType::F16 => Datatype::Fp16,
        DType::BF16 => Datatype::Bf16,
        DType::F32 => Datatype::Fp32,
        DType::F64 => Datatype::Fp64,
        DType::Bytes => Datatype::Bytes,
    }
}
