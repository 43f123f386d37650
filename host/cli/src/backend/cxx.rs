//! The C++ compiler of this machine, and what it is needed for: Dunlin's library over libtorch.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dunlin_inference::TORCHSCRIPT_SHIM;
use sha2::{Digest as _, Sha256};

use super::child;
use super::recipe::Native;
use super::unpack::hex;
use crate::process;

const ASK_LIMIT: Duration = Duration::from_secs(20);

/// The command to run where there is none.
pub const INSTALL_CXX: &str = "install a C++ compiler: apt-get install g++ (Debian, Ubuntu), \
                               dnf install gcc-c++ (Fedora), or name yours: CXX=FILE";

/// A compiler that can be started.
#[derive(Debug, Clone)]
pub struct Cxx {
    pub program: OsString,
    /// What it says of itself, in a line.
    pub version: String,
}

impl Cxx {
    /// `$CXX` alone where it is set; else the first of the usual names.
    pub fn find() -> Option<Self> {
        let set = env::var_os("CXX").filter(|program| !program.is_empty());
        let programs = match set {
            Some(program) => vec![program],
            None => ["c++", "g++", "clang++"].map(OsString::from).to_vec(),
        };
        programs.into_iter().find_map(|program| {
            let told = process::output(Command::new(&program).arg("--version"), Some(ASK_LIMIT));
            let version = told.ok()?.lines().next()?.to_owned();
            Some(Self { program, version })
        })
    }

    /// Compiles Dunlin's library against the headers and the libraries in `files/lib`, into `files`.
    /// `scratch` is a folder for what it needs meanwhile.
    pub(super) fn compile_shim(
        &self,
        files: &Path,
        headers: &Path,
        scratch: &Path,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<PathBuf> {
        let sources = scratch.join("shim");
        fs::create_dir(&sources)?;
        for (name, text) in TORCHSCRIPT_SHIM {
            fs::write(sources.join(name), text)?;
        }
        let library = files.join(Native::TorchScript.library());
        let mut command = Command::new(&self.program);
        command
            .args(["-std=c++20", "-O2", "-shared", "-fPIC"])
            .arg("-I")
            .arg(headers)
            .arg("-I")
            .arg(headers.join("torch/csrc/api/include"));
        let units = TORCHSCRIPT_SHIM.iter().map(|(name, _)| *name);
        command.args(units.filter(|name| name.ends_with(".cpp")));
        command
            .arg("-o")
            .arg(&library)
            .arg("-L")
            .arg(files.join("lib"))
            .args(["-ltorch_cpu", "-lc10", "-Wl,-rpath,$ORIGIN/lib"])
            .current_dir(&sources)
            .env("TMPDIR", scratch);
        child::run(&mut command, watch)
            .context("Dunlin's library over libtorch cannot be compiled")?;
        Ok(library)
    }
}

/// Changes with the library's source: one that was compiled of another is compiled anew.
pub(super) fn shim_digest() -> String {
    let mut sha256 = Sha256::new();
    for (name, text) in TORCHSCRIPT_SHIM {
        sha256.update(name);
        sha256.update([0]);
        sha256.update(text);
        sha256.update([0]);
    }
    hex(sha256.finalize())
}
