//! The binary as a shell sees it: help, completion, exit codes, what stands on which stream.

use std::io::Read as _;
use std::process::Stdio;

use serde_json::json;

use crate::user::{User, sdk};

const VERBS: [&str; 14] = [
    "new",
    "build",
    "package",
    "inspect",
    "deploy",
    "get",
    "predict",
    "compare",
    "logs",
    "delete",
    "serve",
    "env",
    "version",
    "completion",
];

#[test]
fn help_is_on_standard_output_with_examples() {
    let user = User::new();
    let help = user.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for verb in VERBS {
        assert!(
            help.stdout.contains(&format!("\n  {verb} ")),
            "{verb}: {}",
            help.stdout
        );
        let of_verb = user.run(&[verb, "--help"]);
        assert_eq!((of_verb.code, of_verb.stderr.as_str()), (0, ""), "{verb}");
        assert!(
            of_verb.stdout.contains("Examples:\n  "),
            "{verb}: {}",
            of_verb.stdout
        );
        assert!(of_verb.stdout.contains(&format!("dunlin {verb}")), "{verb}");
        assert!(
            !of_verb.stdout.contains('\u{1b}'),
            "{verb}: escapes without a terminal"
        );
    }
    assert!(help.stdout.contains("Exit codes:"), "{}", help.stdout);
}

