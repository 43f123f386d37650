//! A loaded session, the workers that run it, and what becomes of each call.
//!
//! A call whose run is known to be short runs on the caller's own thread: handing it over and back
//! would cost more than the run. Every other call goes to the workers through a bounded queue, so
//! that an async worker thread never computes for long. Where the model batches, calls that come
//! during a run are the next run together.

mod company;
mod job;

use std::collections::HashMap;
use std::iter;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::abort::{Abort, Seat};
use crate::background;
use crate::batching::{self, Batch, Call as _, Entered, Queue, Run};
use crate::error::panic_text;
use crate::golden::GoldenKey;
use crate::registry::no_thread;
use crate::stats::Times;
use crate::{
    Backend, Dim, InferenceError, ModelOptions, NamedTensors, Session, Signature, Stats, Striped,
    Tensor,
};

use self::company::Company;
pub(crate) use self::job::Caller;
use self::job::{Asked, Expiry, Job, Outcome, Waiting, shared_run};

/// Handing a call to a worker and its answer back takes 10 to 30 µs and two switches of threads; a
/// run below this bound delays the other tasks of the caller's thread less than those do overall.
const INLINE_MAX: Duration = Duration::from_micros(200);

/// Dropping it ends its workers once they have answered the calls that wait.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    /// The golden samples that the model was checked against.
    golden_checks: Mutex<HashMap<GoldenKey, Arc<OnceCell<()>>>>,
}

/// What the callers' and the workers' side both need.
struct Shared {
    session: Box<dyn Session>,
    backend: &'static str,
    platform: &'static str,
    batched: bool,
    queue_timeout: Option<Duration>,
    /// Of the calls that workers run, and of those that callers do where `apart` is false.
    queue: Arc<Queue<Job>>,
    /// Of the calls that wait for one on their own thread, where it runs them with its own.
    led: Striped<Led>,
    /// Threads that run at once do not wait for each other.
    apart: bool,
    /// The outputs of a batch did not have the rows of its inputs: the model's rows are not apart.
    inseparable: AtomicBool,
}

/// What the callers on one thread have together.
struct Led {
    queue: Arc<Queue<Job>>,
    company: Company,
}

/// The inputs of several calls as those of one.
struct Joined {
    tensors: Vec<Tensor>,
    started: Instant,
    took: Duration,
}

impl Engine {
    /// Starts the workers of a loaded session.
    pub(crate) fn start(
        backend: &dyn Backend,
        session: Box<dyn Session>,
        options: &ModelOptions,
    ) -> Result<Engine, InferenceError> {
        if options.batching.is_some() {
            check_batches(session.signature())?;
        }
        let workers = options.instances.get();
        let queue = |runs_max| {
            Queue::new(
                options.queue_max.get(),
                runs_max,
                options.batching.clone(),
                session.prepares_sizes(),
            )
        };
        let led = Striped::new(|| Led {
            queue: queue(1),
            company: Company::default(),
        });
        let queue = queue(workers);
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let engine = Engine {
            shared: Arc::new(Shared {
                batched: session.signature().is_batched(),
                apart: session.runs_at_once() >= threads,
                session,
                backend: backend.name(),
                platform: backend.platform(),
                queue_timeout: options.queue_timeout,
                queue,
                led,
                inseparable: AtomicBool::new(false),
            }),
            golden_checks: Mutex::default(),
        };
        for _ in 0..workers {
            let shared = Arc::clone(&engine.shared);
            thread::Builder::new()
                .name("model".to_owned())
                .spawn(move || shared.serve())
                .map_err(no_thread)?;
        }
        Ok(engine)
    }

    pub(crate) fn signature(&self) -> &Signature {
        self.shared.session.signature()
    }

