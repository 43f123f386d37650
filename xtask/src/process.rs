//! Running other programs, saying which, and what to do when one is missing.

use std::{
    ffi::OsStr,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};

/// The root of the repository. Cargo says at run time where this chore's crate lies: what was true
/// when it was compiled may be another clone that shares the target directory.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let own = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = own.parent().expect("xtask lies in the repository");
        root.to_owned()
    });
    &ROOT
}

/// Cargo's own output, and ours in `dunlin/` below it.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // As cargo does: relative to where it was called.
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => root().join("target"),
    }
}

/// A folder below the target directory that belongs to the chores.
pub(crate) fn work_dir(name: &str) -> Result<PathBuf> {
    let dir = target_dir().join("dunlin").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The cargo that runs this chore.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Runs one step of a chore, its output on the terminal.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("\n==> {what}\n    {}", shown(command));
    let started = Instant::now();
    let status = command.status().map_err(|error| missing(command, error))?;
    if !status.success() {
        bail!("{what}: `{}` ended with {status}", shown(command));
    }
    println!("    done in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program and gives what it printed; what it says on standard error stays on the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| missing(command, error))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be started at all.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn missing(command: &Command, error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow!(
            "`{}` is not installed or not on PATH",
            command.get_program().to_string_lossy()
        );
    }
    anyhow!(error).context(format!("cannot run `{}`", shown(command)))
}

pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>();
    if let Some(program) = Path::new(line[0].as_ref()).file_name() {
        line[0] = program.to_string_lossy().into_owned().into();
    }
    line.join(" ")
}
