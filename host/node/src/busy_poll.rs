//! Looking for what arrives, for a moment after an answer, instead of sleeping until it does.
//!
//! A thread that waits for its connections lets its processor sleep too. Until both are awake again
//! takes as long as a short request, on a virtual machine longer; a client that asks again at once is
//! back before that. So the threads go on looking for a moment, as network drivers and hypervisors do:
//! only where requests have been coming so soon, and on processors that nobody else wants.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::outbox;

#[derive(Debug)]
pub(crate) struct BusyPoll {
    /// So long after an answer.
    window: u64,
    started: Instant,
    /// When the last answer went out, in nanoseconds since the start.
    answered: AtomicU64,
    /// Requests in a row that came too late.
    missed: AtomicU32,
    /// Somebody else wanted a processor: until then there is no looking.
    crowded: AtomicU64,
    asleep: AtomicUsize,
    wake: Notify,
}

/// Who gives its processor away and has it back only after this has met somebody who computes.
const CROWDED: Duration = Duration::from_millis(1);
const CROWDED_FOR: Duration = Duration::from_secs(1);

impl BusyPoll {
    /// Requests that come too late are taken for the rule after so many, but for a look now and then.
    const SEVERAL: u32 = 8;
    const LOOK: u32 = 64;

    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window: nanos(window),
            started: Instant::now(),
            answered: AtomicU64::new(0),
            missed: AtomicU32::new(0),
            crowded: AtomicU64::new(0),
            asleep: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// A request has come.
    pub(crate) fn asked(&self) {
        self.asked_at(self.now());
    }

    fn asked_at(&self, now: u64) {
        let after = now.saturating_sub(self.answered.load(Ordering::Relaxed));
        let missed = self.missed.load(Ordering::Relaxed);
        if after < self.window {
            if missed > 0 {
                self.missed.store(0, Ordering::Relaxed);
            }
        } else {
            self.missed.store(missed.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// An answer goes out.
    pub(crate) fn answered(&self) {
        let now = self.now();
        self.answered.store(now, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) > 0 && self.is_worth_it(now) {
            self.wake.notify_waiters();
        }
    }

    /// Looks for as long as the node runs. There is one of these for each thread of the data plane.
    pub(crate) async fn look(&self) {
        loop {
            let woken = self.wake.notified();
            self.asleep.fetch_add(1, Ordering::Relaxed);
            woken.await;
            self.asleep.fetch_sub(1, Ordering::Relaxed);
            let mut before = None;
            loop {
                let now = self.now();
                if !self.is_worth_it(now) {
                    break;
                }
                outbox::send();
                let answered = self.answered.load(Ordering::Relaxed);
                if before.replace(answered) == Some(answered) {
                    // Nothing has happened since: whoever wants this processor may have it.
                    thread::yield_now();
                    self.had_way(now, self.now());
                }
                // It goes on once the runtime has looked at what arrived.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Others could have had this processor meanwhile.
    fn had_way(&self, before: u64, after: u64) {
        if after.saturating_sub(before) >= nanos(CROWDED) {
            let until = after.saturating_add(nanos(CROWDED_FOR));
            self.crowded.store(until, Ordering::Relaxed);
        }
    }

    fn is_worth_it(&self, now: u64) -> bool {
        let missed = self.missed.load(Ordering::Relaxed);
        (missed < Self::SEVERAL || missed.is_multiple_of(Self::LOOK))
            && now.saturating_sub(self.answered.load(Ordering::Relaxed)) < self.window
            && now >= self.crowded.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future as _,
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    const WINDOW: u64 = 100_000;

    fn poll(answered: u64) -> BusyPoll {
        let poll = BusyPoll::new(Duration::from_nanos(WINDOW));
        poll.answered.store(answered, Ordering::Relaxed);
        poll
    }

    #[test]
    fn it_looks_where_requests_come_soon_and_not_where_they_do_not() {
        let poll = poll(7);
        assert!(poll.is_worth_it(7) && poll.is_worth_it(6 + WINDOW));
        assert!(!poll.is_worth_it(7 + WINDOW));

        for _ in 1..BusyPoll::SEVERAL {
            poll.asked_at(7 + WINDOW);
            assert!(poll.is_worth_it(7));
        }
        for _ in BusyPoll::SEVERAL..BusyPoll::LOOK {
            poll.asked_at(7 + WINDOW);
            assert!(!poll.is_worth_it(7));
        }
        poll.asked_at(7 + WINDOW);
        assert!(poll.is_worth_it(7), "a look now and then");
        poll.asked_at(7 + WINDOW);
        assert!(!poll.is_worth_it(7));
        poll.asked_at(6 + WINDOW);
        assert!(poll.is_worth_it(7), "somebody came soon");
    }

    #[test]
    fn it_does_not_look_on_a_processor_that_others_want() {
        let poll = poll(0);
        let crowded = nanos(CROWDED);
        poll.had_way(10, 9 + crowded);
        assert!(poll.is_worth_it(11));
        poll.had_way(10, 10 + crowded);
        assert!(!poll.is_worth_it(11));
        let later = 10 + crowded + nanos(CROWDED_FOR);
        poll.answered.store(later, Ordering::Relaxed);
        assert!(!poll.is_worth_it(later - 1));
        assert!(poll.is_worth_it(later));
    }

    #[test]
    fn it_is_awake_from_an_answer_on_until_it_is_not_worth_it() {
        let poll = BusyPoll::new(Duration::from_secs(3600));
        let mut look = pin!(poll.look());
        let mut context = Context::from_waker(Waker::noop());
        let mut asleep = || {
            assert!(look.as_mut().poll(&mut context).is_pending());
            poll.asleep.load(Ordering::Relaxed)
        };
        assert_eq!(asleep(), 1);
        assert_eq!(asleep(), 1, "there was no answer");
        poll.answered();
        assert_eq!(asleep(), 0);
        poll.missed.store(BusyPoll::SEVERAL, Ordering::Relaxed);
        assert_eq!(asleep(), 1);
        poll.answered();
        assert_eq!(asleep(), 1, "it was not worth it lately");
    }
}
