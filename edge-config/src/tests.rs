//! Whole files: what they mean, and what is said of those that are wrong.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::*;

const FULL: &str = "\
# The digits of scikit-learn.
name: digits
predictor:
  path: .   # the crate beside this file
  target: wasm32-unknown-unknown
  config: {labels: [zero, no, 007, 1.5, ~], deep: {on: true}}
  grants: [clock, load]
  models:
    - name: digits
      path: ./models/digits.onnx
      backend: tract
      golden: models/golden.safetensors
      tolerance: {relative: 1e-3, absolute: 0}
    - {name: other, path: models/other.pt}
monitoring: {model_type: regression, key: outputs.price}
instances: {policy: fresh, max: 3, calls_max: 7, idle_timeout: 2m}
limits: {memory: 1Gi, tensor_memory: 10M, deadline: 250ms, request_body: 512Ki, response_body: 4096, requests_in_flight: 9, weight: 3}
";

#[test]
fn a_deployment_that_says_everything() {
    let deployment = Deployment::parse(FULL, "dunlin.yaml").unwrap();
    assert_eq!(deployment.name.as_str(), "digits");
    let predictor = deployment.predictor.unwrap();
    assert_eq!(predictor.path.to_str(), Some("."));
    assert_eq!(predictor.target.triple(), "wasm32-unknown-unknown");
    assert_eq!(
        predictor.grants,
        Grants {
            clock: true,
            random: false,
            load: true
        }
    );
    assert_eq!(
        serde_json::to_value(&predictor.config).unwrap(),
        serde_json::json!({"labels": ["zero", "no", "007", 1.5, null], "deep": {"on": true}})
    );
    assert_eq!(deployment.models.len(), 2);
    let (digits, other) = (&deployment.models[0], &deployment.models[1]);
    assert_eq!(digits.path.as_str(), "models/digits.onnx");
    assert_eq!(digits.backend, BackendChoice::Tract);
    assert_eq!(
        digits.golden.as_ref().unwrap().as_str(),
        "models/golden.safetensors"
    );
    assert_eq!(
        digits.tolerance,
        Tolerance {
            relative: 1e-3,
            absolute: 0.0
        }
    );
    assert_eq!(other.backend, BackendChoice::Auto);
    assert_eq!(other.golden, None);
    assert_eq!(
        other.tolerance,
        Tolerance {
            relative: 1e-4,
            absolute: 1e-4
        }
    );
    let monitoring = deployment.monitoring.unwrap();
    assert_eq!(monitoring.model_type, ModelType::Regression);
    assert_eq!(monitoring.key, ["outputs", "price"]);
    assert_eq!(
        deployment.instances,
        Instances {
            policy: InstancePolicy::Fresh,
            max: 3,
            max_written: true,
            calls_max: 7,
            idle_timeout: Duration::from_secs(120),
        }
    );
    assert_eq!(
        deployment.limits,
        Limits {
            memory: 1 << 30,
            tensor_memory: 10_000_000,
            deadline: Duration::from_millis(250),
            request_body: 512 << 10,
            response_body: 4096,
            requests_in_flight: 9,
            weight: NonZeroU32::new(3).unwrap(),
        }
    );
}

#[test]
fn calls_that_share_a_run_have_an_instance_each() {
    for (rows, instances) in [(0, 8), (4, 8), (32, 32), (1000, 64)] {
        let text = format!(
            "name: a\npredictor:\n  path: .\n  models:\n    - {{name: m, path: m.onnx, max_batch_size: {rows}}}\n"
        );
        let deployment = Deployment::parse(&text, "dunlin.yaml").unwrap();
        assert_eq!(deployment.instances.max, instances, "{rows}");
        assert!(!deployment.instances.max_written);
    }
}

#[test]
fn a_deployment_that_says_little() {
    for (text, has_predictor, models) in [
        ("name: a\npredictor: {path: p.wasm}", true, 0),
        (
            "name: a\npredictor: {models: [{name: m, path: m.onnx}]}",
            false,
            1,
        ),
        (
            "name: a\npredictor:\n  path: .\n  models:\ninstances:\nlimits:\n",
            true,
            0,
        ),
    ] {
        let deployment = Deployment::parse(text, "dunlin.yaml").unwrap();
        assert_eq!(deployment.predictor.is_some(), has_predictor, "{text}");
        assert_eq!(deployment.models.len(), models, "{text}");
        assert_eq!(deployment.monitoring, None);
        assert_eq!(deployment.instances.max, 8);
        assert_eq!(deployment.instances.policy, InstancePolicy::Warm);
        assert_eq!(deployment.limits.memory, 64 << 20);
        assert_eq!(deployment.limits.deadline, Duration::from_secs(5));
    }
}

