//! The git objects of a run: which are asked for, in which layout they are stored, and what is done
//! when the stream breaks.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::options::Options;
use super::plan::Plan;
use crate::git::object::{Kind, Oid};
use crate::git::refs::Head;
use crate::ingest::budget::Budget;
use crate::ingest::context::{RunContext, Written};
use crate::ingest::run::{Complete, store_pack};
use crate::ingest::slices::{Counted, SlicedFetch};
use crate::lfs;
use crate::maintain::bundle::Boundary;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout;
use crate::repository::layout::LayoutOption as Layout;
use crate::repository::publish;
use crate::repository::state::Recorded;
use crate::repository::temp::TempKeys;
use crate::run::MIN_MEMORY_BYTES;
use crate::run::retry::{Backoff, Policy, sleep};
use crate::source::{Seed, Source};
use crate::store::Store;

/// How often a stream that breaks in the middle is begun, and the wait before it is begun again.
const STREAM_POLICY: Policy = Policy::of(5, Duration::from_millis(200));

/// What [`fetch`] has done.
pub(super) struct Fetched {
    pub(super) complete: Complete,
    /// Objects and bytes.
    pub(super) written: (u64, u64),
    /// Packs that the new one stands for.
    pub(super) replaced: Vec<String>,
    /// The new pack has everything, not only what is new.
    pub(super) is_whole: bool,
    /// Some of it was stored by an earlier run, so that `written` is not all.
    pub(super) found: bool,
    /// What a bundle of the new pack needs.
    pub(super) prerequisites: BTreeSet<Oid>,
    /// Packs that were copied from another mirror: all that it lists.
    pub(super) copied: Vec<String>,
}

/// Fetches what the refs need and the mirror does not have, and stores it.
pub(super) fn fetch(
    source: &dyn Source,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    plan: &Plan,
    pointers: &lfs::Queue,
) -> Result<Fetched, MirrorError> {
    let Plan { published, wanted, thin, .. } = plan;
    let thin = *thin;
    let wanted_layout = if thin { Layout::Loose } else { options.layout };
    let incremental = thin || (published.exists() && !plan.full);
    // The whole repository as one pack replaces those that there are.
    let replaced = match wanted_layout {
        Layout::Auto | Layout::Pack if published.exists() && !incremental => {
            let listed = publish::listed_packs(store)?;
            // What only past publications reach is in these.
            if plan.keeps_history { publish::broken_packs(store, listed)? } else { listed }
        }
        _ => Vec::new(),
    };
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
            is_whole: false,
            found: false,
            prerequisites: BTreeSet::new(),
            copied: Vec::new(),
        });
    }
    let haves: Vec<Oid> = haves.into_iter().collect();
    let may_slice = !thin && wanted_layout != Layout::Loose && !published.exists();
    let temp = TempKeys::new(store);
    let mut choice = Choice { wanted: wanted_layout, is_first: !incremental, made: None };
    let boundary = Boundary::default();
    let kin = Kin::new(source, options, plan);
    let look = |oid: &Oid, kind: Kind, content: &[u8]| {
        kin.look(oid);
        if kind == Kind::Tag {
            plan.tags.look(*oid, content);
        }
        if options.lfs {
            pointers.look(oid, kind, content);
        }
        if options.bundle && incremental {
            boundary.look(oid, kind, content);
        }
    };
    let memory_bytes = options.memory_bytes.max(MIN_MEMORY_BYTES);
    let mut env = RunContext {
        store,
        progress,
        temp: &temp,
        layout: wanted_layout.likely(),
        format: plan.wanted.format,
        existing: Existing::default(),
        cancel: options.cancel.clone(),
        concurrency: options.concurrency,
        budget: Budget::of(memory_bytes, wanted_layout.likely()),
        max_object_bytes: options.max_object_bytes,
        written: Default::default(),
        observe: &look,
        thin,
        increment: incremental || may_slice,
    };
    let tip = match &wanted.head {
        Head::Branch(name) => wanted.find(name).map(|found| found.oid),
        Head::Detached(oid) => Some(*oid),
        Head::Unborn(_) | Head::Absent => None,
    };
    let outcome = match may_slice {
        false => {
            let backoff = Backoff::new(STREAM_POLICY);
            fetch_with_retries(source, &mut env, &mut choice, &wants, &haves, backoff)
        }
        true => fetch_first(source, &mut env, &mut choice, tip, &wants, options),
    };
    let outcome = outcome.and_then(|complete| kin.check(source, store).map(|()| complete));
    match (outcome, temp.clean()) {
        (Ok(complete), Ok(())) => {
            let Written { objects, bytes } = env.written;
            let written = (objects.into_inner(), bytes.into_inner());
            // Loose objects replace no pack.
            let replaced = if complete.pack.is_some() { replaced } else { Vec::new() };
            let is_old_pack = complete.pack.as_ref().is_some_and(|pack| pack.objects != written.0);
            let found = env.existing.len() > 0 || is_old_pack || complete.is_in_slices();
            Ok(Fetched {
                found,
                complete,
                written,
                replaced,
                is_whole: !incremental,
                prerequisites: boundary.prerequisites(&published.refs),
                copied: Vec::new(),
            })
        }
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), cleaned) => {
            if let Err(left) = cleaned {
                log::warn!("the next run deletes remaining temporary keys: {left}");
            }
            Err(error)
        }
    }
}