    pub(crate) fn backend(&self) -> &'static str {
        self.shared.backend
    }

    pub(crate) fn platform(&self) -> &'static str {
        self.shared.platform
    }

    /// Calls that wait for a run.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.queues().map(|queue| queue.waiting()).sum()
    }

    /// The cell of a golden sample, filled once the model has passed it.
    pub(crate) fn golden_check(&self, key: GoldenKey) -> Arc<OnceCell<()>> {
        let checks = self.golden_checks.lock();
        let mut checks = checks.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(checks.entry(key).or_default())
    }

    /// As Triton does: a call that would not fit into one run is not cut, but refused.
    pub(crate) fn check_rows(&self, inputs: &[Tensor]) -> Result<(), InferenceError> {
        let Some(batching) = self.shared.queue.batching() else {
            return Ok(());
        };
        let rows_max = batching.max_batch_size.get();
        let rows = inputs.iter().filter_map(|input| input.shape().first());
        let rows = rows.copied().max().unwrap_or(1);
        if rows > rows_max {
            return Err(InferenceError::invalid(format!(
                "the inputs have {rows} rows, and the model takes {rows_max} at once \
                 (max_batch_size); send them in several requests"
            )));
        }
        Ok(())
    }

    /// Inputs in the signature's order, each checked against it; `stats` are the caller's.
    pub(crate) async fn infer(
        &self,
        inputs: Vec<Tensor>,
        caller: Caller,
        stats: &Stats,
    ) -> Result<NamedTensors, InferenceError> {
        let shared = &self.shared;
        let estimate = shared.session.estimate(&inputs);
        let short = estimate.is_some_and(is_short);
        let batching = shared.queue.batching();
        if short && batching.is_none() {
            return shared.run(inputs, &caller, None);
        }
        let long = estimate.filter(|_| !short);
        if let Some(estimate) = long
            && self.is_too_late(&caller, estimate)
        {
            caller.failed();
            return Err(InferenceError::TooLate);
        }
        // Where calls are to wait for others, a worker watches the time.
        let can_lead = short && batching.is_some_and(|batching| batching.max_queue_delay.is_zero());
        let expiry = Expiry::of(&caller, shared.queue_timeout, long);
        let seat = (!short).then(Seat::default);
        let (job, waiting) = Job::new(Asked { inputs, caller }, expiry);
        let job = job.leading(can_lead).seated(seat.clone());
        let led = shared.led.here();
        let queue = match can_lead && shared.apart {
            true => &led.queue,
            false => &shared.queue,
        };
        let entered = if short {
            queue.enter(job)
        } else {
            match queue.push(job) {
                Ok(()) => Entered::Waits,
                Err(job) => Entered::Full(job),
            }
        };
        match entered {
            Entered::Leads(job, run) => {
                if led.company.is_likely() {
                    // Calls that are as good as here come along.
                    company::let_others_come().await;
                }
                shared.lead(job.asked, run).await
            }
            Entered::Waits => {
                let waiting = Waiting::until_outcome(queue, stats, seat, waiting);
                match waiting.await? {
                    Outcome::Answer(answer) => answer,
                    Outcome::Lead(asked, run) => shared.lead(asked, run).await,
                }
            }
            Entered::Full(job) => {
                job.asked.caller.failed();
                Err(InferenceError::Overloaded {
                    waiting: shared.queue.bound(),
                })
            }
        }
    }

    /// Whether a call has no chance: those that wait before it take longer than it has.
    ///
    /// Only its own deployment's calls are counted, so that no other one's keep it out. Where calls
    /// are run together nothing is foreseen: how long those before it take depends on what comes.
    fn is_too_late(&self, caller: &Caller, estimate: Duration) -> bool {
        let queue = &self.shared.queue;
        let (Some(deadline), None) = (caller.deadline, queue.batching()) else {
            return false;
        };
        let before = queue.waiting_of(caller.owner()) / queue.runs_max();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        before > 0 && caller.called + estimate.saturating_mul(before.saturating_add(1)) > deadline
    }

    /// On this thread, however long it takes, and beside the queue.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        caller: &Caller,
    ) -> Result<NamedTensors, InferenceError> {
        self.shared.run(inputs, caller, None)
    }

    /// Whether a call runs or waits, but for those that are run by their callers alone.
    pub(crate) fn is_busy(&self) -> bool {
        self.shared.queues().any(|queue| queue.is_busy())
    }

    /// As [`Engine::run`], for calls that nobody made: no statistics see it.
    pub(crate) fn rehearse(&self, inputs: Vec<Tensor>) -> Result<NamedTensors, InferenceError> {
        let outputs = self.shared.compute(inputs, None)?;
        Ok(self.shared.named(outputs))
    }

    /// Whether the session prepares something for each number of rows.
    pub(crate) fn prepares_sizes(&self) -> bool {
        self.shared.session.prepares_sizes()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    /// One worker: answers calls until the model is dropped and none waits.
    fn serve(&self) {
        while let Some(batch) = self.queue.take() {
            let _at_work = background::running();
            self.answer(batch);
        }
    }

    fn queues(&self) -> impl Iterator<Item = &Arc<Queue<Job>>> {
        let led = self.led.iter().map(|led| &led.queue);
        iter::once(&self.queue).chain(led)
    }

    fn answer(&self, batch: Batch<Job>) {
        let joined = self.join(&batch.calls);
        self.answer_joined(batch, joined);
    }

    /// The caller's own call, and with it those that wait: on this thread, unless all together are
    /// not known to be short.
    async fn lead(
        self: &Arc<Self>,
        asked: Asked,
        run: Run<Job>,
    ) -> Result<NamedTensors, InferenceError> {
        let rows_max = self.short_rows(&asked.inputs);
        let others = run.take_with(&asked.inputs, rows_max);
        self.led.here().company.note(!others.is_empty());
        if others.is_empty() && self.is_short(&asked.inputs) {
            return self.run(asked.inputs, &asked.caller, None);
        }
        let (own, answered) = Job::new(asked, Expiry::Never);
        let calls = iter::once(own).chain(others).collect();
        let batch = Batch::new(calls, run);
        let joined = self.join(&batch.calls);
        let tensors = joined.as_ref().map(|joined| &*joined.tensors);
        let tensors = tensors.unwrap_or_else(|| batch.calls[0].inputs());
        if self.is_short(tensors) {
            self.answer_joined(batch, joined);
        } else {
            let shared = Arc::clone(self);
            // It answers also if this caller does not wait for it.
            tokio::task::spawn_blocking(move || shared.answer_joined(batch, joined));
        }
        match answered.await {
            Ok(Outcome::Answer(answer)) => answer,
            _ => Err(InferenceError::runtime("the model's run has ended")),
        }
    }

    fn answer_joined(&self, mut batch: Batch<Job>, joined: Option<Joined>) {
        let jobs = std::mem::take(&mut batch.calls);
        if let Some(joined) = joined {
            match self.run_together(&jobs, joined) {
                Ok(answers) => {
                    // What waits may run while the answers go out.
                    drop(batch);
                    for (job, answer) in jobs.into_iter().zip(answers) {
                        job.answer(Ok(answer));
                    }
                    return;
                }
                // Whoever is at fault is to fail alone.
                Err(error) => tracing::debug!(%error, calls = jobs.len(), "a batch failed"),
            }
        }
        for job in jobs {
            if job.is_over() {
                job.give_up();
                continue;
            }
            let run = shared_run(slice::from_ref(&job));
            let abort = run.as_ref().map(|run| &run.abort);
            job.answer_with(|asked| self.run(asked.inputs, &asked.caller, abort));
        }
    }

    fn is_short(&self, inputs: &[Tensor]) -> bool {
        self.session.estimate(inputs).is_some_and(is_short)
    }

    /// As many rows like these as are short together: those of a whole batch, or a power of two.
    ///
    /// A row of many is taken to be as long as one alone only where so many are not known: where
    /// many ask, few runs have one row, and what they took lately may be long ago.
    fn short_rows(&self, inputs: &[Tensor]) -> u64 {
        let own = batching::rows(inputs);
        let batching = self.queue.batching();
        let most = batching.map_or(own, |batching| batching.max_batch_size.get());
        let fewer = |rows: &u64| Some(rows.next_power_of_two() / 2);
        let mut counts = iter::successors(Some(most), fewer).take_while(|rows| *rows > own);
        let one = self.session.estimate(inputs).unwrap_or(INLINE_MAX);
        let are_short = |rows: &u64| {
            let times = u32::try_from(rows.div_ceil(own.max(1))).unwrap_or(u32::MAX);
            let known = self.session.estimate_rows(inputs, *rows);
            is_short(known.unwrap_or(one.saturating_mul(times)))
        };
        counts.find(are_short).unwrap_or(own)
    }

    /// None where there is nothing to join, and where it is no use.
    fn join(&self, jobs: &[Job]) -> Option<Joined> {
        if jobs.len() < 2 || self.inseparable.load(Ordering::Relaxed) {
            return None;
        }
        let started = Instant::now();
        let inputs = 0..self.session.signature().inputs.len();
        let tensors = inputs
            .map(|position| Tensor::join_rows(jobs.iter().map(|job| &job.inputs()[position])))
            .collect::<Result<Vec<Tensor>, _>>();
        Some(Joined {
            tensors: tensors.ok()?,
            started,
            took: started.elapsed(),
        })
    }

    /// One run for all. Counts only what succeeds: after a failure each call is run by itself.
    fn run_together(
        &self,
        jobs: &[Job],
        joined: Joined,
    ) -> Result<Vec<NamedTensors>, InferenceError> {
        let total = batching::rows(&joined.tensors);
        let run = shared_run(jobs);
        let abort = run.as_ref().map(|run| &run.abort);
        let began = Instant::now();
        let outputs = self.compute(joined.tensors, abort)?;
        let computed = Instant::now();
        if let Some(output) = outputs.iter().find(|o| o.shape().first() != Some(&total)) {
            self.inseparable.store(true, Ordering::Relaxed);
            tracing::warn!(
                platform = self.platform,
                "the model made {output:?} of {total} rows; its calls are not batched any more"
            );
            return Err(InferenceError::runtime("the outputs have other rows"));
        }
        let mut answers = Vec::with_capacity(jobs.len());
        let mut start = 0;
        for job in jobs {
            let count = batching::rows(job.inputs());
            let rows = outputs.iter().map(|output| output.rows(start, count));
            let rows: Option<Vec<Tensor>> = rows.collect();
            answers.push(self.named(rows.expect("every output has the rows of all calls")));
            start += count;
        }
        let compute_output = computed.elapsed();
        let times = |called: Instant| Times {
            queue: joined.started.duration_since(called),
            compute_input: joined.took,
            compute_infer: computed - began,
            compute_output,
        };
        for (position, job) in jobs.iter().enumerate() {
            let caller = &job.asked.caller;
            let times = times(caller.called);
            caller.succeeded(batching::rows(job.inputs()), times);
            // A run counts once for each deployment that has calls in it.
            let counted = |other: &Job| Arc::ptr_eq(&other.asked.caller.stats, &caller.stats);
            if !jobs[..position].iter().any(counted) {
                caller.stats.executed(total, times);
            }
        }
        Ok(answers)
    }

    /// Runs one call that has waited since its caller called, and counts it.
    fn run(
        &self,
        inputs: Vec<Tensor>,
        caller: &Caller,
        abort: Option<&Abort>,
    ) -> Result<NamedTensors, InferenceError> {
        let rows = if self.batched {
            batching::rows(&inputs)
        } else {
            1
        };
        let started = Instant::now();
        let result = self.compute(inputs, abort);
        match result {
            Ok(outputs) => {
                let times = Times {
                    queue: started.duration_since(caller.called),
                    compute_infer: started.elapsed(),
                    ..Times::default()
                };
                caller.succeeded(rows, times);
                caller.stats.executed(rows, times);
                Ok(self.named(outputs))
            }
            Err(error) => {
                if abort.is_some_and(Abort::is_aborted) {
                    caller.stats.cancelled();
                } else {
                    caller.failed();
                }
                Err(error)
            }
        }
    }

    fn compute(
        &self,
        inputs: Vec<Tensor>,
        abort: Option<&Abort>,
    ) -> Result<Vec<Tensor>, InferenceError> {
        // An engine that panics fails this call, not its thread and not the calls behind it. A
        // session is only ever shared, so there is nothing that a panic could leave half-changed
        // and that the engine does not itself guard.
        let run = || match abort {
            None => self.session.run(inputs),
            Some(abort) => self.session.run_abortable(inputs, abort),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
            let text = panic_text(&*payload);
            Err(InferenceError::runtime(format!(
                "the engine panicked: {text}"
            )))
        })
    }

    fn named(&self, outputs: Vec<Tensor>) -> NamedTensors {
        let names = self.session.signature().outputs.iter();
        names.map(|spec| spec.name.clone()).zip(outputs).collect()
    }
}

/// Whether such a run stays on its caller's thread.
pub(crate) fn is_short(estimate: Duration) -> bool {
    estimate < INLINE_MAX
}

/// Calls can share a run only where every tensor has a first dimension for their rows.
fn check_batches(signature: &Signature) -> Result<(), InferenceError> {
    let tensors = signature.inputs.iter().chain(&signature.outputs);
    for spec in tensors {
        if spec.shape.first() != Some(&Dim::Any) {
            return Err(InferenceError::load(format!(
                "max_batch_size is set, and {spec} has no first dimension of any size (-1) for the \
                 rows of a batch; export the model with a dynamic batch axis, or drop max_batch_size"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
