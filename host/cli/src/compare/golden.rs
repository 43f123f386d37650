//! Golden samples as requests: to a model in the Open Inference Protocol's binary form, and to a
//! deployment without a predictor as JSON.

use std::path::Path;

use bytes::Bytes;
use dunlin_inference::{DType, Tensor};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::difference::{self, Agreement, Difference, Tolerance, floats};
use crate::api;
use crate::exit::{Exit, Failure};
use crate::project::unreadable;

pub(super) type Tensors = Vec<(String, Tensor)>;

/// Inputs, and what the original module made of them.
#[derive(Debug, Clone)]
pub(super) struct Golden {
    pub(super) inputs: Tensors,
    pub(super) outputs: Tensors,
}

/// A request in the protocol's binary form.
#[derive(Debug)]
pub(super) struct BinaryRequest {
    /// Bytes of the JSON that the body begins with.
    pub(super) json_len: usize,
    pub(super) body: Bytes,
}

impl Golden {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let file = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        Self::parse(file)
            .map_err(|reason| Failure::new(Exit::Refused, format!("{}: {reason}", path.display())))
    }

    fn parse(file: impl Into<Bytes>) -> Result<Self, String> {
        let file = file.into();
        let tensors = SafeTensors::deserialize(&file)
            .map_err(|error| format!("not a safetensors file: {error}"))?;
        let mut golden = Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        for (key, view) in tensors.iter() {
            let side = match key.split_once('.') {
                Some(("input", name)) => Some((&mut golden.inputs, name)),
                Some(("output", name)) => Some((&mut golden.outputs, name)),
                _ => None,
            };
            let (side, name) =
                side.ok_or_else(|| format!("{key} is neither input.NAME nor output.NAME"))?;
            let dtype = dtype(view.dtype())
                .ok_or_else(|| format!("{key} has the type {}", view.dtype()))?;
            let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
            let tensor = Tensor::new(dtype, &shape, file.slice_ref(view.data()))
                .map_err(|error| format!("{key}: {error}"))?;
            side.push((name.to_owned(), tensor));
        }
        golden.inputs.sort_by(|a, b| a.0.cmp(&b.0));
        golden.outputs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(golden)
    }

    /// How many rows every tensor has, where it is the same for all.
    pub(super) fn rows(&self) -> Option<u64> {
        let mut rows = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .map(|(_, tensor)| tensor.shape().first().copied());
        let first = rows.next()??;
        rows.all(|other| other == Some(first)).then_some(first)
    }

    /// How far a model's outputs are from these, and how many labels agree.
    pub(super) fn against(
        &self,
        outputs: &Tensors,
        tolerance: Tolerance,
    ) -> (Difference, Option<Agreement>) {
        let (mut total, mut labels) = (Difference::default(), None);
        for (name, expected) in &self.outputs {
            let Some((_, got)) = outputs.iter().find(|(output, _)| output == name) else {
                total.merge(Difference::incomparable(format!(
                    "there is no output {name}"
                )));
                continue;
            };
            total.merge(difference::between(name, expected, got, tolerance));
            Agreement::add_to(&mut labels, difference::labels(expected, got));
        }
        (total, labels)
    }

    /// As the model takes it: at once, or in pieces of its batch where that is fixed.
    pub(super) fn calls(&self, inputs: &[api::Tensor]) -> Vec<Self> {
        let whole = || vec![self.clone()];
        let Some(rows) = self.rows() else {
            return whole();
        };
        match fixed_batch(inputs) {
            Some(batch) if batch != rows && rows.is_multiple_of(batch) => self.cut(batch),
            _ => whole(),
        }
    }

    /// The fewest rows that the model takes at a time: one, or its batch.
    pub(super) fn smallest_calls(&self, inputs: &[api::Tensor]) -> Vec<Self> {
        let batch = fixed_batch(inputs).unwrap_or(1);
        match self.rows() {
            Some(rows) if batch > 0 && rows.is_multiple_of(batch) => self.cut(batch),
            _ => vec![self.clone()],
        }
    }

    fn cut(&self, batch: u64) -> Vec<Self> {
        let rows = self.rows().unwrap_or(0);
        let piece = |start: u64, tensors: &Tensors| -> Option<Tensors> {
            let cut = tensors
                .iter()
                .map(|(name, tensor)| Some((name.clone(), tensor.rows(start, batch)?)));
            cut.collect()
        };
        let pieces = (0..rows / batch.max(1)).map(|index| {
            Some(Self {
                inputs: piece(index * batch, &self.inputs)?,
                outputs: piece(index * batch, &self.outputs)?,
            })
        });
        pieces
            .collect::<Option<Vec<_>>>()
            .filter(|pieces| !pieces.is_empty())
            .unwrap_or_else(|| vec![self.clone()])
    }

    pub(super) fn binary_request(&self) -> BinaryRequest {
        let inputs: Vec<Value> = self
            .inputs
            .iter()
            .map(|(name, tensor)| {
                json!({
                    "name": name,
                    "datatype": tensor.dtype().name(),
                    "shape": tensor.shape(),
                    "parameters": {"binary_data_size": tensor.data().len()},
                })
            })
            .collect();
        let head = json!({"inputs": inputs, "parameters": {"binary_data_output": true}});
        let mut body = head.to_string().into_bytes();
        let json_len = body.len();
        for (_, tensor) in &self.inputs {
            body.extend_from_slice(tensor.data());
        }
        BinaryRequest {
            json_len,
            body: body.into(),
        }
    }

    /// `{"inputs": {name: nested lists}}`; `None` where a number has no form in JSON.
    pub(super) fn json_request(&self, model: Option<&str>) -> Option<Value> {
        let mut inputs = Map::new();
        for (name, tensor) in &self.inputs {
            inputs.insert(name.clone(), nested(tensor)?);
        }
        Some(match model {
            Some(model) => json!({"model": model, "inputs": inputs}),
            None => json!({"inputs": inputs}),
        })
    }
}

