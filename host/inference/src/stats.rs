//! What a model has done, counted as the Open Inference Protocol's statistics count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Histogram, HistogramSnapshot, Striped};

/// Numbers of rows that a thread tells apart; its runs with others beyond these are in the sums only.
const BATCH_SIZES_MAX: usize = 256;

/// Counters that only grow. Each is exact; a snapshot taken during a call may have one of its
/// counters and not yet another.
#[derive(Debug, Default)]
pub struct Stats(Striped<Counters>);

/// Those of one thread.
#[derive(Debug)]
struct Counters {
    inferences: AtomicU64,
    executions: AtomicU64,
    success: Timer,
    fail: Timer,
    queue: Histogram,
    compute_input: Timer,
    compute_infer: Histogram,
    compute_output: Timer,
    /// Of each run.
    rows: Histogram,
    cancelled: AtomicU64,
    last_inference_ms: AtomicU64,
    /// By the rows of a run.
    batches: Mutex<BTreeMap<u64, BatchTimes>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            inferences: AtomicU64::default(),
            executions: AtomicU64::default(),
            success: Timer::default(),
            fail: Timer::default(),
            queue: Histogram::of_durations(),
            compute_input: Timer::default(),
            compute_infer: Histogram::of_durations(),
            compute_output: Timer::default(),
            rows: Histogram::of_rows(),
            cancelled: AtomicU64::default(),
            last_inference_ms: AtomicU64::default(),
            batches: Mutex::default(),
        }
    }
}

/// Where the time of one call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From the call to the start of its run.
    pub queue: Duration,
    /// Joining it with others.
    pub compute_input: Duration,
    /// Within the engine.
    pub compute_infer: Duration,
    /// Taking the answers of the others from it.
    pub compute_output: Duration,
}

/// Is told of each run that one caller asked for, in the middle of it: it must not block.
pub trait RunObserver: Send + Sync {
    /// A call made at `called` has its answer.
    fn ran(&self, called: Instant, times: &Times);
}

/// The counters at one moment. Times are sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Rows that were inferred successfully; a call of a model without a batch dimension is one.
    pub inference_count: u64,
    /// Runs of the engine that succeeded.
    pub execution_count: u64,
    /// Calls that succeeded, and the time from the call to its answer.
    pub success: Timing,
    /// Calls that failed, refused inputs and a full queue among them.
    pub fail: Timing,
    /// Time between the call and the start of its run.
    pub queue: Timing,
    /// Time in which calls were joined to batches.
    pub compute_input: Timing,
    /// Time within the engine.
    pub compute_infer: Timing,
    /// Time in which batches were cut into answers.
    pub compute_output: Timing,
    /// Calls whose caller was gone before the run, and which were not run.
    pub cancelled: u64,
    /// Milliseconds since the Unix epoch; 0 if there was none.
    pub last_inference_ms: u64,
    /// Runs by their rows, the fewest first.
    pub batches: Vec<(u64, BatchTimes)>,
    /// `queue`, call by call in nanoseconds.
    pub queue_times: HistogramSnapshot,
    /// `compute_infer`, call by call in nanoseconds.
    pub compute_times: HistogramSnapshot,
    /// Rows of each run.
    pub rows: HistogramSnapshot,
}

/// Of the runs with one number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    pub compute_input: Timing,
    pub compute_infer: Timing,
    pub compute_output: Timing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    pub count: u64,
    pub ns: u64,
}

