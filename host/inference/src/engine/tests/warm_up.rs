//! Runs that nobody asked for.

use super::*;
use crate::registry::warm_up;

/// Rehearsals beside calls would delay them: also where none waits, but one runs.
#[tokio::test]
async fn a_warm_up_gives_way_to_calls() {
    let ran = Arc::default();
    let (open, gate) = std_mpsc::channel();
    let model = start(
        Echo {
            gate: Some(Mutex::new(gate)),
            ..echo(&ran)
        },
        2,
    );
    let warm_up = || warm_up(&model.engine, &ModelOptions::default(), [2, 4]);
    let mut first = Box::pin(model.infer(call(1)));
    assert!(still_waits(&mut first).await);
    until_begun(&ran);
    warm_up();
    assert_eq!(begun(&ran), [1]);

    // The call, and three runs of each size.
    for _ in 0..7 {
        open.send(()).unwrap();
    }
    first.await.unwrap();
    until_idle(&model);
    warm_up();
    assert_eq!(begun(&ran), [1, 0, 0, 0, 0, 0, 0]);
}

/// A call would wait for a long run of many rows that nobody asked for.
#[test]
fn only_short_runs_are_rehearsed_with_more_rows() {
    let ran = Arc::default();
    let long = Echo {
        takes: INLINE_MAX,
        ..echo(&ran)
    };
    warm_up(&start(long, 2).engine, &ModelOptions::default(), [2, 4]);
    assert_eq!(begun(&ran), [0, 0, 0], "two rows only");
}

/// A worker has its answer out before it is free.
fn until_idle(model: &Model) {
    while model.engine.is_busy() {
        thread::yield_now();
    }
}
