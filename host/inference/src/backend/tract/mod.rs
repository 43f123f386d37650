//! tract, the engine that is compiled in: pure Rust, CPU only.
//!
//! tract is fast where every dimension is a number, so a model is parsed once into a graph with
//! symbolic dimensions, and each combination of input sizes that occurs gets an optimised plan of its own
//! ([`plans`]). A plan is immutable while it runs, so runs share it without a lock.
//!
//! tract reports most trouble as an error, but not all: corrupt files and rare operators reach
//! `unwrap`s inside it. Every entry goes through [`guard`], which makes an error of a panic.

mod binding;
mod bounds;
mod convert;
mod onnx_file;
mod plans;
mod session;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::TractResult;

use crate::backend::{Backend, ModelOptions, ModelSource, Session};
use crate::error::{panic_text, shortened};
use crate::{Cause, InferenceError};

#[derive(Debug)]
pub(super) struct Tract;

impl Tract {
    /// The line of tract that the workspace asks for.
    pub(super) const VERSION: &'static str = "0.23";
}

impl Backend for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn platform(&self) -> &'static str {
        "onnx_tract"
    }

    fn load(
        &self,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Box<dyn Session>, InferenceError> {
        Ok(Box::new(session::TractSession::load(source, options)?))
    }
}

/// Calls into tract. Unwind safety is asserted because nothing half-changed outlives a panic: what
/// the call owns is dropped with it, and what it borrows (graphs, plans) tract does not change
/// through a shared reference.
fn guard<T>(call: impl FnOnce() -> TractResult<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::new(&format!("{error:#}"))),
        Err(payload) => Err(Failure::new(&format!(
            "tract panicked: {}",
            panic_text(&*payload)
        ))),
    }
}

/// What tract said. Cheap enough to keep for the next caller with the same shapes.
#[derive(Clone, Debug)]
struct Failure {
    text: String,
}

impl Failure {
    fn new(text: &str) -> Self {
        Failure {
            text: shortened(text),
        }
    }

    fn load(self, reason: impl Into<String>) -> InferenceError {
        InferenceError::Load {
            reason: reason.into(),
            source: Some(self.into_cause()),
        }
    }

    fn invalid(self, reason: impl Into<String>) -> InferenceError {
        InferenceError::InvalidInput {
            reason: reason.into(),
            source: Some(self.into_cause()),
        }
    }

    fn runtime(self, reason: impl Into<String>) -> InferenceError {
        InferenceError::Runtime {
            reason: reason.into(),
            source: Some(self.into_cause()),
        }
    }

    fn into_cause(self) -> Cause {
        Box::new(self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
