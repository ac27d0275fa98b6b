//! The program: one repository from a [`Source`] into a [`Store`].
//!
//! [`mirror`] tells the whole story on one page: ask for the refs, compare them with what the
//! mirror has published, guard (`plan`), fetch what is new and store it (`fetch`, `content`), publish,
//! and compact what has piled up (`maintain`). Everything below works on traits; this layer
//! knows neither HTTP nor S3.

mod content;
mod fetch;
mod options;
mod part;
mod plan;
mod some;

use std::time::{Duration, Instant};

use crate::lfs;
use crate::maintain::bundle::{Bundling, News};
use crate::maintain::compact::{Compaction, MAX_LOOSE, Merged};
use crate::maintain::count;
use crate::progress::Progress;
use crate::repository::begun::{self, Writing};
pub use crate::repository::error::MirrorError;
use crate::repository::fence::Fence;
use crate::repository::history;
pub use crate::repository::holds::Holds;
pub use crate::repository::layout::LayoutOption as Layout;
use crate::repository::loose;
use crate::repository::publish;
pub use crate::repository::publish::RefChange;
use crate::repository::slices::Slices;
use crate::repository::state::{self, Recorded};
use crate::repository::temp::{self, TempKeys};
pub use crate::run::{Cancel, MIN_MEMORY_BYTES};
use crate::source::Source;
use crate::store::{Store, Usage};
use crate::transfer::storing::Bring;
pub use crate::transfer::{MirrorSource, TripSource};
use fetch::Fetched;
pub use options::{Around, Options};
use part::Part;
use plan::Plan;
pub use some::{Sent, store_objects};

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Something was published (or would be, in a dry run).
    Ok,
    /// Nothing was new.
    Unchanged,
    /// Refs were published, some LFS objects are missing.
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
    /// Their bytes.
    pub lfs_bytes_written: u64,
    /// LFS objects that are missing: oid and reason.
    pub lfs_missing: Vec<(String, String)>,
    /// What the mirror holds now, if that is known.
    pub holds: Option<Holds>,
    /// When something was last published: RFC 3339, as the mirror's state records it.
    pub published_at: Option<String>,
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

/// The same from another mirror: its keys are copied. Of some refs alone, or if its keys cannot be listed,
/// what they reach is.
pub fn mirror_mirror(
    source: &MirrorSource,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    match Part::of(source, options) {
        Some(part) => run(&Run { source: &part, from: None, store, options, progress }),
        None => run(&Run { source, from: Some(source), store, options, progress }),
    }
}

/// The same from a trip: the keys that it has on board are unloaded.
pub fn mirror_trip(
    source: &TripSource,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    run(&Run { source, from: Some(source), store, options, progress })
}

/// What a run is given.
struct Run<'r> {
    source: &'r dyn Source,
    /// Another mirror whose keys are copied, or a trip that has them on board.
    from: Option<&'r dyn Bring>,
    store: &'r dyn Store,
    options: &'r Options,
    progress: &'r dyn Progress,
}

/// What a run has published.
#[derive(Default)]
struct Published {
    /// Packs that are listed, if the run looked.
    listed: Vec<String>,
    /// Objects that runs have stored loose since they were last packed.
    loose: u64,
    is_whole: bool,
    /// Some of what is published was stored by runs before.
    found: bool,
    news: News,
}

