//! The pipeline's one shared table, and the deltas in it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::tasks::Start;
use crate::ingest::gate::Permit;
use crate::pack::delta::DeltaHeader;
use crate::pack::resolver::{Index, Resolver};
use crate::store::Key;

/// Which entry is what, and which deltas wait. The reader adds entries and deltas; the task that
/// resolves an object moves its waiters to `ready`; [`super::Engine::pump`] takes them from there. Guarded
/// by [`super::Engine::table`]; no I/O, no channel and no rayon call happens under that lock.
pub(super) struct Table {
    pub(super) resolver: Resolver,
    /// Deltas that do not run yet, by entry.
    pub(super) parked: HashMap<Index, Delta>,
    /// Deltas whose base is resolved, with the base: last in, first out, so that a family is
    /// resolved depth first and its bases are still in memory.
    pub(super) ready: Vec<(Index, Index)>,
    /// Pack layout, first pass: deltas that were ready and whose base has left memory.
    pub(super) deferred: Vec<(Index, Index)>,
    /// Pack layout: each entry's CRC-32, in pack order.
    pub(super) crcs: Vec<u32>,
}

/// A delta that does not run yet.
pub(crate) struct Delta {
    pub(crate) header: DeltaHeader,
    pub(crate) bytes: DeltaBytes,
}

/// Where a delta's instructions are.
pub(crate) enum DeltaBytes {
    /// Here, with the permit for them. Boxed: hundreds of thousands of deltas may be parked that
    /// are somewhere else.
    Memory(Box<(Vec<u8>, Permit)>),
    /// In a temporary key, with others: it was spilled, or is too large for memory.
    Stored(Box<(Arc<Key>, Range<u64>)>),
    /// In the pack itself, which is kept (pack layout); so many bytes when inflated.
    InPack { len: u64 },
}

impl DeltaBytes {
    pub(super) fn len(&self) -> u64 {
        match self {
            DeltaBytes::Memory(held) => held.0.len() as u64,
            DeltaBytes::Stored(place) => place.1.end - place.1.start,
            DeltaBytes::InPack { len } => *len,
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self, DeltaBytes::Memory(..))
    }
}

impl Table {
    /// Puts the delta that is ready last off to the second pass; its bytes are in the pack.
    pub(super) fn defer(&mut self) -> Option<Start> {
        let (index, base) = self.ready.pop()?;
        let delta = self.parked.get_mut(&index)?;
        delta.bytes = DeltaBytes::InPack { len: delta.bytes.len() };
        self.deferred.push((index, base));
        Some(Start::Deferred)
    }

    /// Where an entry's bytes lie in the pack: up to the next entry, or to the trailer.
    pub(super) fn entry_range(&self, index: Index, pack_len: u64) -> (u64, u64) {
        let start = self.resolver.offset(index);
        let next = index as usize + 1;
        let last = next == self.resolver.len();
        let end = if last { pack_len - 20 } else { self.resolver.offset(next as Index) };
        (start, end)
    }

    /// Takes the delta that is ready last out of both lists.
    pub(super) fn take_ready(&mut self) -> Option<Delta> {
        let (index, _) = self.ready.pop()?;
        let mut delta = self.parked.remove(&index)?;
        if let DeltaBytes::Memory(held) = &mut delta.bytes {
            held.1.unpark();
        }
        Some(delta)
    }
}
