//! Which of the pointers that have passed have no object in the bucket yet.

use std::collections::HashSet;

use super::queue::Queue;
use crate::git::lfs_pointer::LfsPointer;
use crate::repository::error::MirrorError;
use crate::repository::lfs_objects;
use crate::repository::listing;
use crate::store::{Store, StoreError};

/// Up to so many objects are looked up one by one; more, and the folder is listed.
const FEW: usize = 16;

/// What is to be fetched, piece by piece.
pub(super) struct Wanted<'a> {
    store: &'a dyn Store,
    queue: &'a Queue,
    /// What was given out.
    asked: HashSet<LfsPointer>,
    /// What is stored, sorted, once it was listed: 32 bytes an object.
    listed: Option<Vec<[u8; 32]>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(store: &'a dyn Store, queue: &'a Queue) -> Self {
        Wanted { store, queue, asked: HashSet::new(), listed: None }
    }

    /// The next ones that the mirror does not have, sorted, at least one. `None`: that was all.
    pub(super) fn next(&mut self) -> Result<Option<Vec<LfsPointer>>, MirrorError> {
        while let Some(mut pointers) = self.queue.take()? {
            pointers.retain(|pointer| self.asked.insert(*pointer));
            let missing = self.not_stored(pointers)?;
            if !missing.is_empty() {
                return Ok(Some(missing));
            }
        }
        Ok(None)
    }

    /// Those of `pointers` that have no object in the bucket. A key that is there was checked
    /// before it appeared.
    fn not_stored(&mut self, mut pointers: Vec<LfsPointer>) -> Result<Vec<LfsPointer>, StoreError> {
        if self.listed.is_none() && self.asked.len() <= FEW {
            let mut missing = Vec::new();
            for pointer in pointers {
                if self.store.head(&lfs_objects::key(&pointer.oid))?.is_none() {
                    missing.push(pointer);
                }
            }
            return Ok(missing);
        }
        let listed = match &self.listed {
            Some(listed) => listed,
            None => self.listed.insert(list(self.store)?),
        };
        pointers.retain(|pointer| listed.binary_search(&pointer.oid).is_err());
        Ok(pointers)
    }
}

/// All LFS objects of the bucket, sorted.
fn list(store: &dyn Store) -> Result<Vec<[u8; 32]>, StoreError> {
    let mut found = Vec::new();
    listing::pages(store, listing::LFS, |page| {
        found.extend(page.iter().filter_map(|info| lfs_objects::oid_of_key(info.key.as_str())));
        Ok::<_, StoreError>(())
    })?;
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::object::{Kind, Oid};
    use crate::git::refs::{Advertisement, Head};
    use crate::run::Cancel;
    use crate::store::ObjectHeaders;
    use crate::store::memory::{MemoryStore, Operation};

    fn queue(head: Head) -> Queue {
        Queue::new(64 << 20, &Cancel::default(), &Advertisement::of(Vec::new(), head))
    }

    fn pointer_text(byte: u8) -> String {
        let hex = format!("{byte:02x}").repeat(32);
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hex}\nsize 1\n")
    }

    fn pass(queue: &Queue, byte: u8) {
        queue.look(&Oid::NULL, Kind::Blob, pointer_text(byte).as_bytes());
    }

    #[test]
    fn what_is_stored_is_found_by_looking_up_and_by_one_listing() {
        let store = MemoryStore::new();
        let headers = ObjectHeaders::immutable("application/octet-stream");
        for byte in [3, 7, 90] {
            store.put(&lfs_objects::key(&[byte; 32]), b"x", headers, None).unwrap();
        }
        let queue = queue(Head::Absent);
        let mut wanted = Wanted::new(&store, &queue);
        store.clear_recorded();
        for (bytes, missing, heads, lists) in
            [(0..10, 8, 10, 0), (5..50, 40, 10, 1), (40..100, 49, 10, 1)]
        {
            for byte in bytes {
                pass(&queue, byte);
            }
            queue.end(None);
            let next = wanted.next().unwrap().unwrap();
            assert_eq!(next.len(), missing);
            assert!(!next.iter().any(|pointer| [3, 7, 90].contains(&pointer.oid[0])));
            assert_eq!(store.count(Operation::Head), heads);
            assert_eq!(store.count(Operation::List), lists);
        }
        assert_eq!(wanted.next().unwrap(), None);
    }
}
