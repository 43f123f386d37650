//! Loading and unloading a model does not grow the process. A program of its own, with one test: what
//! else ran beside it would be measured too.

mod support;

use dunlin_inference::{BackendKind, DType, Dim, LoadRequest, ModelOptions, Registry, TensorSpec};
use support::digits;

const LOADS: usize = 200;
/// Engines keep tables that grow by a doubling now and then; a model that stays would take its own
/// 150 KB, and what an engine makes of it, in each of the loads.
const GROWTH_MAX: u64 = 4 << 20;

fn request(kind: BackendKind) -> LoadRequest {
    let of = |name: &str, sizes: &[u64]| TensorSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: [Dim::Any]
            .into_iter()
            .chain(sizes.iter().copied().map(Dim::Fixed))
            .collect(),
    };
    let file = match kind {
        BackendKind::TorchScript => "digits.pt",
        _ => "digits.onnx",
    };
    LoadRequest {
        options: ModelOptions {
            inputs: vec![of("pixels", &[1, 8, 8])],
            ..ModelOptions::default()
        },
        golden: support::sample(&digits("golden.safetensors")),
        ..support::request(kind, &digits(file))
    }
}

#[tokio::test]
async fn loading_and_unloading_does_not_grow_the_process() {
    for kind in [
        BackendKind::Tract,
        BackendKind::OnnxRuntime,
        BackendKind::TorchScript,
    ] {
        let registry = match kind {
            BackendKind::Tract => Some(Registry::default()),
            _ => support::registry(kind),
        };
        let Some(registry) = registry else { continue };
        let mut sizes = Vec::new();
        for _ in 0..3 {
            for _ in 0..LOADS {
                let mut request = request(kind);
                // The module does not say how its answer is called, and the sample does.
                if kind == BackendKind::TorchScript {
                    request.options.outputs = vec![TensorSpec {
                        name: "logits".to_owned(),
                        dtype: DType::F32,
                        shape: vec![Dim::Any, Dim::Fixed(10)],
                    }];
                }
                registry.get_or_load(request).await.unwrap();
            }
            sizes.push(resident());
        }
        // The first round also makes what stays for good: threads, arenas, tables.
        let grown = sizes[2].saturating_sub(sizes[1]);
        println!(
            "{}: resident {sizes:?} bytes after each {LOADS} loads",
            kind.name()
        );
        assert!(grown < GROWTH_MAX, "{}: {sizes:?}", kind.name());
    }
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
