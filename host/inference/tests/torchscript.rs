//! libtorch through the registry: what it answers, takes and refuses, and that it can be shared and
//! given back. `models/torchscript/make.py` makes the models.

#[path = "support/models.rs"]
mod models;
mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;

use dunlin_inference::{
    BackendKind, DType, Dim, InferenceError, LoadRequest, Model, ModelOptions, ModelSource,
    Registry, Tensor, TensorSpec, TorchScriptOptions, one_line,
};
use half::{bf16, f16};
use models::{digits, file, named, sample};

const TORCHSCRIPT: BackendKind = BackendKind::TorchScript;

fn spec(name: &str, dtype: DType, shape: &[i64]) -> TensorSpec {
    let dim = |size: &i64| u64::try_from(*size).map_or(Dim::Any, Dim::Fixed);
    TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.iter().map(dim).collect(),
    }
}

fn rows_of_three(name: &str) -> TensorSpec {
    spec(name, DType::F32, &[-1, 3])
}

fn request(name: &str, inputs: &[TensorSpec]) -> LoadRequest {
    LoadRequest {
        options: ModelOptions {
            inputs: inputs.to_vec(),
            ..ModelOptions::default()
        },
        ..models::request(TORCHSCRIPT, &file(&format!("torchscript/{name}.pt")))
    }
}

fn digits_request(options: ModelOptions) -> LoadRequest {
    LoadRequest {
        options: ModelOptions {
            inputs: vec![spec("pixels", DType::F32, &[-1, 1, 8, 8])],
            outputs: vec![spec("logits", DType::F32, &[-1, 10])],
            ..options
        },
        golden: sample(&digits("golden.safetensors")),
        ..models::request(TORCHSCRIPT, &digits("digits.pt"))
    }
}

async fn load(registry: &Registry, name: &str) -> Result<Model, Arc<InferenceError>> {
    registry
        .get_or_load(request(name, &[rows_of_three("x")]))
        .await
}

fn floats(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_values(shape, values).expect("the values fit the shape")
}

/// The outputs of a model, as `name DTYPE[shape]`.
fn outputs(model: &Model) -> String {
    let specs = model.signature().outputs.iter();
    let texts: Vec<String> = specs.map(ToString::to_string).collect();
    texts.join(", ")
}

#[tokio::test]
async fn the_trained_model_answers_as_the_original() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    for optimize_for_inference in [false, true] {
        for threads in [1, 2] {
            let options = ModelOptions {
                threads_per_run: NonZeroUsize::new(threads).unwrap(),
                torchscript: TorchScriptOptions {
                    optimize_for_inference,
                },
                ..ModelOptions::default()
            };
            let model = registry.get_or_load(digits_request(options)).await.unwrap();
            assert_eq!(model.platform(), "pytorch_libtorch");
        }
    }
    let auto = LoadRequest {
        backend: BackendKind::Auto,
        source: ModelSource::bytes(std::fs::read(digits("digits.pt")).unwrap()),
        digest: "bytes".to_owned(),
        ..digits_request(ModelOptions::default())
    };
    let model = registry.get_or_load(auto).await.unwrap();
    assert_eq!(model.backend(), "torchscript");
}

#[tokio::test]
async fn outputs_are_found_and_named() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let check = async |name: &str, inputs: &[TensorSpec], expected: &str| {
        let model = registry.get_or_load(request(name, inputs)).await.unwrap();
        assert_eq!(outputs(&model), expected, "{name}");
    };
    let x = [rows_of_three("x")];
    check("identity", &x, "output FP32[-1,3]").await;
    check("keyed", &x, "twice FP32[-1,3], rows INT64[]").await;
    check(
        "nested",
        &x,
        "output_0_0_corners FP32[-1,3], output_0_0_scores FP32[-1,3], \
         output_0_1_corners FP32[-1,3], output_0_1_scores FP32[-1,3], \
         output_1 INT64[], output_2 FP64[], output_3 BOOL[]",
    )
    .await;
    let pair = [rows_of_three("a"), rows_of_three("b")];
    check("pair", &pair, "output_0 FP32[-1,3], output_1 FP32[-1]").await;
    check(
        "casts",
        &x,
        "bool BOOL[-1,3], uint8 UINT8[-1,3], int8 INT8[-1,3], int16 INT16[-1,3], \
         int32 INT32[-1,3], int64 INT64[-1,3], fp16 FP16[-1,3], bf16 BF16[-1,3], \
         fp32 FP32[-1,3], fp64 FP64[-1,3]",
    )
    .await;
    check(
        "identity",
        &[spec("x", DType::I32, &[2, 2])],
        "output INT32[2,2]",
    )
    .await;
}

