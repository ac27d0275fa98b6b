//! What goes into the [scheduler](super::scheduler) and what comes out of it: limits, entries, units of
//! work, commands. Values alone; what they mean is decided there.

use super::parked::Delta;
use super::table::Size;
use crate::git::object::{Kind, Oid};
use crate::pack::object::Index;

/// What an entry costs beside its bytes: its item, its places in tables.
pub(super) const OVERHEAD_BYTES: u64 = 128;

/// What may be held at once, in bytes, and how work is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) intake: u64,
    pub(super) work: u64,
    /// `work` once the pack is stored, when no part is on its way.
    pub(super) work_after: u64,
    pub(super) cache: u64,
    pub(super) parts: u64,
    /// Short deltas that are deferred and stay in memory.
    pub(super) deferred: u64,
    /// Above this an object is never whole in memory.
    pub(super) large: u64,
    pub(super) unit_bytes: u64,
    pub(super) unit_entries: usize,
    /// Units that are resolved at once, and those that read first.
    pub(super) resolving: usize,
    pub(super) reading: usize,
    /// What is stored can be read while the pack still comes (loose objects). Else a delta whose base
    /// has left memory is deferred, and a parked delta need not be written to be let go.
    pub(super) readable: bool,
    /// Results wait in memory for their uploads, beside as much for what is uploaded.
    pub(super) uploads: bool,
}

/// An entry as the reader took it.
pub(super) struct Entry<B> {
    pub(super) offset: u64,
    pub(super) crc32: u32,
    pub(super) body: Body<B>,
    /// What of the intake it holds.
    pub(super) held: u64,
}

pub(super) enum Body<B> {
    /// `raw`: its loose form, if the pack's deflate blocks could be kept.
    Object {
        kind: Kind,
        content: B,
        len: u64,
        raw: Option<B>,
    },
    Delta {
        base: BaseName,
        delta: Delta<B>,
    },
    /// A large object whose name was found while it passed.
    Named {
        kind: Kind,
        oid: Oid,
    },
    /// A large object that is not stored yet: [`Scheduler::late_resolved`].
    Later,
}

/// What a delta names as its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BaseName {
    Offset(u64),
    Oid(Oid),
}

/// Entries that are resolved one after the other by one task.
pub(super) struct Unit<B> {
    pub(super) id: u32,
    pub(super) items: Vec<Item<B>>,
    /// Something of it is read from the store first.
    pub(super) reads: bool,
    /// Links of chains that bases of its items stand on, each with the place of the item before which it
    /// is made: made down the chain, they are read once, one after the other.
    pub(super) links: Vec<(u32, Index)>,
    /// The longest link of their chains.
    pub(super) longest_link: Size,
    /// Of the intake.
    pub(super) held: u64,
}

pub(super) struct Item<B> {
    pub(super) index: Index,
    pub(super) offset: u64,
    pub(super) crc32: u32,
    pub(super) work: Work<B>,
}

impl<B> Item<B> {
    /// Is it a delta that is not in memory?
    pub(super) fn reads_delta(&self) -> bool {
        match &self.work {
            Work::Delta { delta, .. } => !delta.is_in_memory(),
            Work::Object { .. } => false,
        }
    }
}

pub(super) enum Work<B> {
    Object { kind: Kind, content: B, len: u64, raw: Option<B> },
    Delta { delta: Delta<B>, base: Base<B>, base_index: Index },
}

pub(super) enum Base<B> {
    /// Looked for when the unit starts.
    Unknown,
    /// The unit's own item at this place.
    Earlier(u32),
    Memory(Kind, B),
    /// To be read from the store.
    Read(Stored),
}

/// An object that is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) offset: u64,
    pub(super) kind: Kind,
    /// Where names are kept.
    pub(super) oid: Option<Oid>,
}

/// A delta that is not whole in memory, or makes such a result, or needs such a base.
pub(super) struct Heavy<B> {
    pub(super) index: Index,
    pub(super) crc32: u32,
    pub(super) delta: Delta<B>,
    pub(super) base: Index,
    pub(super) stored_base: Stored,
    /// If it is in memory.
    pub(super) base_content: Option<B>,
    pub(super) held: u64,
}

pub(super) enum Command<B> {
    Resolve(Unit<B>),
    Heavy(Heavy<B>),
}

/// What an item became. `start..start + len` in this buffer of the unit's results is its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) kind: Kind,
    pub(super) oid: Oid,
    pub(super) buffer: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// The answer to a reader who asks for room.
pub(super) enum Room<B> {
    Taken,
    /// What is in flight will make some.
    Wait,
    /// Nothing is in flight: write these deltas away, then [`Scheduler::spilled`].
    Spill(Vec<(Index, B)>),
}
