//! Deletes what no ref reaches and no list names, once it is old enough.
//!
//! That is: loose objects that no published ref reaches, or that a listed pack holds; `.pack` and
//! `.idx` files that `objects/info/packs` does not list; bundles that are not listed and whose pack is
//! gone; and LFS objects that no reachable pointer names; those also leave the list of missing ones. No other key is ever deleted; of temporary keys
//! only those of killed runs (`temp`). If anything that refs reach is missing or damaged, nothing is
//! deleted at all: what lies behind it is unknown.
//!
//! Packs are read once and proven, as `verify` does it (`survey`). A loose object goes for the sake of
//! a pack only if that pack is proven, and older than the grace period: a reader may hold a list
//! without it. What packs hold that no ref reaches stays with them; only if it names something that is
//! in no pack is it found by a walk what refs really reach. Where nothing could be deleted, nothing
//! is read.
//!
//! Nor is anything deleted if the the refs do not match those recorded by the last run in the state
//! (`state.json`): an `info/refs` that was lost or answered empty would make everything garbage.
//!
//! Past publications that are kept (`history`) are roots like the refs of today; those that are out of
//! date are deleted at the end. One that can't be read makes gc delete nothing.
//!
//! # Beside a running mirror
//! Three things keep a run's objects safe:
//!
//! - **The grace period**, for what a run has stored and not yet published: it is younger. Its age
//!   is the difference of two times by the store's own clock: its LastModified, and that of the key
//!   that gc itself has just written. (A dry run writes nothing and takes this machine's clock.) The
//!   grace should be longer than the longest run, or that run will have to begin again.
//! - **The fence** (`fence`), for old objects that a run relies on without writing them: a
//!   run that conflicts with gc does not publish, and runs again. So a short grace costs work, never a
//!   broken mirror.
//! - **Refs and lists are read again right before every deletion**; if they have changed, gc stops
//!   ([`MirrorError::Conflict`]). Candidates are listed page by page and deleted at once, so that an
//!   object that was stored anew since is seen as young.
//!
//! Two gcs at once only delete the same.
//!
//! # Beside a reader
//! Packs that were taken as one are kept until the grace period has passed since then (`replaced`): a
//! reader may hold the old list. For loose objects the age is that of their bytes: a reader that is
//! half-way through a clone of refs that were force-pushed away may miss an old one and has to clone
//! again.
//!
//! **Memory**: as `survey`, and for loose objects as `walk`; listings are worked off page by page.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashSet;

use super::bundle_check;
use super::count;
use super::inventory;
use super::known::Known;
use super::pass::Pass;
use super::past::Past;
use super::survey::{Survey, Surveyed, Surveyor};
use super::walk::{Elsewhere, Pointers, Problem, Reached, Stored, Walk};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, Oid};
use crate::git::oids::ManyOids;
use crate::git::refs::{Head, Ref, parse_head_file, parse_info_refs};
use crate::lfs::Remembered;
use crate::progress::{Progress, Silent};
use crate::repository::error::MirrorError;
use crate::repository::fence::Deleting;
use crate::repository::files;
use crate::repository::history::Entry;
use crate::repository::lfs_objects;
use crate::repository::listing::{LFS, OBJECTS};
use crate::repository::loose;
use crate::repository::packed::{self, Packs};
use crate::repository::publish;
use crate::repository::retired_packs::RetiredPacks;
use crate::repository::state::{self, Recorded};
use crate::repository::temp;
use crate::run::Cancel;
use crate::run::retry::sleep;
use crate::store::{Kept, Key, ObjectInfo, Store};

/// What gc is to do.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Anything newer than this is kept.
    pub grace: Duration,
    /// Say what would be deleted, write and delete nothing.
    pub dry_run: bool,
    /// Requests in flight; at least 1.
    pub concurrency: usize,
    /// Memory for packs, in bytes.
    pub memory_bytes: u64,
    /// How long to wait for runs that are just publishing.
    pub settle: Duration,
    /// To stop it.
    pub cancel: Cancel,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            grace: Duration::from_secs(24 * 3600),
            dry_run: false,
            concurrency: 64,
            memory_bytes: 64 << 20,
            settle: Duration::from_secs(10),
            cancel: Cancel::default(),
        }
    }
}

