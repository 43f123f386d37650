//! Inputs for a model that was exported already: of a file, or made from its signature.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_inference::{DType, Dim, NamedTensors, Tensor, TensorSpec};

use crate::exit::{Exit, Failure};

const SEED: u64 = 0;
/// Of every dimension that varies.
const SIZE: u64 = 8;
/// Of a file; more would only make the package larger.
const ROWS_MAX: u64 = 32;

/// Random values, the same in every run: normal floats, and zeros and ones for whole numbers, which
/// are an index into any table. Masks are all ones.
pub(super) fn generate(inputs: &[TensorSpec]) -> Result<NamedTensors, Failure> {
    let mut random = Random(SEED);
    let tensor = |spec: &TensorSpec| {
        let shape: Vec<u64> = spec
            .shape
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Any => SIZE,
            })
            .collect();
        let elements = shape.iter().try_fold(1usize, |count, size| {
            count.checked_mul(usize::try_from(*size).ok()?)
        });
        let elements = elements.filter(|count| *count <= 1 << 28);
        let tensor = elements.and_then(|count| {
            let mut data = Vec::new();
            for _ in 0..count {
                random.push(spec, &mut data)?;
            }
            Tensor::new(spec.dtype, &shape, data).ok()
        });
        let Some(tensor) = tensor else {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "no samples can be made for input {} of {}",
                    spec.name, spec.dtype
                ),
            )
            .next("give samples: --samples FILE.npz"));
        };
        Ok((spec.name.clone(), tensor))
    };
    inputs.iter().map(tensor).collect()
}

/// The arrays of a file for these tensors; one array for one input may have any name.
pub(super) fn choose(
    path: &Path,
    arrays: &BTreeMap<String, Tensor>,
    specs: &[TensorSpec],
) -> Result<NamedTensors, Failure> {
    if let ([spec], 1) = (specs, arrays.len()) {
        let array = arrays.values().next().expect("there is one");
        return Ok(vec![(spec.name.clone(), fit(path, spec, array)?)]);
    }
    let missing: Vec<&str> = specs
        .iter()
        .map(|spec| spec.name.as_str())
        .filter(|name| !arrays.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        let there: Vec<&str> = arrays.keys().map(String::as_str).collect();
        let message = format!(
            "{} has no array {}; it has {}",
            path.display(),
            missing.join(", "),
            there.join(", ")
        );
        return Err(Failure::new(Exit::Refused, message)
            .next("save it with the tensors' names: numpy.savez(path, name=array)"));
    }
    let tensors = specs.iter().map(|spec| {
        let tensor = fit(path, spec, &arrays[&spec.name])?;
        Ok((spec.name.clone(), tensor))
    });
    tensors.collect()
}

/// The first rows, in the datatype of the signature.
fn fit(path: &Path, spec: &TensorSpec, array: &Tensor) -> Result<Tensor, Failure> {
    let refuse = |why: String| {
        let message = format!("{}: {} {why}", path.display(), spec.name);
        Err(Failure::new(Exit::Refused, message).next(format!(
            "save it as {} with the shape of the signature",
            spec.dtype
        )))
    };
    let Some(tensor) = cast(array, spec.dtype) else {
        return refuse(format!(
            "is {}, and the model takes {}",
            array.dtype(),
            spec.dtype
        ));
    };
    let varies = spec.shape.first() == Some(&Dim::Any);
    let tensor = match tensor.shape().first() {
        Some(rows) if varies && *rows > ROWS_MAX => tensor.rows(0, ROWS_MAX).unwrap_or(tensor),
        _ => tensor,
    };
    Ok(tensor)
}

/// Between floats and between whole numbers; `None` for everything else, and what does not fit.
fn cast(tensor: &Tensor, dtype: DType) -> Option<Tensor> {
    if tensor.dtype() == dtype {
        return Some(tensor.clone());
    }
    let data = tensor.data();
    let shape = tensor.shape();
    match (tensor.dtype(), dtype) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "NumPy makes doubles by itself"
        )]
        (DType::F64, DType::F32) => {
            let values = data.as_chunks::<8>().0.iter();
            let values: Vec<f32> = values.map(|v| f64::from_le_bytes(*v) as f32).collect();
            Tensor::from_values(shape, &values).ok()
        }
        (DType::F32, DType::F64) => {
            let values = data.as_chunks::<4>().0.iter();
            let values: Vec<f64> = values.map(|v| f32::from_le_bytes(*v).into()).collect();
            Tensor::from_values(shape, &values).ok()
        }
        (DType::I64, DType::I32) => {
            let values = data.as_chunks::<8>().0.iter();
            let values: Result<Vec<i32>, _> = values
                .map(|v| i32::try_from(i64::from_le_bytes(*v)))
                .collect();
            Tensor::from_values(shape, &values.ok()?).ok()
        }
        (DType::I32, DType::I64) => {
            let values = data.as_chunks::<4>().0.iter();
            let values: Vec<i64> = values.map(|v| i32::from_le_bytes(*v).into()).collect();
            Tensor::from_values(shape, &values).ok()
        }
        _ => None,
    }
}

