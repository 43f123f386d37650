//! A future that goes on at once when it is woken while it is being polled.
//!
//! hyper's connection wakes itself two or three times a request: a body is read once somebody asks
//! for it, and that somebody is polled by the same task. To the runtime such a wake is a task that
//! yields, and it goes to the end of the queue. Here it is polled again instead.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::{outbox, room};

/// Who has been at it for so long when a poll ends yields indeed: a guest that computes does it in this
/// way, at every epoch.
const AT_ONCE: Duration = Duration::from_micros(500);

const POLLING: u8 = 1;
const WOKEN: u8 = 2;

pub(crate) struct Prompt<F> {
    inner: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

struct Wakes {
    /// [`POLLING`] while the future is being polled, [`WOKEN`] once it was woken since that began.
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F: Future> Prompt<F> {
    pub(crate) fn new(inner: F) -> Self {
        let wakes = Arc::new(Wakes {
            state: AtomicU8::new(0),
            task: AtomicWaker::new(),
        });
        Self {
            inner: Box::pin(inner),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.fetch_or(WOKEN, Ordering::AcqRel);
        if before & POLLING == 0 {
            self.task.wake();
        }
    }
}

/// A poll has taken so long.
fn ended(began: Instant, took: Duration) {
    outbox::polled(took);
    room::leave(began + took);
}

impl<F: Future> Future for Prompt<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let state = &this.wakes.state;
        let began = Instant::now();
        this.wakes.task.register(context.waker());
        loop {
            state.swap(POLLING, Ordering::AcqRel);
            let polled = this
                .inner
                .as_mut()
                .poll(&mut Context::from_waker(&this.waker));
            let woken = state.swap(0, Ordering::AcqRel) & WOKEN != 0;
            let took = began.elapsed();
            if polled.is_ready() || !woken {
                ended(began, took);
                return polled;
            }
            if took >= AT_ONCE {
                ended(began, took);
                // After the runtime has looked at what has arrived.
                let later = pin!(tokio::task::yield_now()).poll(context);
                debug_assert!(later.is_pending());
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{self, poll_fn},
        sync::atomic::AtomicU32,
        thread,
    };

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn get(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// Ready once it has woken itself so many times, each after so long.
    async fn wakes_itself(times: u32, after: Duration, polls: &AtomicU32) {
        poll_fn(|context| {
            if polls.fetch_add(1, Ordering::Relaxed) == times {
                return Poll::Ready(());
            }
            thread::sleep(after);
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn poll<F: Future>(prompt: &mut Prompt<F>, told: &Arc<Count>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(told));
        Pin::new(prompt).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn who_wakes_itself_goes_on_and_the_task_is_not_told() {
        let told = Arc::new(Count::default());
        let polls = AtomicU32::new(0);
        let mut prompt = Prompt::new(wakes_itself(3, Duration::ZERO, &polls));
        assert!(poll(&mut prompt, &told).is_ready());
        assert_eq!(told.get(), 0);
    }

    #[test]
    fn who_has_been_at_it_for_long_yields() {
        let told = Arc::new(Count::default());
        let polls = AtomicU32::new(0);
        let mut prompt = Prompt::new(wakes_itself(1000, AT_ONCE, &polls));
        for times in 1..3 {
            assert!(poll(&mut prompt, &told).is_pending());
            assert_eq!((told.get(), polls.load(Ordering::Relaxed)), (times, times));
        }
    }

    #[test]
    fn who_is_woken_by_another_tells_its_task() {
        let told = Arc::new(Count::default());
        let (send, receive) = oneshot::channel();
        let mut prompt = Prompt::new(receive);
        assert!(poll(&mut prompt, &told).is_pending());
        assert_eq!(told.get(), 0);
        send.send(7).unwrap();
        assert_eq!(told.get(), 1);
        assert_eq!(poll(&mut prompt, &told), Poll::Ready(Ok(7)));
        let mut forever = Prompt::new(future::pending::<()>());
        assert!(poll(&mut forever, &told).is_pending());
        assert_eq!(told.get(), 1);
    }

    /// A lost wake would leave it waiting for good.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_of_another_thread_is_lost() {
        for _ in 0..2000 {
            let (there, mut question) = tokio::sync::mpsc::channel::<u32>(1);
            let (answer, mut back) = tokio::sync::mpsc::channel::<u32>(1);
            tokio::spawn(Prompt::new(async move {
                while let Some(number) = question.recv().await {
                    let _gone = answer.send(number + 1).await;
                }
            }));
            let asking = tokio::spawn(Prompt::new(async move {
                let mut number = 0;
                while number < 20 {
                    there.send(number).await.unwrap();
                    number = back.recv().await.unwrap();
                }
            }));
            asking.await.unwrap();
        }
    }
}
