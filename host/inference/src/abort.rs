//! Giving up a run that goes on.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How the engine of a run is told to stop.
pub type Stop = Box<dyn Fn() + Send + Sync>;

/// One run, for the engine that does it and for whoever may not want it any more.
#[derive(Default)]
pub struct Abort(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Wanted,
    Running(Stop),
    Aborted,
}

/// As long as it is there, the run can be stopped.
#[must_use]
#[derive(Debug)]
pub struct Stoppable<'a>(&'a Abort);

impl Abort {
    /// The engine can be stopped from now on; at once, where the run is not wanted already.
    pub fn stoppable(&self, stop: Stop) -> Stoppable<'_> {
        let mut state = self.state();
        match *state {
            State::Aborted => stop(),
            State::Wanted | State::Running(_) => *state = State::Running(stop),
        }
        Stoppable(self)
    }

    pub fn abort(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Aborted);
        if let State::Running(stop) = before {
            stop();
        }
    }

    pub fn is_aborted(&self) -> bool {
        matches!(*self.state(), State::Aborted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stoppable<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let State::Running(_) = *state {
            *state = State::Wanted;
        }
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aborted = self.is_aborted();
        f.debug_struct("Abort").field("aborted", &aborted).finish()
    }
}

/// A run for several callers: it is aborted when the last of them has gone.
#[derive(Debug)]
pub(crate) struct SharedRun {
    pub(crate) abort: Abort,
    callers: AtomicUsize,
}

/// A call's place in a run, from both sides: whoever asked leaves it, whoever runs it fills it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seat(Arc<Mutex<Option<Arc<SharedRun>>>>);

impl SharedRun {
    /// For so many calls. Who has no seat does not leave.
    pub(crate) fn of<'s>(seats: impl ExactSizeIterator<Item = Option<&'s Seat>>) -> Arc<Self> {
        let run = Arc::new(Self {
            abort: Abort::default(),
            callers: AtomicUsize::new(seats.len()),
        });
        for seat in seats.flatten() {
            *seat.run() = Some(Arc::clone(&run));
        }
        run
    }
}

impl Seat {
    /// The caller has gone. To leave a second time is nothing.
    pub(crate) fn leave(&self) {
        let run = self.run().take();
        if let Some(run) = run
            && run.callers.fetch_sub(1, Ordering::Relaxed) == 1
        {
            run.abort.abort();
        }
    }

    fn run(&self) -> MutexGuard<'_, Option<Arc<SharedRun>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> (Arc<AtomicUsize>, Stop) {
        let stopped = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&stopped);
        let stop = Box::new(move || {
            counts.fetch_add(1, Ordering::Relaxed);
        });
        (stopped, stop)
    }

    #[test]
    fn a_run_is_stopped_while_it_goes_on_and_not_after_it() {
        let (stopped, stop) = counted();
        let abort = Abort::default();
        drop(abort.stoppable(stop));
        abort.abort();
        assert_eq!(stopped.load(Ordering::Relaxed), 0);
        let (stopped, stop) = counted();
        let _late = abort.stoppable(stop);
        assert_eq!(stopped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_last_caller_to_leave_aborts_the_run() {
        let seats = [Seat::default(), Seat::default()];
        let run = SharedRun::of(seats.iter().map(Some));
        let (stopped, stop) = counted();
        let _running = run.abort.stoppable(stop);
        seats[0].leave();
        seats[0].leave();
        assert!(!run.abort.is_aborted());
        seats[1].leave();
        assert!(run.abort.is_aborted());
        assert_eq!(stopped.load(Ordering::Relaxed), 1);
    }
}
