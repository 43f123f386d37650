//! ONNX Runtime, a library that is opened at run time.
//!
//! The library and its one environment live as long as the process: ONNX Runtime cannot be opened
//! twice, and its threads may outlast `main`, so neither is ever closed. `ort` panics where it is
//! left to find the library on its own; so [`library`] opens and checks the file first, and
//! nothing here calls `ort` before that.

mod convert;
mod files;
mod library;
mod session;

use std::path::{Path, PathBuf};

use ort::environment::Environment;

use super::locate::{Library, OncePerProcess};
use super::{Backend, BackendKind, ModelOptions, ModelSource, Session};
use crate::InferenceError;
use library::Opened;

pub(super) struct OnnxRuntime {
    environment: Environment,
    path: PathBuf,
    version: String,
}

static OPENED: OncePerProcess<Opened> = OncePerProcess::new();

impl Library for OnnxRuntime {
    const KIND: BackendKind = BackendKind::OnnxRuntime;
    const FOLDER: &'static str = "onnxruntime";
    const FILE: &'static str = "libonnxruntime.so";

    fn open(path: &Path) -> Result<Self, String> {
        let Opened {
            environment,
            version,
        } = OPENED.open(path, library::check, library::open)?;
        Ok(OnnxRuntime {
            environment,
            path: path.to_owned(),
            version,
        })
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
        BackendKind::OnnxRuntime.name()
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn load(
        &self,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError> {
        let session = session::OrtSession::load(&self.environment, source, options)?;
        Ok(Box::new(session))
    }
}

impl std::fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxRuntime")
            .field("path", &self.path)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
