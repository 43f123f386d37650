//! What a name on this node stands for, as requests see it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use dunlin_inference::{Model, Signature};
use dunlin_sandbox::Predictor;
use edge_config::{Limits, Monitoring};

use crate::{
    state::Record,
    telemetry::{Figures, Telemetry},
    turns::Share,
};

/// A deployment as it was at one moment. A change makes a new one; requests in flight keep theirs.
pub(crate) struct Deployment {
    pub(crate) record: Record,
    pub(crate) telemetry: Arc<Telemetry>,
    /// What this revision counts, in `telemetry` too.
    pub(crate) figures: Arc<Figures>,
    pub(crate) serving: Result<Revision, NotServing>,
}

/// Why a deployment does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotServing {
    /// After a restart: its models are being loaded, or its `init` runs.
    Starting,
    /// It did not come up after a restart, for this reason.
    Failed(String),
    /// Somebody unloaded it.
    Unloaded,
}

/// A package that is loaded, checked and warm.
pub(crate) struct Revision {
    pub(crate) predictor: Option<Arc<Predictor>>,
    pub(crate) models: BTreeMap<String, Model>,
    /// How its models are run: as the package says, but for what a load changed.
    pub(crate) settings: Vec<edge_config::Model>,
    pub(crate) limits: Limits,
    pub(crate) monitoring: Option<Monitoring>,
    pub(crate) share: Arc<Share>,
}

impl Deployment {
    pub(crate) fn new(
        record: Record,
        telemetry: Arc<Telemetry>,
        serving: Result<Revision, NotServing>,
    ) -> Self {
        let figures = telemetry.figures(record.revision);
        if let Ok(revision) = &serving {
            let models = revision.models.iter();
            let stats = models.map(|(name, model)| (name.clone(), Arc::clone(model.stats())));
            figures.set_models(stats.collect());
            let predictor = revision.predictor.as_ref();
            if predictor.is_some_and(|predictor| predictor.signature().is_some()) {
                figures.set_takes_tensors();
            }
            if let Some(monitoring) = &revision.monitoring {
                figures.monitor(monitoring.clone());
            }
        }
        Self {
            record,
            telemetry,
            figures,
            serving,
        }
    }

    /// A request has its answer, after so long.
    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        self.telemetry.answered(status, elapsed);
        self.figures.answered(status, elapsed);
    }
}

/// What an Open Inference Protocol model name leads to.
pub(crate) enum TensorTarget<'a> {
    Predictor(&'a Predictor, &'a Signature),
    Model(&'a Model),
}

impl TensorTarget<'_> {
    pub(crate) fn signature(&self) -> &Signature {
        match self {
            Self::Predictor(_, signature) => signature,
            Self::Model(model) => model.signature(),
        }
    }

    /// The field `platform` of the metadata.
    pub(crate) fn platform(&self) -> &str {
        match self {
            Self::Predictor(..) => "dunlin_predictor",
            Self::Model(model) => model.platform(),
        }
    }
}

impl Revision {
    /// Without a model's name: the predictor's own tensors if it serves them, else the only model.
    pub(crate) fn tensors(&self, model: Option<&str>) -> Option<TensorTarget<'_>> {
        if let Some(model) = model {
            return self.models.get(model).map(TensorTarget::Model);
        }
        let own = self.predictor.as_ref().and_then(|predictor| {
            let signature = predictor.signature()?;
            Some(TensorTarget::Predictor(predictor, signature))
        });
        own.or_else(|| {
            let mut models = self.models.values();
            let only = models.next()?;
            models.next().is_none().then_some(TensorTarget::Model(only))
        })
    }
}

/// All deployments of the node. Reading is one atomic load; only `control` writes.
#[derive(Default)]
pub(crate) struct Deployments(ArcSwap<HashMap<String, Arc<Deployment>>>);

impl Deployments {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Deployment>> {
        self.0.load().get(name).cloned()
    }

    /// In the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<Deployment>> {
        let mut all: Vec<_> = self.0.load().values().cloned().collect();
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        all
    }

    pub(crate) fn put(&self, deployment: &Arc<Deployment>) {
        self.0.rcu(|current| {
            let mut next = HashMap::clone(current);
            next.insert(deployment.record.name.clone(), Arc::clone(deployment));
            next
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.0.rcu(|current| {
            let mut next = HashMap::clone(current);
            next.remove(name);
            next
        });
    }
}
