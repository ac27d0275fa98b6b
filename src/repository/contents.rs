//! Contents of stored objects in memory, and those being read or rebuilt: an LRU by bytes.
//!
//! Single-flight: the first thread that needs a content makes it, others that need the same one wait
//! on its condvar. That wait is for work that runs, never for work in a queue, so it always ends.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// An object's content.
pub(crate) type Content = Arc<Vec<u8>>;

/// By offset in one pack.
pub(crate) struct Contents {
    budget_bytes: u64,
    inner: Mutex<Inner>,
}

/// Guarded by [`Contents::inner`].
struct Inner {
    /// Weighed by [`weight`].
    lru: LruCache<u64, Content>,
    lru_bytes: u64,
    /// Being read now.
    reading: HashMap<u64, Arc<Reading>>,
}

/// A read under way. `None`: still running; `Some(None)`: it failed.
#[derive(Default)]
struct Reading {
    done: Mutex<Option<Option<Content>>>,
    changed: Condvar,
}

impl Contents {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        let inner = Inner { lru: LruCache::unbounded(), lru_bytes: 0, reading: HashMap::new() };
        Contents { budget_bytes, inner: Mutex::new(inner) }
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.lru.clear();
        inner.lru_bytes = 0;
    }

    /// Remembers content that can be read again.
    pub(crate) fn remember(&self, offset: u64, content: Content) {
        self.lock().remember(offset, content, self.budget_bytes);
    }

    /// The content, if it is in memory.
    pub(crate) fn get(&self, offset: u64) -> Option<Content> {
        let mut inner = self.lock();
        inner.get(offset)
    }

    /// The content: from memory, from a read that is running, or by `read`. `None` when another
    /// thread's read of it failed; that thread has reported why.
    pub(crate) fn get_or_read<E>(
        &self,
        offset: u64,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Option<Content>, E> {
        let reading = {
            let mut inner = self.lock();
            if let Some(content) = inner.get(offset) {
                return Ok(Some(content));
            }
            match inner.reading.get(&offset) {
                Some(reading) => Err(Arc::clone(reading)),
                None => {
                    let reading = Arc::new(Reading::default());
                    inner.reading.insert(offset, Arc::clone(&reading));
                    Ok(reading)
                }
            }
        };
        match reading {
            Err(others) => Ok(others.wait()),
            Ok(ours) => {
                // Signals a failure to the waiters on every way out, a panic included.
                let ending = EndReading { contents: self, offset, reading: ours };
                let content = Arc::new(read()?);
                ending.succeed(&content);
                Ok(Some(content))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn get(&mut self, offset: u64) -> Option<Content> {
        self.lru.get(&offset).cloned()
    }

    fn remember(&mut self, offset: u64, content: Content, budget_bytes: u64) {
        self.lru_bytes += weight(&content);
        if let Some(old) = self.lru.put(offset, content) {
            self.lru_bytes -= weight(&old);
        }
        while self.lru_bytes > budget_bytes {
            let Some((_, evicted)) = self.lru.pop_lru() else { break };
            self.lru_bytes -= weight(&evicted);
        }
    }
}

/// Bytes that an object in the LRU costs: its allocation, and about 100 for the links and the map.
fn weight(content: &Content) -> u64 {
    content.capacity() as u64 + 100
}

impl Reading {
    fn wait(&self) -> Option<Content> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*done {
                Some(outcome) => return outcome.clone(),
                None => done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn signal(&self, outcome: Option<Content>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.get_or_insert(outcome);
        self.changed.notify_all();
    }
}

struct EndReading<'a> {
    contents: &'a Contents,
    offset: u64,
    reading: Arc<Reading>,
}

impl EndReading<'_> {
    fn succeed(self, content: &Content) {
        self.contents.remember(self.offset, Arc::clone(content));
        self.reading.signal(Some(Arc::clone(content)));
    }
}

impl Drop for EndReading<'_> {
    fn drop(&mut self) {
        self.contents.lock().reading.remove(&self.offset);
        self.reading.signal(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn content(len: usize) -> Content {
        Arc::new(vec![0; len])
    }

    #[test]
    fn least_recently_used_content_leaves_first() {
        let contents = Contents::new(1000);
        contents.remember(0, content(300));
        contents.remember(1, content(300));
        assert!(contents.get(0).is_some());
        contents.remember(2, content(300));
        assert!(contents.get(1).is_none());
        assert!(contents.get(0).is_some() && contents.get(2).is_some());
        assert_eq!(contents.lock().lru_bytes, 800);
    }

    #[test]
    fn content_that_many_need_is_read_once() {
        let contents = Contents::new(1000);
        let reads = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let read = || {
                        reads.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok::<_, ()>(vec![7])
                    };
                    assert_eq!(contents.get_or_read(3, read), Ok(Some(Arc::new(vec![7]))));
                });
            }
        });
        assert_eq!(reads.into_inner(), 1);
    }

    #[test]
    fn failed_read_wakes_those_who_wait_and_can_be_tried_again() {
        let contents = Contents::new(1000);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                contents.get_or_read(3, || {
                    std::thread::sleep(Duration::from_millis(100));
                    Err("gone")
                })
            });
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(contents.get_or_read(3, || Err("not asked")), Ok(None));
            assert_eq!(first.join().unwrap(), Err("gone"));
        });
        assert!(contents.get_or_read(3, || Ok::<_, ()>(vec![1])).unwrap().is_some());
    }
}
