//! What past publications need: roots for `verify` and `gc` beside the refs of today (`history`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use hashbrown::HashSet;

use super::diagnose::Tip;
use crate::git::object::{Kind, Oid};
use crate::git::refs::{Advertisement, Head};
use crate::repository::error::MirrorError;
use crate::repository::history::{self, Entry};
use crate::repository::state::Recorded;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreErrorKind};

/// Past publications of a mirror.
#[derive(Default)]
pub(crate) struct Past {
    kept: Vec<Entry>,
    /// Snapshots that are out of date.
    pub(crate) old: Vec<Entry>,
}

impl Past {
    /// Lists them, those that the state names and that are missing among them. Without a state that says
    /// for how long, everything is kept.
    pub(crate) fn list(
        store: &dyn Store,
        recorded: Option<&Recorded>,
    ) -> Result<Self, MirrorError> {
        let noted = recorded.into_iter().flat_map(Recorded::snapshots);
        let all = history::list(store, noted)?;
        let (kept, old) = match recorded.and_then(Recorded::keep_history) {
            Some(keep) => history::divide(all, keep, SystemTime::now()),
            None => (all, Vec::new()),
        };
        Ok(Past { kept, old })
    }

    /// Are there none that are kept?
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The same for those who only read: where nothing can be listed, there is no history.
    pub(crate) fn list_if_possible(
        store: &dyn Store,
        recorded: Option<&Recorded>,
    ) -> Result<Self, MirrorError> {
        let keep = recorded.and_then(Recorded::keep_history);
        match Past::list(store, recorded) {
            Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => {
                Ok(Past::default())
            }
            Err(MirrorError::Store(error))
                if error.kind == StoreErrorKind::Denied && keep.is_none() =>
            {
                Ok(Past::default())
            }
            listed => listed,
        }
    }

    /// Objects that only past publications name, each once. `bad` hears of snapshots that can't be read,
    /// and of those whose objects no longer fit in `memory_bytes`.
    pub(crate) fn tips(
        &self,
        store: &dyn Store,
        (threads, memory_bytes): (usize, u64),
        cancel: &Cancel,
        today: impl Iterator<Item = Oid>,
        bad: &(dyn Fn(Key, String) + Sync),
    ) -> Result<Vec<Tip>, MirrorError> {
        // Each takes up to twelve times its length, as what is published does.
        let largest = self.kept.iter().map(|entry| entry.len).max().unwrap_or(0).max(1);
        let fit = (history::max_bytes(memory_bytes) / largest).max(1);
        let threads = threads.min(usize::try_from(fit).unwrap_or(usize::MAX));
        let found = Mutex::new((today.collect::<HashSet<Oid>>(), Vec::new()));
        let left_bytes = AtomicU64::new(memory_bytes / 4);
        for_each(&self.kept, threads, "history", |entry| {
            if cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
            match history::read(store, entry, memory_bytes)? {
                Ok(then) => {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    let (seen, tips) = &mut *found;
                    for (oid, kind, name) in tips_of(&then) {
                        if !seen.contains(&oid) {
                            let tip = (oid, kind, format!("{name} at {}", entry.name));
                            let takes = (tip.2.len() + size_of::<Tip>() + size_of::<Oid>()) as u64;
                            if !take(&left_bytes, takes) {
                                let mib = memory_bytes >> 20;
                                let what = "with it past publications name more objects than";
                                bad(entry.key(), format!("{what} --memory {mib} allows"));
                                break;
                            }
                            seen.insert(oid);
                            tips.push(tip);
                        }
                    }
                }
                Err(what) => bad(entry.key(), what),
            }
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).1)
    }
}

/// Takes so many bytes, if as many are left.
fn take(left: &AtomicU64, bytes: u64) -> bool {
    let less = |left: u64| left.checked_sub(bytes);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

/// What refs and HEAD name.
pub(crate) fn tips_of(refs: &Advertisement) -> Vec<Tip> {
    let mut tips: Vec<Tip> = Vec::new();
    for r in &refs.refs {
        let kind = if r.name.is_branch() { Some(Kind::Commit) } else { None };
        let kind = kind.or(r.peeled.map(|_| Kind::Tag));
        tips.push((r.oid, kind, r.name.to_string()));
        tips.extend(r.peeled.map(|oid| (oid, None, format!("{}^{{}}", r.name))));
    }
    if let Head::Detached(oid) = refs.head {
        tips.push((oid, Some(Kind::Commit), "HEAD".to_owned()));
    }
    tips
}
