//! Lists what is stored: page by page, or a large folder in parallel.
//!
//! A listing of a large bucket is as many requests in a row as it has pages. So the folders of loose
//! objects, `objects/00/` to `objects/ff/`, and of LFS objects are listed at once. A folder that fits
//! one page costs one request.
//!
//! What is listed is held by most callers, 20 bytes an object and more. A hostile store could go on
//! forever, so there are limits that no mirror comes near.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::threads::for_each;
use crate::store::pages::Pages;
use crate::store::{ListPage, ObjectInfo, Store, StoreError, StoreErrorKind};

/// The folder of loose objects and packs.
pub(crate) const OBJECTS: &str = "objects/";

/// The folder of LFS objects.
pub(crate) const LFS: &str = "lfs/objects/";

/// The most loose objects, or LFS objects, that a mirror is believed to have.
const MAX_OBJECTS: u64 = 50_000_000;

/// The most keys anywhere else, and in one of 256 folders of objects: their names are hashes, so that
/// all folders fill alike.
const MAX_KEYS: u64 = 1_000_000;

/// Hands every page below `prefix` to `page`, whose error ends the listing.
pub(crate) fn pages<E: From<StoreError>>(
    store: &dyn Store,
    prefix: &str,
    mut page: impl FnMut(Vec<ObjectInfo>) -> Result<(), E>,
) -> Result<(), E> {
    let most = if matches!(prefix, OBJECTS | LFS) { MAX_OBJECTS } else { MAX_KEYS };
    let (mut next, mut turned) = (None, Pages::of_at_most(most));
    loop {
        let listed = store.list(prefix, next.as_deref())?;
        let first = listed.objects.first().map(|info| info.key.to_string());
        let len = listed.objects.len();
        page(listed.objects)?;
        match listed.next {
            None => return Ok(()),
            Some(token) => {
                turned.turn(&store.describe(), len, first.as_deref(), &token)?;
                next = Some(token);
            }
        }
    }
}

/// The same for [`OBJECTS`] or [`LFS`], from up to `threads` threads.
pub(crate) fn pages_at_once<E: From<StoreError> + Send>(
    store: &dyn Store,
    folder: &str,
    threads: usize,
    page: impl Fn(Vec<ObjectInfo>) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let ListPage { objects, next } = store.list(folder, None)?;
    if next.is_none() {
        return page(objects);
    }
    let listed = AtomicU64::new(0);
    for_each(&folders(folder), threads, "list", |folder| {
        pages(store, folder, |objects| {
            let len = objects.len() as u64;
            if listed.fetch_add(len, Ordering::Relaxed) + len > MAX_OBJECTS {
                return Err(too_many(store).into());
            }
            page(objects)
        })
    })
}

fn too_many(store: &dyn Store) -> StoreError {
    let message = format!("the store's listing has more than {MAX_OBJECTS} entries");
    StoreError::new(StoreErrorKind::Other, "list", store.describe(), message)
}

/// The folders below [`OBJECTS`] or [`LFS`] that hold objects.
pub(crate) fn folders(folder: &str) -> Vec<String> {
    let mut folders: Vec<String> = (0..256).map(|n| format!("{folder}{n:02x}/")).collect();
    if folder == OBJECTS {
        // What lies in no folder of two digits.
        folders.push("objects/pack/".to_owned());
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Key, ObjectHeaders};

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
            pages_at_once(&store, OBJECTS, 4, |page| {
                seen.lock().unwrap().extend(page.into_iter().map(|info| info.key.to_string()));
                Ok::<_, StoreError>(())
            })
            .unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            assert_eq!(seen, names);
        }
    }
}
