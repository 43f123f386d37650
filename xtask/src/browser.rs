//! A browser for the tests: the machine's own, or Debian's with the libraries that the machine lacks.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;

use crate::{
    apt::{self, With},
    backends,
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
    let program = format!("usr/lib/chromium/{PACKAGE}");
    let root = apt::unpacked(PACKAGE, With::WhatIsMissing, "96 MB", &program)?;
    Ok(root.join(program))
}
