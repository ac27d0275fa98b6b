//! The program: one repository from a [`Source`] into a [`Store`].
//!
//! [`mirror`] tells the whole story on one page: ask for the refs, compare them with what the
//! mirror has published, guard, fetch what is new and store it (`ingest`), beside it the LFS objects
//! that it points to (`lfs`), publish (`repository`). Everything below works on traits; this layer knows neither HTTP nor
//! S3.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::git::object::{Kind, Oid};
use crate::git::refs::{Advertisement, Head, Ref, RefFilter, RefName, default_branch};
use crate::ingest::budget::Budget;
use crate::ingest::env::{Env, Written};
use crate::ingest::run::{Complete, store_pack};
use crate::ingest::slices::{Counted, SlicedFetch};
use crate::ingest::thin;
use crate::lfs;
use crate::progress::Progress;
pub use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
pub use crate::repository::layout::Layout;
pub use crate::repository::publish::RefChange;
use crate::repository::publish::{self, Published};
use crate::repository::slices::Slices;
use crate::repository::temp::{self, TempKeys};
use crate::repository::{fence, objects, peeled, state};
use crate::run::retry::{Backoff, Policy, sleep};
pub use crate::run::{Cancel, MIN_MEMORY_BYTES};
use crate::source::{Source, SourceErrorKind};
use crate::store::{Store, StoreErrorKind};
pub use crate::transfer::MirrorSource;
use crate::transfer::copy::Copying;

/// How often a stream that breaks in the middle is begun, and the wait before it is begun again.
const STREAM_POLICY: Policy = Policy::of(5, Duration::from_millis(200));

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
    /// Let the mirror lose all its refs, or most of them.
    pub force: bool,
    /// Take over a mirror of another source.
    pub move_source: bool,
    /// Pack layout: fetch a first run in slices from the start, not only once the whole has broken.
    pub slices: bool,
    /// Say what would change and write nothing.
    pub dry_run: bool,
    /// Store requests in flight; at least 1.
    pub concurrency: usize,
    /// Working memory in bytes: caches, entries and parts in flight. At least
    /// [`MIN_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// Pack layout: above this many packs, the whole repository is taken as one.
    pub max_packs: usize,
    /// Larger objects, LFS objects too, are refused before any work is done on them.
    pub max_object_bytes: u64,
    /// To stop the run.
    pub cancel: Cancel,
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
            dry_run: false,
            concurrency: 64,
            memory_bytes: 64 << 20,
            max_packs: 50,
            max_object_bytes: 5 << 40,
            cancel: Cancel::default(),
        }
    }
}

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
    run(source, None, store, options, progress).map_err(|error| ended(error, options))
}

/// The same from another mirror: its keys are copied.
pub fn mirror_mirror(
    source: &MirrorSource,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    let from = Some(source.store());
    run(source, from, store, options, progress).map_err(|error| ended(error, options))
}

fn ended(error: MirrorError, options: &Options) -> MirrorError {
    // Whoever cancels may also have cut the connections: that is no failure of theirs.
    if options.cancel.is_cancelled() && is_transient(&error) {
        log::info!("{error}");
        return MirrorError::Interrupted;
    }
    error
}

