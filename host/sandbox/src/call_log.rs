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
const BYTES_PER_CALL_MAX: usize = 64 << 10;

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
    bytes: usize,
    /// The bound was reached, and that was logged.
    dropping: bool,
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
        (call.entries, call.bytes, call.dropping) = (0, 0, false);
    }

    pub(crate) fn log(&self, level: LogLevel, message: String, fields: Vec<(String, String)>) {
        let fields_bytes = fields.iter().map(|(name, value)| name.len() + value.len());
        let bytes = message.len() + fields_bytes.sum::<usize>();
        let mut call = self.call();
        if call.dropping {
            return;
        }
        call.entries += 1;
        call.bytes = call.bytes.saturating_add(bytes);
        call.dropping = call.entries > ENTRIES_PER_CALL_MAX || call.bytes > BYTES_PER_CALL_MAX;
        let (dropping, request_id) = (call.dropping, call.request_id.clone());
        drop(call);
        let entry = LogEntry {
            level,
            request_id,
            message,
            fields,
        };
        self.observer.log(match dropping {
            false => entry,
            true => LogEntry {
                level: LogLevel::Warn,
                message: format!(
                    "the predictor logged more than {ENTRIES_PER_CALL_MAX} entries or \
                     {BYTES_PER_CALL_MAX} bytes in one call; the rest is dropped"
                ),
                fields: Vec::new(),
                ..entry
            },
        });
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    fn a_few_large_entries_are_a_flood_too() {
        let kept = Arc::new(Kept::default());
        let log = CallLog::new(Arc::clone(&kept) as _);
        for _ in 0..2 {
            log.begin("r");
            for _ in 0..ENTRIES_PER_CALL_MAX {
                let fields = (0..32).map(|_| ("k".to_owned(), "v".repeat(1000)));
                log.log(LogLevel::Info, "m".repeat(1000), fields.collect());
            }
            let entries = std::mem::take(&mut *kept.0.lock().unwrap());
            let bytes = entries.iter().map(|entry| {
                let fields = entry.fields.iter();
                entry.message.len() + fields.map(|(k, v)| k.len() + v.len()).sum::<usize>()
            });
            assert!(bytes.sum::<usize>() <= BYTES_PER_CALL_MAX + 200);
            assert_eq!(entries.len(), 2, "one fits, and that the rest does not");
            assert!(entries[1].message.contains("dropped"));
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
