//! Whether a backend works: opened as a node opens it, and made to run a small model.
//!
//! Native code that is broken can end the process that opens it, as a truncated library does. So it
//! is opened in a process of its own: this program again, by a verb that no help shows.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dunlin_inference::{
    BackendKind, BackendPaths, BackendState, Backends, DType, Dim, ModelOptions, ModelSource,
    Tensor, TensorSpec, one_line,
};
use edge_config::Backends as Configured;
use serde::{Deserialize, Serialize};

use super::installed::Manifest;
use super::recipe::Native;
use crate::process::{self, Line};

/// libtorch opens within a second, from a slow disk within ten.
const LIMIT: Duration = Duration::from_secs(60);

/// The models that `smoke/make.py` makes: y = x * weight + bias.
const ONNX: &[u8] = include_bytes!("smoke/affine.onnx");
const TORCHSCRIPT: &[u8] = include_bytes!("smoke/affine.pt");
const INPUT: [f32; 3] = [1.0, 2.0, 3.0];
const OUTPUT: [f32; 2] = [11.5, 5.75];

/// What there is of a backend on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It ran a model.
    Ready { path: PathBuf, version: String },
    NotInstalled {
        /// In the order of the search; a bare file name was left to the system's search.
        looked_in: Vec<PathBuf>,
    },
    Broken {
        /// None: the system's search found it, and it did not live to tell where.
        path: Option<PathBuf>,
        reason: String,
    },
}

/// By which of the ways a backend was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It is part of the binary.
    Embedded,
    /// By an environment variable.
    Environment,
    /// By node.yaml.
    Setting,
    /// In the backend folder.
    Folder,
    /// By the dynamic linker.
    System,
}

impl Found {
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Environment => "environment",
            Self::Setting => "setting",
            Self::Folder => "folder",
            Self::System => "system",
        }
    }
}

/// Where one backend is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub native: Native,
    /// A library that is used in place of any other.
    pub library: Option<PathBuf>,
    pub folder: Option<PathBuf>,
}

impl Probe {
    /// As a node with these settings does.
    pub fn of(native: Native, configured: &Configured) -> Self {
        let library = match native {
            Native::OnnxRuntime => &configured.onnxruntime,
            Native::TorchScript => &configured.torchscript,
        };
        Self {
            native,
            library: library.clone(),
            folder: configured.folder.clone(),
        }
    }

    /// Which way leads to a library there. Only the linker knows the system's.
    pub fn found(&self) -> Found {
        let variable = env::var_os(self.native.variable()).filter(|path| !path.is_empty());
        match (&self.library, variable) {
            (Some(_), Some(_)) => Found::Environment,
            (Some(_), None) => Found::Setting,
            (None, _) if self.in_folder().is_some() => Found::Folder,
            (None, _) => Found::System,
        }
    }

    /// The library file in the backend folder, where there is one.
    fn in_folder(&self) -> Option<PathBuf> {
        let dir = self.folder.as_ref()?.join(self.native.name());
        let library = dir.join(self.native.library());
        library.symlink_metadata().is_ok().then_some(library)
    }

    /// The file that a node would open. None: it is left to the linker.
    fn path(&self) -> Option<PathBuf> {
        self.library.clone().or_else(|| self.in_folder())
    }

    fn paths(&self) -> BackendPaths {
        let mut paths = BackendPaths {
            folder: self.folder.clone(),
            ..BackendPaths::default()
        };
        match self.native {
            Native::OnnxRuntime => paths.onnxruntime = self.library.clone(),
            Native::TorchScript => paths.torchscript = self.library.clone(),
        }
        paths
    }
}

/// Opens the backend and runs a model with it, in a process of its own.
pub fn try_out(probe: &Probe) -> State {
    let broken = |reason: String| State::Broken {
        path: probe.path(),
        reason,
    };
    // Sooner than the library itself would show it, and told better.
    if probe.found() == Found::Folder
        && let Some(folder) = &probe.folder
        && let Some(manifest) = Manifest::read(folder, probe.native)
        && let Err(error) = manifest.check_sizes(&folder.join(probe.native.name()))
    {
        return broken(format!("{error:#}"));
    }
    match ask(probe) {
        Ok(state) => state,
        Err(error) => broken(format!("{error:#}")),
    }
}

