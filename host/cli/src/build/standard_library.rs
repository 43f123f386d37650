//! Finds a standard library to compile a guest with.
//!
//! In order: the one in the toolchain; the one that rustup adds to it; the one that Cargo compiles
//! from source. The sources, and wasi-libc for `wasm32-wasip2`, stand in Dunlin's cache, together
//! with a sysroot of links that leads rustc to them. The toolchain itself is never written to,
//! except by rustup.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::GuestTarget;
use super::compiler::Compiler;
use super::debian;
use crate::process;
use crate::staging::{Staging, StagingLock};

/// Where a guest's standard library comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandardLibrary {
    /// Compiled, in the toolchain.
    Toolchain,
    /// Compiled, and added to the toolchain by rustup just now.
    Rustup,
    /// Compiled together with the guest, from the sources in `sysroot`.
    Source { sysroot: PathBuf },
}

impl fmt::Display for StandardLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain => f.write_str("of the Rust toolchain"),
            Self::Rustup => f.write_str("that rustup added"),
            Self::Source { sysroot } => write!(f, "built from source ({})", sysroot.display()),
        }
    }
}

/// rustup answers within seconds or has a network that hangs.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);

/// With `source` the toolchain is left alone, and the library is built from its sources even where
/// there is a compiled one.
const FROM_SOURCE: &str = "DUNLIN_GUEST_STD";

/// wasi-libc where Debian's package puts it when it is installed.
const WASI_LIBC: &str = "usr/lib/wasm32-wasip2";

pub(super) fn find(
    compiler: &Compiler,
    target: GuestTarget,
    dir: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<StandardLibrary> {
    if let Some(library) = at_hand(compiler, target) {
        return Ok(library);
    }
    let rustup = if from_source() {
        format!("not asked, because of {FROM_SOURCE}=source")
    } else {
        progress(&format!(
            "this Rust toolchain has no standard library for {target}; asking rustup"
        ));
        match add_with_rustup(compiler, target, dir) {
            Ok(()) => return Ok(StandardLibrary::Rustup),
            Err(error) => format!("{error:#}"),
        }
    };
    progress(&format!(
        "rustup cannot add it ({rustup}); setting it up from source"
    ));
    match Staging::cache("rust").and_then(|cache| set_up_source(&cache, compiler, target, progress))
    {
        Ok(sysroot) => Ok(StandardLibrary::Source { sysroot }),
        Err(source) => bail!(advice(compiler, target, &rustup, &format!("{source:#}"))),
    }
}

/// The one that needs no setting up.
pub(super) fn at_hand(compiler: &Compiler, target: GuestTarget) -> Option<StandardLibrary> {
    if compiler.has_std(target.triple()) && !from_source() {
        return Some(StandardLibrary::Toolchain);
    }
    let sysroot = Staging::cache("rust")
        .ok()?
        .path(&entry_name(compiler, target));
    is_complete(&sysroot, compiler, target).then_some(StandardLibrary::Source { sysroot })
}

fn from_source() -> bool {
    std::env::var_os(FROM_SOURCE).is_some_and(|way| way == "source")
}

fn advice(compiler: &Compiler, target: GuestTarget, rustup: &str, source: &str) -> String {
    let mut text = format!("there is no Rust standard library for {target}\n");
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "  rustup target add: {rustup}\n  from source: {source}\n\
         where rustup has a network, run: rustup target add {target}\n\
         or put the library sources of Rust {} at {}\n",
        compiler.release,
        compiler
            .sysroot
            .join("lib/rustlib/src/rust/library")
            .display(),
    );
    if target == GuestTarget::Wasip2 {
        let _ = writeln!(
            text,
            "and wasi-libc's {WASI_LIBC} at /{WASI_LIBC} (Debian and Ubuntu: apt-get install \
             wasi-libc), or build for wasm32-unknown-unknown, which needs no wasi-libc"
        );
    }
    text.push_str("then build again");
    text
}

fn add_with_rustup(compiler: &Compiler, target: GuestTarget, dir: &Path) -> Result<()> {
    process::output(
        Command::new("rustup")
            .args(["target", "add", target.triple()])
            .env("RUSTUP_MAX_RETRIES", "1")
            .current_dir(dir),
        Some(RUSTUP_LIMIT),
    )?;
    if !compiler.has_std(target.triple()) {
        bail!(
            "it added the target to another toolchain than {}",
            compiler.sysroot.display()
        );
    }
    Ok(())
}

