//! What is written, read again.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::{TestStore, YAML, component, noise, onnx_model, predictor};

const AUTHORED: &str = "\
# What an author writes.
name: digits
predictor:
  path: .  # the crate
  grants: [clock]
  models:
    - {name: digits, path: models/digits.onnx, golden: ./models/golden.safetensors}
    - {name: script, path: models/script.pt}
    - {name: again, path: models/digits.onnx, backend: tract}
";

fn author() -> TempDir {
    let dir = TempDir::new().unwrap();
    let models = dir.path().join("models");
    fs::create_dir_all(models.join("w")).unwrap();
    fs::write(
        models.join("digits.onnx"),
        onnx_model(&["digits.onnx.data", "w/0"]),
    )
    .unwrap();
    fs::write(models.join("digits.onnx.data"), noise(30_000)).unwrap();
    fs::write(models.join("w/0"), noise(512)).unwrap();
    fs::write(models.join("golden.safetensors"), noise(1_000)).unwrap();
    // The same bytes as another file.
    fs::write(models.join("script.pt"), noise(512)).unwrap();
    dir
}

fn try_write(dir: &Path, yaml: &str, predictor: Option<&[u8]>) -> Result<Vec<u8>, WriteError> {
    let mut tar = Vec::new();
    let source = Source {
        yaml,
        origin: "dunlin.yaml",
        base: dir,
        predictor,
    };
    let summary = write(&source, &mut tar)?;
    assert_eq!(summary.bytes, tar.len() as u64);
    Ok(tar)
}

#[test]
fn written_and_read() {
    let dir = author();
    let tar = try_write(dir.path(), AUTHORED, Some(&predictor())).unwrap();
    let test = TestStore::new();
    let package = test.import(&tar).unwrap();
    let titles: Vec<&str> = package.files().map(|blob| blob.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "models/digits.onnx",
            "models/digits.onnx.data",
            "models/golden.safetensors",
            "models/script.pt",
            "models/w/0",
            "predictor.wasm"
        ]
    );
    for blob in package
        .files()
        .filter(|blob| blob.kind != LayerKind::Predictor)
    {
        let original = fs::read(dir.path().join(blob.title.as_str())).unwrap();
        assert_eq!(test.store.read(&blob.digest).unwrap(), original);
    }
    let written = Deployment::parse(AUTHORED, "").unwrap();
    assert_eq!(package.deployment().models, written.models);
    // The archive is in order, and its headers say nothing of this machine.
    let mut names = Vec::new();
    for entry in tar::Archive::new(&*tar).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.mtime().unwrap(), 0);
        assert_eq!(header.mode().unwrap(), 0o644);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        names.push(entry.path().unwrap().into_owned());
    }
    assert!(names.is_sorted());
    assert_eq!(names.len(), 5 + 2 + 2);
    // Elsewhere and later, the same bytes.
    assert_eq!(
        try_write(author().path(), AUTHORED, Some(&predictor())).unwrap(),
        tar
    );
}

#[test]
fn written_without_a_predictor() {
    let dir = author();
    let yaml = "name: a\npredictor: {models: [{name: m, path: models/script.pt}]}\n";
    let test = TestStore::new();
    let package = test
        .import(&try_write(dir.path(), yaml, None).unwrap())
        .unwrap();
    assert!(package.predictor().is_none());
    assert_eq!(package.files().count(), 1);
}

#[test]
fn what_is_not_written() {
    let dir = author();
    let wasm = predictor();
    let check = |said: &str, yaml: &str, predictor: Option<&[u8]>| {
        let error = try_write(dir.path(), yaml, predictor).unwrap_err();
        let text = crate::testing::chain(&error);
        assert!(text.contains(said), "{text}\nnot {said}");
    };
    check("name: is missing", "predictor: {path: .}", Some(&wasm));
    check("was not compiled", YAML, None);
    check(
        "no predictor.path",
        "name: a\npredictor: {models: [{name: m, path: m}]}",
        Some(&wasm),
    );
    check(
        "is a core module",
        YAML,
        Some(&wat::parse_str("(module)").unwrap()),
    );
    check("does not export", YAML, Some(&component(&[], &[])));
    check(
        "write clock into",
        &YAML.replace("[clock]", "[]"),
        Some(&wasm),
    );
    check(
        "models/none.pt",
        &YAML.replace("script.pt", "none.pt"),
        Some(&wasm),
    );
    check(
        "is not a file",
        &YAML.replace("/script.pt", ""),
        Some(&wasm),
    );
    check(
        "is two things",
        &YAML.replace("script.pt", "golden.safetensors"),
        Some(&wasm),
    );
    check(
        "is two things",
        &YAML.replace("models/script.pt", "predictor.wasm"),
        Some(&wasm),
    );
    for (said, model) in [
        ("leaves the folder", onnx_model(&["../secret"])),
        ("is absolute", onnx_model(&["/etc/passwd"])),
        ("cannot read", onnx_model(&["none.data"])),
        ("is not an ONNX model", b"\x0b".to_vec()),
    ] {
        fs::write(dir.path().join("models/digits.onnx"), model).unwrap();
        check(said, YAML, Some(&wasm));
    }
}
