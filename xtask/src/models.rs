//! The models that are too large to be kept in the repository: the predictor's own script makes them,
//! with the Python that has PyTorch Lightning.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{root, step, work_dir};

/// The predictors whose `export.py` fills their `models/`.
pub(crate) const PREDICTORS: [&str; 2] = ["predictors/embedder", "predictors/resnet"];

/// The script as it was when it made the files beside it.
const MADE_BY: &str = "made-by.py";

/// Makes what is not there yet, or was made by another version of the script. The work folder keeps
/// it for other clones.
pub(crate) fn make(python: &Path) -> Result<()> {
    for predictor in PREDICTORS {
        let script = root().join(predictor).join("export.py");
        let made = made(predictor)?;
        if !is_made_by(&made, &script)? {
            step(
                &format!("Make the model of {predictor}"),
                Command::new(python).arg(&script).arg("--out").arg(&made),
            )?;
            fs::copy(&script, made.join(MADE_BY))?;
        }
        let models = root().join(predictor).join("models");
        if !is_made_by(&models, &script)? {
            copy(&made, &models)?;
        }
    }
    Ok(())
}

/// Where the work folder keeps what a predictor's script made.
pub(crate) fn made(predictor: &str) -> Result<PathBuf> {
    let name = Path::new(predictor).file_name();
    Ok(work_dir("models")?.join(name.context("a predictor has a folder")?))
}

fn is_made_by(folder: &Path, script: &Path) -> Result<bool> {
    let wanted = fs::read(script)?;
    Ok(fs::read(folder.join(MADE_BY)).is_ok_and(|made_by| made_by == wanted))
}

/// The file that says that all is there comes last.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else if entry.file_name() != MADE_BY {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    if from.join(MADE_BY).exists() {
        fs::copy(from.join(MADE_BY), to.join(MADE_BY))?;
    }
    Ok(())
}
