//! Counts what a mirror holds, by listing all of it.
//!
//! A loose object is a key; what a pack holds is the last number of its index's fan-out table
//! (gitformat-pack), four bytes a pack.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::inventory;
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::holds::Holds;
use crate::repository::listing::{LFS, OBJECTS};
use crate::repository::{loose, packs, publish};
use crate::run::Cancel;
use crate::run::threads;
use crate::store::Store;

/// Where the fan-out table of an index (version 2) says how many objects there are.
const TOTAL: std::ops::Range<u64> = 8 + 255 * 4..8 + 256 * 4;

/// Counts it: one LIST for 1,000 keys, and one GET for each listed pack.
pub fn count(store: &dyn Store, concurrency: usize, cancel: &Cancel) -> Result<Holds, MirrorError> {
    let listed: BTreeSet<String> = publish::listed_packs(store)?.into_iter().collect();
    let (loose, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    inventory::pages(store, OBJECTS, concurrency, cancel, &|page| {
        for info in page {
            let name = info.key.as_str();
            let is_loose = loose::oid_of_key(name).is_some();
            loose.fetch_add(u64::from(is_loose), Relaxed);
            if is_loose || name.ends_with(".pack") {
                bytes.fetch_add(info.len, Relaxed);
            }
        }
        Ok(())
    })?;
    let (lfs_objects, lfs_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    inventory::pages(store, LFS, concurrency, cancel, &|page| {
        lfs_objects.fetch_add(page.len() as u64, Relaxed);
        lfs_bytes.fetch_add(page.iter().map(|info| info.len).sum(), Relaxed);
        Ok(())
    })?;
    let packed = AtomicU64::new(0);
    let names: Vec<&String> = listed.iter().collect();
    threads::for_each(&names, concurrency, "count", |name| {
        packed.fetch_add(objects_of_pack(store, name)?, Relaxed);
        Ok::<_, MirrorError>(())
    })?;
    Ok(Holds {
        packs: listed.len() as u64,
        objects: loose.into_inner() + packed.into_inner(),
        bytes: bytes.into_inner(),
        lfs_objects: lfs_objects.into_inner(),
        lfs_bytes: lfs_bytes.into_inner(),
    })
}

/// A pack whose index is missing or too short counts as empty: `verify` reports it.
fn objects_of_pack(store: &dyn Store, name: &str) -> Result<u64, MirrorError> {
    let found = files::get(store, &packs::key(name, "idx"), Some(TOTAL), 4)?;
    let total = found.and_then(|(bytes, _)| <[u8; 4]>::try_from(bytes).ok());
    Ok(total.map_or(0, |bytes| u64::from(u32::from_be_bytes(bytes))))
}
