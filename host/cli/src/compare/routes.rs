//! The ways from a trained model to an answer, and the package that goes each way.
//!
//! A variant of the deployment has the same predictor, bytes for bytes, and for each model another
//! file and backend. Its golden samples stay out: how far off a route is shall be measured, and a
//! node would refuse what is too far.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use edge_config::Deployment;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::difference::Tolerance;
use super::subject::{Subject, SubjectModel};
use crate::api;
use crate::exit::{Exit, Failure};
use crate::packaging::write_package;
use crate::project::{DEPLOYMENT_FILE, Project};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    OnnxOnOnnxRuntime,
    OnnxOnTract,
    TorchScriptOnLibtorch,
    /// The module that the others were exported from, in Python and in no node.
    Original,
}

impl Route {
    /// Those that a node serves. What takes its signature from the file comes first: it says what a
    /// TorchScript file does not.
    pub(super) const SERVED: [Self; 3] = [
        Self::OnnxOnOnnxRuntime,
        Self::OnnxOnTract,
        Self::TorchScriptOnLibtorch,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OnnxOnOnnxRuntime => "onnx/onnxruntime",
            Self::OnnxOnTract => "onnx/tract",
            Self::TorchScriptOnLibtorch => "torchscript/libtorch",
            Self::Original => "original/python",
        }
    }

    /// As dunlin.yaml calls what runs it.
    fn backend(self) -> &'static str {
        match self {
            Self::OnnxOnOnnxRuntime => "onnxruntime",
            Self::OnnxOnTract => "tract",
            Self::TorchScriptOnLibtorch => "torchscript",
            Self::Original => "auto",
        }
    }

    /// The file that this route takes of a model, where there is one.
    pub(super) fn file(self, model: &SubjectModel) -> Option<&Path> {
        match self {
            Self::OnnxOnOnnxRuntime | Self::OnnxOnTract => model.onnx.as_deref(),
            Self::TorchScriptOnLibtorch => model.torchscript.as_deref(),
            Self::Original => model.checkpoint.as_deref(),
        }
    }

    /// What to do where no model has such a file.
    pub(super) fn how_to_have(self, model: &SubjectModel) -> String {
        let name = &model.name;
        let (what, extension, via) = match self {
            Self::OnnxOnOnnxRuntime | Self::OnnxOnTract => ("ONNX", "onnx", "onnx"),
            Self::TorchScriptOnLibtorch => ("TorchScript", "pt", "torchscript"),
            Self::Original => {
                return format!(
                    "there is no checkpoint of {name}: name it and its class, \
                     --checkpoint {name}.ckpt --module train.py:CLASS"
                );
            }
        };
        format!(
            "there is no {what} file of {name}: put {name}.{extension} beside the model's file, \
             give it as --model {name}=FILE.{extension}, or write it with \
             dunlin import --via {via}"
        )
    }
}

impl Serialize for Route {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What outputs and answers are held against.
#[derive(Debug, Clone)]
pub(crate) struct Tolerances {
    /// Of each model, in the order of dunlin.yaml.
    pub(super) models: Vec<Tolerance>,
    /// Of the predictor's answers: the widest of the models'.
    pub(super) answers: Tolerance,
}

impl Tolerances {
    /// The one given, for everything; else those of dunlin.yaml.
    pub(crate) fn new(given: Option<f64>, deployment: &Deployment) -> Self {
        let given = given.map(|given| Tolerance {
            relative: given,
            absolute: given,
        });
        let models: Vec<Tolerance> = deployment
            .models
            .iter()
            .map(|model| {
                given.unwrap_or(Tolerance {
                    relative: model.tolerance.relative,
                    absolute: model.tolerance.absolute,
                })
            })
            .collect();
        let widest = |of: fn(&Tolerance) -> f64| models.iter().map(of).fold(0.0, f64::max);
        Self {
            answers: Tolerance {
                relative: widest(|tolerance| tolerance.relative),
                absolute: widest(|tolerance| tolerance.absolute),
            },
            models,
        }
    }
}

/// Inputs and outputs of a model, as a node said them.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) inputs: Vec<api::Tensor>,
    pub(super) outputs: Vec<api::Tensor>,
}

