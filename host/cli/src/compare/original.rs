//! The module that the exports were made from, in the user's own Python: asked for the golden samples
//! and timed there. No node and no predictor takes part.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::golden::Golden;
use super::load::Speed;
use super::measure::{Plan, reason};
use super::report::{Measured, State};
use super::routes::Route;
use super::subject::{Subject, SubjectModel};
use crate::exit::{Exit, Failure};
use crate::import::{ORIGIN, Python};
use crate::progress::Steps;

/// Where the original is, as far as the command line says it. What it leaves out is taken from the
/// word that `dunlin import` left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Original {
    pub(crate) checkpoint: Option<PathBuf>,
    /// `FILE:CLASS`.
    pub(crate) module: Option<String>,
    pub(crate) python: Option<PathBuf>,
    /// Of the class's constructor.
    pub(crate) arguments: Map<String, Value>,
    /// The checkpoint may run code when it is read.
    pub(crate) trust: bool,
}

/// What came of asking it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) state: State,
    /// How it was measured, which is not as the routes were.
    pub(super) note: Option<String>,
}

impl Original {
    /// Whether the user asked for it: then what stands in the way is an error and no remark.
    fn is_asked_for(&self) -> bool {
        self.checkpoint.is_some() || self.module.is_some()
    }

    /// Asks and times it.
    pub(super) async fn ask(
        &self,
        subject: &Subject,
        plan: &Plan,
        steps: &Steps,
    ) -> Result<Asked, Failure> {
        let found = match self.find(subject) {
            Err(reason) if self.is_asked_for() => {
                let failure = Failure::new(Exit::Usage, reason);
                return Err(
                    failure.next("name the original: --checkpoint FILE.ckpt --module FILE:CLASS")
                );
            }
            Err(reason) => {
                return Ok(Asked {
                    state: State::NotTried { reason },
                    note: None,
                });
            }
            Ok(found) => found,
        };
        match found.run(plan, steps).await {
            Err(failure) if self.is_asked_for() => Err(failure),
            Err(failure) => {
                let reason = reason(&failure);
                Ok(Asked {
                    state: State::Failed { reason },
                    note: None,
                })
            }
            Ok((measured, single_rows)) => {
                let run = match single_rows {
                    true => "single golden rows",
                    false => "all golden rows at once",
                };
                let note = format!(
                    "{}: the module alone on {run}, one run after the other in its own process, \
                     without HTTP and without the predictor; load is the import of its class and \
                     the reading of the checkpoint, memory that of the whole Python",
                    Route::Original.name()
                );
                Ok(Asked {
                    state: State::Ran(Box::new(measured)),
                    note: Some(note),
                })
            }
        }
    }

    /// The model, its checkpoint and its class; or why there is none to run.
    fn find<'a>(&self, subject: &'a Subject) -> Result<Found<'a>, String> {
        let left = Left::read(&subject.project.dir);
        let (index, model) = of_model(subject, self.checkpoint.is_some())?;
        let left_checkpoint = left
            .origin
            .module
            .is_some()
            .then_some(left.origin.model)
            .flatten();
        let given = self.checkpoint.as_deref().or(model.checkpoint.as_deref());
        let unknown = || Route::Original.how_to_have(model);
        let checkpoint = given.or(left_checkpoint.as_deref()).ok_or_else(unknown)?;
        if given.is_none() && !checkpoint.is_file() {
            let gone = "where the model was imported from, is not there any more";
            return Err(format!("{}, {gone}; {}", checkpoint.display(), unknown()));
        }
        let own = given.is_some_and(|given| left_checkpoint.as_deref() != Some(given));
        let (mut arguments, module) = match &self.module {
            Some(module) => (Map::new(), module.clone()),
            None => {
                let module = left.origin.module.ok_or_else(|| {
                    format!(
                        "{} has weights and not the class: --module train.py:CLASS",
                        checkpoint.display()
                    )
                })?;
                (left.origin.arguments, module)
            }
        };
        arguments.extend(self.arguments.clone());
        let Some((golden_file, golden)) = &model.golden else {
            return Err(format!(
                "{} has no golden samples to ask the original for",
                model.name
            ));
        };
        let described = &subject.project.deployment.models[index];
        let inputs = match described.inputs.is_empty() {
            true => left
                .imported
                .inputs
                .into_iter()
                .map(|input| input.name)
                .collect(),
            false => described
                .inputs
                .iter()
                .map(|input| input.name.clone())
                .collect(),
        };
        Ok(Found {
            index,
            checkpoint: checkpoint.to_owned(),
            module,
            python: self.python.clone().or(left.origin.python),
            arguments,
            // That one checkpoint was trusted says nothing of another.
            trust: self.trust || (left.origin.trust && !own),
            golden_file,
            golden,
            inputs,
            threads: described.threads,
        })
    }
}

