//! Tensors as JSON: numbers, booleans and strings, nested or flat, to and from little-endian bytes.

use std::fmt;

use dunlin_inference::{DType, Tensor};
use half::{bf16, f16};
use serde::{
    Serialize, Serializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The elements in `data`, however they are nested, as the bytes of a tensor of `dtype`.
///
/// # Errors
/// An element of another kind, out of its datatype's range, or nested deeper than 128.
pub fn parse(dtype: DType, data: &RawValue) -> Result<Vec<u8>, serde_json::Error> {
    elements(dtype, data, None)
}

/// The elements in `data` as the bytes of a tensor of `dtype`, and the shape that their nesting is:
/// `[[1, 2, 3]]` has 1 by 3.
///
/// # Errors
/// As [`parse`], and lists that do not make a rectangle.
pub(crate) fn parse_nested(
    dtype: DType,
    data: &RawValue,
) -> Result<(Vec<u64>, Vec<u8>), serde_json::Error> {
    let mut nesting = Nesting::default();
    let bytes = elements(dtype, data, Some(&mut nesting))?;
    Ok((nesting.shape, bytes))
}

fn elements(
    dtype: DType,
    data: &RawValue,
    nesting: Option<&mut Nesting>,
) -> Result<Vec<u8>, serde_json::Error> {
    let text = data.get();
    // Every element takes two characters of JSON at least, its comma included.
    let mut bytes = Vec::with_capacity(text.len() / 2 * dtype.size().unwrap_or(2));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Elements {
        dtype,
        bytes: &mut bytes,
        nesting,
    }
    .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(bytes)
}

struct Elements<'a> {
    dtype: DType,
    bytes: &'a mut Vec<u8>,
    /// Where the lists must make a rectangle.
    nesting: Option<&'a mut Nesting>,
}

/// The rectangle that lists make: what the first way down to an element found, and whether all the
/// others agree with it.
#[derive(Default)]
struct Nesting {
    shape: Vec<u64>,
    /// How many lists are open.
    depth: usize,
    /// An element was seen, so there are no further dimensions.
    complete: bool,
}

impl Nesting {
    fn element<E: de::Error>(&mut self) -> Result<(), E> {
        self.complete |= self.depth == self.shape.len();
        match self.depth == self.shape.len() {
            true => Ok(()),
            false => Err(E::custom("an element stands beside lists")),
        }
    }

    /// Says whether this is the first list of its depth.
    fn open<E: de::Error>(&mut self) -> Result<bool, E> {
        let first = self.depth == self.shape.len();
        if first && self.complete {
            return Err(E::custom("a list stands beside elements"));
        }
        if first {
            self.shape.push(0);
        }
        self.depth += 1;
        Ok(first)
    }

