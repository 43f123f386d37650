use super::*;
use crate::tests::check_said;

#[test]
fn a_node() {
    let node = Node::default();
    assert_eq!(node.data.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(node.admin.listen.to_string(), "127.0.0.1:8081");
    let grpc = node.grpc.map(|grpc| grpc.listen.to_string());
    assert_eq!(grpc.as_deref(), Some("127.0.0.1:8082"));
    assert_eq!(node.data_dir, None);
    assert_eq!(node.backends, Backends::default());
    assert!(node.threads >= 1);
    assert_eq!(
        node.log,
        Log {
            format: LogFormat::Text,
            level: LogLevel::Info,
            access: AccessLog::None
        }
    );
    let text = "\
data: {listen: '0.0.0.0:80'}
grpc: {listen: off}
admin: {listen: '[::1]:0'}
model_control: token
data_dir: /srv/dunlin
threads: 3
busy_poll_microseconds: 250
model_scheduling: normal
instances_max: 4
guest_memory_max: 128Mi
package_max: 3Gi
uploads_max: 2
requests_in_flight_max: 5
body_memory_max: 9Mi
connections_max: 6
deadline_max: 7s
request_body_max: 1Mi
response_body_max: 2Mi
tensor_memory_max: 3Mi
drain_timeout: 0s
backends: {folder: /srv/backends, onnxruntime: /opt/libonnxruntime.so, torchscript: torch.so}
log: {format: json, level: debug, access: errors}
traces: {endpoint: 'http://collector:4318', sample_ratio: 0.25}
";
    assert_eq!(
        Node::parse(text, "node.yaml").unwrap(),
        Node {
            data: Listen {
                listen: "0.0.0.0:80".parse().unwrap()
            },
            grpc: None,
            admin: Listen {
                listen: "[::1]:0".parse().unwrap()
            },
            model_control: ModelControl::Token,
            data_dir: Some("/srv/dunlin".into()),
            threads: 3,
            busy_poll: Some(Duration::from_micros(250)),
            model_scheduling: ModelScheduling::Normal,
            instances_max: 4,
            guest_memory_max: 128 << 20,
            package_max: 3 << 30,
            uploads_max: 2,
            requests_in_flight_max: 5,
            body_memory_max: 9 << 20,
            connections_max: 6,
            deadline_max: Duration::from_secs(7),
            request_body_max: 1 << 20,
            response_body_max: 2 << 20,
            tensor_memory_max: 3 << 20,
            drain_timeout: Duration::ZERO,
            backends: Backends {
                folder: Some("/srv/backends".into()),
                onnxruntime: Some("/opt/libonnxruntime.so".into()),
                torchscript: Some("torch.so".into()),
            },
            log: Log {
                format: LogFormat::Json,
                level: LogLevel::Debug,
                access: AccessLog::Errors
            },
            traces: Traces {
                endpoint: Some("http://collector:4318".to_owned()),
                sample_ratio: 0.25,
            },
        }
    );
    for (name, level) in LogLevel::ALL {
        assert_eq!((level.as_str(), LogLevel::named(name)), (name, Some(level)));
    }
    assert_eq!(LogLevel::named("loud"), None);
}

/// The README's `node.yaml` is what an empty one means, and leaves no key out.
#[test]
fn the_readme_has_every_key_and_its_default() {
    let readme = include_str!("../../../README.md");
    let (_, documented) = readme
        .split_once("```yaml\n# node.yaml\n")
        .expect("the README has a node.yaml");
    let (documented, _) = documented.split_once("```").expect("it ends");
    let documented_keys: Vec<&str> = documented
        .lines()
        .map(|line| line.trim_start().trim_start_matches("# "))
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    for (section, keys) in LAYOUT {
        for key in *keys {
            assert!(documented_keys.contains(key), "{section}.{key}");
        }
    }
    let node = Node::parse(documented, "README.md").unwrap();
    assert_eq!(node, Node::default());
}

#[test]
fn what_is_said_of_a_node() {
    let check = |text: &str, said: &[&str]| {
        check_said(Node::parse(text, "node.yaml"), text, said);
    };
    check(
        "data: {listen: 8080}",
        &["node.yaml:1: data.listen: 8080 is not an address with a port; write 127.0.0.1:8080"],
    );
    check(
        "data: {listen: localhost:1}",
        &[
            "node.yaml:1: data.listen: localhost:1 is not an address with a port; write 127.0.0.1:8080",
        ],
    );
    check(
        "\nadmin: {listen: 127.0.0.1:8080}",
        &[
            "node.yaml:2: admin.listen: 127.0.0.1:8080 is that of data and of admin; write another port",
        ],
    );
    check(
        "\ndata: {listen: 127.0.0.1:8081}",
        &[
            "node.yaml:2: data.listen: 127.0.0.1:8081 is that of data and of admin; write another port",
        ],
    );
    check(
        "\ngrpc: {listen: 127.0.0.1:8080}",
        &[
            "node.yaml:2: grpc.listen: 127.0.0.1:8080 is that of data and of grpc; write another port",
        ],
    );
    check(
        "model_control: explicit",
        &["node.yaml:1: model_control: explicit is unknown; write one of none, token, open"],
    );
    check(
        "threads: 0",
        &["node.yaml:1: threads: 0 is less than 1; write "],
    );
    check(
        "backends: {folder: '', tensorrt: /opt/x}",
        &[
            "node.yaml:1: backends.tensorrt: there is no such key; the keys here are folder, onnxruntime, torchscript",
            "node.yaml:1: backends.folder: is empty; write a path, such as /var/lib/dunlin/backends",
        ],
    );
    check(
        "log: {level: verbose}",
        &[
            "node.yaml:1: log.level: verbose is unknown; write one of error, warn, info, debug, trace",
        ],
    );
    check(
        "traces: {endpoint: 'https://a', sample_ratio: 2}",
        &[
            "node.yaml:1: traces.endpoint: https://a wants TLS, which a node does not speak; write that of a collector, such as http://127.0.0.1:4318, and let it go on from there",
            "node.yaml:1: traces.sample_ratio: 2 is more than 1; write 1e0",
        ],
    );
    check(
        "traces: {endpoint: 'http:///v1'}",
        &[
            "node.yaml:1: traces.endpoint: http:///v1 is no base URL; write that of a collector, such as http://127.0.0.1:4318",
        ],
    );
    check(
        "instance_max: 3",
        &["node.yaml:1: instance_max: there is no such key; write instances_max"],
    );
    check(
        "listen: 127.0.0.1:1",
        &["node.yaml:1: listen: there is no such key here; write it below data"],
    );
}
