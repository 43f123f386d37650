//! Whatever calls come together, each gets its own answer.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Asked {
    values: Vec<i32>,
    /// The caller leaves instead of waiting.
    leaves: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let value = prop_oneof![8 => 100..1000_i32, 1 => Just(13), 1 => Just(-1)];
    let leaves = prop::bool::weighted(0.1);
    (prop::collection::vec(value, 1..4), leaves)
        .prop_map(|(values, leaves)| Asked { values, leaves })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is joined with whatever, everybody gets the answer to their own question.
    #[test]
    fn answers_never_cross_callers(
        calls in prop::collection::vec(asked(), 1..64),
        // A call of three rows must fit into a run.
        max in 3_u64..9,
        delay_us in prop_oneof![Just(0), 1_u64..300],
        workers in 1_usize..4,
        inline in any::<bool>(),
    ) {
        let ran = Runs::default();
        let session = Echo {
            estimate: inline.then_some(Duration::from_micros(1)),
            ..echo(&ran)
        };
        let options = ModelOptions {
            instances: NonZeroUsize::new(workers).unwrap(),
            batching: batching(max, &[], Duration::from_micros(delay_us)),
            ..ModelOptions::default()
        };
        let engine = Engine::start(&EchoBackend, Box::new(session), &options).unwrap();
        let model = Model::new(Arc::new(engine));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let results = runtime.unwrap().block_on(async {
            let tasks = calls.iter().cloned().map(|call| {
                let model = model.clone();
                tokio::spawn(async move {
                    let mut answer = Box::pin(model.infer(rows_of(&call.values)));
                    if call.leaves && still_waits(&mut answer).await {
                        return None;
                    }
                    Some(answer.await)
                })
            });
            let mut results = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                results.push(task.await);
            }
            results
        });
        for (call, result) in calls.iter().zip(results) {
            let Ok(Some(result)) = result else {
                // It left; or it was polled to its end at once, in its own thread.
                continue;
            };
            if call.values.iter().any(|value| *value < 0 || *value == 13) {
                prop_assert!(result.is_err(), "{call:?}");
            } else {
                prop_assert_eq!(values(result), call.values.clone());
            }
        }
    }
}
