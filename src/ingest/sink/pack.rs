//! The pack layout: the pack as it came, and its index, written while it streams.
//!
//! **First pass**, while the pack arrives: its bytes go to a multipart upload under a temporary key,
//! and the same pass inflates every entry, names every object and resolves every delta whose base is
//! in memory ([`PackUpload`]). A delta whose base has left memory is *deferred*: its bytes are in the
//! pack, so nothing of it is kept.
//!
//! **Second pass**, when the pack can be read: deferred deltas run like others, but that they and
//! their bases are read from the stored pack, in large aligned blocks through an LRU
//! ([`PackReadBack`]), in pack order, where git writes families together. A base that is a delta
//! itself is rebuilt down its chain from the nearest ancestor in memory. Measured figures are in the
//! README.
//!
//! Then the index is written, the pack is copied to its name, which is its trailer checksum because
//! a dumb reader stores it under that name, and the list `objects/info/packs` names it.

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;

use crate::git::object::Oid;
use crate::ingest::bases::{Bases, Content};
use crate::ingest::gate::Permit;
use crate::ingest::large::InlineUpload;
use crate::ingest::pipeline::{Engine, Env, Job, LargeObject};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, parse_header};
use crate::pack::index::write_index;
use crate::pack::inflate::Inflater;
use crate::pack::reader::PackReader;
use crate::pack::resolver::Index;
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::packs::{StoredPack, key};
use crate::repository::parts::{Ledger, Parts, copy_any_size};
use crate::store::{Key, ObjectHeaders, Store};

/// As git's own http-backend serves them (`http-backend.c`, `get_pack_file`, `get_idx_file`).
const PACK: ObjectHeaders = ObjectHeaders::immutable("application/x-git-packed-objects");
const INDEX: ObjectHeaders = ObjectHeaders::immutable("application/x-git-packed-objects-toc");

/// What one ranged GET brings of a stored pack. Measured: smaller blocks cost requests, larger ones
/// memory, and families lie close together.
const BLOCK_BYTES: u64 = 1 << 20;

/// Runs both passes over the pack. `None`: the pack is empty, and nothing was stored.
pub(crate) fn store<'s, R: io::Read>(
    engine: &'s Engine<'_>,
    scope: &Scope<'s>,
    pack: PackReader<R>,
    wants: &[Oid],
) -> Result<Option<StoredPack>, MirrorError> {
    let objects = u64::from(pack.object_count());
    let upload = Mutex::new(PackUpload::begin(engine)?);
    let lock = || upload.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pack = pack.with_tap(|bytes| lock().write(engine, bytes).map_err(io::Error::other));
    engine.read_pack(scope, &mut pack)?;
    let (trailer, len) = (pack.trailer(), pack.position());
    drop(pack);
    let upload = upload.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(trailer) = trailer else {
        // The gate was closed: whoever did it has said why.
        return Err(engine.closed());
    };
    if objects == 0 {
        upload.abort(engine)?;
        return Ok(None);
    }
    let temporary = upload.finish(engine)?;

    let deferred = engine.begin_second_pass(scope, &temporary, len);
    log::debug!("{deferred} deltas are left for the second pass");
    engine.gate.wait_idle();
    if engine.is_over() {
        return Err(engine.closed());
    }
    engine.all_resolved(wants)?;
    let mut entries = engine.index_entries();
    engine.forget_bases();

    let name = format!("pack-{trailer}");
    let index_key = key(&name, "idx");
    let store = engine.env.store;
    let pack_key = key(&name, "pack");
    // A source may send the same pack again; `--full` restores either file if it was lost.
    let has_pack = store.head(&pack_key)?.is_some_and(|info| info.len == len);
    if !has_pack || store.head(&index_key)?.is_none() {
        copy_any_size(engine.env.temp, &temporary, &pack_key, len, PACK)?;
        let mut index = IndexUpload::begin(engine)?;
        write_index(&mut entries, &trailer, &mut index).map_err(unwrap_error)?;
        index.finish(&index_key)?;
        engine.count_stored_pack(objects, len);
    }
    engine.env.temp.delete(&temporary)?;
    Ok(Some(StoredPack { name, objects, bytes: len }))
}

/// The error of ours that an I/O error carries through somebody else's code.
pub(crate) fn unwrap_error(error: io::Error) -> MirrorError {
    match error.downcast::<MirrorError>() {
        Ok(ours) => ours,
        Err(other) => MirrorError::Internal(other.to_string()),
    }
}

/// The pack's bytes on their way into a multipart upload.
struct PackUpload {
    object: Arc<LargeObject>,
    parts: Parts,
    /// For the part that is being filled. It counts as parked: while the reader fills a part and
    /// waits for room for an entry, this is nothing that will end by itself.
    permit: Option<Permit>,
}

