//! From a package in the store to a revision that can serve: models loaded, warmed and checked
//! against their golden samples, the predictor compiled and its first instance up.

use std::{
    collections::BTreeMap,
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use dunlin_inference::{
    BackendKind, BatchOptions, DType, Dim, GoldenSample, GraphOptimization, LoadRequest, Model,
    ModelOptions, ModelSource, OnnxRuntimeOptions, Registry, TensorSpec, Tolerance,
    TorchScriptOptions,
};
use dunlin_package::{Blob, Digest, LayerKind, Package, Store};
use dunlin_sandbox::{Predictor, PredictorSpec, Program, Sandbox};
use edge_config::{
    BackendChoice, Datatype, Instances, ModelOverride, PackagePath, TensorDeclaration,
};
use tokio::sync::Semaphore;

use crate::{
    control::blocking, deployment::Revision, error::ChangeError, telemetry::Telemetry, turns::Share,
};

/// A predictor may read tables and vocabularies in `init`.
const INIT_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Loader {
    bounds: Bounds,
    store: Arc<Store>,
    sandbox: Sandbox,
    registry: Arc<Registry>,
    model_loads: Semaphore,
}

/// How many packages may have their models loaded at once: that takes threads and memory. Compiling
/// has its own turn in the sandbox. An `init` has neither: one that takes its time holds nobody up.
const MODEL_LOADS_MAX: usize = 4;

/// What a deployment may ask of this node.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    instances_max: u32,
    deadline_max: Duration,
    request_body_max: u64,
    response_body_max: u64,
    tensor_memory_max: u64,
}

impl Bounds {
    fn of(config: &edge_config::Node) -> Self {
        Self {
            instances_max: config.instances_max,
            deadline_max: config.deadline_max,
            request_body_max: config.request_body_max,
            response_body_max: config.response_body_max,
            tensor_memory_max: config.tensor_memory_max,
        }
    }

    /// As many instances as the deployment asks for, or as there may be where it does not say.
    fn instances(&self, asked: Instances) -> Instances {
        let max = match asked.max_written {
            true => asked.max,
            false => asked.max.min(self.instances_max),
        };
        Instances { max, ..asked }
    }

    fn check(&self, deployment: &edge_config::Deployment) -> Result<(), ChangeError> {
        let refuse = |asked: String, allowed: String| ChangeError::Bound { asked, allowed };
        let limits = &deployment.limits;
        let (instances, deadline) = (deployment.instances, limits.deadline);
        let max = instances.max;
        let beyond = instances.max_written && max > self.instances_max;
        if deployment.predictor.is_some() && beyond {
            return Err(refuse(
                format!("instances.max is {max}"),
                format!("{} (instances_max)", self.instances_max),
            ));
        }
        if deadline > self.deadline_max {
            return Err(refuse(
                format!("limits.deadline is {deadline:?}"),
                format!("{:?} (deadline_max)", self.deadline_max),
            ));
        }
        let sizes = [
            ("request_body", limits.request_body, self.request_body_max),
            (
                "response_body",
                limits.response_body,
                self.response_body_max,
            ),
            (
                "tensor_memory",
                limits.tensor_memory,
                self.tensor_memory_max,
            ),
        ];
        for (limit, asked, allowed) in sizes {
            if asked > allowed {
                return Err(refuse(
                    format!("limits.{limit} is {asked} bytes"),
                    format!("{allowed} ({limit}_max)"),
                ));
            }
        }
        Ok(())
    }
}

impl Loader {
    pub(crate) fn new(
        config: &edge_config::Node,
        store: Arc<Store>,
        sandbox: Sandbox,
        registry: Registry,
    ) -> Self {
        Self {
            bounds: Bounds::of(config),
            store,
            sandbox,
            registry: Arc::new(registry),
            model_loads: Semaphore::new(MODEL_LOADS_MAX),
        }
    }

