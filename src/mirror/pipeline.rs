//! From a stream of pack bytes to stored objects: every thread, and what it may wait for.
//!
//! | thread | owns | waits for | ends when |
//! |---|---|---|---|
//! | reader: the caller | the source's response | the source; room in the gate | the pack has ended and nothing runs |
//! | `resolve.N`: rayon, one a core | nothing | nothing | the scope ends |
//! | `request.N`: up to `--concurrency` | one request | the store; a running read of the same base | `quit` is closed |
//! | `large.0` | the large delta in hand | the store; room for a part | `quit` is closed |
//!
//! The reader demultiplexes, parses and inflates, and asks the [`Gate`] for room before it takes an
//! entry. Resolve tasks hash, apply deltas and deflate; they never wait, so a started one ends. A
//! delta whose base is not resolved waits in the [`Table`], never in a thread; its base's task wakes
//! it ([`Engine::pump`]). The queues are unbounded in number and bounded in bytes: every job in
//! one holds a [`Permit`], which is also what keeps the run from being called idle. All waits point
//! downstream: reader → (resolve, large) → request → store.
//!
//! **Order that [`Engine::pump`] relies on.** A task that ends gives back its bytes, then pumps,
//! then drops its permit. So whenever nothing runs, no ready delta is left behind, and what is
//! parked can only be woken by entries still to come: the reader may spill it, or, at the end of
//! the pack, call it unresolvable.
//!
//! The first error wins: it closes the gate, jobs in queues are dropped, everyone leaves, and the
//! reader joins all. A panic in a task is such an error, not a hang.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::channel::{Receiver, Sender, bounded, select_biased, unbounded};
use rayon::Scope;

use super::bases::{Bases, Content};
use super::existing::Existing;
use super::gate::{Entered, Gate, Permit};
use super::large::{self, LargeDelta};
use super::layout::pack::{self, PackReadBack, StoredPack};
use super::layout::{Layout, TEMPORARY, loose};
use super::parts::{Ledger, Parts, copy_any_size};
use super::temp::TempKeys;
use super::{Cancel, MirrorError};
use crate::git::lfs_pointer::MAX_POINTER_LEN;
use crate::git::object::{Kind, ObjectHasher, Oid, hash_object};
use crate::pack::deflate::Deflater;
use crate::pack::delta::{self, DeltaHeader};
use crate::pack::entry::{EntryHeader, EntryKind};
use crate::pack::index::IndexEntry;
use crate::pack::loose::{Rewrap, encode_loose};
use crate::pack::reader::{PackError, PackReader};
use crate::pack::resolver::{BaseName, Index, Object, Resolver};
use crate::progress::Progress;
use crate::store::{Key, Store};

/// What a queued entry or delta costs beside its bytes: maps, tasks, vectors.
const OVERHEAD_BYTES: u64 = 512;

/// Memory that is taken at once for an entry of a promised length; more only as bytes arrive.
const TRUSTED_BYTES: u64 = 1 << 20;

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
    /// Sees the content of every blob that may be an LFS pointer by its size. Called by resolve
    /// tasks: it must not wait.
    pub(crate) small_blob: &'e (dyn Fn(&[u8]) + Sync),
}

/// What a run has stored so far.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// How the working memory is shared out, in bytes.
///
/// About half of it is counted here. The other half is for what can't be: buffers of connections,
/// queues, tables, and what the allocator loses to fragmentation when threads free what others have
/// allocated (measured: a process grows by one and a half to two bytes for each that is counted).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The LRU of bases.
    pub(crate) bases: u64,
    /// Entries that the reader has taken.
    pub(crate) entries: u64,
    /// Results of tasks.
    pub(crate) results: u64,
    /// Parts of a pack that is kept as it comes.
    pub(crate) parts: u64,
    /// The first part of it, and what an index may take at once.
    pub(crate) part: u64,
    /// Above this an object is streamed and never whole in memory.
    pub(crate) large: u64,
}

