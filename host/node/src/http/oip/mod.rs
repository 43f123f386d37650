//! The Open Inference Protocol, version 2, as KServe and Triton speak it, and the paths of KServe's
//! first protocol and of TorchServe for those who come from there.
//!
//! What a request means is in `question`, `documents`, `config` and `repository`, for HTTP as for
//! gRPC; here and in `request` and `answer` it becomes HTTP.

pub(crate) mod address;
mod answer;
mod classification;
pub(crate) mod config;
pub(crate) mod documents;
pub(crate) mod question;
pub(crate) mod repository;
pub(crate) mod request;
mod shallow;
mod tensor_json;
mod v1;

pub(crate) use answer::InferResponse;
pub use tensor_json::parse as parse_tensor_json;
pub(crate) use tensor_json::{Nested, parse_nested};
pub(crate) use v1::{V1Answer, V1Models, V1Ready, V1Request};

use std::collections::BTreeMap;

use bytes::Bytes;
use dunlin_sandbox::Deadline;
use http::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{
    address::{Addressed, address},
    documents::{ModelIndex, Statistics},
    question::Asked,
    repository::{Change, Override},
};
use super::{
    body::{self, ReplyBody, full},
    data::Exchange,
    failure::Failure,
    openapi, predict,
    routes::{Names, Operation},
};
use crate::node::Node;

/// The largest body of a request to the repository.
const REPOSITORY_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Live {
    pub(crate) live: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ready {
    pub(crate) ready: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelReady<'a> {
    name: &'a str,
    ready: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
}

/// Which models to list; without a body all.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct IndexRequest {
    /// Only those that serve.
    ready: Option<bool>,
}

/// What to load otherwise than the package says; without a body nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct LoadRequest {
    /// `config` is JSON in a text, with the names of Triton's model configuration.
    parameters: Option<BTreeMap<String, Value>>,
}

/// Nothing is read of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct UnloadRequest {
    #[serde(rename = "parameters")]
    _parameters: Option<BTreeMap<String, Value>>,
}

pub(crate) async fn handle(
    exchange: Box<Exchange>,
    operation: Operation,
    names: Names,
) -> Result<Response<ReplyBody>, Failure> {
    let Names { model, version } = names;
    let node = &*exchange.node;
    let addressed = |name: &str| address(node, name, version.as_deref());
    Ok(match operation {
        Operation::Infer => {
            let model = addressed(&model)?;
            return counted(exchange, model, infer).await;
        }
        Operation::V1Predict => {
            let model = addressed(&model)?;
            return counted(exchange, model, v1::predict).await;
        }
        Operation::Predictions => {
            let model = addressed(&model)?;
            return predict::handle(exchange, &format!("/{}", model.name)).await;
        }
        Operation::ServerMetadata => body::json(&documents::server()),
        Operation::ServerLive => body::json(&Live { live: true }),
        Operation::ServerReady => {
            ready(node)?;
            body::json(&Ready { ready: true })
        }
        Operation::ModelMetadata => body::json(&documents::metadata(&addressed(&model)?)?),
        Operation::ModelReady => {
            addressed(&model)?.target()?;
            body::json(&ModelReady {
                name: &model,
                ready: true,
            })
        }
        Operation::ModelConfig => body::json(&config::config(&addressed(&model)?)?),
        Operation::ModelStatistics => body::json(&Statistics {
            model_stats: vec![documents::statistics(&addressed(&model)?)?],
        }),
        Operation::AllStatistics => body::json(&all_statistics(node)),
        Operation::RepositoryIndex => return index(exchange).await,
        Operation::Load | Operation::Unload => return change(exchange, operation, &model).await,
        Operation::Documentation => openapi::answer(&exchange.parts.headers),
        Operation::V1List => body::json(&v1::list(node)),
        Operation::V1Ready => body::json(&v1::ready(&addressed(&model)?)?),
        Operation::Ping => {
            ready(node)?;
            body::json(&Health { status: "Healthy" })
        }
        Operation::Healthz => body::json(&Health { status: "ok" }),
    })
}

