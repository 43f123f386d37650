//! A model that was exported already: its file is copied, its signature read, and golden samples
//! made by the engine that runs it here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use dunlin_inference::{
    Golden, InferenceError, Model, NamedTensors, TensorSpec, Tolerance, one_line,
};
use dunlin_package::OnnxError;
use edge_config::PackagePath;
use serde_json::{Map, json};
use zip::ZipArchive;

use super::{GOLDEN, Imported, Python, Route, RouteFile, Staging, TensorArg};
use super::{golden, npz, rehearsal::Engines, samples};
use crate::cli::blocking;
use crate::exit::{Exit, Failure};
use crate::progress::Steps;
use crate::project::unreadable;

/// What is imported.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) file: PathBuf,
    pub(crate) route: Route,
    /// The name of the model, and of its file.
    pub(crate) name: String,
    /// What the file does not say.
    pub(crate) inputs: Vec<TensorArg>,
    /// A `.npz` with inputs, and with outputs if they are to be compared with.
    pub(crate) samples: Option<PathBuf>,
    pub(crate) tolerance: f64,
}

/// Copies the model into the staging folder and makes golden samples for it. A TorchScript file
/// without libtorch goes to the user's Python.
pub(crate) async fn import_exported(
    exported: Exported,
    engines: &Engines,
    staging: &Staging,
    python: impl FnOnce() -> Result<Python, Failure>,
    steps: &Steps,
) -> Result<(Imported, Vec<String>), Failure> {
    let models = staging.models();
    let (file, files) = copy(&exported, &models).await?;
    let path = models.join(&file);
    steps.say(&format!("loading {}", exported.file.display()));
    let specs: Vec<TensorSpec> = exported.inputs.iter().filter_map(TensorArg::spec).collect();
    let model = match engines.load(&path, specs, Vec::new(), None).await {
        Ok(model) => model,
        Err(error) if exported.route == Route::TorchScript && is_absent(&error) => {
            return by_python(exported, &models, file, python, steps, &error).await;
        }
        Err(error) => return Err(not_loaded(&exported, &error)),
    };
    let reference = engines.version(model.backend());
    steps.say(&format!("making golden samples with {reference}"));
    let (signature, backend) = (model.signature().clone(), model.backend());
    let (given, tolerance) = (exported.samples.clone(), exported.tolerance);
    let golden_file = models.join(GOLDEN);
    let made = blocking(move || make_golden(&model, given.as_deref(), &golden_file, tolerance));
    let (rows, compared) = made.await?;
    let samples = match &exported.samples {
        Some(path) => path.display().to_string(),
        None => "generated from the signature".to_owned(),
    };
    let imported = Imported {
        inputs: signature.inputs.iter().map(TensorArg::from).collect(),
        outputs: signature.outputs.iter().map(TensorArg::from).collect(),
        routes: vec![route_file(exported.route, file, files)],
        samples,
        rows,
        reference: match compared {
            true => "the outputs in the file of samples".to_owned(),
            false => reference.clone(),
        },
        versions: Map::from_iter([(backend.to_owned(), json!(reference))]),
    };
    Ok((imported, Vec::new()))
}

fn route_file(route: Route, file: String, files: Vec<String>) -> RouteFile {
    RouteFile {
        route,
        file,
        files,
        how: "as it was".to_owned(),
        why_traced: String::new(),
        checked_by: None,
        difference: None,
    }
}

/// Copies the file under the model's name, and what it keeps beside itself under the names it uses.
async fn copy(exported: &Exported, models: &Path) -> Result<(String, Vec<String>), Failure> {
    let (from, to) = (exported.file.clone(), models.to_owned());
    let route = exported.route;
    let extension = match route {
        Route::Onnx => "onnx",
        Route::TorchScript => "pt",
    };
    let file = format!("{}.{extension}", exported.name);
    blocking(move || {
        let opened = File::open(&from)
            .map_err(|error| unreadable(&from, &error).next("correct the path of the model"))?;
        let files = match route {
            Route::TorchScript => {
                check_torchscript(&from, opened)?;
                Vec::new()
            }
            Route::Onnx => external_files(&from, opened)?,
        };
        let copied = |from: &Path, to: &Path| {
            let made = to.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| fs::copy(from, to))
                .map_err(|error| unreadable(from, &error))
        };
        copied(&from, &to.join(&file))?;
        for external in &files {
            let beside = from.with_file_name(external);
            copied(&beside, &to.join(external)).map_err(|failure| {
                failure.next("the model keeps its weights in that file; put it beside the model")
            })?;
        }
        Ok((file, files))
    })
    .await
}

fn external_files(path: &Path, file: File) -> Result<Vec<String>, Failure> {
    let refuse = |why: &str| {
        Failure::new(Exit::Refused, format!("{} {why}", path.display()))
            .next("export the model again, to ONNX")
    };
    let locations = dunlin_package::external_locations(file).map_err(|error| match error {
        OnnxError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            unreadable(path, &error)
        }
        OnnxError::Io(_) => refuse("is no ONNX model, or is cut off"),
        OnnxError::Malformed(why) => refuse(why),
    })?;
    for location in &locations {
        // As a package has it; else it would be copied to who knows where.
        if location.parse::<PackagePath>().is_err() {
            return Err(refuse(&format!(
                "refers to {location:?}, outside its own folder"
            )));
        }
    }
    Ok(locations.into_iter().collect())
}

