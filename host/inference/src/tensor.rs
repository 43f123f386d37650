//! Dense tensors as they travel: shape, element type and little-endian bytes.
//!
//! A [`Tensor`] that exists is consistent: its data are exactly as long as its shape and type say,
//! a `BOOL` holds only 0 and 1, and the lengths inside a `BYTES` add up. So nothing behind this
//! module checks them again. It knows no engine.

mod rows;

use std::fmt;

use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

use crate::DType;

pub(crate) use rows::rows_alike;

/// The sizes of a tensor's dimensions, outermost first.
pub type Shape = SmallVec<[u64; 4]>;

/// More dimensions than any model has; a bound on what a request can make the engines walk.
pub const RANK_MAX: usize = 32;

/// A row-major tensor. Cloning shares the data.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Bytes,
}

/// Why bytes, a shape and a type do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("a tensor of {rank} dimensions; at most {RANK_MAX} are allowed")]
    TooManyDimensions { rank: usize },
    #[error("shape {} with {dtype} elements is larger than this machine can address", display_shape(.shape))]
    TooLarge { dtype: DType, shape: Shape },
    #[error("shape {} with {dtype} elements takes {expected} bytes, got {got}", display_shape(.shape))]
    Length {
        dtype: DType,
        shape: Shape,
        expected: usize,
        got: usize,
    },
    #[error("this machine has no memory for a tensor of {bytes} bytes")]
    OutOfMemory { bytes: usize },
    #[error("byte {value} at {offset} is no BOOL; write 0 or 1")]
    NotBool { offset: usize, value: u8 },
    #[error("shape {} takes {expected} BYTES elements, the data end within element {found}", display_shape(.shape))]
    BytesTooShort {
        shape: Shape,
        expected: usize,
        found: usize,
    },
    #[error("shape {} takes {expected} BYTES elements, {extra} bytes follow the last one", display_shape(.shape))]
    BytesTooLong {
        shape: Shape,
        expected: usize,
        extra: usize,
    },
    #[error("a BYTES element of {length} bytes; at most {} are allowed", u32::MAX)]
    ElementTooLong { length: usize },
}

