//! The keys of a mirror that a trip is about, folder by folder: listed as they are asked for, so that a
//! share of them is in memory.

use std::collections::BTreeMap;

use super::keys::Keys;
use super::prove::What;
use crate::repository::error::MirrorError;
use crate::repository::publish::listed_packs;
use crate::repository::{lfs_objects, listing, loose, packs};
use crate::store::{Key, ListPage, Store, StoreError};

/// One of the large folders of a mirror.
pub(super) struct Folders<'s> {
    store: &'s dyn Store,
    root: &'static str,
    /// Everything, if it fits a page; else a folder of it.
    listed: BTreeMap<Key, u64>,
    folder: Option<String>,
}

impl<'s> Folders<'s> {
    pub(super) fn objects(store: &'s dyn Store) -> Result<Self, StoreError> {
        Self::new(store, listing::OBJECTS)
    }

    pub(super) fn lfs(store: &'s dyn Store) -> Result<Self, StoreError> {
        Self::new(store, listing::LFS)
    }

    fn new(store: &'s dyn Store, root: &'static str) -> Result<Self, StoreError> {
        let ListPage { objects, next } = store.list(root, None)?;
        let whole = next.is_none();
        let objects = objects.into_iter().filter(|_| whole);
        let listed = objects.map(|object| (object.key, object.len)).collect();
        Ok(Folders { store, root, listed, folder: whole.then(|| root.to_owned()) })
    }

    /// The keys of the folder that `key` is in, and others perhaps, with their lengths. Ask in the
    /// order of keys: one folder is held.
    pub(super) fn around(&mut self, key: &Key) -> Result<&BTreeMap<Key, u64>, StoreError> {
        let within = |folder: &String| key.as_str().starts_with(folder.as_str());
        if !self.folder.as_ref().is_some_and(within) {
            let below = &key.as_str()[self.root.len()..];
            let name = below.split('/').next().unwrap_or_default();
            self.turn_to(format!("{}{name}/", self.root))?;
        }
        Ok(&self.listed)
    }

    fn turn_to(&mut self, folder: String) -> Result<(), StoreError> {
        let listed = &mut self.listed;
        listed.clear();
        listing::pages(self.store, &folder, |page| {
            listed.extend(page.into_iter().map(|object| (object.key, object.len)));
            Ok::<_, StoreError>(())
        })?;
        self.folder = Some(folder);
        Ok(())
    }

    /// Hands over every key with its length, in order.
    pub(super) fn each(
        mut self,
        mut take: impl FnMut(&Key, u64) -> Result<(), MirrorError>,
    ) -> Result<(), MirrorError> {
        let folders = match self.folder {
            Some(_) => vec![None],
            None => listing::folders(self.root).into_iter().map(Some).collect(),
        };
        for folder in folders {
            if let Some(folder) = folder {
                self.turn_to(folder)?;
            }
            self.listed.iter().try_for_each(|(key, len)| take(key, *len))?;
        }
        Ok(())
    }
}

/// A key that a mirror consists of, and its length.
pub(super) type Part = (What, u64);

/// Hands over what a mirror consists of: loose objects by name, packs in the order of their list, each
/// with its index after it, LFS objects by name. `Err`: a listed pack is missing, or `take`'s error.
pub(super) fn each_part(
    store: &dyn Store,
    lfs: bool,
    mut take: impl FnMut(Part) -> Result<(), MirrorError>,
) -> Result<(), MirrorError> {
    let listed = listed_packs(store)?;
    let mut files = BTreeMap::new();
    Folders::objects(store)?.each(|key, len| match What::of(key.as_str()) {
        Some(what @ What::Loose(_)) => take((what, len)),
        Some(What::Pack(_) | What::Index(_)) => {
            files.insert(key.clone(), len);
            Ok(())
        }
        Some(What::Lfs(_)) | None => Ok(()),
    })?;
    for name in &listed {
        for end in ["pack", "idx"] {
            let key = packs::key(name, end);
            let found = files.get(&key).copied().zip(What::of(key.as_str()));
            let Some((len, what)) = found else {
                return Err(MirrorError::Mirror(format!(
                    "{}/{key} is listed but missing; run verify on that mirror",
                    store.describe()
                )));
            };
            take((what, len))?;
        }
    }
    if lfs {
        Folders::lfs(store)?.each(|key, len| match What::of(key.as_str()) {
            Some(what @ What::Lfs(_)) => take((what, len)),
            _ => Ok(()),
        })?;
    }
    Ok(())
}

impl Keys {
    /// Adds a part; an index goes with its pack.
    pub(super) fn push(&mut self, what: What) {
        match what {
            What::Loose(oid) => self.loose.push(&oid),
            What::Pack(name) => self.packs.push(name),
            What::Lfs(oid) => self.lfs.push(oid),
            What::Index(_) => {}
        }
    }

    /// All keys in the order in which they travel.
    pub(super) fn parts(&self) -> impl Iterator<Item = What> {
        let loose = self.loose.iter().map(What::Loose);
        let packs = self.packs.iter().flat_map(|name| [What::Pack(*name), What::Index(*name)]);
        loose.chain(packs).chain(self.lfs.iter().map(|oid| What::Lfs(*oid)))
    }
}

impl What {
    pub(super) fn key(self) -> Key {
        match self {
            What::Loose(oid) => loose::key(&oid),
            What::Pack(name) => packs::key(&format!("pack-{name}"), "pack"),
            What::Index(name) => packs::key(&format!("pack-{name}"), "idx"),
            What::Lfs(oid) => lfs_objects::key(&oid),
        }
    }

    pub(super) fn is_lfs(self) -> bool {
        matches!(self, What::Lfs(_))
    }

    /// Packs keep their order: an index comes after its pack.
    pub(super) fn is_of_pack(self) -> bool {
        matches!(self, What::Pack(_) | What::Index(_))
    }
}
