//! One model of a deployment: its file, the backend that runs it and how, and what the file itself
//! does not say.

use std::time::Duration;

use crate::batching::{self, Batching};
use crate::name::ModelName;
use crate::package_path::PackagePath;
use crate::section::{Section, text};
use crate::yaml::Value;

/// The keys of a model, for the layout of the file that it stands in.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "path",
    "backend",
    "instance_group",
    "threads",
    "max_batch_size",
    "dynamic_batching",
    "max_queue_size",
    "default_timeout_microseconds",
    "onnxruntime",
    "torchscript",
    "inputs",
    "outputs",
    "golden",
    "tolerance",
];
pub(crate) const ONNXRUNTIME_KEYS: &[&str] =
    &["graph_optimization", "arena", "spinning", "memory_pattern"];
pub(crate) const TORCHSCRIPT_KEYS: &[&str] = &["optimize_for_inference"];
pub(crate) const INSTANCE_GROUP_KEYS: &[&str] = &["count"];
pub(crate) const TENSOR_KEYS: &[&str] = &["name", "datatype", "shape"];
pub(crate) const TOLERANCE_KEYS: &[&str] = &["relative", "absolute"];

/// More runs at once or threads than an edge machine has cores for.
pub(crate) const THREADS_MAX: u32 = 256;
/// Each waiting call keeps its tensors and its connection.
pub(crate) const QUEUE_MAX: u32 = 1_000_000;
/// In microseconds; no request has more time than an hour.
const TIMEOUT_MAX: u64 = 3_600_000_000;
/// As many tensors as a signature is ever written by hand with.
const TENSORS_MAX: usize = 1024;
/// What the host takes; see `RANK_MAX` there.
const RANK_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: ModelName,
    pub path: PackagePath,
    pub backend: BackendChoice,
    /// Calls that run at once, besides those that are so short that they run where they arrive:
    /// `instance_group.count`.
    pub instances: u32,
    /// Threads that one run may use.
    pub threads: u32,
    /// Calls share runs.
    pub batching: Option<Batching>,
    /// Calls that may wait for a run; more are refused.
    pub max_queue_size: u32,
    /// A call that has waited so long for a run is refused: `default_timeout_microseconds`.
    pub queue_timeout: Option<Duration>,
    pub onnxruntime: OnnxRuntimeSettings,
    pub torchscript: TorchScriptSettings,
    /// What the file does not say. Where it does, both must agree.
    pub inputs: Vec<TensorDeclaration>,
    pub outputs: Vec<TensorDeclaration>,
    pub golden: Option<PackagePath>,
    pub tolerance: Tolerance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// The node takes the best backend it has for the format.
    Auto,
    Tract,
    OnnxRuntime,
    TorchScript,
}

/// Of use to a model that ONNX Runtime runs; any other ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnnxRuntimeSettings {
    pub graph_optimization: GraphOptimization,
    /// Memory of a run is kept for the next one: faster, and its peak stays taken.
    pub arena: bool,
    /// Threads wait for work by spinning: faster runs, and a core that is never idle.
    pub spinning: bool,
    /// One block for each combination of input shapes: of use where they never change.
    pub memory_pattern: bool,
}

/// How far ONNX Runtime rewrites a graph when it loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphOptimization {
    Disabled,
    Basic,
    Extended,
    All,
}

/// Of use to a model that libtorch runs; any other ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TorchScriptSettings {
    /// Folds and reorders weights when the model is loaded: helps large convolutions, hurts small.
    pub optimize_for_inference: bool,
}

/// The name, type and shape of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDeclaration {
    pub name: String,
    pub datatype: Datatype,
    /// Outermost first; `None` differs from call to call and is written `-1`.
    pub shape: Vec<Option<u64>>,
}

/// An element type of the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    const ALL: [(&'static str, Self); 14] = [
        ("BOOL", Self::Bool),
        ("UINT8", Self::Uint8),
        ("UINT16", Self::Uint16),
        ("UINT32", Self::Uint32),
        ("UINT64", Self::Uint64),
        ("INT8", Self::Int8),
        ("INT16", Self::Int16),
        ("INT32", Self::Int32),
        ("INT64", Self::Int64),
        ("FP16", Self::Fp16),
        ("BF16", Self::Bf16),
        ("FP32", Self::Fp32),
        ("FP64", Self::Fp64),
        ("BYTES", Self::Bytes),
    ];

    /// The protocol's name, as it is written.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

/// How far an output may be from the golden sample's: `|a - b| <= absolute + relative * |b|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

