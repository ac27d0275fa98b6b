//! The pack layout: the pack as it came, and its index, written while it streams.
//!
//! **First pass**, while the pack arrives: its bytes go to a multipart upload under a temporary key,
//! and the same pass inflates every entry, names every object and resolves every delta whose base is
//! in memory. A delta whose base has left memory is *deferred*: its bytes are in the pack, so nothing
//! of it is kept.
//!
//! **Second pass**, when the pack can be read: deferred deltas run like others, but that they and
//! their bases are read from the stored pack in large aligned blocks ([`StoredPackReader`]), in an
//! order in which each block is read about once (`Scheduler::pack_stored`). A base that is a delta
//! itself is rebuilt down its chain from the nearest ancestor in memory, each link by one thread at a
//! time.
//!
//! Then the pack is copied to its name, which is its trailer checksum because a dumb reader stores it
//! under that name; the index is written meanwhile, and appears after it; and the list
//! `objects/info/packs` names it.
//!
//! A pack that does not fill one part, as most increments don't, is held until all of it is resolved, and
//! then is one PUT under its name: no temporary key, no copy, nothing to delete. If something of it was
//! deferred, it goes the long way.

use std::collections::HashSet;
use std::io::{self, BufWriter, Read};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::records::Records;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::ingest::bytes::Slice;
use crate::ingest::context::RunContext;
use crate::ingest::engine::{Engine, LargeResult, Sink};
use crate::ingest::error::unwrap_error;
use crate::ingest::hands::Hands;
use crate::ingest::jobs::{Job, LargeObject};
use crate::ingest::units::{Done, Stored, Unit};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind, parse_header};
use crate::pack::entry_stream::EntryStream;
use crate::pack::index::write_sorted;
use crate::pack::inflate::Inflater;
use crate::pack::object::{Index, Object};
use crate::repository::blocks::{Block, BlockCache};
use crate::repository::contents::{Content, Contents};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::packs::{INDEX, PACK, StoredPack, key};
use crate::repository::parts::{Parts, copy_any_size};
use crate::repository::resuming::ResumingReader;
use crate::repository::writer::KeyWriter;
use crate::run::threads::both;
use crate::store::{Key, Store, Upload};

pub(in crate::ingest) struct Pack<'e> {
    store: &'e dyn Store,
    objects: u32,
    upload: Mutex<PackUpload>,
    named: Mutex<Named>,
    stored: OnceLock<StoredPackReader<'e>>,
}

/// Guarded by [`Pack::named`].
struct Named {
    records: Records,
    /// Of what was asked for, what has not come yet.
    wanted: HashSet<Oid>,
}

impl<'e> Pack<'e> {
    pub(in crate::ingest) fn begin(
        env: &'e RunContext<'e>,
        objects: u32,
        wants: &[Oid],
    ) -> Result<Self, MirrorError> {
        let upload = PackUpload {
            object: None,
            parts: Parts::of_at_least(env.store.limits(), env.budget.part),
            room: 0,
        };
        let records = Records::new(env.format, objects, env.budget.memory);
        let wanted = wants.iter().copied().collect();
        Ok(Pack {
            store: env.store,
            objects,
            upload: Mutex::new(upload),
            named: Mutex::new(Named { records, wanted }),
            stored: OnceLock::new(),
        })
    }

    fn upload(&self) -> MutexGuard<'_, PackUpload> {
        self.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes objects for the index.
    fn note_all(
        &self,
        env: &RunContext<'_>,
        objects: impl Iterator<Item = (Oid, u64, u32)>,
    ) -> Result<(), MirrorError> {
        let mut named = self.named();
        for (oid, offset, crc32) in objects {
            named.records.push(&oid, offset, crc32);
            if !named.wanted.is_empty() {
                named.wanted.remove(&oid);
            }
        }
        let full = named.records.take_full();
        drop(named);
        if let Some(full) = full {
            let written = full.write(env)?;
            self.named().records.written(written);
        }
        Ok(())
    }

