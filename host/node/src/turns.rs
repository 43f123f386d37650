//! The processors, shared between deployments: where several have work, each gets its share by
//! weight, however many requests another one has.
//!
//! Predictors and short models run on the threads that also read and write the connections. Left to
//! the runtime's queue, a quiet deployment's request would wait behind every request that a flooded
//! one has there. So each time such work is to go on it takes a turn, for as long as it keeps its
//! thread; the processor time is charged to its deployment. A predictor that computes gives its thread back at
//! every epoch, and takes another turn.
//!
//! A turn costs a further poll or two of the request. Where only one deployment has been asked
//! lately there are none to take.

use std::{
    future::Future,
    num::NonZeroU32,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use dunlin_inference::FairQueue;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;

use crate::shards;

/// One deployment's part of the node.
#[derive(Debug)]
pub(crate) struct Share {
    weight: NonZeroU32,
    /// The second in which it last had work.
    last: AtomicU64,
    /// Places for the deployment's requests.
    pub(crate) requests: Arc<Semaphore>,
}

#[derive(Debug)]
pub(crate) struct Turns {
    started: Instant,
    /// More than one share has had work in this second or the one before.
    contended: AtomicBool,
    seconds: Mutex<Seconds>,
    /// Of each thread of the data plane, which gives one turn at a time.
    threads: Box<[Thread]>,
}

/// Two lines of most processors' caches: they are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Thread(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A turn was given and is not over.
    given: bool,
    waiting: FairQueue<usize, Arc<Place>>,
}

/// How many shares had work in a second, and in the one before.
#[derive(Debug, Default)]
struct Seconds {
    second: u64,
    shares: usize,
    before: usize,
}

/// A place in the queue.
#[derive(Debug)]
struct Place(Mutex<Standing>);

#[derive(Debug)]
enum Standing {
    Waits(Waker),
    Turn,
    /// Whoever waited is gone.
    Left,
}

/// A request at work.
struct AtWork<'a> {
    turns: &'a Turns,
    /// Of the thread that it is on: it stays there.
    state: &'a Mutex<State>,
    share: &'a Share,
    place: Option<Arc<Place>>,
}

impl Share {
    pub(crate) fn new(limits: &edge_config::Limits) -> Self {
        Self {
            weight: limits.weight,
            last: AtomicU64::new(0),
            requests: Arc::new(Semaphore::new(limits.requests_in_flight as usize)),
        }
    }

    fn owner(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Turns {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            started: Instant::now(),
            contended: AtomicBool::new(false),
            seconds: Mutex::default(),
            threads: (0..threads.max(1)).map(|_| Thread::default()).collect(),
        }
    }

    /// Does the work in turn with that of other deployments.
    pub(crate) async fn share<F: Future>(&self, share: &Share, mut work: Pin<&mut F>) -> F::Output {
        let second = 1 + self.started.elapsed().as_secs();
        if share.last.load(Ordering::Relaxed) != second
            && share.last.swap(second, Ordering::Relaxed) != second
        {
            self.note(second);
        }
        let mut at_work = AtWork {
            turns: self,
            state: self.of_this_thread(),
            share,
            place: None,
        };
        std::future::poll_fn(|context| at_work.poll(work.as_mut(), context)).await
    }

    fn of_this_thread(&self) -> &Mutex<State> {
        &self.threads[shards::current() % self.threads.len()].0
    }

    /// One more share has work in this second.
    fn note(&self, second: u64) {
        let seconds = self.seconds.lock();
        let mut seconds = seconds.unwrap_or_else(PoisonError::into_inner);
        if seconds.second != second {
            let adjacent = seconds.second + 1 == second;
            seconds.before = if adjacent { seconds.shares } else { 0 };
            seconds.second = second;
            seconds.shares = 0;
        }
        seconds.shares += 1;
        let most = seconds.shares.max(seconds.before);
        self.contended.store(most > 1, Ordering::Relaxed);
    }
}

impl State {
    fn of(state: &Mutex<State>) -> MutexGuard<'_, State> {
        // Under the lock are only moves and counts.
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the turn if it is free. Whoever waits is told through their waker.
    fn give(&mut self) {
        while !self.given {
            let Some(place) = self.waiting.pop() else {
                return;
            };
            let mut standing = place.standing();
            if let Standing::Waits(waker) = std::mem::replace(&mut *standing, Standing::Turn) {
                self.given = true;
                waker.wake();
            }
        }
    }
}

impl Place {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AtWork<'_> {
    fn poll<F: Future>(&mut self, work: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.place.is_none() && !self.turns.contended.load(Ordering::Relaxed) {
            return work.poll(context);
        }
        if !self.has_turn(context) {
            return Poll::Pending;
        }
        let began = thread_time();
        let outcome = work.poll(context);
        self.end_turn(thread_time().saturating_sub(began));
        outcome
    }

    fn has_turn(&mut self, context: &mut Context<'_>) -> bool {
        let Some(place) = &self.place else {
            let waits = Standing::Waits(context.waker().clone());
            let place = Arc::new(Place(Mutex::new(waits)));
            self.place = Some(Arc::clone(&place));
            let mut state = State::of(self.state);
            let (owner, weight) = (self.share.owner(), self.share.weight);
            state.waiting.push(owner, weight, 0, place);
            if !state.given {
                // Not at once: what else has arrived is to take its place before turns are given.
                let later = pin!(tokio::task::yield_now()).poll(context);
                debug_assert!(later.is_pending());
            }
            return false;
        };
        let place = Arc::clone(place);
        if let Standing::Waits(waker) = &mut *place.standing() {
            // It is being polled: to be woken for a turn that it takes here would have it polled
            // again, and again take a turn.
            waker.clone_from(Waker::noop());
        }
        State::of(self.state).give();
        let mut standing = place.standing();
        match &mut *standing {
            Standing::Turn => true,
            Standing::Waits(waker) => {
                waker.clone_from(context.waker());
                false
            }
            Standing::Left => false,
        }
    }

