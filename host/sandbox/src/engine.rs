//! The wasmtime engine of a node: its limits, its clock for epochs, and its compiled components.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    component::{Component, InstancePre, Linker},
};

use crate::{
    bindings::{handler, tensor_handler},
    cache::CompiledCache,
    compiler::Compiler,
    error::SandboxError,
    guest::Guest,
    host,
    pool::{Idle, Pool},
};

/// How often a running guest gives its thread back. A guest that never stops costs its neighbours
/// at most this long, and outlives its deadline by at most this long.
const EPOCH: Duration = Duration::from_millis(5);

/// Wasm stack of a guest: enough for deep parsers, small enough that recursion ends early.
const WASM_STACK: usize = 1 << 20;

/// The fiber has room for the guest's stack and for the host functions it calls.
const FIBER_STACK: usize = 2 << 20;

/// A component that links WASI consists of its own module and small adapters.
const CORE_INSTANCES_PER_COMPONENT: u32 = 20;
const TABLES_PER_COMPONENT: u32 = 10;
const MEMORIES_PER_COMPONENT: u32 = 4;

/// What the engine is sized from.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Live instances of all predictors together: the one number from which the pooling allocator
    /// reserves address space.
    pub instances_max: u32,
    /// The largest linear memory, in bytes, that a deployment may ask for.
    pub guest_memory_max: u64,
    /// Where compiled components are kept. Nobody else may be able to write there: what lies in it
    /// is run as machine code.
    pub cache_dir: PathBuf,
    /// Compiles in a process of its own; `None`: in this one.
    pub compiler: Option<Compiler>,
}

/// Compiles predictors and runs their instances. A handle: clones share one engine.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    linker: Linker<Guest>,
    cache: CompiledCache,
    config: SandboxConfig,
    /// One compilation at a time: it uses every core by itself.
    compiling: Semaphore,
    /// Predictors of the same component share its code.
    programs: Mutex<HashMap<String, Weak<Program>>>,
    /// The pools of all predictors, so that idle instances of one make room for another.
    pools: Mutex<Vec<Weak<Pool>>>,
}