impl Budget {
    pub(crate) fn of(memory_bytes: u64, layout: Layout) -> Self {
        let part = (memory_bytes / 8).clamp(5 << 20, 64 << 20);
        match layout {
            Layout::Loose => Budget {
                bases: memory_bytes / 4,
                entries: memory_bytes / 8,
                results: memory_bytes / 8,
                parts: 0,
                part,
                large: (memory_bytes / 16).clamp(256 << 10, 64 << 20),
            },
            // One part that fills and one or two on their way; the second pass reads blocks, for
            // which the parts' share is free by then.
            Layout::Pack => Budget {
                bases: memory_bytes / 4,
                entries: memory_bytes / 16,
                results: memory_bytes / 16,
                parts: memory_bytes / 4,
                part,
                large: (memory_bytes / 16).clamp(256 << 10, 32 << 20),
            },
        }
    }
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

/// Stores every object of the pack that `stream` yields. Returns when all are stored, or with the
/// first error, in both cases with all threads joined. `wants` must be among them.
pub(crate) fn store_pack(
    stream: impl Read,
    wants: &[Oid],
    env: &Env<'_>,
) -> Result<Complete, MirrorError> {
    let pack = PackReader::new(stream)?;
    env.progress.expect_objects(u64::from(pack.object_count()));
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
                    Layout::Loose => engine.read_pack(scope, &mut { pack })?,
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
    bases: Bases,
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
    /// The stored pack, in the pack layout's second pass.
    read_back: OnceLock<PackReadBack>,
}

/// The receiving ends.
struct Queues {
    requests: Receiver<Job>,
    urgent: Receiver<Job>,
    large: Receiver<LargeDelta>,
}

/// Which entry is what, and which deltas wait. The reader adds entries and deltas; the task that
/// resolves an object moves its waiters to `ready`; [`Engine::pump`] takes them from there. Guarded
/// by [`Engine::table`]; no I/O, no channel and no rayon call happens under that lock.
struct Table {
    resolver: Resolver,
    /// Deltas that do not run yet, by entry.
    parked: HashMap<Index, Delta>,
    /// Deltas whose base is resolved, with the base: last in, first out, so that a family is
    /// resolved depth first and its bases are still in memory.
    ready: Vec<(Index, Index)>,
    /// Pack layout, first pass: deltas that were ready and whose base has left memory.
    deferred: Vec<(Index, Index)>,
    /// Pack layout: each entry's CRC-32, in pack order.
    crcs: Vec<u32>,
}

/// A delta that does not run yet.
pub(super) struct Delta {
    pub(super) header: DeltaHeader,
    pub(super) bytes: DeltaBytes,
}

/// Where a delta's instructions are.
pub(super) enum DeltaBytes {
    /// Here, with the permit for them. Boxed: hundreds of thousands of deltas may be parked that
    /// are somewhere else.
    Memory(Box<(Vec<u8>, Permit)>),
    /// In a temporary key, with others: it was spilled, or is too large for memory.
    Stored(Box<(Arc<Key>, Range<u64>)>),
    /// In the pack itself, which is kept (pack layout); so many bytes when inflated.
    InPack { len: u64 },
}

impl DeltaBytes {
    fn len(&self) -> u64 {
        match self {
            DeltaBytes::Memory(held) => held.0.len() as u64,
            DeltaBytes::Stored(place) => place.1.end - place.1.start,
            DeltaBytes::InPack { len } => *len,
        }
    }
}

/// Work for the request threads. Each holds its permit until it has ended.
pub(super) enum Job {
    /// Store a loose object.
    Put { index: Index, oid: Oid, body: Vec<u8>, permit: Permit },
    /// Store a part of a large one.
    Part { object: Arc<LargeObject>, number: u32, body: Vec<u8>, permit: Permit },
    /// All parts were in when the last one was cut: finish it.
    Finish { object: Arc<LargeObject>, permit: Permit },
    /// Bring a delta's base, and the delta itself, back into memory; then run it.
    Fetch { task: DeltaTask },
}

/// A large object whose parts are on their way.
pub(super) struct LargeObject {
    pub(super) ledger: Ledger,
    /// Set before the ledger is closed.
    identity: Mutex<Option<(Index, Object)>>,
    stored_len: AtomicU64,
}

impl LargeObject {
    /// One whose name is not known, or that never gets one of its own.
    pub(super) fn unnamed(ledger: Ledger) -> Self {
        LargeObject { ledger, identity: Mutex::new(None), stored_len: AtomicU64::new(0) }
    }
}

/// A delta that runs: what it needs, and its room.
pub(super) struct DeltaTask {
    index: Index,
    base: Index,
    base_object: Object,
    delta: Delta,
    /// For the result, its deflated form, and what is read back.
    permit: Permit,
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

    // ---- the reader ----------------------------------------------------------------------

