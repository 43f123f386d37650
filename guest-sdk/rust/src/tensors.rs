//! Tensors with their names: what goes into a model and comes out of it.

use std::ops::Deref;

use crate::Error;
use crate::tensor::{Tensor, TensorError};

/// Tensors by name, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors(Vec<(String, Tensor<'static>)>);

impl Tensors {
    pub fn get(&self, name: &str) -> Option<&Tensor<'static>> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, tensor)| tensor)
    }

    /// An output of a model: that it is missing is the predictor's or the model's fault.
    pub fn output(&self, name: &str) -> Result<&Tensor<'static>, TensorError> {
        self.get(name).ok_or_else(|| TensorError::Missing {
            name: name.to_owned(),
            present: self.0.iter().map(|(name, _)| name.clone()).collect(),
        })
    }

    /// A tensor of a caller: that it is missing is the caller's fault.
    pub fn input(&self, name: &str) -> Result<&Tensor<'static>, Error> {
        self.output(name).map_err(Error::bad_request)
    }

    pub fn push(&mut self, name: impl Into<String>, tensor: Tensor<'_>) {
        self.0.push((name.into(), tensor.into_owned()));
    }

    pub fn into_vec(self) -> Vec<(String, Tensor<'static>)> {
        self.0
    }
}

impl Deref for Tensors {
    type Target = [(String, Tensor<'static>)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a, N: Into<String>> FromIterator<(N, Tensor<'a>)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (N, Tensor<'a>)>>(tensors: I) -> Self {
        let mut all = Self::default();
        for (name, tensor) in tensors {
            all.push(name, tensor);
        }
        all
    }
}

impl<'a, N: Into<String>, const COUNT: usize> From<[(N, Tensor<'a>); COUNT]> for Tensors {
    fn from(tensors: [(N, Tensor<'a>); COUNT]) -> Self {
        tensors.into_iter().collect()
    }
}

impl IntoIterator for Tensors {
    type Item = (String, Tensor<'static>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tensor_names_those_there() {
        let tensors = Tensors::from([("a", Tensor::u8([0], vec![]).unwrap())]);
        let error = tensors.output("b").unwrap_err().to_string();
        assert_eq!(error, "there is no tensor `b`, only a");
        assert!(matches!(tensors.input("b"), Err(Error::BadRequest(_))));
    }
}
