//! What one deployment tells of itself: counts, latencies, its predictor's own metrics, its log.
//!
//! It belongs to the name, not to a revision: a deploy does not set the counters back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dunlin_inference::Stats;
use dunlin_sandbox::{LogEntry, LogLevel, Measurement, Observer};
use prometheus_client::metrics::{
    counter::Counter,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use crate::logs::Logs;

/// Names beyond these are dropped: a predictor cannot fill the node's memory with them.
const PREDICTOR_METRICS_MAX: usize = 64;

/// 100 µs to 26 s, each twice the one before.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(100e-6, 2.0, 19))
}

pub(crate) type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;
pub(crate) type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A metric that the predictor reports.
#[derive(Debug, Clone)]
pub(crate) enum PredictorMetric {
    Counter(FloatCounter),
    Gauge(FloatGauge),
    Histogram(Histogram),
}

pub(crate) struct Telemetry {
    deployment: String,
    pub(crate) logs: Logs,
    /// By the hundreds of the status: `responses[1]` counts 2xx.
    responses: [Counter; 5],
    pub(crate) latency: Histogram,
    latency_sum: FloatCounter,
    predictor: Mutex<BTreeMap<String, PredictorMetric>>,
    models: Mutex<BTreeMap<String, Arc<Stats>>>,
    /// Of the predictor's own tensors.
    pub(crate) tensors: Stats,
}

impl Telemetry {
    pub(crate) fn new(deployment: &str) -> Self {
        Self {
            deployment: deployment.to_owned(),
            logs: Logs::default(),
            responses: Default::default(),
            latency: latency_histogram(),
            latency_sum: FloatCounter::default(),
            predictor: Mutex::default(),
            models: Mutex::default(),
            tensors: Stats::default(),
        }
    }

    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.responses[class].inc();
        self.latency.observe(elapsed.as_secs_f64());
        self.latency_sum.inc_by(elapsed.as_secs_f64());
    }

    /// The counters of 1xx to 5xx.
    pub(crate) fn responses(&self) -> &[Counter; 5] {
        &self.responses
    }

    /// The mean time of a request in milliseconds.
    pub(crate) fn mean_ms(&self) -> f64 {
        let count: u64 = self.responses.iter().map(Counter::get).sum();
        if count == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people to read")]
        let count = count as f64;
        self.latency_sum.get() * 1e3 / count
    }

    /// The counters of a model of this deployment, the same from one revision to the next.
    pub(crate) fn model(&self, name: &str) -> Arc<Stats> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        // Names that no revision uses any more are forgotten.
        models.retain(|known, stats| known == name || Arc::strong_count(stats) > 1);
        Arc::clone(models.entry(name.to_owned()).or_default())
    }

    pub(crate) fn predictor_metrics(&self) -> Vec<(String, PredictorMetric)> {
        let metrics = self.predictor();
        let metrics = metrics.iter();
        metrics
            .map(|(name, metric)| (name.clone(), metric.clone()))
            .collect()
    }

    fn predictor(&self) -> MutexGuard<'_, BTreeMap<String, PredictorMetric>> {
        self.predictor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Telemetry {
    fn log(&self, entry: LogEntry) {
        let (deployment, request_id) = (&*self.deployment, &*entry.request_id);
        let message = &*entry.message;
        let fields = tracing::field::debug(&entry.fields);
        match entry.level {
            LogLevel::Trace => {
                tracing::trace!(target: "predictor", deployment, request_id, fields, "{message}");
            }
            LogLevel::Debug => {
                tracing::debug!(target: "predictor", deployment, request_id, fields, "{message}");
            }
            LogLevel::Info => {
                tracing::info!(target: "predictor", deployment, request_id, fields, "{message}");
            }
            LogLevel::Warn => {
                tracing::warn!(target: "predictor", deployment, request_id, fields, "{message}");
            }
            LogLevel::Error => {
                tracing::error!(target: "predictor", deployment, request_id, fields, "{message}");
            }
        }
        self.logs.add(entry);
    }

    fn measure(&self, name: &str, measurement: Measurement) {
        let mut metrics = self.predictor();
        if !metrics.contains_key(name) {
            if metrics.len() == PREDICTOR_METRICS_MAX {
                return;
            }
            let metric = match measurement {
                Measurement::CounterAdd(_) => PredictorMetric::Counter(FloatCounter::default()),
                Measurement::GaugeSet(_) => PredictorMetric::Gauge(FloatGauge::default()),
                Measurement::HistogramObserve(_) => PredictorMetric::Histogram(value_histogram()),
            };
            metrics.insert(name.to_owned(), metric);
        }
        // A name keeps the kind it was first used with; another kind of the same name is dropped.
        match (metrics.get(name), measurement) {
            (Some(PredictorMetric::Counter(counter)), Measurement::CounterAdd(value)) => {
                counter.inc_by(value);
            }
            (Some(PredictorMetric::Gauge(gauge)), Measurement::GaugeSet(value)) => {
                gauge.set(value);
            }
            (Some(PredictorMetric::Histogram(histogram)), Measurement::HistogramObserve(value)) => {
                histogram.observe(value);
            }
            _ => {}
        }
    }
}

/// A predictor's values can be anything: from a thousandth to a million, each ten times the one
/// before.
fn value_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 10.0, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_is_bounded_and_a_name_keeps_its_kind() {
        let telemetry = Telemetry::new("digits");
        telemetry.measure("seen", Measurement::CounterAdd(1.0));
        telemetry.measure("seen", Measurement::GaugeSet(9.0));
        telemetry.measure("seen", Measurement::CounterAdd(2.0));
        for number in 0..1000 {
            telemetry.measure(&format!("m{number}"), Measurement::GaugeSet(0.0));
        }
        let metrics = telemetry.predictor_metrics();
        assert_eq!(metrics.len(), PREDICTOR_METRICS_MAX);
        let seen = metrics.iter().find(|(name, _)| name == "seen").unwrap();
        assert!(matches!(&seen.1, PredictorMetric::Counter(counter) if counter.get() == 3.0));
    }

    #[test]
    fn a_model_keeps_its_counters_while_a_revision_uses_them() {
        let telemetry = Telemetry::new("digits");
        let old = telemetry.model("digits");
        assert!(Arc::ptr_eq(&old, &telemetry.model("digits")));
        telemetry.model("other");
        assert!(Arc::ptr_eq(&old, &telemetry.model("digits")));
        assert_eq!(telemetry.models.lock().unwrap().len(), 1);
    }

    #[test]
    fn answers_are_counted_by_their_class() {
        let telemetry = Telemetry::new("digits");
        for status in [200, 204, 404, 500, 0, 999] {
            telemetry.answered(status, Duration::from_millis(10));
        }
        let counts: Vec<u64> = telemetry.responses().iter().map(Counter::get).collect();
        assert_eq!(counts, [1, 2, 0, 1, 2]);
        assert!((telemetry.mean_ms() - 10.0).abs() < 1e-9);
    }
}
