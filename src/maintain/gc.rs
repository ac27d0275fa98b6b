//! Deletes what no ref reaches and no list names, once it is old enough.
//!
//! That is: loose objects that no published ref reaches, `.pack` and `.idx` files that
//! `objects/info/packs` does not list, and LFS objects that no reachable pointer names; those also
//! leave the list of lacking ones. No other key
//! is ever deleted; of temporary keys only those of dead runs (`temp`). If anything that
//! refs reach is missing or damaged, nothing is deleted at all: what lies behind it is unknown.
//!
//! Nor is anything deleted if the refs are not those that the last run has recorded in the state
//! (`state.json`): an `info/refs` that was lost or answered empty would make everything garbage.
//!
//! # Beside a running mirror
//! Three things keep a run's objects safe:
//!
//! - **The grace period**, for what a run has stored and not yet published: it is younger. Its age
//!   is the difference of two times by the store's own clock: its LastModified, and that of the key
//!   that gc itself has just written. (A dry run writes nothing and takes this machine's clock.) The
//!   grace should be longer than the longest run, or that run will have to begin again.
//! - **The fence** (`fence`), for old objects that a run relies on without writing them: a
//!   run that gc overtakes does not publish, and runs again. So a short grace costs work, never a
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
//! **Memory**: as `walk`; listings are worked off page by page.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::inventory;
use super::walk::{Pointers, Problem, Reached, Walk};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::Oid;
use crate::git::refs::{Head, Ref, parse_head_file, parse_info_refs};
use crate::lfs::Remembered;
use crate::repository::error::MirrorError;
use crate::repository::fence::Deleting;
use crate::repository::files;
use crate::repository::lfs_objects;
use crate::repository::listing::{LFS, OBJECTS};
use crate::repository::loose;
use crate::repository::packed;
use crate::repository::packs;
use crate::repository::replaced::Replaced;
use crate::repository::state::{self, Recorded};
use crate::repository::temp;
use crate::run::Cancel;
use crate::run::retry::sleep;
use crate::store::{Key, ObjectInfo, Store};

/// What gc is to do.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// What is younger stays.
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
    /// Objects that refs reach.
    pub reachable: u64,
    /// Loose objects deleted (or that would be).
    pub loose: u64,
    /// Files of packs.
    pub packs: u64,
    /// LFS objects.
    pub lfs: u64,
    /// Lacking LFS objects that runs need no longer look for.
    pub lfs_forgotten: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// What no ref reaches, but is too young yet (or has no age).
    pub young: u64,
    /// Temporary keys and uploads of dead runs.
    pub temporary: u64,
    /// Requests to the store.
    pub store_requests: u64,
    /// Wall time.
    pub elapsed: Duration,
}

impl GcSummary {
    /// How many keys, without temporary ones.
    pub fn deleted(&self) -> u64 {
        self.loose + self.packs + self.lfs
    }
}

/// Deletes garbage from the mirror in `store`. `deleting` hears every key before it is deleted (or
/// instead, in a dry run), from many threads.
pub fn gc(
    store: &dyn Store,
    options: &GcOptions,
    deleting: &(dyn Fn(&ObjectInfo) + Sync),
) -> Result<GcSummary, MirrorError> {
    let started = Instant::now();
    let requests_before = store.requests();
    let temporary = if options.dry_run { 0 } else { temp::sweep(store)? as u64 };
    let published = Published::read(store)?;
    let published = confirmed(store, options, published)?;
    let gc = Gc { store, options, keep: Keep::find(store, options, &published)?, published };
    let mut counts = gc.look(deleting)?;
    let lfs_forgotten = gc.keep.forgotten.len() as u64;
    if !options.dry_run && counts.deleted() + lfs_forgotten > 0 {
        counts = gc.delete(deleting)?;
    }
    Ok(GcSummary {
        lfs_forgotten,
        reachable: gc.keep.reached.objects.len() as u64,
        temporary,
        store_requests: store.requests() - requests_before,
        elapsed: started.elapsed(),
        ..counts
    })
}

/// The mutable files, byte for byte.
#[derive(PartialEq, Eq)]
struct Published {
    info_refs: Vec<u8>,
    head: Option<Vec<u8>>,
    packs: Option<Vec<u8>>,
}

