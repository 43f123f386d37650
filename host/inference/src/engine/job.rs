//! A call of a model: whose it is, how it waits for a run, and how it is told of the end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::abort::{Seat, SharedRun};
use crate::batching::{Call, Queue, Run};
use crate::stats::Times;
use crate::{InferenceError, NamedTensors, RunObserver, Stats, Tensor};

/// Whose call it is: it counts for a deployment, which has a weight where deployments share the
/// engine.
pub(crate) struct Caller {
    pub(crate) called: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) weight: NonZeroU32,
    pub(crate) observer: Option<Arc<dyn RunObserver>>,
}

impl Caller {
    /// Who it counts for.
    pub(super) fn owner(&self) -> usize {
        Arc::as_ptr(&self.stats).addr()
    }

    pub(super) fn succeeded(&self, rows: u64, times: Times) {
        self.stats.succeeded(rows, times);
        if let Some(observer) = &self.observer {
            observer.ran(self.called, &times);
        }
    }

    pub(super) fn failed(&self) {
        self.stats.failed(self.called.elapsed());
    }
}

/// One call of the model.
pub(super) struct Asked {
    pub(super) inputs: Vec<Tensor>,
    pub(super) caller: Caller,
}

/// By when a call that waits has a run, or is refused.
#[derive(Clone, Copy)]
pub(super) enum Expiry {
    Never,
    /// The model lets no call wait longer.
    Timeout(Instant),
    /// A run that begins later ends after the caller's deadline.
    Deadline(Instant),
}

impl Expiry {
    /// Of a call whose run takes as long as `run`, where that is not short.
    pub(super) fn of(caller: &Caller, timeout: Option<Duration>, run: Option<Duration>) -> Self {
        let timeout = timeout.map(|timeout| caller.called + timeout);
        // One that has no time for a run at all is tried: an estimate is none of the next run.
        let last = caller.deadline.zip(run).map(|(deadline, run)| {
            let last = deadline.checked_sub(run);
            last.filter(|last| *last > caller.called)
                .unwrap_or(deadline)
        });
        match (timeout, last) {
            (Some(timeout), Some(last)) if last < timeout => Self::Deadline(last),
            (Some(timeout), _) => Self::Timeout(timeout),
            (None, Some(last)) => Self::Deadline(last),
            (None, None) => Self::Never,
        }
    }

    fn has_passed(self) -> bool {
        match self {
            Self::Never => false,
            Self::Timeout(at) | Self::Deadline(at) => Instant::now() >= at,
        }
    }
}

/// A call that waits for a run.
pub(super) struct Job {
    pub(super) asked: Asked,
    expiry: Expiry,
    can_lead: bool,
    /// Where the run is long enough to be given up.
    seat: Option<Seat>,
    outcome: oneshot::Sender<Outcome>,
}

/// How a call's wait ends.
pub(super) enum Outcome {
    Answer(Result<NamedTensors, InferenceError>),
    /// The caller is to do this run, its own call first.
    Lead(Asked, Run<Job>),
}

impl Call for Job {
    fn inputs(&self) -> &[Tensor] {
        &self.asked.inputs
    }

    fn called(&self) -> Instant {
        self.asked.caller.called
    }

    fn owner(&self) -> (usize, NonZeroU32) {
        let caller = &self.asked.caller;
        (caller.owner(), caller.weight)
    }

    fn is_over(&self) -> bool {
        self.outcome.is_closed() || self.expiry.has_passed()
    }

    fn can_lead(&self) -> bool {
        self.can_lead
    }

    fn lead(self, run: Run<Job>) {
        if let Err(Outcome::Lead(asked, _run)) = self.outcome.send(Outcome::Lead(self.asked, run)) {
            asked.caller.stats.cancelled();
        }
    }

    fn give_up(self) {
        let caller = self.asked.caller;
        if self.outcome.is_closed() {
            caller.stats.cancelled();
            return;
        }
        let waited = caller.called.elapsed();
        caller.stats.failed(waited);
        let error = match self.expiry {
            Expiry::Deadline(_) => InferenceError::TooLate,
            _ => InferenceError::QueueTimeout { waited },
        };
        // The caller may have gone meanwhile; then nobody wants the answer.
        let _ = self.outcome.send(Outcome::Answer(Err(error)));
    }
}

impl Job {
    pub(super) fn new(asked: Asked, expiry: Expiry) -> (Self, oneshot::Receiver<Outcome>) {
        let (outcome, waits) = oneshot::channel();
        let job = Self {
            asked,
            expiry,
            can_lead: false,
            seat: None,
            outcome,
        };
        (job, waits)
    }

    /// The caller may be told to do the run for itself and others.
    pub(super) fn leading(self, can_lead: bool) -> Self {
        Self { can_lead, ..self }
    }

    /// Its run is long enough to be given up once the caller has left the seat.
    pub(super) fn seated(self, seat: Option<Seat>) -> Self {
        Self { seat, ..self }
    }

    pub(super) fn answer_with(
        self,
        run: impl FnOnce(Asked) -> Result<NamedTensors, InferenceError>,
    ) {
        let _ = self.outcome.send(Outcome::Answer(run(self.asked)));
    }

    pub(super) fn answer(self, answer: Result<NamedTensors, InferenceError>) {
        // The caller may have gone meanwhile; then nobody wants the answer.
        let _ = self.outcome.send(Outcome::Answer(answer));
    }
}

/// The run of these calls, which ends early if nobody waits for any of them. None where none of them
/// would be worth that.
pub(super) fn shared_run(jobs: &[Job]) -> Option<Arc<SharedRun>> {
    let seats = || jobs.iter().map(|job| job.seat.as_ref());
    seats().flatten().next()?;
    let run = SharedRun::of(seats());
    // Who left before the seat was filled could not say so.
    let gone = jobs.iter().filter(|job| job.outcome.is_closed());
    for seat in gone.filter_map(|job| job.seat.as_ref()) {
        seat.leave();
    }
    Some(run)
}

/// A caller who waits in the queue.
pub(super) struct Waiting<'e> {
    queue: &'e Queue<Job>,
    stats: &'e Stats,
    seat: Option<Seat>,
    outcome: oneshot::Receiver<Outcome>,
}

impl<'e> Waiting<'e> {
    pub(super) async fn until_outcome(
        queue: &'e Queue<Job>,
        stats: &'e Stats,
        seat: Option<Seat>,
        outcome: oneshot::Receiver<Outcome>,
    ) -> Result<Outcome, InferenceError> {
        let mut waiting = Self {
            queue,
            stats,
            seat,
            outcome,
        };
        let outcome = (&mut waiting.outcome).await;
        outcome.map_err(|_| InferenceError::runtime("the model's worker has ended"))
    }
}

impl Drop for Waiting<'_> {
    /// Given up before the answer, the call does not keep its inputs in the queue, nor a run that
    /// was for nobody else.
    fn drop(&mut self) {
        if self.outcome.is_terminated() {
            return;
        }
        self.outcome.close();
        if let Some(seat) = &self.seat {
            seat.leave();
        }
        // A run that was just given to it goes on to the next.
        if let Ok(Outcome::Lead(..)) = self.outcome.try_recv() {
            self.stats.cancelled();
        }
        self.queue.drop_over();
    }
}
