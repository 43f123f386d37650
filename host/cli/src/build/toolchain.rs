//! What this machine has to build predictors with, told without building anything.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::compiler::Compiler;
use super::standard_library::{self, StandardLibrary};
use super::{GuestTarget, cargo};
use crate::process;

const ASK_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Toolchain {
    compiler: Compiler,
}

impl Toolchain {
    /// The one that builds the crate in `dir`.
    pub fn find(dir: &Path) -> Result<Self> {
        let compiler = Compiler::find(dir)?;
        Ok(Self { compiler })
    }

    pub fn release(&self) -> &str {
        &self.compiler.release
    }

    pub fn rustc(&self) -> PathBuf {
        self.compiler.rustc.clone()
    }

    /// The standard library for a target. None: the first build sets it up, by one of
    /// [`ways_to_std`].
    pub fn standard_library(&self, target: GuestTarget) -> Option<StandardLibrary> {
        standard_library::at_hand(&self.compiler, target)
    }

    /// Cargo's version.
    pub fn cargo() -> Result<String> {
        let told = process::output(cargo::cargo().arg("--version"), Some(ASK_LIMIT))?;
        Ok(told.split_whitespace().nth(1).unwrap_or("?").to_owned())
    }
}

/// The programs of this machine that a build can set up a standard library with.
pub fn ways_to_std() -> Vec<&'static str> {
    let ways = ["rustup", "apt-get"].into_iter();
    let exists = |program: &&str| {
        process::output(Command::new(program).arg("--version"), Some(ASK_LIMIT)).is_ok()
    };
    ways.filter(exists).collect()
}
