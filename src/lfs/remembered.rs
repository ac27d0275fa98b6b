//! The LFS objects that earlier runs could not get, remembered in the bucket.

use std::collections::HashSet;

use crate::git::lfs_pointer::{LfsPointer, sha256};
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::store::{ObjectHeaders, Store, StoreError, StoreErrorKind};

/// Where missing objects are remembered: lines `oid size`.
const MISSING_KEY: &str = "mirror_state/lfs-lacking";

/// Some 300,000 missing objects. What is read takes as much again in memory, twice.
const MAX_LACKING_BYTES: u64 = 24 << 20;

pub(super) fn sorted(mut pointers: Vec<LfsPointer>) -> Vec<LfsPointer> {
    pointers.sort_unstable_by_key(|pointer| (pointer.oid, pointer.size));
    pointers.dedup();
    pointers
}

/// What earlier runs could not get, sorted.
pub(crate) struct Remembered(pub(crate) Vec<LfsPointer>);

impl Remembered {
    pub(crate) fn read(store: &dyn Store) -> Result<Self, MirrorError> {
        let file = files::get(store, &files::key(MISSING_KEY), None, MAX_LACKING_BYTES)?;
        let (file, _) = file.unwrap_or_default();
        let text = String::from_utf8_lossy(&file);
        let (mut pointers, mut bad) = (Vec::new(), 0);
        for line in text.lines() {
            match parse_line(line) {
                Some(pointer) => pointers.push(pointer),
                None => bad += 1,
            }
        }
        // A lost line does no lasting harm: `--full` repairs it.
        if bad > 0 {
            let place = store.describe();
            log::warn!("{place}/{MISSING_KEY}: {bad} lines are not an object ID and a size");
        }
        Ok(Remembered(sorted(pointers)))
    }

    /// Leaves out `pointers`, and keeps what was added since they were read.
    pub(crate) fn forget(store: &dyn Store, pointers: &[LfsPointer]) -> Result<(), MirrorError> {
        let now = Self::read(store)?;
        let pointers: HashSet<_> = pointers.iter().collect();
        let left = now.0.iter().filter(|pointer| !pointers.contains(pointer)).copied().collect();
        Ok(now.update(store, left)?)
    }

    /// Adds `pointers`; how many there are then.
    pub(crate) fn add(store: &dyn Store, pointers: &[LfsPointer]) -> Result<usize, MirrorError> {
        let now = Self::read(store)?;
        let all = sorted([&now.0[..], pointers].concat());
        let count = all.len();
        now.update(store, all)?;
        Ok(count)
    }

    /// Written only if it changes, deleted when nothing is missing.
    pub(super) fn update(
        &self,
        store: &dyn Store,
        missing: Vec<LfsPointer>,
    ) -> Result<(), StoreError> {
        let missing = sorted(missing);
        if missing == self.0 {
            return Ok(());
        }
        if missing.is_empty() {
            match store.delete(&[files::key(MISSING_KEY)]) {
                // Who may not delete may still write: an empty file says the same.
                Err(error) if error.kind == StoreErrorKind::Denied => {}
                done => return done,
            }
        }
        let mut file = String::new();
        for (number, pointer) in missing.iter().enumerate() {
            file += &format!("{} {}\n", pointer.hex(), pointer.size);
            if file.len() as u64 > MAX_LACKING_BYTES - 200 {
                let more = missing.len() - number - 1;
                log::warn!(
                    "{more} more LFS objects are missing than can be remembered: --full \
                            looks for them"
                );
                break;
            }
        }
        let headers = ObjectHeaders::changing("text/plain");
        store.put(&files::key(MISSING_KEY), file.as_bytes(), headers, None).map(drop)
    }
}

fn parse_line(line: &str) -> Option<LfsPointer> {
    let (oid, size) = line.split_once(' ')?;
    Some(LfsPointer { oid: sha256(oid)?, size: size.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn pointer(byte: u8, size: u64) -> LfsPointer {
        LfsPointer { oid: [byte; 32], size }
    }

    #[test]
    fn missing_objects_are_remembered_written_once_and_forgotten() {
        let store = MemoryStore::new();
        let none = Remembered::read(&store).unwrap();
        none.update(&store, Vec::new()).unwrap();
        assert!(store.keys().is_empty());
        let missing = vec![pointer(2, 20), pointer(1, 10)];
        none.update(&store, missing.clone()).unwrap();
        let some = Remembered::read(&store).unwrap();
        assert_eq!(some.0, sorted(missing.clone()));
        store.clear_recorded();
        some.update(&store, missing).unwrap();
        assert!(store.recorded().is_empty());
        some.update(&store, Vec::new()).unwrap();
        assert!(store.keys().is_empty());
    }

    #[test]
    fn lines_that_are_not_ours_are_left_out() {
        let store = MemoryStore::new();
        let headers = ObjectHeaders::changing("text/plain");
        let text = format!("{} 7\nnonsense\n{} x\n\u{fffd}\n", "01".repeat(32), "02".repeat(32));
        store.put(&files::key(MISSING_KEY), text.as_bytes(), headers, None).unwrap();
        assert_eq!(Remembered::read(&store).unwrap().0, [pointer(1, 7)]);
    }
}
