//! The model repository: which deployments there are, and letting one serve or not.
//!
//! Loading and unloading is the operator's business. Where predictions are asked for it is refused
//! unless `model_control` in `node.yaml` says who may.

use std::sync::Arc;

use edge_config::{ModelControl, ModelOverride};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::{
    address::{self, address},
    config,
    documents::{ModelIndex, ModelState},
};
use crate::{
    deployment::NotServing,
    error::ChangeError,
    http::{admin, failure::Failure},
    node::Node,
};

/// The largest override: a configuration is some hundred bytes.
const CONFIG_BYTES_MAX: usize = 64 << 10;

/// What to do with a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Load(Override),
    Unload,
}

/// What a load is to do otherwise than the package says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Override {
    /// JSON, with the names of Triton's model configuration.
    pub(crate) config: Option<String>,
    /// Files were sent.
    pub(crate) files: bool,
}

pub(crate) fn index(node: &Node, ready_only: bool) -> Vec<ModelIndex> {
    let deployments = node.control.deployments.all();
    let models = deployments.iter().flat_map(|deployment| {
        let (state, reason) = match &deployment.serving {
            Ok(_) => (ModelState::Ready, ""),
            Err(NotServing::Starting) => (ModelState::Loading, "starting"),
            Err(NotServing::Unloaded) => (ModelState::Unavailable, "unloaded"),
            // Why is for the operator: `dunlin get` says it.
            Err(NotServing::Failed(_)) => (ModelState::Unavailable, "did not come up"),
        };
        let models = address::all_of(deployment).into_iter();
        models.map(move |model| ModelIndex {
            version: model.version(),
            name: model.name,
            state,
            reason,
        })
    });
    models
        .filter(|model| !ready_only || model.state == ModelState::Ready)
        .collect()
}

/// Loads or unloads, if whoever sent `headers` may. Once begun it is carried through.
pub(crate) async fn change(
    node: &Arc<Node>,
    name: &str,
    change: Change,
    headers: &HeaderMap,
) -> Result<(), Failure> {
    let done = match change {
        Change::Load(_) => "load",
        Change::Unload => "unload",
    };
    let outcome = match may_change(node, headers) {
        Ok(()) => carry_out(node, name, change).await,
        Err(refused) => Err(refused),
    };
    outcome.map_err(|failure| failure.of(&format!("failed to {done} '{name}'")))
}

fn may_change(node: &Node, headers: &HeaderMap) -> Result<(), Failure> {
    match node.config.model_control {
        ModelControl::Open => Ok(()),
        ModelControl::Token => admin::authorize(node, headers),
        ModelControl::None => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "this node loads and unloads nothing where predictions are asked for; set \
             model_control in its node.yaml",
        )),
    }
}

async fn carry_out(node: &Arc<Node>, name: &str, change: Change) -> Result<(), Failure> {
    if node.is_draining() {
        return Err(ChangeError::Draining.into());
    }
    if let Some((deployment, _)) = name.split_once('.') {
        return Err(Failure::bad_request(format!(
            "a model comes and goes with its deployment; name '{deployment}'"
        )));
    }
    if node.control.deployments.get(name).is_none() {
        return Err(Failure::unknown_model(name));
    }
    let change = match change {
        Change::Load(with) => {
            check(&with)?;
            let changes = |config: String| changes(node, name, &config).unwrap_or(config);
            Change::Load(Override {
                config: with.config.map(changes),
                ..with
            })
        }
        Change::Unload => Change::Unload,
    };
    let changing = node.change({
        let (node, name) = (Arc::clone(node), name.to_owned());
        async move {
            match change {
                Change::Load(with) => node.control.load(&name, with.config).await,
                Change::Unload => node.control.unload(&name).await,
            }
        }
    });
    let changed = changing.await;
    changed.map_err(|panic| ChangeError::Defect(panic.to_string()))??;
    Ok(())
}

/// Clients read a model's whole configuration, change what they want, and send all of it: what a load
/// cannot change may be in it, if it says what is.
fn changes(node: &Node, name: &str, config: &str) -> Option<String> {
    /// Of an instance group no more is said than how many runs there are at once.
    const OF_GROUPS: [&str; 2] = ["name", "kind"];
    let mut config: Map<String, Value> = serde_json::from_str(config).ok()?;
    let model = address(node, name, None).ok()?;
    let current = serde_json::to_value(config::config(&model).ok()?).ok()?;
    config.retain(|key, value| {
        ModelOverride::KEYS.contains(&key.as_str()) || current.get(key) != Some(value)
    });
    if let Some(Value::Array(groups)) = config.get_mut("instance_group") {
        for (group, current) in groups.iter_mut().zip(current["instance_group"].as_array()?) {
            if let Value::Object(group) = group {
                group.retain(|key, value| {
                    !OF_GROUPS.contains(&key.as_str()) || current.get(key) != Some(value)
                });
            }
        }
    }
    serde_json::to_string(&config).ok()
}

fn check(with: &Override) -> Result<(), Failure> {
    if with.files {
        return Err(Failure::bad_request(
            "files come with a package, whose parts are checked: dunlin deploy",
        ));
    }
    match &with.config {
        Some(config) if config.len() > CONFIG_BYTES_MAX => Err(Failure::bad_request(format!(
            "config has {} bytes; at most {CONFIG_BYTES_MAX} are allowed",
            config.len()
        ))),
        _ => Ok(()),
    }
}
