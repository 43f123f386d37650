//! Models of tens of milliseconds, through HTTP, guest and `wasi:nn` in binary tensors, beside ONNX
//! Runtime called in process with the same threads: what a node takes of the engine's throughput.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dunlin_tests::{Variant, repository};
use http::{Method, header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Question},
    contest::Plan,
    load::{Answers, Generator},
    node,
    spread::Spread,
};

/// The folder that `tests/python/reference_models.py` wrote.
const MODELS: &str = "DUNLIN_REFERENCE_MODELS";
/// An interpreter with onnxruntime.
const PYTHON: &str = "DUNLIN_BENCH_PYTHON";

/// Either what was measured, or why nothing was.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Models {
    Measured(Vec<ModelContest>),
    Skipped(String),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ModelContest {
    pub(crate) model: &'static str,
    pub(crate) rounds: Vec<Round>,
    /// Runs at once, in process as in the node, each with one thread.
    pub(crate) workers: usize,
    pub(crate) connections: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) in_process: Answers,
    pub(crate) node: Answers,
}

struct Reference {
    name: &'static str,
    path: &'static str,
    input: Tensor,
    output: Tensor,
}

struct Tensor {
    name: &'static str,
    datatype: &'static str,
    /// Of one row.
    shape: &'static [u64],
    element_bytes: u64,
}

const REFERENCES: [Reference; 2] = [
    Reference {
        name: "resnet18",
        path: "/v2/models/resnet18/infer",
        input: Tensor {
            name: "image",
            datatype: "FP32",
            shape: &[3, 224, 224],
            element_bytes: 4,
        },
        output: Tensor {
            name: "logits",
            datatype: "FP32",
            shape: &[1000],
            element_bytes: 4,
        },
    },
    Reference {
        name: "encoder",
        path: "/v2/models/encoder/infer",
        input: Tensor {
            name: "ids",
            datatype: "INT64",
            shape: &[128],
            element_bytes: 8,
        },
        output: Tensor {
            name: "embedding",
            datatype: "FP32",
            shape: &[384],
            element_bytes: 4,
        },
    },
];

pub(crate) fn measure(
    plan: &Plan,
    client: &Client,
    generator: &Generator,
    home: &Path,
) -> Result<Models> {
    let (Some(models), Some(python)) = (env::var_os(MODELS), env::var_os(PYTHON)) else {
        let reason = "the models are made with PyTorch: cargo xtask bench --with lightning";
        println!("\nResNet-18 and encoder: skipped; {reason}");
        return Ok(Models::Skipped(reason.to_owned()));
    };
    let (models, python) = (PathBuf::from(models), PathBuf::from(python));
    let workers = std::thread::available_parallelism()?.get();
    // One more for each worker, so that none waits for a connection.
    let connections = 2 * workers;
    let home = home.join("models");
    fs::create_dir(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let node = node::start(&home, node::Engines::Installed)?;
    let mut contests = Vec::new();
    for reference in &REFERENCES {
        let file = models.join(reference.name).with_extension("onnx");
        println!(
            "\n{}: {workers} runs at once, {connections} connections",
            reference.name
        );
        let variant = reference.package(&file, workers)?;
        node::upload(client, &node, variant.bytes())?;
        let question = reference.question();
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            let in_process = in_process(&python, &file, workers, plan)?;
            let address = node.data()?;
            generator.run(client, address, &question, connections, plan.warm_up)?;
            let answers = generator.run(client, address, &question, connections, plan.window)?;
            println!(
                "  ONNX Runtime in process {:.1} runs/s, the node {:.1} requests/s: {:.3}",
                in_process.per_second,
                answers.per_second,
                answers.per_second / in_process.per_second
            );
            rounds.push(Round {
                in_process,
                node: answers,
            });
        }
        contests.push(ModelContest {
            model: reference.name,
            rounds,
            workers,
            connections,
        });
    }
    node.stop()?;
    Ok(Models::Measured(contests))
}

impl ModelContest {
    /// Requests a second of the node by runs a second in process.
    pub(crate) fn share(&self) -> Spread {
        let shares = self.rounds.iter();
        Spread::of(shares.map(|round| round.node.per_second / round.in_process.per_second))
    }
}

impl Reference {
    /// The predictor that only hands tensors on, with this model.
    fn package(&self, file: &Path, workers: usize) -> Result<Variant> {
        ensure!(
            file.is_file(),
            "{} is missing; cargo xtask bench --with lightning makes it",
            file.display()
        );
        Ok(Variant::of_folder("forward", |folder| {
            let models = folder.join("models");
            fs::copy(file, models.join("model.onnx")).expect("the folder is the test's");
            let yaml = self.deployment(workers).to_string();
            fs::write(folder.join("dunlin.yaml"), yaml).expect("the folder is the test's");
        }))
    }

    fn deployment(&self, workers: usize) -> Value {
        json!({
            "name": self.name,
            "predictor": {
                "path": "predictor.wasm",
                "config": {
                    "model": self.name,
                    "inputs": [self.input.metadata()],
                    "outputs": [self.output.metadata()],
                },
                "models": [{
                    "name": self.name,
                    "path": "models/model.onnx",
                    "backend": "onnxruntime",
                    "instance_group": {"count": workers},
                    "threads": 1,
                }],
            },
        })
    }

    /// One row of zeros, and the answer in binary.
    fn question(&self) -> Question {
        let input = &self.input;
        let elements: u64 = input.shape.iter().product();
        let bytes = elements * input.element_bytes;
        let shape = [&[1], input.shape].concat();
        let head = json!({
            "parameters": {"binary_data_output": true},
            "inputs": [{
                "name": input.name,
                "datatype": input.datatype,
                "shape": shape,
                "parameters": {"binary_data_size": bytes},
            }],
        })
        .to_string();
        let length = head.len().to_string();
        let mut body = head.into_bytes();
        body.resize(
            body.len() + usize::try_from(bytes).expect("a row fits in memory"),
            0,
        );
        Question {
            method: Method::POST,
            path: self.path,
            headers: vec![(
                header::HeaderName::from_static("inference-header-content-length"),
                length,
            )],
            body: Bytes::from(body),
        }
    }
}

impl Tensor {
    fn metadata(&self) -> Value {
        let shape: Vec<i64> = [-1]
            .into_iter()
            .chain(self.shape.iter().map(|size| size.cast_signed()))
            .collect();
        json!({"name": self.name, "datatype": self.datatype, "shape": shape})
    }
}

/// ONNX Runtime's own binding, in a process of its own.
fn in_process(python: &Path, model: &Path, callers: usize, plan: &Plan) -> Result<Answers> {
    let output = Command::new(python)
        .arg(repository().join("tests/python/onnxruntime_in_process.py"))
        .arg(model)
        .args(["--threads", "1", "--callers", &callers.to_string()])
        .args(["--seconds", &plan.window.as_secs_f64().to_string()])
        .args(["--warm-up", &plan.warm_up.as_secs_f64().to_string()])
        .output()
        .with_context(|| format!("cannot run {}", python.display()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "onnxruntime_in_process.py: {complaint}"
    );
    serde_json::from_slice(&output.stdout).context("it did not print its result")
}
