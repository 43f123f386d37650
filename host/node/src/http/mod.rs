//! The node's HTTP: only here is a status code known.

pub(crate) mod admin;
mod body;
mod budget;
pub(crate) mod data;
mod failure;
mod models_alone;
mod oip;
mod predict;
mod stream;
mod upload;

pub(crate) use body::ReplyBody;
pub(crate) use budget::BodyBudget;
