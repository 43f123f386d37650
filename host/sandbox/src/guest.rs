//! What a store holds for its guest, and the bounds of it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dunlin_inference::{Model, Registry, RunObserver};
use edge_config::{Grants, Limits};
use wasmtime::{ResourceLimiter, Trap, component::ResourceTable};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};

use crate::{
    call_log::{CallLog, GuestOutput},
    error::CallError,
    instance::Deadline,
    observer::{LogLevel, Observer},
    streaming::Outlet,
};

/// Tensors, graphs and streams that a guest may hold at once.
const RESOURCES_MAX: usize = 4096;

/// Models that an instance has loaded from bytes and still keeps. Each has a thread, a graph and
/// prepared plans on the node, whatever its bytes are.
pub(crate) const MODELS_MAX: u64 = 4;

/// What all instances of a predictor have in common.
pub(crate) struct Shared {
    pub(crate) models: HashMap<String, Model>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) grants: Grants,
    pub(crate) limits: Limits,
    pub(crate) observer: Arc<dyn Observer>,
}

/// The host's half of an instance.
pub(crate) struct Guest {
    pub(crate) shared: Arc<Shared>,
    pub(crate) table: ResourceTable,
    pub(crate) tensor_memory: Budget,
    pub(crate) loaded_models: Budget,
    pub(crate) started: Instant,
    wasi: WasiCtx,
    pub(crate) log: CallLog,
    /// By when the call at hand must have its answer.
    pub(crate) deadline: Option<Instant>,
    /// Of the models that the call at hand runs.
    pub(crate) runs: Option<Arc<dyn RunObserver>>,
    /// Where the call at hand may begin an answer.
    pub(crate) outlet: Option<Outlet>,
    memory_denied: bool,
}

impl Guest {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let log = CallLog::new(Arc::clone(&shared.observer));
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            wasi: wasi(&shared, &log),
            tensor_memory: Budget::new(shared.limits.tensor_memory),
            loaded_models: Budget::new(MODELS_MAX),
            table,
            started: Instant::now(),
            log,
            deadline: None,
            runs: None,
            outlet: None,
            memory_denied: false,
            shared,
        }
    }

    /// What the guest logs and runs from here on belongs to this request.
    pub(crate) fn begin_call(
        &mut self,
        request_id: &str,
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
        outlet: Option<Outlet>,
    ) {
        self.deadline = Some(deadline.at().into_std());
        (self.runs, self.outlet) = (runs, outlet);
        self.log.begin(request_id);
        // A guest that was refused memory and lived on is not to blame for it in a later call.
        self.memory_denied = false;
    }

    /// Says what a trap was about, as far as the host knows better than the engine.
    pub(crate) fn explain(&self, trap: wasmtime::Error) -> CallError {
        if let Some(&TensorMemoryExceeded { limit }) = trap.downcast_ref() {
            return CallError::TensorMemory { limit };
        }
        if self.memory_denied {
            return CallError::OutOfMemory {
                limit: self.shared.limits.memory,
            };
        }
        if trap.downcast_ref() == Some(&Trap::StackOverflow) || is_below_its_stack(&trap) {
            return CallError::StackOverflow;
        }
        CallError::Trap(trap)
    }
}

/// A predictor's own stack lies below all else in its memory, and grows down. Whatever runs over it
/// reaches for an address below zero, which is one at the end of what 32 bits can address.
fn is_below_its_stack(trap: &wasmtime::Error) -> bool {
    const BELOW_ZERO: u64 = 0xc000_0000;
    // wasmtime tells the address in this text alone.
    let address = |cause: &(dyn std::error::Error + 'static)| {
        let text = cause.to_string();
        let text = text.strip_prefix("memory fault at wasm address 0x")?;
        u64::from_str_radix(text.split(' ').next()?, 16).ok()
    };
    trap.downcast_ref() == Some(&Trap::MemoryOutOfBounds)
        && trap.chain().filter_map(address).any(|at| at >= BELOW_ZERO)
}

