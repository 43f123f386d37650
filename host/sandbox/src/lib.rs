//! Predictors in WebAssembly sandboxes, with the node's engines behind `wasi:nn`.
//!
//! [`Sandbox`] is the node's one engine; a [`Predictor`] is a component with its models and its
//! instances. This crate is the only one that names wasmtime. It knows nothing of HTTP, of packages
//! or of deployments.

mod alarm;
mod bindings;
mod cache;
mod call_log;
mod compiler;
mod engine;
mod error;
mod guest;
mod host;
mod instance;
mod observer;
mod pool;
mod predictor;
mod streaming;
mod tensors;
mod wasi_nn;

pub use alarm::{Alarm, Late};
pub use compiler::{Compiler, compile};
pub use engine::{Program, Sandbox, SandboxConfig};
pub use error::{CallError, GuestFailure, ResponseExcess, SandboxError};
pub use instance::{CallTimes, Called, Deadline, Request, Response};
pub use observer::{LogEntry, LogLevel, Measurement, Observer};
pub use pool::InstanceCounts;
pub use predictor::{Predictor, PredictorSpec};
pub use streaming::{STREAM_BUFFER_BYTES, Stream};
