//! Tensors of the `tensor-handler` interface, to and from the host's own.

use bytes::Bytes;
use dunlin_inference::{DType, Dim, RANK_MAX, Signature, Tensor, TensorSpec};

use crate::{
    bindings::{
        tensor_handler,
        types::{Datatype, NamedTensorParam, NamedTensorResult, TensorMetadata},
    },
    error::{CallError, GuestFailure},
};

/// Tensors on one side of a predictor's signature, which is kept as long as the predictor.
const TENSORS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 1 << 10;

/// # Errors
/// The guest describes more than any caller would read.
pub(crate) fn signature(signature: tensor_handler::Signature) -> Result<Signature, CallError> {
    let specs = |tensors: Vec<TensorMetadata>| {
        if tensors.len() > TENSORS_MAX {
            return Err(refused(format!(
                "describe gives {} tensors on one side; {TENSORS_MAX} are the most",
                tensors.len()
            )));
        }
        tensors.into_iter().map(spec).collect()
    };
    Ok(Signature {
        inputs: specs(signature.inputs)?,
        outputs: specs(signature.outputs)?,
    })
}

fn refused(reason: String) -> CallError {
    CallError::Guest(GuestFailure::Internal(reason))
}

fn spec(tensor: TensorMetadata) -> Result<TensorSpec, CallError> {
    let (name, rank) = (tensor.name.len(), tensor.shape.len());
    if name > NAME_BYTES_MAX || rank > RANK_MAX {
        return Err(refused(format!(
            "describe gives a tensor with a name of {name} bytes and {rank} dimensions; \
             {NAME_BYTES_MAX} and {RANK_MAX} are the most"
        )));
    }
    Ok(TensorSpec {
        name: tensor.name,
        dtype: dtype(tensor.datatype),
        shape: tensor
            .shape
            .into_iter()
            .map(|dim| u64::try_from(dim).map_or(Dim::Any, Dim::Fixed))
            .collect(),
    })
}

/// What an output is counted with: it is more than its data.
pub(crate) fn size(output: &NamedTensorResult) -> u64 {
    const FIXED: usize = 64;
    (FIXED + output.name.len() + size_of_val(&*output.shape) + output.data.len()) as u64
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
        Err(error) => Err(refused(format!("output \"{}\": {error}", output.name))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_predictor_describes_has_bounds() {
        let tensor = |name: usize, rank: usize| TensorMetadata {
            name: "n".repeat(name),
            datatype: Datatype::Fp32,
            shape: vec![1; rank],
        };
        let described = |inputs| {
            signature(tensor_handler::Signature {
                inputs,
                outputs: Vec::new(),
            })
        };
        let many = |count: usize| (0..count).map(|_| tensor(1, 1)).collect();
        assert!(described(many(TENSORS_MAX)).is_ok());
        assert!(described(many(TENSORS_MAX + 1)).is_err());
        assert!(described(vec![tensor(NAME_BYTES_MAX, RANK_MAX)]).is_ok());
        assert!(described(vec![tensor(NAME_BYTES_MAX + 1, 1)]).is_err());
        assert!(described(vec![tensor(1, RANK_MAX + 1)]).is_err());
    }

    #[test]
    fn an_output_is_more_than_its_data() {
        let output = NamedTensorResult {
            name: "y".to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![1; 1 << 20],
            data: vec![0; 4],
        };
        assert!(size(&output) > 8 << 20);
    }
}
