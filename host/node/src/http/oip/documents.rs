//! What the protocol says of a server and its models, whoever asks: HTTP writes these documents as
//! JSON, gRPC as messages.

use dunlin_inference::{Dim, StatsSnapshot, TensorSpec, Timing};
use schemars::JsonSchema;
use serde::Serialize;

use super::address::Addressed;
use crate::http::failure::Failure;

/// Of the protocol's extensions those that this node speaks.
const EXTENSIONS: [&str; 5] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
];

/// The server.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ServerMetadata {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) extensions: [&'static str; 5],
}

/// A model's tensors.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelMetadata {
    pub(crate) name: String,
    pub(crate) versions: Vec<String>,
    pub(crate) platform: String,
    pub(crate) inputs: Vec<TensorMetadata>,
    pub(crate) outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TensorMetadata {
    pub(crate) name: String,
    pub(crate) datatype: &'static str,
    /// -1 is a variable dimension.
    pub(crate) shape: Vec<i64>,
}

/// What the models have done.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Statistics {
    pub(crate) model_stats: Vec<ModelStatistics>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelStatistics {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Milliseconds since the Unix epoch; 0 if there was none.
    pub(crate) last_inference: u64,
    /// Rows.
    pub(crate) inference_count: u64,
    /// Runs of the engine; one run may be of several requests.
    pub(crate) execution_count: u64,
    pub(crate) inference_stats: InferenceStatistics,
    pub(crate) batch_stats: Vec<BatchStatistics>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InferenceStatistics {
    pub(crate) success: Duration,
    pub(crate) fail: Duration,
    pub(crate) queue: Duration,
    pub(crate) compute_input: Duration,
    pub(crate) compute_infer: Duration,
    pub(crate) compute_output: Duration,
    pub(crate) cache_hit: Duration,
    pub(crate) cache_miss: Duration,
}

/// How often something took place, and the time that it took in all.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Duration {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

/// The runs with one number of rows.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BatchStatistics {
    pub(crate) batch_size: u64,
    pub(crate) compute_input: Duration,
    pub(crate) compute_infer: Duration,
    pub(crate) compute_output: Duration,
}

/// A model in the repository.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelIndex {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) state: ModelState,
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ModelState {
    Ready,
    Loading,
    Unavailable,
}

impl ModelState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Loading => "LOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

pub(crate) fn server() -> ServerMetadata {
    ServerMetadata {
        name: "dunlin",
        version: env!("CARGO_PKG_VERSION"),
        extensions: EXTENSIONS,
    }
}

pub(crate) fn metadata(model: &Addressed) -> Result<ModelMetadata, Failure> {
    let target = model.target()?;
    let signature = target.signature();
    Ok(ModelMetadata {
        name: model.name.clone(),
        versions: vec![model.version()],
        platform: target.platform().to_owned(),
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    })
}

pub(crate) fn tensors(specs: &[TensorSpec]) -> Vec<TensorMetadata> {
    let described = specs.iter().map(|spec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.dtype.name(),
        shape: dims(&spec.shape),
    });
    described.collect()
}

pub(crate) fn dims(dims: &[Dim]) -> Vec<i64> {
    let sizes = dims.iter().map(|dim| match dim {
        // Larger ones are refused where models are loaded.
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Any => -1,
    });
    sizes.collect()
}

pub(crate) fn statistics(model: &Addressed) -> Result<ModelStatistics, Failure> {
    let StatsSnapshot {
        inference_count,
        execution_count,
        success,
        fail,
        queue,
        compute_input,
        compute_infer,
        compute_output,
        last_inference_ms,
        batches,
        ..
    } = model.statistics()?;
    let batches = batches.into_iter().map(|(rows, times)| BatchStatistics {
        batch_size: rows,
        compute_input: times.compute_input.into(),
        compute_infer: times.compute_infer.into(),
        compute_output: times.compute_output.into(),
    });
    Ok(ModelStatistics {
        name: model.name.clone(),
        version: model.version(),
        last_inference: last_inference_ms,
        inference_count,
        execution_count,
        inference_stats: InferenceStatistics {
            success: success.into(),
            fail: fail.into(),
            queue: queue.into(),
            compute_input: compute_input.into(),
            compute_infer: compute_infer.into(),
            compute_output: compute_output.into(),
            // Answers are not kept.
            cache_hit: Duration::default(),
            cache_miss: Duration::default(),
        },
        batch_stats: batches.collect(),
    })
}

impl From<Timing> for Duration {
    fn from(Timing { count, ns }: Timing) -> Self {
        Self { count, ns }
    }
}
