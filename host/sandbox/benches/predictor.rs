//! A prediction of digits with a warm instance, with a fresh one, and without Wasm; and one call of
//! `wasi:nn` through a guest that only hands tensors on, beside the model alone.
//!
//! `DUNLIN_COMPONENTS` names the folder with the components that `cargo xtask guests` compiled;
//! `cargo xtask bench --micro` sets it.

mod digits;

use std::{hint::black_box, path::PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use dunlin_inference::BackendKind;

use crate::digits::{Digits, Failure, question};

fn predictor(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let digits = runtime
        .block_on(load())
        .expect("digits loads; run cargo xtask bench --micro");
    let body = question();
    let mut group = criterion.benchmark_group("digits");
    group.bench_function("native", |bencher| {
        bencher.iter(|| runtime.block_on(digits.native(black_box(&body))));
    });
    group.bench_function("warm call", |bencher| {
        bencher.iter(|| runtime.block_on(Digits::predict(&digits.warm, black_box(&body))));
    });
    group.bench_function("instance start and call", |bencher| {
        bencher.iter(|| runtime.block_on(Digits::predict(&digits.fresh, black_box(&body))));
    });
    group.finish();

    let mut group = criterion.benchmark_group("wasi:nn");
    let inputs = || vec![("pixels".to_owned(), digits.row())];
    group.bench_function("model alone", |bencher| {
        bencher.iter(|| runtime.block_on(digits.model.infer(black_box(inputs()))));
    });
    group.bench_function("through a guest", |bencher| {
        bencher.iter(|| runtime.block_on(digits.forwarded(black_box(&inputs()))));
    });
    group.finish();
}

async fn load() -> Result<Digits, Failure> {
    let components = PathBuf::from(std::env::var("DUNLIN_COMPONENTS")?);
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let model = repository.join("predictors/digits/models/digits.onnx");
    let model = model.to_str().ok_or("the path is not text")?;
    Digits::load(&components, model, BackendKind::Tract).await
}

criterion_group!(benches, predictor);
criterion_main!(benches);
