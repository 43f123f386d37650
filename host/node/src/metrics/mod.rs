//! `/metrics`: everything the node counts, gathered when it is asked for.

mod exposition;
mod models;
mod predictions;
mod predictors;

use dunlin_inference::HistogramSnapshot;

use crate::{deployment::Deployment, log_writer::LogWriter, node::Node, telemetry::Figures};
use exposition::{Exposition, Kind, Label};

pub(crate) use exposition::CONTENT_TYPE;

/// The metrics' durations are in seconds, the histograms' in nanoseconds.
const NANOSECONDS: f64 = 1e9;

/// The text of one scrape.
pub(crate) fn scrape(node: &Node) -> String {
    let deployments = &node.control.deployments;
    let deployments: Vec<Scraped> = deployments.all().into_iter().map(scraped).collect();
    let mut text = Exposition::default();
    requests(&mut text, &deployments);
    instances(&mut text, &deployments);
    models::write(&mut text, &deployments);
    predictions::write(&mut text, &deployments);
    predictors::write(&mut text, &deployments);
    of_the_node(&mut text, node);
    text.finish()
}

/// A deployment, and what its last revisions have counted.
struct Scraped {
    deployment: std::sync::Arc<Deployment>,
    revisions: Vec<ScrapedRevision>,
}

struct ScrapedRevision {
    number: String,
    figures: std::sync::Arc<Figures>,
}

fn scraped(deployment: std::sync::Arc<Deployment>) -> Scraped {
    let revisions = deployment.telemetry.revisions().into_iter();
    Scraped {
        revisions: revisions
            .map(|figures| ScrapedRevision {
                number: figures.revision.to_string(),
                figures,
            })
            .collect(),
        deployment,
    }
}

impl Scraped {
    fn name(&self) -> &str {
        &self.deployment.record.name
    }
}

/// Each revision with the labels that it is told by.
fn labelled(deployments: &[Scraped]) -> impl Iterator<Item = ([Label<'_>; 2], &Figures)> {
    deployments.iter().flat_map(|deployment| {
        deployment.revisions.iter().map(|revision| {
            let labels = [
                ("deployment", deployment.name()),
                ("revision", &*revision.number),
            ];
            (labels, &*revision.figures)
        })
    })
}

type Distribution = fn(&Figures) -> HistogramSnapshot;

fn requests(text: &mut Exposition, deployments: &[Scraped]) {
    let mut family = text.family(
        "dunlin_requests_total",
        "Requests answered, by the class of their status",
        Kind::Counter,
    );
    for ([deployment, revision], figures) in labelled(deployments) {
        for (class, count) in figures.responses().by_class() {
            family.count(&[deployment, revision, ("code", class)], count);
        }
    }
    let histograms: [(&str, &str, Distribution); 3] = [
        (
            "dunlin_request_duration_seconds",
            "From a request's head to its answer",
            Figures::request,
        ),
        (
            "dunlin_instance_wait_seconds",
            "From the call of a predictor to the instance that takes it",
            Figures::instance_wait,
        ),
        (
            "dunlin_guest_duration_seconds",
            "Time that a call was in the predictor, its models' time included",
            Figures::guest,
        ),
    ];
    for (name, help, histogram) in histograms {
        let mut family = text.family(name, help, Kind::Histogram);
        for (labels, figures) in labelled(deployments) {
            family.histogram(&labels, &histogram(figures), NANOSECONDS);
        }
    }
    let mut family = text.family(
        "dunlin_rejections_total",
        "Requests that the node turned away, by the bound that was reached",
        Kind::Counter,
    );
    for deployment in deployments {
        for (reason, count) in deployment.deployment.telemetry.rejections.by_reason() {
            family.count(
                &[("deployment", deployment.name()), ("reason", reason)],
                count,
            );
        }
    }
}

fn instances(text: &mut Exposition, deployments: &[Scraped]) {
    let mut family = text.family(
        "dunlin_deployment_live",
        "1 where the deployment serves, and 0 where it is starting or did not come up",
        Kind::Gauge,
    );
    for Scraped { deployment, .. } in deployments {
        let record = &deployment.record;
        let labels = [
            ("deployment", &*record.name),
            ("revision", &record.revision.to_string()),
        ];
        family.count(&labels, u64::from(deployment.serving.is_ok()));
    }
    let mut family = text.family(
        "dunlin_instances",
        "Live instances of a predictor",
        Kind::Gauge,
    );
    for Scraped { deployment, .. } in deployments {
        let serving = deployment.serving.as_ref();
        let predictor = serving.ok().and_then(|serving| serving.predictor.as_ref());
        let Some(counts) = predictor.map(|predictor| predictor.instances()) else {
            continue;
        };
        for (state, count) in [("idle", counts.idle), ("busy", counts.busy)] {
            let labels = [("deployment", &*deployment.record.name), ("state", state)];
            family.count(&labels, count as u64);
        }
    }
}

fn of_the_node(text: &mut Exposition, node: &Node) {
    let mut gauge = |name, help, value| text.family(name, help, Kind::Gauge).count(&[], value);
    gauge(
        "dunlin_requests_in_flight",
        "Requests that the node is answering",
        node.requests_in_flight() as u64,
    );
    if let Some(bytes) = resident_bytes() {
        gauge(
            "process_resident_memory_bytes",
            "Resident memory of the node",
            bytes,
        );
    }
    let mut family = text.family(
        "dunlin_log_lines_dropped_total",
        "Lines of the node's log that nobody read in time",
        Kind::Counter,
    );
    family.count(&[], LogWriter::dropped_by_stderr());
    if let Some(traces) = &node.traces {
        let mut family = text.family(
            "dunlin_traces_dropped_total",
            "Traces that found no room on their way to the collector",
            Kind::Counter,
        );
        family.count(&[], traces.dropped());
    }
}

/// Linux tells it in pages in `/proc`; elsewhere the figure is left out.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
