//! Time, for predictors whose deployment file grants `clock`. A predictor that does not call it does
//! not import it.

use std::time::Duration;

use crate::host;

/// Since the Unix epoch.
pub fn now() -> Duration {
    Duration::from_nanos(host::now())
}

/// Since an arbitrary start; never goes back.
pub fn monotonic() -> Duration {
    Duration::from_nanos(host::monotonic())
}