/// What gc did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcSummary {
    /// Objects that stay: those of listed packs, and those that refs reach. `None`: there was nothing
    /// that could have been deleted, so they were not looked at.
    pub reachable: Option<u64>,
    /// Loose objects deleted (or that would be).
    pub loose: u64,
    /// How many of these a listed pack holds.
    pub duplicates: u64,
    /// Files of packs.
    pub packs: u64,
    /// LFS objects.
    pub lfs: u64,
    /// Bundles that are no longer listed, and whose packs are gone.
    pub bundles: u64,
    /// Missing LFS objects that runs need no longer look for.
    pub lfs_forgotten: u64,
    /// Past publications that are out of date.
    pub history: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// The bucket keeps old versions, so that these bytes are not freed yet. Of the first
    /// [`ASKED`] keys the one that is locked the longest.
    pub kept: Option<Kept>,
    /// What no ref reaches, but is too young yet (or has no age).
    pub young: u64,
    /// Temporary keys and uploads of killed runs.
    pub temporary: u64,
    /// Requests to the store.
    pub store_requests: u64,
    /// Wall time.
    pub elapsed: Duration,
}

impl GcSummary {
    /// How many keys, without temporary ones.
    pub fn deleted(&self) -> u64 {
        self.loose + self.packs + self.lfs + self.bundles
    }
}

/// [`gc_with`] that nobody watches.
pub fn gc(
    store: &dyn Store,
    options: &GcOptions,
    deleting: &(dyn Fn(&ObjectInfo) + Sync),
) -> Result<GcSummary, MirrorError> {
    gc_with(store, options, deleting, &Silent)
}

/// Deletes garbage from the mirror in `store`. `deleting` hears every key before it is deleted (or
/// instead, in a dry run), from many threads.
pub fn gc_with(
    store: &dyn Store,
    options: &GcOptions,
    deleting: &(dyn Fn(&ObjectInfo) + Sync),
    progress: &dyn Progress,
) -> Result<GcSummary, MirrorError> {
    let started = Instant::now();
    let requests_before = store.requests();
    progress.phase("listing");
    let published = Published::read(store, options.memory_bytes)?;
    let published = confirmed(store, options, published)?;
    let temporary = if options.dry_run { 0 } else { swept(store)? };
    let keeping = Keeping::default();
    let deleting = |info: &ObjectInfo| {
        keeping.ask(store, &info.key);
        deleting(info);
    };
    let summary = collect(store, options, published, &deleting, progress)?;
    let (bundles, bytes) = bundle_check::collect(store, options.dry_run, &deleting)?;
    let kept = keeping.found();
    let summary = GcSummary { bundles, kept, bytes: summary.bytes + bytes, ..summary };
    if !options.dry_run && summary.deleted() > 0 {
        note_holds(store, options);
    }
    Ok(GcSummary {
        temporary,
        store_requests: store.requests() - requests_before,
        elapsed: started.elapsed(),
        ..summary
    })
}

/// Deletes what killed runs have left.
fn swept(store: &dyn Store) -> Result<u64, MirrorError> {
    match temp::sweep(store) {
        Err(error) if temp::can_go_on_without_sweep(&error) => Ok(0),
        swept => Ok(swept? as u64),
    }
}

/// So many keys tell whether the bucket keeps versions, and how long they are locked.
pub const ASKED: u32 = 32;

/// Whether what is deleted is freed by that. Guarded: how many keys were asked for, and what was found.
#[derive(Default)]
struct Keeping(Mutex<(u32, Option<Kept>)>);

impl Keeping {
    /// Before the key is deleted. An answer that does not come is none.
    fn ask(&self, store: &dyn Store, key: &Key) {
        {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // One that keeps nothing tells for all.
            if state.0 >= ASKED || (state.0 > 0 && state.1.is_none()) {
                return;
            }
            state.0 += 1;
        }
        let kept = store.kept(key).unwrap_or_else(|error| {
            log::info!("not known whether old versions are kept: {error}");
            None
        });
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = |kept: &Option<Kept>| kept.map(|kept| kept.locked_until);
        if until(&kept) > until(&state.1) {
            state.1 = kept;
        }
    }

