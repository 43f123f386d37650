//! The verbs that talk to a node, against a stand-in that says what a node says.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::node::{Node, Reply, Request, json};
use crate::user::User;

const DIGITS: &str = r#"{"name":"digits","revision":2,"digest":"DIGEST","status":"live",
    "created_at":"2026-01-02T03:04:05Z",
    "requests":{"total":10,"2xx":7,"4xx":2,"5xx":1,"mean_ms":0.5},
    "instances":{"idle":1,"busy":0,"max":8},
    "models":[{"name":"m","platform":"onnx_tract",
        "inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}],"outputs":[]}],
    "predictor":true}"#;

/// A user whose default environment is a node that answers so.
fn user_of(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (User, Node) {
    let node = Node::start(answer);
    let user = User::new();
    user.configure("edge", &node.address, &node.address);
    (user, node)
}

/// A package without predictor code, made by the binary.
fn package(user: &User) -> String {
    user.write("p/m.pt", "weights");
    user.write(
        "p/dunlin.yaml",
        "name: digits\npredictor: {models: [{name: m, path: m.pt, backend: torchscript, \
         inputs: [{name: x, datatype: FP32, shape: [-1]}]}]}\n",
    );
    let packaged = user.run(&["package", "p", "-f", "p.tar", "-o", "json"]);
    assert_eq!(packaged.code, 0, "{packaged:?}");
    let document = packaged.json();
    assert_eq!(document["file"], "p.tar");
    document["digest"].as_str().unwrap().to_owned()
}

/// A node that takes the package with this digest.
fn takes(digest: String) -> impl Fn(&Request) -> Reply + Send + Sync {
    move |request| match request.line.as_str() {
        "GET /v1/node" => json(200, r#"{"version":"9.9.9","package_max":1000000}"#),
        "POST /v1/deployments" | "POST /v1/deployments?name=other" => json(
            200,
            &format!(r#"{{"name":"digits","digest":"{digest}","revision":2,"status":"live"}}"#),
        ),
        "GET /v1/deployments/digits" => json(200, &DIGITS.replace("DIGEST", &digest)),
        other => json(500, &format!(r#"{{"error":"unexpected {other}"}}"#)),
    }
}

#[test]
fn deploy_sends_the_package_and_says_where_it_answers() {
    let digest = package(&User::new());
    let (user, node) = user_of(takes(digest.clone()));
    assert_eq!(
        package(&user),
        digest,
        "the same files give the same package"
    );
    let url = format!("http://{}/digits", node.address);

    let deployed = user.run(&["deploy", "p.tar"]);
    assert_eq!(deployed.code, 0, "{deployed:?}");
    assert!(
        deployed.stdout.contains(&format!("\n{url}\n")),
        "{deployed:?}"
    );
    assert!(
        deployed.stderr.contains("dunlin predict digits FILE"),
        "{deployed:?}"
    );
    assert!(
        deployed
            .stderr
            .contains(&format!("--data-binary @FILE {url}")),
        "{deployed:?}"
    );

    let sent = node.requests();
    let lines: Vec<&str> = sent.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/node",
            "POST /v1/deployments",
            "GET /v1/deployments/digits"
        ]
    );
    assert!(
        sent.iter()
            .all(|request| request.has("authorization: bearer secret"))
    );
    assert_eq!(sent[1].body, std::fs::read(user.path("p.tar")).unwrap());

    let document = user
        .run(&["deploy", "p", "--name", "other", "-o", "json"])
        .json();
    assert_eq!(document["url"], url);
    assert_eq!(document["digest"], digest);
}

#[test]
fn a_package_that_is_too_large_is_not_sent() {
    let (user, node) = user_of(|_| json(200, r#"{"version":"1","package_max":100}"#));
    package(&user);
    let ran = user.run(&["deploy", "p.tar"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("takes 100 at most"), "{ran:?}");
    assert_eq!(node.requests().len(), 1);
}

#[test]
fn a_refusal_is_passed_on_with_its_code() {
    for (status, code) in [
        (400, 4),
        (401, 6),
        (413, 4),
        (422, 4),
        (500, 8),
        (503, 7),
        (507, 7),
    ] {
        let (user, _node) = user_of(move |request| match request.line.as_str() {
            "GET /v1/node" => json(200, r#"{"version":"1"}"#),
            _ => json(status, r#"{"error":"the golden sample differs"}"#),
        });
        package(&user);
        let ran = user.run(&["deploy", "p.tar", "-o", "json"]);
        assert_eq!(ran.code, code, "{status}: {ran:?}");
        assert_eq!(ran.json()["error"]["message"], "the golden sample differs");
        assert!(
            ran.stderr.contains("error: the golden sample differs"),
            "{ran:?}"
        );
    }
}

#[test]
fn get_shows_what_runs() {
    let (user, _node) = user_of(|request| match request.line.as_str() {
        "GET /v1/deployments" => json(
            200,
            &format!(
                r#"{{"deployments":[{}]}}"#,
                DIGITS.replace("DIGEST", "sha256:0123456789abcdef")
            ),
        ),
        "GET /v1/deployments/digits" => json(200, DIGITS),
        _ => json(404, r#"{"error":"there is no deployment other"}"#),
    });
    let all = user.run(&["get"]);
    let lines: Vec<Vec<&str>> = all
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "name", "status", "revision", "digest", "requests", "2xx", "4xx", "5xx", "mean", "age"
        ]
    );
    assert_eq!(
        lines[1][..10],
        [
            "digits",
            "live",
            "2",
            "0123456789ab",
            "10",
            "7",
            "2",
            "1",
            "0.50",
            "ms"
        ]
    );
    let one = user.run(&["get", "digits"]);
    assert!(one.stdout.contains("x FP32[-1, 4]"), "{one:?}");
    assert_eq!(
        user.run(&["get", "digits", "-o", "json"]).json()["requests"]["2xx"],
        7
    );
    let missing = user.run(&["get", "other"]);
    assert_eq!(missing.code, 3, "{missing:?}");
    assert!(
        missing.stderr.contains("there is no deployment other"),
        "{missing:?}"
    );
}

#[test]
fn predict_says_by_its_code_what_the_status_was() {
    let (user, node) = user_of(|request| match request.body.as_slice() {
        b"{\"ask\": 404}" => json(404, r#"{"error":"no deployment digits"}"#),
        b"bad" => json(400, r#"{"error":"`pixels` is missing"}"#),
        b"slow" => json(504, r#"{"error":"deadline"}"#),
        b"trap" => json(500, r#"{"error":"the predictor failed"}"#),
        b"bytes" => (200, "application/octet-stream", vec![0xff, 0]),
        _ => json(200, r#"{"label":3}"#),
    });
    let file = user.write("three.json", "{}");
    let ran = user.run(&[
        "predict",
        "digits",
        file.to_str().unwrap(),
        "--path",
        "/top/3?x=1",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, r#"{"label":3}"#),
        "{ran:?}"
    );
    let sent = node.requests().remove(0);
    assert_eq!(sent.line, "POST /digits/top/3?x=1");
    assert!(sent.has("content-type: application/json"), "{sent:?}");
    assert!(
        !sent.headers.iter().any(|header| header.contains("secret")),
        "the data plane is sent the token"
    );

    let table = [
        ("{\"ask\": 404}", 3),
        ("bad", 4),
        ("slow", 7),
        ("trap", 8),
        ("{}", 0),
        ("bytes", 0),
    ];
    for (input, code) in table {
        let ran = user.run_with_input(&["predict", "digits", "-", "-o", "json"], input);
        assert_eq!(ran.code, code, "{input}: {ran:?}");
        assert!(ran.json()["status"].is_number(), "{input}");
    }
    let ran = user.run_with_input(&["predict", "digits", "-"], "bad");
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("error: `pixels` is missing"), "{ran:?}");
    assert!(ran.stderr.contains("HTTP 400, request id r-1"), "{ran:?}");

    let ran = user.run_with_input(&["predict", "digits", "-", "-o", "json"], "bytes");
    assert_eq!(ran.json()["body"], json!({"base64": "/wA="}));
    let ran = user.run_with_input(&["predict", "digits", "-", "--save", "out.bin"], "bytes");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(std::fs::read(user.path("out.bin")).unwrap(), [0xff, 0]);
}

#[test]
fn the_latest_log_entries_are_shown() {
    let (user, _node) = user_of(|request| {
        let after = request.line.split(['=', '&']).nth(1).unwrap();
        let after: u64 = after.parse().unwrap();
        // Five entries, two to a page.
        let entries: Vec<_> = (after..5)
            .take(2)
            .map(|seq| json!({"seq": seq, "time": "T", "level": "info", "message": format!("entry {seq}"), "fields": {}}))
            .collect();
        let next = after + entries.len() as u64;
        json(200, &json!({"entries": entries, "next": next}).to_string())
    });
    let ran = user.run(&["logs", "digits", "-n", "3"]);
    assert_eq!(
        ran.stdout, "T INFO  entry 2\nT INFO  entry 3\nT INFO  entry 4\n",
        "{ran:?}"
    );
    let document = user.run(&["logs", "digits", "-o", "json"]).json();
    assert_eq!(document["entries"].as_array().unwrap().len(), 5);
}

#[test]
fn delete_deletes() {
    let (user, node) = user_of(|_| json(200, r#"{"name":"digits","deleted":true}"#));
    let ran = user.run(&["delete", "digits", "-y"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "deleted digits\n"),
        "{ran:?}"
    );
    assert_eq!(node.requests()[0].line, "DELETE /v1/deployments/digits");
}

#[test]
fn an_answer_of_something_else_is_told_apart() {
    let (user, _node) = user_of(|_| (200, "text/html", b"<html>hello</html>".to_vec()));
    let ran = user.run(&["get"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.stderr.contains("is not Dunlin's"), "{ran:?}");
}

#[test]
fn ctrl_c_ends_a_watch_without_a_failure_and_other_waits_with_130() {
    // The one answer is a second's worth of output; after it, a long poll that never ends.
    let answer = |request: &Request| match request.line.as_str() {
        "GET /v1/deployments" => json(200, r#"{"deployments":[]}"#),
        line if line.contains("after=0&") => json(
            200,
            r#"{"entries":[{"seq":1,"time":"T","level":"info","message":"hello"}],"next":1}"#,
        ),
        line if line.contains("wait=0") => json(200, r#"{"entries":[],"next":1}"#),
        _ => loop {
            std::thread::park();
        },
    };
    let (user, node) = user_of(answer);
    for (args, code) in [
        (&["get", "-w", "-o", "json"][..], 0),
        (&["logs", "digits", "-f"], 0),
        (&["get", "digits"], 130),
    ] {
        let before = node.requests().len();
        let mut child = user
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        if code == 0 {
            // Its first line tells that it is up.
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "{args:?}");
        } else {
            while node.requests().len() == before {
                std::thread::yield_now();
            }
        }
        let kill = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{args:?}");
    }
}