    fn close<E: de::Error>(&mut self, first: bool, length: u64) -> Result<(), E> {
        self.depth -= 1;
        let known = &mut self.shape[self.depth];
        if first {
            *known = length;
        }
        match *known == length {
            true => Ok(()),
            false => Err(E::custom(format_args!(
                "a list has {length} elements, and another of the same depth {known}"
            ))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.dtype {
            DType::Bool => "true or false",
            DType::Bytes => "a string",
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => "a number",
            _ => "a whole number",
        };
        write!(f, "{kind} for {}", self.dtype.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        let first = match &mut self.nesting {
            Some(nesting) => nesting.open()?,
            None => false,
        };
        let mut length = 0;
        while elements
            .next_element_seed(Elements {
                dtype: self.dtype,
                bytes: &mut *self.bytes,
                nesting: self.nesting.as_deref_mut(),
            })?
            .is_some()
        {
            length += 1;
        }
        match self.nesting {
            Some(nesting) => nesting.close(first, length),
            None => Ok(()),
        }
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<(), E> {
        self.element()?;
        if self.dtype != DType::Bool {
            return Err(E::invalid_type(de::Unexpected::Bool(value), &self));
        }
        self.bytes.push(u8::from(value));
        Ok(())
    }

    fn visit_str<E: de::Error>(mut self, value: &str) -> Result<(), E> {
        self.element()?;
        if self.dtype != DType::Bytes {
            return Err(E::invalid_type(de::Unexpected::Str(value), &self));
        }
        let length = u32::try_from(value.len()).map_err(E::custom)?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the datatype has the precision that the model was made for"
    )]
    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<(), E> {
        self.element()?;
        let bytes = &mut *self.bytes;
        let fits = match self.dtype {
            DType::F64 => {
                bytes.extend_from_slice(&value.to_le_bytes());
                true
            }
            DType::F32 => {
                let value = value as f32;
                bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            DType::F16 => {
                let value = f16::from_f64(value);
                bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            DType::BF16 => {
                let value = bf16::from_f64(value);
                bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            _ => return Err(E::invalid_type(de::Unexpected::Float(value), &self)),
        };
        // JSON has no infinity, so nobody can have meant one.
        if fits {
            Ok(())
        } else {
            Err(out_of_range(value, self.dtype))
        }
    }
}

fn out_of_range<E: de::Error>(value: impl fmt::Display, dtype: DType) -> E {
    E::custom(format_args!("{value} is out of range for {}", dtype.name()))
}

impl Elements<'_> {
    fn element<E: de::Error>(&mut self) -> Result<(), E> {
        self.nesting.as_mut().map_or(Ok(()), |n| n.element())
    }

    fn integer<E: de::Error>(mut self, value: i128) -> Result<(), E> {
        if !self.dtype.is_float() {
            self.element()?;
        }
        let bytes = &mut *self.bytes;
        let out_of_range = |_| out_of_range(value, self.dtype);
        macro_rules! put {
            ($int:ty) => {
                bytes.extend_from_slice(
                    &<$int>::try_from(value).map_err(out_of_range)?.to_le_bytes(),
                )
            };
        }
        match self.dtype {
            DType::U8 => put!(u8),
            DType::U16 => put!(u16),
            DType::U32 => put!(u32),
            DType::U64 => put!(u64),
            DType::I8 => put!(i8),
            DType::I16 => put!(i16),
            DType::I32 => put!(i32),
            DType::I64 => put!(i64),
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => {
                #[expect(clippy::cast_precision_loss, reason = "as for a number with a point")]
                return self.visit_f64(value as f64);
            }
            DType::Bool | DType::Bytes => {
                let unexpected = de::Unexpected::Other("a number");
                return Err(E::invalid_type(unexpected, &self));
            }
        }
        Ok(())
    }
}

/// A tensor's elements as one flat JSON list. A float that is not finite becomes `null`: JSON has no
/// word for it.
pub(super) struct Flat<'a>(pub(super) &'a Tensor);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let strings = strings(self.0);
        let elements = Slice::whole(self.0, &strings);
        elements.flat(serializer)
    }
}

/// A tensor as JSON lists nested as its shape says; a scalar is no list. Elements are as in [`Flat`].
pub(crate) struct Nested<'a>(pub(crate) &'a Tensor);

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let strings = strings(self.0);
        Slice::whole(self.0, &strings).serialize(serializer)
    }
}

/// Tensors that have the same number of rows, as a JSON list with an object for each row.
pub(super) struct RowObjects<'a>(pub(super) &'a [(String, Tensor)]);

struct RowObject<'a>(&'a [(&'a str, Vec<Slice<'a>>)], usize);

impl Serialize for RowObjects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let strings: Vec<_> = self.0.iter().map(|(_, tensor)| strings(tensor)).collect();
        let columns = self
            .0
            .iter()
            .zip(&strings)
            .map(|((name, tensor), strings)| {
                let rows = Slice::whole(tensor, strings).parts().collect();
                (name.as_str(), rows)
            });
        let columns: Vec<(&str, Vec<Slice<'_>>)> = columns.collect();
        let rows = columns.iter().map(|(_, rows)| rows.len()).min();
        serializer.collect_seq((0..rows.unwrap_or(0)).map(|row| RowObject(&columns, row)))
    }
}

impl Serialize for RowObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(columns, row) = self;
        serializer.collect_map(columns.iter().map(|(name, rows)| (name, &rows[*row])))
    }
}