/// `None` only after a problem was reported.
pub(crate) fn check(section: &Section<'_>) -> Option<Model> {
    let name = section.require("name", "digits", |value| {
        text(value)?
            .parse::<ModelName>()
            .map_err(|error| format!("{value} {error}"))
    });
    let path = section.require("path", "models/digits.onnx", package_path);
    let golden = section.read("golden", |value| {
        let path = package_path(value)?;
        if !path.as_str().ends_with(".safetensors") {
            return Err(format!(
                "{value} is not a golden sample; write a .safetensors file"
            ));
        }
        Ok(path)
    });
    let backend = section.one_of(
        "backend",
        BackendChoice::Auto,
        &[
            ("auto", BackendChoice::Auto),
            ("tract", BackendChoice::Tract),
            ("onnxruntime", BackendChoice::OnnxRuntime),
            ("torchscript", BackendChoice::TorchScript),
        ],
    );
    let inputs = check_tensors(section, "inputs");
    if backend == BackendChoice::TorchScript && !section.has("inputs") {
        section.refuse(
            "inputs",
            "is missing, and a TorchScript file does not say it; write \
             inputs: [{name: pixels, datatype: FP32, shape: [-1, 8]}], in the order of forward",
        );
    }
    let torchscript = section.section("torchscript");
    let instance_group = section.section("instance_group");
    let tolerance = section.section("tolerance");
    Some(Model {
        instances: instance_group.count_u32("count", 1, 1..=THREADS_MAX),
        threads: section.count_u32("threads", 1, 1..=THREADS_MAX),
        batching: batching::check(section),
        max_queue_size: section.count_u32("max_queue_size", 256, 1..=QUEUE_MAX),
        queue_timeout: check_queue_timeout(section),
        onnxruntime: check_onnxruntime(&section.section("onnxruntime")),
        torchscript: TorchScriptSettings {
            optimize_for_inference: torchscript.flag("optimize_for_inference", false),
        },
        outputs: check_tensors(section, "outputs"),
        tolerance: Tolerance {
            relative: tolerance.fraction("relative", 1e-4, 0.0..=1.0),
            absolute: tolerance.fraction("absolute", 1e-4, 0.0..=1e6),
        },
        name: name?,
        path: path?,
        backend,
        inputs,
        golden,
    })
}

/// `None`: a call waits until its deadline.
pub(crate) fn check_queue_timeout(section: &Section<'_>) -> Option<Duration> {
    let timeout = section.count("default_timeout_microseconds", 0, 0..=TIMEOUT_MAX);
    (timeout > 0).then(|| Duration::from_micros(timeout))
}

/// The defaults are those of a small node: what saves time at the price of an idle core, or of
/// memory for every shape that ever came, is asked for.
fn check_onnxruntime(section: &Section<'_>) -> OnnxRuntimeSettings {
    OnnxRuntimeSettings {
        graph_optimization: section.one_of(
            "graph_optimization",
            GraphOptimization::All,
            &[
                ("disabled", GraphOptimization::Disabled),
                ("basic", GraphOptimization::Basic),
                ("extended", GraphOptimization::Extended),
                ("all", GraphOptimization::All),
            ],
        ),
        arena: section.flag("arena", true),
        spinning: section.flag("spinning", false),
        memory_pattern: section.flag("memory_pattern", false),
    }
}

/// Those of the list that are right; the others were reported.
fn check_tensors(model: &Section<'_>, key: &str) -> Vec<TensorDeclaration> {
    let sections = model.sections(key);
    if sections.len() > TENSORS_MAX {
        model.refuse(
            key,
            format!(
                "has {} tensors; a model has at most {TENSORS_MAX}",
                sections.len()
            ),
        );
        return Vec::new();
    }
    let mut tensors: Vec<TensorDeclaration> = Vec::new();
    for section in &sections {
        let Some(tensor) = check_tensor(section) else {
            continue;
        };
        if tensors.iter().any(|other| other.name == tensor.name) {
            section.refuse(
                "name",
                format!("{} is taken; write another name", tensor.name),
            );
        }
        tensors.push(tensor);
    }
    tensors
}

fn check_tensor(section: &Section<'_>) -> Option<TensorDeclaration> {
    let name = section.require("name", "pixels", |value| match text(value)? {
        "" => Err("is empty; write the tensor's name".to_owned()),
        name => Ok(name.to_owned()),
    });
    let datatype = section.require("datatype", "FP32", |value| {
        crate::section::choose(value, &Datatype::ALL)
    });
    let shape = section.require("shape", "[-1, 8]", |value| {
        let Value::List(sizes) = value else {
            return Err(format!("{value} is not a list of sizes; write [-1, 8]"));
        };
        if sizes.len() > RANK_MAX {
            return Err(format!(
                "has {} dimensions; a tensor has at most {RANK_MAX}",
                sizes.len()
            ));
        }
        sizes.iter().map(|size| dimension(&size.value)).collect()
    });
    Some(TensorDeclaration {
        name: name?,
        datatype: datatype?,
        shape: shape?,
    })
}

fn dimension(value: &Value) -> Result<Option<u64>, String> {
    let size = match value {
        Value::Number(number) => number.as_i64(),
        _ => None,
    };
    match size.map(|size| (size, u64::try_from(size))) {
        Some((_, Ok(size))) => Ok(Some(size)),
        Some((-1, _)) => Ok(None),
        _ => Err(format!(
            "{value} is no size of a dimension; write a number, or -1 where it differs from call to call"
        )),
    }
}

