//! Models of the package, reached through `wasi:nn`.

use std::fmt;

use thiserror::Error;

use crate::host;
use crate::tensor::Tensor;
use crate::tensors::Tensors;

/// A model of the package, ready to answer. The node has loaded it already, and shares it among all
/// instances: opening costs two calls to the host. Open it in `init` and keep it.
#[derive(Debug)]
pub struct Model {
    name: String,
    session: host::Session,
}

/// How a model given as bytes is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Onnx,
    /// TorchScript.
    Pytorch,
    Autodetect,
}

/// What `wasi:nn` says went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    InvalidArgument,
    InvalidEncoding,
    Timeout,
    RuntimeError,
    UnsupportedOperation,
    TooLarge,
    NotFound,
    Security,
    Unknown,
}

/// A call to a model that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("model `{model}`: {message} ({code})")]
pub struct ModelError {
    model: String,
    code: ErrorCode,
    message: String,
}

impl Model {
    /// Opens a model by its name in the deployment file. An unknown name is
    /// [`ErrorCode::NotFound`].
    pub fn open(name: &str) -> Result<Self, ModelError> {
        Self::opened(name, host::open(name))
    }

    /// Loads a model from bytes instead, in parts where its encoding has parts. The deployment file
    /// must grant `load`; without it this is [`ErrorCode::Security`] or
    /// [`ErrorCode::UnsupportedOperation`].
    pub fn load(parts: &[Vec<u8>], encoding: Encoding) -> Result<Self, ModelError> {
        Self::opened("from bytes", host::load(parts, encoding))
    }

    fn opened(name: &str, session: Result<host::Session, ModelError>) -> Result<Self, ModelError> {
        match session {
            Ok(session) => Ok(Self {
                name: name.to_owned(),
                session,
            }),
            Err(error) => Err(error.of(name)),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the model once. The host checks names, datatypes and shapes against the model's
    /// signature; what is wrong is [`ErrorCode::InvalidArgument`] with a text that names the
    /// tensor.
    pub fn infer<N: AsRef<str>>(&self, inputs: &[(N, Tensor<'_>)]) -> Result<Tensors, ModelError> {
        self.session
            .compute(inputs)
            .map_err(|error| error.of(&self.name))
    }
}

impl ErrorCode {
    /// The name in `wasi:nn`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidEncoding => "invalid-encoding",
            Self::Timeout => "timeout",
            Self::RuntimeError => "runtime-error",
            Self::UnsupportedOperation => "unsupported-operation",
            Self::TooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::Security => "security",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelError {
    /// What a fake model fails with; the name of the model is filled in by [`Model::infer`].
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            model: String::new(),
            code,
            message: message.to_string(),
        }
    }

    fn of(self, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            ..self
        }
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The host's own text.
    pub fn message(&self) -> &str {
        &self.message
    }
}
