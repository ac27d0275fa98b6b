//! LFS objects: which ones the history points to, which of them are stored, and the rest fetched,
//! beside the git objects.
//!
//! Pointers are noted while the pack streams by ([`Queue`]). Which LFS server to ask is known when
//! HEAD's commit, its root folder and its `.lfsconfig`, if there is one, have passed by: git sends
//! commits first, then folders, so that is mostly before the first pointer ([`Config`]). Otherwise,
//! as in an increment that does not touch `.lfsconfig`, it is read when all git objects are stored.
//! While the pack streams, an eighth of the working memory is there for LFS objects, then all of it.
//! Refs are published when both are done: whoever sees a ref finds its LFS objects.
//!
//! | thread | waits for | ends when |
//! |---|---|---|
//! | `lfs`, the asker: who calls [`mirror_lfs`] | pointers; the batch API; a free fetcher | every object was handed on, or the run is over |
//! | `lfs.N`, up to [`FETCHERS`] | room in the gate; the LFS server; the store | the asker has ended |
//!
//! A fetcher takes room for one part before it begins and never asks for more, so memory is bounded
//! whatever the sizes. An object of up to one part is stored by one PUT after its size and SHA-256
//! were checked; a larger one goes in parts to a temporary key and is copied when the check has
//! passed. What the LFS server fails to give is *lacking*: it is told, remembered in the bucket
//! ([`Remembered`]) and tried again by the next run. A failure of the store ends the run.

mod gate;

use std::collections::HashSet;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};

use self::gate::Gate;
use crate::git::lfs_pointer::{LfsPointer, sha256};
use crate::git::object::{Kind, Oid};
use crate::git::refs::{Advertisement, Head};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::layout::{Layout, TEMPORARY};
use crate::repository::lfs_objects;
use crate::repository::links::{file_in_tree, tree_of_commit};
use crate::repository::listing;
use crate::repository::objects::file_of_head;
use crate::repository::packs::StoredPack;
use crate::repository::parts::{FIRST_PART_BYTES, Parts, copy_any_size, part_bytes};
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::run::retry::{Backoff, Policy, sleep, with_retry};
use crate::source::lfs::{BATCH_OBJECTS, Download};
use crate::source::{BatchError, LfsSource, Offer, Source, SourceError, SourceErrorKind};
use crate::store::{Key, Limits, ObjectHeaders, Part, Store, StoreError, Upload};

/// Objects at once: git-lfs' own `lfs.concurrenttransfers`, which servers are used to.
const FETCHERS: usize = 8;

/// Tries of one request or download with no progress between them.
const TRIES: u32 = 5;

/// So much has to come for a broken download's tries to begin anew.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A server that wants to be left alone for longer is left alone until the next run.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// When so many objects in a row have failed after all tries, the server is down: the rest is not
/// tried, or thousands of objects would each wait for their tries.
const GIVE_UP_AFTER: u32 = 16;

/// Up to so many objects are looked up one by one; more, and the folder is listed.
const FEW: usize = 16;

/// While the pack streams, so much of the working memory is for LFS objects; the rest is in use.
const SHARE_BESIDE: u64 = 8;

/// When no pointer has come for so long, those that are there are asked for: they need not fill a
/// batch.
const QUIET: Duration = Duration::from_millis(250);

/// Which server is asked is said by this file in HEAD's root folder.
const CONFIG_FILE: &str = ".lfsconfig";

/// Where lacking objects are remembered: lines `oid size`.
const LACKING_KEY: &str = "mirror_state/lfs-lacking";

/// A million lacking objects are 80 MB.
const MAX_LACKING_BYTES: u64 = 128 << 20;

const HEADERS: ObjectHeaders = ObjectHeaders::immutable("application/octet-stream");

fn sorted(mut pointers: Vec<LfsPointer>) -> Vec<LfsPointer> {
    pointers.sort_unstable_by_key(|pointer| (pointer.oid, pointer.size));
    pointers.dedup();
    pointers
}

/// What has passed by of interest: pointers, 40 bytes each, and what leads to `.lfsconfig`. A stream
/// that is begun again brings them again.
pub(super) struct Queue {
    gate: Arc<Gate>,
    memory_bytes: u64,
    passed: Mutex<Passed>,
    changed: Condvar,
}

/// Guarded by [`Queue::passed`].
struct Passed {
    /// Not asked for yet.
    pointers: Vec<LfsPointer>,
    config: Config,
    ended: bool,
    /// When it has ended: the pack that was stored.
    new_pack: Option<StoredPack>,
}

