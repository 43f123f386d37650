//! Dense tensors: a shape, a datatype, and row-major little-endian data.
//!
//! Owns the checks between the three, so that whoever holds a `Tensor` need not check again. It
//! knows nothing of models and of the host.

use std::borrow::Cow;

use bytemuck::Pod;
use thiserror::Error;

use crate::dtype::DType;

// The data of a tensor is little-endian, and its typed views are views of memory.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "the SDK is for little-endian targets"
);

/// A dense tensor. It borrows or owns its elements, so that a slice goes to the model without a
/// copy:
///
/// ```
/// # use dunlin_sdk::{DType, Tensor, TensorError};
/// let pixels = [0.0_f32; 64];
/// let tensor = Tensor::f32([1, 1, 8, 8], &pixels)?;
/// assert_eq!(tensor.dtype(), DType::F32);
/// assert_eq!(tensor.shape(), [1, 1, 8, 8]);
/// assert_eq!(tensor.as_f32()?.len(), 64);
///
/// let error = Tensor::f32([1, 1, 8, 9], &pixels).unwrap_err();
/// assert_eq!(error.to_string(), "shape [1, 1, 8, 9] has 72 elements, the data has 64");
/// let error = tensor.as_i64().unwrap_err();
/// assert_eq!(error.to_string(), "the tensor is of FP32, not INT64");
/// # Ok::<_, TensorError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    dtype: DType,
    shape: Vec<usize>,
    data: Data<'a>,
}