/// Of a deployment that is right otherwise: the extra lines and what is said of them.
#[test]
fn what_is_said_of_one_wrong_line() {
    let check = |extra: &str, said: &[&str]| {
        let text = format!("name: a\npredictor:\n  path: .\n{extra}");
        check_said(Deployment::parse(&text, "dunlin.yaml"), &text, said);
    };
    check(
        "limits:\n  memory: 5 potatoes\n",
        &["dunlin.yaml:5: limits.memory: 5 potatoes is not a size; write 64Mi"],
    );
    check(
        "limits: {memory: 12Ki}",
        &["dunlin.yaml:4: limits.memory: 12Ki is less than 1Mi; write 64Mi"],
    );
    check(
        "limits: {memory: 5Gi}",
        &["dunlin.yaml:4: limits.memory: 5Gi is more than 4Gi; write 64Mi"],
    );
    check(
        "limits: {deadline: 5}",
        &["dunlin.yaml:4: limits.deadline: 5 has no unit; write 5s or 5ms"],
    );
    check(
        "limits: {deadline: soon}",
        &["dunlin.yaml:4: limits.deadline: soon is not a duration; write 5s"],
    );
    check(
        "instances: {max: 0, calls_max: 1.5}",
        &[
            "dunlin.yaml:4: instances.max: 0 is less than 1; write 8",
            "dunlin.yaml:4: instances.calls_max: 1.5 is not a whole number; write 100000",
        ],
    );
    check(
        "instances: {max: 4097}",
        &["dunlin.yaml:4: instances.max: 4097 is more than 4096; write 8"],
    );
    check(
        "instances: {max: -1}",
        &["dunlin.yaml:4: instances.max: -1 is not a whole number; write 8"],
    );
    check(
        "instances: {policy: warn}",
        &["dunlin.yaml:4: instances.policy: warn is none of warm, fresh; write warm"],
    );
    check(
        "instances: {max_instances: 3}",
        &[
            "dunlin.yaml:4: instances.max_instances: there is no such key; the keys here are policy, max, calls_max, idle_timeout",
        ],
    );
    check(
        "limit: {}",
        &["dunlin.yaml:4: limit: there is no such key; write limits"],
    );
    check(
        "idle_timeout: 3s",
        &["dunlin.yaml:4: idle_timeout: there is no such key here; write it below instances"],
    );
    check(
        "limits: 5",
        &[
            "dunlin.yaml:4: limits: 5 is not a mapping; its keys are memory, tensor_memory, deadline, request_body, response_body, requests_in_flight, weight",
        ],
    );
    check(
        "limits: {memory: }",
        &["dunlin.yaml:4: limits.memory: nothing is written here; write a value or drop the key"],
    );
    check(
        "  grants: clock",
        &[
            "dunlin.yaml:4: predictor.grants: clock is not a list; write [clock, random], or what is needed of it",
        ],
    );
    check(
        "  grants: [clok]",
        &["dunlin.yaml:4: predictor.grants: clok is none of clock, random, load; write clock"],
    );
    check(
        "  grants: [network]",
        &["dunlin.yaml:4: predictor.grants: network is unknown; write one of clock, random, load"],
    );
    check(
        "  config: [a]",
        &[
            "dunlin.yaml:4: predictor.config: a list is not a mapping; write key: value lines below config",
        ],
    );
    check(
        "  models: [{name: m}]",
        &["dunlin.yaml:4: predictor.models.m.path: is missing; write path: models/digits.onnx"],
    );
    check(
        "  models: [{path: m.onnx}]",
        &["dunlin.yaml:4: predictor.models[0].name: is missing; write name: digits"],
    );
    check(
        "  models: [m]",
        &[
            "dunlin.yaml:4: predictor.models[0]: m is not a mapping; its keys are name, path, backend, instance_group, threads, max_batch_size, dynamic_batching, max_queue_size, default_timeout_microseconds, onnxruntime, torchscript, inputs, outputs, golden, tolerance",
        ],
    );
    check(
        "  models:\n    - {name: m, path: a}\n    - {name: m, path: b}\n",
        &["dunlin.yaml:6: predictor.models.m.name: m is taken in line 5; write another name"],
    );
    check(
        "  models: [{name: m, path: ../a}]",
        &[
            "dunlin.yaml:4: predictor.models.m.path: ../a leaves the folder of the deployment file; move the file there and drop the ..",
        ],
    );
    check(
        "  models: [{name: m, path: a, golden: g.npz, backend: onnx-runtime, tolerance: {relative: -1}}]",
        &[
            "dunlin.yaml:4: predictor.models.m.golden: g.npz is not a golden sample; write a .safetensors file",
            "dunlin.yaml:4: predictor.models.m.backend: onnx-runtime is none of auto, tract, onnxruntime, torchscript; write onnxruntime",
            "dunlin.yaml:4: predictor.models.m.tolerance.relative: -1 is less than 0; write 1e-4",
        ],
    );
}

