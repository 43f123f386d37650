//! What deployments predict, where their `monitoring` says what a prediction is.

use super::{
    Scraped, ScrapedRevision,
    exposition::{Exposition, Kind},
};
use crate::telemetry::{PREDICTION_BOUNDS, Seen};

pub(super) fn write(text: &mut Exposition, deployments: &[Scraped]) {
    let mut monitored: Vec<(&Scraped, &ScrapedRevision, Seen)> = Vec::new();
    for scraped in deployments {
        for revision in &scraped.revisions {
            let predictions = revision.figures.predictions();
            monitored.extend(predictions.map(|found| (scraped, revision, found.seen())));
        }
    }
    let mut family = text.family(
        "dunlin_predictions_total",
        "Predictions of a label, in the answers of a classifier",
        Kind::Counter,
    );
    for (scraped, revision, seen) in &monitored {
        for (label, count) in &seen.labels {
            let [deployment, revision] = labels(scraped, revision);
            family.count(&[deployment, revision, ("class", label)], *count);
        }
    }
    let mut family = text.family(
        "dunlin_prediction_value",
        "Predicted values, in the answers of a regression",
        Kind::Histogram,
    );
    for (scraped, revision, seen) in &monitored {
        if let Some(values) = &seen.values {
            let buckets = PREDICTION_BOUNDS.into_iter().zip(values.counts);
            let count = values.counts.iter().sum();
            family.buckets(&labels(scraped, revision), buckets, count, values.sum);
        }
    }
    let mut family = text.family(
        "dunlin_predictions_unread_total",
        "Answers in which no prediction was found, or that were too long to look",
        Kind::Counter,
    );
    for (scraped, revision, seen) in &monitored {
        family.count(&labels(scraped, revision), seen.unread);
    }
}

fn labels<'s>(scraped: &'s Scraped, revision: &'s ScrapedRevision) -> [(&'s str, &'s str); 2] {
    [
        ("deployment", scraped.name()),
        ("revision", &revision.number),
    ]
}