/// Reads an answer in the protocol's form, with binary tensors.
pub(super) fn parse_answer(json_len: Option<usize>, body: &Bytes) -> Result<Tensors, String> {
    let json_len = json_len.unwrap_or(body.len());
    let (head, mut rest) = match json_len <= body.len() {
        true => (&body[..json_len], body.slice(json_len..)),
        false => return Err("the answer is shorter than its header says".to_owned()),
    };
    let head: Value = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let outputs = head["outputs"]
        .as_array()
        .ok_or("the answer has no outputs")?;
    let mut tensors = Vec::with_capacity(outputs.len());
    for output in outputs {
        let name = output["name"].as_str().unwrap_or_default();
        let refuse = |what: &str| format!("output {name}: {what}");
        let dtype = output["datatype"].as_str().and_then(DType::from_name);
        let dtype = dtype.ok_or_else(|| refuse("unknown datatype"))?;
        let shape = serde_json::from_value::<Vec<u64>>(output["shape"].clone())
            .map_err(|_| refuse("no shape"))?;
        let size = output["parameters"]["binary_data_size"].as_u64();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= rest.len());
        let data = rest.split_to(size.ok_or_else(|| refuse("its bytes are missing"))?);
        let tensor =
            Tensor::new(dtype, &shape, data).map_err(|error| refuse(&error.to_string()))?;
        tensors.push((name.to_owned(), tensor));
    }
    Ok(tensors)
}

/// The first dimension of the inputs, where one of them fixes it.
fn fixed_batch(inputs: &[api::Tensor]) -> Option<u64> {
    let mut fixed = inputs
        .iter()
        .filter_map(|input| u64::try_from(*input.shape.first()?).ok());
    fixed.next().filter(|batch| *batch > 0)
}

