//! What an ONNX file says that ONNX Runtime does not tell, and the files that it refers to.
//!
//! A model names the files of its weights by paths, and ONNX Runtime opens what it names. So every
//! name is looked up before: a model in a content store, or one that a guest brought, reaches the
//! files that belong to it and no other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use crate::backend::ModelSource;
use crate::{DType, InferenceError, Tensor};

/// What is known of a model before it is loaded.
pub(super) struct OnnxFile {
    pub(super) locations: Locations,
    /// Inputs of which it declares not even the number of dimensions.
    pub(super) shapeless_inputs: BTreeSet<String>,
    pub(super) weights: Weights,
    /// The values of its inputs may say how long it runs, and not only their shapes.
    pub(super) loops: bool,
}

/// The files of a model's weights, as it names them.
pub(super) struct Locations(BTreeSet<String>);

/// The weights of the graph itself that no input can replace.
pub(super) struct Weights(Vec<TensorProto>);

/// From where ONNX Runtime reads a model, with all that it names in place.
pub(super) enum Place {
    File(PathBuf),
    Memory(Bytes),
    /// Links to the model's files under the names it uses, until the model is loaded.
    Staged {
        _folder: TempDir,
        model: PathBuf,
    },
}

impl OnnxFile {
    pub(super) fn read(bytes: &Bytes) -> Result<Self, InferenceError> {
        let unreadable = |error: prost::DecodeError| InferenceError::Load {
            reason: "the model is not a readable ONNX file".to_owned(),
            source: Some(Box::new(error)),
        };
        let model = ModelProto::decode(bytes.clone()).map_err(unreadable)?;
        let Some(graph) = model.graph else {
            // An empty file is a valid, empty message.
            return Err(InferenceError::load(
                "the model is not an ONNX file: it has no graph",
            ));
        };
        let mut locations = BTreeSet::new();
        graph.locations(&mut locations);
        for function in &model.functions {
            let attributes = function.node.iter().flat_map(|node| &node.attribute);
            for attribute in attributes.chain(&function.attribute) {
                attribute.locations(&mut locations);
            }
        }
        let mut nodes = model.functions.iter().flat_map(|function| &function.node);
        let loops = graph.loops() || nodes.any(NodeProto::loops);
        let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        let mut initializers = graph.initializer;
        initializers.retain(|tensor| !inputs.contains(tensor.name.as_str()));
        let shapeless = graph.input.into_iter().filter_map(|input| {
            let tensor = input.r#type?.tensor_type?;
            tensor.shape.is_none().then_some(input.name)
        });
        Ok(OnnxFile {
            shapeless_inputs: shapeless.collect(),
            locations: Locations(locations),
            weights: Weights(initializers),
            loops,
        })
    }
}

impl Weights {
    /// The large weights by their names: what is worth sharing between sessions. Those that are
    /// written in another way than as plain bytes are left out.
    pub(super) fn read(&self, source: &ModelSource) -> Result<Vec<(&str, Tensor)>, InferenceError> {
        let mut weights = Vec::new();
        for proto in &self.0 {
            let data = proto.data(source)?;
            if data.len() < WEIGHT_BYTES_MIN {
                continue;
            }
            let shape: Option<Vec<u64>> = proto
                .dims
                .iter()
                .map(|size| u64::try_from(*size).ok())
                .collect();
            if let (Some(shape), Some(dtype)) = (shape, dtype_of(proto.data_type))
                && let Ok(tensor) = Tensor::new(dtype, &shape, data)
            {
                weights.push((proto.name.as_str(), tensor));
            }
        }
        Ok(weights)
    }
}

impl Locations {
    pub(super) fn place(
        &self,
        source: &ModelSource,
        bytes: Bytes,
    ) -> Result<Place, InferenceError> {
        let mut files = Vec::new();
        for location in &self.0 {
            let path = source.external_path(location)?;
            if !path.is_file() {
                return Err(InferenceError::load(format!(
                    "the model refers to {location:?}, which is not there"
                )));
            }
            files.push((location.as_str(), path));
        }
        let beside = |(name, path): &(&str, PathBuf)| {
            let expected = source.as_path().map(|model| model.with_file_name(name));
            expected.as_ref() == Some(path)
        };
        match source.as_path() {
            Some(path) if files.iter().all(beside) => Ok(Place::File(path.to_owned())),
            None if files.is_empty() => Ok(Place::Memory(bytes)),
            model => stage(model, &bytes, &files).map_err(|source| InferenceError::Load {
                reason: "the files of the model cannot be put together".to_owned(),
                source: Some(source.into()),
            }),
        }
    }
}

