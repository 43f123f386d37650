//! Tensors, types and dimensions between this crate and ONNX Runtime.

use std::fmt::Debug;
use std::ops::Range;
use std::{ptr, slice};

use bytes::Bytes;
use half::{bf16, f16};
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{
    DynTensor, DynTensorValueType, DynValue, PrimitiveTensorElementType, Tensor as OrtTensor,
    TensorElementType, TensorRef, ValueType,
};
use ort::{AsPointer, sys};

use crate::error::EngineText;
use crate::tensor::Shape;
use crate::{DType, Element, InferenceError, Tensor};

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian, and ONNX Runtime takes their bytes as they are");

pub(super) fn dtype_of(element: TensorElementType) -> Option<DType> {
    match element {
        TensorElementType::Bool => Some(DType::Bool),
        TensorElementType::Uint8 => Some(DType::U8),
        TensorElementType::Uint16 => Some(DType::U16),
        TensorElementType::Uint32 => Some(DType::U32),
        TensorElementType::Uint64 => Some(DType::U64),
        TensorElementType::Int8 => Some(DType::I8),
        TensorElementType::Int16 => Some(DType::I16),
        TensorElementType::Int32 => Some(DType::I32),
        TensorElementType::Int64 => Some(DType::I64),
        TensorElementType::Float16 => Some(DType::F16),
        TensorElementType::Bfloat16 => Some(DType::BF16),
        TensorElementType::Float32 => Some(DType::F32),
        TensorElementType::Float64 => Some(DType::F64),
        TensorElementType::String => Some(DType::Bytes),
        _ => None,
    }
}

/// A view of an input. Numbers are copied only where their address does not suit their type.
pub(super) fn to_ort<'t>(
    name: &str,
    tensor: &'t Tensor,
) -> Result<SessionInputValue<'t>, InferenceError> {
    let value = match tensor.dtype() {
        DType::Bool => view::<bool>(tensor),
        DType::U8 => view::<u8>(tensor),
        DType::U16 => view::<u16>(tensor),
        DType::U32 => view::<u32>(tensor),
        DType::U64 => view::<u64>(tensor),
        DType::I8 => view::<i8>(tensor),
        DType::I16 => view::<i16>(tensor),
        DType::I32 => view::<i32>(tensor),
        DType::I64 => view::<i64>(tensor),
        DType::F16 => view::<f16>(tensor),
        DType::BF16 => view::<bf16>(tensor),
        DType::F32 => view::<f32>(tensor),
        DType::F64 => view::<f64>(tensor),
        DType::Bytes => strings_to_ort(tensor),
    };
    value.map_err(|error| InferenceError::Runtime {
        reason: format!("input {name:?} cannot be given to ONNX Runtime"),
        source: EngineText::cause(error.message()),
    })
}

/// The numbers of a tensor in memory of ONNX Runtime's own, or of `ort`'s.
pub(super) fn owned(tensor: &Tensor) -> ort::Result<DynValue> {
    match tensor.dtype() {
        DType::Bool => copy::<bool>(tensor),
        DType::U8 => copy::<u8>(tensor),
        DType::U16 => copy::<u16>(tensor),
        DType::U32 => copy::<u32>(tensor),
        DType::U64 => copy::<u64>(tensor),
        DType::I8 => copy::<i8>(tensor),
        DType::I16 => copy::<i16>(tensor),
        DType::I32 => copy::<i32>(tensor),
        DType::I64 => copy::<i64>(tensor),
        DType::F16 => copy::<f16>(tensor),
        DType::BF16 => copy::<bf16>(tensor),
        DType::F32 => copy::<f32>(tensor),
        DType::F64 => copy::<f64>(tensor),
        DType::Bytes => Err(ort::Error::new("byte strings are no numbers")),
    }
}

fn copy<T>(tensor: &Tensor) -> ort::Result<DynValue>
where
    T: Element + PrimitiveTensorElementType + Debug + Clone + 'static,
{
    let values: Vec<T> = tensor.values::<T>().into_iter().flatten().collect();
    Ok(OrtTensor::from_array((shape_of(tensor), values))?.into_dyn())
}

fn shape_of(tensor: &Tensor) -> Vec<i64> {
    tensor.shape().iter().map(|size| *size as i64).collect()
}

fn view<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>>
where
    T: Element + PrimitiveTensorElementType + Debug + Clone + 'static,
{
    let start = tensor.data().as_ptr().cast::<T>();
    if start.is_aligned() {
        #[expect(unsafe_code, reason = "bytes are looked at as the elements they are")]
        // SAFETY: aligned; a tensor has the bytes of exactly so many elements of `T`, which its
        // datatype names, and a BOOL among them holds 0 and 1 only. The bytes are immutable and
        // live as long as `tensor` is borrowed.
        let values = unsafe { slice::from_raw_parts(start, tensor.element_count()) };
        return Ok(TensorRef::from_array_view((shape_of(tensor), values))?.into());
    }
    Ok(copy::<T>(tensor)?.into())
}

