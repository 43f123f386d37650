//! Finds the values of a model's symbols from the shapes of a call's inputs.

use std::collections::BTreeSet;

use tract_onnx::prelude::{Symbol, SymbolValues, TDim};
use tract_onnx::tract_hir::internal::ToDim;
use tract_onnx::tract_hir::tract_core::internal::solve_for;

use crate::tensor::display_shape;
use crate::{InferenceError, Tensor};

/// The inputs' dimensions as expressions of symbols: `batch`, `2*n+1`, `8`.
pub(super) struct InputDims {
    inputs: Vec<(String, Vec<TDim>)>,
}

/// Larger than any dimension that fits in memory with its neighbours, and small enough that sums
/// and products of a few sizes stay within tract's 64-bit arithmetic.
const SIZE_MAX: i64 = i32::MAX as i64;

impl InputDims {
    pub(super) fn new(inputs: Vec<(String, Vec<TDim>)>) -> Self {
        InputDims { inputs }
    }

    /// Whether there is anything to bind.
    pub(super) fn has_symbols(&self) -> bool {
        !self.symbols().is_empty()
    }

    pub(super) fn symbols(&self) -> BTreeSet<Symbol> {
        self.dims().flat_map(|(_, _, dim)| dim.symbols()).collect()
    }

    /// Binds every symbol that it can to the value it must have, and checks that the sizes agree: two
    /// inputs whose first dimension is `batch` must have the same.
    ///
    /// `inputs` have the ranks of the declared shapes.
    pub(super) fn solve(&self, inputs: &[Tensor]) -> Result<SymbolValues, InferenceError> {
        let mut equations = Vec::new();
        for (input, axis, dim) in self.dims() {
            let actual = inputs[input].shape()[axis];
            let Some(actual) = i64::try_from(actual).ok().filter(|size| *size <= SIZE_MAX) else {
                return Err(InferenceError::invalid(format!(
                    "input {:?} has shape {}; a dimension may be at most {SIZE_MAX}",
                    self.inputs[input].0,
                    display_shape(inputs[input].shape())
                )));
            };
            equations.push((input, axis, dim, actual));
        }

        // Each round solves what depends on one unknown symbol, which may make the next solvable.
        // A round that leaves as much open as it found is the last.
        let mut known = SymbolValues::default();
        loop {
            let before = equations.len();
            let mut open = Vec::new();
            for (input, axis, dim, actual) in equations {
                let left = dim.eval(&known);
                match left.as_i64() {
                    Some(size) if size == actual => {}
                    Some(size) => return Err(self.disagreement(inputs, input, axis, dim, size)),
                    None => match solve(&left, actual) {
                        Some((symbol, value)) if value >= 0 => known.set(&symbol, value),
                        _ => open.push((input, axis, dim, actual)),
                    },
                }
            }
            if open.len() == before || open.is_empty() {
                return Ok(known);
            }
            equations = open;
        }
    }

    fn disagreement(
        &self,
        inputs: &[Tensor],
        input: usize,
        axis: usize,
        dim: &TDim,
        expected: i64,
    ) -> InferenceError {
        let shape = display_shape(inputs[input].shape());
        InferenceError::invalid(format!(
            "input {:?} has shape {shape}, but its dimension {axis} is {dim} in the model, \
             which the other dimensions set to {expected}",
            self.inputs[input].0,
        ))
    }

    fn dims(&self) -> impl Iterator<Item = (usize, usize, &TDim)> {
        self.inputs
            .iter()
            .enumerate()
            .flat_map(|(input, (_, dims))| {
                let dims = dims.iter().enumerate();
                dims.map(move |(axis, dim)| (input, axis, dim))
            })
    }
}

/// The value of the only symbol of `dim` that makes it `actual`; none if it has several, or the
/// expression cannot be inverted.
fn solve(dim: &TDim, actual: i64) -> Option<(Symbol, i64)> {
    let mut symbols = dim.symbols().into_iter();
    let (Some(symbol), None) = (symbols.next(), symbols.next()) else {
        return None;
    };
    let value = solve_for(&symbol, dim, &actual.to_dim())?.as_i64()?;
    Some((symbol, value))
}
