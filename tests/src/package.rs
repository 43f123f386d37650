//! Packages that are like those of the repository, but for something.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::artifacts::{binary, package};

/// A package made for a test, in a folder that goes with it.
#[derive(Debug)]
pub struct Variant {
    folder: TempDir,
}

impl Variant {
    /// The package `name` of the repository with another deployment file: `change` gets it as the
    /// object that it is.
    ///
    /// # Panics
    /// `dunlin package` refuses it.
    #[must_use]
    pub fn of(name: &str, change: impl FnOnce(&mut Value)) -> Self {
        Self::of_folder(name, |folder| {
            let path = folder.join("dunlin.yaml");
            let yaml = fs::read_to_string(&path).expect("a package has a deployment file");
            let mut deployment: Value =
                serde_saphyr::from_str(&yaml).expect("a package's deployment file is YAML");
            change(&mut deployment);
            // JSON is YAML.
            fs::write(path, deployment.to_string()).expect("the folder is the test's");
        })
    }

    /// The package `name` of the repository with other files: `change` gets the folder that they are
    /// packaged from.
    ///
    /// # Panics
    /// `dunlin package` refuses it.
    #[must_use]
    pub fn of_folder(name: &str, change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("the tests can make folders");
        let unpacked = folder.path().join("unpacked");
        let yaml = unpack(&package(name), &unpacked);
        fs::write(unpacked.join("dunlin.yaml"), yaml).expect("the folder is the test's");
        change(&unpacked);
        let file = folder.path().join("variant.dunlin");
        let output = Command::new(binary())
            .arg("package")
            .arg(&unpacked)
            .arg("--file")
            .arg(&file)
            .output()
            .expect("dunlin can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        Self { folder }
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("variant.dunlin")
    }

    /// # Panics
    /// The package cannot be read.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).expect("the folder is the test's")
    }
}

/// An archive's files, in their order.
type Files = Vec<(String, Vec<u8>)>;

/// The package `name` with `change` done to the archive's files, and the archive written again. What
/// names what is not kept right: that is the node's to find out.
///
/// # Panics
/// The package cannot be read.
#[must_use]
pub fn rewrite(name: &str, change: impl FnOnce(&mut Files)) -> Vec<u8> {
    let mut files = files(&package(name));
    change(&mut files);
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in &files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, path, &bytes[..])
            .expect("a Vec takes any bytes");
    }
    archive.into_inner().expect("a Vec takes any bytes")
}

/// The package `name` with another predictor, and every digest as it must be: only the component
/// itself is wrong.
///
/// # Panics
/// The package is not an OCI image layout with one manifest.
#[must_use]
pub fn with_component(name: &str, component: &[u8]) -> Vec<u8> {
    with_blob(
        name,
        |manifest| {
            let layers = manifest["layers"].as_array_mut();
            let mut layers = layers.into_iter().flatten();
            layers.find(|layer| layer["mediaType"] == "application/wasm")
        },
        |_| component.to_vec(),
    )
}

/// The package `name` with another file for its only model, and every digest as it must be. `dunlin
/// package` would refuse a file that is no model.
///
/// # Panics
/// The package is not an OCI image layout with one manifest, or has no model.
#[must_use]
pub fn with_model(name: &str, model: &[u8]) -> Vec<u8> {
    with_blob(
        name,
        |manifest| {
            let layers = manifest["layers"].as_array_mut();
            let mut layers = layers.into_iter().flatten();
            layers.find(|layer| {
                let title = &layer["annotations"]["org.opencontainers.image.title"];
                title.as_str().is_some_and(|title| title.ends_with(".onnx"))
            })
        },
        |_| model.to_vec(),
    )
}

/// The package `name` with another deployment file, and every digest as it must be.
///
/// # Panics
/// The package is not an OCI image layout with one manifest.
#[must_use]
pub fn with_yaml(name: &str, change: impl FnOnce(&str) -> String) -> Vec<u8> {
    with_blob(
        name,
        |manifest| manifest.get_mut("config"),
        |yaml| change(&String::from_utf8_lossy(yaml)).into_bytes(),
    )
}

/// The package `name` with what the descriptor that `find` finds in the manifest stands for changed,
/// and with it the descriptor, the manifest and the index.
fn with_blob(
    name: &str,
    find: impl FnOnce(&mut Value) -> Option<&mut Value>,
    change: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    fn replace(files: &mut Files, descriptor: &mut Value, bytes: Vec<u8>) {
        let at = position(files, &blob(&text(&descriptor["digest"])));
        descriptor["digest"] = digest(&bytes).into();
        descriptor["size"] = bytes.len().into();
        files[at] = (blob(&digest(&bytes)), bytes);
    }
    rewrite(name, |files| {
        let at = position(files, "index.json");
        let mut index = json(&files[at].1);
        let in_index = &mut index["manifests"][0];
        let mut manifest = json(bytes_of(files, in_index));
        let descriptor = find(&mut manifest).expect("the manifest has it");
        let bytes = change(bytes_of(files, descriptor));
        replace(files, descriptor, bytes);
        replace(files, in_index, manifest.to_string().into_bytes());
        files[at].1 = index.to_string().into_bytes();
    })
}

fn bytes_of<'a>(files: &'a Files, descriptor: &Value) -> &'a [u8] {
    &files[position(files, &blob(&text(&descriptor["digest"])))].1
}

/// `sha256:<hex>` of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Where a package's archive has the blob.
#[must_use]
pub fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn position(files: &Files, path: &str) -> usize {
    let found = files.iter().position(|(name, _)| name == path);
    found.expect("the package has what it names")
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a package's documents are JSON")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a digest is a text").to_owned()
}

fn files(package: &Path) -> Files {
    let archive = fs::File::open(package).expect("a package can be read");
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("a package is a tar");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a package is a tar");
            let path = entry.path().expect("a path is UTF-8");
            let path = path.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes).expect("a package is whole");
            (path, bytes)
        })
        .collect()
}

/// Puts the files of a package below `folder` under their titles, and gives its deployment file.
fn unpack(package: &Path, folder: &Path) -> String {
    let files: BTreeMap<_, _> = files(package).into_iter().collect();
    let index = json(&files["index.json"]);
    let manifest = json(&files[&blob(&text(&index["manifests"][0]["digest"]))]);
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let title = text(&layer["annotations"]["org.opencontainers.image.title"]);
        let path = folder.join(title);
        fs::create_dir_all(path.parent().expect("it lies in the folder"))
            .expect("the folder is the test's");
        fs::write(path, &files[&blob(&text(&layer["digest"]))]).expect("the folder is the test's");
    }
    let config = &files[&blob(&text(&manifest["config"]["digest"]))];
    String::from_utf8_lossy(config).into_owned()
}