/// What is known of HEAD's `.lfsconfig`.
enum Config {
    /// The commit, the folder or the file that is waited for.
    Awaited(Oid),
    /// The file, if there is one.
    Known(Option<Vec<u8>>),
    /// It has to be looked for in the store.
    Unknown,
}

impl Config {
    fn of(refs: &Advertisement) -> Self {
        let tip = match &refs.head {
            Head::Branch(branch) => refs.find(branch).map(|found| found.oid),
            Head::Detached(oid) => Some(*oid),
            Head::Unborn(_) | Head::Absent => None,
        };
        tip.map_or(Config::Unknown, Config::Awaited)
    }

    /// What the object that was awaited leads to.
    fn after(kind: Kind, content: &[u8]) -> Self {
        match kind {
            Kind::Commit => tree_of_commit(content).map_or(Config::Unknown, Config::Awaited),
            Kind::Tree => file_in_tree(content, CONFIG_FILE.as_bytes())
                .map_or(Config::Known(None), Config::Awaited),
            Kind::Blob => Config::Known(Some(content.to_vec())),
            Kind::Tag => Config::Unknown,
        }
    }
}

impl Queue {
    /// For a run that is about to publish `refs`.
    pub(super) fn new(memory_bytes: u64, cancel: &Cancel, refs: &Advertisement) -> Self {
        let passed =
            Passed { pointers: Vec::new(), config: Config::of(refs), ended: false, new_pack: None };
        Queue {
            gate: Gate::new(memory_bytes / SHARE_BESIDE, cancel.clone()),
            memory_bytes,
            passed: Mutex::new(passed),
            changed: Condvar::new(),
        }
    }

    /// Looks at an object. Called for every one by the tasks that make them: it does not wait.
    pub(super) fn look(&self, oid: &Oid, kind: Kind, content: &[u8]) {
        let pointer = match kind {
            Kind::Blob => LfsPointer::parse(content),
            _ => None,
        };
        let mut passed = self.lock();
        let leads_on = matches!(passed.config, Config::Awaited(awaited) if awaited == *oid);
        if leads_on {
            passed.config = Config::after(kind, content);
        }
        passed.pointers.extend(pointer);
        drop(passed);
        if leads_on || pointer.is_some() {
            self.changed.notify_all();
        }
    }

    /// All git objects are stored, in `new_pack` if this run has stored one.
    pub(super) fn end(&self, new_pack: Option<StoredPack>) {
        let mut passed = self.lock();
        (passed.ended, passed.new_pack) = (true, new_pack);
        drop(passed);
        self.gate.set_limit(self.memory_bytes);
        self.changed.notify_all();
    }

    /// The git objects could not be stored: nothing is fetched any more.
    pub(super) fn give_up(&self) {
        // Under the lock, so that who is about to wait notices.
        let passed = self.lock();
        self.gate.close();
        drop(passed);
        self.changed.notify_all();
    }

    fn add(&self, pointers: &[LfsPointer]) {
        self.lock().pointers.extend_from_slice(pointers);
    }

    /// Takes the pointers that have passed: when they fill a batch, or no more came for a while, or
    /// the stream has ended; and not before it is known, or can be, whom to ask. `None`: that was
    /// all.
    fn take(&self) -> Result<Option<Vec<LfsPointer>>, MirrorError> {
        let mut passed = self.lock();
        let mut quiet = false;
        loop {
            if self.gate.is_closed() {
                return Err(MirrorError::Interrupted);
            }
            let count = passed.pointers.len();
            let known = matches!(passed.config, Config::Known(_));
            if passed.ended || known && count > 0 && (quiet || count >= BATCH_OBJECTS) {
                let pointers = sorted(std::mem::take(&mut passed.pointers));
                return Ok(if pointers.is_empty() { None } else { Some(pointers) });
            }
            let woken = self.changed.wait_timeout(passed, QUIET);
            let (now, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            quiet = waited.timed_out() && now.pointers.len() == count;
            passed = now;
        }
    }

    /// `.lfsconfig` of HEAD. Called when [`Queue::take`] has given pointers.
    fn config(&self, run: &Run<'_>) -> Result<Option<Vec<u8>>, MirrorError> {
        let passed = self.lock();
        if let Config::Known(file) = &passed.config {
            return Ok(file.clone());
        }
        let new_pack = passed.new_pack.clone();
        drop(passed);
        file_of_head(run.store, run.layout, new_pack.as_ref(), run.refs, CONFIG_FILE)
    }

    fn lock(&self) -> MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of the LFS objects.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Stored by this run.
    pub(super) written: u64,
    /// Oid and reason of each that lacks, by oid.
    pub(super) lacking: Vec<(String, String)>,
}

/// What a run mirrors LFS objects with.
pub(super) struct Run<'r> {
    pub(super) source: &'r dyn Source,
    pub(super) store: &'r dyn Store,
    pub(super) progress: &'r dyn Progress,
    /// About to be published.
    pub(super) refs: &'r Advertisement,
    pub(super) layout: Layout,
    pub(super) concurrency: usize,
    pub(super) cancel: &'r Cancel,
}