/// A component compiled and linked: instances come from it.
pub struct Program {
    pub(crate) instance_pre: InstancePre<Guest>,
    pub(crate) handler: handler::GuestIndices,
    pub(crate) tensors: Option<tensor_handler::GuestIndices>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts the engine.
    ///
    /// # Errors
    /// The reservation of address space failed, or the cache folder cannot be made.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let engine = Engine::new(&engine_config(&config)).map_err(SandboxError::Engine)?;
        let linker = host::linker(&engine).map_err(SandboxError::Engine)?;
        let cache = CompiledCache::open(&config.cache_dir, &engine, config.compiler.clone())?;
        start_epochs(&engine);
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                linker,
                cache,
                config,
                compiling: Semaphore::new(1),
                programs: Mutex::default(),
                pools: Mutex::default(),
            }),
        })
    }

    /// The compiled form of `wasm`, from memory, from the cache on disk, or from the compiler. Its
    /// imports and exports must have been checked against the grants.
    ///
    /// # Errors
    /// The component does not compile or fit the world.
    pub async fn program(&self, wasm: Arc<[u8]>) -> Result<Arc<Program>, SandboxError> {
        let _turn = self
            .inner
            .compiling
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let digest = crate::cache::digest(&wasm);
        if let Some(program) = self.loaded(&digest) {
            return Ok(program);
        }
        let this = self.clone();
        let key = digest.clone();
        let program = tokio::task::spawn_blocking(move || this.compile(&key, &wasm))
            .await
            .map_err(|panic| SandboxError::Compile(wasmtime::Error::msg(panic.to_string())))??;
        let program = Arc::new(program);
        let mut programs = lock(&self.inner.programs);
        programs.retain(|_, program| program.strong_count() > 0);
        programs.insert(digest, Arc::downgrade(&program));
        Ok(program)
    }

    /// Removes from the disk what was compiled for other components than `live`, which are named by
    /// the SHA-256 of their bytes in hexadecimal, and than those that are loaded. Gives the bytes
    /// that are free now.
    ///
    /// While something is being compiled nothing is removed: who made it may yet need it, and
    /// calls this again.
    ///
    /// # Errors
    /// The folder cannot be read, or an entry not removed.
    pub async fn keep_compiled(&self, mut live: HashSet<String>) -> io::Result<u64> {
        let Ok(_turn) = self.inner.compiling.try_acquire() else {
            return Ok(0);
        };
        let programs = lock(&self.inner.programs).clone();
        let loaded = programs.into_iter();
        live.extend(
            loaded.filter_map(|(digest, program)| (program.strong_count() > 0).then_some(digest)),
        );
        self.keep_only(live).await
    }

    /// As [`Sandbox::keep_compiled`] with nothing to keep: all of it can be made again. What is
    /// loaded runs on.
    ///
    /// # Errors
    /// As there.
    pub async fn forget_compiled(&self) -> io::Result<u64> {
        self.keep_only(HashSet::new()).await
    }

    async fn keep_only(&self, digests: HashSet<String>) -> io::Result<u64> {
        let this = self.clone();
        let removed = tokio::task::spawn_blocking(move || this.inner.cache.keep_only(&digests));
        removed.await.map_err(io::Error::other)?
    }

    fn loaded(&self, digest: &str) -> Option<Arc<Program>> {
        lock(&self.inner.programs).get(digest)?.upgrade()
    }

    fn compile(&self, digest: &str, wasm: &[u8]) -> Result<Program, SandboxError> {
        let component = self.inner.cache.load_or_compile(digest, wasm)?;
        self.link(&component).map_err(SandboxError::World)
    }

    fn link(&self, component: &Component) -> wasmtime::Result<Program> {
        let instance_pre = self.inner.linker.instantiate_pre(component)?;
        let handler = handler::GuestIndices::new(&instance_pre)?;
        let serves_tensors = component.get_export_index(None, TENSOR_HANDLER).is_some();
        let tensors = serves_tensors
            .then(|| tensor_handler::GuestIndices::new(&instance_pre))
            .transpose()?;
        Ok(Program {
            instance_pre,
            handler,
            tensors,
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn guest_memory_max(&self) -> u64 {
        self.inner.config.guest_memory_max
    }

    pub(crate) fn register(&self, pool: &Arc<Pool>) {
        let mut pools = lock(&self.inner.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// Takes the instance that has been idle longest, of whatever predictor, so that another may
    /// have its place.
    pub(crate) fn reclaim_idle(&self) -> Option<Idle> {
        let pools: Vec<Arc<Pool>> = lock(&self.inner.pools)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let oldest = pools
            .iter()
            .filter_map(|pool| Some((pool.idle_since()?, pool)))
            .min_by_key(|(since, _)| *since)?;
        oldest.1.take_oldest()
    }
}

const TENSOR_HANDLER: &str = "dunlin:predictor/tensor-handler@0.1.0";

pub(crate) fn engine_config(sandbox: &SandboxConfig) -> Config {
    let instances = sandbox.instances_max;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_memories(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_tables(instances.saturating_mul(3))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_memory_size(usize::try_from(sandbox.guest_memory_max).unwrap_or(usize::MAX))
        .max_unused_warm_slots(instances.min(32))
        // To unmap a page and to fault it in again costs more than to clear it, and all threads have a
        // part in it. So all of a small predictor's memory stays resident: what `dunlin build` gives
        // it from the start for its stack, its data and its heap.
        .linear_memory_keep_resident(512 << 10)
        .table_keep_resident(16 << 10)
        // wasmtime issue 14357.
        .pagemap_scan(Enabled::No);

    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .wasm_component_model(true);
    config
}

/// Advances the engine's epoch for as long as the engine lives.
fn start_epochs(engine: &Engine) {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH);
            }
        })
        .expect("a thread can be started while the node starts");
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The sections under these locks only move handles: a panic in one leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