fn run(
    source: &dyn Source,
    from: Option<&dyn Store>,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary, MirrorError> {
    let started = Instant::now();
    let requests_before = (source.requests(), store.requests());
    progress.phase("asking for refs");
    let advertised = options.refs.apply(source.advertisement()?);
    let prerequisites = source.prerequisites()?;
    let published = Published::read(store, publish::max_file_bytes(options.memory_bytes))?;
    let recorded = state::Recorded::read(store)?;
    if !options.move_source {
        refuse_another_source(store, source, recorded.as_ref())?;
    }
    if !options.force {
        refuse_emptied(store, &published, recorded.as_ref())?;
    }
    let mut wanted = with_head(match prerequisites.is_empty() {
        true => advertised,
        false => thin::join(&published, advertised),
    });
    let tags = peeled::Tags::default();
    tags.know(&published.refs);
    tags.fill(&mut wanted);
    check_refs_fit(&wanted, options.memory_bytes)?;
    let changes = published.changes(&wanted);
    if !options.force {
        guard(&published, &wanted)?;
    }
    let unchanged = changes.is_empty() && published.exists();
    let thin = !prerequisites.is_empty();
    if thin && !unchanged {
        objects::reading(store, options.layout, None, |read| {
            thin::check(source, &published, &prerequisites, read)
        })?;
    }
    let (mut written, mut lfs) = ((0, 0), lfs::Outcome::default());
    if !options.dry_run {
        sweep(store)?;
        publish::mend_packed_refs(store, &published)?;
        let fetching = !unchanged || options.full;
        let fence = if fetching { Some(fence::Fence::read(store)?) } else { None };
        let fetched;
        (fetched, lfs) = match from {
            Some(from) => copy_all(from, store, options, progress, fetching)?,
            None => {
                let git = fetching.then_some(|options: &Options, pointers: &lfs::Queue| {
                    let seen = Seen { pointers, tags: &tags };
                    fetch(source, store, options, progress, &published, &wanted, thin, seen)
                });
                store_all(source, store, options, progress, &wanted, git)?
            }
        };
        if let Some(new) = &fetched {
            written = new.written;
            tags.fill(&mut wanted);
        }
        if let Some(Fetched { complete, replaced, copied, .. }) = fetched {
            progress.phase("publishing");
            if let Some(fence) = fence {
                fence.check(store)?;
            }
            publish::list_copied(store, &copied)?;
            let in_slices = complete.is_in_slices();
            publish::publish(store, complete, &published, &wanted, &replaced)?;
            if in_slices {
                Slices::forget(store);
            }
        }
        let is_stale = match &recorded {
            None => true,
            Some(state) => {
                state.describes(&wanted.refs, Some(&wanted.head)) == Some(false)
                    || !state::is_same_source(
                        Some(state),
                        &source.origin().unwrap_or_else(|| source.describe()),
                    )
            }
        };
        // LFS objects alone are news, too: fewer lack.
        if !unchanged || written.0 > 0 || lfs.written > 0 || is_stale {
            state::write(
                store,
                source,
                recorded.as_ref(),
                options.layout,
                &wanted,
                lfs.lacking.len(),
            );
        }
    }
    let wrote_nothing = unchanged && written.0 == 0 && lfs.written == 0;
    Ok(Summary {
        status: match (lfs.lacking.is_empty(), wrote_nothing) {
            (false, _) => Status::Partial,
            (true, true) => Status::Unchanged,
            (true, false) => Status::Ok,
        },
        changes,
        refs: wanted.refs.len(),
        objects_written: written.0,
        bytes_written: written.1,
        lfs_written: lfs.written,
        lfs_lacking: lfs.lacking,
        source_requests: source.requests() - requests_before.0,
        store_requests: store.requests() - requests_before.1,
        elapsed: started.elapsed(),
    })
}

/// Clears away what killed runs have left. Every run looks, also one that finds nothing new: a source
/// that goes back to what is published must not leave an upload open for ever. Who may not list is
/// let pass: that right is needed for nothing else but a first run.
fn sweep(store: &dyn Store) -> Result<(), MirrorError> {
    match temp::sweep(store) {
        Ok(0) => {}
        Ok(swept) => {
            log::info!("deleted {swept} temporary keys and uploads of runs that were killed");
        }
        Err(error)
            if matches!(error.kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported) =>
        {
            log::warn!("cannot look for what killed runs have left: {error}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What the next run could not read back is not published.
fn check_refs_fit(wanted: &Advertisement, memory_bytes: u64) -> Result<(), MirrorError> {
    let limit = publish::max_file_bytes(memory_bytes);
    // `oid TAB name LF`, and another line with `^{}` for what a tag points at.
    let line = |r: &Ref| (42 + r.name.as_str().len() as u64, r.peeled.is_some());
    let lines = wanted.refs.iter().map(line);
    let len: u64 = lines.map(|(len, peeled)| if peeled { 2 * len + 3 } else { len }).sum();
    if len <= limit {
        return Ok(());
    }
    Err(MirrorError::Guard(format!(
        "info/refs of {} refs has {len} bytes, more than --memory is enough for ({limit} bytes): \
         raise --memory, or mirror fewer refs (--refs, --exclude-refs)",
        wanted.refs.len()
    )))
}

/// A mirror always has a HEAD: without one, git clones with nothing checked out, and a directory is
/// no repository.
fn with_head(mut wanted: Advertisement) -> Advertisement {
    if wanted.head == Head::Absent {
        wanted.head = match default_branch(&wanted.refs) {
            Some(branch) => Head::Branch(branch),
            None => Head::Unborn(RefName::new("refs/heads/main").expect("a valid name")),
        };
    }
    wanted
}

/// A slip in a manifest must not replace a mirror by another repository.
fn refuse_another_source(
    store: &dyn Store,
    source: &dyn Source,
    recorded: Option<&state::Recorded>,
) -> Result<(), MirrorError> {
    let now = source.origin().unwrap_or_else(|| source.describe());
    if state::is_same_source(recorded, &now) {
        return Ok(());
    }
    let known = recorded.and_then(state::Recorded::repository).unwrap_or_default();
    Err(MirrorError::Guard(format!(
        "{} is a mirror of {known}, not of {now}: refusing to replace it; if the repository has moved, \
         run once with --move-source",
        store.describe()
    )))
}

/// An `info/refs` without a byte is what an empty repository has, and also what is left of a damaged
/// one: the state tells which.
fn refuse_emptied(
    store: &dyn Store,
    published: &Published,
    recorded: Option<&state::Recorded>,
) -> Result<(), MirrorError> {
    let had = recorded.and_then(|state| state.refs).unwrap_or(0);
    if !published.exists() || !published.refs.is_empty() || had == 0 {
        return Ok(());
    }
    Err(MirrorError::Guard(format!(
        "{store}/info/refs is empty, but {store}/{} has {had} refs: the file is damaged, or a cache \
         answers for the store; nothing was published. If the mirror is to be filled again, run with \
         --force",
        state::KEY,
        store = store.describe(),
    )))
}

/// An emptied or hijacked source must not empty the mirror.
fn guard(published: &Published, wanted: &Advertisement) -> Result<(), MirrorError> {
    let (had, has) = (published.refs.len(), wanted.refs.len());
    let lost_all = had > 0 && has == 0;
    let lost_most = had >= 10 && has < had.div_ceil(2);
    if lost_all || lost_most {
        return Err(MirrorError::Guard(format!(
            "the source has {has} refs and the mirror {had}: refusing to publish so great a loss; \
             if it is right, run again with --force"
        )));
    }
    Ok(())
}

/// Stores git objects by `git`, if any are to be fetched, and beside them LFS objects. The first
/// failure ends both.
fn store_all(
    source: &dyn Source,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    wanted: &Advertisement,
    git: Option<impl FnOnce(&Options, &lfs::Queue) -> Result<Fetched, MirrorError>>,
) -> Result<(Option<Fetched>, lfs::Outcome), MirrorError> {
    let stop = options.cancel.child();
    let options = &Options { cancel: stop.clone(), ..options.clone() };
    let run = lfs::Run {
        source,
        store,
        progress,
        refs: wanted,
        layout: options.layout,
        concurrency: options.concurrency,
        max_object_bytes: options.max_object_bytes,
        cancel: &stop,
    };
    let memory_bytes = options.memory_bytes.max(MIN_MEMORY_BYTES);
    let queue = lfs::Queue::new(memory_bytes, &stop, wanted);
    let mirror_lfs = || match options.lfs {
        true => lfs::mirror_lfs(&run, &queue),
        false => Ok(lfs::Outcome::default()),
    };
    let Some(git) = git else {
        queue.end(None);
        return Ok((None, mirror_lfs()?));
    };
    std::thread::scope(|scope| {
        let give_up = GiveUpOnPanic(&queue);
        let named = std::thread::Builder::new().name("lfs".into());
        let beside = named.spawn_scoped(scope, || {
            let outcome = mirror_lfs();
            if outcome.is_err() {
                stop.cancel();
            }
            outcome
        });
        let beside = beside
            .map_err(|error| MirrorError::Internal(format!("cannot start a thread: {error}")))?;
        let fetched = git(options, &queue);
        match &fetched {
            Ok(new) => queue.end(new.complete.pack.clone()),
            Err(_) => queue.give_up(),
        }
        drop(give_up);
        let panicked = |_| Err(MirrorError::Internal("the LFS thread panicked".into()));
        match (fetched, beside.join().unwrap_or_else(panicked)) {
            (Ok(fetched), Ok(lfs)) => Ok((Some(fetched), lfs)),
            // The one that was stopped only says so.
            (Ok(_) | Err(MirrorError::Interrupted), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        }
    })
}

/// Copies what another mirror has: LFS objects, and git objects if they are news.
fn copy_all(
    from: &dyn Store,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    fetching: bool,
) -> Result<(Option<Fetched>, lfs::Outcome), MirrorError> {
    let temp = TempKeys::new(store);
    let copying = Copying {
        from,
        to: store,
        temp: &temp,
        progress,
        cancel: &options.cancel,
        concurrency: options.concurrency,
        memory_bytes: options.memory_bytes.max(MIN_MEMORY_BYTES),
    };
    progress.phase("comparing with the other mirror");
    let copied = || -> Result<_, MirrorError> {
        let git = if fetching { Some(copying.git()?) } else { None };
        let written = if options.lfs { copying.lfs()? } else { 0 };
        Ok((git, written))
    };
    let outcome = copied();
    let cleaned = temp.clean();
    let (git, written) = outcome?;
    cleaned?;
    let fetched = git.map(|copied| Fetched {
        complete: Complete::by_copying(),
        written: (copied.objects, copied.bytes),
        replaced: Vec::new(),
        copied: copied.packs,
    });
    Ok((fetched, lfs::Outcome { written, ..lfs::Outcome::default() }))
}

/// Who waits for the end of what panicked would wait for ever.
struct GiveUpOnPanic<'q>(&'q lfs::Queue);

impl Drop for GiveUpOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}

/// What [`fetch`] has done.
struct Fetched {
    complete: Complete,
    /// Objects and bytes.
    written: (u64, u64),
    /// Packs that the new one stands for.
    replaced: Vec<String>,
    /// Packs that were copied from another mirror: all that it lists.
    copied: Vec<String>,
}

/// What looks at objects that pass through.
struct Seen<'s> {
    pointers: &'s lfs::Queue,
    tags: &'s peeled::Tags,
}

/// Fetches what `wanted` needs and the mirror lacks, and stores it. `thin`: `source` is an increment
/// on what is published, whatever it was asked for.
#[allow(clippy::too_many_arguments)] // one call; a struct would only name them again
fn fetch(
    source: &dyn Source,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    published: &Published,
    wanted: &Advertisement,
    thin: bool,
    seen: Seen<'_>,
) -> Result<Fetched, MirrorError> {
    let layout = if thin { Layout::Loose } else { options.layout };
    let packs = match layout {
        Layout::Pack if published.exists() => publish::listed_packs(store)?,
        _ => Vec::new(),
    };
    // Too many packs: the whole repository is taken as one, which replaces them.
    let too_many = packs.len() >= options.max_packs.max(1);
    let incremental = thin || (published.exists() && !options.full && !too_many);
    let replaced = if incremental { Vec::new() } else { packs };
    let mut haves = BTreeSet::new();
    let mut reached = BTreeSet::new();
    if incremental {
        haves.extend(published.refs.iter().map(|r| r.oid));
        if let Some(Head::Detached(oid)) = published.head {
            haves.insert(oid);
        }
        // What a published tag points at is stored with it.
        reached.extend(published.refs.iter().filter_map(|r| r.peeled));
    }
    let head = match wanted.head {
        Head::Detached(oid) => Some(oid),
        _ => None,
    };
    let wants: BTreeSet<Oid> = wanted.refs.iter().map(|r| r.oid).chain(head).collect();
    let wants: Vec<Oid> =
        wants.into_iter().filter(|oid| !haves.contains(oid) && !reached.contains(oid)).collect();
    if wants.is_empty() {
        return Ok(Fetched {
            complete: Complete::nothing_to_fetch(),
            written: (0, 0),
            replaced: Vec::new(),
            copied: Vec::new(),
        });
    }
    let haves: Vec<Oid> = haves.into_iter().collect();
    let may_slice = layout == Layout::Pack && !published.exists();
    let temp = TempKeys::new(store);
    let mut existing = Existing::default();
    if !incremental && layout == Layout::Loose {
        progress.phase("looking for what is stored already");
        existing = Existing::list_loose(store, options.concurrency)?;
    }
    let look = |oid: &Oid, kind: Kind, content: &[u8]| {
        if kind == Kind::Tag {
            seen.tags.look(*oid, content);
        }
        if options.lfs {
            seen.pointers.look(oid, kind, content);
        }
    };
    let mut env = Env {
        store,
        progress,
        temp: &temp,
        layout,
        existing,
        cancel: options.cancel.clone(),
        concurrency: options.concurrency,
        budget: Budget::of(options.memory_bytes.max(MIN_MEMORY_BYTES), layout),
        max_object_bytes: options.max_object_bytes,
        written: Default::default(),
        look: &look,
        thin,
        increment: incremental || may_slice,
    };
    progress.phase("mirroring");
    let tip = match &wanted.head {
        Head::Branch(name) => wanted.find(name).map(|found| found.oid),
        Head::Detached(oid) => Some(*oid),
        Head::Unborn(_) | Head::Absent => None,
    };
    let outcome = match may_slice {
        false => {
            let backoff = Backoff::new(STREAM_POLICY);
            fetch_with_retries(source, &mut env, &wants, &haves, backoff)
        }
        true => fetch_first(source, &mut env, tip, &wants, options.slices),
    };
    match (outcome, temp.clean()) {
        (Ok(complete), Ok(())) => {
            let Written { objects, bytes } = env.written;
            let written = (objects.into_inner(), bytes.into_inner());
            Ok(Fetched { complete, written, replaced, copied: Vec::new() })
        }
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), cleaned) => {
            if let Err(left) = cleaned {
                log::warn!("temporary keys are left for the next run to delete: {left}");
            }
            Err(error)
        }
    }
}

/// A first run: the whole at once, and once that has broken, in slices.
fn fetch_first(
    source: &dyn Source,
    env: &mut Env<'_>,
    tip: Option<Oid>,
    wants: &[Oid],
    slices: bool,
) -> Result<Complete, MirrorError> {
    let begun = SlicedFetch::begin(source, env, None)?;
    let (mut cut_at, mut backoff) = (None, Backoff::new(STREAM_POLICY));
    if !slices && !begun.is_begun() {
        let words = Box::new(|line: &str| env.progress.source_says(line));
        let stream = Counted::new(source.fetch(wants, &[], words)?);
        let received = stream.received();
        match store_pack(stream, wants, env) {
            Err(error) if is_broken_stream(&error) => {
                let Some(wait) = backoff.wait_after(None) else { return Err(error) };
                if !sleep(wait, || env.cancel.is_cancelled()) {
                    return Err(MirrorError::Interrupted);
                }
                log::warn!("{error}; going on in slices");
                let _ = env.temp.clean();
                cut_at = Some(received.load(Ordering::Relaxed));
            }
            outcome => return outcome,
        }
    }
    if SlicedFetch::begin(source, env, cut_at)?.run(tip, wants)? {
        return Ok(Complete::in_slices());
    }
    log::info!("{} sends no slices", source.describe());
    fetch_with_retries(source, env, wants, &[], backoff)
}

/// A stream that breaks in the middle is begun again; what it brought is not stored twice. (Packs
/// are: a source may cut and order a pack differently each time, so half of one is worth nothing.)
///
/// A request that is not answered with a stream is not repeated here: the source has done so, and
/// as it was told to (`Retry-After`).
fn fetch_with_retries(
    source: &dyn Source,
    env: &mut Env<'_>,
    wants: &[Oid],
    haves: &[Oid],
    mut backoff: Backoff,
) -> Result<Complete, MirrorError> {
    loop {
        if env.existing.len() > 0 {
            log::info!("{} objects are stored already", env.existing.len());
        }
        let words = Box::new(|line: &str| env.progress.source_says(line));
        let stream = source.fetch(wants, haves, words)?;
        match store_pack(stream, wants, env) {
            Err(error) if is_broken_stream(&error) => {
                let Some(wait) = backoff.wait_after(None) else { return Err(error) };
                if !sleep(wait, || env.cancel.is_cancelled()) {
                    return Err(MirrorError::Interrupted);
                }
                let (failed, tries) = (backoff.tries, STREAM_POLICY.max_attempts);
                log::warn!("{error}; beginning again (try {failed} of {tries})");
                if env.layout == Layout::Loose {
                    env.existing = Existing::list_loose(env.store, env.concurrency)?;
                }
            }
            outcome => return outcome,
        }
    }
}

fn is_broken_stream(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Source(_)) && is_transient(error)
}

fn is_transient(error: &MirrorError) -> bool {
    match error {
        MirrorError::Source(error) => matches!(error.kind, SourceErrorKind::Transient { .. }),
        MirrorError::Store(error) => matches!(error.kind, StoreErrorKind::Transient { .. }),
        _ => false,
    }
}