impl Published {
    fn read(store: &dyn Store) -> Result<Self, MirrorError> {
        let get = |key| -> Result<_, MirrorError> {
            Ok(files::get(store, &files::key(key), None, 256 << 20)?.map(|(file, _)| file))
        };
        let Some(info_refs) = get("info/refs")? else {
            return Err(MirrorError::Mirror(format!(
                "{} has no info/refs: no mirror is published here, and what a first run has \
                 stored so far is no garbage",
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
            None if has == 0 => Err("there is no ref, and no state that confirms it".to_owned()),
            None => Ok(()),
            Some(state) => match (state.describes(&refs, head.as_ref()), state.refs) {
                (Some(true), _) => Ok(()),
                (None, Some(had)) if has >= had.div_ceil(2) => Ok(()),
                (None, None) if has > 0 => Ok(()),
                (Some(false), Some(had)) if had == has => {
                    Err("refs are not those that the last run has recorded".to_owned())
                }
                (_, had) => {
                    Err(format!("{has} refs; the last run has recorded {}", had.unwrap_or(0)))
                }
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
    let published = Published::read(store)?;
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
    reached: Reached,
    /// `pack-<40 hex>`.
    packs: BTreeSet<String>,
    replaced: Replaced,
    /// Lacking LFS objects that no pointer names.
    forgotten: Vec<LfsPointer>,
}

/// What a key is, if gc may delete it at all.
enum Garbage {
    Loose,
    Pack,
    Lfs,
}

impl Keep {
    fn find(
        store: &dyn Store,
        options: &GcOptions,
        published: &Published,
    ) -> Result<Self, MirrorError> {
        let listed = packs::parse_pack_list(published.packs.as_deref().unwrap_or_default());
        let problems: Mutex<Vec<String>> = Mutex::default();
        let told = |words: String| {
            let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
            if problems.len() < 3 {
                problems.push(words);
            }
        };
        let names: Vec<String> = listed.clone().unwrap_or_default();
        let packs = packed::open_all(store, &names, |key, what| told(format!("{key}: {what}")))?;
        let has_lfs = !store.list(LFS, None)?.objects.is_empty();
        let lacking = Remembered::read(store)?.0;
        let stored = match has_lfs {
            true => Some(inventory::stored(store, options.concurrency, &options.cancel)?),
            false => None,
        };
        let tips = published.tips(store)?;
        let walk = Walk {
            store,
            packs: &packs,
            threads: options.concurrency,
            memory_bytes: options.memory_bytes,
            cancel: &options.cancel,
            read_blobs: false,
            blobs_exist: false,
            stored: stored.as_ref(),
            pointers: match has_lfs || !lacking.is_empty() {
                true => Pointers::Yes,
                false => Pointers::No,
            },
            elsewhere: &|_, _| false,
        };
        let from: Vec<_> = tips.iter().map(|(oid, _)| (*oid, None)).collect();
        let reached = walk.run(&from, &|Problem { key, what, via }| {
            let name = tips.get(via as usize).map_or("?", |(_, name)| name);
            told(format!("{key}: {what} (reached by {name})"));
        })?;
        let problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !problems.is_empty() {
            return Err(MirrorError::Mirror(format!(
                "{} is not whole, so what is garbage is not known; nothing was deleted (verify \
                 tells more): {}",
                store.describe(),
                problems.join("; ")
            )));
        }
        let packs = listed.unwrap_or_default().into_iter().collect();
        let is_forgotten = |pointer: &LfsPointer| !reached.lfs.contains_key(&pointer.oid);
        let forgotten = lacking.into_iter().filter(is_forgotten).collect();
        Ok(Keep { reached, packs, replaced: Replaced::read(store)?, forgotten })
    }

    /// `None`: it must stay, or is nothing that gc knows.
    fn garbage(&self, key: &str) -> Option<Garbage> {
        if let Some(oid) = loose::oid_of_key(key) {
            return (!self.reached.objects.contains(&oid)).then_some(Garbage::Loose);
        }
        if let Some(oid) = lfs_objects::oid_of_key(key) {
            return (!self.reached.lfs.contains_key(&oid)).then_some(Garbage::Lfs);
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
}

/// Counted from many threads.
#[derive(Default)]
struct Counts {
    loose: AtomicU64,
    packs: AtomicU64,
    lfs: AtomicU64,
    bytes: AtomicU64,
    young: AtomicU64,
}

impl Counts {
    fn add(&self, what: &Garbage, bytes: u64) {
        let counter = match what {
            Garbage::Loose => &self.loose,
            Garbage::Pack => &self.packs,
            Garbage::Lfs => &self.lfs,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn summary(self) -> GcSummary {
        GcSummary {
            loose: self.loose.into_inner(),
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
        if !self.keep.forgotten.is_empty() {
            self.refuse_news()?;
            Remembered::forget(self.store, &self.keep.forgotten)?;
        }
        let notes = self.keep.replaced.old_notes(|at| self.is_old(at, now));
        if !notes.is_empty() {
            self.store.delete(&notes)?;
        }
        Ok(counts.summary())
    }

    fn refuse_news(&self) -> Result<(), MirrorError> {
        if Published::read(self.store)? != self.published {
            log::warn!("a run has published meanwhile: gc stops; run it again");
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
