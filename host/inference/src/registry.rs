//! The models of a node: each loaded once, checked, and dropped with its last user.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::iter;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::background;
use crate::engine::{Engine, is_short};
use crate::error::panic_text;
use crate::golden::GoldenKey;
use crate::{
    Backend, BackendKind, Backends, Dim, Golden, InferenceError, Model, ModelOptions, ModelSource,
    NamedTensors, Tensor, TensorSpec, Tolerance, one_line,
};

/// Finds a model by its content. Deployments that have the same model share it.
#[derive(Default)]
pub struct Registry {
    entries: Arc<Mutex<HashMap<ModelKey, Entry>>>,
    backends: Arc<Backends>,
    stands_back: bool,
}

/// A model, and how it is to be run and checked.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Of the model file and every file it refers to: two requests with the same digest may get
    /// the same model.
    pub digest: String,
    pub source: ModelSource,
    pub backend: BackendKind,
    pub options: ModelOptions,
    pub golden: Option<GoldenSample>,
}

/// A golden sample, and how near to it the model must be.
#[derive(Clone, Debug)]
pub struct GoldenSample {
    /// Of the sample file: what a loaded model has passed is not run again.
    pub digest: String,
    pub path: PathBuf,
    pub tolerance: Tolerance,
}

/// The result of a load, for each of those who asked for it.
type Loaded = Result<Arc<Engine>, Arc<InferenceError>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ModelKey {
    digest: String,
    backend: &'static str,
    options: ModelOptions,
}

/// Loading → Loaded, or Loading → removed when the load fails.
enum Entry {
    Loading(watch::Receiver<Option<Loaded>>),
    Loaded(Weak<Engine>),
}

impl Registry {
    pub fn new(backends: Backends) -> Self {
        Registry {
            entries: Arc::default(),
            backends: Arc::new(backends),
            stands_back: false,
        }
    }

    /// Whether the threads that load and run models get a processor only when nobody else wants it
    /// (`SCHED_IDLE`). Linux only; elsewhere nothing happens. The process's others are to leave them
    /// something then: [`percent_owed`](crate::percent_owed).
    ///
    /// Runs on a caller's own thread are not among them; where such a run has threads of the engine
    /// beside it (`threads_per_run`), those are.
    #[must_use]
    pub fn standing_back(self, stands_back: bool) -> Self {
        Registry {
            stands_back,
            ..self
        }
    }

    /// The engines that run the models.
    pub fn backends(&self) -> &Arc<Backends> {
        &self.backends
    }

    /// Gives the model, loading it if nobody has it: loaded, warmed up, and within the tolerance of
    /// the golden sample if there is one. Its counters are new.
    ///
    /// A dropped future does not stop a load that has begun; others may wait for it, and if nobody
    /// does, the model is dropped.
    pub async fn get_or_load(&self, request: LoadRequest) -> Result<Model, Arc<InferenceError>> {
        let LoadRequest {
            digest,
            source,
            backend,
            options,
            golden,
        } = request;
        let backends = Arc::clone(&self.backends);
        let resolve = move || Ok((backends.resolve(backend, &source)?, source));
        let (resolved, source) = off_thread(resolve).await?;
        let key = ModelKey {
            digest,
            backend: resolved.name(),
            options,
        };
        let model = Model::new(self.get_or_start(key, resolved, source).await?);
        if let Some(sample) = golden {
            check_golden(&model, sample).await?;
        }
        Ok(model)
    }

