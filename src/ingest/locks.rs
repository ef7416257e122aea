//! One lock per conversation, held from reading its state to the commit that changes it, so that events of one
//! conversation follow each other and events of different ones do not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::outbox::ConversationKey;

/// Entries before the first clean-up of keys that nobody holds.
const CLEAN_UP: usize = 1024;

#[derive(Default)]
pub(super) struct Locks {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_key: HashMap<ConversationKey, Weak<AsyncMutex<()>>>,
    clean_up_at: usize,
}

impl Locks {
    /// Locks all `keys`. Sorted first, so that two requests cannot wait for each other.
    pub async fn lock(&self, mut keys: Vec<ConversationKey>) -> Vec<OwnedMutexGuard<()>> {
        keys.sort();
        keys.dedup();
        let mut guards = Vec::with_capacity(keys.len());
        for key in keys {
            guards.push(self.of(key).lock_owned().await);
        }
        guards
    }

    fn of(&self, key: ConversationKey) -> Arc<AsyncMutex<()>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = inner.by_key.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if inner.by_key.len() >= inner.clean_up_at.max(CLEAN_UP) {
            inner.by_key.retain(|_, lock| lock.strong_count() > 0);
            inner.clean_up_at = inner.by_key.len() * 2;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        inner.by_key.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> ConversationKey {
        ConversationKey { namespace: "".into(), id: id.into() }
    }

    #[tokio::test]
    async fn one_conversation_waits_and_another_does_not() {
        let locks = Arc::new(Locks::default());
        let held = locks.lock(vec![key("b"), key("a"), key("a")]).await;
        assert_eq!(held.len(), 2);
        let other = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.lock(vec![key("a")]).await.len() }
        });
        assert_eq!(locks.lock(vec![key("c")]).await.len(), 1);
        tokio::task::yield_now().await;
        assert!(!other.is_finished());
        drop(held);
        assert_eq!(other.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn unused_locks_are_forgotten() {
        let locks = Locks::default();
        for i in 0..CLEAN_UP * 4 {
            drop(locks.lock(vec![key(&i.to_string())]).await);
        }
        assert!(locks.inner.lock().unwrap().by_key.len() <= CLEAN_UP + 1);
    }
}