/// A `.pt` file may be TorchScript, or weights alone, which only Python can make a model of.
fn check_torchscript(path: &Path, file: File) -> Result<(), Failure> {
    let code = ZipArchive::new(file).is_ok_and(|archive| {
        let mut names = archive.file_names();
        names.any(|name| {
            name.is_ok_and(|name| name.contains("/code/") || name.ends_with("/constants.pkl"))
        })
    });
    if code {
        return Ok(());
    }
    let message = format!("{} is no TorchScript module", path.display());
    Err(Failure::new(Exit::Refused, message).next(
        "save one, torch.jit.save(torch.jit.script(module), path); a Lightning checkpoint is \
         imported with its class, --module train.py:DigitsModel",
    ))
}

/// Writes the samples; gives their rows, and whether the file had outputs.
fn make_golden(
    model: &Model,
    given: Option<&Path>,
    golden: &Path,
    tolerance: f64,
) -> Result<(u64, bool), Failure> {
    let signature = model.signature();
    let (inputs, expected) = match given {
        None => (samples::generate(&signature.inputs)?, None),
        Some(path) => {
            let mut arrays = npz::read(path)?;
            let has_all = |specs: &[TensorSpec]| specs.iter().all(|s| arrays.contains_key(&s.name));
            let expected = match has_all(&signature.outputs) && has_all(&signature.inputs) {
                true => Some(samples::choose(path, &arrays, &signature.outputs)?),
                false => None,
            };
            if expected.is_some() {
                arrays.retain(|name, _| signature.inputs.iter().any(|spec| spec.name == *name));
            }
            (samples::choose(path, &arrays, &signature.inputs)?, expected)
        }
    };
    let rows = inputs
        .iter()
        .find_map(|(_, tensor)| tensor.shape().first().copied());
    let compared = expected.is_some();
    let outputs = match expected {
        Some(outputs) => outputs,
        None => model
            .infer_blocking(inputs.clone())
            .map_err(|error| not_run(&inputs, &error))?,
    };
    golden::write(golden, &inputs, &outputs)?;
    if compared {
        let tolerance = Tolerance {
            relative: tolerance,
            absolute: tolerance,
        };
        let checked = Golden::read(golden).and_then(|golden| golden.check(model, tolerance));
        checked.map_err(|error| {
            let message = "the model does not answer as the file of samples says";
            Failure::caused_by(Exit::Refused, message, &error)
                .next("are they this model's? A difference that does not matter: --tolerance 1e-3")
        })?;
    }
    Ok((rows.unwrap_or(1), compared))
}

fn not_run(inputs: &NamedTensors, error: &InferenceError) -> Failure {
    let shapes = inputs.iter();
    let shapes: Vec<String> = shapes
        .map(|(name, tensor)| format!("{name} {:?}", tensor.shape()))
        .collect();
    let message = format!(
        "the model does not run on its samples ({})",
        shapes.join(", ")
    );
    Failure::caused_by(Exit::Refused, message, error)
        .next("give samples that it takes: --samples FILE.npz")
}

fn is_absent(error: &InferenceError) -> bool {
    matches!(error, InferenceError::Unsupported { .. })
}

fn not_loaded(exported: &Exported, error: &InferenceError) -> Failure {
    let message = format!("{} cannot be loaded", exported.file.display());
    let failure = Failure::caused_by(Exit::Refused, message, error);
    let said = one_line(error);
    if said.contains("dunlin backend install") {
        // It says what to do.
        return failure;
    }
    failure.next(match exported.route {
        Route::Onnx if said.contains("tract") || is_absent(error) => {
            "ONNX Runtime may know what tract does not: dunlin backend install onnxruntime"
        }
        Route::Onnx => {
            "export the model again; or let ONNX Runtime try: dunlin backend install onnxruntime"
        }
        Route::TorchScript => "does --input name every argument of forward, in order?",
    })
}

async fn by_python(
    exported: Exported,
    models: &Path,
    file: String,
    python: impl FnOnce() -> Result<Python, Failure>,
    steps: &Steps,
    absent: &InferenceError,
) -> Result<(Imported, Vec<String>), Failure> {
    let message = format!("{} cannot be run here", exported.file.display());
    let nowhere = || {
        Failure::caused_by(Exit::Failed, message.clone(), absent).next(
            "dunlin backend install torchscript; or name a Python that has torch: --python EXE",
        )
    };
    let python = python().map_err(|_| nowhere())?;
    if !python.has_torch().await {
        return Err(nowhere());
    }
    let request = json!({
        "task": "torchscript",
        "model": models.join(&file),
        "inputs": exported.inputs,
        "samples": exported.samples,
        "out": models,
    });
    let answer = python.run::<Imported>(&request, steps).await?;
    let imported = Imported {
        routes: vec![route_file(exported.route, file, Vec::new())],
        ..answer.result
    };
    Ok((imported, answer.warnings))
}
