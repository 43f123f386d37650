//! How calls that wait for a model become runs: a bounded queue, and which of its calls go together.
//!
//! A run takes the call whose turn it is and, where the model batches, others with the same shapes
//! behind the first dimension, up to a number of rows. It waits for more only where it was told to,
//! and never for a call that found the engine idle. Calls whose callers are gone, or that
//! have waited for too long, are dropped on the way.
//!
//! A run belongs either to one of the model's workers or to a caller: one whose run is known to be
//! short does it itself, for itself and for those who wait. When it ends, the next such caller is
//! given the run, and no other thread needs to be woken.

use std::iter;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::fair::FairQueue;
use crate::tensor::rows_alike;
use crate::{BatchOptions, Tensor};

/// A call that waits.
pub(crate) trait Call: Sized {
    fn inputs(&self) -> &[Tensor];
    fn called(&self) -> Instant;
    /// Whose it is: owners share the queue by weight, and each has its own bound.
    fn owner(&self) -> (usize, NonZeroU32);
    /// Nobody waits for its answer any more, or it has waited for too long.
    fn is_over(&self) -> bool;
    /// Its caller can do a run.
    fn can_lead(&self) -> bool;
    /// Gives its caller a run.
    fn lead(self, run: Run<Self>);
    /// It will not be run.
    fn give_up(self);
}

pub(crate) struct Queue<C: Call> {
    state: Mutex<State<C>>,
    /// A call came, a run ended, or the queue was closed.
    changed: Condvar,
    bound: usize,
    runs_max: usize,
    batching: Option<BatchOptions>,
    /// The engine prepares something for each number of rows: few different ones are better.
    few_sizes: bool,
}

struct State<C> {
    waiting: FairQueue<usize, Waiting<C>>,
    running: usize,
    closed: bool,
}

struct Waiting<C> {
    call: C,
    /// The engine had nothing to do when it came.
    found_idle: bool,
}

/// The right to one of the model's runs. Dropped, it goes to a call that waits.
pub(crate) struct Run<C: Call> {
    queue: Arc<Queue<C>>,
}

/// Calls for one run of the engine.
pub(crate) struct Batch<C: Call> {
    /// Empty where every call was found without a caller.
    pub(crate) calls: Vec<C>,
    _run: Run<C>,
}

/// What becomes of a call that can do its run itself.
pub(crate) enum Entered<C: Call> {
    /// The run is its own.
    Leads(C, Run<C>),
    Waits,
    /// As many calls of its owner wait as may.
    Full(C),
}

/// What a worker that is free finds.
enum Next {
    Run,
    /// Until then more calls may join.
    WaitUntil(Instant),
    Wait,
    End,
}

