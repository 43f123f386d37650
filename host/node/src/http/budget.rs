//! The node's memory for bodies: what all requests and answers together may hold.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use crate::{connection::Held, telemetry::Rejection};

/// Permits are counted in these, so that 4 TiB fit in a `u32`. A body of less takes none: there are only as
/// many of them as there are requests and streams, and each of those takes more than that by itself.
const UNIT: u64 = 1 << 10;

#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

/// Bytes that one body has of the budget.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    permit: Option<OwnedSemaphorePermit>,
    units: u64,
}

impl BodyBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for a body of so many bytes. It may grow.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Reserved, Failure> {
        let mut reserved = Reserved::default();
        reserved.grow(self, bytes)?;
        Ok(reserved)
    }
}

impl Reserved {
    /// Room for so many bytes in all, from the budget that it has the others of.
    pub(crate) fn grow(&mut self, budget: &BodyBudget, bytes: u64) -> Result<(), Failure> {
        let more = (bytes / UNIT).saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let count = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&budget.0).try_acquire_many_owned(count) else {
            return Err(Failure::unavailable(
                "the node holds as many bytes of requests and answers as it may (body_memory_max)",
            )
            .because(Rejection::BodyMemory));
        };
        self.units += more;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        Ok(())
    }

    /// For how many bytes there is room.
    pub(crate) fn bytes(&self) -> u64 {
        self.units * UNIT
    }

    /// Keeps the room until the request's answer has gone.
    pub(crate) fn keep(self, held: &Held) {
        if let Some(permit) = self.permit {
            held.keep(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_grows_and_is_given_back() {
        let budget = BodyBudget::new(10 * UNIT);
        let mut first = budget.reserve(UNIT - 1).unwrap();
        assert_eq!(budget.0.available_permits(), 10);
        first.grow(&budget, UNIT).unwrap();
        assert_eq!(budget.0.available_permits(), 9);
        first.grow(&budget, 7 * UNIT + 1).unwrap();
        assert!(budget.reserve(4 * UNIT).is_err());
        let held = Held::default();
        first.keep(&held);
        assert_eq!(budget.0.available_permits(), 3);
        drop(held);
        assert_eq!(budget.0.available_permits(), 10);
    }
}
