//! Copies what one mirror has and the other has not, and proves each key on its way.
//!
//! What a mirror consists of is listed: loose objects, the packs that `objects/info/packs` names with
//! their indices, LFS objects. A key with the same length on the other side is there already, since its
//! name says its content. Small keys travel `--concurrency` at once; of large ones, which hold a part
//! of an upload each, as many as fit into the working memory. Indices come last: a pack is whole
//! before anybody can find it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::prove::{Counts, Item, SMALL_BYTES, What};
use super::storing::{Copied, Failed, Storing};
use crate::repository::error::MirrorError;
use crate::repository::publish::listed_packs;
use crate::repository::reopen::Reopening;
use crate::repository::{listing, packs};
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreError};

/// Folders whose keys are compared at once.
const FOLDERS_AT_ONCE: usize = 8;

/// Both ends.
pub(crate) struct Copying<'e> {
    pub(crate) from: &'e dyn Store,
    pub(crate) into: &'e Storing<'e>,
}

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
    ) -> Result<BTreeMap<Key, u64>, MirrorError> {
        let found = Mutex::new(BTreeMap::new());
        for_each(folders, self.into.concurrency, "list", |folder| {
            listing::pages(store, folder, |page| {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.extend(page.into_iter().map(|object| (object.key, object.len)));
                Ok::<_, StoreError>(())
            })
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn copy(
        &self,
        wanted: BTreeMap<Key, u64>,
        there: &BTreeMap<Key, u64>,
        counts: &Counts,
    ) -> Result<(), MirrorError> {
        let missing = wanted.into_iter().filter(|(key, len)| there.get(key) != Some(len));
        let items = missing.filter_map(|(key, len)| {
            let what = What::of(key.as_str())?;
            Some(Item { key, len, what })
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
        let mut content = Reopening::new(self.from, item.key.clone(), 0);
        self.into.store(item, &mut content, counts).map_err(|failed| match failed {
            Failed::Run(error) => error,
            Failed::Damaged(what) => self.damaged(&item.key, &what),
        })
    }

    fn damaged(&self, key: &Key, what: &str) -> MirrorError {
        MirrorError::Mirror(format!(
            "{}/{key} is damaged: {what}; nothing was published; run verify on that mirror",
            self.from.describe()
        ))
    }
}
