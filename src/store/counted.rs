//! Counts a store's requests and bytes by what S3 bills them as.
//!
//! It stands right above the store that sends, below [`super::retry`]: each try counts. A request of
//! [`Store`] is one of HTTP, but for deletions (S3 takes a thousand keys at once).

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::interface::{
    Condition, ETag, Elsewhere, FolderPage, Kept, Key, Limits, ListPage, ObjectHeaders, ObjectInfo,
    OpenUpload, Part, Store, StoreError, Upload, Usage,
};

/// As many keys as S3 deletes at once.
const DELETED_AT_ONCE: usize = 1000;

/// A store that counts.
#[derive(Debug)]
pub struct Counted<S> {
    store: S,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    reads: AtomicU64,
    deletes: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl<S: Store> Counted<S> {
    /// Counts from now on.
    pub fn new(store: S) -> Self {
        Counted { store, counts: Arc::default() }
    }

    /// The store below.
    pub fn inner(&self) -> &S {
        &self.store
    }

    fn write(&self, bytes: usize) {
        add(&self.counts.writes, 1);
        add(&self.counts.sent, bytes);
    }
}

/// Counts what is read.
struct Reading {
    stream: Box<dyn Read + Send>,
    counts: Arc<Counts>,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        add(&self.counts.received, read);
        Ok(read)
    }
}

impl<S: Store> Store for Counted<S> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    fn is_read_by_path(&self) -> bool {
        self.store.is_read_by_path()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        // An empty range sends nothing.
        let is_sent = range.as_ref().is_none_or(|range| !range.is_empty());
        add(&self.counts.reads, usize::from(is_sent));
        let found = self.store.get(key, range, max_len)?;
        add(&self.counts.received, found.0.len());
        Ok(found)
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        add(&self.counts.reads, 1);
        let (stream, counts) = (self.store.open(key, offset)?, Arc::clone(&self.counts));
        Ok(Box::new(Reading { stream, counts }))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        add(&self.counts.reads, 1);
        self.store.head(key)
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.write(body.len());
        self.store.put(key, body, headers, condition)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        add(&self.counts.deletes, keys.len().div_ceil(DELETED_AT_ONCE));
        self.store.delete(keys)
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.write(0);
        self.store.list_unchecked(prefix, page)
    }

    fn list_folders(&self, folder: &str, page: Option<&str>) -> Result<FolderPage, StoreError> {
        self.write(0);
        self.store.list_folders(folder, page)
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.write(0);
        self.store.copy(from, to, headers)
    }

    fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
        add(&self.counts.reads, 1);
        self.store.kept(key)
    }

    fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
        self.store.elsewhere(key, etag)
    }

    fn copy_from(
        &self,
        from: &Elsewhere,
        to: &Key,
        headers: ObjectHeaders,
    ) -> Result<(), StoreError> {
        self.write(0);
        self.store.copy_from(from, to, headers)
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.write(0);
        self.store.create_upload(key, headers)
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.write(body.len());
        self.store.put_part(upload, number, body)
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.write(0);
        self.store.copy_part(upload, number, from, range)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.write(0);
        self.store.complete_upload(upload, parts)
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        add(&self.counts.deletes, 1);
        self.store.abort_upload(upload)
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.write(0);
        self.store.list_uploads_unchecked(prefix)
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        self.store.remove_leftovers()
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }

    fn may_have_lost_uploads(&self) -> bool {
        self.store.may_have_lost_uploads()
    }

    fn usage(&self) -> Usage {
        let Counts { writes, reads, deletes, sent, received } = &*self.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            writes: get(writes),
            reads: get(reads),
            deletes: get(deletes),
            bytes_sent: get(sent),
            bytes_received: get(received),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::testing::TEXT;

    #[test]
    fn every_request_counts_in_its_class_and_bytes_go_both_ways() {
        let store = Counted::new(MemoryStore::new());
        let [a, b] = ["a", "b"].map(|key| Key::new(key).unwrap());
        store.put(&a, b"12345", TEXT, None).unwrap();
        store.copy(&a, &b, TEXT).unwrap();
        store.list("", None).unwrap();
        assert!(store.head(&a).unwrap().is_some());
        store.get(&a, Some(1..3), 2).unwrap();
        store.get(&a, Some(1..1), 2).unwrap();
        let mut text = String::new();
        store.open(&a, 1).unwrap().read_to_string(&mut text).unwrap();
        let upload = store.create_upload(&b, TEXT).unwrap();
        let part = store.put_part(&upload, 1, b"123").unwrap();
        store.complete_upload(&upload, &[part]).unwrap();
        let given_up = store.create_upload(&b, TEXT).unwrap();
        store.list_uploads("").unwrap();
        store.abort_upload(&given_up).unwrap();
        store.delete(&[a, b]).unwrap();
        store.delete(&[]).unwrap();
        let usage = store.usage();
        assert_eq!((usage.writes, usage.reads, usage.deletes), (8, 3, 2));
        assert_eq!((usage.bytes_sent, usage.bytes_received), (8, 6));
        let before = Usage { writes: 7, ..usage };
        assert_eq!(usage.since(before), Usage { writes: 1, ..Usage::default() });
    }
}
