//! What a run is to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::git::refs::RefFilter;
use crate::repository::layout::LayoutOption as Layout;
use crate::run::Cancel;
use crate::store::Key;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How objects are laid out in the bucket.
    pub layout: Layout,
    /// Which refs.
    pub refs: RefFilter,
    /// Mirror LFS objects too.
    pub lfs: bool,
    /// Ask for everything again and store what is missing, whatever the mirror says it has.
    pub full: bool,
    /// Allow deleting all or most refs.
    pub force: bool,
    /// Take over a mirror of another source.
    pub move_source: bool,
    /// Pack layout: fetch a first run in slices from the start, not only once the whole has broken.
    pub slices: bool,
    /// Also publish bundles. Needs [`Layout::Pack`]: a bundle has a pack that is stored.
    pub bundle: bool,
    /// In packs: begin a first run with a bundle that the source offers.
    pub bundle_uri: bool,
    /// Say what would change and write nothing.
    pub dry_run: bool,
    /// Store requests in flight; at least 1.
    pub concurrency: usize,
    /// Working memory in bytes: caches, entries and parts in flight. At least
    /// [`MIN_MEMORY_BYTES`](crate::run::MIN_MEMORY_BYTES).
    pub memory_bytes: u64,
    /// Above this many packs, some are made one.
    pub max_packs: usize,
    /// Keep the refs of each publication, and what they reach, for so long after the next one; zero: no
    /// longer. `None`: as the mirror has it.
    pub keep_history: Option<Duration>,
    /// Larger objects, LFS objects too, are refused before any work is done on them.
    pub max_object_bytes: u64,
    /// Finds the mirror that the target lies inside, if any; asked by a first run alone.
    pub around: Around,
    /// To stop the run.
    pub cancel: Cancel,
}

/// Answers the URL of whatever the target lies inside that has a key. A store cannot tell: it knows
/// nothing above its prefix.
#[derive(Clone, Default)]
pub struct Around(Option<Arc<FindAround>>);

type FindAround = dyn Fn(&Key) -> Option<String> + Send + Sync;

impl Around {
    /// `find` is called at most once in a run.
    pub fn new(find: impl Fn(&Key) -> Option<String> + Send + Sync + 'static) -> Self {
        Around(Some(Arc::new(find)))
    }

    pub(super) fn find(&self, key: &Key) -> Option<String> {
        self.0.as_ref().and_then(|find| find(key))
    }
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Around(..)" } else { "Around" })
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            layout: Layout::default(),
            refs: RefFilter::default(),
            lfs: true,
            full: false,
            force: false,
            move_source: false,
            slices: false,
            bundle: false,
            bundle_uri: true,
            dry_run: false,
            concurrency: 64,
            memory_bytes: 64 << 20,
            max_packs: 20,
            keep_history: None,
            max_object_bytes: 5 << 40,
            around: Around::default(),
            cancel: Cancel::default(),
        }
    }
}
