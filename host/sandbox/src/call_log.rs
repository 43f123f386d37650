//! A guest's log: what it logs by the interface, and what it writes to standard output and error.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::observer::{LogEntry, LogLevel, Observer};

/// A line longer than this is cut into several.
const LINE_MAX: usize = 8 << 10;

/// What one call may log; what comes after is dropped, and that is logged once.
const ENTRIES_PER_CALL_MAX: u32 = 256;

/// The call that an instance is answering, and what it has logged: shared by the guest's ways to log.
#[derive(Clone)]
pub(crate) struct CallLog {
    observer: Arc<dyn Observer>,
    call: Arc<Mutex<Call>>,
}

#[derive(Default)]
struct Call {
    request_id: String,
    entries: u32,
}

impl CallLog {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            observer,
            call: Arc::default(),
        }
    }

    pub(crate) fn begin(&self, request_id: &str) {
        let mut call = self.call();
        call.request_id.clear();
        call.request_id.push_str(request_id);
        call.entries = 0;
    }

    pub(crate) fn log(&self, level: LogLevel, message: String, fields: Vec<(String, String)>) {
        let mut call = self.call();
        call.entries = call.entries.saturating_add(1);
        let (entries, request_id) = (call.entries, call.request_id.clone());
        drop(call);
        let entry = LogEntry {
            level,
            request_id,
            message,
            fields,
        };
        match entries {
            ..=ENTRIES_PER_CALL_MAX => self.observer.log(entry),
            DROPPING => self.observer.log(LogEntry {
                level: LogLevel::Warn,
                message: format!(
                    "the predictor logged {ENTRIES_PER_CALL_MAX} entries in one call; the rest is dropped"
                ),
                fields: Vec::new(),
                ..entry
            }),
            _ => {}
        }
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DROPPING: u32 = ENTRIES_PER_CALL_MAX + 1;

/// Standard output or standard error.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    level: LogLevel,
    log: CallLog,
    line: Arc<Mutex<Vec<u8>>>,
}

impl GuestOutput {
    pub(crate) fn new(level: LogLevel, log: &CallLog) -> Self {
        Self {
            level,
            log: log.clone(),
            line: Arc::default(),
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() == LINE_MAX {
                let text = String::from_utf8_lossy(&std::mem::take(&mut *line)).into_owned();
                self.log.log(self.level, text, Vec::new());
            }
        }
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Measurement;

    #[derive(Default)]
    struct Kept(Mutex<Vec<LogEntry>>);

    impl Observer for Kept {
        fn log(&self, entry: LogEntry) {
            self.0.lock().unwrap().push(entry);
        }

        fn measure(&self, _: &str, _: Measurement) {}
    }

    #[test]
    fn a_flood_is_cut_off_in_each_call() {
        let kept = Arc::new(Kept::default());
        let log = CallLog::new(Arc::clone(&kept) as _);
        for call in ["first", "second"] {
            log.begin(call);
            for _ in 0..1000 {
                log.log(LogLevel::Info, "again".to_owned(), Vec::new());
            }
            let entries = std::mem::take(&mut *kept.0.lock().unwrap());
            assert_eq!(entries.len(), ENTRIES_PER_CALL_MAX as usize + 1);
            assert!(entries.iter().all(|entry| entry.request_id == call));
            assert!(entries.last().unwrap().message.contains("dropped"));
        }
    }

    #[test]
    fn output_becomes_lines() {
        let kept = Arc::new(Kept::default());
        let log = CallLog::new(Arc::clone(&kept) as _);
        log.begin("r");
        let output = GuestOutput::new(LogLevel::Warn, &log);
        output.write(b"one\ntw");
        output.clone().write(b"o\n");
        output.write(&vec![b'x'; LINE_MAX + 1]);
        let entries = kept.0.lock().unwrap();
        let lines: Vec<&str> = entries.iter().map(|entry| &*entry.message).collect();
        assert_eq!(lines, ["one", "two", &"x".repeat(LINE_MAX)]);
    }
}
