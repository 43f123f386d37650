//! `dunlin import`: from a trained model to a folder that can be deployed.

use std::path::{Path, PathBuf};

use edge_config::{DeploymentName, ModelName};
use serde_json::{Map, Value, json};

use crate::cli::Context;
use crate::exit::{Exit, Failure};
use crate::import::{
    Description, Destination, Engines, Exported, Imported, Python, Rehearsal, Route, RouteFile,
    Staging, TOLERANCE, TensorArg, import_exported, rehearse, write_files,
};
use crate::progress::Steps;
use crate::sdk::Sdk;

/// Make a folder that can be deployed from a trained model
///
/// A PyTorch Lightning checkpoint is loaded with its class by your own Python, exported to ONNX or
/// TorchScript, and compared with the original module. An .onnx or a TorchScript .pt file is taken
/// as it is. The folder has the deployment file, the model, golden samples that a node checks
/// whenever it loads the model, and a request to try.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin import digits.ckpt --module train.py:DigitsModel
  dunlin import digits.ckpt --module train.py:DigitsModel --via both --python .venv/bin/python
  dunlin import ranker.ckpt --module ranker.model:Ranker --samples rows.npz --name ranker
  dunlin import encoder.ckpt --module train.py:Encoder --input ids:INT64:-1,-1 --input mask:INT64:-1,-1
  dunlin import resnet.onnx --out services/resnet
  dunlin import digits.pt --input pixels:FP32:-1,1,8,8
  dunlin import digits.onnx --predictor rust -o json")]
pub(crate) struct Args {
    /// A Lightning checkpoint (with --module), an ONNX file, or a TorchScript file
    model: PathBuf,

    /// The class that was trained, as FILE:CLASS or PACKAGE.MODULE:CLASS; or a function that makes
    /// the module
    #[arg(long, value_name = "FILE:CLASS")]
    module: Option<String>,

    /// How to export a checkpoint: onnx, torchscript, or both
    #[arg(long, value_name = "ROUTE", default_value = "onnx")]
    via: Via,

    /// The name of the deployment [default: made from the file's]
    #[arg(long)]
    name: Option<DeploymentName>,

    /// The folder to write [default: the name, in the current folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Replace the folder of an earlier import
    #[arg(long)]
    force: bool,

    /// The Python that trained the model [default: that of the active environment, or python3]
    #[arg(long, value_name = "EXE")]
    python: Option<PathBuf>,

    /// An input of the model, where neither the class nor the file says it; once for each, in the
    /// order of forward's arguments. -1 is a dimension that varies
    #[arg(
        long = "input",
        value_name = "NAME:DTYPE:SHAPE",
        allow_hyphen_values = true
    )]
    inputs: Vec<TensorArg>,

    /// Golden inputs, as numpy.savez writes them under the inputs' names
    #[arg(long, value_name = "FILE.npz")]
    samples: Option<PathBuf>,

    /// Load a checkpoint that holds more than weights, though loading it runs the code it names
    #[arg(long)]
    trust: bool,

    /// An argument of the class's constructor that the checkpoint does not hold
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = argument)]
    arguments: Vec<(String, Value)>,

    /// Export a module by tracing though what it does depends on the data
    #[arg(long)]
    allow_frozen: bool,

    /// How far an export may be from the original, relative and absolute
    #[arg(long, value_name = "NUMBER", default_value_t = TOLERANCE, value_parser = tolerance)]
    tolerance: f64,

    /// Also write a predictor to edit; without it the node serves the model itself
    #[arg(long, value_name = "LANGUAGE")]
    predictor: Option<Language>,

    #[command(flatten)]
    sdk: Sdk,

    /// Show what Python prints, tracebacks included
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    Onnx,
    Torchscript,
    Both,
}

impl Via {
    fn routes(self) -> &'static [Route] {
        match self {
            Self::Onnx => &[Route::Onnx],
            Self::Torchscript => &[Route::TorchScript],
            // The first is the one of dunlin.yaml: any node serves it.
            Self::Both => &[Route::Onnx, Route::TorchScript],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Language {
    Rust,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let kind = Kind::of(&args)?;
    let name = name(&args)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(name.as_str()));
    let destination = Destination::check(out, args.force)?;
    let sdk = match args.predictor {
        Some(Language::Rust) => Some(args.sdk.dependency()?),
        None => None,
    };
    let steps = Steps::new(context.output);
    let staging = Staging::new(destination)?;
    let engines = Engines::new()?;
    let (imported, warnings) = match kind {
        Kind::Checkpoint => checkpoint(&args, &name, &staging, &steps).await?,
        Kind::Exported(route) => exported(&args, route, &name, &staging, &engines, &steps).await?,
    };
    write_files(
        &staging,
        &Description {
            name: name.as_str(),
            imported: &imported,
            tolerance: args.tolerance,
            origin: origin(&args),
            sdk: sdk.as_ref(),
        },
    )?;
    let mut routes = Vec::new();
    for route in &imported.routes {
        steps.say(&format!("loading {} as a node here does", route.file));
        let models = staging.models();
        let rehearsal = rehearse(&engines, &models, &imported, route, args.tolerance).await;
        if let (Kind::Checkpoint, None, Rehearsal::Failed { reason }) =
            (kind, &route.checked_by, &rehearsal)
        {
            return Err(unchecked(route, reason));
        }
        routes.push(rehearsal);
    }
    let files = staging.files()?;
    let dir = staging.commit()?;
    steps.done();
    print(
        &Written {
            name: &name,
            dir: &dir,
            files: &files,
            imported: &imported,
            rehearsals: &routes,
            warnings: &warnings,
        },
        context,
    )
}

/// What the model is, by its name and the flags.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Checkpoint,
    Exported(Route),
}

