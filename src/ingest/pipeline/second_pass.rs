//! The pack layout's second pass, seen from the engine (`layout/pack.rs` tells the story): what was
//! deferred runs, and bases are read from the stored pack.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rayon::Scope;

use super::Engine;
use crate::ingest::bases::Content;
use crate::ingest::sink::pack::PackReadBack;
use crate::pack::index::IndexEntry;
use crate::pack::resolver::{Index, Object};
use crate::repository::error::MirrorError;
use crate::store::Key;

impl Engine<'_> {
    /// The pack can be read from `key` now: what was deferred is ready. Answers how many deltas.
    pub(crate) fn begin_second_pass<'s>(&'s self, scope: &Scope<'s>, key: &Key, len: u64) -> usize {
        let read_back = PackReadBack::new(key.clone(), len, self.env.budget.parts / 2);
        let _ = self.read_back.set(read_back);
        let mut table = self.table();
        let mut deferred = std::mem::take(&mut table.deferred);
        // Last in, first out: so the pack is read from its beginning, and what needs one base runs
        // while that is in memory.
        deferred.sort_unstable_by_key(|(delta, base)| std::cmp::Reverse((*base, *delta)));
        table.ready.extend(deferred);
        let left = table.resolver.len() - table.resolver.resolved_count();
        drop(table);
        self.pump(scope);
        left
    }

    /// An entry's inflated body, from the stored pack.
    pub(crate) fn entry_from_pack(&self, index: Index) -> Result<Option<Vec<u8>>, MirrorError> {
        let Some(read_back) = self.read_back.get() else {
            return Err(MirrorError::Internal("the pack is read before it is stored".into()));
        };
        let (start, end) = self.table().entry_range(index, read_back.len);
        read_back.entry(self.env.store, start, end)
    }

    /// The stored pack and where an entry begins in it.
    pub(crate) fn place_in_pack(&self, index: Index) -> Option<(Key, u64)> {
        let read_back = self.read_back.get()?;
        Some((read_back.key.clone(), self.table().resolver.offset(index)))
    }

    pub(crate) fn base_of(&self, index: Index) -> Option<Index> {
        self.table().resolver.base(index)
    }

    /// How long a resolved entry's object is.
    pub(crate) fn object_len(&self, index: Index) -> u64 {
        self.table().resolver.object(index).map_or(0, |object| object.len)
    }

    /// The content of an object that was laid down raw and fits into memory.
    pub(crate) fn raw_in_store(&self, index: Index) -> Result<Option<Vec<u8>>, MirrorError> {
        let Some(key) = self.raw_key(index) else { return Ok(None) };
        Ok(Some(self.env.store.get(&key, None, self.env.budget.large)?.0))
    }

    pub(crate) fn raw_key(&self, index: Index) -> Option<Key> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    pub(crate) fn set_raw_key(&self, index: Index, key: Key) {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).insert(index, key);
    }

    /// Does any delta but the one in hand wait, which might need its result?
    pub(crate) fn others_wait(&self) -> bool {
        let table = self.table();
        table.resolver.len() - table.resolver.resolved_count() > 1
    }

    /// Pack layout: a large object that is not laid down anywhere but in the pack.
    pub(crate) fn resolved_in_pack<'s>(&'s self, scope: &Scope<'s>, index: Index, object: Object) {
        self.resolved(index, object);
        self.env.progress.object_done();
        self.pump(scope);
    }

    /// What the index lists, when every entry is resolved.
    pub(crate) fn index_entries(&self) -> Vec<IndexEntry> {
        let table = self.table();
        let objects = table.resolver.objects().zip(&table.crcs);
        objects.map(|((oid, offset), crc32)| IndexEntry { oid, crc32: *crc32, offset }).collect()
    }

    /// No base is needed any more: their memory is for the index.
    pub(crate) fn forget_bases(&self) {
        self.bases.clear();
        if let Some(read_back) = self.read_back.get() {
            read_back.clear();
        }
    }

    pub(crate) fn count_stored_pack(&self, objects: u64, bytes: u64) {
        self.env.written.objects.fetch_add(objects, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The base's content if it is in memory.
    pub(crate) fn base_in_memory(&self, base: Index) -> Option<Content> {
        self.bases.get(base)
    }
}
