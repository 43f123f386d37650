//! One node: what every request shares.

use std::{
    fs::{DirBuilder, File, Permissions},
    future::Future,
    io::ErrorKind,
    ops::Deref,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dunlin_inference::{BackendPaths, Backends, Registry, Striped};
use dunlin_package::Store;
use dunlin_sandbox::{Compiler, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use crate::{
    account::Accounts,
    busy_poll::BusyPoll,
    control::{Control, Restore},
    engines::Opening,
    error::NodeError,
    http::BodyBudget,
    log::Log,
    memory::Quiet,
    prompt::Prompt,
    request_id::RequestIds,
    state::State,
    token::AdminToken,
    traces::Traces,
    turns::Turns,
};

pub(crate) struct Node {
    pub(crate) config: edge_config::Node,
    pub(crate) control: Arc<Control>,
    pub(crate) token: AdminToken,
    pub(crate) request_ids: RequestIds,
    pub(crate) accounts: Accounts,
    pub(crate) traces: Option<Arc<Traces>>,
    pub(crate) log: Log,
    pub(crate) requests_in_flight: Arc<Semaphore>,
    pub(crate) turns: Turns,
    /// Of requests and answers, on both planes.
    pub(crate) bodies: BodyBudget,
    pub(crate) quiet: Quiet,
    /// Of each thread of the data plane.
    pub(crate) busy_poll: Option<Arc<Striped<BusyPoll>>>,
    /// Changes under way: a drain waits for them.
    changes: TaskTracker,
    /// Where they go on: not on the threads that answer requests.
    control_runtime: Handle,
    /// Not all that was deployed before has come up, or failed to.
    starting: AtomicBool,
    draining: watch::Sender<bool>,
    data_dir: PathBuf,
    /// Locked for as long as the node lives.
    _lock: File,
}

/// A connection's own handle of the node, which its requests clone: the count of the node's own would be
/// taken from one processor to the other by every request.
#[derive(Clone)]
#[expect(
    clippy::redundant_allocation,
    reason = "the outer count is the connection's"
)]
pub(crate) struct NodeHandle(Arc<Arc<Node>>);

impl NodeHandle {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Self(Arc::new(Arc::clone(node)))
    }
}

impl Deref for NodeHandle {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.0
    }
}

impl Node {
    /// Opens the node's data. It can answer from now on; what was deployed before is starting, until
    /// [`Node::bring_up`] is through.
    pub(crate) async fn open(
        config: edge_config::Node,
        data_dir: PathBuf,
        compiler: Option<Compiler>,
        log: Log,
    ) -> Result<(Arc<Self>, Restore), NodeError> {
        let lock = claim(&data_dir)?;
        let token = AdminToken::open(&data_dir)?;
        let store = Store::open(&data_dir.join("store")).map_err(NodeError::Store)?;
        let store = Arc::new(store);
        let state = State::open(&data_dir.join("state.db"))?;
        let registry = Registry::new(Backends::new(backend_paths(&config.backends)))
            .standing_back(config.model_scheduling == edge_config::ModelScheduling::Idle);
        let opening = Opening::start(&store, registry.backends(), &state.records()?);
        let sandbox = Sandbox::new(SandboxConfig {
            instances_max: config.instances_max,
            guest_memory_max: config.guest_memory_max,
            cache_dir: data_dir.join("compiled"),
            compiler,
        })?;
        let control = Control::new(store, state, sandbox, registry, &config);
        let restore = control.restore().await?;
        opening.detach();
        let traces = Traces::start(&config.traces).map(Arc::new);
        let node = Arc::new(Self {
            requests_in_flight: Arc::new(Semaphore::new(config.requests_in_flight_max as usize)),
            bodies: BodyBudget::new(config.body_memory_max),
            turns: Turns::new(config.threads as usize),
            control: Arc::new(control),
            token,
            request_ids: RequestIds::new(),
            accounts: Accounts::new(config.log.access, log.writer().clone(), traces.clone()),
            traces,
            log,
            quiet: Quiet::default(),
            busy_poll: config
                .busy_poll
                .map(|window| Arc::new(Striped::new(|| BusyPoll::new(window)))),
            changes: TaskTracker::new(),
            control_runtime: Handle::current(),
            starting: AtomicBool::new(true),
            draining: watch::Sender::new(false),
            config,
            data_dir,
            _lock: lock,
        });
        Ok((node, restore))
    }

    /// Brings up what was deployed before. The node is ready then.
    pub(crate) async fn bring_up(&self, restore: Restore) {
        self.control.bring_up(restore).await;
        self.starting.store(false, Ordering::Relaxed);
    }

    /// Goes on whether or not somebody waits for it.
    pub(crate) fn change<F>(&self, change: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let change = Prompt::new(change);
        self.changes.spawn_on(change, &self.control_runtime)
    }

    /// There are no more changes, and those that were begun have ended.
    pub(crate) async fn changed(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Whether the node drains, and from when on.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits for the drain to begin.
    pub(crate) async fn drained(&self) {
        let mut draining = self.draining();
        // The sender is this node's.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        let max = self.config.requests_in_flight_max as usize;
        max.saturating_sub(self.requests_in_flight.available_permits())
    }

    pub(crate) fn describe(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "data_listen": self.config.data.listen,
            "grpc_listen": self.config.grpc.map(|grpc| grpc.listen),
            "admin_listen": self.config.admin.listen,
            "data_dir": self.data_dir,
            "instances_max": self.config.instances_max,
            "package_max": self.config.package_max,
            "starting": self.is_starting(),
            "draining": self.is_draining(),
        })
    }
}

fn backend_paths(backends: &edge_config::Backends) -> BackendPaths {
    let edge_config::Backends {
        folder,
        onnxruntime,
        torchscript,
    } = backends.clone();
    BackendPaths {
        folder,
        onnxruntime,
        torchscript,
    }
}

/// Two nodes on one folder would undo each other's changes.
fn claim(data_dir: &Path) -> Result<File, NodeError> {
    let unusable = |source| NodeError::DataDir {
        path: data_dir.to_owned(),
        source,
    };
    make_private(data_dir).map_err(unusable)?;
    let lock = File::create(data_dir.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::Locked {
            path: data_dir.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// The folder, which only its owner may look into: models, state and the token are in there.
fn make_private(data_dir: &Path) -> std::io::Result<()> {
    if let Some(parent) = data_dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(data_dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && data_dir.is_dir() => {
            let closed = std::fs::set_permissions(data_dir, Permissions::from_mode(0o700));
            if let Err(error) = closed {
                // Somebody else's folder that we may write to: the files that matter are closed
                // each by itself.
                tracing::warn!(%error, path = %data_dir.display(), "others may look into data_dir");
            }
            Ok(())
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_looks_into_the_data_folder() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("a/new");
        let found = dir.path().join("found");
        std::fs::create_dir(&found).unwrap();
        std::fs::set_permissions(&found, Permissions::from_mode(0o755)).unwrap();
        for data_dir in [made, found] {
            let _lock = claim(&data_dir).unwrap();
            let mode = std::fs::metadata(&data_dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", data_dir.display());
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(claim(&file), Err(NodeError::DataDir { .. })));
    }
}
