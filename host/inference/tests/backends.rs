//! Which engine runs a model, by what the node has: nothing here needs a native library.

use std::path::{Path, PathBuf};

use dunlin_inference::{
    BackendKind, BackendPaths, BackendState, Backends, InferenceError, ModelSource, one_line,
};

const TORCHSCRIPT_START: &[u8] = b"PK\x03\x04and so on";

fn onnx() -> ModelSource {
    ModelSource::path(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/models/digits.onnx"
    ))
}

fn torchscript() -> ModelSource {
    ModelSource::bytes(TORCHSCRIPT_START)
}

/// A node whose folder has a text in each library's place.
fn with_broken_libraries(folder: &Path) -> Backends {
    for library in [
        "onnxruntime/libonnxruntime.so",
        "torchscript/libdunlin_torch.so",
    ] {
        let path = folder.join(library);
        let folder = path.parent().expect("a library has a folder");
        std::fs::create_dir(folder).expect("a temporary folder takes others");
        std::fs::write(path, "not a library").expect("and files");
    }
    Backends::new(BackendPaths {
        folder: Some(folder.to_owned()),
        ..BackendPaths::default()
    })
}

fn refusal(backends: &Backends, kind: BackendKind, source: &ModelSource) -> String {
    let error = backends.resolve(kind, source).map(|_| ());
    let error = error.expect_err("there is no such engine");
    assert!(
        matches!(error, InferenceError::Unsupported { .. }),
        "{error:?}"
    );
    one_line(&error)
}

#[test]
fn a_library_that_is_none_is_told_from_one_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let backends = with_broken_libraries(folder.path());
    let expected = |library: &str| folder.path().join(library);
    for (kind, source, library) in [
        (
            BackendKind::OnnxRuntime,
            onnx(),
            "onnxruntime/libonnxruntime.so",
        ),
        (
            BackendKind::TorchScript,
            torchscript(),
            "torchscript/libdunlin_torch.so",
        ),
        (
            BackendKind::Auto,
            torchscript(),
            "torchscript/libdunlin_torch.so",
        ),
    ] {
        let said = refusal(&backends, kind, &source);
        let path = expected(library).display().to_string();
        let install = library.split('/').next().unwrap();
        assert!(said.contains(&path), "{said}");
        assert!(
            said.ends_with(&format!("; run `dunlin backend install {install}`")),
            "{said}"
        );
    }
    // A model that tract can run is not refused for it.
    let engine = backends.resolve(BackendKind::Auto, &onnx()).unwrap();
    assert_eq!(engine.name(), "tract");

    for report in &backends.report()[1..] {
        let BackendState::Broken { path, reason } = &report.state else {
            panic!("{report:?}")
        };
        assert!(path.starts_with(folder.path()), "{report:?}");
        assert!(!reason.is_empty());
    }
}

#[test]
fn a_path_that_is_given_is_not_replaced_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.so");
    let backends = Backends::new(BackendPaths {
        folder: None,
        onnxruntime: Some(absent.clone()),
        torchscript: Some(absent.clone()),
    });
    for (kind, source) in [
        (BackendKind::OnnxRuntime, onnx()),
        (BackendKind::TorchScript, torchscript()),
    ] {
        let said = refusal(&backends, kind, &source);
        assert!(said.contains(&absent.display().to_string()), "{said}");
    }
    let report = backends.report();
    assert_eq!(report[0].name, "tract");
    assert!(matches!(
        report[0].state,
        BackendState::Ready { path: None, .. }
    ));
    assert_eq!(report[1].name, "onnxruntime");
    assert!(
        matches!(&report[1].state, BackendState::Broken { path, .. } if *path == absent),
        "{report:?}"
    );
}

/// Where the machine has neither library of its own, which is so wherever nobody installed them.
#[test]
fn what_is_missing_says_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let backends = Backends::new(BackendPaths {
        folder: Some(folder.path().to_owned()),
        ..BackendPaths::default()
    });
    let report = backends.report();
    let BackendState::Missing { looked_in } = &report[2].state else {
        panic!("{report:?}")
    };
    let expected = [
        folder.path().join("torchscript/libdunlin_torch.so"),
        PathBuf::from("libdunlin_torch.so"),
    ];
    assert_eq!(*looked_in, expected);
    let said = refusal(&backends, BackendKind::TorchScript, &torchscript());
    assert_eq!(
        said,
        "this node has no backend torchscript; run `dunlin backend install torchscript`"
    );
}

#[test]
fn a_backend_refuses_the_other_format() {
    let backends = Backends::default();
    let said = refusal(&backends, BackendKind::Tract, &torchscript());
    assert!(said.contains("backend tract reads ONNX files"), "{said}");
    let said = refusal(&backends, BackendKind::TorchScript, &onnx());
    assert!(
        said.contains("backend torchscript reads TorchScript files"),
        "{said}"
    );
}
