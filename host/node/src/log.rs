//! The node's log: its format and its level, which may change while it runs.

use std::io;

use edge_config::{LogFormat, LogLevel};
use tracing_subscriber::{
    Layer as _, Registry, filter::LevelFilter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::log_writer::LogWriter;

/// A handle: clones are one log.
#[derive(Debug, Clone)]
pub struct Log {
    writer: LogWriter,
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Sends what is logged from now on to standard error. `colours` are for text on a terminal.
    ///
    /// # Errors
    /// The process has no file descriptor or no thread left, or has a log already.
    pub fn start(config: &edge_config::Log, colours: bool) -> io::Result<Self> {
        let writer = LogWriter::stderr()?;
        let (filter, level) = reload::Layer::new(filter(config.level));
        let sink = writer.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || sink.clone())
            .with_ansi(colours);
        let lines = match config.format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        subscriber.try_init().map_err(io::Error::other)?;
        Ok(Self { writer, level })
    }

    pub fn writer(&self) -> &LogWriter {
        &self.writer
    }

    /// The least important events that are logged.
    pub(crate) fn level(&self) -> LogLevel {
        let filter = self.level.clone_current();
        let levels = LogLevel::ALL.into_iter().map(|(_, level)| level);
        let current = levels
            .into_iter()
            .find(|level| Some(self::filter(*level)) == filter);
        current.unwrap_or(LogLevel::Info)
    }

    pub(crate) fn set_level(&self, level: LogLevel) {
        // It fails only where the subscriber is gone, and that one lives as long as the process.
        let _set = self.level.reload(filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
