//! Reads an ONNX file as far as tract's own reader does not: declared types, files that the model
//! refers to, and a check of the operators that can name all unknown ones.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;

use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use tract_onnx::prelude::{Framework, InferenceFact, InferenceModel, TDim, TVec};
use tract_onnx::tract_hir::infer::{Factoid, ShapeFactoid};
use tract_onnx::tract_hir::internal::{DimFact, ToDim};

use super::binding::InputDims;
use super::{bounds, convert, guard};
use crate::backend::ModelSource;
use crate::{DType, Dim, InferenceError, TensorSpec};

/// A parsed model, before any analysis.
pub(super) struct OnnxFile {
    pub(super) model: InferenceModel,
    pub(super) outputs: Vec<DeclaredOutput>,
    pub(super) weight_bytes: u64,
}

/// What the file says of an output, which may be nothing but its name.
pub(super) struct DeclaredOutput {
    pub(super) name: String,
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<Dim>>,
}

pub(super) fn read(source: &ModelSource) -> Result<OnnxFile, InferenceError> {
    let onnx = tract_onnx::onnx();
    let mut reader = source.read()?;
    let mut proto = guard(|| onnx.proto_model_for_read(&mut reader))
        .map_err(|failure| failure.load("the model is not a readable ONNX file"))?;
    let Some(graph) = proto.graph.as_mut() else {
        // An empty file is a valid, empty message.
        return Err(InferenceError::load(
            "the model is not an ONNX file: it has no graph",
        ));
    };

    let known = |operator: &str| onnx.op_register.0.contains_key(operator);
    let mut unknown = BTreeSet::new();
    unknown_operators(graph, &known, &mut unknown);
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().collect();
        return Err(InferenceError::unsupported(format!(
            "tract does not have the operators the model uses: {}",
            names.join(", ")
        )));
    }
    ExternalData::new(source).load_into(graph)?;
    check_input_types(graph)?;
    let outputs = declared_outputs(graph)?;

    copy_passed_inputs(graph);
    let weight_bytes = graph.initializer.iter().map(tensor_bytes).sum();
    Ok(OnnxFile {
        model: parse(&onnx, &proto)?,
        outputs,
        weight_bytes,
    })
}

fn parse(onnx: &tract_onnx::Onnx, proto: &ModelProto) -> Result<InferenceModel, InferenceError> {
    let parsed = guard(|| onnx.parse(proto, None))
        .map_err(|failure| failure.load("the ONNX graph cannot be read"))?;
    if let Some(missing) = parsed.unresolved_inputs.first() {
        return Err(InferenceError::load(format!(
            "the ONNX graph uses {missing:?}, which nothing in it makes"
        )));
    }
    Ok(parsed.model)
}

/// The inputs of a graph in which every input dimension is a number or made of symbols.
pub(super) struct NamedInputs {
    pub(super) specs: Vec<TensorSpec>,
    pub(super) dims: InputDims,
}

/// Reads the inputs' types off. A dimension that has neither a number nor a name becomes what the
/// graph makes of it (the 16 of a product with 16 rows of weights), or else a symbol of its own.
pub(super) fn name_dimensions(
    model: &mut InferenceModel,
    bytes_max: NonZeroU64,
) -> Result<NamedInputs, InferenceError> {
    let mut inferred = model.clone();
    let analysed = guard(|| bounds::analyse(&mut inferred, bytes_max));
    let inferred = analysed.ok().map(|()| inferred);
    let mut specs: Vec<TensorSpec> = Vec::new();
    let mut all_dims = Vec::new();
    for position in 0..model.inputs.len() {
        let name = model.node(model.inputs[position].node).name.clone();
        if specs.iter().any(|known| known.name == name) {
            return Err(InferenceError::load(format!(
                "two inputs are named {name:?}"
            )));
        }
        let untyped = || InferenceError::load(format!("input {name:?} has no datatype"));
        let from = inferred.as_ref().unwrap_or(model);
        let fact = from.input_fact(position).map_err(|_| untyped())?.clone();
        let datum_type = fact.datum_type.concretize().ok_or_else(untyped)?;
        if fact.shape.is_open() {
            return Err(InferenceError::unsupported(format!(
                "input {name:?} declares no number of dimensions, which tract needs; \
                 export the model with input shapes, dynamic ones with a name"
            )));
        }
        let symbols = &model.symbols;
        let dims: Vec<TDim> = fact
            .shape
            .dims()
            .map(|dim| dim.concretize())
            .map(|dim| dim.unwrap_or_else(|| symbols.new_with_prefix("any").to_dim()))
            .collect();
        let named: TVec<DimFact> = dims.iter().cloned().map(DimFact::from).collect();
        let fact = InferenceFact::dt_shape(datum_type, ShapeFactoid::closed(named));
        model
            .set_input_fact(position, fact)
            .map_err(|_| untyped())?;
        specs.push(TensorSpec {
            dtype: convert::dtype_of(datum_type).ok_or_else(untyped)?,
            shape: dims.iter().map(convert::dim_of).collect(),
            name: name.clone(),
        });
        all_dims.push((name, dims));
    }
    Ok(NamedInputs {
        specs,
        dims: InputDims::new(all_dims),
    })
}

/// tract's reader would stop at the first type it does not have without naming the tensor.
fn check_input_types(graph: &GraphProto) -> Result<(), InferenceError> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    for input in &graph.input {
        if !constants.contains(input.name.as_str()) {
            declared_dtype("input", input)?;
        }
    }
    Ok(())
}