/// Is what comes the mirror's repository? A bundle has no address that could tell, nor has a mirror whose
/// state is lost. But what comes later of the same repository, whole, has a commit that is published,
/// unless all its history was rewritten.
struct Kin<'p> {
    /// What is published; empty: it need not be proved.
    tips: BTreeSet<&'p Oid>,
    is_found: AtomicBool,
}

impl<'p> Kin<'p> {
    fn new(source: &dyn Source, options: &Options, plan: &'p Plan) -> Self {
        let Plan { published, recorded, wanted, thin, .. } = plan;
        let is_allowed = options.force || options.move_source;
        let is_known = recorded.as_ref().and_then(Recorded::repository).is_some();
        let comes_whole = source.sends_everything() || (plan.full && !is_known);
        let mut tips = BTreeSet::new();
        if comes_whole && !*thin && !is_allowed {
            tips.extend(
                published.refs.iter().flat_map(|r| [Some(&r.oid), r.peeled.as_ref()]).flatten(),
            );
        }
        // A ref that stays proves it, too.
        if wanted.refs.iter().any(|r| tips.contains(&r.oid)) {
            tips.clear();
        }
        Kin { tips, is_found: AtomicBool::new(false) }
    }

    fn look(&self, oid: &Oid) {
        if !self.tips.is_empty() && self.tips.contains(oid) {
            self.is_found.store(true, Ordering::Relaxed);
        }
    }

    fn check(&self, source: &dyn Source, store: &dyn Store) -> Result<(), MirrorError> {
        if self.tips.is_empty() || self.is_found.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(MirrorError::Guard(format!(
            "{} contains no commit that {} has published: it is of another repository, older, or its \
             history was rewritten; nothing was published. If it is right, run again with --force",
            source.describe(),
            store.describe()
        )))
    }
}

/// A first run: the whole at once, and once a pack has broken off, in slices.
fn fetch_first(
    source: &dyn Source,
    env: &mut RunContext<'_>,
    choice: &mut Choice,
    tip: Option<Oid>,
    wants: &[Oid],
    options: &Options,
) -> Result<Complete, MirrorError> {
    let (mut cut_at, mut backoff) = (None, Backoff::new(STREAM_POLICY));
    let is_begun = SlicedFetch::begin(source, env, None)?.is_begun();
    // A bundle has all refs.
    if !is_begun
        && options.bundle_uri
        && options.refs.is_everything()
        && seeded(source, env, choice, wants)?
    {
        return Ok(Complete::in_slices());
    }
    if options.slices || is_begun {
        choice.take(env, layout::Layout::Pack)?;
    } else {
        choice.prepare(env)?;
        env.progress.phase("mirroring");
        let words = Box::new(|line: &str| env.progress.source_says(line));
        let stream = Counted::new(source.fetch(wants, &[], words)?);
        let received = stream.received();
        let (stream, objects) = peek(Box::new(stream));
        choice.make(env, objects)?;
        match store_pack(stream, wants, env) {
            Err(error) if is_broken_stream(&error) => {
                let Some(wait) = backoff.wait_after(None) else { return Err(error) };
                wait_to_try_again(env, wait, backoff.tries)?;
                if env.layout == layout::Layout::Loose {
                    log::warn!("{error}; starting over");
                    env.existing = Existing::list_loose(env.store, env.concurrency)?;
                    return fetch_with_retries(source, env, choice, wants, &[], backoff);
                }
                log::warn!("{error}; continuing in slices");
                let _ = env.temp.clean();
                cut_at = Some(received.load(Ordering::Relaxed));
            }
            outcome => return outcome,
        }
    }
    if SlicedFetch::begin(source, env, cut_at)?.run(tip, wants)? {
        return Ok(Complete::in_slices());
    }
    log::info!("{} cannot send slices", source.describe());
    fetch_with_retries(source, env, choice, wants, &[], backoff)
}

/// Waits after a stream that broke, of which so many have failed.
fn wait_to_try_again(env: &RunContext<'_>, wait: Duration, failed: u32) -> Result<(), MirrorError> {
    let tries = STREAM_POLICY.max_attempts;
    env.progress.phase(&format!("connection lost, retrying ({failed} of {tries} tries failed)"));
    if !sleep(wait, || env.cancel.is_cancelled()) {
        return Err(MirrorError::Interrupted);
    }
    env.progress.phase("mirroring");
    Ok(())
}

