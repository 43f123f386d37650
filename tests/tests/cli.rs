//! The command line as its users have it: what they type, what comes back, with which exit code.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Stdio},
};

use dunlin_tests::{Cli, HeldOut, Node, NodeOptions, package, pixels_json, repository};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_prediction() {
    let node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    let made = cli.run(["new", "iris", "-o", "json"]).json(0);
    assert_eq!(made["name"], "iris");
    // The target directory of this test: the standard library is compiled once, not in each run.
    let target = std::env::current_exe().expect("a process knows its program");
    let target = target
        .parent()
        .expect("it lies in a folder")
        .join("../../dunlin/cli-test");
    fs::create_dir_all(&target).expect("the target directory is ours");
    let target = fs::canonicalize(target).expect("it is there");
    // Nothing of a checkout is near: the folder has all that a predictor is compiled from.
    let tested = cli
        .program("cargo")
        .arg("test")
        .current_dir(cli.path("iris"))
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let passed = String::from_utf8_lossy(&tested.stdout);
    assert!(passed.contains("test result: ok. "), "{passed}");
    let deployed = cli
        .command()
        .args(["deploy", "iris", "-o", "json"])
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .expect("dunlin can be run");
    let said = String::from_utf8_lossy(&deployed.stderr);
    assert!(deployed.status.success(), "{said}");
    let deployed: Value = serde_json::from_slice(&deployed.stdout).expect("one JSON document");
    assert_eq!(deployed["name"], "iris", "{deployed}");
    assert_eq!(text(&deployed["url"]), format!("{}/iris", node.data_url()));

    let predicted = cli.run(["predict", "iris", "iris/sample.json"]);
    let answer: Value = serde_json::from_str(predicted.exit(0)).expect("the answer is JSON");
    assert_eq!(answer["label"], "setosa", "{answer}");
    let again = cli.run(["new", "iris"]);
    assert!(!again.stderr.is_empty());
    assert_ne!(again.code, Some(0), "what is there is not written over");
}

