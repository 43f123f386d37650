//! Sends traces to a collector: OTLP over HTTP, in protobuf.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{net::TcpStream, sync::mpsc, time::Instant};

use super::{
    Message,
    otlp::{ExportRequest, Spans},
};

/// The first trace of a batch waits so long for others.
const DELAY: Duration = Duration::from_secs(1);
/// Spans of one request to the collector; a trace more may be in it.
const BATCH_SPANS: usize = 2048;
/// A collector has so long to take a batch.
const PATIENCE: Duration = Duration::from_secs(10);
/// A batch that is not taken is lost after so many attempts.
const ATTEMPTS_MAX: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Exporter {
    /// Without a slash at its end.
    endpoint: String,
    /// The collector took the last batch: what changes is logged, not each batch.
    well: bool,
}

impl Exporter {
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            well: true,
        }
    }

    /// Until nobody sends any more.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Message>) {
        while let Some(first) = waiting.recv().await {
            let mut spans = Spans::new();
            let mut flushed = None;
            let end = Instant::now() + DELAY;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Trace(trace) => spans.extend(*trace),
                    Message::Flush(done) => {
                        flushed = Some(done);
                        break;
                    }
                }
                if spans.len() >= BATCH_SPANS {
                    break;
                }
                next = tokio::time::timeout_at(end, waiting.recv())
                    .await
                    .ok()
                    .flatten();
            }
            if !spans.is_empty() {
                self.send(spans).await;
            }
            // Who flushes may have given up waiting.
            let _told = flushed.map(|done| done.send(()));
        }
    }

    async fn send(&mut self, spans: Spans) {
        let count = spans.len();
        let body = Bytes::from(ExportRequest::new(spans).encode_to_vec());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let sent = tokio::time::timeout(PATIENCE, self.post(body.clone())).await;
            match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(status) if status.is_success() => {
                    if !self.well {
                        tracing::info!(
                            endpoint = self.endpoint,
                            "the collector takes traces again"
                        );
                    }
                    self.well = true;
                    return;
                }
                Ok(status) if !may_pass(status) => {
                    self.lost(count, &format!("it answered with HTTP {status}"));
                    return;
                }
                Ok(status) if attempts == ATTEMPTS_MAX => {
                    self.lost(count, &format!("it answered with HTTP {status}"));
                    return;
                }
                Err(error) if attempts == ATTEMPTS_MAX => {
                    self.lost(count, &error.to_string());
                    return;
                }
                Ok(_) | Err(_) => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }

    fn lost(&mut self, spans: usize, reason: &str) {
        if self.well {
            let endpoint = &self.endpoint;
            tracing::warn!(
                endpoint,
                spans,
                reason,
                "the collector does not take traces"
            );
        }
        self.well = false;
    }

    /// A connection of its own each time: there is a batch a second at most.
    async fn post(&self, body: Bytes) -> io::Result<StatusCode> {
        let uri: Uri = format!("{}/v1/traces", self.endpoint)
            .parse()
            .map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri.path())
            .header(header::HOST, uri.authority().map_or("", |at| at.as_str()))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let answer = sender.send_request(request).await;
        connection.abort();
        Ok(answer.map_err(io::Error::other)?.status())
    }
}

/// What the specification of OTLP/HTTP says may be tried again.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}