    fn end_turn(&mut self, took: Duration) {
        self.place = None;
        let mut state = State::of(self.state);
        let cost = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (owner, weight) = (self.share.owner(), self.share.weight);
        state.waiting.charge(owner, weight, cost);
        state.given = false;
        state.give();
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let left = std::mem::replace(&mut *place.standing(), Standing::Left);
            if matches!(left, Standing::Turn) {
                self.end_turn(Duration::ZERO);
            }
        }
    }
}

/// Processor time of this thread: of one that lost its core, nothing is charged meanwhile.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::atomic::AtomicU32};

    use super::*;

    fn share(weight: u32) -> Arc<Share> {
        Arc::new(Share {
            weight: NonZeroU32::new(weight).unwrap(),
            last: AtomicU64::new(0),
            requests: Arc::new(Semaphore::new(1)),
        })
    }

    /// Keeps its thread for a while.
    fn compute() {
        let end = thread_time() + Duration::from_micros(200);
        while thread_time() < end {
            std::hint::spin_loop();
        }
    }

    fn flood(turns: &Arc<Turns>, share: &Arc<Share>, done: &Arc<AtomicU32>, count: u32) {
        for _ in 0..count {
            let (turns, share) = (Arc::clone(turns), Arc::clone(share));
            let done = Arc::clone(done);
            tokio::spawn(async move {
                let work = async {
                    compute();
                    done.fetch_add(1, Ordering::Relaxed);
                };
                turns.share(&share, pin!(work)).await;
            });
        }
    }

    #[tokio::test]
    async fn a_quiet_share_does_not_wait_for_a_flood() {
        let turns = Arc::new(Turns::new(1));
        let (loud, quiet) = (share(1), share(1));
        let done = Arc::default();
        // It has asked before.
        turns.share(&quiet, pin!(async {})).await;
        turns.share(&loud, pin!(async {})).await;
        flood(&turns, &loud, &done, 200);
        for _ in 0..5 {
            let before = done.load(Ordering::Relaxed);
            turns.share(&quiet, pin!(async { compute() })).await;
            let meanwhile = done.load(Ordering::Relaxed) - before;
            assert!(meanwhile <= 5, "{meanwhile} of the others went before");
        }
        while done.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn processors_are_shared_by_weight() {
        let turns = Arc::new(Turns::new(1));
        let (one, three) = (share(1), share(3));
        let (of_one, of_three) = (Arc::default(), Arc::default());
        turns.share(&one, pin!(async {})).await;
        turns.share(&three, pin!(async {})).await;
        flood(&turns, &one, &of_one, 400);
        flood(&turns, &three, &of_three, 400);
        while of_three.load(Ordering::Relaxed) < 300 {
            tokio::task::yield_now().await;
        }
        let of_one = of_one.load(Ordering::Relaxed);
        assert!((60..=150).contains(&of_one), "{of_one} beside 300");
    }

    #[tokio::test]
    async fn who_leaves_keeps_no_turn() {
        let turns = Arc::new(Turns::new(1));
        let (one, other) = (share(1), share(1));
        turns.share(&one, pin!(async {})).await;
        turns.share(&other, pin!(async {})).await;
        let [mut first, mut second, mut third] = [(); 3].map(|()| std::future::pending::<()>());
        let mut stays = Box::pin(turns.share(&one, Pin::new(&mut first)));
        let mut leaves = Box::pin(turns.share(&other, Pin::new(&mut second)));
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(stays.as_mut().poll(context).is_pending());
            assert!(leaves.as_mut().poll(context).is_pending());
        }
        // They leave with a turn, or in the queue.
        let mut waits = Box::pin(turns.share(&other, Pin::new(&mut third)));
        assert!(waits.as_mut().poll(context).is_pending());
        drop((leaves, waits, stays));
        assert_eq!(turns.share(&other, pin!(async { 7 })).await, 7);
        assert!(!State::of(turns.of_this_thread()).given);
    }

    /// Counts how often it is told to go on.
    #[derive(Default)]
    struct Told(AtomicU32);

    impl std::task::Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_waits_for_something_else_is_left_alone() {
        let turns = Turns::new(1);
        let (one, other) = (share(1), share(1));
        turns.share(&other, pin!(async {})).await;
        let told = Arc::new(Told::default());
        let waker = Waker::from(Arc::clone(&told));
        let context = &mut Context::from_waker(&waker);
        let forever = pin!(std::future::pending::<()>());
        let mut waits = pin!(turns.share(&one, forever));
        for _ in 0..2 {
            assert!(waits.as_mut().poll(context).is_pending());
            tokio::task::yield_now().await;
            assert_eq!(told.0.load(Ordering::Relaxed), 1, "once, to take a turn");
        }
    }

    #[tokio::test]
    async fn alone_there_are_no_turns_to_take() {
        let turns = Turns::new(1);
        let share = share(1);
        let seven = pin!(async { 7 });
        let mut work = pin!(turns.share(&share, seven));
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(work.as_mut().poll(context), Poll::Ready(7));
    }

    #[test]
    fn who_has_not_asked_lately_does_not_count() {
        let turns = Turns::new(1);
        let contended = |second| {
            turns.note(second);
            turns.contended.load(Ordering::Relaxed)
        };
        assert!(!contended(1));
        assert!(contended(1));
        assert!(contended(2), "two in the second before");
        assert!(!contended(3));
        assert!(!contended(9));
    }
}
