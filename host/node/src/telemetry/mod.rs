//! What one deployment tells of itself: counts, times, its predictor's own metrics, its log.
//!
//! It belongs to the name: a deploy does not set the counts back. What a revision counts is apart, so
//! that two can be compared.

mod figures;
mod predictions;
mod predictor;
mod rejection;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dunlin_inference::Striped;
use dunlin_sandbox::{LogEntry, LogLevel, Measurement, Observer};

use figures::ResponseCounter;
pub(crate) use figures::{Figures, Responses};
pub(crate) use predictions::{BOUNDS as PREDICTION_BOUNDS, PREDICTIONS_MAX, Predictions, Seen};
pub(crate) use predictor::{PredictorMetric, PredictorMetrics, VALUE_BOUNDS};
pub(crate) use rejection::{Rejection, Rejections};

use crate::logs::Logs;

/// So many revisions of a name keep their figures: a monitor that comes by after a deploy still sees
/// what the revision before counted last.
const REVISIONS_MAX: usize = 4;

pub(crate) struct Telemetry {
    deployment: String,
    pub(crate) logs: Logs,
    /// Of all revisions.
    answers: Striped<Answers>,
    pub(crate) rejections: Rejections,
    pub(crate) predictor: PredictorMetrics,
    /// The newest last.
    revisions: Mutex<VecDeque<Arc<Figures>>>,
}

/// What one thread has counted of them.
#[derive(Default)]
struct Answers {
    responses: ResponseCounter,
    ns: AtomicU64,
}

impl Telemetry {
    pub(crate) fn new(deployment: &str) -> Self {
        Self {
            deployment: deployment.to_owned(),
            logs: Logs::default(),
            answers: Striped::default(),
            rejections: Rejections::default(),
            predictor: PredictorMetrics::default(),
            revisions: Mutex::default(),
        }
    }

    /// A request has its answer, after so long.
    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        let answers = self.answers.here();
        answers.responses.count(status);
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        answers.ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn responses(&self) -> Responses {
        Responses::sum_of(self.answers.iter().map(|answers| &answers.responses))
    }

    /// The mean time of a request in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people to read")]
    pub(crate) fn mean_ms(&self) -> f64 {
        let ns = self.answers.iter();
        let ns: u64 = ns.map(|answers| answers.ns.load(Ordering::Relaxed)).sum();
        match self.responses().total() {
            0 => 0.0,
            count => ns as f64 * 1e-6 / count as f64,
        }
    }

    /// The figures of a revision, the same each time that they are asked for.
    pub(crate) fn figures(&self, revision: i64) -> Arc<Figures> {
        let revisions = self.revisions.lock();
        let mut revisions = revisions.unwrap_or_else(PoisonError::into_inner);
        let known = revisions.iter().find(|known| known.revision == revision);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        if revisions.len() == REVISIONS_MAX {
            revisions.pop_front();
        }
        let figures = Arc::new(Figures::new(revision));
        revisions.push_back(Arc::clone(&figures));
        figures
    }

    /// The figures of the last revisions, the oldest first.
    pub(crate) fn revisions(&self) -> Vec<Arc<Figures>> {
        let revisions = self.revisions.lock();
        let revisions = revisions.unwrap_or_else(PoisonError::into_inner);
        revisions.iter().cloned().collect()
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
        self.predictor.measure(name, measurement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_revisions_keep_their_figures() {
        let telemetry = Telemetry::new("digits");
        let first = telemetry.figures(1);
        assert!(Arc::ptr_eq(&first, &telemetry.figures(1)));
        for revision in 2..=REVISIONS_MAX as i64 + 1 {
            telemetry.figures(revision);
        }
        let kept: Vec<i64> = telemetry.revisions().iter().map(|f| f.revision).collect();
        assert_eq!(kept, [2, 3, 4, 5]);
    }

    #[test]
    fn a_mean_is_of_all_answers() {
        let telemetry = Telemetry::new("digits");
        assert_eq!(telemetry.mean_ms(), 0.0);
        telemetry.answered(200, Duration::from_millis(5));
        telemetry.answered(500, Duration::from_millis(15));
        assert!((telemetry.mean_ms() - 10.0).abs() < 1e-9);
    }
}
