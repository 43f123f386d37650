//! Whether an answer is the expected one. Floats may differ as much as the `onnx` package's own
//! runner lets them: 1e-3 of the expected value, and 1e-7.

use dunlin_inference::{DType, NamedTensors, Tensor};
use half::{bf16, f16};

const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// The text says what differs first.
pub(crate) fn compare(expected: &NamedTensors, answer: &NamedTensors) -> Result<(), String> {
    if expected.is_empty() {
        return Err("nothing is expected".to_owned());
    }
    for (name, expected) in expected {
        let found = answer.iter().find(|(known, _)| known == name);
        let (_, given) = found.ok_or_else(|| format!("there is no output {name:?}"))?;
        compare_one(expected, given).map_err(|said| format!("output {name:?} {said}"))?;
    }
    Ok(())
}

fn compare_one(expected: &Tensor, given: &Tensor) -> Result<(), String> {
    let of = |tensor: &Tensor| format!("{}{:?}", tensor.dtype(), tensor.shape());
    if expected.dtype() != given.dtype() || expected.shape() != given.shape() {
        return Err(format!("is {}, expected {}", of(given), of(expected)));
    }
    let (Some(expected_floats), Some(given_floats)) = (floats(expected), floats(given)) else {
        return match expected.data() == given.data() {
            true => Ok(()),
            false => Err("has other values".to_owned()),
        };
    };
    let pairs = expected_floats.into_iter().zip(given_floats);
    for (position, (expected, given)) in pairs.enumerate() {
        let near = (expected - given).abs() <= ABSOLUTE + RELATIVE * expected.abs();
        let same = expected == given || (expected.is_nan() && given.is_nan());
        if !(same || near && expected.is_finite()) {
            return Err(format!("is {given} at {position}, expected {expected}"));
        }
    }
    Ok(())
}

/// Answers that differ from this one in one value each, and in one shape.
pub(crate) fn disturbed(answer: &NamedTensors) -> Vec<NamedTensors> {
    let mut all = Vec::new();
    for (position, (_, tensor)) in answer.iter().enumerate() {
        let with = |changed: Tensor| {
            let mut answer = answer.clone();
            answer[position].1 = changed;
            answer
        };
        let mut shape = tensor.shape().to_vec();
        shape.push(1);
        let reshaped = Tensor::new(tensor.dtype(), &shape, tensor.data().clone());
        all.extend(reshaped.ok().map(with));
        let count = tensor.element_count();
        for at in [0, count / 2, count.saturating_sub(1)] {
            all.extend(changed(tensor, at).map(with));
        }
    }
    all
}

/// The tensor with another value at one position.
fn changed(tensor: &Tensor, at: usize) -> Option<Tensor> {
    let count = tensor.element_count();
    if at >= count {
        return None;
    }
    if tensor.dtype() == DType::Bytes {
        let mut strings: Vec<Vec<u8>> = tensor.byte_strings()?.map(<[u8]>::to_vec).collect();
        strings[at].push(b'!');
        return Tensor::from_byte_strings(tensor.shape(), strings).ok();
    }
    let size = tensor.dtype().size()?;
    let mut data = tensor.data().to_vec();
    match floats(tensor) {
        // Twice the tolerance away, or a number in place of what is none.
        Some(floats) => {
            let value = floats[at];
            let other = match value.is_finite() {
                true => value + 4.0 * RELATIVE * value.abs() + 0.01,
                false => 1.0,
            };
            let bytes = match tensor.dtype() {
                DType::F16 => f16::from_f64(other).to_le_bytes().to_vec(),
                DType::BF16 => bf16::from_f64(other + value.abs() * 0.01)
                    .to_le_bytes()
                    .to_vec(),
                DType::F32 => (other as f32).to_le_bytes().to_vec(),
                _ => other.to_le_bytes().to_vec(),
            };
            data[at * size..][..size].copy_from_slice(&bytes);
        }
        None => data[at * size] ^= 1,
    }
    Tensor::new(tensor.dtype(), tensor.shape(), data).ok()
}

fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.dtype() {
        DType::F16 => Some(tensor.values::<f16>()?.map(f64::from).collect()),
        DType::BF16 => Some(tensor.values::<bf16>()?.map(f64::from).collect()),
        DType::F32 => Some(tensor.values::<f32>()?.map(f64::from).collect()),
        DType::F64 => Some(tensor.values::<f64>()?.collect()),
        _ => None,
    }
}
