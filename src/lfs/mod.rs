//! LFS objects: which ones the history points to, which of them are stored, and the rest fetched,
//! beside the git objects.
//!
//! Pointers are noted while the pack streams by (`queue.rs`). Which LFS server to ask is known when
//! HEAD's commit, its root folder and its `.lfsconfig`, if there is one, have passed by: git sends
//! commits first, then folders, so that is mostly before the first pointer (`Config` there). Otherwise,
//! as in an increment that does not touch `.lfsconfig`, it is read when all git objects are stored.
//! While the pack streams, an eighth of the working memory is there for LFS objects, then all of it.
//! Refs are published when both are done: whoever sees a ref finds its LFS objects.
//!
//! | thread | waits for | ends when |
//! |---|---|---|
//! | `lfs`, the asker: who calls [`mirror_lfs`] | pointers; the batch API; a free fetcher | every object was handed on, or the run is over |
//! | `lfs.N`, up to `FETCHERS` | room in the gate; the LFS server; the store | the asker has ended |
//!
//! A fetcher takes room for one part before it begins and never asks for more, so memory is bounded
//! whatever the sizes. An object of up to one part is stored by one PUT after its size and SHA-256
//! were checked; a larger one goes in parts to a temporary key and is copied when the check has
//! passed. What the LFS server fails to give is *missing*: it is reported, recorded in the bucket
//! (`remembered.rs`) and tried again by the next run. A failure of the store ends the run.

mod fetch;
mod gate;
mod queue;
mod remembered;
mod run;
mod sink;
mod stop;
mod wanted;

use std::sync::{Mutex, PoisonError};

use self::fetch::Fetch;
pub(super) use self::queue::Queue;
pub(super) use self::remembered::Remembered;
pub(super) use self::run::Run;
use self::wanted::Wanted;
use crate::git::lfs_pointer::LfsPointer;
use crate::repository::error::MirrorError;
use crate::repository::lfs_objects;
use crate::run::threads::for_each;
use crate::store::Store;

/// What became of the LFS objects.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Stored by this run.
    pub(super) written: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Oid and reason of each that is missing, by oid.
    pub(super) unavailable: Vec<(String, String)>,
}

/// Fetches and stores what `queue` and earlier runs point to and the mirror does not have; returns when the
/// queue has ended.
pub(super) fn mirror_lfs(run: &Run<'_>, queue: &Queue) -> Result<Outcome, MirrorError> {
    let Run { source, store, .. } = *run;
    if source.lfs(None).is_none() {
        let mut reported = false;
        while queue.take()?.is_some() {
            let source = source.describe();
            if !reported {
                log::warn!(
                    "{source}: skipping LFS objects: a bundle carries none; a clone has them (--lfs-dir)"
                );
            }
            reported = true;
        }
        return Ok(Outcome::default());
    }
    let remembered = Remembered::read(store)?;
    queue.add(&remembered.0);
    let mut wanted = Wanted::new(store, queue);
    let (mut written, mut bytes) = (0, 0);
    let mut unavailable = Vec::new();
    if let Some(missing) = wanted.next()? {
        let config = queue.config(run)?;
        if let Some(server) = source.lfs(config.as_deref()) {
            let fetch = Fetch::new(&*server, run, &queue.gate);
            ((written, bytes), unavailable) = fetch.run(missing, wanted)?;
        }
    }
    remembered.update(store, unavailable.iter().map(|(pointer, _)| *pointer).collect())?;
    let unavailable = unavailable.into_iter().map(|(pointer, why)| (pointer.hex(), why)).collect();
    Ok(Outcome { written, bytes, unavailable })
}

/// After LFS objects were copied from the mirror `from`: those that it remembers as missing, or `to` does,
/// and that `to` has not. They are remembered there.
pub(super) fn missing_after_copy(
    from: Option<&dyn Store>,
    to: &dyn Store,
    concurrency: usize,
) -> Result<Vec<(String, String)>, MirrorError> {
    let remembered = Remembered::read(to)?;
    let mut pointers = remembered.0.clone();
    if let Some(from) = from {
        pointers.extend(Remembered::read(from)?.0);
    }
    let missing = Mutex::new(Vec::new());
    for_each(&pointers, concurrency, "lfs", |pointer| {
        if to.head(&lfs_objects::key(&pointer.oid))?.is_none() {
            missing.lock().unwrap_or_else(PoisonError::into_inner).push(*pointer);
        }
        Ok::<_, MirrorError>(())
    })?;
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<LfsPointer> = remembered::sorted(missing);
    remembered.update(to, missing.clone())?;
    let place = from.map_or_else(|| "the other mirror".to_owned(), Store::describe);
    Ok(missing.into_iter().map(|pointer| (pointer.hex(), format!("missing in {place}"))).collect())
}
