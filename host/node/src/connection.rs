//! What one connection owes its client and may hold meanwhile: requests that are being answered, and
//! answers that the client has not taken yet.
//!
//! A client that never asks, never reads or never leaves costs memory and a place. [`overstayed`]
//! ends when it has done so for too long, whatever version of HTTP it speaks.
//!
//! [`overstayed`]: Connection::overstayed

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dunlin_sandbox::{Alarm, Late};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

/// A client has so long to ask for the first time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// And so long from one request to the next.
const IDLE: Duration = Duration::from_secs(120);
/// An idle connection of a node that drains has so long to be closed by its client.
const DRAIN: Duration = Duration::from_secs(1);
/// A client takes an answer within this, and at this rate.
const TAKE: Duration = Duration::from_secs(30);
const TAKE_BYTES_PER_SECOND: u64 = 16 << 10;

/// Smaller answers are not watched: they are copied into buffers that have bounds.
pub(crate) const WATCHED_BYTES: usize = 1 << 10;

const NO_NEWS: u32 = u32::MAX;

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// Requests whose answer is not made yet.
    answering: AtomicUsize,
    /// The processor on which its packets come in, as far as it is news; [`NO_NEWS`] otherwise.
    comes_in_on: AtomicU32,
    state: Mutex<State>,
    /// For the deadline of a request. Requests at once, of HTTP/2, have one each; the last is kept.
    alarm: Mutex<Option<Alarm>>,
}

#[derive(Debug)]
struct State {
    asked: bool,
    last_active: Instant,
    /// By when each answer that is still here is to be taken.
    owed: Vec<(u64, Instant)>,
    next: u64,
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Connection>);

/// What a request takes of the node, given back when its answer has gone.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Vec<OwnedSemaphorePermit>>);

/// An answer on its way: the bytes, and what goes with them.
struct Owed {
    bytes: Bytes,
    number: u64,
    connection: Arc<Connection>,
    _held: Arc<Held>,
}

impl Held {
    pub(crate) fn keep(&self, permit: OwnedSemaphorePermit) {
        let mut permits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        permits.push(permit);
    }

    /// Takes over what another holds.
    pub(crate) fn absorb(&self, other: &Self) {
        let mut others = other.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = std::mem::take(&mut *others);
        let mut permits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        permits.extend(others);
    }
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            peer,
            answering: AtomicUsize::new(0),
            comes_in_on: AtomicU32::new(NO_NEWS),
            state: Mutex::new(State {
                asked: false,
                last_active: Instant::now(),
                owed: Vec::new(),
                next: 0,
            }),
            alarm: Mutex::default(),
        })
    }

    /// What comes of `work`, if it comes by `at`.
    pub(crate) async fn by<T>(
        &self,
        at: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let alarm = self.alarm().take();
        let mut alarm = alarm.unwrap_or_default();
        let outcome = alarm.by(at, work).await;
        *self.alarm() = Some(alarm);
        outcome
    }

    fn alarm(&self) -> MutexGuard<'_, Option<Alarm>> {
        // As in `state`.
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its packets come in on this processor.
    pub(crate) fn comes_in_on(&self, cpu: u32) {
        self.comes_in_on.store(cpu, Ordering::Relaxed);
    }

    /// Where its packets come in, once each time that this was looked at; never while a request is
    /// being answered.
    pub(crate) fn news_of_cpu(&self) -> Option<u32> {
        if self.comes_in_on.load(Ordering::Relaxed) == NO_NEWS
            || self.answering.load(Ordering::Relaxed) > 0
        {
            return None;
        }
        Some(self.comes_in_on.swap(NO_NEWS, Ordering::Relaxed))
    }

    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        self.state().asked = true;
        Answering(Arc::clone(self))
    }

    /// The body of an answer, with what its request holds: that is given back when the client has
    /// taken the answer, or is gone.
    pub(crate) fn owe(self: &Arc<Self>, bytes: Bytes, held: Arc<Held>) -> Bytes {
        if bytes.len() < WATCHED_BYTES {
            return bytes;
        }
        let seconds = bytes.len() as u64 / TAKE_BYTES_PER_SECOND;
        let number = {
            let mut state = self.state();
            let number = state.next;
            state.next += 1;
            let end = Instant::now() + TAKE + Duration::from_secs(seconds);
            state.owed.push((number, end));
            number
        };
        Bytes::from_owner(Owed {
            bytes,
            number,
            connection: Arc::clone(self),
            _held: held,
        })
    }

    /// Waits until the client has had its time, and says for what.
    pub(crate) async fn overstayed(&self, draining: watch::Receiver<bool>) -> &'static str {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(reason) = self.look(Instant::now(), *draining.borrow()) {
                return reason;
            }
        }
    }

    fn look(&self, now: Instant, draining: bool) -> Option<&'static str> {
        let state = self.state();
        if state.owed.iter().any(|(_, end)| now >= *end) {
            return Some("it does not take its answer");
        }
        if self.answering.load(Ordering::Relaxed) > 0 || !state.owed.is_empty() {
            return None;
        }
        let idle = now.duration_since(state.last_active);
        if draining && idle >= DRAIN {
            return Some("the node is shutting down");
        }
        if !state.asked {
            return (idle >= FIRST_REQUEST).then_some("it does not ask");
        }
        (idle >= IDLE).then_some("it has not asked for long")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Under the lock are only moves of plain values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.state().last_active = Instant::now();
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Owed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.owed.retain(|(number, _)| *number != self.number);
        state.last_active = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_client_has_its_time_and_no_more() {
        let connection = Connection::new(([127, 0, 0, 1], 1).into());
        let later = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(connection.look(later(9), false), None);
        assert_eq!(connection.look(later(11), false), Some("it does not ask"));

        let answering = connection.answering();
        assert_eq!(connection.look(later(1000), true), None, "it waits for us");
        drop(answering);
        assert_eq!(connection.look(later(100), false), None);
        assert_eq!(
            connection.look(later(121), false),
            Some("it has not asked for long")
        );
        assert_eq!(
            connection.look(later(2), true),
            Some("the node is shutting down")
        );

        // A second more for each 16 KiB.
        let body = connection.owe(vec![0; 10 * (16 << 10)].into(), Arc::default());
        assert_eq!(connection.look(later(39), true), None);
        assert_eq!(
            connection.look(later(41), false),
            Some("it does not take its answer")
        );
        drop(body);
        assert_eq!(connection.look(later(41), false), None);
    }

    #[test]
    fn what_a_request_holds_goes_with_its_answer() {
        let places = Arc::new(Semaphore::new(2));
        let connection = Connection::new(([127, 0, 0, 1], 1).into());
        let answer = |bytes: usize| {
            let held = Arc::new(Held::default());
            held.keep(Arc::clone(&places).try_acquire_owned().unwrap());
            connection.owe(vec![0; bytes].into(), held)
        };
        let (large, small) = (answer(1 << 10), answer(100));
        assert_eq!(
            places.available_permits(),
            1,
            "a small one is as good as gone"
        );
        let part = large.slice(5..6);
        drop((large, small));
        assert_eq!(places.available_permits(), 1);
        drop(part);
        assert_eq!(places.available_permits(), 2);
    }
}
