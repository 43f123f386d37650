//! What an author (`dunlin.yaml`) or an operator (`node.yaml`) of Dunlin writes, read and checked.
//!
//! A file goes through two stages: what was written (`yaml`, a tree with line numbers) and what
//! is true ([`Deployment`], [`Node`]). Everything that is wrong is reported at once, each problem
//! with its line, its key, its value and what to write instead. Defaults live here and nowhere
//! else: past this crate no `Option` means "use the default", with one documented exception,
//! [`Node::data_dir`].
//!
//! The crate reads the file it is given and touches nothing else: whether a path that a file names
//! exists is for its reader to find out.

mod deployment;
mod error;
mod name;
mod node;
mod package_path;
mod section;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

pub use deployment::{
    BackendChoice, Deployment, Grants, GuestTarget, InstancePolicy, Instances, Limits, Model,
    Predictor, Tolerance,
};
pub use error::{ConfigError, Problem};
pub use name::{DeploymentName, ModelName, NameError};
pub use node::{Listen, Log, LogFormat, LogLevel, Node};
pub use package_path::{PackagePath, PackagePathError};
