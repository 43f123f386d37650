//! Runs that nobody asked for.

use super::*;
use crate::registry::warm_up;

const SIZES: [u64; 2] = [2, 4];

fn warm_up_with(session: Echo) {
    let model = start(session, 2);
    let _as_far_as_it_went = warm_up(&model.engine, &ModelOptions::default(), SIZES);
}

/// Also where none waits, but one runs.
#[tokio::test]
async fn a_warm_up_gives_way_to_calls() {
    let ran = Arc::default();
    let (model, open) = start_gated(&ran);
    let mut first = Box::pin(model.infer(call(1)));
    assert!(still_waits(&mut first).await);
    until_begun(&ran);

    let (said, says) = std_mpsc::channel();
    let engine = Arc::clone(&model.engine);
    thread::spawn(move || said.send(warm_up(&engine, &ModelOptions::default(), SIZES)));
    // Else it is at the gate.
    let went_on = says.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(went_on.is_break());
    assert_eq!(begun(&ran), [1]);
    open.send(()).unwrap();
    first.await.unwrap();
}

#[test]
fn short_runs_are_rehearsed_three_times_with_each_number_of_rows() {
    let ran = Arc::default();
    warm_up_with(echo(&ran));
    assert_eq!(begun(&ran), [0; 6]);
}

/// A call would wait for a long run of many rows that nobody asked for.
#[test]
fn long_runs_are_rehearsed_with_more_rows_only_where_each_number_is_prepared() {
    for (prepares_sizes, runs) in [(false, 3), (true, 6)] {
        let ran = Arc::default();
        warm_up_with(Echo {
            takes: INLINE_MAX,
            prepares_sizes,
            ..echo(&ran)
        });
        assert_eq!(begun(&ran).len(), runs);
    }
}
