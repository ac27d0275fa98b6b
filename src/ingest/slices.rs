//! A first fetch in slices, for a line or a proxy that has less patience than the repository is long.
//!
//! History is fetched from the newest commit of the default branch down, some generations at a time
//! (`deepen`, gitprotocol-v2(5)), each slice a pack of its own that is stored, listed and remembered
//! ([`Slices`]). Then the other refs, all at once, and by halves if that breaks. A cut costs one slice;
//! so does a killed run. No ref is published before all are there.
//!
//! How large a slice is follows from what came before the last cut: half of that.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::env::Env;
use super::run::{check_pack, store_pack};
use super::sink::check::{Examiner, Found};
use crate::git::object::Oid;
use crate::pack::index::parse_index;
use crate::repository::error::MirrorError;
use crate::repository::packs;
use crate::repository::publish::list_pack;
use crate::repository::reopen::Reopening;
use crate::repository::slices::Slices;
use crate::run::retry::{Backoff, Policy, sleep};
use crate::source::{Seed, Slice, Sliced, Source, SourceErrorKind};
use crate::store::Store;

/// How often a slice that cannot be made smaller is tried, and the wait before.
const POLICY: Policy = Policy::of(5, Duration::from_millis(200));

/// A slice that nothing is known of yet.
const FIRST_BYTES: u64 = 8 << 20;

/// Smaller ones are not aimed at: each costs a request, and its first version of each file is whole.
const LEAST_BYTES: u64 = 64 << 10;

/// An index of a slice.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// A fetch in slices.
pub(crate) struct SlicedFetch<'e, 'r> {
    source: &'r dyn Source,
    env: &'r Env<'e>,
    slices: Slices,
    /// What a slice should have, in bytes.
    target: u64,
    /// Generations of the next slice.
    step: u32,
    backoff: Backoff,
}

impl<'e, 'r> SlicedFetch<'e, 'r> {
    /// `cut_at`: how many bytes came before the whole fetch broke, if it has.
    pub(crate) fn begin(
        source: &'r dyn Source,
        env: &'r Env<'e>,
        cut_at: Option<u64>,
    ) -> Result<Self, MirrorError> {
        let slices = Slices::read(env.store, &source.describe())?;
        let target = cut_at.map_or(FIRST_BYTES, |bytes| bytes / 2).max(LEAST_BYTES);
        let mut backoff = Backoff::new(POLICY);
        if cut_at.is_some() {
            // The whole was a try, too.
            let _ = backoff.wait_after(None);
        }
        Ok(SlicedFetch { source, env, slices, target, step: 1, backoff })
    }

    /// Has an earlier run begun?
    pub(crate) fn is_begun(&self) -> bool {
        self.slices.is_begun()
    }

    /// Stores all that `wants` reach, `head` first. False: the source sends no slices, and nothing
    /// was done.
    pub(crate) fn run(&mut self, head: Option<Oid>, wants: &[Oid]) -> Result<bool, MirrorError> {
        self.look_again()?;
        if self.slices.want().is_none()
            && let Some(head) = head.or(wants.first().copied())
        {
            self.slices.set_want(head);
        }
        while let Some(want) = self.slices.want() {
            if self.slices.done().contains(&want) {
                break;
            }
            if !self.next_slice(want)? {
                return Ok(false);
            }
        }
        self.others(wants)?;
        Ok(true)
    }

