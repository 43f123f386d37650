//! Golden samples: inputs, and what the original model made of them.
//!
//! A sample is a `.safetensors` file with a tensor `input.<name>` for each input of the model and
//! `output.<name>` for outputs, at least one. The first dimension counts rows where the model has a
//! batch; a model with a fixed batch sees the rows in pieces of that size.

use std::path::Path;

use bytes::Bytes;
use half::{bf16, f16};
use safetensors::{Dtype as FileDtype, SafeTensors};

use crate::model::NamedTensors;
use crate::{DType, Dim, GoldenMismatch, InferenceError, Model, Tensor, one_line};

/// A sample in memory.
#[derive(Clone, Debug)]
pub struct Golden {
    inputs: NamedTensors,
    outputs: NamedTensors,
}

/// How far a float may be from the expected one: `absolute + relative * |expected|`. Other types
/// must be equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

/// Identifies a check that was passed: the sample's digest, and the bits of the tolerance.
pub(crate) type GoldenKey = (String, u64, u64);

impl Golden {
    pub fn read(path: &Path) -> Result<Golden, InferenceError> {
        let bytes = std::fs::read(path)
            .map_err(|error| unusable(format!("{} cannot be read: {error}", path.display())))?;
        Golden::parse(bytes)
    }

    pub fn parse(file: impl Into<Bytes>) -> Result<Golden, InferenceError> {
        let file = file.into();
        let tensors = SafeTensors::deserialize(&file)
            .map_err(|error| unusable(format!("not a safetensors file: {}", one_line(&error))))?;
        let mut golden = Golden {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        for (key, view) in tensors.iter() {
            let Some(dtype) = dtype_of(view.dtype()) else {
                return Err(unusable(format!("{key:?} has datatype {}", view.dtype())));
            };
            let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
            let tensor = Tensor::new(dtype, &shape, file.slice_ref(view.data()))
                .map_err(|error| unusable(format!("{key:?}: {error}")))?;
            let (side, name) = match key.split_once('.') {
                Some(("input", name)) => (&mut golden.inputs, name),
                Some(("output", name)) => (&mut golden.outputs, name),
                _ => {
                    return Err(unusable(format!(
                        "{key:?} is neither input.<name> nor output.<name>"
                    )));
                }
            };
            side.push((name.to_owned(), tensor));
        }
        let elements: usize = golden.outputs.iter().map(|(_, t)| t.element_count()).sum();
        if elements == 0 {
            return Err(unusable(
                "it has no output.<name> with elements, so nothing to compare",
            ));
        }
        // The file has no order of its own; the first error should not depend on luck.
        golden.inputs.sort_by(|a, b| a.0.cmp(&b.0));
        golden.outputs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(golden)
    }

    /// Runs the model on the sample, on this thread. The error is about the first output that has
    /// an element outside the tolerance, at its worst element.
    pub fn check(&self, model: &Model, tolerance: Tolerance) -> Result<(), InferenceError> {
        let mut comparisons = self.comparisons(model)?;
        let pieces = self.pieces(model)?;
        for piece in 0..pieces.count {
            let inputs = self.piece_of_inputs(&pieces, piece)?;
            let outputs = model.rehearse(inputs).map_err(|error| match &error {
                InferenceError::InvalidInput { .. } => unusable(one_line(&error)),
                _ => error,
            })?;
            for comparison in &mut comparisons {
                comparison.add(&outputs, &pieces, piece, tolerance)?;
            }
        }
        for comparison in comparisons {
            comparison.finish()?;
        }
        Ok(())
    }

    fn comparisons(&self, model: &Model) -> Result<Vec<Comparison<'_>>, InferenceError> {
        let declared = &model.signature().outputs;
        let comparisons = self.outputs.iter().map(|(name, expected)| {
            let Some(position) = declared.iter().position(|spec| spec.name == *name) else {
                return Err(unusable(format!("the model has no output {name:?}")));
            };
            let dtype = declared[position].dtype;
            if dtype != expected.dtype() {
                return Err(unusable(format!(
                    "output {name:?} is {} in the sample and {dtype} in the model",
                    expected.dtype()
                )));
            }
            Ok(Comparison {
                name,
                expected,
                position,
                mismatches: 0,
                worst: None,
            })
        });
        comparisons.collect()
    }

