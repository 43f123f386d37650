//! libtorch, behind a small library of Dunlin that is opened at run time.

use std::path::{Path, PathBuf};

use super::locate::Library;
use super::{Backend, BackendKind, ModelOptions, ModelSource, Session};
use crate::InferenceError;

#[derive(Debug)]
pub(super) struct TorchScript {
    path: PathBuf,
    version: String,
}

impl Library for TorchScript {
    const KIND: BackendKind = BackendKind::TorchScript;
    const FOLDER: &'static str = "torchscript";
    const FILE: &'static str = "libdunlin_torch.so";

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

impl Backend for TorchScript {
    fn name(&self) -> &'static str {
        "torchscript"
    }

    fn platform(&self) -> &'static str {
        "pytorch_libtorch"
    }

    fn load(
        &self,
        _source: &ModelSource,
        _options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError> {
        Err(InferenceError::unsupported("not yet"))
    }
}

/// The source of the library that this backend opens: file names and texts, to be compiled against
/// the headers of libtorch.
pub const TORCHSCRIPT_SHIM: &[(&str, &str)] = &[
    ("dunlin_torch.h", include_str!("shim/dunlin_torch.h")),
    ("dunlin_torch.cpp", include_str!("shim/dunlin_torch.cpp")),
];
