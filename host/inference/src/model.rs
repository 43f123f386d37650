//! A loaded model: the check of a call, the choice of where it runs, and the run.
//!
//! A call whose run is known to be short runs on the caller's own thread: handing it over and back
//! would cost more than the run. Every other call goes to the model's workers through a bounded
//! queue, so that an async worker thread never computes for long.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, mpsc, oneshot};

use crate::error::panic_text;
use crate::golden::GoldenKey;
use crate::{Backend, InferenceError, ModelOptions, Session, Signature, Stats, Tensor};

/// Handing a call to a worker and its answer back takes 10 to 30 µs and two switches of threads; a
/// run below this bound delays the other tasks of the caller's thread less than those do overall.
const INLINE_MAX: Duration = Duration::from_micros(200);

/// Named tensors, in any order going in and in the signature's order coming out.
pub type NamedTensors = Vec<(String, Tensor)>;

/// A model as one deployment sees it: an engine that others may share, and counters of its own. It
/// has no name: a name is its deployment's.
#[derive(Clone)]
pub struct Model {
    engine: Arc<Engine>,
    stats: Arc<Stats>,
}

/// A session and the workers that run it.
///
/// Dropping it ends its workers once they have answered the calls that wait.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    queue_max: usize,
    /// The golden samples that the model was checked against.
    golden_checks: Mutex<HashMap<GoldenKey, Arc<OnceCell<()>>>>,
}

/// What the callers' and the workers' side both need.
struct Shared {
    session: Box<dyn Session>,
    backend: &'static str,
    platform: &'static str,
    batched: bool,
}

/// A call on its way to a worker.
struct Job {
    inputs: Vec<Tensor>,
    called: Instant,
    stats: Arc<Stats>,
    answer: oneshot::Sender<Result<NamedTensors, InferenceError>>,
}

impl Engine {
    /// Starts the workers of a loaded session.
    pub(crate) fn start(
        backend: &dyn Backend,
        session: Box<dyn Session>,
        options: &ModelOptions,
    ) -> Result<Engine, InferenceError> {
        let shared = Arc::new(Shared {
            batched: session.signature().is_batched(),
            session,
            backend: backend.name(),
            platform: backend.platform(),
        });
        let queue_max = options.queue_max.get();
        let (queue, jobs) = mpsc::channel(queue_max);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..options.workers.get() {
            let (shared, jobs) = (Arc::clone(&shared), Arc::clone(&jobs));
            thread::Builder::new()
                .name("model".to_owned())
                .spawn(move || serve(&shared, &jobs))
                .map_err(|source| InferenceError::Load {
                    reason: "a thread for the model cannot be started".to_owned(),
                    source: Some(source.into()),
                })?;
        }
        Ok(Engine {
            shared,
            queue,
            queue_max,
            golden_checks: Mutex::default(),
        })
    }
}

impl Model {
    pub(crate) fn new(engine: Arc<Engine>) -> Model {
        Model {
            engine,
            stats: Arc::default(),
        }
    }

    /// The same model, counting into `stats`: those of the revision before it, for one.
    pub fn with_stats(self, stats: Arc<Stats>) -> Model {
        Model { stats, ..self }
    }

    /// Whether both are run by one loaded engine.
    pub fn shares_engine(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    pub fn signature(&self) -> &Signature {
        self.engine.shared.session.signature()
    }

    /// The engine's name: `tract`.
    pub fn backend(&self) -> &'static str {
        self.engine.shared.backend
    }

    /// The `platform` of the Open Inference Protocol's model metadata: `onnx_tract`.
    pub fn platform(&self) -> &'static str {
        self.engine.shared.platform
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Runs the model. A dropped future gives up the call: it is not run if it still waits, and
    /// its answer is thrown away if it runs.
    pub async fn infer(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        let called = Instant::now();
        let inputs = self.order(inputs, called)?;
        let estimate = self.engine.shared.session.estimate(&inputs);
        if estimate.is_some_and(|estimate| estimate < INLINE_MAX) {
            return self.engine.shared.execute(inputs, called, &self.stats);
        }
        let (answer, answered) = oneshot::channel();
        let job = Job {
            inputs,
            called,
            stats: Arc::clone(&self.stats),
            answer,
        };
        if let Err(refused) = self.engine.queue.try_send(job) {
            self.stats.failed(called.elapsed());
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => InferenceError::Overloaded {
                    waiting: self.engine.queue_max,
                },
                mpsc::error::TrySendError::Closed(_) => worker_gone(),
            });
        }
        answered.await.unwrap_or_else(|_| Err(worker_gone()))
    }

    /// Runs the model on this thread, however long it takes.
    pub fn infer_blocking(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        let called = Instant::now();
        let inputs = self.order(inputs, called)?;
        self.engine.shared.execute(inputs, called, &self.stats)
    }

    /// As [`Model::infer_blocking`], for calls that nobody made: the statistics do not see it.
    pub(crate) fn rehearse(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        let inputs = self.signature().order_inputs(inputs)?;
        self.engine.shared.compute(inputs)
    }

    /// The cell of a golden sample, filled once the model has passed it.
    pub(crate) fn golden_check(&self, key: GoldenKey) -> Arc<OnceCell<()>> {
        let checks = self.engine.golden_checks.lock();
        let mut checks = checks.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(checks.entry(key).or_default())
    }

    fn order(&self, inputs: NamedTensors, called: Instant) -> Result<Vec<Tensor>, InferenceError> {
        self.signature()
            .order_inputs(inputs)
            .inspect_err(|_| self.stats.failed(called.elapsed()))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("platform", &self.platform())
            .field("signature", self.signature())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs one call that has waited since `called`, and counts it.
    fn execute(
        &self,
        inputs: Vec<Tensor>,
        called: Instant,
        stats: &Stats,
    ) -> Result<NamedTensors, InferenceError> {
        let rows = match inputs.first() {
            Some(tensor) if self.batched => tensor.shape()[0],
            _ => 1,
        };
        let started = Instant::now();
        let result = self.compute(inputs);
        match &result {
            Ok(_) => {
                let queued = started.duration_since(called);
                stats.succeeded(rows, queued, started.elapsed());
            }
            Err(_) => stats.failed(called.elapsed()),
        }
        result
    }

    fn compute(&self, inputs: Vec<Tensor>) -> Result<NamedTensors, InferenceError> {
        // An engine that panics fails this call, not its thread and not the calls behind it. A
        // session is only ever shared, so there is nothing that a panic could leave half-changed
        // and that the engine does not itself guard.
        let outputs = catch_unwind(AssertUnwindSafe(|| self.session.run(inputs))).unwrap_or_else(
            |payload| {
                let text = panic_text(&*payload);
                Err(InferenceError::runtime(format!(
                    "the engine panicked: {text}"
                )))
            },
        )?;
        let names = self.session.signature().outputs.iter();
        Ok(names.map(|spec| spec.name.clone()).zip(outputs).collect())
    }
}

/// One worker: answers calls until the model is dropped and none waits.
fn serve(shared: &Shared, jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The one worker that waits holds the lock, and lets it go before it runs what it got.
        let next = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(job) = next else { return };
        if job.answer.is_closed() {
            job.stats.cancelled();
            continue;
        }
        let result = shared.execute(job.inputs, job.called, &job.stats);
        // The caller may have gone meanwhile; then nobody wants the answer.
        let _ = job.answer.send(result);
    }
}

fn worker_gone() -> InferenceError {
    InferenceError::runtime("the model's worker has ended")
}

#[cfg(test)]
mod tests;
