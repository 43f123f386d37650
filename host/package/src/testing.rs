//! What the tests of this crate are made with: small models, components and archives, good ones and
//! forged ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::digest::Digest;
use crate::{ImportLimits, LayerKind, Package, PackageError, Store, import};

pub(crate) const NO_LIMIT: ImportLimits = ImportLimits {
    package_max: u64::MAX,
};

/// A deployment file with everything a package can have.
pub(crate) const YAML: &str = "\
name: digits
predictor:
  path: predictor.wasm
  grants: [clock]
  models:
    - {name: digits, path: models/digits.onnx, golden: models/golden.safetensors}
    - {name: script, path: models/script.pt}
";

/// A length-delimited field of a protobuf message.
pub(crate) fn protobuf_field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(number << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An ONNX model with one tensor in each of these files. It computes nothing.
pub(crate) fn onnx_model(locations: &[&str]) -> Vec<u8> {
    let field = protobuf_field;
    let tensors: Vec<u8> = locations
        .iter()
        .flat_map(|location| {
            let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
            field(5, &[field(8, b"weights"), field(13, &entry)].concat())
        })
        .collect();
    // The version of the format, the producer, the graph.
    [vec![0x08, 0x0a], field(2, b"test"), field(7, &tensors)].concat()
}

/// A component with these instances in and out, all of them empty.
pub(crate) fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let imports: String = imports
        .iter()
        .map(|name| format!("(import \"{name}\" (instance))\n"))
        .collect();
    let exports: String = exports
        .iter()
        .map(|name| format!("(export \"{name}\" (instance $empty))\n"))
        .collect();
    let text = format!(
        "(component {imports} (component $inner) (instance $empty (instantiate $inner)) {exports})"
    );
    wat::parse_str(text).unwrap()
}

pub(crate) fn predictor() -> Vec<u8> {
    component(
        &[
            "dunlin:predictor/clock@0.1.0",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
        ],
        &["dunlin:predictor/handler@0.1.0"],
    )
}

/// Bytes that no two parts of are alike.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// A package made by hand: right unless a test makes it wrong.
pub(crate) struct Forgery {
    pub(crate) config: Vec<u8>,
    /// Title, media type, content.
    pub(crate) layers: Vec<(String, String, Vec<u8>)>,
    pub(crate) edit_manifest: fn(&mut Value),
    pub(crate) edit_index: fn(&mut Value),
    pub(crate) edit_entries: fn(&mut Vec<Entry>),
}

/// An entry of a tar archive.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: EntryType,
    pub(crate) content: Vec<u8>,
    pub(crate) link: &'static str,
}

impl Entry {
    pub(crate) fn new(name: &str, kind: EntryType, content: &[u8], link: &'static str) -> Self {
        Self {
            name: name.into(),
            kind,
            content: content.to_vec(),
            link,
        }
    }

    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        Self::new(name, EntryType::Regular, content, "")
    }
}

impl Default for Forgery {
    fn default() -> Self {
        let layer = |title: &str, kind: LayerKind, content| {
            (title.to_owned(), kind.media_type().to_owned(), content)
        };
        Self {
            config: YAML.into(),
            layers: vec![
                layer("predictor.wasm", LayerKind::Predictor, predictor()),
                layer(
                    "models/digits.onnx",
                    LayerKind::Weights,
                    onnx_model(&["digits.data"]),
                ),
                layer("models/digits.data", LayerKind::Weights, noise(20_000)),
                layer("models/script.pt", LayerKind::Weights, noise(700)),
                layer("models/golden.safetensors", LayerKind::Golden, noise(512)),
            ],
            edit_manifest: |_| {},
            edit_index: |_| {},
            edit_entries: |_| {},
        }
    }
}

impl Forgery {
    /// Replaces the content of a layer.
    pub(crate) fn with(mut self, title: &str, content: &[u8]) -> Self {
        for layer in self.layers.iter_mut().filter(|layer| layer.0 == title) {
            layer.2 = content.to_owned();
        }
        self
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut blobs = BTreeMap::new();
        let mut descriptor = |media_type: &str, content: &[u8]| {
            let digest = Digest::of(content);
            blobs.insert(digest, content.to_vec());
            json!({"mediaType": media_type, "digest": digest, "size": content.len()})
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(title, media_type, content)| {
                let mut layer = descriptor(media_type, content);
                layer["annotations"] = json!({"org.opencontainers.image.title": title});
                layer
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.dunlin.package.v1",
            "config": descriptor("application/vnd.dunlin.deployment.v1+yaml", &self.config),
            "layers": layers,
        });
        (self.edit_manifest)(&mut manifest);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut index = json!({
            "schemaVersion": 2,
            "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)],
        });
        (self.edit_index)(&mut index);
        let mut entries: Vec<Entry> = blobs
            .iter()
            .map(|(digest, content)| {
                Entry::file(&format!("blobs/sha256/{}", digest.as_hex()), content)
            })
            .collect();
        entries.push(Entry::file(
            "index.json",
            &serde_json::to_vec(&index).unwrap(),
        ));
        entries.push(Entry::file(
            "oci-layout",
            b"{\"imageLayoutVersion\":\"1.0.0\"}",
        ));
        (self.edit_entries)(&mut entries);
        archive(&entries)
    }
}

/// Writes entries as they are: names that a builder would refuse included.
pub(crate) fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(&entry.name);
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        if !entry.link.is_empty() {
            header.set_link_name(entry.link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, &*entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A store in a folder of its own.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            store: Store::open(dir.path()).unwrap(),
            dir,
        }
    }

    pub(crate) fn import(&self, tar: &[u8]) -> Result<Package, PackageError> {
        import(tar, &self.store, NO_LIMIT)
    }

    /// An import that has to fail, and to leave nothing.
    pub(crate) fn refuse(&self, what: &str, tar: &[u8]) -> PackageError {
        let before = self.files();
        let result = self.import(tar);
        assert!(result.is_err(), "{what} was imported");
        assert_eq!(self.files(), before, "{what} left something behind");
        result.unwrap_err()
    }

    /// Every file of the store and its size.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, u64> {
        files_below(self.dir.path())
    }

    pub(crate) fn blobs(&self) -> usize {
        self.files()
            .keys()
            .filter(|path| path.starts_with(self.dir.path().join("blobs")))
            .count()
    }
}

pub(crate) fn files_below(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.insert(entry.path(), entry.metadata().unwrap().len());
        }
    }
    files
}

/// The error with its causes, as a person is told.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
