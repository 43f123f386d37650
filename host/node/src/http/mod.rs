//! The node's HTTP: only here is a status code known.

pub(crate) mod admin;
mod body;
mod budget;
pub(crate) mod data;
mod deadline;
mod failure;
pub(crate) mod grpc;
mod models_alone;
mod oip;
mod openapi;
mod predict;
mod routes;
mod stream;
mod upload;

pub(crate) use budget::BodyBudget;
pub use oip::parse_tensor_json;
