//! Lists what a mirror holds: loose objects and LFS objects, folder by folder and in parallel.
//!
//! Folders are `objects/00/` to `objects/ff/` and `lfs/objects/00/` to `lfs/objects/ff/`: a listing
//! of a large bucket is as many requests in a row as it has pages, so the folders are listed at
//! once. A mirror whose folder fits one page costs one request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::walk::Stored;
use crate::git::lfs_pointer::sha256;
use crate::repository::error::MirrorError;
use crate::repository::loose;
use crate::run::Cancel;
use crate::store::{Key, ListPage, ObjectInfo, Store, StoreError};

/// The folder of loose objects and packs.
pub(crate) const OBJECTS: &str = "objects/";

/// The folder of LFS objects.
pub(crate) const LFS: &str = "lfs/objects/";

/// `lfs/objects/aa/bb/<oid>`.
pub(crate) fn lfs_key(oid: &[u8; 32]) -> Key {
    let hex: String = oid.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!("{LFS}{}/{}/{hex}", &hex[..2], &hex[2..4]);
    Key::new(key).expect("hexadecimal digits")
}

/// The inverse of [`lfs_key`] on text; `None` for any other key.
pub(crate) fn lfs_oid_of_key(key: &str) -> Option<[u8; 32]> {
    let hex = key.rsplit('/').next()?;
    let oid = sha256(hex)?;
    (lfs_key(&oid).as_str() == key).then_some(oid)
}

/// Calls `page` with every page below `folder` ([`OBJECTS`] or [`LFS`]), from up to `threads`
/// threads. Its error ends the listing.
pub(crate) fn pages(
    store: &dyn Store,
    folder: &str,
    threads: usize,
    cancel: &Cancel,
    page: &(dyn Fn(Vec<ObjectInfo>) -> Result<(), MirrorError> + Sync),
) -> Result<(), MirrorError> {
    let ListPage { objects, next } = store.list(folder, None)?;
    if next.is_none() {
        return page(objects);
    }
    // What lies in no folder of two digits: packs, lists.
    let mut folders: Vec<String> = (0..256).map(|n| format!("{folder}{n:02x}/")).collect();
    if folder == OBJECTS {
        folders.push("objects/pack/".to_owned());
    }
    let taken = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let outcome: Mutex<Result<(), MirrorError>> = Mutex::new(Ok(()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, folders.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = taken.fetch_add(1, Ordering::Relaxed);
                    let Some(folder) = folders.get(at) else { break };
                    if let Err(error) = one_folder(store, folder, cancel, page) {
                        stop.store(true, Ordering::Relaxed);
                        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                        if outcome.is_ok() {
                            *outcome = Err(error);
                        }
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn one_folder(
    store: &dyn Store,
    folder: &str,
    cancel: &Cancel,
    page: &(dyn Fn(Vec<ObjectInfo>) -> Result<(), MirrorError> + Sync),
) -> Result<(), MirrorError> {
    let mut next = None;
    loop {
        if cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let listed: Result<ListPage, StoreError> = store.list(folder, next.as_deref());
        let ListPage { objects, next: more } = listed?;
        page(objects)?;
        next = more;
        if next.is_none() {
            return Ok(());
        }
    }
}

/// All loose objects with their lengths: 24 bytes an object.
pub(crate) fn stored(
    store: &dyn Store,
    threads: usize,
    cancel: &Cancel,
) -> Result<Stored, MirrorError> {
    let found = Mutex::new(Vec::new());
    pages(store, OBJECTS, threads, cancel, &|page| {
        let objects = page.into_iter().filter_map(|info| {
            let oid = loose::oid_of_key(info.key.as_str())?;
            Some((oid, u32::try_from(info.len).unwrap_or(u32::MAX)))
        });
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
        Ok(())
    })?;
    Ok(Stored::new(found.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectHeaders;
    use crate::store::memory::MemoryStore;

    #[test]
    fn keys_of_lfs_objects_and_oids_are_each_others_inverse() {
        let key = lfs_key(&[0xab; 32]);
        assert_eq!(key.as_str(), format!("lfs/objects/ab/ab/{}", "ab".repeat(32)));
        assert_eq!(lfs_oid_of_key(key.as_str()), Some([0xab; 32]));
        let misplaced = format!("lfs/objects/00/ab/{}", "ab".repeat(32));
        assert_eq!(lfs_oid_of_key(&misplaced), None);
        assert_eq!(lfs_oid_of_key("lfs/objects/ab/ab/x"), None);
    }

    #[test]
    fn every_folder_is_listed_once_whatever_the_page() {
        for page_size in [1, 2, 1000] {
            let store = MemoryStore::new().with_page_size(page_size);
            let names = ["objects/00/a", "objects/00/b", "objects/ff/c", "objects/pack/d"];
            for name in names {
                let headers = ObjectHeaders::changing("text/plain");
                store.put(&Key::new(name).unwrap(), b"", headers, None).unwrap();
            }
            let seen = Mutex::new(Vec::new());
            pages(&store, OBJECTS, 4, &Cancel::default(), &|page| {
                seen.lock().unwrap().extend(page.into_iter().map(|info| info.key.to_string()));
                Ok(())
            })
            .unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            assert_eq!(seen, names);
        }
    }
}
