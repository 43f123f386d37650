//! What a batch costs beside its run: rows of several callers put together, and their outputs taken
//! apart.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dunlin_inference::{DType, Tensor};

/// Callers with one row each, of a picture as ResNet takes it and of one of digits.
const CALLERS: [u64; 2] = [4, 32];
const ROWS: [(&str, [u64; 4]); 2] = [("digits", [1, 1, 8, 8]), ("resnet18", [1, 3, 224, 224])];

fn rows(criterion: &mut Criterion) {
    for (name, shape) in ROWS {
        let row = Tensor::zeros(DType::F32, &shape).expect("a row is small");
        let bytes = row.data().len() as u64;
        let mut group = criterion.benchmark_group(format!("rows of {name}"));
        for callers in CALLERS {
            group.throughput(Throughput::Bytes(callers * bytes));
            let parts: Vec<&Tensor> = (0..callers).map(|_| &row).collect();
            group.bench_function(BenchmarkId::new("stack", callers), |bencher| {
                bencher.iter(|| Tensor::join_rows(black_box(parts.iter().copied())));
            });
            let whole = Tensor::join_rows(parts.iter().copied()).expect("the rows are alike");
            group.bench_function(BenchmarkId::new("split", callers), |bencher| {
                bencher.iter(|| {
                    for at in 0..callers {
                        black_box(whole.rows(at, 1));
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, rows);
criterion_main!(benches);