/// SplitMix64, which needs no crate and no state but a number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From 0 up to, and without, 1.
    fn uniform(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double has")]
        let numerator = (self.next() >> 11) as f64;
        numerator / (1u64 << 53) as f64
    }

    /// Box and Muller's way, without its second half.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// One element; `None` for what has no sensible value.
    fn push(&mut self, spec: &TensorSpec, data: &mut Vec<u8>) -> Option<()> {
        let bit = match spec.name.contains("mask") {
            true => 1,
            false => u8::try_from(self.next() & 1).ok()?,
        };
        match spec.dtype {
            #[expect(clippy::cast_possible_truncation, reason = "a random number stays one")]
            DType::F32 => data.extend_from_slice(&(self.normal() as f32).to_le_bytes()),
            DType::F64 => data.extend_from_slice(&self.normal().to_le_bytes()),
            // 1 and 0.5 in their halves; more is not worth a dependency.
            DType::F16 => data.extend_from_slice(&[0, if bit == 1 { 0x3c } else { 0x38 }]),
            DType::BF16 => data.extend_from_slice(&[if bit == 1 { 0x80 } else { 0 }, 0x3f]),
            DType::Bytes => return None,
            whole => {
                data.push(bit);
                data.resize(data.len() + whole.size()? - 1, 0);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dtype: DType, shape: &[Dim]) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.into(),
        }
    }

    #[test]
    fn generated_samples_fit_their_signature_and_are_always_the_same() {
        let specs: Vec<_> = DType::ALL
            .into_iter()
            .filter(|dtype| *dtype != DType::Bytes)
            .map(|dtype| spec(dtype.name(), dtype, &[Dim::Any, Dim::Fixed(3)]))
            .collect();
        let samples = generate(&specs).unwrap();
        for ((name, tensor), spec) in samples.iter().zip(&specs) {
            assert_eq!((name, tensor.dtype()), (&spec.name, spec.dtype));
            assert_eq!(tensor.shape(), [8, 3]);
            let first = &tensor.data()[..tensor.data().len() / 24];
            assert!(
                tensor
                    .data()
                    .chunks(first.len())
                    .any(|other| other != first),
                "{name} varies"
            );
        }
        assert_eq!(generate(&specs).unwrap(), samples);
        let text = spec("text", DType::Bytes, &[Dim::Any]);
        assert_eq!(generate(&[text]).unwrap_err().exit, Exit::Refused);
    }

    #[test]
    fn normal_numbers_are_spread_around_zero() {
        let mut random = Random(SEED);
        let numbers: Vec<f64> = (0..10_000).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 10_000.0;
        let variance = numbers.iter().map(|n| n * n).sum::<f64>() / 10_000.0;
        assert!(mean.abs() < 0.05, "{mean}");
        assert!((variance - 1.0).abs() < 0.1, "{variance}");
    }

    #[test]
    fn arrays_are_chosen_by_name_cast_and_cut() {
        let path = Path::new("samples.npz");
        let wide = Tensor::from_values(&[40, 1], &[0.5f64; 40]).unwrap();
        let specs = [spec("x", DType::F32, &[Dim::Any, Dim::Fixed(1)])];
        let one = BTreeMap::from([("arr_0".to_owned(), wide.clone())]);
        let chosen = choose(path, &one, &specs).unwrap();
        assert_eq!(
            chosen[0].1,
            Tensor::from_values(&[32, 1], &[0.5f32; 32]).unwrap()
        );

        let two = BTreeMap::from([
            ("a".to_owned(), wide.clone()),
            ("b".to_owned(), wide.clone()),
        ]);
        let missing = choose(path, &two, &specs).unwrap_err();
        assert!(
            missing.to_string().contains("has no array x; it has a, b"),
            "{missing}"
        );

        let whole = [spec("x", DType::I64, &[Dim::Any, Dim::Fixed(1)])];
        let wrong = choose(path, &one, &whole).unwrap_err();
        assert!(
            wrong
                .to_string()
                .contains("is FP64, and the model takes INT64"),
            "{wrong}"
        );
    }
}
