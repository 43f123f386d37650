//! `inference.GRPCInferenceService`: each method asks what its path of HTTP asks.

use std::{pin::Pin, time::Duration};

use dunlin_sandbox::Deadline;
use futures_util::{Stream, stream};
use http::StatusCode;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use super::{
    Call, infer,
    meter::Sent,
    proto::{
        ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
        ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
        ModelRepositoryParameter, ModelStatisticsRequest, ModelStatisticsResponse,
        ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
        RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService,
        model_repository_parameter::ParameterChoice,
    },
};
use crate::http::{
    failure::Failure,
    oip::{
        self,
        address::{Addressed, address},
        config, documents,
        question::Asked,
        repository::{self, Change, Override},
    },
};

/// The longest from one request of a stream to the next.
const STREAM_IDLE: Duration = Duration::from_secs(120);

pub(super) struct Service;

type Answers = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

/// One answer, to what `ask` makes of the request.
async fn answer<Q, A: prost::Message>(
    request: Request<Q>,
    ask: impl AsyncFnOnce(&Call, Q) -> Result<A, Failure>,
) -> Result<Response<A>, Status> {
    let call = Call::of(&request)?;
    let held = Sent::default();
    let answered = match call.arriving.take(0, &held) {
        Ok(()) => ask(&call, request.into_inner()).await,
        Err(refused) => Err(refused),
    };
    let answered = answered.and_then(|answer| call.send(answer, &held));
    answered
        .map(Response::new)
        .map_err(|failure| call.refused(failure))
}

fn find(call: &Call, name: &str, version: &str) -> Result<Addressed, Failure> {
    address(&call.node, name, (!version.is_empty()).then_some(version))
}