    fn stored(&self) -> Result<&StoredPackReader<'e>, MirrorError> {
        let early = || MirrorError::Internal("the pack is read before it is stored".into());
        self.stored.get().ok_or_else(early)
    }

    /// Is all of it in hand, and nothing of it to be read back?
    fn is_whole_in_hand(&self, engine: &Engine<'_>) -> Result<bool, MirrorError> {
        if !self.upload().rest(engine, self.store.limits().max_put_bytes) {
            return Ok(false);
        }
        engine.wait_idle()?;
        Ok(engine.ask(|scheduler| scheduler.unresolved()) == 0)
    }

    /// Makes the temporary key readable.
    fn complete(&self, engine: &Engine<'_>) -> Result<Upload, MirrorError> {
        let object = self.upload().send_last(engine)?;
        engine.wait_idle()?;
        let upload = object.ledger.upload.clone();
        let store = engine.env.store;
        engine.on_network(|| store.complete_upload(&upload, &object.ledger.parts()))?;
        engine.env.temp.upload_ended(&upload);
        Ok(upload)
    }
}

impl Sink for Pack<'_> {
    fn is_readable(&self) -> bool {
        false
    }

    fn keeps_raw(&self) -> bool {
        false
    }

    fn tap(&self, engine: &Engine<'_>, bytes: &[u8]) -> Result<(), MirrorError> {
        self.upload().write(engine, bytes)
    }

    fn take<'s>(
        &self,
        engine: &'s Engine<'_>,
        hands: &Hands<'_, 's>,
        unit: Unit<Slice>,
        done: Vec<Done>,
        results: Vec<Slice>,
    ) -> Result<(), MirrorError> {
        let items = unit.items.iter().zip(&done);
        self.note_all(engine.env, items.map(|(item, done)| (done.oid, item.offset, item.crc32)))?;
        let weigh = |buffer: Slice| {
            let bytes = buffer.len() as u64;
            (buffer, bytes)
        };
        let results = results.into_iter().map(weigh).collect();
        engine.tell(hands, |scheduler| scheduler.resolved(&unit, &done, results, None));
        engine.env.progress.objects_done(done.len() as u64);
        Ok(())
    }

    fn note(
        &self,
        engine: &Engine<'_>,
        oid: &Oid,
        offset: u64,
        crc32: u32,
    ) -> Result<(), MirrorError> {
        self.note_all(engine.env, std::iter::once((*oid, offset, crc32)))
    }

    fn each_named(
        &self,
        engine: &Engine<'_>,
        tell: &mut dyn FnMut(u64, &Oid),
    ) -> Result<(), MirrorError> {
        self.named().records.each(engine.env.store, tell)
    }

    fn read_base(&self, engine: &Engine<'_>, base: Stored, _: u64) -> Result<Vec<u8>, MirrorError> {
        Ok(self.stored()?.object(engine, base.offset)?.to_vec())
    }

    fn make_link(&self, engine: &Engine<'_>, offset: u64) -> Result<(), MirrorError> {
        self.stored()?.make_link(engine, offset)
    }

    fn read_delta(&self, engine: &Engine<'_>, offset: u64) -> Result<Vec<u8>, MirrorError> {
        Ok(self.stored()?.entry(engine, offset)?.1)
    }

    fn open_entry<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        offset: u64,
    ) -> io::Result<Box<dyn Read + 'a>> {
        let stored = self.stored().map_err(|error| io::Error::other(error.to_string()))?;
        let stream = ResumingReader::new(engine.env.store, stored.key.clone(), offset);
        Ok(Box::new(EntryStream::new(stream, offset, engine.env.format)?))
    }

    fn open_object<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        base: Stored,
    ) -> Result<Box<dyn Read + 'a>, MirrorError> {
        let store = engine.env.store;
        self.open_entry(engine, base.offset).map_err(|error| {
            let place = store.describe();
            MirrorError::Mirror(format!("cannot read the pack back from {place}: {error}"))
        })
    }

    fn begin_object(&self, _: &Engine<'_>) -> Result<Option<Upload>, MirrorError> {
        Ok(None)
    }

    fn begin_delta<'a>(&self, _: &Engine<'a>) -> Result<Option<KeyWriter<'a>>, MirrorError> {
        Ok(None)
    }

    fn begin_result<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        _: Kind,
        _: u64,
    ) -> Result<Box<dyn LargeResult + 'a>, MirrorError> {
        Ok(Box::new(RawResult::begin(self, engine)))
    }

    fn take_heavy(
        &self,
        engine: &Engine<'_>,
        index: Index,
        crc32: u32,
        object: &Object,
        content: &[u8],
    ) -> Result<(), MirrorError> {
        if engine.ask(|scheduler| scheduler.unresolved()) > 1 {
            // It can't be rebuilt from the pack in memory: an ancestor is large.
            let key = engine.env.temp.key("base");
            engine.env.store.put(&key, content, TEMPORARY, None)?;
            engine.set_raw_key(index, key);
        }
        let offset = engine.ask(|scheduler| scheduler.offset(index));
        self.note(engine, &object.oid, offset, crc32)?;
        engine.env.progress.objects_done(1);
        Ok(())
    }

    fn finish<'s>(
        &self,
        engine: &'s Engine<'_>,
        hands: &Hands<'_, 's>,
        trailer: Oid,
        len: u64,
    ) -> Result<Option<StoredPack>, MirrorError> {
        let (env, store) = (engine.env, engine.env.store);
        let is_in_hand = self.is_whole_in_hand(engine)?;
        if self.objects == 0 {
            let absent: Vec<Oid> = self.named().wanted.iter().copied().collect();
            engine.on_network(|| env.must_have(&absent))?;
            return Ok(None);
        }
        let temporary = if is_in_hand { None } else { Some(self.complete(engine)?.key) };
        if let Some(temporary) = &temporary {
            let (file, budget) = ((temporary.clone(), len), env.budget.parts);
            let _ = self.stored.set(StoredPackReader::new(self.store, env.format, file, budget));
        }
        let deferred = engine.tell(hands, |scheduler| scheduler.pack_stored());
        log::debug!("{deferred} deltas were deferred to the second pass");
        engine.wait_idle()?;
        engine.all_resolved()?;
        let Named { records, wanted } = {
            let empty = Named { records: Records::new(env.format, 0, 0), wanted: HashSet::new() };
            std::mem::replace(&mut *self.named(), empty)
        };
        let absent: Vec<Oid> = wanted.into_iter().collect();
        engine.on_network(|| env.must_have(&absent))?;
        engine.ask(|scheduler| scheduler.forget_contents());
        if let Some(stored) = self.stored.get() {
            stored.forget_contents();
        }
        engine.on_network(|| {
            let name = format!("pack-{trailer}");
            let (index_key, pack_key) = (key(&name, "idx"), key(&name, "pack"));
            // A source may send the same pack again; `--full` restores either file if it was lost. One
            // that is there is not written again.
            let has_pack = store.head(&pack_key)?.is_some_and(|info| info.len == len);
            if !has_pack || store.head(&index_key)?.is_none() {
                let name_pack = || match &temporary {
                    _ if has_pack => Ok(()),
                    Some(temporary) => copy_any_size(env.temp, temporary, &pack_key, len, PACK),
                    None => {
                        let body = std::mem::take(&mut self.upload().parts.body);
                        store.put(&pack_key, &body, PACK, None)?;
                        env.progress.stored(len);
                        Ok(())
                    }
                };
                let write_index = || {
                    let index = KeyWriter::new(env.temp, env.progress, index_key, INDEX);
                    // What the ingest has freed is in pieces: a part this long is new memory.
                    let index = index.with_parts_of(env.budget.part / 2);
                    let mut index = BufWriter::with_capacity(64 << 10, index);
                    let fanout = records.fanout().clone();
                    let sorted = records.sorted(store, env.budget.memory / 8)?;
                    write_sorted(&fanout, sorted, &trailer, &mut index).map_err(unwrap_error)?;
                    index.into_inner().map_err(|error| unwrap_error(error.into_error()))
                };
                // Who sees the index expects the pack, so the index is finished after it.
                let (named, index) = both("name-pack", name_pack, write_index);
                named?;
                index?.finish()?;
                engine.count_stored(u64::from(self.objects), len);
            }
            if let Some(temporary) = &temporary {
                env.temp.delete(temporary)?;
            }
            Ok(Some(StoredPack { name, objects: u64::from(self.objects), bytes: len }))
        })
    }
}

