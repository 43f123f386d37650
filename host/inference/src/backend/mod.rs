//! The seam between a model and the engine that runs it.
//!
//! Everything below `backend` may name an ML library; nothing above it does.

mod elf;
mod locate;
mod onnxruntime;
mod run_time;
mod source;
mod torchscript;
mod tract;

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::abort::Abort;
use crate::{InferenceError, Signature, Tensor, TensorSpec};

pub use locate::{BackendPaths, BackendReport, BackendState, Backends};
pub use source::ModelSource;
pub use torchscript::TORCHSCRIPT_SHIM;

/// An engine. Synchronous: loading runs on a thread of its own, running on the model's own.
pub trait Backend: fmt::Debug + Send + Sync {
    /// As in a deployment file: `tract`.
    fn name(&self) -> &'static str;

    /// As in the Open Inference Protocol's model metadata: `onnx_tract`.
    fn platform(&self) -> &'static str;

    /// Reads the model and prepares it as far as it can be without inputs.
    fn load(
        &self,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError>;
}

/// A loaded model. Runs may happen at once on several threads.
pub trait Session: Send + Sync {
    fn signature(&self) -> &Signature;

    /// Takes the inputs in the signature's order, each already checked against it, and gives the
    /// outputs in the signature's order, each of its declared datatype.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError>;

    /// As [`Session::run`]; an engine that can do so ends with an error once `abort` says so.
    fn run_abortable(
        &self,
        inputs: Vec<Tensor>,
        abort: &Abort,
    ) -> Result<Vec<Tensor>, InferenceError> {
        let _ = abort;
        self.run(inputs)
    }

    /// How long runs with inputs of these shapes took lately. None when nothing is known, and then
    /// the run may have to prepare something first and take far longer than a later one.
    fn estimate(&self, inputs: &[Tensor]) -> Option<Duration> {
        let _ = inputs;
        None
    }

    /// The same of inputs like these with so many rows, for a model whose first dimensions are rows.
    fn estimate_rows(&self, inputs: &[Tensor], rows: u64) -> Option<Duration> {
        let _ = (inputs, rows);
        None
    }

    /// How many runs there can be at once before one waits for another.
    fn runs_at_once(&self) -> usize {
        usize::MAX
    }

    /// Whether it prepares something for each number of rows, so that few different ones are better.
    fn prepares_sizes(&self) -> bool {
        false
    }
}

/// Whether a run of these takes so much memory that what an engine or the allocator would keep of it for
/// the next is given back instead.
pub(crate) fn is_large(inputs: &[Tensor]) -> bool {
    const LARGE_BYTES: usize = 4 << 20;
    inputs.iter().map(|input| input.data().len()).sum::<usize>() >= LARGE_BYTES
}

/// How a model is to be run. Models of the same content with different options are different.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelOptions {
    /// Runs at once, besides those that are so short that they stay with their callers: the `count` of
    /// Triton's `instance_group`.
    pub instances: NonZeroUsize,
    /// Threads that one run may use for large operations.
    pub threads_per_run: NonZeroUsize,
    /// Calls of one deployment that may wait for a run.
    pub queue_max: NonZeroUsize,
    /// A call that has waited so long is refused.
    pub queue_timeout: Option<Duration>,
    /// Calls share runs.
    pub batching: Option<BatchOptions>,
    /// Combinations of input shapes that stay prepared.
    pub plans_max: NonZeroUsize,
    /// The largest tensor that a run may make on its way, in bytes. Some models make one that
    /// grows with the square of an input; without a bound a small request could take all memory.
    pub tensor_bytes_max: NonZeroU64,
    pub onnxruntime: OnnxRuntimeOptions,
    pub torchscript: TorchScriptOptions,
    /// What a TorchScript file does not say. Where a file says it too, both must agree.
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// How calls are put together to runs; the names are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchOptions {
    /// Rows of one run.
    pub max_batch_size: NonZeroU64,
    /// Numbers of rows at which a run does not wait for more; none is as good as the greatest.
    pub preferred_batch_size: Vec<NonZeroU64>,
    /// How long the oldest call waits for others while the engine has other work.
    pub max_queue_delay: Duration,
}

/// Options that ONNX Runtime alone has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OnnxRuntimeOptions {
    pub graph_optimization: GraphOptimization,
    /// Memory of a run is kept for the next one.
    pub arena: bool,
    /// Threads wait for work by spinning.
    pub spinning: bool,
    /// One block of memory for each combination of input shapes.
    pub memory_pattern: bool,
}

/// How far ONNX Runtime rewrites a graph when it loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraphOptimization {
    Disabled,
    Basic,
    Extended,
    All,
}

/// Options that libtorch alone has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TorchScriptOptions {
    /// Folds and reorders weights when the model is loaded.
    pub optimize_for_inference: bool,
}

impl Default for ModelOptions {
    /// What a model gets that nobody has tuned.
    fn default() -> Self {
        ModelOptions {
            instances: NonZeroUsize::MIN,
            threads_per_run: NonZeroUsize::MIN,
            queue_max: const { NonZeroUsize::new(256).expect("not zero") },
            queue_timeout: None,
            batching: None,
            plans_max: const { NonZeroUsize::new(16).expect("not zero") },
            tensor_bytes_max: const { NonZeroU64::new(1 << 30).expect("not zero") },
            onnxruntime: OnnxRuntimeOptions::default(),
            torchscript: TorchScriptOptions::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

impl Default for OnnxRuntimeOptions {
    fn default() -> Self {
        OnnxRuntimeOptions {
            graph_optimization: GraphOptimization::All,
            arena: true,
            spinning: false,
            memory_pattern: false,
        }
    }
}

/// Which engine a deployment asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// The best one for the model that this node has.
    #[default]
    Auto,
    Tract,
    OnnxRuntime,
    TorchScript,
}

impl BackendKind {
    const ALL: [BackendKind; 4] = [
        BackendKind::Auto,
        BackendKind::Tract,
        BackendKind::OnnxRuntime,
        BackendKind::TorchScript,
    ];

    /// As in a deployment file.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Auto => "auto",
            BackendKind::Tract => "tract",
            BackendKind::OnnxRuntime => "onnxruntime",
            BackendKind::TorchScript => "torchscript",
        }
    }

    pub fn from_name(name: &str) -> Option<BackendKind> {
        BackendKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}
