//! `POST /{deployment}` where there is no predictor: the node takes `{"inputs": {name: nested lists}}`
//! to the model and answers `{"outputs": {name: nested lists}}`.
//!
//! The datatypes are the signature's, the shapes those of the nesting. It is the Open Inference
//! Protocol without its envelope; for raw bytes, ids and a choice of outputs there is `oip`.

use std::{borrow::Cow, fmt, pin::pin};

use dunlin_inference::{Model, NamedTensors, Signature, Tensor};
use http::{Method, Response};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    body::{self, ReplyBody},
    data::Exchange,
    failure::Failure,
    oip::{Nested, parse_nested},
    predict,
};
use crate::deployment::Revision;

const EXPECTED: &str = r#"send {"inputs": {name: nested lists}}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Inputs<'a>,
}

/// In the order of the request, and with what it says twice: that is refused where the tensors are
/// checked.
struct Inputs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Serialize)]
pub(super) struct Answer<'a> {
    outputs: Outputs<'a>,
}

struct Outputs<'a>(&'a [(String, Tensor)]);

impl<'a> Answer<'a> {
    pub(super) fn of(outputs: &'a [(String, Tensor)]) -> Self {
        Self {
            outputs: Outputs(outputs),
        }
    }
}

/// `path` is what follows the deployment's name.
pub(super) async fn predict(
    mut exchange: Box<Exchange>,
    revision: &Revision,
    path: &str,
) -> Result<Response<ReplyBody>, Failure> {
    if path != "/" {
        return Err(Failure::not_found(
            "the deployment has no predictor, so no paths below its name",
        ));
    }
    if exchange.parts.method != Method::POST {
        return Err(Failure::method_not_allowed("POST"));
    }
    let deadline = exchange.deadline(&revision.limits)?;
    let body = exchange.read_body(revision, deadline).await?;
    let request: Request<'_> = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_request(format!("{EXPECTED}: {error}")))?;
    let model = model(revision, request.model.as_deref())?;
    let inputs = decode(request.inputs, model.signature())?;
    let run = predict::run(model, inputs, deadline, exchange.trace());
    let outputs = exchange
        .node
        .turns
        .share(&revision.share, pin!(run))
        .await?;
    let answer = body::json(&Answer::of(&outputs));
    within(answer, revision.limits.response_body)
}

fn model<'r>(revision: &'r Revision, name: Option<&str>) -> Result<&'r Model, Failure> {
    let names = || {
        let names: Vec<&str> = revision.models.keys().map(String::as_str).collect();
        names.join(", ")
    };
    if let Some(name) = name {
        return revision.models.get(name).ok_or_else(|| {
            Failure::bad_request(format!("there is no model {name:?}; there is {}", names()))
        });
    }
    let mut models = revision.models.values();
    match (models.next(), models.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Failure::bad_request(format!(
            r#"the deployment has several models; add "model" with one of {}"#,
            names()
        ))),
    }
}

fn decode(inputs: Inputs<'_>, signature: &Signature) -> Result<NamedTensors, Failure> {
    let mut tensors = Vec::with_capacity(inputs.0.len());
    for (name, data) in inputs.0 {
        let Some(spec) = signature.inputs.iter().find(|spec| spec.name == name) else {
            let known: Vec<&str> = signature.inputs.iter().map(|spec| &*spec.name).collect();
            return Err(Failure::bad_request(format!(
                "unknown input {name:?}; the model takes {}",
                known.join(", ")
            )));
        };
        let tensor = parse_nested(spec.dtype, data)
            .map_err(|error| error.to_string())
            .and_then(|(shape, bytes)| {
                Tensor::new(spec.dtype, &shape, bytes).map_err(|error| error.to_string())
            })
            .map_err(|reason| Failure::bad_request(format!("input {name:?}: {reason}")))?;
        tensors.push((name.into_owned(), tensor));
    }
    Ok(tensors)
}

/// As for a predictor: what is larger than the author allows is a failure of the deployment.
fn within(answer: Response<ReplyBody>, limit: u64) -> Result<Response<ReplyBody>, Failure> {
    let size = hyper::body::Body::size_hint(answer.body()).lower();
    if size > limit {
        return Err(Failure::internal(
            "the model failed",
            format!("its answer has {size} bytes, and limits.response_body is {limit}"),
        ));
    }
    Ok(answer)
}

impl<'de: 'a, 'a> Deserialize<'de> for Inputs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Inputs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each input of the model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Name(name), data)) = map.next_entry()? {
                    pairs.push((name, data));
                }
                Ok(Inputs(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// A key: `Cow` alone would be copied always.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Serialize for Outputs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, tensor)| (name, Nested(tensor))))
    }
}
