//! From a trained model to a folder that `dunlin deploy` takes.
//!
//! A Lightning checkpoint goes through the user's own Python ([`python`]), an exported file through
//! an engine of this binary ([`exported`]); both end as an [`Imported`] model in a [`Staging`] folder.
//! [`write_files`] adds what makes it a deployment. Knows no node.

mod exported;
mod files;
mod golden;
mod npz;
mod python;
mod rehearsal;
mod rust_predictor;
mod samples;
mod staging;
mod tensor_spec;

use serde::{Deserialize, Serialize};

pub(crate) use exported::{Exported, import_exported};
pub(crate) use files::{Description, ORIGIN, write_files};
pub(crate) use python::Python;
pub(crate) use rehearsal::{Engines, Rehearsal, rehearse};
pub(crate) use staging::{Destination, Staging};
pub(crate) use tensor_spec::TensorArg;

/// Of the folder: where the models and their golden samples are.
const MODELS: &str = "models";
const GOLDEN: &str = "golden.safetensors";

/// How far an export may be from the original: `absolute + relative * |expected|`, both this.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// A model whose files are in the staging folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Imported {
    pub(crate) inputs: Vec<TensorArg>,
    pub(crate) outputs: Vec<TensorArg>,
    /// The best first: it is the one of `dunlin.yaml`.
    #[serde(default)]
    pub(crate) routes: Vec<RouteFile>,
    /// Where the golden inputs come from.
    pub(crate) samples: String,
    pub(crate) rows: u64,
    /// What made the golden outputs.
    pub(crate) reference: String,
    /// Of the libraries that took part.
    #[serde(default)]
    pub(crate) versions: serde_json::Map<String, serde_json::Value>,
}

/// One form of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RouteFile {
    pub(crate) route: Route,
    /// Below `models`.
    pub(crate) file: String,
    /// What the file keeps beside itself.
    pub(crate) files: Vec<String>,
    /// `torch.onnx, traced, opset 17`, `script`, `as it was`.
    pub(crate) how: String,
    /// Why it was not scripted; empty where it was, or need not be.
    #[serde(default)]
    pub(crate) why_traced: String,
    /// What ran it beside the original; `None` where nothing could.
    pub(crate) checked_by: Option<String>,
    pub(crate) difference: Option<Difference>,
}

/// The largest over all golden samples, and over other sizes of them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) absolute: f64,
    pub(crate) relative: f64,
}

/// The form that a model has on its way to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Route {
    Onnx,
    TorchScript,
}

impl Route {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::TorchScript => "torchscript",
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Onnx => "ONNX",
            Self::TorchScript => "TorchScript",
        }
    }
}

impl Imported {
    /// The deployment file of a route: `dunlin.yaml` is the first one's.
    pub(crate) fn deployment_file(&self, route: Route) -> String {
        match self.routes.first() {
            Some(first) if first.route != route => format!("dunlin.{}.yaml", route.name()),
            _ => crate::project::DEPLOYMENT_FILE.to_owned(),
        }
    }
}
