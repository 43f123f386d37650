//! All that a run has found, and the two files it is written to.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    contest::{Contest, Plan},
    goals::{self, Goal},
    machine::{Commit, Machine},
    markdown,
    models::Models,
    node::{NodeMemory, Start},
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
    pub(crate) memory: NodeMemory,
    pub(crate) start: Start,
    pub(crate) contest: Contest,
    pub(crate) models: Models,
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
        for (name, text) in [
            ("measurements.md", markdown::render(self)),
            ("measurements.json", json),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
