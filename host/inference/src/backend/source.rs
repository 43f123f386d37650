//! Where the bytes of a model are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use crate::InferenceError;

/// A model file and the files it refers to.
#[derive(Clone, Debug)]
pub struct ModelSource {
    content: ModelContent,
    /// Files that the model names, under the names it uses: `model.onnx.data`.
    files: Vec<(String, PathBuf)>,
}

#[derive(Clone, Debug)]
enum ModelContent {
    Path(PathBuf),
    Bytes(Bytes),
}

impl ModelSource {
    /// A file. What it refers to lies beside it, unless [`ModelSource::with_file`] says otherwise.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        ModelSource {
            content: ModelContent::Path(path.into()),
            files: Vec::new(),
        }
    }

    /// A model in memory. It can only refer to files given by [`ModelSource::with_file`].
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        ModelSource {
            content: ModelContent::Bytes(bytes.into()),
            files: Vec::new(),
        }
    }

    /// Says where a file is that the model refers to by `name`; in a content store it does not lie
    /// beside the model.
    pub fn with_file(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.files.push((name.into(), path.into()));
        self
    }

    pub(super) fn read(&self) -> Result<Box<dyn Read + '_>, InferenceError> {
        match &self.content {
            ModelContent::Path(path) => Ok(Box::new(open(path)?)),
            ModelContent::Bytes(bytes) => Ok(Box::new(bytes.as_ref())),
        }
    }

    /// `length` bytes, or all to the end, of a file that the model refers to.
    pub(super) fn read_external(
        &self,
        name: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Vec<u8>, InferenceError> {
        let path = self.external_path(name)?;
        let failed = |source: io::Error| InferenceError::Load {
            reason: format!("{} cannot be read", path.display()),
            source: Some(source.into()),
        };
        let mut file = open(&path)?;
        let size = file.metadata().map_err(failed)?.len();
        let available = size.checked_sub(offset);
        let Some(length) = available.and_then(|available| {
            let length = length.unwrap_or(available);
            (length <= available).then_some(length)
        }) else {
            return Err(InferenceError::load(format!(
                "the model refers to {} from byte {offset} of {name:?}, which has {size}",
                length.map_or_else(|| "the bytes".to_owned(), |n| format!("{n} bytes")),
            )));
        };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    pub(super) fn external_size(&self, name: &str) -> Result<u64, InferenceError> {
        let path = self.external_path(name)?;
        let metadata = open(&path)?.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|source| InferenceError::Load {
                reason: format!("{} cannot be read", path.display()),
                source: Some(source.into()),
            })
    }

    /// The whole model.
    pub(super) fn read_all(&self) -> Result<Bytes, InferenceError> {
        match &self.content {
            ModelContent::Path(path) => {
                let bytes = std::fs::read(path).map_err(cannot_open(path))?;
                Ok(bytes.into())
            }
            ModelContent::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    /// The model's file, if it is one.
    pub(super) fn as_path(&self) -> Option<&Path> {
        match &self.content {
            ModelContent::Path(path) => Some(path),
            ModelContent::Bytes(_) => None,
        }
    }

    /// Whether the model is a zip archive, which no ONNX file is: the first byte of a protobuf
    /// message is a tag, and 0x50 is no tag of a model.
    pub(super) fn is_zip(&self) -> Result<bool, InferenceError> {
        let mut start = Vec::new();
        self.read()?
            .take(4)
            .read_to_end(&mut start)
            .map_err(|source| InferenceError::Load {
                reason: "the model cannot be read".to_owned(),
                source: Some(source.into()),
            })?;
        Ok(start == *b"PK\x03\x04")
    }

    /// Where a file is that the model refers to by `name`. It may not be there.
    pub(super) fn external_path(&self, name: &str) -> Result<PathBuf, InferenceError> {
        if let Some((_, path)) = self.files.iter().find(|(given, _)| given == name) {
            return Ok(path.clone());
        }
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() {
            return Err(InferenceError::load(format!(
                "the model refers to {name:?}; only files in its own folder are allowed"
            )));
        }
        match &self.content {
            ModelContent::Path(path) => Ok(path.with_file_name("").join(name)),
            ModelContent::Bytes(_) => Err(InferenceError::load(format!(
                "the model refers to {name:?}, which did not come with it"
            ))),
        }
    }
}

fn open(path: &Path) -> Result<File, InferenceError> {
    File::open(path).map_err(cannot_open(path))
}

fn cannot_open(path: &Path) -> impl FnOnce(io::Error) -> InferenceError {
    move |source| InferenceError::Load {
        reason: format!("{} cannot be opened", path.display()),
        source: Some(source.into()),
    }
}
