//! A package that is not right is refused with the reason, leaves nothing behind and disturbs nobody.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use dunlin_tests::{
    Answer, Node, NodeOptions, Variant, blob, digest, package, rewrite, send, until_async,
    with_component, with_yaml,
};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;

/// Every file of the node's content store. The folder of what is still arriving counts too.
fn stored(node: &Node) -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, into: &mut BTreeSet<PathBuf>) {
        let entries = fs::read_dir(folder).expect("the store is a folder");
        for entry in entries {
            let path = entry.expect("the store is a folder").path();
            match path.is_dir() {
                true => walk(&path, into),
                false => _ = into.insert(path),
            }
        }
    }
    let mut files = BTreeSet::new();
    walk(&node.data_dir().join("store"), &mut files);
    files
}

async fn check_live(node: &Node) {
    let answer = node
        .post_json("/echo", &json!({"still": "here"}))
        .await
        .ok();
    assert_eq!(answer.json()["body"]["json"], json!({"still": "here"}));
    let deployment = node.get("echo").await.expect("it is deployed");
    assert_eq!(deployment["revision"], 1, "it was not deployed again");
    assert_eq!(deployment["status"], "live");
}

/// Uploads to the name that is live, and finds it, and the store, as they were.
async fn check_refused(node: &Node, what: &str, package: Vec<u8>, status: u16, part: &str) {
    let before = stored(node);
    let answer = node.upload(package, Some("echo")).await;
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let reason = answer.error(status);
    assert!(reason.contains(part), "{what}: {reason}");
    assert_eq!(stored(node), before, "{what}: something was left behind");
    check_live(node).await;
}

fn read(name: &str) -> Vec<u8> {
    fs::read(package(name)).expect("a package can be read")
}

