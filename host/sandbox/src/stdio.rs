//! Standard output and error of a guest, as lines of its log.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::{
    guest::Shared,
    observer::{LogEntry, LogLevel},
};

/// A line longer than this is cut into several.
const LINE_MAX: usize = 8 << 10;

/// The request that an instance is answering, shared with its output streams.
#[derive(Clone, Default)]
pub(crate) struct CurrentCall(Arc<Mutex<String>>);

impl CurrentCall {
    pub(crate) fn begin(&self, request_id: &str) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.clear();
        current.push_str(request_id);
    }

    pub(crate) fn request_id(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Clone)]
pub(crate) struct GuestOutput {
    level: LogLevel,
    shared: Arc<Shared>,
    call: CurrentCall,
    line: Arc<Mutex<Vec<u8>>>,
}

impl GuestOutput {
    pub(crate) fn stdout(shared: &Arc<Shared>, call: &CurrentCall) -> Self {
        Self::new(LogLevel::Info, shared, call)
    }

    pub(crate) fn stderr(shared: &Arc<Shared>, call: &CurrentCall) -> Self {
        Self::new(LogLevel::Warn, shared, call)
    }

    fn new(level: LogLevel, shared: &Arc<Shared>, call: &CurrentCall) -> Self {
        Self {
            level,
            shared: Arc::clone(shared),
            call: call.clone(),
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
                self.emit(&std::mem::take(&mut *line));
            }
        }
    }

    fn emit(&self, line: &[u8]) {
        self.shared.observer.log(LogEntry {
            level: self.level,
            request_id: self.call.request_id(),
            message: String::from_utf8_lossy(line).into_owned(),
            fields: Vec::new(),
        });
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