fn nested(tensor: &Tensor) -> Option<Value> {
    let elements: Vec<Value> = match tensor.dtype() {
        DType::Bool => integers::<bool>(tensor)?,
        DType::U8 => integers::<u8>(tensor)?,
        DType::U16 => integers::<u16>(tensor)?,
        DType::U32 => integers::<u32>(tensor)?,
        DType::U64 => integers::<u64>(tensor)?,
        DType::I8 => integers::<i8>(tensor)?,
        DType::I16 => integers::<i16>(tensor)?,
        DType::I32 => integers::<i32>(tensor)?,
        DType::I64 => integers::<i64>(tensor)?,
        DType::Bytes => return None,
        _ => {
            let numbers = floats(tensor)?.into_iter();
            let numbers = numbers.map(serde_json::Number::from_f64);
            numbers
                .map(|number| number.map(Value::Number))
                .collect::<Option<_>>()?
        }
    };
    let mut level = elements;
    for size in tensor.shape().iter().skip(1).rev() {
        let size = usize::try_from(*size).ok().filter(|size| *size > 0)?;
        level = level
            .chunks(size)
            .map(|row| Value::from(row.to_vec()))
            .collect();
    }
    match tensor.shape() {
        [] => level.pop(),
        _ => Some(Value::Array(level)),
    }
}

fn integers<T: dunlin_inference::Element + Into<Value>>(tensor: &Tensor) -> Option<Vec<Value>> {
    Some(tensor.values::<T>()?.map(Into::into).collect())
}

fn dtype(of_file: safetensors::Dtype) -> Option<DType> {
    use safetensors::Dtype;
    Some(match of_file {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::U16 => DType::U16,
        Dtype::U32 => DType::U32,
        Dtype::U64 => DType::U64,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64]) -> Vec<api::Tensor> {
        vec![api::Tensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.to_vec(),
        }]
    }

    fn golden() -> Golden {
        let tensor = |values: &[f32]| Tensor::from_values(&[4, 1], values).unwrap();
        Golden {
            inputs: vec![("x".to_owned(), tensor(&[0.5, 1.0, 2.0, 3.0]))],
            outputs: vec![("y".to_owned(), tensor(&[5.0, 6.0, 7.0, 8.0]))],
        }
    }

    #[test]
    fn a_sample_is_cut_to_what_the_model_takes() {
        let shapes = |calls: Vec<Golden>| -> Vec<u64> {
            calls.iter().map(|call| call.rows().unwrap()).collect()
        };
        assert_eq!(shapes(golden().calls(&spec(&[-1, 1]))), [4]);
        assert_eq!(shapes(golden().calls(&spec(&[2, 1]))), [2, 2]);
        assert_eq!(shapes(golden().calls(&spec(&[3, 1]))), [4]);
        assert_eq!(shapes(golden().smallest_calls(&spec(&[-1, 1]))), [1; 4]);
        assert_eq!(shapes(golden().smallest_calls(&spec(&[2, 1]))), [2, 2]);
    }

    #[test]
    fn requests_have_the_tensors() {
        let row = &golden().smallest_calls(&spec(&[-1, 1]))[0];
        assert_eq!(
            row.json_request(None),
            Some(json!({"inputs": {"x": [[0.5]]}}))
        );
        let named = row.json_request(Some("m")).unwrap();
        assert_eq!(named["model"], "m");
        let binary = row.binary_request();
        assert_eq!(&binary.body[binary.json_len..], 0.5f32.to_le_bytes());
        let head: Value = serde_json::from_slice(&binary.body[..binary.json_len]).unwrap();
        assert_eq!(head["inputs"][0]["shape"], json!([1, 1]));
    }

    #[test]
    fn answers_are_read_or_refused() {
        let head = json!({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2],
            "parameters": {"binary_data_size": 8}}]})
        .to_string();
        let mut body = head.clone().into_bytes();
        body.extend([0; 8]);
        let body = Bytes::from(body);
        let tensors = parse_answer(Some(head.len()), &body).unwrap();
        assert_eq!(
            tensors[0].1,
            Tensor::from_values(&[2], &[0.0f32, 0.0]).unwrap()
        );
        let short = body.slice(..body.len() - 1);
        assert!(
            parse_answer(Some(head.len()), &short)
                .unwrap_err()
                .contains("missing")
        );
        assert!(parse_answer(Some(body.len() + 1), &body).is_err());
        assert!(parse_answer(None, &body).is_err());
    }
}
