//! `grpc.health.v1`: the node as load balancers and orchestrators ask for it. A service name is
//! nothing, that of the protocol, or a model's.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, async_trait, server::NamedService as _};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use super::{Call, GrpcInferenceServiceServer, Service};
use crate::{
    http::oip::{self, address::address},
    node::Node,
};

pub(super) struct Health;

#[async_trait]
impl HealthService for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let call = Call::of(&request)?;
        let service = request.into_inner().service;
        match status(&call.node, &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!(
                "there is no service and no model '{service}'"
            ))),
            status => Ok(Response::new(answer(status))),
        }
    }

    /// What is the case now, and again when the node begins to shut down. A client that asks for
    /// more often than that asks with `check`.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        let service = request.into_inner().service;
        let now = stream::once({
            let now = answer(status(&call.node, &service));
            async move { Ok(now) }
        });
        let at_the_end = stream::once(async move {
            call.node.drained().await;
            Ok(answer(ServingStatus::NotServing))
        });
        let watched = stream::StreamExt::chain(now, at_the_end);
        Ok(Response::new(Box::pin(watched)))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

fn status(node: &Node, service: &str) -> ServingStatus {
    let is_node = service.is_empty() || service == GrpcInferenceServiceServer::<Service>::NAME;
    if !is_node && address(node, service, None).is_err() {
        return ServingStatus::ServiceUnknown;
    }
    let serves = oip::ready(node).is_ok();
    let serves = match is_node {
        true => serves,
        false => serves && address(node, service, None).is_ok_and(|model| model.revision().is_ok()),
    };
    match serves {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}
