//! Whether a call has others to share its run with.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Whether a call that finds the engine idle is likely to have others right behind it.
///
/// To see them it has to let go of its thread, which costs more than a short run. So who was alone
/// several times is taken to stay so, but for a look now and then.
#[derive(Default)]
pub(super) struct Company {
    /// Calls since one had company.
    alone: AtomicU32,
}

impl Company {
    const SEVERAL: u32 = 8;
    const LOOK: u32 = 64;

    pub(super) fn is_likely(&self) -> bool {
        let alone = self.alone.load(Ordering::Relaxed);
        alone < Self::SEVERAL || alone.is_multiple_of(Self::LOOK)
    }

    pub(super) fn note(&self, has_company: bool) {
        if has_company {
            self.alone.store(0, Ordering::Relaxed);
        } else {
            self.alone.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lets the tasks go first that are as good as here.
///
/// A task whose parts wake each other may be polled again at once, without the runtime having looked
/// at any other. So the runtime's own word is waited for.
pub(super) async fn let_others_come() {
    let mut been: Option<Arc<Been>> = None;
    poll_fn(|context| match &been {
        Some(been) => been.poll(context),
        None => {
            let been = been.insert(Arc::new(Been(Mutex::new(Some(context.waker().clone())))));
            let waker = Waker::from(Arc::clone(been));
            pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker))
        }
    })
    .await;
}

/// Whom the runtime is to tell once it has been at the others; `None` when it has.
struct Been(Mutex<Option<Waker>>);

impl Been {
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self.task() {
            None => Poll::Ready(()),
            Some(task) => {
                task.clone_from(context.waker());
                Poll::Pending
            }
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Been {
    fn wake(self: Arc<Self>) {
        let task = self.task().take();
        if let Some(task) = task {
            task.wake();
        }
    }
}
