//! ONNX Runtime through the registry: what it answers, takes and refuses, and that it can be shared
//! and given back.

#[path = "support/answered.rs"]
mod answered;
#[path = "support/models.rs"]
mod models;
mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use answered::ANSWERED;
use dunlin_inference::{
    BackendKind, BackendPaths, BackendState, Backends, DType, GraphOptimization, InferenceError,
    LoadRequest, Model, ModelOptions, ModelSource, OnnxRuntimeOptions, Registry, Tensor, one_line,
};
use models::{digits, file, named, sample};

const ONNXRUNTIME: BackendKind = BackendKind::OnnxRuntime;

fn request(name: &str) -> LoadRequest {
    models::request(ONNXRUNTIME, &file(&format!("{name}.onnx")))
}

async fn load_bytes(registry: &Registry, bytes: Vec<u8>) -> Result<Model, Arc<InferenceError>> {
    let request = LoadRequest {
        digest: format!("{} bytes", bytes.len()),
        source: ModelSource::bytes(bytes),
        ..request("fixed")
    };
    registry.get_or_load(request).await
}

#[tokio::test]
async fn answers_are_those_of_the_original() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    for name in ANSWERED {
        let request = LoadRequest {
            golden: sample(&file(&format!("{name}.safetensors"))),
            ..request(name)
        };
        if let Err(error) = registry.get_or_load(request).await {
            unreachable!("{name}: {}", one_line(&*error));
        }
    }
    let trained = LoadRequest {
        golden: sample(&digits("golden.safetensors")),
        ..models::request(ONNXRUNTIME, &digits("digits.onnx"))
    };
    let model = registry.get_or_load(trained).await.unwrap();
    assert_eq!(model.platform(), "onnxruntime_onnx");
    assert_eq!(model.backend(), "onnxruntime");
}

#[tokio::test]
async fn auto_takes_it_for_onnx_files() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let request = LoadRequest {
        backend: BackendKind::Auto,
        ..request("fixed")
    };
    let model = registry.get_or_load(request).await.unwrap();
    assert_eq!(model.platform(), "onnxruntime_onnx");
}

#[tokio::test]
async fn signatures_are_the_declared_ones() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let cases = [
        ("fixed", "x FP32[2,3]", "y FP32[2,3]"),
        ("digits", "pixels FP32[-1,1,8,8]", "logits FP32[-1,10]"),
        (
            "attention",
            "x FP32[-1,-1,4], mask FP32[-1,-1]",
            "y FP32[-1,-1,4], mean FP32[-1,4]",
        ),
        ("identity_bf16", "x BF16[-1,3]", "y BF16[-1,3]"),
        ("identity_string", "x BYTES[-1,3]", "y BYTES[-1,3]"),
    ];
    for (name, inputs, outputs) in cases {
        let model = registry.get_or_load(request(name)).await.unwrap();
        let join = |specs: &[dunlin_inference::TensorSpec]| {
            let texts: Vec<String> = specs.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let signature = model.signature();
        assert_eq!(join(&signature.inputs), inputs);
        assert_eq!(join(&signature.outputs), outputs);
    }
}

#[tokio::test]
async fn any_bytes_and_bf16_come_back() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let model = registry
        .get_or_load(request("identity_string"))
        .await
        .unwrap();
    let strings: [&[u8]; 6] = [
        b"",
        b"a\0b\0",
        "é".as_bytes(),
        &[0xff, 0xfe],
        b"\0",
        b"plain",
    ];
    let given = Tensor::from_byte_strings(&[2, 3], strings).unwrap();
    let answer = model.infer(named([("x", given.clone())])).await.unwrap();
    assert_eq!(answer[0].1, given);
    let none = Tensor::zeros(DType::Bytes, &[0, 3]).unwrap();
    let answer = model.infer(named([("x", none.clone())])).await.unwrap();
    assert_eq!(answer[0].1, none);

    let model = registry
        .get_or_load(request("identity_bf16"))
        .await
        .unwrap();
    let given = [half::bf16::from_f32(1.5), half::bf16::NAN, half::bf16::MIN];
    let given = Tensor::from_values(&[1, 3], &given).unwrap();
    let answer = model.infer(named([("x", given.clone())])).await.unwrap();
    assert_eq!(answer[0].1.data(), given.data());
}

