//! Runs Cargo: reads what crate a folder holds, and compiles it to WebAssembly.
//!
//! The flags are on the command line, so that a crate needs no profile of its own and all guests
//! are built alike, whatever workspace they stand in.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::standard_library::{StandardLibrary, rustc_of};
use super::{GuestBuild, GuestTarget};
use crate::process::{self, Line};

/// Small, fast and without unwinding: a panic is a trap, which discards the instance.
const PROFILE: [&str; 8] = [
    "profile.release.opt-level=3",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=\"symbols\"",
    "profile.release.debug=false",
    "profile.release.overflow-checks=false",
    "profile.release.incremental=false",
];

/// Bytes of heap that a component has from the start: to grow its memory in each instance costs a node
/// more than all of a small predictor's work.
const INITIAL_HEAP: u64 = 128 << 10;

/// Variables that would make one machine's guest differ from another's, or build it for the host.
const IGNORED: [&str; 5] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "RUSTC_WORKSPACE_WRAPPER",
];

/// How many lines of a failed build the error repeats.
const LINES_KEPT: usize = 60;

/// Cargo, or the compiler, refuses the crate.
#[derive(Debug, thiserror::Error)]
#[error("cargo cannot build {package}:\n{said}")]
pub struct NotBuilt {
    package: String,
    /// From the first error on.
    said: String,
}

impl NotBuilt {
    /// What the author can do about it.
    pub fn advice(&self) -> &'static str {
        if self.said.contains("no matching package named `dunlin-sdk`") {
            "no registry has dunlin-sdk; `dunlin new DIR` writes it into a folder: copy DIR/dunlin-sdk \
             beside Cargo.toml, and write dunlin-sdk = { path = \"dunlin-sdk/rust\" } there"
        } else {
            "correct what Cargo names; `cargo test` beside Cargo.toml tells the same sooner"
        }
    }
}

/// The crate in a folder.
#[derive(Debug, Clone)]
pub(super) struct Crate {
    pub(super) package: String,
    pub(super) version: String,
    /// Cargo's own target directory for it.
    pub(super) target_dir: PathBuf,
    manifest: PathBuf,
}

impl Crate {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let manifest = dir.join("Cargo.toml");
        let manifest = manifest.canonicalize().with_context(|| {
            format!(
                "{} has no Cargo.toml: it is not the folder of a Rust crate",
                dir.display()
            )
        })?;
        let metadata = process::output(
            cargo()
                .args([
                    "metadata",
                    "--no-deps",
                    "--format-version",
                    "1",
                    "--manifest-path",
                ])
                .arg(&manifest)
                .current_dir(dir),
            None,
        )
        .with_context(|| format!("cannot read {}", manifest.display()))?;
        let metadata = serde_json::from_str(&metadata).context("cargo metadata wrote no JSON")?;
        Self::from_metadata(&metadata, &manifest)
    }

    fn from_metadata(metadata: &Value, manifest: &Path) -> Result<Self> {
        let package = metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|package| {
                package["manifest_path"]
                    .as_str()
                    .is_some_and(|path| Path::new(path).canonicalize().is_ok_and(|p| p == manifest))
            })
            .with_context(|| {
                format!(
                    "{} is a workspace, not a crate; name a member's folder",
                    manifest.display()
                )
            })?;
        let text = |value: &Value, what: &str| {
            value
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("cargo metadata lacks {what}"))
        };
        let is_library = package["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|target| {
                let kinds = target["kind"].as_array().into_iter().flatten();
                kinds
                    .filter_map(Value::as_str)
                    .any(|k| ["lib", "rlib", "cdylib"].contains(&k))
            });
        if !is_library {
            bail!(
                "{} has no library; a predictor is a library: put it in src/lib.rs",
                manifest.display()
            );
        }
        Ok(Self {
            package: text(&package["name"], "a name")?,
            version: text(&package["version"], "a version")?,
            target_dir: text(&metadata["target_directory"], "a target directory")?.into(),
            manifest: manifest.to_owned(),
        })
    }
}

