//! The Dunlin package: what travels from an author's machine to a node, and where the node keeps it.
//!
//! A package is an OCI image layout in one tar archive: `oci-layout`, `index.json` and blobs named
//! by their SHA-256. Its manifest names a configuration (the deployment file) and layers (the
//! predictor, the models, the golden samples); the manifest's digest is the package's. [`write()`]
//! makes one, [`import`] takes one from anybody into a [`Store`], [`inspect`] looks into one.
//!
//! The crate knows the form of a predictor, not how to run it, and the files of a model, not what
//! they compute. It does blocking I/O only and knows nothing of HTTP.

mod archive;
mod digest;
mod error;
mod manifest;
mod onnx;
mod reader;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod world;
mod writer;

pub use archive::ImportLimits;
pub use digest::{Digest, DigestError};
pub use error::PackageError;
pub use manifest::{Blob, LayerKind, PREDICTOR_TITLE, Package};
pub use onnx::{OnnxError, external_locations};
pub use reader::{import, inspect};
pub use store::{Collected, Collection, Store, StoreError};
pub use writer::{PackageSummary, Source, WriteError, write};
