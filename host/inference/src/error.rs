//! What can go wrong between a model file and an answer.

use std::any::Any;
use std::error::Error;
use std::time::Duration;

use crate::TensorError;

/// A variant for each thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The request is at fault; the text names the tensor and what was expected.
    #[error("{reason}")]
    InvalidInput {
        reason: String,
        #[source]
        source: Option<Cause>,
    },

    /// The model or the choice of backend asks for what this node does not have.
    #[error("{reason}")]
    Unsupported { reason: String },

    /// The model file is unreadable, corrupt, or makes no sense to the engine.
    #[error("{reason}")]
    Load {
        reason: String,
        #[source]
        source: Option<Cause>,
    },

    /// The engine failed on inputs that fit the signature.
    #[error("{reason}")]
    Runtime {
        reason: String,
        #[source]
        source: Option<Cause>,
    },

    /// The model's queue is full; the same call may succeed later.
    #[error("the model has {waiting} requests waiting, its bound; try again later")]
    Overloaded { waiting: usize },
    /// The call waited for a run for longer than the model allows.
    #[error("the call waited {} ms for the model, longer than default_timeout_microseconds allows", waited.as_millis())]
    QueueTimeout { waited: Duration },
    /// Of what waits before the call there is more than can be done by its deadline.
    #[error("the model has more to do than it can by the request's deadline; try again later")]
    TooLate,

    /// The golden sample is unreadable or does not belong to the model.
    #[error("golden sample: {reason}")]
    GoldenUnusable { reason: String },

    /// The model answers otherwise than the original did.
    #[error(transparent)]
    GoldenMismatch(Box<GoldenMismatch>),
}

/// The element of an output that is furthest from the golden sample.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "golden sample: output {tensor:?} at {index:?} is {got}, expected {expected} within {tolerance:e}; \
     {mismatches} of {elements} elements are outside the tolerance"
)]
pub struct GoldenMismatch {
    pub tensor: String,
    /// Of the whole sample, rows first.
    pub index: Vec<u64>,
    pub expected: String,
    pub got: String,
    /// How far from the expected value this element may be; 0 for everything but floats.
    pub tolerance: f64,
    /// Elements of this tensor outside the tolerance.
    pub mismatches: u64,
    /// Elements of this tensor.
    pub elements: u64,
}

/// What an engine or the operating system said.
pub type Cause = Box<dyn Error + Send + Sync>;

impl InferenceError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        InferenceError::InvalidInput {
            reason: reason.into(),
            source: None,
        }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        InferenceError::Unsupported {
            reason: reason.into(),
        }
    }

    pub(crate) fn load(reason: impl Into<String>) -> Self {
        InferenceError::Load {
            reason: reason.into(),
            source: None,
        }
    }

    pub(crate) fn runtime(reason: impl Into<String>) -> Self {
        InferenceError::Runtime {
            reason: reason.into(),
            source: None,
        }
    }
}

/// A tensor that a caller built wrongly.
impl From<TensorError> for InferenceError {
    fn from(error: TensorError) -> Self {
        InferenceError::invalid(error.to_string())
    }
}

/// The error and its causes on one line, for a message that has no room for a chain.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Engines like to repeat the cause in the outer text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What a native engine said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EngineText(String);

impl EngineText {
    pub(crate) fn cause(text: &str) -> Option<Cause> {
        Some(Box::new(EngineText(shortened(text))))
    }
}

/// An engine's text on one line, without most of it where it is very long: engines print whole
/// nodes into their errors, constants included, and whole tracebacks.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 600;
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut text = words.join(" ");
    if let Some((end, _)) = text.char_indices().nth(CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
