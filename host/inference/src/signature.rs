//! What a model takes and gives, and the check of a call against it.

use std::fmt;
use std::num::NonZeroU64;

use crate::tensor::{BYTES_LENGTH, display_shape};
use crate::{DType, InferenceError, RANK_MAX, Tensor};

/// The tensors of a model in the model's order. Names are unique on each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// The name and type of one input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<Dim>,
}

/// One dimension of a declared shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Fixed(u64),
    /// Differs from call to call. Which dimensions go together is the engine's to know.
    Any,
}

impl Signature {
    /// Puts named tensors into the order of the model's inputs. Each input must be there once, with
    /// its type and a shape that fits, and nothing else.
    pub fn order_inputs(
        &self,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<Vec<Tensor>, InferenceError> {
        let mut ordered: Vec<Option<Tensor>> = Vec::new();
        ordered.resize_with(self.inputs.len(), || None);
        for (name, tensor) in tensors {
            let Some(position) = self.inputs.iter().position(|spec| spec.name == name) else {
                return Err(InferenceError::invalid(format!(
                    "unknown input {name:?}; the model takes {}",
                    names(&self.inputs)
                )));
            };
            self.inputs[position].check(&tensor)?;
            if ordered[position].replace(tensor).is_some() {
                return Err(InferenceError::invalid(format!(
                    "input {name:?} is given more than once"
                )));
            }
        }
        let missing = |position: usize| {
            let spec = &self.inputs[position];
            InferenceError::invalid(format!(
                "input {:?} is missing; the model takes {}",
                spec.name,
                names(&self.inputs)
            ))
        };
        ordered
            .into_iter()
            .enumerate()
            .map(|(position, tensor)| tensor.ok_or_else(|| missing(position)))
            .collect()
    }

    /// Whether what a deployment says of the tensors is what they are. It need not name them all, and
    /// it may give a size to a dimension that is variable: it is the model's own that counts.
    pub(crate) fn check_declared(
        &self,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(), InferenceError> {
        check_side("input", inputs, &self.inputs)?;
        check_side("output", outputs, &self.outputs)
    }

    /// Refuses a model that declares a tensor which no call could bring or take away: more than
    /// `bytes_max` in its fixed dimensions alone, or more than [`RANK_MAX`] of them.
    pub(crate) fn check_bounds(&self, bytes_max: NonZeroU64) -> Result<(), InferenceError> {
        let inputs = self.inputs.iter().map(|spec| ("input", spec));
        let outputs = self.outputs.iter().map(|spec| ("output", spec));
        for (side, spec) in inputs.chain(outputs) {
            spec.check_bounds(side, bytes_max)?;
        }
        Ok(())
    }

    /// Whether every input has a first dimension that differs from call to call, as a batch does.
    pub fn is_batched(&self) -> bool {
        let first_is_any = |spec: &TensorSpec| spec.shape.first() == Some(&Dim::Any);
        !self.inputs.is_empty() && self.inputs.iter().all(first_is_any)
    }
}

impl TensorSpec {
    /// Whether a shape of this rank and these sizes is within the declared one.
    pub fn fits(&self, shape: &[u64]) -> bool {
        shape.len() == self.shape.len()
            && shape.iter().zip(&self.shape).all(|(size, dim)| match dim {
                Dim::Fixed(fixed) => size == fixed,
                Dim::Any => true,
            })
    }

    /// The declared shape with every variable dimension replaced.
    pub fn shape_with(&self, any: u64) -> Vec<u64> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Any => any,
        };
        self.shape.iter().map(size).collect()
    }

    pub(crate) fn check_bounds(
        &self,
        side: &str,
        bytes_max: NonZeroU64,
    ) -> Result<(), InferenceError> {
        let TensorSpec { name, dtype, shape } = self;
        if shape.len() > RANK_MAX {
            return Err(InferenceError::load(format!(
                "{side} {name:?} has {} dimensions; at most {RANK_MAX} are allowed",
                shape.len()
            )));
        }
        let bytes = self.bytes_at_least();
        if bytes > u128::from(bytes_max.get()) {
            return Err(InferenceError::load(format!(
                "{side} {name:?} is {dtype}{}, which takes {bytes} bytes; a tensor of a model may \
                 have {bytes_max} at most",
                DisplayDims(shape)
            )));
        }
        Ok(())
    }

    /// Bytes of a tensor with these dimensions, each variable one 1. So is a 0: beside it the others
    /// may still not be beyond all bounds.
    fn bytes_at_least(&self) -> u128 {
        let sizes = self.shape.iter().map(|dim| match dim {
            Dim::Fixed(size) => u128::from(*size).max(1),
            Dim::Any => 1,
        });
        let element = self.dtype.size().unwrap_or(BYTES_LENGTH) as u128;
        sizes.fold(element, u128::saturating_mul)
    }

    fn check(&self, tensor: &Tensor) -> Result<(), InferenceError> {
        if tensor.dtype() != self.dtype {
            return Err(InferenceError::invalid(format!(
                "input {:?} has datatype {}, expected {}",
                self.name,
                tensor.dtype(),
                self.dtype
            )));
        }
        if !self.fits(tensor.shape()) {
            return Err(InferenceError::invalid(format!(
                "input {:?} has shape {}, expected {}",
                self.name,
                display_shape(tensor.shape()),
                DisplayDims(&self.shape)
            )));
        }
        Ok(())
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}{}",
            self.name,
            self.dtype,
            DisplayDims(&self.shape)
        )
    }
}

