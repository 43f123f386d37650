//! All that a run has found, and the files it is written to.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    batching::{Batching, Poison},
    charts,
    contest::Contest,
    goals::{self, Goal},
    idle::Idle,
    machine::{Commit, Machine},
    markdown,
    node::Lone,
    overhead::Overhead,
    overload::Overload,
    plan::Plan,
};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) commit: Option<Commit>,
    pub(crate) debug_build: bool,
    pub(crate) short: bool,
    pub(crate) machine: Machine,
    pub(crate) generator: &'static str,
    pub(crate) plan: Plan,
    pub(crate) alone: Vec<Lone>,
    pub(crate) digits: Contest,
    pub(crate) models: Vec<Contest>,
    /// Why there are none.
    pub(crate) models_skipped: Option<String>,
    pub(crate) idle: Idle,
    pub(crate) overhead: Overhead,
    /// None without ONNX Runtime.
    pub(crate) batching: Option<Batching>,
    /// None without the encoder.
    pub(crate) poison: Option<Poison>,
    pub(crate) overload: Option<Overload>,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let document = Document {
            report: self,
            goals: goals::judge(self),
        };
        let json = serde_json::to_string_pretty(&document)? + "\n";
        let documents = [
            ("measurements.md", markdown::render(self)),
            ("measurements.json", json),
        ];
        for (name, text) in documents.into_iter().chain(charts::render(self)) {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
