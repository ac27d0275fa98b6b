//! The program: one repository from a [`Source`] into a [`Store`].
//!
//! [`mirror`] tells the whole story on one page: ask for the refs, compare them with what the
//! mirror has published, guard (`plan`), fetch what is new and store it (`fetch`, `content`), publish,
//! and compact what has piled up (`maintain`). Everything below works on traits; this layer
//! knows neither HTTP nor S3.

mod content;
mod fetch;
mod options;
mod plan;

use std::time::{Duration, Instant};

use crate::lfs;
use crate::maintain::compact::{Compaction, MAX_LOOSE};
use crate::progress::Progress;
use crate::repository::begun::{self, Writing};
pub use crate::repository::error::MirrorError;
use crate::repository::fence::Fence;
pub use crate::repository::layout::LayoutOption as Layout;
use crate::repository::publish;
pub use crate::repository::publish::RefChange;
use crate::repository::slices::Slices;
use crate::repository::state::{self, Recorded};
use crate::repository::temp::{self, TempKeys};
pub use crate::run::{Cancel, MIN_MEMORY_BYTES};
use crate::source::Source;
use crate::store::{Store, StoreErrorKind, Usage};
pub use crate::transfer::MirrorSource;
use fetch::Fetched;
pub use options::Options;
use plan::Plan;

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Something was published (or would be, in a dry run).
    Ok,
    /// Nothing was new.
    Unchanged,
    /// Refs were published, some LFS objects lack.
    Partial,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub status: Status,
    /// Added, moved and deleted refs: HEAD, then by name.
    pub changes: Vec<RefChange>,
    /// Refs that the mirror has now.
    pub refs: usize,
    /// Git objects stored by this run.
    pub objects_written: u64,
    /// Their bytes as stored.
    pub bytes_written: u64,
    /// LFS objects stored by this run.
    pub lfs_written: u64,
    /// LFS objects that lack: oid and reason.
    pub lfs_lacking: Vec<(String, String)>,
    /// Requests to the source.
    pub source_requests: u64,
    /// Requests to the store.
    pub store_requests: u64,
    /// The same by what they are billed as, if the store counts them so.
    pub store_usage: Usage,
    /// Wall time.
    pub elapsed: Duration,
}

/// Mirrors one repository: when this returns a [`Summary`], the mirror is what the source was.
///
/// On an error nothing was published, and what was stored meanwhile serves the next run.
pub fn mirror(
    source: &dyn Source,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    run(&Run { source, from: None, store, options, progress })
}

/// The same from another mirror: its keys are copied.
pub fn mirror_mirror(
    source: &MirrorSource,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    run(&Run { source, from: Some(source.store()), store, options, progress })
}

/// What a run is given.
struct Run<'r> {
    source: &'r dyn Source,
    /// Another mirror whose keys are copied.
    from: Option<&'r dyn Store>,
    store: &'r dyn Store,
    options: &'r Options,
    progress: &'r dyn Progress,
}

/// What a run has stored.
#[derive(Default)]
struct Stored {
    /// Objects and bytes.
    written: (u64, u64),
    lfs: lfs::Outcome,
}

fn run(run: &Run<'_>) -> Result<Summary, MirrorError> {
    run.mirror().map_err(|error| {
        // Whoever cancels may also have cut the connections: that is no failure of theirs.
        if run.options.cancel.is_cancelled() && error.is_transient() {
            log::info!("{error}");
            return MirrorError::Interrupted;
        }
        error
    })
}