/// Begins with a pack that was made beforehand. False: there is none of use.
fn seeded(
    source: &dyn Source,
    env: &mut RunContext<'_>,
    choice: &mut Choice,
    wants: &[Oid],
) -> Result<bool, MirrorError> {
    let found = source.seed().unwrap_or_else(|error| {
        log::info!("cannot look for a bundle: {error}");
        None
    });
    let Some(Seed { place, tips, pack }) = found else { return Ok(false) };
    let (pack, objects) = peek(pack);
    choice.make(env, objects)?;
    if choice.wanted != Layout::Auto {
        choice.take(env, layout::Layout::Pack)?;
    }
    // A small repository is laid out loose, and needs no help.
    if env.layout == layout::Layout::Loose {
        return Ok(false);
    }
    env.progress.phase("mirroring");
    SlicedFetch::begin(source, env, None)?.run_seeded(Seed { place, tips, pack }, wants)
}

/// A stream that breaks in the middle is begun again; what it brought is not stored twice. (Packs
/// are: a source may cut and order a pack differently each time, so half of one is worth nothing.)
///
/// A request that is not answered with a stream is not repeated here: the source has done so, and
/// as it was asked to (`Retry-After`).
fn fetch_with_retries(
    source: &dyn Source,
    env: &mut RunContext<'_>,
    choice: &mut Choice,
    wants: &[Oid],
    haves: &[Oid],
    mut backoff: Backoff,
) -> Result<Complete, MirrorError> {
    choice.prepare(env)?;
    loop {
        env.progress.phase("mirroring");
        let words = Box::new(|line: &str| env.progress.source_says(line));
        let stream = source.fetch(wants, haves, words)?;
        let (stream, objects) = peek(stream);
        choice.make(env, objects)?;
        if env.existing.len() > 0 {
            log::info!("{} objects are already stored", env.existing.len());
        }
        match store_pack(stream, wants, env) {
            Err(error) if is_broken_stream(&error) => {
                let Some(wait) = backoff.wait_after(None) else { return Err(error) };
                wait_to_try_again(env, wait, backoff.tries)?;
                let (failed, tries) = (backoff.tries, STREAM_POLICY.max_attempts);
                log::warn!("{error}; starting over (try {failed} of {tries})");
                if env.layout == layout::Layout::Loose {
                    env.existing = Existing::list_loose(env.store, env.concurrency)?;
                }
            }
            outcome => return outcome,
        }
    }
}

/// How the objects of a pack are to be laid out: known before it is asked for, or when its header says
/// how many come.
struct Choice {
    wanted: Layout,
    /// The mirror may have objects that no published ref reaches.
    is_first: bool,
    made: Option<layout::Layout>,
}

impl Choice {
    /// What needs no pack to be known: a source does not like to wait while it sends.
    fn prepare(&mut self, env: &mut RunContext<'_>) -> Result<(), MirrorError> {
        if self.wanted == Layout::Auto { Ok(()) } else { self.take(env, self.wanted.likely()) }
    }

    fn make(&mut self, env: &mut RunContext<'_>, objects: Option<u32>) -> Result<(), MirrorError> {
        // A stream without a header fails whatever the layout.
        let objects = objects.unwrap_or(0);
        if self.wanted == Layout::Auto {
            self.take(env, self.wanted.of_pack(objects, self.is_first))
        } else {
            Ok(())
        }
    }

    fn take(
        &mut self,
        env: &mut RunContext<'_>,
        layout: layout::Layout,
    ) -> Result<(), MirrorError> {
        if self.made == Some(layout) {
            return Ok(());
        }
        env.layout = layout;
        env.budget = Budget::of(env.budget.memory, layout);
        env.existing = match (self.is_first, layout) {
            (true, layout::Layout::Loose) => {
                env.progress.phase("checking what is already stored");
                Existing::list_loose(env.store, env.concurrency)?
            }
            _ => Existing::default(),
        };
        self.made = Some(layout);
        Ok(())
    }
}

/// The stream of a pack, and how many objects its header promises; `None` if it has none.
fn peek<'s>(mut stream: Box<dyn Read + Send + 's>) -> (Box<dyn Read + Send + 's>, Option<u32>) {
    let mut header = Vec::new();
    let outcome = stream.by_ref().take(PACK_HEADER_LEN).read_to_end(&mut header);
    let count = header.get(8..12).and_then(|count| count.try_into().ok()).map(u32::from_be_bytes);
    let head = io::Cursor::new(header);
    match outcome {
        Ok(_) => (Box::new(head.chain(stream)), count),
        Err(error) => (Box::new(head.chain(Broken(Some(error)))), None),
    }
}

/// `PACK`, the version and the count.
const PACK_HEADER_LEN: u64 = 12;

/// A stream that has failed.
struct Broken(Option<io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

fn is_broken_stream(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Source(_)) && error.is_transient()
}