/// A package that goes one way. It is removed when this goes.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) package: PathBuf,
    _folder: TempDir,
}

/// Packages the subject for a route.
pub(super) fn variant(
    subject: &Subject,
    route: Route,
    signatures: &BTreeMap<String, Signature>,
    interrupted: Arc<AtomicBool>,
) -> Result<Variant, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::caused_by(Exit::Failed, "cannot package a route", error)
            .next("free space in the temporary folder, or set TMPDIR to another one")
    };
    let folder = tempfile::Builder::new()
        .prefix("dunlin-compare-")
        .tempdir()
        .map_err(|error| failed(&error))?;
    let base = folder.path().join("files");
    std::fs::create_dir(&base).map_err(|error| failed(&error))?;
    let yaml = with_models(subject, route, signatures, |index, file| {
        // A link to the whole folder: a model may keep weights in files beside it.
        let folder = file.parent().unwrap_or(Path::new("/"));
        symlink(folder, base.join(index.to_string())).map_err(|error| failed(&error))
    })?;
    let project = Project {
        dir: base,
        file: subject.project.file.clone(),
        deployment: parse(&yaml)?,
        yaml,
    };
    let package = folder.path().join("package.tar");
    let file = File::create(&package).map_err(|error| failed(&error))?;
    write_package(&project, subject.component.as_ref(), &file, interrupted)?;
    Ok(Variant {
        package,
        _folder: folder,
    })
}

/// The deployment file with other models. `place` is told each model's place and file; the file is
/// then `<place>/<its name>`.
fn with_models(
    subject: &Subject,
    route: Route,
    signatures: &BTreeMap<String, Signature>,
    mut place: impl FnMut(usize, &Path) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let project = &subject.project;
    let mut document: Value = serde_saphyr::from_str(&project.yaml).map_err(|error| {
        Failure::caused_by(Exit::Refused, "dunlin.yaml cannot be rewritten", &error)
    })?;
    let entries = document["predictor"]["models"].as_array_mut();
    let entries = entries.into_iter().flatten();
    for (index, (entry, model)) in entries.zip(&subject.models).enumerate() {
        let own = project.dir.join(AsRef::<Path>::as_ref(
            &project.deployment.models[index].path,
        ));
        let own = std::path::absolute(&own).unwrap_or(own);
        let file = match route.file(model) {
            Some(file) => {
                entry["backend"] = json!(route.backend());
                file
            }
            // Only this route's files change; this model goes the way that dunlin.yaml says.
            None => &own,
        };
        if route == Route::TorchScriptOnLibtorch && route.file(model).is_some() {
            declare(entry, model, signatures)?;
        }
        place(index, file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        entry["path"] = json!(format!("{index}/{name}"));
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("golden");
        }
    }
    // JSON is YAML. That only the models changed is checked: the text was read by another reader.
    let yaml = document.to_string();
    let mut rewritten = parse(&yaml)?;
    rewritten.models.clone_from(&project.deployment.models);
    if rewritten != project.deployment {
        return Err(
            Failure::new(Exit::Refused, "dunlin.yaml cannot be rewritten for a route")
                .next("write its values plainly, without anchors and tags"),
        );
    }
    Ok(yaml)
}

/// Says what a TorchScript file takes, where dunlin.yaml does not: as the ONNX file of the same
/// model does.
fn declare(
    entry: &mut Value,
    model: &SubjectModel,
    signatures: &BTreeMap<String, Signature>,
) -> Result<(), Failure> {
    let signature = signatures.get(&model.name);
    for (key, tensors) in [
        ("inputs", signature.map(|signature| &signature.inputs)),
        ("outputs", signature.map(|signature| &signature.outputs)),
    ] {
        if entry.get(key).is_some() {
            continue;
        }
        match tensors {
            Some(tensors) => entry[key] = json!(tensors),
            None if key == "outputs" => {}
            None => {
                let message = format!(
                    "what the TorchScript file of {} takes is not known",
                    model.name
                );
                return Err(Failure::new(Exit::Refused, message).next(format!(
                    "write it in dunlin.yaml, for the model {}: \
                     inputs: [{{name: pixels, datatype: FP32, shape: [-1, 8]}}]",
                    model.name
                )));
            }
        }
    }
    Ok(())
}

