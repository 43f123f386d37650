//! A node that comes up, with what it served before.

use std::time::Duration;

use dunlin_tests::{Answer, Node, NodeOptions, Signal, Variant, package, send, until, until_async};
use reqwest::Method;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// A predictor whose `init` takes so long.
fn slow(init_ms: u64) -> Variant {
    Variant::of("misbehave", |yaml| {
        yaml["predictor"]["config"] = json!({"init_ms": init_ms});
    })
}

/// How many `init`s have begun so far.
fn begun(node: &Node) -> usize {
    node.log().matches("init takes its time").count()
}

fn uploads(node: &Node, variant: &Variant, names: &[&str]) -> Vec<tokio::task::JoinHandle<Answer>> {
    let upload = |name: &&str| {
        let path = format!("/v1/deployments?name={name}");
        let request = node.admin(Method::POST, &path).body(variant.bytes());
        tokio::spawn(send(request))
    };
    names.iter().map(upload).collect()
}

fn node() -> Node {
    Node::start(&NodeOptions {
        config: "threads: 4\n".to_owned(),
        ..NodeOptions::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_while_it_starts() {
    let mut node = node();
    for deployed in uploads(&node, &slow(4000), &["slow-a", "slow-b"]) {
        let _live = deployed.await.unwrap().ok();
    }
    node.stop(Signal::Term);
    let before = begun(&node);
    node.start_again_unready();

    for url in [node.data_url(), node.admin_url()] {
        let _healthy = send(node.client().get(format!("{url}/healthz"))).await.ok();
    }
    let unready = node.fetch("/v2/health/ready").await;
    assert!(unready.error(503).contains("starting"));
    for name in ["slow-a", "slow-b"] {
        let found = node.get(name).await.expect("it is known from the start");
        assert_eq!(found["status"], "starting");
        let refused = node.post_json(&format!("/{name}/ok"), &json!({})).await;
        assert!(refused.error(503).contains("is starting"));
        assert_eq!(refused.header("retry-after"), "1");
    }
    // Another name is deployed, one that is coming up is replaced once it has.
    assert_eq!(node.deploy(&package("echo")).await["status"], "live");
    until("both come up side by side", SOON, || {
        (begun(&node) == before + 2).then_some(())
    });
    let replaced = node.deploy_as("slow-a", &package("echo")).await;
    assert_eq!(replaced["revision"], 2);
    until_async("the node is ready", SOON, || async {
        (node.fetch("/v2/health/ready").await.status == 200).then_some(())
    })
    .await;
    let answer = node.post_json("/slow-b/ok", &json!({})).await.ok();
    assert_eq!(answer.json()["did"], "ok");
    let answer = node.post_json("/slow-a", &json!([1])).await.ok();
    assert_eq!(answer.json()["body"]["json"], json!([1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_node_that_starts() {
    let mut node = node();
    node.deploy(&slow(4000).path()).await;
    node.stop(Signal::Term);
    let before = begun(&node);
    node.start_again_unready();
    until("it is coming up", SOON, || {
        (begun(&node) == before + 1).then_some(())
    });
    assert_eq!(node.stop(Signal::Term).code(), Some(0));
    assert!(
        !node.log().contains("serving again"),
        "it did not wait for it"
    );
    node.start_again();
    assert_eq!(node.get("misbehave").await.unwrap()["status"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_inits_hold_up_no_other_deploy() {
    let node = node();
    node.deploy_as("known", &package("echo")).await;
    let names = ["slow-a", "slow-b", "slow-c", "slow-d", "slow-e"];
    let slow = uploads(&node, &slow(8000), &names);
    until("all of them are in their init", SOON, || {
        (begun(&node) == names.len()).then_some(())
    });
    node.deploy(&package("echo")).await;
    assert!(
        slow.iter().all(|deploy| !deploy.is_finished()),
        "the quick one waited for a slow one"
    );
    for deployed in slow {
        let _live = deployed.await.unwrap().ok();
    }
}

/// Where a guest computes on the only thread, an answer that waited for others would wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_computes_holds_up_no_answer() {
    let node = Node::start(&NodeOptions {
        config: "threads: 1\n".to_owned(),
        ..NodeOptions::default()
    });
    node.deploy(&package("echo")).await;
    let slow = uploads(&node, &slow(8000), &["slow"]);
    until("it is in its init", SOON, || {
        (begun(&node) == 1).then_some(())
    });
    for _ in 0..20 {
        let _answer = node.post_json("/echo", &json!([1])).await.ok();
    }
    assert!(!slow[0].is_finished(), "answers waited for the init");
    for deployed in slow {
        let _live = deployed.await.unwrap().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_up_says_why() {
    let mut node = node();
    node.deploy(&package("echo")).await;
    node.stop(Signal::Term);
    std::fs::remove_dir_all(node.data_dir().join("store/blobs")).unwrap();
    node.start_again();
    let echo = node.get("echo").await.expect("it is not forgotten");
    assert_eq!(echo["status"], "failed");
    let reason = echo["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the store has no blob sha256:"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_deleted_takes_no_change() {
    let node = node();
    node.deploy(&package("echo")).await;
    std::fs::remove_file(node.data_dir().join("state.db")).unwrap();
    let refused = node
        .upload(std::fs::read(package("echo")).unwrap(), None)
        .await;
    let delete = send(node.admin(Method::DELETE, "/v1/deployments/echo")).await;
    for answer in [refused, delete] {
        let said = answer.error(500);
        assert!(
            said.contains("state.db") && said.contains("Put the file back"),
            "{said}"
        );
    }
    // What served before serves on.
    assert_eq!(node.get("echo").await.unwrap()["revision"], 1);
    let _answer = node.post_json("/echo", &json!([1])).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nobody_asks_gives_back_what_requests_left() {
    let node = Node::start(&NodeOptions::default());
    let _live = node.deploy(&package("digits")).await;
    let question = json!({"pixels": vec![[0; 8]; 8]});
    for _ in 0..20 {
        let _answer = node.post_json("/digits", &question).await.ok();
    }
    let busy = node.rss_bytes();
    let left = |now: u64| now < busy - (busy / 8);
    until("memory to come back", SOON, || {
        left(node.rss_bytes()).then_some(())
    });
    let _answer = node.post_json("/digits", &question).await.ok();
}