/// The pack's bytes on their way into a multipart upload. Only the reader touches it.
struct PackUpload {
    /// Begun with the first part that leaves.
    object: Option<Arc<LargeObject>>,
    parts: Parts,
    /// For the part that is being filled.
    room: u64,
}

impl PackUpload {
    /// Takes the next bytes. Waits for room only when a part begins.
    fn write(&mut self, engine: &Engine<'_>, bytes: &[u8]) -> Result<(), MirrorError> {
        if self.room == 0 {
            let room = self.parts.part_bytes();
            engine.take_part(room)?;
            self.room = room;
        }
        self.parts.push(bytes);
        match self.parts.take_full() {
            Some((number, body)) => self.send(engine, number, body).map(drop),
            None => Ok(()),
        }
    }

    fn send(
        &mut self,
        engine: &Engine<'_>,
        number: u32,
        body: Vec<u8>,
    ) -> Result<Arc<LargeObject>, MirrorError> {
        let object = self.begun(engine)?;
        object.ledger.sent();
        let (part_of, room) = (Arc::clone(&object), std::mem::take(&mut self.room));
        engine.request(Job::Part { object: part_of, number, body, room });
        Ok(object)
    }

    fn begun(&mut self, engine: &Engine<'_>) -> Result<Arc<LargeObject>, MirrorError> {
        let object = match self.object.take() {
            Some(object) => object,
            None => {
                let temp = engine.env.temp;
                let temporary = temp.key("pack");
                let upload = engine.on_network(|| temp.create_upload(&temporary, PACK))?;
                Arc::new(LargeObject::new(upload, true))
            }
        };
        Ok(Arc::clone(self.object.insert(object)))
    }

