//! A loaded session, the workers that run it, and what becomes of each call.
//!
//! A call whose run is known to be short runs on the caller's own thread: handing it over and back
//! would cost more than the run. Every other call goes to the workers through a bounded queue, so
//! that an async worker thread never computes for long. Where the model batches, calls that come
//! during a run are the next run together.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, oneshot};

use crate::batching::{self, Batch, Call, Queue};
use crate::error::panic_text;
use crate::golden::GoldenKey;
use crate::stats::Times;
use crate::{
    Backend, Dim, InferenceError, ModelOptions, NamedTensors, RunObserver, Session, Signature,
    Stats, Tensor,
};

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
    queue: Queue<Job>,
    /// The outputs of a batch did not have the rows of its inputs: the model's rows are not apart.
    inseparable: AtomicBool,
}

/// Whose call it is.
pub(crate) struct Caller {
    pub(crate) called: Instant,
    pub(crate) stats: Arc<Stats>,
    pub(crate) observer: Option<Arc<dyn RunObserver>>,
}

impl Caller {
    fn succeeded(&self, rows: u64, times: Times) {
        self.stats.succeeded(rows, times);
        if let Some(observer) = &self.observer {
            observer.ran(self.called, &times);
        }
    }
}

/// A call on its way to a worker.
struct Job {
    inputs: Vec<Tensor>,
    caller: Caller,
    answer: oneshot::Sender<Result<NamedTensors, InferenceError>>,
}

impl Call for Job {
    fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    fn called(&self) -> Instant {
        self.caller.called
    }

    fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }
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
        let workers = options.workers.get();
        let queue = Queue::new(options.queue_max.get(), workers, options.batching.clone());
        let engine = Engine {
            shared: Arc::new(Shared {
                batched: session.signature().is_batched(),
                session,
                backend: backend.name(),
                platform: backend.platform(),
                queue,
                inseparable: AtomicBool::new(false),
            }),
            golden_checks: Mutex::default(),
        };
        for _ in 0..workers {
            let shared = Arc::clone(&engine.shared);
            thread::Builder::new()
                .name("model".to_owned())
                .spawn(move || shared.serve())
                .map_err(|source| InferenceError::Load {
                    reason: "a thread for the model cannot be started".to_owned(),
                    source: Some(source.into()),
                })?;
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
        self.shared.queue.waiting()
    }

    /// The cell of a golden sample, filled once the model has passed it.
    pub(crate) fn golden_check(&self, key: GoldenKey) -> Arc<OnceCell<()>> {
        let checks = self.golden_checks.lock();
        let mut checks = checks.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(checks.entry(key).or_default())
    }

    /// As Triton does: a call that would not fit into one run is not cut, but refused.
    pub(crate) fn check_rows(&self, inputs: &[Tensor]) -> Result<(), InferenceError> {
        let Some(rows_max) = self.shared.queue.rows_max() else {
            return Ok(());
        };
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

    /// Inputs in the signature's order, each checked against it.
    pub(crate) async fn infer(
        &self,
        inputs: Vec<Tensor>,
        caller: Caller,
    ) -> Result<NamedTensors, InferenceError> {
        let shared = &*self.shared;
        let estimate = shared.session.estimate(&inputs);
        if estimate.is_some_and(|estimate| estimate < INLINE_MAX) {
            if !shared.queue.batches() {
                return shared.run(inputs, &caller);
            }
            if let Some(_run) = shared.queue.try_run() {
                return shared.run(inputs, &caller);
            }
        }
        let (answer, answered) = oneshot::channel();
        let job = Job {
            inputs,
            caller,
            answer,
        };
        if let Err(Job { caller, .. }) = shared.queue.push(job) {
            caller.stats.failed(caller.called.elapsed());
            return Err(InferenceError::Overloaded {
                waiting: shared.queue.bound(),
            });
        }
        let mut waiting = Waiting {
            queue: &shared.queue,
            answered,
        };
        let gone = || InferenceError::runtime("the model's worker has ended");
        let answer = (&mut waiting.answered).await;
        answer.unwrap_or_else(|_| Err(gone()))
    }

    /// On this thread, however long it takes, and beside the queue.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        caller: &Caller,
    ) -> Result<NamedTensors, InferenceError> {
        self.shared.run(inputs, caller)
    }

    /// As [`Engine::run`], for calls that nobody made: no statistics see it.
    pub(crate) fn rehearse(&self, inputs: Vec<Tensor>) -> Result<NamedTensors, InferenceError> {
        let outputs = self.shared.compute(inputs)?;
        Ok(self.shared.named(outputs))
    }
}

