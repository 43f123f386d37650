//! Debian's packages for the tests, unpacked into the work folder: without root, and without a change
//! to the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::process::{exists, output, step, work_dir};

/// What is unpacked besides the package itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    Nothing,
    /// What it depends on and this machine has not installed.
    WhatIsMissing,
}

/// The folder that a package was unpacked into; `has` says below it whether that has been done.
pub(crate) fn unpacked(package: &str, with: With, size: &str, has: &str) -> Result<PathBuf> {
    let folder = work_dir(&format!("debian/{package}"))?;
    let root = folder.join("root");
    if root.join(has).is_file() {
        return Ok(root);
    }
    ensure!(
        exists("apt-get") && exists("dpkg"),
        "this machine has no apt-get to fetch Debian's {package} with"
    );
    let what = format!("Fetch Debian's {package} ({size})");
    if let Err(error) = fetch(&what, package, with, &folder, &[]) {
        println!("    {error:#}; with new lists of packages:");
        let lists = folder.join("lists");
        fs::create_dir_all(lists.join("partial"))?;
        let lists = format!("Dir::State::lists={}", lists.display());
        let lists = ["-o", &lists];
        step(
            "Fetch Debian's lists",
            apt(&folder).args(lists).arg("update"),
        )?;
        fetch(&what, package, with, &folder, &lists)?;
    }
    for archive in archives(&folder)? {
        output(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
        fs::remove_file(&archive)?;
    }
    ensure!(
        root.join(has).is_file(),
        "Debian's {package} has no {has} for this machine"
    );
    Ok(root)
}

fn fetch(what: &str, package: &str, with: With, folder: &Path, lists: &[&str]) -> Result<()> {
    let mut apt = apt(folder);
    apt.args(lists);
    match with {
        With::Nothing => apt.arg("download"),
        With::WhatIsMissing => apt.args([
            "--yes",
            "--download-only",
            "--no-install-recommends",
            "install",
        ]),
    };
    step(what, apt.arg(package))
}

fn apt(folder: &Path) -> Command {
    let cache = folder.join("archives");
    let _exists_already = fs::create_dir_all(cache.join("partial"));
    let mut apt = Command::new("apt-get");
    apt.args(["-qq", "-o", "Debug::NoLocking=1"])
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", cache.display()))
        .current_dir(folder);
    apt
}

/// `apt-get download` leaves them in the folder itself.
fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for folder in [folder.to_owned(), folder.join("archives")] {
        let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        archives.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "deb")));
    }
    Ok(archives)
}