    fn found(self) -> Option<Kept> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Records what is left. Nothing depends on it, so what fails is a warning.
fn note_holds(store: &dyn Store, options: &GcOptions) {
    let counted = count::count(store, options.concurrency, &options.cancel);
    let noted = counted.and_then(|holds| Ok(state::note_holds(store, holds)?));
    if let Err(error) = noted {
        log::warn!("cannot record what the mirror holds now: {error}");
    }
}

fn collect(
    store: &dyn Store,
    options: &GcOptions,
    published: Published,
    deleting: &(dyn Fn(&ObjectInfo) + Sync),
    progress: &dyn Progress,
) -> Result<GcSummary, MirrorError> {
    let mut problems = Vec::new();
    let names = published.packs.as_ref().map_or_else(Vec::new, |list| {
        packed::names_in(list, |what| problems.push(format!("objects/info/packs: {what}")))
    });
    if !problems.is_empty() {
        return Err(not_whole(store, &problems));
    }
    let packs = names.iter().cloned().collect();
    let recorded = Recorded::read(store)?;
    let past = Past::list(store, recorded.as_ref())?;
    let missing = Remembered::read(store)?.0;
    let mut keep = Keep { packs, replaced: RetiredPacks::read(store)?, live: Live::default() };
    if missing.is_empty() && !keep.may_delete(store, options)? {
        let history = forget(store, options, &past)?;
        return Ok(GcSummary { history, ..GcSummary::default() });
    }
    let has_lfs = !store.list(LFS, None)?.objects.is_empty();
    let stored = match has_lfs {
        true => Some(inventory::stored(store, options.concurrency, &options.cancel)?),
        false => None,
    };
    let pointers = has_lfs || !missing.is_empty();
    let mut tips = published.tips(store)?;
    tips.extend(past_tips(store, options, &past, &tips)?);
    let names = &names[..];
    keep.live = Finder { store, options, progress, names, tips, stored, pointers }.find()?;
    let is_forgotten = |pointer: &LfsPointer| !keep.live.lfs.contains(&pointer.oid);
    let forgotten: Vec<_> = missing.into_iter().filter(is_forgotten).collect();
    let (lfs_forgotten, reachable) = (forgotten.len() as u64, Some(keep.live.count));
    let gc = Gc { store, options, keep, published, forgotten };
    let mut counts = gc.look(deleting)?;
    if !options.dry_run && counts.deleted() + lfs_forgotten > 0 {
        counts = gc.delete(deleting)?;
    }
    let history = forget(store, options, &past)?;
    Ok(GcSummary { lfs_forgotten, reachable, history, ..counts })
}

/// What only past publications name. One that can't be read may need anything.
fn past_tips(
    store: &dyn Store,
    options: &GcOptions,
    past: &Past,
    today: &[(Oid, String)],
) -> Result<Vec<(Oid, String)>, MirrorError> {
    let problems = Mutex::new(Vec::new());
    let today = today.iter().map(|(oid, _)| *oid);
    let tips = past.tips(
        store,
        (options.concurrency, options.memory_bytes),
        &options.cancel,
        today,
        &|key, what| {
            let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
            problems.push(format!("{key}: {what}"));
        },
    )?;
    let problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !problems.is_empty() {
        return Err(not_whole(store, &problems));
    }
    Ok(tips.into_iter().map(|(oid, _, name)| (oid, name)).collect())
}

/// Deletes snapshots that are out of date, or only counts them.
fn forget(store: &dyn Store, options: &GcOptions, past: &Past) -> Result<u64, MirrorError> {
    if !options.dry_run && !past.old.is_empty() {
        let names: Vec<_> = past.old.iter().map(|entry| entry.name).collect();
        // First, or those of a killed run would be taken for lost.
        state::forget_snapshots(store, &names)?;
        store.delete(&past.old.iter().map(Entry::key).collect::<Vec<_>>())?;
    }
    Ok(past.old.len() as u64)
}

/// The mutable files, byte for byte.
#[derive(PartialEq, Eq)]
struct Published {
    info_refs: Vec<u8>,
    head: Option<Vec<u8>>,
    packs: Option<Vec<u8>>,
}

impl Published {
    fn read(store: &dyn Store, memory_bytes: u64) -> Result<Self, MirrorError> {
        let max_bytes = publish::max_file_bytes(memory_bytes);
        let get = |key| -> Result<_, MirrorError> {
            Ok(files::get(store, &files::key(key), None, max_bytes)?.map(|(file, _)| file))
        };
        let Some(info_refs) = get("info/refs")? else {
            return Err(MirrorError::Mirror(format!(
                "{} has no info/refs: no mirror is published here, and what a first run has \
                 stored so far is not garbage",
                store.describe()
            )));
        };
        Ok(Published { info_refs, head: get("HEAD")?, packs: get("objects/info/packs")? })
    }

