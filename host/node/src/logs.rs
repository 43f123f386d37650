//! The last log entries of a deployment, for `dunlin logs`.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dunlin_sandbox::{LogEntry, LogLevel};
use serde::Serialize;
use tokio::sync::Notify;

/// What is kept of each deployment; the oldest goes first.
const ENTRIES_MAX: usize = 1000;
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogLine {
    pub(crate) seq: u64,
    /// RFC 3339, in UTC.
    pub(crate) time: String,
    pub(crate) level: &'static str,
    pub(crate) request_id: String,
    pub(crate) message: String,
    pub(crate) fields: serde_json::Map<String, serde_json::Value>,
}

impl LogLine {
    fn size(&self) -> usize {
        let fields = self
            .fields
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len));
        128 + self.message.len() + self.request_id.len() + fields.sum::<usize>()
    }
}

#[derive(Default)]
pub(crate) struct Logs {
    kept: Mutex<Kept>,
    added: Notify,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next: u64,
}

impl Logs {
    pub(crate) fn add(&self, entry: LogEntry) {
        let mut kept = self.lock();
        let line = LogLine {
            seq: kept.next,
            time: jiff::Timestamp::now().to_string(),
            level: name(entry.level),
            request_id: entry.request_id,
            message: entry.message,
            fields: entry
                .fields
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        };
        kept.next += 1;
        kept.bytes += line.size();
        kept.lines.push_back(line);
        while kept.lines.len() > ENTRIES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= oldest.size();
        }
        drop(kept);
        self.added.notify_waiters();
    }

    /// The entries from `seq` on that are still kept, and the number the next one will get.
    pub(crate) fn since(&self, seq: u64) -> (Vec<LogLine>, u64) {
        let kept = self.lock();
        let lines = kept.lines.iter().filter(|line| line.seq >= seq);
        (lines.cloned().collect(), kept.next)
    }

    /// As [`Logs::since`], waiting for the first entry where there is none yet. The caller bounds
    /// the wait; dropping the future loses nothing.
    pub(crate) async fn wait_since(&self, seq: u64) -> (Vec<LogLine>, u64) {
        loop {
            // Listening starts before looking, or an entry in between would be missed.
            let added = self.added.notified();
            let (lines, next) = self.since(seq);
            if !lines.is_empty() {
                return (lines, next);
            }
            added.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> LogEntry {
        LogEntry {
            level: LogLevel::Info,
            request_id: "r".to_owned(),
            message: message.to_owned(),
            fields: vec![("k".to_owned(), "v".to_owned())],
        }
    }

    #[test]
    fn the_oldest_entries_go_first() {
        let logs = Logs::default();
        for number in 0..ENTRIES_MAX + 10 {
            logs.add(entry(&number.to_string()));
        }
        let (lines, next) = logs.since(0);
        assert_eq!(lines.len(), ENTRIES_MAX);
        assert_eq!(lines[0].message, "10");
        assert_eq!(next, ENTRIES_MAX as u64 + 10);
        assert!(logs.since(next).0.is_empty());
    }

    #[test]
    fn a_flood_of_long_entries_stays_within_its_bytes() {
        let logs = Logs::default();
        for _ in 0..300 {
            logs.add(entry(&"x".repeat(8 << 10)));
        }
        let kept = logs.lock();
        assert!(kept.bytes <= BYTES_MAX);
        assert_eq!(
            kept.bytes,
            kept.lines.iter().map(LogLine::size).sum::<usize>()
        );
    }

    #[tokio::test]
    async fn a_follower_gets_the_next_entry() {
        let logs = Logs::default();
        logs.add(entry("first"));
        let (wait, ()) = tokio::join!(logs.wait_since(1), async { logs.add(entry("second")) });
        assert_eq!(wait.0[0].message, "second");
        assert_eq!(wait.1, 2);
    }
}
