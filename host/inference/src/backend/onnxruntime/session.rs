//! One loaded model: the sessions that run it, and the runs.
//!
//! `ort` lets one session run one call at a time: not every part of ONNX Runtime that a session
//! uses is safe to share. So a model has a session for each call that is to run at once, all made
//! when it is loaded, with one copy of the weights that they packed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::ep;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{RunOptions, Session as Running};
use ort::value::{Outlet, ValueType};
use ort::{Error, ErrorCode};

use super::convert;
use super::files::{OnnxFile, Place};
use crate::abort::Abort;
use crate::backend::run_time::{RunTimes, Sizes, sizes_of, sizes_with_rows};
use crate::backend::{GraphOptimization, ModelOptions, ModelSource, Session, is_large};
use crate::error::EngineText;
use crate::tensor::display_shape;
use crate::{Dim, InferenceError, Signature, Striped, Tensor, TensorSpec};

pub(super) struct OrtSession {
    signature: Signature,
    symbols: Symbols,
    /// Those that each thread used last: what they write to is in its core's caches.
    idle: Striped<Mutex<Vec<Running>>>,
    /// Calls that found none. Locked while one looks for the last time before it waits.
    waiting: Mutex<()>,
    waiters: AtomicU32,
    returned: Condvar,
    sessions: u32,
    arena: bool,
    /// Calls that run or wait for a session.
    calls: AtomicU32,
    /// None where inputs of the same shapes may take any time.
    run_times: Option<RunTimes>,
}

impl OrtSession {
    pub(super) fn load(
        environment: &Environment,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Self, InferenceError> {
        let bytes = source.read_all()?;
        let count = sessions_of(bytes.len(), options);
        let OnnxFile {
            locations,
            shapeless_inputs,
            weights,
            loops,
        } = OnnxFile::read(&bytes)?;
        let place = locations.place(source, bytes)?;
        let unusual =
            |error: Error| load_error("ONNX Runtime does not take the model's options", &error);
        let mut builder = builder(environment, options).map_err(unusual)?;
        if count > 1 {
            builder = share_weights(builder, &weights.read(source)?).map_err(unusual)?;
        }
        // They keep the file in memory.
        drop(weights);
        let sessions = (0..count)
            .map(|_| {
                let session = match &place {
                    Place::File(path) => builder.commit_from_file(path),
                    Place::Memory(bytes) => builder.commit_from_memory(bytes),
                    Place::Staged { model, .. } => builder.commit_from_file(model),
                };
                session.map_err(|error| load_error("ONNX Runtime cannot load the model", &error))
            })
            .collect::<Result<Vec<Running>, InferenceError>>()?;
        let (inputs, outputs) = match sessions.first() {
            Some(session) => (session.inputs(), session.outputs()),
            None => return Err(InferenceError::load("the model has no workers")),
        };
        let signature = Signature {
            inputs: specs("input", inputs, |name| {
                let given = options.inputs.iter().find(|spec| spec.name == name);
                match (shapeless_inputs.contains(name), given) {
                    (false, _) => Ok(None),
                    (true, Some(spec)) => Ok(Some(spec.shape.clone())),
                    (true, None) => Err(InferenceError::unsupported(format!(
                        "input {name:?} declares no number of dimensions; write the model's inputs \
                         into the deployment file, or export it with input shapes"
                    ))),
                }
            })?,
            outputs: specs("output", outputs, |_| Ok(None))?,
        };
        Ok(OrtSession {
            symbols: Symbols::of(inputs),
            signature,
            sessions: u32::try_from(sessions.len()).unwrap_or(u32::MAX),
            idle: shared_out(sessions),
            waiting: Mutex::default(),
            waiters: AtomicU32::new(0),
            returned: Condvar::new(),
            arena: options.onnxruntime.arena,
            calls: AtomicU32::new(0),
            run_times: (!loops).then(|| RunTimes::new(options.plans_max)),
        })
    }

    fn lease(&self) -> Lease<'_> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let session = self.take_idle().unwrap_or_else(|| self.wait_for_idle());
        Lease {
            owner: self,
            session: Some(session),
        }
    }

    /// Whoever gives a session back where this has looked in vain sees that it waits: the place's lock
    /// puts the one before the other.
    fn wait_for_idle(&self) -> Running {
        let mut waiting = lock(&self.waiting);
        self.waiters.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(session) = self.take_idle() {
                self.waiters.fetch_sub(1, Ordering::Relaxed);
                return session;
            }
            let woken = self.returned.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The one that this thread used last, or else another one.
    fn take_idle(&self) -> Option<Running> {
        self.idle.iter().find_map(|idle| lock(idle).pop())
    }

    /// ONNX Runtime blames the model for shapes that do not fit each other.
    fn run_error(&self, inputs: &[Tensor], error: &Error) -> InferenceError {
        let source = EngineText::cause(error.message());
        if let Some(reason) = self.symbols.disagreement(&self.signature, inputs) {
            return InferenceError::InvalidInput { reason, source };
        }
        match error.code() {
            ErrorCode::InvalidArgument => InferenceError::InvalidInput {
                reason: "the model cannot take these inputs".to_owned(),
                source,
            },
            _ => InferenceError::Runtime {
                reason: "ONNX Runtime failed to run the model".to_owned(),
                source,
            },
        }
    }
}

impl Session for OrtSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError> {
        let options = match self.arena && is_large(&inputs) {
            true => Some(self.run_options(&inputs)?),
            false => None,
        };
        self.run_with(&inputs, options.as_ref())
    }

