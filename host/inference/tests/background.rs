//! Threads that run models stand back behind those that serve. A program of its own: its threads are
//! looked at.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    thread,
    time::{Duration, Instant},
};

use dunlin_inference::{BackendKind, LoadRequest, Model, ModelOptions, ModelSource, Registry};

/// Where a thread's policy is among the fields of its `stat` that come after its name.
const POLICY: usize = 38;
const SCHED_IDLE: u32 = 5;

#[tokio::test]
async fn who_runs_models_stands_back_and_who_serves_does_not() {
    let before = threads();
    let tract = load(Registry::default(), BackendKind::Tract).await;
    check(&before, 3);
    let Some(registry) = support::registry(BackendKind::OnnxRuntime) else {
        return;
    };
    let onnxruntime = load(registry, BackendKind::OnnxRuntime).await;
    check(&before, 6);
    drop((tract, onnxruntime));
}

/// A model for three workers, whose runs have threads of the engine too.
async fn load(registry: Registry, backend: BackendKind) -> Model {
    const THREE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);
    let model = format!("{}/tests/models/digits.onnx", env!("CARGO_MANIFEST_DIR"));
    let request = LoadRequest {
        digest: backend.name().to_owned(),
        source: ModelSource::path(model),
        backend,
        options: ModelOptions {
            instances: THREE,
            threads_per_run: THREE,
            ..ModelOptions::default()
        },
        golden: None,
    };
    let loaded = registry.standing_back(true).get_or_load(request).await;
    loaded.expect("the model loads")
}

fn check(before: &[Thread], workers: usize) {
    let own = before[0].policy;
    assert_ne!(own, SCHED_IDLE);
    let mut all = threads();
    let is_worker = |thread: &&Thread| thread.name == "model";
    // A thread takes its name when it begins.
    let patience = Instant::now() + Duration::from_secs(10);
    while all.iter().filter(is_worker).count() != workers {
        assert!(Instant::now() < patience, "{workers} workers of {all:?}");
        thread::sleep(Duration::from_millis(5));
        all = threads();
    }
    let mut engines = 0;
    for thread in &all {
        let is_older = before.iter().any(|older| older.id == thread.id);
        if is_older || thread.name.starts_with("tokio") {
            assert_eq!(thread.policy, own, "{thread:?}");
        } else if is_worker(&thread) {
            assert_eq!(thread.policy, SCHED_IDLE, "{thread:?}");
        } else {
            // ONNX Runtime has one that came when the library was opened, which no model runs on.
            engines += usize::from(thread.policy == SCHED_IDLE && thread.name != "load");
        }
    }
    assert!(engines >= 2, "the engine's own: {all:?}");
}

#[derive(Debug)]
struct Thread {
    id: String,
    name: String,
    policy: u32,
}

fn threads() -> Vec<Thread> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let thread = |id: String| {
        // One that has ended meanwhile is none.
        let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let policy = fields.split_whitespace().nth(POLICY)?.parse().ok()?;
        let name = name.split_once('(')?.1.to_owned();
        Some(Thread { id, name, policy })
    };
    let ids = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok());
    ids.filter_map(thread).collect()
}