fn declared_outputs(graph: &GraphProto) -> Result<Vec<DeclaredOutput>, InferenceError> {
    let mut outputs: Vec<DeclaredOutput> = Vec::new();
    for output in &graph.output {
        if outputs.iter().any(|known| known.name == output.name) {
            return Err(InferenceError::load(format!(
                "two outputs are named {:?}",
                output.name
            )));
        }
        let typed = output.r#type.as_ref().is_some_and(|t| t.value.is_some());
        outputs.push(DeclaredOutput {
            name: output.name.clone(),
            dtype: match typed {
                true => Some(declared_dtype("output", output)?),
                false => None,
            },
            shape: declared_shape(output),
        });
    }
    if outputs.is_empty() {
        return Err(InferenceError::load("the ONNX graph has no outputs"));
    }
    Ok(outputs)
}

fn declared_dtype(side: &str, value: &ValueInfoProto) -> Result<DType, InferenceError> {
    let Some(TypeValue::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(InferenceError::unsupported(format!(
            "{side} {:?} is not a tensor, and tract has only tensors",
            value.name
        )));
    };
    // The numbers of ONNX's TensorProto.DataType.
    let dtype = match tensor.elem_type {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::Bytes,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => {
            return Err(InferenceError::unsupported(format!(
                "{side} {:?} is BF16, which tract does not have; export the model with FP32",
                value.name
            )));
        }
        other => {
            return Err(InferenceError::unsupported(format!(
                "{side} {:?} has the ONNX element type {other}, which tract does not have",
                value.name
            )));
        }
    };
    Ok(dtype)
}

fn declared_shape(value: &ValueInfoProto) -> Option<Vec<Dim>> {
    let TypeValue::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    let dims = &tensor.shape.as_ref()?.dim;
    let dim = |value: &Option<DimValue>| match value {
        Some(DimValue::DimValue(size)) => u64::try_from(*size).map_or(Dim::Any, Dim::Fixed),
        Some(DimValue::DimParam(_)) | None => Dim::Any,
    };
    Some(dims.iter().map(|d| dim(&d.value)).collect())
}

/// Puts an identity behind each input that is an output as it is. tract's reader sets the types of
/// outputs last, and would forget that of such an input.
fn copy_passed_inputs(graph: &mut GraphProto) {
    let inputs: BTreeSet<&String> = graph.input.iter().map(|input| &input.name).collect();
    for output in &mut graph.output {
        if inputs.contains(&output.name) {
            let copy = format!("{} as output", output.name);
            graph.node.push(NodeProto {
                op_type: "Identity".to_owned(),
                name: copy.clone(),
                input: vec![std::mem::replace(&mut output.name, copy.clone())],
                output: vec![copy],
                ..NodeProto::default()
            });
        }
    }
}

/// About what the tensor takes in memory.
fn tensor_bytes(tensor: &TensorProto) -> u64 {
    let numbers = 4 * (tensor.float_data.len() + tensor.int32_data.len())
        + 8 * (tensor.double_data.len() + tensor.int64_data.len());
    (tensor.raw_data.len() + numbers) as u64
}

fn unknown_operators(
    graph: &GraphProto,
    known: &impl Fn(&str) -> bool,
    found: &mut BTreeSet<String>,
) {
    for node in &graph.node {
        if !known(&node.op_type) {
            found.insert(match node.domain.as_str() {
                "" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            });
        }
        for inner in inner_graphs(node) {
            unknown_operators(inner, known, found);
        }
    }
}

fn inner_graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    let attributes = node.attribute.iter();
    attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// Brings in the tensors that the file keeps elsewhere. tract could open those files itself, but
/// only beside a path, and a content store has no names beside each other.
struct ExternalData<'a> {
    source: &'a ModelSource,
    /// Bytes taken out of each file so far.
    taken: HashMap<String, u64>,
}

/// Tensors may overlap in a file, as tied weights do; a file that is read this many times over is
/// an attempt to fill the memory.
const EXTERNAL_OVERLAP_MAX: u64 = 4;

impl<'a> ExternalData<'a> {
    fn new(source: &'a ModelSource) -> Self {
        ExternalData {
            source,
            taken: HashMap::new(),
        }
    }

    fn load_into(&mut self, graph: &mut GraphProto) -> Result<(), InferenceError> {
        for tensor in &mut graph.initializer {
            self.load(tensor)?;
        }
        for node in &mut graph.node {
            for attribute in &mut node.attribute {
                for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                    self.load(tensor)?;
                }
                for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.load_into(inner)?;
                }
            }
        }
        Ok(())
    }

    fn load(&mut self, tensor: &mut TensorProto) -> Result<(), InferenceError> {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Ok(());
        }
        let entry = |key: &str| {
            let mut entries = tensor.external_data.iter();
            entries.find(|e| e.key == key).map(|e| e.value.as_str())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                InferenceError::load(format!(
                    "tensor {:?} has {key} {text:?} in another file, which is no number",
                    tensor.name
                ))
            }),
        };
        let Some(name) = entry("location") else {
            return Err(InferenceError::load(format!(
                "tensor {:?} is in another file, but the model does not say in which",
                tensor.name
            )));
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let bytes = self.source.read_external(name, offset, length)?;
        let taken = self.taken.entry(name.to_owned()).or_default();
        *taken += bytes.len() as u64;
        if *taken
            > self
                .source
                .external_size(name)?
                .saturating_mul(EXTERNAL_OVERLAP_MAX)
        {
            return Err(InferenceError::load(format!(
                "the tensors of the model overlap in {name:?} more than {EXTERNAL_OVERLAP_MAX} times"
            )));
        }
        tensor.raw_data = bytes;
        tensor.data_location = None;
        tensor.external_data.clear();
        Ok(())
    }
}
