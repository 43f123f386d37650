//! The Python that tests and benchmarks use as a client: a virtual environment in the work folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::process::{exists, shown, step, work_dir};

/// An environment with what `requirements` pins; made once, and again when the file changes.
pub(crate) fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let python = interpreter()?;
    let dir = work_dir("python")?.join(name);
    let interpreter = dir.join("bin/python");
    let stamp = dir.join("requirements.installed");
    let wanted = std::fs::read_to_string(requirements)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    step(
        &format!("Make the Python environment `{name}`"),
        Command::new(python)
            .args(["-m", "venv", "--clear"])
            .arg(&dir),
    )?;
    let mut install = Command::new(&interpreter);
    step_telling_why(
        "Install what it needs",
        install
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .arg("--requirement")
            .arg(requirements),
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(interpreter)
}

/// A step whose complaint is part of the error: the last lines of pip say what is wrong.
fn step_telling_why(what: &str, command: &mut Command) -> Result<()> {
    println!("\n==> {what}\n    {}", shown(command));
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = complaint
        .lines()
        .filter(|line| line.trim_start().to_lowercase().starts_with("error"))
        .collect();
    ensure!(
        output.status.success(),
        "{what}: pip ended with {}: {}",
        output.status,
        if errors.is_empty() {
            complaint.trim().to_owned()
        } else {
            errors.join("; ")
        }
    );
    Ok(())
}

/// The Python of this machine.
pub(crate) fn interpreter() -> Result<&'static str> {
    let mut names = ["python3", "python"].into_iter();
    names.find(|name| exists(name)).context(
        "the tests need Python 3.10 or newer with venv and pip; install it (Debian: apt install python3-venv)",
    )
}
