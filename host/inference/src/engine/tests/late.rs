//! Calls that have a deadline, behind others.

use super::*;
use crate::CallOptions;

/// What a run is said to take.
const RUN: Duration = Duration::from_secs(10);

/// A model of one worker, what opens its gate for one run, and its first call, which has begun.
fn start_busy(ran: &Runs) -> (Model, std_mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (open, gate) = std_mpsc::channel();
    let session = Echo {
        gate: Some(Mutex::new(gate)),
        estimate: Some(RUN),
        ..echo(ran)
    };
    let model = start(session, 8);
    let busy = model.clone();
    let first = tokio::spawn(async move { drop(busy.infer(call(1)).await.unwrap()) });
    (model, open, first)
}

fn by(deadline: Instant) -> CallOptions {
    CallOptions {
        deadline: Some(deadline),
        ..CallOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_more_before_it_than_it_has_time_for_is_refused_at_once() {
    let ran = Arc::default();
    let (model, open, first) = start_busy(&ran);
    until_begun(&ran);
    let ask = |value, time| Box::pin(model.infer_with(call(value), by(Instant::now() + time)));
    // Nothing waits: it has to take its chance.
    let mut hasty = ask(2, RUN / 2);
    assert!(still_waits(&mut hasty).await);
    let refused = tokio::time::timeout(RUN / 2, ask(3, RUN + RUN / 2)).await;
    let refused = refused.expect("it does not wait").unwrap_err();
    assert!(matches!(refused, InferenceError::TooLate), "{refused}");
    let mut patient = ask(4, RUN * 100);
    assert!(still_waits(&mut patient).await);

    drop(hasty);
    for _ in 0..2 {
        open.send(()).unwrap();
    }
    first.await.unwrap();
    patient.await.unwrap();
    assert_eq!(begun(&ran), [1, 4]);
    assert_eq!(model.stats().snapshot().fail.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_would_end_after_its_deadline_is_not_run() {
    let ran = Arc::default();
    let (model, open, first) = start_busy(&ran);
    until_begun(&ran);
    let last_begin = Instant::now() + Duration::from_millis(100);
    let mut late = Box::pin(model.infer_with(call(2), by(last_begin + RUN)));
    assert!(still_waits(&mut late).await);
    tokio::time::sleep_until(last_begin.into()).await;
    for _ in 0..2 {
        open.send(()).unwrap();
    }
    first.await.unwrap();
    let refused = late.await.unwrap_err();
    assert!(matches!(refused, InferenceError::TooLate), "{refused}");
    assert_eq!(begun(&ran), [1]);
}
