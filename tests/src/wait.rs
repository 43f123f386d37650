//! Waiting for something to become true, with an end.

use std::{
    future::Future,
    time::{Duration, Instant},
};

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Asks again and again until `ask` gives something.
///
/// # Panics
/// It did not within `within`.
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        give_up(what, within, started);
        std::thread::sleep(POLL_EVERY);
    }
}

/// As [`until`], for a question that takes time itself.
///
/// # Panics
/// It did not come true within `within`.
pub async fn until_async<T, F>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        give_up(what, within, started);
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn give_up(what: &str, within: Duration, started: Instant) {
    assert!(started.elapsed() < within, "not within {within:?}: {what}");
}
