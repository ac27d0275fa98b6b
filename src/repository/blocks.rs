//! Stored files read in pieces: one cache of blocks over ranged GETs, for all who read the bucket.
//!
//! A file is read in aligned blocks of [`BLOCK_BYTES`], because whoever reads a piece wants its
//! neighbours next. Blocks stay in an LRU that is bounded by bytes; besides those, each thread that
//! reads holds the block in its hands. Only files whose bytes never change may be read through it,
//! as all content-addressed keys and a run's temporary ones.
//!
//! **Single flight**: the first reader of a block fetches it, the others wait on a condvar and get
//! what came of it, a failure too. That wait is for a running GET, never for work in a queue, so it
//! always ends. A fetch that panics wakes them as well; one of them fetches then. No request is made
//! under the lock.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::store::{Key, Store, StoreError};

/// What one ranged GET brings.
pub(crate) const BLOCK_BYTES: u64 = 512 << 10;

/// What an entry of the LRU costs beside its bytes: the links, the map and the key.
const ENTRY_BYTES: u64 = 200;

/// The bytes of one block; the last one of a file is shorter.
pub(crate) type Block = Arc<Vec<u8>>;

/// A file by its number in [`Inner::files`], and the number of a block in it, from 0.
type Name = (u32, u64);

/// Blocks of stored files. Shared by all threads that read.
pub(crate) struct BlockCache<'e> {
    store: &'e dyn Store,
    budget_bytes: u64,
    inner: Mutex<Inner>,
}

/// Guarded by [`BlockCache::inner`].
struct Inner {
    /// Files that were asked for, so that a lookup copies no key.
    files: HashMap<Key, u32>,
    cached: LruCache<Name, Block>,
    cached_bytes: u64,
    /// Under way, for others to wait on.
    fetching: HashMap<Name, Arc<Fetch>>,
}

/// A GET under way.
#[derive(Default)]
struct Fetch {
    outcome: Mutex<Outcome>,
    ended: Condvar,
}

#[derive(Clone, Default)]
enum Outcome {
    #[default]
    Running,
    Fetched(Result<Block, StoreError>),
    Panicked,
}

impl<'e> BlockCache<'e> {
    /// Holds at most `budget_bytes`, or two blocks if that is more.
    pub(crate) fn new(store: &'e dyn Store, budget_bytes: u64) -> Self {
        let inner = Inner {
            files: HashMap::new(),
            cached: LruCache::unbounded(),
            cached_bytes: 0,
            fetching: HashMap::new(),
        };
        let budget_bytes = budget_bytes.max(2 * (BLOCK_BYTES + ENTRY_BYTES));
        BlockCache { store, budget_bytes, inner: Mutex::new(inner) }
    }

