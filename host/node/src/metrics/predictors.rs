//! What predictors report of themselves, each name as a family of its own.

use std::collections::BTreeMap;

use super::{
    Scraped,
    exposition::{Exposition, Kind},
};
use crate::telemetry::{PredictorMetric, VALUE_BOUNDS};

pub(super) fn write(text: &mut Exposition, deployments: &[Scraped]) {
    let mut families: BTreeMap<String, Vec<(&str, PredictorMetric)>> = BTreeMap::new();
    for scraped in deployments {
        for (name, metric) in scraped.deployment.telemetry.predictor.all() {
            let family = families.entry(family_name(&name, &metric)).or_default();
            family.push((scraped.name(), metric));
        }
    }
    for (name, reported) in families {
        // Two predictors may use one name for different kinds; a family has one.
        let kind = kind(&reported[0].1);
        let mut family = text.family(&name, "Reported by the predictor", kind);
        for (deployment, metric) in &reported {
            let labels = [("deployment", *deployment)];
            match (metric, kind) {
                (PredictorMetric::Counter(value), Kind::Counter)
                | (PredictorMetric::Gauge(value), Kind::Gauge) => family.sample(&labels, *value),
                (PredictorMetric::Histogram { counts, sum }, Kind::Histogram) => {
                    let buckets = VALUE_BOUNDS.into_iter().zip(counts.iter().copied());
                    family.buckets(&labels, buckets, counts.iter().sum(), *sum);
                }
                _ => {}
            }
        }
    }
}

fn family_name(name: &str, metric: &PredictorMetric) -> String {
    let stem = name.trim_end_matches("_total");
    match metric {
        PredictorMetric::Counter(_) => format!("dunlin_predictor_{stem}_total"),
        _ => format!("dunlin_predictor_{stem}"),
    }
}

fn kind(metric: &PredictorMetric) -> Kind {
    match metric {
        PredictorMetric::Counter(_) => Kind::Counter,
        PredictorMetric::Gauge(_) => Kind::Gauge,
        PredictorMetric::Histogram { .. } => Kind::Histogram,
    }
}