/// The sysroot of a compiler has its release and a digest of where it stands in its name, so that a
/// toolchain that was updated or moved gets another one.
fn entry_name(compiler: &Compiler, target: GuestTarget) -> String {
    // FNV-1a: the name has to be the same in every build of Dunlin, and need not resist anybody.
    let hash = compiler
        .sysroot
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("sysroot-{}-{target}-{hash:016x}", compiler.release)
}

fn set_up_source(
    cache: &Staging,
    compiler: &Compiler,
    target: GuestTarget,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let lock = cache.lock(progress)?;
    let name = entry_name(compiler, target);
    // Whoever held the lock may have made it.
    if is_complete(&cache.path(&name), compiler, target) {
        return Ok(cache.path(&name));
    }
    let sources = match compiler.sources() {
        Some(sources) => sources,
        None => fetch_sources(cache, &lock, compiler, progress)
            .with_context(|| format!("no library sources of Rust {}", compiler.release))?,
    };
    let libc = match target {
        GuestTarget::Unknown => None,
        GuestTarget::Wasip2 => {
            Some(find_wasi_libc(cache, &lock, progress).context("no wasi-libc")?)
        }
    };
    cache.make(&lock, &name, |dir| {
        let sysroot = dir.join("sysroot");
        link_sysroot(&sysroot, compiler, &sources, libc.as_deref())?;
        Ok(sysroot)
    })
}

fn fetch_sources(
    cache: &Staging,
    lock: &StagingLock,
    compiler: &Compiler,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let release = &compiler.release;
    let name = format!("sources-{release}");
    if let Some(library) = library_of(&cache.path(&name)) {
        return Ok(library);
    }
    // Debian writes 1.95.0+dfsg1-2~bpo13+1 and, where it removed nothing, 1.95.0-1.
    let wanted = |version: &str| {
        version
            .strip_prefix(release.as_str())
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    };
    let path = cache.make::<anyhow::Error>(lock, &name, |dir| {
        let unpacked = debian::fetch("rust-src", &wanted, dir, progress)?;
        let tree = unpacked
            .root
            .join("usr/src")
            .join(format!("rustc-{release}"));
        // Of 430 MB only the library is needed.
        let kept = dir.join("kept");
        fs::create_dir(&kept)?;
        fs::rename(tree.join("library"), kept.join("library"))
            .with_context(|| format!("rust-src {} has no library folder", unpacked.version))?;
        Ok(kept)
    })?;
    library_of(&path).context("Debian's rust-src has no std")
}

fn library_of(tree: &Path) -> Option<PathBuf> {
    let library = tree.join("library");
    library.join("std/Cargo.toml").is_file().then_some(library)
}

fn find_wasi_libc(
    cache: &Staging,
    lock: &StagingLock,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let installed = Path::new("/").join(WASI_LIBC);
    let kept = cache.path("wasi-libc");
    for dir in [installed, kept] {
        if dir.join("libc.a").is_file() {
            return Ok(dir);
        }
    }
    cache.make(lock, "wasi-libc", |dir| {
        let unpacked = debian::fetch("wasi-libc", &|_| true, dir, progress)?;
        let libc = unpacked.root.join(WASI_LIBC);
        if !libc.join("libc.a").is_file() {
            bail!(
                "Debian's wasi-libc {} has no {WASI_LIBC}/libc.a",
                unpacked.version
            );
        }
        Ok(libc)
    })
}

/// A sysroot that is the toolchain's own, plus the sources and wasi-libc, made of links. rustc and
/// Cargo take everything else from where it is.
fn link_sysroot(
    sysroot: &Path,
    compiler: &Compiler,
    sources: &Path,
    libc: Option<&Path>,
) -> Result<()> {
    let rustlib = sysroot.join("lib/rustlib");
    fs::create_dir_all(rustlib.join("src/rust"))?;
    link(
        &compiler.sysroot.join("lib/rustlib").join(&compiler.host),
        &rustlib.join(&compiler.host),
    )?;
    link(sources, &rustlib.join("src/rust/library"))?;
    if let Some(libc) = libc {
        let lib = rustlib.join(GuestTarget::Wasip2.triple()).join("lib");
        fs::create_dir_all(&lib)?;
        link(libc, &lib.join("self-contained"))?;
    }
    fs::create_dir_all(sysroot.join("bin"))?;
    // rustc takes its sysroot from where its executable is, and Cargo asks rustc.
    write_program(&rustc_of(sysroot), &rustc_script(compiler)?)
        .with_context(|| format!("cannot write {}", rustc_of(sysroot).display()))
}

