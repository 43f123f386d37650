//! Traces of requests, by W3C Trace Context in and by OTLP out. Nothing of it exists where no endpoint
//! is configured.

mod export;
mod otlp;
mod parent;
mod trace;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use export::Exporter;
use parent::Parent;

pub(crate) use otlp::{KeyValue, Span};
pub(crate) use trace::{PredictorCall, Trace};

/// Traces that wait for the exporter; more are dropped and counted.
const QUEUE_MAX: usize = 1024;

/// Takes the traces of a node to its collector.
#[derive(Debug)]
pub(crate) struct Traces {
    queue: mpsc::Sender<Message>,
    sample_ratio: f64,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Trace(Box<otlp::Spans>),
    /// Everything that came before is to be sent now.
    Flush(oneshot::Sender<()>),
}

impl Traces {
    /// None where no endpoint is configured. Call it within the runtime.
    pub(crate) fn start(config: &edge_config::Traces) -> Option<Self> {
        let endpoint = config.endpoint.as_deref()?;
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(Exporter::new(endpoint).run(waiting));
        Some(Self {
            queue,
            sample_ratio: config.sample_ratio,
            dropped: AtomicU64::new(0),
        })
    }

    /// The trace of a request, where it is one of the sample: the caller decides, and where the
    /// caller says nothing, the ratio does.
    pub(crate) fn begin(
        &self,
        request_id: &str,
        headers: &HeaderMap,
        started: Instant,
    ) -> Option<Trace> {
        let parent = Parent::of(headers);
        let sampled = match &parent {
            Some(parent) => parent.sampled,
            None => unit_random() < self.sample_ratio,
        };
        let trace = || Trace::new(request_id, parent, started);
        sampled.then(trace).flatten()
    }

    pub(crate) fn end(&self, spans: otlp::Spans) {
        if self
            .queue
            .try_send(Message::Trace(Box::new(spans)))
            .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Traces that found no room on their way to the collector.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends what waits, but takes no longer than `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _sent = flushed.await;
            }
        };
        let _elapsed = tokio::time::timeout(patience, flush).await;
    }
}

/// From 0 to 1, without 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn unit_random() -> f64 {
    let random = getrandom::u64().unwrap_or(0) >> 11;
    random as f64 / (1u64 << 53) as f64
}
