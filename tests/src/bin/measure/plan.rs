//! How long and how often.

use std::time::Duration;

use serde::{Serialize, Serializer};

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    /// Windows of one server at one number of connections: the first that lie together end it.
    pub(crate) windows_min: usize,
    pub(crate) windows_max: usize,
    #[serde(rename = "warm_up_s", serialize_with = "seconds")]
    pub(crate) warm_up: Duration,
    /// In whole seconds: wrk takes no others.
    #[serde(rename = "window_s", serialize_with = "seconds")]
    pub(crate) window: Duration,
    /// Of the large models: what is under way at a window's end does not count.
    #[serde(rename = "model_window_s", serialize_with = "seconds")]
    pub(crate) model_window: Duration,
    /// Connections that ask at once, each one request after another.
    pub(crate) digits_connections: &'static [usize],
    pub(crate) model_connections: &'static [usize],
    /// Whether every server takes part in the contests of large models, or only the first of them.
    pub(crate) model_servers: Servers,
    /// Of in-process calls in each round.
    #[serde(rename = "in_process_s", serialize_with = "seconds")]
    pub(crate) in_process: Duration,
    /// Of a node, and of what it is compared with.
    pub(crate) starts: usize,
    /// Before memory is read.
    #[serde(rename = "settle_s", serialize_with = "seconds")]
    pub(crate) settle: Duration,
    /// Before the memory of a node that was asked is read: it gives back what a request left.
    #[serde(rename = "quiet_s", serialize_with = "seconds")]
    pub(crate) quiet: Duration,
    /// Idle deployments of one package.
    pub(crate) deployments: usize,
    #[serde(rename = "overload_s", serialize_with = "seconds")]
    pub(crate) overload: Duration,
    /// First requests to a deployment that has no instance.
    pub(crate) wake_ups: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Servers {
    All,
    /// Of each kind with one worker, and no second road.
    Few,
}

pub(crate) const FULL: Plan = Plan {
    windows_min: 3,
    windows_max: 3,
    warm_up: Duration::from_millis(500),
    window: Duration::from_secs(1),
    model_window: Duration::from_secs(4),
    digits_connections: &[1, 8, 32, 128],
    model_connections: &[1, 8, 32, 128],
    model_servers: Servers::All,
    in_process: Duration::from_millis(1500),
    starts: 9,
    settle: Duration::from_secs(1),
    quiet: Duration::from_secs(12),
    deployments: 1000,
    overload: Duration::from_mins(1),
    wake_ups: 20,
};

/// To see that everything runs: its numbers say little.
pub(crate) const SHORT: Plan = Plan {
    windows_min: 1,
    windows_max: 1,
    warm_up: Duration::from_millis(100),
    window: Duration::from_secs(1),
    model_window: Duration::from_secs(1),
    digits_connections: &[1, 32],
    model_connections: &[8],
    model_servers: Servers::Few,
    in_process: Duration::from_millis(500),
    starts: 1,
    settle: Duration::from_millis(500),
    quiet: Duration::from_secs(1),
    deployments: 50,
    overload: Duration::from_secs(3),
    wake_ups: 2,
};

/// Windows that lie so close together are taken for the server's own speed.
pub(crate) const CLOSE: f64 = 0.10;
/// So many of them in a row.
pub(crate) const IN_A_ROW: usize = 3;

impl Plan {
    /// For models whose runs take tens of milliseconds.
    pub(crate) fn of_large_models(self) -> Self {
        Self {
            window: self.model_window,
            in_process: self.model_window,
            ..self
        }
    }

    /// Whether the numbers so far are enough.
    pub(crate) fn settled(&self, numbers: &[f64]) -> bool {
        if self.windows_min < IN_A_ROW {
            return numbers.len() >= self.windows_min;
        }
        let Some(at) = numbers.len().checked_sub(IN_A_ROW) else {
            return false;
        };
        let last = &numbers[at..];
        let max = last.iter().copied().fold(f64::MIN, f64::max);
        let min = last.iter().copied().fold(f64::MAX, f64::min);
        max - min <= CLOSE * max
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_windows_that_lie_together_are_enough() {
        for (numbers, settled) in [
            (&[100.0, 101.0][..], false),
            (&[100.0, 101.0, 99.0], true),
            (&[100.0, 101.0, 80.0], false),
            (&[50.0, 100.0, 91.0, 99.0], true),
            (&[100.0, 100.0, 100.0, 80.0], false),
        ] {
            assert_eq!(FULL.settled(numbers), settled, "{numbers:?}");
        }
        assert!(SHORT.settled(&[1.0]));
    }
}
