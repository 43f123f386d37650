//! `dunlin inspect`: what is in a package, or what a folder would become. Compiles nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use dunlin_package::{LayerKind, Package};
use edge_config::{BackendChoice, Deployment, Grants, InstancePolicy};
use serde_json::{Value, json};

use crate::cli::{Context, blocking, folder};
use crate::exit::{Exit, Failure};
use crate::output::Style;
use crate::packaging;
use crate::project::{Project, Source, unreadable};
use crate::table::{Align, Table};

/// Show what is in a package, or what a folder would become
///
/// A package is checked as a node checks it: every digest, the deployment file, what the predictor
/// imports. Nothing is compiled and no node is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin inspect digits.dunlin.tar
  dunlin inspect predictors/digits
  dunlin inspect digits.dunlin.tar -o json | jq -r .digest")]
pub(crate) struct Args {
    /// A package, or a folder with dunlin.yaml; without it the current folder
    #[arg(value_name = "FILE|DIR")]
    what: Option<PathBuf>,
}

/// A package or a project, as far as it can be shown.
#[derive(Debug)]
struct Inspected {
    what: PathBuf,
    /// Only a package has one.
    digest: Option<String>,
    deployment: Deployment,
    files: Vec<FileOf>,
}

#[derive(Debug)]
struct FileOf {
    path: String,
    kind: &'static str,
    /// `None`: it is named, and not there.
    bytes: Option<u64>,
    /// Only in a package.
    digest: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let what = folder(args.what);
    let inspected = blocking(move || Inspected::read(what)).await?;
    if context.output.json() {
        context.output.document(&inspected.document())?;
    } else {
        context
            .output
            .text(&inspected.text(context.output.style()))?;
    }
    let missing: Vec<&str> = inspected
        .files
        .iter()
        .filter(|file| file.bytes.is_none())
        .map(|file| file.path.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(
        Failure::new(Exit::NotFound, format!("not there: {}", missing.join(", ")))
            .next("correct the paths in dunlin.yaml, or put the files there")
            .documented(),
    )
}

impl Inspected {
    fn read(what: PathBuf) -> Result<Self, Failure> {
        let metadata = fs::metadata(&what).map_err(|error| {
            unreadable(&what, &error).next("give a package, or a folder with dunlin.yaml")
        })?;
        if metadata.is_dir() {
            let project = Project::open(&what)?;
            let files = files_of_project(&project);
            return Ok(Self {
                what,
                digest: None,
                deployment: project.deployment,
                files,
            });
        }
        let (packaged, package) = packaging::inspect(&what)?;
        Ok(Self {
            what,
            digest: Some(packaged.digest),
            deployment: package.deployment().clone(),
            files: files_of_package(&package),
        })
    }

