//! The Open Inference Protocol over gRPC, with health and reflection, on a port of its own.
//!
//! Messages become the same questions that HTTP asks, and errors have the same texts. The bounds are
//! those of HTTP, too: `meter` keeps the bytes that are on their way within the node's memory.

mod config;
mod health;
mod infer;
mod meter;
mod service;

/// What `proto` defines.
#[expect(
    clippy::enum_variant_names,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod proto {
    tonic::include_proto!("inference");
}

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{
    Code, Status, body::Body, codec::CompressionEncoding, codegen::Service as _,
    server::NamedService,
};
use tonic_health::pb::{self as health_pb, health_server::HealthServer};
use tonic_reflection::server::{Builder, v1, v1alpha};

use self::{
    health::Health,
    meter::{Arriving, Leaving, Metered, Pending, Sent},
    proto::grpc_inference_service_server::GrpcInferenceServiceServer,
    service::Service,
};
use super::{body::RequestBody, deadline, failure::Failure};
use crate::{
    account::Account, connection::Connection, error::NodeError, node::NodeHandle, request_id,
    traces::Trace,
};

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// What a message has besides its tensors.
const ENVELOPE_BYTES_MAX: u64 = 1 << 20;

/// One call, for its handler: the request's extensions carry it.
#[derive(Clone)]
struct Call {
    node: NodeHandle,
    connection: Arc<Connection>,
    arriving: Arc<Arriving>,
    pending: Arc<Pending>,
    id: String,
    started: std::time::Instant,
    account: Option<Arc<Account>>,
    /// Of a stream, whose requests have an account each.
    head: Option<Arc<Parts>>,
    /// As the client's `grpc-timeout` says.
    until: Option<Instant>,
}

type Answering = Pin<Box<dyn Future<Output = Response<Leaving>> + Send>>;

/// What answers every request of the plane; an error is an answer too.
pub(crate) fn handler()
-> Result<impl Fn(NodeHandle, Arc<Connection>, Request<Incoming>) -> Answering + Clone, NodeError> {
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(health_pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error: tonic_reflection::server::Error| NodeError::Reflection(error.to_string());
    let newest = reflection().build_v1().map_err(broken)?;
    let older = reflection().build_v1alpha().map_err(broken)?;
    Ok(move |node, connection, request| -> Answering {
        Box::pin(handle(
            node,
            connection,
            request,
            newest.clone(),
            older.clone(),
        ))
    })
}

async fn handle<R, A>(
    node: NodeHandle,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    mut newest: v1::ServerReflectionServer<R>,
    mut older: v1alpha::ServerReflectionServer<A>,
) -> Response<Leaving>
where
    R: v1::ServerReflection,
    A: v1alpha::ServerReflection,
{
    let (parts, body) = request.into_parts();
    node.quiet.asked();
    let id = node.request_ids.of(&parts.headers);
    let until = match timeout(&parts.headers) {
        Ok(timeout) => timeout.map(|timeout| Instant::now() + timeout),
        Err(refused) => {
            return answered(
                refused.into_status(&id).into_http::<Body>(),
                connection,
                &id,
            );
        }
    };
    if !is_grpc(&parts.headers) {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return answered(answer, connection, &id);
    }
    let started = std::time::Instant::now();
    let is_stream = parts.uri.path().ends_with("/ModelStreamInfer");
    let account = match is_stream {
        true => None,
        false => node.accounts.open(&id, connection.peer, started, &parts),
    };
    let call = Call {
        account: account.clone(),
        head: is_stream.then(|| Arc::new(parts.clone())),
        arriving: Arc::new(Arriving::new(node.bodies.clone())),
        pending: Arc::default(),
        connection,
        id: id.clone(),
        started,
        until,
        node: node.clone(),
    };
    let (arriving, pending) = (Arc::clone(&call.arriving), Arc::clone(&call.pending));
    let client = Arc::clone(&call.connection);
    let service = parts
        .uri
        .path()
        .split('/')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let body = RequestBody::new(&parts.headers, body);
    // A stream may stay for as long as it is used; what is one message has the time of one.
    let arrive_by = Instant::now() + node.config.deadline_max;
    let arrive_by = (!is_stream).then_some(until.map_or(arrive_by, |until| until.min(arrive_by)));
    let body = Metered::new(body, arriving, arrive_by);
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(call);

    let limit = node
        .config
        .request_body_max
        .saturating_add(ENVELOPE_BYTES_MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let answer = match service.as_str() {
        name if name == GrpcInferenceServiceServer::<Service>::NAME => {
            GrpcInferenceServiceServer::new(Service)
                .max_decoding_message_size(limit)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Deflate)
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Deflate)
                .call(request)
                .await
        }
        name if name == HealthServer::<Health>::NAME => {
            HealthServer::new(Health).call(request).await
        }
        name if name == v1::ServerReflectionServer::<R>::NAME => newest.call(request).await,
        name if name == v1alpha::ServerReflectionServer::<A>::NAME => older.call(request).await,
        _ => {
            let unknown = Status::unimplemented(format!("there is no service '{service}'"));
            Ok(unknown.into_http::<Body>())
        }
    };
    let mut answer = answer.unwrap_or_else(|never| match never {});
    request_id::stamp(answer.headers_mut(), &id);
    if let Some(account) = account {
        let status = Status::from_header_map(answer.headers());
        account.close_grpc(status.map_or(Code::Ok, |status| status.code()));
    }
    answer.map(|body| Leaving::new(body, client, pending))
}