#[tokio::test]
async fn an_input_may_lie_at_any_address() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let model = registry.get_or_load(request("identity_f32")).await.unwrap();
    let mut bytes = vec![0];
    bytes.extend(
        [1.5_f32, -2.0, 0.25]
            .iter()
            .flat_map(|value| value.to_le_bytes()),
    );
    for start in 0..2 {
        let data = bytes::Bytes::from(bytes.clone()).slice(start..start + 12);
        let given = Tensor::new(DType::F32, &[1, 3], data).unwrap();
        let answer = model.infer(named([("x", given.clone())])).await.unwrap();
        assert_eq!(answer[0].1.data(), given.data());
    }
}

/// A graph may hand an input on as it is. The memory is the caller's, and gone before the answer.
#[tokio::test]
async fn an_answer_does_not_lie_in_its_inputs() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    for name in ["passed", "identity_f32"] {
        let model = registry.get_or_load(request(name)).await.unwrap();
        let inputs = model.signature().inputs.iter().map(|spec| {
            let zeros = Tensor::zeros(spec.dtype, &spec.shape_with(2)).unwrap();
            (spec.name.clone(), zeros)
        });
        let inputs: Vec<(String, Tensor)> = inputs.collect();
        let answer = model.infer_blocking(inputs.clone()).unwrap();
        for (output, tensor) in &answer {
            for (input, given) in &inputs {
                let given = given.data().as_ptr_range();
                assert!(
                    !given.contains(&tensor.data().as_ptr()),
                    "{name}: {output} lies in {input}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_an_error_and_the_rest_goes_on() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let onnx = |name: &str| std::fs::read(file(name)).unwrap();
    let whole = std::fs::read(digits("digits.onnx")).unwrap();
    let mut disturbed = whole.clone();
    for byte in disturbed.iter_mut().skip(200).step_by(97) {
        *byte ^= 0x55;
    }
    let cases = [
        (
            onnx("unknown_operator.onnx"),
            "com.example:Frobnicate(-1) is not a registered function/op",
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
            whole[..whole.len() / 2].to_vec(),
            "the model is not a readable ONNX file",
        ),
        (disturbed, ""),
    ];
    for (bytes, message) in cases {
        let error = load_bytes(&registry, bytes).await.unwrap_err();
        let said = one_line(&*error);
        assert!(said.contains(message), "{said}");
    }

    let model = registry.get_or_load(request("attention")).await.unwrap();
    let of = |rows: u64, mask_rows: u64| {
        let zeros = |shape: &[u64]| Tensor::zeros(DType::F32, shape).unwrap();
        named([
            ("x", zeros(&[rows, 5, 4])),
            ("mask", zeros(&[mask_rows, 5])),
        ])
    };
    let error = model.infer(of(2, 3)).await.unwrap_err();
    assert!(
        matches!(error, InferenceError::InvalidInput { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("have different sizes"),
        "{error}"
    );
    model.infer(of(3, 3)).await.unwrap();
}

#[tokio::test]
async fn external_data_may_lie_anywhere_if_told() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let stored = |name: &str, as_name: &str| {
        let path = folder.path().join(as_name);
        std::fs::copy(file(name), &path).unwrap();
        path
    };
    // As in a content store: names that say nothing.
    let (model, data) = (
        stored("external.onnx", "01"),
        stored("external.onnx.data", "02"),
    );
    for source in [
        ModelSource::path(&model),
        ModelSource::bytes(std::fs::read(&model).unwrap()),
    ] {
        let source = source.with_file("external.onnx.data", &data);
        let request = LoadRequest {
            digest: format!("{source:?}"),
            source,
            golden: sample(&file("external.safetensors")),
            ..request("external")
        };
        registry.get_or_load(request).await.unwrap();
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 2, "the folder has what it had");
    }

    std::fs::write(&data, [0; 8]).unwrap();
    let short = LoadRequest {
        digest: "short".to_owned(),
        source: ModelSource::path(&model).with_file("external.onnx.data", &data),
        ..request("external")
    };
    let error = registry.get_or_load(short).await.unwrap_err();
    assert!(
        one_line(&*error).contains("512 bytes from byte 0 of \"external.onnx.data\", which has 8"),
        "{error}"
    );
}

/// A name that leaves the model's folder is refused before the library could follow it.
#[tokio::test]
async fn external_data_stay_in_the_models_folder() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(file("external.onnx.data"), folder.path().join("secret")).unwrap();
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    // The same length, so that the lengths around it stay right.
    let bytes = std::fs::read(file("external.onnx")).unwrap();
    let (from, to) = (b"external.onnx.data", b"../././././/secret");
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut changed = bytes;
    changed[at..at + from.len()].copy_from_slice(to);
    let model = inside.join("model.onnx");
    std::fs::write(&model, &changed).unwrap();
    for source in [ModelSource::path(&model), ModelSource::bytes(changed)] {
        let request = LoadRequest {
            digest: format!("{source:?}"),
            source,
            ..request("external")
        };
        let error = registry.get_or_load(request).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("only files in its own folder are allowed"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn every_setting_is_taken() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let levels = [
        GraphOptimization::Disabled,
        GraphOptimization::Basic,
        GraphOptimization::Extended,
        GraphOptimization::All,
    ];
    for (position, graph_optimization) in levels.into_iter().enumerate() {
        let on = position % 2 == 0;
        let request = LoadRequest {
            options: ModelOptions {
                threads_per_run: NonZeroUsize::new(2).unwrap(),
                onnxruntime: OnnxRuntimeOptions {
                    graph_optimization,
                    arena: on,
                    spinning: !on,
                    memory_pattern: on,
                },
                ..ModelOptions::default()
            },
            golden: sample(&digits("golden.safetensors")),
            ..models::request(ONNXRUNTIME, &digits("digits.onnx"))
        };
        registry.get_or_load(request).await.unwrap();
    }
}

#[tokio::test]
async fn eight_threads_get_each_its_own_answer() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    for workers in [1, 3] {
        let request = LoadRequest {
            options: ModelOptions {
                instances: NonZeroUsize::new(workers).unwrap(),
                ..ModelOptions::default()
            },
            ..models::request(ONNXRUNTIME, &digits("digits.onnx"))
        };
        let model = registry.get_or_load(request).await.unwrap();
        let spec = model.signature().inputs[0].clone();
        let input = |thread: u64| {
            let shape = spec.shape_with(thread + 1);
            let count: u64 = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|n| ((n * 7 + thread) % 17) as f32).collect();
            named([(&spec.name, Tensor::from_values(&shape, &values).unwrap())])
        };
        let expected: Vec<_> = (0..8)
            .map(|thread| model.infer_blocking(input(thread)).unwrap())
            .collect();
        std::thread::scope(|scope| {
            for (thread, expected) in expected.iter().enumerate() {
                let (model, input) = (&model, input(thread as u64));
                scope.spawn(move || {
                    for _ in 0..50 {
                        assert_eq!(model.infer_blocking(input.clone()).unwrap(), *expected);
                    }
                });
            }
        });
    }
}

/// The library is open by then, and a second one cannot be opened beside it.
#[test]
fn another_library_is_refused_with_the_reason() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let report = registry.backends().report();
    let BackendState::Ready { path, version } = &report[1].state else {
        unreachable!("{report:?}")
    };
    assert!(version.starts_with("1."), "{version}");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libonnxruntime.so");
    std::fs::copy(path.as_ref().unwrap(), &copy).unwrap();
    let reason = |library: &std::path::Path| {
        let backends = Backends::new(BackendPaths {
            onnxruntime: Some(library.to_owned()),
            ..BackendPaths::default()
        });
        match backends.report().swap_remove(1).state {
            BackendState::Broken { reason, .. } => reason,
            state => unreachable!("{state:?}"),
        }
    };
    let said = reason(&copy);
    assert!(said.contains("this process has opened"), "{said}");

    // A library, but another one: the C library that every process has.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let libc = libc
        .into_iter()
        .find(|path| path.ends_with("/libc.so.6"))
        .unwrap();
    let said = reason(libc.as_ref());
    assert!(said.contains("not ONNX Runtime's"), "{said}");

    let length = std::fs::metadata(&copy).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&copy)
        .unwrap()
        .set_len(length / 3)
        .unwrap();
    let said = reason(&copy);
    assert!(!said.is_empty());
}

/// Until it is stopped it would take days.
#[tokio::test]
async fn a_run_that_nobody_waits_for_ends() {
    let Some(registry) = support::registry(ONNXRUNTIME) else {
        return;
    };
    let model = registry.get_or_load(request("turns")).await.unwrap();
    let turns = |count: i64| {
        let count = Tensor::from_values(&[1], &[count]).unwrap();
        model.infer(named([("turns", count)]))
    };
    let given_up = tokio::time::timeout(Duration::from_millis(200), turns(1 << 50)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let next = tokio::time::timeout(Duration::from_secs(60), turns(3)).await;
    let sum = next.expect("the model is free again").unwrap();
    assert!(sum[0].1.values::<f32>().unwrap().eq([3.0]));
    assert_eq!(model.stats().snapshot().cancelled, 1);
}
