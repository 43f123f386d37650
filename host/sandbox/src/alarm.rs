//! A timer for one deadline after another.
//!
//! Nearly every deadline is met. To set a timer for each and to take it back means two visits to the
//! runtime's list of timers. So a timer stays once it is set, for as long as it goes off before the
//! deadline at hand, and only then is set anew.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, Sleep},
};

/// For one wait at a time.
#[derive(Debug, Default)]
pub struct Alarm(Option<Timer>);

#[derive(Debug)]
struct Timer {
    /// Which goes off only when that looks for what has arrived.
    runtime: Id,
    sleep: Pin<Box<Sleep>>,
}

/// The deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

impl Alarm {
    /// What comes of `work`, if it comes by `at`.
    ///
    /// # Errors
    /// It does not.
    pub async fn by<T>(&mut self, at: Instant, work: impl Future<Output = T>) -> Result<T, Late> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(outcome) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(outcome));
            }
            self.poll(at, context).map(|()| Err(Late))
        })
        .await
    }

    /// Ready once `at` has come.
    pub fn poll(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let runtime = Handle::current().id();
        let own = self.0.take().filter(|timer| timer.runtime == runtime);
        let Timer { sleep, .. } = self.0.insert(own.unwrap_or_else(|| Timer {
            runtime,
            sleep: Box::pin(tokio::time::sleep_until(at)),
        }));
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    fn after(wait: Duration) -> Instant {
        Instant::now() + wait
    }

    /// Waits in vain, and says how long that was.
    async fn waited(alarm: &mut Alarm, wait: Duration) -> Duration {
        let began = Instant::now();
        let waited = alarm.by(after(wait), pending::<()>()).await;
        assert_eq!(waited, Err(Late));
        began.elapsed()
    }

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_millis(30);
    const FOR_EVER: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn no_wait_ends_before_its_time_whatever_the_timer_was_set_for() {
        let mut alarm = Alarm::default();
        for wait in [SHORT, LONG, SHORT, LONG] {
            let took = waited(&mut alarm, wait).await;
            assert!(took >= wait, "{took:?}");
        }
    }

    #[tokio::test]
    async fn a_deadline_that_was_met_does_not_end_the_next_wait() {
        let mut alarm = Alarm::default();
        let work = tokio::task::yield_now();
        assert_eq!(alarm.by(after(4 * LONG), work).await, Ok(()));
        let took = waited(&mut alarm, 6 * LONG).await;
        assert!(took >= 6 * LONG, "{took:?}");
    }

    /// It would wait for as long as the tests may.
    #[tokio::test]
    async fn a_sooner_deadline_is_not_waited_out() {
        let mut alarm = Alarm::default();
        let work = tokio::time::sleep(SHORT);
        assert_eq!(alarm.by(after(FOR_EVER), work).await, Ok(()));
        waited(&mut alarm, LONG).await;
    }
}