/// A caller who waits for a worker's answer.
struct Waiting<'e> {
    queue: &'e Queue<Job>,
    answered: oneshot::Receiver<Result<NamedTensors, InferenceError>>,
}

impl Drop for Waiting<'_> {
    /// Given up before the answer, the call does not keep its inputs in the queue.
    fn drop(&mut self) {
        if self.answered.is_terminated() {
            return;
        }
        self.answered.close();
        for job in self.queue.take_gone() {
            job.caller.stats.cancelled();
        }
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
            self.answer(batch);
        }
    }

    fn answer(&self, mut batch: Batch<'_, Job>) {
        for job in batch.gone.drain(..) {
            job.caller.stats.cancelled();
        }
        let jobs = std::mem::take(&mut batch.calls);
        if jobs.len() > 1 && !self.inseparable.load(Ordering::Relaxed) {
            match self.run_together(&jobs) {
                Ok(outputs) => {
                    for (job, outputs) in jobs.into_iter().zip(outputs) {
                        // The caller may have gone meanwhile; then nobody wants the answer.
                        let _ = job.answer.send(Ok(outputs));
                    }
                    return;
                }
                // Whoever is at fault is to fail alone.
                Err(error) => tracing::debug!(%error, calls = jobs.len(), "a batch failed"),
            }
        }
        for job in jobs {
            if job.is_gone() {
                job.caller.stats.cancelled();
                continue;
            }
            let result = self.run(job.inputs, &job.caller);
            let _ = job.answer.send(result);
        }
    }

    /// One run for all. Counts only what succeeds: after a failure each call is run by itself.
    fn run_together(&self, jobs: &[Job]) -> Result<Vec<NamedTensors>, InferenceError> {
        let started = Instant::now();
        let inputs = self.session.signature().inputs.iter().enumerate();
        let joined = inputs
            .map(|(position, _)| Tensor::join_rows(jobs.iter().map(|job| &job.inputs[position])))
            .collect::<Result<Vec<Tensor>, _>>()?;
        let total = batching::rows(&joined);
        let joined_at = Instant::now();
        let outputs = self.compute(joined)?;
        let computed_at = Instant::now();
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
            let count = batching::rows(&job.inputs);
            let rows = outputs.iter().map(|output| output.rows(start, count));
            let rows: Option<Vec<Tensor>> = rows.collect();
            answers.push(self.named(rows.expect("every output has the rows of all calls")));
            start += count;
        }
        let ended = Instant::now();
        let times = |called: Instant| Times {
            queue: started.duration_since(called),
            compute_input: joined_at - started,
            compute_infer: computed_at - joined_at,
            compute_output: ended - computed_at,
        };
        for (position, job) in jobs.iter().enumerate() {
            let caller = &job.caller;
            caller.succeeded(batching::rows(&job.inputs), times(caller.called));
            // A run counts once for each deployment that has calls in it.
            let counted = |other: &Job| Arc::ptr_eq(&other.caller.stats, &caller.stats);
            if !jobs[..position].iter().any(counted) {
                caller.stats.executed(total, times(caller.called));
            }
        }
        Ok(answers)
    }

    /// Runs one call that has waited since its caller called, and counts it.
    fn run(&self, inputs: Vec<Tensor>, caller: &Caller) -> Result<NamedTensors, InferenceError> {
        let rows = if self.batched {
            batching::rows(&inputs)
        } else {
            1
        };
        let started = Instant::now();
        let result = self.compute(inputs);
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
                caller.stats.failed(caller.called.elapsed());
                Err(error)
            }
        }
    }

    fn compute(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError> {
        // An engine that panics fails this call, not its thread and not the calls behind it. A
        // session is only ever shared, so there is nothing that a panic could leave half-changed
        // and that the engine does not itself guard.
        catch_unwind(AssertUnwindSafe(|| self.session.run(inputs))).unwrap_or_else(|payload| {
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
