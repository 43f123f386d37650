//! `/metrics`: everything the node counts, gathered when it is asked for, in Prometheus' text format.

use std::{fmt, sync::Arc};

use dunlin_inference::StatsSnapshot;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    control::Control, deployment::Deployment, log_writer::LogWriter, telemetry::PredictorMetric,
};

/// The text of one scrape.
pub(crate) fn scrape(control: &Arc<Control>, requests_in_flight: usize) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(NodeCollector {
        control: Arc::clone(control),
        requests_in_flight,
    }));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes any text");
    text
}

struct NodeCollector {
    control: Arc<Control>,
    requests_in_flight: usize,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let deployments = self.control.deployments.all();
        let mut families = Families {
            encoder: &mut encoder,
            deployments: &deployments,
        };
        families.requests()?;
        families.models()?;
        families.instances()?;
        families.predictors()?;
        families.gauge(
            "dunlin_requests_in_flight",
            "Requests that the node is answering",
            self.requests_in_flight as f64,
        )?;
        families.family(
            "dunlin_log_lines_dropped",
            "Lines of the node's log that nobody read in time",
            MetricType::Counter,
            |family, _| {
                let labels: Labels<'_, 0> = [];
                let dropped = ConstCounter::new(LogWriter::dropped_by_stderr());
                dropped.encode(family.encode_family(&labels)?)
            },
        )?;
        if let Some(bytes) = resident_bytes() {
            families.gauge(
                "process_resident_memory_bytes",
                "Resident memory of the node",
                bytes as f64,
            )?;
        }
        Ok(())
    }
}

struct Families<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    deployments: &'a [Arc<Deployment>],
}

/// One number of a model's statistics.
type Figure = fn(&StatsSnapshot) -> f64;

type Labels<'a, const N: usize> = [(&'a str, &'a str); N];

impl Families<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        fill: impl FnOnce(&mut MetricEncoder<'_>, &[Arc<Deployment>]) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        fill(&mut family, self.deployments)
    }

    fn requests(&mut self) -> fmt::Result {
        self.family(
            "dunlin_requests",
            "Requests answered, by the class of their status",
            MetricType::Counter,
            |family, deployments| {
                for deployment in deployments {
                    let counters = deployment.telemetry.responses().iter();
                    for (counter, class) in counters.zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                        let name = &*deployment.record.name;
                        let labels = [("deployment", name), ("code", class)];
                        counter.encode(family.encode_family(&labels)?)?;
                    }
                }
                Ok(())
            },
        )?;
        self.family(
            "dunlin_request_duration_seconds",
            "From a request's head to its answer",
            MetricType::Histogram,
            |family, deployments| {
                for deployment in deployments {
                    let labels = [("deployment", &*deployment.record.name)];
                    let latency = &deployment.telemetry.latency;
                    latency.encode(family.encode_family(&labels)?)?;
                }
                Ok(())
            },
        )
    }

    fn models(&mut self) -> fmt::Result {
        const FIGURES: [(&str, &str, Figure); 5] = [
            (
                "dunlin_model_inferences",
                "Rows that went through the model",
                |stats| stats.inference_count as f64,
            ),
            (
                "dunlin_model_executions",
                "Times that the engine ran",
                |stats| stats.execution_count as f64,
            ),
            (
                "dunlin_model_failures",
                "Calls that the engine refused or failed",
                |stats| stats.fail.count as f64,
            ),
            (
                "dunlin_model_queue_seconds",
                "Time that calls waited for the engine",
                |stats| stats.queue.ns as f64 * 1e-9,
            ),
            (
                "dunlin_model_compute_seconds",
                "Time that the engine ran",
                |stats| stats.compute_infer.ns as f64 * 1e-9,
            ),
        ];
        for (name, help, figure) in FIGURES {
            self.family(name, help, MetricType::Counter, |family, deployments| {
                for deployment in deployments {
                    let Ok(revision) = &deployment.serving else {
                        continue;
                    };
                    for (model, loaded) in &revision.models {
                        let labels: Labels<'_, 2> =
                            [("deployment", &deployment.record.name), ("model", model)];
                        let counter = ConstCounter::new(figure(&loaded.stats().snapshot()));
                        counter.encode(family.encode_family(&labels)?)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn instances(&mut self) -> fmt::Result {
        self.family(
            "dunlin_instances",
            "Live instances of a predictor",
            MetricType::Gauge,
            |family, deployments| {
                for deployment in deployments {
                    let Ok(revision) = &deployment.serving else {
                        continue;
                    };
                    let Some(predictor) = &revision.predictor else {
                        continue;
                    };
                    let counts = predictor.instances();
                    for (state, count) in [("idle", counts.idle), ("busy", counts.busy)] {
                        let labels: Labels<'_, 2> =
                            [("deployment", &deployment.record.name), ("state", state)];
                        let gauge = ConstGauge::new(count as f64);
                        gauge.encode(family.encode_family(&labels)?)?;
                    }
                }
                Ok(())
            },
        )
    }

    /// What predictors report, each name as a family of its own.
    fn predictors(&mut self) -> fmt::Result {
        let mut families: std::collections::BTreeMap<String, Vec<(String, PredictorMetric)>> =
            std::collections::BTreeMap::new();
        for deployment in self.deployments {
            for (name, metric) in deployment.telemetry.predictor_metrics() {
                let reported = (deployment.record.name.clone(), metric);
                families.entry(name).or_default().push(reported);
            }
        }
        for (name, reported) in families {
            // Two predictors may use one name for different kinds; a family has one.
            let kind = kind(&reported[0].1);
            let name = format!("dunlin_predictor_{}", name.trim_end_matches("_total"));
            let help = "Reported by the predictor";
            let mut family = self.encoder.encode_descriptor(&name, help, None, kind)?;
            for (deployment, metric) in reported {
                let labels = [("deployment", &*deployment)];
                match (&metric, kind) {
                    (PredictorMetric::Counter(counter), MetricType::Counter) => {
                        counter.encode(family.encode_family(&labels)?)?;
                    }
                    (PredictorMetric::Gauge(gauge), MetricType::Gauge) => {
                        gauge.encode(family.encode_family(&labels)?)?;
                    }
                    (PredictorMetric::Histogram(histogram), MetricType::Histogram) => {
                        histogram.encode(family.encode_family(&labels)?)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |family, _| {
            let labels: Labels<'_, 0> = [];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)
        })
    }
}

fn kind(metric: &PredictorMetric) -> MetricType {
    match metric {
        PredictorMetric::Counter(_) => MetricType::Counter,
        PredictorMetric::Gauge(_) => MetricType::Gauge,
        PredictorMetric::Histogram(_) => MetricType::Histogram,
    }
}

/// Linux tells it in pages in `/proc`; elsewhere the figure is left out.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
