//! The data plane: what everybody may ask.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use dunlin_sandbox::Deadline;
use edge_config::Limits;
use http::{Method, Request, Response, StatusCode, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{
    body::{self, ReplyBody, RequestBody},
    failure::Failure,
    oip, predict,
};
use crate::{
    account::Account,
    connection::{Connection, Held},
    node::Node,
    request_id,
    telemetry::Rejection,
    traces::Trace,
};

/// A request on its way through the data plane.
pub(crate) struct Exchange {
    pub(crate) node: Arc<Node>,
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
    node: Arc<Node>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (parts, body) = request.into_parts();
    let id = node.request_ids.of(&parts.headers);
    let started = Instant::now();
    let account = node.accounts.open(&id, connection.peer, started, &parts);
    let (bodies, held) = (node.bodies.clone(), Arc::new(Held::default()));
    let exchange = Exchange {
        node,
        held: Arc::clone(&held),
        connection: Arc::clone(&connection),
        body: Some(RequestBody::new(&parts.headers, body)),
        parts,
        id: id.clone(),
        started,
        account: account.clone(),
    };
    let answer = route(exchange).await;
    let answer = answer.and_then(|response| body::owe(response, &bodies, &connection, held));
    let mut response = answer.unwrap_or_else(|failure| failure.into_response(&id));
    request_id::stamp(response.headers_mut(), &id);
    // An answer in pieces closes its account when it has ended.
    if let (Some(account), ReplyBody::Whole(body)) = (account, response.body()) {
        account.close(response.status().as_u16(), body.size_hint().lower());
    }
    response
}

async fn route(exchange: Exchange) -> Result<Response<ReplyBody>, Failure> {
    let path = exchange.parts.uri.path().to_owned();
    if path == "/healthz" {
        return healthz(&exchange);
    }
    match path.strip_prefix("/v2") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => oip::handle(exchange, rest).await,
        _ => predict::handle(exchange, &path).await,
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

    /// The whole body, read within the request's deadline, and with it a place among the requests in
    /// flight: one whose body is still on its way takes no place of others.
    pub(crate) async fn read_body(
        &mut self,
        limits: &Limits,
        deadline: Deadline,
    ) -> Result<Bytes, Failure> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let (headers, limit) = (&self.parts.headers, limits.request_body);
        let read = body::read(headers, body, limit, &self.node.bodies, &self.held);
        let read = tokio::time::timeout_at(deadline.at(), read).await;
        let body = read.map_err(|_elapsed| {
            Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request body did not arrive within the deadline",
            )
            .because(Rejection::RequestBodyTimeout)
        })??;
        let place = Arc::clone(&self.node.requests_in_flight).try_acquire_owned();
        let place = place.map_err(|_none_free| {
            Failure::unavailable(
                "the node is answering as many requests as it may (requests_in_flight_max)",
            )
            .because(Rejection::RequestsInFlight)
        })?;
        self.held.keep(place);
        if let Some(account) = &self.account {
            account.admitted(body.len());
        }
        Ok(body)
    }
}

/// The process is there and takes requests.
fn healthz(exchange: &Exchange) -> Result<Response<ReplyBody>, Failure> {
    if exchange.parts.method != Method::GET && exchange.parts.method != Method::HEAD {
        return Err(Failure::method_not_allowed("GET"));
    }
    Ok(body::json(&serde_json::json!({ "status": "ok" })))
}
