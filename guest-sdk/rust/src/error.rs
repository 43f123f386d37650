//! What a predictor answers when it does not answer.

use std::fmt;

use crate::model::{ErrorCode, ModelError};
use crate::tensor::TensorError;

/// Why a request gets no answer. `?` makes one of the errors of this crate, of serde_json and of
/// std::io; anything else goes through one of the constructors, which take whatever can be shown:
///
/// ```
/// # use dunlin_sdk::Error;
/// fn threshold(text: &str) -> Result<f32, Error> {
///     text.parse().map_err(|_| Error::bad_request("`threshold` is a number from 0 to 1"))
/// }
/// # assert_eq!(threshold("x"), Err(Error::BadRequest("`threshold` is a number from 0 to 1".into())));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is at fault: HTTP 400, and the caller reads the text.
    BadRequest(String),
    /// Try again later: HTTP 503, and the caller reads the text.
    Unavailable(String),
    /// The predictor is at fault: HTTP 500. The text goes to the log, the caller gets a request id.
    Internal(String),
}

impl Error {
    pub fn bad_request(message: impl fmt::Display) -> Self {
        Self::BadRequest(message.to_string())
    }

    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::Unavailable(message.to_string())
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::Internal(message.to_string())
    }

    /// The text without its kind.
    pub fn message(&self) -> &str {
        match self {
            Self::BadRequest(message) | Self::Unavailable(message) | Self::Internal(message) => {
                message
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::BadRequest(_) => "bad request",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal error",
        };
        write!(f, "{kind}: {}", self.message())
    }
}

impl std::error::Error for Error {}

/// A model that did not answer in time may do so later; everything else is the predictor's fault.
impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        match error.code() {
            ErrorCode::Timeout => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

/// A tensor that the predictor itself made or got from a model. Where the caller's data is at
/// fault, say so: `.map_err(Error::bad_request)`.
impl From<TensorError> for Error {
    fn from(error: TensorError) -> Self {
        Self::internal(error)
    }
}

/// For replies and configurations. A request's body is read with
/// [`Request::json`](crate::Request::json), which makes a `BadRequest`.
impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}
