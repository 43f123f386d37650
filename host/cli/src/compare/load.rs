//! The timed run: connections that ask one question after the other for a while.
//!
//! Each holds one connection and does nothing else, so that what is measured is the node and not a
//! client. Every time is kept; the bound is the duration.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::node::Answer;

/// Before the clock counts: instances are made, plans and caches filled.
const WARM_UP_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) path: String,
    pub(super) header: (HeaderName, HeaderValue),
    pub(super) body: Bytes,
}

impl Question {
    pub(super) fn new(path: String, content_type: &'static str, body: Bytes) -> Self {
        Self {
            path,
            header: (CONTENT_TYPE, HeaderValue::from_static(content_type)),
            body,
        }
    }
}

/// What a timed run came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Speed {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Speed {
    fn of(mut nanoseconds: Vec<u64>, elapsed: Duration) -> Option<Self> {
        nanoseconds.sort_unstable();
        let at = |share: f64| {
            // Nearest rank.
            let rank = (share * nanoseconds.len() as f64).ceil() as usize;
            let value = nanoseconds.get(rank.clamp(1, nanoseconds.len().max(1)) - 1)?;
            Some(*value as f64 / 1e6)
        };
        Some(Self {
            requests: nanoseconds.len() as u64,
            requests_per_second: nanoseconds.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: at(0.50)?,
            p99_ms: at(0.99)?,
        })
    }
}

/// Asks the questions in turn on so many connections. An answer that is no success ends it.
pub(super) async fn run(
    address: &str,
    questions: &[Question],
    connections: u32,
    duration: Duration,
) -> Result<Speed, String> {
    let warm_up = WARM_UP_MAX.min(duration / 4);
    ask_for(address, questions, connections, warm_up).await?;
    let started = Instant::now();
    let took = ask_for(address, questions, connections, duration).await?;
    Speed::of(took, started.elapsed()).ok_or_else(|| "no request was answered in time".to_owned())
}

/// The nanoseconds of each answer. Every connection asks at least once.
async fn ask_for(
    address: &str,
    questions: &[Question],
    connections: u32,
    duration: Duration,
) -> Result<Vec<u64>, String> {
    let mut askers = JoinSet::new();
    let end = Instant::now() + duration;
    for first in 0..connections as usize {
        let mut connection = connect(address).await?;
        let (host, questions) = (address.to_owned(), questions.to_vec());
        askers.spawn(async move {
            let mut took = Vec::new();
            let mut now = Instant::now();
            for question in questions
                .iter()
                .cycle()
                .skip(first % questions.len().max(1))
            {
                let answer = ask(&mut connection, &host, question).await?;
                if !answer.is_success() {
                    return Err(format!(
                        "HTTP {} under load: {}",
                        answer.status,
                        answer.error()
                    ));
                }
                let answered = Instant::now();
                let nanoseconds = (answered - now).as_nanos();
                took.push(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
                now = answered;
                if now >= end {
                    break;
                }
            }
            Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(asker) = askers.join_next().await {
        all.extend(asker.map_err(|error| error.to_string())??);
    }
    Ok(all)
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: &str) -> Result<Connection, String> {
    let failed = |error: &dyn std::error::Error| format!("cannot connect to the node: {error}");
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    // What goes wrong on it is also the answer to the request that is under way.
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(
    connection: &mut Connection,
    host: &str,
    question: &Question,
) -> Result<Answer, String> {
    let (name, value) = &question.header;
    let request = Request::builder()
        .method(Method::POST)
        .uri(&question.path)
        .header(HOST, host)
        .header(name, value)
        .body(Full::new(question.body.clone()))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    };
    let answer: hyper::Result<Answer> = exchange.await;
    answer.map_err(|error| format!("the node broke off under load: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).rev().map(|ms| ms * 1_000_000).collect();
        let speed = Speed::of(hundred, Duration::from_secs(10)).unwrap();
        assert_eq!((speed.p50_ms, speed.p99_ms), (50.0, 99.0));
        assert_eq!((speed.requests, speed.requests_per_second), (100, 10.0));
        let one = Speed::of(vec![1_000_000], Duration::from_secs(1)).unwrap();
        assert_eq!((one.p50_ms, one.p99_ms), (1.0, 1.0));
        assert_eq!(Speed::of(Vec::new(), Duration::from_secs(1)), None);
    }
}
