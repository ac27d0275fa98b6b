//! One run's downloads: who asks for addresses, and who fetches (the table on [`super`]'s page).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::gate::Gate;
use super::run::Run;
use super::sink::{Ends, Sink, Taken, room_for};
use super::stop::{Missing, Stop};
use super::wanted::Wanted;
use crate::git::lfs_pointer::LfsPointer;
use crate::repository::error::MirrorError;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::run::retry::{Backoff, Policy, sleep, with_retry};
use crate::source::lfs::{BATCH_OBJECTS, Download};
use crate::source::{BatchError, LfsSource, Offer, SourceError, SourceErrorKind};

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

/// One run's downloads.
pub(super) struct Fetch<'a> {
    ends: Ends<'a>,
    cancel: Cancel,
    fetchers: usize,
    max_object_bytes: u64,
    written: AtomicU64,
    written_bytes: AtomicU64,
    /// Objects in a row that failed after all tries.
    failed_in_a_row: AtomicU32,
    result: Mutex<Results>,
}

/// Guarded by [`Fetch::result`].
#[derive(Default)]
struct Results {
    unavailable: Vec<(LfsPointer, String)>,
    stored: Vec<[u8; 32]>,
    failure: Option<MirrorError>,
}

/// An object to be fetched, and from where.
type Job = (LfsPointer, Offer);

/// What came of it: objects and bytes stored, and each missing object with the reason.
type Fetched = ((u64, u64), Vec<(LfsPointer, String)>);

impl<'a> Fetch<'a> {
    pub(super) fn new(server: &'a dyn LfsSource, run: &Run<'a>, gate: &Arc<Gate>) -> Self {
        Fetch {
            ends: Ends {
                server,
                store: run.store,
                progress: run.progress,
                temp: TempKeys::new(run.store),
                gate: Arc::clone(gate),
            },
            cancel: run.cancel.clone(),
            fetchers: run.concurrency.clamp(1, FETCHERS),
            max_object_bytes: run.max_object_bytes,
            written: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            failed_in_a_row: AtomicU32::new(0),
            result: Mutex::default(),
        }
    }

    /// Fetches `missing` and all that is `wanted` after it. Answers how many were stored with how many
    /// bytes, and which are missing.
    pub(super) fn run(
        self,
        missing: Vec<LfsPointer>,
        wanted: Wanted<'_>,
    ) -> Result<Fetched, MirrorError> {
        log::info!("fetching LFS objects from {}", self.ends.server.describe());
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
        let cleaned = self.ends.temp.clean();
        let results = self.result.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = results.failure {
            return Err(error);
        }
        if self.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        cleaned?;
        let Results { mut unavailable, mut stored, .. } = results;
        // A pointer with a wrong size is not missing if the right one brought the object.
        stored.sort_unstable();
        unavailable.retain(|(pointer, _)| stored.binary_search(&pointer.oid).is_err());
        unavailable.sort_by_key(|(pointer, _)| pointer.oid);
        Ok(((self.written.into_inner(), self.written_bytes.into_inner()), unavailable))
    }

    // ---- the asker -----------------------------------------------------------------------