/// The rustc to build with, in a sysroot that `find` gave.
pub(super) fn rustc_of(sysroot: &Path) -> PathBuf {
    sysroot.join("bin/rustc")
}

fn rustc_script(compiler: &Compiler) -> Result<String> {
    let rustc = compiler
        .rustc
        .to_str()
        .context("the path of rustc is not UTF-8")?;
    // `$0` is absolute: Cargo is given the whole path.
    Ok(format!(
        "#!/bin/sh\nexec '{}' --sysroot \"${{0%/bin/rustc}}\" \"$@\"\n",
        rustc.replace('\'', r"'\''")
    ))
}

fn is_complete(sysroot: &Path, compiler: &Compiler, target: GuestTarget) -> bool {
    let rustlib = sysroot.join("lib/rustlib");
    let script = rustc_script(compiler).ok();
    fs::read_to_string(rustc_of(sysroot)).ok() == script
        && script.is_some()
        && rustlib.join(&compiler.host).is_dir()
        && rustlib.join("src/rust/library/std/Cargo.toml").is_file()
        && (target == GuestTarget::Unknown
            || rustlib
                .join(target.triple())
                .join("lib/self-contained/libc.a")
                .is_file())
}

#[cfg(unix)]
fn link(original: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(original, link)
        .with_context(|| format!("cannot link {} to {}", link.display(), original.display()))
}

#[cfg(not(unix))]
fn link(_original: &Path, _link: &Path) -> Result<()> {
    bail!("the standard library is built from source on Unix only")
}

#[cfg(unix)]
fn write_program(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn write_program(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn compiler(sysroot: &Path) -> Compiler {
        Compiler {
            release: "1.95.0".into(),
            host: "x86_64-unknown-linux-gnu".into(),
            sysroot: sysroot.into(),
            rustc: "/it's/rustc".into(),
        }
    }

    #[test]
    fn a_sysroot_is_complete_only_with_all_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let toolchain = dir.path().join("toolchain");
        fs::create_dir_all(toolchain.join("lib/rustlib/x86_64-unknown-linux-gnu")).unwrap();
        let sources = dir.path().join("sources/library");
        fs::create_dir_all(sources.join("std")).unwrap();
        fs::write(sources.join("std/Cargo.toml"), "").unwrap();
        let libc = dir.path().join("libc");
        fs::create_dir(&libc).unwrap();
        fs::write(libc.join("libc.a"), "").unwrap();

        let compiler = compiler(&toolchain);
        let sysroot = dir.path().join("sysroot");
        assert!(!is_complete(&sysroot, &compiler, GuestTarget::Wasip2));
        link_sysroot(&sysroot, &compiler, &sources, Some(&libc)).unwrap();
        assert!(is_complete(&sysroot, &compiler, GuestTarget::Wasip2));

        let other = Compiler {
            rustc: "/other/rustc".into(),
            ..compiler.clone()
        };
        assert!(!is_complete(&sysroot, &other, GuestTarget::Wasip2));
        fs::remove_file(libc.join("libc.a")).unwrap();
        assert!(!is_complete(&sysroot, &compiler, GuestTarget::Wasip2));
        assert!(is_complete(&sysroot, &compiler, GuestTarget::Unknown));
    }

    #[test]
    fn another_toolchain_gets_another_sysroot() {
        let one = entry_name(&compiler(Path::new("/one")), GuestTarget::Unknown);
        let two = entry_name(&compiler(Path::new("/two")), GuestTarget::Unknown);
        assert_ne!(one, two);
    }

    #[test]
    fn the_advice_names_commands() {
        let text = advice(
            &compiler(Path::new("/t")),
            GuestTarget::Wasip2,
            "no network",
            "no apt",
        );
        for part in [
            "rustup target add wasm32-wasip2",
            "no network",
            "no apt",
            "wasi-libc",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
