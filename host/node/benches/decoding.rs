//! What it costs to make tensors of a request's body: numbers in JSON, and bytes as they are.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dunlin_inference::{DType, Tensor};
use dunlin_node::parse_tensor_json;
use serde_json::value::RawValue;

/// One row of digits and one of ResNet.
const ROWS: [(&str, &[u64]); 2] = [("digits", &[1, 1, 8, 8]), ("resnet18", &[1, 3, 224, 224])];

fn decoding(criterion: &mut Criterion) {
    for (name, shape) in ROWS {
        let elements = shape.iter().product();
        let numbers: Vec<String> = (0..elements).map(|at| brightness(at).to_string()).collect();
        let text = format!("[{}]", numbers.join(","));
        let json = RawValue::from_string(text).expect("numbers are JSON");
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|at| brightness(at).to_le_bytes())
            .collect();
        let body = Bytes::from(bytes);

        let mut group = criterion.benchmark_group(format!("decode a row of {name}"));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("JSON", |bencher| {
            bencher.iter(|| parse_tensor_json(DType::F32, black_box(&json)));
        });
        group.bench_function("binary", |bencher| {
            bencher.iter(|| Tensor::new(DType::F32, shape, black_box(&body).clone()));
        });
        group.finish();
    }
}

/// From 0 to 1, with as many digits as a picture's have.
fn brightness(at: u64) -> f32 {
    let byte = u8::try_from(at * 37 % 255).expect("less than 255");
    f32::from(byte) / 256.0
}

criterion_group!(benches, decoding);
criterion_main!(benches);