    fn ask_for_all(&self, missing: Vec<LfsPointer>, mut wanted: Wanted<'_>, jobs: &Sender<Job>) {
        let mut limit = BATCH_OBJECTS;
        let mut given_up = None;
        let mut next = Ok(Some(missing));
        while let Ok(Some(mut missing)) = next {
            missing.retain(|pointer| self.is_allowed(pointer));
            for pointer in &missing {
                self.ends.progress.expect_lfs(pointer.size);
            }
            let mut left = &missing[..];
            while !left.is_empty() && !self.is_over() {
                if self.failed_in_a_row.load(Ordering::Relaxed) >= GIVE_UP_AFTER {
                    let why = format!("skipped: the previous {GIVE_UP_AFTER} failed");
                    given_up.get_or_insert(why);
                }
                if let Some(why) = &given_up {
                    self.all_missing(left, why);
                    break;
                }
                let (batch, rest) = left.split_at(limit.min(left.len()));
                let offers = match self.with_retries(|| self.ends.server.batch(batch)) {
                    Ok(offers) => offers,
                    Err(BatchError::Split(error)) if batch.len() > 1 => {
                        limit = batch.len().div_ceil(2);
                        log::info!("{error}; requesting {limit} objects at a time");
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
        self.ends.progress.phase("fetching LFS objects");
    }

    /// Is it no larger than `--max-object-size`? Otherwise it counts as missing.
    fn is_allowed(&self, pointer: &LfsPointer) -> bool {
        let (size, limit) = (pointer.size, self.max_object_bytes);
        if size > limit {
            let why = format!("not requested: {size} bytes, more than --max-object-size {limit}");
            self.all_missing(std::slice::from_ref(pointer), &why);
        }
        size <= limit
    }

    fn all_missing(&self, pointers: &[LfsPointer], why: &str) {
        let unavailable = pointers.iter().map(|pointer| (*pointer, why.to_owned()));
        self.results().unavailable.extend(unavailable);
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
                    self.written_bytes.fetch_add(pointer.size, Ordering::Relaxed);
                    self.results().stored.push(pointer.oid);
                }
                Ok(Err(Stop::Missing(Missing { reason, transient }))) => {
                    if transient {
                        self.failed_in_a_row.fetch_add(1, Ordering::Relaxed);
                    }
                    self.results().unavailable.push((pointer, reason));
                }
                Ok(Err(Stop::Failed(error))) => self.fail(error),
                Err(_) => self.fail(MirrorError::Internal("an LFS thread panicked".into())),
            }
        }
    }

    /// One object, from its address to its key.
    fn fetch(&self, pointer: &LfsPointer, offer: Offer) -> Result<(), Stop> {
        let mut download = offer.map_err(|reason| Stop::Missing(Missing::because(reason)))?;
        let room = room_for(pointer.size, &self.ends.store.limits());
        let _room = self.ends.gate.wait_for(room).ok_or(Stop::Failed(MirrorError::Interrupted))?;
        let mut sink = Sink::new(&self.ends, *pointer);
        let (mut asked_again, mut corrupt) = (false, 0);
        let mut backoff = self.backoff();
        loop {
            if download.is_expired() && !asked_again {
                download = self.ask_again(pointer)?;
                asked_again = true;
            }
            let begun_at = sink.received;
            let error = match self.ends.server.open(&download, sink.received) {
                Ok(stream) => match sink.take(stream)? {
                    Taken::Whole => return sink.store(),
                    Taken::Wrong(what) if corrupt == 0 => {
                        log::info!("LFS object {}: {what}; starting over", pointer.hex());
                        corrupt += 1;
                        sink.restart()?;
                        download = self.ask_again(pointer)?;
                        continue;
                    }
                    Taken::Wrong(what) => {
                        sink.restart()?;
                        return Err(Stop::Missing(Missing::because(what)));
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
        match self.with_retries(|| self.ends.server.batch(std::slice::from_ref(pointer))) {
            Ok(offers) => {
                let offer = offers.into_iter().next();
                let offer = offer.unwrap_or_else(|| Err("the server does not answer".into()));
                offer.map_err(|reason| Stop::Missing(Missing::because(reason)))
            }
            Err(
                BatchError::Split(error) | BatchError::Absent(error) | BatchError::Failed(error),
            ) => Err(error.into()),
        }
    }

    // ---- what all share ------------------------------------------------------------------

    fn backoff(&self) -> Backoff {
        Backoff::new(Policy::of(TRIES, self.ends.server.first_wait()))
    }

    /// Repeats a batch request that may succeed the next time.
    fn with_retries<T>(
        &self,
        attempt: impl Fn() -> Result<T, BatchError>,
    ) -> Result<T, BatchError> {
        let mut backoff = self.backoff();
        let wait_after = |error: &BatchError| match error {
            BatchError::Failed(error) => wait_after(&mut backoff, error),
            BatchError::Split(_) | BatchError::Absent(_) => None,
        };
        with_retry(wait_after, |wait| sleep(wait, || self.is_over()), attempt)
    }

    fn is_over(&self) -> bool {
        self.ends.is_over()
    }

    /// The first error wins.
    fn fail(&self, error: MirrorError) {
        self.results().failure.get_or_insert(error);
        self.ends.gate.close();
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
