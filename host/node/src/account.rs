//! What is remembered of a request for the access log, where somebody wants it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use edge_config::AccessLog;
use http::request::Parts;
use serde::Serialize;

use crate::{deployment::Deployment, log_writer::LogWriter};

/// A path longer than this is cut.
const PATH_BYTES_MAX: usize = 1 << 10;

/// Says of which requests accounts are kept, and where they go.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    access: AccessLog,
    writer: LogWriter,
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
    deployment: OnceLock<(String, i64)>,
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
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
}

impl Accounts {
    pub(crate) fn new(access: AccessLog, writer: LogWriter) -> Self {
        Self { access, writer }
    }

    /// The account of a request; none where nobody would read it.
    pub(crate) fn open(
        &self,
        request_id: &str,
        client: SocketAddr,
        started: Instant,
        parts: &Parts,
    ) -> Option<Arc<Account>> {
        if self.access == AccessLog::None {
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
            deployment: OnceLock::new(),
        }))
    }
}

impl Account {
    /// The body has so many bytes, after decompression.
    pub(crate) fn read(&self, bytes: usize) {
        self.request_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn met(&self, deployment: &Deployment) {
        let record = &deployment.record;
        let _first = self
            .deployment
            .get_or_init(|| (record.name.clone(), record.revision));
    }

    /// The answer is made.
    pub(crate) fn close(&self, status: u16, response_bytes: u64) {
        let wanted = match self.accounts.access {
            AccessLog::None => false,
            AccessLog::Errors => status >= 400,
            AccessLog::All => true,
        };
        if wanted {
            self.write(status, response_bytes, self.started.elapsed());
        }
    }

    fn write(&self, status: u16, response_bytes: u64, elapsed: Duration) {
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
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes,
            duration_ms: elapsed.as_secs_f64() * 1e3,
        };
        if let Ok(mut line) = serde_json::to_vec(&line) {
            line.push(b'\n');
            self.accounts.writer.line(line);
        }
    }
}
