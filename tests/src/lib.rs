//! Dunlin from the outside: what the end-to-end tests and the benchmarks stand on.
//!
//! It owns a running node ([`Node`]), the packages that go to it ([`package`], [`Variant`]), what the
//! digits model is known to answer ([`HeldOut`], [`Golden`]) and the command line as a user runs it
//! ([`Cli`]). It knows the `dunlin` binary and the node's HTTP interface, and no crate of the host.
//!
//! Nothing here returns an error: what does not hold ends the test, and says why.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends with a panic, and the node's log is printed beside it"
)]

mod answer;
mod artifacts;
mod browser;
mod cli;
mod digits;
pub mod infer;
mod metrics;
mod node;
mod otlp;
mod package;
mod prometheus;
mod wait;

pub use answer::{Answer, send};
pub use artifacts::{backends, binary, lightning, package, perf_analyzer, python, repository};
pub use browser::Browser;
pub use cli::{Cli, Ran};
pub use digits::{Golden, HeldOut, pixels_json, png};
pub use metrics::Metrics;
pub use node::{Node, NodeOptions, Signal};
pub use otlp::OtlpReceiver;
pub use package::{Variant, blob, digest, rewrite, with_component, with_model, with_yaml};
pub use prometheus::{Prometheus, Series, promtool_complaints};
pub use wait::{until, until_async};
