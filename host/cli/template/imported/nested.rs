//! Tensors as nested JSON lists: the shape is that of the nesting.

#![allow(dead_code, reason = "a model needs some of the datatypes")]

use dunlin_sdk::{Error, Tensor};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

macro_rules! readers {
    ($($element:ident)*) => {$(
        /// The lists as a tensor. What is no rectangle of numbers is the caller's fault.
        pub fn $element(name: &str, lists: &Value) -> Result<Tensor<'static>, Error> {
            let (shape, values) = flatten::<$element>(name, lists)?;
            Ok(Tensor::$element(shape, values)?)
        }
    )*};
}

readers! { f32 f64 u8 i32 i64 }

/// The elements of a tensor as nested lists.
pub fn lists<T: Copy + Serialize>(shape: &[usize], values: &[T]) -> Value {
    let Some((count, rest)) = shape.split_first() else {
        return values.first().map_or(Value::Null, |value| serde_json::json!(value));
    };
    let size = values.len().checked_div(*count).unwrap_or(0);
    let parts = (0..*count).map(|at| lists(rest, &values[at * size..(at + 1) * size]));
    Value::Array(parts.collect())
}

fn flatten<T: DeserializeOwned>(name: &str, lists: &Value) -> Result<(Vec<usize>, Vec<T>), Error> {
    let mut shape = Vec::new();
    let mut level = lists;
    while let Value::Array(items) = level {
        shape.push(items.len());
        let Some(first) = items.first() else { break };
        level = first;
    }
    let mut values = Vec::new();
    walk(name, lists, &shape, &mut values)?;
    Ok((shape, values))
}

fn walk<T: DeserializeOwned>(
    name: &str,
    lists: &Value,
    shape: &[usize],
    values: &mut Vec<T>,
) -> Result<(), Error> {
    match (shape.split_first(), lists) {
        (Some((count, rest)), Value::Array(items)) if items.len() == *count => {
            items.iter().try_for_each(|item| walk(name, item, rest, values))
        }
        (None, element) if !element.is_array() => {
            let value = T::deserialize(element);
            values.push(value.map_err(|error| Error::bad_request(format!("{name}: {error}")))?);
            Ok(())
        }
        _ => Err(Error::bad_request(format!(
            "{name}: the nested lists do not make a rectangle"
        ))),
    }
}