impl Kind {
    fn of(args: &Args) -> Result<Self, Failure> {
        let file = args.model.display();
        let usage =
            |message: String, next: &str| Err(Failure::new(Exit::Usage, message).next(next));
        if args.module.is_some() {
            return Ok(Self::Checkpoint);
        }
        match args
            .model
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("onnx") => Ok(Self::Exported(Route::Onnx)),
            Some("pt" | "pth" | "torchscript" | "ts") if args.inputs.is_empty() => usage(
                format!("{file} does not say what it takes"),
                "describe each argument of forward: --input pixels:FP32:-1,1,8,8; if it is a \
                 Lightning checkpoint, name its class: --module train.py:DigitsModel",
            ),
            Some("pt" | "pth" | "torchscript" | "ts") => Ok(Self::Exported(Route::TorchScript)),
            Some("ckpt") => usage(
                format!("{file} is a checkpoint, and has weights without the class"),
                "name the class that was trained: --module train.py:DigitsModel",
            ),
            _ => usage(
                format!("{file} is no model that import knows"),
                "give a .onnx file, a TorchScript .pt file, or a Lightning .ckpt with --module",
            ),
        }
    }
}

async fn checkpoint(
    args: &Args,
    name: &DeploymentName,
    staging: &Staging,
    steps: &Steps,
) -> Result<(Imported, Vec<String>), Failure> {
    let python = Python::find(args.python.as_deref(), args.verbose)?;
    let arguments: Map<String, Value> = args.arguments.iter().cloned().collect();
    let request = json!({
        "task": "checkpoint",
        "checkpoint": args.model,
        "module": args.module,
        "routes": args.via.routes(),
        "name": name.as_str(),
        "out": staging.models(),
        "inputs": args.inputs,
        "samples": args.samples,
        "trust": args.trust,
        "arguments": arguments,
        "allow_frozen": args.allow_frozen,
        "tolerance": {"relative": args.tolerance, "absolute": args.tolerance},
    });
    let answer = python.run::<Imported>(&request, steps).await?;
    Ok((answer.result, answer.warnings))
}

async fn exported(
    args: &Args,
    route: Route,
    name: &DeploymentName,
    staging: &Staging,
    engines: &Engines,
    steps: &Steps,
) -> Result<(Imported, Vec<String>), Failure> {
    let exported = Exported {
        file: args.model.clone(),
        route,
        name: name.to_string(),
        inputs: args.inputs.clone(),
        samples: args.samples.clone(),
        tolerance: args.tolerance,
    };
    let python = || Python::find(args.python.as_deref(), args.verbose);
    import_exported(exported, engines, staging, python, steps).await
}

/// Neither Python nor an engine here could say that the export answers as the module.
fn unchecked(route: &RouteFile, reason: &str) -> Failure {
    let message = format!("{} could not be compared with the module", route.file);
    Failure::new(Exit::Refused, message).because(reason).next(
        "install what runs it: pip install onnxruntime, or dunlin backend install onnxruntime",
    )
}

/// What `dunlin compare` needs to find the original again.
fn origin(args: &Args) -> Value {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let module = args
        .module
        .as_ref()
        .map(|module| match module.rsplit_once(':') {
            Some((file, class)) if file.ends_with(".py") => {
                format!("{}:{class}", absolute(Path::new(file)).display())
            }
            _ => module.clone(),
        });
    let arguments: Map<String, Value> = args.arguments.iter().cloned().collect();
    json!({
        "model": absolute(&args.model),
        "module": module,
        "python": args.python.as_deref().map(absolute),
        "arguments": arguments,
        "trust": args.trust,
        "dunlin": env!("CARGO_PKG_VERSION"),
    })
}

/// The name given, else one made from the file's, else, where that says nothing, from the class's.
fn name(args: &Args) -> Result<DeploymentName, Failure> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let stem = args.model.file_stem().unwrap_or_default().to_string_lossy();
    let class = args
        .module
        .as_deref()
        .and_then(|module| module.rsplit_once(':'));
    // Lightning calls them so: epoch=3-step=400.ckpt.
    let from = match class {
        Some((_, class)) if stem.contains('=') || stem == "last" => class.to_owned(),
        _ => stem.into_owned(),
    };
    let name = kebab(&from);
    let usable = name.parse::<ModelName>().is_ok();
    name.parse().ok().filter(|_| usable).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{from:?} makes no name for a deployment"),
        )
        .next("name it: --name NAME")
    })
}

