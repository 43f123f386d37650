//! A browser for the tests: the machine's own, or Debian's unpacked into the work folder.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    backends,
    process::{exists, output, step, work_dir},
};

const PACKAGE: &str = "chromium-headless-shell";

/// The variable by which the tests find the browser; nothing on a machine that cannot have one.
pub(crate) fn variables() -> Result<Vec<(&'static str, OsString)>> {
    match program() {
        Ok(program) => Ok(vec![("DUNLIN_BROWSER", program.into_os_string())]),
        Err(reason) => {
            backends::skip("tests with a real browser", &reason)?;
            Ok(Vec::new())
        }
    }
}

fn program() -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    for name in [PACKAGE, "chromium", "google-chrome"] {
        let found = std::env::split_paths(&folders).map(|folder| folder.join(name));
        if let Some(found) = found.into_iter().find(|program| program.is_file()) {
            return Ok(found);
        }
    }
    if !exists("apt-get") || !exists("dpkg") {
        bail!("chromium is not on PATH, and there is no apt-get to fetch Debian's with");
    }
    let root = work_dir("browser")?.join("root");
    let program = root.join("usr/lib/chromium").join(PACKAGE);
    if !program.is_file() {
        unpack(&root)?;
    }
    Ok(program)
}

/// With the libraries that the machine lacks; without root, and without a change to the machine.
fn unpack(root: &Path) -> Result<()> {
    let archives = work_dir("browser/archives")?;
    std::fs::create_dir_all(archives.join("partial"))?;
    step(
        "Fetch Debian's Chromium without a window (96 MB)",
        Command::new("apt-get")
            .args(["-o", "Debug::NoLocking=1", "-o"])
            .arg(format!("Dir::Cache::archives={}", archives.display()))
            .args(["--yes", "--download-only", "--no-install-recommends"])
            .args(["install", PACKAGE]),
    )?;
    for archive in std::fs::read_dir(&archives)?.flatten() {
        let archive = archive.path();
        if archive
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            output(Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
            std::fs::remove_file(&archive)?;
        }
    }
    Ok(())
}