/// A crate that asks a registry for the SDK, which none has.
#[test]
fn what_cargo_says_is_said_once() {
    let cli = Cli::new();
    let made = cli.run(["new", "iris", "--sdk-git", "file:///no/such/repository"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(!cli.path("iris/dunlin-sdk").exists());
    let manifest = fs::read_to_string(cli.path("iris/Cargo.toml")).expect("it was made");
    assert!(
        manifest.contains("git = \"file:///no/such/repository\""),
        "{manifest}"
    );
    let sdk = manifest.lines().find(|line| line.starts_with("dunlin-sdk"));
    let sdk = sdk.expect("the SDK is a dependency");
    let manifest = manifest.replace(sdk, "dunlin-sdk = \"0.1.0\"");
    fs::write(cli.path("iris/Cargo.toml"), manifest).expect("the home is ours");
    let built = cli
        .command()
        .args(["build", "iris"])
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .expect("dunlin can be run");
    let said = String::from_utf8_lossy(&built.stderr);
    assert_eq!(built.status.code(), Some(1), "{said}");
    for part in [
        "no matching package named `dunlin-sdk` found",
        "  next: no registry has dunlin-sdk",
    ] {
        assert_eq!(said.matches(part).count(), 1, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_deployed_seen_asked_and_deleted() {
    let node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    let digits = package("digits");
    let digits = digits.to_string_lossy();

    let empty = cli.run(["get", "-o", "json"]).json(0);
    assert_eq!(empty, json!({"deployments": []}));
    let inspected = cli.run(["inspect", &digits, "-o", "json"]).json(0);
    let deployed = cli.run(["deploy", &digits, "-o", "json"]).json(0);
    assert_eq!(deployed["digest"], inspected["digest"]);
    assert_eq!(deployed["revision"], 1);
    let second = cli.run(["deploy", &digits, "--name", "second"]);
    assert!(second.exit(0).contains("second"), "{}", second.stdout);

    let all = cli.run(["get", "-o", "json"]).json(0);
    let names: Vec<_> = all["deployments"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let names: Vec<_> = names
        .iter()
        .map(|deployment| text(&deployment["name"]))
        .collect();
    assert_eq!(names, ["digits", "second"]);
    let one = cli.run(["get", "digits", "-o", "json"]).json(0);
    assert_eq!(one["status"], "live");
    let table = cli.run(["get"]);
    let table = table.exit(0);
    assert!(
        table.contains("digits") && table.contains("live"),
        "{table}"
    );
    assert!(
        !table.contains('\u{1b}'),
        "no colours where there is no terminal"
    );

    let held_out = HeldOut::read();
    let body = pixels_json(&held_out.pixels[3]).to_string();
    fs::write(cli.path("pixels.json"), &body).expect("the home is ours");
    let from_file = cli.run(["predict", "digits", "pixels.json"]);
    let from_file: Value = serde_json::from_str(from_file.exit(0)).expect("JSON");
    assert_eq!(from_file["label"], held_out.predicted[3]);
    let piped = cli
        .run_with(["predict", "digits", "-", "-o", "json"], body.as_bytes())
        .json(0);
    assert_eq!(piped["status"], 200);
    assert_eq!(piped["body"], from_file);
    assert_ne!(piped["headers"]["x-request-id"], Value::Null);
    let seven = repository().join("predictors/digits/samples/seven.png");
    let seven = cli.run(["predict", "digits", &seven.to_string_lossy()]);
    assert!(seven.exit(0).contains("\"label\":7"), "{}", seven.stdout);

    let deleted = cli.run(["delete", "second", "-y", "-o", "json"]).json(0);
    assert_eq!(deleted, json!({"name": "second", "deleted": true}));
    assert!(node.get("second").await.is_none());
    assert!(node.get("digits").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_predictor_can_be_read() {
    let node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    node.deploy(&package("misbehave")).await;
    let flood = node
        .post("/misbehave/log-flood?count=30", "text/plain", "")
        .await
        .ok();
    let entries = cli
        .run(["logs", "misbehave", "-n", "10", "-o", "json"])
        .json(0);
    let entries = entries["entries"].as_array().expect("a list");
    assert_eq!(entries.len(), 10);
    for (entry, number) in entries.iter().zip(20..) {
        assert_eq!(entry["message"], "the guest floods the log");
        assert_eq!(entry["fields"]["number"], number.to_string());
        assert_eq!(text(&entry["request_id"]), flood.header("x-request-id"));
        assert_eq!(entry["level"], "info");
    }
    let lines = cli.run(["logs", "misbehave"]);
    assert_eq!(lines.exit(0).lines().count(), 30);
}

/// A command that goes on until Ctrl-C: its lines as they come.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(cli: &Cli, arguments: &[&str]) -> Self {
        let mut command = cli.command();
        command.args(arguments).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("dunlin can be run");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").expect("it is text");
        serde_json::from_str(&line).expect("a document a line")
    }

    /// Ctrl-C, and the exit code.
    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is running");
        self.child.wait().expect("a child can be waited for").code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_can_be_watched_until_it_is_enough() {
    let node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    node.deploy(&package("misbehave")).await;

    let mut get = Watching::start(&cli, &["get", "-w", "-o", "json"]);
    let total = |seen: &Value| seen["deployments"][0]["requests"]["total"].clone();
    assert_eq!(total(&get.next()), 0);
    let _answer = node.post_json("/misbehave/ok", &json!({})).await.ok();
    // What was asked for before the request may still be on its way.
    let second = [get.next(), get.next()];
    assert_eq!(total(&second[1]), 1);
    assert_eq!(get.interrupt(), Some(0));

    let flood = "/misbehave/log-flood?count=3";
    let _answer = node.post_json(flood, &json!({})).await.ok();
    let mut logs = Watching::start(&cli, &["logs", "misbehave", "-f", "-n", "1", "-o", "json"]);
    assert_eq!(logs.next()["fields"]["number"], "2");
    // The node answers the waiting reader when there is something, not when its wait is over.
    let _answer = node.post_json(flood, &json!({})).await.ok();
    for number in 0..3 {
        assert_eq!(logs.next()["fields"]["number"], number.to_string());
    }
    assert_eq!(logs.interrupt(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_went_wrong() {
    let node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    node.deploy(&package("digits")).await;
    let quick = dunlin_tests::Variant::of("misbehave", |yaml| {
        yaml["limits"]["deadline"] = "200ms".into();
    });
    node.deploy(&quick.path()).await;
    fs::write(cli.path("empty.json"), "{}").expect("the home is ours");
    fs::write(cli.path("broken.dunlin"), "no package").expect("the home is ours");
    let table: [(&[&str], i32, &str); 17] = [
        (&["get", "digits"], 0, ""),
        (&["version"], 0, ""),
        (&["completion", "bash"], 0, ""),
        (&["nonsense"], 2, "nonsense"),
        (&["get", "NOT A NAME"], 2, ""),
        (&["get", "nobody"], 3, "nobody"),
        (&["logs", "nobody"], 3, "nobody"),
        (&["delete", "nobody", "-y"], 3, "nobody"),
        (&["delete", "digits"], 2, "-y"),
        (
            &["predict", "digits", "no-such-file.json"],
            3,
            "no-such-file.json",
        ),
        (&["predict", "nobody", "empty.json"], 3, "nobody"),
        (&["predict", "digits", "empty.json"], 4, "pixels"),
        (&["deploy", "broken.dunlin"], 4, "broken.dunlin"),
        (&["deploy", "no-such-folder"], 3, "no-such-folder"),
        (
            &["predict", "misbehave", "empty.json", "--path", "/trap"],
            8,
            "request id",
        ),
        (
            &["predict", "misbehave", "empty.json", "--path", "/loop"],
            7,
            "200ms",
        ),
        (
            &["get", "-e", "no-such-environment"],
            3,
            "no-such-environment",
        ),
    ];
    for (arguments, code, part) in table {
        let ran = cli.run(arguments);
        let shown = format!("dunlin {}: {}", arguments.join(" "), ran.stderr);
        assert_eq!(ran.code, Some(code), "{shown}");
        assert!(ran.stderr.contains(part), "{shown}");
        if code > 2 {
            assert_eq!(ran.stdout, "", "{shown}");
            let json = cli.run(arguments.iter().chain(&["-o", "json"]));
            let document = json.json(code);
            let error = &document["error"];
            if error.is_object() {
                assert_eq!(error["exit_code"], code, "{shown}");
                assert_ne!(text(&error["message"]), "");
            } else {
                // The node's answer itself is the document of a prediction.
                assert_ne!(document["status"], Value::Null, "{shown}{document}");
            }
        }
    }
    assert!(
        node.get("digits").await.is_some(),
        "it was not deleted without a yes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_and_no_node_have_their_codes() {
    let mut node = Node::start(&NodeOptions::default());
    let cli = Cli::of(&node);
    let wrong = cli
        .command()
        .args(["get", "-o", "json"])
        .env("DUNLIN_TOKEN", "wrong")
        .output()
        .expect("dunlin can be run");
    assert_eq!(wrong.status.code(), Some(6));
    let document: Value = serde_json::from_slice(&wrong.stdout).expect("one JSON document");
    assert_eq!(document["error"]["kind"], "unauthorised");

    node.stop(dunlin_tests::Signal::Kill);
    let gone = cli.run(["get"]);
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    assert!(gone.stderr.contains("next:"), "{}", gone.stderr);
    let nowhere = Cli::new().run(["get"]);
    assert!(matches!(nowhere.code, Some(5 | 6)), "{}", nowhere.stderr);
}