impl Run<'_> {
    fn mirror(&self) -> Result<Summary, MirrorError> {
        let Run { source, store, options, progress, .. } = *self;
        let started = Instant::now();
        let requests_before = (source.requests(), store.requests(), store.usage());
        progress.phase("asking for refs");
        let mut plan = Plan::make(source, store, options)?;
        let stored = if options.dry_run { Stored::default() } else { self.carry_out(&mut plan)? };
        let Stored { written, lfs } = stored;
        let wrote_nothing = plan.unchanged && written.0 == 0 && lfs.written == 0;
        Ok(Summary {
            status: match (lfs.lacking.is_empty(), wrote_nothing) {
                (false, _) => Status::Partial,
                (true, true) => Status::Unchanged,
                (true, false) => Status::Ok,
            },
            changes: plan.changes,
            refs: plan.wanted.refs.len(),
            objects_written: written.0,
            bytes_written: written.1,
            lfs_written: lfs.written,
            lfs_lacking: lfs.lacking,
            source_requests: source.requests() - requests_before.0,
            store_requests: store.requests() - requests_before.1,
            store_usage: store.usage().since(requests_before.2),
            elapsed: started.elapsed(),
        })
    }

    /// Clears away what killed runs have left, stores what is new, publishes it, and says that it is over.
    fn carry_out(&self, plan: &mut Plan) -> Result<Stored, MirrorError> {
        let over = sweep(self.store, plan.recorded.as_ref())?;
        publish::mend_packed_refs(self.store, &plan.published)?;
        let is_swept = !over.is_empty();
        let writing = Writing::new(self.store, plan.recorded.as_ref(), over);
        self.store_news(&writing, plan, is_swept).inspect_err(|error| {
            let is_down = matches!(error, MirrorError::Store(_)) && error.is_transient();
            if !is_down && let Err(error) = writing.give_up() {
                log::info!("the next run looks for what this one has left: {error}");
            }
        })
    }

    /// Stores what is new, publishes it, records that, and compacts the mirror.
    fn store_news(
        &self,
        writing: &Writing<'_>,
        plan: &mut Plan,
        is_swept: bool,
    ) -> Result<Stored, MirrorError> {
        let is_due = !plan.unchanged || self.options.full;
        let fence = if is_due { Some(Fence::read(self.store)?) } else { None };
        let (fetched, lfs) = self.store_content(writing, plan, is_due)?;
        let stored = Stored { written: fetched.as_ref().map_or((0, 0), |new| new.written), lfs };
        let (mut listed, mut loose) = (Vec::new(), self.loose_before(plan));
        if let Some(fetched) = fetched {
            loose += if self.is_loose(&fetched) { stored.written.0 } else { 0 };
            listed = self.publish(plan, fetched, fence.as_ref())?;
        }
        let is_recorded = plan.is_recorded(self.source) && !is_swept;
        // LFS objects alone are news, too: fewer are missing.
        let is_news = !plan.unchanged || stored.written.0 > 0 || stored.lfs.written > 0;
        if is_news || !is_recorded {
            self.record(writing, plan, &stored, fence.as_ref(), listed, loose);
        }
        Ok(stored)
    }

    /// Fetches or copies git objects, if they are due, and LFS objects, if any may be new.
    fn store_content(
        &self,
        writing: &Writing<'_>,
        plan: &Plan,
        is_due: bool,
    ) -> Result<(Option<Fetched>, lfs::Outcome), MirrorError> {
        let Run { source, options, progress, .. } = *self;
        if let Some(from) = self.from {
            return content::copy_all(from, writing, options, progress, is_due);
        }
        let git = is_due.then_some(|options: &Options, pointers: &lfs::Queue| {
            fetch::fetch(source, writing, options, progress, plan, pointers)
        });
        if git.is_none() && !(options.lfs && plan.may_lack_lfs()) {
            return Ok((None, lfs::Outcome::default()));
        }
        content::store_all(source, writing, options, progress, &plan.wanted, git)
    }

    /// Loose objects that runs have stored since they were last packed.
    fn loose_before(&self, plan: &Plan) -> u64 {
        plan.recorded.as_ref().and_then(Recorded::loose_objects).unwrap_or(0)
    }

    fn is_loose(&self, fetched: &Fetched) -> bool {
        let complete = &fetched.complete;
        complete.pack.is_none() && self.from.is_none() && !complete.is_in_slices()
    }

    /// Publishes what was fetched; answers the packs that are then listed.
    fn publish(
        &self,
        plan: &mut Plan,
        fetched: Fetched,
        fence: Option<&Fence>,
    ) -> Result<Vec<String>, MirrorError> {
        let Fetched { complete, replaced, copied, .. } = fetched;
        plan.tags.fill(&mut plan.wanted);
        let in_slices = complete.is_in_slices();
        self.progress.phase("publishing");
        if let Some(fence) = fence {
            fence.check(self.store)?;
        }
        publish::list_copied(self.store, &copied)?;
        let (published, wanted) = (&plan.published, &plan.wanted);
        let listed = publish::publish(self.store, complete, published, wanted, &replaced)?;
        if in_slices {
            Slices::forget(self.store);
        }
        Ok(listed)
    }

    /// Records what is published, and compacts what has piled up. Everything is published by then, so
    /// what fails is a warning, and a later run's to do.
    fn record(
        &self,
        writing: &Writing<'_>,
        plan: &Plan,
        stored: &Stored,
        fence: Option<&Fence>,
        listed: Vec<String>,
        loose: u64,
    ) {
        let Run { source, options, .. } = *self;
        let recorded = plan.recorded.as_ref();
        let lacking = match options.lfs {
            true => stored.lfs.lacking.len(),
            // They were not looked at.
            false => recorded.and_then(Recorded::lfs_lacking).unwrap_or(0),
        };
        let (layout, wanted) = (options.layout, &plan.wanted);
        let fields = |loose| state::published(source, recorded, layout, wanted, lacking, loose);
        let warn = |error| log::warn!("published, but {error}");
        // Of a mirror by an older program it is not known how many loose objects there are.
        let is_unknown = recorded.and_then(Recorded::loose_objects).is_none();
        let may_be_many = loose > MAX_LOOSE || (is_unknown && plan.published.exists());
        let is_due = listed.len() > options.max_packs || may_be_many;
        let mut left = loose;
        if let (Some(fence), true, None) = (fence, is_due && layout != Layout::Loose, self.from) {
            writing.publish(&fields(loose)).unwrap_or_else(warn);
            self.progress.phase("compacting");
            left = self.compact(writing, fence, plan, listed, may_be_many, loose);
        }
        writing.end(&fields(left)).unwrap_or_else(warn);
    }

    /// Compacts the mirror; answers how many loose objects are in no pack.
    fn compact(
        &self,
        writing: &Writing<'_>,
        fence: &Fence,
        plan: &Plan,
        listed: Vec<String>,
        may_be_many: bool,
        loose: u64,
    ) -> u64 {
        let options = self.options;
        let temp = TempKeys::new(writing);
        let compaction = Compaction {
            store: writing,
            temp: &temp,
            fence,
            refs: &plan.wanted.refs,
            max_packs: options.max_packs.max(1),
            memory_bytes: options.memory_bytes.max(MIN_MEMORY_BYTES),
            concurrency: options.concurrency,
            cancel: &options.cancel,
        };
        let mut left = loose;
        let outcome = (|| {
            // The list may be too long only since loose objects were packed; and deleting them is last.
            let mut listed = compaction.packs(listed)?;
            if may_be_many {
                (listed, left) = compaction.loose(listed)?;
                compaction.packs(listed)?;
            }
            Ok::<_, MirrorError>(())
        })();
        match outcome.and(temp.clean().map_err(MirrorError::from)) {
            Ok(()) => {}
            Err(MirrorError::Interrupted) => log::info!("interrupted while compacting the mirror"),
            Err(error) => {
                log::warn!("everything is published, but the mirror is not compacted: {error}")
            }
        }
        left
    }
}

/// Clears away what killed runs have left, if one has begun and not ended, or nothing is known. Answers
/// the runs that are over and of which nothing is left. Who may not list is let pass: that right is
/// needed for nothing else but a first run.
fn sweep(store: &dyn Store, recorded: Option<&Recorded>) -> Result<Vec<String>, MirrorError> {
    let is_due = recorded.is_none_or(|state| !state.writing().is_empty());
    let swept = match is_due {
        true => temp::sweep_all(store),
        // No request: what a directory has of its own.
        false => store.remove_leftovers().map(|deleted| temp::Swept { deleted, is_left: false }),
    };
    match swept {
        Ok(temp::Swept { deleted, is_left }) => {
            if deleted > 0 {
                log::info!("deleted {deleted} temporary keys and uploads of runs that were killed");
            }
            Ok(recorded.filter(|_| !is_left).map(begun::over).unwrap_or_default())
        }
        Err(error)
            if matches!(error.kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported) =>
        {
            log::warn!("cannot check for leftovers of killed runs: {error}");
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}