fn package_path(value: &Value) -> Result<PackagePath, String> {
    text(value)?
        .parse::<PackagePath>()
        .map_err(|error| format!("{value} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Deployment;
    use crate::tests::check_said;

    fn deployment(model: &str) -> String {
        format!("name: a\npredictor:\n  models:\n    - name: m\n      path: m.pt\n{model}")
    }

    fn model(text: &str) -> Model {
        let mut deployment = Deployment::parse(&deployment(text), "dunlin.yaml").unwrap();
        deployment.models.remove(0)
    }

    #[test]
    fn a_model_that_says_everything_and_one_that_says_nothing() {
        let full = model(
            "      backend: torchscript
      instance_group: {count: 2}
      threads: 3
      default_timeout_microseconds: 1500
      onnxruntime: {graph_optimization: basic, arena: false, spinning: true, memory_pattern: true}
      torchscript: {optimize_for_inference: true}
      inputs:
        - {name: pixels, datatype: FP32, shape: [-1, 1, 8, 8]}
        - {name: scale, datatype: BF16, shape: []}
      outputs: [{name: logits, datatype: INT64, shape: [-1, 10]}]
",
        );
        assert_eq!((full.instances, full.threads), (2, 3));
        assert_eq!(full.queue_timeout, Some(Duration::from_micros(1500)));
        assert_eq!(
            full.onnxruntime,
            OnnxRuntimeSettings {
                graph_optimization: GraphOptimization::Basic,
                arena: false,
                spinning: true,
                memory_pattern: true,
            }
        );
        assert!(full.torchscript.optimize_for_inference);
        let tensor = |name: &str, datatype, shape: &[Option<u64>]| TensorDeclaration {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        };
        assert_eq!(
            full.inputs,
            [
                tensor("pixels", Datatype::Fp32, &[None, Some(1), Some(8), Some(8)]),
                tensor("scale", Datatype::Bf16, &[]),
            ]
        );
        assert_eq!(
            full.outputs,
            [tensor("logits", Datatype::Int64, &[None, Some(10)])]
        );

        let plain = model("");
        assert_eq!((plain.instances, plain.threads), (1, 1));
        assert_eq!(plain.queue_timeout, None);
        assert_eq!(
            plain.onnxruntime,
            OnnxRuntimeSettings {
                graph_optimization: GraphOptimization::All,
                arena: true,
                spinning: false,
                memory_pattern: false,
            }
        );
        assert!(!plain.torchscript.optimize_for_inference);
        assert!(plain.inputs.is_empty() && plain.outputs.is_empty());
    }

    #[test]
    fn what_is_said_of_a_model() {
        let check = |lines: &str, said: &[&str]| {
            let text = deployment(lines);
            check_said(Deployment::parse(&text, "dunlin.yaml"), &text, said);
        };
        check(
            "      backend: torchscript\n",
            &[
                "dunlin.yaml:4: predictor.models.m.inputs: is missing, and a TorchScript file does not say it; write ",
            ],
        );
        check(
            "      onnxruntime: {spinning: 1, arena: off}\n",
            &[
                "dunlin.yaml:6: predictor.models.m.onnxruntime.arena: off is neither true nor false; write true",
                "dunlin.yaml:6: predictor.models.m.onnxruntime.spinning: 1 is neither true nor false; write false",
            ],
        );
        check(
            "      onnxruntime: {optimize_for_inference: true}\n",
            &[
                "dunlin.yaml:6: predictor.models.m.onnxruntime.optimize_for_inference: there is no such key here; write it below predictor.models.torchscript",
            ],
        );
        check(
            "      threads: 0\n",
            &["dunlin.yaml:6: predictor.models.m.threads: 0 is less than 1; write 1"],
        );
        check(
            "      inputs: [{name: x, datatype: float32, shape: [-1]}]\n",
            &[
                "dunlin.yaml:6: predictor.models.m.inputs.x.datatype: float32 is unknown; write one of BOOL, UINT8,",
            ],
        );
        check(
            "      inputs: [{name: x, datatype: FP32, shape: [-2, n]}]\n",
            &[
                "dunlin.yaml:6: predictor.models.m.inputs.x.shape: -2 is no size of a dimension; write a number, or -1",
            ],
        );
        check(
            "      inputs: [{name: x, datatype: FP32}]\n",
            &["dunlin.yaml:6: predictor.models.m.inputs.x.shape: is missing; write shape: [-1, 8]"],
        );
        check(
            "      outputs:\n        - {name: x, datatype: FP32, shape: []}\n        - {name: x, datatype: FP32, shape: []}\n",
            &["dunlin.yaml:8: predictor.models.m.outputs.x.name: x is taken; write another name"],
        );
    }

    #[test]
    fn datatypes_have_their_names() {
        for (name, datatype) in Datatype::ALL {
            assert_eq!(datatype.name(), name);
        }
    }
}
