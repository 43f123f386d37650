//! A connection whose small writes go out together with those of others.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use rustix::net::sockopt::socket_incoming_cpu;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    connection::{Connection, WATCHED_BYTES},
    outbox, shards,
};

/// Less waits in an outbox: what is nobody's to watch.
const SMALL_BYTES: usize = WATCHED_BYTES;

/// After how many reads it is looked where a connection's packets come in.
const LOOK: u32 = 16;

pub(crate) struct Gathered {
    connection: Arc<Connection>,
    /// Where the system tells of the stream: the thread that read last.
    home: Option<usize>,
    reads: u32,
    shared: Arc<Shared>,
}

/// The stream, as the connection and an outbox share it.
pub(crate) struct Shared(Mutex<Writer>);

pub(crate) struct Writer {
    stream: TcpStream,
    /// Taken from the connection, and not sent.
    unsent: Vec<u8>,
    /// It is in a thread's outbox.
    queued: bool,
    failed: Option<io::Error>,
    /// Who goes on where not all could be sent.
    waker: Option<Waker>,
}

impl Gathered {
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            connection,
            home: None,
            reads: 0,
            shared: Arc::new(Shared(Mutex::new(Writer {
                stream,
                unsent: Vec::new(),
                queued: false,
                failed: None,
                waker: None,
            }))),
        }
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Writer> {
        // A panic between two of its lines would be one of the standard library's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// From now on the system tells this thread of the stream.
    fn come_here(&mut self) -> io::Result<()> {
        let stream = self.stream.as_fd().try_clone_to_owned()?;
        self.stream = TcpStream::from_std(stream.into())?;
        Ok(())
    }

    /// Out of the outbox: where to send, and what.
    pub(crate) fn take_out(&mut self) -> (RawFd, &[u8]) {
        self.queued = false;
        (self.stream.as_raw_fd(), &self.unsent)
    }

    /// Out of the outbox, on its own.
    pub(crate) fn send(&mut self) {
        self.queued = false;
        if !self.unsent.is_empty() {
            let sent = self.stream.try_write(&self.unsent);
            self.sent(sent);
        }
    }

    /// So much of it went.
    pub(crate) fn sent(&mut self, sent: io::Result<usize>) {
        match sent {
            Ok(bytes) if bytes >= self.unsent.len() => {
                self.unsent.clear();
                return;
            }
            Ok(bytes) => drop(self.unsent.drain(..bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.failed = Some(error),
        }
        self.tell();
    }

    /// The connection's task hears of the failure, or waits for room.
    fn tell(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What became of it is not known, and the system may still read it.
    pub(crate) fn fail(&mut self, error: &io::Error) {
        std::mem::forget(std::mem::take(&mut self.unsent));
        self.failed = Some(io::Error::new(error.kind(), error.to_string()));
        self.tell();
    }

    /// Whether it takes so many bytes more and sends them later.
    fn takes(&self, bytes: usize) -> bool {
        let waits_for_room = !self.unsent.is_empty() && !self.queued;
        !waits_for_room && self.failed.is_none() && self.unsent.len() + bytes < SMALL_BYTES
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while !self.unsent.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let sent = ready!(stream.poll_write(context, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut shared = this.shared.lock();
        let here = Some(shards::current());
        if this.home != here {
            // Where it cannot, for want of a file descriptor, the former thread tells this one.
            if this.home.is_none() || shared.come_here().is_ok() {
                this.home = here;
            }
        }
        let read = Pin::new(&mut shared.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.reads = this.reads.wrapping_add(1);
            if this.reads.is_multiple_of(LOOK)
                && let Ok(cpu) = socket_incoming_cpu(&shared.stream)
            {
                this.connection.comes_in_on(cpu);
            }
        }
        read
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut writer = self.shared.lock();
        let bytes = buffers.iter().map(|buffer| buffer.len()).sum();
        if writer.takes(bytes) && (writer.queued || outbox::leave(&self.shared)) {
            writer.queued = true;
            for buffer in buffers {
                writer.unsent.extend_from_slice(buffer);
            }
            match &mut writer.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Ready(Ok(bytes));
        }
        ready!(writer.poll_rest(context))?;
        Pin::new(&mut writer.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What waits in an outbox counts as flushed: it goes out by itself.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = self.shared.lock();
        if writer.queued {
            return Poll::Ready(Ok(()));
        }
        writer.poll_rest(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = self.shared.lock();
        ready!(writer.poll_rest(context))?;
        Pin::new(&mut writer.stream).poll_shutdown(context)
    }
}
