//! How a run's working memory is shared out.

use super::units::Limits;
use crate::repository::layout::Layout;

/// How the working memory is shared out, in bytes.
///
/// About half of it is counted here. The other half is for what can't be: buffers of connections,
/// queues, tables, and what the allocator loses to fragmentation when threads free what others have
/// allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// All of it.
    pub(crate) memory: u64,
    /// Contents that may be bases.
    pub(crate) bases: u64,
    /// Entries that the reader has taken.
    pub(crate) entries: u64,
    /// Results of tasks.
    pub(crate) results: u64,
    /// Parts of a pack that is kept as it comes.
    pub(crate) parts: u64,
    /// The first part of it, and what an index may take at once.
    pub(crate) part: u64,
    /// What of the source is read ahead.
    pub(crate) ahead: u64,
    /// Above this an object is streamed and never whole in memory.
    pub(crate) large: u64,
}

impl Budget {
    pub(crate) fn of(memory_bytes: u64, layout: Layout) -> Self {
        let part = (memory_bytes / 8).clamp(5 << 20, 64 << 20);
        let (share, parts, large) = match layout {
            Layout::Loose => (memory_bytes / 8, 0, 64 << 20),
            // One part that fills and one or two on their way; the second pass reads blocks, for
            // which the parts' share is free by then.
            Layout::Pack => (memory_bytes / 16, memory_bytes / 4, 32 << 20),
        };
        Budget {
            memory: memory_bytes,
            bases: memory_bytes / 4,
            entries: share,
            results: share,
            parts,
            part,
            ahead: memory_bytes / 16,
            large: (memory_bytes / 16).clamp(256 << 10, large),
        }
    }

    /// What a unit of small entries takes.
    pub(super) fn unit_bytes(&self) -> u64 {
        (self.memory / 1024).clamp(8 << 10, 64 << 10)
    }

    /// For the scheduler. `readable`: what is stored can be read at once.
    pub(super) fn limits(&self, cores: usize, concurrency: usize, readable: bool) -> Limits {
        Limits {
            intake: self.entries,
            work: self.results,
            work_after: 2 * self.results,
            cache: self.bases,
            parts: self.parts,
            deferred: self.memory / 16,
            large: self.large,
            // Families whose results are kept for no upload: the more of one that is resolved at once, the
            // less it costs to hand on.
            unit_bytes: if readable { self.unit_bytes() } else { 4 * self.unit_bytes() },
            unit_entries: 256,
            resolving: cores + 2,
            // Read-backs of a pack are ordered, so that its blocks are read once.
            reading: if readable { concurrency } else { concurrency.min(cores + 2) },
            readable,
            uploads: readable,
        }
    }
}
