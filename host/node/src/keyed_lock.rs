//! One lock for each key, made when it is wanted and forgotten when nobody holds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

#[derive(Default)]
pub(crate) struct KeyedLock(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl KeyedLock {
    /// Waits, in the order of the calls, until nobody else holds this key.
    pub(crate) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A lock that only the map knows is neither held nor waited for.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(key.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_key_is_held_once_and_other_keys_are_free() {
        let locks = KeyedLock::default();
        let held = locks.lock("a").await;
        assert!(locks.lock("a").now_or_never().is_none());
        assert!(locks.lock("b").now_or_never().is_some());
        drop(held);
        assert!(locks.lock("a").now_or_never().is_some());
        let _other = locks.lock("c").await;
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
