//! How much a mirror holds: numbers for operators, kept in `mirror_state/state.json`.
//!
//! Each run adds what it has stored, because counting takes a listing of everything; `gc` counts
//! again when it has deleted something, and so does a run that could store less than is published
//! (`--full`, and a first run after an interrupted one). Between the two the numbers may be too large by
//! what was stored twice, and nothing depends on them.

use serde::{Deserialize, Serialize};

/// What a mirror holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// Packs in `objects/info/packs`.
    pub packs: u64,
    /// Git objects, loose and in listed packs.
    pub objects: u64,
    /// Bytes of loose objects and packs, without indices.
    pub bytes: u64,
    /// LFS objects.
    pub lfs_objects: u64,
    /// Bytes below `lfs/`.
    pub lfs_bytes: u64,
}

impl Holds {
    /// With so many more git objects and bytes.
    #[must_use]
    pub(crate) fn with_objects(self, (objects, bytes): (u64, u64)) -> Self {
        Holds { objects: self.objects + objects, bytes: self.bytes + bytes, ..self }
    }

    /// With these packs in the list.
    #[must_use]
    pub(crate) fn with_packs(self, listed: &[String]) -> Self {
        Holds { packs: listed.len() as u64, ..self }
    }

    /// With so many more LFS objects and bytes.
    #[must_use]
    pub(crate) fn with_lfs(self, (objects, bytes): (u64, u64)) -> Self {
        Holds { lfs_objects: self.lfs_objects + objects, lfs_bytes: self.lfs_bytes + bytes, ..self }
    }
}
