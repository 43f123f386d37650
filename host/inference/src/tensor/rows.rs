//! Tensors cut and joined along their first dimension, as batches are.

use bytes::Bytes;

use super::{ByteStrings, Tensor, TensorError, element_count, reserved};

impl Tensor {
    /// The rows `start..start + count` of the first dimension, sharing the data; none if there are
    /// fewer, or no dimension.
    pub fn rows(&self, start: u64, count: u64) -> Option<Tensor> {
        let (rows, row_shape) = self.shape.split_first()?;
        let end = start.checked_add(count).filter(|end| end <= rows)?;
        let row_elements = element_count(self.dtype, row_shape).ok()?;
        // With elements in every row, both are within the data; without, they are 0.
        let (start, end) = (row_elements * start as usize, row_elements * end as usize);
        let data = match self.dtype.size() {
            Some(size) => self.data.slice(start * size..end * size),
            None => self.byte_string_range(start, end),
        };
        let mut shape = self.shape.clone();
        shape[0] = count;
        Some(Tensor {
            dtype: self.dtype,
            shape,
            data,
        })
    }

    /// The rows of all of them, one after the other.
    ///
    /// # Errors
    /// Together they are larger than memory.
    ///
    /// # Panics
    /// They differ in their type or in more than the first dimension, or there is none.
    pub fn join_rows<'t>(
        tensors: impl IntoIterator<Item = &'t Tensor> + Clone,
    ) -> Result<Tensor, TensorError> {
        let mut rest = tensors.clone().into_iter();
        let first = rest.next().expect("there is a tensor to join");
        let mut shape = first.shape.clone();
        let mut bytes = first.data.len();
        for tensor in rest {
            let alike = tensor.dtype == first.dtype && tensor.shape[1..] == first.shape[1..];
            assert!(alike, "{tensor:?} does not join {first:?}");
            shape[0] = shape[0].saturating_add(tensor.shape[0]);
            bytes = bytes.saturating_add(tensor.data.len());
        }
        element_count(first.dtype, &shape)?;
        let mut data = reserved(bytes)?;
        for tensor in tensors {
            data.extend_from_slice(&tensor.data);
        }
        Ok(Tensor {
            dtype: first.dtype,
            shape,
            data: data.into(),
        })
    }

    /// The elements `start..end` of a tensor of byte strings, with their lengths.
    fn byte_string_range(&self, start: usize, end: usize) -> Bytes {
        let mut elements = ByteStrings { rest: &self.data };
        let mut offset = |elements_on: usize| {
            for _ in 0..elements_on {
                elements.next();
            }
            self.data.len() - elements.rest.len()
        };
        let from = offset(start);
        let to = offset(end - start);
        self.data.slice(from..to)
    }
}

/// Whether tensors of these shapes have rows that one tensor can hold.
pub(crate) fn rows_alike(one: &[u64], other: &[u64]) -> bool {
    matches!((one, other), ([_, one @ ..], [_, other @ ..]) if one == other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DType;

    fn numbers(shape: &[u64]) -> Tensor {
        let count = shape.iter().product::<u64>() as i32;
        let values: Vec<i32> = (0..count).collect();
        Tensor::from_values(shape, &values).unwrap()
    }

    #[test]
    fn rows_within_the_tensor() {
        let tensor = numbers(&[4, 2]);
        let values = |tensor: Tensor| tensor.values::<i32>().unwrap().collect::<Vec<_>>();
        assert_eq!(values(tensor.rows(1, 2).unwrap()), [2, 3, 4, 5]);
        assert_eq!(tensor.rows(4, 0).unwrap().shape(), [0, 2]);
        assert_eq!(tensor.rows(3, 2), None);
        assert_eq!(tensor.rows(u64::MAX, 2), None);
        assert_eq!(numbers(&[]).rows(0, 1), None);
        // Rows without elements.
        let empty = Tensor::zeros(DType::F32, &[3, 0]).unwrap();
        assert_eq!(empty.rows(1, 2).unwrap().shape(), [2, 0]);
    }

    fn any_rows() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        // Tensors of rows of two byte strings.
        let string = || prop::collection::vec(any::<u8>(), 0..4);
        prop::collection::vec(prop::collection::vec(string(), 0..4), 1..5)
    }

    proptest! {
        /// What was joined comes apart again, also where elements have no common size.
        #[test]
        fn joined_and_cut(parts in any_rows()) {
            let tensors: Vec<Tensor> = parts
                .iter()
                .map(|part| {
                    let twice = part.iter().flat_map(|element| [element, element]);
                    Tensor::from_byte_strings(&[part.len() as u64, 2], twice).unwrap()
                })
                .collect();
            let joined = Tensor::join_rows(&tensors).unwrap();
            let mut start = 0;
            for tensor in &tensors {
                let count = tensor.shape[0];
                prop_assert_eq!(&joined.rows(start, count).unwrap(), tensor);
                start += count;
            }
            prop_assert_eq!(start, joined.shape[0]);
        }
    }
}
