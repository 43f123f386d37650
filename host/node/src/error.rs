//! What keeps a node from starting or from changing what it serves.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use dunlin_inference::InferenceError;
use dunlin_package::{PackageError, StoreError};
use dunlin_sandbox::SandboxError;

/// The node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot use {path}")]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another node is using {path}; stop it, or give this one another data_dir")]
    Locked { path: PathBuf },
    #[error("cannot listen on {address} ({plane}.listen)")]
    Listen {
        plane: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the node's state, {path}, cannot be opened")]
    StateFile {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "the node's state, {path}, was deleted or replaced while the node runs: this change would \
         be lost with the next start. Put the file back; or note what `dunlin get` lists, \
         restart the node, and deploy that again"
    )]
    StateLost { path: PathBuf },
    #[error(
        "the node's state, {path}, is of another version of Dunlin: its tables are of version \
         {found}, and this one knows version {known}"
    )]
    StateVersion {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("the node's state cannot be read or written")]
    Database(#[from] rusqlite::Error),
    #[error("the node's state is damaged: {0}")]
    State(String),
    #[error("the content store cannot be used")]
    Store(#[source] StoreError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the gRPC services do not describe themselves: {0}")]
    Reflection(String),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error("the threads of the data plane do not start")]
    Threads(#[source] io::Error),
}

impl NodeError {
    /// Whether the disk, or what of it the user may have, is full.
    pub(crate) fn is_out_of_space(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

/// A change of the deployments that was refused. What served before serves on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("\"{name}\" is not a name for a deployment: {reason}")]
    Name { name: String, reason: String },
    #[error("{asked}, and this node allows {allowed}")]
    Bound { asked: String, allowed: String },
    #[error("{0} packages are being uploaded, and this node takes no more at once (uploads_max)")]
    Uploads(u32),
    #[error("no deployment \"{0}\" on this node")]
    NotFound(String),
    #[error("model \"{model}\": {source}")]
    Model {
        model: String,
        source: Arc<InferenceError>,
    },
    #[error(transparent)]
    Predictor(SandboxError),
    #[error("the model's config is refused: {0}")]
    ModelConfig(String),
    #[error("the node is shutting down")]
    Draining,
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the change was interrupted by a defect of the node: {0}")]
    Defect(String),
}
