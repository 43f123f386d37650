//! Small answers that go out together.
//!
//! A system call for each answer wakes a client each time, and where client and node share processors
//! the client then takes this one: two switches of threads an answer. Here small writes wait in their
//! thread's outbox until the thread has nothing else at hand, and go out in one call of io_uring.
//!
//! A write waits for other answers only: not on a thread where something has computed for long a moment
//! ago, and not where the system has no io_uring for us. What waits when something begins to compute goes
//! out when that gives its thread back. So whatever computes on a thread of the node is to do it within a
//! [`Prompt`](crate::prompt::Prompt), which says so to its thread's outbox.

use std::{
    cell::RefCell,
    io,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use io_uring::{IoUring, Probe, opcode, types};

use crate::gathered::{Shared, Writer};

/// So many go out without waiting for more.
const TOGETHER: u32 = 32;
/// A write waits no longer while its thread has other things to do, each of which is short,
const HOLD: Duration = Duration::from_micros(200);
/// and not at all on a thread where something took so long a moment ago: a guest that computes takes as
/// long again and again.
const LONG: Duration = Duration::from_millis(1);
const MOMENT: Duration = Duration::from_millis(10);

/// What waits in a thread.
#[derive(Default)]
struct Outbox {
    ring: Ring,
    queued: Vec<Arc<Shared>>,
    /// When the first of them came.
    since: Option<Instant>,
    directly_until: Option<Instant>,
}

#[derive(Default)]
enum Ring {
    /// The thread has not shown yet that it tells when it parks.
    #[default]
    Untried,
    Open(Box<IoUring>),
    None,
}

thread_local! {
    static OUTBOX: RefCell<Outbox> = RefCell::default();
}

/// Every thread of the data plane calls this before it parks: it sends what waits in the thread's outbox.
/// On a thread that has not, no write waits.
pub(crate) fn before_park() {
    OUTBOX.with_borrow_mut(|outbox| {
        if let Ring::Untried = outbox.ring {
            outbox.ring = Ring::open();
        }
        outbox.send();
    });
}

/// Sends what waits in this thread's outbox.
pub(crate) fn send() {
    OUTBOX.with_borrow_mut(Outbox::send);
}

/// Leaves a writer that has something to send here. False where it has to send that itself.
pub(crate) fn leave(writer: &Arc<Shared>) -> bool {
    OUTBOX.with_borrow_mut(|outbox| {
        let gathers = outbox.gathers();
        if gathers {
            outbox.since.get_or_insert_with(Instant::now);
            outbox.queued.push(Arc::clone(writer));
        }
        gathers
    })
}

/// A task has given its thread back after so long.
pub(crate) fn polled(took: Duration) {
    OUTBOX.with_borrow_mut(|outbox| {
        let long = took >= LONG;
        if long {
            outbox.directly_until = Some(Instant::now() + MOMENT);
        }
        let enough = outbox.queued.len() >= TOGETHER as usize;
        let held = |since: Instant| since.elapsed() >= HOLD;
        if long || enough || outbox.since.is_some_and(held) {
            outbox.send();
        }
    });
}

impl Outbox {
    fn gathers(&mut self) -> bool {
        if self.directly_until.is_some_and(|end| Instant::now() >= end) {
            self.directly_until = None;
        }
        self.directly_until.is_none() && matches!(self.ring, Ring::Open(_))
    }

    fn send(&mut self) {
        self.since = None;
        match &self.queued[..] {
            [] => {}
            [one] => one.lock().send(),
            several => {
                for some in several.chunks(TOGETHER as usize) {
                    let mut writers: Vec<_> = some.iter().map(|writer| writer.lock()).collect();
                    self.ring.send(&mut writers);
                }
            }
        }
        self.queued.clear();
    }
}

impl Ring {
    fn open() -> Self {
        let opened = IoUring::new(TOGETHER).and_then(|ring| {
            // Linux 5.1 to 5.5 have rings that cannot send.
            let mut probe = Probe::new();
            ring.submitter().register_probe(&mut probe)?;
            match probe.is_supported(opcode::Send::CODE) {
                true => Ok(ring),
                false => Err(io::ErrorKind::Unsupported.into()),
            }
        });
        match opened {
            Ok(ring) => Self::Open(Box::new(ring)),
            Err(error) => {
                tracing::debug!(%error, "answers go out one by one: there is no io_uring");
                Self::None
            }
        }
    }

    /// Sends what the writers have, as far as their connections take it now.
    fn send<W: std::ops::DerefMut<Target = Writer>>(&mut self, writers: &mut [W]) {
        let Self::Open(ring) = self else {
            writers.iter_mut().for_each(|writer| writer.send());
            return;
        };
        // A bit for each.
        let mut under_way = 0_u32;
        for (number, writer) in writers.iter_mut().enumerate() {
            let (fd, unsent) = writer.take_out();
            if unsent.is_empty() {
                continue;
            }
            let length = u32::try_from(unsent.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(types::Fd(fd as RawFd), unsent.as_ptr(), length)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(number as u64);
            #[expect(unsafe_code, reason = "the system reads a buffer of ours")]
            // SAFETY: the writer keeps its connection and these bytes, and it is locked until the
            // completion has come; where none comes, `fail` lets go of the bytes without freeing them.
            let pushed = unsafe { ring.submission().push(&send) };
            match pushed {
                Ok(()) => under_way |= 1 << number,
                // There are never more than the ring has room for; the writer is told to go on alone.
                Err(_full) => writer.sent(Err(io::ErrorKind::WouldBlock.into())),
            }
        }
        while under_way != 0 {
            let waited = ring.submit_and_wait(under_way.count_ones() as usize);
            for done in ring.completion() {
                let result = done.result();
                let sent = usize::try_from(result);
                let sent = sent.map_err(|_negative| io::Error::from_raw_os_error(-result));
                let number = done.user_data();
                under_way &= !(1 << number);
                let writer = usize::try_from(number);
                if let Some(writer) = writer.ok().and_then(|number| writers.get_mut(number)) {
                    writer.sent(sent);
                }
            }
            match waited {
                Err(error) if error.kind() != io::ErrorKind::Interrupted && under_way != 0 => {
                    tracing::warn!(%error, "io_uring failed; answers go out one by one");
                    for (number, writer) in writers.iter_mut().enumerate() {
                        if under_way & 1 << number != 0 {
                            writer.fail(&error);
                        }
                    }
                    *self = Self::None;
                    return;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
