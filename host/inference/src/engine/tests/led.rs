//! Runs that callers do themselves, and calls that wait under their deployments' bounds.

use tokio::task::JoinSet;

use super::*;

/// Short runs on the callers' threads, in batches of up to eight rows.
fn start_led(ran: &Runs) -> Model {
    start_led_with(Echo {
        estimate: Some(Duration::from_micros(1)),
        ..echo(ran)
    })
}

fn start_led_with(session: Echo) -> Model {
    let options = ModelOptions {
        batching: batching(8, &[], Duration::ZERO),
        ..ModelOptions::default()
    };
    let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
    Model::new(Arc::new(engine))
}

#[tokio::test]
async fn callers_that_are_as_good_as_here_come_along() {
    let ran = Runs::default();
    let model = start_led(&ran);
    let ask = async |values: &[i32]| model.infer(rows_of(values)).await;
    let (one, two, three) = tokio::join!(ask(&[1]), ask(&[2, 3]), ask(&[4]));
    assert_eq!(
        (values(one), values(two), values(three)),
        (vec![1], vec![2, 3], vec![4])
    );
    let ran = ran.lock().unwrap();
    assert_eq!(ran.len(), 1, "one run for all three");
    assert_ne!(ran[0].1.as_deref(), Some("model"), "on a caller's thread");
    let stats = model.stats().snapshot();
    assert_eq!((stats.inference_count, stats.execution_count), (4, 1));
}

#[tokio::test]
async fn who_waits_behind_a_full_run_is_given_the_next() {
    let ran = Runs::default();
    let model = start_led(&ran);
    let ask = async |from: i32| values(model.infer(rows_of(&[from, from + 1, from + 2])).await)[0];
    let answers = tokio::join!(ask(10), ask(20), ask(30), ask(40), ask(50));
    assert_eq!(answers, (10, 20, 30, 40, 50));
    let begun: Vec<i32> = ran.lock().unwrap().iter().map(|ran| ran.0).collect();
    assert_eq!(begun, [10, 30, 50], "two calls fit into a run");
}

#[tokio::test]
async fn a_run_on_a_callers_thread_has_as_many_rows_as_are_short() {
    type Known = fn(u64) -> Option<Duration>;
    let cases: [(Known, &[i32]); 4] = [
        // Two of 60 µs each, as far as that tells.
        (|_| None, &[1, 3, 5, 7]),
        (|rows| Some(Duration::from_micros(20 * rows)), &[1]),
        (|rows| Some(Duration::from_micros(40 * rows)), &[1, 5]),
        (|_| Some(INLINE_MAX), &[1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    for (estimate_rows, expected) in cases {
        let ran = Runs::default();
        let model = start_led_with(Echo {
            estimate: Some(Duration::from_micros(60)),
            estimate_rows,
            ..echo(&ran)
        });
        let mut answers = JoinSet::new();
        for value in 1..=8 {
            answers.spawn(ask(&model, &[value]).await);
        }
        answers.join_all().await;
        let begun: Vec<i32> = ran.lock().unwrap().iter().map(|ran| ran.0).collect();
        assert_eq!(begun, expected);
    }
}

#[tokio::test]
async fn a_leader_that_leaves_gives_its_run_on() {
    let ran = Runs::default();
    let model = start_led(&ran);
    let leader = ask(&model, &[1]).await;
    let mut next = ask(&model, &[2]).await;
    let last = ask(&model, &[3]).await;
    drop(leader);
    // It has been given the run, and leaves with it.
    drop(next);
    assert_eq!(values(last.await), [3]);
    assert_eq!(values(model.infer(rows_of(&[4])).await), [4]);
    let begun: Vec<i32> = ran.lock().unwrap().iter().map(|ran| ran.0).collect();
    assert_eq!(begun, [3, 4]);
    assert_eq!(model.stats().snapshot().cancelled, 1);
    next = ask(&model, &[5]).await;
    assert_eq!(values(next.await), [5]);
}

#[tokio::test]
async fn one_that_is_at_fault_fails_alone_among_callers() {
    let ran = Runs::default();
    let model = start_led(&ran);
    let ask = async |value: i32| model.infer(rows_of(&[value])).await;
    let (one, unlucky, three) = tokio::join!(ask(1), ask(13), ask(3));
    assert_eq!((values(one), values(three)), (vec![1], vec![3]));
    assert_eq!(unlucky.unwrap_err().to_string(), "unlucky");
    let stats = model.stats().snapshot();
    assert_eq!((stats.success.count, stats.fail.count), (2, 1));
}

#[tokio::test]
async fn what_waits_for_too_long_is_refused() {
    let ran = Runs::default();
    let (open, gate) = std_mpsc::channel();
    let session = Echo {
        gate: Some(Mutex::new(gate)),
        ..echo(&ran)
    };
    let timeout = Duration::from_millis(5);
    let options = ModelOptions {
        queue_timeout: Some(timeout),
        ..ModelOptions::default()
    };
    let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
    let model = Model::new(Arc::new(engine));
    let first = ask(&model, &[1]).await;
    runs_begun(&ran, 1);
    let late = ask(&model, &[2]).await;
    let asked = Instant::now();
    while asked.elapsed() <= timeout {
        thread::yield_now();
    }
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(values(first.await), [1]);
    let error = late.await.unwrap_err();
    assert!(
        matches!(error, InferenceError::QueueTimeout { waited } if waited > timeout),
        "{error}"
    );
    // The queue goes on.
    let third = model.infer(rows_of(&[3])).await;
    assert_eq!(values(third), [3]);
    assert_eq!(ran.lock().unwrap().len(), 2);
    assert_eq!(model.stats().snapshot().fail.count, 1);
}

#[tokio::test]
async fn a_deployment_that_floods_an_engine_does_not_keep_another_out() {
    let ran = Runs::default();
    let (open, gate) = std_mpsc::channel();
    let session = Echo {
        gate: Some(Mutex::new(gate)),
        ..echo(&ran)
    };
    let options = ModelOptions {
        queue_max: NonZeroUsize::new(4).unwrap(),
        ..ModelOptions::default()
    };
    let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
    let loud = Model::new(Arc::new(engine));
    let quiet = Model::new(Arc::clone(&loud.engine));
    let first = ask(&loud, &[1]).await;
    runs_begun(&ran, 1);
    let mut flood = Vec::new();
    for value in 2..6 {
        flood.push(ask(&loud, &[value]).await);
    }
    let refused = loud.infer(rows_of(&[6])).await.unwrap_err();
    assert!(matches!(refused, InferenceError::Overloaded { waiting: 4 }));
    let asked = ask(&quiet, &[100]).await;
    for _ in 0..6 {
        open.send(()).unwrap();
    }
    assert_eq!(values(asked.await), [100]);
    assert_eq!(values(first.await), [1]);
    for answer in flood {
        answer.await.unwrap();
    }
    let begun: Vec<i32> = ran.lock().unwrap().iter().map(|ran| ran.0).collect();
    let place = begun.iter().position(|value| *value == 100);
    assert!(place <= Some(2), "{begun:?}");
}
