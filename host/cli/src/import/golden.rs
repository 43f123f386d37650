//! Golden samples on disk, and the first of them as a request to try.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dunlin_inference::{DType, NamedTensors, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure};
use crate::project::unreadable;

/// Writes `input.<name>` and `output.<name>`.
pub(super) fn write(
    path: &Path,
    inputs: &NamedTensors,
    outputs: &NamedTensors,
) -> Result<(), Failure> {
    let named = |side: &'static str, tensors: &NamedTensors| -> Vec<(String, Tensor)> {
        let named = tensors.iter();
        named
            .map(|(name, tensor)| (format!("{side}.{name}"), tensor.clone()))
            .collect()
    };
    let tensors = [named("input", inputs), named("output", outputs)].concat();
    let mut views = BTreeMap::new();
    for (name, tensor) in &tensors {
        let shape = tensor.shape().iter().map(|size| *size as usize).collect();
        let view = dtype(tensor.dtype())
            .and_then(|dtype| TensorView::new(dtype, shape, tensor.data()).ok())
            .ok_or_else(|| {
                let message = format!("golden samples cannot hold {name} of {}", tensor.dtype());
                Failure::new(Exit::Refused, message)
                    .next("a model with byte strings is packaged without golden samples")
            })?;
        views.insert(name.clone(), view);
    }
    let file = safetensors::serialize(views, None)
        .map_err(|error| Failure::caused_by(Exit::Failed, "cannot make golden samples", &error))?;
    fs::write(path, file).map_err(|error| {
        Failure::caused_by(Exit::Failed, "cannot write the golden samples", &error)
    })
}

/// `{"inputs": {name: nested lists}}` of the first row; of all, where the batch is fixed.
pub(super) fn request(path: &Path, batched: bool) -> Result<Value, Failure> {
    let file = fs::read(path).map_err(|error| unreadable(path, &error))?;
    let tensors = SafeTensors::deserialize(&file).map_err(|error| {
        Failure::caused_by(Exit::Failed, "the golden samples are broken", &error)
    })?;
    let mut inputs = Map::new();
    for (key, view) in tensors.iter() {
        let Some(name) = key.strip_prefix("input.") else {
            continue;
        };
        let (mut shape, mut data) = (view.shape().to_vec(), view.data());
        if let (true, Some(rows)) = (batched, shape.first_mut().filter(|rows| **rows > 0)) {
            data = &data[..data.len() / *rows];
            *rows = 1;
        }
        inputs.insert(name.to_owned(), nested(view.dtype(), &shape, data));
    }
    Ok(json!({"inputs": inputs}))
}

fn nested(dtype: Dtype, shape: &[usize], data: &[u8]) -> Value {
    let Some((count, rest)) = shape.split_first() else {
        return element(dtype, data);
    };
    let size = data.len().checked_div(*count).unwrap_or(0);
    let parts = (0..*count).map(|at| nested(dtype, rest, &data[at * size..(at + 1) * size]));
    Value::Array(parts.collect())
}

fn element(dtype: Dtype, bytes: &[u8]) -> Value {
    fn number<const N: usize, T: Into<Value>>(bytes: &[u8], read: fn([u8; N]) -> T) -> Value {
        bytes
            .first_chunk()
            .map_or(Value::Null, |bytes| read(*bytes).into())
    }
    match dtype {
        Dtype::BOOL => number(bytes, |[byte]| byte != 0),
        Dtype::U8 => number(bytes, u8::from_le_bytes),
        Dtype::I8 => number(bytes, i8::from_le_bytes),
        Dtype::U16 => number(bytes, u16::from_le_bytes),
        Dtype::I16 => number(bytes, i16::from_le_bytes),
        Dtype::U32 => number(bytes, u32::from_le_bytes),
        Dtype::I32 => number(bytes, i32::from_le_bytes),
        Dtype::U64 => number(bytes, u64::from_le_bytes),
        Dtype::I64 => number(bytes, i64::from_le_bytes),
        // The shortest text of the float itself, not of the double that it would become.
        Dtype::F32 => {
            let short = number(bytes, |bytes| f32::from_le_bytes(bytes).to_string());
            let text = short.as_str().unwrap_or_default();
            text.parse::<f64>().map_or(Value::Null, Value::from)
        }
        Dtype::F64 => number(bytes, f64::from_le_bytes),
        // The upper half of a float.
        Dtype::BF16 => number(bytes, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
        // Of little use to try a model with, and all that is left.
        _ => json!(0),
    }
}

fn dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::U64 => Dtype::U64,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_for_a_node_and_the_first_row_is_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("golden.safetensors");
        let named = |name: &str, tensor| vec![(name.to_owned(), tensor)];
        let inputs = [
            named(
                "x",
                Tensor::from_values(&[2, 1, 2], &[0.1f32, 2.0, 3.0, 4.0]).unwrap(),
            ),
            named("ids", Tensor::from_values(&[2], &[7i64, 8]).unwrap()),
        ]
        .concat();
        let outputs = named("y", Tensor::from_values(&[2], &[1.0f32, 2.0]).unwrap());
        write(&path, &inputs, &outputs).unwrap();
        dunlin_inference::Golden::read(&path).unwrap();

        let one = request(&path, true).unwrap();
        assert_eq!(one, json!({"inputs": {"x": [[[0.1, 2.0]]], "ids": [7]}}));
        let all = request(&path, false).unwrap();
        assert_eq!(all["inputs"]["ids"], json!([7, 8]));

        let text = named("y", Tensor::from_byte_strings(&[1], ["a"]).unwrap());
        assert_eq!(
            write(&path, &inputs, &text).unwrap_err().exit,
            Exit::Refused
        );
    }
}