impl<C: Call> Queue<C> {
    /// At most `bound` calls of one owner wait, and at most `runs_max` runs are under way.
    pub(crate) fn new(
        bound: usize,
        runs_max: usize,
        batching: Option<BatchOptions>,
        few_sizes: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: FairQueue::default(),
                running: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            bound,
            runs_max,
            batching,
            few_sizes,
        })
    }

    pub(crate) fn batching(&self) -> Option<&BatchOptions> {
        self.batching.as_ref()
    }

    /// For a call whose run is short: it is the call's own where the engine is idle.
    pub(crate) fn enter(self: &Arc<Self>, call: C) -> Entered<C> {
        let mut state = self.lock();
        if state.running < self.runs_max && state.waiting.is_empty() {
            state.running += 1;
            let run = self.run();
            return Entered::Leads(call, run);
        }
        match self.wait(&mut state, call) {
            Ok(()) => Entered::Waits,
            Err(call) => Entered::Full(call),
        }
    }

    /// For a call that a worker is to run. Gives it back where as many of its owner wait as may.
    pub(crate) fn push(&self, call: C) -> Result<(), C> {
        self.wait(&mut self.lock(), call)
    }

    fn wait(&self, state: &mut State<C>, call: C) -> Result<(), C> {
        let (owner, weight) = call.owner();
        if state.waiting.len_of(owner) >= self.bound {
            // Those without a caller take nobody's place.
            state.drop_over();
            if state.waiting.len_of(owner) >= self.bound {
                return Err(call);
            }
        }
        let found_idle = state.running == 0 && state.waiting.is_empty();
        let for_worker = !call.can_lead();
        let cost = rows(call.inputs());
        let waiting = Waiting { call, found_idle };
        state.waiting.push(owner, weight, cost, waiting);
        if for_worker {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes the calls that nobody waits for out: what they hold is not kept until a run ends.
    pub(crate) fn drop_over(&self) {
        self.lock().drop_over();
    }

    /// Whether a call runs or waits.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.lock();
        state.running > 0 || !state.waiting.is_empty()
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many calls of one owner wait.
    pub(crate) fn waiting_of(&self, owner: usize) -> usize {
        self.lock().waiting.len_of(owner)
    }

    /// How many runs there are at once.
    pub(crate) fn runs_max(&self) -> usize {
        self.runs_max
    }

    /// How many calls of one owner may wait.
    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    /// For a worker. Waits for calls and for a run to be free. None when the queue is closed and
    /// empty.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Batch<C>> {
        let mut state = self.lock();
        loop {
            state = match self.next(&state) {
                Next::End => return None,
                Next::Wait => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(end) => {
                    let time = end.saturating_duration_since(Instant::now());
                    let waited = self.changed.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Next::Run => {
                    let calls = self.gather(&mut state);
                    state.running += 1;
                    let more = !state.waiting.is_empty();
                    drop(state);
                    if more {
                        self.changed.notify_one();
                    }
                    return Some(Batch::new(calls, self.run()));
                }
            };
        }
    }

    /// Lets the workers end once no call waits.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn next(&self, state: &State<C>) -> Next {
        let Some(oldest) = state.waiting.front() else {
            return if state.closed { Next::End } else { Next::Wait };
        };
        if state.running >= self.runs_max {
            return Next::Wait;
        }
        let Some(batching) = &self.batching else {
            return Next::Run;
        };
        if oldest.found_idle || state.closed {
            return Next::Run;
        }
        let end = oldest.call.called() + batching.max_queue_delay;
        let waiting = state.rows_alike(oldest.call.inputs());
        if Instant::now() >= end || batching.is_enough(waiting) {
            Next::Run
        } else {
            Next::WaitUntil(end)
        }
    }

    /// Takes what goes into one run out of the queue: the call whose turn it is and those that go
    /// with it.
    fn gather(&self, state: &mut State<C>) -> Vec<C> {
        state.drop_over();
        let Some(first) = state.waiting.pop() else {
            return Vec::new();
        };
        let others = self.gather_with(state, first.call.inputs(), u64::MAX);
        iter::once(first.call).chain(others).collect()
    }

    fn gather_with(&self, state: &mut State<C>, first: &[Tensor], rows_max: u64) -> Vec<C> {
        let mut taken = rows(first);
        let Some(rows_max) = self.rows_max(state, first, rows_max) else {
            return Vec::new();
        };
        let others = state.waiting.pop_if(|waiting| {
            let inputs = waiting.call.inputs();
            let more = rows(inputs);
            let goes = taken + more <= rows_max && !waiting.call.is_over() && alike(inputs, first);
            taken += if goes { more } else { 0 };
            goes
        });
        others.into_iter().map(|waiting| waiting.call).collect()
    }

    /// How many rows a run is to have at the most that begins with `first`; `None` where it has the
    /// one call only.
    fn rows_max(&self, state: &State<C>, first: &[Tensor], rows_max: u64) -> Option<u64> {
        let max = self.batching.as_ref()?.max_batch_size.get().min(rows_max);
        if !self.few_sizes {
            return Some(max);
        }
        let all = max.min(rows(first).saturating_add(state.rows_alike(first)));
        Some(1 << all.max(1).ilog2())
    }

    fn run(self: &Arc<Self>) -> Run<C> {
        Run {
            queue: Arc::clone(self),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        // What runs under the lock moves calls and counts; a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Call> State<C> {
    fn drop_over(&mut self) {
        for waiting in self.waiting.remove_if(|waiting| waiting.call.is_over()) {
            waiting.call.give_up();
        }
    }

    /// The rows that wait and could go with these inputs.
    fn rows_alike(&self, inputs: &[Tensor]) -> u64 {
        let waiting = self.waiting.iter().map(|waiting| waiting.call.inputs());
        let alike = waiting.filter(|waiting| alike(waiting, inputs));
        alike.map(rows).sum()
    }
}

impl<C: Call> Batch<C> {
    pub(crate) fn new(calls: Vec<C>, run: Run<C>) -> Self {
        Self { calls, _run: run }
    }
}

impl<C: Call> Run<C> {
    /// For a caller with a run: the calls that go with its own, up to so many rows in all.
    pub(crate) fn take_with(&self, own: &[Tensor], rows_max: u64) -> Vec<C> {
        self.queue
            .gather_with(&mut self.queue.lock(), own, rows_max)
    }
}

impl<C: Call> Drop for Run<C> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.drop_over();
        let leader = match state.waiting.front() {
            Some(next) if next.call.can_lead() => state.waiting.pop(),
            Some(_) => {
                self.queue.changed.notify_one();
                None
            }
            None => None,
        };
        if leader.is_none() {
            state.running -= 1;
        }
        drop(state);
        if let Some(leader) = leader {
            leader.call.lead(self.queue.run());
        }
    }
}

impl BatchOptions {
    /// Whether so many rows are run without waiting for more.
    fn is_enough(&self, rows: u64) -> bool {
        let smallest_preferred = self.preferred_batch_size.iter().min();
        rows >= smallest_preferred.unwrap_or(&self.max_batch_size).get()
    }
}

/// Rows of a call: those of its first input. A model that batches has a first dimension everywhere.
pub(crate) fn rows(inputs: &[Tensor]) -> u64 {
    let first = inputs.first().and_then(|tensor| tensor.shape().first());
    first.copied().unwrap_or(1)
}

/// Whether two calls can be one run.
fn alike(one: &[Tensor], other: &[Tensor]) -> bool {
    let same_rows = |inputs: &[Tensor]| {
        let rows = rows(inputs);
        inputs
            .iter()
            .all(|tensor| tensor.shape().first() == Some(&rows))
    };
    let mut pairs = one.iter().zip(other);
    // Types are the signature's.
    pairs.all(|(one, other)| rows_alike(one.shape(), other.shape()))
        && same_rows(one)
        && same_rows(other)
}
