//! One case: a model, and what goes in and should come out.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use dunlin_inference::{DType, NamedTensors, Tensor};
use half::{bf16, f16};
use prost::Message;

use crate::wire::{field, fields};

pub(crate) struct Case {
    pub(crate) model: Bytes,
    pub(crate) sets: Vec<Set>,
    /// The inputs of the first set as they are in their files.
    raw_inputs: Vec<(String, Vec<u8>)>,
}

pub(crate) struct Set {
    pub(crate) inputs: NamedTensors,
    pub(crate) outputs: NamedTensors,
}

impl Case {
    /// The error says which tensor has no name in the protocol.
    pub(crate) fn read(folder: &Path) -> Result<Case, String> {
        let model = fs::read(folder.join("model.onnx")).expect("a case has a model");
        let (inputs, outputs) = signature(&model);
        let mut case = Case {
            model: model.into(),
            sets: Vec::new(),
            raw_inputs: Vec::new(),
        };
        for set in 0.. {
            let folder = folder.join(format!("test_data_set_{set}"));
            if !folder.is_dir() {
                break;
            }
            let raw = |side: &str, values: &[Value]| {
                let read = |(position, value): (usize, &Value)| {
                    let path = folder.join(format!("{side}_{position}.pb"));
                    // An optional input that is left out has no file.
                    Some((value.clone(), fs::read(path).ok()?))
                };
                values
                    .iter()
                    .enumerate()
                    .filter_map(read)
                    .collect::<Vec<_>>()
            };
            let (raw_inputs, raw_outputs) = (raw("input", &inputs), raw("output", &outputs));
            case.sets.push(Set {
                inputs: tensors(&raw_inputs)?,
                outputs: tensors(&raw_outputs)?,
            });
            if case.raw_inputs.is_empty() {
                let named = raw_inputs.into_iter();
                case.raw_inputs = named.map(|(value, raw)| (value.name, raw)).collect();
            }
        }
        assert!(!case.sets.is_empty(), "{} has no data", folder.display());
        Ok(case)
    }

    /// The same case, with every input but the first that has at most one dimension as a constant
    /// in the model: shapes, axes, paddings, scales. None if there are none, or if they differ
    /// between the sets.
    pub(crate) fn with_constants(&self) -> Option<Case> {
        let first = self.sets.first()?;
        let is_parameter = |(position, (name, tensor)): (usize, &(String, Tensor))| {
            (position > 0 && tensor.shape().len() <= 1).then(|| name.clone())
        };
        let parameters = first.inputs.iter().enumerate();
        let parameters: Vec<String> = parameters.filter_map(is_parameter).collect();
        if parameters.is_empty() {
            return None;
        }
        let same = |name: &str| {
            let values = self.sets.iter().map(|set| value_of(&set.inputs, name));
            values
                .clone()
                .all(|value| value == value_of(&first.inputs, name))
        };
        if !parameters.iter().all(|name| same(name)) {
            return None;
        }
        let sets = self.sets.iter().map(|set| Set {
            inputs: set
                .inputs
                .iter()
                .filter(|(name, _)| !parameters.contains(name))
                .cloned()
                .collect(),
            outputs: set.outputs.clone(),
        });
        Some(Case {
            sets: sets.collect(),
            model: self.moved_into_model(&parameters)?.into(),
            raw_inputs: Vec::new(),
        })
    }

    /// The model with these inputs as initializers.
    fn moved_into_model(&self, names: &[String]) -> Option<Vec<u8>> {
        let mut model = Vec::new();
        for part in fields(&self.model).ok()? {
            // ModelProto.graph.
            if part.number != 7 {
                model.extend_from_slice(part.raw);
                continue;
            }
            let mut graph = Vec::new();
            for part in fields(part.content).ok()? {
                // GraphProto.input.
                let moved = part.number == 11
                    && Value::decode(part.content).is_ok_and(|value| names.contains(&value.name));
                if !moved {
                    graph.extend_from_slice(part.raw);
                }
            }
            for (name, raw) in self
                .raw_inputs
                .iter()
                .filter(|(name, _)| names.contains(name))
            {
                // TensorProto.name; of two the last one counts.
                let mut tensor = raw.clone();
                tensor.extend(field(8, name.as_bytes()));
                // GraphProto.initializer.
                graph.extend(field(5, &tensor));
            }
            model.extend(field(7, &graph));
        }
        Some(model)
    }
}

