//! Why a package is refused.

use std::io;

use edge_config::ConfigError;

use crate::digest::Digest;
use crate::store::StoreError;
use crate::world::WorldError;

/// Why a package was not read. Only [`PackageError::Store`] is no fault of the package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error(
        "the package is larger than {package_max} bytes; ship smaller models, or raise \
         package_max in node.yaml"
    )]
    TooLarge { package_max: u64 },
    /// The bytes end before the archive does.
    #[error("the package ends too early; send it again")]
    Truncated,
    /// Whatever gave the bytes failed.
    #[error("cannot read the package")]
    Read(#[source] io::Error),
    /// A part does not have the form it must have.
    #[error("{at}: {message}")]
    Invalid {
        /// The file in the archive or in the package, or `package`.
        at: String,
        message: String,
    },
    /// A blob's bytes are not those that its name promises.
    #[error("blob {named} holds {found}; the package was damaged or tampered with: make it again")]
    Tampered { named: Digest, found: Digest },
    /// The deployment file does not say what it must.
    #[error("the package's deployment file is wrong")]
    Config(#[source] ConfigError),
    /// The predictor does not fit into the node.
    #[error("{title} is not a predictor that a node runs")]
    World {
        title: String,
        #[source]
        source: WorldError,
    },
    /// The node cannot keep it.
    #[error("cannot keep the package")]
    Store(#[from] StoreError),
}

impl PackageError {
    pub(crate) fn invalid(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            at: at.into(),
            message: message.into(),
        }
    }

    /// Whether it is the node that lacks space for the package.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_out_of_space())
    }
}
