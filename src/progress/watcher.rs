//! The trait of whoever watches a run.

/// Hears what a run does. All counts are increments.
pub trait Progress: Send + Sync {
    /// The pack's header says that `entries` objects will come (they add up over several fetches).
    fn expect_objects(&self, entries: u64) {
        let _ = entries;
    }

    /// `bytes` of the pack have arrived from the source.
    fn received(&self, bytes: u64) {
        let _ = bytes;
    }

    /// `count` objects are done: stored, or found stored already.
    fn objects_done(&self, count: u64) {
        let _ = count;
    }

    /// `bytes` have gone to the store: of objects, of packs, and what a run lays down for itself.
    fn stored(&self, bytes: u64) {
        let _ = bytes;
    }

    /// An LFS object of `bytes` is awaited.
    fn expect_lfs(&self, bytes: u64) {
        let _ = bytes;
    }

    /// `bytes` of LFS objects have arrived.
    fn lfs_received(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The source's own words: one line, no control characters.
    fn source_says(&self, line: &str) {
        let _ = line;
    }

    /// What the run is at now: `asking for refs`, `publishing`.
    fn phase(&self, what: &str) {
        let _ = what;
    }
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
