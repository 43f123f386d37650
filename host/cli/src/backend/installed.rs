//! What stands in the backend folder: a folder for each backend, with a `backend.json` that says of
//! what it consists.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::recipe::Native;
use super::unpack::digest;
use crate::exit::Failure;
use crate::staging::Staging;

const FILE: &str = "backend.json";

/// The content of `backend.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Of the source of what Dunlin compiled for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim: Option<String>,
    pub files: Vec<InstalledFile>,
}

/// A file of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Below the backend's folder.
    pub path: String,
    /// In hexadecimal.
    pub sha256: String,
    pub size: u64,
}

impl Manifest {
    /// Of the backend that is installed in `folder`. None: it is not.
    pub fn read(folder: &Path, native: Native) -> Option<Self> {
        let text = fs::read_to_string(folder.join(native.name()).join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let written = || -> Result<()> {
            let mut text = serde_json::to_string_pretty(self)?;
            text.push('\n');
            fs::write(&path, text)?;
            fs::File::open(&path)?.sync_all()?;
            Ok(())
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Checks that each file has the size that was written. Quick, and finds what a full disk or a
    /// copy that broke off left.
    pub fn check_sizes(&self, dir: &Path) -> Result<()> {
        for file in &self.files {
            let path = dir.join(&file.path);
            let size = fs::metadata(&path)
                .with_context(|| format!("cannot read {}", path.display()))?
                .len();
            if size != file.size {
                bail!(
                    "{} has {size} bytes; it had {} when it was installed",
                    path.display(),
                    file.size
                );
            }
        }
        Ok(())
    }

    /// Checks that each file is what was written. `watch` is asked again and again meanwhile.
    pub(super) fn check(&self, dir: &Path, watch: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.check_sizes(dir)?;
        for file in &self.files {
            let path = dir.join(&file.path);
            if digest(&path, watch)?.0 != file.sha256 {
                bail!("{} is not what was installed", path.display());
            }
        }
        Ok(())
    }
}

/// Removes a backend from the folder. False: it was not there.
pub fn remove(folder: &Path, native: Native) -> Result<bool, Failure> {
    if folder.join(native.name()).symlink_metadata().is_err() {
        return Ok(false);
    }
    let staging = Staging::at(folder.to_owned())?;
    let lock = staging.lock(&mut |_| ())?;
    Ok(staging.remove(&lock, native.name())?)
}