#[test]
fn what_is_said_of_a_whole_file() {
    let check = |text: &str, said: &[&str]| {
        check_said(Deployment::parse(text, "d.yaml"), text, said);
    };
    check(
        "",
        &[
            "d.yaml: name: is missing; write name: digits",
            "d.yaml: predictor: there is nothing to serve; write the predictor's path, a list of models, or both",
        ],
    );
    check(
        "- a\n",
        &[
            "d.yaml:1: a list is not a mapping; its keys are name, predictor, monitoring, instances, limits",
        ],
    );
    check(
        "name: 5\npredictor: {path: .}",
        &["d.yaml:1: name: 5 is not a text to YAML; write \"5\""],
    );
    check(
        "name: v2\npredictor: {path: .}",
        &["d.yaml:1: name: v2 is a path of the node itself; write another name, such as v2-model"],
    );
    check(
        "name: Dig its\npredictor: {path: .}",
        &["d.yaml:1: name: Dig its is not a name;"],
    );
    check("name: a\nname: b\n", &["d.yaml:2: "]);
    check("name: [\n", &["d.yaml:"]);
    check("name: a\npredictor:\n\tpath: .\n", &["d.yaml:3: "]);
    check("name: a\n---\nname: b\n", &["d.yaml:"]);
    check(
        "name: a\npredictor: {config: {}, grants: [clock], models: [{name: m, path: m}]}",
        &[
            "d.yaml:2: predictor.config: is of use only to a predictor; write predictor.path, or drop it",
            "d.yaml:2: predictor.grants: is of use only to a predictor; write predictor.path, or drop it",
        ],
    );
    let everywhere = "name: X\npredictor:\n  path: ''\n  tarket: a\n  models:\n    - name: m/\n      path: /a\n      backend: gpu\ninstances: {max: many}\nlimits: {memory: big, deadline: 2d}\n";
    check(
        everywhere,
        &[
            "d.yaml:1: name: X is not a name;",
            "d.yaml:3: predictor.path: is empty;",
            "d.yaml:4: predictor.tarket: there is no such key; write target",
            "d.yaml:6: predictor.models[0].name: m/ is not a model name;",
            "d.yaml:7: predictor.models[0].path: /a is absolute;",
            "d.yaml:8: predictor.models[0].backend: gpu is unknown;",
            "d.yaml:9: instances.max: many is not a whole number; write 8",
            "d.yaml:10: limits.memory: big is not a size; write 64Mi",
            "d.yaml:10: limits.deadline: 2d is not a duration; write 5s",
        ],
    );
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let bomb = format!(
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n{}",
        (1..12)
            .map(|i| format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{}", i - 1); 9].join(",")
            ))
            .collect::<String>()
    );
    let unknown: String = (0..20_000).map(|i| format!("k{i}: 1\n")).collect();
    for (name, text) in [
        ("alias bomb", bomb),
        ("deep list", "[".repeat(100_000)),
        ("deep block", format!("name: {}", "- ".repeat(100_000))),
        (
            "deep mapping",
            (0..2_000)
                .map(|i| format!("{}a:\n", " ".repeat(i % 200)))
                .collect(),
        ),
        ("too large", format!("name: {}", "a".repeat(2 << 20))),
        ("self reference", "name: &a [*a]".into()),
        (
            "control characters",
            "name: \"\\x1b[31m\\n\"\npredictor: {path: .}".into(),
        ),
        ("nul", "name: a\0b".into()),
        ("unknown keys", unknown),
    ] {
        let error = Deployment::parse(&text, "d.yaml").unwrap_err();
        let said = error.to_string();
        assert!(
            said.len() < 20_000,
            "{name}: {} bytes of message",
            said.len()
        );
        assert!(
            !said.contains('\x1b') && !said.contains('\0'),
            "{name}: {said:?}"
        );
    }
}

