//! What models count, under names of our own and under Triton's: dashboards that know Triton find
//! theirs.

use std::collections::BTreeMap;

use dunlin_inference::{HistogramSnapshot, StatsSnapshot};

use super::{
    NANOSECONDS, Scraped,
    exposition::{Exposition, Kind},
};

/// A model of one revision.
struct Counted<'s> {
    deployment: &'s str,
    revision: &'s str,
    model: String,
    /// As the Open Inference Protocol calls it: `digits`, or `digits.encoder` for one of several.
    protocol_name: String,
    stats: StatsSnapshot,
}

/// One number of a model's statistics.
type Figure = fn(&StatsSnapshot) -> u64;

const COUNTERS: [(&str, &str, Figure); 4] = [
    (
        "dunlin_model_inferences_total",
        "Rows that went through the model",
        |stats| stats.inference_count,
    ),
    (
        "dunlin_model_executions_total",
        "Times that the engine ran",
        |stats| stats.execution_count,
    ),
    (
        "dunlin_model_failures_total",
        "Calls that the engine refused or failed",
        |stats| stats.fail.count,
    ),
    (
        "dunlin_model_cancelled_total",
        "Calls whose callers were gone before their run",
        |stats| stats.cancelled,
    ),
];

/// With the unit of the histogram's own numbers.
type Distribution = (
    &'static str,
    &'static str,
    f64,
    fn(&StatsSnapshot) -> &HistogramSnapshot,
);

const HISTOGRAMS: [Distribution; 3] = [
    (
        "dunlin_model_queue_seconds",
        "Time that a call waited for the engine",
        NANOSECONDS,
        |stats| &stats.queue_times,
    ),
    (
        "dunlin_model_compute_seconds",
        "Time that the engine ran for a call",
        NANOSECONDS,
        |stats| &stats.compute_times,
    ),
    (
        "dunlin_model_batch_rows",
        "Rows of a run of the engine",
        1.0,
        |stats| &stats.rows,
    ),
];

/// Triton's counters, whose names do without `_total`.
const TRITON: [(&str, &str, Figure); 8] = [
    (
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        |stats| stats.success.count,
    ),
    (
        "nv_inference_count",
        "Number of inferences performed (does not include cached requests)",
        |stats| stats.inference_count,
    ),
    (
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        |stats| stats.execution_count,
    ),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds",
        |stats| stats.success.ns / 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds",
        |stats| stats.queue.ns / 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds",
        |stats| stats.compute_input.ns / 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds",
        |stats| stats.compute_infer.ns / 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds",
        |stats| stats.compute_output.ns / 1000,
    ),
];

pub(super) fn write(text: &mut Exposition, deployments: &[Scraped]) {
    let models: Vec<Counted<'_>> = deployments.iter().flat_map(counted).collect();
    for (name, help, figure) in COUNTERS {
        let mut family = text.family(name, help, Kind::Counter);
        for model in &models {
            family.count(&model.labels(), figure(&model.stats));
        }
    }
    for (name, help, unit, histogram) in HISTOGRAMS {
        let mut family = text.family(name, help, Kind::Histogram);
        for model in &models {
            family.histogram(&model.labels(), histogram(&model.stats), unit);
        }
    }
    queues(text, deployments);
    for (name, help, figure) in TRITON {
        let mut family = text.family(name, help, Kind::Counter);
        for model in &models {
            family.count(&model.triton_labels(), figure(&model.stats));
        }
    }
    let mut family = text.family(
        "nv_inference_request_failure",
        "Number of failed inference requests, all batch sizes",
        Kind::Counter,
    );
    for model in &models {
        let [name, version] = model.triton_labels();
        let stats = &model.stats;
        for (reason, count) in [("CANCELED", stats.cancelled), ("OTHER", stats.fail.count)] {
            family.count(&[name, version, ("reason", reason)], count);
        }
    }
}

/// Calls that wait, of the models that serve. Deployments that share an engine share its queue.
fn queues(text: &mut Exposition, deployments: &[Scraped]) {
    let serving = || {
        deployments.iter().flat_map(|Scraped { deployment, .. }| {
            let serving = deployment.serving.iter();
            let models = serving.flat_map(|serving| &serving.models);
            models.map(move |(name, model)| (&deployment.record, name, model))
        })
    };
    let mut family = text.family(
        "dunlin_model_queue_length",
        "Calls that wait for the engine",
        Kind::Gauge,
    );
    for (record, model, loaded) in serving() {
        let revision = record.revision.to_string();
        let labels = [
            ("deployment", &*record.name),
            ("revision", &*revision),
            ("model", model),
        ];
        family.count(&labels, loaded.waiting() as u64);
    }
}

fn counted(scraped: &Scraped) -> impl Iterator<Item = Counted<'_>> {
    scraped.revisions.iter().flat_map(move |revision| {
        let figures = &revision.figures;
        let models: BTreeMap<_, _> = figures.models();
        // By the deployment's name the protocol reaches the predictor, if that takes tensors itself.
        let is_deployment = models.len() == 1 && !figures.takes_tensors();
        models.into_iter().map(move |(model, stats)| Counted {
            deployment: scraped.name(),
            revision: &revision.number,
            protocol_name: match is_deployment {
                true => scraped.name().to_owned(),
                false => format!("{}.{model}", scraped.name()),
            },
            model,
            stats: stats.snapshot(),
        })
    })
}

impl Counted<'_> {
    fn labels(&self) -> [(&str, &str); 3] {
        [
            ("deployment", self.deployment),
            ("revision", self.revision),
            ("model", &self.model),
        ]
    }

    fn triton_labels(&self) -> [(&str, &str); 2] {
        [("model", &self.protocol_name), ("version", self.revision)]
    }
}
