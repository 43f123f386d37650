//! The documents of the protocol as messages.

use super::proto::{
    DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput,
    ModelInstanceGroup, ModelMetadataResponse, ModelOutput, ModelQueuePolicy, ModelStatistics,
    ModelTransactionPolicy, ModelVersionPolicy, StatisticDuration,
    model_config::SchedulingChoice,
    model_instance_group::Kind,
    model_metadata_response::TensorMetadata,
    model_version_policy::{Latest, PolicyChoice},
    repository_index_response::ModelIndex,
};
use crate::http::oip::{config, documents};

impl From<documents::ModelMetadata> for ModelMetadataResponse {
    fn from(metadata: documents::ModelMetadata) -> Self {
        let tensors = |tensors: Vec<documents::TensorMetadata>| {
            let tensors = tensors.into_iter().map(|tensor| TensorMetadata {
                name: tensor.name,
                datatype: tensor.datatype.to_owned(),
                shape: tensor.shape,
            });
            tensors.collect()
        };
        Self {
            name: metadata.name,
            versions: metadata.versions,
            platform: metadata.platform,
            inputs: tensors(metadata.inputs),
            outputs: tensors(metadata.outputs),
        }
    }
}

impl From<config::ModelConfig> for ModelConfig {
    fn from(config: config::ModelConfig) -> Self {
        let data_type = |name: &str| DataType::from_str_name(name).unwrap_or_default().into();
        let int = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        let inputs = config.input.into_iter().map(|tensor| ModelInput {
            data_type: data_type(tensor.data_type),
            name: tensor.name,
            dims: tensor.dims,
        });
        let outputs = config.output.into_iter().map(|tensor| ModelOutput {
            data_type: data_type(tensor.data_type),
            name: tensor.name,
            dims: tensor.dims,
        });
        let groups = config
            .instance_group
            .into_iter()
            .map(|group| ModelInstanceGroup {
                count: int(group.count.into()),
                kind: Kind::from_str_name(group.kind).unwrap_or_default().into(),
                name: group.name,
            });
        let batching = config.dynamic_batching.map(|batching| {
            let preferred = batching.preferred_batch_size.into_iter();
            SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                preferred_batch_size: preferred.map(int).collect(),
                max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
                default_queue_policy: Some(ModelQueuePolicy {
                    default_timeout_microseconds: batching
                        .default_queue_policy
                        .default_timeout_microseconds,
                    max_queue_size: batching.default_queue_policy.max_queue_size,
                }),
            })
        });
        Self {
            name: config.name,
            platform: config.platform,
            backend: config.backend,
            version_policy: Some(ModelVersionPolicy {
                policy_choice: Some(PolicyChoice::Latest(Latest {
                    num_versions: config.version_policy.latest.num_versions,
                })),
            }),
            max_batch_size: int(config.max_batch_size),
            input: inputs.collect(),
            output: outputs.collect(),
            instance_group: groups.collect(),
            scheduling_choice: batching,
            model_transaction_policy: Some(ModelTransactionPolicy {
                decoupled: config.model_transaction_policy.decoupled,
            }),
        }
    }
}

impl From<documents::ModelStatistics> for ModelStatistics {
    fn from(statistics: documents::ModelStatistics) -> Self {
        let counts = statistics.inference_stats;
        let batches = statistics.batch_stats.into_iter();
        let batches = batches.map(|batch| InferBatchStatistics {
            batch_size: batch.batch_size,
            compute_input: duration(&batch.compute_input),
            compute_infer: duration(&batch.compute_infer),
            compute_output: duration(&batch.compute_output),
        });
        Self {
            name: statistics.name,
            version: statistics.version,
            last_inference: statistics.last_inference,
            inference_count: statistics.inference_count,
            execution_count: statistics.execution_count,
            inference_stats: Some(InferStatistics {
                success: duration(&counts.success),
                fail: duration(&counts.fail),
                queue: duration(&counts.queue),
                compute_input: duration(&counts.compute_input),
                compute_infer: duration(&counts.compute_infer),
                compute_output: duration(&counts.compute_output),
                cache_hit: duration(&counts.cache_hit),
                cache_miss: duration(&counts.cache_miss),
            }),
            batch_stats: batches.collect(),
        }
    }
}

fn duration(&documents::Duration { count, ns }: &documents::Duration) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}

impl From<documents::ModelIndex> for ModelIndex {
    fn from(index: documents::ModelIndex) -> Self {
        Self {
            name: index.name,
            version: index.version,
            state: index.state.name().to_owned(),
            reason: index.reason.to_owned(),
        }
    }
}