#[tokio::test]
async fn every_number_goes_in_and_comes_out() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let check = async |tensor: Tensor| {
        let inputs = [spec("x", tensor.dtype(), &[-1])];
        let model = registry
            .get_or_load(request("identity", &inputs))
            .await
            .unwrap();
        let answer = model
            .infer_blocking(named([("x", tensor.clone())]))
            .unwrap();
        assert_eq!(answer[0].1, tensor);
        let none = Tensor::zeros(tensor.dtype(), &[0]).unwrap();
        let answer = model.infer_blocking(named([("x", none.clone())])).unwrap();
        assert_eq!(answer[0].1, none);
    };
    check(Tensor::from_values(&[2], &[true, false]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_u8, u8::MAX]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_u16, u16::MAX]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_u32, u32::MAX]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_u64, u64::MAX]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_i8, i8::MIN]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_i16, i16::MIN]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_i32, i32::MIN]).unwrap()).await;
    check(Tensor::from_values(&[2], &[1_i64, i64::MIN]).unwrap()).await;
    check(Tensor::from_values(&[1], &[f16::from_f32(1.5)]).unwrap()).await;
    check(Tensor::from_values(&[1], &[bf16::from_f32(1.5)]).unwrap()).await;
    check(Tensor::from_values(&[2], &[0.5_f32, f32::INFINITY]).unwrap()).await;
    check(Tensor::from_values(&[1], &[0.1_f64]).unwrap()).await;

    let model = load(&registry, "casts").await.unwrap();
    let answer = model.infer_blocking(named([("x", floats(&[1, 3], &[1.0, 0.0, 3.0]))]));
    let answer = answer.unwrap();
    assert_eq!(
        answer[0].1,
        Tensor::from_values(&[1, 3], &[true, false, true]).unwrap()
    );
    assert_eq!(
        answer[2].1,
        Tensor::from_values(&[1, 3], &[1_i8, 0, 3]).unwrap()
    );
}

#[tokio::test]
async fn an_argument_with_a_default_may_be_left_out() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let a = || floats(&[1, 3], &[1.0, 2.0, 3.0]);
    let b = || floats(&[1, 3], &[1.0, 1.0, 1.0]);
    let two = [rows_of_three("a"), rows_of_three("b")];
    let model = registry.get_or_load(request("pair", &two)).await.unwrap();
    let answer = model
        .infer_blocking(named([("b", b()), ("a", a())]))
        .unwrap();
    assert_eq!(answer[0].1, floats(&[1, 3], &[0.0, 1.0, 2.0]));
    assert_eq!(answer[1].1, floats(&[1], &[6.0]));

    let three = [
        rows_of_three("a"),
        rows_of_three("b"),
        spec("scale", DType::F32, &[]),
    ];
    let model = registry.get_or_load(request("pair", &three)).await.unwrap();
    let scale = floats(&[], &[10.0]);
    let answer = model.infer_blocking(named([("a", a()), ("b", b()), ("scale", scale)]));
    assert_eq!(answer.unwrap()[0].1, floats(&[1, 3], &[9.0, 19.0, 29.0]));
}

#[tokio::test]
async fn answers_lie_row_by_row_in_memory_of_their_own() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let model = load(&registry, "views").await.unwrap();
    let x = floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let answer = model.infer_blocking(named([("x", x.clone())])).unwrap();
    assert_eq!(
        answer[0].1,
        floats(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])
    );
    assert_eq!(answer[1].1, floats(&[2, 2], &[1.0, 3.0, 4.0, 6.0]));
    let weights = floats(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(answer[2].1, weights);
    let again = model.infer_blocking(named([("x", x.clone())])).unwrap();
    assert_ne!(again[2].1.data().as_ptr(), answer[2].1.data().as_ptr());
    // The module is gone, the answers stay.
    drop((model, registry));
    assert_eq!(answer[2].1, weights);
}

#[tokio::test]
async fn an_input_is_neither_changed_nor_given_back_as_it_lies() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let model = load(&registry, "inplace").await.unwrap();
    let x = floats(&[1, 3], &[1.0, 2.0, 3.0]);
    let answer = model.infer_blocking(named([("x", x.clone())])).unwrap();
    assert_eq!(answer[0].1, floats(&[1, 3], &[2.0, 3.0, 4.0]));
    assert_eq!(x, floats(&[1, 3], &[1.0, 2.0, 3.0]));

    let model = load(&registry, "identity").await.unwrap();
    let answer = model.infer_blocking(named([("x", x.clone())])).unwrap();
    assert_eq!(answer[0].1, x);
    assert_ne!(answer[0].1.data().as_ptr(), x.data().as_ptr());
}

