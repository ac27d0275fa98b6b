//! One pack from its stream to its end: starts the threads that `engine.rs` describes, and joins them.

use std::io::Read;

use rayon::Scope;

use super::ahead::{Ahead, Queue};
use super::context::RunContext;
use super::engine::{Engine, Queues, Signal, Sink};
use super::hands::Hands;
use super::sink::check::{Check, Examiner};
use super::sink::{loose, pack};
use crate::git::object::Oid;
use crate::pack::reader::PackReader;
use crate::repository::error::MirrorError;
use crate::repository::layout::Layout;
use crate::repository::packs::StoredPack;
use crate::repository::publish::AllStored;
use crate::store::Key;

/// Proof that every object of every pack that was asked for is stored. Only a clean end of
/// [`store_pack`] makes one, or a run that needs no pack, and publishing consumes one.
#[must_use]
pub(crate) struct Complete {
    /// The pack that holds them, if they are not loose.
    pub(crate) pack: Option<StoredPack>,
    in_slices: bool,
    _private: (),
}

impl Complete {
    /// Every wanted object is stored already: each is reached by a ref that is published.
    pub(crate) fn nothing_to_fetch() -> Self {
        Complete { pack: None, in_slices: false, _private: () }
    }

    /// Everything was stored in slices: for `slices.rs` and its caller alone.
    pub(crate) fn in_slices() -> Self {
        Complete { in_slices: true, pack: None, _private: () }
    }

    /// Did it come in slices?
    pub(crate) fn is_in_slices(&self) -> bool {
        self.in_slices
    }

    /// Everything was copied from a whole mirror, and proven: for `transfer` alone, whose own proof
    /// comes before this one.
    pub(crate) fn by_copying() -> Self {
        Complete { pack: None, in_slices: false, _private: () }
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
    env: &RunContext<'_>,
) -> Result<Complete, MirrorError> {
    let queue = Queue::new(env.budget.ahead);
    std::thread::scope(|threads| {
        std::thread::Builder::new()
            .name("source".into())
            .spawn_scoped(threads, || queue.fill(stream))
            .map_err(|error| cannot_start(&error))?;
        store_stream(Ahead(&queue), &|| queue.is_empty(), wants, env)
    })
}

fn store_stream(
    stream: impl Read,
    starved: &dyn Fn() -> bool,
    wants: &[Oid],
    env: &RunContext<'_>,
) -> Result<Complete, MirrorError> {
    let pack = PackReader::new(stream, env.format)?;
    if let Some(warning) = env.layout.warning(pack.object_count()) {
        log::warn!("{}: {warning}", env.store.describe());
    }
    let sink = sink_of(env, pack.object_count(), wants)?;
    let stored = run_pack(pack, starved, &*sink, env)?;
    Ok(Complete { pack: stored, in_slices: false, _private: () })
}

/// Checks a pack that is stored: `stream` has its bytes. `examiner` hears every object, and so does
/// `RunContext::observe`; nothing is written but temporary keys. Answers the name that its trailer gives it.
pub(crate) fn check_pack(
    stream: impl Read + Send,
    (key, len): (Key, u64),
    env: &RunContext<'_>,
    examiner: &dyn Examiner,
) -> Result<Option<StoredPack>, MirrorError> {
    let sink = Check::new(env.store, env.format, (key, len), env.budget.parts, examiner);
    run_pack(PackReader::new(stream, env.format)?, &|| false, &sink, env)
}

/// Takes a pack through the engine: starts the threads and joins them.
fn run_pack(
    pack: PackReader<impl Read>,
    starved: &dyn Fn() -> bool,
    sink: &dyn Sink,
    env: &RunContext<'_>,
) -> Result<Option<StoredPack>, MirrorError> {
    env.progress.expect_objects(u64::from(pack.object_count()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (engine, queues) = Engine::new(env, sink, cores);
    let pool = rayon::ThreadPoolBuilder::new()
        // One waits now and then, for a batch or for its turn.
        .num_threads(cores + 1)
        .thread_name(|number| format!("resolve.{number}"))
        .build()
        .map_err(|error| MirrorError::Internal(format!("cannot start threads: {error}")))?;
    // No more threads than a small pack can use.
    let requesters = env.concurrency.clamp(1, pack.object_count().max(4) as usize);
    let mut stored = None;
    let stored_slot = &mut stored;
    pool.in_place_scope(|pool| {
        std::thread::scope(|threads| {
            // Before anybody is waited for, on every way out.
            let _dismissed = Dismiss(&engine, requesters);
            for number in 0..requesters {
                let (engine, queues) = (&engine, &queues);
                let named = std::thread::Builder::new().name(format!("request.{number}"));
                let body = move || engine.serve_requests(pool, queues);
                if let Err(error) = named.spawn_scoped(threads, body) {
                    return engine.fail(cannot_start(&error));
                }
            }
            let named = std::thread::Builder::new().name("heavy.0".into());
            let (engine, queues) = (&engine, &queues);
            let body = move || engine.serve_heavy(pool, queues);
            if let Err(error) = named.spawn_scoped(threads, body) {
                return engine.fail(cannot_start(&error));
            }
            engine.guard(|| {
                *stored_slot = engine.run(&Hands::full(pool), pack, starved)?;
                Ok(())
            });
        });
    });
    engine.end()?;
    Ok(stored)
}

/// Lets the request threads and the heavy one go.
struct Dismiss<'a, 'e>(&'a Engine<'e>, usize);

impl Drop for Dismiss<'_, '_> {
    fn drop(&mut self) {
        self.0.dismiss(self.1);
    }
}

fn cannot_start(error: &std::io::Error) -> MirrorError {
    MirrorError::Internal(format!("cannot start a thread: {error}"))
}

/// The run's layout. `objects`: what the pack's header promises; `wants` must be among them.
fn sink_of<'e>(
    env: &'e RunContext<'e>,
    objects: u32,
    wants: &[Oid],
) -> Result<Box<dyn Sink + 'e>, MirrorError> {
    Ok(match env.layout {
        Layout::Loose => Box::new(loose::Loose::new(wants)),
        Layout::Pack => Box::new(pack::Pack::begin(env, objects, wants)?),
    })
}

impl Engine<'_> {
    fn serve_requests<'s>(&'s self, pool: &Scope<'s>, queues: &Queues) {
        while let Ok(Signal::Job) = queues.signals.recv() {
            let job = queues.urgent.try_recv().or_else(|_| queues.requests.try_recv());
            if let Ok(job) = job
                && !self.is_over()
            {
                self.on_network(|| self.guard(|| self.serve(&Hands::full(pool), job)));
            }
        }
    }

    fn serve_heavy<'s>(&'s self, pool: &Scope<'s>, queues: &Queues) {
        while let Ok(Some(heavy)) = queues.heavy.recv() {
            if !self.is_over() {
                self.on_network(|| self.guard(|| self.run_heavy(&Hands::full(pool), heavy)));
            }
        }
    }
}
