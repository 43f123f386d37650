//! How calls that wait for a model become runs: a bounded queue, and which of its calls go together.
//!
//! A run takes the oldest call and, where the model batches, younger ones with the same shapes behind
//! the first dimension, up to a number of rows. It waits for more only where it was told to, and
//! never for a call that found the engine idle. Calls whose callers are gone are dropped on the way.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::tensor::rows_alike;
use crate::{BatchOptions, Tensor};

/// A call that waits.
pub(crate) trait Call {
    fn inputs(&self) -> &[Tensor];
    fn called(&self) -> Instant;
    /// Nobody waits for its answer any more.
    fn is_gone(&self) -> bool;
}

pub(crate) struct Queue<C> {
    state: Mutex<State<C>>,
    /// A call came, a run ended, or the queue was closed.
    changed: Condvar,
    bound: usize,
    runs_max: usize,
    batching: Option<BatchOptions>,
}

struct State<C> {
    waiting: VecDeque<Waiting<C>>,
    running: usize,
    closed: bool,
}

struct Waiting<C> {
    call: C,
    /// The engine had nothing to do when it came.
    found_idle: bool,
}

/// The right to one of the model's runs, given back when it is dropped.
pub(crate) struct Run<'q, C> {
    queue: &'q Queue<C>,
}

/// Calls for one run of the engine.
pub(crate) struct Batch<'q, C> {
    /// Oldest first; none where every call was found without a caller.
    pub(crate) calls: Vec<C>,
    /// What was found without a caller on the way.
    pub(crate) gone: Vec<C>,
    _run: Run<'q, C>,
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
    /// At most `bound` calls wait, and at most `runs_max` runs are under way.
    pub(crate) fn new(bound: usize, runs_max: usize, batching: Option<BatchOptions>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                running: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            bound,
            runs_max,
            batching,
        }
    }

    pub(crate) fn batches(&self) -> bool {
        self.batching.is_some()
    }

    /// Rows that one call may have, where the model batches.
    pub(crate) fn rows_max(&self) -> Option<u64> {
        let batching = self.batching.as_ref()?;
        Some(batching.max_batch_size.get())
    }

    /// A run for a caller who does it itself, if one is free and nobody waits for it.
    pub(crate) fn try_run(&self) -> Option<Run<'_, C>> {
        let mut state = self.lock();
        let free = state.running < self.runs_max && state.waiting.is_empty();
        free.then(|| {
            state.running += 1;
            Run { queue: self }
        })
    }

    /// Gives the call back where as many wait as may.
    pub(crate) fn push(&self, call: C) -> Result<(), C> {
        let mut state = self.lock();
        if state.waiting.len() >= self.bound {
            // Those without a caller take nobody's place.
            state.waiting.retain(|waiting| !waiting.call.is_gone());
            if state.waiting.len() >= self.bound {
                return Err(call);
            }
        }
        let found_idle = state.running == 0 && state.waiting.is_empty();
        state.waiting.push_back(Waiting { call, found_idle });
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the calls that nobody waits for out: what they hold is not kept until a run ends.
    pub(crate) fn take_gone(&self) -> Vec<C> {
        let mut state = self.lock();
        let mut gone = Vec::new();
        let mut at = 0;
        while let Some(waiting) = state.waiting.get(at) {
            if waiting.call.is_gone() {
                gone.extend(state.waiting.remove(at).map(|waiting| waiting.call));
            } else {
                at += 1;
            }
        }
        gone
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many calls may wait.
    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    /// Waits for calls and for a run to be free. None when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Batch<'_, C>> {
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
                    let (calls, gone) = self.gather(&mut state);
                    // Where all were without callers, nothing runs and they are counted.
                    state.running += 1;
                    let more = !state.waiting.is_empty();
                    drop(state);
                    if more {
                        self.changed.notify_one();
                    }
                    return Some(Batch {
                        calls,
                        gone,
                        _run: Run { queue: self },
                    });
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
        if Instant::now() >= end || batching.is_enough(self.rows_alike_waiting(state)) {
            Next::Run
        } else {
            Next::WaitUntil(end)
        }
    }

    /// The rows that would go into the next run if there were no bound.
    fn rows_alike_waiting(&self, state: &State<C>) -> u64 {
        let Some(oldest) = state.waiting.front() else {
            return 0;
        };
        let alike = state
            .waiting
            .iter()
            .filter(|waiting| alike(waiting.call.inputs(), oldest.call.inputs()));
        alike.map(|waiting| rows(waiting.call.inputs())).sum()
    }

    /// Takes the oldest call and those that go with it out of the queue.
    fn gather(&self, state: &mut State<C>) -> (Vec<C>, Vec<C>) {
        let (mut calls, mut gone) = (Vec::new(), Vec::<C>::new());
        let mut taken = 0;
        let mut at = 0;
        while let Some(waiting) = state.waiting.get(at) {
            let call = &waiting.call;
            let fits = |first: &C| {
                self.batching.as_ref().is_some_and(|batching| {
                    let rows = taken + rows(call.inputs());
                    rows <= batching.max_batch_size.get() && alike(call.inputs(), first.inputs())
                })
            };
            if call.is_gone() {
                gone.extend(state.waiting.remove(at).map(|waiting| waiting.call));
            } else if calls.first().is_none_or(fits) {
                taken += rows(call.inputs());
                calls.extend(state.waiting.remove(at).map(|waiting| waiting.call));
                if self.batching.is_none() {
                    break;
                }
            } else {
                at += 1;
            }
        }
        (calls, gone)
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        // What runs under the lock moves calls and counts; a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Drop for Run<'_, C> {
    fn drop(&mut self) {
        let state = self.queue.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        let waits = !state.waiting.is_empty();
        drop(state);
        if waits {
            self.queue.changed.notify_one();
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
