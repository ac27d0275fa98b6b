//! One pack from its stream to its end: starts the threads that `engine.rs` describes, and joins them.

use std::io::Read;

use crossbeam::channel::{Receiver, bounded, select_biased};
use rayon::Scope;

use super::ahead::{Ahead, Queue};
use super::engine::{Engine, Queues, Sink};
use super::env::Env;
use super::sink::{loose, pack};
use crate::git::object::Oid;
use crate::pack::reader::PackReader;
use crate::repository::error::MirrorError;
use crate::repository::layout::Layout;
use crate::repository::packs::StoredPack;
use crate::repository::publish::AllStored;

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
        store_stream(Ahead(&queue), &|| queue.is_empty(), wants, env)
    })
}

fn store_stream(
    stream: impl Read,
    starved: &dyn Fn() -> bool,
    wants: &[Oid],
    env: &Env<'_>,
) -> Result<Complete, MirrorError> {
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
                *stored_slot = engine.run(scope, pack, starved)?;
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

/// The run's layout. `objects`: what the pack's header promises; `wants` must be among them.
fn sink_of<'e>(
    env: &'e Env<'e>,
    objects: u32,
    wants: &[Oid],
) -> Result<Box<dyn Sink + 'e>, MirrorError> {
    Ok(match env.layout {
        Layout::Loose => Box::new(loose::Loose::new(wants)),
        Layout::Pack => Box::new(pack::Pack::begin(env, objects, wants)?),
    })
}

impl Engine<'_> {
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
}
