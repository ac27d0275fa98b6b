//! What was published when, and publishing it again.
//!
//! A publication of the past is published like any other: only once everything that its refs reach has
//! been found by a walk ([`Proven`], which publishing consumes), behind gc's fence, and only over the refs
//! that were seen. What was published until then gets a snapshot of its own, so a restore can be undone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::inventory;
use super::past::tips_of;
use super::walk::{Pointers, Problem, Walk};
use crate::git::object::Oid;
use crate::git::refs::Advertisement;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::fence::Fence;
use crate::repository::history::{self, Entry};
use crate::repository::lfs_objects;
use crate::repository::packed;
use crate::repository::publish::{self, AllStored, Published, RefChange};
use crate::repository::state::{self, Recorded};
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::Store;

/// One publication, and what changed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The snapshot's name: what `restore --at` takes.
    pub name: String,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// How many refs it has. `Err`: the snapshot can't be read, and why.
    pub refs: Result<usize, String>,
    /// What differs from the publication before.
    pub changes: Vec<RefChange>,
}

/// All publications that are kept, the oldest first; two of them are in memory at a time, for which
/// `memory_bytes` must be enough.
pub fn publications(
    store: &dyn Store,
    memory_bytes: u64,
    cancel: &Cancel,
    each: &mut dyn FnMut(Publication),
) -> Result<(), MirrorError> {
    let mut before = Published::default();
    for entry in all_publications(store)? {
        if cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let (refs, changes) = match history::read(store, &entry, memory_bytes)? {
            Ok(then) => {
                let (refs, changes) = (then.refs.len(), before.changes(&then));
                before = Published::of(then);
                (Ok(refs), changes)
            }
            Err(what) => (Err(what), Vec::new()),
        };
        each(Publication { name: entry.name.to_string(), time: entry.name.time(), refs, changes });
    }
    Ok(())
}

/// Those that are there, and those that the state names, as far as that can be read.
fn all_publications(store: &dyn Store) -> Result<Vec<Entry>, MirrorError> {
    let recorded = match Recorded::read(store) {
        Err(MirrorError::Mirror(what)) => {
            log::warn!("{what}");
            None
        }
        read => read?,
    };
    history::list(store, recorded.iter().flat_map(Recorded::snapshots))
}

/// How a restore works.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Requests in flight; at least 1.
    pub concurrency: usize,
    /// Memory for packs, in bytes.
    pub memory_bytes: u64,
    /// Say what would change, write nothing.
    pub dry_run: bool,
    /// To stop it.
    pub cancel: Cancel,
}

/// Refs of the past of which everything is there. Made by [`prove`] alone.
pub struct Proven {
    name: String,
    refs: Advertisement,
    lfs_missing: Vec<String>,
}

impl Proven {
    /// The publication's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was published.
    pub fn refs(&self) -> &Advertisement {
        &self.refs
    }

    /// LFS objects that it names and that are not there.
    pub fn lfs_missing(&self) -> &[String] {
        &self.lfs_missing
    }
}

impl AllStored for Proven {
    fn new_pack(&self) -> Option<&str> {
        None
    }
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The publication's name.
    pub name: String,
    /// What changed by it.
    pub changes: Vec<RefChange>,
    /// How many refs there are now.
    pub refs: usize,
    /// LFS objects that are not there.
    pub lfs_missing: Vec<String>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Finds everything that the publication `at` (its name, or a time) reaches.
pub fn prove(
    store: &dyn Store,
    at: &str,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<Proven, MirrorError> {
    let refused = |what: &dyn std::fmt::Display| {
        MirrorError::Mirror(format!("{}: {what}; nothing was published", store.describe()))
    };
    let entries = all_publications(store)?;
    let entry = history::find(&entries, at).map_err(|what| refused(&what))?;
    let refs = history::read(store, entry, options.memory_bytes)?
        .map_err(|what| refused(&format!("{} cannot be read: {what}", entry.key())))?;
    let problems = Mutex::new((0u64, String::new()));
    let tell = |what: String| {
        let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.0 == 0 {
            problems.1 = what;
        }
        problems.0 += 1;
    };
    let names = packed::listed_names(store, |key, what| tell(format!("{key}: {what}")))?;
    let packs = packed::open_all(store, &names, |key, what| tell(format!("{key}: {what}")))?;
    progress.phase("listing");
    let stored = inventory::stored(store, options.concurrency, &options.cancel)?;
    let walk = Walk {
        store,
        packs: &packs,
        threads: options.concurrency,
        memory_bytes: options.memory_bytes,
        cancel: &options.cancel,
        read_blobs: false,
        blobs_exist: true,
        stored: Some(&stored),
        pointers: Pointers::IfAttributes,
        elsewhere: &|_, _| false,
    };
    let tips = tips_of(&refs);
    let from: Vec<(Oid, _)> = tips.iter().map(|(oid, kind, _)| (*oid, *kind)).collect();
    progress.phase("checking connectivity");
    let reached = walk.run(&from, &|Problem { key, what, via, .. }| {
        let name = tips.get(via as usize).map_or("", |(_, _, name)| name);
        tell(format!("{key}: {what} (reached by {name})"));
    })?;
    let (count, first) = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    if count > 0 {
        let what = format!("what was published at {} is incomplete: {first}", entry.name);
        let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
        return Err(refused(&format!("{what}{more}")));
    }
    let lfs: Vec<[u8; 32]> = reached.lfs.into_keys().collect();
    let lfs_missing = missing_lfs(store, &lfs, options.concurrency)?;
    Ok(Proven { name: entry.name.to_string(), refs, lfs_missing })
}

fn missing_lfs(
    store: &dyn Store,
    wanted: &[[u8; 32]],
    threads: usize,
) -> Result<Vec<String>, MirrorError> {
    let missing = Mutex::new(Vec::new());
    for_each(wanted, threads, "lfs", |oid| {
        let key = lfs_objects::key(oid);
        if store.head(&key)?.is_none() {
            missing.lock().unwrap_or_else(PoisonError::into_inner).push(key.to_string());
        }
        Ok::<_, MirrorError>(())
    })?;
    let mut missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    missing.sort();
    Ok(missing)
}

/// Makes what was published `at` some time the mirror's refs again.
pub fn restore(
    store: &dyn Store,
    at: &str,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<Restored, MirrorError> {
    let started = Instant::now();
    let fence = Fence::read(store)?;
    let recorded = Recorded::read(store)?;
    let published = Published::read(store, publish::max_file_bytes(options.memory_bytes))?;
    let proven = prove(store, at, options, progress)?;
    let (name, refs) = (proven.name.clone(), proven.refs.clone());
    let (changes, lfs_missing) = (published.changes(&refs), proven.lfs_missing.clone());
    if !options.dry_run && !changes.is_empty() {
        progress.phase("publishing");
        let mut snapshots = match published.exists() {
            true => history::note_published(store, &published.advertised())?,
            false => Vec::new(),
        };
        fence.check(store)?;
        publish::publish(store, proven, &published, &refs, &[], None)?;
        match history::note(store, &refs) {
            Ok(name) => snapshots.push(name),
            Err(error) => log::warn!("published, but not recorded: {error}"),
        }
        state::describe(store, recorded.as_ref(), &refs, &snapshots);
    }
    let (refs, elapsed) = (refs.refs.len(), started.elapsed());
    Ok(Restored { name, changes, refs, lfs_missing, elapsed })
}
