//! From a stream of pack bytes to stored objects: every thread, and what it may wait for.
//!
//! | thread | owns | waits for | ends when |
//! |---|---|---|---|
//! | `source` | the source's response | the source; room in its queue | the stream ends, or the reader has left |
//! | reader: the caller | the stream's place | `source`; room in the gate | the pack has ended and nothing runs |
//! | `resolve.N`: rayon, one a core | nothing | nothing | the scope ends |
//! | `request.N`: up to `--concurrency` | one request | the store; a running read of the same base | `quit` is closed |
//! | `large.0` | the large delta in hand | the store; room for a part | `quit` is closed |
//!
//! The reader demultiplexes, parses and inflates, and asks the [`Gate`] for room before it takes an
//! entry. Resolve tasks hash, apply deltas and deflate; they never wait, so a started one ends. A
//! delta whose base is not resolved waits in the [`Table`], never in a thread; its base's task wakes
//! it ([`Engine::pump`]). The queues are unbounded in number and bounded in bytes: every job in
//! one holds a [`Permit`], which is also what keeps the run from being called idle. All waits point
//! downstream: source → reader → (resolve, large) → request → store.
//!
//! **Order that [`Engine::pump`] relies on.** A task that ends gives back its bytes, then pumps,
//! then drops its permit. So whenever nothing runs, no ready delta is left behind, and what is
//! parked can only be woken by entries still to come: the reader may spill it, or, at the end of
//! the pack, call it unresolvable.
//!
//! The first error wins: it closes the gate, jobs in queues are dropped, everyone leaves, and the
//! reader joins all. A panic in a task is such an error, not a hang.
//!
//! This file spawns the threads, owns the channels and holds what they share. What each of them does
//! is a file of its own below `pipeline/`, in the order of the table above; none of those spawns or
//! waits by itself.

mod ahead;
mod reader;
mod requests;
mod second_pass;
mod table;
mod tasks;

use std::collections::HashMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::channel::{Receiver, Sender, bounded, select_biased, unbounded};
use rayon::Scope;

use super::bases::Bases;
use super::budget::Budget;
use super::gate::Gate;
use super::large::{self, LargeDelta};
use super::sink::pack::{self, PackReadBack};
use crate::git::object::{Kind, Oid};
use crate::pack::reader::{PackError, PackReader};
use crate::pack::resolver::{Index, Resolver};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::packs::StoredPack;
use crate::repository::publish::AllStored;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::store::{Key, Store};

use ahead::{Ahead, Queue};
pub(super) use requests::{Job, LargeObject};
use table::Table;
pub(super) use table::{Delta, DeltaBytes};
pub(super) use tasks::LEVEL;

/// What a queued entry or delta costs beside its bytes: maps, tasks, vectors.
const OVERHEAD_BYTES: u64 = 512;

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
    let (engine, queues) = Engine::new(env);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
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
            let named = std::thread::Builder::new().name("large.0".into());
            let (engine, queues, quitting) = (&engine, &queues, quitting.clone());
            let body = move || engine.serve_large(scope, queues, &quitting);
            if let Err(error) = named.spawn_scoped(threads, body) {
                return engine.fail(cannot_start(&error));
            }
            engine.guard(|| {
                match env.layout {
                    Layout::Loose => {
                        engine.read_pack(scope, &mut { pack })?;
                        if env.thin {
                            engine.add_lacking_bases(scope)?;
                        }
                    }
                    Layout::Pack => *stored_slot = pack::store(engine, scope, pack, wants)?,
                }
                Ok(())
            });
            engine.gate.wait_idle();
            drop(quit);
        });
    });
    engine.end(wants, stored)
}

fn cannot_start(error: &std::io::Error) -> MirrorError {
    MirrorError::Internal(format!("cannot start a thread: {error}"))
}

