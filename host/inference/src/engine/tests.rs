//! The engine around a session that does what a test tells it to.

mod late;
mod led;
mod properties;
mod warm_up;

use std::num::{NonZeroU64, NonZeroUsize};
use std::pin::Pin;
use std::sync::mpsc as std_mpsc;

use super::*;
use crate::backend::ModelSource;
use crate::{BatchOptions, DType, Dim, Model, TensorSpec};

/// Gives its input back. The values say how: a negative one panics, 13 fails, 99 gives one row however
/// many came, and every run first takes a permit if there is a gate.
struct Echo {
    signature: Signature,
    gate: Option<Mutex<std_mpsc::Receiver<()>>>,
    takes: Duration,
    prepares_sizes: bool,
    estimate: Option<Duration>,
    /// Of so many rows.
    estimate_rows: fn(u64) -> Option<Duration>,
    ran: Runs,
}

/// Every run, in the order in which they began.
type Runs = Arc<Mutex<Vec<Ran>>>;

/// A value, and the name of the thread that ran it.
type Ran = (i32, Option<String>);

#[derive(Debug)]
struct EchoBackend;

impl Backend for EchoBackend {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn platform(&self) -> &'static str {
        "test_echo"
    }

    fn load(&self, _: &ModelSource, _: &ModelOptions) -> Result<Box<dyn Session>, InferenceError> {
        Err(InferenceError::load("made by hand"))
    }
}

impl Session for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError> {
        let values: Vec<i32> = inputs[0].values().unwrap().collect();
        let value = values.first().copied().unwrap_or(0);
        let thread = thread::current().name().map(str::to_owned);
        self.ran.lock().unwrap().push((value, thread));
        if let Some(gate) = &self.gate {
            gate.lock().unwrap().recv().unwrap();
        }
        thread::sleep(self.takes);
        assert!(values.iter().all(|value| *value >= 0), "negative");
        if values.contains(&13) {
            return Err(InferenceError::runtime("unlucky"));
        }
        if values.contains(&99) {
            return Ok(vec![inputs[0].rows(0, 1).unwrap()]);
        }
        Ok(inputs)
    }

    fn estimate(&self, _: &[Tensor]) -> Option<Duration> {
        self.estimate
    }

    fn estimate_rows(&self, _: &[Tensor], rows: u64) -> Option<Duration> {
        (self.estimate_rows)(rows)
    }

    fn prepares_sizes(&self) -> bool {
        self.prepares_sizes
    }
}

fn echo(ran: &Runs) -> Echo {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        dtype: DType::I32,
        shape: vec![Dim::Any],
    };
    Echo {
        signature: Signature {
            inputs: vec![spec("x")],
            outputs: vec![spec("y")],
        },
        gate: None,
        takes: Duration::ZERO,
        prepares_sizes: false,
        estimate: None,
        estimate_rows: |_| None,
        ran: Arc::clone(ran),
    }
}

fn start(session: Echo, queue_max: usize) -> Model {
    let options = ModelOptions {
        queue_max: NonZeroUsize::new(queue_max).unwrap(),
        ..ModelOptions::default()
    };
    let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
    Model::new(Arc::new(engine))
}

/// Every run waits for a permit; two calls may wait.
fn start_gated(ran: &Runs) -> (Model, std_mpsc::Sender<()>) {
    let (open, gate) = std_mpsc::channel();
    let session = Echo {
        gate: Some(Mutex::new(gate)),
        ..echo(ran)
    };
    (start(session, 2), open)
}

fn call(value: i32) -> NamedTensors {
    let tensor = Tensor::from_values(&[2], &[value, value]).unwrap();
    vec![("x".to_owned(), tensor)]
}