    /// How many models are loaded and in use.
    pub fn len(&self) -> usize {
        let entries = self.lock();
        let loaded = entries.values().filter(|entry| match entry {
            Entry::Loading(_) => false,
            Entry::Loaded(engine) => engine.strong_count() > 0,
        });
        loaded.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn get_or_start(
        &self,
        key: ModelKey,
        backend: Arc<dyn Backend>,
        source: ModelSource,
    ) -> Loaded {
        let mut loading = {
            let mut entries = self.lock();
            match entries.get(&key) {
                Some(Entry::Loading(loading)) => loading.clone(),
                Some(Entry::Loaded(engine)) if let Some(engine) = engine.upgrade() => {
                    return Ok(engine);
                }
                Some(Entry::Loaded(_)) | None => {
                    // A new entry is the time to forget the models that are gone.
                    entries.retain(|_, entry| entry.is_alive());
                    let loading = self.start(key.clone(), backend, source);
                    let loading = loading.map_err(|error| Arc::new(no_thread(error)))?;
                    entries.insert(key, Entry::Loading(loading.clone()));
                    loading
                }
            }
        };
        let loaded = match loading.wait_for(Option::is_some).await {
            Ok(loaded) => loaded.clone(),
            Err(_) => None,
        };
        loaded.unwrap_or_else(|| {
            let reason = "the load was abandoned: the node is shutting down";
            Err(Arc::new(InferenceError::runtime(reason)))
        })
    }

    fn start(
        &self,
        key: ModelKey,
        backend: Arc<dyn Backend>,
        source: ModelSource,
    ) -> io::Result<watch::Receiver<Option<Loaded>>> {
        let (sender, receiver) = watch::channel(None);
        let entries = Arc::clone(&self.entries);
        let stands_back = self.stands_back;
        // Not a future of one of the askers: that one may go while the others wait. And a thread of
        // its own: the model's workers and the engine's own threads stand back as who starts them does.
        let work = move || {
            if stands_back {
                background::stand_back();
            }
            let _at_work = background::loading();
            let load = || load(&*backend, &source, &key.options);
            let (loaded, more) = match caught(load) {
                Ok((engine, more)) => (Ok(engine), more),
                Err(error) => (Err(Arc::new(error)), ControlFlow::Break(())),
            };
            let engine = loaded.clone();
            let options = key.options.clone();
            let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            match &loaded {
                Ok(engine) => entries.insert(key, Entry::Loaded(Arc::downgrade(engine))),
                Err(_) => entries.remove(&key),
            };
            drop(entries);
            sender.send_replace(Some(loaded));
            // Who waits for the model does not wait for this: a batch of another size finds its way
            // without it, only slower.
            if let (Ok(engine), ControlFlow::Continue(())) = (engine, more) {
                let _as_far_as_it_went = warm_up(&engine, &options, batch_sizes(&options));
            }
        };
        let thread = thread::Builder::new().name("load".to_owned()).spawn(work)?;
        // A runtime that ends waits for it, as for any blocking work.
        spawn_blocking(move || thread.join());
        Ok(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ModelKey, Entry>> {
        // Nothing that can panic runs under this lock; a poisoned one is still whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("models", &self.len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn is_alive(&self) -> bool {
        match self {
            Entry::Loading(_) => true,
            Entry::Loaded(engine) => engine.strong_count() > 0,
        }
    }
}

/// And says whether it is to be warmed up with more rows than one.
fn load(
    backend: &dyn Backend,
    source: &ModelSource,
    options: &ModelOptions,
) -> Result<(Arc<Engine>, ControlFlow<()>), InferenceError> {
    let session = backend.load(source, options)?;
    let signature = session.signature();
    signature.check_bounds(options.tensor_bytes_max)?;
    signature.check_declared(&options.inputs, &options.outputs)?;
    let engine = Arc::new(Engine::start(backend, session, options)?);
    let more = warm_up(&engine, options, iter::once(1));
    tracing::info!(
        backend = backend.name(),
        platform = backend.platform(),
        "loaded a model"
    );
    Ok((engine, more))
}

pub(crate) fn no_thread(source: io::Error) -> InferenceError {
    InferenceError::Load {
        reason: "a thread for the model cannot be started".to_owned(),
        source: Some(source.into()),
    }
}

/// The sizes of batches that are made often: powers of two, those that are preferred, and the most.
fn batch_sizes(options: &ModelOptions) -> Vec<u64> {
    let Some(batching) = &options.batching else {
        return Vec::new();
    };
    let rows_max = batching.max_batch_size.get();
    let powers = (1..u64::BITS).map(|bit| 1 << bit);
    powers
        .take_while(|rows| *rows < rows_max)
        .chain(batching.preferred_batch_size.iter().map(|rows| rows.get()))
        .chain([rows_max])
        .collect()
}

/// Runs the model on zeros, so that the first request finds a plan, warm memory and an estimate, and says
/// whether more rows are worth it. A run may fail: not every model takes a size of 1 where any is declared,
/// or zeros for indices.
///
/// Where the session prepares something for each number of rows a call would wait for that. Else it is worth
/// it only where runs are short, so that they are known to be, and not while there are calls: those would
/// wait for a run that nobody asked for.
pub(crate) fn warm_up(
    engine: &Arc<Engine>,
    options: &ModelOptions,
    rows: impl IntoIterator<Item = u64>,
) -> ControlFlow<()> {
    let model = Model::new(Arc::clone(engine));
    for rows in rows {
        let zeros = zeros(&model, rows, options.tensor_bytes_max);
        match zeros.and_then(|zeros| rehearse(&model, &zeros)) {
            Ok(after) => after?,
            Err(error) => {
                tracing::info!(
                    error = one_line(&error),
                    rows,
                    "model cannot be warmed up with zeros"
                );
                return ControlFlow::Break(());
            }
        }
    }
    ControlFlow::Continue(())
}

fn rehearse(model: &Model, zeros: &NamedTensors) -> Result<ControlFlow<()>, InferenceError> {
    const RUNS: usize = 3;
    let engine = &model.engine;
    let prepares = engine.prepares_sizes();
    let mut shortest = Duration::MAX;
    for _ in 0..RUNS {
        if !prepares && engine.is_busy() {
            return Ok(ControlFlow::Break(()));
        }
        let started = Instant::now();
        model.rehearse(zeros.clone())?;
        shortest = shortest.min(started.elapsed());
    }
    Ok(match prepares || is_short(shortest) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    })
}

/// Inputs with so many rows, and 1 for every other size that differs from call to call.
fn zeros(model: &Model, rows: u64, bytes_max: NonZeroU64) -> Result<NamedTensors, InferenceError> {
    let inputs = model.signature().inputs.iter().map(|spec| {
        let mut shape = spec.shape_with(1);
        if let (Some(first), Some(Dim::Any)) = (shape.first_mut(), spec.shape.first()) {
            *first = rows;
        }
        let filled = TensorSpec {
            shape: shape.iter().copied().map(Dim::Fixed).collect(),
            ..spec.clone()
        };
        filled.check_bounds("input", bytes_max)?;
        Ok((spec.name.clone(), Tensor::zeros(spec.dtype, &shape)?))
    });
    inputs.collect()
}

async fn check_golden(model: &Model, sample: GoldenSample) -> Result<(), Arc<InferenceError>> {
    let key: GoldenKey = (
        sample.digest,
        sample.tolerance.relative.to_bits(),
        sample.tolerance.absolute.to_bits(),
    );
    let passed = model.engine.golden_check(key);
    let check = || {
        let model = model.clone();
        off_thread(move || Golden::read(&sample.path)?.check(&model, sample.tolerance))
    };
    passed.get_or_try_init(check).await.copied()
}

/// Work that blocks, on a thread made for that.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InferenceError> + Send + 'static,
) -> Result<T, Arc<InferenceError>> {
    let result = spawn_blocking(move || caught(work)).await;
    let stopped = |_| InferenceError::runtime("the node is shutting down");
    result.map_err(stopped).flatten().map_err(Arc::new)
}

fn caught<T>(work: impl FnOnce() -> Result<T, InferenceError>) -> Result<T, InferenceError> {
    // What a panic leaves behind is dropped with the work; only its text goes on.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = panic_text(&*payload);
        Err(InferenceError::runtime(format!(
            "the load panicked: {text}"
        )))
    })
}
