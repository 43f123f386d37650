//! How far a tensor is from the one that the original module answered with.
//!
//! The rule is the node's: a float may be `absolute + relative * |expected|` away, everything else
//! must be equal, and NaN is near to NaN only.

use dunlin_inference::{DType, Tensor};
use half::{bf16, f16};
use serde::Serialize;

/// How far a float may be from the original's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Tolerance {
    pub(crate) relative: f64,
    pub(crate) absolute: f64,
}

impl Tolerance {
    pub(super) fn allowed(self, expected: f64) -> f64 {
        match expected.is_finite() {
            true => self.absolute + self.relative * expected.abs(),
            false => 0.0,
        }
    }
}

/// The largest differences over all that was compared. Infinite where one of two is no number.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Difference {
    pub(crate) absolute: f64,
    /// Beside values below the absolute tolerance a share says nothing: those are left out.
    pub(crate) relative: f64,
    /// Elements outside the tolerance.
    pub(crate) outside: u64,
    /// The one that is furthest outside.
    pub(crate) worst: Option<String>,
    #[serde(skip)]
    excess: f64,
}

/// Rows whose largest element stands at the same place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Agreement {
    pub(crate) agree: u64,
    pub(crate) of: u64,
}

impl Difference {
    pub(super) fn merge(&mut self, other: Self) {
        self.absolute = self.absolute.max(other.absolute);
        self.relative = self.relative.max(other.relative);
        self.outside += other.outside;
        if other.worst.is_some() && (self.worst.is_none() || other.excess > self.excess) {
            self.worst = other.worst;
            self.excess = other.excess;
        }
    }

    /// Something that no tolerance covers.
    pub(super) fn incomparable(what: String) -> Self {
        Self {
            absolute: f64::INFINITY,
            relative: f64::INFINITY,
            outside: 1,
            worst: Some(what),
            excess: f64::INFINITY,
        }
    }

    /// `whole` is what the distance is a share of; zero where a share says nothing.
    fn element(&mut self, distance: f64, whole: f64, allowed: f64, worst: impl Fn() -> String) {
        self.absolute = self.absolute.max(distance);
        if distance > allowed {
            self.outside += 1;
            let excess = distance / allowed;
            if self.worst.is_none() || excess > self.excess {
                self.worst = Some(worst());
                self.excess = excess;
            }
        }
        if whole != 0.0 {
            self.relative = self.relative.max(distance / whole.abs());
        }
    }
}

/// `output` names the tensor in the message.
pub(super) fn between(
    output: &str,
    expected: &Tensor,
    got: &Tensor,
    tolerance: Tolerance,
) -> Difference {
    if expected.dtype() != got.dtype() || expected.shape() != got.shape() {
        return Difference::incomparable(format!(
            "output {output} is {}{:?}, the original's {}{:?}",
            got.dtype(),
            got.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    let mut difference = Difference::default();
    let at = |element| index(expected.shape(), element);
    let (Some(wanted), Some(found)) = (floats(expected), floats(got)) else {
        let size = expected.dtype().size().unwrap_or(1);
        let pairs = expected.data().chunks(size).zip(got.data().chunks(size));
        for (element, (wanted, found)) in pairs.enumerate() {
            if wanted != found {
                difference.element(f64::INFINITY, 0.0, 0.0, || {
                    format!("output {output}{:?} is not the original's", at(element))
                });
            }
        }
        return difference;
    };
    for (element, (wanted, found)) in wanted.into_iter().zip(found).enumerate() {
        if wanted == found || (wanted.is_nan() && found.is_nan()) {
            continue;
        }
        let distance = (wanted - found).abs();
        let distance = if distance.is_nan() {
            f64::INFINITY
        } else {
            distance
        };
        let allowed = tolerance.allowed(wanted);
        let whole = match wanted.abs() > tolerance.absolute {
            true => wanted,
            false => 0.0,
        };
        difference.element(distance, whole, allowed, || {
            format!(
                "output {output}{:?} is {found}, the original's {wanted}; allowed is {allowed:.1e}",
                at(element)
            )
        });
    }
    difference
}

/// Of a tensor of rows: how often both have their largest element at the same place. `None` where
/// that has no meaning.
pub(super) fn labels(expected: &Tensor, got: &Tensor) -> Option<Agreement> {
    let &[_, classes] = expected.shape() else {
        return None;
    };
    if classes < 2 || expected.shape() != got.shape() {
        return None;
    }
    let (expected, got) = (floats(expected)?, floats(got)?);
    let classes = usize::try_from(classes).ok()?;
    let rows = expected.chunks(classes).zip(got.chunks(classes));
    let mut agreement = Agreement::default();
    for (expected, got) in rows {
        agreement.of += 1;
        agreement.agree += u64::from(largest(expected) == largest(got));
    }
    Some(agreement)
}

impl Agreement {
    /// Adds to what there is so far, which may be nothing.
    pub(super) fn add_to(total: &mut Option<Self>, more: Option<Self>) {
        if let Some(more) = more {
            let total = total.get_or_insert_default();
            total.agree += more.agree;
            total.of += more.of;
        }
    }

    pub(crate) fn is_whole(self) -> bool {
        self.agree == self.of
    }
}

/// The first of the largest.
fn largest(row: &[f64]) -> usize {
    let mut largest = 0;
    for (at, value) in row.iter().enumerate() {
        if *value > row[largest] {
            largest = at;
        }
    }
    largest
}

/// The elements of a tensor of floats.
pub(super) fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F16 => tensor.values::<f16>()?.map(f64::from).collect(),
        DType::BF16 => tensor.values::<bf16>()?.map(f64::from).collect(),
        DType::F32 => tensor.values::<f32>()?.map(f64::from).collect(),
        DType::F64 => tensor.values::<f64>()?.collect(),
        _ => return None,
    })
}