/// The elements where they lie. A typed vector keeps its type: its memory may be freed only as what
/// it was allocated as.
#[derive(Debug, Clone)]
enum Data<'a> {
    Bytes(Cow<'a, [u8]>),
    U16(Vec<u16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// What is wrong with a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TensorError {
    #[error("shape {shape:?} has {wanted} elements, the data has {found}")]
    ElementCount {
        shape: Vec<usize>,
        wanted: usize,
        found: usize,
    },
    #[error("shape {shape:?} of {dtype} needs {wanted} bytes, the data has {found}")]
    ByteCount {
        shape: Vec<usize>,
        dtype: DType,
        wanted: usize,
        found: usize,
    },
    #[error("shape {shape:?} of {dtype} is larger than memory")]
    TooLarge { shape: Vec<usize>, dtype: DType },
    #[error("the elements of a BYTES tensor are cut short")]
    CutShort,
    #[error("the tensor is of {found}, not {wanted}")]
    WrongDType { wanted: DType, found: DType },
    #[error("the tensor has shape {found:?}, not {wanted:?}")]
    WrongShape {
        wanted: Vec<usize>,
        found: Vec<usize>,
    },
    #[error("there is no tensor `{name}`, only {}", present.join(", "))]
    Missing { name: String, present: Vec<String> },
}

impl<'a> Tensor<'a> {
    /// Any datatype from its bytes: row-major, little-endian, as many as the shape says.
    pub fn new(
        dtype: DType,
        shape: impl AsRef<[usize]>,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self, TensorError> {
        let (shape, data) = (shape.as_ref().to_vec(), data.into());
        let too_large = || TensorError::TooLarge {
            shape: shape.clone(),
            dtype,
        };
        let elements = count(&shape).ok_or_else(too_large)?;
        match dtype.size() {
            Some(size) => {
                let wanted = elements.checked_mul(size).ok_or_else(too_large)?;
                if wanted != data.len() {
                    return Err(TensorError::ByteCount {
                        shape,
                        dtype,
                        wanted,
                        found: data.len(),
                    });
                }
            }
            None => {
                let mut found = 0;
                for element in (Strings { rest: &data }) {
                    element?;
                    found += 1;
                }
                if found != elements {
                    return Err(TensorError::ElementCount {
                        shape,
                        wanted: elements,
                        found,
                    });
                }
            }
        }
        Ok(Self {
            dtype,
            shape,
            data: Data::Bytes(data),
        })
    }

    /// Byte strings, as [`DType::Bytes`].
    pub fn byte_strings<S: AsRef<[u8]>>(
        shape: impl AsRef<[usize]>,
        strings: &[S],
    ) -> Result<Self, TensorError> {
        let mut data = Vec::new();
        for string in strings.iter().map(AsRef::as_ref) {
            let shape = || shape.as_ref().to_vec();
            let len = u32::try_from(string.len()).map_err(|_| TensorError::TooLarge {
                shape: shape(),
                dtype: DType::Bytes,
            })?;
            data.extend(len.to_le_bytes());
            data.extend(string);
        }
        Self::new(DType::Bytes, shape, data)
    }

    fn typed<T: Pod>(
        dtype: DType,
        shape: &[usize],
        values: Cow<'a, [T]>,
        own: fn(Vec<T>) -> Data<'a>,
    ) -> Result<Self, TensorError> {
        let wanted = count(shape).ok_or_else(|| TensorError::TooLarge {
            shape: shape.to_vec(),
            dtype,
        })?;
        if wanted != values.len() {
            let found = values.len();
            return Err(TensorError::ElementCount {
                shape: shape.to_vec(),
                wanted,
                found,
            });
        }
        let data = match values {
            Cow::Borrowed(values) => Data::Bytes(Cow::Borrowed(bytemuck::cast_slice(values))),
            Cow::Owned(values) => own(values),
        };
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it has: 1 for the shape `[]`.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as bytes: row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(data) => data,
            Data::U16(data) => bytemuck::cast_slice(data),
            Data::I32(data) => bytemuck::cast_slice(data),
            Data::I64(data) => bytemuck::cast_slice(data),
            Data::F32(data) => bytemuck::cast_slice(data),
            Data::F64(data) => bytemuck::cast_slice(data),
        }
    }

    /// Itself, when it has this shape.
    ///
    /// ```
    /// # use dunlin_sdk::{Tensor, TensorError};
    /// # let logits = Tensor::f32([1, 10], vec![0.0; 10])?;
    /// let logits = logits.with_shape(&[1, 10])?.as_f32()?;
    /// # Ok::<_, TensorError>(())
    /// ```
    pub fn with_shape(&self, shape: &[usize]) -> Result<&Self, TensorError> {
        if self.shape == shape {
            return Ok(self);
        }
        Err(TensorError::WrongShape {
            wanted: shape.to_vec(),
            found: self.shape.clone(),
        })
    }

    /// The same tensor with elements of its own.
    pub fn into_owned(self) -> Tensor<'static> {
        let data = match self.data {
            Data::Bytes(data) => Data::Bytes(Cow::Owned(data.into_owned())),
            Data::U16(data) => Data::U16(data),
            Data::I32(data) => Data::I32(data),
            Data::I64(data) => Data::I64(data),
            Data::F32(data) => Data::F32(data),
            Data::F64(data) => Data::F64(data),
        };
        Tensor {
            dtype: self.dtype,
            shape: self.shape,
            data,
        }
    }

    /// The elements as bytes, without a copy where they are bytes already.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.data {
            Data::Bytes(data) => data.into_owned(),
            _ => self.bytes().to_vec(),
        }
    }

    /// The elements of a [`DType::Bytes`] tensor.
    pub fn as_byte_strings(&self) -> Result<Vec<&[u8]>, TensorError> {
        self.check(DType::Bytes)?;
        Strings { rest: self.bytes() }.collect()
    }

    fn check(&self, wanted: DType) -> Result<(), TensorError> {
        if self.dtype == wanted {
            return Ok(());
        }
        Err(TensorError::WrongDType {
            wanted,
            found: self.dtype,
        })
    }

    /// Copies only where the bytes do not lie as the elements must.
    fn view<T: Pod>(&self, dtype: DType) -> Result<Cow<'_, [T]>, TensorError> {
        self.check(dtype)?;
        let bytes = self.bytes();
        Ok(match bytemuck::try_cast_slice(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
        })
    }
}

/// A constructor and a view for each datatype that models take.
macro_rules! typed {
    ($($make:ident $view:ident $element:ty, $dtype:ident, $own:expr, $what:literal;)*) => {
        impl<'a> Tensor<'a> {
            $(
                #[doc = concat!("A tensor of ", $what, ". A slice is borrowed, a vector is moved.")]
                pub fn $make(
                    shape: impl AsRef<[usize]>,
                    values: impl Into<Cow<'a, [$element]>>,
                ) -> Result<Self, TensorError> {
                    Self::typed(DType::$dtype, shape.as_ref(), values.into(), $own)
                }

                #[doc = concat!("The elements of a tensor of ", $what, ".")]
                pub fn $view(&self) -> Result<Cow<'_, [$element]>, TensorError> {
                    self.view(DType::$dtype)
                }
            )*
        }
    };
}