fn strings(tensor: &Tensor) -> Vec<&[u8]> {
    tensor.byte_strings().into_iter().flatten().collect()
}

/// Part of a tensor: what is behind some indices of its first dimensions.
struct Slice<'a> {
    dtype: DType,
    shape: &'a [u64],
    data: &'a [u8],
    /// The elements, where they are byte strings; then `data` is of no use.
    strings: &'a [&'a [u8]],
}

impl<'a> Slice<'a> {
    fn whole(tensor: &'a Tensor, strings: &'a [&'a [u8]]) -> Self {
        Self {
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            data: tensor.data(),
            strings,
        }
    }

    /// The parts along the first dimension.
    fn parts(&self) -> impl Iterator<Item = Slice<'a>> {
        let (count, shape) = match self.shape {
            [count, rest @ ..] => (*count as usize, rest),
            [] => (0, self.shape),
        };
        let bytes = self.data.len().checked_div(count).unwrap_or(0);
        let strings = self.strings.len().checked_div(count).unwrap_or(0);
        let (data, all, dtype) = (self.data, self.strings, self.dtype);
        (0..count).map(move |at| Slice {
            dtype,
            shape,
            data: data.get(at * bytes..(at + 1) * bytes).unwrap_or_default(),
            strings: all
                .get(at * strings..(at + 1) * strings)
                .unwrap_or_default(),
        })
    }

    fn flat<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = self.data;
        macro_rules! numbers {
            ($number:ty) => {
                serializer.collect_seq(
                    data.as_chunks::<{ size_of::<$number>() }>()
                        .0
                        .iter()
                        .map(|bytes| <$number>::from_le_bytes(*bytes)),
                )
            };
        }
        let halves = || data.as_chunks::<2>().0.iter();
        match self.dtype {
            DType::Bool => serializer.collect_seq(data.iter().map(|byte| *byte != 0)),
            DType::U8 => serializer.collect_seq(data),
            DType::U16 => numbers!(u16),
            DType::U32 => numbers!(u32),
            DType::U64 => numbers!(u64),
            DType::I8 => numbers!(i8),
            DType::I16 => numbers!(i16),
            DType::I32 => numbers!(i32),
            DType::I64 => numbers!(i64),
            DType::F32 => numbers!(f32),
            DType::F64 => numbers!(f64),
            DType::F16 => {
                serializer.collect_seq(halves().map(|bytes| f16::from_le_bytes(*bytes).to_f32()))
            }
            DType::BF16 => {
                serializer.collect_seq(halves().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()))
            }
            DType::Bytes => serializer.collect_seq(
                self.strings
                    .iter()
                    .map(|text| String::from_utf8_lossy(text)),
            ),
        }
    }

    /// The one element of a scalar.
    fn scalar<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! number {
            ($number:ty) => {
                <$number>::from_le_bytes(*self.data.first_chunk().unwrap_or(&[0; _]))
                    .serialize(serializer)
            };
        }
        let half = || *self.data.first_chunk().unwrap_or(&[0; 2]);
        match self.dtype {
            DType::Bool => (self.data != [0]).serialize(serializer),
            DType::U8 => number!(u8),
            DType::U16 => number!(u16),
            DType::U32 => number!(u32),
            DType::U64 => number!(u64),
            DType::I8 => number!(i8),
            DType::I16 => number!(i16),
            DType::I32 => number!(i32),
            DType::I64 => number!(i64),
            DType::F32 => number!(f32),
            DType::F64 => number!(f64),
            DType::F16 => f16::from_le_bytes(half()).to_f32().serialize(serializer),
            DType::BF16 => bf16::from_le_bytes(half()).to_f32().serialize(serializer),
            DType::Bytes => {
                let text = self.strings.first().copied().unwrap_or_default();
                String::from_utf8_lossy(text).serialize(serializer)
            }
        }
    }
}

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shape {
            [] => self.scalar(serializer),
            [_] => self.flat(serializer),
            _ => serializer.collect_seq(self.parts()),
        }
    }
}

#[cfg(test)]
mod tests;