    /// The bytes of `range` in the file `key`, which has `file_len` bytes. What lies past its end is
    /// left out; so fewer bytes than wanted say that the file is shorter than that.
    pub(crate) fn read(
        &self,
        key: &Key,
        file_len: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let Some((block, from)) = self.block(key, file_len, at)? else { break };
            let piece = &block[from..];
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
            bytes.extend_from_slice(&piece[..wanted]);
            at += wanted as u64;
        }
        Ok(bytes)
    }

    /// The block in which the byte `at` lies, and where in it; `None` past the file's end. For those
    /// who read a stretch of unknown length without copying it.
    pub(crate) fn block(
        &self,
        key: &Key,
        file_len: u64,
        at: u64,
    ) -> Result<Option<(Block, usize)>, StoreError> {
        if at >= file_len {
            return Ok(None);
        }
        let number = at / BLOCK_BYTES;
        let start = number * BLOCK_BYTES;
        let range = start..file_len.min(start + BLOCK_BYTES);
        let block = self.get_or_fetch(key, number, range)?;
        let from = (at - start) as usize;
        Ok((from < block.len()).then_some((block, from)))
    }

    fn get_or_fetch(&self, key: &Key, number: u64, range: Range<u64>) -> Result<Block, StoreError> {
        loop {
            let mut inner = self.lock();
            let name = (inner.file(key), number);
            if let Some(block) = inner.cached.get(&name) {
                return Ok(block.clone());
            }
            let Some(others) = inner.fetching.get(&name).cloned() else {
                let fetch = Arc::<Fetch>::default();
                inner.fetching.insert(name, fetch.clone());
                drop(inner);
                // Wakes those who wait on every way out, a panic included.
                let mut end = EndFetch { cache: self, name, fetch, outcome: Outcome::Panicked };
                let fetched = self.store.get(key, Some(range), BLOCK_BYTES);
                let fetched = fetched.map(|(mut bytes, _)| {
                    // A body of unknown length grew by doubling.
                    bytes.shrink_to_fit();
                    Block::new(bytes)
                });
                end.outcome = Outcome::Fetched(fetched.clone());
                return fetched;
            };
            drop(inner);
            if let Outcome::Fetched(fetched) = others.wait() {
                return fetched;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn file(&mut self, key: &Key) -> u32 {
        if let Some(file) = self.files.get(key) {
            return *file;
        }
        let file = self.files.len() as u32;
        self.files.insert(key.clone(), file);
        file
    }

    fn put(&mut self, name: Name, block: Block, budget_bytes: u64) {
        let cost = |block: &Block| block.len() as u64 + ENTRY_BYTES;
        self.cached_bytes += cost(&block);
        let replaced = self.cached.put(name, block);
        self.cached_bytes -= replaced.as_ref().map_or(0, cost);
        while self.cached_bytes > budget_bytes {
            let Some((_, block)) = self.cached.pop_lru() else { break };
            self.cached_bytes -= cost(&block);
        }
    }
}

impl Fetch {
    fn wait(&self) -> Outcome {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |outcome: &mut Outcome| matches!(outcome, Outcome::Running);
        let ended = self.ended.wait_while(outcome, is_running);
        ended.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Ends a fetch when it is dropped.
struct EndFetch<'c, 'e> {
    cache: &'c BlockCache<'e>,
    name: Name,
    fetch: Arc<Fetch>,
    outcome: Outcome,
}

impl Drop for EndFetch<'_, '_> {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        inner.fetching.remove(&self.name);
        if let Outcome::Fetched(Ok(block)) = &self.outcome {
            inner.put(self.name, block.clone(), self.cache.budget_bytes);
        }
        drop(inner);
        let outcome = std::mem::take(&mut self.outcome);
        *self.fetch.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        self.fetch.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::ObjectHeaders;
    use crate::store::memory::{Fault, MemoryStore, Operation};

    const LEN: u64 = 3 * BLOCK_BYTES + 100;

    fn byte_at(at: u64) -> u8 {
        (at / 1000 + at) as u8
    }

    fn stored() -> (MemoryStore, Key) {
        let (store, key) = (MemoryStore::new(), Key::new("file").unwrap());
        let bytes: Vec<u8> = (0..LEN).map(byte_at).collect();
        store.put(&key, &bytes, ObjectHeaders::changing("text/plain"), None).unwrap();
        store.clear_recorded();
        (store, key)
    }

    #[test]
    fn every_range_is_read_right_and_what_lies_past_the_end_is_left_out() {
        let (store, key) = stored();
        let blocks = BlockCache::new(&store, 10 * BLOCK_BYTES);
        let edges =
            [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 7, LEN - 1, LEN, LEN + 9];
        for start in edges {
            for end in edges.into_iter().filter(|end| *end >= start) {
                let wanted: Vec<u8> = (start..end.min(LEN)).map(byte_at).collect();
                assert!(blocks.read(&key, LEN, start..end).unwrap() == wanted, "{start}..{end}");
            }
        }
        assert_eq!(store.count(Operation::Get), 4);
    }

    #[test]
    fn file_that_is_shorter_than_it_was_gives_fewer_bytes() {
        let (store, key) = stored();
        let blocks = BlockCache::new(&store, 0);
        let claimed = LEN + 50;
        assert_eq!(blocks.read(&key, claimed, LEN - 10..claimed).unwrap().len(), 10);
    }

    #[test]
    fn blocks_stay_within_their_bytes_and_the_oldest_leaves() {
        let (store, key) = stored();
        let blocks = BlockCache::new(&store, 0);
        for number in [0, 1, 0, 2, 0, 1] {
            blocks.read(&key, LEN, number * BLOCK_BYTES..number * BLOCK_BYTES + 1).unwrap();
            assert!(blocks.lock().cached_bytes <= blocks.budget_bytes);
        }
        assert_eq!(store.count(Operation::Get), 4, "0, 1, 2, and 1 again");
    }

    #[test]
    fn block_that_many_want_is_fetched_once() {
        let (store, key) = stored();
        let store = store.with_latency(Duration::from_millis(50));
        let blocks = BlockCache::new(&store, 4 * BLOCK_BYTES);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(blocks.read(&key, LEN, 5..7).unwrap().len(), 2));
            }
        });
        assert_eq!(store.count(Operation::Get), 1);
    }

    #[test]
    fn failure_is_told_to_all_who_wait_and_the_next_reader_tries_again() {
        let (store, key) = stored();
        let store = store.with_latency(Duration::from_millis(200));
        store.inject(Fault::transient().on(Operation::Get).nth(1));
        let blocks = BlockCache::new(&store, 4 * BLOCK_BYTES);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| blocks.read(&key, LEN, 0..1));
            std::thread::sleep(Duration::from_millis(60));
            assert!(blocks.read(&key, LEN, 0..1).is_err());
            assert!(first.join().unwrap().is_err());
        });
        assert_eq!(blocks.read(&key, LEN, 0..1).unwrap(), [byte_at(0)]);
        assert!(blocks.lock().fetching.is_empty());
    }
}
