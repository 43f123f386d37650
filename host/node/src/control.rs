//! Changes of what the node serves: the only writer of its state and of its deployments.
//!
//! A change is: the package is in the store and checked, its models are loaded and its first
//! instance is up; then one transaction, then one pointer swap. A crash at any point leaves the old
//! or the new.
//!
//! Changes of one name follow each other. Those of different names only share the moment of the
//! transaction, so that a predictor that takes its time in `init` holds up nobody but itself.

use std::{collections::HashSet, io::Read, sync::Arc};

use dunlin_inference::{Registry, one_line};
use dunlin_package::{Digest, ImportLimits, Package, PackageError, Store};
use dunlin_sandbox::Sandbox;
use edge_config::DeploymentName;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    deployment::{Deployment, Deployments, NotServing, Revision},
    error::{ChangeError, NodeError},
    keyed_lock::KeyedLock,
    loader::Loader,
    memory,
    prompt::Prompt,
    state::{Record, State},
    telemetry::Telemetry,
};

pub(crate) struct Control {
    pub(crate) deployments: Deployments,
    store: Arc<Store>,
    state: Arc<State>,
    sandbox: Sandbox,
    loader: Loader,
    package_max: u64,
    /// Each takes a thread for as long as it arrives.
    uploads: Semaphore,
    uploads_max: u32,
    /// How many deployments of before come up at once.
    restores_max: usize,
    /// The names that are being changed.
    names: KeyedLock,
    /// One transaction, and what follows from it, at a time.
    recording: Mutex<()>,
}

/// The deployments of before that have not come up yet. Until they have, nobody else may change
/// them: a deploy of such a name waits, and then replaces it.
pub(crate) struct Restore(Vec<Waiting>);

struct Waiting {
    record: Record,
    telemetry: Arc<Telemetry>,
    change: OwnedMutexGuard<()>,
}

impl Control {
    pub(crate) fn new(
        store: Arc<Store>,
        state: State,
        sandbox: Sandbox,
        registry: Registry,
        config: &edge_config::Node,
    ) -> Self {
        Self {
            deployments: Deployments::default(),
            loader: Loader::new(config, Arc::clone(&store), sandbox.clone(), registry),
            sandbox,
            store,
            state: Arc::new(state),
            package_max: config.package_max,
            uploads: Semaphore::new(config.uploads_max as usize),
            uploads_max: config.uploads_max,
            // An `init` that computes has its own deadline: more of them than threads would only
            // take each other's time.
            restores_max: config.threads as usize,
            names: KeyedLock::default(),
            recording: Mutex::new(()),
        }
    }

    /// Makes known what was deployed before, as deployments that are starting. Call it before
    /// anything else: nothing else holds a name then.
    pub(crate) async fn restore(&self) -> Result<Restore, NodeError> {
        let mut restore = Vec::new();
        for record in self.state.records()? {
            if !record.loaded {
                let telemetry = Arc::new(Telemetry::new(&record.name));
                let unloaded = Deployment::new(record, telemetry, Err(NotServing::Unloaded));
                self.deployments.put(&Arc::new(unloaded));
                continue;
            }
            let waiting = Waiting {
                change: self.names.lock(&record.name).await,
                telemetry: Arc::new(Telemetry::new(&record.name)),
                record,
            };
            self.deployments.put(&Arc::new(Deployment::new(
                waiting.record.clone(),
                Arc::clone(&waiting.telemetry),
                Err(NotServing::Starting),
            )));
            restore.push(waiting);
        }
        Ok(Restore(restore))
    }

    /// Serves again what was deployed before. A deployment that does not come up is kept, with the
    /// reason: its package is still there, and the operator decides.
    ///
    /// Dropped, it leaves what has not come up as starting.
    pub(crate) async fn bring_up(self: &Arc<Self>, restore: Restore) {
        stream::iter(restore.0)
            .for_each_concurrent(self.restores_max, |waiting| self.bring_up_one(waiting))
            .await;
        self.collect().await;
    }

