//! Lists what a mirror holds, for those who can be interrupted.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::walk::Stored;
use crate::git::object::Oid;
use crate::git::oids::OidList;
use crate::repository::error::MirrorError;
use crate::repository::listing;
use crate::repository::loose;
use crate::repository::retired_packs::RetiredPacks;
use crate::run::Cancel;
use crate::store::{ObjectInfo, Store};

/// Hands every page below `folder` ([`OBJECTS`](listing::OBJECTS) or [`LFS`](listing::LFS)) to
/// `page`, from up to `threads` threads. Its error ends the listing.
pub(crate) fn pages(
    store: &dyn Store,
    folder: &str,
    threads: usize,
    cancel: &Cancel,
    page: &(dyn Fn(Vec<ObjectInfo>) -> Result<(), MirrorError> + Sync),
) -> Result<(), MirrorError> {
    listing::pages_at_once(store, folder, threads, |objects| match cancel.is_cancelled() {
        true => Err(MirrorError::Interrupted),
        false => page(objects),
    })
}

/// All loose objects with their lengths: 24 bytes an object.
pub(crate) fn stored(
    store: &dyn Store,
    threads: usize,
    cancel: &Cancel,
) -> Result<Stored, MirrorError> {
    let found = Mutex::new(OidList::default());
    pages(store, listing::OBJECTS, threads, cancel, &|page| {
        let objects = page.into_iter().filter_map(|info| {
            let oid = loose::oid_of_key(info.key.as_str())?;
            Some((oid, u32::try_from(info.len).unwrap_or(u32::MAX)))
        });
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        objects.for_each(|(oid, len)| found.push_with(&oid, len));
        Ok(())
    })?;
    Ok(Stored::new(found.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// A pack that is there.
pub(crate) struct FoundPack {
    pub(crate) name: String,
    /// So is its index.
    pub(crate) is_indexed: bool,
}

/// Packs that belong to a list that is lost, as far as `listed` does not say it: all that are there,
/// but those that another stands for. One without an index is one of them, because that can be made
/// again. The largest comes first: readers try the last one first, and what is new is small.
pub(crate) fn packs_there(
    store: &dyn Store,
    listed: &[String],
) -> Result<Vec<FoundPack>, MirrorError> {
    let replaced = RetiredPacks::read(store)?;
    let (mut found, mut indices) = (Vec::new(), BTreeSet::new());
    let is_pack = |name: &&str| {
        let hex = name.strip_prefix("pack-").map(str::as_bytes);
        hex.and_then(Oid::from_hex).is_some()
    };
    listing::pages(store, "objects/pack/", |page| {
        for info in page {
            let name = info.key.as_str().strip_prefix("objects/pack/").unwrap_or_default();
            if let Some(name) = name.strip_suffix(".pack").filter(is_pack) {
                found.push((info.len, name.to_owned()));
            } else if let Some(name) = name.strip_suffix(".idx").filter(is_pack) {
                indices.insert(name.to_owned());
            }
        }
        Ok::<_, MirrorError>(())
    })?;
    found.sort_by(|a, b| b.cmp(a));
    found.retain(|(_, name)| listed.contains(name) || replaced.since(name).is_none());
    let found = found.into_iter();
    Ok(found.map(|(_, name)| FoundPack { is_indexed: indices.contains(&name), name }).collect())
}
