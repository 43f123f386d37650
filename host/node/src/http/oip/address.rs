//! From a model's name to what answers for it.
//!
//! A model is addressed by its deployment: `digits`, or `digits.encoder` for one of several models.
//! Its version is the deployment's revision.

use std::sync::Arc;

use dunlin_inference::StatsSnapshot;

use crate::{
    deployment::{Deployment, Revision, TensorTarget},
    http::{failure::Failure, predict},
    node::Node,
};

/// A deployment and, where the name says so, one of its models.
pub(crate) struct Addressed {
    pub(crate) deployment: Arc<Deployment>,
    model: Option<String>,
    /// The name as the client wrote it.
    pub(crate) name: String,
}

/// What the client means by `name`; `version` is that of the revision that serves, or nothing.
pub(crate) fn address(
    node: &Node,
    name: &str,
    version: Option<&str>,
) -> Result<Addressed, Failure> {
    // A deployment's name has no dot.
    let (deployment, model) = match name.split_once('.') {
        Some((deployment, model)) => (deployment, Some(model.to_owned())),
        None => (name, None),
    };
    let deployment = node
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

/// All that can be addressed of a deployment, each under one name: the deployment's where that is
/// enough. One that does not serve has only that.
pub(crate) fn all_of(deployment: &Arc<Deployment>) -> Vec<Addressed> {
    let addressed = |model: Option<&str>| {
        let name = &deployment.record.name;
        Addressed {
            deployment: Arc::clone(deployment),
            model: model.map(str::to_owned),
            name: model.map_or_else(|| name.clone(), |model| format!("{name}.{model}")),
        }
    };
    let Ok(revision) = &deployment.serving else {
        return vec![addressed(None)];
    };
    let own = revision.tensors(None);
    let parts = match own {
        // The only model has the deployment's name.
        Some(TensorTarget::Model(_)) => Vec::new(),
        _ => revision
            .models
            .keys()
            .map(|model| addressed(Some(model)))
            .collect(),
    };
    let whole = (own.is_some() || parts.is_empty()).then(|| addressed(None));
    whole.into_iter().chain(parts).collect()
}

impl Addressed {
    pub(crate) fn target(&self) -> Result<TensorTarget<'_>, Failure> {
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

    pub(crate) fn revision(&self) -> Result<&Revision, Failure> {
        predict::serving(&self.deployment)
    }

    pub(crate) fn version(&self) -> String {
        self.deployment.record.revision.to_string()
    }

    /// How the model is run; nothing for a predictor's own tensors.
    pub(crate) fn settings(&self) -> Option<&edge_config::Model> {
        let revision = self.deployment.serving.as_ref().ok()?;
        let settings = &revision.settings;
        match (revision.tensors(self.model.as_deref())?, &self.model) {
            (TensorTarget::Predictor(..), _) => None,
            (TensorTarget::Model(_), None) => settings.first(),
            (TensorTarget::Model(_), Some(name)) => {
                settings.iter().find(|model| model.name.as_str() == name)
            }
        }
    }

    pub(crate) fn statistics(&self) -> Result<StatsSnapshot, Failure> {
        Ok(match self.target()? {
            TensorTarget::Predictor(..) => self.deployment.figures.tensors.snapshot(),
            TensorTarget::Model(model) => model.stats().snapshot(),
        })
    }
}
