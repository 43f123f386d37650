//! A model as its users see it: named tensors in, named tensors out.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::{Caller, Engine};
use crate::{InferenceError, RunObserver, Signature, Stats, Tensor};

/// Named tensors, in any order going in and in the signature's order coming out.
pub type NamedTensors = Vec<(String, Tensor)>;

/// What may be said of a call besides its inputs.
#[derive(Clone, Default)]
pub struct CallOptions {
    /// By then somebody still waits for the answer. A call that cannot have it by then, as far as
    /// is known of those before it, takes neither a place in the queue nor a run.
    pub deadline: Option<Instant>,
    /// Is told where the time went.
    pub observer: Option<Arc<dyn RunObserver>>,
}

/// A model as one revision sees it: an engine that others may share, and counters of its own. It
/// has no name: a name is its deployment's.
#[derive(Clone)]
pub struct Model {
    pub(crate) engine: Arc<Engine>,
    stats: Arc<Stats>,
    weight: NonZeroU32,
}

impl Model {
    pub(crate) fn new(engine: Arc<Engine>) -> Model {
        Model {
            engine,
            stats: Arc::default(),
            weight: NonZeroU32::MIN,
        }
    }

    /// The same model for a deployment that has this weight among those that share the engine.
    pub fn of_weight(self, weight: NonZeroU32) -> Model {
        Model { weight, ..self }
    }

    /// Whether both are run by one loaded engine.
    pub fn shares_engine(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    pub fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    /// The engine's name: `tract`.
    pub fn backend(&self) -> &'static str {
        self.engine.backend()
    }

    /// The `platform` of the Open Inference Protocol's model metadata: `onnx_tract`.
    pub fn platform(&self) -> &'static str {
        self.engine.platform()
    }

    /// Calls that wait for the engine, of everybody who shares it.
    pub fn waiting(&self) -> usize {
        self.engine.waiting()
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Runs the model. A dropped future gives up the call: it is not run if it still waits, and
    /// its answer is thrown away if it runs.
    pub async fn infer(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        self.infer_with(inputs, CallOptions::default()).await
    }

    /// As [`Model::infer`], with a deadline or somebody who is told where the time went.
    pub async fn infer_with(
        &self,
        inputs: NamedTensors,
        options: CallOptions,
    ) -> Result<NamedTensors, InferenceError> {
        let called = Instant::now();
        let inputs = self.order(inputs, called)?;
        let caller = self.caller(called, options);
        self.engine.infer(inputs, caller, &self.stats).await
    }

    /// Runs the model on this thread, however long it takes.
    pub fn infer_blocking(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        let called = Instant::now();
        let inputs = self.order(inputs, called)?;
        self.engine
            .run(inputs, &self.caller(called, CallOptions::default()))
    }

    /// As [`Model::infer_blocking`], for calls that nobody made: the statistics do not see it.
    pub(crate) fn rehearse(&self, inputs: NamedTensors) -> Result<NamedTensors, InferenceError> {
        self.engine.rehearse(self.signature().order_inputs(inputs)?)
    }

    fn caller(&self, called: Instant, options: CallOptions) -> Caller {
        Caller {
            called,
            deadline: options.deadline,
            stats: Arc::clone(&self.stats),
            weight: self.weight,
            observer: options.observer,
        }
    }

    fn order(&self, inputs: NamedTensors, called: Instant) -> Result<Vec<Tensor>, InferenceError> {
        let inputs = self.signature().order_inputs(inputs);
        inputs
            .and_then(|inputs| self.engine.check_rows(&inputs).map(|()| inputs))
            .inspect_err(|_| self.stats().failed(called.elapsed()))
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions")
            .field("deadline", &self.deadline)
            .field("observed", &self.observer.is_some())
            .finish()
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
