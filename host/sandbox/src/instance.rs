//! One live sandbox: a store, its component instance, and calls into it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use dunlin_inference::{RunObserver, Signature, Tensor};
use tokio::{sync::oneshot, time::Instant};
use wasmtime::{PoolConcurrencyLimitError, Store};

use crate::{
    alarm::Alarm,
    bindings::{handler, tensor_handler, types},
    engine::{Program, Sandbox},
    error::{
        CallError, GuestFailure, RESPONSE_HEADER_BYTES_MAX, RESPONSE_HEADERS_MAX, ResponseExcess,
    },
    guest::{Guest, Shared},
    streaming::{Outlet, Stream},
    tensors,
};

/// One HTTP request, as the predictor sees it. See `guest-sdk/wit` for the fields.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub id: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// A predictor's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// As the guest gave it: not yet known to be a status of HTTP.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What became of a call, and where its time went.
#[derive(Debug)]
pub struct Called<T> {
    pub answer: Result<T, CallError>,
    pub times: CallTimes,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct CallTimes {
    /// Until an instance took the call, or none could.
    pub instance_wait: Duration,
    /// Within the predictor, where an instance took it.
    pub guest: Option<Duration>,
}

/// By when a call must have its answer.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    budget: Duration,
}

impl Deadline {
    #[must_use]
    pub fn after(budget: Duration) -> Self {
        Self::since(std::time::Instant::now(), budget)
    }

    /// For a call that was asked for at `started`.
    #[must_use]
    pub fn since(started: std::time::Instant, budget: Duration) -> Self {
        Self {
            at: Instant::from_std(started) + budget,
            budget,
        }
    }

    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    pub(crate) fn exceeded(&self) -> CallError {
        CallError::DeadlineExceeded(self.budget)
    }
}

pub(crate) struct Instance {
    store: Store<Guest>,
    alarm: Alarm,
    handler: handler::Guest,
    tensors: Option<tensor_handler::Guest>,
    pub(crate) calls: u64,
}

/// Why a call into a guest did not return.
enum Stopped {
    Deadline(Deadline),
    Trap(wasmtime::Error),
}

impl Instance {
    /// Instantiates the program and runs its `init`.
    pub(crate) async fn start(
        sandbox: &Sandbox,
        program: &Program,
        shared: &Arc<Shared>,
        config: &str,
        deadline: Deadline,
    ) -> Result<Self, CallError> {
        let mut instance = Self::instantiate(sandbox, program, shared).await?;
        instance
            .store
            .data_mut()
            .begin_call("", deadline, None, None);
        let init = instance.handler.call_init(&mut instance.store, config);
        let outcome = before(&mut instance.alarm, deadline, pin!(init)).await;
        outcome
            .map_err(|stopped| instance.explain(stopped))?
            .map_err(GuestFailure::from)?;
        Ok(instance)
    }

    async fn instantiate(
        sandbox: &Sandbox,
        program: &Program,
        shared: &Arc<Shared>,
    ) -> Result<Self, CallError> {
        match Self::try_instantiate(sandbox, program, shared).await {
            Err(error) if error.is::<PoolConcurrencyLimitError>() => {}
            outcome => return outcome.map_err(CallError::Trap),
        }
        // Every place is taken: one that is only kept warm, for whichever predictor, gives way.
        let Some(idle) = sandbox.reclaim_idle() else {
            return Err(CallError::Overloaded);
        };
        drop(idle);
        Self::try_instantiate(sandbox, program, shared)
            .await
            .map_err(|error| {
                if error.is::<PoolConcurrencyLimitError>() {
                    CallError::Overloaded
                } else {
                    CallError::Trap(error)
                }
            })
    }

    async fn try_instantiate(
        sandbox: &Sandbox,
        program: &Program,
        shared: &Arc<Shared>,
    ) -> wasmtime::Result<Self> {
        let mut store = Store::new(sandbox.engine(), Guest::new(Arc::clone(shared)));
        store.limiter(|guest| guest);
        // At every epoch the guest gives its thread back; what bounds a call is the deadline of the
        // future that waits for it.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let limits = &shared.limits;
        let transfer_max = limits.tensor_memory.max(limits.response_body);
        store.set_hostcall_fuel(usize::try_from(transfer_max).unwrap_or(usize::MAX));
        let instance = program.instance_pre.instantiate_async(&mut store).await?;
        let handler = program.handler.load(&mut store, &instance)?;
        let tensors = match &program.tensors {
            Some(indices) => Some(indices.load(&mut store, &instance)?),
            None => None,
        };
        Ok(Self {
            store,
            alarm: Alarm::default(),
            handler,
            tensors,
            calls: 0,
        })
    }

