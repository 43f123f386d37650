//! A node that ends, however it ends, comes back as it was; and what it says of itself is true.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use dunlin_tests::{
    Answer, HeldOut, Node, NodeOptions, Signal, Variant, binary, package, pixels_json, send, until,
    until_async,
};
use reqwest::Method;
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

async fn check_digits(node: &Node) {
    let held_out = HeldOut::read();
    let answer = node
        .post_json("/digits", &pixels_json(&held_out.pixels[7]))
        .await
        .ok();
    assert_eq!(answer.json()["label"], held_out.predicted[7]);
}

async fn check_echo(node: &Node) {
    let answer = node.post_json("/echo", &json!({"a": 1})).await.ok();
    assert_eq!(answer.json()["body"]["json"], json!({"a": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deployed_is_served_again() {
    let mut node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node.deploy(&package("digits")).await;
    node.deploy(&package("echo")).await;
    node.deploy_as("gone", &package("echo")).await;
    node.delete("gone").await;
    let token = node.token();
    for signal in [Signal::Term, Signal::Kill] {
        let ended = node.restart(signal);
        assert_eq!(
            ended.success(),
            signal == Signal::Term,
            "{signal:?}: {ended}"
        );
        check_digits(&node).await;
        check_echo(&node).await;
        assert!(node.get("gone").await.is_none());
        let digits = node.get("digits").await.expect("it is deployed");
        assert_eq!(
            (&digits["revision"], &digits["status"]),
            (&json!(2), &json!("live"))
        );
        assert_eq!(node.token(), token, "{signal:?}");
    }
    assert_eq!(node.deploy(&package("digits")).await["revision"], 3);
    // A name that comes back counts on: a revision is one package, for good.
    let back = node.deploy_as("gone", &package("echo")).await;
    assert_eq!(back["revision"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_was_begun_and_takes_nothing_new() {
    let mut node = Node::start(&NodeOptions::default());
    let patient = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "20s".into()
    });
    node.deploy(&patient.path()).await;
    let slow = node.request(Method::POST, "/misbehave/slow?ms=2000");
    let slow = tokio::spawn(Answer::to(slow));
    until_async("the slow request is being answered", SOON, || async {
        let misbehave = node.get("misbehave").await?;
        (misbehave["instances"]["busy"] == 1).then_some(())
    })
    .await;
    node.signal(Signal::Term);
    let address = node.data_url().trim_start_matches("http://").to_owned();
    until("new connections are refused", SOON, || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });
    assert!(
        !slow.is_finished(),
        "the drain began while it was being answered"
    );
    let answer = slow.await.unwrap().unwrap().ok();
    assert_eq!(answer.json()["did"], "slow");
    assert_eq!(node.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_forever() {
    let mut node = Node::start(&NodeOptions {
        config: "drain_timeout: 1s\n".into(),
        ..NodeOptions::default()
    });
    let patient = Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "60s".into()
    });
    node.deploy(&patient.path()).await;
    let endless = tokio::spawn(Answer::to(node.request(Method::POST, "/misbehave/loop")));
    until_async("the endless request is being answered", SOON, || async {
        let misbehave = node.get("misbehave").await?;
        (misbehave["instances"]["busy"] == 1).then_some(())
    })
    .await;
    assert_eq!(node.stop(Signal::Term).code(), Some(0));
    assert!(endless.await.unwrap().is_err(), "its connection was closed");
}

/// Uploads one and the other package until the node is killed, and looks at what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_during_uploads_it_has_the_old_or_the_new() {
    let mut node = Node::start(&NodeOptions::default());
    let other = Variant::of("digits", |yaml| yaml["limits"]["deadline"] = "7s".into());
    let packages = [fs::read(package("digits")).unwrap(), other.bytes()];
    let mut acknowledged = node.upload(packages[0].clone(), None).await.ok().json();
    // From the middle of an upload to well after its answer.
    for patience in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let mut begun = acknowledged["revision"].as_u64().unwrap();
        let uploads = async {
            for package in packages.iter().cycle() {
                begun += 1;
                let request = node.admin(Method::POST, "/v1/deployments");
                acknowledged = send(request.body(package.clone())).await.ok().json();
            }
        };
        let elapsed = tokio::time::timeout(Duration::from_millis(patience), uploads).await;
        assert!(elapsed.is_err(), "the uploads do not end");
        node.restart(Signal::Kill);

        let found = node.get("digits").await.expect("it is deployed");
        assert_eq!(found["status"], "live");
        let (revision, last) = (
            found["revision"].as_u64(),
            acknowledged["revision"].as_u64(),
        );
        assert!(
            revision >= last && revision <= Some(begun),
            "{found} after {acknowledged}"
        );
        if revision == last {
            assert_eq!(found["digest"], acknowledged["digest"]);
        }
        check_digits(&node).await;
        acknowledged = found;
    }
    // Whatever was cut off left nothing: one package of five blobs is there.
    let blobs = fs::read_dir(node.data_dir().join("store/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_node() {
    let node = Node::start(&NodeOptions::default());
    let second = Command::new(binary())
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--grpc-listen",
            "off",
            "--admin-listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(node.data_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another node is using"), "{said}");
    assert!(said.contains("--data-dir"), "{said}");
    node.deploy(&package("echo")).await;
    check_echo(&node).await;
}

fn compiled(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data_dir().join("compiled")).expect("the node made it");
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_is_made_again() {
    let mut node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node.deploy(&package("echo")).await;
    let compilations = |node: &Node| node.log().matches("compiled a predictor ").count();
    assert_eq!(compilations(&node), 2);
    node.stop(Signal::Term);
    let entries = compiled(&node);
    assert_eq!(entries.len(), 2);
    let mut flipped = fs::read(&entries[0]).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&entries[0], flipped).unwrap();
    let whole = fs::read(&entries[1]).unwrap();
    fs::write(&entries[1], &whole[..1000]).unwrap();

    node.start_again();
    check_digits(&node).await;
    check_echo(&node).await;
    assert_eq!(compilations(&node), 4, "both were compiled again");
    node.restart(Signal::Term);
    check_digits(&node).await;
    assert_eq!(compilations(&node), 4, "and kept");

    node.stop(Signal::Term);
    fs::remove_dir_all(node.data_dir().join("compiled")).unwrap();
    node.start_again();
    check_digits(&node).await;
    assert_eq!(compilations(&node), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compiled_goes_with_its_deployment() {
    let mut node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node.deploy(&package("echo")).await;
    node.deploy_as("again", &package("echo")).await;
    for (deleted, left) in [("again", 2), ("echo", 1)] {
        node.delete(deleted).await;
        assert_eq!(compiled(&node).len(), left, "after {deleted}");
    }
    node.stop(Signal::Kill);
    fs::write(node.data_dir().join("compiled/.tmpA1b2C3"), "half").unwrap();
    node.start_again();
    assert_eq!(compiled(&node).len(), 1);
    check_digits(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_package_takes_down_only_itself() {
    let mut node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node.deploy(&package("echo")).await;
    node.stop(Signal::Term);
    // The model, of which the repository has a copy to know it by.
    let model = fs::read(dunlin_tests::repository().join("predictors/digits/models/digits.onnx"));
    let name = dunlin_tests::digest(&model.unwrap()).replace(':', "/");
    let blob = node.data_dir().join("store/blobs").join(name);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    node.start_again();

    check_echo(&node).await;
    let digits = node.get("digits").await.expect("it is not forgotten");
    assert_eq!(digits["status"], "failed");
    assert_ne!(digits["reason"], "");
    for path in ["/digits", "/v2/models/digits/infer"] {
        let answer = node.post_json(path, &json!({})).await;
        let error = answer.error(503);
        assert!(error.contains("did not come up"), "{error}");
    }
    assert_eq!(node.fetch("/v2/models/digits/ready").await.status, 503);
    // Deployed again, it is whole again.
    assert_eq!(node.deploy(&package("digits")).await["status"], "live");
    check_digits(&node).await;
    node.restart(Signal::Kill);
    check_digits(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_and_an_operator_see_the_node() {
    let node = Node::start(&NodeOptions::default());
    for url in [node.data_url(), node.admin_url()] {
        let health = send(node.client().get(format!("{url}/healthz"))).await.ok();
        assert_eq!(health.json(), json!({"status": "ok"}));
    }
    let mode = fs::metadata(node.token_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = fs::metadata(node.data_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(node.token().len(), 64);
    let described = send(node.admin(Method::GET, "/v1/node")).await.ok().json();
    assert_eq!(described["data_dir"], json!(node.data_dir()));
    assert_eq!(described["draining"], false);
    let other = Node::start(&NodeOptions::default());
    assert_ne!(node.token(), other.token());
}