    async fn bring_up_one(self: &Arc<Self>, waiting: Waiting) {
        let Waiting {
            record,
            telemetry,
            change,
        } = waiting;
        // In a task of its own: on another thread than its neighbours, and a panic stays there.
        let loading = AbortOnDropHandle::new(tokio::spawn({
            let (control, telemetry) = (Arc::clone(self), Arc::clone(&telemetry));
            let record = record.clone();
            Prompt::new(async move { control.load_again(&record, &telemetry).await })
        }));
        let serving = match loading.await {
            Ok(serving) => serving,
            Err(panic) => Err(ChangeError::Defect(panic.to_string())),
        };
        let serving = serving.map_err(|error| one_line(&error));
        match &serving {
            Ok(_) => tracing::info!(
                deployment = record.name,
                revision = record.revision,
                "serving again"
            ),
            Err(error) => {
                tracing::error!(
                    deployment = record.name,
                    error,
                    "a deployment does not come up"
                );
            }
        }
        let serving = serving.map_err(NotServing::Failed);
        let deployment = Deployment::new(record, telemetry, serving);
        self.deployments.put(&Arc::new(deployment));
        drop(change);
    }

    async fn load_again(
        &self,
        record: &Record,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Revision, ChangeError> {
        let (store, digest) = (Arc::clone(&self.store), record.digest);
        let package = blocking(move || store.package(&digest)).await?;
        let package = package.map_err(|error| match error {
            // It was kept long ago: what is wrong is what lies there now.
            PackageError::Store(error) => ChangeError::Store(error),
            error => ChangeError::Package(error),
        })?;
        let model_config = record.model_config.as_deref();
        self.loader.load(&package, model_config, telemetry).await
    }

    /// Deploys the package that `upload` reads. Once begun it is carried through, whether or not
    /// the caller still waits: run it in a task of its own.
    pub(crate) async fn deploy(
        &self,
        upload: impl Read + Send + 'static,
        name: Option<String>,
    ) -> Result<Arc<Deployment>, ChangeError> {
        let name = name.map(checked_name).transpose()?;
        let Ok(uploading) = self.uploads.try_acquire() else {
            return Err(ChangeError::Uploads(self.uploads_max));
        };
        let store = Arc::clone(&self.store);
        let limits = ImportLimits {
            package_max: self.package_max,
        };
        // As long as `package` lives, the store keeps its blobs.
        let package = blocking(move || dunlin_package::import(upload, &store, limits)).await??;
        drop(uploading);

        let serving = self.serve(&package, name).await;
        drop(package);
        // Also where it was refused: nothing of it stays.
        self.collect().await;
        memory::give_back().await;
        serving
    }

    /// Loads the package and lets it take the traffic of its name.
    async fn serve(
        &self,
        package: &Package,
        name: Option<String>,
    ) -> Result<Arc<Deployment>, ChangeError> {
        let name = name.unwrap_or_else(|| package.deployment().name.to_string());
        let _change = self.names.lock(&name).await;
        let telemetry = match self.deployments.get(&name) {
            Some(current) => Arc::clone(&current.telemetry),
            None => Arc::new(Telemetry::new(&name)),
        };
        let revision = self.loader.load(package, None, &telemetry).await?;
        let _recording = self.recording.lock().await;
        let record = self.record(name, *package.digest()).await?;
        tracing::info!(
            deployment = record.name,
            revision = record.revision,
            digest = %record.digest,
            "deployed"
        );
        let deployment = Arc::new(Deployment::new(record, telemetry, Ok(revision)));
        self.deployments.put(&deployment);
        Ok(deployment)
    }

    async fn record(&self, name: String, digest: Digest) -> Result<Record, ChangeError> {
        self.write(move |state| {
            let record = Record {
                revision: state.next_revision(&name)?,
                name: name.clone(),
                digest,
                created_at: jiff::Timestamp::now().to_string(),
                loaded: true,
                model_config: None,
            };
            state.put(&record)?;
            Ok(record)
        })
        .await
    }

    /// Changes the state; where the disk is full for that, once more with what can be made again out
    /// of the way. A delete is what an operator tries to get room.
    async fn write<T: Send + 'static>(
        &self,
        change: impl Fn(&State) -> Result<T, NodeError> + Clone + Send + 'static,
    ) -> Result<T, ChangeError> {
        let attempt = || {
            let (state, change) = (Arc::clone(&self.state), change.clone());
            async move { Ok::<T, ChangeError>(blocking(move || change(&state)).await??) }
        };
        let full = match attempt().await {
            Err(ChangeError::Node(error)) if error.is_out_of_space() => error,
            outcome => return outcome,
        };
        let freed = self.sandbox.forget_compiled().await;
        tracing::warn!(
            error = one_line(&full),
            ?freed,
            "the disk is full; made room"
        );
        let state = Arc::clone(&self.state);
        if let Err(error) = blocking(move || state.reuse_journal()).await? {
            tracing::warn!(error = one_line(&error), "the journal is not reused");
        }
        attempt().await
    }