/// Fetches and stores what `queue` and earlier runs point to and the mirror lacks; returns when the
/// queue has ended.
pub(super) fn mirror_lfs(run: &Run<'_>, queue: &Queue) -> Result<Outcome, MirrorError> {
    let Run { source, store, .. } = *run;
    if source.lfs(None).is_none() {
        let mut told = false;
        while queue.take()?.is_some() {
            let source = source.describe();
            if !told {
                log::warn!("{source}: LFS objects are left out: this kind of source has none");
            }
            told = true;
        }
        return Ok(Outcome::default());
    }
    let remembered = Remembered::read(store)?;
    queue.add(&remembered.0);
    let mut wanted = Wanted::new(store, queue);
    let mut written = 0;
    let mut lacking = Vec::new();
    if let Some(missing) = wanted.next()? {
        let config = queue.config(run)?;
        if let Some(server) = source.lfs(config.as_deref()) {
            let fetch = Fetch::new(&*server, run, &queue.gate);
            (written, lacking) = fetch.run(missing, wanted)?;
        }
    }
    remembered.update(store, lacking.iter().map(|(pointer, _)| *pointer).collect())?;
    let lacking = lacking.into_iter().map(|(pointer, why)| (pointer.hex(), why)).collect();
    Ok(Outcome { written, lacking })
}

/// What is to be fetched, piece by piece.
struct Wanted<'a> {
    store: &'a dyn Store,
    queue: &'a Queue,
    /// What was given out.
    asked: HashSet<LfsPointer>,
    /// What is stored, sorted, once it was listed: 32 bytes an object.
    listed: Option<Vec<[u8; 32]>>,
}

impl<'a> Wanted<'a> {
    fn new(store: &'a dyn Store, queue: &'a Queue) -> Self {
        Wanted { store, queue, asked: HashSet::new(), listed: None }
    }

    /// The next ones that the mirror lacks, sorted, at least one. `None`: that was all.
    fn next(&mut self) -> Result<Option<Vec<LfsPointer>>, MirrorError> {
        while let Some(mut pointers) = self.queue.take()? {
            pointers.retain(|pointer| self.asked.insert(*pointer));
            let missing = self.not_stored(pointers)?;
            if !missing.is_empty() {
                return Ok(Some(missing));
            }
        }
        Ok(None)
    }

    /// Those of `pointers` that have no object in the bucket. A key that is there was checked
    /// before it appeared.
    fn not_stored(&mut self, mut pointers: Vec<LfsPointer>) -> Result<Vec<LfsPointer>, StoreError> {
        if self.listed.is_none() && self.asked.len() <= FEW {
            let mut missing = Vec::new();
            for pointer in pointers {
                if self.store.head(&lfs_objects::key(&pointer.oid))?.is_none() {
                    missing.push(pointer);
                }
            }
            return Ok(missing);
        }
        let listed = match &self.listed {
            Some(listed) => listed,
            None => self.listed.insert(list(self.store)?),
        };
        pointers.retain(|pointer| listed.binary_search(&pointer.oid).is_err());
        Ok(pointers)
    }
}

/// All LFS objects of the bucket, sorted.
fn list(store: &dyn Store) -> Result<Vec<[u8; 32]>, StoreError> {
    let mut found = Vec::new();
    listing::pages(store, listing::LFS, |page| {
        found.extend(page.iter().filter_map(|info| lfs_objects::oid_of_key(info.key.as_str())));
        Ok::<_, StoreError>(())
    })?;
    found.sort_unstable();
    Ok(found)
}

/// What earlier runs could not get, sorted.
pub(super) struct Remembered(pub(super) Vec<LfsPointer>);

impl Remembered {
    pub(super) fn read(store: &dyn Store) -> Result<Self, MirrorError> {
        let file = files::get(store, &files::key(LACKING_KEY), None, MAX_LACKING_BYTES)?;
        let (file, _) = file.unwrap_or_default();
        let text = String::from_utf8_lossy(&file);
        let mut pointers = Vec::new();
        for line in text.lines() {
            match parse_line(line) {
                Some(pointer) => pointers.push(pointer),
                // Losing a line is no harm that `--full` doesn't mend.
                None => log::warn!("{}/{LACKING_KEY}: not an oid and a size", store.describe()),
            }
        }
        Ok(Remembered(sorted(pointers)))
    }

