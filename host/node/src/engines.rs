//! Native engines of the deployments of before, opened while the rest of the node starts: ONNX
//! Runtime takes half of a start to register its operators.

use std::{
    collections::HashSet,
    sync::Arc,
    thread::{self, JoinHandle},
};

use dunlin_inference::{Backends, ModelSource};
use dunlin_package::{Digest, Store};

use crate::{loader, state::Record};

/// Dropped, it waits: a node that does not come up must not end while a library is being opened.
pub(crate) struct Opening(Option<JoinHandle<()>>);

impl Opening {
    pub(crate) fn start(store: &Arc<Store>, backends: &Arc<Backends>, records: &[Record]) -> Self {
        let loaded = records.iter().filter(|record| record.loaded);
        let packages: HashSet<Digest> = loaded.map(|record| record.digest).collect();
        if packages.is_empty() {
            return Self(None);
        }
        let (store, backends) = (Arc::clone(store), Arc::clone(backends));
        let open = move || {
            for package in packages {
                open_for(&package, &store, &backends);
            }
        };
        // Without a thread they are opened by the load that wants them.
        Self(
            thread::Builder::new()
                .name("engines".to_owned())
                .spawn(open)
                .ok(),
        )
    }

    pub(crate) fn detach(mut self) {
        self.0.take();
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // What a panic leaves, the load that follows runs into again.
            let _ = thread.join();
        }
    }
}

/// What is wrong with a package, a model or an engine is told by the load that follows.
fn open_for(package: &Digest, store: &Store, backends: &Backends) {
    let Ok(package) = store.package(package) else {
        return;
    };
    for model in &package.deployment().models {
        if let Some(weights) = package.file(model.path.as_str()) {
            let source = ModelSource::path(store.path(&weights.digest));
            backends.open_early(loader::backend(model.backend), &source);
        }
    }
}
