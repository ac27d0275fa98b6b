//! The shell around the [`Scheduler`]: every thread, and what it may wait for.
//!
//! | thread | owns | waits for | ends when |
//! |---|---|---|---|
//! | `source` | the source's response | the source; room in its queue | the stream ends, or the reader has left |
//! | reader: the caller | the stream's place | `source`; room, by one condvar | the pack has ended and nothing is in flight |
//! | `resolve.N`: rayon, one a core | nothing | nothing | the scope ends |
//! | `request.N`: up to `--concurrency` | one request | the store; a running read of the same block or base | it is asked to quit |
//! | `heavy.0` | the heavy delta in hand | the store | it is asked to quit |
//! | `name-pack` | the pack's copy to its name | the store | that is done |
//!
//! Whoever ends something tells the scheduler, takes the commands that follow, and only then, outside
//! the lock, carries them out ([`Engine::tell`]): one unit by itself if it may ([`Hands`]), the others
//! by other threads. A command holds all the room that it will ever need,
//! so nobody but the reader waits for room. No I/O, no channel and no rayon call happens under the
//! lock.
//!
//! The first error wins: jobs in queues are dropped, everyone leaves, and the reader joins all. A
//! panic in a task is such an error, not a hang. And should nothing happen for [`STUCK_AFTER`] while
//! nobody waits for the network, that is an internal error which shows the scheduler's state.

use std::collections::HashMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bytes::Slice;
use super::context::RunContext;
use super::hands::Hands;
use super::jobs::Job;
use super::scheduler::Scheduler;
use super::units::{Command, Done, Heavy, Room, Stored, Unit};
use crate::git::object::{Kind, Oid};
use crate::pack::object::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::packs::StoredPack;
use crate::repository::writer::KeyWriter;
use crate::store::{Key, Upload};
use crossbeam::channel::{Receiver, Sender, unbounded};

/// How often a waiting reader looks whether the run was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// Without any progress for so long, and nobody in the network, something is wrong with us.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A layout.
pub(super) trait Sink: Sync {
    /// Can what is stored be read while the pack still comes?
    fn is_readable(&self) -> bool;
    /// Are the pack's own deflate blocks wanted, as a loose object's body?
    fn keeps_raw(&self) -> bool;
    /// Sees the pack's raw bytes, in order. Called by the reader.
    fn tap(&self, engine: &Engine<'_>, bytes: &[u8]) -> Result<(), MirrorError>;

    /// A unit is resolved: stores its objects and tells the scheduler.
    fn take<'s>(
        &self,
        engine: &'s Engine<'_>,
        hands: &Hands<'_, 's>,
        unit: Unit<Slice>,
        done: Vec<Done>,
        results: Vec<Slice>,
    ) -> Result<(), MirrorError>;
    /// Notes an object that passed through in pieces.
    fn note(
        &self,
        engine: &Engine<'_>,
        oid: &Oid,
        offset: u64,
        crc32: u32,
    ) -> Result<(), MirrorError>;
    /// Tells every object that was taken so far, by its offset in the pack.
    fn each_named(
        &self,
        engine: &Engine<'_>,
        tell: &mut dyn FnMut(u64, &Oid),
    ) -> Result<(), MirrorError>;

    /// Reads a base back, whole; it should have `len` bytes, but whoever applies a delta to it checks.
    fn read_base(
        &self,
        engine: &Engine<'_>,
        base: Stored,
        len: u64,
    ) -> Result<Vec<u8>, MirrorError>;
    /// Makes the object at `offset` again, because others stand on it, and keeps it for a while.
    fn make_link(&self, engine: &Engine<'_>, offset: u64) -> Result<(), MirrorError>;
    /// Reads the instructions of the delta at `offset` back from the pack.
    fn read_delta(&self, engine: &Engine<'_>, offset: u64) -> Result<Vec<u8>, MirrorError>;
    /// The same as a stream.
    fn open_entry<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        offset: u64,
    ) -> io::Result<Box<dyn Read + 'a>>;
    /// A large object as a stream.
    fn open_object<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        base: Stored,
    ) -> Result<Box<dyn Read + 'a>, MirrorError>;