    /// The pack has ended. If all of it is in hand, nothing else wants room for parts, and what it has is
    /// given back. Is it, and is it no more than that?
    fn rest(&mut self, engine: &Engine<'_>, max_bytes: u64) -> bool {
        let is_in_hand = self.object.is_none();
        if is_in_hand {
            let room = std::mem::take(&mut self.room);
            engine.ask(|scheduler| scheduler.part_ended(room));
        }
        is_in_hand && self.parts.body.len() as u64 <= max_bytes
    }

    fn send_last(&mut self, engine: &Engine<'_>) -> Result<Arc<LargeObject>, MirrorError> {
        let limits = engine.env.store.limits();
        let parts = std::mem::replace(&mut self.parts, Parts::of_at_least(limits, 0));
        match parts.take_last() {
            Some((number, body)) => {
                if self.room == 0 {
                    engine.take_part(body.len() as u64)?;
                    self.room = body.len() as u64;
                }
                self.send(engine, number, body)
            }
            None => self.begun(engine),
        }
    }
}

/// A heavy delta's large result: in the pack already.
pub(super) struct RawResult<'a> {
    sink: &'a dyn Sink,
    engine: &'a Engine<'a>,
    raw: Option<KeyWriter<'a>>,
}

impl<'a> RawResult<'a> {
    pub(super) fn begin(sink: &'a dyn Sink, engine: &'a Engine<'a>) -> Self {
        let (temp, progress) = (engine.env.temp, engine.env.progress);
        // Laid down raw if anything may need it: it can't be rebuilt in memory.
        let is_needed = engine.ask(|scheduler| scheduler.unresolved()) > 1;
        let raw = is_needed.then(|| KeyWriter::temporary(temp, progress, "base", TEMPORARY));
        RawResult { sink, engine, raw }
    }
}

