//! How long the runs of a model take, by the sizes of its inputs.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use smallvec::SmallVec;

use crate::{Dim, Signature, Tensor};

/// The sizes of the variable input dimensions, in the signature's order.
pub(super) type Sizes = SmallVec<[u64; 8]>;

/// What tells these inputs from others that the signature allows; they fit it.
pub(super) fn sizes_of(signature: &Signature, inputs: &[Tensor]) -> Sizes {
    sizes(signature, inputs, None)
}

/// The same of such inputs with so many rows.
pub(super) fn sizes_with_rows(signature: &Signature, inputs: &[Tensor], rows: u64) -> Sizes {
    sizes(signature, inputs, Some(rows))
}

fn sizes(signature: &Signature, inputs: &[Tensor], rows: Option<u64>) -> Sizes {
    let mut sizes = Sizes::new();
    for (spec, tensor) in signature.inputs.iter().zip(inputs) {
        let first = rows.or_else(|| tensor.shape().first().copied());
        let shape = first
            .into_iter()
            .chain(tensor.shape().iter().skip(1).copied());
        let dims = spec.shape.iter().zip(shape);
        sizes.extend(dims.filter(|(dim, _)| **dim == Dim::Any).map(|(_, n)| n));
    }
    sizes
}

/// A moving average, after the shortest of the first runs; 0 before the first.
#[derive(Debug, Default)]
pub(super) struct RunTime {
    ns: AtomicU64,
    /// Runs so far, as far as they are told apart.
    first: AtomicU32,
}

impl RunTime {
    /// An engine's first runs make ready what later ones find: the shortest says the most of those.
    const FIRST: u32 = 3;

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
        let runs = self.first.load(Ordering::Relaxed);
        let new = match runs {
            0 => took,
            1..Self::FIRST => took.min(old),
            _ => old - old / 8 + took.min(old.saturating_mul(4)) / 8,
        };
        if runs < Self::FIRST {
            self.first.store(runs + 1, Ordering::Relaxed);
        }
        self.ns.store(new.max(1), Ordering::Relaxed);
    }
}

/// The run times of an engine that prepares nothing for sizes, of those that came last. Sizes with
/// the same next powers of two share one: batches and texts come in more sizes than are worth
/// telling apart, and one that comes for the first time is not unknown.
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
        let run_time = self.lock().get(&rounded(sizes)).map(Arc::clone)?;
        run_time.estimate()
    }

    pub(super) fn note(&self, sizes: &Sizes, took: Duration) {
        let run_time = Arc::clone(self.lock().get_or_insert(rounded(sizes), Arc::default));
        run_time.note(took);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Sizes, Arc<RunTime>>> {
        // No code that can panic runs under this lock; a poisoned one is still whole.
        self.by_sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rounded(sizes: &Sizes) -> Sizes {
    let up = |size: &u64| size.checked_next_power_of_two().unwrap_or(u64::MAX);
    sizes.iter().map(up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, TensorSpec};

    #[test]
    fn one_slow_run_moves_the_average_little() {
        let micros = Duration::from_micros;
        let time = RunTime::default();
        assert_eq!(time.estimate(), None);
        for _ in 0..RunTime::FIRST {
            time.note(micros(80));
            assert_eq!(time.estimate(), Some(micros(80)));
        }
        time.note(micros(1_000_000));
        assert_eq!(time.estimate(), Some(micros(110)));
    }

    #[test]
    fn of_the_first_runs_the_shortest_counts() {
        let micros = Duration::from_micros;
        let time = RunTime::default();
        for (took, estimate) in [(500, 500), (30, 30), (40, 30), (38, 31)] {
            time.note(micros(took));
            assert_eq!(time.estimate(), Some(micros(estimate)), "after {took}");
        }
    }

    #[test]
    fn sizes_of_the_same_power_of_two_are_one() {
        let times = RunTimes::new(NonZeroUsize::MIN);
        let sizes = |n: u64, m: u64| Sizes::from_slice(&[n, m]);
        let took = Duration::from_micros(5);
        times.note(&sizes(5, 100), took);
        for known in [sizes(5, 100), sizes(8, 128), sizes(6, 65)] {
            assert_eq!(times.estimate(&known), Some(took), "{known:?}");
        }
        for unknown in [
            sizes(4, 100),
            sizes(9, 100),
            sizes(5, 64),
            sizes(5, u64::MAX),
        ] {
            assert_eq!(times.estimate(&unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn sizes_of_other_rows() {
        let spec = |dtype, shape: &[Dim]| TensorSpec {
            name: String::new(),
            dtype,
            shape: shape.to_vec(),
        };
        let signature = Signature {
            inputs: vec![
                spec(DType::I64, &[Dim::Any, Dim::Any]),
                spec(DType::F32, &[Dim::Any, Dim::Fixed(2)]),
            ],
            outputs: Vec::new(),
        };
        let zeros = |dtype, shape: &[u64]| Tensor::zeros(dtype, shape).unwrap();
        let inputs = [zeros(DType::I64, &[3, 7]), zeros(DType::F32, &[3, 2])];
        assert_eq!(sizes_of(&signature, &inputs)[..], [3, 7, 3]);
        assert_eq!(sizes_with_rows(&signature, &inputs, 8)[..], [8, 7, 8]);
    }

    #[test]
    fn sizes_that_have_not_come_for_long_are_forgotten() {
        let times = RunTimes::new(NonZeroUsize::MIN);
        let sizes = |n: u64| Sizes::from_slice(&[n]);
        times.note(&sizes(1), Duration::from_micros(5));
        assert!(times.estimate(&sizes(1)).is_some());
        times.note(&sizes(2), Duration::from_micros(5));
        assert!(times.estimate(&sizes(1)).is_none());
    }
}
