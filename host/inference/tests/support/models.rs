//! Models of this folder and of the digits example, and requests for them.

use std::path::{Path, PathBuf};

use dunlin_inference::{
    BackendKind, GoldenSample, LoadRequest, ModelOptions, ModelSource, NamedTensors, Tensor,
    Tolerance,
};

/// What engines are held to where they compute the same in another order.
pub(crate) const CLOSE: Tolerance = Tolerance {
    relative: 1e-4,
    absolute: 1e-4,
};

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