    /// Loads a deployment anew, unloaded or not, with `model_config` in place of what an earlier load
    /// changed. If that fails, what was the case before still is.
    pub(crate) async fn load(
        &self,
        name: &str,
        model_config: Option<String>,
    ) -> Result<(), ChangeError> {
        let _change = self.names.lock(name).await;
        let current = self.current(name)?;
        let record = Record {
            loaded: true,
            model_config,
            ..current.record.clone()
        };
        let revision = self.load_again(&record, &current.telemetry).await?;
        self.replace(&current, record, Ok(revision)).await?;
        drop(current);
        memory::give_back().await;
        tracing::info!(deployment = name, "loaded");
        Ok(())
    }

    /// Lets a deployment serve no more, until it is loaded or deployed again, be it after a restart.
    /// Its package stays; requests in flight finish.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), ChangeError> {
        let _change = self.names.lock(name).await;
        let current = self.current(name)?;
        let record = Record {
            loaded: false,
            ..current.record.clone()
        };
        let unloaded = Err(NotServing::Unloaded);
        self.replace(&current, record, unloaded).await?;
        drop(current);
        memory::give_back().await;
        tracing::info!(deployment = name, "unloaded");
        Ok(())
    }

    fn current(&self, name: &str) -> Result<Arc<Deployment>, ChangeError> {
        let current = self.deployments.get(name);
        current.ok_or_else(|| ChangeError::NotFound(name.to_owned()))
    }

    /// The transaction and the pointer swap of a change that keeps the revision.
    async fn replace(
        &self,
        current: &Deployment,
        record: Record,
        serving: Result<Revision, NotServing>,
    ) -> Result<(), ChangeError> {
        let _recording = self.recording.lock().await;
        let written = record.clone();
        self.write(move |state| state.put(&written)).await?;
        let telemetry = Arc::clone(&current.telemetry);
        let next = Deployment::new(record, telemetry, serving);
        self.deployments.put(&Arc::new(next));
        Ok(())
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let _change = self.names.lock(name).await;
        self.current(name)?;
        let recording = self.recording.lock().await;
        let deleted = name.to_owned();
        self.write(move |state| state.delete(&deleted)).await?;
        self.deployments.remove(name);
        tracing::info!(deployment = name, "deleted");
        drop(recording);
        self.collect().await;
        Ok(())
    }

    /// Removes from the disk what no deployment refers to: blobs, and what was compiled from them.
    async fn collect(&self) {
        let live = match self.collect_blobs().await {
            Ok(live) => live,
            Err(error) => {
                let error = one_line(&error);
                tracing::warn!(error, "unused packages were not removed");
                return;
            }
        };
        match self.sandbox.keep_compiled(live).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "removed compiled predictors that nobody uses"),
            Err(error) => tracing::warn!(%error, "unused compiled predictors were not removed"),
        }
    }

    /// Gives the digests of the predictors that are still deployed.
    async fn collect_blobs(&self) -> Result<HashSet<String>, ChangeError> {
        let _recording = self.recording.lock().await;
        let state = Arc::clone(&self.state);
        let store = Arc::clone(&self.store);
        blocking(move || {
            let collection = store.collect();
            let records = state.records()?;
            let live: Vec<Digest> = records.into_iter().map(|record| record.digest).collect();
            let collected = collection.keep_only(&live)?;
            if collected.blobs > 0 {
                tracing::info!(collected.blobs, collected.bytes, "removed unused blobs");
            }
            let mut predictors = HashSet::new();
            for digest in live {
                let package = store.package(&digest)?;
                predictors.extend(package.predictor().map(|blob| blob.digest.as_hex()));
            }
            Ok(predictors)
        })
        .await?
    }
}

fn checked_name(name: String) -> Result<String, ChangeError> {
    match name.parse::<DeploymentName>() {
        Ok(_) => Ok(name),
        Err(error) => Err(ChangeError::Name {
            reason: error.to_string(),
            name,
        }),
    }
}

/// Runs disk work where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ChangeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| ChangeError::Defect(panic.to_string()))
}
