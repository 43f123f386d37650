//! Real ONNX models through the registry and tract, against what onnxruntime made of them.
//! `models/make.py` makes the models and the samples.

#[path = "../support/answered.rs"]
mod answered;
mod forged;
mod loads;
#[expect(dead_code, reason = "what is held to another tolerance here")]
#[path = "../support/models.rs"]
mod models;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use answered::ANSWERED;
use dunlin_inference::{
    BackendKind, DType, GoldenSample, InferenceError, LoadRequest, Model, ModelOptions,
    ModelSource, Registry, Tensor, Tolerance, one_line,
};

use forged::forged;
use models::{file, named};

/// Sums in another order than onnxruntime's.
const CLOSE: Tolerance = Tolerance {
    relative: 1e-5,
    absolute: 1e-5,
};

fn request(name: &str) -> LoadRequest {
    LoadRequest {
        digest: name.to_owned(),
        source: ModelSource::path(file(&format!("{name}.onnx"))),
        backend: BackendKind::Tract,
        options: ModelOptions::default(),
        golden: None,
    }
}

fn sample(name: &str) -> GoldenSample {
    GoldenSample {
        digest: format!("{name} sample"),
        path: file(&format!("{name}.safetensors")),
        tolerance: CLOSE,
    }
}

async fn load(name: &str) -> Model {
    Registry::default()
        .get_or_load(request(name))
        .await
        .expect("the model loads")
}

async fn load_bytes(bytes: Vec<u8>) -> Result<Model, Arc<InferenceError>> {
    let source = ModelSource::bytes(bytes);
    let request = LoadRequest {
        source,
        ..request("bytes")
    };
    Registry::default().get_or_load(request).await
}

fn floats(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_values(shape, values).expect("the values fit the shape")
}

fn zeros(shape: &[u64]) -> Tensor {
    Tensor::zeros(DType::F32, shape).expect("the shape is small")
}

#[tokio::test]
async fn answers_are_those_of_onnxruntime() {
    for name in ANSWERED {
        let request = LoadRequest {
            golden: Some(sample(name)),
            ..request(name)
        };
        if let Err(error) = Registry::default().get_or_load(request).await {
            unreachable!("{name}: {}", one_line(&*error));
        }
    }
}

