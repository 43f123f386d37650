//! What a predictor tells of itself, handed on to whoever runs it.

/// How much a log entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One entry of a predictor's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub level: LogLevel,
    /// The request that was being answered; empty during `init`.
    pub request_id: String,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

/// A measurement that a predictor reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measurement {
    CounterAdd(f64),
    GaugeSet(f64),
    HistogramObserve(f64),
}

/// Takes what a predictor logs and measures. Called in the middle of a request: it must not block,
/// and bounds what it keeps.
pub trait Observer: Send + Sync + 'static {
    fn log(&self, entry: LogEntry);
    fn measure(&self, name: &str, measurement: Measurement);
}
