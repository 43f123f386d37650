//! The data plane: what everybody may ask.

use std::{sync::Arc, time::Instant};

use http::{Method, Request, Response, request::Parts};
use hyper::body::Incoming;

use super::{
    body::{self, ReplyBody, RequestBody},
    failure::Failure,
    oip, predict,
};
use crate::{node::Node, request_id};

/// A request on its way through the data plane.
pub(crate) struct Exchange {
    pub(crate) node: Arc<Node>,
    pub(crate) parts: Parts,
    pub(crate) body: RequestBody,
    pub(crate) id: String,
    pub(crate) started: Instant,
}

/// Answers every request; an error is an answer too.
pub(crate) async fn handle(node: Arc<Node>, request: Request<Incoming>) -> Response<ReplyBody> {
    let (parts, body) = request.into_parts();
    let id = node.request_ids.of(&parts.headers);
    let exchange = Exchange {
        node,
        body: RequestBody::new(&parts.headers, body),
        parts,
        id: id.clone(),
        started: Instant::now(),
    };
    let answer = route(exchange).await;
    let mut response = answer.unwrap_or_else(|failure| failure.into_response(&id));
    request_id::stamp(response.headers_mut(), &id);
    response
}

async fn route(exchange: Exchange) -> Result<Response<ReplyBody>, Failure> {
    let node = Arc::clone(&exchange.node);
    let path = exchange.parts.uri.path().to_owned();
    if path == "/healthz" {
        return healthz(&exchange);
    }
    let Ok(_in_flight) = node.requests_in_flight.try_acquire() else {
        return Err(Failure::unavailable(
            "the node is answering as many requests as it may (requests_in_flight_max)",
        ));
    };
    match path.strip_prefix("/v2") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => oip::handle(exchange, rest).await,
        _ => predict::handle(exchange, &path).await,
    }
}

/// The process is there and takes requests.
fn healthz(exchange: &Exchange) -> Result<Response<ReplyBody>, Failure> {
    if exchange.parts.method != Method::GET && exchange.parts.method != Method::HEAD {
        return Err(Failure::method_not_allowed("GET"));
    }
    Ok(body::json(&serde_json::json!({ "status": "ok" })))
}
