//! Compiles every guest of the repository and packages it, with the `dunlin` of this checkout.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    models,
    process::{cargo, root, step, target_dir, work_dir},
};

/// The folders with a `dunlin.yaml` and all that it names.
const GUESTS: [&str; 4] = [
    "predictors/echo",
    "predictors/forward",
    "predictors/digits",
    "tests/guests/misbehave",
];

/// The packages, `<work dir>/packages/<name>.dunlin`.
pub(crate) fn build() -> Result<PathBuf> {
    package(&build_dunlin()?)
}

pub(crate) fn package(dunlin: &Path) -> Result<PathBuf> {
    lend_model("predictors/forward")?;
    lend_model("tests/guests/misbehave")?;
    let packages = work_dir("packages")?;
    let made = models::PREDICTORS.into_iter();
    let made = made.filter(|predictor| root().join(predictor).join("models").exists());
    for guest in GUESTS.into_iter().chain(made) {
        let dir = root().join(guest);
        let name = dir.file_name().expect("a guest has a folder");
        let package = packages.join(name).with_extension("dunlin");
        step(
            &format!("Package {guest}"),
            Command::new(dunlin)
                // One for all: the standard library may have to be compiled there.
                .env("CARGO_TARGET_DIR", target_dir())
                .arg("package")
                .arg(&dir)
                .arg("--file")
                .arg(&package),
        )?;
    }
    Ok(packages)
}

/// A guest that uses the model of digits gets a copy: it is not kept twice.
fn lend_model(guest: &str) -> Result<()> {
    let models = root().join(guest).join("models");
    std::fs::create_dir_all(&models)?;
    std::fs::copy(
        root().join("predictors/digits/models/digits.onnx"),
        models.join("digits.onnx"),
    )?;
    Ok(())
}

/// The command line. `--workspace` makes cargo choose the same features of every dependency as for
/// the tests: with `--package dunlin` the engines, minutes of work, would be built twice.
pub(crate) fn build_dunlin() -> Result<PathBuf> {
    step(
        "Build dunlin (the first time, wasmtime and tract take several minutes)",
        cargo().args(["build", "--workspace", "--bin", "dunlin"]),
    )?;
    Ok(binary("debug"))
}

pub(crate) fn binary(profile: &str) -> PathBuf {
    let name = format!("dunlin{}", std::env::consts::EXE_SUFFIX);
    Path::new(&target_dir()).join(profile).join(name)
}