#[test]
fn completion_knows_the_verbs() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.run(&["completion", shell]);
        assert_eq!((script.code, script.stderr.as_str()), (0, ""), "{shell}");
        for verb in VERBS {
            assert!(script.stdout.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let user = User::new();
    for args in [
        &[][..],
        &["destroy"],
        &["get", "--watchful"],
        &["get", "Not_A_Name"],
        &["delete", "../x", "-y"],
        &["predict", "digits"],
        &["get", "-o", "yaml"],
        &["serve", "--listen", "localhost"],
        &["new", "iris", "--sdk-path", "a", "--sdk-git", "b"],
    ] {
        let ran = user.run(args);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (2, ""),
            "{args:?}: {ran:?}"
        );
        assert!(!ran.stderr.is_empty(), "{args:?}");
        // Where the flag itself is wrong, nobody has asked for JSON.
        if !args.contains(&"-o") {
            let as_json = user.run(&[args, &["-o", "json"]].concat());
            assert_eq!(as_json.code, 2, "{args:?}");
            let error = &as_json.json()["error"];
            assert_eq!(error["kind"], "usage", "{args:?}");
            let message = error["message"].as_str().unwrap();
            assert!(
                !message.is_empty() && !message.starts_with("error:"),
                "{message}"
            );
        }
    }
    let help = user.run(&["get", "--help", "-o", "json"]);
    assert!(help.code == 0 && help.stdout.contains("Usage:"), "{help:?}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let user = User::new();
    let mut command = user.command(&["completion", "bash"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the script, which is larger than a pipe's buffer, was read.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );
}

#[test]
fn without_a_node_every_verb_says_how_to_start_one() {
    let user = User::new();
    user.configure_dead_node("dead");
    user.write("body.json", "{}");
    user.write("p/dunlin.yaml", "name: p\npredictor: {path: p.wasm}\n");
    for args in [
        &["get"][..],
        &["get", "digits"],
        &["get", "-w"],
        &["predict", "digits", "body.json"],
        &["logs", "digits"],
        &["logs", "digits", "-f"],
        &["delete", "digits", "-y"],
        &["deploy", "p"],
    ] {
        let ran = user.run(args);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (5, ""),
            "{args:?}: {ran:?}"
        );
        assert!(
            ran.stderr
                .contains("cannot reach the node at http://127.0.0.1:"),
            "{ran:?}"
        );
        assert!(
            ran.stderr
                .contains("next: is a node running? start one: dunlin serve"),
            "{ran:?}"
        );
        assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");

        let as_json = user.run(&[args, &["-o", "json"]].concat());
        assert_eq!(as_json.code, 5, "{args:?}");
        let document = as_json.json();
        assert_eq!(document["error"]["kind"], "unreachable", "{args:?}");
        assert_eq!(document["error"]["exit_code"], 5);
    }
    let version = user.run(&["version", "-o", "json"]);
    assert_eq!(version.code, 0);
    let document = version.json();
    assert_eq!(document["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["node"], json!(null));
}

#[test]
fn without_a_token_it_is_code_6() {
    let user = User::new();
    let ran = user.run(&["get"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(
        ran.stderr.contains(".local/share/dunlin/admin-token"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("dunlin serve"), "{ran:?}");
}

#[test]
fn what_is_not_there_is_code_3() {
    let user = User::new();
    user.configure_dead_node("dead");
    for args in [
        &["-e", "nowhere", "get"][..],
        &["env", "delete", "nowhere"],
        &["env", "default", "nowhere"],
        &["build", "nowhere"],
        &["package", "nowhere"],
        &["inspect", "nowhere"],
        &["predict", "digits", "nowhere.json"],
        &["serve", "--config", "nowhere.yaml"],
        &["new", "iris", "--sdk-path", "nowhere"],
    ] {
        let ran = user.run(args);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (3, ""),
            "{args:?}: {ran:?}"
        );
        assert!(ran.stderr.contains("nowhere"), "{args:?}: {ran:?}");
    }
}

#[test]
fn nothing_is_deleted_unasked() {
    let user = User::new();
    user.configure_dead_node("dead");
    let ran = user.run(&["delete", "digits"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("add -y"), "{ran:?}");
    // An answer on a pipe is nobody's.
    assert_eq!(user.run_with_input(&["delete", "digits"], "y\n").code, 2);
}

#[test]
fn environments_are_kept() {
    let user = User::new();
    let list = user.run(&["env", "list", "-o", "json"]).json();
    assert_eq!(list["default"], "local");
    assert_eq!(list["environments"][0]["data"], "http://127.0.0.1:8080/");

    let configured = user.run_with_input(
        &[
            "env",
            "configure",
            "edge",
            "--data",
            "edge:1",
            "--admin",
            "edge:2",
            "--token",
            "-",
        ],
        "very-secret\n",
    );
    assert_eq!(configured.code, 0, "{configured:?}");
    assert_eq!(user.run(&["env", "default", "edge"]).stdout, "edge\n");
    let list = user.run(&["env", "list"]);
    let lines: Vec<Vec<&str>> = list
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1],
        ["*", "edge", "http://edge:1/", "http://edge:2/", "(stored)"]
    );
    for ran in [&list, &configured] {
        assert!(
            !format!("{ran:?}").contains("very-secret"),
            "the token is shown: {ran:?}"
        );
    }
    // What is not given stays.
    assert_eq!(
        user.run(&["env", "configure", "edge", "--data", "edge:9"])
            .code,
        0
    );
    let list = user.run(&["env", "list", "-o", "json"]).json();
    assert_eq!(list["environments"][0]["data"], "http://edge:9/");
    assert_eq!(list["environments"][0]["admin"], "http://edge:2/");

    assert_eq!(user.run(&["env", "delete", "edge"]).code, 0);
    assert_eq!(user.run(&["env", "default"]).stdout, "local\n");
    assert_eq!(user.run(&["env", "configure", "new"]).code, 2);
    assert_eq!(
        user.run(&["env", "configure", "local", "--data", "https://x"])
            .code,
        4
    );
}

#[test]
fn a_new_predictor_can_be_inspected() {
    let user = User::new();
    let sdk = sdk();
    let made = user.run(&["new", "deep/iris", "--sdk-path", sdk.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stderr.contains("dunlin deploy deep/iris"), "{made:?}");

    let inspected = user.run(&["inspect", "deep/iris", "-o", "json"]);
    assert_eq!(inspected.code, 0, "{inspected:?}");
    let document = inspected.json();
    assert_eq!(document["name"], "iris");
    assert_eq!(document["models"][0]["name"], "iris");
    assert_eq!(document["models"][0]["bytes"], 296);
    let pretty = user.run(&["inspect", "deep/iris"]);
    assert!(pretty.stdout.contains("models/iris.onnx"), "{pretty:?}");

    let again = user.run(&["new", "deep/iris", "-o", "json"]);
    assert_eq!(again.code, 4, "{again:?}");
    assert_eq!(again.json()["error"]["kind"], "refused");
}

#[test]
fn a_wrong_deployment_file_is_refused_with_all_its_problems() {
    let user = User::new();
    user.write(
        "bad/dunlin.yaml",
        "name: Bad_Name\npredictor: {path: .}\nlimits: {memory: lots}\n",
    );
    for verb in ["build", "package", "inspect"] {
        let ran = user.run(&[verb, "bad"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{verb}: {ran:?}");
        assert!(
            ran.stderr.contains("bad/dunlin.yaml:1: name"),
            "{verb}: {ran:?}"
        );
        assert!(
            ran.stderr.contains("bad/dunlin.yaml:3: limits.memory"),
            "{verb}: {ran:?}"
        );
    }
}

#[test]
fn a_file_that_is_no_package_is_refused() {
    let user = User::new();
    for content in [
        "this is no archive",
        &"long enough for a header ".repeat(100),
    ] {
        user.write("not.tar", content);
        let ran = user.run(&["inspect", "not.tar"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{ran:?}");
        let said =
            "not.tar is not a package that a node takes\n  because: package: is not a tar archive";
        assert!(ran.stderr.contains(said), "{ran:?}");
        assert!(
            ran.stderr.contains("next: make one: dunlin package"),
            "{ran:?}"
        );
    }
}
