//! Answers in pieces: each arrives while the predictor makes the next.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use dunlin_tests::{Answer, Browser, Node, NodeOptions, Variant, package, send, until_async};
use reqwest::Method;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// Calls of `echo` or `misbehave` that are under way.
async fn busy(node: &Node, deployment: &str) -> f64 {
    let metric = format!("dunlin_instances{{deployment=\"{deployment}\",state=\"busy\"}}");
    node.metrics().await.value(&metric)
}

async fn until_idle(node: &Node, deployment: &str) {
    until_async("the call has ended", SOON, || async {
        (busy(node, deployment).await == 0.0).then_some(())
    })
    .await;
}

/// Waits for an entry in the log of a deployment.
async fn until_logged(node: &Node, deployment: &str, message: &str) -> Value {
    let path = format!("/v1/deployments/{deployment}/logs");
    until_async(message, SOON, || async {
        let logs = send(node.admin(Method::GET, &path)).await.ok().json();
        let mut entries = logs["entries"].as_array()?.iter();
        let found = entries.find(|entry| entry["message"] == message);
        found.cloned()
    })
    .await
}

/// The stream has no end of its own: what is read arrived while the predictor was still sending.
#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_piece_by_piece_until_the_caller_leaves() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    for http2 in [false, true] {
        let client = reqwest::Client::builder().no_proxy();
        let client = match http2 {
            true => client.http2_prior_knowledge(),
            false => client,
        };
        let client = client.build().unwrap();
        let url = format!("{}/echo/events", node.data_url());
        let mut response = client.get(url).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().contains_key("x-request-id"));
        let first = response.chunk().await.unwrap().unwrap();
        assert!(first.starts_with(b"data: 1\n\n"), "{first:?}");
        assert_eq!(busy(&node, "echo").await, 1.0);
        // Others are answered meanwhile.
        let _answer = node.post_json("/echo", &json!(1)).await.ok();
        drop(response);
        until_idle(&node, "echo").await;
    }
    let left = until_logged(&node, "echo", "the caller has left").await;
    assert_ne!(left["request_id"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_each_event_as_it_comes() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let mut curl = Command::new("curl")
        .args(["--no-buffer", "--silent", "--noproxy", "*"])
        .arg(format!("{}/echo/events", node.data_url()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        assert_eq!(lines.next().unwrap().unwrap(), format!("data: {number}"));
        assert_eq!(lines.next().unwrap().unwrap(), "");
    }
    assert_eq!(busy(&node, "echo").await, 1.0);
    curl.kill().unwrap();
    curl.wait().unwrap();
    until_logged(&node, "echo", "the caller has left").await;
}

/// The page closes its `EventSource` at the third event, of a stream without an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_events_as_they_come() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let page = format!("{}/echo/events.html", node.data_url());
    let shown = browser.dump(&page);
    assert!(shown.contains("seen 1 2 3"), "{shown}");
    until_logged(&node, "echo", "the caller has left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_stream_is_counted_when_it_has_ended() {
    let node = Node::start(&NodeOptions {
        config: "log: {access: all}\n".to_owned(),
        ..NodeOptions::default()
    });
    node.deploy(&package("echo")).await;
    let answer = node.fetch("/echo/events?count=3").await.ok();
    assert_eq!(answer.text(), "data: 1\n\ndata: 2\n\ndata: 3\n\n");
    let labels = "deployment=\"echo\",revision=\"1\"";
    let (requests, times) = (
        format!("dunlin_requests_total{{{labels},code=\"2xx\"}}"),
        format!("dunlin_request_duration_seconds_count{{{labels}}}"),
    );
    until_async("it is counted", SOON, || async {
        let metrics = node.metrics().await;
        (metrics.value(&requests) == 1.0 && metrics.value(&times) == 1.0).then_some(())
    })
    .await;
    let bytes = format!("\"response_bytes\":{}", answer.body.len());
    until_async("it is in the access log", SOON, || async {
        node.log().contains(&bytes).then_some(())
    })
    .await;
}

/// What was sent before is not taken for a whole answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_is_broken_off() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("misbehave")).await;
    for behaviour in ["stream-trap", "stream-fail"] {
        // More than waits on the node: some of it has gone out before the end.
        let path = format!("/misbehave/{behaviour}?bytes=1000000");
        let mut response = node.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{behaviour}");
        let mut read = 0;
        let broken = loop {
            match response.chunk().await {
                Ok(Some(piece)) => read += piece.len(),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "{behaviour}: {read} bytes were a whole answer");
        let at_once = node.fetch(&format!("/misbehave/{behaviour}")).await;
        let _error = at_once.error(500);
    }
    until_async("the log has it", SOON, || async {
        node.log().contains("the guest's secret").then_some(())
    })
    .await;
    let _answer = node.fetch("/misbehave/stream-bad-status").await.error(500);
    let twice = node.fetch("/misbehave/stream-twice").await.ok();
    assert_eq!(twice.text(), "once");
    let logged = until_logged(&node, "misbehave", "begun twice").await;
    assert_eq!(logged["fields"]["refused"], "true");
    until_idle(&node, "misbehave").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_bounded_together() {
    let node = Node::start(&NodeOptions::default());
    let small = Variant::of("misbehave", |yaml| {
        yaml["limits"]["response_body"] = "10Ki".into();
    });
    node.deploy(&small.path()).await;
    let answer = node.fetch("/misbehave/stream-on?bytes=4096").await.ok();
    assert_eq!(answer.body.len(), 8192);
    let ended = until_logged(&node, "misbehave", "the stream has ended").await;
    let reason = ended["fields"]["error"].as_str().unwrap();
    assert!(reason.contains("limits.response_body"), "{reason}");
}

/// Asks for an answer without an end, and does not read it.
fn stalled_reader(node: &Node, path: &str) -> TcpStream {
    let address = node.data_url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("it reads");
    // It has begun.
    let mut head = [0; 15];
    stream.read_exact(&mut head).expect("it answers");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_costs_no_memory_and_ends_at_the_deadline() {
    let node = Node::start(&NodeOptions::default());
    let patient = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "5s".into();
        yaml["limits"]["response_body"] = "64Mi".into();
    });
    node.deploy(&patient.path()).await;
    node.deploy(&package("echo")).await;
    let before = node.rss_bytes();
    let path = "/misbehave/stream-on?bytes=100000";
    let stalled: Vec<TcpStream> = (0..8).map(|_| stalled_reader(&node, path)).collect();
    for number in 0..50 {
        let _answer = node.post_json("/echo", &json!(number)).await.ok();
    }
    let ended = until_logged(&node, "misbehave", "the stream has ended").await;
    let reason = ended["fields"]["error"].as_str().unwrap();
    assert!(reason.contains("deadline"), "{reason}");
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for eight readers");
    until_idle(&node, "misbehave").await;
    drop(stalled);
}

/// A guest that does not listen is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_goes_on_is_stopped_at_its_deadline() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("misbehave")).await;
    let stalled = stalled_reader(&node, "/misbehave/stream-stubborn");
    drop(stalled);
    until_idle(&node, "misbehave").await;
    let ok = Answer::to(node.request(Method::GET, "/misbehave/ok")).await;
    assert_eq!(ok.unwrap().status, 200);
}
