//! `/{deployment}` to the predictor's `predict`, and back. A deployment without a predictor is
//! answered by `models_alone`.

use std::sync::Arc;

use dunlin_inference::{Model, NamedTensors};
use dunlin_sandbox::Deadline;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    body::{self, ReplyBody, full},
    data::{Exchange, Ticket},
    failure::Failure,
    models_alone,
};
use crate::{
    deployment::{Deployment, NotServing, Revision},
    telemetry::{Predictions, Rejection},
    traces::{PredictorCall, Trace},
};

/// Headers that are about a connection, or that the node sets itself.
const OWN_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    crate::request_id::HEADER,
];

pub(crate) async fn handle(exchange: Exchange, path: &str) -> Result<Response<ReplyBody>, Failure> {
    let below = path.strip_prefix('/').unwrap_or(path);
    let (name, rest) = match below.find('/') {
        Some(at) => below.split_at(at),
        None => (below, "/"),
    };
    let Some(deployment) = exchange.node.control.deployments.get(name) else {
        return Err(Failure::not_found(match name {
            "" => "nothing is served here; POST to /{deployment}".to_owned(),
            _ => format!("no deployment \"{name}\" on this node"),
        }));
    };
    let ticket = exchange.ticket();
    let answer = predict(exchange, &deployment, rest).await;
    if let (Some(predictions), Ok(response)) = (deployment.figures.predictions(), &answer) {
        monitor(predictions, response);
    }
    Ok(count(&deployment, &ticket, answer))
}

/// Counts what a successful JSON answer predicts.
fn monitor(predictions: &Predictions, response: &Response<ReplyBody>) {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let essence = content_type
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    let json =
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if json && response.status().is_success() {
        predictions.answered(&body::bytes(response));
    }
}

/// The answer to a request that met a deployment, counted there.
pub(super) fn count(
    deployment: &Deployment,
    ticket: &Ticket,
    answer: Result<Response<ReplyBody>, Failure>,
) -> Response<ReplyBody> {
    if let Some(account) = &ticket.account {
        account.met(deployment);
    }
    let response = answer.unwrap_or_else(|failure| {
        if let Some(reason) = failure.rejection() {
            deployment.telemetry.rejections.count(reason);
        }
        failure.into_response(&ticket.id)
    });
    deployment.answered(response.status().as_u16(), ticket.started.elapsed());
    response
}

/// The revision that serves, or why none does.
pub(crate) fn serving(deployment: &Deployment) -> Result<&Revision, Failure> {
    let name = &deployment.record.name;
    deployment.serving.as_ref().map_err(|reason| {
        Failure::unavailable(match reason {
            NotServing::Starting => format!("deployment \"{name}\" is starting"),
            NotServing::Failed(_) => {
                format!("deployment \"{name}\" did not come up after the node's last start")
            }
        })
        .because(Rejection::NotServing)
    })
}

/// Runs a model within the request's deadline.
pub(crate) async fn run(
    model: &Model,
    inputs: NamedTensors,
    deadline: Deadline,
    trace: Option<&Arc<Trace>>,
) -> Result<NamedTensors, Failure> {
    let runs = trace.map(|trace| trace.model_calls(trace.root));
    let infer = model.infer_observed(inputs, runs);
    let answered = tokio::time::timeout_at(deadline.at(), infer).await;
    let outputs = answered.map_err(|_elapsed| {
        Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the model did not answer within the deadline",
        )
        .because(Rejection::Deadline)
    })?;
    Ok(outputs?)
}

async fn predict(
    mut exchange: Exchange,
    deployment: &Deployment,
    path: &str,
) -> Result<Response<ReplyBody>, Failure> {
    let revision = serving(deployment)?;
    let Some(predictor) = &revision.predictor else {
        return models_alone::predict(exchange, revision, path).await;
    };
    let deadline = Deadline::after(revision.limits.deadline);
    let body = exchange.read_body(&revision.limits, deadline).await?;
    let trace = exchange.trace().cloned();
    let (parts, id) = (exchange.parts, exchange.id);
    let query: Vec<_> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
    let query: Vec<(&str, &str)> = query
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let headers: Vec<(&str, &str)> = parts
        .headers
        .iter()
        // The body is already as it was before it was encoded.
        .filter(|(name, _)| *name != header::CONTENT_ENCODING)
        .filter_map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str(), value))
        })
        .collect();
    let request = dunlin_sandbox::Request {
        id: &id,
        method: parts.method.as_str(),
        path,
        query: &query,
        headers: &headers,
        body: &body,
    };
    let traced = trace.as_ref().map(PredictorCall::begin);
    let runs = traced.as_ref().map(PredictorCall::runs);
    let called = predictor.predict(request, deadline, runs).await;
    deployment.figures.called(&called.times);
    if let Some(traced) = traced {
        traced.end(&called.times);
    }
    reply(called.answer?).map_err(|defect| Failure::internal("the predictor failed", defect))
}

fn reply(answer: dunlin_sandbox::Response) -> Result<Response<ReplyBody>, String> {
    let status = StatusCode::from_u16(answer.status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("the predictor answered with the status {}", answer.status))?;
    let mut response = Response::new(full(answer.body));
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        let invalid = || format!("the predictor answered with an invalid header {name:?}");
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_str(&value).map_err(|_| invalid())?;
        if !OWN_HEADERS.contains(&header) {
            response.headers_mut().append(header, value);
        }
    }
    Ok(response)
}
