//! A timer for one deadline after another.
//!
//! Nearly every deadline is met. To set a timer for each and to take it back means two visits to the
//! runtime's list of timers, which all threads share. So a timer stays once it is set, for as long as it
//! goes off before the deadline at hand, and only then is set anew.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

/// For one wait at a time.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

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
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
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

    fn after(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    /// Waits in vain, and gives the milliseconds that it took, which the runtime rounds up.
    async fn waited(alarm: &mut Alarm, milliseconds: u64) -> u128 {
        let began = Instant::now();
        let waited = alarm.by(after(milliseconds), pending::<()>()).await;
        assert_eq!(waited, Err(Late));
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_takes_as_long_as_it_may_whatever_the_timer_was_set_for() {
        let mut alarm = Alarm::default();
        for wait in [100, 300, 50, 200] {
            let took = waited(&mut alarm, wait).await;
            assert!(
                (u128::from(wait)..=u128::from(wait) + 1).contains(&took),
                "{took}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_was_met_does_not_end_the_next_wait() {
        let mut alarm = Alarm::default();
        for _ in 0..10 {
            let work = tokio::time::sleep(Duration::from_millis(60));
            assert_eq!(alarm.by(after(100), work).await, Ok(()));
        }
        let took = waited(&mut alarm, 100).await;
        assert!((100..=101).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sooner_deadline_is_not_waited_out() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.by(after(10_000), async {}).await, Ok(()));
        let work = tokio::time::sleep(Duration::from_millis(1));
        assert_eq!(alarm.by(after(10_000), work).await, Ok(()));
        let took = waited(&mut alarm, 20).await;
        assert!((20..=21).contains(&took), "{took}");
    }
}