fn index(shape: &[u64], mut element: usize) -> Vec<usize> {
    let mut index = Vec::with_capacity(shape.len());
    for size in shape.iter().rev() {
        let size = usize::try_from(*size).unwrap_or(usize::MAX).max(1);
        index.push(element % size);
        element /= size;
    }
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        relative: 0.01,
        absolute: 0.1,
    };

    fn rows(values: &[f32]) -> Tensor {
        Tensor::from_values(&[values.len() as u64 / 2, 2], values).unwrap()
    }

    #[test]
    fn the_largest_differences_and_the_worst_element_are_found() {
        let expected = rows(&[100.0, 0.0, -1.0, 2.0]);
        let near = between(
            "y",
            &expected,
            &rows(&[101.0, 0.0625, -1.0, 2.0]),
            TOLERANCE,
        );
        assert_eq!((near.absolute, near.outside, &near.worst), (1.0, 0, &None));
        assert!((near.relative - 0.01).abs() < 1e-9, "{near:?}");

        let far = between("y", &expected, &rows(&[103.0, 0.0, -1.0, 4.0]), TOLERANCE);
        assert_eq!((far.absolute, far.outside), (3.0, 2));
        assert_eq!(far.relative, 1.0);
        let worst = far.worst.unwrap();
        assert!(
            worst.starts_with("output y[1, 1] is 4, the original's 2;"),
            "{worst}"
        );
    }

    #[test]
    fn what_is_no_number_is_infinitely_far() {
        let expected = rows(&[f32::NAN, f32::INFINITY, 1.0, 1.0]);
        let same = between("y", &expected, &expected, TOLERANCE);
        assert_eq!(same, Difference::default());
        let got = rows(&[f32::NAN, 1.0, f32::NAN, 1.0]);
        let far = between("y", &expected, &got, TOLERANCE);
        assert_eq!((far.absolute, far.outside), (f64::INFINITY, 2));
    }

    #[test]
    fn whole_numbers_and_shapes_are_equal_or_not() {
        let numbers = |values: &[i64]| Tensor::from_values(&[values.len() as u64], values).unwrap();
        let equal = between("ids", &numbers(&[1, 2]), &numbers(&[1, 2]), TOLERANCE);
        assert_eq!(equal, Difference::default());
        let other = between("ids", &numbers(&[1, 2]), &numbers(&[1, 3]), TOLERANCE);
        assert_eq!(other.outside, 1);
        assert_eq!(other.worst.unwrap(), "output ids[1] is not the original's");
        let shape = between("ids", &numbers(&[1, 2]), &numbers(&[1]), TOLERANCE);
        assert!(shape.worst.unwrap().contains("INT64[1]"));
    }

    #[test]
    fn labels_are_the_places_of_the_largest() {
        let expected = rows(&[0.0, 1.0, 3.0, 2.0, 1.0, 1.0]);
        let got = rows(&[0.0, 2.0, 2.0, 3.0, 1.0, 1.0]);
        assert_eq!(labels(&expected, &got), Some(Agreement { agree: 2, of: 3 }));
        let flat = Tensor::from_values(&[2], &[1.0f32, 2.0]).unwrap();
        assert_eq!(labels(&flat, &flat), None);
    }
}