impl PackUpload {
    fn begin(engine: &Engine<'_>) -> Result<Self, MirrorError> {
        let key = engine.env.temp.key("pack");
        let upload = engine.env.temp.create_upload(&key, PACK)?;
        let parts = Parts::of_at_least(engine.env.store.limits(), engine.env.budget.part);
        let object = Arc::new(LargeObject::unnamed(Ledger::new(upload)));
        Ok(PackUpload { object, parts, permit: None })
    }

    /// Takes the next bytes. Waits for room only when a part begins.
    fn write(&mut self, engine: &Engine<'_>, bytes: &[u8]) -> Result<(), MirrorError> {
        if self.permit.is_none() {
            let mut permit =
                engine.gate.wait_parts(self.parts.part_bytes()).ok_or_else(|| engine.closed())?;
            permit.park();
            self.permit = Some(permit);
        }
        self.parts.body.extend_from_slice(bytes);
        if let Some(part) = self.parts.take_full() {
            self.send(engine, part);
        }
        Ok(())
    }

    fn send(&mut self, engine: &Engine<'_>, (number, body): (u32, Vec<u8>)) {
        let Some(mut permit) = self.permit.take() else { return };
        permit.unpark();
        self.object.ledger.sent();
        engine.request(Job::Part { object: Arc::clone(&self.object), number, body, permit });
    }

    /// Sends the rest, waits for all parts, and makes the temporary key readable.
    fn finish(mut self, engine: &Engine<'_>) -> Result<Key, MirrorError> {
        let limits = engine.env.store.limits();
        let parts = std::mem::replace(&mut self.parts, Parts::of_at_least(limits, 0));
        if let Some(last) = parts.take_last() {
            self.send(engine, last);
        }
        engine.gate.wait_idle();
        if engine.is_over() {
            return Err(engine.closed());
        }
        let upload = &self.object.ledger.upload;
        engine.env.store.complete_upload(upload, &self.object.ledger.parts())?;
        engine.env.temp.upload_ended(upload);
        Ok(upload.key.clone())
    }

    fn abort(self, engine: &Engine<'_>) -> Result<(), MirrorError> {
        let upload = &self.object.ledger.upload;
        engine.env.store.abort_upload(upload)?;
        engine.env.temp.upload_ended(upload);
        engine.env.temp.forget(&upload.key);
        Ok(())
    }
}

/// The index on its way into the store: one PUT if it fits into a part, else a multipart upload.
struct IndexUpload<'e> {
    env: &'e Env<'e>,
    body: Vec<u8>,
    upload: Option<(Key, InlineUpload<'e>)>,
    len: u64,
}

impl<'e> IndexUpload<'e> {
    fn begin(engine: &Engine<'e>) -> Result<BufWriter<Self>, MirrorError> {
        let upload = IndexUpload { env: engine.env, body: Vec::new(), upload: None, len: 0 };
        Ok(BufWriter::with_capacity(64 << 10, upload))
    }
}

impl Write for IndexUpload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len += bytes.len() as u64;
        if let Some((_, upload)) = &mut self.upload {
            upload.parts.body.extend_from_slice(bytes);
            upload.send_full_part().map_err(io::Error::other)?;
            return Ok(bytes.len());
        }
        self.body.extend_from_slice(bytes);
        if self.body.len() as u64 >= self.env.budget.part {
            let key = self.env.temp.key("idx");
            let mut upload =
                InlineUpload::begin(self.env, &key, TEMPORARY).map_err(io::Error::other)?;
            upload.parts.body = std::mem::take(&mut self.body);
            upload.send_full_part().map_err(io::Error::other)?;
            self.upload = Some((key, upload));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends what [`IndexUpload`] began.
trait FinishIndex {
    fn finish(self, key: &Key) -> Result<(), MirrorError>;
}

impl FinishIndex for BufWriter<IndexUpload<'_>> {
    fn finish(self, key: &Key) -> Result<(), MirrorError> {
        let index = self.into_inner().map_err(|error| unwrap_error(error.into_error()))?;
        let IndexUpload { env, body, upload, len } = index;
        let Some((temporary, upload)) = upload else {
            env.store.put(key, &body, INDEX, None)?;
            return Ok(());
        };
        upload.finish()?;
        copy_any_size(env.temp, &temporary, key, len, INDEX)?;
        Ok(env.temp.delete(&temporary)?)
    }
}

/// A stored pack that is read in blocks.
pub(crate) struct PackReadBack {
    pub(crate) key: Key,
    /// Bytes, trailer included.
    pub(crate) len: u64,
    blocks: Bases,
}

impl PackReadBack {
    pub(crate) fn new(key: Key, len: u64, budget_bytes: u64) -> Self {
        PackReadBack { key, len, blocks: Bases::new(budget_bytes.max(4 * BLOCK_BYTES)) }
    }

    /// Gives the memory back.
    pub(crate) fn clear(&self) {
        self.blocks.clear();
    }

