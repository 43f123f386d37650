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

use crate::InferenceError;
use crate::backend::ModelSource;

/// What is known of a model before it is loaded.
pub(super) struct OnnxFile {
    /// The files of its weights, as it names them.
    locations: BTreeSet<String>,
    /// Inputs of which it declares not even the number of dimensions.
    pub(super) shapeless_inputs: BTreeSet<String>,
}

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
        let shapeless = graph.input.into_iter().filter_map(|input| {
            let tensor = input.r#type?.tensor_type?;
            tensor.shape.is_none().then_some(input.name)
        });
        Ok(OnnxFile {
            shapeless_inputs: shapeless.collect(),
            locations,
        })
    }

    pub(super) fn place(
        &self,
        source: &ModelSource,
        bytes: Bytes,
    ) -> Result<Place, InferenceError> {
        let mut files = Vec::new();
        for location in &self.locations {
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

// The messages of onnx.proto, with the fields on the way to what is wanted. The others, weights
// among them, are skipped by their length.

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
