//! A first fetch in slices, for a line or a proxy that has less patience than the repository is long.
//!
//! History is fetched from its oldest part up to the newest commit of the default branch, some
//! generations at a time: the source is asked which commits are so far down ([`Source::commits_at`]),
//! and what they reach is an ordinary increment on the slice before, a pack of its own that is stored,
//! listed and remembered ([`Slices`]). Then the other refs, all at once, and by halves if that breaks. A
//! cut costs one slice; so does a killed run. No ref is published before all are there.
//!
//! From the newest commit down it would cost far more: a slice that is cut below (`deepen`) comes with
//! a whole tree, 5 MB for curl's.
//!
//! How large a slice is follows from the most that has come at once: somewhat less than that, and once
//! a slice has been cut, three quarters. (A connection that is reset takes with it what the kernel had
//! not handed over yet, so what came before a cut may be half of what a connection lasts for; a slice
//! that comes whole says more.) How many generations that is follows from the slice before, and both
//! are remembered for the run after a killed one.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::context::RunContext;
use super::run::{check_pack, store_pack};
use super::sink::check::{Examiner, Found};
use crate::git::object::{ObjectFormat, Oid};
use crate::pack::index::parse_index;
use crate::repository::error::MirrorError;
use crate::repository::packs;
use crate::repository::publish::list_pack;
use crate::repository::resuming::ResumingReader;
use crate::repository::slices::Slices;
use crate::run::retry::{Backoff, Policy, sleep};
use crate::source::NOT_OUR_REF;
use crate::source::{Seed, Source, SourceErrorKind};
use crate::store::Store;

/// How often a slice that cannot be made smaller is tried, and the wait before.
const POLICY: Policy = Policy::of(5, Duration::from_millis(200));

/// Histories are looked for that are this long, then twice as long, and so on.
const FIRST_DEPTH: u32 = 1024;

/// Of a history that nothing is known of, the first slice is this part.
const FIRST_PART: u32 = 16;

/// An index of a slice.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// A fetch in slices.
pub(crate) struct SlicedFetch<'e, 'r> {
    source: &'r dyn Source,
    env: &'r RunContext<'e>,
    slices: Slices,
    /// Cuts since the last slice.
    cuts: u32,
    backoff: Backoff,
}

impl<'e, 'r> SlicedFetch<'e, 'r> {
    /// `cut_at`: how many bytes came before the whole fetch broke, if it has.
    pub(crate) fn begin(
        source: &'r dyn Source,
        env: &'r RunContext<'e>,
        cut_at: Option<u64>,
    ) -> Result<Self, MirrorError> {
        let mut slices = Slices::read(env.store, &source.describe(), env.format)?;
        slices.pace.most_bytes = slices.pace.most_bytes.max(cut_at.unwrap_or(0));
        let mut backoff = Backoff::new(POLICY);
        if cut_at.is_some() {
            // The whole was a try, too.
            let _ = backoff.wait_after(None);
        }
        Ok(SlicedFetch { source, env, slices, cuts: 0, backoff })
    }

    /// Has an earlier run begun?
    pub(crate) fn is_begun(&self) -> bool {
        self.slices.is_begun()
    }

