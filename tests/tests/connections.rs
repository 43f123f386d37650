//! Connections that do what no client should: everybody gets an answer or an end, nobody a place for
//! ever, and the node stays as large as its operator allows.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use dunlin_tests::{Node, NodeOptions, Variant, package, until_async};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

fn node(config: &str) -> Node {
    Node::start(&NodeOptions {
        config: config.to_owned(),
        ..NodeOptions::default()
    })
}

fn connect(url: &str) -> TcpStream {
    let address = url.trim_start_matches("http://");
    let stream = TcpStream::connect(address).expect("the node listens");
    let timeout = stream.set_read_timeout(Some(Duration::from_secs(20)));
    timeout.expect("not zero");
    stream
}

/// What comes back before the connection is closed, or for as long as `enough` is not.
fn exchange(url: &str, sent: &[u8], enough: impl Fn(&str) -> bool) -> String {
    let mut stream = connect(url);
    // A node that has seen enough may close while we still send.
    let _closed = stream.write_all(sent);
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if enough(&text) {
            return text;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return text,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn what_is_no_http_is_told_so() {
    let node = node("");
    let header = |line: &str| format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let table = [
        (
            "a header without a colon",
            header("nothing"),
            "HTTP/1.1 400",
        ),
        (
            "a version of the future",
            "GET / HTTP/9.9\r\n\r\n".to_owned(),
            "HTTP/1.1 400",
        ),
        (
            "a length that is none",
            header("content-length: x"),
            "HTTP/1.1 400",
        ),
        (
            "two lengths",
            header("content-length: 1\r\ncontent-length: 2"),
            "HTTP/1.1 400",
        ),
        (
            "more headers than anybody has",
            header(many.trim_end()),
            "HTTP/1.1 431",
        ),
        (
            "a path that does not end",
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)),
            "HTTP/1.1 414",
        ),
    ];
    for (what, sent, expected) in table {
        let received = exchange(node.data_url(), sent.as_bytes(), |_| false);
        assert!(received.starts_with(expected), "{what}: {received:?}");
    }
}

#[test]
fn an_answer_does_not_wait_for_the_next_request() {
    let node = node("");
    let whole = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    for behind in ["GET /heal", "\r\n", "no request at all\r\n\r\n", whole] {
        let started = Instant::now();
        let answered = |text: &str| text.contains(r#"{"status":"ok"}"#);
        let received = exchange(
            node.data_url(),
            format!("{whole}{behind}").as_bytes(),
            answered,
        );
        assert!(answered(&received), "{behind:?}: {received:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{behind:?}");
    }
}

#[test]
fn who_does_not_ask_is_sent_away() {
    let node = node("connections_max: 6\n");
    let silent: Vec<TcpStream> = ["", "P", "PRI * HT", "GET /healthz"]
        .into_iter()
        .map(|begun| {
            let mut stream = connect(node.data_url());
            stream.write_all(begun.as_bytes()).expect("it is open");
            stream
        })
        .collect();
    let started = Instant::now();
    for mut stream in silent {
        let mut rest = Vec::new();
        // Nothing or a 408, and then the end.
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok(), "{ended:?} after {:?}", started.elapsed());
    }
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn who_has_asked_may_take_a_while_to_ask_again() {
    let node = node("");
    let mut stream = connect(node.data_url());
    for pause in [Duration::from_secs(12), Duration::ZERO] {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("it is open");
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).expect("it is answered");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read} bytes");
        std::thread::sleep(pause);
    }
}

/// Sends `requests` at once and never reads.
fn unread(node: &Node, requests: &str) -> TcpStream {
    let mut stream = connect(node.data_url());
    let timeout = stream.set_write_timeout(Some(Duration::from_secs(2)));
    timeout.expect("not zero");
    // Where the node takes no more, that is what is wanted.
    let _stalled = stream.write_all(requests.as_bytes());
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_have_a_bound() {
    let node = node("body_memory_max: 32Mi\n");
    let large = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "10s".into();
    });
    node.deploy(&large.path()).await;
    let giant =
        "POST /misbehave/giant?bytes=8000000 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let before = node.rss_bytes();
    // One client that asks and asks, and many that ask once.
    let mut clients = vec![unread(&node, &giant.repeat(100))];
    clients.extend((0..20).map(|_| unread(&node, giant)));
    let refused = until_async("the node's memory for bodies is taken", SOON, || async {
        let answer = node
            .post_json("/misbehave/giant?bytes=8000000", &json!({}))
            .await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert!(refused.error(503).contains("body_memory_max"));
    let grown = (node.rss_bytes().saturating_sub(before)) >> 20;
    // The instances' own memory, eight of them, and the bound.
    assert!(grown < 300, "{grown} MiB more");
    // What is small goes on.
    assert_eq!(
        node.post_json("/misbehave/ok", &json!({})).await.status,
        200
    );
    drop(clients);
    until_async("the memory is given back", SOON, || async {
        let answer = node
            .post_json("/misbehave/giant?bytes=8000000", &json!({}))
            .await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_its_way_takes_no_place_of_others() {
    let node = node("requests_in_flight_max: 2\n");
    node.deploy(&package("echo")).await;
    let stalled = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{";
    let _clients: Vec<TcpStream> = (0..8).map(|_| unread(&node, stalled)).collect();
    for _ in 0..10 {
        let _answer = node.post_json("/echo", &json!({"a": 1})).await.ok();
        let _ready = node.fetch("/v2/health/ready").await.ok();
    }
}
