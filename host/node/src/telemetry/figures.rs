//! What one revision of a deployment counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dunlin_inference::{Histogram, HistogramSnapshot, Stats, Striped};
use dunlin_sandbox::CallTimes;
use edge_config::Monitoring;

use super::Predictions;

/// Counters that only grow, of the requests that met one revision.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) revision: i64,
    counters: Striped<Counters>,
    /// Of the predictor's own tensors.
    pub(crate) tensors: Stats,
    models: Mutex<BTreeMap<String, Arc<Stats>>>,
    takes_tensors: AtomicBool,
    /// Where the revision says that it is to be monitored.
    predictions: OnceLock<Predictions>,
}

/// Those of one thread.
#[derive(Debug)]
struct Counters {
    responses: ResponseCounter,
    request: Histogram,
    instance_wait: Histogram,
    guest: Histogram,
}

/// Answers by the hundreds of their status, 1xx to 5xx.
#[derive(Debug, Default)]
pub(super) struct ResponseCounter([AtomicU64; 5]);

/// How many there were at one moment.
#[derive(Debug, Default)]
pub(crate) struct Responses([u64; 5]);

impl ResponseCounter {
    pub(super) fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }
}

impl Responses {
    /// What all of them have counted.
    pub(super) fn sum_of<'c>(counters: impl Iterator<Item = &'c ResponseCounter>) -> Self {
        let mut sum = Self::default();
        for counter in counters {
            for (sum, count) in sum.0.iter_mut().zip(&counter.0) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    /// With their class: `2xx`.
    pub(crate) fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        classes.into_iter().zip(self.0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Figures {
    pub(super) fn new(revision: i64) -> Self {
        Self {
            revision,
            counters: Striped::new(|| Counters {
                responses: ResponseCounter::default(),
                request: Histogram::of_durations(),
                instance_wait: Histogram::of_durations(),
                guest: Histogram::of_durations(),
            }),
            tensors: Stats::default(),
            models: Mutex::default(),
            takes_tensors: AtomicBool::new(false),
            predictions: OnceLock::new(),
        }
    }

    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        let counters = self.counters.here();
        counters.responses.count(status);
        counters.request.add_duration(elapsed);
    }

    /// A call of the predictor.
    pub(crate) fn called(&self, times: &CallTimes) {
        let counters = self.counters.here();
        counters.instance_wait.add_duration(times.instance_wait);
        if let Some(guest) = times.guest {
            counters.guest.add_duration(guest);
        }
    }

    pub(crate) fn responses(&self) -> Responses {
        Responses::sum_of(self.counters.iter().map(|counters| &counters.responses))
    }

    /// From a request's head to its answer.
    pub(crate) fn request(&self) -> HistogramSnapshot {
        HistogramSnapshot::sum_of(self.counters.iter().map(|counters| &counters.request))
    }

    /// From the call of a predictor to the instance that takes it.
    pub(crate) fn instance_wait(&self) -> HistogramSnapshot {
        HistogramSnapshot::sum_of(self.counters.iter().map(|counters| &counters.instance_wait))
    }

    /// From there to the predictor's answer, its models' time included.
    pub(crate) fn guest(&self) -> HistogramSnapshot {
        HistogramSnapshot::sum_of(self.counters.iter().map(|counters| &counters.guest))
    }

    /// The predictor takes tensors by itself.
    pub(crate) fn set_takes_tensors(&self) {
        self.takes_tensors.store(true, Ordering::Relaxed);
    }

    pub(crate) fn takes_tensors(&self) -> bool {
        self.takes_tensors.load(Ordering::Relaxed)
    }

    pub(crate) fn monitor(&self, monitoring: Monitoring) {
        self.predictions
            .get_or_init(|| Predictions::new(monitoring));
    }

    pub(crate) fn predictions(&self) -> Option<&Predictions> {
        self.predictions.get()
    }

    /// The counters of the models from now on: those that serve.
    pub(crate) fn set_models(&self, models: BTreeMap<String, Arc<Stats>>) {
        *self.models.lock().unwrap_or_else(PoisonError::into_inner) = models;
    }

    pub(crate) fn models(&self) -> BTreeMap<String, Arc<Stats>> {
        let models = self.models.lock();
        models.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_their_class() {
        let counters = [ResponseCounter::default(), ResponseCounter::default()];
        for status in [200, 204, 404, 500, 0, 999] {
            counters[usize::from(status == 204)].count(status);
        }
        let responses = Responses::sum_of(counters.iter());
        let counts: Vec<u64> = responses.by_class().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 0, 1, 2]);
        assert_eq!(responses.total(), 6);
    }
}
