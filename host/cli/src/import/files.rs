//! What stands around the models: deployment files, a request to try, where it all came from, and
//! what to run next.

use std::fmt::Write as _;

use edge_config::Deployment;
use serde_json::{Value, json};

use super::rust_predictor::{self, Crate};
use super::{GOLDEN, Imported, MODELS, Route, RouteFile, Staging, TOLERANCE, TensorArg, golden};
use crate::exit::{Exit, Failure};
use crate::sdk::Dependency;

/// The request to try the deployment with.
const SAMPLE: &str = "sample.json";
/// How the folder was made; `dunlin compare` finds the original by it.
pub(crate) const ORIGIN: &str = "import.json";

/// What is written besides the models.
#[derive(Debug)]
pub(crate) struct Description<'a> {
    pub(crate) name: &'a str,
    pub(crate) imported: &'a Imported,
    pub(crate) tolerance: f64,
    /// Where the model comes from: the checkpoint and its class, or the file.
    pub(crate) origin: Value,
    /// Of `dunlin-sdk`, where a predictor is wanted.
    pub(crate) sdk: Option<&'a Dependency>,
}

/// Writes everything but the models and their golden samples.
pub(crate) fn write_files(staging: &Staging, what: &Description<'_>) -> Result<(), Failure> {
    let (name, imported) = (what.name, what.imported);
    for route in &imported.routes {
        let text = deployment(what, route);
        let file = imported.deployment_file(route.route);
        Deployment::parse(&text, &file).map_err(|error| {
            // The names come from the model: one of them is no name for a deployment file.
            Failure::caused_by(Exit::Refused, "the model cannot be described", &error)
                .next("name its inputs and outputs otherwise, or the deployment: --name NAME")
        })?;
        staging.write(&file, text)?;
    }
    let batched = imported
        .inputs
        .iter()
        .all(|input| input.shape.first() == Some(&-1));
    let request = golden::request(&staging.models().join(GOLDEN), batched)?;
    staging.write(SAMPLE, request.to_string() + "\n")?;
    let origin = json!({
        "origin": what.origin,
        "imported": imported,
        "tolerance": what.tolerance,
    });
    let origin = serde_json::to_string_pretty(&origin).expect("documents have string keys");
    staging.write(ORIGIN, origin + "\n")?;
    if let Some(sdk) = what.sdk {
        let of = Crate {
            name,
            sdk,
            inputs: &imported.inputs,
            outputs: &imported.outputs,
        };
        rust_predictor::write(staging, &of)?;
    }
    staging.write("README.md", readme(what))
}

fn deployment(what: &Description<'_>, route: &RouteFile) -> String {
    let name = what.name;
    let mut text = format!(
        "# {} by {} ({}). README.md says what to run next.\nname: {name}\n\npredictor:\n",
        name,
        route.route.label(),
        route.how
    );
    if what.sdk.is_some() {
        text += "  path: .\n";
    }
    let _ = write!(
        text,
        "  models:\n    - name: {name}\n      path: {MODELS}/{}\n      golden: {MODELS}/{GOLDEN}\n",
        route.file
    );
    if what.tolerance != TOLERANCE {
        let tolerance = what.tolerance;
        let _ = writeln!(
            text,
            "      tolerance: {{relative: {tolerance}, absolute: {tolerance}}}"
        );
    }
    if route.route == Route::TorchScript {
        text += "      backend: torchscript\n";
        for (key, tensors) in [
            ("inputs", &what.imported.inputs),
            ("outputs", &what.imported.outputs),
        ] {
            let _ = writeln!(text, "      {key}:");
            for tensor in tensors {
                let _ = writeln!(text, "        - {}", yaml(tensor));
            }
        }
    }
    text
}

fn yaml(tensor: &TensorArg) -> String {
    // A JSON string is a YAML string.
    let name = Value::from(tensor.name.as_str());
    let TensorArg {
        datatype, shape, ..
    } = tensor;
    format!("{{name: {name}, datatype: {datatype}, shape: {shape:?}}}")
}

