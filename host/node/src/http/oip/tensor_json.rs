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
    let text = data.get();
    // Every element takes two characters of JSON at least, its comma included.
    let mut bytes = Vec::with_capacity(text.len() / 2 * dtype.size().unwrap_or(2));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Elements {
        dtype,
        bytes: &mut bytes,
    }
    .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(bytes)
}

struct Elements<'a> {
    dtype: DType,
    bytes: &'a mut Vec<u8>,
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements
            .next_element_seed(Elements {
                dtype: self.dtype,
                bytes: &mut *self.bytes,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        if self.dtype != DType::Bool {
            return Err(E::invalid_type(de::Unexpected::Bool(value), &self));
        }
        self.bytes.push(u8::from(value));
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
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
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
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
    fn integer<E: de::Error>(self, value: i128) -> Result<(), E> {
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
        let data: &[u8] = self.0.data();
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
        match self.0.dtype() {
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
                self.0
                    .byte_strings()
                    .into_iter()
                    .flatten()
                    .map(String::from_utf8_lossy),
            ),
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