/// The first byte of the largest file in the archive, changed: that of the predictor.
fn tampered() -> Vec<u8> {
    rewrite("digits", |files| {
        let largest = files.iter_mut().max_by_key(|(_, bytes)| bytes.len());
        let (_, bytes) = largest.expect("a package has files");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_package_is_refused() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let whole = read("digits");
    let cut = |at: usize| whole[..at].to_vec();
    let tar_with = |path: &str, kind: tar::EntryType| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").expect("it is short");
        }
        header.set_cksum();
        archive
            .append(&header, &[][..])
            .expect("a Vec takes any bytes");
        archive.into_inner().expect("a Vec takes any bytes")
    };
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], ""),
        ("a text", b"hello".repeat(1000), ""),
        ("a short text", b"hello".to_vec(), "is not a tar archive"),
        ("zeros", vec![0; 4096], ""),
        ("an empty archive", vec![0; 1024], ""),
        ("cut in the first header", cut(100), "ends too early"),
        ("cut in a blob", cut(whole.len() / 2), "ends too early"),
        (
            "cut in the last blob",
            cut(whole.len() - 4096),
            "ends too early",
        ),
        ("a changed byte", tampered(), "tampered"),
        (
            "no index",
            rewrite("digits", |f| f.retain(|(p, _)| p != "index.json")),
            "index.json",
        ),
        (
            "no layout",
            rewrite("digits", |f| f.retain(|(p, _)| p != "oci-layout")),
            "oci-layout",
        ),
        (
            "a blob is missing",
            rewrite("digits", |f| drop(f.pop())),
            "",
        ),
        (
            "a blob twice",
            rewrite("digits", |f| f.push(f[f.len() - 1].clone())),
            "",
        ),
        (
            "a foreign blob",
            rewrite("digits", |files| {
                let bytes = b"who am I".to_vec();
                files.push((blob(&digest(&bytes)), bytes));
            }),
            "named by nothing",
        ),
        (
            "a foreign file",
            rewrite("digits", |f| f.push(("hello.txt".into(), vec![1]))),
            "hello.txt",
        ),
        (
            "a path upwards",
            tar_with("../../escaped", tar::EntryType::Regular),
            "..",
        ),
        (
            "an absolute path",
            tar_with("/tmp/escaped", tar::EntryType::Regular),
            "",
        ),
        (
            "a link",
            tar_with("oci-layout", tar::EntryType::Symlink),
            "",
        ),
    ];
    for (what, package, part) in table {
        check_refused(&node, what, package, 400, part).await;
    }
    // A Wasm file alone is a mistake that people make.
    check_refused(&node, "a component", b"\0asm\x0d\0\x01\0".to_vec(), 400, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_of_another_world_is_refused() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let table: [(&str, &[u8], &str); 4] = [
        ("a core module", b"\0asm\x01\0\0\0", "module"),
        (
            "an empty component",
            b"\0asm\x0d\0\x01\0",
            "dunlin:predictor/handler",
        ),
        ("no Wasm", b"#!/bin/sh\n", ""),
        ("compiled code", b"\x7fELF\x02\x01\x01\0", ""),
    ];
    for (what, component, part) in table {
        let package = with_component("digits", component);
        check_refused(&node, what, package, 400, part).await;
    }
    // The predictor of misbehave asks for the time; what it is not granted keeps it out.
    let granted = read("misbehave");
    let ungranted = with_yaml("misbehave", |yaml| yaml.replace("[clock]", "[]"));
    assert_ne!(granted, ungranted);
    check_refused(&node, "no grant", ungranted, 400, "clock").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_answer_as_promised_is_refused() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    // No float32 computation is so exact.
    let exact = Variant::of("digits", |yaml| {
        yaml["predictor"]["models"][0]["tolerance"] = json!({"relative": 0.0, "absolute": 1e-30});
    });
    check_refused(&node, "golden samples", exact.bytes(), 422, "digits").await;
    let memory = Variant::of("digits", |yaml| yaml["limits"]["memory"] = "2Gi".into());
    check_refused(
        &node,
        "too much memory",
        memory.bytes(),
        422,
        "guest_memory_max",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_larger_than_the_node_takes_is_refused() {
    let node = Node::start(&NodeOptions {
        config: "package_max: 1Mi\n".into(),
        ..NodeOptions::default()
    });
    node.deploy(&package("echo")).await;
    let large = with_component("digits", &vec![7; 2 << 20]);
    check_refused(&node, "with a length", large.clone(), 413, "1048576").await;
    let before = stored(&node);
    let chunks: Vec<_> = large.chunks(16 << 10).map(Bytes::copy_from_slice).collect();
    let chunks = stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>));
    let answer = node.upload(reqwest::Body::wrap_stream(chunks), None).await;
    let reason = answer.error(413);
    assert!(reason.contains("package_max"), "{reason}");
    assert_eq!(stored(&node), before);
    check_live(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_plane_wants_the_token() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let before = stored(&node);
    let token = node.token();
    let changed: String = token.chars().rev().collect();
    let table = [
        None,
        Some(String::new()),
        Some("Bearer".into()),
        Some("Bearer ".into()),
        Some(format!("Bearer {changed}")),
        Some(format!("Bearer {}", &token[1..])),
        Some(format!("Bearer {token}x")),
        Some(format!("Basic {token}")),
        Some(token.clone()),
    ];
    let paths = [
        (Method::POST, "/v1/deployments"),
        (Method::GET, "/v1/deployments"),
        (Method::GET, "/v1/deployments/echo"),
        (Method::DELETE, "/v1/deployments/echo"),
        (Method::GET, "/v1/deployments/echo/logs"),
        (Method::GET, "/v1/node"),
        (Method::GET, "/no/such/path"),
    ];
    for authorization in &table {
        for (method, path) in &paths {
            let url = format!("{}{path}", node.admin_url());
            let mut request = node.client().request(method.clone(), url);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            if *method == Method::POST {
                request = request.body(read("digits"));
            }
            let answer = send(request).await;
            assert_eq!(answer.status, 401, "{method} {path} with {authorization:?}");
            let reason = answer.error(401);
            assert!(!reason.contains(&token[..8]), "{reason}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert_eq!(stored(&node), before);
    check_live(&node).await;
    assert!(node.get("digits").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_must_be_a_name() {
    let node = Node::start(&NodeOptions::default());
    for name in [
        "",
        "v2",
        "metrics",
        "UPPER",
        "a/b",
        "a.b",
        "..",
        &"x".repeat(64),
    ] {
        let request = node
            .admin(Method::POST, "/v1/deployments")
            .query(&[("name", name)]);
        let answer = send(request.body(read("echo"))).await;
        let reason = answer.error(400);
        assert!(
            reason.contains("is not a name for a deployment"),
            "{name:?}: {reason}"
        );
    }
    node.deploy_as(&"x".repeat(63), &package("echo")).await;
}

/// An upload whose sender goes away in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_off_in_the_middle_leaves_nothing() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let before = stored(&node);
    for _ in 0..5 {
        let half = Bytes::from(read("digits")[..400_000].to_vec());
        let half = stream::iter([Ok::<_, std::io::Error>(half)]);
        let body = reqwest::Body::wrap_stream(half.chain(stream::pending()));
        let request = node.admin(Method::POST, "/v1/deployments").body(body);
        let uploading = tokio::spawn(Answer::to(request));
        let arriving = "a part of the upload is on the node's disk";
        until_async(arriving, Duration::from_secs(10), || async {
            (stored(&node) != before).then_some(())
        })
        .await;
        uploading.abort();
        let gone = "what had arrived of the upload is gone";
        until_async(gone, Duration::from_secs(10), || async {
            (stored(&node) == before).then_some(())
        })
        .await;
    }
    check_live(&node).await;
    assert!(node.get("digits").await.is_none());
    node.deploy(&package("digits")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_leaves_nothing() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("echo")).await;
    let before = stored(&node);
    node.deploy(&package("digits")).await;
    node.deploy_as("again", &package("digits")).await;
    node.delete("digits").await;
    // The other name has the same package: it keeps its files.
    assert_ne!(stored(&node), before);
    assert_eq!(node.fetch("/v2/models/again/ready").await.status, 200);
    node.delete("again").await;
    assert_eq!(stored(&node), before);
    assert_eq!(node.post_json("/again", &json!({})).await.status, 404);
    let twice = send(node.admin(Method::DELETE, "/v1/deployments/again")).await;
    assert!(twice.error(404).contains("\"again\""));
    check_live(&node).await;
}