    /// Where a large object of the pack goes; `None`: nowhere but in the pack.
    fn begin_object(&self, engine: &Engine<'_>) -> Result<Option<Upload>, MirrorError>;
    /// Where a large delta waits; `None`: it is in the pack.
    fn begin_delta<'a>(&self, engine: &Engine<'a>) -> Result<Option<KeyWriter<'a>>, MirrorError>;
    /// Where a heavy delta's large result goes.
    fn begin_result<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        kind: Kind,
        len: u64,
    ) -> Result<Box<dyn LargeResult + 'a>, MirrorError>;
    /// Stores a heavy delta's small result.
    fn take_heavy(
        &self,
        engine: &Engine<'_>,
        index: Index,
        crc32: u32,
        object: &Object,
        content: &[u8],
    ) -> Result<(), MirrorError>;

    /// The pack has been read: ends the run. Called by the reader; `len` bytes, trailer included.
    fn finish<'s>(
        &self,
        engine: &'s Engine<'_>,
        hands: &Hands<'_, 's>,
        trailer: Oid,
        len: u64,
    ) -> Result<Option<StoredPack>, MirrorError>;
}

/// Where a layout puts a result that is too large for memory.
pub(super) trait LargeResult {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), MirrorError>;
    /// That was all, and this is what it is.
    fn finish(
        self: Box<Self>,
        index: Index,
        crc32: u32,
        object: &Object,
    ) -> Result<(), MirrorError>;
}

/// Everything that the threads share.
pub(super) struct Engine<'e> {
    pub(super) env: &'e RunContext<'e>,
    pub(super) sink: &'e dyn Sink,
    core: Mutex<Core>,
    /// The reader waits here.
    changed: Condvar,
    over: AtomicBool,
    requests: Sender<Job>,
    /// Reads that wake deltas: served before `requests`.
    urgent: Sender<Job>,
    /// One for each job in the two queues, so that a thread waits in one place.
    signals: Sender<Signal>,
    /// `None`: leave.
    heavy: Sender<Option<Heavy<Slice>>>,
    /// Threads that may wait for the store.
    on_network: AtomicUsize,
    /// Counts whatever shows that the run continues.
    pub(super) beats: AtomicU64,
    /// What the deltas that were read make, in bytes, as they claim.
    pub(super) expanded: AtomicU64,
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
    /// What the reader waits for.
    wanted: Option<Wanted>,
    /// The first error.
    failure: Option<MirrorError>,
}

/// What the reader waits for.
#[derive(Clone, Copy)]
enum Wanted {
    Room(u64),
    Part(u64),
    Idle,
}

impl Core {
    /// Has what the reader waits for come? Then it must be woken, once.
    fn wakes_reader(&mut self) -> bool {
        let has_come = match self.wanted {
            None => false,
            Some(Wanted::Room(bytes)) => self.scheduler.has_room(bytes),
            Some(Wanted::Part(bytes)) => self.scheduler.has_part(bytes),
            Some(Wanted::Idle) => self.scheduler.is_idle() && self.scheduler.has_no_parts(),
        };
        if has_come {
            self.wanted = None;
        }
        has_come
    }
}

/// What a request thread waits for.
pub(super) enum Signal {
    /// There is a job.
    Job,
    /// Leave.
    Quit,
}

/// The receiving ends.
pub(super) struct Queues {
    pub(super) requests: Receiver<Job>,
    pub(super) urgent: Receiver<Job>,
    pub(super) signals: Receiver<Signal>,
    pub(super) heavy: Receiver<Option<Heavy<Slice>>>,
}

impl<'e> Engine<'e> {
    pub(super) fn new(env: &'e RunContext<'e>, sink: &'e dyn Sink, cores: usize) -> (Self, Queues) {
        let (requests, requests_out) = unbounded();
        let (urgent, urgent_out) = unbounded();
        let (signals, signals_out) = unbounded();
        let (heavy, heavy_out) = unbounded();
        let limits = env.budget.limits(cores, env.concurrency, sink.is_readable());
        let scheduler = Scheduler::new(limits, sink.is_readable(), env.format);
        let engine = Engine {
            env,
            sink,
            core: Mutex::new(Core { scheduler, wanted: None, failure: None }),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            requests,
            urgent,
            signals,
            heavy,
            on_network: AtomicUsize::new(0),
            beats: AtomicU64::new(0),
            expanded: AtomicU64::new(0),
            spills: Mutex::default(),
            raw: Mutex::default(),
            not_loose: Mutex::default(),
        };
        let queues = Queues {
            requests: requests_out,
            urgent: urgent_out,
            signals: signals_out,
            heavy: heavy_out,
        };
        (engine, queues)
    }

