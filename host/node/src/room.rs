//! What the threads that serve leave to the threads that run models.
//!
//! Those get a processor only when nobody else wants it. A thread that goes from request to request would
//! leave them nothing, so it pauses between two polls once it has had more than its part. What it did not
//! take it may take later, up to [`CREDIT_MAX`]: requests that come together are answered together.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use crate::{outbox, turns::thread_time};

/// A part is had of so long, about as the system's scheduler shares a processor.
const PERIOD: Duration = Duration::from_millis(4);
const CREDIT_MAX: Duration = Duration::from_millis(20);
/// A poll that takes longer than any is to does not stop its thread for as long.
const PAUSE_MAX: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
struct Window {
    since: Instant,
    /// Processor time that the thread had had by then.
    used: Duration,
}

thread_local! {
    static WINDOW: Cell<Option<Window>> = const { Cell::new(None) };
    static CREDIT: Cell<Duration> = const { Cell::new(CREDIT_MAX) };
}

/// Between two polls: pauses where models are owed this thread's processor.
pub(crate) fn leave(now: Instant) {
    let Some(percent) = dunlin_inference::percent_owed() else {
        WINDOW.set(None);
        return;
    };
    let Some(window) = WINDOW.get() else {
        WINDOW.set(Some(Window::from(now)));
        return;
    };
    let period = now.saturating_duration_since(window.since);
    if period < PERIOD {
        return;
    }
    let used = thread_time().saturating_sub(window.used);
    let (credit, pause) = settle(CREDIT.get(), used, period, percent);
    CREDIT.set(credit);
    if !pause.is_zero() {
        outbox::send();
        thread::sleep(pause);
    }
    WINDOW.set(Some(Window::from(Instant::now())));
}

impl From<Instant> for Window {
    fn from(since: Instant) -> Self {
        Self {
            since,
            used: thread_time(),
        }
    }
}

/// What a thread may take later, and how long it pauses for what it had too much: with that, so much of
/// the whole was not used.
fn settle(
    credit: Duration,
    used: Duration,
    period: Duration,
    percent: u32,
) -> (Duration, Duration) {
    let part = 100 - percent.min(99);
    let may_have = credit + period * part / 100;
    let left = may_have.saturating_sub(used).min(CREDIT_MAX);
    let too_much = used.saturating_sub(may_have);
    (left, (too_much * 100 / part).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_pauses_for_what_it_had_too_much() {
        let settle = |credit, used, period, percent| {
            let ms = Duration::from_millis;
            let (credit, pause) = settle(ms(credit), ms(used), ms(period), percent);
            (credit.as_millis(), pause.as_millis())
        };
        assert_eq!(settle(0, 4, 4, 50), (0, 4));
        assert_eq!(settle(0, 3, 4, 50), (0, 2));
        assert_eq!(settle(0, 2, 4, 50), (0, 0));
        assert_eq!(settle(0, 18, 18, 10), (0, 2));
        assert_eq!(settle(0, 90, 90, 50), (0, 10), "not for as long");
        assert_eq!(settle(0, 1, 4, 50), (1, 0));
        assert_eq!(settle(3, 4, 4, 50), (1, 0), "it had less before");
        assert_eq!(settle(1, 4, 4, 50), (0, 2));
        assert_eq!(settle(19, 0, 90, 50), (20, 0), "it slept for long");
    }
}