/// An answer that no handler gave.
fn answered(mut answer: Response<Body>, client: Arc<Connection>, id: &str) -> Response<Leaving> {
    request_id::stamp(answer.headers_mut(), id);
    answer.map(|body| Leaving::new(body, client, Arc::default()))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    matches!(
        content_type.strip_prefix(b"application/grpc"),
        Some([] | [b'+' | b';', ..])
    )
}

/// So long the client waits, where it says so, by gRPC's own header or by that of HTTP.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let own = match headers.get(GRPC_TIMEOUT) {
        None => None,
        Some(value) => Some(grpc_timeout(value).ok_or_else(|| {
            Failure::bad_request(format!(
                "{GRPC_TIMEOUT} is not a number of at most eight digits and one of H, M, S, m, u, n"
            ))
        })?),
    };
    let asked = deadline::of_client(headers)?;
    Ok(own.into_iter().chain(asked).min())
}

fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let value = value.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

impl Call {
    fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let call = request.extensions().get::<Self>().cloned();
        call.ok_or_else(|| Status::internal("the call is not known"))
    }

    /// The same call for one request of its stream.
    fn of_request(&self) -> Self {
        let started = std::time::Instant::now();
        let open = |head: &Arc<Parts>| {
            let accounts = &self.node.accounts;
            accounts.open(&self.id, self.connection.peer, started, head)
        };
        Self {
            account: self.head.as_ref().and_then(open),
            started,
            ..self.clone()
        }
    }

    fn trace(&self) -> Option<&Arc<Trace>> {
        self.account.as_ref()?.trace.as_ref()
    }

    fn refused(&self, failure: Failure) -> Status {
        failure.into_status(&self.id)
    }

    /// The answer, with what was held for it: that is given back when the client has it.
    fn send<T: prost::Message>(&self, answer: T, held: &Sent) -> Result<T, Failure> {
        let room = self.node.bodies.reserve(answer.encoded_len() as u64)?;
        room.keep(held);
        if let Some(account) = &self.account {
            account.sends(answer.encoded_len() as u64);
        }
        self.pending.add(held);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit() {
        let timeout = |text: &'static str| grpc_timeout(&HeaderValue::from_static(text));
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("2S"));
        headers.insert(deadline::HEADER, HeaderValue::from_static("1500"));
        let told = super::timeout(&headers).ok().flatten();
        assert_eq!(told, Some(Duration::from_millis(1500)));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("soon"));
        assert!(super::timeout(&headers).is_err());
        for wrong in ["", "S", "5", "5s", "-5S", "123456789S", "1.5S"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }
}
