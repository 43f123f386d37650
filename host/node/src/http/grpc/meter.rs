//! The bytes of a call on their way: what arrives has its room in the node's memory before it is kept,
//! and what leaves keeps its request's room and place until the client has taken it.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::{
    connection::{Connection, Held},
    http::{
        body::RequestBody,
        budget::{BodyBudget, Reserved},
        failure::Failure,
    },
};

/// What a call holds for one answer.
pub(super) type Sent = Arc<Held>;

/// Bytes that have arrived and that no handler has taken yet.
pub(super) struct Arriving {
    budget: BodyBudget,
    room: Mutex<Option<(Reserved, u64)>>,
}

impl Arriving {
    pub(super) fn new(budget: BodyBudget) -> Self {
        Self {
            budget,
            room: Mutex::default(),
        }
    }

    fn add(&self, bytes: u64) -> Result<(), Failure> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let (reserved, total) = match &mut *room {
            Some(room) => room,
            none => none.insert((Reserved::default(), 0)),
        };
        *total += bytes;
        reserved.grow(&self.budget, *total)
    }

    /// The room of a message of so many bytes that has arrived, kept with `held`. Compressed, it
    /// has become larger on the way.
    pub(super) fn take(&self, bytes: u64, held: &Held) -> Result<(), Failure> {
        let room = self
            .room
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut reserved = match room {
            Some((reserved, _)) => reserved,
            None => Reserved::default(),
        };
        reserved.grow(&self.budget, bytes)?;
        reserved.keep(held);
        Ok(())
    }
}

/// A request's body that counts what arrives, and ends with an error where it takes too long.
pub(super) struct Metered {
    body: RequestBody,
    arriving: Arc<Arriving>,
    arrive_by: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    pub(super) fn new(
        body: RequestBody,
        arriving: Arc<Arriving>,
        arrive_by: Option<Instant>,
    ) -> Self {
        Self {
            body,
            arriving,
            arrive_by: arrive_by.map(|at| Box::pin(tokio::time::sleep_until(at))),
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let Some(frame) = frame else {
                return Poll::Ready(None);
            };
            let frame = frame.map_err(|error| {
                Status::invalid_argument(format!("the request body ended early: {error}"))
            });
            let counted = frame.and_then(|frame| {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let counted = self.arriving.add(bytes);
                counted.map_err(Failure::into_bare_status)?;
                Ok(frame)
            });
            return Poll::Ready(Some(counted));
        }
        if let Some(arrive_by) = &mut self.arrive_by {
            ready!(arrive_by.as_mut().poll(context));
            self.arrive_by = None;
            let late = "the request did not arrive within the deadline";
            return Poll::Ready(Some(Err(Status::deadline_exceeded(late))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is held for answers that were made and have not left yet.
#[derive(Default)]
pub(super) struct Pending(Mutex<Sent>);

impl Pending {
    pub(super) fn add(&self, held: &Held) {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.absorb(held);
    }

    fn take(&self) -> Sent {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut pending)
    }
}

/// An answer's body, whose bytes the client has a time to take.
pub(crate) struct Leaving {
    body: tonic::body::Body,
    connection: Arc<Connection>,
    pending: Arc<Pending>,
}

impl Leaving {
    pub(super) fn new(
        body: tonic::body::Body,
        connection: Arc<Connection>,
        pending: Arc<Pending>,
    ) -> Self {
        Self {
            body,
            connection,
            pending,
        }
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            Ok(frame?.map_data(|data| self.connection.owe(data, self.pending.take())))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
