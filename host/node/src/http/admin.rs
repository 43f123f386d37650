//! The admin plane: what the operator may change, behind the node's bearer token, and what a
//! monitor may read without it.

use std::{sync::Arc, time::Duration};

use edge_config::LogLevel;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    body::{self, ReplyBody, RequestBody, full},
    failure::Failure,
    oip, upload,
};
use crate::{
    connection::{Connection, Held},
    deployment::{Deployment, NotServing},
    error::ChangeError,
    metrics,
    node::{Node, NodeHandle},
    request_id,
};

/// The longest that a follower of a log waits for an entry.
const LOG_WAIT_MAX: Duration = Duration::from_secs(30);

/// A setting is a few words.
const SETTING_BYTES_MAX: u64 = 4 << 10;
const SETTING_TIME_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn handle(
    node: NodeHandle,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (parts, body) = request.into_parts();
    let id = node.request_ids.of(&parts.headers);
    let body = RequestBody::new(&parts.headers, body);
    let answer = route(Arc::clone(&node), &parts, body).await;
    let answer = answer.and_then(|response| {
        let held = Arc::new(Held::default());
        body::owe(response, &node.bodies, &connection, held)
    });
    let mut response = answer.unwrap_or_else(|failure| failure.into_response(&id));
    request_id::stamp(response.headers_mut(), &id);
    response
}

async fn route(
    node: Arc<Node>,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<ReplyBody>, Failure> {
    let segments: Vec<&str> = parts
        .uri
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let method = &parts.method;
    match (&segments[..], method) {
        (["healthz"], &Method::GET | &Method::HEAD) => {
            return Ok(body::json(&json!({ "status": "ok" })));
        }
        (["metrics"], &Method::GET) => return Ok(metrics(&node)),
        (["healthz" | "metrics"], _) => return Err(Failure::method_not_allowed("GET")),
        _ => authorize(&node, &parts.headers)?,
    }
    match (&segments[..], method) {
        (["v1", "deployments"], &Method::GET) => {
            let deployments = node.control.deployments.all();
            let described: Vec<Value> = deployments.iter().map(|d| describe(d)).collect();
            Ok(body::json(&json!({ "deployments": described })))
        }
        (["v1", "deployments"], &Method::POST) => deploy(node, parts, body).await,
        (["v1", "deployments", name], &Method::GET) => {
            Ok(body::json(&describe(&*find(&node, name)?)))
        }
        (["v1", "deployments", name], &Method::DELETE) => delete(node, (*name).to_owned()).await,
        (["v1", "deployments", name, "logs"], &Method::GET) => logs(&node, name, parts).await,
        (["v1", "node"], &Method::GET) => Ok(body::json(&node.describe())),
        (["v1", "log"], &Method::GET) => Ok(log(&node)),
        (["v1", "log"], &Method::PUT) => set_log(&node, &parts.headers, body).await,
        (["v1", "log"], _) => Err(Failure::method_not_allowed("GET, PUT")),
        (["v1", "deployments"], _) => Err(Failure::method_not_allowed("GET, POST")),
        (["v1", "deployments", _], _) => Err(Failure::method_not_allowed("GET, DELETE")),
        (["v1", "node"] | ["v1", "deployments", _, "logs"], _) => {
            Err(Failure::method_not_allowed("GET"))
        }
        _ => Err(Failure::not_found(format!(
            "no such path on the admin plane: {}",
            parts.uri.path()
        ))),
    }
}

/// Refuses whoever does not present the node's token.
pub(crate) fn authorize(node: &Node, headers: &HeaderMap) -> Result<(), Failure> {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match presented {
        Some(token) if node.token.matches(token) => Ok(()),
        _ => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "this needs the node's token: Authorization: Bearer <token>; it is in the \
             file that the node named when it started",
        )),
    }
}

