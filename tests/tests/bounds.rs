//! Every bound that an operator or an author sets, reached: who is over it is told so, and everybody
//! else goes on.

#![expect(clippy::print_stdout, reason = "a skipped test says why: --nocapture")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use dunlin_tests::{Answer, Node, NodeOptions, Variant, package, send, until_async};
use reqwest::Method;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

fn node(config: &str) -> Node {
    Node::start(&NodeOptions {
        config: config.to_owned(),
        ..NodeOptions::default()
    })
}

/// The misbehaving guest with these `instances`.
async fn deploy_instances(node: &Node, instances: Value) {
    let variant = Variant::of("misbehave", |yaml| yaml["instances"] = instances);
    node.deploy(&variant.path()).await;
}

/// How many requests the instance that answers has seen, this one among them.
async fn seen_by_the_instance(node: &Node) -> u64 {
    let answer = node.post_json("/misbehave/ok", &json!({})).await.ok();
    answer.json()["requests"].as_u64().expect("a number")
}

/// The instances of the misbehaving guest in the state `idle` or `busy`.
async fn instances(node: &Node, state: &str) -> u64 {
    let misbehave = node.get("misbehave").await.expect("it is deployed");
    misbehave["instances"][state].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_as_long_as_the_deployment_says() {
    let node = node("");
    let table: [(Value, &[u64]); 3] = [
        (json!({"policy": "warm"}), &[1, 2, 3, 4, 5, 6, 7]),
        (json!({"calls_max": 3}), &[1, 2, 3, 1, 2, 3, 1]),
        (json!({"policy": "fresh"}), &[1, 1, 1, 1, 1, 1, 1]),
    ];
    for (policy, expected) in table {
        deploy_instances(&node, policy.clone()).await;
        let mut seen = Vec::new();
        for _ in expected {
            seen.push(seen_by_the_instance(&node).await);
        }
        assert_eq!(seen, expected, "{policy}");
    }
    assert_eq!(instances(&node, "idle").await, 0, "fresh ones are not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_is_dropped_and_made_again() {
    let node = node("");
    deploy_instances(&node, json!({"idle_timeout": "1s"})).await;
    assert_eq!(seen_by_the_instance(&node).await, 1);
    assert_eq!(seen_by_the_instance(&node).await, 2);
    until_async("the idle instance is dropped", SOON, || async {
        (instances(&node, "idle").await == 0).then_some(())
    })
    .await;
    assert_eq!(seen_by_the_instance(&node).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_bound_of_requests_a_caller_is_told_to_come_again() {
    let node = node("requests_in_flight_max: 1\n");
    let patient = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "30s".into();
    });
    node.deploy(&patient.path()).await;
    let slow = node.request(Method::POST, "/misbehave/slow?ms=60000");
    let slow = tokio::spawn(Answer::to(slow));
    until_async("the slow request is being answered", SOON, || async {
        (instances(&node, "busy").await == 1).then_some(())
    })
    .await;
    for path in ["/misbehave/ok", "/v2/models/misbehave/infer"] {
        let refused = node.post_json(path, &json!({})).await;
        let reason = refused.error(503);
        assert!(reason.contains("requests_in_flight_max"), "{reason}");
        assert_eq!(refused.header("retry-after"), "1");
    }
    // Who watches the node is not a caller.
    let _healthy = node.fetch("/healthz").await.ok();
    slow.abort();
    until_async("the place is free again", SOON, || async {
        let answer = node.post_json("/misbehave/ok", &json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// One deployment at its bound of requests does not take the node's places from another.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_at_its_bound_of_requests_leaves_room_for_others() {
    let node = node("");
    node.deploy(&package("echo")).await;
    let narrow = Variant::of("misbehave", |yaml| {
        yaml["limits"] = json!({"deadline": "30s", "requests_in_flight": 1});
    });
    node.deploy(&narrow.path()).await;
    let slow = node.request(Method::POST, "/misbehave/slow?ms=60000");
    let slow = tokio::spawn(Answer::to(slow));
    until_async("the slow request is being answered", SOON, || async {
        (instances(&node, "busy").await == 1).then_some(())
    })
    .await;
    let refused = node.post_json("/misbehave/ok", &json!({})).await;
    let reason = refused.error(503);
    assert!(reason.contains("limits.requests_in_flight"), "{reason}");
    assert_eq!(refused.header("retry-after"), "1");
    let _ = node.post_json("/echo", &json!({})).await.ok();
    slow.abort();
}

/// A client that waits for less than the deployment allows is answered in its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_ask_for_less_time() {
    let node = node("");
    let patient = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "60s".into();
    });
    node.deploy(&patient.path()).await;
    let ask = async |path: &str, wait: &str| {
        let request = node.request(Method::POST, path);
        send(request.header("x-request-timeout-ms", wait)).await
    };
    for path in ["/misbehave/loop", "/misbehave/slow?ms=60000"] {
        let asked = Instant::now();
        let _ = ask(path, "200").await.error(504);
        assert!(asked.elapsed() < Duration::from_secs(30), "{path}");
    }
    let _ = ask("/misbehave/ok", "30000").await.ok();
    node.deploy(&package("echo")).await;
    let told = ask("/echo", "2000").await.ok().json();
    let told = told["timeout_ms"].as_u64().unwrap();
    assert!((1_000..=2_000).contains(&told), "{told} ms are left");
    let reason = ask("/misbehave/ok", "0.5").await.error(400);
    assert!(reason.contains("x-request-timeout-ms"), "{reason}");
}

/// A connection that has had one answer and stays open.
fn connection(address: &str) -> TcpStream {
    let mut stream = ask(address);
    let head = read_head(&mut stream).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

fn ask(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the backlog takes it");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: dunlin\r\n\r\n")
        .expect("a request can be sent");
    stream
}

/// What has come by the time that something has, or the reading gives up.
fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_bound_of_connections_a_client_waits_for_its_turn() {
    let node = node("connections_max: 2\n");
    let address = node.data_url().trim_start_matches("http://").to_owned();
    let first = connection(&address);
    let second = connection(&address);
    let mut third = ask(&address);
    let wait = |stream: &TcpStream, time| stream.set_read_timeout(Some(time)).expect("not zero");
    wait(&third, Duration::from_millis(300));
    let kind = read_head(&mut third).expect_err("no place is free").kind();
    assert!(
        matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{kind}"
    );
    drop(first);
    wait(&third, SOON);
    let head = read_head(&mut third).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // The other plane has its own places.
    let health = format!("{}/healthz", node.admin_url());
    let _healthy = send(node.client().get(health)).await.ok();
    drop(second);
}

/// A section that a component may have and nobody reads.
fn custom_section(bytes: u32) -> Vec<u8> {
    let mut section = vec![0];
    // The size in LEB128, always of five bytes.
    for group in 0..5 {
        let more = if group < 4 { 0x80 } else { 0 };
        section.push((((bytes + 2) >> (7 * group)) & 0x7f) as u8 | more);
    }
    section.extend([1, b'x']);
    section.resize(section.len() + bytes as usize, 0);
    section
}

/// A disk that is full refuses the upload, keeps what is served, and leaves room as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    if !may_mount() {
        return;
    }
    let node = Node::start(&NodeOptions {
        disk_bytes: Some(16 << 20),
        ..NodeOptions::default()
    });
    node.deploy(&package("digits")).await;
    let before = node.get("digits").await;
    let large = Variant::of_folder("misbehave", |folder| {
        let path = folder.join("predictor.wasm");
        let mut component = std::fs::read(&path).expect("it is there");
        component.extend(custom_section(32 << 20));
        std::fs::write(path, component).expect("there is space here");
    });
    for _ in 0..3 {
        let reason = node.upload(large.bytes(), None).await.error(507);
        assert!(reason.contains("space"), "{reason}");
    }
    assert_eq!(node.get("digits").await, before);
    assert!(node.get("misbehave").await.is_none());
    // What was refused takes no room: what fits still fits.
    node.deploy(&package("echo")).await;
    let answer = node.post_json("/echo", &json!({"a": 1})).await.ok();
    assert_eq!(answer.json()["body"]["json"], json!({"a": 1}));
}

