//! The Open Inference Protocol, version 2, as KServe and Triton speak it, over HTTP.
//!
//! A model is addressed by its deployment: `digits`, or `digits.encoder` for one of several models.
//! Its version is the deployment's revision.

mod infer;
mod tensor_json;

pub(crate) use tensor_json::{Nested, parse_nested, specs};

use std::sync::Arc;

use http::{Method, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{
    body::{self, ReplyBody},
    data::Exchange,
    failure::Failure,
    predict,
};
use crate::deployment::{Deployment, TensorTarget};

/// What the server metadata lists: what of the protocol's extensions this node speaks.
const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// `rest` is the path behind `/v2`.
pub(crate) async fn handle(exchange: Exchange, rest: &str) -> Result<Response<ReplyBody>, Failure> {
    let segments: Vec<String> = rest
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let get = exchange.parts.method == Method::GET || exchange.parts.method == Method::HEAD;
    let only_get = |answer: Response<ReplyBody>| {
        if get {
            Ok(answer)
        } else {
            Err(Failure::method_not_allowed("GET"))
        }
    };
    match segments[..] {
        [] => only_get(body::json(&json!({
            "name": "dunlin",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": EXTENSIONS,
        }))),
        ["health", "live"] => only_get(body::json(&json!({ "live": true }))),
        ["health", "ready"] if exchange.node.is_draining() => {
            Err(Failure::unavailable("the node is shutting down"))
        }
        ["health", "ready"] if exchange.node.is_starting() => {
            Err(Failure::unavailable("the node is starting"))
        }
        ["health", "ready"] => only_get(body::json(&json!({ "ready": true }))),
        ["models", model, "versions", version, ref verb @ ..] => {
            on_model(exchange, model, Some(version), verb).await
        }
        ["models", model, ref verb @ ..] => on_model(exchange, model, None, verb).await,
        _ => Err(Failure::not_found(format!("no such path: /v2{rest}"))),
    }
}

/// A deployment and, where the name says so, one of its models.
struct Addressed {
    deployment: Arc<Deployment>,
    model: Option<String>,
    /// The name as the client wrote it.
    name: String,
}

impl Addressed {
    fn target(&self) -> Result<TensorTarget<'_>, Failure> {
        let revision = predict::serving(&self.deployment)?;
        revision.tensors(self.model.as_deref()).ok_or_else(|| {
            if self.model.is_some() {
                return Failure::unknown_model(&self.name);
            }
            let name = &self.name;
            let models: Vec<String> = revision
                .models
                .keys()
                .map(|model| format!("{name}.{model}"))
                .collect();
            Failure::not_found(match models[..] {
                [] => format!("Request for unknown model: '{name}' serves no tensors"),
                _ => format!(
                    "Request for unknown model: '{name}' has several; name one of {}",
                    models.join(", ")
                ),
            })
        })
    }

    fn version(&self) -> String {
        self.deployment.record.revision.to_string()
    }
}

fn address(exchange: &Exchange, name: &str, version: Option<&str>) -> Result<Addressed, Failure> {
    // A deployment's name has no dot.
    let (deployment, model) = match name.split_once('.') {
        Some((deployment, model)) => (deployment, Some(model.to_owned())),
        None => (name, None),
    };
    let deployment = exchange
        .node
        .control
        .deployments
        .get(deployment)
        .ok_or_else(|| Failure::unknown_model(name))?;
    let addressed = Addressed {
        deployment,
        model,
        name: name.to_owned(),
    };
    match version {
        Some(version) if version != addressed.version() => Err(Failure::not_found(format!(
            "Request for unknown model: '{name}' version {version} is not found; version {} serves",
            addressed.version()
        ))),
        _ => Ok(addressed),
    }
}

async fn on_model(
    exchange: Exchange,
    name: &str,
    version: Option<&str>,
    verb: &[&str],
) -> Result<Response<ReplyBody>, Failure> {
    let addressed = address(&exchange, name, version)?;
    let method = exchange.parts.method.clone();
    match (verb, method) {
        ([], Method::GET | Method::HEAD) => metadata(&addressed),
        (["ready"], Method::GET | Method::HEAD) => {
            addressed.target()?;
            Ok(body::json(&json!({ "name": name, "ready": true })))
        }
        (["infer"], Method::POST) => counted(exchange, addressed).await,
        (["infer"], _) => Err(Failure::method_not_allowed("POST")),
        ([] | ["ready"], _) => Err(Failure::method_not_allowed("GET")),
        _ => Err(Failure::not_found(format!(
            "no such path below model '{name}': {}",
            verb.join("/")
        ))),
    }
}

async fn counted(exchange: Exchange, addressed: Addressed) -> Result<Response<ReplyBody>, Failure> {
    let ticket = exchange.ticket();
    let answer = infer::infer(exchange, &addressed).await;
    Ok(predict::count(&addressed.deployment, ticket, answer))
}

fn metadata(addressed: &Addressed) -> Result<Response<ReplyBody>, Failure> {
    let target = addressed.target()?;
    let signature = target.signature();
    Ok(body::json(&json!({
        "name": addressed.name,
        "versions": [addressed.version()],
        "platform": target.platform(),
        "inputs": specs(&signature.inputs),
        "outputs": specs(&signature.outputs),
    })))
}