    /// Leaves out `pointers`, and keeps what was added since they were read.
    pub(super) fn forget(store: &dyn Store, pointers: &[LfsPointer]) -> Result<(), MirrorError> {
        let now = Self::read(store)?;
        let pointers: HashSet<_> = pointers.iter().collect();
        let left = now.0.iter().filter(|pointer| !pointers.contains(pointer)).copied().collect();
        Ok(now.update(store, left)?)
    }

    /// Written only if it changes, deleted when nothing lacks.
    fn update(&self, store: &dyn Store, lacking: Vec<LfsPointer>) -> Result<(), StoreError> {
        let lacking = sorted(lacking);
        if lacking == self.0 {
            return Ok(());
        }
        if lacking.is_empty() {
            return store.delete(&[files::key(LACKING_KEY)]);
        }
        let file: String = lacking.iter().map(|p| format!("{} {}\n", p.hex(), p.size)).collect();
        let headers = ObjectHeaders::changing("text/plain");
        store.put(&files::key(LACKING_KEY), file.as_bytes(), headers, None).map(drop)
    }
}

fn parse_line(line: &str) -> Option<LfsPointer> {
    let (oid, size) = line.split_once(' ')?;
    Some(LfsPointer { oid: sha256(oid)?, size: size.parse().ok()? })
}

/// Why an object lacks.
struct Lacking {
    reason: String,
    /// The server could not be reached or was busy, after all tries.
    transient: bool,
}

impl Lacking {
    fn because(reason: impl Into<String>) -> Self {
        Lacking { reason: reason.into(), transient: false }
    }
}

impl From<SourceError> for Lacking {
    fn from(error: SourceError) -> Self {
        let transient = matches!(error.kind, SourceErrorKind::Transient { .. });
        Lacking { reason: error.to_string(), transient }
    }
}

/// What a step of a transfer may come to besides success.
enum Stop {
    /// This object lacks; go on with the next.
    Lacking(Lacking),
    /// The run is over.
    Failed(MirrorError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error.into())
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Stop::Lacking(error.into())
    }
}

/// One run's downloads.
struct Fetch<'a> {
    server: &'a dyn LfsSource,
    store: &'a dyn Store,
    progress: &'a dyn Progress,
    temp: TempKeys<'a>,
    gate: Arc<Gate>,
    cancel: Cancel,
    fetchers: usize,
    written: AtomicU64,
    /// Objects in a row that failed after all tries.
    failed_in_a_row: AtomicU32,
    result: Mutex<Results>,
}

/// Guarded by [`Fetch::result`].
#[derive(Default)]
struct Results {
    lacking: Vec<(LfsPointer, String)>,
    stored: Vec<[u8; 32]>,
    failure: Option<MirrorError>,
}

/// An object to be fetched, and from where.
type Job = (LfsPointer, Offer);

impl<'a> Fetch<'a> {
    fn new(server: &'a dyn LfsSource, run: &Run<'a>, gate: &Arc<Gate>) -> Self {
        Fetch {
            server,
            store: run.store,
            progress: run.progress,
            temp: TempKeys::new(run.store),
            gate: Arc::clone(gate),
            cancel: run.cancel.clone(),
            fetchers: run.concurrency.clamp(1, FETCHERS),
            written: AtomicU64::new(0),
            failed_in_a_row: AtomicU32::new(0),
            result: Mutex::default(),
        }
    }

    /// Fetches `missing` and all that is `wanted` after it. Answers how many were stored, and which
    /// lack.
    fn run(
        self,
        missing: Vec<LfsPointer>,
        wanted: Wanted<'_>,
    ) -> Result<(u64, Vec<(LfsPointer, String)>), MirrorError> {
        log::info!("fetching LFS objects from {}", self.server.describe());
        std::thread::scope(|scope| {
            // Nothing is kept waiting between asker and fetchers: addresses expire.
            let (jobs, work) = bounded(0);
            for number in 0..self.fetchers {
                let (this, work) = (&self, work.clone());
                let named = std::thread::Builder::new().name(format!("lfs.{number}"));
                if let Err(error) = named.spawn_scoped(scope, move || this.serve(&work)) {
                    self.fail(MirrorError::Internal(format!("cannot start a thread: {error}")));
                }
            }
            drop(work);
            self.ask_for_all(missing, wanted, &jobs);
        });
        let cleaned = self.temp.clean();
        let results = self.result.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = results.failure {
            return Err(error);
        }
        if self.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        cleaned?;
        let Results { mut lacking, mut stored, .. } = results;
        // A pointer with a wrong size does not lack if the right one brought the object.
        stored.sort_unstable();
        lacking.retain(|(pointer, _)| stored.binary_search(&pointer.oid).is_err());
        lacking.sort_by_key(|(pointer, _)| pointer.oid);
        Ok((self.written.into_inner(), lacking))
    }