fn may_mount() -> bool {
    let may_mount = Command::new("unshare").args(["-rm", "true"]).output();
    let may_mount = may_mount.is_ok_and(|output| output.status.success());
    if !may_mount {
        println!("skipped: a small file system for the node needs `unshare -rm`, refused here");
    }
    may_mount
}

/// Leaves no byte free in the node's data folder.
fn fill(node: &Node) {
    let folder = node
        .token_file()
        .parent()
        .expect("it lies in the data folder");
    let mut filler =
        std::fs::File::create(folder.join("filler")).expect("there is space for a name");
    let mut piece = 1 << 20;
    while piece > 0 {
        if filler.write_all(&vec![0; piece]).is_err() {
            piece /= 2;
        }
    }
}

/// Deleting is what an operator does about a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_delete_makes_room() {
    if !may_mount() {
        return;
    }
    let node = Node::start(&NodeOptions {
        disk_bytes: Some(16 << 20),
        ..NodeOptions::default()
    });
    node.deploy(&package("digits")).await;
    node.deploy(&package("echo")).await;
    for name in ["echo", "digits"] {
        fill(&node);
        node.delete(name).await;
        assert!(node.get(name).await.is_none());
    }
    let folder = node
        .token_file()
        .parent()
        .expect("it lies in the data folder");
    std::fs::remove_file(folder.join("filler")).expect("it is the test's");
    assert_eq!(node.deploy(&package("echo")).await["revision"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_bound_of_uploads_an_operator_is_told_to_come_again() {
    let node = node("uploads_max: 1\n");
    let bytes = std::fs::read(package("echo")).expect("it is there");
    let address = node.admin_url().trim_start_matches("http://");
    let mut stalled = TcpStream::connect(address).expect("it listens");
    let head = format!(
        "POST /v1/deployments HTTP/1.1\r\nhost: dunlin\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n",
        node.token(),
        bytes.len()
    );
    stalled.write_all(head.as_bytes()).expect("it reads");
    stalled
        .write_all(&bytes[..bytes.len() - 1])
        .expect("it reads");
    let incoming = node.data_dir().join("store/incoming");
    until_async("the upload has begun", SOON, || async {
        let files = std::fs::read_dir(&incoming).expect("it is the store's");
        (files.count() > 0).then_some(())
    })
    .await;
    let refused = node.upload(bytes.clone(), None).await;
    assert!(
        refused.error(503).contains("uploads_max"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.header("retry-after"), "1");
    drop(stalled);
    until_async("the place is free again", SOON, || async {
        let answer = node.upload(bytes.clone(), None).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// The node's standard error is a pipe, and who should read it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let mut node = Node::start(&NodeOptions {
        config: "log: {access: all}\n".to_owned(),
        stalled_log: true,
        ..NodeOptions::default()
    });
    node.deploy(&package("misbehave")).await;
    until_async("the log is full", Duration::from_secs(60), || async {
        let _logged = node
            .post_json("/misbehave/log-flood?count=300", &json!({}))
            .await
            .ok();
        let dropped = node.metrics().await.value("dunlin_log_lines_dropped_total");
        (dropped > 0.0).then_some(())
    })
    .await;
    let _healthy = node.fetch("/healthz").await.ok();
    assert_eq!(node.stop(dunlin_tests::Signal::Term).code(), Some(0));
}