/// Whether the node takes requests: it has come up and does not end.
pub(crate) fn ready(node: &Node) -> Result<(), Failure> {
    if node.is_draining() {
        return Err(Failure::unavailable("the node is shutting down"));
    }
    if node.is_starting() {
        return Err(Failure::unavailable("the node is starting"));
    }
    Ok(())
}

/// Of all models that serve.
pub(crate) fn all_statistics(node: &Node) -> Statistics {
    let deployments = node.control.deployments.all();
    let models = deployments.iter().flat_map(address::all_of);
    Statistics {
        model_stats: models
            .filter_map(|model| documents::statistics(&model).ok())
            .collect(),
    }
}

/// Counts the answer with the deployment's.
async fn counted(
    exchange: Box<Exchange>,
    model: Addressed,
    answer: impl AsyncFnOnce(Box<Exchange>, &Addressed) -> Result<Response<ReplyBody>, Failure>,
) -> Result<Response<ReplyBody>, Failure> {
    let ticket = exchange.ticket();
    let answer = answer(exchange, &model).await;
    Ok(predict::count(&model.deployment, ticket, answer))
}

async fn infer(
    mut exchange: Box<Exchange>,
    model: &Addressed,
) -> Result<Response<ReplyBody>, Failure> {
    let revision = model.revision()?;
    let target = model.target()?;
    let deadline = exchange.deadline(&revision.limits)?;
    let body = exchange.read_body(revision, deadline).await?;
    let headers = &exchange.parts.headers;
    let (question, form) = request::decode(headers, &body, target.signature())?;
    let outputs = question
        .answer(Asked::by(&exchange, model, target, deadline))
        .await?;
    body::compressed(headers, answer::encode(model, form, &outputs)).await
}

async fn index(mut exchange: Box<Exchange>) -> Result<Response<ReplyBody>, Failure> {
    let IndexRequest { ready } = read(&mut exchange).await?;
    let models: Vec<ModelIndex> = repository::index(&exchange.node, ready.unwrap_or_default());
    Ok(body::json(&models))
}

async fn change(
    mut exchange: Box<Exchange>,
    operation: Operation,
    name: &str,
) -> Result<Response<ReplyBody>, Failure> {
    let change = if operation == Operation::Unload {
        let UnloadRequest { .. } = read(&mut exchange).await?;
        Change::Unload
    } else {
        let LoadRequest { parameters } = read(&mut exchange)
            .await
            .map_err(|failure| failure.of(&format!("failed to load '{name}'")))?;
        let parameters = parameters.unwrap_or_default();
        Change::Load(Override {
            files: parameters.keys().any(|key| key.starts_with("file:")),
            config: match parameters.get("config") {
                None | Some(Value::Null) => None,
                Some(Value::String(config)) => Some(config.clone()),
                // As a text it would say the same.
                Some(config) => Some(config.to_string()),
            },
        })
    };
    repository::change(&exchange.node, name, change, &exchange.parts.headers).await?;
    // Clients take anything but an empty 200 for an error.
    Ok(Response::new(full(Bytes::new())))
}

/// The body as JSON; an empty one says nothing.
async fn read<T: Default + for<'de> Deserialize<'de>>(
    exchange: &mut Exchange,
) -> Result<T, Failure> {
    let deadline = Deadline::after(exchange.node.config.deadline_max);
    let body = exchange
        .read_own_body(REPOSITORY_BYTES_MAX, deadline)
        .await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    shallow::object(&body)
        .and_then(|()| serde_json::from_slice(&body).map_err(|error| error.to_string()))
        .map_err(|reason| {
            Failure::bad_request(format!(
                "the request is not the JSON that is expected here: {reason}"
            ))
        })
}
