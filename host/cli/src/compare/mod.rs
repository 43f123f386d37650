//! One predictor and the same requests over every route from the trained model to an answer.
//!
//! [`Subject`] is what is compared: the predictor, built once, and every file that its models were
//! exported to. [`routes`] says which ways there are. Each that applies is deployed on a node of its
//! own ([`node`]), asked for the golden samples and the recorded requests, and put under load
//! ([`measure`]); the [`original`] module runs in the user's Python. A [`Report`] holds what came of
//! it, which [`mod@page`] draws. Nothing here prints.

mod agreement;
mod difference;
mod golden;
mod load;
mod measure;
mod node;
mod original;
mod page;
mod report;
mod requests;
mod routes;
mod subject;

pub(crate) use measure::{Plan, compare};
pub(crate) use original::Original;
pub(crate) use page::{Cells, method, page, verdict};
pub(crate) use report::{Report, Row};
pub(crate) use requests::{Recorded, recorded};
pub(crate) use routes::{Route, Tolerances};
pub(crate) use subject::{Export, Subject};
