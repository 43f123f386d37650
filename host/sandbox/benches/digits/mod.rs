//! The digits predictor in a sandbox, and the same work without one.

use std::{
    collections::HashMap, error::Error, fs, num::NonZeroU32, path::Path, sync::Arc, time::Duration,
};

use dunlin_inference::{
    BackendKind, BackendPaths, Backends, DType, LoadRequest, Model, ModelOptions, ModelSource,
    Registry, Tensor,
};
use dunlin_sandbox::{
    Deadline, LogEntry, Measurement, Observer, Predictor, PredictorSpec, Request, Sandbox,
    SandboxConfig,
};
use edge_config::{Grants, InstancePolicy, Instances, Limits};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

const LABELS: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// What `predictors/forward` is told of digits.
const FORWARD: &str = r#"{
    "model": "digits",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
}"#;

/// One model, and the predictor twice: with warm instances and with fresh ones.
#[derive(Debug)]
pub(crate) struct Digits {
    pub(crate) model: Model,
    pub(crate) warm: Predictor,
    pub(crate) fresh: Predictor,
    /// The predictor that only hands tensors on.
    forward: Predictor,
    /// The compiled code lies there.
    _cache: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Question {
    pixels: [[f32; 8]; 8],
}

#[derive(Serialize)]
struct Answer {
    label: usize,
    probabilities: [f32; LABELS],
}

#[derive(Debug)]
struct Silent;

impl Observer for Silent {
    fn log(&self, _: LogEntry) {}
    fn measure(&self, _: &str, _: Measurement) {}
}

impl Digits {
    /// `components` is the folder of what `cargo xtask guests` compiled. Native backends are those in
    /// the folder that `DUNLIN_BACKENDS` names.
    pub(crate) async fn load(
        components: &Path,
        model: &str,
        backend: BackendKind,
    ) -> Result<Self, Failure> {
        let registry = Arc::new(Registry::new(Backends::new(BackendPaths {
            folder: std::env::var_os("DUNLIN_BACKENDS").map(Into::into),
            ..BackendPaths::default()
        })));
        let model = registry
            .get_or_load(LoadRequest {
                digest: model.to_owned(),
                source: ModelSource::path(model),
                backend,
                options: ModelOptions::default(),
                golden: None,
            })
            .await?;
        let cache = tempfile::tempdir()?;
        let sandbox = Sandbox::new(SandboxConfig {
            instances_max: 16,
            guest_memory_max: 256 << 20,
            cache_dir: cache.path().join("cache"),
            compiler: None,
        })?;
        let predictor = async |name: &str, config: &str, policy| -> Result<_, Failure> {
            let component = components.join(name).with_extension("component.wasm");
            let spec = PredictorSpec {
                program: sandbox.program(fs::read(component)?.into()).await?,
                config: config.to_owned(),
                models: HashMap::from([("digits".to_owned(), model.clone())]),
                registry: Arc::clone(&registry),
                grants: Grants {
                    clock: false,
                    random: false,
                    load: false,
                },
                instances: Instances {
                    policy,
                    max: 8,
                    max_written: true,
                    calls_max: u64::MAX,
                    idle_timeout: MINUTE,
                },
                limits: Limits {
                    memory: 256 << 20,
                    tensor_memory: 256 << 20,
                    deadline: MINUTE,
                    request_body: 1 << 20,
                    response_body: 1 << 20,
                    requests_in_flight: 8,
                    weight: NonZeroU32::MIN,
                },
                observer: Arc::new(Silent),
                init_deadline: MINUTE,
            };
            Ok(Predictor::start(&sandbox, spec).await?)
        };
        Ok(Self {
            warm: predictor("digits", "{}", InstancePolicy::Warm).await?,
            fresh: predictor("digits", "{}", InstancePolicy::Fresh).await?,
            forward: predictor("forward", FORWARD, InstancePolicy::Warm).await?,
            model,
            _cache: cache,
        })
    }

    /// The whole of it without Wasm: the same JSON, the same model, the same softmax.
    pub(crate) async fn native(&self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let Question { pixels } = serde_json::from_slice(body)?;
        let input = Tensor::from_values(&[1, 1, 8, 8], pixels.as_flattened())?;
        let outputs = self.model.infer(vec![("pixels".to_owned(), input)]).await?;
        let logits = outputs.into_iter().next().ok_or("no output")?.1;
        let logits: Vec<f32> = logits.values().ok_or("not FP32")?.collect();
        let mut label = 0;
        for (at, logit) in logits.iter().enumerate() {
            if *logit > logits[label] {
                label = at;
            }
        }
        let exponentials: [f32; LABELS] =
            std::array::from_fn(|at| (logits[at] - logits[label]).exp());
        let sum: f32 = exponentials.iter().sum();
        let probabilities = exponentials.map(|exponential| exponential / sum);
        Ok(serde_json::to_vec(&Answer {
            label,
            probabilities,
        })?)
    }

    pub(crate) fn row(&self) -> Tensor {
        Tensor::zeros(DType::F32, &[1, 1, 8, 8]).expect("a row is small")
    }

    /// Tensors through a guest and its model, and back.
    pub(crate) async fn forwarded(
        &self,
        inputs: &[(String, Tensor)],
    ) -> Result<Vec<(String, Tensor)>, Failure> {
        let deadline = Deadline::after(MINUTE);
        let called = self
            .forward
            .infer("0123456789abcdef", inputs, deadline, None);
        Ok(called.await.answer?)
    }

    /// The predictor's answer.
    pub(crate) async fn predict(predictor: &Predictor, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let request = Request {
            id: "0123456789abcdef",
            method: "POST",
            path: "/",
            query: &[],
            headers: &[],
            body,
        };
        let (begin, _begun) = oneshot::channel();
        let called = predictor.predict(request, Deadline::after(MINUTE), None, begin);
        Ok(called.await.answer?.body)
    }
}

/// A picture with a stroke in it.
pub(crate) fn question() -> Vec<u8> {
    let mut pixels = [[0_u8; 8]; 8];
    for row in &mut pixels {
        row[3] = 13;
        row[4] = 16;
    }
    let rows: Vec<String> = pixels.iter().map(|row| format!("{row:?}")).collect();
    format!("{{\"pixels\":[{}]}}", rows.join(",")).into_bytes()
}
