//! The data plane: what everybody may ask.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use dunlin_sandbox::Deadline;
use edge_config::Limits;
use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Semaphore;

use super::{
    body::{self, ReplyBody, RequestBody},
    deadline,
    failure::Failure,
    oip, predict,
    routes::{self, Found},
};
use crate::{
    account::Account,
    connection::{Connection, Held},
    deployment::Revision,
    node::{Node, NodeHandle},
    request_id,
    telemetry::Rejection,
    traces::Trace,
    turns::Share,
};

/// A request on its way through the data plane.
pub(crate) struct Exchange {
    pub(crate) node: NodeHandle,
    pub(crate) parts: Parts,
    /// Until it is read.
    pub(crate) body: Option<RequestBody>,
    pub(crate) id: String,
    pub(crate) started: Instant,
    pub(crate) held: Arc<Held>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) account: Option<Arc<Account>>,
}

/// What of a request is needed to count its answer.
pub(crate) struct Ticket {
    pub(crate) id: String,
    pub(crate) started: Instant,
    pub(crate) account: Option<Arc<Account>>,
}

/// Answers every request; an error is an answer too.
pub(crate) async fn handle(
    node: NodeHandle,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (parts, body) = request.into_parts();
    node.quiet.asked();
    let id = node.request_ids.of(&parts.headers);
    let started = Instant::now();
    let account = node.accounts.open(&id, connection.peer, started, &parts);
    let held = Arc::new(Held::default());
    // In a box: every function on the way would have room for it in its future.
    let exchange = Box::new(Exchange {
        node: node.clone(),
        held: Arc::clone(&held),
        connection: Arc::clone(&connection),
        body: Some(RequestBody::new(&parts.headers, body)),
        parts,
        id: id.clone(),
        started,
        account: account.clone(),
    });
    let answer = route(exchange).await;
    let answer = answer.and_then(|response| body::owe(response, &node.bodies, &connection, held));
    let mut response = answer.unwrap_or_else(|failure| failure.into_response(&id));
    request_id::stamp(response.headers_mut(), &id);
    // An answer in pieces closes its account when it has ended.
    if let (Some(account), ReplyBody::Whole(body)) = (account, response.body()) {
        account.sends(body.size_hint().lower());
        account.close(response.status().as_u16());
    }
    response
}

async fn route(exchange: Box<Exchange>) -> Result<Response<ReplyBody>, Failure> {
    let path = exchange.parts.uri.path().to_owned();
    match routes::find(&exchange.parts.method, &path) {
        Found::Deployment => predict::handle(exchange, &path).await,
        Found::Operation(operation, names) => {
            // In a box: a future has room for the largest of its ways, whichever is taken.
            Box::pin(oip::handle(exchange, operation, names)).await
        }
        Found::OtherMethod(allowed) => Err(Failure::method_not_allowed(allowed)),
        Found::Nothing => Err(Failure::not_found(format!("no such path: {path}"))),
    }
}

impl Exchange {
    /// The trace of the request, where it has one.
    pub(crate) fn trace(&self) -> Option<&Arc<Trace>> {
        self.account.as_ref()?.trace.as_ref()
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            id: self.id.clone(),
            started: self.started,
            account: self.account.clone(),
        }
    }

    pub(crate) fn deadline(&self, limits: &Limits) -> Result<Deadline, Failure> {
        deadline::of(&self.parts.headers, limits, self.started)
    }

    /// The whole body, read within the request's deadline, and with it a place among the requests in
    /// flight: one whose body is still on its way takes no place of others.
    pub(crate) async fn read_body(
        &mut self,
        revision: &Revision,
        deadline: Deadline,
    ) -> Result<Bytes, Failure> {
        let body = self.read(revision.limits.request_body, deadline).await?;
        self.node.take_places(Some(&revision.share), &self.held)?;
        self.admitted(&body);
        Ok(body)
    }

    /// The whole body, of at most `limit` bytes, of a request that is no deployment's.
    pub(crate) async fn read_own_body(
        &mut self,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Bytes, Failure> {
        let body = self.read(limit, deadline).await?;
        self.node.take_places(None, &self.held)?;
        self.admitted(&body);
        Ok(body)
    }

    fn admitted(&self, body: &Bytes) {
        if let Some(account) = &self.account {
            account.admitted(body.len() as u64);
        }
    }

    async fn read(&mut self, limit: u64, deadline: Deadline) -> Result<Bytes, Failure> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let headers = &self.parts.headers;
        let read = body::read(headers, body, limit, &self.node.bodies, &self.held);
        let read = self.connection.by(deadline.at(), read).await;
        read.map_err(|_late| {
            Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request body did not arrive within the deadline",
            )
            .because(Rejection::RequestBodyTimeout)
        })?
    }
}

impl Node {
    /// Places for a request among those that are answered at once: of its deployment, and of all.
    pub(crate) fn take_places(&self, share: Option<&Share>, held: &Held) -> Result<(), Failure> {
        let take = |places: &Arc<Semaphore>, full: &str| {
            let place = Arc::clone(places).try_acquire_owned();
            let place = place.map_err(|_none_free| {
                Failure::unavailable(full).because(Rejection::RequestsInFlight)
            });
            held.keep(place?);
            Ok::<(), Failure>(())
        };
        if let Some(share) = share {
            take(
                &share.requests,
                "as many requests of this deployment are being answered as may \
                 (limits.requests_in_flight)",
            )?;
        }
        take(
            &self.requests_in_flight,
            "the node is answering as many requests as it may (requests_in_flight_max)",
        )
    }
}
