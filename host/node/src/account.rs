//! What is remembered of a request for the access log and for traces, where somebody wants them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use edge_config::AccessLog;
use http::request::Parts;
use serde::Serialize;

use crate::{
    deployment::Deployment,
    log_writer::LogWriter,
    traces::{KeyValue, Span, Trace, Traces},
};

/// A path longer than this is cut.
const PATH_BYTES_MAX: usize = 1 << 10;

/// Says of which requests accounts are kept, and where they go.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    access: AccessLog,
    writer: LogWriter,
    traces: Option<Arc<Traces>>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Account {
    accounts: Accounts,
    request_id: String,
    started: Instant,
    client: SocketAddr,
    method: String,
    path: String,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    deployment: OnceLock<(String, i64)>,
    pub(crate) trace: Option<Arc<Trace>>,
}

/// One line of the access log. Queries and headers are left out: they may hold what is secret.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    target: &'static str,
    request_id: &'a str,
    client: SocketAddr,
    method: &'a str,
    path: &'a str,
    deployment: Option<&'a str>,
    revision: Option<i64>,
    status: u16,
    /// Of gRPC, whose answers are all 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<i32>,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl Accounts {
    pub(crate) fn new(access: AccessLog, writer: LogWriter, traces: Option<Arc<Traces>>) -> Self {
        Self {
            access,
            writer,
            traces,
        }
    }

    /// The account of a request; none where nobody would read it.
    pub(crate) fn open(
        &self,
        request_id: &str,
        client: SocketAddr,
        started: Instant,
        parts: &Parts,
    ) -> Option<Arc<Account>> {
        let traces = self.traces.as_ref();
        let trace = traces.and_then(|traces| traces.begin(request_id, &parts.headers, started));
        if self.access == AccessLog::None && trace.is_none() {
            return None;
        }
        let path = parts.uri.path();
        let path = &path[..path.floor_char_boundary(PATH_BYTES_MAX)];
        Some(Arc::new(Account {
            accounts: self.clone(),
            request_id: request_id.to_owned(),
            started,
            client,
            method: parts.method.as_str().to_owned(),
            path: path.to_owned(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            deployment: OnceLock::new(),
            trace: trace.map(Arc::new),
        }))
    }
}

impl Account {
    /// The request is whole and has its place: its body has so many bytes, after decompression.
    pub(crate) fn admitted(&self, bytes: u64) {
        self.request_bytes.store(bytes, Ordering::Relaxed);
        if let Some(trace) = &self.trace {
            trace.span("admission", self.started, self.started.elapsed());
        }
    }

    pub(crate) fn met(&self, deployment: &Deployment) {
        let record = &deployment.record;
        let _first = self
            .deployment
            .get_or_init(|| (record.name.clone(), record.revision));
    }

    /// So much of the answer is on its way.
    pub(crate) fn sends(&self, bytes: u64) {
        self.response_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The answer is made.
    pub(crate) fn close(&self, status: u16) {
        self.end(status, None);
    }

    /// The answer to a call of gRPC is made.
    pub(crate) fn close_grpc(&self, code: tonic::Code) {
        self.end(200, Some(code as i32));
    }

    fn end(&self, status: u16, grpc_status: Option<i32>) {
        let is_error = status >= 400 || grpc_status.is_some_and(|code| code != 0);
        let wanted = match self.accounts.access {
            AccessLog::None => false,
            AccessLog::Errors => is_error,
            AccessLog::All => true,
        };
        if wanted {
            self.write(status, grpc_status);
        }
        if let (Some(traces), Some(trace)) = (&self.accounts.traces, &self.trace) {
            traces.end(self.spans(trace, status, grpc_status));
        }
    }

    /// Names are those of OpenTelemetry's semantic conventions for HTTP, where they have one.
    fn spans(&self, trace: &Trace, status: u16, grpc_status: Option<i32>) -> Vec<Span> {
        let mut attributes = vec![
            KeyValue::text("http.request.method", &self.method),
            KeyValue::text("url.path", &self.path),
            KeyValue::number("http.response.status_code", status.into()),
            KeyValue::text("client.address", &self.client.ip().to_string()),
        ];
        if let Some(code) = grpc_status {
            attributes.push(KeyValue::text("rpc.system", "grpc"));
            attributes.push(KeyValue::number("rpc.grpc.status_code", code.into()));
        }
        let mut name = self.method.clone();
        if let Some((deployment, revision)) = self.deployment.get() {
            attributes.push(KeyValue::text("dunlin.deployment", deployment));
            attributes.push(KeyValue::number("dunlin.revision", *revision));
            name = format!("{name} {deployment}");
        }
        // As the conventions tell a server's failures from a caller's.
        let failed = matches!(grpc_status, Some(2 | 4 | 12..=15));
        trace.end(name, attributes, status >= 500 || failed)
    }

    fn write(&self, status: u16, grpc_status: Option<i32>) {
        let deployment = self.deployment.get();
        let line = Line {
            timestamp: jiff::Timestamp::now().to_string(),
            target: "access",
            request_id: &self.request_id,
            client: self.client,
            method: &self.method,
            path: &self.path,
            deployment: deployment.map(|(name, _)| &**name),
            revision: deployment.map(|(_, revision)| *revision),
            status,
            grpc_status,
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
            duration_ms: self.started.elapsed().as_secs_f64() * 1e3,
            trace_id: self.trace.as_ref().map(|trace| trace.id()),
        };
        if let Ok(mut line) = serde_json::to_vec(&line) {
            line.push(b'\n');
            self.accounts.writer.line(line);
        }
    }
}
