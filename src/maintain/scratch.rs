//! A store that can be read and not written: temporary keys are kept in memory, within a bound.
//!
//! For checking a pack: what the ingest lays down for a while (a large base, so that it can be read
//! at an offset) must not go into a mirror that is only looked at. Over the bound it is an error, and
//! the object has to be checked with more memory.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::repository::temp::TEMP_PREFIX;
use crate::store::memory::MemoryStore;
use crate::store::{
    Condition, ETag, Key, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store, StoreError,
    StoreErrorKind, Upload,
};

/// See the module's page.
pub(crate) struct Scratch<'e> {
    inner: &'e dyn Store,
    memory: MemoryStore,
    left_bytes: AtomicU64,
}

impl<'e> Scratch<'e> {
    pub(crate) fn new(inner: &'e dyn Store, most_bytes: u64) -> Self {
        Scratch { inner, memory: MemoryStore::new(), left_bytes: AtomicU64::new(most_bytes) }
    }

    /// Where a key is read and written.
    fn of(&self, key: &Key) -> &dyn Store {
        if key.as_str().starts_with(TEMP_PREFIX) { &self.memory } else { self.inner }
    }

    fn writable(&self, key: &Key, bytes: usize) -> Result<&MemoryStore, StoreError> {
        if !key.as_str().starts_with(TEMP_PREFIX) {
            return Err(self.refused("write", key.as_str(), "the mirror is read-only here"));
        }
        // Requests are recorded for tests alone.
        self.memory.clear_recorded();
        let take = |left: u64| left.checked_sub(bytes as u64);
        match self.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(&self.memory),
            Err(_) => Err(self.refused("keep", key.as_str(), "more memory is needed: --memory")),
        }
    }

    fn refused(&self, verb: &'static str, key: &str, why: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Unsupported, verb, key, why)
    }
}

impl Store for Scratch<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.of(key).get(key, range, max_len)
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.of(key).open(key, offset)
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.of(key).head(key)
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.writable(key, body.len())?.put(key, body, headers, condition)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| self.writable(key, 0)?.delete(std::slice::from_ref(key)))
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.inner.list_unchecked(prefix, page)
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.writable(to, 0)?.copy(from, to, headers)
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.writable(key, 0)?.create_upload(key, headers)
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        // The parts, and the whole that they become.
        self.writable(&upload.key, 2 * body.len())?.put_part(upload, number, body)
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.writable(&upload.key, 0)?.copy_part(upload, number, from, range)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.writable(&upload.key, 0)?.complete_upload(upload, parts)
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.writable(&upload.key, 0)?.abort_upload(upload)
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.inner.list_uploads_unchecked(prefix)
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_keys_are_written_and_they_stay_in_memory_within_the_bound() {
        let inner = MemoryStore::new();
        let scratch = Scratch::new(&inner, 100);
        let headers = ObjectHeaders::changing("text/plain");
        let put = |key: &str, len: usize| {
            scratch.put(&Key::new(key).unwrap(), &vec![1; len], headers, None)
        };
        put("mirror_tmp/a/base-1", 60).unwrap();
        assert!(put("mirror_tmp/a/base-2", 60).is_err());
        assert!(put("objects/info/packs", 1).is_err());
        assert!(scratch.delete(&[Key::new("HEAD").unwrap()]).is_err());
        let kept = scratch.get(&Key::new("mirror_tmp/a/base-1").unwrap(), Some(1..3), 2).unwrap();
        assert_eq!(kept.0, [1, 1]);
        assert!(inner.keys().is_empty());
    }
}