fn value_of<'t>(tensors: &'t NamedTensors, name: &str) -> Option<&'t Tensor> {
    let found = tensors.iter().find(|(known, _)| known == name);
    found.map(|(_, tensor)| tensor)
}

fn signature(model: &[u8]) -> (Vec<Value>, Vec<Value>) {
    let model = Model::decode(model).expect("a case's model is an ONNX file");
    let graph = model.graph.expect("a case's model has a graph");
    let constants = graph.initializer;
    let is_input = |value: &Value| !constants.iter().any(|tensor| tensor.name == value.name);
    let inputs = graph.input.into_iter().filter(is_input);
    (inputs.collect(), graph.output)
}

fn tensors(raw: &[(Value, Vec<u8>)]) -> Result<NamedTensors, String> {
    let convert = |(value, raw): &(Value, Vec<u8>)| {
        let name = &value.name;
        let is_tensor = value
            .r#type
            .as_ref()
            .is_some_and(|t| t.tensor_type.is_some());
        if !is_tensor {
            return Err(format!("{name:?} is a sequence, a map or an optional"));
        }
        let proto = TensorProto::decode(raw.as_slice()).map_err(|error| error.to_string())?;
        Ok((name.clone(), tensor(name, &proto)?))
    };
    raw.iter().map(convert).collect()
}

fn tensor(name: &str, proto: &TensorProto) -> Result<Tensor, String> {
    let shape: Vec<u64> = proto.dims.iter().map(|size| *size as u64).collect();
    let ints = || proto.int32_data.iter().copied();
    // The numbers of TensorProto.DataType, and the field that holds values that are not raw.
    let (dtype, data) = match proto.data_type {
        1 => (DType::F32, bytes_of(&proto.float_data, |v| v.to_le_bytes())),
        2 => (DType::U8, ints().map(|v| v as u8).collect()),
        3 => (DType::I8, ints().map(|v| v as u8).collect()),
        4 => (
            DType::U16,
            bytes_of(&proto.int32_data, |v| (v as u16).to_le_bytes()),
        ),
        5 => (
            DType::I16,
            bytes_of(&proto.int32_data, |v| (v as i16).to_le_bytes()),
        ),
        6 => (DType::I32, bytes_of(&proto.int32_data, |v| v.to_le_bytes())),
        7 => (DType::I64, bytes_of(&proto.int64_data, |v| v.to_le_bytes())),
        8 => {
            let made = Tensor::from_byte_strings(&shape, &proto.string_data);
            return made.map_err(|error| error.to_string());
        }
        9 => (DType::Bool, ints().map(|v| u8::from(v != 0)).collect()),
        10 => (
            DType::F16,
            bytes_of(&proto.int32_data, |v| {
                f16::from_bits(v as u16).to_le_bytes()
            }),
        ),
        11 => (
            DType::F64,
            bytes_of(&proto.double_data, |v| v.to_le_bytes()),
        ),
        12 => (
            DType::U32,
            bytes_of(&proto.uint64_data, |v| (v as u32).to_le_bytes()),
        ),
        13 => (
            DType::U64,
            bytes_of(&proto.uint64_data, |v| v.to_le_bytes()),
        ),
        16 => (
            DType::BF16,
            bytes_of(&proto.int32_data, |v| {
                bf16::from_bits(v as u16).to_le_bytes()
            }),
        ),
        other => return Err(format!("{name:?} has ONNX datatype {other}")),
    };
    let data = if data.is_empty() {
        proto.raw_data.clone()
    } else {
        data
    };
    Tensor::new(dtype, &shape, data).map_err(|error| error.to_string())
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

// The messages of onnx.proto, with the fields that are used here.

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
}
