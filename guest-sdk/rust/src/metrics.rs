//! Counts of the predictor's own, on the node's `/metrics`.
//!
//! The node prefixes the names with `dunlin_predictor_` and adds the deployment as a label. A name
//! has `[a-z0-9_]` and at most 64 characters; a deployment may use 64 names.
//!
//! ```
//! # use dunlin_sdk::metrics;
//! metrics::counter_add("images_total", 1.0);
//! metrics::histogram_observe("confidence", 0.97);
//! # assert_eq!(dunlin_sdk::testing::counter("images_total"), 1.0);
//! ```

use crate::host;

/// Adds to a counter. The host drops a value that is negative or not finite.
pub fn counter_add(name: &str, value: f64) {
    host::counter_add(name, value);
}

/// Sets a gauge.
pub fn gauge_set(name: &str, value: f64) {
    host::gauge_set(name, value);
}

/// Records a value in a histogram.
pub fn histogram_observe(name: &str, value: f64) {
    host::histogram_observe(name, value);
}