    pub(crate) async fn predict(
        &mut self,
        request: Request<'_>,
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
        stream: oneshot::Sender<Stream>,
    ) -> Result<Response, CallError> {
        self.begin(
            request.id,
            deadline,
            runs,
            Some(Outlet::new(stream, deadline)),
        );
        let left = deadline.at.saturating_duration_since(Instant::now());
        let request = types::Request {
            id: request.id,
            method: request.method,
            path: request.path,
            query: request.query,
            headers: request.headers,
            body: request.body,
            timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        let call = self.handler.call_predict(&mut self.store, request);
        let outcome = before(&mut self.alarm, deadline, pin!(call)).await;
        let response = outcome
            .map_err(|stopped| self.explain(stopped))?
            .map_err(GuestFailure::from)?;
        check_headers(&response.headers)?;
        self.check_size(response.body.len() as u64)?;
        Ok(Response {
            status: response.status,
            headers: response.headers,
            body: response.body,
        })
    }

    pub(crate) async fn describe(
        &mut self,
        deadline: Deadline,
    ) -> Result<Option<Signature>, CallError> {
        let Some(tensors) = &self.tensors else {
            return Ok(None);
        };
        let call = tensors.call_describe(&mut self.store);
        let outcome = before(&mut self.alarm, deadline, pin!(call)).await;
        let signature = outcome.map_err(|stopped| self.explain(stopped))?;
        Ok(Some(tensors::signature(signature)?))
    }

    pub(crate) async fn infer(
        &mut self,
        request_id: &str,
        inputs: &[(String, Tensor)],
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
    ) -> Result<Vec<(String, Tensor)>, CallError> {
        self.begin(request_id, deadline, runs, None);
        let Some(handler) = &self.tensors else {
            return Err(CallError::NoTensorHandler);
        };
        let inputs: Vec<_> = inputs
            .iter()
            .map(|(name, tensor)| tensors::to_guest(name, tensor))
            .collect();
        let call = handler.call_infer(&mut self.store, &inputs);
        let outcome = before(&mut self.alarm, deadline, pin!(call)).await;
        let outputs = outcome
            .map_err(|stopped| self.explain(stopped))?
            .map_err(GuestFailure::from)?;
        self.check_size(outputs.iter().map(tensors::size).sum())?;
        outputs.into_iter().map(tensors::to_host).collect()
    }

    fn begin(
        &mut self,
        request_id: &str,
        deadline: Deadline,
        runs: Option<Arc<dyn RunObserver>>,
        outlet: Option<Outlet>,
    ) {
        self.calls += 1;
        let guest = self.store.data_mut();
        guest.begin_call(request_id, deadline, runs, outlet);
    }

    fn check_size(&self, size: u64) -> Result<(), CallError> {
        let limit = self.store.data().shared.limits.response_body;
        if size > limit {
            let excess = ResponseExcess::Body { size, limit };
            return Err(CallError::ResponseTooLarge { excess });
        }
        Ok(())
    }

    fn explain(&self, stopped: Stopped) -> CallError {
        match stopped {
            Stopped::Deadline(deadline) => deadline.exceeded(),
            Stopped::Trap(trap) => self.store.data().explain(trap),
        }
    }
}

pub(crate) fn check_headers(headers: &[(String, String)]) -> Result<(), CallError> {
    let sizes = headers.iter().map(|(name, value)| name.len() + value.len());
    let (count, size) = (headers.len(), sizes.sum());
    if count > RESPONSE_HEADERS_MAX || size > RESPONSE_HEADER_BYTES_MAX {
        let excess = ResponseExcess::Headers { count, size };
        return Err(CallError::ResponseTooLarge { excess });
    }
    Ok(())
}

/// The call's outcome, if it has one by the deadline.
///
/// The clock is also read at every epoch at which the guest gives its thread back: while guests keep
/// all threads busy, the runtime gets to its timers only now and then.
async fn before<T>(
    alarm: &mut Alarm,
    deadline: Deadline,
    mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<T, Stopped> {
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(outcome) => Poll::Ready(outcome.map_err(Stopped::Trap)),
        Poll::Pending if Instant::now() >= deadline.at => {
            Poll::Ready(Err(Stopped::Deadline(deadline)))
        }
        Poll::Pending => {
            let late = alarm.poll(deadline.at, context);
            late.map(|()| Err(Stopped::Deadline(deadline)))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_bounds() {
        let header = |bytes: usize| ("x".to_owned(), "v".repeat(bytes - 1));
        assert!(check_headers(&vec![header(256); 256]).is_ok());
        assert!(check_headers(&vec![header(1); 257]).is_err());
        assert!(check_headers(&[header(64 << 10)]).is_ok());
        let error = check_headers(&[header(64 << 10), header(1)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the predictor answered with 2 headers of 65537 bytes, and 256 of 65536 are the most"
        );
    }
}