    /// The bytes of the pack in `start..end`. `None`: another thread's read of them failed, and
    /// has said why.
    fn range(
        &self,
        store: &dyn Store,
        start: u64,
        end: u64,
    ) -> Result<Option<Vec<u8>>, MirrorError> {
        let mut bytes = Vec::new();
        let mut at = start;
        while at < end {
            let number = at / BLOCK_BYTES;
            let block_start = number * BLOCK_BYTES;
            let block_end = (block_start + BLOCK_BYTES).min(self.len);
            let read = || -> Result<Vec<u8>, MirrorError> {
                let (block, _) = store.get(&self.key, Some(block_start..block_end), BLOCK_BYTES)?;
                if block.len() as u64 == block_end - block_start {
                    Ok(block)
                } else {
                    Err(MirrorError::Mirror(format!("{} has lost its end", self.key)))
                }
            };
            let Some(block) = self.blocks.get_or_read(number as Index, read)? else {
                return Ok(None);
            };
            let from = (at - block_start) as usize;
            let to = ((end - block_start) as usize).min(block.len());
            bytes.extend_from_slice(&block[from..to]);
            at = block_start + to as u64;
        }
        Ok(Some(bytes))
    }

    /// An entry's inflated body: an object's content, or a delta. Its raw bytes lie in `start..end`.
    pub(crate) fn entry(
        &self,
        store: &dyn Store,
        start: u64,
        end: u64,
    ) -> Result<Option<Vec<u8>>, MirrorError> {
        let Some(raw) = self.range(store, start, end)? else { return Ok(None) };
        let damaged = || {
            let key = &self.key;
            MirrorError::Mirror(format!("{key} can't be read back at offset {start}"))
        };
        let (header, used) = parse_header(&raw, start).ok().flatten().ok_or_else(damaged)?;
        inflate_whole(&raw[used..], &header).map(Some).ok_or_else(damaged)
    }
}

/// Inflates a body that the first pass has seen inflate well.
fn inflate_whole(raw: &[u8], header: &EntryHeader) -> Option<Vec<u8>> {
    thread_local! {
        static INFLATER: std::cell::RefCell<Inflater> = std::cell::RefCell::new(Inflater::new());
    }
    let mut out = vec![0; usize::try_from(header.inflated_len).ok()?];
    INFLATER.with_borrow_mut(|inflater| {
        inflater.restart();
        let (mut taken, mut made) = (0, 0);
        loop {
            let step = inflater.step(&raw[taken..], &mut out[made..]).ok()?;
            taken += step.consumed;
            made += step.produced;
            if step.ended {
                return (made == out.len()).then_some(());
            }
            if step.consumed == 0 && step.produced == 0 {
                return None;
            }
        }
    })?;
    Some(out)
}

/// A base's content rebuilt from the stored pack: up its chain to the nearest ancestor that is in
/// memory or no delta, and down again. `None`: another thread's read failed, and has said why.
///
/// Single-flight for every link: who needs one that another thread is rebuilding waits for it. The
/// room for the longest two links and a delta is taken before the first is read.
pub(crate) fn rebuild(engine: &Engine<'_>, index: Index) -> Result<Option<Content>, MirrorError> {
    let mut chain = vec![index];
    let mut longest = engine.object_len(index);
    let mut content = None;
    loop {
        let link = chain[chain.len() - 1];
        // One with a large ancestor was laid down raw.
        let base = engine.base_of(link).filter(|_| engine.raw_key(link).is_none());
        let Some(base) = base else { break };
        content = engine.base_in_memory(base);
        if content.is_some() {
            break;
        }
        longest = longest.max(engine.object_len(base));
        chain.push(base);
    }
    let room = engine.gate.wait_rebuild(longest.saturating_mul(3));
    let _room = room.ok_or_else(|| engine.closed())?;
    while let Some(link) = chain.pop() {
        let base = content.take();
        content = match engine.bases.get_or_read(link, || rebuild_link(engine, link, base)) {
            Ok(Some(made)) => Some(made),
            // Whoever failed to read it has said why.
            Ok(None) | Err(None) => return Ok(None),
            Err(Some(error)) => return Err(error),
        };
    }
    Ok(content)
}

/// One link of a chain from the content of its base. `Err(None)`: another thread's read failed.
fn rebuild_link(
    engine: &Engine<'_>,
    link: Index,
    base: Option<Content>,
) -> Result<Vec<u8>, Option<MirrorError>> {
    if let Some(content) = engine.raw_in_store(link)? {
        return Ok(content);
    }
    let entry = engine.entry_from_pack(link)?.ok_or(None)?;
    let Some(base) = base else { return Ok(entry) };
    let mut result = Vec::new();
    delta::apply(&base, &entry, &mut result).map_err(|error| engine.broken(link, error))?;
    Ok(result)
}
