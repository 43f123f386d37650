//! What can go wrong between a predictor and its caller.

use std::{fmt, time::Duration};

use crate::{bindings::types, host::cut};

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
    #[error(
        "the predictor's call stack overflowed; if that is no endless recursion, give it more \
         (predictor.stack)"
    )]
    StackOverflow,
    #[error("the predictor did not answer within {0:?}")]
    DeadlineExceeded(Duration),
    /// All instances were busy until the deadline, or the node has none left.
    #[error("all instances are busy")]
    Overloaded,
    #[error("the predictor answered with {excess}")]
    ResponseTooLarge { excess: ResponseExcess },
    #[error("the predictor does not serve tensors")]
    NoTensorHandler,
}

/// What a response had too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseExcess {
    /// Bytes of the body, or of the tensors.
    Body { size: u64, limit: u64 },
    /// Headers, and the bytes of their names and values.
    Headers { count: usize, size: usize },
}

/// Headers of one response.
pub(crate) const RESPONSE_HEADERS_MAX: usize = 256;
/// Bytes of their names and values.
pub(crate) const RESPONSE_HEADER_BYTES_MAX: usize = 64 << 10;

impl fmt::Display for ResponseExcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body { size, limit } => {
                write!(f, "{size} bytes, and limits.response_body is {limit}")
            }
            Self::Headers { count, size } => write!(
                f,
                "{count} headers of {size} bytes, and {RESPONSE_HEADERS_MAX} of \
                 {RESPONSE_HEADER_BYTES_MAX} are the most"
            ),
        }
    }
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

/// The text of a predictor's error beyond this is cut: it is an answer or a log line, no body.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

impl From<types::Error> for GuestFailure {
    fn from(error: types::Error) -> Self {
        let short = |mut message| {
            cut(&mut message, MESSAGE_BYTES_MAX);
            message
        };
        match error {
            types::Error::BadRequest(message) => Self::BadRequest(short(message)),
            types::Error::Unavailable(message) => Self::Unavailable(short(message)),
            types::Error::Internal(message) => Self::Internal(short(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_error_is_cut() {
        let failure = GuestFailure::from(types::Error::BadRequest("é".repeat(1 << 20)));
        assert!(
            matches!(failure, GuestFailure::BadRequest(text) if text.len() == MESSAGE_BYTES_MAX)
        );
    }
}
