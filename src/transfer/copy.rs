//! Copies what one mirror has and the other has not, and proves each key on its way.
//!
//! What a mirror consists of is listed: loose objects, the packs that `objects/info/packs` names with
//! their indices, LFS objects. A key with the same length on the other side is there already, because its
//! name says its content. Small keys travel `--concurrency` at once; of large ones, which hold a part
//! of an upload each, as many as fit into the working memory. Indices come last: a pack is whole
//! before anybody can find it.
//!
//! If both are on one S3 server, large keys are copied by it: their content is read for the proof, and not
//! uploaded. Small ones are uploaded, which costs one request as well. Who may not copy so, uploads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::prove::{Counts, Item, SMALL_BYTES, What};
use super::storing::{Copied, Failed, Storing};
use crate::repository::error::MirrorError;
use crate::repository::publish::listed_packs;
use crate::repository::resuming::ResumingReader;
use crate::repository::{listing, packs};
use crate::run::threads::for_each;
use crate::store::{ETag, Elsewhere, Key, ObjectInfo, Store, StoreError};

/// Folders whose keys are compared at once.
const FOLDERS_AT_ONCE: usize = 8;

/// Both ends.
pub(crate) struct Copying<'e> {
    pub(crate) from: &'e dyn Store,
    pub(crate) into: &'e Storing<'e>,
    /// The server does not copy from one to the other.
    pub(crate) no_copies: AtomicBool,
}

/// What a listing says of a key: its length and its entity tag.
type Listed = (u64, Option<ETag>);

impl Copying<'_> {
    /// Copies all objects and listed packs that are not there. The caller has read the refs before: what
    /// they reach is listed then.
    pub(crate) fn git(&self) -> Result<Copied, MirrorError> {
        let listed = listed_packs(self.from)?;
        let mut missing: BTreeSet<Key> = listed
            .iter()
            .flat_map(|name| ["pack", "idx"].map(|end| packs::key(name, end)))
            .collect();
        let wanted = |key: &Key| match What::of(key.as_str()) {
            Some(What::Pack(_) | What::Index(_)) => missing.remove(key),
            Some(What::Loose(_)) => true,
            Some(What::Lfs(_)) | None => false,
        };
        let counts = Counts::default();
        self.copy_folder(listing::OBJECTS, wanted, &counts)?;
        if let Some(key) = missing.first() {
            return Err(self.damaged(key, "it is listed but missing"));
        }
        let Counts { objects, bytes, .. } = counts;
        let (objects, bytes) = (objects.into_inner(), bytes.into_inner());
        Ok(Copied { packs: listed, objects, bytes })
    }

    /// Copies all LFS objects that are not there; answers how many.
    pub(crate) fn lfs(&self) -> Result<u64, MirrorError> {
        let counts = Counts::default();
        let wanted = |key: &Key| matches!(What::of(key.as_str()), Some(What::Lfs(_)));
        self.copy_folder(listing::LFS, wanted, &counts)?;
        Ok(counts.lfs.into_inner())
    }

    /// A few folders at a time, so that what is held is a share of all keys, not all of them.
    fn copy_folder(
        &self,
        folder: &str,
        mut wanted: impl FnMut(&Key) -> bool,
        counts: &Counts,
    ) -> Result<(), MirrorError> {
        let folders = match self.from.list(folder, None)?.next {
            None => vec![folder.to_owned()],
            Some(_) => listing::folders(folder),
        };
        for folders in folders.chunks(FOLDERS_AT_ONCE) {
            let mut found = self.list(self.from, folders)?;
            found.retain(|key, _| wanted(key));
            if !found.is_empty() {
                let there = self.list(self.into.to, folders)?;
                self.copy(found, &there, counts)?;
            }
        }
        Ok(())
    }

    /// The keys below these folders, with their lengths.
    fn list(
        &self,
        store: &dyn Store,
        folders: &[String],
    ) -> Result<BTreeMap<Key, Listed>, MirrorError> {
        let found = Mutex::new(BTreeMap::new());
        for_each(folders, self.into.concurrency, "list", |folder| {
            listing::pages(store, folder, |page| {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let listed = |object: ObjectInfo| (object.key, (object.len, object.etag));
                found.extend(page.into_iter().map(listed));
                Ok::<_, StoreError>(())
            })
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn copy(
        &self,
        wanted: BTreeMap<Key, Listed>,
        there: &BTreeMap<Key, Listed>,
        counts: &Counts,
    ) -> Result<(), MirrorError> {
        let is_there = |key: &Key, len| there.get(key).is_some_and(|(found, _)| *found == len);
        let missing = wanted.into_iter().filter(|(key, (len, _))| !is_there(key, *len));
        let items = missing.filter_map(|(key, (len, etag))| {
            let what = What::of(key.as_str())?;
            Some(Item { key, len, what, etag })
        });
        let (indices, others): (Vec<Item>, Vec<Item>) =
            items.partition(|item| matches!(item.what, What::Index(_)));
        let (small, large): (Vec<Item>, Vec<Item>) =
            others.into_iter().partition(|item| item.len <= SMALL_BYTES);
        self.into.progress.expect_objects((small.len() + large.len() + indices.len()) as u64);
        let (many, few) = (self.into.concurrency, self.into.large_at_once());
        for (items, threads) in [(small, many), (large, few), (indices, few)] {
            for_each(&items, threads, "copy", |item| self.copy_one(item, counts))?;
        }
        Ok(())
    }

    fn copy_one(&self, item: &Item, counts: &Counts) -> Result<(), MirrorError> {
        let failed = |failed| match failed {
            Failed::Run(error) => error,
            Failed::Damaged(what) => self.damaged(&item.key, &what),
        };
        let content = || ResumingReader::new(self.from, item.key.clone(), 0);
        if let Some(from) = self.elsewhere(item)? {
            let taken = self.into.take_over(item, &mut content(), &from, counts);
            if taken.map_err(failed)? {
                return Ok(());
            }
            self.no_copies.store(true, Ordering::Relaxed);
        }
        self.into.store(item, &mut content(), counts).map_err(failed)
    }

    /// What the target's store calls it, if it should copy it itself.
    fn elsewhere(&self, item: &Item) -> Result<Option<Elsewhere>, MirrorError> {
        let fits = item.len > SMALL_BYTES && item.len <= self.into.to.limits().max_copy_bytes;
        // Any entity tag and any key will do: it is the servers that count.
        let server = |store: &dyn Store| {
            store.elsewhere(&item.key, &ETag::default()).map(|elsewhere| elsewhere.server)
        };
        let (from, to) = (server(self.from), server(self.into.to));
        if !fits || from.is_none() || from != to || self.no_copies.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let etag = match &item.etag {
            Some(etag) => Some(etag.clone()),
            // Some listings tell none.
            None => self.from.head(&item.key)?.and_then(|info| info.etag),
        };
        Ok(etag.and_then(|etag| self.from.elsewhere(&item.key, &etag)))
    }

    fn damaged(&self, key: &Key, what: &str) -> MirrorError {
        MirrorError::Mirror(format!(
            "{}/{key} is damaged: {what}; nothing was published; run verify on that mirror",
            self.from.describe()
        ))
    }
}