    /// After everyone has left: how it ended.
    pub(super) fn end(self) -> Result<(), MirrorError> {
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
        hands: &Hands<'_, 's>,
        event: impl FnOnce(&mut Scheduler<Slice>) -> T,
    ) -> T {
        let mut core = self.core();
        let answer = event(&mut core.scheduler);
        let mut commands = Vec::new();
        if !self.over.load(Ordering::Relaxed) {
            commands.extend(std::iter::from_fn(|| core.scheduler.next()));
        }
        let wake = core.wakes_reader();
        drop(core);
        self.beats.fetch_add(1, Ordering::Relaxed);
        if wake {
            self.changed.notify_one();
        }
        for command in commands {
            match command {
                Command::Resolve(unit) => {
                    let Some(unit) = hands.keep(unit) else { continue };
                    match unit.reads {
                        true => self.send_request(&self.urgent, Job::Read(unit)),
                        false => hands.pool.spawn(move |pool| {
                            self.resolve_on(&Hands::resolver(pool), unit);
                        }),
                    }
                }
                Command::Heavy(heavy) => self.send(&self.heavy, Some(heavy)),
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
                Room::Wait => core = self.wait(core, Wanted::Room(bytes)),
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
        self.wait_until(Wanted::Part(bytes), |scheduler| scheduler.take_part(bytes))
    }

    /// Until nothing is in flight.
    pub(super) fn wait_idle(&self) -> Result<(), MirrorError> {
        let is_idle =
            |scheduler: &mut Scheduler<_>| scheduler.is_idle() && scheduler.has_no_parts();
        self.wait_until(Wanted::Idle, is_idle)
    }

    fn wait_until(
        &self,
        wanted: Wanted,
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
            core = self.wait(core, wanted);
        }
    }

    fn wait<'a>(&'a self, mut core: MutexGuard<'a, Core>, wanted: Wanted) -> MutexGuard<'a, Core> {
        let begun = (Instant::now(), self.beats.load(Ordering::Relaxed));
        loop {
            core.wanted = Some(wanted);
            let woken = self.changed.wait_timeout(core, CANCEL_POLL);
            core = woken.unwrap_or_else(PoisonError::into_inner).0;
            if core.wanted.is_none() || self.is_over() {
                return core;
            }
            let quiet = self.beats.load(Ordering::Relaxed) == begun.1
                && self.on_network.load(Ordering::Relaxed) == 0;
            if !quiet {
                return core;
            }
            if begun.0.elapsed() > STUCK_AFTER {
                let state = core.scheduler.describe();
                let what = format!("no progress for {STUCK_AFTER:?}: {state}");
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
        core.wanted = None;
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
        Self::broken_at(offset, what)
    }

    /// The same for the entry at `offset`.
    pub(super) fn broken_at(offset: u64, what: impl std::fmt::Display) -> MirrorError {
        MirrorError::Pack(format!("pack entry at offset {offset}: {what}"))
    }

    // ---- queues ----------------------------------------------------------------------------

    fn send<T>(&self, queue: &Sender<T>, job: T) {
        // The receivers live as long as the engine's threads, and those as long as its senders.
        // Should one be gone all the same, the run is over.
        let _ = queue.send(job);
    }

    fn send_request(&self, queue: &Sender<Job>, job: Job) {
        self.send(queue, job);
        self.send(&self.signals, Signal::Job);
    }

    /// A job for the request threads.
    pub(super) fn request(&self, job: Job) {
        self.send_request(&self.requests, job);
    }

    /// No more work comes: so many request threads, and the heavy one, leave.
    pub(super) fn dismiss(&self, requesters: usize) {
        (0..requesters).for_each(|_| self.send(&self.signals, Signal::Quit));
        self.send(&self.heavy, None);
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

    /// Objects that are in the store, and their bytes.
    pub(super) fn count_stored(&self, objects: u64, bytes: u64) {
        self.env.written.objects.fetch_add(objects, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
