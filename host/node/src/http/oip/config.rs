//! A model's configuration in the words of Triton's, as clients that tune themselves read it.

use std::time::Duration;

use dunlin_inference::{DType, TensorSpec};
use schemars::JsonSchema;
use serde::Serialize;

use super::{address::Addressed, documents::dims};
use crate::{deployment::TensorTarget, http::failure::Failure};

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelConfig {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) backend: String,
    pub(crate) version_policy: VersionPolicy,
    /// 0: calls do not share runs, and shapes are whole. Otherwise the first dimension of every tensor
    /// is the batch, and `dims` are those behind it.
    pub(crate) max_batch_size: u64,
    pub(crate) input: Vec<TensorConfig>,
    pub(crate) output: Vec<TensorConfig>,
    pub(crate) instance_group: Vec<InstanceGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic_batching: Option<DynamicBatching>,
    pub(crate) model_transaction_policy: TransactionPolicy,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct VersionPolicy {
    pub(crate) latest: LatestVersions,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LatestVersions {
    pub(crate) num_versions: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TensorConfig {
    pub(crate) name: String,
    pub(crate) data_type: &'static str,
    /// -1 is a variable dimension.
    pub(crate) dims: Vec<i64>,
}

/// Runs at once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InstanceGroup {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) count: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DynamicBatching {
    pub(crate) preferred_batch_size: Vec<u64>,
    pub(crate) max_queue_delay_microseconds: u64,
    pub(crate) default_queue_policy: QueuePolicy,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct QueuePolicy {
    /// 0: a request waits until its deadline.
    pub(crate) default_timeout_microseconds: u64,
    pub(crate) max_queue_size: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TransactionPolicy {
    /// One answer for each request.
    pub(crate) decoupled: bool,
}

pub(crate) fn config(model: &Addressed) -> Result<ModelConfig, Failure> {
    let target = model.target()?;
    let settings = model.settings();
    let batching = settings.and_then(|settings| settings.batching.as_ref());
    let rows = usize::from(batching.is_some());
    let signature = target.signature();
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| tensor(spec, rows)).collect();
    Ok(ModelConfig {
        name: model.name.clone(),
        platform: target.platform().to_owned(),
        backend: match target {
            TensorTarget::Predictor(..) => "dunlin",
            TensorTarget::Model(model) => model.backend(),
        }
        .to_owned(),
        version_policy: VersionPolicy {
            latest: LatestVersions { num_versions: 1 },
        },
        max_batch_size: batching.map_or(0, |batching| batching.max_batch_size),
        input: tensors(&signature.inputs),
        output: tensors(&signature.outputs),
        instance_group: vec![InstanceGroup {
            name: format!("{}_0", model.name),
            kind: "KIND_CPU",
            count: match (settings, &target) {
                (Some(settings), _) => settings.instances,
                (None, TensorTarget::Predictor(predictor, _)) => {
                    u32::try_from(predictor.instances().max).unwrap_or(u32::MAX)
                }
                (None, TensorTarget::Model(_)) => 1,
            },
        }],
        dynamic_batching: settings
            .zip(batching)
            .map(|(settings, batching)| DynamicBatching {
                preferred_batch_size: batching.preferred_batch_size.clone(),
                max_queue_delay_microseconds: microseconds(batching.max_queue_delay),
                default_queue_policy: QueuePolicy {
                    default_timeout_microseconds: microseconds(
                        settings.queue_timeout.unwrap_or_default(),
                    ),
                    max_queue_size: settings.max_queue_size,
                },
            }),
        model_transaction_policy: TransactionPolicy { decoupled: false },
    })
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Without the first `rows` dimensions.
fn tensor(spec: &TensorSpec, rows: usize) -> TensorConfig {
    TensorConfig {
        name: spec.name.clone(),
        data_type: data_type(spec.dtype),
        dims: dims(spec.shape.get(rows..).unwrap_or_default()),
    }
}

fn data_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "TYPE_BOOL",
        DType::U8 => "TYPE_UINT8",
        DType::U16 => "TYPE_UINT16",
        DType::U32 => "TYPE_UINT32",
        DType::U64 => "TYPE_UINT64",
        DType::I8 => "TYPE_INT8",
        DType::I16 => "TYPE_INT16",
        DType::I32 => "TYPE_INT32",
        DType::I64 => "TYPE_INT64",
        DType::F16 => "TYPE_FP16",
        DType::BF16 => "TYPE_BF16",
        DType::F32 => "TYPE_FP32",
        DType::F64 => "TYPE_FP64",
        DType::Bytes => "TYPE_STRING",
    }
}
