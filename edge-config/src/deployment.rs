//! `dunlin.yaml`: what an author says of a predictor, its models and their bounds.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::batching;
use crate::error::ConfigError;
use crate::model::{self, Model};
use crate::monitoring::{self, Monitoring};
use crate::name::DeploymentName;
use crate::section::{Layout, Report, Section, choose, text};
use crate::yaml::Value;

/// The most models of one deployment.
const MODELS_MAX: usize = 64;

const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
const GI: u64 = 1 << 30;

const LAYOUT: Layout = &[
    (
        "",
        &["name", "predictor", "monitoring", "instances", "limits"],
    ),
    (
        "predictor",
        &["path", "target", "stack", "config", "grants", "models"],
    ),
    ("predictor.models[]", model::KEYS),
    (
        "predictor.models[].dynamic_batching",
        batching::DYNAMIC_BATCHING_KEYS,
    ),
    (
        "predictor.models[].instance_group",
        model::INSTANCE_GROUP_KEYS,
    ),
    ("predictor.models[].onnxruntime", model::ONNXRUNTIME_KEYS),
    ("predictor.models[].torchscript", model::TORCHSCRIPT_KEYS),
    ("predictor.models[].inputs[]", model::TENSOR_KEYS),
    ("predictor.models[].outputs[]", model::TENSOR_KEYS),
    ("predictor.models[].tolerance", model::TOLERANCE_KEYS),
    ("monitoring", monitoring::KEYS),
    ("instances", &["policy", "max", "calls_max", "idle_timeout"]),
    (
        "limits",
        &[
            "memory",
            "tensor_memory",
            "deadline",
            "request_body",
            "response_body",
            "requests_in_flight",
            "weight",
        ],
    ),
];

/// A checked `dunlin.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub name: DeploymentName,
    /// `None`: there is no predictor code, and the node serves the models as they are.
    pub predictor: Option<Predictor>,
    /// In the order of the file, with unique names. Not empty where there is no predictor.
    pub models: Vec<Model>,
    /// What is counted of its answers; `None`: nothing.
    pub monitoring: Option<Monitoring>,
    pub instances: Instances,
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Predictor {
    /// On the author's machine the folder of a Rust crate, or a `.wasm` file; relative to the
    /// folder of `dunlin.yaml` unless it is absolute. In a package the title of the component.
    pub path: PathBuf,
    pub target: GuestTarget,
    /// Bytes of memory for what Rust keeps on its stack.
    pub stack: u64,
    /// What `init` is given.
    pub config: serde_json::Map<String, serde_json::Value>,
    pub grants: Grants,
}

/// What a Rust predictor is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestTarget {
    Wasm32Wasip2,
    Wasm32UnknownUnknown,
}

impl GuestTarget {
    const ALL: [(&'static str, Self); 2] = [
        ("wasm32-wasip2", Self::Wasm32Wasip2),
        ("wasm32-unknown-unknown", Self::Wasm32UnknownUnknown),
    ];

    /// The name that rustc knows it by.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Wasm32Wasip2 => Self::ALL[0].0,
            Self::Wasm32UnknownUnknown => Self::ALL[1].0,
        }
    }
}

