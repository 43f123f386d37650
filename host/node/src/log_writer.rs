//! The node's log on its way to standard error.
//!
//! Whoever logs is often in the middle of a request, and standard error may be a pipe whose reader
//! has stalled. So a thread of its own writes, from a queue that has a bound; what does not fit is
//! dropped and counted.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What waits for a reader: minutes of an ordinary log.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// A handle: clones write into one queue. Each `write` is one line of the log, kept or dropped as a
/// whole, and never waits.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    writing: bool,
}

/// A process has one standard error.
static STDERR: OnceLock<LogWriter> = OnceLock::new();

impl LogWriter {
    /// The writer to standard error, started by the first call.
    ///
    /// # Errors
    /// The process has no file descriptor or no thread left.
    pub fn stderr() -> io::Result<Self> {
        if let Some(writer) = STDERR.get() {
            return Ok(writer.clone());
        }
        // Not by way of `std`, whose lock would be held as long as the reader stalls.
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let writer = Self::start(File::from(stderr))?;
        Ok(STDERR.get_or_init(|| writer).clone())
    }

    /// The lines that were dropped on the way to standard error.
    pub(crate) fn dropped_by_stderr() -> u64 {
        STDERR.get().map_or(0, Self::dropped)
    }

    fn start(mut sink: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let from = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                loop {
                    let line = from.next();
                    // A log that cannot be written has nobody to tell.
                    let _lost = sink.write_all(&line);
                }
            })?;
        Ok(Self(queue))
    }

    fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Keeps one line, its end included, or drops it. Never waits.
    pub(crate) fn line(&self, line: Vec<u8>) {
        let mut lines = self.0.lock();
        if lines.bytes + line.len() > QUEUED_BYTES_MAX {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            lines.bytes += line.len();
            lines.waiting.push_back(line);
            drop(lines);
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub fn finish(&self, patience: Duration) {
        let lines = self.0.lock();
        let busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        // A panic under the lock leaves whole lines.
        let _waited = self.0.changed.wait_timeout_while(lines, patience, busy);
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line.to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    /// The next line to write. The one before is written.
    fn next(&self) -> Vec<u8> {
        let mut lines = self.lock();
        lines.writing = false;
        self.changed.notify_all();
        loop {
            if let Some(line) = lines.waiting.pop_front() {
                lines.bytes -= line.len();
                lines.writing = true;
                return line;
            }
            let woken = self.changed.wait(lines);
            lines = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Takes a line each time that it is let.
    struct Stalled {
        let_go: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_go.recv().map_err(io::Error::other)?;
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_holds_up_nobody() {
        let (go, let_go) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut log = LogWriter::start(Stalled {
            let_go,
            taken: Arc::clone(&taken),
        })
        .unwrap();
        let line = [b'x'; 1024];
        let lines = QUEUED_BYTES_MAX / line.len() + 100;
        for _ in 0..lines {
            log.write_all(&line).unwrap();
        }
        // One line may be on its way besides those that wait.
        let dropped = usize::try_from(log.dropped()).unwrap();
        assert!((99..=100).contains(&dropped), "{dropped}");
        let started = Instant::now();
        log.finish(Duration::from_millis(20));
        assert!(started.elapsed() < Duration::from_secs(10));

        for _ in dropped..lines {
            go.send(()).unwrap();
        }
        log.finish(Duration::from_secs(60));
        assert_eq!(taken.lock().unwrap().len(), (lines - dropped) * line.len());
        go.send(()).unwrap();
        log.write_all(b"again\n").unwrap();
        log.finish(Duration::from_secs(60));
        assert!(taken.lock().unwrap().ends_with(b"again\n"));
    }
}
