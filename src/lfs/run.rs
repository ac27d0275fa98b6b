//! What a run mirrors LFS objects with.

use crate::git::refs::Advertisement;
use crate::progress::Progress;
use crate::repository::layout::Layout;
use crate::run::Cancel;
use crate::source::Source;
use crate::store::Store;

/// What a run mirrors LFS objects with.
pub(crate) struct Run<'r> {
    pub(crate) source: &'r dyn Source,
    pub(crate) store: &'r dyn Store,
    pub(crate) progress: &'r dyn Progress,
    /// About to be published.
    pub(crate) refs: &'r Advertisement,
    pub(crate) layout: Layout,
    pub(crate) concurrency: usize,
    /// Larger ones are not asked for.
    pub(crate) max_object_bytes: u64,
    pub(crate) cancel: &'r Cancel,
}
