//! Which objects the bucket has already: what an interrupted first run stored is not sent again.
//!
//! Found by listing, in parallel over the 256 folders of loose objects, and kept as a sorted table a
//! folder: 20 bytes an object, 32 with SHA-256. (One table of all would double while it grows and be copied from
//! place to place.) Only a run that can't rely on published refs looks.

use std::sync::{Mutex, PoisonError};

use super::{listing, loose};
use crate::git::object::Oid;
use crate::git::oids::OidList;
use crate::store::{Store, StoreError};

/// Folders of loose objects: the first byte of an oid.
const FOLDERS: usize = 256;

/// Objects that are stored: for each first byte their oids, sorted. Empty, or all 256.
#[derive(Default)]
pub(crate) struct Existing(Vec<OidList>);

impl Existing {
    pub(crate) fn contains(&self, oid: &Oid) -> bool {
        let folder = self.0.get(usize::from(oid.first_byte()));
        folder.is_some_and(|folder| folder.contains(oid))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(OidList::len).sum()
    }

    /// Lists the loose objects of the bucket. One request if there are few.
    pub(crate) fn list_loose(store: &dyn Store, threads: usize) -> Result<Self, StoreError> {
        let found = Mutex::new(vec![OidList::default(); FOLDERS]);
        listing::pages_at_once(store, listing::OBJECTS, threads, |page| {
            let oids = page.iter().filter_map(|info| loose::oid_of_key(info.key.as_str()));
            let mut folders = found.lock().unwrap_or_else(PoisonError::into_inner);
            oids.for_each(|oid| folders[usize::from(oid.first_byte())].push(&oid));
            Ok::<_, StoreError>(())
        })?;
        let mut folders = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        folders.iter_mut().for_each(OidList::sort);
        Ok(Existing(folders))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use crate::store::{Key, ObjectHeaders};

    fn filled(objects: u32, page: usize) -> (MemoryStore, Vec<Oid>) {
        let store = MemoryStore::new().with_page_size(page);
        let oids: Vec<Oid> = (0..objects)
            .map(|number| {
                let mut bytes = [0; 20];
                bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
                Oid::from_bytes(bytes)
            })
            .collect();
        let others = ["objects/info/packs", "objects/pack/pack-1.idx", "objects/00/short"];
        let keys = oids.iter().map(loose::key);
        for key in keys.chain(others.map(|key| Key::new(key).unwrap())) {
            store.put(&key, b"", ObjectHeaders::changing("text/plain"), None).unwrap();
        }
        store.clear_recorded();
        (store, oids)
    }

    #[test]
    fn few_objects_are_one_request_and_many_are_listed_by_folder_at_once() {
        for (objects, page, requests) in [(0, 10, 1), (500, 1000, 1), (3000, 10, 257)] {
            let (store, oids) = filled(objects, page);
            let store = store.with_latency(std::time::Duration::from_millis(1));
            let existing = Existing::list_loose(&store, 16).unwrap();
            assert_eq!(existing.len(), oids.len());
            assert!(oids.iter().all(|oid| existing.contains(oid)));
            assert!(!existing.contains(&Oid::from_bytes([7; 20])));
            // A folder of more than a page takes one more request.
            let pages = oids.chunk_by(|a, b| a.first_byte() == b.first_byte()).count();
            assert!((requests..=requests + pages).contains(&store.count(Operation::List)));
            assert_eq!(store.max_in_flight() > 8, requests > 1, "{}", store.max_in_flight());
        }
    }

    #[test]
    fn twenty_bytes_an_object_are_held_and_no_more() {
        let (store, oids) = filled(3000, 10);
        let existing = Existing::list_loose(&store, 4).unwrap();
        let held: usize = existing.0.iter().map(OidList::memory_bytes).sum();
        assert_eq!(held, 20 * oids.len());
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_an_error() {
        let (store, _) = filled(3000, 10);
        store.inject(Fault::transient().on(Operation::List).nth(100));
        assert!(Existing::list_loose(&store, 4).is_err());
    }
}