typed! {
    f32 as_f32 f32, F32, Data::F32, "`f32`";
    f64 as_f64 f64, F64, Data::F64, "`f64`";
    u8 as_u8 u8, U8, |values| Data::Bytes(Cow::Owned(values)), "`u8`";
    i32 as_i32 i32, I32, Data::I32, "`i32`";
    i64 as_i64 i64, I64, Data::I64, "`i64`";
    f16_bits as_f16_bits u16, F16, Data::U16, "IEEE 754 half precision, as raw bits";
    bf16_bits as_bf16_bits u16, BF16, Data::U16, "bfloat16, as raw bits";
}

/// Two tensors are equal when datatype, shape and bytes are: a NaN equals the same NaN.
impl PartialEq<Tensor<'_>> for Tensor<'_> {
    fn eq(&self, other: &Tensor<'_>) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

fn count(shape: &[usize]) -> Option<usize> {
    // A dimension of nothing makes nothing, however large the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |count, dimension| count.checked_mul(*dimension))
}

/// Walks the elements of a BYTES tensor.
struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = Result<&'a [u8], TensorError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.rest.split_first_chunk().and_then(|(len, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
        });
        let Some((element, rest)) = element else {
            self.rest = &[];
            return Some(Err(TensorError::CutShort));
        };
        self.rest = rest;
        Some(Ok(element))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slice_is_borrowed_and_a_vector_moved() {
        let values = [1.0_f32, 2.0];
        let tensor = Tensor::f32([2], &values).unwrap();
        assert_eq!(tensor.bytes().as_ptr(), values.as_ptr().cast());
        let values = vec![1_i64, 2];
        let address = values.as_ptr();
        let tensor = Tensor::i64([2], values).unwrap().into_owned();
        assert_eq!(tensor.bytes().as_ptr(), address.cast());
        assert!(matches!(tensor.as_i64().unwrap(), Cow::Borrowed([1, 2])));
    }

    #[test]
    fn bytes_that_are_not_aligned_are_read() {
        let mut bytes = [0; 9];
        bytes[1..].copy_from_slice(bytemuck::cast_slice(&[1.5_f32, -2.0]));
        // One of the two starts is not aligned for f32.
        for from in 0..2 {
            let tensor = Tensor::new(DType::F32, [2], &bytes[from..from + 8]).unwrap();
            assert_eq!(tensor.as_f32().unwrap().len(), 2);
        }
        let tensor = Tensor::new(DType::F32, [2], &bytes[1..]).unwrap();
        assert_eq!(tensor.as_f32().unwrap().as_ref(), [1.5, -2.0]);
    }

    fn check_refused(dtype: DType, shape: &[usize], bytes: &[u8], expected: &str) {
        let error = Tensor::new(dtype, shape, bytes).unwrap_err().to_string();
        assert_eq!(error, expected);
    }

    #[test]
    fn shape_and_data_must_agree() {
        check_refused(
            DType::F32,
            &[2],
            &[0; 7],
            "shape [2] of FP32 needs 8 bytes, the data has 7",
        );
        check_refused(
            DType::F16,
            &[usize::MAX, 2],
            &[],
            &format!("shape [{}, 2] of FP16 is larger than memory", usize::MAX),
        );
        check_refused(
            DType::F64,
            &[usize::MAX],
            &[],
            &format!("shape [{}] of FP64 is larger than memory", usize::MAX),
        );
        check_refused(
            DType::Bytes,
            &[1],
            &[],
            "shape [1] has 1 elements, the data has 0",
        );
        let cut_short = "the elements of a BYTES tensor are cut short";
        check_refused(DType::Bytes, &[1], &[1, 0, 0], cut_short);
        check_refused(DType::Bytes, &[1], &[2, 0, 0, 0, 9], cut_short);
        check_refused(DType::Bytes, &[1], &[255, 255, 255, 255, 9], cut_short);
        assert!(Tensor::new(DType::F32, [usize::MAX, usize::MAX, 0], vec![]).is_ok());
        assert!(Tensor::new(DType::F32, [], vec![0; 4]).is_ok());
    }

    proptest! {
        #[test]
        fn byte_strings_come_back(strings: Vec<Vec<u8>>) {
            let tensor = Tensor::byte_strings([strings.len()], &strings).unwrap();
            prop_assert_eq!(tensor.as_byte_strings().unwrap(), strings);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, shape: Vec<usize>) {
            let _ = Tensor::new(DType::Bytes, &shape, &bytes);
            let _ = Tensor::new(DType::I32, &shape, &bytes);
        }
    }
}