/// No file, no argument, no variable, no socket; standard output goes to the log. The clocks stand
/// still unless the deployment file grants them: the C library asks for the time on its own account,
/// and a missing import would refuse every guest that links it.
fn wasi(shared: &Shared, log: &CallLog) -> WasiCtx {
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(GuestOutput::new(LogLevel::Info, log))
        .stderr(GuestOutput::new(LogLevel::Warn, log))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    if !shared.grants.clock {
        wasi.wall_clock(StoppedClock).monotonic_clock(StoppedClock);
    }
    wasi.build()
}

struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= self.shared.limits.memory;
        self.memory_denied |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The pooling allocator bounds the elements; a table without a maximum of its own is bounded
        // there too.
        let _ = maximum;
        Ok(true)
    }
}

/// A part of a bound on what a guest holds on the host, which wasmtime has no bound for.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    held: Arc<AtomicU64>,
}

/// What something costs its guest: given back when the last that keeps that thing is gone.
#[derive(Debug)]
pub(crate) struct Charge {
    held: Arc<AtomicU64>,
    amount: u64,
}

/// A trap: the constructor of a tensor has no other way to refuse.
#[derive(Debug, thiserror::Error)]
#[error("the tensors held exceed the {limit} bytes of limits.tensor_memory")]
pub(crate) struct TensorMemoryExceeded {
    limit: u64,
}

impl Budget {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            held: Arc::default(),
        }
    }

    /// None where so much is not left.
    pub(crate) fn take(&self, amount: u64) -> Option<Charge> {
        let add = |held: u64| held.checked_add(amount).filter(|held| *held <= self.limit);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(Charge {
            held: Arc::clone(&self.held),
            amount,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Guest {
    /// What a resource costs besides what it holds: the entry in the table, the allocations.
    const RESOURCE: u64 = 256;

    /// The charge for a resource that holds so many bytes.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge, TensorMemoryExceeded> {
        let limit = self.tensor_memory.limit;
        let amount = Self::RESOURCE.saturating_add(bytes as u64);
        let charge = self.tensor_memory.take(amount);
        charge.ok_or(TensorMemoryExceeded { limit })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::observer::{LogEntry, Measurement};

    struct Deaf;

    impl Observer for Deaf {
        fn log(&self, _: LogEntry) {}

        fn measure(&self, _: &str, _: Measurement) {}
    }

    /// A guest without models that may hold so many bytes in tensors.
    pub(crate) fn guest(tensor_memory: u64) -> Guest {
        Guest::new(Arc::new(Shared {
            models: HashMap::new(),
            registry: Arc::default(),
            grants: Grants::default(),
            limits: Limits {
                memory: 1 << 20,
                tensor_memory,
                deadline: Duration::from_secs(1),
                request_body: 1 << 20,
                response_body: 1 << 20,
                requests_in_flight: 1,
                weight: NonZeroU32::MIN,
            },
            observer: Arc::new(Deaf),
        }))
    }

    #[test]
    fn a_budget_ends_at_its_limit() {
        let memory = Budget::new(1024);
        let first = memory.take(512).unwrap();
        assert!(memory.take(513).is_none());
        assert!(memory.take(u64::MAX).is_none());
        let rest = memory.take(512).unwrap();
        assert!(memory.take(1).is_none());
        drop(first);
        assert!(memory.take(512).is_some());
        drop(rest);
        assert!(memory.take(1024).is_some());
    }

    #[test]
    fn a_shared_charge_goes_with_its_last_holder() {
        let models = Budget::new(1);
        let graph = Arc::new(models.take(1).unwrap());
        let context = Arc::clone(&graph);
        drop(graph);
        assert!(
            models.take(1).is_none(),
            "the context still keeps the model"
        );
        drop(context);
        assert!(models.take(1).is_some());
    }
}