    fn parse(&self, store: &dyn Store) -> Result<(Vec<Ref>, Option<Head>), MirrorError> {
        let bad = |what: &dyn std::fmt::Display| {
            MirrorError::Mirror(format!("{}: {what}; nothing was deleted", store.describe()))
        };
        let refs = parse_info_refs(&self.info_refs).map_err(|error| bad(&error))?;
        let head = self.head.as_ref().map(|head| parse_head_file(head, &refs));
        let head = head.transpose().map_err(|error| bad(&error))?;
        Ok((refs, head))
    }

    fn tips(&self, store: &dyn Store) -> Result<Vec<(Oid, String)>, MirrorError> {
        let (refs, head) = self.parse(store)?;
        let mut tips: Vec<_> = refs.iter().map(|r| (r.oid, r.name.to_string())).collect();
        if let Some(Head::Detached(oid)) = head {
            tips.push((oid, "HEAD".to_owned()));
        }
        Ok(tips)
    }

    /// Do these refs agree with what the last run has recorded? `Err`: how they differ.
    fn compare(&self, store: &dyn Store) -> Result<Result<(), String>, MirrorError> {
        let (refs, head) = self.parse(store)?;
        let has = refs.len();
        Ok(match Recorded::read(store)? {
            None if has == 0 => {
                Err("there are no refs, and no recorded state confirms that".to_owned())
            }
            None => Ok(()),
            Some(state) => match (state.describes(&refs, head.as_ref()), state.refs) {
                (Some(true), _) => Ok(()),
                (None, Some(had)) if has >= had.div_ceil(2) => Ok(()),
                (None, None) if has > 0 => Ok(()),
                (Some(false), Some(had)) if had == has => {
                    Err("the refs do not match those recorded by the last run".to_owned())
                }
                (_, had) => Err(format!("{has} refs; the last run recorded {}", had.unwrap_or(0))),
            },
        })
    }
}

/// What is published, if the state of the last run confirms it. Refs that are lost (an empty answer,
/// an edit by hand) would make everything garbage that they reach.
///
/// A run writes the state right after it has published, so a difference gets the time for that. If
/// that write failed, the next run of the mirror does it, also one with nothing new.
fn confirmed(
    store: &dyn Store,
    options: &GcOptions,
    published: Published,
) -> Result<Published, MirrorError> {
    if published.compare(store)?.is_ok() {
        return Ok(published);
    }
    wait(options)?;
    let published = Published::read(store, options.memory_bytes)?;
    published.compare(store)?.map_err(|difference| {
        MirrorError::Guard(format!(
            "{}/info/refs: {difference}; nothing was deleted. Run the mirror once, which brings {} up \
             to date, and then gc again",
            store.describe(),
            state::KEY
        ))
    })?;
    Ok(published)
}

/// Gives a run that is just publishing the time to end.
fn wait(options: &GcOptions) -> Result<(), MirrorError> {
    let undisturbed = sleep(options.settle, || options.cancel.is_cancelled());
    if undisturbed { Ok(()) } else { Err(MirrorError::Interrupted) }
}

/// What must stay.
struct Keep {
    /// `pack-<40 hex>`.
    packs: BTreeSet<String>,
    replaced: RetiredPacks,
    live: Live,
}

/// What refs reach.
#[derive(Default)]
struct Live {
    /// All that is reached, or of a survey the loose objects that no pack holds.
    objects: ManyOids,
    /// Of a survey: the objects of all listed packs, which are sound.
    packed: Option<Known>,
    /// LFS objects that pointers name.
    lfs: HashSet<[u8; 32]>,
    /// How many objects stay.
    count: u64,
}

/// What a key is, if gc may delete it at all.
#[derive(Clone, Copy)]
enum Garbage {
    Loose,
    /// A loose object that a listed pack holds.
    Duplicate,
    Pack,
    Lfs,
}

/// Says that nothing is deleted, and why.
fn not_whole(store: &dyn Store, problems: &[String]) -> MirrorError {
    let problems = problems[..problems.len().min(3)].join("; ");
    MirrorError::Mirror(format!(
        "{} is incomplete, so gc cannot tell what is garbage; nothing was deleted (run verify for \
         details): {problems}",
        store.describe()
    ))
}

/// Finds what refs reach.
struct Finder<'g> {
    store: &'g dyn Store,
    options: &'g GcOptions,
    progress: &'g dyn Progress,
    /// Of the listed packs, in order.
    names: &'g [String],
    tips: Vec<(Oid, String)>,
    stored: Option<Stored>,
    /// Are pointers wanted?
    pointers: bool,
}

