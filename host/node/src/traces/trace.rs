//! The spans of one request, as they come about.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dunlin_inference::{RunObserver, Times};
use dunlin_sandbox::CallTimes;

use super::{otlp, parent::Parent};

/// A predictor may call its models as often as it likes; what comes after these spans is left out.
const SPANS_MAX: usize = 128;

pub(crate) type SpanId = [u8; 8];

#[derive(Debug)]
pub(crate) struct Trace {
    id: [u8; 16],
    request_id: String,
    parent: Option<SpanId>,
    state: String,
    pub(crate) root: SpanId,
    clock: Clock,
    spans: Mutex<Vec<otlp::Span>>,
}

/// Tells an instant in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    unix_ns: u64,
}

impl Clock {
    fn of(instant: Instant) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let then = now.unwrap_or_default().saturating_sub(instant.elapsed());
        Self {
            instant,
            unix_ns: u64::try_from(then.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn unix_ns(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.instant).as_nanos();
        self.unix_ns
            .saturating_add(u64::try_from(since).unwrap_or(0))
    }
}

impl Trace {
    /// None where the system has no randomness for ids.
    pub(super) fn new(request_id: &str, parent: Option<Parent>, started: Instant) -> Option<Self> {
        let (id, parent, state) = match parent {
            Some(parent) => (parent.trace_id, Some(parent.span_id), parent.state),
            None => (random()?, None, String::new()),
        };
        Some(Self {
            id,
            request_id: request_id.to_owned(),
            parent,
            state,
            root: random()?,
            clock: Clock::of(started),
            spans: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The id of a span that is yet to end.
    pub(crate) fn span_id(&self) -> SpanId {
        random().unwrap_or(self.root)
    }

    /// A span within the request.
    pub(crate) fn span(&self, name: &'static str, started: Instant, took: Duration) {
        self.span_of(self.span_id(), self.root, name, started, took);
    }

    pub(crate) fn span_of(
        &self,
        id: SpanId,
        parent: SpanId,
        name: &'static str,
        started: Instant,
        took: Duration,
    ) {
        let span = self.make(id, Some(parent), name.to_owned(), started, started + took);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < SPANS_MAX {
            spans.push(span);
        }
    }

    /// Ends the request's own span, and with it the trace.
    pub(crate) fn end(
        &self,
        name: String,
        attributes: Vec<otlp::KeyValue>,
        failed: bool,
    ) -> otlp::Spans {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = std::mem::take(&mut *spans);
        let started = self.clock.instant;
        let mut root = self.make(self.root, self.parent, name, started, Instant::now());
        root.kind = otlp::KIND_SERVER;
        root.attributes.extend(attributes);
        root.status = failed.then(otlp::Status::error);
        spans.push(root);
        spans
    }

    fn make(
        &self,
        id: SpanId,
        parent: Option<SpanId>,
        name: String,
        started: Instant,
        ended: Instant,
    ) -> otlp::Span {
        otlp::Span {
            trace_id: self.id.to_vec(),
            span_id: id.to_vec(),
            trace_state: self.state.clone(),
            parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name,
            kind: otlp::KIND_INTERNAL,
            start_time_unix_nano: self.clock.unix_ns(started),
            end_time_unix_nano: self.clock.unix_ns(ended),
            attributes: vec![otlp::KeyValue::text("dunlin.request_id", &self.request_id)],
            status: None,
        }
    }

    /// Makes spans of the model calls below `parent`.
    pub(crate) fn model_calls(self: &Arc<Self>, parent: SpanId) -> Arc<dyn RunObserver> {
        Arc::new(ModelCalls {
            trace: Arc::clone(self),
            parent,
        })
    }
}

/// A call of a predictor, whose span is to have those of its models below it.
pub(crate) struct PredictorCall {
    trace: Arc<Trace>,
    span: SpanId,
    called: Instant,
}

impl PredictorCall {
    pub(crate) fn begin(trace: &Arc<Trace>) -> Self {
        Self {
            span: trace.span_id(),
            trace: Arc::clone(trace),
            called: Instant::now(),
        }
    }

    pub(crate) fn runs(&self) -> Arc<dyn RunObserver> {
        self.trace.model_calls(self.span)
    }

    pub(crate) fn end(self, times: &CallTimes) {
        let Self {
            trace,
            span,
            called,
        } = self;
        trace.span("instance", called, times.instance_wait);
        if let Some(guest) = times.guest {
            let begun = called + times.instance_wait;
            trace.span_of(span, trace.root, "guest", begun, guest);
        }
    }
}

struct ModelCalls {
    trace: Arc<Trace>,
    parent: SpanId,
}

impl RunObserver for ModelCalls {
    fn ran(&self, called: Instant, times: &Times) {
        let trace = &self.trace;
        let begun = called + times.queue;
        trace.span_of(trace.span_id(), self.parent, "queue", called, times.queue);
        let compute = times.compute_input + times.compute_infer + times.compute_output;
        trace.span_of(trace.span_id(), self.parent, "compute", begun, compute);
    }
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}
