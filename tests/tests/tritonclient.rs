//! Triton's own Python client against the node: a program that was not written by us.

use std::process::Command;

use dunlin_tests::{Node, NodeOptions, package, python, repository};

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_finds_a_server_it_knows() {
    let python = python();
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    let models = repository().join("predictors/digits/models");
    let output = Command::new(python)
        .arg(repository().join("tests/python/oip_client.py"))
        .args(["--url", node.data_url().trim_start_matches("http://")])
        .args(["--model", "digits", "--golden"])
        .arg(models.join("golden.safetensors"))
        .arg("--heldout")
        .arg(models.join("heldout.safetensors"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("checks passed"), "{said}");
}