impl From<PackError> for MirrorError {
    fn from(error: PackError) -> Self {
        use crate::source::SourceError;
        match error {
            // The tap is ours: it hands the pack's bytes to the store.
            PackError::Tap { source, .. } => pack::unwrap_error(source),
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

/// Everything that the threads share.
pub(super) struct Engine<'e> {
    pub(super) env: &'e Env<'e>,
    pub(super) gate: Arc<Gate>,
    pub(super) bases: Bases,
    table: Mutex<Table>,
    /// The first error. Guarded by itself; whoever sets it closes the gate.
    failure: Mutex<Option<MirrorError>>,
    requests: Sender<Job>,
    /// Reads that wake deltas: served before `requests`.
    urgent: Sender<Job>,
    large: Sender<LargeDelta>,
    /// Large objects that were laid down raw, to be read at an offset, and small ones that have a
    /// large ancestor: temporary keys. The large worker writes, rebuilding reads.
    raw: Mutex<HashMap<Index, Key>>,
    /// Bases of a thin pack that are not loose. Filled by request threads, emptied by the reader
    /// when nothing runs.
    not_loose: Mutex<Vec<Oid>>,
    /// The stored pack, in the pack layout's second pass.
    read_back: OnceLock<PackReadBack>,
}

/// The receiving ends.
struct Queues {
    requests: Receiver<Job>,
    urgent: Receiver<Job>,
    large: Receiver<LargeDelta>,
}

impl<'e> Engine<'e> {
    fn new(env: &'e Env<'e>) -> (Self, Queues) {
        let (requests, requests_out) = unbounded();
        let (urgent, urgent_out) = unbounded();
        let (large, large_out) = unbounded();
        let engine = Engine {
            env,
            gate: Gate::new(
                env.budget.entries,
                env.budget.results,
                env.budget.parts,
                env.cancel.clone(),
            ),
            bases: Bases::new(env.budget.bases),
            table: Mutex::new(Table {
                resolver: Resolver::new(),
                parked: HashMap::new(),
                ready: Vec::new(),
                deferred: Vec::new(),
                crcs: Vec::new(),
            }),
            failure: Mutex::new(None),
            requests,
            urgent,
            large,
            raw: Mutex::default(),
            not_loose: Mutex::default(),
            read_back: OnceLock::new(),
        };
        (engine, Queues { requests: requests_out, urgent: urgent_out, large: large_out })
    }

    /// After everyone has left: is everything stored?
    fn end(self, wants: &[Oid], pack: Option<StoredPack>) -> Result<Complete, MirrorError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failure {
            return Err(error);
        }
        if self.env.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        self.all_resolved(wants)?;
        Ok(Complete { pack, _private: () })
    }

    /// When nothing runs any more: is every entry an object, and every wanted object there?
    pub(super) fn all_resolved(&self, wants: &[Oid]) -> Result<(), MirrorError> {
        let table = self.table();
        if let Some(error) = table.resolver.first_unresolved() {
            return Err(MirrorError::Pack(error.to_string()));
        }
        let known =
            |oid: &Oid| table.resolver.find(oid).is_some() || self.env.existing.contains(oid);
        match wants.iter().find(|oid| !known(oid)) {
            Some(oid) => Err(MirrorError::Pack(format!("it lacks {oid}, which was asked for"))),
            None => Ok(()),
        }
    }

    // ---- failing -------------------------------------------------------------------------

    /// The first error wins; the gate closes, so that everyone leaves.
    pub(super) fn fail(&self, error: MirrorError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.gate.close();
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

    /// Runs a task or a job, whose permit is in `work` and dropped there. It counts as running until
    /// its failure is known: else whoever waits until nothing runs could find nothing running and
    /// nothing wrong, and complete an upload that lacks a part.
    pub(super) fn guard_task(&self, work: impl FnOnce() -> Result<(), MirrorError>) {
        let _running = self.gate.token();
        self.guard(work);
    }

    /// Has the run failed or been cancelled? Then nothing new is begun.
    pub(super) fn is_over(&self) -> bool {
        self.gate.is_closed()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error for the entry `index`: its offset is what a person can look for.
    pub(super) fn broken(&self, index: Index, what: impl std::fmt::Display) -> MirrorError {
        let offset = self.table().resolver.offset(index);
        MirrorError::Pack(format!("pack entry at offset {offset}: {what}"))
    }

    // ---- queues, and the threads that serve them ------------------------------------------

    fn send<T>(&self, queue: &Sender<T>, job: T) {
        // The receivers live as long as the engine's threads, and those as long as its senders.
        // Should one be gone all the same, the job is dropped and its permit given back.
        let _ = queue.send(job);
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
                self.guard_task(|| self.serve(scope, job));
            }
        }
    }

    /// A job for the request threads.
    pub(super) fn request(&self, job: Job) {
        self.send(&self.requests, job);
    }

    fn serve_large<'s>(&'s self, scope: &Scope<'s>, queues: &Queues, quitting: &Receiver<()>) {
        loop {
            let delta = select_biased! {
                recv(queues.large) -> delta => delta,
                recv(quitting) -> _ => return,
            };
            let Ok(delta) = delta else { return };
            if !self.is_over() {
                self.guard_task(|| large::run(self, scope, delta));
            }
        }
    }
}
