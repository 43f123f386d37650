//! What threads do not take from each other: each has a copy of its own.
//!
//! Memory that several processors write to is in the cache of one of them: the others wait for it at
//! every request, a tenth of a microsecond each time. So a thread counts for itself, and who reads adds the
//! copies up; and it keeps for itself what it will want again, such as a warm instance.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More would make every deployment larger; threads beyond share copies.
const COPIES_MAX: usize = 16;

/// One for each processor, and some more: not every thread that counts is one that answers requests.
static COPIES: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).min(COPIES_MAX)
});

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// In the order in which threads counted first, from the last copy down: the first are those of the
    /// threads that have a number.
    static THREAD: Cell<usize> = {
        let before = THREADS.fetch_add(1, Ordering::Relaxed) % *COPIES;
        Cell::new(*COPIES - 1 - before)
    };
}

/// Gives this thread the copies of this number. Where all that answer requests are numbered from 0, no
/// two of them have one together, as long as there are enough.
pub fn number_thread(number: usize) {
    THREAD.set(number % *COPIES);
}

/// As many copies as there are threads that work at once, or some fewer.
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
        &self.0[THREAD.get()].0
    }

    /// All copies, in the same order for every thread: whoever locks several does it in this one.
    pub fn in_order(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|copy| &copy.0)
    }

    /// All copies, this thread's first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (others, here) = self.0.split_at(THREAD.get());
        here.iter().chain(others).map(|copy| &copy.0)
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

    #[test]
    fn a_thread_with_a_number_has_its_copy_and_sees_it_first() {
        let counters = Striped::<AtomicU64>::default();
        thread::scope(|scope| {
            for number in 0..*COPIES {
                let counters = &counters;
                scope.spawn(move || {
                    number_thread(number);
                    counters.here().store(number as u64, Ordering::Relaxed);
                });
            }
        });
        for number in 0..*COPIES {
            number_thread(number);
            let counts = counters.iter().map(|count| count.load(Ordering::Relaxed));
            let counts: Vec<usize> = counts.map(|count| count as usize).collect();
            let expected = (0..*COPIES).map(|further| (number + further) % *COPIES);
            assert_eq!(counts, expected.collect::<Vec<_>>());
        }
    }
}