    pub(crate) async fn load(
        &self,
        package: &Package,
        model_config: Option<&str>,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Revision, ChangeError> {
        self.bounds.check(package.deployment())?;
        let settings = settings(package, model_config)?;
        // Both to their end: a load that goes on by itself would read files that are gone, and take
        // threads and memory beside the next one.
        let (models, program) =
            tokio::join!(self.load_models(package, &settings), self.program(package));
        let (models, program) = (models?, program?);
        let predictor = match (&package.deployment().predictor, program) {
            (Some(predictor), Some(program)) => {
                let started = self.start_predictor(
                    package.deployment(),
                    predictor,
                    program,
                    &models,
                    telemetry,
                );
                Some(Arc::new(started.await?))
            }
            _ => None,
        };
        Ok(Revision {
            predictor,
            models,
            settings,
            limits: package.deployment().limits,
            monitoring: package.deployment().monitoring.clone(),
            share: Arc::new(Share::new(&package.deployment().limits)),
        })
    }

    async fn load_models(
        &self,
        package: &Package,
        settings: &[edge_config::Model],
    ) -> Result<BTreeMap<String, Model>, ChangeError> {
        let turn = self.model_loads.acquire().await;
        let _turn = turn.expect("nobody closes the semaphore");
        let mut models = BTreeMap::new();
        for model in settings {
            let name = model.name.to_string();
            let loaded = self.load_model(package, model).await?;
            let loaded = loaded.of_weight(package.deployment().limits.weight);
            models.insert(name, loaded);
        }
        Ok(models)
    }

    async fn load_model(
        &self,
        package: &Package,
        model: &edge_config::Model,
    ) -> Result<Model, ChangeError> {
        let weights = file(package, &model.path)?;
        self.check(&weights.digest).await?;
        let mut source = ModelSource::path(self.store.path(&weights.digest));
        let mut digest = weights.digest.to_string();
        for external in external_files(package, model) {
            self.check(&external.digest).await?;
            source = source.with_file(
                relative(&model.path, &external.title),
                self.store.path(&external.digest),
            );
            digest.push_str(&format!("+{}", external.digest));
        }
        let golden = match &model.golden {
            Some(path) => {
                let samples = file(package, path)?;
                self.check(&samples.digest).await?;
                Some(GoldenSample {
                    digest: samples.digest.to_string(),
                    path: self.store.path(&samples.digest),
                    tolerance: Tolerance {
                        relative: model.tolerance.relative,
                        absolute: model.tolerance.absolute,
                    },
                })
            }
            None => None,
        };
        let request = LoadRequest {
            digest,
            source,
            backend: backend(model.backend),
            options: options(model),
            golden,
        };
        let loaded = self.registry.get_or_load(request).await;
        loaded.map_err(|source| ChangeError::Model {
            model: model.name.to_string(),
            source,
        })
    }

    /// The package's predictor, compiled. None where it is of models alone.
    async fn program(&self, package: &Package) -> Result<Option<Arc<Program>>, ChangeError> {
        let Some(component) = package.predictor() else {
            return Ok(None);
        };
        let (store, digest) = (Arc::clone(&self.store), component.digest);
        let wasm = blocking(move || store.read(&digest)).await??;
        let program = self.sandbox.program(wasm.into()).await;
        program.map(Some).map_err(ChangeError::Predictor)
    }

    async fn start_predictor(
        &self,
        deployment: &edge_config::Deployment,
        predictor: &edge_config::Predictor,
        program: Arc<Program>,
        models: &BTreeMap<String, Model>,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Predictor, ChangeError> {
        let models = models.iter();
        let spec = PredictorSpec {
            program,
            config: serde_json::Value::Object(predictor.config.clone()).to_string(),
            models: models
                .map(|(name, model)| (name.clone(), model.clone()))
                .collect(),
            registry: Arc::clone(&self.registry),
            grants: predictor.grants,
            instances: self.bounds.instances(deployment.instances),
            limits: deployment.limits,
            observer: Arc::clone(telemetry) as _,
            init_deadline: INIT_DEADLINE,
        };
        let started = Predictor::start(&self.sandbox, spec).await;
        started.map_err(ChangeError::Predictor)
    }

    /// What an engine is about to open is what the package promised.
    async fn check(&self, digest: &Digest) -> Result<(), ChangeError> {
        let (store, digest) = (Arc::clone(&self.store), *digest);
        Ok(blocking(move || store.check(&digest)).await??)
    }
}

/// How the package's models are to be run: as it says, but for what `model_config`, the JSON of a
/// load, changes.
fn settings(
    package: &Package,
    model_config: Option<&str>,
) -> Result<Vec<edge_config::Model>, ChangeError> {
    let models = &package.deployment().models;
    let Some(model_config) = model_config else {
        return Ok(models.clone());
    };
    let [model] = &models[..] else {
        return Err(ChangeError::ModelConfig(format!(
            "it is for a deployment of one model, and this one has {}; deploy a package with other \
             settings",
            models.len()
        )));
    };
    let changes = ModelOverride::parse(model_config, model)
        .map_err(|error| ChangeError::ModelConfig(error.to_string()))?;
    Ok(vec![changes.apply(model)])
}

fn file<'p>(package: &'p Package, path: &PackagePath) -> Result<&'p Blob, ChangeError> {
    package.file(path.as_str()).ok_or_else(|| {
        ChangeError::Defect(format!("{path} is not in the package that was checked"))
    })
}