/// Compiles the crate as a `cdylib` and gives the path of the `.wasm`.
pub(super) fn compile(
    the_crate: &Crate,
    guest: &GuestBuild,
    standard_library: &StandardLibrary,
    target_dir: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let mut command = cargo();
    // `cargo rustc` rather than `cargo build`: only with cdylib as the one crate type does Cargo
    // optimise across crates, and a predictor's Cargo.toml need not mention it.
    command
        .args(["rustc", "--lib", "--crate-type", "cdylib", "--release"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--target", guest.target.triple()])
        .arg("--target-dir")
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(&the_crate.manifest);
    for setting in PROFILE {
        command.args(["--config", setting]);
    }
    command.args(["--config", &remap_paths(guest.target, standard_library)?]);
    if let Some(dir) = the_crate.manifest.parent() {
        command.current_dir(dir);
    }
    for variable in IGNORED {
        command.env_remove(variable);
    }
    if let StandardLibrary::Source { sysroot } = standard_library {
        progress(
            "the standard library is compiled too, once in each target directory: about a minute",
        );
        command
            .arg("-Zbuild-std=std,panic_abort")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", rustc_of(sysroot));
    }

    // The linker takes multiples of 16.
    let stack = guest.stack.next_multiple_of(16);
    command
        .args(["--", "-C"])
        .arg(format!("link-arg=-zstack-size={stack}"))
        .arg("-C")
        .arg(format!("link-arg=--initial-heap={INITIAL_HEAP}"));

    let mut wasm = None;
    let mut messages: Vec<String> = Vec::new();
    let mut failing = false;
    let status = process::run(&mut command, None, &mut |line| match line {
        Line::Out(line) => {
            if let Some(path) = artifact(&line, the_crate) {
                wasm = Some(path);
            }
        }
        Line::Err(line) => {
            // From the first error on it is the failure that tells what Cargo said.
            failing |= line.starts_with("error");
            if !failing {
                progress(&line);
            }
            messages.push(line);
        }
    })?;
    if !status.success() {
        let from = messages
            .iter()
            .position(|line| line.starts_with("error"))
            .unwrap_or(0);
        let upto = messages.len().min(from + LINES_KEPT);
        return Err(NotBuilt {
            package: the_crate.package.clone(),
            said: messages[from..upto].join("\n"),
        }
        .into());
    }
    wasm.context("cargo built no .wasm")
}

/// The `.wasm` in one of Cargo's messages, if it is about this crate.
fn artifact(message: &str, the_crate: &Crate) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    if message["reason"] != "compiler-artifact"
        || manifest.canonicalize().ok()? != the_crate.manifest
    {
        return None;
    }
    message["filenames"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .find(|name| name.ends_with(".wasm"))
        .map(PathBuf::from)
}

/// Panic messages carry file names: the same guest has the same bytes whoever builds it, and tells
/// nothing of their machine.
fn remap_paths(target: GuestTarget, standard_library: &StandardLibrary) -> Result<String> {
    let mut flags = Vec::new();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    if let Some(home) = cargo_home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    // The sources stand in the sysroot as a link; what rustc writes down is where the link leads.
    if let StandardLibrary::Source { sysroot } = standard_library
        && let Some(cache) = sysroot.parent()
    {
        flags.push(format!("--remap-path-prefix={}=/rust", cache.display()));
    }
    // A JSON array of strings is a TOML array of strings.
    Ok(format!(
        "target.{target}.rustflags={}",
        serde_json::to_string(&flags)?
    ))
}

pub(super) fn cargo() -> Command {
    // Below another Cargo, the same one: it need not be on the PATH.
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn manifest(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("Cargo.toml");
        fs::write(&path, text).unwrap();
        path.canonicalize().unwrap()
    }

    #[test]
    fn a_folder_is_a_library_crate_or_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = manifest(dir.path(), "");
        let package = |kind: &str| {
            json!({
                "target_directory": "/t",
                "packages": [{
                    "name": "p", "version": "1.0.0", "manifest_path": path,
                    "targets": [{"kind": [kind]}],
                }],
            })
        };
        let read = |metadata: Value| Crate::from_metadata(&metadata, &path);
        assert_eq!(read(package("cdylib")).unwrap().package, "p");
        assert_eq!(read(package("lib")).unwrap().target_dir, Path::new("/t"));
        let error = read(package("bin")).unwrap_err().to_string();
        assert!(error.contains("has no library"), "{error}");
        let error = read(json!({"packages": []})).unwrap_err().to_string();
        assert!(error.contains("is a workspace"), "{error}");

        let error = Crate::read(&dir.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("has no Cargo.toml"), "{error}");
    }

    #[test]
    fn the_artifact_of_this_crate_is_found_among_the_messages() {
        let dir = tempfile::tempdir().unwrap();
        let path = manifest(dir.path(), "");
        let the_crate = Crate {
            package: "p".into(),
            version: "1.0.0".into(),
            target_dir: "/t".into(),
            manifest: path.clone(),
        };
        let message = |reason: &str, manifest: &Path| {
            json!({"reason": reason, "manifest_path": manifest, "filenames": ["/t/p.d", "/t/p.wasm"]})
                .to_string()
        };
        let found = artifact(&message("compiler-artifact", &path), &the_crate);
        assert_eq!(found.as_deref(), Some(Path::new("/t/p.wasm")));
        assert_eq!(
            artifact(&message("build-script-executed", &path), &the_crate),
            None
        );
        assert_eq!(
            artifact(&message("compiler-artifact", Path::new("/o")), &the_crate),
            None
        );
        assert_eq!(artifact("not JSON", &the_crate), None);
    }
}
