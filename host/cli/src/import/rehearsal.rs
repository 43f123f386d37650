//! What a node on this machine would say of a model: the engines that are here load it and answer
//! its golden samples.

use std::path::Path;
use std::sync::Arc;

use dunlin_inference::{
    BackendKind, BackendPaths, BackendState, Backends, GoldenSample, InferenceError, LoadRequest,
    Model, ModelOptions, ModelSource, Registry, TensorSpec, Tolerance, one_line,
};
use serde::Serialize;

use super::{GOLDEN, Imported, Route, RouteFile, TensorArg};
use crate::exit::Failure;
use crate::paths;

/// The engines of this machine.
#[derive(Debug)]
pub(crate) struct Engines {
    registry: Registry,
}

/// How the model did.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Rehearsal {
    Passed { platform: String },
    Failed { reason: String },
}

impl Engines {
    pub(crate) fn new() -> Result<Self, Failure> {
        let edge_config::Backends {
            folder,
            onnxruntime,
            torchscript,
        } = paths::backends(edge_config::Backends::default())?;
        let paths = BackendPaths {
            folder,
            onnxruntime,
            torchscript,
        };
        Ok(Self {
            registry: Registry::new(Backends::new(paths)),
        })
    }

    pub(super) async fn load(
        &self,
        file: &Path,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
        golden: Option<GoldenSample>,
    ) -> Result<Model, Arc<InferenceError>> {
        let request = LoadRequest {
            // One file is one model in this registry, which is gone with the import.
            digest: file.display().to_string(),
            source: ModelSource::path(file),
            backend: BackendKind::Auto,
            options: ModelOptions {
                inputs,
                outputs,
                ..ModelOptions::default()
            },
            golden,
        };
        self.registry.get_or_load(request).await
    }

    /// `onnxruntime 1.31.1`.
    pub(super) fn version(&self, backend: &str) -> String {
        let reports = self.registry.backends().report();
        let report = reports.into_iter().find(|report| report.name == backend);
        match report.map(|report| report.state) {
            Some(BackendState::Ready { version, .. }) => format!("{backend} {version}"),
            _ => backend.to_owned(),
        }
    }
}

/// Loads a route as its deployment file says, and runs its golden samples.
pub(crate) async fn rehearse(
    engines: &Engines,
    models: &Path,
    imported: &Imported,
    route: &RouteFile,
    tolerance: f64,
) -> Rehearsal {
    let specs = |tensors: &[TensorArg]| match route.route {
        // The file says it.
        Route::Onnx => Vec::new(),
        Route::TorchScript => tensors.iter().filter_map(TensorArg::spec).collect(),
    };
    let golden = GoldenSample {
        digest: String::new(),
        path: models.join(GOLDEN),
        tolerance: Tolerance {
            relative: tolerance,
            absolute: tolerance,
        },
    };
    let (inputs, outputs) = (specs(&imported.inputs), specs(&imported.outputs));
    let loaded = engines
        .load(&models.join(&route.file), inputs, outputs, Some(golden))
        .await;
    match loaded {
        Ok(model) => Rehearsal::Passed {
            platform: model.platform().to_owned(),
        },
        Err(error) => Rehearsal::Failed {
            reason: one_line(&*error),
        },
    }
}
