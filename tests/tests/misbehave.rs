//! A guest that misbehaves hurts itself only: its caller gets an error that says nothing of the
//! inside, everybody else gets their answers, and the node is as large as before.

#![expect(
    clippy::print_stdout,
    reason = "the figures are for those who ask: --nocapture"
)]

use std::time::{Duration, Instant};

use dunlin_tests::{Answer, Node, NodeOptions, Variant, package, send, until, until_async};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};

/// What is to come of a behaviour.
enum Outcome {
    /// The guest lived on and answered; its field `code`, where it says what the host refused.
    Lives(Option<&'static str>),
    /// The guest's own answer to its caller.
    Says(u16, &'static str),
    /// Status 500 and a text that tells nothing; whether the instance is gone with it.
    Fails { gone: bool },
    /// Status 504, after the deadline.
    TakesTooLong,
}

use Outcome::{Fails, Lives, Says, TakesTooLong};

const GONE: Outcome = Fails { gone: true };
const KEPT: Outcome = Fails { gone: false };

/// Every behaviour of the guest, sized for the limits of [`bounded`].
const BEHAVIOURS: &[(&str, Outcome)] = &[
    ("ok", Lives(None)),
    ("infer", Lives(None)),
    ("bad-request", Says(400, "the guest blames the caller")),
    ("unavailable", Says(503, "the guest asks for patience")),
    ("internal", KEPT),
    ("trap", GONE),
    ("panic", GONE),
    ("recurse", GONE),
    ("recurse-wide", GONE),
    ("loop", TakesTooLong),
    ("slow?ms=1", Lives(None)),
    ("slow?ms=60000", TakesTooLong),
    ("memory", Lives(None)),
    ("giant?bytes=1048577", KEPT),
    ("log-flood?count=100", Lives(None)),
    ("metric-flood?count=1000", Lives(None)),
    ("many-models", GONE),
    ("bad-status", KEPT),
    ("bad-status?status=0", KEPT),
    ("bad-status?status=100", KEPT),
    ("bad-header", KEPT),
    ("giant-header", KEPT),
    ("many-headers", KEPT),
    ("bad-header-value", KEPT),
    ("unknown-model", Lives(Some("not-found"))),
    ("unknown-model?name=../digits", Lives(Some("not-found"))),
    ("wrong-input-name", Lives(Some("invalid-argument"))),
    ("wrong-input-type", Lives(Some("invalid-argument"))),
    ("wrong-input-shape", Lives(Some("invalid-argument"))),
    ("no-input", Lives(Some("invalid-argument"))),
    ("wrong-length", Lives(Some("invalid-argument"))),
    ("overflow-dims", Lives(Some("invalid-argument"))),
    ("load-bytes", Lives(Some("security"))),
    ("many-tensors", GONE),
    ("giant-tensor-shape", GONE),
    ("load-many", Lives(Some("security"))),
    ("load-huge", Lives(Some("security"))),
];

/// misbehave with limits that it reaches soon.
fn bounded(deadline: &str) -> Variant {
    Variant::of("misbehave", |yaml| {
        yaml["limits"] = json!({
            "deadline": deadline, "memory": "16Mi", "tensor_memory": "8Mi", "response_body": "1Mi",
        });
    })
}

fn check(behaviour: &str, outcome: &Outcome, answer: &Answer) {
    match outcome {
        Lives(code) => {
            assert_eq!(answer.status, 200, "{behaviour}: {}", answer.text());
            let fields = answer.json();
            let code = code.map_or(Value::Null, Value::from);
            assert_eq!(
                fields.get("code").unwrap_or(&Value::Null),
                &code,
                "{behaviour}: {fields}"
            );
        }
        Says(status, text) => assert_eq!(answer.error(*status), *text, "{behaviour}"),
        Fails { .. } => {
            let id = answer.header("x-request-id");
            let text = format!("the predictor failed (request id {id})");
            assert_eq!(answer.error(500), text, "{behaviour}");
        }
        TakesTooLong => {
            let text = answer.error(504);
            assert!(
                text.starts_with("the predictor did not answer within"),
                "{behaviour}: {text}"
            );
        }
    }
    // Whatever came of it, no header was smuggled in.
    assert_eq!(answer.header("x-injected"), "", "{behaviour}");
    if answer.status == 503 {
        assert_ne!(answer.header("retry-after"), "", "{behaviour}");
    }
}

async fn misbehave(node: &Node, deployment: &str, behaviour: &str) -> Answer {
    node.post(&format!("/{deployment}/{behaviour}"), "text/plain", "x")
        .await
}

async fn check_others(node: &Node) {
    let answer = node.post_json("/echo", &json!([1])).await.ok().json();
    assert_eq!(answer["body"]["json"], json!([1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_gets_its_error_and_the_next_request_its_answer() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    node.deploy(&bounded("500ms").path()).await;
    for (behaviour, outcome) in BEHAVIOURS {
        let before = misbehave(&node, "misbehave", "ok").await.ok().json();
        let started = Instant::now();
        let answer = misbehave(&node, "misbehave", behaviour).await;
        let took = started.elapsed();
        check(behaviour, outcome, &answer);
        // Ten times the deadline is room for a machine that is busy; none of them would end so soon.
        assert!(took < Duration::from_secs(5), "{behaviour} took {took:?}");
        if matches!(outcome, TakesTooLong) {
            assert!(
                took >= Duration::from_millis(500),
                "{behaviour} took {took:?}"
            );
        }

        let after = misbehave(&node, "misbehave", "ok").await.ok().json();
        let expected = match outcome {
            // A new instance, which knows nothing of the one that is gone.
            Fails { gone: true } | TakesTooLong => 1,
            _ => before["requests"].as_u64().expect("a number") + 2,
        };
        assert_eq!(
            after["requests"], expected,
            "the instance after {behaviour}"
        );
        check_others(&node).await;
    }
    // The list is complete, or this is no test of every behaviour.
    let known = misbehave(&node, "misbehave", "?").await.error(400);
    let known = known
        .split("it can do ")
        .nth(1)
        .expect("it says what it can do");
    // tests/streaming.rs has what has to do with answers in pieces.
    let known = known
        .split(", ")
        .filter(|name| !name.starts_with("stream-"));
    for name in known {
        let listed = BEHAVIOURS
            .iter()
            .any(|(b, _)| b.split('?').next() == Some(name));
        assert!(listed, "{name} is not tested");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_the_guest_is_for_the_log() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("misbehave")).await;
    for (behaviour, inside) in [
        ("internal", "the guest's secret"),
        ("memory?count=1", ""),
        ("trap", "unreachable"),
        ("recurse", "call stack overflowed"),
        ("recurse-wide", "call stack overflowed"),
        ("many-tensors", "limits.tensor_memory"),
    ] {
        let answer = misbehave(&node, "misbehave", behaviour).await;
        if !inside.is_empty() {
            let id = answer.header("x-request-id");
            assert!(!answer.text().contains(inside), "{behaviour}");
            let what = format!("{behaviour}: the log tells what happened to {id}");
            until(&what, Duration::from_secs(5), || {
                let log = node.log();
                let mut lines = log.lines();
                lines
                    .any(|line| line.contains(id) && line.contains(inside))
                    .then_some(())
            });
        }
    }
}

/// The allocator keeps what it once needed, and when it needs it depends on what happens to meet:
/// from 100 of each on, the node may grow by so much,
const GROWTH_MAX: u64 = 64 << 20;

/// and must come to a round of 500 of each, 16,500 requests, in which it grows by less than this.
/// What leaks half a KiB a request grows by more in every round.
const ROUND_GROWTH_MAX: u64 = 8 << 20;

/// How often it may try: 1,100 of each at least.
const ROUNDS: std::ops::RangeInclusive<usize> = 2..=6;

/// How many at once; more than a deployment has instances, so that some wait for one.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_of_each_leave_the_node_as_it_was() {
    let node = Node::start(&NodeOptions {
        // A line for each of 33,000 failures is not what is tested.
        config: "log: {level: error}\n".into(),
        ..NodeOptions::default()
    });
    node.deploy(&package("echo")).await;
    node.deploy(&bounded("10s").path()).await;
    // What ends with the deadline, with a short one.
    node.deploy_as("hasty", &bounded("20ms").path()).await;
    all_of_them(&node, 100).await;
    let mut resident = vec![node.rss_bytes()];
    let levels_off = loop {
        all_of_them(&node, 500).await;
        let before = resident[resident.len() - 1];
        resident.push(node.rss_bytes());
        let rounds = resident.len() - 1;
        let grown = resident[rounds].saturating_sub(before);
        if rounds >= *ROUNDS.start() && grown < ROUND_GROWTH_MAX {
            break true;
        }
        if rounds == *ROUNDS.end() {
            break false;
        }
    };
    let mebibytes: Vec<u64> = resident.iter().map(|bytes| bytes >> 20).collect();
    println!("resident after 100 of each and each 500 more: {mebibytes:?} MiB");
    let growth = resident[resident.len() - 1].saturating_sub(resident[0]);
    assert!(levels_off && growth < GROWTH_MAX, "{mebibytes:?} MiB");
    check_others(&node).await;
    let deployment = node.get("misbehave").await.expect("it is deployed");
    assert_eq!(deployment["instances"]["busy"], 0);
    assert_eq!(misbehave(&node, "misbehave", "ok").await.status, 200);
}

async fn all_of_them(node: &Node, count: usize) {
    for (behaviour, outcome) in BEHAVIOURS {
        let hasty = matches!(outcome, TakesTooLong);
        let deployment = if hasty { "hasty" } else { "misbehave" };
        let answers = stream::iter(0..count).map(|_| misbehave(node, deployment, behaviour));
        let mut answers = answers.buffer_unordered(AT_ONCE);
        let mut served = 0;
        while let Some(answer) = answers.next().await {
            // One that got no instance within 20 ms is told to come again.
            if hasty && answer.status == 503 {
                continue;
            }
            check(behaviour, outcome, &answer);
            served += 1;
        }
        assert!(served > count / 4, "{behaviour}: {served} of {count}");
    }
    // What idle instances keep of their memory is theirs: measured is the node without them.
    for deployment in ["misbehave", "hasty"] {
        let traps = stream::iter(0..4 * AT_ONCE).map(|_| misbehave(node, deployment, "trap"));
        traps.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_never_stop_leave_time_for_the_others() {
    let node = Node::start(&NodeOptions {
        config: "threads: 2\n".into(),
        ..NodeOptions::default()
    });
    node.deploy(&package("echo")).await;
    node.deploy(&bounded("4s").path()).await;
    let started = Instant::now();
    let loops = stream::iter(0..8).map(|_| misbehave(&node, "misbehave", "loop"));
    let loops = loops.buffer_unordered(8).collect::<Vec<_>>();
    let others = async {
        for _ in 0..20 {
            check_others(&node).await;
        }
        started.elapsed()
    };
    let (loops, others) = tokio::join!(loops, others);
    for answer in &loops {
        check("loop", &TakesTooLong, answer);
    }
    // Eight guests on two threads, each 5 ms at a time: 20 ms a request, on a machine that does
    // nothing else. Where a neighbour waits for what the guests do, it takes all of their time.
    assert!(
        others < Duration::from_secs(3),
        "20 requests took {others:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_the_caller_is_told_to_come_again() {
    let node = Node::start(&NodeOptions {
        config: "instances_max: 1\n".into(),
        ..NodeOptions::default()
    });
    let single = |deadline| {
        Variant::of("misbehave", |yaml| {
            yaml["instances"] = json!({"max": 1});
            yaml["limits"] = json!({"deadline": deadline});
        })
    };
    node.deploy_as("one", &single("2s").path()).await;
    // Its first instance takes the place of the other's, which is idle.
    node.deploy_as("two", &single("2s").path()).await;
    let busy = async {
        let answer = misbehave(&node, "one", "loop").await;
        check("loop", &TakesTooLong, &answer);
    };
    let refused = async {
        until_async("one is busy", Duration::from_secs(1), || async {
            let one = node.get("one").await?;
            (one["instances"]["busy"] == 1).then_some(())
        })
        .await;
        let answer = misbehave(&node, "two", "ok").await;
        assert_eq!(answer.error(503), "all instances are busy");
        assert_eq!(answer.header("retry-after"), "1");
    };
    tokio::join!(busy, refused);
    for deployment in ["two", "one", "two"] {
        assert_eq!(misbehave(&node, deployment, "ok").await.status, 200);
    }
}

/// A request that waits for the instance of another is answered by its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_an_instance_has_an_end() {
    let node = Node::start(&NodeOptions::default());
    let single = Variant::of("misbehave", |yaml| {
        yaml["instances"] = json!({"max": 1});
        yaml["limits"] = json!({"deadline": "500ms"});
    });
    node.deploy(&single.path()).await;
    let started = Instant::now();
    let loops = stream::iter(0..8).map(|_| misbehave(&node, "misbehave", "loop"));
    let answers: Vec<Answer> = loops.buffer_unordered(8).collect().await;
    // One after the other they would take four seconds.
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    for answer in &answers {
        let _reason = answer.error(if answer.status == 503 { 503 } else { 504 });
    }
    assert_eq!(misbehave(&node, "misbehave", "ok").await.status, 200);
}

/// A model that a guest brings costs the guest, for as long as anything of the guest keeps it, and
/// never the node.
#[tokio::test(flavor = "multi_thread")]
async fn models_of_a_guest_have_bounds() {
    let node = Node::start(&NodeOptions::default());
    let granted = Variant::of("misbehave", |yaml| {
        yaml["predictor"]["grants"] = json!(["clock", "load"]);
    });
    node.deploy(&granted.path()).await;
    for _ in 0..3 {
        // What one call has dropped, the next one of the same instance may load again.
        let answer = misbehave(&node, "misbehave", "load-many").await.ok().json();
        assert_eq!(answer["code"], "too-large", "{answer}");
        assert_eq!(answer["count"], 4, "{answer}");
    }
    let answer = misbehave(&node, "misbehave", "load-many?count=3").await;
    assert_eq!(answer.ok().json()["count"], 3);
    let answer = misbehave(&node, "misbehave", "load-huge").await.ok().json();
    assert_eq!(answer["code"], "invalid-encoding", "{answer}");
    let message = answer["message"].as_str().expect("the host says why");
    assert!(message.contains("140737488355328 bytes"), "{message}");
    assert_eq!(misbehave(&node, "misbehave", "ok").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_the_log_ends() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("misbehave")).await;
    let answer = misbehave(&node, "misbehave", "log-flood?count=100000")
        .await
        .ok();
    let id = answer.header("x-request-id");
    // The log is written beside the requests.
    until("the log ends", Duration::from_secs(5), || {
        node.log().contains("the rest is dropped").then_some(())
    });
    let logged = node.log().matches(id).count();
    assert!(logged > 100 && logged < 1000, "{logged} of 100,000 entries");
    assert_eq!(node.log().matches("the rest is dropped").count(), 1);
    // The next call has its own bound.
    let _answer = misbehave(&node, "misbehave", "log-flood?count=10")
        .await
        .ok();
    let path = "/v1/deployments/misbehave/logs";
    let kept = send(node.admin(Method::GET, path)).await.ok().json();
    let kept = kept["entries"].as_array().expect("a list").len();
    assert_eq!(kept, logged + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_that_does_not_come_up_replaces_nothing() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("misbehave")).await;
    let before = node.get("misbehave").await;
    let package_of_echo = package("echo");
    for (init, part) in [
        ("fail", "init fails as it was told to"),
        ("trap", "trapped"),
        ("nonsense", "init"),
        ("loop", "did not answer within"),
    ] {
        let package = Variant::of("misbehave", |yaml| {
            yaml["predictor"]["config"] = json!({"init": init});
        });
        let upload = node.upload(package.bytes(), None);
        let other = async {
            // Whatever `init` does, and however long: nobody else waits for it.
            node.deploy(&package_of_echo).await;
            node.delete("echo").await;
            Instant::now()
        };
        let ((answer, ended), others) =
            tokio::join!(async { (upload.await, Instant::now()) }, other);
        let reason = answer.error(422);
        assert!(reason.contains(part), "{init}: {reason}");
        assert!(
            init != "loop" || others < ended,
            "the endless one held up another"
        );
        // The count of its requests goes on: it is the same instance.
        assert_eq!(misbehave(&node, "misbehave", "ok").await.status, 200);
    }
    let after = node.get("misbehave").await.expect("it is deployed");
    let before = before.expect("it was deployed");
    assert_eq!(after["digest"], before["digest"]);
    assert_eq!(after["revision"], 1);
    let last = misbehave(&node, "misbehave", "ok").await.ok().json();
    assert_eq!(last["requests"], 5);
}
