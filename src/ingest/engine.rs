//! The shell around the [`Scheduler`]: every thread, and what it may wait for.
//!
//! | thread | owns | waits for | ends when |
//! |---|---|---|---|
//! | `source` | the source's response | the source; room in its queue | the stream ends, or the reader has left |
//! | reader: the caller | the stream's place | `source`; room, by one condvar | the pack has ended and nothing is in flight |
//! | `resolve.N`: rayon, one a core | nothing | nothing | the scope ends |
//! | `request.N`: up to `--concurrency` | one request | the store; a running read of the same block or base | `quit` is closed |
//! | `heavy.0` | the heavy delta in hand | the store | `quit` is closed |
//!
//! Whoever ends something tells the scheduler, takes the commands that follow, and only then, outside
//! the lock, carries them out ([`Engine::tell`]). A command holds all the room that it will ever need,
//! so nobody but the reader waits for room. No I/O, no channel and no rayon call happens under the
//! lock.
//!
//! The first error wins: jobs in queues are dropped, everyone leaves, and the reader joins all. A
//! panic in a task is such an error, not a hang. And should nothing happen for [`STUCK_AFTER`] while
//! nobody waits for the network, that is an internal error which shows the scheduler's state.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select_biased, unbounded};
use rayon::Scope;

use super::ahead::{Ahead, Queue};
use super::budget::Budget;
use super::requests::Job;
use super::scheduler::{Bytes, Command, Heavy, Room, Scheduler};
use super::sink::{Sink, sink_of};
use crate::git::object::{Kind, Oid};
use crate::pack::reader::{PackError, PackReader};
use crate::pack::resolver::Index;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::packs::StoredPack;
use crate::repository::publish::AllStored;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::store::{Key, Store};

/// How often a waiting reader looks whether the run was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// Without any progress for so long, and nobody in the network, something is wrong with us.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// One run's surroundings.
pub(crate) struct Env<'e> {
    pub(crate) store: &'e dyn Store,
    pub(crate) progress: &'e dyn Progress,
    pub(crate) temp: &'e TempKeys<'e>,
    pub(crate) layout: Layout,
    pub(crate) existing: Existing,
    pub(crate) cancel: Cancel,
    pub(crate) concurrency: usize,
    pub(crate) budget: Budget,
    pub(crate) written: Written,
    /// Sees every object that is whole in memory once. Called by resolve tasks: it must not wait.
    pub(crate) look: &'e (dyn Fn(&Oid, Kind, &[u8]) + Sync),
    /// The pack may be thin: bases may be in the mirror alone. Only with the loose layout.
    pub(crate) thin: bool,
}

/// What a run has stored so far.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Proof that every object of every pack that was asked for is stored. Only a clean end of
/// [`store_pack`] makes one, or a run that needs no pack, and publishing consumes one.
#[must_use]
pub(crate) struct Complete {
    /// The pack that holds them, if they are not loose.
    pub(crate) pack: Option<StoredPack>,
    _private: (),
}

impl Complete {
    /// Every wanted object is stored already: each is reached by a ref that is published.
    pub(crate) fn nothing_to_fetch() -> Self {
        Complete { pack: None, _private: () }
    }
}

impl AllStored for Complete {
    fn new_pack(&self) -> Option<&str> {
        self.pack.as_ref().map(|pack| pack.name.as_str())
    }
}