    /// ONNX Runtime looks between two operators.
    fn run_abortable(
        &self,
        inputs: Vec<Tensor>,
        abort: &Abort,
    ) -> Result<Vec<Tensor>, InferenceError> {
        let options = Arc::new(self.run_options(&inputs)?);
        let stops = Arc::clone(&options);
        // It cannot fail for options that are there.
        let _running = abort.stoppable(Box::new(move || drop(stops.terminate())));
        self.run_with(&inputs, Some(&options))
    }

    /// With the wait for the calls before this one, where every session is taken.
    fn estimate(&self, inputs: &[Tensor]) -> Option<Duration> {
        self.estimate_of(&sizes_of(&self.signature, inputs))
    }

    fn estimate_rows(&self, inputs: &[Tensor], rows: u64) -> Option<Duration> {
        self.estimate_of(&sizes_with_rows(&self.signature, inputs, rows))
    }

    fn runs_at_once(&self) -> usize {
        self.sessions as usize
    }
}

impl OrtSession {
    fn estimate_of(&self, sizes: &Sizes) -> Option<Duration> {
        let run = self.run_times.as_ref()?.estimate(sizes)?;
        let before = self.calls.load(Ordering::Relaxed) / self.sessions;
        Some(run.saturating_mul(before.saturating_add(1)))
    }

    fn run_options(&self, inputs: &[Tensor]) -> Result<RunOptions, InferenceError> {
        let options = || {
            let mut options = RunOptions::new()?;
            if self.arena && is_large(inputs) {
                // Its arena keeps what it once needed, unless told otherwise.
                options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
            }
            Ok(options)
        };
        options().map_err(|error| self.run_error(inputs, &error))
    }

    fn run_with(
        &self,
        inputs: &[Tensor],
        options: Option<&RunOptions>,
    ) -> Result<Vec<Tensor>, InferenceError> {
        let values = self.signature.inputs.iter().zip(inputs);
        let values = values
            .map(|(spec, tensor)| convert::to_ort(&spec.name, tensor))
            .collect::<Result<Vec<_>, InferenceError>>()?;
        let mut lease = self.lease();
        let session = lease.session();
        let started = Instant::now();
        let outputs = match options {
            None => session.run(values.as_slice()),
            Some(options) => session.run_with_options(values.as_slice(), options),
        };
        let outputs = outputs.map_err(|error| self.run_error(inputs, &error))?;
        let outputs: Vec<_> = outputs.into_iter().map(|(_, value)| value).collect();
        let took = started.elapsed();
        drop(lease);
        if let Some(run_times) = &self.run_times {
            run_times.note(&sizes_of(&self.signature, inputs), took);
        }

        let specs = &self.signature.outputs;
        if outputs.len() != specs.len() {
            return Err(InferenceError::runtime(format!(
                "ONNX Runtime gave {} outputs, the model declares {}",
                outputs.len(),
                specs.len()
            )));
        }
        specs
            .iter()
            .zip(outputs)
            .map(|(spec, value)| convert::from_ort(&spec.name, spec.dtype, value, inputs))
            .collect()
    }
}

/// A session that is this call's, until it is dropped.
struct Lease<'o> {
    owner: &'o OrtSession,
    /// None only while it is dropped.
    session: Option<Running>,
}

