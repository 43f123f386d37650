//! Which Rust compiler builds a crate: asked of rustc itself, in the crate's folder, so that a
//! `rust-toolchain.toml` there counts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

#[derive(Debug, Clone)]
pub(super) struct Compiler {
    /// `1.95.0`, with `-nightly` and the like where it has one.
    pub(super) release: String,
    /// The triple it runs on.
    pub(super) host: String,
    pub(super) sysroot: PathBuf,
    /// The executable itself rather than rustup's stand-in for it.
    pub(super) rustc: PathBuf,
}

impl Compiler {
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let verbose = process::output(Command::new("rustc").arg("-vV").current_dir(dir), None)
            .context(
                "building a predictor needs Rust: install it with rustup (https://rustup.rs), then \
                 try again",
            )?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` does not tell its {name}"))
        };
        let sysroot = process::output(
            Command::new("rustc")
                .args(["--print", "sysroot"])
                .current_dir(dir),
            None,
        )?;
        let sysroot = PathBuf::from(sysroot.trim());
        let own = sysroot
            .join("bin")
            .join(format!("rustc{}", std::env::consts::EXE_SUFFIX));
        Ok(Self {
            release: field("release")?,
            host: field("host")?,
            rustc: if own.is_file() {
                own
            } else {
                PathBuf::from("rustc")
            },
            sysroot,
        })
    }

    /// Whether the toolchain carries a compiled standard library for `triple`.
    pub(super) fn has_std(&self, triple: &str) -> bool {
        let libraries = self.sysroot.join("lib/rustlib").join(triple).join("lib");
        libraries.read_dir().is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
            })
        })
    }

    /// The standard library's sources, where the toolchain carries them.
    pub(super) fn sources(&self) -> Option<PathBuf> {
        let library = self.sysroot.join("lib/rustlib/src/rust/library");
        library.join("std/Cargo.toml").is_file().then_some(library)
    }
}