/// A piece of a buffer that several share.
#[derive(Clone)]
pub(super) struct Slice {
    buffer: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl From<Vec<u8>> for Slice {
    fn from(buffer: Vec<u8>) -> Self {
        let len = buffer.len();
        Slice { buffer: Arc::new(buffer), start: 0, len }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl Bytes for Slice {
    fn slice(&self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Slice { buffer: Arc::clone(&self.buffer), start: self.start + start, len }
    }

    fn detach(&self) -> Self {
        // Alone in its buffer, or nearly so.
        if self.len * 2 > self.buffer.capacity() { self.clone() } else { self.to_vec().into() }
    }
}

/// Stores every object of the pack that `stream` yields. Returns when all are stored, or with the
/// first error, in both cases with all threads joined. `wants` must be among them.
pub(crate) fn store_pack(
    stream: impl Read + Send,
    wants: &[Oid],
    env: &Env<'_>,
) -> Result<Complete, MirrorError> {
    let queue = Queue::new(env.budget.ahead);
    std::thread::scope(|threads| {
        std::thread::Builder::new()
            .name("source".into())
            .spawn_scoped(threads, || queue.fill(stream))
            .map_err(|error| cannot_start(&error))?;
        store_stream(Ahead(&queue), wants, env)
    })
}

fn store_stream(stream: impl Read, wants: &[Oid], env: &Env<'_>) -> Result<Complete, MirrorError> {
    let pack = PackReader::new(stream)?;
    env.progress.expect_objects(u64::from(pack.object_count()));
    if let Some(warning) = env.layout.warning(pack.object_count()) {
        log::warn!("{}: {warning}", env.store.describe());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sink = sink_of(env, pack.object_count(), wants)?;
    let (engine, queues) = Engine::new(env, &*sink, cores);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores)
        .thread_name(|number| format!("resolve.{number}"))
        .build()
        .map_err(|error| MirrorError::Internal(format!("cannot start threads: {error}")))?;
    // No more threads than a small pack can use.
    let requesters = env.concurrency.clamp(1, pack.object_count().max(4) as usize);
    let mut stored = None;
    let stored_slot = &mut stored;
    pool.in_place_scope(|scope| {
        std::thread::scope(|threads| {
            let (quit, quitting) = bounded(0);
            for number in 0..requesters {
                let (engine, queues, quitting) = (&engine, &queues, quitting.clone());
                let named = std::thread::Builder::new().name(format!("request.{number}"));
                let body = move || engine.serve_requests(scope, queues, &quitting);
                if let Err(error) = named.spawn_scoped(threads, body) {
                    return engine.fail(cannot_start(&error));
                }
            }
            let named = std::thread::Builder::new().name("heavy.0".into());
            let (engine, queues, quitting) = (&engine, &queues, quitting.clone());
            let body = move || engine.serve_heavy(scope, queues, &quitting);
            if let Err(error) = named.spawn_scoped(threads, body) {
                return engine.fail(cannot_start(&error));
            }
            engine.guard(|| {
                *stored_slot = engine.run(scope, pack)?;
                Ok(())
            });
            drop(quit);
        });
    });
    engine.end()?;
    Ok(Complete { pack: stored, _private: () })
}

fn cannot_start(error: &std::io::Error) -> MirrorError {
    MirrorError::Internal(format!("cannot start a thread: {error}"))
}

impl From<PackError> for MirrorError {
    fn from(error: PackError) -> Self {
        use crate::source::SourceError;
        match error {
            // The tap is ours: it hands the pack's bytes to the store.
            PackError::Tap { source, .. } => unwrap_error(source),
            PackError::Io { ref source, .. } => match SourceError::from_io(source) {
                Some(failed) => MirrorError::Source(failed.clone()),
                None => MirrorError::Pack(format!("{error}: {source}")),
            },
            PackError::BadEntry { ref source, .. } => {
                MirrorError::Pack(format!("{error}: {source}"))
            }
            error => MirrorError::Pack(error.to_string()),
        }
    }
}

/// The error of ours that an I/O error carries through somebody else's code.
pub(super) fn unwrap_error(error: std::io::Error) -> MirrorError {
    match error.downcast::<MirrorError>() {
        Ok(ours) => ours,
        Err(other) => MirrorError::Internal(other.to_string()),
    }
}

/// Everything that the threads share.
pub(super) struct Engine<'e> {
    pub(super) env: &'e Env<'e>,
    pub(super) sink: &'e dyn Sink,
    core: Mutex<Core>,
    /// The reader waits here.
    changed: Condvar,
    over: AtomicBool,
    requests: Sender<Job>,
    /// Reads that wake deltas: served before `requests`.
    urgent: Sender<Job>,
    heavy: Sender<Heavy<Slice>>,
    /// Threads that may wait for the store.
    on_network: AtomicUsize,
    /// Counts whatever shows that the run goes on.
    pub(super) beats: AtomicU64,
    /// Temporary keys of spilled deltas, by number.
    pub(super) spills: Mutex<Vec<Key>>,
    /// Large objects that were laid down raw, to be read at an offset, and small ones that have a
    /// large ancestor: temporary keys.
    pub(super) raw: Mutex<HashMap<Index, Key>>,
    /// Bases of a thin pack that are not loose.
    pub(super) not_loose: Mutex<Vec<Oid>>,
}

/// Guarded by [`Engine::core`].
struct Core {
    scheduler: Scheduler<Slice>,
    reader_waits: bool,
    /// The first error.
    failure: Option<MirrorError>,
}

/// The receiving ends.
struct Queues {
    requests: Receiver<Job>,
    urgent: Receiver<Job>,
    heavy: Receiver<Heavy<Slice>>,
}

impl<'e> Engine<'e> {
    fn new(env: &'e Env<'e>, sink: &'e dyn Sink, cores: usize) -> (Self, Queues) {
        let (requests, requests_out) = unbounded();
        let (urgent, urgent_out) = unbounded();
        let (heavy, heavy_out) = unbounded();
        let limits = env.budget.limits(cores, env.concurrency, sink.is_readable());
        let scheduler = Scheduler::new(limits, sink.is_readable());
        let engine = Engine {
            env,
            sink,
            core: Mutex::new(Core { scheduler, reader_waits: false, failure: None }),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            requests,
            urgent,
            heavy,
            on_network: AtomicUsize::new(0),
            beats: AtomicU64::new(0),
            spills: Mutex::default(),
            raw: Mutex::default(),
            not_loose: Mutex::default(),
        };
        (engine, Queues { requests: requests_out, urgent: urgent_out, heavy: heavy_out })
    }

    /// After everyone has left: how it ended.
    fn end(self) -> Result<(), MirrorError> {
        let core = self.core.into_inner().unwrap_or_else(PoisonError::into_inner);
        match core.failure {
            Some(error) => Err(error),
            None if self.env.cancel.is_cancelled() => Err(MirrorError::Interrupted),
            None => Ok(()),
        }
    }

    // ---- the scheduler -------------------------------------------------------------------

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the scheduler; nothing may change by it that lets something start.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&mut Scheduler<Slice>) -> T) -> T {
        question(&mut self.core().scheduler)
    }

