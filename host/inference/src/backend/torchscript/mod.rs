//! libtorch, through a small library of Dunlin's own that is opened at run time.
//!
//! libtorch speaks C++, whose names and layouts change with each release; [`TORCHSCRIPT_SHIM`] is
//! compiled against the headers of the one that is installed and speaks C. Neither is ever closed:
//! libtorch keeps threads.

mod session;
mod shim;

use std::path::{Path, PathBuf};

use super::locate::{Library, OncePerProcess, check_library};
use super::{Backend, BackendKind, ModelOptions, ModelSource, Session};
use crate::InferenceError;
use shim::Shim;

/// The source of the library that this backend opens: file names and texts, to be compiled against
/// the headers of libtorch.
pub const TORCHSCRIPT_SHIM: &[(&str, &str)] = &[
    ("dunlin_torch.h", include_str!("shim/dunlin_torch.h")),
    ("dunlin_torch.cpp", include_str!("shim/dunlin_torch.cpp")),
];

#[derive(Debug)]
pub(super) struct TorchScript {
    shim: Shim,
    path: PathBuf,
    version: String,
}

static OPENED: OncePerProcess<Shim> = OncePerProcess::new();

impl Library for TorchScript {
    const KIND: BackendKind = BackendKind::TorchScript;
    const FOLDER: &'static str = "torchscript";
    const FILE: &'static str = "libdunlin_torch.so";

    fn open(path: &Path) -> Result<Self, String> {
        let shim = OPENED.open(path, check_library, |path, ()| Shim::open(path))?;
        Ok(TorchScript {
            version: shim.version(),
            path: path.to_owned(),
            shim,
        })
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
        BackendKind::TorchScript.name()
    }

    fn platform(&self) -> &'static str {
        "pytorch_libtorch"
    }

    fn load(
        &self,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError> {
        let session = session::TorchSession::load(self.shim, source, options)?;
        Ok(Box::new(session))
    }
}
