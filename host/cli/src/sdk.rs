//! The SDK that a new predictor is written with: the one in this binary, or another.
//!
//! Owns the flags that choose it and what is written for it. Knows nothing of the crates around it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

// `SDK`: the files by their paths in `guest-sdk`, as `build.rs` found them.
include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// Where the SDK goes in the new folder, and its crate in there: its `../wit` is beside it.
const FOLDER: &str = "dunlin-sdk";
const CRATE: &str = "dunlin-sdk/rust";

/// Where the new crate takes dunlin-sdk from.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct Sdk {
    /// Take dunlin-sdk from this folder, not from this binary
    #[arg(long, value_name = "DIR")]
    sdk_path: Option<PathBuf>,

    /// Take dunlin-sdk from this git repository, not from this binary
    #[arg(long, value_name = "URL")]
    sdk_git: Option<String>,
}

/// What a new crate depends on.
#[derive(Debug)]
pub(crate) struct Dependency {
    in_manifest: String,
    files: &'static [(&'static str, &'static [u8])],
}

impl Sdk {
    pub(crate) fn dependency(&self) -> Result<Dependency, Failure> {
        match (&self.sdk_path, &self.sdk_git) {
            (Some(path), _) => path_dependency(path),
            (None, Some(url)) => Ok(Dependency::given(format!("{{ git = {} }}", quoted(url)))),
            (None, None) => Ok(Dependency::embedded()),
        }
    }
}

impl Dependency {
    /// The SDK of this binary, written beside the crate's manifest.
    pub(crate) fn embedded() -> Self {
        Self {
            in_manifest: format!("{{ path = {} }}", quoted(CRATE)),
            files: SDK,
        }
    }

    /// One that is elsewhere.
    pub(crate) fn given(in_manifest: impl Into<String>) -> Self {
        Self {
            in_manifest: in_manifest.into(),
            files: &[],
        }
    }

    /// The right side of `dunlin-sdk = …`.
    pub(crate) fn in_manifest(&self) -> &str {
        &self.in_manifest
    }

    /// What is to be written into the folder of the crate, by the paths in it.
    pub(crate) fn files(&self) -> impl Iterator<Item = (String, &'static [u8])> {
        let files = self.files.iter();
        files.map(|(path, content)| (format!("{FOLDER}/{path}"), *content))
    }
}

fn path_dependency(path: &Path) -> Result<Dependency, Failure> {
    let missing = |why: String| {
        Failure::new(
            Exit::NotFound,
            format!("{} is not dunlin-sdk: {why}", path.display()),
        )
        .next("give the folder guest-sdk/rust of a checkout of Dunlin")
    };
    let manifest = fs::read_to_string(path.join("Cargo.toml"));
    let manifest = manifest.map_err(|error| missing(format!("its Cargo.toml: {error}")))?;
    if !is_sdk(&manifest) {
        return Err(missing("its Cargo.toml is of another crate".to_owned()));
    }
    let path = fs::canonicalize(path).map_err(|error| missing(error.to_string()))?;
    let path = path
        .to_str()
        .ok_or_else(|| missing("its path is not UTF-8".to_owned()))?;
    Ok(Dependency::given(format!("{{ path = {} }}", quoted(path))))
}

fn is_sdk(manifest: &str) -> bool {
    manifest
        .lines()
        .any(|line| line.replace(' ', "") == "name=\"dunlin-sdk\"")
}

/// A TOML string: its escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_in_the_binary_is_that_of_the_checkout() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk");
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("iris");
        for (path, content) in Dependency::embedded().files() {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let written = dir.join(FOLDER);
        let same = |path: &str| {
            assert_eq!(
                fs::read(written.join(path)).unwrap(),
                fs::read(checkout.join(path)).unwrap(),
                "{path}"
            );
        };
        for entry in fs::read_dir(checkout.join("rust/src")).unwrap() {
            let name = entry.unwrap().file_name();
            if Path::new(&name).extension().is_some() {
                same(&format!("rust/src/{}", name.to_str().unwrap()));
            }
        }
        same("rust/src/host/wasm.rs");
        same("wit/predictor.wit");
        same("wit/deps/wasi-nn/wasi-nn.wit");

        let manifest = fs::read_to_string(written.join("rust/Cargo.toml")).unwrap();
        assert!(is_sdk(&manifest), "{manifest}");
        assert!(!manifest.contains("workspace ="), "{manifest}");
        let version = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(manifest.contains(&version), "{manifest}");
        // What the SDK depends on is there, as the workspace has it.
        let own = fs::read_to_string(checkout.join("rust/Cargo.toml")).unwrap();
        let (_, own) = own.split_once("[dependencies]\n").unwrap();
        let names = own.lines().take_while(|line| !line.is_empty());
        for name in names.filter_map(|line| line.split(['.', ' ']).next()) {
            assert!(
                manifest.contains(&format!("\n{name} = ")),
                "{name}: {manifest}"
            );
        }
        assert!(path_dependency(&dir.join(CRATE)).is_ok());
        assert!(path_dependency(&written).is_err(), "the crate lies deeper");
    }
}