/// What a predictor may reach besides its models and its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants {
    /// `dunlin:predictor/clock`.
    pub clock: bool,
    /// `dunlin:predictor/random`.
    pub random: bool,
    /// `wasi:nn/graph.load`: models that the predictor brings as bytes.
    pub load: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instances {
    pub policy: InstancePolicy,
    /// How many live at once. Each has one call: by default enough for the greatest `max_batch_size` of
    /// its models, within 8 and 64.
    pub max: u32,
    /// Whether the file says so: a default may be lowered to what a node allows.
    pub max_written: bool,
    /// After so many calls a warm instance is replaced.
    pub calls_max: u64,
    /// After so long without a call a warm instance is dropped.
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstancePolicy {
    /// `init` once, then one call after the other.
    Warm,
    /// A new instance for each request.
    Fresh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory of one instance.
    pub memory: u64,
    /// Bytes of tensors that the host holds for one instance.
    pub tensor_memory: u64,
    /// From the first byte of a request to its answer.
    pub deadline: Duration,
    /// Bytes, after decompression.
    pub request_body: u64,
    pub response_body: u64,
    /// Requests of this deployment that are answered at once; more are refused.
    pub requests_in_flight: u32,
    /// Its share of the node's processors, and of engines that it shares, where there is not enough
    /// for all: twice the weight, twice the share.
    pub weight: NonZeroU32,
}

impl Deployment {
    /// Checks the text of a deployment file. `origin` is what messages call the file.
    pub fn parse(yaml: &str, origin: &str) -> Result<Self, ConfigError> {
        let report = Report::new(origin);
        let tree = crate::yaml::parse(yaml, origin)?;
        let deployment = check(&Section::root(&tree, LAYOUT, &report));
        report.finish()?;
        Ok(deployment.expect("a deployment that lacks something was reported"))
    }

    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&crate::yaml::read(path)?, &path.display().to_string())
    }

    /// The text of a deployment file with another `predictor.path`, and nothing else changed:
    /// comments and spelling stay. A file without that key comes back as it was.
    pub fn with_predictor_path(
        yaml: &str,
        origin: &str,
        path: &str,
    ) -> Result<String, ConfigError> {
        let mut wanted = Self::parse(yaml, origin)?;
        let Some(predictor) = &mut wanted.predictor else {
            return Ok(yaml.to_owned());
        };
        predictor.path = PathBuf::from(path);

        let report = Report::new(origin);
        let tree = crate::yaml::parse(yaml, origin)?;
        let section = Section::root(&tree, LAYOUT, &report).section("predictor");
        let rewritten = section.find("path").and_then(|written| {
            let span = written.span.clone()?;
            let quoted = serde_json::Value::from(path).to_string();
            Some(format!(
                "{}{quoted}{}",
                yaml.get(..span.start)?,
                yaml.get(span.end..)?
            ))
        });
        // A span is the parser's word; that the new text means what it should is checked.
        match rewritten {
            Some(rewritten) if Self::parse(&rewritten, origin).is_ok_and(|new| new == wanted) => {
                Ok(rewritten)
            }
            _ => {
                section.refuse(
                    "path",
                    "cannot be rewritten for the package; write it as a plain value, without an \
                     anchor, an alias or a tag",
                );
                report.finish()?;
                unreachable!("a problem was reported")
            }
        }
    }
}

/// `None` only after a problem was reported.
fn check(root: &Section<'_>) -> Option<Deployment> {
    let name = root.require("name", "digits", |value| {
        text(value)?
            .parse::<DeploymentName>()
            .map_err(|error| format!("{value} {error}"))
    });
    let section = root.section("predictor");
    let models = check_models(&section);
    let predictor = check_predictor(&section);
    if predictor.is_none() && models.as_ref().is_some_and(Vec::is_empty) && !section.has("path") {
        root.refuse(
            "predictor",
            "there is nothing to serve; write the predictor's path, a list of models, or both",
        );
    }
    Some(Deployment {
        monitoring: monitoring::check(root),
        instances: check_instances(
            &root.section("instances"),
            models.as_deref().unwrap_or_default(),
        ),
        limits: check_limits(&root.section("limits")),
        name: name?,
        predictor,
        models: models?,
    })
}

