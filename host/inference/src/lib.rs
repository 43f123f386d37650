//! Tensors, models and the engines that run them.
//!
//! From the outside in: [`Registry`] loads each model once and checks it, [`Model`] takes named
//! tensors, checks them against its [`Signature`] and runs them, a [`Session`] of a [`Backend`]
//! computes. This crate knows neither Wasm nor HTTP, and only `backend` names an ML library.

mod abort;
mod backend;
mod background;
mod batching;
mod dtype;
mod engine;
mod error;
mod fair;
mod golden;
mod histogram;
mod model;
mod registry;
mod signature;
mod stats;
mod striped;
mod tensor;

pub use abort::{Abort, Stop, Stoppable};
pub use backend::{
    Backend, BackendKind, BackendPaths, BackendReport, BackendState, Backends, BatchOptions,
    GraphOptimization, ModelOptions, ModelSource, OnnxRuntimeOptions, Session, TORCHSCRIPT_SHIM,
    TorchScriptOptions,
};
pub use background::percent_owed;
pub use dtype::DType;
pub use error::{Cause, GoldenMismatch, InferenceError, one_line};
pub use fair::FairQueue;
pub use golden::{Golden, Tolerance};
pub use histogram::{Histogram, HistogramSnapshot};
pub use model::{CallOptions, Model, NamedTensors};
pub use registry::{GoldenSample, LoadRequest, Registry};
pub use signature::{Dim, Signature, TensorSpec};
pub use stats::{BatchTimes, RunObserver, Stats, StatsSnapshot, Times, Timing};
pub use striped::{Striped, number_thread};
pub use tensor::{Element, RANK_MAX, Shape, Tensor, TensorError};