impl Stats {
    pub fn snapshot(&self) -> StatsSnapshot {
        let all = || self.0.iter();
        let mut batches = BTreeMap::<u64, BatchTimes>::new();
        for counters in all() {
            for (rows, times) in &*counters.batches() {
                batches.entry(*rows).or_default().merge(times);
            }
        }
        let count = |of: fn(&Counters) -> &AtomicU64| {
            let counts = all().map(|counters| of(counters).load(Ordering::Relaxed));
            counts.sum()
        };
        let timing = |of: fn(&Counters) -> &Timer| {
            let mut sum = Timing::default();
            all().for_each(|counters| sum.merge(of(counters).read()));
            sum
        };
        let last = all().map(|counters| counters.last_inference_ms.load(Ordering::Relaxed));
        let queue_times = HistogramSnapshot::sum_of(all().map(|counters| &counters.queue));
        let compute_times =
            HistogramSnapshot::sum_of(all().map(|counters| &counters.compute_infer));
        StatsSnapshot {
            inference_count: count(|counters| &counters.inferences),
            execution_count: count(|counters| &counters.executions),
            success: timing(|counters| &counters.success),
            fail: timing(|counters| &counters.fail),
            queue: Timing::of(&queue_times),
            compute_input: timing(|counters| &counters.compute_input),
            compute_infer: Timing::of(&compute_times),
            compute_output: timing(|counters| &counters.compute_output),
            cancelled: count(|counters| &counters.cancelled),
            last_inference_ms: last.max().unwrap_or(0),
            batches: batches.into_iter().collect(),
            queue_times,
            compute_times,
            rows: HistogramSnapshot::sum_of(all().map(|counters| &counters.rows)),
        }
    }

    /// A call of something that computes by itself, without a queue or batches, has its answer.
    pub fn answered(&self, waited: Duration, took: Duration) {
        let times = Times {
            queue: waited,
            compute_infer: took,
            ..Times::default()
        };
        self.succeeded(1, times);
        self.executed(1, times);
    }

    /// One call has its answer.
    pub(crate) fn succeeded(&self, rows: u64, times: Times) {
        self.0.here().succeeded(rows, times);
    }

    /// One run of the engine, for one call or for several.
    pub(crate) fn executed(&self, rows: u64, times: Times) {
        self.0.here().executed(rows, times);
    }

    /// A call has no answer.
    pub fn failed(&self, took: Duration) {
        self.0.here().fail.add(took);
    }

    pub(crate) fn cancelled(&self) {
        self.0.here().cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counters {
    fn succeeded(&self, rows: u64, times: Times) {
        self.inferences.fetch_add(rows, Ordering::Relaxed);
        let Times {
            queue,
            compute_input,
            compute_infer,
            compute_output,
        } = times;
        self.success
            .add(queue + compute_input + compute_infer + compute_output);
        self.queue.add_duration(queue);
        self.compute_input.add(compute_input);
        self.compute_infer.add_duration(compute_infer);
        self.compute_output.add(compute_output);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        self.last_inference_ms.store(now, Ordering::Relaxed);
    }

    fn executed(&self, rows: u64, times: Times) {
        self.executions.fetch_add(1, Ordering::Relaxed);
        self.rows.add(rows);
        let mut batches = self.batches();
        // A number of rows that only one caller ever sent is no batch to remember for ever.
        if batches.len() < BATCH_SIZES_MAX || batches.contains_key(&rows) {
            let batch = batches.entry(rows).or_default();
            batch.compute_input.add(times.compute_input);
            batch.compute_infer.add(times.compute_infer);
            batch.compute_output.add(times.compute_output);
        }
    }

    fn batches(&self) -> MutexGuard<'_, BTreeMap<u64, BatchTimes>> {
        // Under the lock are only sums.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchTimes {
    fn merge(&mut self, other: &Self) {
        self.compute_input.merge(other.compute_input);
        self.compute_infer.merge(other.compute_infer);
        self.compute_output.merge(other.compute_output);
    }
}

#[derive(Debug, Default)]
struct Timer {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Timer {
    fn add(&self, took: Duration) {
        self.ns.fetch_add(nanoseconds(took), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Timing {
        Timing {
            count: self.count.load(Ordering::Relaxed),
            ns: self.ns.load(Ordering::Relaxed),
        }
    }
}

impl Timing {
    fn of(times: &HistogramSnapshot) -> Self {
        Self {
            count: times.count(),
            ns: times.sum,
        }
    }

    fn add(&mut self, took: Duration) {
        self.merge(Self {
            count: 1,
            ns: nanoseconds(took),
        });
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.ns = self.ns.saturating_add(other.ns);
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}
