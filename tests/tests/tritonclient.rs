//! Programs that were not written by us against the node: Triton's Python clients, its load generator,
//! and a fuzzer of what the OpenAPI document says.

use std::process::{Command, Output};

use dunlin_tests::{Node, NodeOptions, package, perf_analyzer, python, repository};

async fn digits(model_control: &str) -> Node {
    let node = Node::start(&NodeOptions {
        config: format!("model_control: {model_control}\n"),
        ..NodeOptions::default()
    });
    node.deploy(&package("digits")).await;
    node
}

fn host(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// What the command said, having checked that it succeeded.
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it can be run");
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let complained = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {said}\n{complained}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_finds_a_server_it_knows() {
    let node = digits("none").await;
    let models = repository().join("predictors/digits/models");
    let said = run(Command::new(python())
        .arg(repository().join("tests/python/oip_client.py"))
        .args(["--url", host(node.data_url())])
        .args(["--model", "digits", "--golden"])
        .arg(models.join("golden.safetensors"))
        .arg("--heldout")
        .arg(models.join("heldout.safetensors")));
    assert!(said.contains("checks passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_finds_it_over_grpc() {
    let node = digits("token").await;
    let golden = repository().join("predictors/digits/models/golden.safetensors");
    let said = run(Command::new(python())
        .arg(repository().join("tests/python/oip_grpc_client.py"))
        .args(["--url", node.grpc_address(), "--token", &node.token()])
        .args(["--model", "digits", "--golden"])
        .arg(golden));
    assert!(said.contains("checks passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn perf_analyzer_runs_to_its_end() {
    let Some(program) = perf_analyzer() else {
        return;
    };
    let node = digits("none").await;
    let folder = program.parent().expect("a program lies in a folder");
    for (protocol, address) in [
        ("http", host(node.data_url())),
        ("grpc", node.grpc_address()),
    ] {
        let said = run(Command::new(&program)
            .env("LD_LIBRARY_PATH", folder)
            .args(["-m", "digits", "-i", protocol, "-u", address, "-b", "1"])
            .args(["--shape", "pixels:1,1,8,8", "--concurrency-range", "1:2"])
            .args(["--measurement-interval", "500", "-s", "1000", "-r", "3"]));
        assert!(said.contains("Concurrency: 2, throughput:"), "{said}");
        // It asked for the statistics, too.
        assert!(said.contains("Inference count:"), "{said}");
    }
}

/// No request makes the node fail, and it answers none otherwise than its document says.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let node = digits("open").await;
    node.deploy(&package("echo")).await;
    let document = format!("{}/v2/docs", node.data_url());
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance,unsupported_method";
    let folder = tempfile::tempdir().expect("the tests can make folders");
    // A request may ask for an answer within a microsecond: that none came in time is no failure.
    let deadline = "[checks.not_a_server_error]\nexpected-statuses = [\"2xx\", \"4xx\", 504]\n";
    let names = "[parameters]\nmodel = \"echo\"\ndeployment = \"echo\"\nversion = \"1\"\n";
    // Once with names that are there, and once with any.
    for names in [names, ""] {
        let config = folder.path().join("schemathesis.toml");
        std::fs::write(&config, format!("{names}{deadline}")).expect("the folder is the test's");
        run(Command::new(python().with_file_name("schemathesis"))
            .current_dir(folder.path())
            .arg("--config-file")
            .arg(&config)
            .args([
                "run",
                &document,
                "--checks",
                checks,
                "--phases",
                "coverage,fuzzing",
            ])
            .args(["--seed", "1", "--max-examples", "10", "--no-color"])
            .args(["--suppress-health-check", "all"])
            // Unloaded is no failure of the node, but 503 is a 5xx.
            .args(["--exclude-operation-id", "Unload"]));
    }
    let _healthy = node.fetch("/v2/health/ready").await.ok();
}