impl Tensor {
    /// Takes row-major little-endian data. A scalar has an empty shape and one element.
    pub fn new(dtype: DType, shape: &[u64], data: impl Into<Bytes>) -> Result<Tensor, TensorError> {
        let (shape, data) = (Shape::from_slice(shape), data.into());
        let elements = element_count(dtype, &shape)?;
        match dtype.size() {
            Some(size) => {
                let expected = elements * size;
                if data.len() != expected {
                    return Err(TensorError::Length {
                        dtype,
                        shape,
                        expected,
                        got: data.len(),
                    });
                }
                if dtype == DType::Bool
                    && let Some(offset) = data.iter().position(|byte| *byte > 1)
                {
                    return Err(TensorError::NotBool {
                        offset,
                        value: data[offset],
                    });
                }
            }
            None => check_byte_elements(&shape, elements, &data)?,
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of numbers; the element type follows from `T`.
    pub fn from_values<T: Element>(shape: &[u64], values: &[T]) -> Result<Tensor, TensorError> {
        let mut data = Vec::with_capacity(size_of_val(values));
        for value in values {
            value.write_le(&mut data);
        }
        Tensor::new(T::DTYPE, shape, data)
    }

    /// A tensor of byte strings.
    pub fn from_byte_strings<S: AsRef<[u8]>>(
        shape: &[u64],
        values: impl IntoIterator<Item = S>,
    ) -> Result<Tensor, TensorError> {
        let mut data = Vec::new();
        for value in values {
            let value = value.as_ref();
            let length = u32::try_from(value.len()).map_err(|_| TensorError::ElementTooLong {
                length: value.len(),
            })?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(value);
        }
        Tensor::new(DType::Bytes, shape, data)
    }

    /// Zeros, false, or empty byte strings.
    pub fn zeros(dtype: DType, shape: &[u64]) -> Result<Tensor, TensorError> {
        // An empty byte string is its length alone, four zero bytes.
        let size = dtype.size().unwrap_or(BYTES_LENGTH);
        let bytes = element_count(dtype, shape)? * size;
        let mut data = reserved(bytes)?;
        data.resize(bytes, 0);
        Tensor::new(dtype, shape, data)
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Row-major and little-endian.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    pub fn into_data(self) -> Bytes {
        self.data
    }

    pub fn element_count(&self) -> usize {
        // Checked when the tensor was made, so this can neither overflow nor lose bits.
        if self.shape.contains(&0) {
            return 0;
        }
        self.shape.iter().product::<u64>() as usize
    }

    /// The elements, if they are of type `T`. The data may lie at any address, so they are read
    /// one by one and no slice of them can be given.
    pub fn values<T: Element>(&self) -> Option<impl ExactSizeIterator<Item = T> + '_> {
        (self.dtype == T::DTYPE).then(|| {
            self.data
                .chunks_exact(size_of::<T>())
                .map(|bytes| T::read_le(bytes))
        })
    }

    /// The elements of a [`DType::Bytes`] tensor.
    pub fn byte_strings(&self) -> Option<impl Iterator<Item = &[u8]>> {
        (self.dtype == DType::Bytes).then(|| ByteStrings { rest: &self.data })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the data: a tensor in a log line is about its type.
        write!(f, "{}{}", self.dtype, display_shape(&self.shape))
    }
}

/// A number with a fixed size that a tensor can hold.
pub trait Element: Copy + private::LittleEndian {
    const DTYPE: DType;
}

/// `[2,64]`, as messages write a shape.
pub(crate) fn display_shape(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(","))
}

/// How many elements a shape has. Their bytes fit in an `isize`, and so would those of the non-zero
/// dimensions alone: a zero among them is no way to bring a huge one to an engine.
fn element_count(dtype: DType, shape: &[u64]) -> Result<usize, TensorError> {
    if shape.len() > RANK_MAX {
        return Err(TensorError::TooManyDimensions { rank: shape.len() });
    }
    let nonzero = shape
        .iter()
        .filter(|size| **size != 0)
        .try_fold(1_u64, |product, size| product.checked_mul(*size))
        .and_then(|product| product.checked_mul(dtype.size().unwrap_or(BYTES_LENGTH) as u64))
        .filter(|bytes| isize::try_from(*bytes).is_ok());
    let Some(bytes) = nonzero else {
        return Err(TensorError::TooLarge {
            dtype,
            shape: shape.into(),
        });
    };
    if shape.contains(&0) {
        return Ok(0);
    }
    Ok(bytes as usize / dtype.size().unwrap_or(BYTES_LENGTH))
}

/// An empty vector with room for so many bytes: a shape is somebody else's word, and an allocation
/// that fails inside `Vec` ends the process.
fn reserved(bytes: usize) -> Result<Vec<u8>, TensorError> {
    let mut data = Vec::new();
    data.try_reserve_exact(bytes)
        .map_err(|_| TensorError::OutOfMemory { bytes })?;
    Ok(data)
}

/// Bytes of the length in front of each element of a [`DType::Bytes`] tensor.
pub(crate) const BYTES_LENGTH: usize = 4;

fn check_byte_elements(shape: &Shape, expected: usize, data: &[u8]) -> Result<(), TensorError> {
    let mut elements = ByteStrings { rest: data };
    // Ends with the data at the latest, however many elements the shape claims.
    for found in 0..expected {
        if elements.next().is_none() {
            return Err(TensorError::BytesTooShort {
                shape: shape.clone(),
                expected,
                found,
            });
        }
    }
    if !elements.rest.is_empty() {
        return Err(TensorError::BytesTooLong {
            shape: shape.clone(),
            expected,
            extra: elements.rest.len(),
        });
    }
    Ok(())
}

/// Walks length-prefixed elements; ends where one is cut off.
struct ByteStrings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<BYTES_LENGTH>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (element, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(element)
    }
}

mod private {
    /// Sealed: a type of another crate could not say truthfully how its bytes lie.
    pub trait LittleEndian: Sized {
        /// `bytes` are exactly as many as the type has.
        fn read_le(bytes: &[u8]) -> Self;
        fn write_le(self, into: &mut Vec<u8>);
    }
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl private::LittleEndian for $type {
            fn read_le(bytes: &[u8]) -> Self {
                let bytes = bytes.try_into().expect("chunks have the element's size");
                <$type>::from_le_bytes(bytes)
            }

            fn write_le(self, into: &mut Vec<u8>) {
                into.extend_from_slice(&self.to_le_bytes());
            }
        }

        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    u8 => U8,
    u16 => U16,
    u32 => U32,
    u64 => U64,
    i8 => I8,
    i16 => I16,
    i32 => I32,
    i64 => I64,
    f16 => F16,
    bf16 => BF16,
    f32 => F32,
    f64 => F64,
}

impl private::LittleEndian for bool {
    fn read_le(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }

