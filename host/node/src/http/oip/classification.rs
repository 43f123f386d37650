//! The classification extension: of an output its greatest elements, as texts `score:index`.

use std::{cmp::Ordering, num::NonZeroU64};

use dunlin_inference::{DType, Element, Tensor};
use half::{bf16, f16};

use crate::http::failure::Failure;

pub(super) fn has_order(dtype: DType) -> bool {
    !matches!(dtype, DType::Bool | DType::Bytes)
}

/// The `classes` greatest elements, greatest first, of two that are alike the one before the other:
/// of each row where the output has rows, else of the whole. Where there are fewer, all of them.
pub(super) fn top(tensor: &Tensor, classes: NonZeroU64, batched: bool) -> Result<Tensor, Failure> {
    let rows = match tensor.shape() {
        [rows, _, ..] if batched => Some(*rows),
        _ => None,
    };
    let texts = match tensor.dtype() {
        DType::U8 => numbers::<u8>(tensor, rows, classes, |n| n.to_string()),
        DType::U16 => numbers::<u16>(tensor, rows, classes, |n| n.to_string()),
        DType::U32 => numbers::<u32>(tensor, rows, classes, |n| n.to_string()),
        DType::U64 => numbers::<u64>(tensor, rows, classes, |n| n.to_string()),
        DType::I8 => numbers::<i8>(tensor, rows, classes, |n| n.to_string()),
        DType::I16 => numbers::<i16>(tensor, rows, classes, |n| n.to_string()),
        DType::I32 => numbers::<i32>(tensor, rows, classes, |n| n.to_string()),
        DType::I64 => numbers::<i64>(tensor, rows, classes, |n| n.to_string()),
        DType::F16 => numbers::<f16>(tensor, rows, classes, |n| format!("{:.6}", n.to_f32())),
        DType::BF16 => numbers::<bf16>(tensor, rows, classes, |n| format!("{:.6}", n.to_f32())),
        DType::F32 => numbers::<f32>(tensor, rows, classes, |n| format!("{n:.6}")),
        DType::F64 => numbers::<f64>(tensor, rows, classes, |n| format!("{n:.6}")),
        DType::Bool | DType::Bytes => None,
    };
    let texts = texts.ok_or_else(|| {
        Failure::bad_request(format!("{} has no greatest elements", tensor.dtype()))
    })?;
    let count = texts.len() as u64;
    let shape = match rows {
        Some(rows) => vec![rows, count.checked_div(rows).unwrap_or(0)],
        None => vec![count],
    };
    Ok(Tensor::from_byte_strings(&shape, texts).map_err(dunlin_inference::InferenceError::from)?)
}

fn numbers<T: Element + PartialOrd>(
    tensor: &Tensor,
    rows: Option<u64>,
    classes: NonZeroU64,
    show: impl Fn(T) -> String,
) -> Option<Vec<String>> {
    let values: Vec<T> = tensor.values()?.collect();
    let row = match rows {
        Some(rows) => values
            .len()
            .checked_div(usize::try_from(rows).ok()?)
            .unwrap_or(0),
        None => values.len(),
    };
    let classes = usize::try_from(classes.get()).unwrap_or(usize::MAX);
    let mut texts = Vec::new();
    for row in values.chunks(row.max(1)) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| greater_first(&row[*a], &row[*b]));
        let top = order.into_iter().take(classes);
        texts.extend(top.map(|index| format!("{}:{index}", show(row[index]))));
    }
    Some(texts)
}

/// What is not a number comes last.
fn greater_first<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    let is_number = |value: &T| value.partial_cmp(value).is_some();
    b.partial_cmp(a)
        .unwrap_or_else(|| is_number(b).cmp(&is_number(a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tensor: &Tensor, classes: u64, batched: bool, shape: &[u64], texts: &[&str]) {
        let top = top(tensor, NonZeroU64::new(classes).unwrap(), batched).unwrap();
        assert_eq!(top.shape(), shape);
        let found: Vec<&[u8]> = top.byte_strings().unwrap().collect();
        let expected: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_greatest_come_first() {
        let scores = Tensor::from_values(&[2, 3], &[0.5_f32, 2.0, -1.0, 0.0, 0.0, 0.25]).unwrap();
        check(&scores, 1, true, &[2, 1], &["2.000000:1", "0.250000:2"]);
        check(&scores, 2, false, &[2], &["2.000000:1", "0.500000:0"]);
        let all = ["2.000000:1", "0.500000:0", "-1.000000:2"];
        let rest = ["0.250000:2", "0.000000:0", "0.000000:1"];
        check(&scores, 9, true, &[2, 3], &[all, rest].concat());
        let nan = Tensor::from_values(&[3], &[f32::NAN, f32::NEG_INFINITY, 1.0]).unwrap();
        check(&nan, 3, true, &[3], &["1.000000:2", "-inf:1", "NaN:0"]);
        let whole = Tensor::from_values(&[2], &[i64::MIN, i64::MAX]).unwrap();
        check(&whole, 1, false, &[1], &["9223372036854775807:1"]);
        let none = Tensor::from_values::<f32>(&[0, 4], &[]).unwrap();
        check(&none, 1, true, &[0, 0], &[]);
    }
}