    /// Reads every entry of the pack and hands it on.
    pub(super) fn read_pack<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        scope: &Scope<'s>,
        pack: &mut PackReader<R, T>,
    ) -> Result<(), MirrorError> {
        let mut received = 0;
        while let Some(header) = pack.next_entry()? {
            if self.is_over() {
                // Whoever closed the gate has said why.
                return Ok(());
            }
            let added = self.table().resolver.add(&header);
            let (index, base) = added.map_err(|error| MirrorError::Pack(error.to_string()))?;
            let small = header.inflated_len <= self.env.budget.large;
            match (header.kind, base) {
                (EntryKind::Object(kind), _) if small => {
                    self.read_object(scope, pack, &header, index, kind)?;
                }
                (EntryKind::Object(kind), _) => {
                    self.read_large_object(scope, pack, &header, index, kind)?;
                }
                (_, Some(base)) if small => self.read_delta(scope, pack, &header, index, base)?,
                (_, Some(base)) => self.read_large_delta(scope, pack, &header, index, base)?,
                (_, None) => unreachable!("the resolver names every delta's base"),
            }
            self.env.progress.received(pack.position() - received);
            received = pack.position();
        }
        Ok(())
    }

    /// Room for the reader. When parked deltas hold it all, they are spilled.
    fn enter(&self, bytes: u64) -> Result<Permit, MirrorError> {
        loop {
            match self.gate.enter(bytes) {
                Entered::Permit(permit) => return Ok(permit),
                Entered::Stalled => self.spill()?,
                Entered::Closed => return Err(self.closed()),
            }
        }
    }

    /// The answer for somebody who finds the gate closed: the failure that closed it is told by
    /// [`Engine::end`], which prefers it to this.
    pub(super) fn closed(&self) -> MirrorError {
        MirrorError::Interrupted
    }