impl Lease<'_> {
    fn session(&mut self) -> &mut Running {
        self.session
            .as_mut()
            .expect("a lease has its session until it is dropped")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        lock(self.owner.idle.here()).extend(self.session.take());
        // To wake nobody is a system call too.
        if self.owner.waiters.load(Ordering::Relaxed) > 0 {
            // Not between a waiter's last look and its wait.
            let _waiting = lock(&self.owner.waiting);
            self.owner.returned.notify_one();
        }
        self.owner.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only moves happen under the locks: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To each thread some.
fn shared_out(sessions: Vec<Running>) -> Striped<Mutex<Vec<Running>>> {
    let idle = Striped::<Mutex<Vec<Running>>>::default();
    let own: Vec<_> = idle.iter().collect();
    for (session, own) in sessions.into_iter().zip(own.iter().cycle()) {
        lock(own).push(session);
    }
    idle
}

/// A small model is run where it is called, and gets a session for each thread that may call it.
fn sessions_of(file_bytes: usize, options: &ModelOptions) -> usize {
    /// Such a file says little of how long a run takes; of what a session takes it says enough.
    const SMALL_BYTES: usize = 4 << 20;
    let callers = match thread::available_parallelism() {
        Ok(threads) if file_bytes <= SMALL_BYTES => threads.get(),
        _ => 1,
    };
    options.instances.get().max(callers)
}

fn builder(environment: &Environment, options: &ModelOptions) -> ort::Result<SessionBuilder> {
    let ort_options = options.onnxruntime;
    let level = match ort_options.graph_optimization {
        GraphOptimization::Disabled => GraphOptimizationLevel::Disable,
        GraphOptimization::Basic => GraphOptimizationLevel::Level1,
        GraphOptimization::Extended => GraphOptimizationLevel::Level2,
        GraphOptimization::All => GraphOptimizationLevel::All,
    };
    let arena = ep::CPU::default().with_arena_allocator(ort_options.arena);
    Ok(Running::builder(environment)?
        .with_execution_providers([arena.build().error_on_failure()])?
        .with_optimization_level(level)?
        .with_intra_threads(options.threads_per_run.get())?
        .with_inter_threads(1)?
        .with_intra_op_spinning(ort_options.spinning)?
        .with_inter_op_spinning(ort_options.spinning)?
        .with_memory_pattern(ort_options.memory_pattern)?)
}

/// Lets the sessions that are made with this builder have the weights once: as they are, and as the
/// first session packs them. ONNX Runtime shares packed weights only of those that it was given.
fn share_weights(
    mut builder: SessionBuilder,
    weights: &[(&str, Tensor)],
) -> ort::Result<SessionBuilder> {
    for (name, tensor) in weights {
        builder = builder.with_initializer(name, convert::owned(tensor)?)?;
    }
    Ok(builder.with_prepacked_weights(&PrepackedWeights::new())?)
}

/// Of each tensor of one side; `shape` says what a file leaves open.
fn specs(
    side: &str,
    outlets: &[Outlet],
    shape: impl Fn(&str) -> Result<Option<Vec<Dim>>, InferenceError>,
) -> Result<Vec<TensorSpec>, InferenceError> {
    let mut specs: Vec<TensorSpec> = Vec::new();
    for outlet in outlets {
        let name = outlet.name();
        let ValueType::Tensor {
            ty, shape: sizes, ..
        } = outlet.dtype()
        else {
            return Err(InferenceError::unsupported(format!(
                "{side} {name:?} is {}; only tensors are served",
                outlet.dtype()
            )));
        };
        let Some(dtype) = convert::dtype_of(*ty) else {
            return Err(InferenceError::unsupported(format!(
                "{side} {name:?} has elements of type {ty}, for which the Open Inference Protocol \
                 has no name"
            )));
        };
        if specs.iter().any(|known| known.name == name) {
            return Err(InferenceError::load(format!(
                "two {side}s are named {name:?}"
            )));
        }
        let dims = |size: &i64| u64::try_from(*size).map_or(Dim::Any, Dim::Fixed);
        specs.push(TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: match shape(name)? {
                Some(shape) => shape,
                None => sizes.iter().map(dims).collect(),
            },
        });
    }
    Ok(specs)
}

/// `NotImplemented` and an unknown operator are what this library lacks, not what is wrong with
/// the file.
fn load_error(reason: &str, error: &Error) -> InferenceError {
    const LACKS: [&str; 3] = [
        "is not a registered function/op",
        "Could not find an implementation",
        "is till opset",
    ];
    let message = error.message();
    if error.code() == ErrorCode::NotImplemented || LACKS.iter().any(|text| message.contains(text))
    {
        return InferenceError::unsupported(format!(
            "{reason}: {}",
            crate::error::shortened(message)
        ));
    }
    InferenceError::Load {
        reason: reason.to_owned(),
        source: EngineText::cause(message),
    }
}

/// The dimensions that have one name, and so should have one size, where there are several.
struct Symbols {
    places: BTreeMap<String, Vec<(usize, usize)>>,
}

impl Symbols {
    fn of(inputs: &[Outlet]) -> Self {
        let mut places: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        for (input, outlet) in inputs.iter().enumerate() {
            let ValueType::Tensor {
                dimension_symbols, ..
            } = outlet.dtype()
            else {
                continue;
            };
            for (axis, name) in dimension_symbols.iter().enumerate() {
                if !name.is_empty() {
                    places.entry(name.clone()).or_default().push((input, axis));
                }
            }
        }
        places.retain(|_, places| places.len() > 1);
        Symbols { places }
    }

    /// Which sizes contradict each other. ONNX Runtime does not mind until an operator does.
    fn disagreement(&self, signature: &Signature, inputs: &[Tensor]) -> Option<String> {
        let size = |(input, axis): (usize, usize)| inputs[input].shape()[axis];
        self.places.iter().find_map(|(symbol, places)| {
            let (first, rest) = places.split_first()?;
            let other = rest.iter().find(|place| size(**place) != size(*first))?;
            let describe = |(input, axis): (usize, usize)| {
                let name = &signature.inputs[input].name;
                let shape = display_shape(inputs[input].shape());
                format!("dimension {axis} of input {name:?} with shape {shape}")
            };
            Some(format!(
                "{} and {} are both {symbol} in the model and have different sizes",
                describe(*first),
                describe(*other)
            ))
        })
    }
}