fn check_side(
    side: &str,
    declared: &[TensorSpec],
    actual: &[TensorSpec],
) -> Result<(), InferenceError> {
    for spec in declared {
        let Some(known) = actual.iter().find(|known| known.name == spec.name) else {
            return Err(InferenceError::load(format!(
                "the deployment file has an {side} {:?}, the model has {}",
                spec.name,
                names(actual)
            )));
        };
        let dims = spec.shape.iter().zip(&known.shape);
        let agree = spec.dtype == known.dtype
            && spec.shape.len() == known.shape.len()
            && dims
                .into_iter()
                .all(|(dim, known)| dim == known || *known == Dim::Any);
        if !agree {
            return Err(InferenceError::load(format!(
                "the deployment file has {side} {spec}, the model has {known}; \
                 write what the model has, or nothing"
            )));
        }
    }
    Ok(())
}

struct DisplayDims<'a>(&'a [Dim]);

impl fmt::Display for DisplayDims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.0.iter().enumerate() {
            if axis > 0 {
                f.write_str(",")?;
            }
            dim.fmt(f)?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => size.fmt(f),
            Dim::Any => f.write_str("-1"),
        }
    }
}

/// `"a", "b" and "c"`.
fn names(specs: &[TensorSpec]) -> String {
    let quoted: Vec<String> = specs
        .iter()
        .map(|spec| format!("{:?}", spec.name))
        .collect();
    match quoted.as_slice() {
        [] => "no inputs".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[Dim]) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: shape.to_vec(),
        }
    }

    fn floats(shape: &[u64]) -> Tensor {
        Tensor::zeros(DType::F32, shape).unwrap()
    }

    #[test]
    fn declared_tensors_have_a_bound() {
        use Dim::{Any, Fixed};

        let bytes_max = NonZeroU64::new(1 << 30).unwrap();
        let declared = |shape: &[Dim]| {
            let signature = Signature {
                inputs: vec![spec("x", &[Any])],
                outputs: vec![spec("y", shape)],
            };
            signature.check_bounds(bytes_max).map_err(|e| e.to_string())
        };
        for fits in [&[][..], &[Any; RANK_MAX], &[Any, Fixed(1 << 28)]] {
            assert_eq!(declared(fits), Ok(()));
        }
        let cases: [(&[Dim], &str); 4] = [
            (
                &[Fixed(1 << 20), Fixed(1 << 25)],
                r#"output "y" is FP32[1048576,33554432], which takes 140737488355328 bytes; a tensor of a model may have 1073741824 at most"#,
            ),
            (&[Any, Fixed((1 << 28) + 1)], "takes 1073741828 bytes"),
            (&[Fixed(0), Fixed(u64::MAX), Fixed(u64::MAX)], "bytes"),
            (
                &[Any; RANK_MAX + 1],
                r#"output "y" has 33 dimensions; at most 32 are allowed"#,
            ),
        ];
        for (shape, message) in cases {
            let refused = declared(shape).unwrap_err();
            assert!(refused.contains(message), "{refused}");
        }
    }

    #[test]
    fn messages_name_the_tensor_and_what_is_expected() {
        let pixels = [Dim::Any, Dim::Fixed(1), Dim::Fixed(8), Dim::Fixed(8)];
        let signature = Signature {
            inputs: vec![spec("pixels", &pixels), spec("scale", &[])],
            outputs: Vec::new(),
        };
        let fits = || floats(&[3, 1, 8, 8]);
        let bytes = Tensor::zeros(DType::U8, &[3, 1, 8, 8]).unwrap();
        let cases: &[(&[(&str, Tensor)], &str)] = &[
            (
                &[("pixels", floats(&[2, 64]))],
                r#"input "pixels" has shape [2,64], expected [-1,1,8,8]"#,
            ),
            (
                &[("pixels", floats(&[2, 1, 8, 9]))],
                r#"input "pixels" has shape [2,1,8,9], expected [-1,1,8,8]"#,
            ),
            (
                &[("scale", floats(&[1]))],
                r#"input "scale" has shape [1], expected []"#,
            ),
            (
                &[("pixels", bytes)],
                r#"input "pixels" has datatype UINT8, expected FP32"#,
            ),
            (
                &[("image", fits())],
                r#"unknown input "image"; the model takes "pixels" and "scale""#,
            ),
            (
                &[("pixels", fits())],
                r#"input "scale" is missing; the model takes "pixels" and "scale""#,
            ),
            (
                &[("pixels", fits()), ("pixels", fits())],
                r#"input "pixels" is given more than once"#,
            ),
        ];
        for (tensors, message) in cases {
            let tensors = tensors.iter().map(|(n, t)| ((*n).to_owned(), t.clone()));
            let error = signature.order_inputs(tensors.collect()).unwrap_err();
            assert_eq!(error.to_string(), *message);
        }

        let declared =
            |name: &str, dims: &[Dim]| signature.check_declared(&[spec(name, dims)], &[]);
        let exact = [Dim::Fixed(4), Dim::Fixed(1), Dim::Fixed(8), Dim::Fixed(8)];
        declared("pixels", &pixels).unwrap();
        declared("pixels", &exact).unwrap();
        let error = declared(
            "pixels",
            &[Dim::Any, Dim::Any, Dim::Fixed(8), Dim::Fixed(8)],
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "the deployment file has input pixels FP32[-1,-1,8,8], the model has pixels \
             FP32[-1,1,8,8]; write what the model has, or nothing"
        );
        let error = declared("image", &pixels).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"the deployment file has an input "image", the model has "pixels" and "scale""#
        );

        let swapped = vec![
            ("scale".to_owned(), floats(&[])),
            ("pixels".to_owned(), fits()),
        ];
        let ordered = signature.order_inputs(swapped).unwrap();
        assert_eq!(ordered[0].shape(), [3, 1, 8, 8]);
        assert!(!signature.is_batched());
    }
}
