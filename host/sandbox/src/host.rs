//! The imports of the predictor world, but for `wasi:nn`.

use std::time::{SystemTime, UNIX_EPOCH};

use wasmtime::{
    Engine,
    component::{HasSelf, Linker},
    format_err,
};

use crate::{
    bindings::{World, clock, logging, metrics, random, types},
    guest::Guest,
    observer::{LogLevel, Measurement},
};

/// A message and its fields beyond this are cut.
const LOG_BYTES_MAX: usize = 8 << 10;
const LOG_FIELDS_MAX: usize = 32;
const METRIC_NAME_MAX: usize = 64;
const RANDOM_BYTES_MAX: u32 = 64 << 10;

/// Every import that a predictor may have. Which of them this predictor may use is checked against
/// its deployment file before it is compiled, and here once more.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    World::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

impl types::Host for Guest {}

impl logging::Host for Guest {
    fn log(
        &mut self,
        level: logging::Level,
        mut message: String,
        mut fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        cut(&mut message, LOG_BYTES_MAX);
        fields.truncate(LOG_FIELDS_MAX);
        for (name, value) in &mut fields {
            cut(name, METRIC_NAME_MAX);
            cut(value, LOG_BYTES_MAX);
        }
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
        };
        self.log.log(level, message, fields);
        Ok(())
    }
}

pub(crate) fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}

impl metrics::Host for Guest {
    fn counter_add(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        if value >= 0.0 {
            self.measure(&name, Measurement::CounterAdd(value));
        }
        Ok(())
    }

    fn gauge_set(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.measure(&name, Measurement::GaugeSet(value));
        Ok(())
    }

    fn histogram_observe(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.measure(&name, Measurement::HistogramObserve(value));
        Ok(())
    }
}

impl Guest {
    fn measure(&self, name: &str, measurement: Measurement) {
        let (Measurement::CounterAdd(value)
        | Measurement::GaugeSet(value)
        | Measurement::HistogramObserve(value)) = measurement;
        let named = !name.is_empty()
            && name.len() <= METRIC_NAME_MAX
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if named && value.is_finite() {
            self.shared.observer.measure(name, measurement);
        }
    }

    fn require(&self, granted: bool, what: &str) -> wasmtime::Result<()> {
        if granted {
            return Ok(());
        }
        Err(format_err!(
            "the deployment file does not grant `{what}`; add it to predictor.grants"
        ))
    }
}

impl clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.require(self.shared.grants.clock, "clock")?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(u64::try_from(since_epoch.as_nanos())?)
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        self.require(self.shared.grants.clock, "clock")?;
        Ok(u64::try_from(self.started.elapsed().as_nanos())?)
    }
}

impl random::Host for Guest {
    fn get_bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        self.require(self.shared.grants.random, "random")?;
        if len > RANDOM_BYTES_MAX {
            return Err(format_err!(
                "{len} random bytes were asked for at once, and {RANDOM_BYTES_MAX} is the most"
            ));
        }
        let mut bytes = vec![0; len as usize];
        getrandom::fill(&mut bytes).map_err(|error| format_err!("no randomness: {error}"))?;
        Ok(bytes)
    }
}