    /// How the sample is given to the model: at once where its shapes fit, else cut along the rows
    /// of the inputs that have more of them than the model takes.
    fn pieces(&self, model: &Model) -> Result<Pieces, InferenceError> {
        let specs = &model.signature().inputs;
        let mut pieces = Pieces {
            count: 1,
            cut: Vec::new(),
        };
        for (name, tensor) in &self.inputs {
            let Some(spec) = specs.iter().find(|spec| spec.name == *name) else {
                return Err(unusable(format!("the model has no input {name:?}")));
            };
            pieces.cut.push(false);
            if spec.fits(tensor.shape()) {
                continue;
            }
            // What cannot be cut is given as it is, and the model says what does not fit.
            let (Some(Dim::Fixed(batch)), Some(rows)) =
                (spec.shape.first(), tensor.shape().first())
            else {
                continue;
            };
            let Some(count) = rows
                .checked_div(*batch)
                .filter(|n| *n > 0 && n * batch == *rows)
            else {
                continue;
            };
            if pieces.count != 1 && pieces.count != count {
                return Err(unusable(format!(
                    "input {name:?} has {rows} rows, which is not as many times the model's batch \
                     as another input has"
                )));
            }
            pieces.count = count;
            if let Some(cut) = pieces.cut.last_mut() {
                *cut = true;
            }
        }
        Ok(pieces)
    }

    fn piece_of_inputs(&self, pieces: &Pieces, piece: u64) -> Result<NamedTensors, InferenceError> {
        let inputs = self.inputs.iter().zip(&pieces.cut);
        inputs
            .map(|((name, tensor), cut)| {
                let tensor = match cut {
                    true => pieces.rows(name, tensor, piece)?,
                    false => tensor.clone(),
                };
                Ok((name.clone(), tensor))
            })
            .collect()
    }
}

struct Pieces {
    count: u64,
    /// Whether each input of the sample is cut; the others go whole into every piece.
    cut: Vec<bool>,
}

impl Pieces {
    fn rows(&self, name: &str, tensor: &Tensor, piece: u64) -> Result<Tensor, InferenceError> {
        let rows = tensor.shape().first().map_or(0, |rows| rows / self.count);
        tensor
            .rows(piece * rows, rows)
            .ok_or_else(|| unusable(format!("{name:?} has no rows to cut for the model's batch")))
    }
}

/// One output against the sample, piece by piece.
struct Comparison<'a> {
    name: &'a str,
    expected: &'a Tensor,
    /// Among the model's outputs.
    position: usize,
    mismatches: u64,
    worst: Option<Worst>,
}

struct Worst {
    /// How many times the tolerance.
    excess: f64,
    index: Vec<u64>,
    expected: Number,
    got: Number,
    tolerance: f64,
}