#[tokio::test]
async fn signatures_are_the_declared_ones() {
    let cases = [
        ("fixed", "x FP32[2,3]", "y FP32[2,3]"),
        ("digits", "pixels FP32[-1,1,8,8]", "logits FP32[-1,10]"),
        (
            "attention",
            "x FP32[-1,-1,4], mask FP32[-1,-1]",
            "y FP32[-1,-1,4], mean FP32[-1,4]",
        ),
        ("shape", "x FP32[-1,-1]", "shape INT64[2], elements INT64[]"),
        (
            "several",
            "a FP32[-1,4], b FP32[-1,4], c FP32[4]",
            "sum FP32[-1,4], largest INT64[-1], greater BOOL[-1,4]",
        ),
        ("nameless", "x FP32[-1,-1]", "y FP32[-1,-1]"),
        ("expression", "a FP32[-1], b FP32[-1]", "y FP32[-1]"),
        ("implied_nameless", "x FP32[-1,4]", "y FP32[-1,3]"),
        ("implied_named", "x FP32[-1,4]", "y FP32[-1,3]"),
        ("implied_late", "x FP32[-1,-1]", "y FP32[-1,3]"),
        ("depth", "x FP32[1,-1,-1,-1]", "y FP32[1,-1,-1,-1]"),
        ("passed", "x FP32[-1]", "x FP32[-1], y FP32[-1]"),
        ("nonzero", "x FP32[-1]", "where INT64[1,-1]"),
        ("quantize", "x FP32[-1]", "y UINT8[-1]"),
        ("identity_string", "x BYTES[-1,3]", "y BYTES[-1,3]"),
        ("identity_f16", "x FP16[-1,3]", "y FP16[-1,3]"),
    ];
    for (name, inputs, outputs) in cases {
        let model = load(name).await;
        let written = |specs: &[dunlin_inference::TensorSpec]| {
            specs
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(written(&model.signature().inputs), inputs, "{name}");
        assert_eq!(written(&model.signature().outputs), outputs, "{name}");
        assert_eq!((model.backend(), model.platform()), ("tract", "onnx_tract"));
    }
}

/// A hundred bytes must not take the memory of the node, however they ask for it.
#[tokio::test]
async fn what_a_model_takes_is_known_before_it_is_taken() {
    const HUGE: [u64; 2] = [1 << 20, 1 << 25];
    let load = |model: Vec<u8>| async {
        assert!(model.len() < 200);
        load_bytes(model).await
    };
    let cases = [
        (
            forged("Identity", &["x"], Some(&HUGE), &[1], Some(&HUGE)),
            r#"input "x" is FP32[1048576,33554432], which takes 140737488355328 bytes; a tensor of a model may have 1073741824 at most"#,
        ),
        (
            forged("ConstantOfShape", &["shape"], None, &HUGE, Some(&HUGE)),
            "ConstantOfShape would make a tensor of",
        ),
        // What the file says of its output is not true.
        (
            forged("ConstantOfShape", &["shape"], None, &HUGE, Some(&[1, 1])),
            "ConstantOfShape",
        ),
        (
            forged("Tile", &["shape", "shape"], None, &[1 << 30], None),
            "Tile would make a tensor of",
        ),
        (
            forged("Expand", &["x", "shape"], Some(&[1, 1]), &HUGE, None),
            "140737488355328 bytes",
        ),
    ];
    for (model, message) in cases {
        let error = load(model).await.expect_err("it is refused");
        let error = one_line(&*error);
        assert!(error.contains(message), "{error}");
    }
    // The forgery itself is sound.
    let small = [2, 3];
    for model in [
        forged("Identity", &["x"], Some(&small), &[1], Some(&small)),
        forged("ConstantOfShape", &["shape"], None, &small, Some(&small)),
        forged("Expand", &["x", "shape"], Some(&[1, 1]), &small, None),
    ] {
        load(model).await.expect("it loads");
    }
}

#[tokio::test]
async fn text_goes_through_as_bytes() {
    let model = load("identity_string").await;
    let strings = ["", "a", "é\0", "long enough to leave the stack", "x", "y"];
    let tensor = Tensor::from_byte_strings(&[2, 3], strings).unwrap();
    let answer = model.infer(named([("x", tensor.clone())])).await.unwrap();
    assert_eq!(answer, named([("y", tensor)]));

    let bytes: [&[u8]; 3] = [b"a", b"\xff", b"c"];
    let tensor = Tensor::from_byte_strings(&[1, 3], bytes).unwrap();
    let error = model.infer(named([("x", tensor)])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"input "x" has an element that is not UTF-8 text, element 1; ONNX models take text only"#
    );
}

#[tokio::test]
async fn refused_inputs_say_why() {
    let small = LoadRequest {
        options: ModelOptions {
            tensor_bytes_max: NonZeroU64::new(1 << 20).unwrap(),
            ..ModelOptions::default()
        },
        ..request("outer")
    };
    let bounded = Registry::default().get_or_load(small).await.unwrap();
    let (attention, expression) = (load("attention").await, load("expression").await);
    let implied = load("implied_late").await;
    let cases = [
        (
            &attention,
            named([("x", zeros(&[2, 5, 4])), ("mask", zeros(&[3, 5]))]),
            r#"input "mask" has shape [3,5], but its dimension 0 is batch in the model, which the other dimensions set to 2"#,
        ),
        (
            &attention,
            named([("x", zeros(&[2, 5, 4])), ("mask", zeros(&[2, 6]))]),
            r#"input "mask" has shape [2,6], but its dimension 1 is sequence in the model, which the other dimensions set to 5"#,
        ),
        (
            &expression,
            named([("a", zeros(&[3])), ("b", zeros(&[8]))]),
            r#"input "b" has shape [8], but its dimension 0 is 1+2*n in the model, which the other dimensions set to 7"#,
        ),
        (
            &bounded,
            named([("x", zeros(&[513]))]),
            "with inputs of these shapes the model would make a tensor of 1052676 bytes; its bound is 1048576",
        ),
        (
            &implied,
            named([("x", zeros(&[2, 3]))]),
            "the model cannot take inputs of these shapes",
        ),
        (
            &attention,
            named([
                ("x", zeros(&[0, 1 << 40, 4])),
                ("mask", zeros(&[0, 1 << 40])),
            ]),
            r#"input "x" has shape [0,1099511627776,4]; a dimension may be at most 2147483647"#,
        ),
    ];
    for (model, inputs, message) in cases {
        let error = model.infer(inputs).await.unwrap_err();
        assert!(
            matches!(error, InferenceError::InvalidInput { .. }),
            "{error:?}"
        );
        assert_eq!(error.to_string(), message);
    }
    bounded.infer(named([("x", zeros(&[512]))])).await.unwrap();
}

#[tokio::test]
async fn a_run_that_fails_fails_alone() {
    let model = load("pick").await;
    let pick = |index: i64| {
        let index = Tensor::from_values(&[1], &[index]).unwrap();
        named([("table", floats(&[2], &[5.0, 6.0])), ("index", index)])
    };
    let expected = named([("y", floats(&[1], &[6.0]))]);
    assert_eq!(model.infer(pick(1)).await.unwrap(), expected);
    let error = model.infer(pick(77)).await.unwrap_err();
    assert!(matches!(error, InferenceError::Runtime { .. }), "{error:?}");
    assert_eq!(model.infer(pick(1)).await.unwrap(), expected);
}

#[tokio::test]
async fn models_that_cannot_run_are_refused_with_a_reason() {
    let onnx = |name: &str| std::fs::read(file(name)).unwrap();
    let cases = [
        (
            onnx("unknown_operator.onnx"),
            "tract does not have the operators the model uses: com.example.Frobnicate",
        ),
        (
            onnx("identity_bf16.onnx"),
            r#"input "x" is BF16, which tract does not have; export the model with FP32"#,
        ),
        (
            onnx("external.onnx"),
            r#"the model refers to "external.onnx.data", which did not come with it"#,
        ),
        (Vec::new(), "the model is not an ONNX file: it has no graph"),
        (
            b"not a model".to_vec(),
            "the model is not a readable ONNX file",
        ),
        (
            b"PK\x03\x04and so on".to_vec(),
            "the model is a zip archive, as TorchScript makes; backend tract reads ONNX files",
        ),
    ];
    for (bytes, message) in cases {
        let error = load_bytes(bytes).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }

    let absent = Registry::default()
        .get_or_load(request("absent"))
        .await
        .unwrap_err();
    assert!(
        one_line(&*absent).contains("absent.onnx cannot be opened: "),
        "{absent}"
    );
}

#[tokio::test]
async fn external_data_may_lie_anywhere_if_told() {
    let bytes = std::fs::read(file("external.onnx")).unwrap();
    let source =
        |path: &Path| ModelSource::bytes(bytes.clone()).with_file("external.onnx.data", path);
    let with = |path: &Path| LoadRequest {
        source: source(path),
        golden: Some(sample("external")),
        ..request("external")
    };
    let folder = tempfile::tempdir().unwrap();
    let (moved, short) = (folder.path().join("0123"), folder.path().join("short"));
    std::fs::copy(file("external.onnx.data"), &moved).unwrap();
    std::fs::write(&short, [0; 100]).unwrap();
    Registry::default().get_or_load(with(&moved)).await.unwrap();
    let error = Registry::default()
        .get_or_load(with(&short))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(r#"of "external.onnx.data", which has 100"#),
        "{error}"
    );

    // The same file with another name in it, of the same length.
    let name = b"external.onnx.data";
    let position = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let mut outside = bytes.clone();
    outside[position..][..name.len()].copy_from_slice(b"../../../etc/passw");
    let error = load_bytes(outside).await.unwrap_err();
    assert!(
        error.to_string().contains("only files in its own folder"),
        "{error}"
    );
}

#[tokio::test]
async fn damaged_models_neither_panic_nor_load_as_something_else() {
    let mut refused = 0;
    for name in ["attention", "several", "shape"] {
        let whole = std::fs::read(file(&format!("{name}.onnx"))).unwrap();
        for length in (0..whole.len()).step_by(11) {
            // A cut between two top-level fields may leave a smaller valid file.
            refused += usize::from(load_bytes(whole[..length].to_vec()).await.is_err());
        }
        // A fixed sequence, so that a failure can be looked at.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..60 {
            let mut damaged = whole.clone();
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let position = (state >> 33) as usize % damaged.len();
                damaged[position] ^= 1 << (state >> 20 & 7);
            }
            refused += usize::from(load_bytes(damaged).await.is_err());
        }
    }
    assert!(refused > 150, "only {refused} were refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_of_many_sizes_at_once_get_their_own_answers() {
    let model = load("attention").await;
    let tasks = (0..64_u64).map(|call| {
        let model = model.clone();
        tokio::spawn(async move {
            // More combinations than stay prepared.
            let (batch, sequence) = (1 + call % 4, 1 + call % 7);
            let value = call as f32;
            // Attention over equal rows gives the row back.
            let x = vec![value; (batch * sequence * 4) as usize];
            let mask = vec![1.0; (batch * sequence) as usize];
            let inputs = named([
                ("x", floats(&[batch, sequence, 4], &x)),
                ("mask", floats(&[batch, sequence], &mask)),
            ]);
            let answer = model.infer(inputs).await.unwrap();
            assert_eq!(answer[0].1.shape(), [batch, sequence, 4]);
            let mut values = answer[0].1.values::<f32>().unwrap();
            assert!(values.all(|got| (got - value).abs() <= value * 1e-5));
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(model.stats().snapshot().execution_count, 64);
}