/// What a run has stored.
#[derive(Default)]
struct Stored {
    /// Objects and bytes.
    written: (u64, u64),
    lfs: lfs::Outcome,
    /// What the mirror holds with it, and when it was published.
    holds: Option<Holds>,
    published_at: Option<String>,
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
        progress.phase("requesting refs");
        let mut plan = Plan::make(source, store, options)?;
        let stored = if options.dry_run { Stored::default() } else { self.carry_out(&mut plan)? };
        let Stored { written, lfs, holds, published_at } = stored;
        let wrote_nothing = plan.unchanged && written.0 == 0 && lfs.written == 0;
        Ok(Summary {
            status: match (lfs.unavailable.is_empty(), wrote_nothing) {
                (false, _) => Status::Partial,
                (true, true) => Status::Unchanged,
                (true, false) => Status::Ok,
            },
            changes: plan.changes,
            refs: plan.wanted.refs.len(),
            objects_written: written.0,
            bytes_written: written.1,
            lfs_written: lfs.written,
            lfs_bytes_written: lfs.bytes,
            lfs_missing: lfs.unavailable,
            holds,
            published_at,
            source_requests: source.requests() - requests_before.0,
            store_requests: store.requests() - requests_before.1,
            store_usage: store.usage().since(requests_before.2),
            elapsed: started.elapsed(),
        })
    }

    /// Clears away what killed runs have left, stores what is new, publishes it, and says that it is over.
    fn carry_out(&self, plan: &mut Plan) -> Result<Stored, MirrorError> {
        let over = sweep(self.store, plan.recorded.as_ref())?;
        publish::mend_packed_refs(self.store, plan.wanted.format, &plan.published)?;
        let is_swept = !over.is_empty();
        let writing = Writing::new(self.store, plan.recorded.as_ref(), over);
        self.store_news(&writing, plan, is_swept).inspect_err(|error| {
            let is_down = matches!(error, MirrorError::Store(_)) && error.is_transient();
            if !is_down && let Err(error) = writing.give_up() {
                log::info!("the next run checks for leftovers of this one: {error}");
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
        plan.full |= self.needs_whole(plan)?;
        let is_due = !plan.unchanged || plan.full;
        let bundles_begin = self.keeps_bundles(plan) && !plan.is_bundled();
        let fence = if is_due || bundles_begin { Some(Fence::read(self.store)?) } else { None };
        if is_due
            && self.from.is_none()
            && let Some(packs) = plan.recorded_packs()
        {
            // Before a pack is stored that nothing would list.
            publish::check_list(self.store, packs)?;
        }
        let (fetched, lfs) = self.store_content(writing, plan, is_due)?;
        let written = fetched.as_ref().map_or((0, 0), |new| new.written);
        let recorded = plan.recorded.as_ref();
        let mut stored = Stored {
            written,
            lfs,
            holds: recorded.and_then(Recorded::holds),
            published_at: recorded.and_then(Recorded::published_at).map(str::to_owned),
        };
        let mut done = Published { loose: self.loose_before(plan), ..Published::default() };
        if let Some(fetched) = fetched {
            done = self.publish(writing, plan, fetched, fence.as_ref(), done.loose)?;
        } else if bundles_begin {
            done.listed = publish::listed_packs(self.store)?;
        }
        let begins_history = plan.is_history_news(self.options.keep_history);
        if begins_history && plan.keeps_history {
            // If anything was published just now, it has its snapshot.
            writing.noted(history::note_published(self.store, &plan.wanted)?);
        }
        let is_recorded =
            plan.is_recorded(self.source) && !is_swept && !bundles_begin && !begins_history;
        // LFS objects alone are news, too: fewer are missing.
        let is_news = !plan.unchanged || stored.written.0 > 0 || stored.lfs.written > 0;
        if is_news || !is_recorded {
            self.record(writing, plan, &mut stored, fence.as_ref(), done);
        } else if let Err(error) = writing.give_up() {
            log::info!("the next run checks for leftovers of this one: {error}");
        }
        Ok(stored)
    }

    /// Bundles are kept only of what comes in packs, and from a repository itself.
    fn keeps_bundles(&self, plan: &Plan) -> bool {
        let may = self.options.layout == Layout::Pack && self.from.is_none() && !plan.thin;
        self.options.bundle && may
    }

    /// Bundles are to begin, and not everything is in packs.
    fn needs_whole(&self, plan: &Plan) -> Result<bool, MirrorError> {
        if !self.keeps_bundles(plan) || plan.is_bundled() || !plan.published.exists() {
            return Ok(false);
        }
        // Loose objects come before packs.
        let first = self.store.list("objects/", None)?.objects;
        Ok(first.iter().any(|info| loose::oid_of_key(info.key.as_str()).is_some()))
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
        if git.is_none() && !(options.lfs && plan.may_miss_lfs()) {
            return Ok((None, lfs::Outcome::default()));
        }
        content::store_all(source, writing, options, progress, &plan.wanted, git)
    }

    /// Loose objects that runs have stored since they were last packed.
    fn loose_before(&self, plan: &Plan) -> u64 {
        plan.recorded.as_ref().and_then(Recorded::loose_objects).unwrap_or(0)
    }

    /// Publishes what was fetched. `loose`: so many objects were loose before.
    fn publish(
        &self,
        writing: &Writing<'_>,
        plan: &mut Plan,
        fetched: Fetched,
        fence: Option<&Fence>,
        loose: u64,
    ) -> Result<Published, MirrorError> {
        let Fetched { complete, written, replaced, is_whole, found, prerequisites, copied } =
            fetched;
        plan.tags.fill(&mut plan.wanted);
        let in_slices = complete.is_in_slices();
        let is_loose = complete.pack.is_none() && self.from.is_none() && !in_slices;
        let news =
            News { pack: complete.pack.as_ref().map(|pack| pack.name.clone()), prerequisites };
        self.progress.phase("publishing");
        let (published, wanted) = (&plan.published, &plan.wanted);
        let is_noted = plan.keeps_history && !plan.unchanged;
        if is_noted && published.exists() {
            writing.noted(history::note_published(self.store, &published.advertised())?);
        }
        if let Some(fence) = fence {
            fence.check(self.store)?;
        }
        publish::list_copied(self.store, &copied, plan.keeps_history)?;
        let recorded = plan.recorded_packs().filter(|_| self.from.is_none());
        let listed =
            publish::publish(self.store, complete, published, wanted, &replaced, recorded)?;
        // The next run that publishes notes it if this fails.
        match is_noted.then(|| history::note(self.store, wanted)) {
            Some(Ok(name)) => writing.noted([name]),
            Some(Err(error)) => {
                log::warn!("published, but its refs are not recorded in the history yet: {error}");
            }
            None => {}
        }
        if in_slices {
            Slices::forget(self.store);
        }
        let loose = loose + if is_loose { written.0 } else { 0 };
        Ok(Published { listed, loose, is_whole, found, news })
    }

    /// Records what is published, compacts what has piled up, and keeps the bundles right. Everything is
    /// published by then, so what fails is a warning, and a later run's to do.
    fn record(
        &self,
        writing: &Writing<'_>,
        plan: &Plan,
        stored: &mut Stored,
        fence: Option<&Fence>,
        done: Published,
    ) {
        let Run { source, options, .. } = *self;
        let recorded = plan.recorded.as_ref();
        let missing = match options.lfs {
            true => stored.lfs.unavailable.len(),
            // They were not looked at.
            false => recorded.and_then(Recorded::lfs_missing).unwrap_or(0),
        };
        let (layout, wanted) = (options.layout, &plan.wanted);
        let mut holds = self.holds(plan, stored, &done);
        let fields = |loose, holds| {
            let mut fields = state::published(source, recorded, layout, wanted, missing, loose);
            state::keep_history(&mut fields, options.keep_history);
            state::holding(&mut fields, holds);
            fields
        };
        let warn = |error| log::warn!("published, but {error}");
        // Of a mirror by an older program it is not known how many loose objects there are.
        let is_unknown = recorded.and_then(Recorded::loose_objects).is_none();
        let may_be_many = done.loose > MAX_LOOSE || (is_unknown && plan.published.exists());
        let may_compact = layout != Layout::Loose && self.from.is_none();
        let is_due = may_compact && (done.listed.len() > options.max_packs || may_be_many);
        let bundles = self.keeps_bundles(plan);
        let mut last = fields(done.loose, holds);
        if let (Some(fence), true) = (fence, is_due || bundles) {
            writing.publish(&last).unwrap_or_else(warn);
            let temp = TempKeys::new(writing);
            let compaction = self.compaction(writing, &temp, fence, plan);
            let (mut left, mut listed, mut merged) = (done.loose, done.listed, None);
            if is_due {
                self.progress.phase("compacting");
                let outcome = compact(&compaction, &mut listed, may_be_many, &mut left);
                merged = outcome.unwrap_or_else(|error| self.is_left(error, "compacted"));
                holds = holds.map(|holds| holds.with_packs(&listed));
                last = fields(left, holds);
            }
            if bundles {
                self.progress.phase("bundling");
                let kept = bundle(&compaction, plan, &done.news, done.is_whole, merged, listed);
                if kept.unwrap_or_else(|error| self.is_left(error, "bundled")) {
                    last.extend([state::bundled(wanted)]);
                }
            }
            temp.clean().unwrap_or_else(|error| self.is_left(error.into(), "cleaned up"));
        }
        stored.published_at =
            last.get("published_at").and_then(|at| at.as_str()).map(str::to_owned);
        stored.holds = holds;
        writing.end(&last).unwrap_or_else(warn);
    }

    /// What the mirror holds once `stored` is published. `None`: an older program has stored what was
    /// there before, and nobody has counted it.
    fn holds(&self, plan: &Plan, stored: &Stored, done: &Published) -> Option<Holds> {
        // Beside what was written, some was there: keys that were copied, or that were found.
        if self.from.is_some() || (done.is_whole && (plan.published.exists() || done.found)) {
            let counted = count::count(self.store, self.options.concurrency, &self.options.cancel);
            return counted.inspect_err(|error| log::info!("not counted: {error}")).ok();
        }
        let before = match plan.published.exists() {
            true => stored.holds?,
            false => Holds::default(),
        };
        let holds = before.with_objects(stored.written);
        let holds = holds.with_lfs((stored.lfs.written, stored.lfs.bytes));
        Some(if done.listed.is_empty() { holds } else { holds.with_packs(&done.listed) })
    }

    /// Says what a later run does.
    fn is_left<T: Default>(&self, error: MirrorError, what: &str) -> T {
        match error {
            MirrorError::Interrupted => log::info!("interrupted before the mirror was {what}"),
            error => log::warn!("everything is published, but the mirror is not {what}: {error}"),
        }
        T::default()
    }

    fn compaction<'c>(
        &'c self,
        writing: &'c Writing<'c>,
        temp: &'c TempKeys<'c>,
        fence: &'c Fence,
        plan: &'c Plan,
    ) -> Compaction<'c> {
        Compaction {
            store: writing,
            temp,
            fence,
            refs: &plan.wanted.refs,
            max_packs: self.options.max_packs.max(1),
            memory_bytes: self.options.memory_bytes.max(MIN_MEMORY_BYTES),
            concurrency: self.options.concurrency,
            cancel: &self.options.cancel,
        }
    }
}

