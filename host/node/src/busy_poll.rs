//! Looking for what arrives, for a moment after an answer, instead of sleeping until it does.
//!
//! A thread that waits for its connections lets its processor sleep too. Until both are awake again
//! takes as long as a short request, on a virtual machine longer; a client that asks again at once is
//! back before that. So the threads may go on looking for a moment, as network drivers and hypervisors do.
//!
//! Whether that is faster is the machine's and the clients' affair: a client on the same machine may want
//! the processor that looks, or the core that it shares. So it is tried, now and then for some requests
//! with looking and for as many without, and done while requests come sooner with it.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, PoisonError},
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
    /// Somebody else wanted a processor: until then there is no looking.
    crowded: AtomicU64,
    asleep: AtomicUsize,
    wake: Notify,
    /// When the last request came.
    asked: AtomicU64,
    /// Requests of this period, and how far apart they came in all.
    requests: AtomicU32,
    apart: AtomicU64,
    trial: Mutex<Trial>,
    /// Whether there is looking in this period.
    looks: AtomicBool,
}

/// Who gives its processor away and has it back only after this has met somebody who computes.
const CROWDED: Duration = Duration::from_millis(1);
const CROWDED_FOR: Duration = Duration::from_secs(1);

/// Requests of a period.
const PERIOD: u32 = 256;
/// Whoever asks so long after the last request is waited for in vain.
const APART_MAX: Duration = Duration::from_millis(1);

/// Which periods have looking. Of sixteen the first has none and the second has, to compare them; the
/// others are as was better lately.
#[derive(Debug, Default)]
struct Trial {
    period: u32,
    /// How far apart the requests of the period without looking came in all.
    without: u64,
    /// Above zero where looking was better more often.
    score: i8,
}

impl Trial {
    const PERIODS: u32 = 16;
    const SCORE_MAX: i8 = 2;

    /// At the end of a period whose requests came so far apart: whether there is looking in the next.
    fn next(&mut self, apart: u64) -> bool {
        match self.period {
            0 => self.without = apart,
            1 => {
                // By a twentieth at least: it has a price.
                let better = apart < self.without / 20 * 19;
                let step = if better { 1 } else { -1 };
                self.score = (self.score + step).clamp(-Self::SCORE_MAX, Self::SCORE_MAX);
            }
            _ => {}
        }
        self.period = (self.period + 1) % Self::PERIODS;
        match self.period {
            0 => false,
            1 => true,
            _ => self.score > 0,
        }
    }
}

impl BusyPoll {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window: nanos(window),
            started: Instant::now(),
            answered: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            asleep: AtomicUsize::new(0),
            wake: Notify::new(),
            asked: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            apart: AtomicU64::new(0),
            trial: Mutex::default(),
            looks: AtomicBool::new(false),
        }
    }

    /// A request has come.
    pub(crate) fn asked(&self) {
        self.asked_at(self.now());
    }

    fn asked_at(&self, now: u64) {
        let before = self.asked.swap(now, Ordering::Relaxed);
        let apart = now.saturating_sub(before).min(nanos(APART_MAX));
        self.apart.fetch_add(apart, Ordering::Relaxed);
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 == PERIOD {
            self.requests.store(0, Ordering::Relaxed);
            let apart = self.apart.swap(0, Ordering::Relaxed);
            let mut trial = self.trial.lock().unwrap_or_else(PoisonError::into_inner);
            self.looks.store(trial.next(apart), Ordering::Relaxed);
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

    /// Looks for as long as the node runs. There is one of these for each thread: a thread that does
    /// not look sleeps with the system's queue of events in its hands, and the others look at nothing.
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
        self.looks.load(Ordering::Relaxed)
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
        poll.looks.store(true, Ordering::Relaxed);
        poll
    }

    /// Which of so many rounds of periods look, where requests come so far apart with looking and without.
    fn rounds(poll: &BusyPoll, now: &mut u64, with: u64, without: u64, count: usize) -> Vec<bool> {
        let looks = || poll.looks.load(Ordering::Relaxed);
        let round = |_| {
            let mut looked = 0;
            for _ in 0..Trial::PERIODS {
                looked += u32::from(looks());
                for _ in 0..PERIOD {
                    *now += if looks() { with } else { without };
                    poll.asked_at(*now);
                }
            }
            // But for the two that are compared.
            assert!([1, Trial::PERIODS - 1].contains(&looked), "{looked}");
            looked > 1
        };
        (0..count).map(round).collect()
    }

    #[test]
    fn it_looks_where_requests_come_sooner_with_it() {
        let poll = BusyPoll::new(Duration::from_nanos(WINDOW));
        let mut now = 0;
        let mut looks = |with, without| rounds(&poll, &mut now, with, without, 3);
        assert_eq!(looks(64_000, 100_000), [true; 3]);
        assert_eq!(looks(100_000, 100_000), [true, false, false]);
        assert_eq!(looks(96_000, 100_000), [false; 3], "too little");
        assert_eq!(looks(94_000, 100_000), [false, false, true]);
        // Nobody comes within the window, with looking or without.
        assert_eq!(looks(2_000_000, 5_000_000), [false; 3]);
    }

    #[test]
    fn it_looks_for_a_moment_after_an_answer() {
        let poll = poll(7);
        assert!(poll.is_worth_it(7) && poll.is_worth_it(6 + WINDOW));
        assert!(!poll.is_worth_it(7 + WINDOW));
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
        poll.looks.store(true, Ordering::Relaxed);
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
        poll.looks.store(false, Ordering::Relaxed);
        assert_eq!(asleep(), 1);
        poll.answered();
        assert_eq!(asleep(), 1, "it was not worth it lately");
    }
}
