//! The host of native tests: what `testing` registered on this thread.

use crate::log::Level;
use crate::model::{Encoding, ErrorCode, ModelError};
use crate::stream::StreamError;
use crate::tensor::Tensor;
use crate::tensors::Tensors;
use crate::testing;

#[derive(Debug)]
pub(crate) struct Session {
    model: testing::FakeModel,
}

pub(crate) fn open(name: &str) -> Result<Session, ModelError> {
    testing::with(|state| state.models.get(name).cloned())
        .map(|model| Session { model })
        .ok_or_else(|| {
            ModelError::new(
                ErrorCode::NotFound,
                "no such model; register a fake one with dunlin_sdk::testing::model",
            )
        })
}

pub(crate) fn load(_parts: &[Vec<u8>], _encoding: Encoding) -> Result<Session, ModelError> {
    Err(ModelError::new(
        ErrorCode::UnsupportedOperation,
        "a native test loads no models from bytes",
    ))
}

impl Session {
    pub(crate) fn compute<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor<'_>)],
    ) -> Result<Tensors, ModelError> {
        let inputs = inputs
            .iter()
            .map(|(name, tensor)| (name.as_ref(), tensor.clone()))
            .collect();
        self.model.run(&inputs)
    }
}

/// Keeps the pieces for [`testing::streamed`].
#[derive(Debug)]
pub(crate) struct BodyWriter;

impl BodyWriter {
    pub(crate) fn start(status: u16, headers: Vec<(String, String)>) -> Result<Self, StreamError> {
        testing::with(|state| {
            if state.streamed.is_some() {
                return Err(StreamError::Refused);
            }
            state.streamed = Some(testing::Streamed {
                status,
                headers,
                pieces: Vec::new(),
            });
            Ok(Self)
        })
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        testing::with(|state| {
            let streamed = state.streamed.as_mut().ok_or(StreamError::Closed)?;
            if state.caller_leaves_after == Some(streamed.pieces.len()) {
                return Err(StreamError::Closed);
            }
            streamed.pieces.push(piece.to_vec());
            Ok(())
        })
    }
}

pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
    let event = testing::LogEvent {
        level,
        message: message.to_owned(),
        fields: fields.to_owned(),
    };
    testing::with(|state| state.logs.push(event));
}

pub(crate) fn counter_add(name: &str, value: f64) {
    if value >= 0.0 && value.is_finite() {
        testing::with(|state| *state.counters.entry(name.to_owned()).or_default() += value);
    }
}

pub(crate) fn gauge_set(name: &str, value: f64) {
    testing::with(|state| state.gauges.insert(name.to_owned(), value));
}

pub(crate) fn histogram_observe(name: &str, value: f64) {
    testing::with(|state| {
        state
            .histograms
            .entry(name.to_owned())
            .or_default()
            .push(value)
    });
}

pub(crate) fn now() -> u64 {
    testing::with(|state| nanoseconds(state.now))
}

pub(crate) fn monotonic() -> u64 {
    testing::with(|state| nanoseconds(state.monotonic))
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same bytes in each test.
pub(crate) fn random_bytes(len: u32) -> Vec<u8> {
    testing::with(|state| {
        (0..len)
            .map(|_| {
                state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = state.random;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed >> 56) as u8
            })
            .collect()
    })
}
