//! Whether a call has others to share its run with.

use std::sync::atomic::{AtomicU32, Ordering};

/// Whether a call that finds the engine idle is likely to have others right behind it.
///
/// To see them it has to let go of its thread, which costs more than a short run. So who was alone
/// several times is taken to stay so, but for a look now and then.
#[derive(Default)]
pub(super) struct Company {
    /// Calls since one had company.
    alone: AtomicU32,
}

impl Company {
    const SEVERAL: u32 = 8;
    const LOOK: u32 = 64;

    pub(super) fn is_likely(&self) -> bool {
        let alone = self.alone.load(Ordering::Relaxed);
        alone < Self::SEVERAL || alone.is_multiple_of(Self::LOOK)
    }

    pub(super) fn note(&self, has_company: bool) {
        if has_company {
            self.alone.store(0, Ordering::Relaxed);
        } else {
            self.alone.fetch_add(1, Ordering::Relaxed);
        }
    }
}
