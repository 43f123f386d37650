//! Tensors as each protocol has them.

use dunlin_inference::{DType, NamedTensors, Tensor};
use half::{bf16, f16};
use serde_json::{Value, json};

use super::proto::InferTensorContents;

/// Any number that JSON has a word for.
pub(crate) fn element(dtype: DType, seed: u64, data: &mut Vec<u8>) {
    let finite = |value: f64| if value.is_finite() { value } else { 0.5 };
    match dtype {
        DType::Bool => data.push((seed & 1) as u8),
        DType::F16 => {
            let value = f16::from_bits(seed as u16);
            data.extend(f16::from_f64(finite(value.to_f64())).to_le_bytes());
        }
        DType::BF16 => {
            let value = bf16::from_bits(seed as u16);
            data.extend(bf16::from_f64(finite(value.to_f64())).to_le_bytes());
        }
        DType::F32 => {
            let value = f32::from_bits(seed as u32);
            // Sums must not overflow either.
            let value = if value.abs() < 1e30 { value } else { -1.25 };
            data.extend(value.to_le_bytes());
        }
        DType::F64 => data.extend(finite(f64::from_bits(seed)).to_le_bytes()),
        dtype => data.extend_from_slice(&seed.to_le_bytes()[..dtype.size().unwrap()]),
    }
}

/// The elements as JSON.
pub(crate) fn elements(tensor: &Tensor) -> Vec<Value> {
    macro_rules! all {
        ($type:ty) => {
            tensor
                .values::<$type>()
                .unwrap()
                .map(|value| json!(value))
                .collect()
        };
    }
    match tensor.dtype() {
        DType::Bool => all!(bool),
        DType::U8 => all!(u8),
        DType::U16 => all!(u16),
        DType::U32 => all!(u32),
        DType::U64 => all!(u64),
        DType::I8 => all!(i8),
        DType::I16 => all!(i16),
        DType::I32 => all!(i32),
        DType::I64 => all!(i64),
        DType::F32 => tensor
            .values::<f32>()
            .unwrap()
            .map(|v| json!(f64::from(v)))
            .collect(),
        DType::F64 => all!(f64),
        DType::F16 => tensor
            .values::<f16>()
            .unwrap()
            .map(|v| json!(v.to_f64()))
            .collect(),
        DType::BF16 => tensor
            .values::<bf16>()
            .unwrap()
            .map(|v| json!(v.to_f64()))
            .collect(),
        DType::Bytes => unreachable!("no model here has texts"),
    }
}

pub(crate) fn nested(elements: &[Value], shape: &[u64]) -> Value {
    match shape {
        [] => elements[0].clone(),
        [_] => json!(elements),
        [count, rest @ ..] => {
            let size = elements.len().checked_div(*count as usize).unwrap_or(0);
            let rows = (0..*count as usize).map(|row| &elements[row * size..(row + 1) * size]);
            rows.map(|row| nested(row, rest)).collect()
        }
    }
}

/// A tensor of the elements that an answer has as JSON.
pub(crate) fn parsed(dtype: DType, shape: &[u64], data: &Value) -> Tensor {
    let mut bytes = Vec::new();
    for value in data.as_array().unwrap() {
        let signed = || value.as_i64().unwrap();
        let float = || value.as_f64().unwrap();
        match dtype {
            DType::Bool => bytes.push(u8::from(value.as_bool().unwrap())),
            DType::U64 => bytes.extend(value.as_u64().unwrap().to_le_bytes()),
            DType::F32 => bytes.extend((float() as f32).to_le_bytes()),
            DType::F64 => bytes.extend(float().to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f64(float()).to_le_bytes()),
            DType::BF16 => bytes.extend(bf16::from_f64(float()).to_le_bytes()),
            dtype => bytes.extend_from_slice(&signed().to_le_bytes()[..dtype.size().unwrap()]),
        }
    }
    Tensor::new(dtype, shape, bytes).unwrap()
}

pub(crate) fn contents(tensor: &Tensor) -> InferTensorContents {
    macro_rules! widened {
        ($type:ty, $wide:ty) => {
            tensor
                .values::<$type>()
                .unwrap()
                .map(<$wide>::from)
                .collect()
        };
    }
    let mut contents = InferTensorContents::default();
    match tensor.dtype() {
        DType::Bool => contents.bool_contents = widened!(bool, bool),
        DType::U8 => contents.uint_contents = widened!(u8, u32),
        DType::U16 => contents.uint_contents = widened!(u16, u32),
        DType::U32 => contents.uint_contents = widened!(u32, u32),
        DType::U64 => contents.uint64_contents = widened!(u64, u64),
        DType::I8 => contents.int_contents = widened!(i8, i32),
        DType::I16 => contents.int_contents = widened!(i16, i32),
        DType::I32 => contents.int_contents = widened!(i32, i32),
        DType::I64 => contents.int64_contents = widened!(i64, i64),
        DType::F32 => contents.fp32_contents = widened!(f32, f32),
        DType::F64 => contents.fp64_contents = widened!(f64, f64),
        DType::F16 | DType::BF16 | DType::Bytes => unreachable!("it has none"),
    }
    contents
}

/// Bit by bit, but for doubles: serde_json reads those to the last bit but one or two.
pub(crate) fn same(found: &NamedTensors, expected: &NamedTensors) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 8.0 * f64::EPSILON * b.abs().max(1e-300);
    let same = |a: &Tensor, b: &Tensor| match (a.values::<f64>(), b.values::<f64>()) {
        (Some(mut found), Some(mut expected)) if a.shape() == b.shape() => found
            .by_ref()
            .zip(expected.by_ref())
            .all(|(a, b)| near(a, b)),
        _ => a == b,
    };
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((a, found), (b, expected))| a == b && same(found, expected))
}
