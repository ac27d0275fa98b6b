//! Which objects the bucket has already: what an interrupted first run stored is not sent again.
//!
//! Found by listing, in parallel over the 256 folders of loose objects, and kept as a sorted table:
//! 20 bytes an object. Only a run that can't rely on published refs looks.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::layout::loose;
use crate::git::object::Oid;
use crate::store::{Store, StoreError};

/// Objects that are stored, by oid.
#[derive(Default)]
pub(crate) struct Existing(Vec<Oid>);

impl Existing {
    pub(crate) fn contains(&self, oid: &Oid) -> bool {
        self.0.binary_search(oid).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Lists the loose objects of the bucket. One request if there are few.
    pub(crate) fn list_loose(store: &dyn Store, threads: usize) -> Result<Self, StoreError> {
        let first = store.list("objects/", None)?;
        let mut oids: Vec<Oid> =
            first.objects.iter().filter_map(|o| loose::oid_of_key(o.key.as_str())).collect();
        if first.next.is_some() {
            oids = list_folders(store, threads)?;
        }
        oids.sort_unstable();
        Ok(Existing(oids))
    }
}

fn list_folders(store: &dyn Store, threads: usize) -> Result<Vec<Oid>, StoreError> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Result<Vec<Oid>, StoreError>> = Mutex::new(Ok(Vec::new()));
    let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, 256) {
            scope.spawn(|| {
                while lock().is_ok() {
                    let folder = next.fetch_add(1, Ordering::Relaxed);
                    if folder > 255 {
                        break;
                    }
                    match list_folder(store, folder) {
                        Ok(oids) => {
                            if let Ok(all) = &mut *lock() {
                                all.extend(oids);
                            }
                        }
                        Err(error) => *lock() = Err(error),
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn list_folder(store: &dyn Store, folder: usize) -> Result<Vec<Oid>, StoreError> {
    let prefix = format!("objects/{folder:02x}/");
    let mut oids = Vec::new();
    let mut page = None;
    loop {
        let listed = store.list(&prefix, page.as_deref())?;
        oids.extend(listed.objects.iter().filter_map(|o| loose::oid_of_key(o.key.as_str())));
        page = listed.next;
        if page.is_none() {
            return Ok(oids);
        }
    }
}