    fn document(&self) -> Value {
        let deployment = &self.deployment;
        let bytes_of = |path: &str| self.files.iter().find(|file| file.path == path)?.bytes;
        let models: Vec<Value> = deployment
            .models
            .iter()
            .map(|model| {
                json!({
                    "name": model.name.as_str(),
                    "path": model.path.as_str(),
                    "bytes": bytes_of(model.path.as_str()),
                    "backend": backend(model.backend),
                    "golden": model.golden.as_ref().map(|path| path.as_str()),
                    "tolerance": {
                        "relative": model.tolerance.relative,
                        "absolute": model.tolerance.absolute,
                    },
                })
            })
            .collect();
        let predictor = deployment.predictor.as_ref().map(|predictor| {
            json!({
                "path": predictor.path,
                "target": predictor.target.triple(),
                "config": predictor.config,
                "grants": grants(predictor.grants),
            })
        });
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "path": file.path,
                    "kind": file.kind,
                    "bytes": file.bytes,
                    "digest": file.digest,
                })
            })
            .collect();
        let (instances, limits) = (&deployment.instances, &deployment.limits);
        json!({
            "name": deployment.name.as_str(),
            "digest": self.digest,
            "from": self.what,
            "predictor": predictor,
            "models": models,
            "instances": {
                "policy": policy(instances.policy),
                "max": instances.max,
                "calls_max": instances.calls_max,
                "idle_timeout_ms": instances.idle_timeout.as_millis(),
            },
            "limits": {
                "memory": limits.memory,
                "tensor_memory": limits.tensor_memory,
                "deadline_ms": limits.deadline.as_millis(),
                "request_body": limits.request_body,
                "response_body": limits.response_body,
            },
            "files": files,
        })
    }

    fn text(&self, style: Style) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            writeln!(text, "{} {value}", style.bold(&format!("{label:10}")))
                .expect("a String takes every write");
        };
        let deployment = &self.deployment;
        line("name", deployment.name.as_str());
        if let Some(digest) = &self.digest {
            line("digest", digest);
        }
        match &deployment.predictor {
            Some(predictor) => {
                let grants = grants(predictor.grants).join(", ");
                let grants = if grants.is_empty() {
                    "nothing"
                } else {
                    &grants
                };
                line(
                    "predictor",
                    &format!("{}, granted {grants}", predictor.path.display()),
                );
            }
            None => line("predictor", "none: the node serves the models"),
        }
        for model in &deployment.models {
            let golden = match &model.golden {
                Some(golden) => format!("checked against {golden}"),
                None => "not checked: it has no golden samples".to_owned(),
            };
            let backend = backend(model.backend);
            line(
                "model",
                &format!(
                    "{} ({}), backend {backend}, {golden}",
                    model.name, model.path
                ),
            );
        }
        let (instances, limits) = (&deployment.instances, &deployment.limits);
        line(
            "instances",
            &format!(
                "{}, {} at most, replaced after {} calls, dropped after {:?} idle",
                policy(instances.policy),
                instances.max,
                instances.calls_max,
                instances.idle_timeout
            ),
        );
        line(
            "limits",
            &format!(
                "memory {}, tensors {}, deadline {:?}, request {}, response {}",
                size(limits.memory),
                size(limits.tensor_memory),
                limits.deadline,
                size(limits.request_body),
                size(limits.response_body)
            ),
        );
        format!("{text}\n{}", self.table(style))
    }

    fn table(&self, style: Style) -> Table {
        let columns = [
            ("file", Align::Left),
            ("kind", Align::Left),
            ("size", Align::Right),
            ("digest", Align::Left),
        ];
        let mut table = Table::new(style, &columns);
        for file in &self.files {
            table.row([
                file.path.clone(),
                file.kind.to_owned(),
                file.bytes.map_or_else(|| "missing".to_owned(), size),
                file.digest
                    .as_deref()
                    .map(super::get::short_digest)
                    .unwrap_or_default()
                    .to_owned(),
            ]);
        }
        table
    }
}

fn files_of_package(package: &Package) -> Vec<FileOf> {
    package
        .files()
        .map(|blob| FileOf {
            path: blob.title.to_string(),
            kind: match blob.kind {
                LayerKind::Predictor => "predictor",
                LayerKind::Weights => "model",
                LayerKind::Golden => "golden",
            },
            bytes: Some(blob.size),
            digest: Some(blob.digest.to_string()),
        })
        .collect()
}

fn files_of_project(project: &Project) -> Vec<FileOf> {
    let file = |path: &Path, kind| FileOf {
        bytes: fs::metadata(project.dir.join(path))
            .ok()
            .map(|metadata| metadata.len()),
        path: path.display().to_string(),
        kind,
        digest: None,
    };
    let mut files = Vec::new();
    if let Some(predictor) = &project.deployment.predictor {
        files.push(match project.source() {
            Source::Crate(_) => file(&predictor.path.join("Cargo.toml"), "crate"),
            _ => file(&predictor.path, "predictor"),
        });
    }
    for model in &project.deployment.models {
        files.push(file(model.path.as_ref(), "model"));
        files.extend(
            model
                .golden
                .iter()
                .map(|golden| file(golden.as_ref(), "golden")),
        );
    }
    files
}

fn grants(grants: Grants) -> Vec<&'static str> {
    let named = [
        (grants.clock, "clock"),
        (grants.random, "random"),
        (grants.load, "load"),
    ];
    named
        .into_iter()
        .filter(|(granted, _)| *granted)
        .map(|(_, name)| name)
        .collect()
}

fn backend(backend: BackendChoice) -> &'static str {
    match backend {
        BackendChoice::Auto => "auto",
        BackendChoice::Tract => "tract",
        BackendChoice::OnnxRuntime => "onnxruntime",
        BackendChoice::TorchScript => "torchscript",
    }
}

fn policy(policy: InstancePolicy) -> &'static str {
    match policy {
        InstancePolicy::Warm => "warm",
        InstancePolicy::Fresh => "fresh",
    }
}

/// As a deployment file has it where that is exact, else with one decimal.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    for (unit, factor) in UNITS {
        if bytes >= factor {
            return match bytes % factor {
                0 => format!("{}{unit}", bytes / factor),
                _ => format!("{:.1}{unit}", bytes as f64 / factor as f64),
            };
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0"),
            (296, "296"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (64 << 20, "64Mi"),
            (5 << 30, "5Gi"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn grants_are_named() {
        assert!(grants(Grants::default()).is_empty());
        let all = Grants {
            clock: true,
            random: true,
            load: true,
        };
        assert_eq!(grants(all), ["clock", "random", "load"]);
    }
}
