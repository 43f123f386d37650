//! The model around an engine that does what a test tells it to.

use std::num::NonZeroUsize;
use std::sync::mpsc as std_mpsc;

use super::*;
use crate::backend::ModelSource;
use crate::{DType, Dim, TensorSpec};

/// Gives its input back. The value says how: negative panics, 13 fails, and every run first takes
/// a permit if there is a gate.
struct Echo {
    signature: Signature,
    gate: Option<Mutex<std_mpsc::Receiver<()>>>,
    estimate: Option<Duration>,
    ran: Arc<Mutex<Vec<Ran>>>,
}

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
        let value = inputs[0].values::<i32>().unwrap().next().unwrap_or(0);
        let thread = thread::current().name().map(str::to_owned);
        self.ran.lock().unwrap().push((value, thread));
        if let Some(gate) = &self.gate {
            gate.lock().unwrap().recv().unwrap();
        }
        match value {
            13 => Err(InferenceError::runtime("unlucky")),
            0.. => Ok(inputs),
            _ => panic!("negative"),
        }
    }

    fn estimate(&self, _: &[Tensor]) -> Option<Duration> {
        self.estimate
    }
}

fn echo(ran: &Arc<Mutex<Vec<Ran>>>) -> Echo {
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
        estimate: None,
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
    assert_eq!((stats.queue.count, stats.compute.count), (2, 2));
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
    let (open, gate) = std_mpsc::channel();
    let model = start(
        Echo {
            gate: Some(Mutex::new(gate)),
            ..echo(&ran)
        },
        2,
    );

    // The first call gets to the gate; the next two fill the queue.
    let mut first = Box::pin(model.infer(call(1)));
    assert!(still_waits(&mut first).await);
    while ran.lock().unwrap().is_empty() {
        thread::yield_now();
    }
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
    let values: Vec<i32> = ran
        .lock()
        .unwrap()
        .iter()
        .map(|(value, _)| *value)
        .collect();
    assert_eq!(values, [1, 3]);
    assert_eq!(model.stats().snapshot().cancelled, 1);
}

/// Polls once.
async fn still_waits<F: Future + Unpin>(future: &mut F) -> bool {
    let mut future = std::pin::Pin::new(future);
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