/// The one model that the original is of.
fn of_model(subject: &Subject, is_given: bool) -> Result<(usize, &SubjectModel), String> {
    let models = || subject.models.iter().enumerate();
    match subject.models.as_slice() {
        [only] => return Ok((0, only)),
        _ if is_given => {
            return Err(
                "there are several models: name the checkpoint with its model, \
                        --model NAME=FILE.ckpt, and not with --checkpoint"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let mut with_checkpoint = models().filter(|(_, model)| model.checkpoint.is_some());
    match (with_checkpoint.next(), with_checkpoint.next()) {
        (Some(found), None) => Ok(found),
        (None, _) => Err("there are several models, and none has a checkpoint: \
                          --model NAME=FILE.ckpt --module train.py:CLASS"
            .to_owned()),
        (Some((_, one)), Some((_, other))) => Err(format!(
            "{} and {} have checkpoints, and only one original can be run",
            one.name, other.name
        )),
    }
}

#[derive(Debug)]
struct Found<'a> {
    /// Of the model, in dunlin.yaml.
    index: usize,
    checkpoint: PathBuf,
    module: String,
    python: Option<PathBuf>,
    arguments: Map<String, Value>,
    trust: bool,
    golden_file: &'a Path,
    golden: &'a Golden,
    /// Their names in forward's order, where that is known.
    inputs: Vec<String>,
    threads: u32,
}

/// What the helper answers.
#[derive(Debug, Deserialize)]
struct Ran {
    /// The file with the outputs, in the folder given.
    answers: String,
    load_ms: f64,
    speed: Speed,
    single_rows: bool,
    resident_bytes: Option<u64>,
    platform: String,
}

impl Found<'_> {
    /// What was measured, and whether single rows were timed.
    async fn run(self, plan: &Plan, steps: &Steps) -> Result<(Measured, bool), Failure> {
        let folder = tempfile::Builder::new()
            .prefix("dunlin-compare-")
            .tempdir()
            .map_err(|error| {
                Failure::caused_by(Exit::Failed, "cannot make a temporary folder", &error)
                    .next("free space in the temporary folder, or set TMPDIR to another one")
            })?;
        let python = Python::find(self.python.as_deref(), false)?;
        let request = json!({
            "task": "original",
            "checkpoint": self.checkpoint,
            "module": self.module,
            "arguments": self.arguments,
            "trust": self.trust,
            "golden": self.golden_file,
            "inputs": self.inputs,
            "out": folder.path(),
            "threads": self.threads,
            "seconds": plan.duration.as_secs_f64(),
        });
        let ran = python.run::<Ran>(&request, steps).await?.result;
        let answers = Golden::read(&folder.path().join(&ran.answers))?;
        let tolerance = plan.tolerances.models[self.index];
        let (difference, labels) = self.golden.against(&answers.outputs, tolerance);
        let measured = Measured {
            platform: ran.platform,
            difference: Some(difference),
            labels,
            speed: Some(ran.speed),
            load_ms: ran.load_ms,
            resident_bytes: ran.resident_bytes,
            ..Measured::default()
        };
        Ok((measured, ran.single_rows))
    }
}

/// The word that `dunlin import` left in the folder. One that is not there, or that another version
/// wrote in another form, says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Left {
    origin: Origin,
    imported: Imported,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Origin {
    model: Option<PathBuf>,
    module: Option<String>,
    python: Option<PathBuf>,
    arguments: Map<String, Value>,
    trust: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Imported {
    inputs: Vec<Input>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
}

impl Left {
    fn read(folder: &Path) -> Self {
        let text = fs::read(folder.join(ORIGIN)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "name: iris\npredictor: {models: [{name: iris, path: iris.onnx, \
                        golden: golden.safetensors}]}\n";

    /// A folder with golden samples, and with the word of an import of `ckpt`.
    fn imported(ckpt: &str) -> (tempfile::TempDir, Subject) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // An empty header: golden samples of nothing.
        let golden = [&2_u64.to_le_bytes()[..], b"{}"].concat();
        fs::write(path("golden.safetensors"), golden).unwrap();
        fs::write(path("iris.onnx"), "onnx").unwrap();
        fs::write(path("dunlin.yaml"), YAML).unwrap();
        fs::write(path("was.ckpt"), "weights").unwrap();
        let origin = json!({
            "origin": {
                "model": path(ckpt), "module": "/train.py:Iris", "python": "/venv/bin/python",
                "arguments": {"width": 4, "depth": 2}, "trust": true,
            },
            "imported": {"inputs": [{"name": "b", "datatype": "FP32"}, {"name": "a"}]},
        });
        fs::write(path(ORIGIN), origin.to_string()).unwrap();
        let subject = Subject::open(folder.path(), &[], &mut |_| {}).unwrap();
        (folder, subject)
    }

    #[test]
    fn an_import_says_where_the_original_is() {
        let (folder, subject) = imported("was.ckpt");
        let found = Original::default().find(&subject).unwrap();
        assert_eq!(found.checkpoint, folder.path().join("was.ckpt"));
        assert_eq!(found.module, "/train.py:Iris");
        assert_eq!(found.python.as_deref(), Some(Path::new("/venv/bin/python")));
        assert_eq!(found.inputs, ["b", "a"]);
        assert!(found.trust);
    }

    #[test]
    fn the_command_line_wins() {
        let (_folder, subject) = imported("was.ckpt");
        let given = Original {
            checkpoint: Some("other.ckpt".into()),
            arguments: Map::from_iter([("width".to_owned(), json!(8))]),
            ..Original::default()
        };
        let found = given.find(&subject).unwrap();
        assert_eq!(found.checkpoint, Path::new("other.ckpt"));
        assert_eq!(
            Value::from(found.arguments),
            json!({"width": 8, "depth": 2})
        );
        assert!(!found.trust, "another checkpoint is not trusted");

        let given = Original {
            module: Some("b.py:B".to_owned()),
            ..Original::default()
        };
        let found = given.find(&subject).unwrap();
        assert_eq!(
            (found.module.as_str(), found.arguments.len()),
            ("b.py:B", 0)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let (folder, subject) = imported("gone.ckpt");
        let reason = |subject: &Subject| Original::default().find(subject).unwrap_err();
        assert!(reason(&subject).contains("is not there any more"));

        fs::remove_file(folder.path().join(ORIGIN)).unwrap();
        assert!(reason(&subject).contains("there is no checkpoint of iris"));

        fs::write(folder.path().join("iris.ckpt"), "weights").unwrap();
        let subject = Subject::open(folder.path(), &[], &mut |_| {}).unwrap();
        assert!(reason(&subject).contains("--module train.py:CLASS"));
    }
}