/// `DigitsModel` and `digits_model` as `digits-model`.
fn kebab(text: &str) -> String {
    let mut name = String::new();
    let mut lower_before = false;
    for letter in text.chars() {
        if letter.is_ascii_uppercase() && lower_before {
            name.push('-');
        }
        lower_before = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        match letter.is_ascii_alphanumeric() {
            true => name.push(letter.to_ascii_lowercase()),
            false if name.ends_with('-') => {}
            false => name.push('-'),
        }
    }
    name.trim_matches('-').to_owned()
}

pub(super) fn argument(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("write NAME=VALUE, such as width=64")?;
    // What is no JSON is a text.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|tolerance| (0.0..=1.0).contains(tolerance))
        .ok_or_else(|| format!("{text} is no number from 0 to 1; write 1e-4"))
}

struct Written<'a> {
    name: &'a DeploymentName,
    dir: &'a Path,
    files: &'a [String],
    imported: &'a Imported,
    rehearsals: &'a [Rehearsal],
    warnings: &'a [String],
}

fn print(written: &Written<'_>, context: &Context) -> Result<(), Failure> {
    let imported = written.imported;
    let routes = || imported.routes.iter().zip(written.rehearsals);
    if context.output.json() {
        let routes: Vec<Value> = routes()
            .map(|(route, rehearsal)| {
                json!({
                    "route": route.route,
                    "deployment_file": imported.deployment_file(route.route),
                    "file": route.file,
                    "files": route.files,
                    "how": route.how,
                    "checked_by": route.checked_by,
                    "difference": route.difference,
                    "here": rehearsal,
                })
            })
            .collect();
        return context.output.document(&json!({
            "name": written.name.as_str(),
            "dir": written.dir,
            "files": written.files,
            "inputs": imported.inputs,
            "outputs": imported.outputs,
            "rows": imported.rows,
            "samples": imported.samples,
            "reference": imported.reference,
            "routes": routes,
            "warnings": written.warnings,
        }));
    }
    let dir = written.dir.display();
    let mut text = format!("imported {} into {dir}\n", written.name);
    for (side, tensors) in [("input", &imported.inputs), ("output", &imported.outputs)] {
        for tensor in tensors {
            text += &format!("  {side:<7} {tensor}\n");
        }
    }
    text += &format!(
        "  golden  {} rows, answered by {}\n",
        imported.rows, imported.reference
    );
    for (route, rehearsal) in routes() {
        text += &format!("  {}: {}\n", route.route.label(), told(route, rehearsal));
    }
    context.output.text(&text)?;
    for warning in written.warnings {
        context.output.say(&format!("warning: {warning}"));
    }
    for (route, rehearsal) in routes() {
        if let Rehearsal::Failed { reason } = rehearsal {
            let label = route.route.label();
            context.output.say(&format!(
                "warning: no engine here serves it by {label}: {reason}"
            ));
        }
    }
    let mut next = format!(
        "next:\n  {}                # a node has to run: dunlin serve\n  {}",
        context.command(&format!("deploy {dir}")),
        context.command(&format!(
            "predict {} {}",
            written.name,
            written.dir.join("sample.json").display()
        )),
    );
    for route in imported.routes.iter().skip(1) {
        let file = written.dir.join(imported.deployment_file(route.route));
        let command = context.command(&format!("deploy {}", file.display()));
        next += &format!("\n  {command}   # by {}", route.route.label());
    }
    context.output.say(&next);
    Ok(())
}

fn told(route: &RouteFile, rehearsal: &Rehearsal) -> String {
    let mut told = route.how.clone();
    if !route.why_traced.is_empty() {
        told += &format!(" (not scripted: {})", route.why_traced);
    }
    if let (Some(by), Some(difference)) = (&route.checked_by, route.difference) {
        told += &format!("; largest difference by {by} {:.1e}", difference.absolute);
    }
    if let Rehearsal::Passed { platform } = rehearsal {
        told += &format!("; served here by {platform}");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_files_and_classes() {
        let table = [
            ("DigitsModel", "digits-model"),
            ("digits_v2.best", "digits-v2-best"),
            ("ResNet18", "res-net18"),
            ("__x__", "x"),
            ("MLP", "mlp"),
        ];
        for (from, expected) in table {
            assert_eq!(kebab(from), expected, "{from}");
        }
    }

    #[test]
    fn arguments_are_json_or_text() {
        assert_eq!(argument("width=64"), Ok(("width".to_owned(), json!(64))));
        assert_eq!(
            argument("kind=relu"),
            Ok(("kind".to_owned(), json!("relu")))
        );
        assert_eq!(argument("path=a=b"), Ok(("path".to_owned(), json!("a=b"))));
        assert!(argument("width").is_err());
        assert!(argument("=1").is_err());
        assert_eq!(tolerance("1e-3"), Ok(0.001));
        assert!(tolerance("NaN").is_err() && tolerance("2").is_err());
    }
}
