//! Keeps a run from publishing what [`crate::maintain::gc`] has deleted meanwhile.
//!
//! A run relies on objects that it did not write: those that a listing found, and those that the
//! refs it has read reach. Their age says nothing: an object that a force-push dropped a year ago is
//! a year old, and a force-push back makes it needed again now. So gc and a run that publishes meet
//! at one key, [`KEY`]:
//!
//! - gc writes `deleting` there *before* it reads the refs for the last time, and `done` when it
//!   ends. Each time the content is another.
//! - a run reads it before it relies on anything, and again right before it publishes. If it has
//!   changed, or says `deleting`, the run does not publish ([`MirrorError::Conflict`]); the next run
//!   stores what is missing, because it begins anew.
//!
//! Either the run's last look comes before gc's `deleting`, then gc, which waits
//! ([`crate::maintain::gc::GcOptions::settle`]) and then reads the refs, sees what was published and deletes
//! nothing (and looks again before every request that deletes); or it comes after, then the run
//! does not publish. What is left is a run whose publishing, after its last look, takes longer than
//! that wait and all of gc's looks: seconds against a handful of small requests.
//!
//! A gc that is killed leaves `deleting`. It renews the key every [`RENEW_AFTER`], so one that is
//! older than [`DEAD_AFTER`] by the store's clock, which may differ from this machine's by minutes,
//! is stale and binds nobody.

use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime};

use super::error::MirrorError;
use super::files::{self, key};
use crate::store::{ObjectHeaders, Store};

/// Where gc and runs meet.
pub(crate) const KEY: &str = "mirror_state/gc.json";

const HEADERS: ObjectHeaders = ObjectHeaders::changing("application/json");

/// How often a gc says that it lives.
const RENEW_AFTER: Duration = Duration::from_secs(10 * 60);

/// A gc that has said nothing for so long is stale.
const DEAD_AFTER: Duration = Duration::from_secs(60 * 60);

fn read(store: &dyn Store) -> Result<Option<Vec<u8>>, MirrorError> {
    Ok(files::get(store, &key(KEY), None, 64 << 10)?.map(|(file, _)| file))
}

/// What a run saw before it relied on anything.
pub(crate) struct Fence(Option<Vec<u8>>);

impl Fence {
    pub(crate) fn read(store: &dyn Store) -> Result<Self, MirrorError> {
        read(store).map(Fence)
    }

    /// To be called right before publishing: has nothing been deleted since, and is nothing now?
    pub(crate) fn check(&self, store: &dyn Store) -> Result<(), MirrorError> {
        let now = read(store)?;
        if now != self.0 {
            log::warn!("gc deleted objects of this mirror meanwhile: not publishing");
            return Err(MirrorError::Conflict);
        }
        let deleting = now.is_some_and(|file| says_deleting(&file));
        if deleting && is_alive(store)? {
            log::warn!("gc is deleting objects of this mirror: not publishing");
            return Err(MirrorError::Conflict);
        }
        Ok(())
    }
}

fn says_deleting(file: &[u8]) -> bool {
    file.windows(8).any(|word| word == b"deleting")
}

fn is_alive(store: &dyn Store) -> Result<bool, MirrorError> {
    let written = store.head(&key(KEY))?.and_then(|info| info.last_modified);
    let now = SystemTime::now();
    // A time that is as far ahead says nothing either: a wrong clock must not block all runs.
    Ok(written.is_none_or(|at| {
        let off = now.duration_since(at).unwrap_or_else(|ahead| ahead.duration());
        off < DEAD_AFTER
    }))
}

/// gc's side.
pub(crate) struct Deleting<'e> {
    store: &'e dyn Store,
    run: String,
    renewed: Instant,
    count: u64,
}

impl<'e> Deleting<'e> {
    /// Says that deleting begins.
    pub(crate) fn begin(store: &'e dyn Store) -> Result<Self, MirrorError> {
        let random = std::hash::RandomState::new().hash_one(SystemTime::now());
        let run = format!("{random:016x}");
        let deleting = Deleting { store, run, renewed: Instant::now(), count: 0 };
        deleting.say("deleting")?;
        Ok(deleting)
    }

    /// The same for a run that deletes: not beside a gc. `None`: there is one.
    pub(crate) fn begin_alone(store: &'e dyn Store) -> Result<Option<Self>, MirrorError> {
        let is_deleting = read(store)?.is_some_and(|file| says_deleting(&file));
        if is_deleting && is_alive(store)? {
            return Ok(None);
        }
        Deleting::begin(store).map(Some)
    }

    /// The store's clock: when it stored what [`Deleting::begin`] wrote.
    pub(crate) fn store_time(&self) -> Result<Option<SystemTime>, MirrorError> {
        Ok(self.store.head(&key(KEY))?.and_then(|info| info.last_modified))
    }

    /// To be called before every deletion.
    pub(crate) fn renew(&mut self) -> Result<(), MirrorError> {
        if self.renewed.elapsed() > RENEW_AFTER {
            self.count += 1;
            self.say("deleting")?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    /// Says that nothing more will be deleted.
    pub(crate) fn end(self) -> Result<(), MirrorError> {
        self.say("done")
    }

    fn say(&self, state: &str) -> Result<(), MirrorError> {
        let (run, count) = (&self.run, self.count);
        let file = format!("{{\"gc\":\"{state}\",\"run\":\"{run}\",\"renewed\":{count}}}\n");
        self.store.put(&key(KEY), file.as_bytes(), HEADERS, None)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn run_publishes_only_if_no_gc_has_come_between() {
        let store = MemoryStore::new();
        let before = Fence::read(&store).unwrap();
        before.check(&store).unwrap();
        let gc = Deleting::begin(&store).unwrap();
        let during = Fence::read(&store).unwrap();
        for fence in [&before, &during] {
            assert!(matches!(fence.check(&store), Err(MirrorError::Conflict)));
        }
        gc.end().unwrap();
        for fence in [&before, &during] {
            assert!(matches!(fence.check(&store), Err(MirrorError::Conflict)));
        }
        let after = Fence::read(&store).unwrap();
        after.check(&store).unwrap();
        Deleting::begin(&store).unwrap().end().unwrap();
        assert!(matches!(after.check(&store), Err(MirrorError::Conflict)), "one gc is not another");
    }

    #[test]
    fn gc_that_was_killed_binds_nobody_for_ever() {
        let store = MemoryStore::new();
        Deleting::begin(&store).unwrap();
        let fence = Fence::read(&store).unwrap();
        assert!(fence.check(&store).is_err());
        let now = SystemTime::now();
        for off in [now - 2 * DEAD_AFTER, now + 2 * DEAD_AFTER] {
            store.set_last_modified(KEY, off);
            fence.check(&store).unwrap();
        }
        // The store's clock may differ by minutes.
        store.set_last_modified(KEY, now + DEAD_AFTER / 4);
        assert!(fence.check(&store).is_err());
    }
}
