//! `/{deployment}` to the predictor's `predict`, and back. A deployment without a predictor is
//! answered by `models_alone`.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use dunlin_inference::{CallOptions, Model, NamedTensors, Tensor, one_line};
use dunlin_sandbox::{CallError, Deadline, Stream};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::sync::oneshot;

use super::{
    body::{self, ReplyBody, full},
    data::{Exchange, Ticket},
    failure::Failure,
    models_alone,
    stream::StreamBody,
};
use crate::{
    deployment::{Deployment, NotServing, Revision},
    prompt::Prompt,
    telemetry::{PREDICTIONS_MAX, Predictions, Rejection},
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

pub(crate) async fn handle(
    exchange: Box<Exchange>,
    path: &str,
) -> Result<Response<ReplyBody>, Failure> {
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
    Ok(count(&deployment, ticket, answer))
}

/// Counts what a successful JSON answer predicts.
fn monitor(predictions: &Predictions, response: &Response<ReplyBody>) {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let essence = content_type
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    let json =
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if json
        && response.status().is_success()
        && let Some(body) = body::bytes(response)
    {
        predictions.answered(&body);
    }
}

/// Counts what tensors predict, where one of them is what is counted.
pub(super) fn monitor_tensors(predictions: &Predictions, outputs: &[(String, Tensor)]) {
    let elements = outputs
        .iter()
        .map(|(_, tensor)| tensor.element_count())
        .max();
    if elements.is_some_and(|elements| elements <= PREDICTIONS_MAX)
        && let Ok(json) = serde_json::to_vec(&models_alone::Answer::of(outputs))
    {
        predictions.answered_if_there(&json);
    }
}

/// The answer to a request that met a deployment, counted there.
pub(super) fn count(
    deployment: &Arc<Deployment>,
    ticket: Ticket,
    answer: Result<Response<ReplyBody>, Failure>,
) -> Response<ReplyBody> {
    if let Some(account) = &ticket.account {
        account.met(deployment);
    }
    let mut response = answer.unwrap_or_else(|failure| {
        if let Some(reason) = failure.rejection() {
            deployment.telemetry.rejections.count(reason);
        }
        failure.into_response(&ticket.id)
    });
    let status = response.status().as_u16();
    match response.body_mut() {
        ReplyBody::Whole(_) => deployment.answered(status, ticket.started.elapsed()),
        ReplyBody::Stream(stream) => stream.count(Arc::clone(deployment), ticket, status),
    }
    response
}

/// The revision that serves, or why none does.
pub(crate) fn serving(deployment: &Deployment) -> Result<&Revision, Failure> {
    let name = &deployment.record.name;
    deployment.serving.as_ref().map_err(|reason| {
        Failure::unavailable(match reason {
            NotServing::Starting => format!("deployment \"{name}\" is starting"),
            NotServing::Unloaded => format!("deployment \"{name}\" was unloaded"),
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
    let options = CallOptions {
        deadline: Some(deadline.at().into_std()),
        observer: trace.map(|trace| trace.model_calls(trace.root)),
    };
    let infer = model.infer_with(inputs, options);
    let answered = tokio::time::timeout_at(deadline.at(), infer).await;
    Ok(answered.map_err(|_elapsed| late())??)
}

pub(crate) fn late() -> Failure {
    Failure::new(
        StatusCode::GATEWAY_TIMEOUT,
        "the model did not answer within the deadline",
    )
    .because(Rejection::Deadline)
}

async fn predict(
    mut exchange: Box<Exchange>,
    deployment: &Arc<Deployment>,
    path: &str,
) -> Result<Response<ReplyBody>, Failure> {
    let revision = serving(deployment)?;
    if revision.predictor.is_none() {
        return Box::pin(models_alone::predict(exchange, revision, path)).await;
    }
    let deadline = exchange.deadline(&revision.limits)?;
    let body = exchange.read_body(revision, deadline).await?;
    let connection = Arc::clone(&exchange.connection);
    let (begin, mut begun) = oneshot::channel();
    let call = Call {
        deployment: Arc::clone(deployment),
        exchange,
        path: path.to_owned(),
        body,
        deadline,
    };
    let id = call.exchange.id.clone();
    // It outlives this function where the predictor answers in pieces.
    let mut call = Box::pin(call.run(begin));
    let stream = tokio::select! {
        biased;
        answer = &mut call => {
            // Nothing has gone out yet: also of an answer that was begun, a failure is told.
            let answer = answer?;
            return match begun.try_recv() {
                Err(_) => reply(answer),
                Ok(stream) => {
                    let (end, ended) = oneshot::channel();
                    let _taken = end.send(true);
                    reply_stream(stream, ended)
                }
            };
        }
        // The sender is the call's: without an answer that was begun, the call has ended.
        Ok(stream) = &mut begun => stream,
    };
    let (end, ended) = oneshot::channel();
    let response = reply_stream(stream, ended);
    // In a task of its own: a caller who leaves is to reach the predictor as an error.
    let answering = connection.answering();
    tokio::spawn(Prompt::new(async move {
        let answer = call.await;
        let _gone = end.send(told(&id, answer));
        drop(answering);
    }));
    response
}

/// Whether an answer that was begun is whole; if not, the log says why.
fn told(request_id: &str, answer: Result<dunlin_sandbox::Response, CallError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => {
            let error = one_line(&error);
            tracing::warn!(request_id, error, "an answer was broken off");
            false
        }
    }
}

/// A call of a predictor, with all that it needs.
struct Call {
    deployment: Arc<Deployment>,
    exchange: Box<Exchange>,
    path: String,
    body: Bytes,
    deadline: Deadline,
}

impl Call {
    async fn run(
        self,
        begin: oneshot::Sender<Stream>,
    ) -> Result<dunlin_sandbox::Response, CallError> {
        let revision = self.deployment.serving.as_ref().ok();
        let (revision, predictor) = revision
            .and_then(|revision| Some((revision, revision.predictor.as_ref()?)))
            .expect("a call is made where a predictor serves");
        let parts = &self.exchange.parts;
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let query: Vec<_> = form_urlencoded::parse(query).collect();
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
            id: &self.exchange.id,
            method: parts.method.as_str(),
            path: &self.path,
            query: &query,
            headers: &headers,
            body: &self.body,
        };
        let traced = self.exchange.trace().map(PredictorCall::begin);
        let runs = traced.as_ref().map(PredictorCall::runs);
        let called = pin!(predictor.predict(request, self.deadline, runs, begin));
        let called = self
            .exchange
            .node
            .turns
            .share(&revision.share, called)
            .await;
        self.deployment.figures.called(&called.times);
        if let Some(traced) = traced {
            traced.end(&called.times);
        }
        called.answer
    }
}

fn reply(answer: dunlin_sandbox::Response) -> Result<Response<ReplyBody>, Failure> {
    let mut response = head(answer.status, answer.headers)?;
    *response.body_mut() = full(answer.body);
    Ok(response)
}

fn reply_stream(
    stream: Stream,
    ended: oneshot::Receiver<bool>,
) -> Result<Response<ReplyBody>, Failure> {
    let mut response = head(stream.status, stream.headers)?;
    let body = StreamBody::new(stream.pieces, ended);
    *response.body_mut() = ReplyBody::Stream(Box::new(body));
    Ok(response)
}

fn head(status: u16, headers: Vec<(String, String)>) -> Result<Response<ReplyBody>, Failure> {
    let failed = |defect: String| Failure::internal("the predictor failed", defect);
    let valid = StatusCode::from_u16(status).ok();
    let valid = valid.filter(|status| (200..600).contains(&status.as_u16()));
    let Some(status) = valid else {
        let defect = format!("the predictor answered with the status {status}");
        return Err(failed(defect));
    };
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    for (name, value) in headers {
        let invalid = || {
            failed(format!(
                "the predictor answered with an invalid header {name:?}"
            ))
        };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_str(&value).map_err(|_| invalid())?;
        if !OWN_HEADERS.contains(&header) {
            response.headers_mut().append(header, value);
        }
    }
    Ok(response)
}
