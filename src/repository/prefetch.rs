//! A stored file as one stream, read in large blocks by several requests at once.
//!
//! One connection seldom fills a line, and an answer takes its time to begin. So a few threads fetch
//! the next blocks while the reader takes this one. They hold at most [`WINDOW`] blocks, and end when
//! the reader is dropped or the file has ended.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use crate::store::{Key, Store, StoreError};

/// Blocks that are held or on their way.
const WINDOW: u64 = 4;

/// The stream. Dropping it ends its threads, once what they read has come.
pub(crate) struct Prefetch {
    shared: Arc<Shared>,
    block: Vec<u8>,
    taken: usize,
}

struct Shared {
    len: u64,
    block_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Guarded by [`Shared::state`].
#[derive(Default)]
struct State {
    /// The next block that nobody fetches yet, and the next that the reader wants.
    next: u64,
    wanted: u64,
    fetched: BTreeMap<u64, Result<Vec<u8>, StoreError>>,
    reader_has_left: bool,
    panicked: bool,
    /// Why the stream broke, for those who see the reader's error only through somebody else.
    failure: Option<StoreError>,
}

/// Tells, when the stream is gone, whether the store broke it.
pub(crate) struct Failure(Arc<Shared>);

impl Failure {
    pub(crate) fn take(&self) -> Option<StoreError> {
        self.0.lock().failure.take()
    }
}

impl Prefetch {
    /// Reads `key`, which has `len` bytes, and holds about `memory_bytes`. `threads`: requests at
    /// once, at most.
    pub(crate) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        store: &'env dyn Store,
        (key, len): (Key, u64),
        memory_bytes: u64,
        threads: usize,
    ) -> io::Result<Self> {
        let block_bytes = (memory_bytes / WINDOW).clamp(64 << 10, 8 << 20);
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { len, block_bytes, state, changed });
        let blocks = len.div_ceil(block_bytes);
        for number in 0..blocks.min(WINDOW).min(threads.max(1) as u64) {
            let (shared, key) = (Arc::clone(&shared), key.clone());
            std::thread::Builder::new()
                .name(format!("prefetch.{number}"))
                .spawn_scoped(scope, move || shared.fetch(store, &key))?;
        }
        Ok(Prefetch { shared, block: Vec::new(), taken: 0 })
    }

    /// To be asked later.
    pub(crate) fn failure(&self) -> Failure {
        Failure(Arc::clone(&self.shared))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block_bytes)
    }

    /// A thread's work.
    fn fetch(&self, store: &dyn Store, key: &Key) {
        while let Some(number) = self.take_next() {
            let start = number * self.block_bytes;
            let range = start..self.len.min(start + self.block_bytes);
            let get = || store.get(key, Some(range), self.block_bytes);
            let got = catch_unwind(AssertUnwindSafe(get));
            let mut state = self.lock();
            match got {
                Ok(got) => drop(state.fetched.insert(number, got.map(|(bytes, _)| bytes))),
                Err(_) => state.panicked = true,
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn take_next(&self) -> Option<u64> {
        let is_full = |state: &mut State| {
            state.next >= state.wanted + WINDOW && !state.reader_has_left && !state.panicked
        };
        let state = self.changed.wait_while(self.lock(), is_full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.reader_has_left || state.panicked || state.next >= self.blocks() {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }
}

impl Read for Prefetch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.block.len() {
            let state = self.shared.lock();
            let number = state.wanted;
            if number >= self.shared.blocks() {
                return Ok(0);
            }
            let is_awaited =
                |state: &mut State| !state.fetched.contains_key(&number) && !state.panicked;
            let state = self.shared.changed.wait_while(state, is_awaited);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            let Some(fetched) = state.fetched.remove(&number) else {
                return Err(io::Error::other("a thread that reads ahead panicked"));
            };
            let block = fetched.map_err(|error| {
                state.failure = Some(error.clone());
                io::Error::other(error)
            })?;
            let start = number * self.shared.block_bytes;
            let wanted = self.shared.block_bytes.min(self.shared.len - start);
            if block.len() as u64 != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            state.wanted += 1;
            drop(state);
            (self.block, self.taken) = (block, 0);
            self.shared.changed.notify_all();
        }
        let read = (&self.block[self.taken..]).read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.lock().reader_has_left = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use crate::store::{ObjectHeaders, StoreErrorKind};

    fn stored(len: u64) -> (MemoryStore, Key, Vec<u8>) {
        let (store, key) = (MemoryStore::new(), Key::new("file").unwrap());
        let bytes: Vec<u8> = (0..len).map(|at| (at / 1000 + at) as u8).collect();
        store.put(&key, &bytes, ObjectHeaders::changing("text/plain"), None).unwrap();
        (store, key, bytes)
    }

    fn read(store: &MemoryStore, key: &Key, len: u64, threads: usize) -> io::Result<Vec<u8>> {
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            Prefetch::start(scope, store, (key.clone(), len), 0, threads)?.read_to_end(&mut all)?;
            Ok(all)
        })
    }

    #[test]
    fn file_comes_in_order_whatever_its_length_and_the_number_of_threads() {
        for len in [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20] {
            let (store, key, bytes) = stored(len);
            for threads in [0, 1, 2, 9] {
                assert!(read(&store, &key, len, threads).unwrap() == bytes, "{len}, {threads}");
            }
        }
    }

    #[test]
    fn failure_of_the_store_is_the_readers_and_a_shorter_file_has_no_end() {
        let (store, key, _) = stored(1 << 20);
        assert!(read(&store, &key, (1 << 20) + 1, 3).is_err());
        store.inject(Fault::new(StoreErrorKind::Denied).on(Operation::Get).nth(3));
        let error = read(&store, &key, 1 << 20, 3).unwrap_err();
        assert!(error.get_ref().unwrap().is::<StoreError>());
    }

    #[test]
    fn reader_that_leaves_early_ends_the_threads() {
        let (store, key, _) = stored(1 << 20);
        std::thread::scope(|scope| {
            let file = (key, 1 << 20);
            let mut stream = Prefetch::start(scope, &store, file, 0, 4).unwrap();
            stream.read_exact(&mut [0; 10]).unwrap();
        });
        assert!(store.count(Operation::Get) <= WINDOW as usize + 1);
    }
}