/// A folder with the model's files, beside the first of them, where a link is possible, or else
/// among the system's temporary files.
fn stage(model: Option<&Path>, bytes: &Bytes, files: &[(&str, PathBuf)]) -> io::Result<Place> {
    let home = model.or_else(|| files.first().map(|(_, path)| path.as_path()));
    let beside = home.and_then(Path::parent).map(|parent| {
        let mut folder = tempfile::Builder::new();
        folder.prefix(".dunlin-model-").tempdir_in(parent)
    });
    let folder = match beside {
        Some(Ok(folder)) => folder,
        Some(Err(_)) | None => tempfile::tempdir()?,
    };
    // No location can be this one: `model` has no place in the way of a name that the files use.
    let mut name = "model.onnx".to_owned();
    while files.iter().any(|(used, _)| *used == name) {
        name.insert(0, '_');
    }
    let staged = folder.path().join(name);
    match model {
        Some(path) => link_or_copy(path, &staged)?,
        None => fs::write(&staged, bytes)?,
    }
    for (name, path) in files {
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(name).components().all(inside) {
            return Err(io::Error::other(format!(
                "{name:?} leaves the model's folder"
            )));
        }
        let to = folder.path().join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        link_or_copy(path, &to)?;
    }
    Ok(Place::Staged {
        _folder: folder,
        model: staged,
    })
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    // Another file system, or one without links.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Below this a tensor costs a session less than its bookkeeping does.
const WEIGHT_BYTES_MIN: usize = 4096;

/// By the numbers of ONNX's TensorProto.DataType; byte strings are no weights.
fn dtype_of(data_type: i32) -> Option<DType> {
    match data_type {
        1 => Some(DType::F32),
        2 => Some(DType::U8),
        3 => Some(DType::I8),
        4 => Some(DType::U16),
        5 => Some(DType::I16),
        6 => Some(DType::I32),
        7 => Some(DType::I64),
        9 => Some(DType::Bool),
        10 => Some(DType::F16),
        11 => Some(DType::F64),
        12 => Some(DType::U32),
        13 => Some(DType::U64),
        16 => Some(DType::BF16),
        _ => None,
    }
}

impl TensorProto {
    /// The data, which lie in the model or in another file.
    fn data(&self, source: &ModelSource) -> Result<Bytes, InferenceError> {
        let entry = |key: &str| {
            let entries = self.external_data.iter();
            let mut found = entries.filter(|entry| entry.key == key);
            found.next().map(|entry| entry.value.as_str())
        };
        let number = |key: &str| {
            let parse = |text: &str| {
                text.parse::<u64>().map_err(|_| {
                    InferenceError::load(format!(
                        "weights {:?} have {key} {text:?}, which is no number",
                        self.name
                    ))
                })
            };
            entry(key).map(parse).transpose()
        };
        let Some(location) = entry("location") else {
            return Ok(self.raw_data.clone());
        };
        let offset = number("offset")?.unwrap_or_default();
        let data = source.read_external(location, offset, number("length")?)?;
        Ok(data.into())
    }
}

impl GraphProto {
    fn locations(&self, found: &mut BTreeSet<String>) {
        for attribute in self.node.iter().flat_map(|node| &node.attribute) {
            attribute.locations(found);
        }
        locations_of(&self.initializer, found);
        for sparse in &self.sparse_initializer {
            sparse.locations(found);
        }
    }

    fn loops(&self) -> bool {
        self.node.iter().any(NodeProto::loops)
    }
}

impl NodeProto {
    fn loops(&self) -> bool {
        let graphs = |attribute: &AttributeProto| {
            let mut graphs = attribute.g.iter().chain(&attribute.graphs);
            graphs.any(GraphProto::loops)
        };
        self.op_type == "Loop" || self.attribute.iter().any(graphs)
    }
}

impl AttributeProto {
    fn locations(&self, found: &mut BTreeSet<String>) {
        locations_of(self.t.iter().chain(&self.tensors), found);
        for graph in self.g.iter().chain(&self.graphs) {
            graph.locations(found);
        }
        for sparse in self.sparse_tensor.iter().chain(&self.sparse_tensors) {
            sparse.locations(found);
        }
    }
}

impl SparseTensorProto {
    fn locations(&self, found: &mut BTreeSet<String>) {
        locations_of(self.values.iter().chain(&self.indices), found);
    }
}

fn locations_of<'t>(
    tensors: impl IntoIterator<Item = &'t TensorProto>,
    found: &mut BTreeSet<String>,
) {
    let entries = tensors.into_iter().flat_map(|tensor| &tensor.external_data);
    let locations = entries.filter(|entry| entry.key == "location");
    found.extend(locations.map(|entry| entry.value.clone()));
}

// The messages of onnx.proto, with the fields on the way to what is wanted. The others are skipped.

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "11")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(message, optional, tag = "5")]
    t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    g: Option<GraphProto>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<GraphProto>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensorProto>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    indices: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    /// Shares the memory of the file.
    #[prost(bytes = "bytes", tag = "9")]
    raw_data: Bytes,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShapeProto {}