#[tokio::test]
async fn an_input_may_lie_at_any_address() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let model = load(&registry, "identity").await.unwrap();
    let mut bytes = vec![0];
    bytes.extend(
        [1.5_f32, -2.0, 0.25]
            .iter()
            .flat_map(|value| value.to_le_bytes()),
    );
    for start in 0..2 {
        let data = bytes::Bytes::from(bytes.clone()).slice(start..start + 12);
        let given = Tensor::new(DType::F32, &[1, 3], data).unwrap();
        let answer = model.infer_blocking(named([("x", given.clone())])).unwrap();
        assert_eq!(answer[0].1, given);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_an_error() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let x = [rows_of_three("x")];
    let check = async |request: LoadRequest, message: &str| {
        let error = registry.get_or_load(request).await.unwrap_err();
        let said = one_line(&*error);
        assert!(said.contains(message), "{said}");
    };
    let whole = std::fs::read(digits("digits.pt")).unwrap();
    for length in [5, 1000, whole.len() / 2, whole.len() - 10] {
        let source = ModelSource::bytes(whole[..length].to_vec());
        let digest = format!("{length} bytes");
        let request = LoadRequest {
            digest,
            source,
            ..request("identity", &x)
        };
        check(request, "libtorch cannot load the model; ").await;
    }
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.pt");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let cut = LoadRequest {
        source: ModelSource::path(&cut),
        digest: "cut".to_owned(),
        ..request("identity", &x)
    };
    check(cut, "libtorch cannot load the model; ").await;
    check(
        request("checkpoint", &x),
        "a TorchScript file is what torch.jit.save writes, not torch.save",
    )
    .await;
    check(
        request("identity", &[]),
        "a TorchScript file does not say what its inputs are; write the model's inputs",
    )
    .await;
    check(
        request("pair", &x),
        "forward takes 2 to 3 tensors, the deployment file has 1 inputs",
    )
    .await;
    check(
        request("identity", &[spec("x", DType::Bytes, &[-1])]),
        r#"input "x" is BYTES, and TorchScript has only tensors of numbers"#,
    )
    .await;
    check(
        request("lookup", &x),
        "write them into the deployment file: outputs: [{",
    )
    .await;
    check(
        request("complex", &x),
        "ComplexFloat, for which the Open Inference Protocol",
    )
    .await;
    let declared = |outputs: &[TensorSpec]| {
        let mut request = request("identity", &x);
        request.options.outputs = outputs.to_vec();
        request
    };
    // Outputs that a model is said to have are not looked for when it is loaded.
    let model = registry
        .get_or_load(declared(&[spec("y", DType::F64, &[-1, 3])]))
        .await
        .unwrap();
    let error = model
        .infer_blocking(named([("x", floats(&[1, 3], &[0.0; 3]))]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"output "y" is FP32, the model declares FP64"#
    );
}

#[tokio::test]
async fn what_a_module_throws_is_an_error_with_its_text() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let model = load(&registry, "throws").await.unwrap();
    let check = |model: &Model, tensor: Tensor, message: &str| {
        let error = model.infer_blocking(named([("x", tensor)])).unwrap_err();
        assert!(matches!(error, InferenceError::Runtime { .. }), "{error:?}");
        let said = one_line(&error);
        assert!(said.contains(message), "{said}");
    };
    check(
        &model,
        floats(&[1, 3], &[1.0, -1.0, 0.0]),
        "the model failed in forward: builtins.ValueError: negative values are not for this model",
    );
    let fine = floats(&[1, 3], &[1.0, 1.0, 0.0]);
    let answer = model.infer_blocking(named([("x", fine.clone())])).unwrap();
    assert_eq!(answer[0].1, fine);

    // A shape that fits what was declared, and not the weights.
    let mut declared = request("product", &[spec("x", DType::F32, &[-1, -1])]);
    declared.options.outputs = vec![spec("y", DType::F32, &[-1, 2])];
    let model = registry.get_or_load(declared).await.unwrap();
    check(
        &model,
        floats(&[1, 3], &[0.0; 3]),
        "mat1 and mat2 shapes cannot be multiplied (1x3 and 4x2)",
    );
    let answer = model
        .infer_blocking(named([("x", floats(&[1, 4], &[1.0; 4]))]))
        .unwrap();
    assert_eq!(answer[0].1, floats(&[1, 2], &[4.0, 4.0]));
}

#[tokio::test]
async fn eight_threads_get_each_its_own_answer() {
    let Some(registry) = support::registry(TORCHSCRIPT) else {
        return;
    };
    let request = digits_request(ModelOptions::default());
    let model = registry.get_or_load(request).await.unwrap();
    let input = |thread: u64| {
        let shape = [thread + 1, 1, 8, 8];
        let count: u64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|n| ((n * 7 + thread) % 17) as f32).collect();
        named([("pixels", floats(&shape, &values))])
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
