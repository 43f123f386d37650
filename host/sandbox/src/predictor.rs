//! A predictor that is ready to answer: its code, its models, its instances.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_inference::{Model, Registry, RunObserver, Signature, Tensor};
use edge_config::{Grants, Instances, Limits};
use tokio::sync::oneshot;

use crate::{
    engine::{Program, Sandbox},
    error::{CallError, SandboxError},
    guest::Shared,
    instance::{CallTimes, Called, Deadline, Instance, Request, Response},
    observer::Observer,
    pool::{InstanceCounts, Pool},
    streaming::Stream,
};

/// What a predictor is made from.
pub struct PredictorSpec {
    pub program: Arc<Program>,
    /// The deployment file's `predictor.config`, a JSON object.
    pub config: String,
    /// The models of the package by name: all that `load-by-name` finds.
    pub models: HashMap<String, Model>,
    /// Loads a model that the guest brings, where that is granted.
    pub registry: Arc<Registry>,
    pub grants: Grants,
    pub instances: Instances,
    pub limits: Limits,
    pub observer: Arc<dyn Observer>,
    /// How long the first `init` may take.
    pub init_deadline: Duration,
}

/// Answers requests. Dropping it drops its idle instances; one that is in use goes when its call
/// ends.
pub struct Predictor {
    pool: Arc<Pool>,
    signature: Option<Signature>,
}

impl std::fmt::Debug for PredictorSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PredictorSpec")
            .field("models", &self.models.keys())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Predictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Predictor")
            .field("instances", &self.pool.counts())
            .finish_non_exhaustive()
    }
}

impl Predictor {
    /// Brings up the first instance, so that a predictor whose `init` fails never takes traffic.
    ///
    /// # Errors
    /// It asks for more memory than the node allows, or its `init` fails.
    pub async fn start(sandbox: &Sandbox, spec: PredictorSpec) -> Result<Self, SandboxError> {
        let allowed = sandbox.guest_memory_max();
        if spec.limits.memory > allowed {
            return Err(SandboxError::MemoryLimit {
                asked: spec.limits.memory,
                allowed,
            });
        }
        let shared = Arc::new(Shared {
            models: spec.models,
            registry: spec.registry,
            grants: spec.grants,
            limits: spec.limits,
            observer: spec.observer,
        });
        let pool = Pool::new(
            sandbox.clone(),
            spec.program,
            shared,
            spec.config,
            spec.instances,
        );
        let deadline = Deadline::after(spec.init_deadline);
        let mut first = pool.start(deadline).await.map_err(SandboxError::Init)?;
        let signature = first.describe(deadline).await.map_err(SandboxError::Init)?;
        pool.give_back(first);
        Ok(Self { pool, signature })
    }

    /// Runs the predictor's `predict`; `runs` is told of its models' runs. Dropping the future ends
    /// the call and its instance. Whatever comes of it, the predictor itself stays usable.
    ///
    /// An answer in pieces comes by `stream`; what this gives then only says how it ended.
    pub async fn predict(
        &self,
        request: Request<'_>,
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
        stream: oneshot::Sender<Stream>,
    ) -> Called<Response> {
        self.call(deadline, async |instance| {
            instance.predict(request, deadline, runs, stream).await
        })
        .await
    }

    /// The tensors that the predictor's own `infer` takes and gives, where it has one.
    #[must_use]
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// Runs the predictor's `infer`, where it has one: else it is [`CallError::NoTensorHandler`].
    pub async fn infer(
        &self,
        request_id: &str,
        inputs: &[(String, Tensor)],
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
    ) -> Called<Vec<(String, Tensor)>> {
        self.call(deadline, async |instance| {
            instance.infer(request_id, inputs, deadline, runs).await
        })
        .await
    }

    async fn call<T>(
        &self,
        deadline: Deadline,
        call: impl AsyncFnOnce(&mut Instance) -> Result<T, CallError>,
    ) -> Called<T> {
        let called = Instant::now();
        let taken = self.pool.take(deadline).await;
        let mut times = CallTimes {
            instance_wait: called.elapsed(),
            guest: None,
        };
        let mut lease = match taken {
            Ok(lease) => lease,
            Err(error) => {
                let answer = Err(error);
                return Called { answer, times };
            }
        };
        let answer = call(&mut lease.instance).await;
        times.guest = Some(called.elapsed() - times.instance_wait);
        if reusable(&answer) {
            lease.give_back();
        }
        Called { answer, times }
    }

    #[must_use]
    pub fn instances(&self) -> InstanceCounts {
        self.pool.counts()
    }
}

/// A guest that returned, be it an error, is whole. One that was stopped is not.
fn reusable<T>(answer: &Result<T, CallError>) -> bool {
    matches!(
        answer,
        Ok(_)
            | Err(CallError::Guest(_)
                | CallError::ResponseTooLarge { .. }
                | CallError::NoTensorHandler)
    )
}