/// ONNX Runtime's strings have any bytes and a length; the function that fills a whole tensor ends
/// each at its first zero byte, the one for single elements does not.
fn strings_to_ort(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    let mut value = DynTensor::new(
        &Allocator::default(),
        TensorElementType::String,
        shape_of(tensor),
    )?;
    for (position, bytes) in tensor.byte_strings().into_iter().flatten().enumerate() {
        let mut buffer = ptr::null_mut();
        let fill = ort::api().GetResizedStringTensorElementBuffer;
        #[expect(unsafe_code, reason = "ort has no safe function for it")]
        // SAFETY: the value is a string tensor of the tensor's own shape, so the position is within
        // it. The status goes to `result_from_status`, as any of this interface may.
        unsafe {
            let status = fill(value.ptr_mut(), position, bytes.len(), &raw mut buffer);
            ort::Error::result_from_status(status)?;
        }
        if !bytes.is_empty() {
            #[expect(unsafe_code, reason = "the string's memory is ONNX Runtime's")]
            // SAFETY: the buffer has as many bytes as were asked for, and nobody else knows it.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len());
            }
        }
    }
    Ok(value.into())
}

/// Takes an output over. Numbers are not copied: the bytes stay ONNX Runtime's, unless they are an
/// input's. A graph may hand an input on as it is, and then the memory is the caller's.
pub(super) fn from_ort(
    name: &str,
    dtype: DType,
    value: DynValue,
    inputs: &[Tensor],
) -> Result<Tensor, InferenceError> {
    let ValueType::Tensor {
        ty, shape: sizes, ..
    } = value.dtype()
    else {
        return Err(InferenceError::runtime(format!(
            "output {name:?} is not a tensor"
        )));
    };
    if dtype_of(*ty) != Some(dtype) {
        return Err(InferenceError::runtime(format!(
            "output {name:?} is {ty}, the model declares {dtype}"
        )));
    }
    let shape: Shape = sizes.iter().map(|size| *size as u64).collect();
    let elements = sizes.num_elements();
    let made = if dtype == DType::Bytes {
        strings_from_ort(&value, elements)
            .map_err(unreadable(name))
            .map(|strings| Tensor::from_byte_strings(&shape, strings.iter()))?
    } else {
        let length = elements * dtype.size().unwrap_or_default();
        let value = value.downcast::<DynTensorValueType>();
        let bytes = OutputBytes {
            value: value.map_err(unreadable(name))?,
            length,
        };
        let data = if inputs.iter().any(|input| overlap(input, bytes.as_ref())) {
            Bytes::copy_from_slice(bytes.as_ref())
        } else {
            Bytes::from_owner(bytes)
        };
        Tensor::new(dtype, &shape, data)
    };
    made.map_err(|error| InferenceError::Runtime {
        reason: format!("output {name:?} is not a valid tensor"),
        source: Some(error.into()),
    })
}

fn unreadable(name: &str) -> impl Fn(ort::Error) -> InferenceError {
    move |error| InferenceError::Runtime {
        reason: format!("output {name:?} cannot be read"),
        source: EngineText::cause(error.message()),
    }
}

fn overlap(input: &Tensor, output: &[u8]) -> bool {
    let Range { start, end } = output.as_ptr_range();
    let input = input.data().as_ptr_range();
    start < input.end && input.start < end
}

/// Elements back to back, and where each begins.
struct Strings {
    content: Vec<u8>,
    offsets: Vec<usize>,
}

impl Strings {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.offsets.iter().skip(1).copied();
        let ends = ends.chain([self.content.len()]);
        let ranges = self.offsets.iter().zip(ends);
        ranges.map(|(start, end)| self.content.get(*start..end).unwrap_or_default())
    }
}

fn strings_from_ort(value: &DynValue, elements: usize) -> ort::Result<Strings> {
    if elements == 0 {
        return Ok(Strings {
            content: Vec::new(),
            offsets: Vec::new(),
        });
    }
    let mut length = 0;
    let mut offsets = vec![0; elements];
    #[expect(unsafe_code, reason = "ort has a safe function for UTF-8 only")]
    // SAFETY: the value is a tensor of strings with so many elements, the buffers are as long as
    // they are said to be, and each status goes to `result_from_status`.
    let content = unsafe {
        let api = ort::api();
        let status = (api.GetStringTensorDataLength)(value.ptr(), &raw mut length);
        ort::Error::result_from_status(status)?;
        let mut content = vec![0_u8; length];
        let into = content.as_mut_ptr().cast::<sys::c_void>();
        let status =
            (api.GetStringTensorContent)(value.ptr(), into, length, offsets.as_mut_ptr(), elements);
        ort::Error::result_from_status(status)?;
        content
    };
    Ok(Strings { content, offsets })
}

/// Keeps an output of ONNX Runtime alive as long as somebody reads its bytes.
struct OutputBytes {
    value: DynTensor,
    length: usize,
}

impl AsRef<[u8]> for OutputBytes {
    fn as_ref(&self) -> &[u8] {
        let start = self.value.data_ptr();
        if self.length == 0 || start.is_null() {
            return &[];
        }
        #[expect(unsafe_code, reason = "the memory is ONNX Runtime's")]
        // SAFETY: a tensor on the CPU, of numbers, with `length` bytes by its shape and type. Its
        // memory is initialised, does not change after the run that made it, and lives as long as
        // the value.
        unsafe {
            slice::from_raw_parts(start.cast::<u8>(), self.length)
        }
    }
}