/// Compacts the mirror: answers which packs have become one. `listed` and `left`, the loose objects in
/// no pack, are then what they have become.
fn compact(
    compaction: &Compaction<'_>,
    listed: &mut Vec<String>,
    may_be_many: bool,
    left: &mut u64,
) -> Result<Option<Merged>, MirrorError> {
    let (now, merged) = compaction.packs(listed.clone())?;
    *listed = now;
    if may_be_many {
        let packed = compaction.loose(listed.clone())?;
        *left = packed.left;
        // The list may be too long only since loose objects were packed.
        *listed = compaction.packs(packed.listed.clone())?.0;
        compaction.delete_packed(packed)?;
    }
    Ok(merged)
}

/// Makes the bundles those of what is published. False: they can't be.
fn bundle(
    compaction: &Compaction<'_>,
    plan: &Plan,
    news: &News,
    is_whole: bool,
    merged: Option<Merged>,
    listed: Vec<String>,
) -> Result<bool, MirrorError> {
    let bundling = Bundling { compaction, published: &plan.wanted };
    if listed.is_empty() {
        return Ok(false);
    }
    let follows = !is_whole && plan.is_bundled();
    if follows && bundling.follow(news, merged.as_ref())? {
        return Ok(true);
    }
    let begun = bundling.begin(listed)?;
    if !begun {
        log::warn!("no bundle is published: the packs cannot be merged with this --memory");
    }
    Ok(begun)
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
        Err(error) if temp::can_go_on_without_sweep(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod collisions;
