//! What a store holds for its guest, and the bounds of it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_inference::{Model, Registry};
use edge_config::{Grants, Limits};
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};

use crate::{
    call_log::{CallLog, GuestOutput},
    error::CallError,
    observer::{LogLevel, Observer},
};

/// Tensors, graphs and streams that a guest may hold at once.
const RESOURCES_MAX: usize = 4096;

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
    pub(crate) tensor_memory: TensorMemory,
    pub(crate) started: Instant,
    wasi: WasiCtx,
    pub(crate) log: CallLog,
    memory_denied: bool,
}

impl Guest {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let log = CallLog::new(Arc::clone(&shared.observer));
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            wasi: wasi(&shared, &log),
            tensor_memory: TensorMemory::new(shared.limits.tensor_memory),
            table,
            started: Instant::now(),
            log,
            memory_denied: false,
            shared,
        }
    }

    /// What the guest logs from here on belongs to this request.
    pub(crate) fn begin_call(&mut self, request_id: &str) {
        self.log.begin(request_id);
        // A guest that was refused memory and lived on is not to blame for it in a later call.
        self.memory_denied = false;
    }

    /// Says what a trap was about, as far as the host knows better than the engine.
    pub(crate) fn explain(&self, trap: wasmtime::Error) -> CallError {
        if trap.downcast_ref::<TensorMemoryExceeded>().is_some() {
            return CallError::TensorMemory {
                limit: self.tensor_memory.limit,
            };
        }
        if self.memory_denied {
            return CallError::OutOfMemory {
                limit: self.shared.limits.memory,
            };
        }
        if trap.downcast_ref() == Some(&wasmtime::Trap::StackOverflow) {
            return CallError::StackOverflow;
        }
        CallError::Trap(trap)
    }
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

/// Bytes that a guest holds on the host through tensors and graphs it loaded itself: wasmtime has no
/// bound for them.
pub(crate) struct TensorMemory {
    limit: u64,
    held: u64,
}

/// A trap: the constructor of a tensor has no other way to refuse.
#[derive(Debug, thiserror::Error)]
#[error("the tensors held exceed limits.tensor_memory")]
pub(crate) struct TensorMemoryExceeded;

impl TensorMemory {
    /// What a tensor costs besides its data.
    const OVERHEAD: u64 = 256;

    fn new(limit: u64) -> Self {
        Self { limit, held: 0 }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), TensorMemoryExceeded> {
        let held = self.held.saturating_add(bytes as u64 + Self::OVERHEAD);
        if held > self.limit {
            return Err(TensorMemoryExceeded);
        }
        self.held = held;
        Ok(())
    }

    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes as u64 + Self::OVERHEAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_memory_ends_at_its_limit() {
        let mut memory = TensorMemory::new(1024);
        memory.take(256).unwrap();
        assert!(
            memory.take(257).is_err(),
            "256 + 257 and twice the overhead"
        );
        memory.take(256).unwrap();
        assert!(memory.take(0).is_err());
        memory.give_back(256);
        memory.take(256).unwrap();
        assert!(memory.take(usize::MAX >> 1).is_err());
    }
}
