//! The body of an answer that a predictor sends in pieces.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use dunlin_sandbox::STREAM_BUFFER_BYTES;
use hyper::body::Frame;
use tokio::sync::{mpsc, oneshot};

use super::{budget::BodyBudget, data::Ticket, failure::Failure};
use crate::{
    connection::{Connection, Held},
    deployment::Deployment,
};

/// Dropped, whole or not, it counts the answer and gives back what its request holds.
pub(crate) struct StreamBody {
    pieces: mpsc::Receiver<Bytes>,
    /// Whether the call ended well; gone where it was given up.
    ended: oneshot::Receiver<bool>,
    /// The call has ended: what is left in `pieces` is all there is.
    whole: Option<bool>,
    sent: u64,
    owed: Option<(Arc<Connection>, Arc<Held>)>,
    counted: Option<(Arc<Deployment>, Ticket, u16)>,
}

impl StreamBody {
    pub(super) fn new(pieces: mpsc::Receiver<Bytes>, ended: oneshot::Receiver<bool>) -> Self {
        Self {
            pieces,
            ended,
            whole: None,
            sent: 0,
            owed: None,
            counted: None,
        }
    }

    /// Gives the pieces to their connection, as whole answers are.
    pub(super) fn owe(
        &mut self,
        budget: &BodyBudget,
        connection: &Arc<Connection>,
        held: Arc<Held>,
    ) -> Result<(), Failure> {
        budget.reserve(STREAM_BUFFER_BYTES as u64)?.keep(&held);
        self.owed = Some((Arc::clone(connection), held));
        Ok(())
    }

    /// The answer is counted once it has ended.
    pub(super) fn count(&mut self, deployment: Arc<Deployment>, ticket: Ticket, status: u16) {
        self.counted = Some((deployment, ticket, status));
    }

    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match self.pieces.poll_recv(context) {
                Poll::Ready(Some(piece)) => {
                    self.sent += piece.len() as u64;
                    let piece = match &self.owed {
                        Some((connection, held)) => connection.owe(piece, Arc::clone(held)),
                        None => piece,
                    };
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Poll::Ready(None) if self.whole == Some(true) => return Poll::Ready(None),
                Poll::Ready(None) if self.whole == Some(false) => {
                    let broken = io::Error::other("the predictor broke its answer off");
                    return Poll::Ready(Some(Err(broken)));
                }
                // The guest may have let go of its writer before it returns.
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.whole.is_some() {
                return Poll::Pending;
            }
            match Pin::new(&mut self.ended).poll(context) {
                Poll::Ready(ended) => {
                    self.whole = Some(ended.unwrap_or(false));
                    // A writer that the guest keeps does not keep the answer open.
                    self.pieces.close();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some((deployment, ticket, status)) = self.counted.take() {
            deployment.answered(status, ticket.started.elapsed());
            if let Some(account) = &ticket.account {
                account.sends(self.sent);
                account.close(status);
            }
        }
    }
}

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody")
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
