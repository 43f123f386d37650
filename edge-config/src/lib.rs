//! What an author (`dunlin.yaml`) or an operator (`node.yaml`) of Dunlin writes, read and checked.
//!
//! A file goes through two stages: what was written (`yaml`, a tree with line numbers) and what
//! is true ([`Deployment`], [`Node`]). Everything that is wrong is reported at once, each problem
//! with its line, its key, its value and what to write instead. Defaults live here and nowhere
//! else: past this crate no `Option` means "use the default", with two documented exceptions,
//! [`Node::data_dir`] and [`Backends::folder`].
//!
//! The crate reads the file it is given and touches nothing else: whether a path that a file names
//! exists is for its reader to find out.

mod batching;
mod deployment;
mod error;
mod model;
mod model_override;
mod monitoring;
mod name;
mod node;
mod package_path;
mod section;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

pub use batching::Batching;
pub use deployment::{
    Deployment, Grants, GuestTarget, InstancePolicy, Instances, Limits, Predictor,
};
pub use error::{ConfigError, Problem};
pub use model::{
    BackendChoice, Datatype, GraphOptimization, Model, OnnxRuntimeSettings, TensorDeclaration,
    Tolerance, TorchScriptSettings,
};
pub use model_override::ModelOverride;
pub use monitoring::{ModelType, Monitoring};
pub use name::{DeploymentName, ModelName, NameError};
pub use node::{
    AccessLog, Backends, Listen, Log, LogFormat, LogLevel, ModelControl, ModelScheduling, Node,
    Traces,
};
pub use package_path::{PackagePath, PackagePathError};
