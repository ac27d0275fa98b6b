//! Lists what a mirror holds, for those who can be interrupted.

use std::sync::{Mutex, PoisonError};

use super::walk::Stored;
use crate::repository::error::MirrorError;
use crate::repository::listing;
use crate::repository::loose;
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
    let found = Mutex::new(Vec::new());
    pages(store, listing::OBJECTS, threads, cancel, &|page| {
        let objects = page.into_iter().filter_map(|info| {
            let oid = loose::oid_of_key(info.key.as_str())?;
            Some((oid, u32::try_from(info.len).unwrap_or(u32::MAX)))
        });
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
        Ok(())
    })?;
    Ok(Stored::new(found.into_inner().unwrap_or_else(PoisonError::into_inner)))
}