    /// Tells the scheduler what happened, and carries out what follows from it.
    pub(super) fn tell<'s, T>(
        &'s self,
        scope: &Scope<'s>,
        event: impl FnOnce(&mut Scheduler<Slice>) -> T,
    ) -> T {
        let mut core = self.core();
        let answer = event(&mut core.scheduler);
        let mut commands = Vec::new();
        if !self.over.load(Ordering::Relaxed) {
            commands.extend(std::iter::from_fn(|| core.scheduler.next()));
        }
        let wake = std::mem::take(&mut core.reader_waits);
        drop(core);
        self.beats.fetch_add(1, Ordering::Relaxed);
        if wake {
            self.changed.notify_one();
        }
        for command in commands {
            match command {
                Command::Resolve(unit) if unit.reads => self.send(&self.urgent, Job::Read(unit)),
                Command::Resolve(unit) => scope.spawn(move |scope| {
                    self.guard(|| self.resolve(scope, unit));
                }),
                Command::Heavy(heavy) => self.send(&self.heavy, heavy),
            }
        }
        answer
    }

    // ---- the reader waits ----------------------------------------------------------------

    /// Room for the reader, who holds none. When parked deltas hold it all, they are spilled.
    pub(super) fn take_room(&self, bytes: u64) -> Result<(), MirrorError> {
        let most_spilled = (self.env.budget.entries / 2).min(8 << 20);
        let mut core = self.core();
        loop {
            if self.is_over() {
                return Err(self.closed());
            }
            match core.scheduler.take_room(bytes, most_spilled) {
                Room::Taken => return Ok(()),
                Room::Wait => core = self.wait(core),
                Room::Spill(deltas) if deltas.is_empty() => {
                    let state = core.scheduler.describe();
                    return Err(MirrorError::Internal(format!(
                        "no room and nothing runs: {state}"
                    )));
                }
                Room::Spill(deltas) => {
                    drop(core);
                    log::debug!("spilling {} deltas that came before their bases", deltas.len());
                    let (file, places) = self.spill(&deltas)?;
                    core = self.core();
                    core.scheduler.spilled(file, &places);
                }
            }
        }
    }

    /// Room for a part of a pack that is kept.
    pub(super) fn take_part(&self, bytes: u64) -> Result<(), MirrorError> {
        self.wait_until(|scheduler| scheduler.take_part(bytes))
    }

    /// Until nothing is in flight.
    pub(super) fn wait_idle(&self) -> Result<(), MirrorError> {
        self.wait_until(|scheduler| scheduler.is_idle() && scheduler.has_no_parts())
    }

    fn wait_until(
        &self,
        mut what: impl FnMut(&mut Scheduler<Slice>) -> bool,
    ) -> Result<(), MirrorError> {
        let mut core = self.core();
        loop {
            if self.is_over() {
                return Err(self.closed());
            }
            if what(&mut core.scheduler) {
                return Ok(());
            }
            core = self.wait(core);
        }
    }

    fn wait<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        let begun = (Instant::now(), self.beats.load(Ordering::Relaxed));
        loop {
            core.reader_waits = true;
            let woken = self.changed.wait_timeout(core, CANCEL_POLL);
            core = woken.unwrap_or_else(PoisonError::into_inner).0;
            if !core.reader_waits || self.is_over() {
                return core;
            }
            let quiet = self.beats.load(Ordering::Relaxed) == begun.1
                && self.on_network.load(Ordering::Relaxed) == 0;
            if !quiet {
                return core;
            }
            if begun.0.elapsed() > STUCK_AFTER {
                let state = core.scheduler.describe();
                let what = format!("nothing has moved for {STUCK_AFTER:?}: {state}");
                core.failure.get_or_insert(MirrorError::Internal(what));
                self.over.store(true, Ordering::Relaxed);
                return core;
            }
        }
    }

    // ---- failing -------------------------------------------------------------------------

    /// The first error wins; everyone leaves.
    pub(super) fn fail(&self, error: MirrorError) {
        let mut core = self.core();
        core.failure.get_or_insert(error);
        core.reader_waits = false;
        drop(core);
        self.over.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Runs `work`; its error, or its panic, fails the run.
    pub(super) fn guard(&self, work: impl FnOnce() -> Result<(), MirrorError>) {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(error),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let text = text.unwrap_or_else(|| "a thread panicked".into());
                self.fail(MirrorError::Internal(text));
            }
        }
    }

    /// Has the run failed or been cancelled? Then nothing new is begun.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.env.cancel.is_cancelled()
    }

    /// The answer for somebody who finds the run over: the failure that ended it came first.
    pub(super) fn closed(&self) -> MirrorError {
        MirrorError::Interrupted
    }

    /// An error for the entry `index`: its offset is what a person can look for.
    pub(super) fn broken(&self, index: Index, what: impl std::fmt::Display) -> MirrorError {
        let offset = self.ask(|scheduler| scheduler.offset(index));
        MirrorError::Pack(format!("pack entry at offset {offset}: {what}"))
    }

    // ---- queues, and the threads that serve them ------------------------------------------

    fn send<T>(&self, queue: &Sender<T>, job: T) {
        // The receivers live as long as the engine's threads, and those as long as its senders.
        // Should one be gone all the same, the run is over.
        let _ = queue.send(job);
    }

    /// A job for the request threads.
    pub(super) fn request(&self, job: Job) {
        self.send(&self.requests, job);
    }

    /// While `work` runs, this thread may wait for the store.
    pub(super) fn on_network<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.on_network.fetch_add(1, Ordering::Relaxed);
        let _leave = Leave(&self.on_network);
        work()
    }

    fn serve_requests<'s>(&'s self, scope: &Scope<'s>, queues: &Queues, quitting: &Receiver<()>) {
        loop {
            let job = select_biased! {
                recv(queues.urgent) -> job => job,
                recv(queues.requests) -> job => job,
                recv(quitting) -> _ => return,
            };
            let Ok(job) = job else { return };
            if !self.is_over() {
                self.on_network(|| self.guard(|| self.serve(scope, job)));
            }
        }
    }

    fn serve_heavy<'s>(&'s self, scope: &Scope<'s>, queues: &Queues, quitting: &Receiver<()>) {
        loop {
            let heavy = select_biased! {
                recv(queues.heavy) -> heavy => heavy,
                recv(quitting) -> _ => return,
            };
            let Ok(heavy) = heavy else { return };
            if !self.is_over() {
                self.on_network(|| self.guard(|| self.run_heavy(scope, heavy)));
            }
        }
    }

    /// Objects that are in the store, and their bytes.
    pub(super) fn count_stored(&self, objects: u64, bytes: u64) {
        self.env.written.objects.fetch_add(objects, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
