//! The optimised plans of one model, by the sizes they are made for.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lru::LruCache;
use tract_onnx::prelude::{TValue, TVec, TractResult, TypedRunnableModel};

use super::{Failure, guard};
use crate::backend::run_time::{RunTime, Sizes};

/// An optimised graph, and how long its runs take.
pub(super) struct Plan {
    graph: Arc<TypedRunnableModel>,
    run_time: RunTime,
}

impl Plan {
    pub(super) fn new(graph: Arc<TypedRunnableModel>) -> Self {
        Plan {
            graph,
            run_time: RunTime::default(),
        }
    }

    /// Runs in a fresh state, so that nothing of one call can reach another.
    pub(super) fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, Failure> {
        guard(|| -> TractResult<_> { self.graph.run(inputs) })
    }

    pub(super) fn run_time(&self) -> &RunTime {
        &self.run_time
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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