fn check_predictor(section: &Section<'_>) -> Option<Predictor> {
    let path = section.read("path", |value| match text(value)? {
        "" => Err("is empty; write the folder of a Rust crate or a .wasm file".to_owned()),
        path if path.contains('\0') => Err(format!("{value} is no path")),
        path => Ok(PathBuf::from(path)),
    });
    let target = section.one_of("target", GuestTarget::Wasm32Wasip2, &GuestTarget::ALL);
    let stack = section.size("stack", 256 * KI, 64 * KI..=64 * MI);
    let config = section.read("config", |value| match value.to_json() {
        serde_json::Value::Object(config) => Ok(config),
        _ => Err(format!(
            "{value} is not a mapping; write key: value lines below config"
        )),
    });
    let mut grants = Grants::default();
    section.read("grants", |value| match value {
        Value::List(items) => {
            for item in items {
                let choices = [("clock", 0), ("random", 1), ("load", 2)];
                match choose(&item.value, &choices)? {
                    0 => grants.clock = true,
                    1 => grants.random = true,
                    _ => grants.load = true,
                }
            }
            Ok(())
        }
        _ => Err(format!(
            "{value} is not a list; write [clock, random], or what is needed of it"
        )),
    });
    if !section.has("path") {
        for key in ["target", "stack", "config", "grants"] {
            if section.has(key) {
                section.refuse(
                    key,
                    "is of use only to a predictor; write predictor.path, or drop it",
                );
            }
        }
    }
    Some(Predictor {
        path: path?,
        target,
        stack,
        config: config.unwrap_or_default(),
        grants,
    })
}

/// `None` only after a problem was reported.
fn check_models(predictor: &Section<'_>) -> Option<Vec<Model>> {
    let sections = predictor.sections("models");
    if sections.len() > MODELS_MAX {
        predictor.refuse(
            "models",
            format!(
                "has {} models; a deployment has at most {MODELS_MAX}: make it two deployments",
                sections.len()
            ),
        );
        return None;
    }
    let mut seen = HashMap::new();
    let mut models = Some(Vec::new());
    for section in &sections {
        let model = model::check(section);
        if let Some(model) = &model
            && let Some(first) = seen.insert(model.name.clone(), section.line())
        {
            let at = first
                .map(|line| format!(" in line {line}"))
                .unwrap_or_default();
            section.refuse(
                "name",
                format!("{} is taken{at}; write another name", model.name),
            );
        }
        models = models.zip(model).map(|(mut models, model)| {
            models.push(model);
            models
        });
    }
    models
}

fn check_instances(section: &Section<'_>, models: &[Model]) -> Instances {
    let policies = [
        ("warm", InstancePolicy::Warm),
        ("fresh", InstancePolicy::Fresh),
    ];
    Instances {
        policy: section.one_of("policy", InstancePolicy::Warm, &policies),
        max: section.count_u32("max", instances_for(models), 1..=4096),
        max_written: section.has("max"),
        calls_max: section.count("calls_max", 100_000, 1..=1_000_000_000_000),
        idle_timeout: section.duration("idle_timeout", seconds(60), seconds(1)..=seconds(86_400)),
    }
}

/// Calls that share a run come from as many instances.
fn instances_for(models: &[Model]) -> u32 {
    const FEW: u32 = 8;
    const MANY: u32 = 64;
    let batchings = models.iter().filter_map(|model| model.batching.as_ref());
    let rows = batchings.map(|batching| batching.max_batch_size).max();
    let rows = u32::try_from(rows.unwrap_or_default()).unwrap_or(MANY);
    rows.clamp(FEW, MANY)
}

fn check_limits(section: &Section<'_>) -> Limits {
    Limits {
        // A 32-bit guest can address 4 GiB.
        memory: section.size("memory", 64 * MI, MI..=4 * GI),
        tensor_memory: section.size("tensor_memory", 256 * MI, MI..=64 * GI),
        deadline: section.duration(
            "deadline",
            seconds(5),
            Duration::from_millis(1)..=seconds(3600),
        ),
        request_body: section.size("request_body", 16 * MI, KI..=4 * GI),
        response_body: section.size("response_body", 16 * MI, KI..=4 * GI),
        requests_in_flight: section.count_u32("requests_in_flight", 512, 1..=1_000_000),
        weight: NonZeroU32::new(section.count_u32("weight", 1, 1..=1000))
            .unwrap_or(NonZeroU32::MIN),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