    fn read_object<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        scope: &Scope<'s>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
        index: Index,
        kind: Kind,
    ) -> Result<(), MirrorError> {
        let len = header.inflated_len;
        let keeps_pack = self.env.layout == Layout::Pack;
        let room = if keeps_pack { len } else { 2 * len } + OVERHEAD_BYTES;
        let mut permit = self.enter(room)?;
        let mut content = Vec::with_capacity(len.min(TRUSTED_BYTES) as usize);
        if keeps_pack {
            let end = pack.read_small(None, &mut content)?;
            self.note_crc(end.crc32);
            permit.shrink(content.capacity() as u64 + OVERHEAD_BYTES);
            scope.spawn(move |scope| {
                self.guard(|| self.accept(scope, index, kind, content, None, permit));
            });
            return Ok(());
        }
        let mut body = Vec::new();
        let mut rewrap = Some(Rewrap::new(kind, len, &mut body));
        pack.read_body(|raw, inflated| {
            content.extend_from_slice(inflated);
            if let Some(rewrap) = &mut rewrap {
                rewrap.push(raw, &mut body);
            }
            // Deflate blocks that grow far beyond what they hold (a hostile pack: empty blocks)
            // are not kept: the content is deflated anew.
            if body.len() as u64 > room {
                rewrap = None;
                body = Vec::new();
            }
            Ok::<_, MirrorError>(())
        })?;
        let body = match rewrap {
            Some(rewrap) => {
                rewrap.finish(&mut body).map_err(|error| self.broken(index, error))?;
                Some(body)
            }
            None => None,
        };
        let held = content.capacity() + body.as_ref().map_or(content.len(), Vec::capacity);
        permit.shrink(held as u64 + OVERHEAD_BYTES);
        scope.spawn(move |scope| {
            self.guard(|| self.accept(scope, index, kind, content, body, permit));
        });
        Ok(())
    }

    fn read_delta<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        scope: &Scope<'s>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
        index: Index,
        base: BaseName,
    ) -> Result<(), MirrorError> {
        let mut permit = self.enter(header.inflated_len + OVERHEAD_BYTES)?;
        let mut bytes = Vec::new();
        let end = pack.read_small(None, &mut bytes)?;
        self.note_crc(end.crc32);
        let (delta_header, _) =
            delta::parse_header(&bytes).map_err(|error| self.broken(index, error))?;
        permit.park();
        let delta =
            Delta { header: delta_header, bytes: DeltaBytes::Memory(Box::new((bytes, permit))) };
        self.park(scope, index, base, delta);
        Ok(())
    }

    fn note_crc(&self, crc32: u32) {
        if self.env.layout == Layout::Pack {
            self.table().crcs.push(crc32);
        }
    }

    fn park<'s>(&'s self, scope: &Scope<'s>, index: Index, base: BaseName, delta: Delta) {
        let mut table = self.table();
        table.parked.insert(index, delta);
        let Some(base) = table.resolver.base_or_wait(index, base) else { return };
        table.ready.push((index, base));
        drop(table);
        self.pump(scope);
    }

    /// An object over the budget: its parts leave as they fill, its name is known at the end.
    fn read_large_object<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        scope: &Scope<'s>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
        index: Index,
        kind: Kind,
    ) -> Result<(), MirrorError> {
        let len = header.inflated_len;
        let mut hasher = ObjectHasher::new(kind, len);
        if self.env.layout == Layout::Pack {
            let end = pack.read_body(|_, inflated| {
                hasher.update(inflated);
                Ok::<_, MirrorError>(())
            })?;
            self.note_crc(end.crc32);
            self.resolved(index, Object { oid: hasher.finish(), kind, len });
            self.env.progress.object_done(0);
            self.pump(scope);
            return Ok(());
        }
        let mut sink = self.begin_large("object")?;
        let mut rewrap = Rewrap::new(kind, len, &mut sink.parts.body);
        pack.read_body(|raw, inflated| {
            hasher.update(inflated);
            rewrap.push(raw, &mut sink.parts.body);
            self.send_full_part(&mut sink)
        })?;
        rewrap.finish(&mut sink.parts.body).map_err(|error| self.broken(index, error))?;
        let object = Object { oid: hasher.finish(), kind, len };
        self.end_large(sink, index, object)
    }

    fn begin_large(&self, what: &str) -> Result<LargeSink, MirrorError> {
        let key = self.env.temp.key(what);
        let upload = self.env.temp.create_upload(&key, loose::HEADERS)?;
        let parts = Parts::new(self.env.store.limits());
        let permit = self.enter(parts.part_bytes() + OVERHEAD_BYTES)?;
        let object = LargeObject::unnamed(Ledger::new(upload));
        Ok(LargeSink { parts, permit: Some(permit), object: Arc::new(object) })
    }

    fn send_full_part(&self, sink: &mut LargeSink) -> Result<(), MirrorError> {
        let Some((number, body)) = sink.parts.take_full() else { return Ok(()) };
        sink.object.ledger.sent();
        sink.object.stored_len.fetch_add(body.len() as u64, Ordering::Relaxed);
        // The reader must hold no permit while it asks for the next one: it would look like running
        // work, and the gate would never say that only parked deltas are left.
        if let Some(permit) = sink.permit.take() {
            let object = Arc::clone(&sink.object);
            self.send(&self.requests, Job::Part { object, number, body, permit });
        }
        sink.permit = Some(self.enter(sink.parts.part_bytes() + OVERHEAD_BYTES)?);
        Ok(())
    }

    fn end_large(
        &self,
        sink: LargeSink,
        index: Index,
        identity: Object,
    ) -> Result<(), MirrorError> {
        let LargeSink { parts, permit, object } = sink;
        let permit = permit.ok_or_else(|| self.closed())?;
        *object.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, identity));
        let last = parts.take_last();
        if last.is_some() {
            object.ledger.sent();
        }
        let all_in = object.ledger.close();
        if let Some((number, body)) = last {
            object.stored_len.fetch_add(body.len() as u64, Ordering::Relaxed);
            self.send(&self.requests, Job::Part { object, number, body, permit });
        } else if all_in {
            self.send(&self.requests, Job::Finish { object, permit });
        }
        Ok(())
    }

    /// A delta over the budget waits in the store.
    fn read_large_delta<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        scope: &Scope<'s>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
        index: Index,
        base: BaseName,
    ) -> Result<(), MirrorError> {
        if self.env.layout == Layout::Pack {
            let mut beginning = Vec::new();
            let end = pack.read_body(|_, inflated| {
                keep_beginning(&mut beginning, inflated);
                Ok::<_, MirrorError>(())
            })?;
            self.note_crc(end.crc32);
            let (delta_header, _) =
                delta::parse_header(&beginning).map_err(|error| self.broken(index, error))?;
            let bytes = DeltaBytes::InPack { len: header.inflated_len };
            self.park(scope, index, base, Delta { header: delta_header, bytes });
            return Ok(());
        }
        let key = self.env.temp.key("delta");
        let mut upload = large::InlineUpload::begin(self.env, &key, TEMPORARY)?;
        let _permit = self.enter(upload.parts.part_bytes())?;
        let mut beginning = Vec::new();
        pack.read_body(|_, inflated| {
            keep_beginning(&mut beginning, inflated);
            upload.parts.body.extend_from_slice(inflated);
            upload.send_full_part()
        })?;
        upload.finish()?;
        let (delta_header, _) =
            delta::parse_header(&beginning).map_err(|error| self.broken(index, error))?;
        let place = (Arc::new(key), 0..header.inflated_len);
        let bytes = DeltaBytes::Stored(Box::new(place));
        self.park(scope, index, base, Delta { header: delta_header, bytes });
        Ok(())
    }

    /// Moves parked deltas into the store. Only the reader calls it, and only when nothing runs:
    /// then nothing is ready either, and no task looks at what is parked.
    fn spill(&self) -> Result<(), MirrorError> {
        let mut waiting: Vec<Index> = {
            let table = self.table();
            let in_memory = table.parked.iter().filter(|(_, d)| d.bytes.is_in_memory());
            in_memory.map(|(index, _)| *index).collect()
        };
        if waiting.is_empty() {
            return Err(MirrorError::Internal("the gate is full of nothing".into()));
        }
        // In pack order: what was written together is likely to be wanted together.
        waiting.sort_unstable();
        log::debug!("spilling {} deltas that came before their bases", waiting.len());
        if self.env.layout == Layout::Pack {
            // They are in the pack: nothing is written.
            let mut table = self.table();
            for index in waiting {
                let delta = table.parked.get_mut(&index).expect("only the reader parks and spills");
                delta.bytes = DeltaBytes::InPack { len: delta.bytes.len() };
            }
            return Ok(());
        }
        let batch_bytes = (self.env.budget.entries / 2).min(8 << 20) as usize;
        let mut batch = Vec::new();
        let mut spilled = Vec::new();
        for index in waiting {
            let mut table = self.table();
            let delta = table.parked.get_mut(&index).expect("only the reader parks and spills");
            if let DeltaBytes::Memory(held) = &delta.bytes {
                let bytes = &held.0;
                spilled.push((index, batch.len() as u64, bytes.len() as u64));
                batch.extend_from_slice(bytes);
            }
            drop(table);
            if batch.len() >= batch_bytes {
                self.spill_batch(&mut batch, &mut spilled)?;
            }
        }
        self.spill_batch(&mut batch, &mut spilled)
    }

    fn spill_batch(
        &self,
        batch: &mut Vec<u8>,
        spilled: &mut Vec<(Index, u64, u64)>,
    ) -> Result<(), MirrorError> {
        if spilled.is_empty() {
            return Ok(());
        }
        let key = Arc::new(self.env.temp.key("deltas"));
        self.env.store.put(&key, batch, TEMPORARY, None)?;
        batch.clear();
        let mut table = self.table();
        for (index, offset, len) in spilled.drain(..) {
            let delta = table.parked.get_mut(&index).expect("only the reader parks and spills");
            delta.bytes = DeltaBytes::Stored(Box::new((Arc::clone(&key), offset..offset + len)));
        }
        Ok(())
    }

    // ---- tasks ---------------------------------------------------------------------------

    /// An object's content is known: name it, wake its deltas, store it. `body` is its loose form
    /// if the pack's deflate blocks could be kept.
    pub(super) fn accept<'s>(
        &'s self,
        scope: &Scope<'s>,
        index: Index,
        kind: Kind,
        content: Vec<u8>,
        body: Option<Vec<u8>>,
        mut permit: Permit,
    ) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let oid = hash_object(kind, &content);
        let object = Object { oid, kind, len: content.len() as u64 };
        if kind == Kind::Blob && content.len() < MAX_POINTER_LEN {
            (self.env.small_blob)(&content);
        }
        let content: Content = Arc::new(content);
        if self.env.layout == Layout::Pack {
            // Remembered before anybody can be told that it is there.
            self.bases.remember(index, content);
            self.resolved(index, object);
            self.env.progress.object_done(0);
            self.end_task(scope, permit);
            return Ok(());
        }
        // Pinned before anybody can be told that it is there.
        self.bases.pin(index, Arc::clone(&content));
        let stored_already = self.env.existing.contains(&oid);
        let first = self.resolved(index, object);
        if !first || stored_already {
            match first {
                true => self.bases.unpin(index),
                false => self.bases.forget(index),
            }
            drop(content);
            self.env.progress.object_done(0);
            self.end_task(scope, permit);
            return Ok(());
        }
        self.pump(scope);
        let body = body.unwrap_or_else(|| deflate_loose(kind, &content));
        permit.shrink((content.capacity() + body.capacity()) as u64 + OVERHEAD_BYTES);
        self.send(&self.requests, Job::Put { index, oid, body, permit });
        Ok(())
    }

    /// Enters an object into the table and makes its waiters ready. True if it is the first with
    /// its oid.
    fn resolved(&self, index: Index, object: Object) -> bool {
        let mut table = self.table();
        let (first, waiters) = table.resolver.resolved(index, object);
        // A duplicate's content is the first one's, which is pinned or stored.
        let base = table.resolver.find(&object.oid).unwrap_or(index);
        table.ready.extend(waiters.into_iter().map(|delta| (delta, base)));
        first
    }

    /// Gives back the bytes, starts what fits now, and only then stops counting as running.
    pub(super) fn end_task<'s>(&'s self, scope: &Scope<'s>, mut permit: Permit) {
        permit.shrink(0);
        self.pump(scope);
    }

    /// Starts every ready delta that there is room for.
    fn pump<'s>(&'s self, scope: &Scope<'s>) {
        while let Some(start) = self.next_ready() {
            match start {
                Start::Run(task, base) => scope.spawn(move |scope| {
                    self.guard(|| self.run_delta(scope, task, base));
                }),
                Start::Fetch(task) => self.send(&self.urgent, Job::Fetch { task }),
                Start::Large(delta) => self.send(&self.large, delta),
                Start::Deferred => {}
            }
        }
    }

    fn next_ready(&self) -> Option<Start> {
        let mut table = self.table();
        let &(index, base) = table.ready.last()?;
        let base_object = table.resolver.object(base)?;
        let delta = table.parked.get(&index)?;
        let sizes = [base_object.len, delta.header.result_len, delta.bytes.len()];
        let large = sizes.iter().any(|size| *size > self.env.budget.large);
        let in_memory = delta.bytes.is_in_memory();
        let content = self.bases.get(base).filter(|_| in_memory && !large);
        let first_pass = self.env.layout == Layout::Pack && self.read_back.get().is_none();
        if first_pass && content.is_none() {
            return table.defer();
        }
        if large {
            let permit = self.gate.token()?;
            let delta = table.take_ready()?;
            return Some(Start::Large(LargeDelta { index, base, base_object, delta, permit }));
        }
        let read_back = if in_memory { 0 } else { delta.bytes.len() };
        // The result and its deflated form; the base, and once more while it is inflated.
        let room = 2 * (delta.header.result_len + base_object.len) + read_back + OVERHEAD_BYTES;
        let permit = self.gate.try_results(room)?;
        let delta = table.take_ready()?;
        let task = DeltaTask { index, base, base_object, delta, permit };
        Some(match content {
            Some(content) => Start::Run(task, content),
            None => Start::Fetch(task),
        })
    }

    fn run_delta<'s>(
        &'s self,
        scope: &Scope<'s>,
        task: DeltaTask,
        base: Content,
    ) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let DeltaTask { index, base_object, delta, permit, .. } = task;
        let DeltaBytes::Memory(held) = delta.bytes else {
            return Err(MirrorError::Internal("a delta runs that is not in memory".into()));
        };
        let (bytes, entry_permit) = *held;
        let mut content = Vec::new();
        delta::apply(&base, &bytes, &mut content).map_err(|error| {
            self.broken(index, format!("delta against {}: {error}", base_object.oid))
        })?;
        drop((bytes, entry_permit, base));
        self.accept(scope, index, base_object.kind, content, None, permit)
    }

    // ---- request threads -----------------------------------------------------------------

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
                self.guard(|| self.serve(scope, job));
            }
        }
    }

    fn serve<'s>(&'s self, scope: &Scope<'s>, job: Job) -> Result<(), MirrorError> {
        match job {
            Job::Put { index, oid, body, permit } => {
                self.env.store.put(&loose::key(&oid), &body, loose::HEADERS, None)?;
                self.bases.unpin(index);
                self.count_stored(body.len() as u64);
                drop(body);
                self.end_task(scope, permit);
            }
            Job::Part { object, number, body, permit } => {
                let part = self.env.store.put_part(&object.ledger.upload, number, &body)?;
                drop(body);
                if object.ledger.stored(part) {
                    self.finish_large(scope, &object)?;
                }
                self.end_task(scope, permit);
            }
            Job::Finish { object, permit } => {
                self.finish_large(scope, &object)?;
                self.end_task(scope, permit);
            }
            Job::Fetch { task } => self.fetch(scope, task)?,
        }
        Ok(())
    }

    fn count_stored(&self, bytes: u64) {
        self.env.written.objects.fetch_add(1, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.env.progress.object_done(bytes);
    }

    /// All parts of a large object are in: it gets its name.
    fn finish_large<'s>(
        &'s self,
        scope: &Scope<'s>,
        object: &LargeObject,
    ) -> Result<(), MirrorError> {
        let identity = *object.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((index, identity)) = identity else {
            return Err(MirrorError::Internal("a large object without a name".into()));
        };
        let len = object.stored_len.load(Ordering::Relaxed);
        self.store_large(scope, &object.ledger.upload, object.ledger.parts(), len, index, identity)
    }

    /// Gives an object that was uploaded in parts its final key, and enters it into the table:
    /// only then, since its deltas read it back from there.
    pub(super) fn store_large<'s>(
        &'s self,
        scope: &Scope<'s>,
        upload: &crate::store::Upload,
        parts: Vec<crate::store::Part>,
        stored_len: u64,
        index: Index,
        object: Object,
    ) -> Result<(), MirrorError> {
        let (store, temp) = (self.env.store, self.env.temp);
        let known = self.table().resolver.find(&object.oid).is_some();
        if known || self.env.existing.contains(&object.oid) {
            store.abort_upload(upload)?;
            temp.upload_ended(upload);
            temp.forget(&upload.key);
            self.env.progress.object_done(0);
        } else {
            store.complete_upload(upload, &parts)?;
            temp.upload_ended(upload);
            let key = loose::key(&object.oid);
            copy_any_size(store, &upload.key, &key, stored_len, loose::HEADERS)?;
            temp.delete(&upload.key)?;
            self.count_stored(stored_len);
        }
        self.resolved(index, object);
        self.pump(scope);
        Ok(())
    }

    fn fetch<'s>(&'s self, scope: &Scope<'s>, mut task: DeltaTask) -> Result<(), MirrorError> {
        let bytes = match &task.delta.bytes {
            DeltaBytes::Memory(..) => None,
            DeltaBytes::Stored(place) => {
                let (key, range) = &**place;
                let len = range.end - range.start;
                Some(self.env.store.get(key, Some(range.clone()), len)?.0)
            }
            DeltaBytes::InPack { .. } => {
                let Some(bytes) = self.entry_from_pack(task.index)? else { return Ok(()) };
                Some(bytes)
            }
        };
        if let Some(bytes) = bytes {
            // Its bytes are counted by the task's own permit.
            let token = self.gate.token().ok_or_else(|| self.closed())?;
            task.delta.bytes = DeltaBytes::Memory(Box::new((bytes, token)));
        }
        // `None`: the thread that read it has failed, and has said why.
        let Some(base) = self.base_content(task.base, &task.base_object)? else { return Ok(()) };
        scope.spawn(move |scope| self.guard(|| self.run_delta(scope, task, base)));
        Ok(())
    }

    /// A base's content: from memory, or read back. `None`: another thread has failed to.
    pub(super) fn base_content(
        &self,
        base: Index,
        object: &Object,
    ) -> Result<Option<Content>, MirrorError> {
        match self.env.layout {
            Layout::Loose => {
                self.bases.get_or_read(base, || loose::read_back(self.env.store, object))
            }
            Layout::Pack => {
                if let Some(content) = self.bases.get(base) {
                    return Ok(Some(content));
                }
                let content = pack::rebuild(self, base)?;
                if let Some(content) = &content {
                    self.bases.remember(base, Arc::clone(content));
                }
                Ok(content)
            }
        }
    }

    // ---- the pack layout's second pass -----------------------------------------------------

    /// The pack can be read from `key` now: what was deferred is ready. Answers how many deltas.
    pub(super) fn begin_second_pass<'s>(&'s self, scope: &Scope<'s>, key: &Key, len: u64) -> usize {
        let read_back = PackReadBack::new(key.clone(), len, self.env.budget.parts / 2);
        let _ = self.read_back.set(read_back);
        let mut table = self.table();
        let mut deferred = std::mem::take(&mut table.deferred);
        // Last in, first out: so the pack is read from its beginning.
        deferred.sort_unstable_by(|a, b| b.cmp(a));
        table.ready.extend(deferred);
        let left = table.resolver.len() - table.resolver.resolved_count();
        drop(table);
        self.pump(scope);
        left
    }

    /// An entry's inflated body, from the stored pack.
    pub(super) fn entry_from_pack(&self, index: Index) -> Result<Option<Vec<u8>>, MirrorError> {
        let Some(read_back) = self.read_back.get() else {
            return Err(MirrorError::Internal("the pack is read before it is stored".into()));
        };
        let (start, end) = self.table().entry_range(index, read_back.len);
        read_back.entry(self.env.store, start, end)
    }

    /// The stored pack and where an entry begins in it.
    pub(super) fn place_in_pack(&self, index: Index) -> Option<(Key, u64)> {
        let read_back = self.read_back.get()?;
        Some((read_back.key.clone(), self.table().resolver.offset(index)))
    }

    pub(super) fn base_of(&self, index: Index) -> Option<Index> {
        self.table().resolver.base(index)
    }

    pub(super) fn remember_base(&self, index: Index, content: &Content) {
        self.bases.remember(index, Arc::clone(content));
    }

    /// The content of an object that was laid down raw and fits into memory.
    pub(super) fn raw_in_store(&self, index: Index) -> Result<Option<Vec<u8>>, MirrorError> {
        let Some(key) = self.raw_key(index) else { return Ok(None) };
        Ok(Some(self.env.store.get(&key, None, self.env.budget.large)?.0))
    }

    pub(super) fn raw_key(&self, index: Index) -> Option<Key> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    pub(super) fn set_raw_key(&self, index: Index, key: Key) {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).insert(index, key);
    }

    /// Does any delta but the one in hand wait, which might need its result?
    pub(super) fn others_wait(&self) -> bool {
        let table = self.table();
        table.resolver.len() - table.resolver.resolved_count() > 1
    }

    /// Pack layout: a large object that is not laid down anywhere but in the pack.
    pub(super) fn resolved_in_pack<'s>(&'s self, scope: &Scope<'s>, index: Index, object: Object) {
        self.resolved(index, object);
        self.env.progress.object_done(0);
        self.pump(scope);
    }

    /// What the index lists, when every entry is resolved.
    pub(super) fn index_entries(&self) -> Vec<IndexEntry> {
        let table = self.table();
        let objects = table.resolver.objects().zip(&table.crcs);
        objects.map(|((oid, offset), crc32)| IndexEntry { oid, crc32: *crc32, offset }).collect()
    }

    /// No base is needed any more: their memory is for the index.
    pub(super) fn forget_bases(&self) {
        self.bases.clear();
        if let Some(read_back) = self.read_back.get() {
            read_back.clear();
        }
    }

    pub(super) fn count_stored_pack(&self, objects: u64, bytes: u64) {
        self.env.written.objects.fetch_add(objects, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A job for the request threads.
    pub(super) fn request(&self, job: Job) {
        self.send(&self.requests, job);
    }

    // ---- the thread for large deltas -----------------------------------------------------

    fn serve_large<'s>(&'s self, scope: &Scope<'s>, queues: &Queues, quitting: &Receiver<()>) {
        loop {
            let delta = select_biased! {
                recv(queues.large) -> delta => delta,
                recv(quitting) -> _ => return,
            };
            let Ok(delta) = delta else { return };
            if !self.is_over() {
                self.guard(|| large::run(self, scope, delta));
            }
        }
    }

    /// The base's content if it is in memory.
    pub(super) fn base_in_memory(&self, base: Index) -> Option<Content> {
        self.bases.get(base)
    }
}