    fn write_le(self, into: &mut Vec<u8>) {
        into.push(u8::from(self));
    }
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit() {
        let huge: &[u64] = &[1 << 40, 1 << 40];
        let cases: &[(DType, &[u64], &[u8], &str)] = &[
            (
                DType::F32,
                &[2, 2],
                &[0; 15],
                "shape [2,2] with FP32 elements takes 16 bytes, got 15",
            ),
            (
                DType::F32,
                &[],
                &[],
                "shape [] with FP32 elements takes 4 bytes, got 0",
            ),
            (DType::U8, huge, &[], "larger than this machine can address"),
            // A zero elsewhere does not make the rest harmless.
            (
                DType::U8,
                &[0, u64::MAX, 2],
                &[],
                "larger than this machine can address",
            ),
            (
                DType::F64,
                &[1 << 61],
                &[],
                "larger than this machine can address",
            ),
            (DType::Bool, &[3], &[0, 1, 2], "byte 2 at 2 is no BOOL"),
            (
                DType::Bytes,
                &[1],
                &[3, 0, 0, 0, b'a'],
                "the data end within element 0",
            ),
            (
                DType::Bytes,
                &[2],
                &[0, 0, 0, 0],
                "the data end within element 1",
            ),
            (
                DType::Bytes,
                &[1 << 50],
                &[],
                "the data end within element 0",
            ),
            (
                DType::Bytes,
                &[1],
                &[0, 0, 0, 0, 9],
                "1 bytes follow the last one",
            ),
            (
                DType::Bytes,
                &[1],
                &[0xff; 6],
                "the data end within element 0",
            ),
            (
                DType::U8,
                &[1; RANK_MAX + 1],
                &[0],
                "a tensor of 33 dimensions",
            ),
        ];
        for (dtype, shape, data, message) in cases {
            let error = Tensor::new(*dtype, shape, data.to_vec()).unwrap_err();
            assert!(
                error.to_string().contains(message),
                "{dtype} {shape:?}: {error}"
            );
        }
    }

    #[test]
    fn values_come_back() {
        fn check<T: Element + PartialEq + fmt::Debug>(values: &[T]) {
            let tensor = Tensor::from_values(&[values.len() as u64], values).unwrap();
            let back: Vec<T> = tensor.values::<T>().unwrap().collect();
            assert_eq!(back, values);
            assert_eq!(tensor.dtype(), T::DTYPE);
        }
        check(&[true, false]);
        check(&[1_u8, 255]);
        check(&[1_u16, 65535]);
        check(&[u32::MAX]);
        check(&[u64::MAX]);
        check(&[i8::MIN]);
        check(&[i16::MIN]);
        check(&[i32::MIN]);
        check(&[i64::MIN]);
        check(&[f16::from_f32(0.5)]);
        check(&[bf16::from_f32(-2.0)]);
        check(&[1.5_f32, f32::INFINITY]);
        check(&[1.5_f64]);

        let tensor = Tensor::from_values(&[1], &[1_f32]).unwrap();
        assert!(tensor.values::<i32>().is_none());
        assert!(tensor.byte_strings().is_none());
    }

    #[test]
    fn values_are_read_at_any_address() {
        let data = Bytes::from(vec![9, 1, 0, 0, 0, 2, 0, 0, 0]).slice(1..);
        let tensor = Tensor::new(DType::U32, &[2], data).unwrap();
        assert_eq!(tensor.values::<u32>().unwrap().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn byte_strings_come_back() {
        let strings: [&[u8]; 3] = [b"", b"a\0b", "é".as_bytes()];
        let tensor = Tensor::from_byte_strings(&[3, 1], strings).unwrap();
        assert_eq!(tensor.byte_strings().unwrap().collect::<Vec<_>>(), strings);
    }

    #[test]
    fn zeros_beyond_memory_are_an_error() {
        // Representable, and more than any machine's address space.
        let error = Tensor::zeros(DType::F32, &[1 << 20, 1 << 25]).unwrap_err();
        assert_eq!(error, TensorError::OutOfMemory { bytes: 1 << 47 });
    }

    #[test]
    fn rows_share_the_data() {
        let tensor = Tensor::from_values(&[3, 2], &[0_i32, 1, 2, 3, 4, 5]).unwrap();
        let rows = tensor.rows(1, 2).unwrap();
        assert_eq!(rows.shape(), [2, 2]);
        assert_eq!(
            rows.values::<i32>().unwrap().collect::<Vec<_>>(),
            [2, 3, 4, 5]
        );
        assert!(tensor.rows(2, 2).is_none());
        assert!(tensor.rows(u64::MAX, 2).is_none());
        let scalar = Tensor::from_values(&[], &[1_i32]).unwrap();
        assert!(scalar.rows(0, 1).is_none());
        let empty = Tensor::zeros(DType::F32, &[1 << 40, 0]).unwrap();
        assert_eq!(empty.rows(1 << 39, 1).unwrap().element_count(), 0);
    }
}
