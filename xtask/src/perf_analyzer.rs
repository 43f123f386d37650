//! Triton's load generator for the tests: a program that was not written by us and that reads the
//! whole protocol. Nothing is installed: its parts are unpacked into the work folder.

use std::{env, ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Result, ensure};

use crate::{
    apt::{self, With},
    backends,
    process::{step, work_dir},
    python,
};

/// The last wheel of `tritonclient` that carries the program, and the library of CUDA that it is linked
/// to and without a GPU does not use.
const WHEELS: &str = "\
tritonclient==2.51.0 --hash=sha256:c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52
nvidia-cuda-runtime-cu12==12.9.79 --hash=sha256:25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
";

const TAGS: [&str; 5] = [
    "--platform=manylinux1_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--only-binary=:all:",
    "--no-deps",
    "--require-hashes",
];

/// Takes the program and the library out of the wheels. Arguments: the folder of both.
const TAKE: &str = "import sys, zipfile, pathlib, os
folder = pathlib.Path(sys.argv[1])
for wheel in folder.glob('*.whl'):
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            if name.endswith(('/bin/perf_analyzer', '/libcudart.so.12')):
                (folder / name.rsplit('/', 1)[1]).write_bytes(z.read(name))
os.chmod(folder / 'perf_analyzer', 0o755)";

/// The variable by which the tests find it; nothing on a machine that cannot have it.
pub(crate) fn variables() -> Result<Vec<(&'static str, OsString)>> {
    match prepare() {
        Ok(program) => Ok(vec![("DUNLIN_PERF_ANALYZER", program.into_os_string())]),
        Err(reason) => {
            backends::skip("tests with perf_analyzer", &reason)?;
            Ok(Vec::new())
        }
    }
}

/// The program; its libraries lie beside it.
fn prepare() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "it is a program for Linux on x86-64"
    );
    let folder = work_dir("perf_analyzer")?;
    let program = folder.join("perf_analyzer");
    let library = folder.join("libb64.so.0d");
    if program.exists() && library.exists() {
        return Ok(program);
    }
    let requirements = folder.join("wheels.txt");
    fs::write(&requirements, WHEELS)?;
    let python = python::interpreter()?;
    step(
        "Fetch perf_analyzer",
        Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(TAGS)
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(&folder),
    )?;
    step(
        "Take it out of its wheel",
        Command::new(python).args(["-c", TAKE]).arg(&folder),
    )?;
    let path = format!("usr/lib/{}-linux-gnu/libb64.so.0d", env::consts::ARCH);
    let unpacked = apt::unpacked("libb64-0d", With::Nothing, "10 kB", &path)?;
    fs::copy(unpacked.join(path), &library)?;
    Ok(program)
}