    /// The same with a pack that was made beforehand, then an increment on it. False: that pack is of no
    /// use, and nothing was done.
    pub(crate) fn run_seeded(
        &mut self,
        seed: Seed<'_>,
        wants: &[Oid],
    ) -> Result<bool, MirrorError> {
        let Seed { place, tips, pack } = seed;
        log::info!("reading {place} first");
        match self.store(pack, &tips) {
            Ok(()) => {}
            Err(error @ (MirrorError::Source(_) | MirrorError::Pack(_))) => {
                if self.env.cancel.is_cancelled() {
                    return Err(error);
                }
                log::warn!("{place} is of no use: {error}");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.slices.add_done(&tips);
        self.slices.write(self.env.store)?;
        self.others(wants)?;
        Ok(true)
    }

    /// Shows what earlier runs have stored to whoever looks at objects (LFS pointers).
    fn look_again(&self) -> Result<(), MirrorError> {
        let store = self.env.store;
        if self.is_begun() {
            let names = self.slices.packs.len();
            log::info!("going on after {names} slices, {} generations", self.slices.depth);
        }
        for name in &self.slices.packs {
            let key = packs::key(name, "pack");
            let gone = || MirrorError::Mirror(format!("{}/{key} has gone", store.describe()));
            let len = store.head(&key)?.ok_or_else(gone)?.len;
            let stream = Reopening::new(store, key.clone(), 0);
            let index = IndexOf { store, name };
            check_pack(stream, (key, len), self.env, &index)?;
        }
        Ok(())
    }

    /// One slice of the default branch. False: the source sends none.
    fn next_slice(&mut self, want: Oid) -> Result<bool, MirrorError> {
        let cut = self.slices.cut();
        let is_first = self.slices.depth == 0;
        let mut haves = self.slices.done();
        if !is_first {
            haves.push(want);
        }
        let depth = self.slices.depth.saturating_add(self.step);
        let slice = Slice { want, haves: &haves, cut: &cut, depth };
        let words = Box::new(|line: &str| self.env.progress.source_says(line));
        let Some(Sliced { pack, cut: more, uncut }) = self.source.fetch_slice(&slice, words)?
        else {
            return Ok(false);
        };
        let counted = Counted::new(pack);
        let received = counted.received();
        let wanted: &[Oid] = if is_first { &[want] } else { &[] };
        match self.store(counted, wanted) {
            Ok(()) => {
                let mut cut: Vec<Oid> =
                    cut.into_iter().filter(|commit| !uncut.contains(commit)).collect();
                cut.extend(more);
                cut.sort_unstable();
                cut.dedup();
                self.slices.depth = depth;
                self.slices.set_cut(&cut);
                if cut.is_empty() {
                    self.slices.add_done(&[want]);
                }
                self.slices.write(self.env.store)?;
                self.grow(received.load(Ordering::Relaxed), is_first);
                self.backoff = Backoff::new(POLICY);
            }
            Err(error) => self.shrink(error, received.load(Ordering::Relaxed))?,
        }
        Ok(true)
    }

    /// After a slice: the next one should have `target` bytes. The first one, a whole tree, says
    /// nothing of what a generation has.
    fn grow(&mut self, received: u64, is_first: bool) {
        let most = u64::from(self.step).saturating_mul(8);
        let fits = u64::from(self.step).saturating_mul(self.target) / received.max(1);
        self.step = match is_first {
            true => 64,
            false => fits.clamp(1, most).try_into().unwrap_or(u32::MAX),
        };
    }

    /// After a cut: smaller ones, or the error.
    fn shrink(&mut self, error: MirrorError, received: u64) -> Result<(), MirrorError> {
        if !is_cut(&error) {
            return Err(error);
        }
        self.target = (received / 2).clamp(LEAST_BYTES, self.target.max(LEAST_BYTES));
        let wait = match self.step {
            1 => self.backoff.wait_after(None),
            _ => Some(Duration::ZERO),
        };
        let Some(wait) = wait else { return Err(error) };
        self.step = (self.step / 4).max(1);
        log::warn!("{error}; trying a smaller slice");
        self.pause(wait)
    }

    fn pause(&self, wait: Duration) -> Result<(), MirrorError> {
        match sleep(wait, || self.env.cancel.is_cancelled()) {
            true => Ok(()),
            false => Err(MirrorError::Interrupted),
        }
    }

    /// What the default branch does not reach.
    fn others(&mut self, wants: &[Oid]) -> Result<(), MirrorError> {
        let done = self.slices.done();
        let rest: Vec<Oid> = wants.iter().filter(|oid| !done.contains(oid)).copied().collect();
        let mut lists = vec![rest];
        while let Some(list) = lists.pop() {
            if list.is_empty() {
                continue;
            }
            let words = Box::new(|line: &str| self.env.progress.source_says(line));
            let stream = self.source.fetch(&list, &self.slices.done(), words)?;
            match self.store(stream, &list) {
                Ok(()) => {
                    self.slices.add_done(&list);
                    self.slices.write(self.env.store)?;
                }
                Err(error) if is_cut(&error) && list.len() > 1 => {
                    log::warn!("{error}; trying half of the refs");
                    let (first, second) = list.split_at(list.len() / 2);
                    lists.extend([second.to_vec(), first.to_vec()]);
                }
                Err(error) if is_cut(&error) => {
                    let Some(wait) = self.backoff.wait_after(None) else { return Err(error) };
                    self.pause(wait)?;
                    lists.push(list);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stores a pack and lists it.
    fn store(&mut self, stream: impl Read + Send, wants: &[Oid]) -> Result<(), MirrorError> {
        let store = self.env.store;
        // A ref at an older commit comes with nothing: `Env::must_have` finds it in a pack before.
        let stored = match store_pack(stream, wants, self.env) {
            Ok(complete) => complete.pack,
            Err(error) => {
                // What a broken one has left is of no use to anybody.
                let _ = self.env.temp.clean();
                return Err(error);
            }
        };
        if let Some(pack) = stored {
            list_pack(store, &pack.name)?;
            if !self.slices.packs.contains(&pack.name) {
                self.slices.packs.push(pack.name);
            }
        }
        Ok(())
    }
}

/// Did the source's stream break?
fn is_cut(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Source(error) if matches!(error.kind, SourceErrorKind::Transient { .. }))
}

/// Counts what is read.
pub(crate) struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    pub(crate) fn new(inner: R) -> Self {
        Counted { inner, bytes: Arc::default() }
    }

    /// How many bytes so far.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A pack of an earlier run, of which nobody but `Env::look` wants to know anything.
struct IndexOf<'e> {
    store: &'e dyn Store,
    name: &'e str,
}

impl Examiner for IndexOf<'_> {
    fn found(&self, _: &[Found]) {}

    fn each_listed(&self, tell: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError> {
        let key = packs::key(self.name, "idx");
        let (bytes, _) = self.store.get(&key, None, MAX_INDEX_BYTES)?;
        let damaged = |error| MirrorError::Mirror(format!("{key} is damaged: {error}"));
        let index = parse_index(bytes).map_err(damaged)?;
        index.entries().for_each(|entry| tell(entry.offset, &entry.oid));
        Ok(())
    }
}
