//! A Prometheus for the tests: the machine's own, or Debian's unpacked into the work folder.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    backends,
    process::{exists, output, step, work_dir},
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
    if !exists("apt-get") || !exists("dpkg") {
        bail!("prometheus is not on PATH, and there is no apt-get to fetch Debian's with");
    }
    let folder = work_dir("prometheus")?;
    let programs = folder.join("root/usr/bin");
    if !has_both(&programs) {
        unpack(&folder)?;
    }
    Ok(programs)
}

/// Without root, and without a change to the machine.
fn unpack(folder: &Path) -> Result<()> {
    step(
        "Fetch Debian's prometheus (19 MB)",
        Command::new("apt-get")
            .args(["download", "prometheus"])
            .current_dir(folder),
    )?;
    let archive = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    let root = folder.join("root");
    output(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
    std::fs::remove_file(&archive)?;
    output(Command::new(root.join("usr/bin/promtool")).arg("--version")).map(drop)
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
