//! A call of a model: whose it is, how it waits for a run, and how it is told of the end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::abort::{Seat, SharedRun};
use crate::batching::{Call, Queue, Run};
use crate::stats::Times;
use crate::{InferenceError, NamedTensors, RunObserver, Stats, Tensor};

/// Whose call it is: it counts for a deployment, which has a weight where deployments share the
/// engine.
pub(crate) struct Caller {
    pub(crate) called: Instant,
    pub(crate) stats: Arc<Stats>,
    pub(crate) weight: NonZeroU32,
    pub(crate) observer: Option<Arc<dyn RunObserver>>,
}

impl Caller {
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

/// A call that waits for a run.
pub(super) struct Job {
    pub(super) asked: Asked,
    /// By then it has a run, or is refused.
    expires: Option<Instant>,
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
        (Arc::as_ptr(&caller.stats).addr(), caller.weight)
    }

    fn is_over(&self) -> bool {
        let in_time = |expires| Instant::now() < expires;
        self.outcome.is_closed() || !self.expires.is_none_or(in_time)
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
        let error = InferenceError::QueueTimeout { waited };
        // The caller may have gone meanwhile; then nobody wants the answer.
        let _ = self.outcome.send(Outcome::Answer(Err(error)));
    }
}

impl Job {
    /// `expires` is by when it must have a run.
    pub(super) fn new(
        asked: Asked,
        expires: Option<Instant>,
    ) -> (Self, oneshot::Receiver<Outcome>) {
        let (outcome, waits) = oneshot::channel();
        let job = Self {
            asked,
            expires,
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
