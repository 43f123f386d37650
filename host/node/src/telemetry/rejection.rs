//! Why the node itself turned a request away: a bound was reached, or nothing serves.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The deployment is starting, or did not come up.
    NotServing,
    /// `limits.request_body`.
    RequestBody,
    /// The body did not arrive within the deadline.
    RequestBodyTimeout,
    /// `requests_in_flight_max`, or `limits.requests_in_flight`.
    RequestsInFlight,
    /// `body_memory_max`.
    BodyMemory,
    /// `instances.max`, or the node's `instances_max`.
    Instances,
    /// `max_queue_size` of a model.
    ModelQueue,
    /// `default_timeout_microseconds` of a model.
    QueueTimeout,
    /// The request's deadline: `limits.deadline`, or a shorter one that the caller gave.
    Deadline,
}

impl Rejection {
    const ALL: [(Self, &'static str); 9] = [
        (Self::NotServing, "not_serving"),
        (Self::RequestBody, "request_body"),
        (Self::RequestBodyTimeout, "request_body_timeout"),
        (Self::RequestsInFlight, "requests_in_flight"),
        (Self::BodyMemory, "body_memory"),
        (Self::Instances, "instances"),
        (Self::ModelQueue, "model_queue"),
        (Self::QueueTimeout, "queue_timeout"),
        (Self::Deadline, "deadline"),
    ];
}

/// How often for which reason.
#[derive(Debug, Default)]
pub(crate) struct Rejections([AtomicU64; Rejection::ALL.len()]);

impl Rejections {
    pub(crate) fn count(&self, reason: Rejection) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Rejection::ALL.iter().map(|(_, name)| *name).zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_place_of_its_name() {
        for (place, (reason, _)) in Rejection::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        let rejections = Rejections::default();
        rejections.count(Rejection::Deadline);
        let counted = rejections.by_reason().find(|(_, count)| *count > 0);
        assert_eq!(counted, Some(("deadline", 1)));
    }
}
