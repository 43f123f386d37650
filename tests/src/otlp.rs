//! A receiver of traces that was not written by us: OpenTelemetry's own messages, in Python.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{artifacts, until};

/// The kind of a span that answers somebody.
const SERVER: u64 = 2;

const SOON: Duration = Duration::from_secs(60);

/// Ended when it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    process: Child,
    endpoint: String,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl OtlpReceiver {
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start() -> Self {
        let mut process = Command::new(artifacts::otlp_python())
            .arg(artifacts::repository().join("tests/python/otlp/receiver.py"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python can be run");
        let stdout = process.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let port = lines.next().expect("it says its port").expect("as text");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&spans);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span: Value = serde_json::from_str(&line).expect("it prints JSON");
                let mut spans = received.lock().unwrap_or_else(PoisonError::into_inner);
                spans.push(span);
            }
        });
        Self {
            process,
            endpoint: format!("http://127.0.0.1:{port}"),
            spans,
        }
    }

    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Every span so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Value> {
        let spans = self.spans.lock();
        spans.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a request's own span, and gives it with the spans of its trace. They are sent
    /// together.
    ///
    /// # Panics
    /// It does not come.
    #[must_use]
    pub fn trace_of(&self, request_id: &str) -> (Value, Vec<Value>) {
        until("the trace arrives", SOON, || {
            let spans = self.spans();
            let own = |span: &Value| span["attributes"]["dunlin.request_id"] == request_id;
            let (roots, others): (Vec<Value>, Vec<Value>) = spans
                .into_iter()
                .filter(own)
                .partition(|span| span["kind"] == SERVER);
            Some((roots.into_iter().next()?, others))
        })
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
