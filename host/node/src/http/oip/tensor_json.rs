//! Tensors as JSON: numbers, booleans and strings, nested or flat, to and from little-endian bytes.

use std::fmt;

use dunlin_inference::{DType, Dim, Tensor, TensorSpec};
use half::{bf16, f16};
use serde::{
    Serialize, Serializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

/// `inputs` or `outputs` of the model metadata; -1 is a variable dimension.
pub(crate) fn specs(specs: &[TensorSpec]) -> Vec<Value> {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => json!(size),
        Dim::Any => json!(-1),
    };
    let spec = |spec: &TensorSpec| {
        json!({
            "name": spec.name,
            "datatype": spec.dtype.name(),
            "shape": spec.shape.iter().map(dim).collect::<Vec<_>>(),
        })
    };
    specs.iter().map(spec).collect()
}

/// The elements in `data`, however they are nested, as the bytes of a tensor of `dtype`.
///
/// # Errors
/// An element of another kind, out of its datatype's range, or nested deeper than 128.
pub(super) fn parse(dtype: DType, data: &RawValue) -> Result<Vec<u8>, serde_json::Error> {
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
        match self.dtype {
            DType::F64 => bytes.extend_from_slice(&value.to_le_bytes()),
            DType::F32 => bytes.extend_from_slice(&(value as f32).to_le_bytes()),
            DType::F16 => bytes.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
            DType::BF16 => bytes.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
            _ => return Err(E::invalid_type(de::Unexpected::Float(value), &self)),
        }
        Ok(())
    }
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
        let out_of_range = |_| {
            E::custom(format_args!(
                "{value} is out of range for {}",
                self.dtype.name()
            ))
        };
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
mod tests {
    use super::*;

    fn parsed(dtype: DType, text: &str) -> Result<Vec<u8>, String> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        parse(dtype, raw).map_err(|error| error.to_string())
    }

    #[test]
    fn elements_become_bytes_however_they_are_nested() {
        let le = |values: &[f32]| {
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            parsed(DType::F32, "[1, 2.5, -3e0]"),
            Ok(le(&[1.0, 2.5, -3.0]))
        );
        assert_eq!(
            parsed(DType::F32, "[[1], [[2.5]], -3]"),
            Ok(le(&[1.0, 2.5, -3.0]))
        );
        assert_eq!(parsed(DType::Bool, "[true, [false]]"), Ok(vec![1, 0]));
        assert_eq!(parsed(DType::I8, "[-128, 127]"), Ok(vec![0x80, 0x7f]));
        assert_eq!(
            parsed(DType::Bytes, r#"["", "é"]"#).unwrap(),
            [0, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9]
        );
        assert_eq!(
            parsed(DType::U64, "[18446744073709551615]"),
            Ok(vec![0xff; 8])
        );
        assert_eq!(parsed(DType::F16, "[1]"), Ok(vec![0x00, 0x3c]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            (DType::U8, "[256]", "256 is out of range for UINT8"),
            (DType::I32, "[1.5]", "a whole number for INT32"),
            (DType::F32, r#"["1"]"#, "a number for FP32"),
            (DType::F32, "[null]", "a number for FP32"),
            (DType::Bool, "[1]", "true or false for BOOL"),
            (DType::Bytes, "[1]", "a string for BYTES"),
            (DType::F32, r#"{"a": 1}"#, "a number for FP32"),
        ];
        for (dtype, text, reason) in cases {
            let error = parsed(dtype, text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(
            parsed(DType::F32, &deep)
                .unwrap_err()
                .contains("recursion limit")
        );
    }

    #[test]
    fn nesting_is_the_shape() {
        let shape = |text: &str| {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            let parsed = parse_nested(DType::F32, raw).map_err(|error| error.to_string());
            parsed.map(|(shape, bytes)| {
                assert_eq!(
                    bytes.len() as u64,
                    4 * shape.iter().product::<u64>(),
                    "{text}"
                );
                shape
            })
        };
        let shapes: [(&str, &[u64]); 8] = [
            ("2.5", &[]),
            ("7", &[]),
            ("[1, 2.5]", &[2]),
            ("[]", &[0]),
            ("[[], []]", &[2, 0]),
            ("[[1, 2, 3], [4, 5, 6]]", &[2, 3]),
            ("[[[1], [2]]]", &[1, 2, 1]),
            ("[[[]]]", &[1, 1, 0]),
        ];
        for (text, expected) in shapes {
            assert_eq!(shape(text).as_deref(), Ok(expected), "{text}");
        }
        let ragged = [
            (
                "[[1, 2], [3]]",
                "a list has 1 elements, and another of the same depth 2",
            ),
            (
                "[[], [1]]",
                "a list has 1 elements, and another of the same depth 0",
            ),
            (
                "[[[1]], [[]]]",
                "a list has 0 elements, and another of the same depth 1",
            ),
            ("[[1], 2]", "an element stands beside lists"),
            ("[[], 2.5]", "an element stands beside lists"),
            ("[1, [2]]", "a list stands beside elements"),
            ("[[1], [[2]]]", "a list stands beside elements"),
        ];
        for (text, reason) in ragged {
            let error = shape(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_tensor_is_nested_as_its_shape() {
        let nested = |tensor: &Tensor| serde_json::to_string(&Nested(tensor)).unwrap();
        let values: Vec<i64> = (0..6).collect();
        for (shape, expected) in [
            (&[6][..], "[0,1,2,3,4,5]"),
            (&[2, 3], "[[0,1,2],[3,4,5]]"),
            (&[3, 1, 2], "[[[0,1]],[[2,3]],[[4,5]]]"),
        ] {
            assert_eq!(
                nested(&Tensor::from_values(shape, &values).unwrap()),
                expected
            );
        }
        assert_eq!(
            nested(&Tensor::from_values(&[], &[-2.5f32]).unwrap()),
            "-2.5"
        );
        assert_eq!(
            nested(&Tensor::from_values(&[], &[f64::NAN]).unwrap()),
            "null"
        );
        assert_eq!(
            nested(&Tensor::new(DType::Bool, &[], vec![1]).unwrap()),
            "true"
        );
        assert_eq!(
            nested(&Tensor::zeros(DType::F32, &[2, 0]).unwrap()),
            "[[],[]]"
        );
        let words = Tensor::from_byte_strings(&[2, 2], ["a", "", "bc", "d"]).unwrap();
        assert_eq!(nested(&words), r#"[["a",""],["bc","d"]]"#);
        let word = Tensor::from_byte_strings(&[], ["a"]).unwrap();
        assert_eq!(nested(&word), r#""a""#);
    }

    #[test]
    fn elements_come_back_as_json() {
        let flat = |tensor: &Tensor| serde_json::to_string(&Flat(tensor)).unwrap();
        let floats = Tensor::from_values(&[3], &[0.1f32, f32::NAN, -0.0]).unwrap();
        assert_eq!(flat(&floats), "[0.1,null,-0.0]");
        let flags = Tensor::new(DType::Bool, &[2], vec![1, 0]).unwrap();
        assert_eq!(flat(&flags), "[true,false]");
        let words = Tensor::from_byte_strings(&[2], ["a\"b", ""]).unwrap();
        assert_eq!(flat(&words), r#"["a\"b",""]"#);
    }
}