impl LargeResult for RawResult<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        Ok(self.raw.as_mut().map_or(Ok(()), |upload| upload.push(bytes))?)
    }

    fn finish(
        self: Box<Self>,
        index: Index,
        crc32: u32,
        object: &Object,
    ) -> Result<(), MirrorError> {
        if let Some(upload) = self.raw {
            self.engine.set_raw_key(index, upload.finish()?.0);
        }
        let offset = self.engine.ask(|scheduler| scheduler.offset(index));
        self.sink.note(self.engine, &object.oid, offset, crc32)?;
        self.engine.env.progress.objects_done(1);
        Ok(())
    }
}

/// The stored pack, read in blocks.
pub(super) struct StoredPackReader<'e> {
    format: ObjectFormat,
    key: Key,
    /// Bytes, trailer included.
    len: u64,
    blocks: BlockCache<'e>,
    /// Links of chains, by offset. Single-flight: who needs one that another thread rebuilds waits.
    contents: Contents,
}

/// A block of the pack, and where in it to begin.
type Piece = (Block, usize);

/// The beginning of an entry.
struct Begun {
    header: EntryHeader,
    /// Of the header, in bytes.
    len: usize,
    /// What follows it, if all of the header is in one block.
    rest: Option<Piece>,
}

impl<'e> StoredPackReader<'e> {
    pub(super) fn new(
        store: &'e dyn Store,
        format: ObjectFormat,
        (key, len): (Key, u64),
        budget_bytes: u64,
    ) -> Self {
        let blocks = BlockCache::new(store, budget_bytes / 8 * 5);
        let contents = Contents::new(budget_bytes / 4);
        StoredPackReader { format, key, len, blocks, contents }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Makes an object again, and keeps it for a while; a large one is laid down raw by whoever needs
    /// it.
    pub(super) fn make_link(&self, engine: &Engine<'_>, offset: u64) -> Result<(), MirrorError> {
        if self.header(offset)?.inflated_len <= engine.env.budget.large {
            self.object(engine, offset)?;
        }
        Ok(())
    }

    fn forget_contents(&self) {
        self.contents.clear();
    }

    fn damaged(&self, offset: u64) -> MirrorError {
        MirrorError::Mirror(format!("{} cannot be read back at offset {offset}", self.key))
    }

    fn piece(&self, at: u64) -> Result<Piece, MirrorError> {
        self.blocks.block(&self.key, self.len, at)?.ok_or_else(|| self.damaged(at))
    }

    fn header(&self, offset: u64) -> Result<EntryHeader, MirrorError> {
        Ok(self.begin_entry(offset)?.header)
    }

    fn begin_entry(&self, offset: u64) -> Result<Begun, MirrorError> {
        let (block, from) = self.piece(offset)?;
        if let Ok(Some((header, len))) = parse_header(&block[from..], offset, self.format) {
            return Ok(Begun { header, len, rest: Some((block, from + len)) });
        }
        let end = self.len.min(offset + crate::pack::entry::MAX_HEADER_LEN as u64);
        let bytes = self.blocks.read(&self.key, self.len, offset..end)?;
        let parsed = parse_header(&bytes, offset, self.format).ok().flatten();
        let (header, len) = parsed.ok_or_else(|| self.damaged(offset))?;
        Ok(Begun { header, len, rest: None })
    }

    /// An entry's inflated body, which the first pass has seen inflate well.
    pub(super) fn entry(
        &self,
        engine: &Engine<'_>,
        offset: u64,
    ) -> Result<(EntryHeader, Vec<u8>), MirrorError> {
        let Begun { header, len, mut rest } = self.begin_entry(offset)?;
        if header.inflated_len > engine.env.budget.large {
            let what = format!("it has {} bytes, more than its delta claims", header.inflated_len);
            return Err(MirrorError::Pack(format!("pack entry at offset {offset}: {what}")));
        }
        thread_local! {
            static INFLATER: std::cell::RefCell<Inflater> = std::cell::RefCell::new(Inflater::new());
        }
        let mut out = vec![0; header.inflated_len as usize];
        INFLATER.with_borrow_mut(|inflater| {
            inflater.restart();
            let (mut at, mut made) = (offset + len as u64, 0);
            loop {
                let (block, from) = match rest.take() {
                    Some(rest) => rest,
                    None => self.piece(at)?,
                };
                let bytes = &block[from..];
                let mut taken = 0;
                while taken < bytes.len() {
                    let step = inflater.step(&bytes[taken..], &mut out[made..]);
                    let step = step.map_err(|_| self.damaged(at))?;
                    taken += step.consumed;
                    made += step.produced;
                    if step.ended && made == out.len() {
                        return Ok(());
                    }
                    if step.ended || step.consumed + step.produced == 0 {
                        return Err(self.damaged(at));
                    }
                }
                at += taken as u64;
            }
        })?;
        Ok((header, out))
    }

    /// An object's content, rebuilt: up its chain to the nearest ancestor that is in memory or no
    /// delta, and down again, each link by one thread at a time.
    pub(super) fn object(&self, engine: &Engine<'_>, offset: u64) -> Result<Content, MirrorError> {
        let mut chain = vec![offset];
        let mut base: Option<Content> = None;
        while let Some(link) = chain.last().copied() {
            if let Some(content) = self.in_memory(engine, link) {
                chain.pop();
                base = Some(content);
                break;
            }
            if engine.raw_key_at(link).is_some() {
                break;
            }
            match self.header(link)?.kind {
                EntryKind::Object(_) => break,
                EntryKind::OfsDelta { base_offset } => chain.push(base_offset),
                EntryKind::RefDelta { base } => {
                    let at = engine.ask(|s| s.find(&base).map(|index| s.offset(index)));
                    chain.push(at.ok_or_else(|| self.damaged(link))?);
                }
            }
        }
        while let Some(link) = chain.pop() {
            let above = base.take();
            let read = || self.rebuild_link(engine, link, above.as_deref().map(Vec::as_slice));
            base = match self.contents.get_or_read(link, read)? {
                Some(content) => Some(content),
                // Another thread's read failed, and it says why: this one asks itself.
                None => {
                    let content =
                        self.rebuild_link(engine, link, above.as_deref().map(Vec::as_slice))?;
                    Some(Arc::new(content))
                }
            };
        }
        base.ok_or_else(|| self.damaged(offset))
    }

    fn in_memory(&self, engine: &Engine<'_>, offset: u64) -> Option<Content> {
        self.contents.get(offset).or_else(|| {
            let content = engine.ask(|scheduler| scheduler.content_at(offset))?;
            Some(Arc::new(content.to_vec()))
        })
    }

    /// One link of a chain from the content of its base.
    fn rebuild_link(
        &self,
        engine: &Engine<'_>,
        link: u64,
        base: Option<&[u8]>,
    ) -> Result<Vec<u8>, MirrorError> {
        if let Some(key) = engine.raw_key_at(link) {
            return Ok(engine.env.store.get(&key, None, engine.env.budget.large)?.0);
        }
        let (_, body) = self.entry(engine, link)?;
        let Some(base) = base else { return Ok(body) };
        let bad = |error: delta::DeltaError| {
            MirrorError::Pack(format!("pack entry at offset {link}: {error}"))
        };
        let (header, _) = delta::parse_header(&body).map_err(bad)?;
        if header.result_len > engine.env.budget.large {
            return Err(self.damaged(link));
        }
        let mut result = Vec::new();
        delta::apply(base, &body, &mut result).map_err(bad)?;
        Ok(result)
    }
}
