//! What loaded models take of a node's memory. A program of its own, with one test: what else ran
//! beside it would be measured too.

mod support;

use std::num::NonZeroUsize;

use dunlin_inference::{
    BackendKind, DType, Dim, GoldenSample, LoadRequest, Model, ModelOptions, ModelSource, Registry,
    TensorSpec, Tolerance,
};
use prost::encoding::encode_varint;

/// As in the program, with its settings: what engines free goes back to the system by the allocator alone.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(
    unsafe_code,
    reason = "the name under which jemalloc looks for its settings"
)]
// SAFETY: it is what jemalloc declares: a pointer to text that ends with a zero byte and never changes.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 27] = b"oversize_threshold:4194304\0";

#[tokio::test]
async fn models_take_what_they_must_and_give_it_back() {
    let onnxruntime = support::registry(BackendKind::OnnxRuntime);
    if let Some(registry) = &onnxruntime {
        workers_share_the_weights(registry).await;
    }
    level(&Registry::default(), BackendKind::Tract).await;
    if let Some(registry) = &onnxruntime {
        level(registry, BackendKind::OnnxRuntime).await;
    }
    if let Some(registry) = support::registry(BackendKind::TorchScript) {
        level(&registry, BackendKind::TorchScript).await;
    }
}

/// Loading and unloading a model does not grow the process.
async fn level(registry: &Registry, kind: BackendKind) {
    const LOADS: usize = 200;
    // A model that stayed would take its own 150 KB in each of the loads, and what an engine makes
    // of it.
    const GROWTH_MAX: u64 = 4 << 20;
    let mut sizes = Vec::new();
    for _ in 0..5 {
        for _ in 0..LOADS {
            digits(registry, kind).await;
        }
        sizes.push(resident());
    }
    let name = kind.name();
    support::say(format_args!(
        "{name}: {sizes:?} bytes after each {LOADS} loads"
    ));
    // The first round also makes what stays for good: threads, arenas, tables. A later one may find
    // the allocator taking a step; what leaks grows in each of them.
    let growths = sizes[1..]
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]));
    let least = growths.min().expect("there are several rounds");
    assert!(least < GROWTH_MAX, "{name}: {sizes:?}");
}

async fn digits(registry: &Registry, kind: BackendKind) -> Model {
    let file = |name: &str| {
        format!(
            "{}/../../predictors/digits/models/{name}",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    let of = |name: &str, sizes: &[u64]| {
        let sizes = sizes.iter().copied().map(Dim::Fixed);
        TensorSpec {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: [Dim::Any].into_iter().chain(sizes).collect(),
        }
    };
    let name = match kind {
        BackendKind::TorchScript => "digits.pt",
        _ => "digits.onnx",
    };
    let request = LoadRequest {
        digest: name.to_owned(),
        source: ModelSource::path(file(name)),
        backend: kind,
        options: ModelOptions {
            inputs: vec![of("pixels", &[1, 8, 8])],
            outputs: vec![of("logits", &[10])],
            ..ModelOptions::default()
        },
        golden: Some(GoldenSample {
            digest: "golden".to_owned(),
            path: file("golden.safetensors").into(),
            tolerance: Tolerance {
                relative: 1e-4,
                absolute: 1e-4,
            },
        }),
    };
    let loaded = registry.get_or_load(request).await;
    loaded.expect("the trained model loads")
}

/// More workers of a model do not take its weights again.
async fn workers_share_the_weights(registry: &Registry) {
    let model = product_with_weights();
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    for workers in [1, 12] {
        let before = resident();
        let request = LoadRequest {
            digest: format!("{workers} workers"),
            source: ModelSource::bytes(model.clone()),
            backend: BackendKind::OnnxRuntime,
            options: ModelOptions {
                instances: NonZeroUsize::new(workers).expect("not zero"),
                ..ModelOptions::default()
            },
            golden: None,
        };
        let loaded = registry.get_or_load(request).await;
        // They stay, so that none is made of what another one left.
        all.push(loaded.expect("the model loads"));
        sizes.push(resident().saturating_sub(before));
    }
    support::say(format_args!(
        "onnxruntime: {sizes:?} bytes with 1 and 12 workers"
    ));
    // Together they have the weights as they are, and packed. Each with its own would have twelve
    // times the weights, of which a few may be in memory that the process had.
    let weights = 4 * ROWS * ROWS;
    assert!(sizes[1] < 5 * weights, "{sizes:?}");
}

const ROWS: u64 = 2048;

/// An ONNX file: `x[1,2048] × w[2048,2048]`. The numbers are those of onnx.proto's fields.
fn product_with_weights() -> Vec<u8> {
    let number = |field: u64, value: u64| {
        let mut bytes = Vec::new();
        encode_varint(field << 3, &mut bytes);
        encode_varint(value, &mut bytes);
        bytes
    };
    let message = |field: u64, parts: &[Vec<u8>]| {
        let content = parts.concat();
        let mut bytes = Vec::new();
        encode_varint(field << 3 | 2, &mut bytes);
        encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    };
    let text = |field: u64, text: &str| message(field, &[text.as_bytes().to_vec()]);
    let value = |field: u64, name: &str| {
        let shape = [1, ROWS].map(|size| message(1, &[number(1, size)]));
        let tensor = message(1, &[number(1, 1), message(2, &shape)]);
        message(field, &[text(1, name), message(2, &[tensor])])
    };
    let values = (0..ROWS * ROWS).flat_map(|n| ((n % 13) as f32 / 64.0).to_le_bytes());
    let weights = [
        number(1, ROWS),
        number(1, ROWS),
        number(2, 1),
        text(8, "w"),
        message(9, &[values.collect()]),
    ];
    let node = [text(1, "x"), text(1, "w"), text(2, "y"), text(4, "MatMul")];
    let graph = [
        message(1, &node),
        text(2, "product"),
        message(5, &weights),
        value(11, "x"),
        value(12, "y"),
    ];
    let opset = message(8, &[number(2, 17)]);
    [number(1, 8), message(7, &graph), opset].concat()
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number counts pages") * 4096
}
