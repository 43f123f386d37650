//! How long the runs of a model take, by the sizes of its inputs.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use smallvec::SmallVec;

use crate::{Dim, Signature, Tensor};

/// The sizes of the variable input dimensions, in the signature's order.
pub(super) type Sizes = SmallVec<[u64; 8]>;

/// What tells these inputs from others that the signature allows; they fit it.
pub(super) fn sizes_of(signature: &Signature, inputs: &[Tensor]) -> Sizes {
    let mut sizes = Sizes::new();
    for (spec, tensor) in signature.inputs.iter().zip(inputs) {
        let dims = spec.shape.iter().zip(tensor.shape());
        sizes.extend(dims.filter(|(dim, _)| **dim == Dim::Any).map(|(_, n)| *n));
    }
    sizes
}

/// A moving average; 0 before the first run.
#[derive(Debug, Default)]
pub(super) struct RunTime {
    ns: AtomicU64,
}

impl RunTime {
    pub(super) fn estimate(&self) -> Option<Duration> {
        let ns = self.ns.load(Ordering::Relaxed);
        (ns > 0).then(|| Duration::from_nanos(ns))
    }

    /// Moves the average by an eighth. One run counts at most four times the average: a thread that
    /// lost its core for a while says nothing about the model. Two threads may overwrite each
    /// other's step; the average does not need every run.
    pub(super) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.ns.load(Ordering::Relaxed);
        let new = match old {
            0 => took,
            _ => old - old / 8 + took.min(old.saturating_mul(4)) / 8,
        };
        self.ns.store(new.max(1), Ordering::Relaxed);
    }
}

/// The run times of an engine that prepares nothing for sizes, of those that came last.
#[derive(Debug)]
pub(super) struct RunTimes {
    by_sizes: Mutex<LruCache<Sizes, Arc<RunTime>>>,
}

impl RunTimes {
    pub(super) fn new(count_max: NonZeroUsize) -> Self {
        RunTimes {
            by_sizes: Mutex::new(LruCache::new(count_max)),
        }
    }

    pub(super) fn estimate(&self, sizes: &Sizes) -> Option<Duration> {
        let run_time = self.lock().get(sizes).map(Arc::clone)?;
        run_time.estimate()
    }

    pub(super) fn note(&self, sizes: Sizes, took: Duration) {
        let run_time = Arc::clone(self.lock().get_or_insert(sizes, Arc::default));
        run_time.note(took);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Sizes, Arc<RunTime>>> {
        // No code that can panic runs under this lock; a poisoned one is still whole.
        self.by_sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_run_moves_the_average_little() {
        let micros = Duration::from_micros;
        let time = RunTime::default();
        assert_eq!(time.estimate(), None);
        time.note(micros(80));
        assert_eq!(time.estimate(), Some(micros(80)));
        time.note(micros(1_000_000));
        assert_eq!(time.estimate(), Some(micros(110)));
    }

    #[test]
    fn sizes_that_have_not_come_for_long_are_forgotten() {
        let times = RunTimes::new(NonZeroUsize::MIN);
        let sizes = |n: u64| Sizes::from_slice(&[n]);
        times.note(sizes(1), Duration::from_micros(5));
        assert!(times.estimate(&sizes(1)).is_some());
        times.note(sizes(2), Duration::from_micros(5));
        assert!(times.estimate(&sizes(1)).is_none());
    }
}