fn readme(what: &Description<'_>) -> String {
    let (name, imported) = (what.name, what.imported);
    let list = |tensors: &[TensorArg]| {
        let lines = tensors.iter();
        lines
            .map(|tensor| {
                format!(
                    "| `{}` | {} | {:?} |\n",
                    tensor.name, tensor.datatype, tensor.shape
                )
            })
            .collect::<String>()
    };
    let mut text = format!(
        "# {name}\n\nMade by `dunlin import`. A node has to run: `dunlin serve`. Then, in this folder:\n\n\
         ```\ndunlin deploy\ndunlin predict {name} {SAMPLE}\n```\n\n"
    );
    for route in imported.routes.iter().skip(1) {
        let _ = write!(
            text,
            "The same model by {}: `dunlin deploy {}`.\n\n",
            route.route.label(),
            imported.deployment_file(route.route)
        );
    }
    let _ = write!(
        text,
        "`POST /{name}` takes `{{\"inputs\": …}}` with nested lists and answers `{{\"outputs\": …}}`.\n\n\
         | input | datatype | shape |\n|---|---|---|\n{}\n\
         | output | datatype | shape |\n|---|---|---|\n{}\n\
         -1 is a dimension that varies. `{MODELS}/{GOLDEN}` has {} golden rows ({}), answered by {}: a \
         node checks them whenever it loads the model.\n",
        list(&imported.inputs),
        list(&imported.outputs),
        imported.rows,
        imported.samples,
        imported.reference,
    );
    if what.sdk.is_some() {
        text += "\nThe predictor is `src/lib.rs`: change what it reads from a request and makes of the \
                 model's outputs. `cargo test` runs it on this machine, with a model that is faked.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{Destination, Difference};

    fn imported(routes: &[Route]) -> Imported {
        let tensor = |text: &str| text.parse::<TensorArg>().unwrap();
        let route = |route: &Route| RouteFile {
            route: *route,
            file: format!(
                "digits.{}",
                if *route == Route::Onnx { "onnx" } else { "pt" }
            ),
            files: Vec::new(),
            how: "script".to_owned(),
            why_traced: String::new(),
            checked_by: Some("torch 2.15.0".to_owned()),
            difference: Some(Difference {
                absolute: 1e-7,
                relative: 1e-6,
            }),
        };
        Imported {
            inputs: vec![
                tensor("pixels:FP32:-1,1,2"),
                tensor("a \"key\": #1:INT64:-1"),
            ],
            outputs: vec![tensor("logits:FP32:-1,10")],
            routes: routes.iter().map(route).collect(),
            samples: "generated".to_owned(),
            rows: 1,
            reference: "the original module".to_owned(),
            versions: serde_json::Map::new(),
        }
    }

    #[test]
    fn deployment_files_say_what_the_models_do_not() {
        let home = tempfile::tempdir().unwrap();
        let destination = Destination::check(home.path().join("digits"), false).unwrap();
        let staging = Staging::new(destination).unwrap();
        let tensor = dunlin_inference::Tensor::from_values(&[1, 1, 2], &[1.0f32, 2.0]).unwrap();
        let pixels = vec![("pixels".to_owned(), tensor)];
        golden::write(&staging.models().join(GOLDEN), &pixels, &pixels).unwrap();
        let imported = imported(&[Route::Onnx, Route::TorchScript]);
        let what = Description {
            name: "digits",
            imported: &imported,
            tolerance: 0.001,
            origin: json!({"model": "digits.ckpt"}),
            sdk: None,
        };
        write_files(&staging, &what).unwrap();
        let files = [
            "README.md",
            "dunlin.torchscript.yaml",
            "dunlin.yaml",
            "import.json",
            "models/golden.safetensors",
            "sample.json",
        ];
        assert_eq!(staging.files().unwrap(), files);

        let read = |file: &str| Deployment::read(&staging.path().join(file)).unwrap();
        let onnx = read("dunlin.yaml");
        assert!(onnx.predictor.is_none());
        assert_eq!(onnx.models[0].path.as_str(), "models/digits.onnx");
        assert_eq!(onnx.models[0].tolerance.relative, 0.001);
        assert!(onnx.models[0].inputs.is_empty());

        let script = read("dunlin.torchscript.yaml");
        assert_eq!(
            (&script.name, &script.models[0].name),
            (&onnx.name, &onnx.models[0].name)
        );
        assert_eq!(script.models[0].inputs[1].name, "a \"key\": #1");
        assert_eq!(script.models[0].outputs[0].shape, [None, Some(10)]);
    }
}
