//! A Dunlin node: the data plane that answers requests, the admin plane that changes what is served.
//!
//! [`run`] is the whole life of one. `control` is the only writer of the node's state; requests read
//! it with one atomic load. Only `http` knows status codes, and nothing here names an engine.

mod account;
mod busy_poll;
mod connection;
mod control;
mod deployment;
mod engines;
mod error;
mod gathered;
mod http;
mod keyed_lock;
mod loader;
mod log;
mod log_writer;
mod logs;
mod memory;
mod metrics;
mod node;
mod outbox;
mod prompt;
mod request_id;
mod roaming;
mod room;
mod server;
mod shards;
mod state;
mod telemetry;
mod token;
mod traces;
mod turns;

pub use dunlin_sandbox::{Compiler, compile};
pub use error::NodeError;
#[doc(hidden)] // For `benches/`.
pub use http::parse_tensor_json;
pub use log::Log;
pub use log_writer::LogWriter;
pub use memory::give_back_by;
pub use server::{Ready, run};