fn ask(probe: &Probe) -> Result<State> {
    let own = env::current_exe().context("this program does not know its file")?;
    let mut command = Command::new(own);
    command.args(["--output", "json", "backend", "probe", probe.native.name()]);
    if let Some(library) = &probe.library {
        command.arg("--library").arg(library);
    }
    if let Some(folder) = &probe.folder {
        command.arg("--folder").arg(folder);
    }
    let (mut out, mut said) = (String::new(), Vec::new());
    let status = process::run(&mut command, Some(LIMIT), &mut |line| match line {
        Line::Out(line) => out += &line,
        Line::Err(line) => said.push(line),
    })
    .context("it was opened in a process of its own")?;
    if let Some(signal) = status.signal() {
        bail!("it crashes when it is opened or run (signal {signal})");
    }
    serde_json::from_str(&out).with_context(|| {
        let said = said.last().map_or("", String::as_str);
        format!("it ended the process that opened it ({status}) {said}")
    })
}

/// What the process of its own does.
pub fn answer(probe: &Probe) -> State {
    let kind = match probe.native {
        Native::OnnxRuntime => BackendKind::OnnxRuntime,
        Native::TorchScript => BackendKind::TorchScript,
    };
    let backends = Backends::new(probe.paths());
    let report = backends.report_on(kind).map(|report| report.state);
    match report {
        Some(BackendState::Ready { path, version }) => {
            let path = path.unwrap_or_default();
            match smoke(&backends, kind) {
                Ok(()) => State::Ready { path, version },
                Err(error) => State::Broken {
                    path: Some(path),
                    reason: format!("{error:#}"),
                },
            }
        }
        Some(BackendState::Broken { path, reason }) => State::Broken {
            path: Some(path),
            reason,
        },
        Some(BackendState::Missing { looked_in }) => State::NotInstalled { looked_in },
        None => State::NotInstalled {
            looked_in: Vec::new(),
        },
    }
}

/// tract's version, after it ran a model.
pub fn smoke_tract() -> Result<String> {
    let backends = Backends::default();
    smoke(&backends, BackendKind::Tract)?;
    match backends
        .report_on(BackendKind::Tract)
        .map(|report| report.state)
    {
        Some(BackendState::Ready { version, .. }) => Ok(version),
        _ => bail!("this binary has no tract"),
    }
}

fn smoke(backends: &Backends, kind: BackendKind) -> Result<()> {
    let text = |error| anyhow::Error::msg(one_line(&error));
    let model = match kind {
        BackendKind::TorchScript => TORCHSCRIPT,
        _ => ONNX,
    };
    let source = ModelSource::bytes(model);
    let tensor = |name: &str, columns: u64| TensorSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: vec![Dim::Fixed(1), Dim::Fixed(columns)],
    };
    let mut options = ModelOptions::default();
    if kind == BackendKind::TorchScript {
        // The file does not say it.
        options.inputs = vec![tensor("x", 3)];
    }
    let backend = backends.resolve(kind, &source).map_err(text)?;
    let session = backend
        .load(&source, &options)
        .map_err(text)
        .context("it cannot load a model")?;
    let input = Tensor::from_values(&[1, 3], &INPUT)?;
    let outputs = session
        .run(vec![input])
        .map_err(text)
        .context("it cannot run a model")?;
    let values: Option<Vec<f32>> = outputs
        .first()
        .and_then(|output| Some(output.values()?.collect()));
    if values.as_deref() != Some(&OUTPUT) {
        bail!("it computed {values:?} where {OUTPUT:?} is right");
    }
    Ok(())
}

/// The file that was opened, for people.
pub fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tract_runs_the_model() {
        assert!(!smoke_tract().unwrap().is_empty());
    }
}
