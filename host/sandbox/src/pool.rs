//! The instances of one predictor: warm ones waiting for a request, and a bound on how many live.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use dunlin_inference::Striped;
use edge_config::{InstancePolicy, Instances};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    engine::{Program, Sandbox},
    error::CallError,
    guest::Shared,
    instance::{Deadline, Instance},
};

/// How many instances there are at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceCounts {
    pub idle: usize,
    pub busy: usize,
    pub max: usize,
}

pub(crate) struct Pool {
    sandbox: Sandbox,
    program: Arc<Program>,
    shared: Arc<Shared>,
    /// `predictor.config` as JSON.
    config: String,
    policy: Instances,
    /// Those that each thread gave back, which are in its core's caches. The newest last.
    idle: Striped<Mutex<VecDeque<Idle>>>,
    /// A permit for each call. An instance is made only when none is idle, so the permits bound the
    /// instances too.
    calls: Semaphore,
}

/// A warm instance that nobody uses.
pub(crate) struct Idle {
    instance: Instance,
    since: Instant,
}

/// An instance in use. Dropped without [`Lease::give_back`], the instance goes with it: a call that
/// trapped or was given up leaves nothing that another caller could meet.
pub(crate) struct Lease<'p> {
    pool: &'p Pool,
    pub(crate) instance: Instance,
    _call: SemaphorePermit<'p>,
}

impl Pool {
    pub(crate) fn new(
        sandbox: Sandbox,
        program: Arc<Program>,
        shared: Arc<Shared>,
        config: String,
        policy: Instances,
    ) -> Arc<Self> {
        let pool = Arc::new(Self {
            sandbox,
            program,
            shared,
            config,
            calls: Semaphore::new(policy.max as usize),
            policy,
            idle: Striped::default(),
        });
        pool.sandbox.register(&pool);
        tokio::spawn(expire(Arc::downgrade(&pool), pool.policy.idle_timeout));
        pool
    }

    /// A warm instance, or a new one, or a wait for the first to come back.
    pub(crate) async fn take(&self, deadline: Deadline) -> Result<Lease<'_>, CallError> {
        let call = match self.calls.try_acquire() {
            Ok(call) => call,
            Err(_none_free) => {
                let call = tokio::time::timeout_at(deadline.at(), self.calls.acquire()).await;
                let call = call.map_err(|_elapsed| CallError::Overloaded)?;
                call.expect("the semaphore is never closed")
            }
        };
        let instance = match self.take_warm() {
            Some(idle) => idle.instance,
            // In a box: the many calls that find a warm one have no room for it.
            None => Box::pin(self.start(deadline)).await?,
        };
        Ok(Lease {
            pool: self,
            instance,
            _call: call,
        })
    }

    pub(crate) async fn start(&self, deadline: Deadline) -> Result<Instance, CallError> {
        Instance::start(
            &self.sandbox,
            &self.program,
            &self.shared,
            &self.config,
            deadline,
        )
        .await
    }

    pub(crate) fn give_back(&self, instance: Instance) {
        let warm = matches!(self.policy.policy, InstancePolicy::Warm);
        if warm && instance.calls < self.policy.calls_max {
            lock(self.idle.here()).push_back(Idle {
                instance,
                since: Instant::now(),
            });
        }
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        let max = self.policy.max as usize;
        InstanceCounts {
            idle: self.idle.iter().map(|idle| lock(idle).len()).sum(),
            busy: max - self.calls.available_permits().min(max),
            max,
        }
    }

    /// Since when the one that has been idle longest is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let oldest = |idle| lock(idle).front().map(|idle| idle.since);
        self.idle.iter().filter_map(oldest).min()
    }

    pub(crate) fn take_oldest(&self) -> Option<Idle> {
        loop {
            let since = self.idle_since()?;
            let oldest = self.idle.iter().find_map(|idle| take_as_old(idle, since));
            // Where a call has taken that one, there may be others.
            if oldest.is_some() {
                return oldest;
            }
        }
    }

    fn take_expired(&self, now: Instant) -> Option<Idle> {
        let since = now.checked_sub(self.policy.idle_timeout)?;
        self.idle.iter().find_map(|idle| take_as_old(idle, since))
    }

    /// One that this thread gave back, or else another one.
    fn take_warm(&self) -> Option<Idle> {
        let own = lock(self.idle.here()).pop_back();
        own.or_else(|| {
            // All at once: one by one, what comes back behind the look would be missed, and whoever has
            // a permit would start one too many.
            let mut all: Vec<_> = self.idle.in_order().map(lock).collect();
            all.iter_mut().find_map(|idle| idle.pop_back())
        })
    }
}

/// The oldest, where it is idle since then or for longer.
fn take_as_old(idle: &Mutex<VecDeque<Idle>>, since: Instant) -> Option<Idle> {
    let mut idle = lock(idle);
    let is_as_old = idle.front()?.since <= since;
    is_as_old.then(|| idle.pop_front()).flatten()
}

fn lock(idle: &Mutex<VecDeque<Idle>>) -> MutexGuard<'_, VecDeque<Idle>> {
    // Only moves happen under the lock: a panic leaves nothing half done.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease<'_> {
    pub(crate) fn give_back(self) {
        self.pool.give_back(self.instance);
    }
}

/// Drops the instances that have been idle for too long, as long as the pool lives.
async fn expire(pool: Weak<Pool>, idle_timeout: Duration) {
    let period = (idle_timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        tokio::time::sleep(period).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        while let Some(idle) = pool.take_expired(now) {
            drop(idle);
            tokio::task::yield_now().await;
        }
    }
}
