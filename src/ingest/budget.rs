//! How a run's working memory is shared out.

use crate::repository::layout::Layout;

/// How the working memory is shared out, in bytes.
///
/// About half of it is counted here. The other half is for what can't be: buffers of connections,
/// queues, tables, and what the allocator loses to fragmentation when threads free what others have
/// allocated (measured: a process grows by one and a half to two bytes for each that is counted).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The LRU of bases.
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
        match layout {
            Layout::Loose => Budget {
                bases: memory_bytes / 4,
                entries: memory_bytes / 8,
                results: memory_bytes / 8,
                parts: 0,
                part,
                ahead: memory_bytes / 16,
                large: (memory_bytes / 16).clamp(256 << 10, 64 << 20),
            },
            // One part that fills and one or two on their way; the second pass reads blocks, for
            // which the parts' share is free by then.
            Layout::Pack => Budget {
                bases: memory_bytes / 4,
                entries: memory_bytes / 16,
                results: memory_bytes / 16,
                parts: memory_bytes / 4,
                part,
                ahead: memory_bytes / 16,
                large: (memory_bytes / 16).clamp(256 << 10, 32 << 20),
            },
        }
    }
}
