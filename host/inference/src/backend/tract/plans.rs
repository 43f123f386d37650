//! The optimised plans of one model, by the sizes they are made for.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use smallvec::SmallVec;
use tract_onnx::prelude::{TValue, TVec, TractResult, TypedRunnableModel};

use super::{Failure, guard};

/// The sizes of the variable input dimensions, in the signature's order.
pub(super) type Sizes = SmallVec<[u64; 8]>;

/// An optimised graph, and how long its runs take.
pub(super) struct Plan {
    graph: Arc<TypedRunnableModel>,
    /// A moving average; 0 before the first run.
    run_ns: AtomicU64,
}

impl Plan {
    pub(super) fn new(graph: Arc<TypedRunnableModel>) -> Self {
        Plan {
            graph,
            run_ns: AtomicU64::new(0),
        }
    }

    /// Runs in a fresh state, so that nothing of one call can reach another.
    pub(super) fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, Failure> {
        guard(|| -> TractResult<_> { self.graph.run(inputs) })
    }

    pub(super) fn estimate(&self) -> Option<Duration> {
        let ns = self.run_ns.load(Ordering::Relaxed);
        (ns > 0).then(|| Duration::from_nanos(ns))
    }

    /// Moves the average by an eighth. One run counts at most four times the average: a thread that
    /// lost its core for a while says nothing about the model. Two threads may overwrite each
    /// other's step; the average does not need every run.
    pub(super) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.run_ns.load(Ordering::Relaxed);
        let new = match old {
            0 => took,
            _ => old - old / 8 + took.min(old.saturating_mul(4)) / 8,
        };
        self.run_ns.store(new.max(1), Ordering::Relaxed);
    }
}

/// Keeps the plans that were used last. A plan holds its own packed copy of the weights, so their
/// number is bounded; a plan that is pushed out while it runs ends with that run.
pub(super) struct Plans {
    slots: Mutex<LruCache<Sizes, Arc<Slot>>>,
}

/// Filled once, by whoever comes first; others with the same sizes wait for that one. A failure
/// stays too, so that a shape the model cannot take is not optimised again for every call.
type Slot = OnceLock<Result<Arc<Plan>, Failure>>;

impl Plans {
    pub(super) fn new(count_max: NonZeroUsize) -> Self {
        Plans {
            slots: Mutex::new(LruCache::new(count_max)),
        }
    }

    /// The plan for these sizes if it is ready.
    pub(super) fn ready(&self, sizes: &Sizes) -> Option<Result<Arc<Plan>, Failure>> {
        let slot = self.lock().get(sizes).cloned()?;
        slot.get().cloned()
    }

    /// The plan for these sizes, made by `prepare` if nobody has yet. The cache is not locked
    /// meanwhile.
    pub(super) fn get_or_prepare(
        &self,
        sizes: Sizes,
        prepare: impl FnOnce() -> Result<Arc<Plan>, Failure>,
    ) -> Result<Arc<Plan>, Failure> {
        let slot = Arc::clone(self.lock().get_or_insert(sizes, Arc::default));
        slot.get_or_init(prepare).clone()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Sizes, Arc<Slot>>> {
        // No code that can panic runs under this lock; a poisoned one is still whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn failing(text: &str) -> Result<Arc<Plan>, Failure> {
        Err(Failure::new(text))
    }

    #[test]
    fn each_size_is_prepared_once() {
        let plans = Plans::new(NonZeroUsize::new(2).unwrap());
        let (prepared, start) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (plans, prepared, start) = (&plans, &prepared, &start);
                scope.spawn(move || {
                    start.wait();
                    let result = plans.get_or_prepare(Sizes::from_slice(&[thread % 2]), || {
                        prepared.fetch_add(1, Ordering::Relaxed);
                        failing("made")
                    });
                    assert_eq!(result.err().unwrap().text, "made");
                });
            }
        });
        assert_eq!(prepared.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_least_recently_used_goes() {
        let plans = Plans::new(NonZeroUsize::new(2).unwrap());
        let size = |n: u64| Sizes::from_slice(&[n]);
        for n in [1, 2, 1, 3] {
            let _ = plans.get_or_prepare(size(n), || failing(""));
        }
        assert!(plans.ready(&size(1)).is_some());
        assert!(plans.ready(&size(2)).is_none());
        assert!(plans.ready(&size(3)).is_some());
    }
}