    // ---- the asker -----------------------------------------------------------------------

    fn ask_for_all(&self, missing: Vec<LfsPointer>, mut wanted: Wanted<'_>, jobs: &Sender<Job>) {
        let mut limit = BATCH_OBJECTS;
        let mut given_up = None;
        let mut next = Ok(Some(missing));
        while let Ok(Some(missing)) = next {
            for pointer in &missing {
                self.progress.expect_lfs(pointer.size);
            }
            let mut left = &missing[..];
            while !left.is_empty() && !self.is_over() {
                if self.failed_in_a_row.load(Ordering::Relaxed) >= GIVE_UP_AFTER {
                    let why = format!("not tried: {GIVE_UP_AFTER} others in a row failed");
                    given_up.get_or_insert(why);
                }
                if let Some(why) = &given_up {
                    self.all_lack(left, why);
                    break;
                }
                let (batch, rest) = left.split_at(limit.min(left.len()));
                let offers = match self.patiently(|| self.server.batch(batch)) {
                    Ok(offers) => offers,
                    Err(BatchError::Split(error)) if batch.len() > 1 => {
                        limit = batch.len().div_ceil(2);
                        log::info!("{error}; asking for {limit} objects at once");
                        continue;
                    }
                    Err(BatchError::Split(error)) => vec![Err(error.to_string())],
                    Err(BatchError::Absent(error)) => vec![Err(error.to_string()); batch.len()],
                    Err(BatchError::Failed(error)) => {
                        given_up = Some(error.to_string());
                        continue;
                    }
                };
                for (pointer, offer) in batch.iter().zip(offers) {
                    if jobs.send((*pointer, offer)).is_err() {
                        // No fetcher is left: why is known.
                        return;
                    }
                }
                left = rest;
            }
            next = wanted.next();
        }
        if let Err(error) = next {
            self.fail(error);
        }
        self.progress.phase("fetching LFS objects");
    }

    fn all_lack(&self, pointers: &[LfsPointer], why: &str) {
        let lacking = pointers.iter().map(|pointer| (*pointer, why.to_owned()));
        self.results().lacking.extend(lacking);
    }

    // ---- the fetchers --------------------------------------------------------------------

