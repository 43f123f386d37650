//! A host for native tests: fake models, and what the predictor logged and counted.
//!
//! Everything is kept for each thread, and the test runner gives each test a thread of its own, so
//! tests do not see each other. Time stands still until [`advance`] moves it.
//!
//! ```
//! use dunlin_sdk::{ErrorCode, Model, ModelError, Tensor, Tensors, testing};
//!
//! testing::model("double", |inputs: &Tensors| {
//!     let x = inputs.output("x")?.as_f32()?;
//!     if x.is_empty() {
//!         return Err(ModelError::new(ErrorCode::InvalidArgument, "x is empty"));
//!     }
//!     let doubled: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
//!     Ok(Tensors::from([("y", Tensor::f32([x.len()], doubled)?)]))
//! });
//!
//! let model = Model::open("double").unwrap();
//! let outputs = model.infer(&[("x", Tensor::f32([2], &[1.0, 2.0]).unwrap())]).unwrap();
//! assert_eq!(outputs.output("y").unwrap().as_f32().unwrap().as_ref(), [2.0, 4.0]);
//!
//! let error = model.infer(&[("x", Tensor::f32([0], &[]).unwrap())]).unwrap_err();
//! assert_eq!(error.to_string(), "model `double`: x is empty (invalid-argument)");
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use crate::log::Level;
use crate::model::{ErrorCode, ModelError};
use crate::tensor::TensorError;
use crate::tensors::Tensors;

/// Registers a model for this thread, in place of any of that name.
pub fn model(name: &str, infer: impl Fn(&Tensors) -> Result<Tensors, ModelError> + 'static) {
    with(|state| {
        state
            .models
            .insert(name.to_owned(), FakeModel(Rc::new(infer)))
    });
}

/// An event that the predictor logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

/// Takes what was logged on this thread so far.
pub fn logs() -> Vec<LogEvent> {
    with(|state| mem::take(&mut state.logs))
}

/// The counter's sum; 0 for one that was never added to.
pub fn counter(name: &str) -> f64 {
    with(|state| state.counters.get(name).copied().unwrap_or_default())
}

pub fn gauge(name: &str) -> Option<f64> {
    with(|state| state.gauges.get(name).copied())
}

/// The histogram's values in their order.
pub fn histogram(name: &str) -> Vec<f64> {
    with(|state| state.histograms.get(name).cloned().unwrap_or_default())
}

/// An answer that was sent in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub pieces: Vec<Vec<u8>>,
}

/// Takes the answer that was begun on this thread; none where the answer was a whole one.
pub fn streamed() -> Option<Streamed> {
    with(|state| state.streamed.take())
}

/// Lets the caller leave once so many pieces of an answer are sent.
pub fn caller_leaves_after(pieces: usize) {
    with(|state| state.caller_leaves_after = Some(pieces));
}

/// Moves both clocks of this thread.
pub fn advance(by: Duration) {
    with(|state| {
        state.now += by;
        state.monotonic += by;
    });
}

/// An error in a fake model's own tensors.
impl From<TensorError> for ModelError {
    fn from(error: TensorError) -> Self {
        Self::new(ErrorCode::RuntimeError, error)
    }
}

type Infer = dyn Fn(&Tensors) -> Result<Tensors, ModelError>;

#[derive(Clone)]
pub(crate) struct FakeModel(Rc<Infer>);

impl FakeModel {
    pub(crate) fn run(&self, inputs: &Tensors) -> Result<Tensors, ModelError> {
        (self.0)(inputs)
    }
}

impl fmt::Debug for FakeModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeModel")
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) models: BTreeMap<String, FakeModel>,
    pub(crate) logs: Vec<LogEvent>,
    pub(crate) counters: BTreeMap<String, f64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) histograms: BTreeMap<String, Vec<f64>>,
    pub(crate) now: Duration,
    pub(crate) monotonic: Duration,
    pub(crate) random: u64,
    pub(crate) streamed: Option<Streamed>,
    pub(crate) caller_leaves_after: Option<usize>,
}

pub(crate) fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    thread_local! {
        static STATE: RefCell<State> = RefCell::new(State {
            // 2024-01-01, so that a time looks like one.
            now: Duration::from_secs(1_704_067_200),
            ..State::default()
        });
    }
    STATE.with_borrow_mut(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, metrics};

    #[test]
    fn time_moves_only_when_told() {
        let (now, start) = (clock::now(), clock::monotonic());
        assert_eq!(clock::now(), now);
        advance(Duration::from_millis(5));
        assert_eq!(clock::now() - now, Duration::from_millis(5));
        assert_eq!(clock::monotonic() - start, Duration::from_millis(5));
    }

    #[test]
    fn metrics_are_kept_as_the_node_keeps_them() {
        for value in [1.0, 2.0, -1.0, f64::NAN] {
            metrics::counter_add("c", value);
            metrics::histogram_observe("h", 1.0);
            metrics::gauge_set("g", 7.0);
        }
        assert_eq!((counter("c"), counter("none")), (3.0, 0.0));
        assert_eq!(
            (histogram("h").len(), gauge("g"), gauge("none")),
            (4, Some(7.0), None)
        );
    }
}
