//! What the tests of the native backends share: where the libraries are, and models to run.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};

use dunlin_inference::{
    BackendKind, BackendPaths, BackendState, Backends, GoldenSample, LoadRequest, ModelOptions,
    ModelSource, NamedTensors, Registry, Tensor, Tolerance,
};

/// What engines are held to where they compute the same in another order.
pub(crate) const CLOSE: Tolerance = Tolerance {
    relative: 1e-4,
    absolute: 1e-4,
};

/// A registry with the library of `kind` in it, from the folder that `DUNLIN_BACKENDS` names. None,
/// and a line that says why, where the machine has no such folder: a skipped test, unless
/// `DUNLIN_REQUIRE_BACKENDS` is set.
pub(crate) fn registry(kind: BackendKind) -> Option<Registry> {
    let name = kind.name();
    let Some(folder) = std::env::var_os("DUNLIN_BACKENDS").filter(|folder| !folder.is_empty())
    else {
        return skipped(&format!(
            "DUNLIN_BACKENDS names no folder with backend {name}; \
             run `dunlin backend install {name}` and set it to the folder that it says"
        ));
    };
    let backends = Backends::new(BackendPaths {
        folder: Some(folder.into()),
        ..BackendPaths::default()
    });
    let report = backends.report();
    let state = report.iter().find(|report| report.name == name);
    match state.map(|report| &report.state) {
        Some(BackendState::Ready { .. }) => Some(Registry::new(backends)),
        state => skipped(&format!("backend {name} is {state:?}")),
    }
}

pub(crate) fn skipped<T>(reason: &str) -> Option<T> {
    let required = std::env::var_os("DUNLIN_REQUIRE_BACKENDS").is_some_and(|value| value == "1");
    assert!(
        !required,
        "not skipped, by DUNLIN_REQUIRE_BACKENDS: {reason}"
    );
    println!("skipped: {reason}");
    None
}

/// A file of `tests/models`.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

/// A file of the digits example.
pub(crate) fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../predictors/digits/models")
        .join(name)
}

pub(crate) fn request(kind: BackendKind, model: &Path) -> LoadRequest {
    LoadRequest {
        digest: model.display().to_string(),
        source: ModelSource::path(model),
        backend: kind,
        options: ModelOptions::default(),
        golden: None,
    }
}

pub(crate) fn sample(path: &Path) -> Option<GoldenSample> {
    Some(GoldenSample {
        digest: path.display().to_string(),
        path: path.to_owned(),
        tolerance: CLOSE,
    })
}

pub(crate) fn named<const N: usize>(tensors: [(&str, Tensor); N]) -> NamedTensors {
    tensors
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into()
}