impl Comparison<'_> {
    fn add(
        &mut self,
        outputs: &NamedTensors,
        pieces: &Pieces,
        piece: u64,
        tolerance: Tolerance,
    ) -> Result<(), InferenceError> {
        let got = &outputs[self.position].1;
        let expected = match pieces.count {
            1 => self.expected.clone(),
            _ => pieces.rows(self.name, self.expected, piece)?,
        };
        if got.shape() != expected.shape() {
            return Err(unusable(format!(
                "output {:?} has shape {:?}, the sample expects {:?}",
                self.name,
                got.shape(),
                expected.shape()
            )));
        }
        let first = piece as usize * expected.element_count();
        for element in 0..expected.element_count() {
            let (expected, got) = (number(&expected, element), number(got, element));
            let allowed = expected.allowed(tolerance);
            let Some(excess) = expected.excess(got, allowed) else {
                continue;
            };
            self.mismatches += 1;
            if self
                .worst
                .as_ref()
                .is_none_or(|worst| excess > worst.excess)
            {
                self.worst = Some(Worst {
                    excess,
                    index: index_of(self.expected.shape(), first + element),
                    expected,
                    got,
                    tolerance: allowed,
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), InferenceError> {
        let Some(worst) = self.worst else {
            return Ok(());
        };
        Err(InferenceError::GoldenMismatch(Box::new(GoldenMismatch {
            tensor: self.name.to_owned(),
            index: worst.index,
            expected: worst.expected.to_string(),
            got: worst.got.to_string(),
            tolerance: worst.tolerance,
            mismatches: self.mismatches,
            elements: self.expected.element_count() as u64,
        })))
    }
}

/// One element, wide enough for every type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Float(f64),
    Integer(i128),
}

impl Number {
    fn allowed(self, tolerance: Tolerance) -> f64 {
        match self {
            Number::Float(value) if value.is_finite() => {
                tolerance.absolute + tolerance.relative * value.abs()
            }
            Number::Float(_) | Number::Integer(_) => 0.0,
        }
    }

    /// How many times further than allowed `got` is; none if it is near enough. NaN is near to NaN
    /// only, and infinitely far from everything else.
    fn excess(self, got: Number, allowed: f64) -> Option<f64> {
        match (self, got) {
            (Number::Float(expected), Number::Float(got)) => {
                if expected == got || (expected.is_nan() && got.is_nan()) {
                    return None;
                }
                let distance = (expected - got).abs();
                if distance.is_nan() {
                    return Some(f64::INFINITY);
                }
                (distance > allowed).then(|| distance / allowed)
            }
            (Number::Integer(expected), Number::Integer(got)) => {
                (expected != got).then(|| (expected - got).unsigned_abs() as f64)
            }
            _ => Some(f64::INFINITY),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Float(value) => value.fmt(f),
            Number::Integer(value) => value.fmt(f),
        }
    }
}

fn number(tensor: &Tensor, element: usize) -> Number {
    /// The element's bytes; a tensor's data are as long as its shape says.
    fn bytes<const N: usize>(tensor: &Tensor, element: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&tensor.data()[element * N..][..N]);
        bytes
    }
    match tensor.dtype() {
        DType::Bool | DType::U8 => Number::Integer(i128::from(tensor.data()[element])),
        DType::U16 => Number::Integer(u16::from_le_bytes(bytes(tensor, element)).into()),
        DType::U32 => Number::Integer(u32::from_le_bytes(bytes(tensor, element)).into()),
        DType::U64 => Number::Integer(u64::from_le_bytes(bytes(tensor, element)).into()),
        DType::I8 => Number::Integer(i8::from_le_bytes(bytes(tensor, element)).into()),
        DType::I16 => Number::Integer(i16::from_le_bytes(bytes(tensor, element)).into()),
        DType::I32 => Number::Integer(i32::from_le_bytes(bytes(tensor, element)).into()),
        DType::I64 => Number::Integer(i64::from_le_bytes(bytes(tensor, element)).into()),
        DType::F16 => Number::Float(f16::from_le_bytes(bytes(tensor, element)).into()),
        DType::BF16 => Number::Float(bf16::from_le_bytes(bytes(tensor, element)).into()),
        DType::F32 => Number::Float(f32::from_le_bytes(bytes(tensor, element)).into()),
        DType::F64 => Number::Float(f64::from_le_bytes(bytes(tensor, element))),
        // A sample cannot hold byte strings, and the types were compared before.
        DType::Bytes => Number::Float(f64::NAN),
    }
}

/// The index of the `element`-th element in row-major order.
fn index_of(shape: &[u64], element: usize) -> Vec<u64> {
    let mut rest = element as u64;
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|size| {
            let position = rest % size;
            rest /= size;
            position
        })
        .collect();
    index.reverse();
    index
}

fn dtype_of(dtype: FileDtype) -> Option<DType> {
    match dtype {
        FileDtype::BOOL => Some(DType::Bool),
        FileDtype::U8 => Some(DType::U8),
        FileDtype::U16 => Some(DType::U16),
        FileDtype::U32 => Some(DType::U32),
        FileDtype::U64 => Some(DType::U64),
        FileDtype::I8 => Some(DType::I8),
        FileDtype::I16 => Some(DType::I16),
        FileDtype::I32 => Some(DType::I32),
        FileDtype::I64 => Some(DType::I64),
        FileDtype::F16 => Some(DType::F16),
        FileDtype::BF16 => Some(DType::BF16),
        FileDtype::F32 => Some(DType::F32),
        FileDtype::F64 => Some(DType::F64),
        _ => None,
    }
}

fn unusable(reason: impl Into<String>) -> InferenceError {
    InferenceError::GoldenUnusable {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_enough_or_not() {
        let tolerance = Tolerance {
            relative: 0.01,
            absolute: 0.1,
        };
        let float = Number::Float;
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let cases = [
            (float(100.0), float(101.0), true),
            (float(100.0), float(101.2), false),
            (float(0.0), float(-0.1), true),
            (float(0.0), float(-0.11), false),
            (float(nan), float(nan), true),
            (float(nan), float(1.0), false),
            (float(1.0), float(nan), false),
            (float(inf), float(inf), true),
            (float(inf), float(-inf), false),
            (float(1e300), float(inf), false),
            (float(inf), float(1e300), false),
            (Number::Integer(7), Number::Integer(7), true),
            (Number::Integer(100), Number::Integer(101), false),
        ];
        for (expected, got, near) in cases {
            let excess = expected.excess(got, expected.allowed(tolerance));
            assert_eq!(excess.is_none(), near, "{expected} {got}");
        }
    }

    #[test]
    fn indices_are_row_major() {
        assert_eq!(index_of(&[2, 3], 4), [1, 1]);
        assert_eq!(index_of(&[], 0), [0; 0]);
    }
}