/// The files of weights that are no model of their own: what a model keeps beside itself.
fn external_files<'p>(
    package: &'p Package,
    model: &edge_config::Model,
) -> impl Iterator<Item = &'p Blob> {
    let models = &package.deployment().models;
    let folder = folder(&model.path).to_owned();
    package.files().filter(move |blob| {
        blob.kind == LayerKind::Weights
            && blob.title.as_str().starts_with(&folder)
            && !models.iter().any(|model| model.path == blob.title)
    })
}

/// How a model at `model` refers to `file`: by a path from its own folder.
fn relative(model: &PackagePath, file: &PackagePath) -> String {
    let file = file.as_str();
    file.strip_prefix(folder(model)).unwrap_or(file).to_owned()
}

/// With its slash; empty at the root of the package.
fn folder(path: &PackagePath) -> &str {
    let path = path.as_str();
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

pub(crate) fn backend(choice: BackendChoice) -> BackendKind {
    match choice {
        BackendChoice::Auto => BackendKind::Auto,
        BackendChoice::Tract => BackendKind::Tract,
        BackendChoice::OnnxRuntime => BackendKind::OnnxRuntime,
        BackendChoice::TorchScript => BackendKind::TorchScript,
    }
}

fn options(model: &edge_config::Model) -> ModelOptions {
    let (onnxruntime, torchscript) = (model.onnxruntime, model.torchscript);
    let count = |count: u32| NonZeroUsize::new(count as usize).unwrap_or(NonZeroUsize::MIN);
    ModelOptions {
        instances: count(model.instances),
        queue_max: count(model.max_queue_size),
        queue_timeout: model.queue_timeout,
        batching: model.batching.as_ref().map(batching),
        threads_per_run: count(model.threads),
        onnxruntime: OnnxRuntimeOptions {
            graph_optimization: match onnxruntime.graph_optimization {
                edge_config::GraphOptimization::Disabled => GraphOptimization::Disabled,
                edge_config::GraphOptimization::Basic => GraphOptimization::Basic,
                edge_config::GraphOptimization::Extended => GraphOptimization::Extended,
                edge_config::GraphOptimization::All => GraphOptimization::All,
            },
            arena: onnxruntime.arena,
            spinning: onnxruntime.spinning,
            memory_pattern: onnxruntime.memory_pattern,
        },
        torchscript: TorchScriptOptions {
            optimize_for_inference: torchscript.optimize_for_inference,
        },
        inputs: model.inputs.iter().map(spec).collect(),
        outputs: model.outputs.iter().map(spec).collect(),
        ..ModelOptions::default()
    }
}

fn batching(batching: &edge_config::Batching) -> BatchOptions {
    let rows = |rows: u64| NonZeroU64::new(rows).unwrap_or(NonZeroU64::MIN);
    let preferred = batching.preferred_batch_size.iter();
    BatchOptions {
        max_batch_size: rows(batching.max_batch_size),
        preferred_batch_size: preferred.map(|size| rows(*size)).collect(),
        max_queue_delay: batching.max_queue_delay,
    }
}

fn spec(tensor: &TensorDeclaration) -> TensorSpec {
    let sizes = tensor.shape.iter();
    TensorSpec {
        name: tensor.name.clone(),
        dtype: dtype(tensor.datatype),
        shape: sizes
            .map(|size| size.map_or(Dim::Any, Dim::Fixed))
            .collect(),
    }
}

fn dtype(datatype: Datatype) -> DType {
    match datatype {
        Datatype::Bool => DType::Bool,
        Datatype::Uint8 => DType::U8,
        Datatype::Uint16 => DType::U16,
        Datatype::Uint32 => DType::U32,
        Datatype::Uint64 => DType::U64,
        Datatype::Int8 => DType::I8,
        Datatype::Int16 => DType::I16,
        Datatype::Int32 => DType::I32,
        Datatype::Int64 => DType::I64,
        Datatype::Fp16 => DType::F16,
        Datatype::Bf16 => DType::BF16,
        Datatype::Fp32 => DType::F32,
        Datatype::Fp64 => DType::F64,
        Datatype::Bytes => DType::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_asks_for_no_more_than_the_node_allows() {
        let node = "instances_max: 9\ndeadline_max: 6s\nrequest_body_max: 1Mi\n\
                    response_body_max: 2Mi\ntensor_memory_max: 3Mi\n";
        let bounds = Bounds::of(&edge_config::Node::parse(node, "node.yaml").unwrap());
        let check = |limits: &str| {
            let yaml = format!("name: a\npredictor: {{path: .}}\nlimits: {{{limits}}}\n");
            let deployment = edge_config::Deployment::parse(&yaml, "dunlin.yaml").unwrap();
            bounds.check(&deployment)
        };
        let within = "request_body: 1Mi, response_body: 2Mi, tensor_memory: 3Mi, deadline: 6s";
        check(within).unwrap();
        for (most, more, key) in [
            (
                "request_body: 1Mi",
                "request_body: 1025Ki",
                "request_body_max",
            ),
            (
                "response_body: 2Mi",
                "response_body: 3Mi",
                "response_body_max",
            ),
            (
                "tensor_memory: 3Mi",
                "tensor_memory: 4Mi",
                "tensor_memory_max",
            ),
            ("deadline: 6s", "deadline: 7s", "deadline_max"),
        ] {
            let refused = check(&within.replace(most, more)).unwrap_err().to_string();
            assert!(refused.contains(key), "{refused}");
        }
    }

    #[test]
    fn instances_that_nobody_wrote_are_as_many_as_may_be() {
        let node = edge_config::Node::parse("instances_max: 9", "node.yaml").unwrap();
        let bounds = Bounds::of(&node);
        let instances = |more: &str| {
            let yaml = format!(
                "name: a\npredictor:\n  path: .\n  models:\n    - name: m\n      path: m.onnx\n{more}"
            );
            let deployment = edge_config::Deployment::parse(&yaml, "dunlin.yaml").unwrap();
            let checked = bounds.check(&deployment);
            checked.map(|()| bounds.instances(deployment.instances).max)
        };
        assert_eq!(instances("").unwrap(), 8);
        assert_eq!(instances("      max_batch_size: 32\n").unwrap(), 9);
        assert_eq!(instances("instances: {max: 9}\n").unwrap(), 9);
        let refused = instances("instances: {max: 10}\n").unwrap_err().to_string();
        assert!(refused.contains("instances_max"), "{refused}");
    }
}
