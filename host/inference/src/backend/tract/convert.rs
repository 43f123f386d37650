//! Tensors, types and dimensions between this crate and tract.

use bytes::Bytes;
use smallvec::SmallVec;
use tract_onnx::prelude::{
    DatumType, IntoTValue, IntoTensor, TDim, TValue, Tensor as TractTensor, TractResult,
    tract_ndarray,
};

use super::{Failure, guard};
use crate::{DType, Dim, InferenceError, Tensor};

#[cfg(target_endian = "big")]
compile_error!(
    "tensors are little-endian, and this backend hands their bytes to tract as they are"
);

/// The type as a caller sees it. tract's symbolic integers stand for ONNX's int64, and its
/// quantized types are the integers they are stored in.
pub(super) fn dtype_of(datum_type: DatumType) -> Option<DType> {
    match datum_type.unquantized() {
        DatumType::Bool => Some(DType::Bool),
        DatumType::U8 => Some(DType::U8),
        DatumType::U16 => Some(DType::U16),
        DatumType::U32 => Some(DType::U32),
        DatumType::U64 => Some(DType::U64),
        DatumType::I8 => Some(DType::I8),
        DatumType::I16 => Some(DType::I16),
        DatumType::I32 => Some(DType::I32),
        DatumType::I64 | DatumType::TDim => Some(DType::I64),
        DatumType::F16 => Some(DType::F16),
        DatumType::F32 => Some(DType::F32),
        DatumType::F64 => Some(DType::F64),
        DatumType::String => Some(DType::Bytes),
        _ => None,
    }
}

fn datum_type_of(dtype: DType) -> Option<DatumType> {
    match dtype {
        DType::Bool => Some(DatumType::Bool),
        DType::U8 => Some(DatumType::U8),
        DType::U16 => Some(DatumType::U16),
        DType::U32 => Some(DatumType::U32),
        DType::U64 => Some(DatumType::U64),
        DType::I8 => Some(DatumType::I8),
        DType::I16 => Some(DatumType::I16),
        DType::I32 => Some(DatumType::I32),
        DType::I64 => Some(DatumType::I64),
        DType::F16 => Some(DatumType::F16),
        DType::BF16 => None,
        DType::F32 => Some(DatumType::F32),
        DType::F64 => Some(DatumType::F64),
        DType::Bytes => Some(DatumType::String),
    }
}

pub(super) fn dim_of(dim: &TDim) -> Dim {
    match dim.as_i64().map(u64::try_from) {
        Some(Ok(size)) => Dim::Fixed(size),
        _ => Dim::Any,
    }
}

/// Copies an input into tract's own aligned memory.
pub(super) fn to_tract(name: &str, tensor: &Tensor) -> Result<TValue, InferenceError> {
    let shape: SmallVec<[usize; 4]> = tensor.shape().iter().map(|size| *size as usize).collect();
    if tensor.dtype() == DType::Bytes {
        return strings_to_tract(name, tensor, &shape);
    }
    let Some(datum_type) = datum_type_of(tensor.dtype()) else {
        return Err(InferenceError::unsupported(format!(
            "input {name:?} is {}, which tract does not have",
            tensor.dtype()
        )));
    };
    let mut converted =
        guard(|| TractTensor::zero_dt(datum_type, &shape)).map_err(not_taken(name))?;
    let bytes = converted.as_bytes_mut();
    if bytes.len() != tensor.data().len() {
        return Err(InferenceError::runtime(format!(
            "input {name:?} does not fit tract's tensor"
        )));
    }
    bytes.copy_from_slice(tensor.data());
    Ok(converted.into_tvalue())
}

fn strings_to_tract(
    name: &str,
    tensor: &Tensor,
    shape: &[usize],
) -> Result<TValue, InferenceError> {
    let mut strings = Vec::new();
    // A request of empty strings brings 4 bytes for each, and a `String` has 24.
    strings
        .try_reserve_exact(tensor.element_count())
        .map_err(|_| {
            InferenceError::runtime(format!(
                "this machine has no memory for the texts of input {name:?}"
            ))
        })?;
    for (position, bytes) in tensor.byte_strings().into_iter().flatten().enumerate() {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(InferenceError::invalid(format!(
                "input {name:?} has an element that is not UTF-8 text, element {position}; \
                 ONNX models take text only"
            )));
        };
        strings.push(text.to_owned());
    }
    guard(|| Ok(tract_ndarray::ArrayD::from_shape_vec(shape, strings)?.into_tensor()))
        .map(IntoTValue::into_tvalue)
        .map_err(not_taken(name))
}

fn not_taken(name: &str) -> impl FnOnce(Failure) -> InferenceError {
    move |failure| failure.runtime(format!("input {name:?} cannot be given to tract"))
}

/// Takes an output over, as the declared type. Numbers are not copied: the bytes stay tract's.
pub(super) fn from_tract(
    name: &str,
    dtype: DType,
    value: TValue,
) -> Result<Tensor, InferenceError> {
    let unusable =
        |failure: Failure| failure.runtime(format!("output {name:?} cannot be read as {dtype}"));
    let value =
        if dtype_of(value.datum_type()) == Some(dtype) && value.datum_type() != DatumType::TDim {
            value
        } else {
            guard(|| cast(dtype, &value)).map_err(unusable)?
        };
    let shape: SmallVec<[u64; 4]> = value.shape().iter().map(|size| *size as u64).collect();
    let made = if dtype == DType::Bytes {
        let strings = guard(|| {
            let view = value.try_as_plain_ram()?;
            Ok(view.as_slice::<String>()?.to_vec())
        })
        .map_err(unusable)?;
        Tensor::from_byte_strings(&shape, strings)
    } else {
        guard(|| value.try_as_plain_ram().map(drop)).map_err(unusable)?;
        Tensor::new(dtype, &shape, Bytes::from_owner(OutputBytes(value)))
    };
    made.map_err(|error| InferenceError::Runtime {
        reason: format!("output {name:?} is not a valid tensor"),
        source: Some(error.into()),
    })
}

fn cast(dtype: DType, value: &TValue) -> TractResult<TValue> {
    let target = datum_type_of(dtype)
        .ok_or_else(|| tract_onnx::prelude::TractError::msg("tract does not have this type"))?;
    Ok(value.cast_to_dt(target)?.into_owned().into_tvalue())
}

/// Keeps an output of tract alive as long as somebody reads its bytes.
struct OutputBytes(TValue);

impl AsRef<[u8]> for OutputBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