fn parse(yaml: &str) -> Result<Deployment, Failure> {
    Deployment::parse(yaml, DEPLOYMENT_FILE)
        .map_err(|error| Failure::new(Exit::Refused, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(yaml: &str, files: &[&str]) -> (TempDir, Subject) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dunlin.yaml"), yaml).unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "weights").unwrap();
        }
        let subject = Subject::open(folder.path(), &[], &mut |_| {}).unwrap();
        (folder, subject)
    }

    fn signature() -> BTreeMap<String, Signature> {
        let tensor = |name: &str| api::Tensor {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, 4],
        };
        BTreeMap::from([(
            "a".to_owned(),
            Signature {
                inputs: vec![tensor("x")],
                outputs: vec![tensor("y")],
            },
        )])
    }

    fn rewritten(
        subject: &Subject,
        route: Route,
        signatures: &BTreeMap<String, Signature>,
    ) -> Result<Deployment, Failure> {
        with_models(subject, route, signatures, |_, _| Ok(())).map(|yaml| parse(&yaml).unwrap())
    }

    const TWO: &str = "name: two\nlimits: {deadline: 9s}\npredictor:\n  models:\n  \
        - {name: a, path: a.onnx, threads: 2, tolerance: {absolute: 1e-3}}\n  \
        - {name: b, path: b.onnx, backend: tract}\n";

    #[test]
    fn a_route_changes_files_and_backends_and_nothing_else() {
        let (_folder, subject) = subject(TWO, &["a.onnx", "b.onnx", "a.pt"]);
        let onnx = rewritten(&subject, Route::OnnxOnOnnxRuntime, &BTreeMap::new()).unwrap();
        assert_eq!(onnx.limits, subject.project.deployment.limits);
        for (index, model) in onnx.models.iter().enumerate() {
            assert_eq!(model.backend, edge_config::BackendChoice::OnnxRuntime);
            assert!(model.path.as_str().starts_with(&format!("{index}/")));
        }
        assert_eq!(
            (onnx.models[0].threads, onnx.models[0].tolerance.absolute),
            (2, 1e-3)
        );

        let torch = rewritten(&subject, Route::TorchScriptOnLibtorch, &signature()).unwrap();
        assert_eq!(torch.models[0].path.as_str(), "0/a.pt");
        assert_eq!(torch.models[0].inputs[0].name, "x");
        assert_eq!(torch.models[0].outputs[0].shape, [None, Some(4)]);
        // The other has no such file and stays.
        assert_eq!(torch.models[1].path.as_str(), "1/b.onnx");
        assert_eq!(torch.models[1].backend, edge_config::BackendChoice::Tract);
    }

    #[test]
    fn what_a_torchscript_file_takes_must_be_known() {
        let (_folder, subject) = subject(TWO, &["a.onnx", "b.onnx", "a.pt"]);
        let unknown = rewritten(&subject, Route::TorchScriptOnLibtorch, &BTreeMap::new());
        let unknown = unknown.unwrap_err();
        assert!(
            unknown.to_string().contains("of a takes is not known"),
            "{unknown}"
        );
    }

    #[test]
    fn a_variant_is_a_package_with_the_routes_file() {
        let (_folder, subject) = subject(TWO, &["a.onnx", "b.onnx", "a.pt"]);
        let packaged = variant(
            &subject,
            Route::TorchScriptOnLibtorch,
            &signature(),
            Arc::default(),
        );
        // The files are no models, and ONNX files are looked into; which one is named in the error.
        let error = packaged.unwrap_err();
        let text: Vec<String> = error.details().collect();
        assert!(text.concat().contains("1/b.onnx") || error.to_string().contains("1/b.onnx"));
    }

    #[test]
    fn the_tolerance_given_wins_over_those_written() {
        let deployment = Deployment::parse(TWO, "dunlin.yaml").unwrap();
        let written = Tolerances::new(None, &deployment);
        assert_eq!(
            (written.models[0].absolute, written.models[1].absolute),
            (1e-3, 1e-4)
        );
        assert_eq!(written.answers.absolute, 1e-3);
        let given = Tolerances::new(Some(0.5), &deployment);
        assert_eq!(
            (given.models[0].relative, given.answers.absolute),
            (0.5, 0.5)
        );
    }
}
