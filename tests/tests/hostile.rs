//! Clients that mean harm, over HTTP/1.1, HTTP/2 and gRPC: each is refused or cut off, the node stays as
//! large as it was, and everybody else goes on.

#![expect(clippy::print_stdout, reason = "how many were cut off: --nocapture")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use dunlin_tests::{
    Node, NodeOptions, Variant,
    infer::{INFER, check_logits, digits, question},
    send, until_async,
};
use flate2::{Compression, write::ZlibEncoder};
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the node listens");
    stream.set_read_timeout(Some(SOON)).expect("not zero");
    stream
}

/// The node answers, and has not grown by much since `before`.
async fn check_unharmed(node: &Node, before: u64) {
    check_logits(&node.post_json(INFER, &question()).await);
    let grown = node.rss_bytes().saturating_sub(before) / MIB;
    assert!(grown < 200, "{grown} MiB more");
}

/// A large body is held once: it grows into the place that it said it needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_not_held_twice() {
    const BODY: u64 = 60 * MIB;
    let node = Node::start(&NodeOptions::default());
    let wide = Variant::of("digits", |yaml| {
        yaml["limits"] = json!({"request_body": "64Mi"});
    });
    node.deploy(&wide.path()).await;
    node.reset_peak();
    let Some(before) = node.peak_bytes() else {
        return;
    };
    let body = vec![b' '; usize::try_from(BODY).expect("it fits")];
    let refused = node.post(INFER, "application/json", body).await.error(400);
    assert!(refused.contains("not a JSON object"), "{refused}");
    let grown = node.peak_bytes().expect("as before").saturating_sub(before);
    assert!(grown > BODY / 2, "{grown} bytes: it was not read");
    assert!(grown < BODY + BODY / 2, "{grown} bytes more for {BODY}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_that_is_declared_is_refused_before_it_is_sent() {
    let node = digits().await;
    let before = node.rss_bytes();
    for path in [
        INFER,
        "/digits",
        "/v1/models/digits:predict",
        "/predictions/digits",
    ] {
        let mut stream = connect(node.data_url());
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
    check_unharmed(&node, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_large_by_inflating_is_refused() {
    let node = digits().await;
    let before = node.rss_bytes();
    // 256 MiB of blanks in 256 KiB.
    let mut bomb = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..256 {
        bomb.write_all(&vec![b' '; MIB as usize])
            .expect("a Vec takes any bytes");
    }
    let bomb = bomb.finish().expect("a Vec takes any bytes");
    let asks = (0..16).map(|_| {
        let request = node.request(Method::POST, INFER).body(bomb.clone());
        send(request.header("content-encoding", "deflate"))
    });
    for answer in futures_util::future::join_all(asks).await {
        assert!(answer.error(413).contains("larger than"));
    }
    check_unharmed(&node, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_in_the_middle_harm_nobody() {
    let node = digits().await;
    let before = node.rss_bytes();
    let body = question().to_string();
    let whole = format!(
        "POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in [1, 10, whole.len() / 2, whole.len() - 1, whole.len()] {
        for _ in 0..20 {
            // Half closed: it will send no more, and reads.
            let mut half = connect(node.data_url());
            half.write_all(&whole.as_bytes()[..cut]).expect("it reads");
            half.shutdown(Shutdown::Write).expect("it is open");
            let mut answer = String::new();
            let _ended = half.read_to_string(&mut answer);
            let ended = answer.is_empty() || answer.starts_with("HTTP/1.1 ");
            assert!(ended, "{cut}: {answer}");
            // Reset: what it was sent it did not read.
            let mut reset = connect(node.data_url());
            let healthy = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
            reset.write_all(healthy).expect("it reads");
            let _arrived = reset.peek(&mut [0]).expect("an answer");
            reset.write_all(&whole.as_bytes()[..cut]).expect("it reads");
        }
    }
    check_unharmed(&node, before).await;
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection that speaks HTTP/2 from the start.
async fn http2(address: &str) -> Sender {
    let stream = tokio::net::TcpStream::connect(address.trim_start_matches("http://"));
    let stream = stream.await.expect("the node listens");
    let connection = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = connection.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn request(address: &str, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let address = address.trim_start_matches("http://");
    Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(body))
        .expect("it is well formed")
}

/// Requests that are taken back as soon as they are sent: CVE-2023-44487.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_harm_nobody() {
    let node = digits().await;
    let before = node.rss_bytes();
    for (address, path) in [
        (node.data_url(), INFER),
        (
            node.grpc_address(),
            "/inference.GRPCInferenceService/ModelInfer",
        ),
    ] {
        let mut cut_off = 0;
        for _ in 0..20 {
            let mut sender = http2(address).await;
            for _ in 0..500 {
                if sender.ready().await.is_err() {
                    cut_off += 1;
                    break;
                }
                let body = question().to_string().into_bytes();
                let asked = sender.send_request(request(address, path, body));
                // It is on its way, and dropped.
                drop(asked.now_or_never());
                tokio::task::yield_now().await;
            }
        }
        println!("{path}: {cut_off} of 20 connections were cut off");
        check_unharmed(&node, before).await;
        let mut sender = http2(address).await;
        let answer = sender
            .send_request(request(address, path, Vec::new()))
            .await;
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
}

/// A call with one message, and the status and text that it ends with.
async fn grpc(node: &Node, method: &str, message: &[u8]) -> (u32, String) {
    let length = u32::try_from(message.len()).expect("a message of a test");
    let framed = [&[0], &length.to_be_bytes()[..], message].concat();
    grpc_framed(node, method, framed).await
}

async fn grpc_framed(node: &Node, method: &str, body: Vec<u8>) -> (u32, String) {
    let address = node.grpc_address();
    let path = format!("/inference.GRPCInferenceService/{method}");
    let mut sender = http2(address).await;
    let answer: Response<_> = sender
        .send_request(request(address, &path, body))
        .await
        .expect("an answer");
    let (parts, body) = answer.into_parts();
    assert_eq!(parts.status, 200);
    let trailers = body
        .collect()
        .await
        .ok()
        .and_then(|body| body.trailers().cloned());
    let header = |name: &str| {
        let found = parts
            .headers
            .get(name)
            .or_else(|| trailers.as_ref()?.get(name));
        found.map(|value| value.to_str().expect("ASCII").to_owned())
    };
    let status = header("grpc-status").expect("every call has a status");
    (
        status.parse().expect("a number"),
        header("grpc-message").unwrap_or_default(),
    )
}

const DEADLINE_EXCEEDED: u32 = 4;
const OUT_OF_RANGE: u32 = 11;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;

/// `model_name` of a request, and tensors of so many bytes.
fn message(model: &str, bytes: usize) -> Vec<u8> {
    let mut message = vec![0x0a, u8::try_from(model.len()).expect("a name is short")];
    message.extend_from_slice(model.as_bytes());
    if bytes > 0 {
        message.push(0x3a);
        let mut length = bytes;
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.resize(message.len() + bytes, 0);
    }
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_has_the_bounds_of_http() {
    let node = Node::start(&NodeOptions {
        config: "requests_in_flight_max: 1\nbody_memory_max: 2Mi\ndeadline_max: 2s\n".to_owned(),
        ..NodeOptions::default()
    });
    let patient = Variant::of("misbehave", |yaml| yaml["limits"]["deadline"] = "2s".into());
    node.deploy(&patient.path()).await;
    let (status, text) = grpc(&node, "ModelInfer", &message("misbehave", 4 << 20)).await;
    assert_eq!(status, UNAVAILABLE, "{text}");
    assert!(text.contains("body_memory_max"), "{text}");
    // What was refused has given its room back.
    let (status, text) = grpc(&node, "ModelInfer", &message("nobody", 1 << 20)).await;
    assert_eq!(status, 5, "{text}");

    // It says four gigabytes and sends nothing.
    let (status, text) = grpc_framed(&node, "ModelInfer", vec![0, 0xff, 0xff, 0xff, 0xff]).await;
    assert_eq!(status, OUT_OF_RANGE, "{text}");
    let (status, text) = grpc(&node, "Nothing", b"").await;
    assert_eq!(status, UNIMPLEMENTED, "{text}");
    let (status, text) = grpc(&node, "ModelInfer", &[0xff; 64]).await;
    assert_ne!(status, 0, "{text}");

    let slow = node.request(Method::POST, "/misbehave/slow?ms=60000");
    let slow = tokio::spawn(dunlin_tests::Answer::to(slow));
    until_async("the place is taken", SOON, || async {
        let (status, text) = grpc(&node, "ModelInfer", &message("misbehave", 0)).await;
        (status == UNAVAILABLE && text.contains("requests_in_flight_max")).then_some(())
    })
    .await;
    slow.abort();
    until_async("it is free again", SOON, || async {
        let (status, _) = grpc(&node, "ModelInfer", &message("misbehave", 0)).await;
        // The question has no tensors, which is another error.
        (status != UNAVAILABLE).then_some(())
    })
    .await;
}

/// A message that does not come has the time that a request may take at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_message_that_does_not_come_is_not_waited_for() {
    let node = Node::start(&NodeOptions {
        config: "deadline_max: 1s\n".to_owned(),
        ..NodeOptions::default()
    });
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    let client = client.build().expect("a client without TLS needs nothing");
    let url = format!(
        "http://{}/inference.GRPCInferenceService/ModelInfer",
        node.grpc_address()
    );
    let stalled = futures_util::stream::once(async { Ok::<_, std::io::Error>(vec![0_u8, 0, 0]) });
    let never = futures_util::stream::pending();
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(stalled, never));
    let request = client
        .post(url)
        .header("content-type", "application/grpc")
        .body(body);
    let answer = send(request).await;
    assert_eq!(answer.header("grpc-status"), DEADLINE_EXCEEDED.to_string());
    let ready = json!({"ready": true});
    assert_eq!(node.fetch("/v2/health/ready").await.ok().json(), ready);
}
