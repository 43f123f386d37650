//! `dunlin:predictor/streaming`: an answer that goes out while the predictor works on.
//!
//! The pieces wait in a short queue. Where it is full the guest waits too: a caller who does not read
//! costs an instance until the deadline, and no memory besides the queue.

#![expect(
    unreachable_pub,
    reason = "the generated bindings re-export these types"
)]

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};
use wasmtime::component::Resource;

use crate::{
    bindings::streaming::{self, StreamError},
    guest::{Charge, Guest},
    instance::{Deadline, check_headers},
};

/// Pieces that wait for the caller, and the bytes that one of them has at most.
const PIECES_MAX: usize = 4;
const PIECE_BYTES_MAX: usize = 16 << 10;

/// What of an answer waits at most, in bytes.
pub const STREAM_BUFFER_BYTES: usize = PIECES_MAX * PIECE_BYTES_MAX;

/// A guest is told of its deadline so long before it, but a tenth of its time at most: it is to have
/// some to end by itself.
const NOTICE_MAX: Duration = Duration::from_millis(100);

/// An answer that was begun.
#[derive(Debug)]
pub struct Stream {
    /// As the guest gave it: not yet known to be a status of HTTP.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Ends when the guest has no more to send; whether all was sent the call itself says.
    pub pieces: mpsc::Receiver<Bytes>,
}

/// Where a call may begin an answer, and by when.
pub(crate) struct Outlet {
    begin: Option<oneshot::Sender<Stream>>,
    end: Instant,
}

pub struct GuestWriter {
    pieces: mpsc::Sender<Bytes>,
    left: u64,
    _charge: Charge,
}

impl Outlet {
    pub(crate) fn new(begin: oneshot::Sender<Stream>, deadline: Deadline) -> Self {
        Self {
            begin: Some(begin),
            end: deadline.at() - NOTICE_MAX.min(deadline.budget() / 10),
        }
    }
}

impl streaming::Host for Guest {}

impl streaming::HostBodyWriter for Guest {
    fn start(
        &mut self,
        status: u16,
        headers: Vec<(String, String)>,
    ) -> wasmtime::Result<Result<Resource<GuestWriter>, StreamError>> {
        if check_headers(&headers).is_err() {
            return Ok(Err(StreamError::Refused));
        }
        let begin = self.outlet.as_mut().and_then(|outlet| outlet.begin.take());
        let Some(begin) = begin else {
            return Ok(Err(StreamError::Refused));
        };
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let stream = Stream {
            status,
            headers,
            pieces,
        };
        if begin.send(stream).is_err() {
            return Ok(Err(StreamError::Closed));
        }
        let writer = GuestWriter {
            pieces: sender,
            left: self.shared.limits.response_body,
            _charge: self.charge(STREAM_BUFFER_BYTES)?,
        };
        Ok(Ok(self.table.push(writer)?))
    }

    async fn write(
        &mut self,
        writer: Resource<GuestWriter>,
        piece: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        let end = self.outlet.as_ref().map(|outlet| outlet.end);
        let Some(end) = end else {
            // A writer that was kept from one call to another.
            return Ok(Err(StreamError::Closed));
        };
        let writer = self.table.get_mut(&writer)?;
        let Some(left) = writer.left.checked_sub(piece.len() as u64) else {
            return Ok(Err(StreamError::TooLarge));
        };
        writer.left = left;
        let mut rest = Bytes::from(piece);
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
            match tokio::time::timeout_at(end, writer.pieces.send(part)).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Ok(Err(StreamError::Closed)),
                Err(_elapsed) => return Ok(Err(StreamError::Deadline)),
            }
        }
        Ok(Ok(()))
    }

    fn drop(&mut self, writer: Resource<GuestWriter>) -> wasmtime::Result<()> {
        self.table.delete(writer)?;
        Ok(())
    }
}
