//! What a model has done, counted as the Open Inference Protocol's statistics count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counters that only grow. Each is exact; a snapshot taken during a call may have one of its
/// counters and not yet another.
#[derive(Debug, Default)]
pub struct Stats {
    inferences: AtomicU64,
    success: Timer,
    fail: Timer,
    queue: Timer,
    compute: Timer,
    cancelled: AtomicU64,
    last_inference_ms: AtomicU64,
}

/// The counters at one moment. Times are sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Time within the engine.
    pub compute: Timing,
    /// Calls whose caller was gone before the run, and which were not run.
    pub cancelled: u64,
    /// Milliseconds since the Unix epoch; 0 if there was none.
    pub last_inference_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    pub count: u64,
    pub ns: u64,
}

impl Stats {
    pub fn snapshot(&self) -> StatsSnapshot {
        let success = self.success.read();
        StatsSnapshot {
            inference_count: self.inferences.load(Ordering::Relaxed),
            execution_count: success.count,
            success,
            fail: self.fail.read(),
            queue: self.queue.read(),
            compute: self.compute.read(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            last_inference_ms: self.last_inference_ms.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn succeeded(&self, rows: u64, queued: Duration, computed: Duration) {
        self.inferences.fetch_add(rows, Ordering::Relaxed);
        self.success.add(queued + computed);
        self.queue.add(queued);
        self.compute.add(computed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        self.last_inference_ms.store(now, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, took: Duration) {
        self.fail.add(took);
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Timer {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Timer {
    fn add(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.ns.fetch_add(ns, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Timing {
        Timing {
            count: self.count.load(Ordering::Relaxed),
            ns: self.ns.load(Ordering::Relaxed),
        }
    }
}