fn metrics(node: &Node) -> Response<ReplyBody> {
    let text = metrics::scrape(node);
    let mut response = Response::new(full(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(metrics::CONTENT_TYPE),
    );
    response
}

fn find(node: &Node, name: &str) -> Result<Arc<Deployment>, Failure> {
    node.control
        .deployments
        .get(name)
        .ok_or_else(|| ChangeError::NotFound(name.to_owned()).into())
}

fn describe(deployment: &Deployment) -> Value {
    let record = &deployment.record;
    let telemetry = &deployment.telemetry;
    let responses = telemetry.responses();
    let mut requests = json!({
        "total": responses.total(),
        "mean_ms": telemetry.mean_ms(),
    });
    for (class, count) in responses.by_class() {
        if matches!(class, "2xx" | "4xx" | "5xx") {
            requests[class] = json!(count);
        }
    }
    let mut described = json!({
        "name": record.name,
        "revision": record.revision,
        "digest": record.digest.to_string(),
        "created_at": record.created_at,
        "requests": requests,
    });
    match &deployment.serving {
        Err(NotServing::Starting) => described["status"] = json!("starting"),
        Err(NotServing::Unloaded) => described["status"] = json!("unloaded"),
        Err(NotServing::Failed(reason)) => {
            described["status"] = json!("failed");
            described["reason"] = json!(reason);
        }
        Ok(revision) => {
            described["status"] = json!("live");
            described["predictor"] = json!(revision.predictor.is_some());
            if let Some(predictor) = &revision.predictor {
                let counts = predictor.instances();
                described["instances"] =
                    json!({ "idle": counts.idle, "busy": counts.busy, "max": counts.max });
            }
            let models = revision.models.iter();
            described["models"] = models
                .map(|(name, model)| {
                    let signature = model.signature();
                    json!({
                        "name": name,
                        "platform": model.platform(),
                        "inputs": oip::documents::tensors(&signature.inputs),
                        "outputs": oip::documents::tensors(&signature.outputs),
                    })
                })
                .collect();
        }
    }
    described
}

async fn deploy(
    node: Arc<Node>,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<ReplyBody>, Failure> {
    let limit = node.config.package_max;
    if body.size_hint().lower() > limit {
        return Err(Failure::too_large(limit));
    }
    if node.is_draining() {
        return Err(ChangeError::Draining.into());
    }
    let name = query(parts, "name");
    let package = SyncIoBridge::new(StreamReader::new(Box::pin(upload::frames(body))));
    // In a task of its own: a change that has begun is carried through, also when the uploader
    // hangs up while it waits for the answer.
    let deploying = node.change({
        let node = Arc::clone(&node);
        async move { node.control.deploy(package, name).await }
    });
    let deploying = deploying.await;
    let deployment = deploying.map_err(|panic| ChangeError::Defect(panic.to_string()))??;
    Ok(body::json(&describe(&deployment)))
}

async fn delete(node: Arc<Node>, name: String) -> Result<Response<ReplyBody>, Failure> {
    let deleting = node.change({
        let (node, name) = (Arc::clone(&node), name.clone());
        async move { node.control.delete(&name).await }
    });
    let deleting = deleting.await;
    deleting.map_err(|panic| ChangeError::Defect(panic.to_string()))??;
    Ok(body::json(&json!({ "name": name, "deleted": true })))
}

async fn logs(node: &Node, name: &str, parts: &Parts) -> Result<Response<ReplyBody>, Failure> {
    let deployment = find(node, name)?;
    let number = |parameter: &str| -> Result<u64, Failure> {
        query(parts, parameter).map_or(Ok(0), |text| {
            text.parse()
                .map_err(|_| Failure::bad_request(format!("{parameter}={text} is not a number")))
        })
    };
    let after = number("after")?;
    let wait = Duration::from_secs(number("wait")?).min(LOG_WAIT_MAX);
    let logs = &deployment.telemetry.logs;
    let found = tokio::time::timeout(wait, logs.wait_since(after));
    let found = tokio::select! {
        found = found => found.ok(),
        // A node that ends does not wait for something to happen.
        () = node.drained() => None,
    };
    let (entries, next) = found.unwrap_or_else(|| logs.since(after));
    Ok(body::json(&json!({ "entries": entries, "next": next })))
}

/// What is logged.
fn log(node: &Node) -> Response<ReplyBody> {
    body::json(&json!({ "level": node.log.level().as_str() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogChange {
    level: String,
}

/// The level is another until it is changed again, or the node restarts.
async fn set_log(
    node: &Node,
    headers: &HeaderMap,
    body: RequestBody,
) -> Result<Response<ReplyBody>, Failure> {
    let held = Held::default();
    let read = body::read(headers, body, SETTING_BYTES_MAX, &node.bodies, &held);
    let body = tokio::time::timeout(SETTING_TIME_MAX, read).await;
    let body = body.map_err(|_elapsed| {
        Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive",
        )
    })??;
    let expected = "send {\"level\": …}, one of error, warn, info, debug, trace";
    let change: LogChange = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_request(format!("{expected}: {error}")))?;
    let Some(level) = LogLevel::named(&change.level) else {
        return Err(Failure::bad_request(format!(
            "there is no level {:?}; {expected}",
            change.level
        )));
    };
    let before = node.log.level();
    node.log.set_level(level);
    tracing::info!(
        before = before.as_str(),
        now = level.as_str(),
        "the log has another level"
    );
    Ok(log(node))
}

fn query(parts: &Parts, parameter: &str) -> Option<String> {
    form_urlencoded::parse(parts.uri.query()?.as_bytes())
        .find(|(name, _)| name == parameter)
        .map(|(_, value)| value.into_owned())
}
