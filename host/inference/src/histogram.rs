//! Counts of values by their size, which any thread may add to without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// 10 µs to 42 s in nanoseconds, each twice the one before.
const DURATION_BOUNDS: [u64; 23] = powers_of_two(10_000);

/// Rows of a run: 1 to 1024.
const ROW_BOUNDS: [u64; 11] = powers_of_two(1);

/// A histogram of whole numbers. Its sum is exact, modulo 2^64.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// The largest value of each bucket but the last, which has no bound.
    pub bounds: &'static [u64],
    /// Values in each bucket: one more than there are bounds.
    pub counts: Vec<u64>,
    pub sum: u64,
}

impl Histogram {
    /// Of durations, which it keeps in nanoseconds.
    pub fn of_durations() -> Self {
        Self::new(&DURATION_BOUNDS)
    }

    /// Of numbers of rows.
    pub fn of_rows() -> Self {
        Self::new(&ROW_BOUNDS)
    }

    fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub fn add(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn add_duration(&self, took: Duration) {
        self.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.counts.iter();
        HistogramSnapshot {
            bounds: self.bounds,
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl HistogramSnapshot {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Of histograms of one kind: what each of them has.
    ///
    /// # Panics
    /// There is none.
    pub fn sum_of<'h>(histograms: impl Iterator<Item = &'h Histogram>) -> Self {
        let snapshots = histograms.map(Histogram::snapshot);
        let sum = snapshots.reduce(|mut sum, other| {
            debug_assert_eq!(sum.bounds, other.bounds);
            for (count, more) in sum.counts.iter_mut().zip(other.counts) {
                *count += more;
            }
            sum.sum = sum.sum.wrapping_add(other.sum);
            sum
        });
        sum.expect("there is a histogram")
    }
}

const fn powers_of_two<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_it_reaches() {
        let rows = Histogram::of_rows();
        for value in [1, 2, 3, 4, 1024, 1025] {
            rows.add(value);
        }
        let snapshot = rows.snapshot();
        assert_eq!(snapshot.counts, [1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((snapshot.sum, snapshot.count()), (2059, 6));
    }

    #[test]
    fn a_sum_has_the_values_of_all() {
        let histograms = [Histogram::of_rows(), Histogram::of_rows()];
        histograms[0].add(3);
        histograms[1].add(4);
        histograms[1].add(1);
        let sum = HistogramSnapshot::sum_of(histograms.iter());
        assert_eq!(sum.counts, [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sum.sum, 8);
    }

    #[test]
    fn durations_go_from_microseconds_to_a_minute() {
        let times = Histogram::of_durations();
        times.add_duration(Duration::from_micros(10));
        times.add_duration(Duration::from_secs(41));
        times.add_duration(Duration::from_secs(60));
        let counts = times.snapshot().counts;
        assert_eq!((counts[0], counts[22], counts[23]), (1, 1, 1));
    }
}
