//! A Prometheus for the tests: the machine's own, or Debian's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    apt::{self, With},
    backends,
};

/// The variable by which the tests find the folder with `prometheus` and `promtool`; nothing on a
/// machine that cannot have them.
pub(crate) fn variables() -> Result<Vec<(&'static str, OsString)>> {
    match folder() {
        Ok(folder) => Ok(vec![("DUNLIN_PROMETHEUS", folder.into_os_string())]),
        Err(reason) => {
            backends::skip("tests with a real Prometheus", &reason)?;
            Ok(Vec::new())
        }
    }
}

fn folder() -> Result<PathBuf> {
    if let Some(folder) = on_path() {
        return Ok(folder);
    }
    let root = apt::unpacked("prometheus", With::Nothing, "19 MB", "usr/bin/promtool")?;
    Ok(root.join("usr/bin"))
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|folder| has_both(folder))
}

fn has_both(folder: &Path) -> bool {
    ["prometheus", "promtool"]
        .iter()
        .all(|program| folder.join(program).is_file())
}