#[test]
fn every_cut_of_a_file_is_read_or_refused() {
    for end in 0..FULL.len() {
        // Whatever it says, it says it without a panic.
        let _ = Deployment::parse(&FULL[..end], "dunlin.yaml");
        let _ = Deployment::parse(&FULL[end..], "dunlin.yaml");
    }
}

#[test]
fn the_predictor_path_is_rewritten_in_place() {
    for (written, expected) in [
        (
            FULL,
            FULL.replace("path: .   #", "path: \"predictor.wasm\"   #"),
        ),
        (
            "predictor: {path: \"../é x\", config: {path: .}}\nname: a # é\n",
            "predictor: {path: \"predictor.wasm\", config: {path: .}}\nname: a # é\n".into(),
        ),
        (
            "# é\nname: a\npredictor:\n  'path': 'a''b'\n",
            "# é\nname: a\npredictor:\n  'path': \"predictor.wasm\"\n".into(),
        ),
        (
            "name: a\r\npredictor:\r\n  path: a b\r\n",
            "name: a\r\npredictor:\r\n  path: \"predictor.wasm\"\r\n".into(),
        ),
        (
            "name: a\npredictor: {models: [{name: m, path: m}]}\n",
            "name: a\npredictor: {models: [{name: m, path: m}]}\n".into(),
        ),
    ] {
        let rewritten = Deployment::with_predictor_path(written, "d.yaml", "predictor.wasm");
        assert_eq!(rewritten.unwrap(), expected);
    }
    // What cannot be rewritten keeps its meaning or is refused; it never means something else.
    for written in [
        "name: &p a\npredictor: {path: *p}\n",
        "name: b\npredictor: {path: &p a, target: wasm32-wasip2}\n",
        "name: b\npredictor:\n  path: >-\n    a\n    b\n  grants: [clock]\n",
        "name: b\npredictor: {path: !!str a}\n",
    ] {
        let mut wanted = Deployment::parse(written, "d.yaml").unwrap();
        wanted.predictor.as_mut().unwrap().path = "predictor.wasm".into();
        match Deployment::with_predictor_path(written, "d.yaml", "predictor.wasm") {
            Ok(text) => assert_eq!(Deployment::parse(&text, "d.yaml").unwrap(), wanted),
            Err(error) => assert!(error.to_string().contains("cannot be rewritten"), "{error}"),
        }
    }
}

#[test]
fn files() {
    let folder = std::env::temp_dir().join(format!("edge-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("dunlin.yaml");
    std::fs::write(&path, FULL).unwrap();
    let read = Deployment::read(&path);
    std::fs::write(&path, format!("{}é", " ".repeat((1 << 20) - 1))).unwrap();
    let large = Deployment::read(&path).map_err(|error| error.to_string());
    std::fs::write(&path, b"name: \xff").unwrap();
    let latin = Deployment::read(&path);
    std::fs::remove_dir_all(&folder).unwrap();
    let gone = Deployment::read(&path);

    assert_eq!(read.unwrap(), Deployment::parse(FULL, "").unwrap());
    assert!(
        large
            .unwrap_err()
            .ends_with("dunlin.yaml: is too large; a configuration file has at most 1048576 bytes")
    );
    assert!(matches!(latin, Err(ConfigError::Read { .. })));
    assert!(matches!(gone, Err(ConfigError::Read { .. })));
}

/// The problems are as many as `said` has, in this order, each beginning so.
pub(crate) fn check_said<T: std::fmt::Debug>(
    result: Result<T, ConfigError>,
    text: &str,
    said: &[&str],
) {
    let error = result.unwrap_err();
    let lines: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
    assert!(
        lines.len() == said.len()
            && lines
                .iter()
                .zip(said)
                .all(|(line, said)| line.starts_with(said)),
        "of\n{text}\nit said\n{error}\nnot\n{}",
        said.join("\n")
    );
}
