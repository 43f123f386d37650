//! Threads that load and run models, behind those that serve.
//!
//! They get a processor when nobody else wants it, and give it back at once (`SCHED_IDLE`): a nice value
//! makes their share small, but one that runs goes on for milliseconds when a request wakes its thread.
//! Alone that would starve them beside a flood of requests. So they are owed a part of each processor, and
//! who serves leaves it to them: [`percent_owed`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs have the same right as requests: they are what other requests wait for.
const OF_RUNS: u32 = 50;
/// For a load, which takes seconds, traffic is not to be held up.
const OF_LOADS: u32 = 10;

static STAND_BACK: AtomicBool = AtomicBool::new(false);
static RUNS: AtomicUsize = AtomicUsize::new(0);
static LOADS: AtomicUsize = AtomicUsize::new(0);

/// Threads of models have something to do as long as this is there.
pub(crate) struct AtWork(&'static AtomicUsize);

/// How much of a processor's time threads that serve are to leave to those of models, in percent; none
/// where these have nothing to do or share alike.
#[must_use]
pub fn percent_owed() -> Option<u32> {
    let some = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
    let owed = match (some(&RUNS), some(&LOADS)) {
        (true, _) => OF_RUNS,
        (_, true) => OF_LOADS,
        _ => return None,
    };
    STAND_BACK.load(Ordering::Relaxed).then_some(owed)
}

pub(crate) fn running() -> AtWork {
    AtWork::on(&RUNS)
}

pub(crate) fn loading() -> AtWork {
    AtWork::on(&LOADS)
}

/// From here on this thread, and those that it starts, get a processor when nobody else wants it.
pub(crate) fn stand_back() {
    match set_idle() {
        Ok(()) => STAND_BACK.store(true, Ordering::Relaxed),
        Err(error) => {
            tracing::warn!(%error, "the threads of models cannot stand back behind those of requests");
        }
    }
}

/// By the system call: musl has no function that does it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the system reads a number of ours")]
fn set_idle() -> std::io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    let priority: libc::c_int = 0;
    // SAFETY: the system takes the priority as a `sched_param`, which is one number, and keeps nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            THIS_THREAD,
            libc::SCHED_IDLE,
            &raw const priority,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn set_idle() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl AtWork {
    fn on(count: &'static AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only test of this crate's library whose threads stand back.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_owed_depends_on_what_there_is_to_do() {
        let run = running();
        assert_eq!(percent_owed(), None, "they share alike");
        std::thread::spawn(stand_back).join().unwrap();
        assert_eq!(percent_owed(), Some(OF_RUNS));
        drop(run);
    }
}