/// What the reader fills for a large object.
struct LargeSink {
    parts: Parts,
    /// For the part that is being filled; `None` only while the reader asks for the next.
    permit: Option<Permit>,
    object: Arc<LargeObject>,
}

/// How a ready delta starts.
enum Start {
    Run(DeltaTask, Content),
    Fetch(DeltaTask),
    Large(LargeDelta),
    /// Not now: its base has left memory, and the pack can't be read yet.
    Deferred,
}

impl Table {
    /// Puts the delta that is ready last off to the second pass; its bytes are in the pack.
    fn defer(&mut self) -> Option<Start> {
        let (index, base) = self.ready.pop()?;
        let delta = self.parked.get_mut(&index)?;
        delta.bytes = DeltaBytes::InPack { len: delta.bytes.len() };
        self.deferred.push((index, base));
        Some(Start::Deferred)
    }

    /// Where an entry's bytes lie in the pack: up to the next entry, or to the trailer.
    fn entry_range(&self, index: Index, pack_len: u64) -> (u64, u64) {
        let start = self.resolver.offset(index);
        let next = index as usize + 1;
        let last = next == self.resolver.len();
        let end = if last { pack_len - 20 } else { self.resolver.offset(next as Index) };
        (start, end)
    }

    /// Takes the delta that is ready last out of both lists.
    fn take_ready(&mut self) -> Option<Delta> {
        let (index, _) = self.ready.pop()?;
        let mut delta = self.parked.remove(&index)?;
        if let DeltaBytes::Memory(held) = &mut delta.bytes {
            held.1.unpark();
        }
        Some(delta)
    }
}

impl DeltaBytes {
    fn is_in_memory(&self) -> bool {
        matches!(self, DeltaBytes::Memory(..))
    }
}

/// A delta's header is at most two numbers of ten bytes.
fn keep_beginning(beginning: &mut Vec<u8>, inflated: &[u8]) {
    let missing = inflated.len().min(20 - beginning.len());
    beginning.extend_from_slice(&inflated[..missing]);
}

/// Deflates a loose object; each thread keeps its deflate state (300 KB, slow to set up).
fn deflate_loose(kind: Kind, content: &[u8]) -> Vec<u8> {
    thread_local! {
        static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(LEVEL));
    }
    DEFLATER.with_borrow_mut(|deflater| encode_loose(kind, content, deflater))
}

/// git's own default for loose objects (`core.looseCompression`): speed.
pub(super) const LEVEL: i32 = 1;