    fn serve(&self, work: &Receiver<Job>) {
        for (pointer, offer) in work {
            // What is left is taken and dropped, so that the asker never hangs.
            if self.is_over() {
                continue;
            }
            let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch(&pointer, offer)));
            match fetched {
                Ok(Ok(())) => {
                    self.failed_in_a_row.store(0, Ordering::Relaxed);
                    self.written.fetch_add(1, Ordering::Relaxed);
                    self.results().stored.push(pointer.oid);
                }
                Ok(Err(Stop::Lacking(Lacking { reason, transient }))) => {
                    if transient {
                        self.failed_in_a_row.fetch_add(1, Ordering::Relaxed);
                    }
                    self.results().lacking.push((pointer, reason));
                }
                Ok(Err(Stop::Failed(error))) => self.fail(error),
                Err(_) => self.fail(MirrorError::Internal("an LFS thread panicked".into())),
            }
        }
    }

    /// One object, from its address to its key.
    fn fetch(&self, pointer: &LfsPointer, offer: Offer) -> Result<(), Stop> {
        let mut download = offer.map_err(|reason| Stop::Lacking(Lacking::because(reason)))?;
        let room = room_for(pointer.size, &self.store.limits());
        let _room = self.gate.wait_for(room).ok_or(Stop::Failed(MirrorError::Interrupted))?;
        let mut sink = Sink::new(self, *pointer);
        let (mut asked_again, mut corrupt) = (false, 0);
        let mut backoff = self.backoff();
        loop {
            if download.is_expired() && !asked_again {
                download = self.ask_again(pointer)?;
                asked_again = true;
            }
            let begun_at = sink.received;
            let error = match self.server.open(&download, sink.received) {
                Ok(stream) => match sink.take(stream)? {
                    Taken::Whole => return sink.store(),
                    Taken::Wrong(what) if corrupt == 0 => {
                        log::info!("LFS object {}: {what}; beginning again", pointer.hex());
                        corrupt += 1;
                        sink.restart()?;
                        download = self.ask_again(pointer)?;
                        continue;
                    }
                    Taken::Wrong(what) => {
                        sink.restart()?;
                        return Err(Stop::Lacking(Lacking::because(what)));
                    }
                    Taken::Cut(error) => error,
                },
                // An address that has expired is refused, whatever it said about itself.
                Err(error) if error.kind == SourceErrorKind::Denied && !asked_again => {
                    download = self.ask_again(pointer)?;
                    asked_again = true;
                    continue;
                }
                Err(error) => error,
            };
            if sink.received >= begun_at + PROGRESS_BYTES {
                backoff = self.backoff();
                asked_again = false;
            }
            let Some(wait) = wait_after(&mut backoff, &error) else {
                sink.restart()?;
                return Err(error.into());
            };
            log::info!("{error}; trying again in {} ms", wait.as_millis());
            if !sleep(wait, || self.is_over()) {
                return Err(Stop::Failed(MirrorError::Interrupted));
            }
        }
    }

    /// Asks for one object's address anew.
    fn ask_again(&self, pointer: &LfsPointer) -> Result<Download, Stop> {
        match self.patiently(|| self.server.batch(std::slice::from_ref(pointer))) {
            Ok(offers) => {
                let offer = offers.into_iter().next();
                let offer = offer.unwrap_or_else(|| Err("the server does not answer".into()));
                offer.map_err(|reason| Stop::Lacking(Lacking::because(reason)))
            }
            Err(
                BatchError::Split(error) | BatchError::Absent(error) | BatchError::Failed(error),
            ) => Err(error.into()),
        }
    }

    // ---- what all share ------------------------------------------------------------------

    fn backoff(&self) -> Backoff {
        Backoff::new(Policy::of(TRIES, self.server.first_wait()))
    }

    /// Repeats a batch request that may go well the next time.
    fn patiently<T>(&self, attempt: impl Fn() -> Result<T, BatchError>) -> Result<T, BatchError> {
        let mut backoff = self.backoff();
        let wait_after = |error: &BatchError| match error {
            BatchError::Failed(error) => wait_after(&mut backoff, error),
            BatchError::Split(_) | BatchError::Absent(_) => None,
        };
        with_retry(wait_after, |wait| sleep(wait, || self.is_over()), attempt)
    }

    fn is_over(&self) -> bool {
        self.gate.is_closed()
    }

    /// The first error wins.
    fn fail(&self, error: MirrorError) {
        self.results().failure.get_or_insert(error);
        self.gate.close();
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: `error` will not pass, or has come too often, or the server wants more time than a run has.
fn wait_after(backoff: &mut Backoff, error: &SourceError) -> Option<Duration> {
    let SourceErrorKind::Transient { retry_after } = error.kind else { return None };
    backoff.wait_after(retry_after).filter(|wait| *wait <= LONGEST_WAIT)
}

/// The most bytes that an object of `size` has in memory: all of it, or its largest part.
fn room_for(size: u64, limits: &Limits) -> u64 {
    let (mut covered, mut largest) = (0_u64, 0);
    for number in 1..=limits.max_parts {
        largest = part_bytes(number, FIRST_PART_BYTES, limits);
        covered = covered.saturating_add(largest);
        if covered >= size {
            break;
        }
    }
    largest.min(size)
}

/// How a stream ended.
enum Taken {
    /// Everything came and is what the pointer says.
    Whole,
    /// Something else came.
    Wrong(String),
    /// It broke off, or ended early.
    Cut(SourceError),
}

/// An object on its way into the store: hashed, and cut into parts if it is larger than one.
struct Sink<'f, 'a> {
    fetch: &'f Fetch<'a>,
    pointer: LfsPointer,
    hasher: Sha256,
    received: u64,
    parts: Parts,
    upload: Option<(Key, Upload)>,
    stored: Vec<Part>,
}

impl<'f, 'a> Sink<'f, 'a> {
    fn new(fetch: &'f Fetch<'a>, pointer: LfsPointer) -> Self {
        Sink {
            fetch,
            pointer,
            hasher: Sha256::new(),
            received: 0,
            parts: Parts::new(fetch.store.limits()),
            upload: None,
            stored: Vec::new(),
        }
    }

    /// Takes what `stream` gives, which begins where the last one ended.
    fn take(&mut self, mut stream: impl Read) -> Result<Taken, Stop> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.fetch.is_over() {
                return Err(Stop::Failed(MirrorError::Interrupted));
            }
            // One byte more than there may be, to see that there is none.
            let free = (self.parts.part_bytes() - self.parts.body.len() as u64).max(1);
            let want = buffer.len().min(usize::try_from(free).unwrap_or(usize::MAX));
            match stream.read(&mut buffer[..want]) {
                Ok(0) => return Ok(self.end_of_stream()),
                Ok(read) if read as u64 > self.pointer.size - self.received => {
                    let size = self.pointer.size;
                    let what = format!("the server sends more than the {size} bytes it has");
                    return Ok(Taken::Wrong(what));
                }
                Ok(read) => self.push(&buffer[..read])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Taken::Cut(self.broken(&error))),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.hasher.update(bytes);
        if self.parts.body.capacity() == 0 {
            // As much as will come, so that growing does not double it; within the room taken.
            let left = self.pointer.size - self.received;
            let want = self.parts.part_bytes().min(left);
            self.parts.body.reserve_exact(usize::try_from(want).unwrap_or(0));
        }
        self.parts.body.extend_from_slice(bytes);
        self.received += bytes.len() as u64;
        self.fetch.progress.lfs_received(bytes.len() as u64);
        // The last part waits for the check; an object of one part is stored by one PUT.
        if self.received < self.pointer.size
            && let Some((number, body)) = self.parts.take_full()
        {
            self.send(number, &body)?;
        }
        Ok(())
    }

    fn end_of_stream(&self) -> Taken {
        let (size, received) = (self.pointer.size, self.received);
        if received < size {
            let kind = SourceErrorKind::Transient { retry_after: None };
            let message = format!("the download ended after {received} of {size} bytes");
            return Taken::Cut(SourceError { kind, url: self.fetch.server.describe(), message });
        }
        let found: [u8; 32] = self.hasher.clone().finalize().into();
        if found == self.pointer.oid {
            return Taken::Whole;
        }
        let found = LfsPointer { oid: found, size }.hex();
        Taken::Wrong(format!("the server sends other bytes: their SHA-256 is {found}"))
    }

    fn broken(&self, error: &std::io::Error) -> SourceError {
        SourceError::from_io(error).cloned().unwrap_or_else(|| SourceError {
            kind: SourceErrorKind::Transient { retry_after: None },
            url: self.fetch.server.describe(),
            message: error.to_string(),
        })
    }

    fn send(&mut self, number: u32, body: &[u8]) -> Result<(), StoreError> {
        if self.upload.is_none() {
            let key = self.fetch.temp.key("lfs");
            let upload = self.fetch.temp.create_upload(&key, TEMPORARY)?;
            self.upload = Some((key, upload));
        }
        if let Some((_, upload)) = &self.upload {
            self.stored.push(self.fetch.store.put_part(upload, number, body)?);
        }
        Ok(())
    }

    /// Makes the object appear under its key. The check has passed.
    fn store(mut self) -> Result<(), Stop> {
        let (store, temp) = (self.fetch.store, &self.fetch.temp);
        let to = lfs_objects::key(&self.pointer.oid);
        if self.upload.is_none() {
            store.put(&to, &self.parts.body, HEADERS, None)?;
            return Ok(());
        }
        let parts = std::mem::replace(&mut self.parts, Parts::new(store.limits()));
        if let Some((number, body)) = parts.take_last() {
            self.send(number, &body)?;
        }
        if let Some((from, upload)) = self.upload.take() {
            store.complete_upload(&upload, &self.stored)?;
            temp.upload_ended(&upload);
            copy_any_size(temp, &from, &to, self.pointer.size, HEADERS)?;
            temp.delete(&from)?;
        }
        Ok(())
    }

    /// Forgets what came; parts that are in the store go away.
    fn restart(&mut self) -> Result<(), Stop> {
        if let Some((key, upload)) = self.upload.take() {
            self.fetch.store.abort_upload(&upload)?;
            self.fetch.temp.upload_ended(&upload);
            self.fetch.temp.forget(&key);
        }
        *self = Sink::new(self.fetch, self.pointer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{MemoryStore, Operation};

    fn pointer(byte: u8, size: u64) -> LfsPointer {
        LfsPointer { oid: [byte; 32], size }
    }

    fn queue(head: Head) -> Queue {
        Queue::new(64 << 20, &Cancel::default(), &Advertisement { refs: Vec::new(), head })
    }

    fn pointer_text(byte: u8) -> String {
        let hex = format!("{byte:02x}").repeat(32);
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hex}\nsize 1\n")
    }

    fn pass(queue: &Queue, byte: u8) {
        queue.look(&Oid::NULL, Kind::Blob, pointer_text(byte).as_bytes());
    }

    #[test]
    fn what_is_stored_is_found_by_looking_up_and_by_one_listing() {
        let store = MemoryStore::new();
        for byte in [3, 7, 90] {
            store.put(&lfs_objects::key(&[byte; 32]), b"x", HEADERS, None).unwrap();
        }
        let queue = queue(Head::Absent);
        let mut wanted = Wanted::new(&store, &queue);
        store.clear_recorded();
        for (bytes, missing, heads, lists) in
            [(0..10, 8, 10, 0), (5..50, 40, 10, 1), (40..100, 49, 10, 1)]
        {
            for byte in bytes {
                pass(&queue, byte);
            }
            queue.end(None);
            let next = wanted.next().unwrap().unwrap();
            assert_eq!(next.len(), missing);
            assert!(!next.iter().any(|pointer| [3, 7, 90].contains(&pointer.oid[0])));
            assert_eq!(store.count(Operation::Head), heads);
            assert_eq!(store.count(Operation::List), lists);
        }
        assert_eq!(wanted.next().unwrap(), None);
    }

    #[test]
    fn lacking_objects_are_remembered_written_once_and_forgotten() {
        let store = MemoryStore::new();
        let none = Remembered::read(&store).unwrap();
        none.update(&store, Vec::new()).unwrap();
        assert!(store.keys().is_empty());
        let lacking = vec![pointer(2, 20), pointer(1, 10)];
        none.update(&store, lacking.clone()).unwrap();
        let some = Remembered::read(&store).unwrap();
        assert_eq!(some.0, sorted(lacking.clone()));
        store.clear_recorded();
        some.update(&store, lacking).unwrap();
        assert!(store.recorded().is_empty());
        some.update(&store, Vec::new()).unwrap();
        assert!(store.keys().is_empty());
    }

    #[test]
    fn lines_that_are_not_ours_are_left_out() {
        let store = MemoryStore::new();
        let headers = ObjectHeaders::changing("text/plain");
        let text = format!("{} 7\nnonsense\n{} x\n\u{fffd}\n", "01".repeat(32), "02".repeat(32));
        store.put(&files::key(LACKING_KEY), text.as_bytes(), headers, None).unwrap();
        assert_eq!(Remembered::read(&store).unwrap().0, [pointer(1, 7)]);
    }

    #[test]
    fn room_is_the_object_or_its_largest_part() {
        let limits = Limits::S3;
        assert_eq!(room_for(0, &limits), 0);
        assert_eq!(room_for(100, &limits), 100);
        assert_eq!(room_for(300 << 20, &limits), 8 << 20);
        assert_eq!(room_for(6 << 30, &limits), 16 << 20);
        assert!(room_for(u64::MAX, &limits) > 0);
    }

    #[test]
    fn the_queue_keeps_pointers_and_nothing_else() {
        let queue = queue(Head::Absent);
        pass(&queue, 1);
        queue.look(&Oid::NULL, Kind::Blob, b"an ordinary blob");
        queue.look(&Oid::NULL, Kind::Tree, pointer_text(2).as_bytes());
        queue.end(None);
        assert_eq!(queue.take().unwrap().unwrap(), [pointer(1, 1)]);
        assert_eq!(queue.take().unwrap(), None);
    }

    #[test]
    fn pointers_are_given_out_early_when_the_stream_has_told_the_server() {
        let oid = |byte| Oid::from_bytes([byte; 20]);
        let tree = |name: &str| [format!("100644 {name}\0").as_bytes(), &[3; 20]].concat();
        let commit = format!("tree {}\n", oid(2));
        for (name, file) in [("a", None), (CONFIG_FILE, Some(b"[lfs]".to_vec()))] {
            let queue = queue(Head::Detached(oid(1)));
            let known = || match &queue.lock().config {
                Config::Known(file) => Some(file.clone()),
                _ => None,
            };
            pass(&queue, 1);
            queue.look(&oid(1), Kind::Commit, commit.as_bytes());
            assert_eq!(known(), None);
            queue.look(&oid(2), Kind::Tree, &tree(name));
            queue.look(&oid(3), Kind::Blob, b"[lfs]");
            assert_eq!(known(), Some(file));
            assert_eq!(queue.take().unwrap().unwrap(), [pointer(1, 1)]);
        }
    }

    #[test]
    fn a_queue_of_a_run_that_is_over_does_not_end_as_if_all_were_well() {
        let queue = queue(Head::Absent);
        pass(&queue, 1);
        queue.give_up();
        queue.end(None);
        assert!(matches!(queue.take(), Err(MirrorError::Interrupted)));
    }
}
