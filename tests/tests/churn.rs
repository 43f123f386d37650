//! Deployments come, change and go, and no request notices.

#![expect(
    clippy::print_stdout,
    reason = "the figures are for those who ask: --nocapture"
)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use dunlin_tests::{Answer, HeldOut, Node, NodeOptions, Variant, package, pixels_json};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;

const REQUESTS: usize = 40_000;
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_wrong_or_lost_while_packages_come_and_go() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    // Its component stays loaded: those that come and go do not wait for the compiler.
    node.deploy_as("stays", &package("echo")).await;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let requests = async {
        let problems = ask(&node).await;
        over.store(true, Ordering::Relaxed);
        problems
    };
    let (problems, redeployed, came_and_went) =
        tokio::join!(requests, redeploy(&node, &over), come_and_go(&node, &over));
    println!(
        "{REQUESTS} requests in {:?}; digits deployed {redeployed} times, {came_and_went} others",
        started.elapsed()
    );
    let first = problems.iter().take(5).collect::<Vec<_>>();
    assert!(
        problems.is_empty(),
        "{} of {REQUESTS}: {first:?}",
        problems.len()
    );
    // Otherwise nothing was tested.
    assert!(
        redeployed >= 5 && came_and_went >= 5,
        "{redeployed}, {came_and_went}"
    );

    let digits = node.get("digits").await.expect("it is deployed");
    assert_eq!(digits["revision"], redeployed + 1);
    assert_eq!(
        digits["requests"]["total"], REQUESTS,
        "every request is counted, over all revisions"
    );
    assert_eq!(digits["requests"]["2xx"], REQUESTS);
    assert_eq!(digits["instances"]["busy"], 0);
}

/// Asks for known images, and gives what was not answered as it must be.
async fn ask(node: &Node) -> Vec<String> {
    let held_out = &HeldOut::read();
    let problems = stream::iter(0..REQUESTS).map(|number| async move {
        let row = number % held_out.pixels.len();
        let request = node.request(Method::POST, "/digits");
        let request = request.json(&pixels_json(&held_out.pixels[row]));
        let id = format!("request-{number}");
        let answer = match Answer::to(request.header("x-request-id", &id)).await {
            Ok(answer) => answer,
            Err(error) => return Some(format!("{id} has no answer: {error:?}")),
        };
        let expected = held_out.predicted[row];
        let right = answer.status == 200
            && answer.json()["label"] == expected
            && answer.header("x-request-id") == id;
        (!right).then(|| format!("{id}, a {expected}: {} {}", answer.status, answer.text()))
    });
    let problems = problems.buffer_unordered(AT_ONCE);
    problems.filter_map(async |problem| problem).collect().await
}

/// Deploys digits again and again, with one and the other set of limits.
async fn redeploy(node: &Node, over: &AtomicBool) -> u64 {
    let other = Variant::of("digits", |yaml| {
        yaml["limits"]["deadline"] = "7s".into();
        yaml["instances"] = json!({"max": 16});
    });
    let packages = [other.path(), package("digits")];
    let mut count = 0;
    for package in packages.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        node.deploy(package).await;
        count += 1;
    }
    count
}

/// Deploys echo under several names, asks it, and deletes it.
async fn come_and_go(node: &Node, over: &AtomicBool) -> u64 {
    let echo = package("echo");
    let mut count = 0;
    for name in ["one", "two", "three"].iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        node.deploy_as(name, &echo).await;
        let path = format!("/{name}/path");
        let answer = node
            .post_json(&path, &json!({"name": name}))
            .await
            .ok()
            .json();
        assert_eq!(answer["body"]["json"]["name"], *name);
        node.delete(name).await;
        assert_eq!(node.post_json(&path, &json!({})).await.status, 404);
        count += 1;
    }
    count
}
