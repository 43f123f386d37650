//! Threads that run models stand back behind those that serve. A program of its own: its threads are
//! looked at.

#![cfg(target_os = "linux")]

mod support;

use std::{fs, num::NonZeroUsize};

use dunlin_inference::{BackendKind, LoadRequest, ModelOptions, ModelSource, Registry};

/// Where a thread's nice value is among the fields of its `stat` that come after its name.
const NICE: usize = 16;

#[tokio::test]
async fn who_runs_models_is_nice_and_who_serves_is_not() {
    let before = threads();
    let others = check(Registry::default(), BackendKind::Tract, &before).await;
    assert_eq!(others, 0, "tract has no threads of its own");
    if let Some(registry) = support::registry(BackendKind::OnnxRuntime) {
        let others = check(registry, BackendKind::OnnxRuntime, &before).await;
        assert!(others >= 2, "ONNX Runtime's own: {others}");
    }
}

/// Loads a model for three workers, with runs of three threads, and says how many threads there are
/// beside the workers.
async fn check(registry: Registry, backend: BackendKind, before: &[Thread]) -> usize {
    const THREE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);
    let own = before[0].nice;
    let request = LoadRequest {
        digest: backend.name().to_owned(),
        source: ModelSource::path(format!(
            "{}/tests/models/digits.onnx",
            env!("CARGO_MANIFEST_DIR")
        )),
        backend,
        options: ModelOptions {
            instances: THREE,
            threads_per_run: THREE,
            ..ModelOptions::default()
        },
        golden: None,
    };
    let registry = registry.with_nice(7);
    let _model = registry.get_or_load(request).await.expect("it loads");
    let threads = threads();
    let (mut workers, mut others) = (0, 0);
    for thread in &threads {
        if before.iter().any(|older| older.id == thread.id) {
            assert_eq!(thread.nice, own, "{thread:?} was there before");
        } else if thread.name == "model" {
            assert_eq!(thread.nice, (own + 7).min(19), "{thread:?}");
            workers += 1;
        } else if thread.name != "load" && !thread.name.starts_with("tokio") {
            assert_eq!(thread.nice, (own + 7).min(19), "{thread:?}");
            others += 1;
        }
    }
    assert_eq!(workers, 3, "{threads:?}");
    others
}

#[derive(Debug)]
struct Thread {
    id: String,
    name: String,
    nice: i32,
}

fn threads() -> Vec<Thread> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let thread = |id: String| {
        // One that has ended meanwhile is none.
        let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let nice = fields.split_whitespace().nth(NICE)?.parse().ok()?;
        let name = name.split_once('(')?.1.to_owned();
        Some(Thread { id, name, nice })
    };
    let ids = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok());
    ids.filter_map(thread).collect()
}