#[tokio::test]
async fn a_failing_or_panicking_run_leaves_the_worker() {
    let ran = Arc::default();
    let model = start(echo(&ran), 4);
    let cases = [
        (7, None),
        (-1, Some("the engine panicked: negative")),
        (13, Some("unlucky")),
        (8, None),
    ];
    for (value, error) in cases {
        let result = model.infer(call(value)).await;
        assert_eq!(result.err().map(|e| e.to_string()).as_deref(), error);
    }
    let workers = ran.lock().unwrap().clone();
    assert!(
        workers
            .iter()
            .all(|(_, thread)| thread.as_deref() == Some("model"))
    );

    let stats = model.stats().snapshot();
    assert_eq!((stats.inference_count, stats.execution_count), (4, 2));
    assert_eq!((stats.success.count, stats.fail.count), (2, 2));
    assert_eq!((stats.queue.count, stats.compute_infer.count), (2, 2));
    assert!(stats.last_inference_ms > 0);
}

#[tokio::test]
async fn a_short_run_stays_on_the_callers_thread() {
    for (estimate, inline) in [(None, false), (Some(199), true), (Some(200), false)] {
        let ran = Arc::default();
        let model = start(
            Echo {
                estimate: estimate.map(Duration::from_micros),
                ..echo(&ran)
            },
            4,
        );
        model.infer(call(1)).await.unwrap();
        let on_worker = ran.lock().unwrap()[0].1.as_deref() == Some("model");
        assert_eq!(on_worker, !inline, "{estimate:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_gone_caller_is_skipped() {
    let ran = Arc::default();
    let (model, open) = start_gated(&ran);

    // The first call gets to the gate; the next two fill the queue.
    let mut first = Box::pin(model.infer(call(1)));
    assert!(still_waits(&mut first).await);
    until_begun(&ran);
    let mut gone = Box::pin(model.infer(call(2)));
    let mut last = Box::pin(model.infer(call(3)));
    assert!(still_waits(&mut gone).await);
    assert!(still_waits(&mut last).await);
    let refused = model.infer(call(4)).await.unwrap_err();
    assert!(matches!(refused, InferenceError::Overloaded { waiting: 2 }));

    drop(gone);
    open.send(()).unwrap();
    open.send(()).unwrap();
    first.await.unwrap();
    last.await.unwrap();
    assert_eq!(begun(&ran), [1, 3]);
    assert_eq!(model.stats().snapshot().cancelled, 1);
}

/// The first value of each run, in the order in which they began.
fn begun(ran: &Runs) -> Vec<i32> {
    ran.lock()
        .unwrap()
        .iter()
        .map(|(value, _)| *value)
        .collect()
}

/// Until a worker does its first run.
fn until_begun(ran: &Runs) {
    while begun(ran).is_empty() {
        thread::yield_now();
    }
}

/// Polls once.
async fn still_waits<F: Future + Unpin>(future: &mut F) -> bool {
    let mut future = Pin::new(future);
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn inputs_are_checked_before_anything_runs() {
    let ran = Arc::default();
    let model = start(echo(&ran), 4);
    let floats = Tensor::from_values(&[1], &[1_f32]).unwrap();
    let error = model
        .infer(vec![("x".to_owned(), floats)])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"input "x" has datatype FP32, expected INT32"#
    );
    assert!(ran.lock().unwrap().is_empty());
    assert_eq!(model.stats().snapshot().fail.count, 1);
}

#[test]
fn a_dropped_model_ends_its_worker_and_frees_the_session() {
    let ran = Arc::default();
    let model = start(echo(&ran), 4);
    drop(model);
    while Arc::strong_count(&ran) > 1 {
        thread::yield_now();
    }
}

fn batching(max: u64, preferred: &[u64], delay: Duration) -> Option<BatchOptions> {
    let size = |size| NonZeroU64::new(size).unwrap();
    Some(BatchOptions {
        max_batch_size: size(max),
        preferred_batch_size: preferred.iter().copied().map(size).collect(),
        max_queue_delay: delay,
    })
}

/// A model of one worker that batches, and what opens its gate.
fn start_batching(batching: Option<BatchOptions>, ran: &Runs) -> (Model, std_mpsc::Sender<()>) {
    let (open, gate) = std_mpsc::channel();
    let session = Echo {
        gate: Some(Mutex::new(gate)),
        ..echo(ran)
    };
    let options = ModelOptions {
        batching,
        ..ModelOptions::default()
    };
    let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
    (Model::new(Arc::new(engine)), open)
}

fn rows_of(values: &[i32]) -> NamedTensors {
    let tensor = Tensor::from_values(&[values.len() as u64], values).unwrap();
    vec![("x".to_owned(), tensor)]
}

type Answer = Pin<Box<dyn Future<Output = Result<NamedTensors, InferenceError>> + Send>>;

/// Asks, and has the call in the queue or with the worker when it returns.
async fn ask(model: &Model, values: &[i32]) -> Answer {
    let (model, inputs) = (model.clone(), rows_of(values));
    let mut answer: Answer = Box::pin(async move { model.infer(inputs).await });
    assert!(still_waits(&mut answer).await);
    answer
}

fn runs_begun(ran: &Runs, count: usize) {
    while ran.lock().unwrap().len() < count {
        thread::yield_now();
    }
}

fn values(answer: Result<NamedTensors, InferenceError>) -> Vec<i32> {
    answer.unwrap()[0].1.values().unwrap().collect()
}

#[tokio::test]
async fn calls_that_come_during_a_run_are_the_next_one() {
    let ran = Runs::default();
    let (model, open) = start_batching(batching(4, &[], Duration::ZERO), &ran);
    let first = ask(&model, &[1]).await;
    runs_begun(&ran, 1);
    // Of five rows a run takes four; the call of two rows does not fit, the last one does.
    let waiting = [
        ask(&model, &[2]).await,
        ask(&model, &[3, 4]).await,
        ask(&model, &[5, 6]).await,
        ask(&model, &[7]).await,
    ];
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    assert_eq!(values(first.await), [1]);
    let mut answers = Vec::new();
    for answer in waiting {
        answers.push(values(answer.await));
    }
    assert_eq!(answers, [vec![2], vec![3, 4], vec![5, 6], vec![7]]);
    let begun: Vec<i32> = ran
        .lock()
        .unwrap()
        .iter()
        .map(|(first, _)| *first)
        .collect();
    assert_eq!(begun, [1, 2, 5]);

    let stats = model.stats().snapshot();
    assert_eq!((stats.inference_count, stats.execution_count), (7, 3));
    assert_eq!(stats.success.count, 5);
    let batches = stats.batches.iter();
    let batches: Vec<_> = batches
        .map(|(rows, times)| (*rows, times.compute_infer.count))
        .collect();
    assert_eq!(batches, [(1, 1), (2, 1), (4, 1)]);
}

#[tokio::test]
async fn who_is_at_fault_fails_alone() {
    for (poison, error) in [(13, "unlucky"), (-1, "the engine panicked: negative")] {
        let ran = Runs::default();
        let (model, open) = start_batching(batching(8, &[], Duration::ZERO), &ran);
        let first = ask(&model, &[1]).await;
        runs_begun(&ran, 1);
        let waiting = [
            ask(&model, &[2]).await,
            ask(&model, &[poison]).await,
            ask(&model, &[3]).await,
        ];
        // The first, the batch, and each of its calls.
        for _ in 0..5 {
            open.send(()).unwrap();
        }
        assert_eq!(values(first.await), [1]);
        let [before, at_fault, after] = waiting;
        assert_eq!(values(before.await), [2]);
        assert_eq!(at_fault.await.unwrap_err().to_string(), error);
        assert_eq!(values(after.await), [3]);
        let stats = model.stats().snapshot();
        assert_eq!((stats.success.count, stats.fail.count), (3, 1));
        assert_eq!(stats.execution_count, 3);
    }
}

#[tokio::test]
async fn rows_that_are_not_apart_are_not_joined_again() {
    let ran = Runs::default();
    let (model, open) = start_batching(batching(8, &[], Duration::ZERO), &ran);
    for _ in 0..2 {
        let begun = ran.lock().unwrap().len();
        let first = ask(&model, &[99]).await;
        runs_begun(&ran, begun + 1);
        let waiting = [ask(&model, &[2]).await, ask(&model, &[99]).await];
        for _ in 0..4 {
            open.send(()).unwrap();
        }
        let _first = values(first.await);
        let [two, one] = waiting;
        assert_eq!((values(two.await), values(one.await)), (vec![2], vec![99]));
    }
    // The second time the batch was not tried: one permit is left.
    assert_eq!(ran.lock().unwrap().len(), 4 + 3);
}

#[tokio::test]
async fn a_call_larger_than_a_batch_is_refused() {
    let ran = Runs::default();
    let (model, open) = start_batching(batching(4, &[], Duration::ZERO), &ran);
    let error = model.infer(rows_of(&[1; 5])).await.unwrap_err();
    assert!(matches!(error, InferenceError::InvalidInput { .. }));
    assert_eq!(
        error.to_string(),
        "the inputs have 5 rows, and the model takes 4 at once (max_batch_size); send them in \
         several requests"
    );
    assert!(model.infer_blocking(rows_of(&[1; 5])).is_err());
    let (stats, runs) = (model.stats().snapshot(), ran.lock().unwrap().len());
    assert_eq!((stats.fail.count, runs), (2, 0));
    open.send(()).unwrap();
    assert_eq!(values(model.infer(rows_of(&[1; 4])).await), [1; 4]);
}

#[tokio::test]
async fn a_call_that_was_given_up_keeps_nothing() {
    let ran = Runs::default();
    let (model, open) = start_batching(None, &ran);
    let first = ask(&model, &[1]).await;
    runs_begun(&ran, 1);
    let owner = Arc::new([2_u8, 0, 0, 0]);
    let data = bytes::Bytes::from_owner(Lent(Arc::clone(&owner)));
    let inputs = vec![("x".to_owned(), Tensor::new(DType::I32, &[1], data).unwrap())];
    let mut waiting: Answer = Box::pin({
        let model = model.clone();
        async move { model.infer(inputs).await }
    });
    assert!(still_waits(&mut waiting).await);
    assert_eq!(Arc::strong_count(&owner), 2);
    // The run that goes on is not waited for.
    drop(waiting);
    assert_eq!(Arc::strong_count(&owner), 1);
    open.send(()).unwrap();
    assert_eq!(values(first.await), [1]);
}

struct Lent(Arc<[u8; 4]>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &*self.0
    }
}

#[tokio::test]
async fn only_a_busy_engine_waits_for_more() {
    const FOREVER: Duration = Duration::from_secs(3600);
    let ran = Runs::default();
    let (model, open) = start_batching(batching(8, &[3], FOREVER), &ran);
    // Nothing else is to be done: it does not wait.
    let first = ask(&model, &[1]).await;
    runs_begun(&ran, 1);
    let two = ask(&model, &[2]).await;
    let three = ask(&model, &[3]).await;
    open.send(()).unwrap();
    assert_eq!(values(first.await), [1]);
    let mut three = three;
    assert!(
        still_waits(&mut three).await,
        "two are not the three preferred"
    );
    let four = ask(&model, &[4]).await;
    open.send(()).unwrap();
    assert_eq!(values(two.await), [2]);
    assert_eq!(values(three.await), [3]);
    assert_eq!(values(four.await), [4]);
    assert_eq!(model.stats().snapshot().execution_count, 2);
}

#[test]
fn a_model_without_a_batch_dimension_cannot_batch() {
    let ran = Runs::default();
    let mut session = echo(&ran);
    session.signature.outputs[0].shape = vec![Dim::Fixed(3)];
    let options = ModelOptions {
        batching: batching(8, &[], Duration::ZERO),
        ..ModelOptions::default()
    };
    let error = Engine::start(&EchoBackend, Box::new(session), &options)
        .err()
        .unwrap();
    assert!(error.to_string().contains("y INT32[3]"), "{error}");
}
