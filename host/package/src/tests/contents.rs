//! Blobs, manifests, deployment files, predictors and models that an import refuses.

use std::io::Read as _;

use serde_json::json;

use crate::testing::*;
use crate::*;

#[test]
fn blobs_that_are_not_what_they_are_called() {
    let test = TestStore::new();
    for at in 0..7 {
        let mut entries = Vec::new();
        let tar = Forgery::default().tar();
        for entry in tar::Archive::new(&*tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.push(Entry::file(
                entry.path().unwrap().to_str().unwrap(),
                &content,
            ));
        }
        let mut other = entries.clone();
        other[at].content[0] ^= 1;
        let error = test.refuse("another byte", &archive(&other));
        assert!(
            matches!(error, PackageError::Tampered { .. }),
            "{}",
            chain(&error)
        );
        let mut longer = entries.clone();
        longer[at].content.push(0);
        let error = test.refuse("one byte more", &archive(&longer));
        assert!(
            matches!(error, PackageError::Tampered { .. }),
            "{}",
            chain(&error)
        );
        entries.remove(at);
        let error = test.refuse("a blob less", &archive(&entries));
        assert!(
            error.to_string().contains("is not in the package"),
            "{}",
            chain(&error)
        );
    }
}

#[test]
fn manifests_that_lie() {
    let test = TestStore::new();
    let check = |said: &str, edit: fn(&mut serde_json::Value)| {
        let tar = Forgery {
            edit_manifest: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    };
    check("not a Dunlin package", |manifest| {
        manifest["artifactType"] = json!("image")
    });
    check("not a Dunlin package", |manifest| {
        manifest.as_object_mut().unwrap().remove("artifactType");
    });
    check("is not an OCI image manifest", |manifest| {
        manifest["schemaVersion"] = json!(1)
    });
    check("is not an OCI image manifest", |manifest| {
        manifest["mediaType"] = json!("x")
    });
    check("has a configuration of", |manifest| {
        manifest["config"]["mediaType"] = json!("x")
    });
    check("are announced", |manifest| {
        manifest["config"]["size"] = json!(3)
    });
    check("are announced", |manifest| {
        manifest["layers"][2]["size"] = json!(u64::MAX)
    });
    check("manifest: invalid value", |manifest| {
        manifest["layers"][2]["size"] = json!(-1)
    });
    check("is not a digest", |manifest| {
        manifest["layers"][2]["digest"] = json!("sha256:../..")
    });
    check("is not in the package", |manifest| {
        manifest["layers"][2]["digest"] = json!(Digest::of(b"elsewhere"));
    });
    check("unknown media type", |manifest| {
        manifest["layers"][2]["mediaType"] = json!("x/cwasm")
    });
    check("has no annotation", |manifest| {
        manifest["layers"][2]["annotations"] = json!({"title": "a"});
    });
    for (said, title) in [
        ("leaves the folder", "../../etc/cron.d/evil"),
        ("is absolute", "/etc/passwd"),
        ("is not written as", "./models/digits.data"),
        ("is there twice", "models/script.pt"),
        ("is a file, and", "models/script.pt/below"),
        ("backslash", "models\\digits.data"),
        ("not name a file", "models/"),
        ("is empty", ""),
    ] {
        let mut forgery = Forgery::default();
        forgery.layers[2].0 = title.to_owned();
        let error = test.refuse(title, &forgery.tar());
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    }
    let index = |said: &str, edit: fn(&mut serde_json::Value)| {
        let tar = Forgery {
            edit_index: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(error.to_string().starts_with("index.json: "), "{error}");
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    };
    index("has 0 manifests", |index| index["manifests"] = json!([]));
    index("has 2 manifests", |index| {
        index["manifests"] = json!([index["manifests"][0], index["manifests"][0]]);
    });
    index("names a", |index| {
        index["manifests"][0]["mediaType"] = json!("x")
    });
    index("is not an OCI image index", |index| {
        index["schemaVersion"] = json!(3)
    });
    index("invalid type", |index| *index = json!("no object"));
    let deep: fn(&mut serde_json::Value) = |manifest| {
        manifest["deep"] = (0..120).fold(json!(1), |inner, _| json!([inner]));
    };
    test.refuse(
        "deep JSON",
        &Forgery {
            edit_manifest: |m| m["layers"] = json!({}),
            ..Forgery::default()
        }
        .tar(),
    );
    let _ = test.import(
        &Forgery {
            edit_manifest: deep,
            ..Forgery::default()
        }
        .tar(),
    );
}

#[test]
fn deployment_files_that_do_not_fit() {
    let test = TestStore::new();
    let check = |said: &str, yaml: &str| {
        let forgery = Forgery {
            config: yaml.into(),
            ..Forgery::default()
        };
        let error = test.refuse(said, &forgery.tar());
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    };
    let edit = |from: &str, to: &str| {
        assert!(YAML.contains(from));
        YAML.replace(from, to)
    };
    check("name: is missing", "predictor: {path: predictor.wasm}");
    check(
        "dunlin.yaml in the package:4: predictor.grants",
        &edit("[clock]", "clock"),
    );
    check(
        "in a package it is predictor.wasm",
        &edit("path: predictor.wasm", "path: ../../bin/sh"),
    );
    check(
        "in a package it is predictor.wasm",
        &edit("path: predictor.wasm", "path: ."),
    );
    check(
        "model digits: models/none.onnx is not among",
        &edit("digits.onnx", "none.onnx"),
    );
    check(
        "is not among the golden samples",
        &edit("golden.safetensors", "gold.safetensors"),
    );
    check(
        "golden.safetensors is in the package and not named here",
        &edit(", golden: models/golden.safetensors", ""),
    );
    check(
        "predictor.wasm is in the package and not named here",
        &edit("  path: predictor.wasm\n  grants: [clock]\n", ""),
    );
    check(
        "is not among the package's models",
        &edit("models/script.pt", "predictor.wasm"),
    );
    check("it was not granted", &edit("  grants: [clock]\n", ""));
    let binary = Forgery {
        config: vec![0xff; 10],
        ..Forgery::default()
    };
    assert!(chain(&test.refuse("binary", &binary.tar())).contains("is not UTF-8"));
    let mut none = Forgery::default();
    none.layers.remove(0);
    assert!(chain(&test.refuse("none", &none.tar())).contains("predictor.wasm is not in the"));
    let huge = Forgery {
        config: vec![b' '; 5 << 20],
        ..Forgery::default()
    };
    assert!(chain(&test.refuse("huge", &huge.tar())).contains("it has at most"));
}

#[test]
fn predictors_that_are_none() {
    let test = TestStore::new();
    for (said, wasm) in [
        ("is not WebAssembly", b"#!/bin/sh".to_vec()),
        ("is not WebAssembly", Vec::new()),
        ("is a core module", wat::parse_str("(module)").unwrap()),
        ("does not export", component(&[], &[])),
        (
            "wasi:http/types@0.2.0: a predictor makes no HTTP",
            component(
                &["wasi:http/types@0.2.0"],
                &["dunlin:predictor/handler@0.1.0"],
            ),
        ),
        (
            "predictor.grants",
            component(
                &["dunlin:predictor/random@0.1.0"],
                &["dunlin:predictor/handler@0.1.0"],
            ),
        ),
    ] {
        let error = test.refuse(
            said,
            &Forgery::default().with("predictor.wasm", &wasm).tar(),
        );
        assert!(matches!(error, PackageError::World { .. }));
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    }
}

#[test]
fn models_that_reach_out() {
    let test = TestStore::new();
    for (said, model) in [
        (
            "keeps weights in \"/etc/passwd\"",
            onnx_model(&["/etc/passwd"]),
        ),
        (
            "keeps weights in \"../secret\"",
            onnx_model(&["digits.data", "../secret"]),
        ),
        (
            "keeps weights in \"other.data\"",
            onnx_model(&["other.data"]),
        ),
        ("is not an ONNX model", b"\x0b".to_vec()),
    ] {
        let tar = Forgery::default().with("models/digits.onnx", &model).tar();
        let error = test.refuse(said, &tar);
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    }
}