    /// Stores all that `wants` reach, `head` first. False: the source sends no slices, and nothing
    /// was done.
    pub(crate) fn run(&mut self, head: Option<Oid>, wants: &[Oid]) -> Result<bool, MirrorError> {
        self.look_again()?;
        let want = self.slices.want().or(head).or(wants.first().copied());
        if let Some(want) = want
            && !self.slices.done().contains(&want)
            && !self.along(want)?
        {
            return Ok(false);
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
        if tips.iter().any(|tip| tip.format() != self.env.format) {
            log::info!("{place} is not of this repository: its object format is another one");
            return Ok(false);
        }
        log::info!("reading {place} first");
        match self.store(pack, &tips) {
            Ok(()) => {}
            Err(error @ (MirrorError::Source(_) | MirrorError::Pack(_))) => {
                if self.env.cancel.is_cancelled() {
                    return Err(error);
                }
                log::warn!("{place} cannot be used: {error}");
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
            log::info!(
                "continuing after {names} slices, {} generations remaining",
                self.slices.remaining
            );
        }
        for name in &self.slices.packs {
            let key = packs::key(name, "pack");
            let gone =
                || MirrorError::Mirror(format!("{}/{key} has disappeared", store.describe()));
            let len = store.head(&key)?.ok_or_else(gone)?.len;
            let stream = ResumingReader::new(store, key.clone(), 0);
            let index = IndexOf { store, format: self.env.format, name };
            check_pack(stream, (key, len), self.env, &index)?;
        }
        Ok(())
    }

    /// All that `want` reaches. False: the source sends no slices.
    fn along(&mut self, want: Oid) -> Result<bool, MirrorError> {
        if self.slices.want() != Some(want) || self.slices.remaining == 0 {
            let Some(generations) = self.generations(want)? else { return Ok(false) };
            self.slices.set_want(want, generations);
        }
        if self.slices.pace.step == 0 {
            self.slices.pace.step = (self.slices.remaining / FIRST_PART).max(1);
        }
        while self.slices.remaining > 0 {
            if !self.next_slice(want)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// No fewer generations than `want` has, and at most a sixteenth more.
    fn generations(&self, want: Oid) -> Result<Option<u32>, MirrorError> {
        let (mut there, mut beyond) = (0, FIRST_DEPTH);
        loop {
            match self.source.commits_at(want, beyond)? {
                None => return Ok(None),
                Some(commits) if commits.is_empty() || beyond == u32::MAX => break,
                Some(_) => (there, beyond) = (beyond, beyond.saturating_mul(2)),
            }
        }
        while beyond - there > (beyond / FIRST_PART).max(1) {
            let middle = there + (beyond - there) / 2;
            match self.source.commits_at(want, middle)? {
                None => return Ok(None),
                Some(commits) if commits.is_empty() => beyond = middle,
                Some(_) => there = middle,
            }
        }
        Ok(Some(beyond))
    }

    /// The oldest part that is not there. False: the source sends none.
    fn next_slice(&mut self, want: Oid) -> Result<bool, MirrorError> {
        let remaining = self.slices.remaining.saturating_sub(self.slices.pace.step);
        let tips = match remaining {
            0 => vec![want],
            depth => match self.source.commits_at(want, depth)? {
                None => return Ok(false),
                Some(tips) => tips,
            },
        };
        if tips.is_empty() {
            // History is not that long.
            self.slices.remaining = remaining;
            return Ok(true);
        }
        let haves = [self.slices.done(), self.slices.base()].concat();
        let words = Box::new(|line: &str| self.env.progress.source_says(line));
        let counted = match self.source.fetch(&tips, &haves, words) {
            Ok(pack) => Counted::new(pack),
            // Some servers send only what a ref points at.
            Err(error) if remaining > 0 && error.message.contains(NOT_OUR_REF) => {
                log::info!("{error}");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let received = counted.received();
        match self.store(counted, &tips) {
            Ok(()) => {
                self.slices.set_base(&tips, remaining);
                if remaining == 0 {
                    self.slices.add_done(&[want]);
                }
                self.slices.pace.came(received.load(Ordering::Relaxed));
                self.slices.write(self.env.store)?;
                self.backoff = Backoff::new(POLICY);
                self.cuts = 0;
            }
            Err(error) => self.shrink(error, received.load(Ordering::Relaxed))?,
        }
        Ok(true)
    }

    /// After a cut: smaller ones, or the error.
    fn shrink(&mut self, error: MirrorError, received: u64) -> Result<(), MirrorError> {
        if !is_cut(&error) {
            return Err(error);
        }
        let wait = match self.slices.pace.step {
            1 => self.backoff.wait_after(None),
            _ => Some(Duration::ZERO),
        };
        let Some(wait) = wait else { return Err(error) };
        self.cuts += 1;
        self.slices.pace.was_cut(received, self.cuts > 1);
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
        // A ref at an older commit comes with nothing: `RunContext::must_have` finds it in a pack before.
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

/// A pack of an earlier run, of which nobody but `RunContext::observe` wants to know anything.
struct IndexOf<'e> {
    store: &'e dyn Store,
    format: ObjectFormat,
    name: &'e str,
}

impl Examiner for IndexOf<'_> {
    fn found(&self, _: &[Found]) {}

    fn each_listed(&self, tell: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError> {
        let key = packs::key(self.name, "idx");
        let (bytes, _) = self.store.get(&key, None, MAX_INDEX_BYTES)?;
        let damaged = |error| MirrorError::Mirror(format!("{key} is damaged: {error}"));
        let index = parse_index(bytes, self.format).map_err(damaged)?;
        index.entries().for_each(|entry| tell(entry.offset, &entry.oid));
        Ok(())
    }
}
