//! KServe's first protocol: `{"instances": […]}` in, `{"predictions": […]}` out, a row each.

use std::borrow::Cow;

use dunlin_inference::{Dim, NamedTensors, Signature, Tensor, TensorSpec};
use http::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    address::{self, Addressed},
    question::{Asked, Question},
    shallow,
    tensor_json::{Nested, RowObjects, parse_nested},
};
use crate::{
    http::{
        body::{self, ReplyBody},
        data::Exchange,
        failure::Failure,
    },
    node::Node,
};

const EXPECTED: &str = r#"send {"instances": [rows]}"#;

/// The names of the models.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct V1Models {
    models: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct V1Ready {
    name: String,
    ready: bool,
}

/// Rows for the model.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct V1Request<'a> {
    /// Each is nested lists, or for a model of several inputs an object of them by their names.
    #[serde(borrow)]
    #[schemars(with = "Vec<serde_json::Value>")]
    instances: Vec<&'a RawValue>,
}

/// A row for each instance.
#[derive(Serialize, JsonSchema)]
pub(crate) struct V1Answer<'a> {
    #[schemars(with = "Vec<serde_json::Value>")]
    predictions: Rows<'a>,
}

struct Rows<'a>(&'a NamedTensors);

pub(super) fn list(node: &Node) -> V1Models {
    let deployments = node.control.deployments.all();
    let models = deployments.iter().flat_map(address::all_of);
    V1Models {
        models: models.map(|model| model.name).collect(),
    }
}

pub(super) fn ready(model: &Addressed) -> Result<V1Ready, Failure> {
    model.target()?;
    Ok(V1Ready {
        name: model.name.clone(),
        ready: true,
    })
}

pub(super) async fn predict(
    mut exchange: Box<Exchange>,
    model: &Addressed,
) -> Result<Response<ReplyBody>, Failure> {
    let revision = model.revision()?;
    let target = model.target()?;
    let deadline = exchange.deadline(&revision.limits)?;
    let body = exchange.read_body(revision, deadline).await?;
    let request: V1Request<'_> = shallow::object(&body)
        .and_then(|()| serde_json::from_slice(&body).map_err(|error| error.to_string()))
        .map_err(|reason| Failure::bad_request(format!("{EXPECTED}: {reason}")))?;
    let count = request.instances.len() as u64;
    let question = Question {
        inputs: inputs(&request.instances, target.signature())?,
        ..Question::default()
    };
    let outputs = question
        .answer(Asked::by(&exchange, model, target, deadline))
        .await?;
    if let Some((name, output)) = outputs
        .iter()
        .find(|(_, o)| o.shape().first() != Some(&count))
    {
        return Err(Failure::bad_request(format!(
            "output '{name}' is {output:?}, which has no row for each of the {count} instances; ask \
             by /v2/models/{}/infer",
            model.name
        )));
    }
    let predictions = Rows(&outputs);
    let answer = body::json(&V1Answer { predictions });
    body::compressed(&exchange.parts.headers, answer).await
}

fn inputs(instances: &[&RawValue], signature: &Signature) -> Result<NamedTensors, Failure> {
    if let Some(spec) = signature.inputs.iter().find(|spec| spec.shape.is_empty()) {
        return Err(Failure::bad_request(format!(
            "input '{}' is a single element and has no rows; ask by /v2/models",
            spec.name
        )));
    }
    if let [input] = &signature.inputs[..]
        && !instances.iter().any(|row| row.get().starts_with('{'))
    {
        return Ok(vec![(
            input.name.clone(),
            join(input, instances.iter().copied())?,
        )]);
    }
    let mut rows: Vec<Vec<&RawValue>> = vec![Vec::new(); signature.inputs.len()];
    for (at, instance) in instances.iter().enumerate() {
        let by_name: Vec<(Cow<'_, str>, &RawValue)> = by_name(instance)
            .map_err(|error| Failure::bad_request(format!("instance {at}: {error}")))?;
        for (name, row) in by_name {
            let Some(input) = signature.inputs.iter().position(|spec| spec.name == name) else {
                let known: Vec<&str> = signature.inputs.iter().map(|spec| &*spec.name).collect();
                return Err(Failure::bad_request(format!(
                    "instance {at}: unknown input '{name}'; the model takes {}",
                    known.join(", ")
                )));
            };
            rows[input].push(row);
            if rows[input].len() != at + 1 {
                return Err(Failure::bad_request(format!(
                    "instance {at}: input '{name}' is given twice, or is missing before"
                )));
            }
        }
    }
    let joined = signature.inputs.iter().zip(rows).map(|(spec, rows)| {
        if rows.len() != instances.len() {
            return Err(Failure::bad_request(format!(
                "input '{}' is in {} of {} instances",
                spec.name,
                rows.len(),
                instances.len()
            )));
        }
        Ok((spec.name.clone(), join(spec, rows.into_iter())?))
    });
    joined.collect()
}

/// The entries of an object, in their order.
fn by_name(object: &RawValue) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    struct Entries;

    impl<'de> serde::de::Visitor<'de> for Entries {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of inputs by their names")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    serde::Deserializer::deserialize_map(&mut deserializer, Entries)
}

/// Rows of one input, one below the other.
fn join<'a>(
    spec: &TensorSpec,
    rows: impl Iterator<Item = &'a RawValue>,
) -> Result<Tensor, Failure> {
    let wrong = |reason: String| Failure::bad_request(format!("input '{}': {reason}", spec.name));
    let (mut data, mut count, mut row_shape) = (Vec::new(), 0_u64, None);
    for row in rows {
        let (shape, bytes) = parse_nested(spec.dtype, row)
            .map_err(|error| wrong(format!("instance {count}: {error}")))?;
        let first = row_shape.get_or_insert_with(|| shape.clone());
        if *first != shape {
            return Err(wrong(format!(
                "instance {count} has the shape {shape:?}, and those before {first:?}"
            )));
        }
        data.extend_from_slice(&bytes);
        count += 1;
    }
    let row_shape = row_shape.unwrap_or_else(|| {
        let rest = spec.shape.get(1..).unwrap_or_default().iter();
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Any => 0,
        };
        rest.map(size).collect()
    });
    let shape = [&[count], &row_shape[..]].concat();
    Tensor::new(spec.dtype, &shape, data).map_err(|error| wrong(error.to_string()))
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [(_, only)] => Nested(only).serialize(serializer),
            _ => RowObjects(self.0).serialize(serializer),
        }
    }
}
