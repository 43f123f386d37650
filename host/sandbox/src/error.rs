//! What can go wrong between a predictor and its caller.

use std::time::Duration;

use crate::bindings::types;

/// A component that does not become a predictor.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the WebAssembly engine does not start")]
    Engine(#[source] wasmtime::Error),
    #[error("the folder for compiled components, {path}, cannot be used")]
    Cache {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// Compilation refused the component: it is not valid WebAssembly, or larger than an instance
    /// may be.
    #[error("the predictor does not compile: {0:#}")]
    Compile(#[source] wasmtime::Error),
    /// The component's imports or exports have the right names and the wrong types.
    #[error("the predictor does not fit the world dunlin:predictor@0.1.0: {0:#}")]
    World(#[source] wasmtime::Error),
    #[error("limits.memory is {asked} bytes and this node allows {allowed} (guest_memory_max)")]
    MemoryLimit { asked: u64, allowed: u64 },
    /// The first instance did not come up.
    #[error("the predictor's init failed: {0}")]
    Init(#[source] CallError),
}

/// A call that has no answer from the predictor. An error that the predictor itself returned is
/// here too, as [`CallError::Guest`].
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Guest(#[from] GuestFailure),
    /// The guest panicked, reached `unreachable`, or broke a rule of the interface. The instance is
    /// gone.
    #[error("the predictor trapped: {0:#}")]
    Trap(#[source] wasmtime::Error),
    #[error("the predictor needed more than its {limit} bytes of memory (limits.memory)")]
    OutOfMemory { limit: u64 },
    #[error(
        "the predictor held more than {limit} bytes in tensors on the node (limits.tensor_memory)"
    )]
    TensorMemory { limit: u64 },
    #[error("the predictor's call stack overflowed")]
    StackOverflow,
    #[error("the predictor did not answer within {0:?}")]
    DeadlineExceeded(Duration),
    /// All instances were busy until the deadline, or the node has none left.
    #[error("all instances are busy")]
    Overloaded,
    #[error("the predictor answered with {size} bytes, and limits.response_body is {limit}")]
    ResponseTooLarge { size: u64, limit: u64 },
    #[error("the predictor does not serve tensors")]
    NoTensorHandler,
}

/// An error that the predictor returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    #[error("bad request: {0}")]
    BadRequest(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
    #[error("internal: {0}")]
    Internal(String),
}

impl From<types::Error> for GuestFailure {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::BadRequest(message) => Self::BadRequest(message),
            types::Error::Unavailable(message) => Self::Unavailable(message),
            types::Error::Internal(message) => Self::Internal(message),
        }
    }
}
