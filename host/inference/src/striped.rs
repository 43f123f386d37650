//! Counters that threads do not take from each other: each has a copy of its own, and who reads adds the
//! copies up.
//!
//! A counter that several processors add to is in the cache of one of them: the others wait for it at
//! every request, a tenth of a microsecond each time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More would make every deployment larger; threads beyond share copies.
const COPIES_MAX: usize = 8;

/// One for each processor, and some more: not every thread that counts is one that answers requests.
static COPIES: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).min(COPIES_MAX)
});

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// In the order in which threads counted first.
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// As many copies as there are threads that count at once, or some fewer.
#[derive(Debug)]
pub struct Striped<T>(Box<[Apart<T>]>);

/// Two lines of most processors' caches: they are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Striped<T> {
    /// `new` makes one copy.
    pub fn new(new: impl Fn() -> T) -> Self {
        Self((0..*COPIES).map(|_| Apart(new())).collect())
    }

    /// This thread's copy.
    pub fn here(&self) -> &T {
        let thread = THREAD.with(|thread| *thread);
        &self.0[thread % self.0.len()].0
    }

    /// All copies, to be added up.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|copy| &copy.0)
    }
}

impl<T: Default> Default for Striped<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn threads_count_apart_and_nothing_is_lost() {
        let counters = Striped::<AtomicU64>::default();
        thread::scope(|scope| {
            for _ in 0..4 * COPIES_MAX {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.here().fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts = counters.iter().map(|count| count.load(Ordering::Relaxed));
        let counts: Vec<u64> = counts.collect();
        assert_eq!(counts.iter().sum::<u64>(), 4000 * COPIES_MAX as u64);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}
