//! What the entries of a pack are: their places, the objects that they become, and why one can't.

use crate::git::object::{Kind, Oid};

/// An entry's place in the pack: 0 is the first.
pub type Index = u32;

/// A resolved entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub oid: Oid,
    /// Its kind: a delta has its base's.
    pub kind: Kind,
    /// Its content's length in bytes.
    pub len: u64,
}

/// A pack that can't be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// An OFS_DELTA points at an offset where no entry begins.
    #[error("delta at offset {offset}: no entry begins at its base's offset {base_offset}")]
    NoEntryAtOffset {
        /// The delta's.
        offset: u64,
        /// What it names.
        base_offset: u64,
    },
    /// The pack has more entries than a pack can have.
    #[error("entry at offset {offset}: more than 4,294,967,294 entries")]
    TooManyEntries {
        /// The entry's.
        offset: u64,
    },
    /// A delta's base never came.
    #[error(
        "delta at offset {offset}: its base {base} is not in the pack, or the deltas form a cycle \
         ({waiting} deltas remain unresolved)"
    )]
    MissingBase {
        /// The first such delta's.
        offset: u64,
        /// What it names: an oid, or an entry that waits itself.
        base: String,
        /// How many.
        waiting: usize,
    },
}