impl Finder<'_> {
    fn find(&self) -> Result<Live, MirrorError> {
        let surveyed = match self.names {
            [] => None,
            names => self.survey(names)?,
        };
        let Some(surveyed) = surveyed else { return self.walk_all(None) };
        self.walk_loose(surveyed)
    }

    fn survey(&self, names: &[String]) -> Result<Option<Surveyed>, MirrorError> {
        let GcOptions { grace, concurrency, memory_bytes, cancel, .. } = self.options;
        // By this machine's clock, with some room: a pack must not be taken for older than it is.
        let margin = (*grace / 10).min(Duration::from_secs(300));
        let surveyor = Surveyor {
            pass: Pass {
                store: self.store,
                memory_bytes: *memory_bytes,
                concurrency: *concurrency,
                cancel,
                progress: self.progress,
            },
            old_before: SystemTime::now().checked_sub(*grace + margin),
        };
        Ok(match surveyor.look(names)? {
            Survey::Sound(surveyed) => Some(*surveyed),
            Survey::Unsure(what) => {
                log::info!("checking object by object: {what}");
                None
            }
        })
    }

    /// Packs are sound, and what they hold is known: only loose objects are visited.
    fn walk_loose(&self, surveyed: Surveyed) -> Result<Live, MirrorError> {
        let Surveyed { known, outside, lfs } = surveyed;
        let tips = self.tips.iter().map(|(oid, _)| (*oid, None));
        let from: Vec<_> =
            tips.chain(outside.iter().map(|(oid, kind)| (oid, Some(*kind)))).collect();
        let elsewhere = |oid: &Oid, kind| known.linked(oid, kind);
        let (reached, problems) = self.walk(&Packs::default(), &from, &elsewhere)?;
        let sums = known.sum_up();
        // Packs may hold objects that refs no longer reach. They hurt only by what they name.
        let exact = sums.unlinked == 0 || (outside.is_empty() && !self.pointers);
        if !exact || sums.absent + sums.of_wrong_kind > 0 {
            return self.walk_all(Some(known));
        }
        if !problems.is_empty() {
            return Err(not_whole(self.store, &problems));
        }
        Ok(Live {
            count: (known.len() + reached.objects.len()) as u64,
            objects: reached.objects,
            packed: Some(known),
            lfs: lfs.into_keys().chain(reached.lfs.into_keys()).collect(),
        })
    }

    /// From ref to ref through everything. `packed`: of packs that are sound.
    fn walk_all(&self, packed: Option<Known>) -> Result<Live, MirrorError> {
        let mut problems = Vec::new();
        let packs = packed::open_all(self.store, self.names, |key, what| {
            problems.push(format!("{key}: {what}"));
        })?;
        let from: Vec<_> = self.tips.iter().map(|(oid, _)| (*oid, None)).collect();
        let (reached, more) = self.walk(&packs, &from, &|_, _| false)?;
        problems.extend(more);
        if !problems.is_empty() {
            return Err(not_whole(self.store, &problems));
        }
        let lfs = reached.lfs.into_keys().collect();
        Ok(Live { count: reached.objects.len() as u64, objects: reached.objects, packed, lfs })
    }

    /// Answers some of the problems, too.
    fn walk(
        &self,
        packs: &Packs,
        from: &[(Oid, Option<Kind>)],
        elsewhere: Elsewhere<'_>,
    ) -> Result<(Reached, Vec<String>), MirrorError> {
        self.progress.phase("checking connectivity");
        let problems: Mutex<Vec<String>> = Mutex::default();
        let walk = Walk {
            store: self.store,
            packs,
            threads: self.options.concurrency,
            memory_bytes: self.options.memory_bytes,
            cancel: &self.options.cancel,
            read_blobs: false,
            blobs_exist: false,
            stored: self.stored.as_ref(),
            pointers: if self.pointers { Pointers::Yes } else { Pointers::No },
            elsewhere,
        };
        let reached = walk.run(from, &|Problem { key, what, via, .. }| {
            let name = self.tips.get(via as usize).map_or("a pack", |(_, name)| name);
            let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
            if problems.len() < 3 {
                problems.push(format!("{key}: {what} (reached by {name})"));
            }
        })?;
        Ok((reached, problems.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Keep {
    /// Is there anything at all that could be deleted? Where packs hold everything there seldom is,
    /// and then nothing has to be read.
    fn may_delete(&self, store: &dyn Store, options: &GcOptions) -> Result<bool, MirrorError> {
        let found = AtomicBool::new(false);
        for folder in [OBJECTS, LFS] {
            inventory::pages(store, folder, options.concurrency, &options.cancel, &|page| {
                let is_candidate = |info: &ObjectInfo| match pack_of_key(info.key.as_str()) {
                    Some(name) => !self.packs.contains(name),
                    None => {
                        let key = info.key.as_str();
                        loose::oid_of_key(key).is_some() || lfs_objects::oid_of_key(key).is_some()
                    }
                };
                found.fetch_or(page.iter().any(is_candidate), Ordering::Relaxed);
                Ok(())
            })?;
            if found.load(Ordering::Relaxed) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `None`: it must stay, or is nothing that gc knows.
    fn garbage(&self, key: &str) -> Option<Garbage> {
        if let Some(oid) = loose::oid_of_key(key) {
            let live = &self.live;
            return match &live.packed {
                Some(known) if known.is_in_old_pack(&oid) => Some(Garbage::Duplicate),
                // Its pack is young: readers may hold a list without it.
                Some(known) if known.contains(&oid) => None,
                _ => (!live.objects.contains(&oid)).then_some(Garbage::Loose),
            };
        }
        if let Some(oid) = lfs_objects::oid_of_key(key) {
            return (!self.live.lfs.contains(&oid)).then_some(Garbage::Lfs);
        }
        (!self.packs.contains(pack_of_key(key)?)).then_some(Garbage::Pack)
    }

    /// Since when a key is garbage, as far as that is known: since it is there, or since its pack
    /// has left the list.
    fn since(&self, info: &ObjectInfo) -> Option<SystemTime> {
        let replaced = pack_of_key(info.key.as_str()).and_then(|name| self.replaced.since(name));
        Some(info.last_modified?.max(replaced.unwrap_or(SystemTime::UNIX_EPOCH)))
    }
}

/// `objects/pack/pack-<40 hex>.pack` or `.idx`: the name.
fn pack_of_key(key: &str) -> Option<&str> {
    let (name, extension) = key.strip_prefix("objects/pack/")?.rsplit_once('.')?;
    Oid::from_hex(name.strip_prefix("pack-")?.as_bytes())?;
    matches!(extension, "pack" | "idx").then_some(name)
}

struct Gc<'g> {
    store: &'g dyn Store,
    options: &'g GcOptions,
    published: Published,
    keep: Keep,
    /// Missing LFS objects that no pointer names.
    forgotten: Vec<LfsPointer>,
}

/// Counted from many threads.
#[derive(Default)]
struct Counts {
    loose: AtomicU64,
    duplicates: AtomicU64,
    packs: AtomicU64,
    lfs: AtomicU64,
    bytes: AtomicU64,
    young: AtomicU64,
}

impl Counts {
    fn add(&self, what: &Garbage, bytes: u64) {
        let counter = match what {
            Garbage::Loose => &self.loose,
            Garbage::Duplicate => {
                self.duplicates.fetch_add(1, Ordering::Relaxed);
                &self.loose
            }
            Garbage::Pack => &self.packs,
            Garbage::Lfs => &self.lfs,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn summary(self) -> GcSummary {
        GcSummary {
            loose: self.loose.into_inner(),
            duplicates: self.duplicates.into_inner(),
            packs: self.packs.into_inner(),
            lfs: self.lfs.into_inner(),
            bytes: self.bytes.into_inner(),
            young: self.young.into_inner(),
            ..GcSummary::default()
        }
    }
}

impl Gc<'_> {
    /// Counts what there is to delete. By this machine's clock or the newest key, whichever is
    /// later: it must not miss anything, and deletes nothing.
    fn look(&self, deleting: &(dyn Fn(&ObjectInfo) + Sync)) -> Result<GcSummary, MirrorError> {
        let counts = Counts::default();
        let now = SystemTime::now();
        self.pages(&|page| {
            let newest = page.iter().filter_map(|info| info.last_modified).max();
            let now = newest.map_or(now, |newest| newest.max(now));
            for (info, what) in self.old_garbage(page, now, &counts) {
                counts.add(&what, info.len);
                if self.options.dry_run {
                    deleting(&info);
                }
            }
            Ok(())
        })?;
        Ok(counts.summary())
    }

    /// Deletes. Whatever comes of it, the fence ends.
    fn delete(&self, deleting: &(dyn Fn(&ObjectInfo) + Sync)) -> Result<GcSummary, MirrorError> {
        let fence = Mutex::new(Deleting::begin(self.store)?);
        let outcome = self.delete_behind(deleting, &fence);
        let fence = fence.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = fence.end();
        let counts = outcome?;
        ended?;
        Ok(counts)
    }

    fn delete_behind(
        &self,
        deleting: &(dyn Fn(&ObjectInfo) + Sync),
        fence: &Mutex<Deleting<'_>>,
    ) -> Result<GcSummary, MirrorError> {
        let fence = || fence.lock().unwrap_or_else(PoisonError::into_inner);
        let store_time = fence().store_time()?;
        let now = store_time.unwrap_or_else(SystemTime::now);
        // A run that has looked at the fence before it was there may just be publishing.
        wait(self.options)?;
        let counts = Counts::default();
        self.pages(&|page| {
            let garbage = self.old_garbage(page, now, &counts);
            if garbage.is_empty() {
                return Ok(());
            }
            // One request under the lock, every ten minutes.
            fence().renew()?;
            self.refuse_news()?;
            garbage.iter().for_each(|(info, _)| deleting(info));
            let keys: Vec<Key> = garbage.iter().map(|(info, _)| info.key.clone()).collect();
            self.store.delete(&keys)?;
            garbage.iter().for_each(|(info, what)| counts.add(what, info.len));
            Ok(())
        })?;
        if !self.forgotten.is_empty() {
            self.refuse_news()?;
            Remembered::forget(self.store, &self.forgotten)?;
        }
        let notes = self.keep.replaced.old_notes(|at| self.is_old(at, now));
        if !notes.is_empty() {
            self.store.delete(&notes)?;
        }
        Ok(counts.summary())
    }

    fn refuse_news(&self) -> Result<(), MirrorError> {
        if Published::read(self.store, self.options.memory_bytes)? != self.published {
            log::warn!("a run published meanwhile: gc stopped; run it again");
            return Err(MirrorError::Conflict);
        }
        Ok(())
    }

    fn pages(
        &self,
        page: &(dyn Fn(Vec<ObjectInfo>) -> Result<(), MirrorError> + Sync),
    ) -> Result<(), MirrorError> {
        let Gc { store, options, .. } = self;
        for folder in [OBJECTS, LFS] {
            inventory::pages(*store, folder, options.concurrency, &options.cancel, page)?;
        }
        Ok(())
    }

    fn is_old(&self, since: SystemTime, now: SystemTime) -> bool {
        now.duration_since(since).is_ok_and(|age| age >= self.options.grace)
    }

    fn old_garbage(
        &self,
        page: Vec<ObjectInfo>,
        now: SystemTime,
        counts: &Counts,
    ) -> Vec<(ObjectInfo, Garbage)> {
        let garbage = page
            .into_iter()
            .filter_map(|info| self.keep.garbage(info.key.as_str()).map(|what| (info, what)));
        let (old, young): (Vec<_>, Vec<_>) = garbage.partition(|(info, _)| {
            self.keep.since(info).is_some_and(|since| self.is_old(since, now))
        });
        counts.young.fetch_add(young.len() as u64, Ordering::Relaxed);
        old
    }
}
