//! ONNX Runtime, a library that is opened at run time.

use std::path::{Path, PathBuf};

use super::locate::Library;
use super::{Backend, BackendKind, ModelOptions, ModelSource, Session};
use crate::InferenceError;

#[derive(Debug)]
pub(super) struct OnnxRuntime {
    path: PathBuf,
    version: String,
}

impl Library for OnnxRuntime {
    const KIND: BackendKind = BackendKind::OnnxRuntime;
    const FOLDER: &'static str = "onnxruntime";
    const FILE: &'static str = "libonnxruntime.so";

    fn open(path: &Path) -> Result<Self, String> {
        Err(format!(
            "{}: cannot open shared object file",
            path.display()
        ))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn version(&self) -> &str {
        &self.version
    }
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn load(
        &self,
        _source: &ModelSource,
        _options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError> {
        Err(InferenceError::unsupported("not yet"))
    }
}