#[async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream = Answers;

    async fn server_live(
        &self,
        request: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        answer(request, async |_, _| Ok(ServerLiveResponse { live: true })).await
    }

    async fn server_ready(
        &self,
        request: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        answer(request, async |call, _| {
            let ready = oip::ready(&call.node).is_ok();
            Ok(ServerReadyResponse { ready })
        })
        .await
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        answer(
            request,
            async |call, ModelReadyRequest { name, version }| {
                let model = find(call, &name, &version);
                let ready = model.is_ok_and(|model| model.target().is_ok());
                Ok(ModelReadyResponse { ready })
            },
        )
        .await
    }

    async fn server_metadata(
        &self,
        request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        answer(request, async |_, _| {
            let server = documents::server();
            Ok(ServerMetadataResponse {
                name: server.name.to_owned(),
                version: server.version.to_owned(),
                extensions: server.extensions.map(str::to_owned).to_vec(),
            })
        })
        .await
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        answer(
            request,
            async |call, ModelMetadataRequest { name, version }| {
                Ok(documents::metadata(&find(call, &name, &version)?)?.into())
            },
        )
        .await
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        answer(
            request,
            async |call, ModelConfigRequest { name, version }| {
                let config = config::config(&find(call, &name, &version)?)?;
                Ok(ModelConfigResponse {
                    config: Some(config.into()),
                })
            },
        )
        .await
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        answer(
            request,
            async |call, ModelStatisticsRequest { name, version }| {
                let statistics = match name.is_empty() {
                    true => oip::all_statistics(&call.node).model_stats,
                    false => vec![documents::statistics(&find(call, &name, &version)?)?],
                };
                Ok(ModelStatisticsResponse {
                    model_stats: statistics.into_iter().map(Into::into).collect(),
                })
            },
        )
        .await
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        answer(
            request,
            async |call, RepositoryIndexRequest { ready, .. }| {
                let models = repository::index(&call.node, ready).into_iter();
                Ok(RepositoryIndexResponse {
                    models: models.map(Into::into).collect(),
                })
            },
        )
        .await
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        answer(request, async |call, request| {
            let RepositoryModelLoadRequest {
                model_name,
                parameters,
                ..
            } = request;
            let text = |parameter: &ModelRepositoryParameter| match &parameter.parameter_choice {
                Some(ParameterChoice::StringParam(text)) => text.clone(),
                // That is no JSON, which the load will say.
                _ => String::new(),
            };
            let with = Override {
                files: parameters.keys().any(|name| name.starts_with("file:")),
                config: parameters.get("config").map(text),
            };
            repository::change(&call.node, &model_name, Change::Load(with), &headers).await?;
            Ok(RepositoryModelLoadResponse {})
        })
        .await
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        answer(request, async |call, request| {
            repository::change(&call.node, &request.model_name, Change::Unload, &headers).await?;
            Ok(RepositoryModelUnloadResponse {})
        })
        .await
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let call = Call::of(&request)?;
        let answered = infer_one(&call, request.into_inner()).await;
        answered
            .map(Response::new)
            .map_err(|failure| call.refused(failure))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let call = Call::of(&request)?;
        let requests = Some((request.into_inner(), call));
        let answers = stream::unfold(requests, async |requests| {
            let (mut requests, call) = requests?;
            match next(&mut requests, &call).await {
                Ok(Some(request)) => {
                    let answer = stream_one(&call, request).await;
                    Some((Ok(answer), Some((requests, call))))
                }
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The next request of a stream; none at its end.
async fn next(
    requests: &mut Streaming<ModelInferRequest>,
    call: &Call,
) -> Result<Option<ModelInferRequest>, Status> {
    let idle = Instant::now() + STREAM_IDLE;
    let until = call.until.map_or(idle, |until| until.min(idle));
    let next = tokio::time::timeout_at(until, requests.message()).await;
    next.unwrap_or_else(|_elapsed| {
        Err(Status::deadline_exceeded(
            "no request came on this stream for long, or its deadline has passed",
        ))
    })
}

/// An error is an answer too, and the stream goes on.
async fn stream_one(call: &Call, request: ModelInferRequest) -> ModelStreamInferResponse {
    let call = &call.of_request();
    let _answering = call.connection.answering();
    let (id, model_name) = (request.id.clone(), request.model_name.clone());
    let answered = infer_one(call, request).await;
    let answered = answered.map_err(|failure| call.refused(failure));
    if let Some(account) = &call.account {
        account.close_grpc(answered.as_ref().map_or_else(Status::code, |_| Code::Ok));
    }
    match answered {
        Ok(answer) => ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(answer),
        },
        Err(status) => ModelStreamInferResponse {
            error_message: status.message().to_owned(),
            // By which the client knows its request.
            infer_response: Some(ModelInferResponse {
                id,
                model_name,
                ..ModelInferResponse::default()
            }),
        },
    }
}

async fn infer_one(call: &Call, request: ModelInferRequest) -> Result<ModelInferResponse, Failure> {
    let held = Sent::default();
    // Whatever becomes of it, what has arrived is this request's.
    let bytes = request.encoded_len() as u64;
    call.arriving.take(bytes, &held)?;
    let model = find(call, &request.model_name, &request.model_version)?;
    let answer = infer_of(call, &model, request, bytes, &held).await;
    let answer = answer.and_then(|answer| call.send(answer, &held));
    let status = answer
        .as_ref()
        .map_or_else(Failure::status, |_| StatusCode::OK);
    let deployment = &model.deployment;
    if let Some(account) = &call.account {
        account.met(deployment);
    }
    if let Some(reason) = answer.as_ref().err().and_then(Failure::rejection) {
        deployment.telemetry.rejections.count(reason);
    }
    deployment.answered(status.as_u16(), call.started.elapsed());
    answer
}

async fn infer_of(
    call: &Call,
    model: &Addressed,
    request: ModelInferRequest,
    bytes: u64,
    held: &Sent,
) -> Result<ModelInferResponse, Failure> {
    let revision = model.revision()?;
    let limits = revision.limits;
    if bytes > limits.request_body {
        return Err(Failure::too_large(limits.request_body));
    }
    call.node.take_places(Some(&revision.share), held)?;
    if let Some(account) = &call.account {
        account.admitted(bytes);
    }
    let left = call
        .until
        .map(|until| until.saturating_duration_since(Instant::now()));
    let budget = left.map_or(limits.deadline, |left| left.min(limits.deadline));
    let id = request.id.clone();
    let question = infer::question(request)?;
    let asked = Asked {
        node: &call.node,
        model,
        target: model.target()?,
        request_id: &call.id,
        trace: call.trace(),
        started: call.started,
        deadline: Deadline::after(budget),
    };
    let outputs = question.answer(asked).await?;
    Ok(infer::answer(model, id, outputs))
}
