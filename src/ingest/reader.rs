//! The reader: takes entries off the stream, asks for room, and hands them on in units.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::bytes::Slice;
use super::cache::Bytes;
use super::engine::Engine;
use super::error::unresolvable;
use super::hands::Hands;
use super::jobs::{Job, LargeObject, NOWHERE};
use super::parked::{Delta, DeltaBytes};
use super::thin;
use super::units::{BaseName, Body, Entry, OVERHEAD_BYTES};
use crate::git::object::{Kind, ObjectHasher, hash_object};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind};
use crate::pack::loose::Rewrap;
use crate::pack::object::{Index, Object};
use crate::pack::reader::PackReader;
use crate::repository::error::MirrorError;
use crate::repository::loose;
use crate::repository::packs::StoredPack;
use crate::repository::parts::Parts;

/// Memory that is taken at once for entries of promised lengths; more only as bytes arrive.
const TRUSTED_BYTES: u64 = 1 << 20;

/// A delta whose result is larger than this must not repeat its base and itself more often than
/// [`MAX_REPEATS`]. git makes no deltas of files above 512 MiB (`core.bigFileThreshold`).
const MAX_REPEATED_BYTES: u64 = 1 << 30;
const MAX_REPEATS: u64 = 4;

/// Deltas that make more than this must not make more than [`MAX_EXPANSION`] times what was received.
/// The most that an honest repository is likely to reach is a third of it: a file of 10 MB that each
/// commit changes a little, at some 300 bytes a commit.
const MAX_EXPANDED_BYTES: u64 = 4 << 30;
/// The same where bases may be in the mirror, so that they are not among what was received.
const MAX_EXPANDED_BYTES_THIN: u64 = 64 << 30;
const MAX_EXPANSION: u64 = 100_000;

/// With less than this at hand, the next entry may have to be waited for.
const TAIL_BYTES: usize = 4096;

/// Entries on their way to the scheduler.
#[derive(Default)]
struct Batch {
    entries: Vec<Pending>,
    inflated: Vec<u8>,
    /// What the reader has taken room for, and what the entries hold of it.
    taken: u64,
    held: u64,
}

struct Pending {
    header: EntryHeader,
    crc32: u32,
    held: u64,
    start: usize,
    len: usize,
    raw: Option<Vec<u8>>,
}

impl Engine<'_> {
    /// The whole run: the pack's entries, what a thin pack does not contain, and the layout's own end. `starved`:
    /// the source has nothing at hand.
    pub(super) fn run<'s, R: Read>(
        &'s self,
        hands: &Hands<'_, 's>,
        pack: PackReader<R>,
        starved: &dyn Fn() -> bool,
    ) -> Result<Option<StoredPack>, MirrorError> {
        let tap = |bytes: &[u8]| self.sink.tap(self, bytes).map_err(io::Error::other);
        let mut pack = pack.with_tap(tap);
        self.read_pack(hands, &mut pack, starved)?;
        let (trailer, len) = (pack.trailer(), pack.position());
        drop(pack);
        let Some(trailer) = trailer else { return Err(self.closed()) };
        if self.env.thin {
            self.add_missing_bases(hands)?;
        }
        self.sink.finish(self, hands, trailer, len)
    }

    /// Once nothing is in flight: is every entry an object?
    pub(super) fn all_resolved(&self) -> Result<(), MirrorError> {
        match self.ask(|scheduler| scheduler.first_unresolved()) {
            Some(error) => Err(MirrorError::Pack(error.to_string())),
            None => Ok(()),
        }
    }

    fn read_pack<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        hands: &Hands<'_, 's>,
        pack: &mut PackReader<R, T>,
        starved: &dyn Fn() -> bool,
    ) -> Result<(), MirrorError> {
        let unit_bytes = self.env.budget.unit_bytes();
        let mut batch = Batch::default();
        let (mut received, mut handed_on) = (0, 0);
        while let Some(header) = pack.next_entry()? {
            if self.is_over() {
                return Ok(());
            }
            let len = header.inflated_len;
            self.check_object_size(header.offset, len)?;
            if len > self.env.budget.large {
                self.hand_on(hands, &mut batch)?;
                match header.kind {
                    EntryKind::Object(kind) => {
                        self.read_large_object(hands, pack, &header, kind)?
                    }
                    _ => self.read_large_delta(hands, pack, &header)?,
                }
                continue;
            }
            let keeps_raw = self.sink.keeps_raw() && matches!(header.kind, EntryKind::Object(_));
            let room = if keeps_raw { 2 * len } else { len } + OVERHEAD_BYTES;
            if batch.held + room > batch.taken || batch.entries.len() == 256 {
                self.hand_on(hands, &mut batch)?;
                let position = pack.position();
                self.env.progress.received(position - std::mem::replace(&mut received, position));
                let taken = room.max(unit_bytes);
                self.take_room(taken)?;
                batch.taken = taken;
                batch.inflated = Vec::with_capacity(taken.min(TRUSTED_BYTES) as usize);
            }
            self.read_entry(pack, header, keeps_raw, room, &mut batch)?;
            // Before a wait for a slow source: what is here may wake somebody, a fetch of LFS objects
            // for one. But not for each entry of a source that is only a little slower than we are.
            let is_end = pack.buffered() == 0 || pack.position() - handed_on >= TAIL_BYTES as u64;
            if pack.buffered() < TAIL_BYTES && is_end && starved() {
                self.hand_on(hands, &mut batch)?;
                handed_on = pack.position();
            }
        }
        self.hand_on(hands, &mut batch)?;
        self.env.progress.received(pack.position() - received);
        Ok(())
    }

    /// Refuses an entry by what its header claims, before any of it is read.
    fn check_object_size(&self, offset: u64, len: u64) -> Result<(), MirrorError> {
        let limit = self.env.max_object_bytes;
        if len <= limit {
            return Ok(());
        }
        Err(MirrorError::Guard(format!(
            "pack entry at offset {offset} is an object of {len} bytes, more than \
             --max-object-size {limit}: nothing was published"
        )))
    }

    /// Refuses a delta by what its header claims: a few bytes can claim petabytes, which would all be
    /// made and stored. What copies no byte of its base many times can't grow like that.
    fn check_expansion(
        &self,
        offset: u64,
        delta: &delta::DeltaHeader,
        delta_len: u64,
    ) -> Result<(), MirrorError> {
        let made = delta.result_len;
        self.check_object_size(offset, made)?;
        let before = self.expanded.fetch_add(made.min(1 << 60), Ordering::Relaxed);
        let given = delta.base_len.saturating_add(delta_len);
        let repeats = made > MAX_REPEATED_BYTES && made / MAX_REPEATS > given;
        let total = before.saturating_add(made);
        let received = offset.max(1);
        let most = if self.env.thin { MAX_EXPANDED_BYTES_THIN } else { MAX_EXPANDED_BYTES };
        let too_much = total > most && total / MAX_EXPANSION > received;
        if !repeats && !too_much {
            return Ok(());
        }
        Err(MirrorError::Guard(format!(
            "delta at offset {offset} makes {made} bytes of {given}, and the deltas so far {total} \
             of {received} received: the pack is a decompression bomb; nothing was published"
        )))
    }

    fn read_entry<R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &self,
        pack: &mut PackReader<R, T>,
        header: EntryHeader,
        keeps_raw: bool,
        room: u64,
        batch: &mut Batch,
    ) -> Result<(), MirrorError> {
        let (start, offset) = (batch.inflated.len(), header.offset);
        let mut raw = Vec::new();
        let mut rewrap = match header.kind {
            EntryKind::Object(kind) if keeps_raw => {
                Some(Rewrap::new(kind, header.inflated_len, &mut raw))
            }
            _ => None,
        };
        let end = pack.read_body(|body, inflated| {
            batch.inflated.extend_from_slice(inflated);
            if let Some(kept) = &mut rewrap {
                kept.push(body, &mut raw);
                // Deflate blocks that grow far beyond what they hold (a hostile pack: empty blocks)
                // are not kept: the content is deflated anew.
                if raw.len() as u64 > room {
                    rewrap = None;
                    raw = Vec::new();
                }
            }
            Ok::<_, MirrorError>(())
        })?;
        let raw = match rewrap {
            Some(rewrap) => {
                rewrap.finish(&mut raw).map_err(|error| {
                    MirrorError::Pack(format!("pack entry at offset {offset}: {error}"))
                })?;
                Some(raw)
            }
            None => None,
        };
        let len = batch.inflated.len() - start;
        batch.held += room;
        batch.entries.push(Pending { header, crc32: end.crc32, held: room, start, len, raw });
        Ok(())
    }

    /// Gives the batch to the scheduler. Afterwards the reader holds no room.
    fn hand_on<'s>(&'s self, hands: &Hands<'_, 's>, batch: &mut Batch) -> Result<(), MirrorError> {
        let Batch { entries, inflated, taken, held } = std::mem::take(batch);
        if entries.is_empty() {
            if taken > 0 {
                self.tell(hands, |scheduler| scheduler.return_room(taken));
            }
            return Ok(());
        }
        let inflated = Slice::from(inflated);
        let mut made = Vec::with_capacity(entries.len());
        let mut names_a_base = false;
        for pending in entries {
            let Pending { header, crc32, held, start, len, raw } = pending;
            let content = inflated.slice(start, len);
            let body = match header.kind {
                EntryKind::Object(kind) => {
                    Body::Object { kind, content, len: len as u64, raw: raw.map(Slice::from) }
                }
                _ => {
                    let base = base_name(&header);
                    names_a_base |= matches!(base, BaseName::Oid(_));
                    let (parsed, _) = delta::parse_header(&content)
                        .map_err(|error| bad_entry(header.offset, &error))?;
                    self.check_expansion(header.offset, &parsed, len as u64)?;
                    let bytes = DeltaBytes::Memory(content);
                    Body::Delta { base, delta: Delta { header: parsed, len: len as u64, bytes } }
                }
            };
            made.push(Entry { offset: header.offset, crc32, body, held });
        }
        if names_a_base {
            self.begin_names()?;
        }
        let added = self.tell(hands, |scheduler| {
            scheduler.return_room(taken - held);
            scheduler.add(made)
        });
        added.map(|_| ()).map_err(unresolvable)
    }

    /// A delta names its base by oid: from now on objects must be known by name.
    fn begin_names(&self) -> Result<(), MirrorError> {
        if self.ask(|scheduler| scheduler.begin_names()) {
            let mut learnt = Vec::new();
            self.sink.each_named(self, &mut |offset, oid| {
                learnt.push((offset, *oid));
                if learnt.len() == 4096 {
                    self.ask(|s| learnt.drain(..).for_each(|(offset, oid)| s.learn(offset, &oid)));
                }
            })?;
            self.ask(|s| learnt.drain(..).for_each(|(offset, oid)| s.learn(offset, &oid)));
        }
        Ok(())
    }

    /// An object over the budget: its parts leave as they fill, its name is known at the end.
    fn read_large_object<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        hands: &Hands<'_, 's>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
        kind: Kind,
    ) -> Result<(), MirrorError> {
        let (offset, len) = (header.offset, header.inflated_len);
        let mut hasher = ObjectHasher::new(self.env.format, kind, len);
        let Some(upload) = self.sink.begin_object(self)? else {
            let end = pack.read_body(|_, inflated| {
                hasher.update(inflated);
                self.beats.fetch_add(1, Ordering::Relaxed);
                Ok::<_, MirrorError>(())
            })?;
            let oid = hasher.finish().map_err(|collision| bad_entry(offset, &collision))?;
            self.sink.note(self, &oid, offset, end.crc32)?;
            let body = Body::Named { kind, oid };
            let entry = Entry { offset, crc32: end.crc32, body, held: 0 };
            self.tell(hands, |scheduler| scheduler.add(vec![entry])).map_err(unresolvable)?;
            self.env.progress.objects_done(1);
            return Ok(());
        };
        let entry = Entry { offset, crc32: 0, body: Body::Later, held: 0 };
        let index =
            self.tell(hands, |scheduler| scheduler.add(vec![entry])).map_err(unresolvable)?;
        let mut large = ReaderUpload {
            parts: Parts::new(self.env.store.limits()),
            room: 0,
            object: Arc::new(LargeObject::new(upload, false)),
        };
        large.take_room(self)?;
        let mut rewrap = Rewrap::new(kind, len, &mut large.parts.body);
        pack.read_body(|raw, inflated| {
            hasher.update(inflated);
            rewrap.push(raw, &mut large.parts.body);
            large.send_full_part(self)
        })?;
        rewrap.finish(&mut large.parts.body).map_err(|error| bad_entry(offset, &error))?;
        let oid = hasher.finish().map_err(|collision| bad_entry(offset, &collision))?;
        large.end(self, index, Object { oid, kind, len });
        Ok(())
    }

    /// A delta over the budget waits in the store.
    fn read_large_delta<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
        &'s self,
        hands: &Hands<'_, 's>,
        pack: &mut PackReader<R, T>,
        header: &EntryHeader,
    ) -> Result<(), MirrorError> {
        let mut upload = self.sink.begin_delta(self)?;
        let room = upload.as_ref().map_or(0, |upload| upload.part_bytes());
        if room > 0 {
            self.take_room(room)?;
        }
        let mut beginning = Vec::new();
        let end = pack.read_body(|_, inflated| {
            keep_beginning(&mut beginning, inflated);
            self.beats.fetch_add(1, Ordering::Relaxed);
            let Some(upload) = &mut upload else { return Ok::<_, MirrorError>(()) };
            Ok(self.on_network(|| upload.push(inflated))?)
        })?;
        let bytes = match upload {
            None => DeltaBytes::InPack,
            Some(upload) => {
                let (key, _) = self.on_network(|| upload.finish())?;
                let mut spills = self.spills.lock().unwrap_or_else(PoisonError::into_inner);
                spills.push(key);
                DeltaBytes::Spilled { file: spills.len() as u32 - 1, start: 0 }
            }
        };
        let (parsed, _) =
            delta::parse_header(&beginning).map_err(|error| bad_entry(header.offset, &error))?;
        self.check_expansion(header.offset, &parsed, header.inflated_len)?;
        let base = base_name(header);
        if matches!(base, BaseName::Oid(_)) {
            self.begin_names()?;
        }
        let delta = Delta { header: parsed, len: header.inflated_len, bytes };
        let body = Body::Delta { base, delta };
        let entry = Entry { offset: header.offset, crc32: end.crc32, body, held: 0 };
        let added = self.tell(hands, |scheduler| {
            scheduler.return_room(room);
            scheduler.add(vec![entry])
        });
        added.map(|_| ()).map_err(unresolvable)
    }

    /// A thin pack has ended: bases that it does not contain are in the mirror. The loose ones are read like
    /// others that have left memory; the rest are handed on as if the pack had them.
    fn add_missing_bases<'s>(&'s self, hands: &Hands<'_, 's>) -> Result<(), MirrorError> {
        // Only then is it known what waits without success.
        self.wait_idle()?;
        let missing = self.ask(|scheduler| scheduler.missing_bases());
        log::debug!("{} bases are not in the pack", missing.len());
        for oid in missing {
            self.tell(hands, |scheduler| scheduler.other_began());
            self.request(Job::Base { oid });
        }
        self.wait_idle()?;
        let others =
            std::mem::take(&mut *self.not_loose.lock().unwrap_or_else(PoisonError::into_inner));
        if others.is_empty() {
            return Ok(());
        }
        let mut take = |kind, content: Vec<u8>| {
            let len = content.len() as u64;
            if len > self.env.budget.large {
                return self.store_large_base(hands, kind, &content);
            }
            let held = 2 * len + OVERHEAD_BYTES;
            self.take_room(held)?;
            let body = Body::Object { kind, content: content.into(), len, raw: None };
            let entry = Entry { offset: NOWHERE, crc32: 0, body, held };
            self.tell(hands, |scheduler| scheduler.add(vec![entry])).map_err(unresolvable)?;
            Ok(())
        };
        thin::from_packs(self.env.store, others, self.env.budget.bases, &mut take)?;
        self.wait_idle()
    }

    /// Deltas against a large object read it from the store, so it is there before they know of it.
    fn store_large_base<'s>(
        &'s self,
        hands: &Hands<'_, 's>,
        kind: Kind,
        content: &[u8],
    ) -> Result<(), MirrorError> {
        let oid = hash_object(self.env.format, kind, content)
            .map_err(|c| MirrorError::Mirror(c.to_string()))?;
        let body = super::sink::loose::deflate(kind, content);
        self.on_network(|| self.env.store.put(&loose::key(&oid), &body, loose::HEADERS, None))?;
        self.count_stored(1, body.len() as u64);
        self.env.progress.stored(body.len() as u64);
        let entry = Entry { offset: NOWHERE, crc32: 0, body: Body::Named { kind, oid }, held: 0 };
        self.tell(hands, |scheduler| scheduler.add(vec![entry])).map_err(unresolvable)?;
        Ok(())
    }
}

fn base_name(header: &EntryHeader) -> BaseName {
    match header.kind {
        EntryKind::RefDelta { base } => BaseName::Oid(base),
        EntryKind::OfsDelta { base_offset } => BaseName::Offset(base_offset),
        EntryKind::Object(_) => unreachable!("an object's base is missing"),
    }
}

fn bad_entry(offset: u64, what: &dyn std::fmt::Display) -> MirrorError {
    MirrorError::Pack(format!("pack entry at offset {offset}: {what}"))
}

/// What the reader fills for a large object.
struct ReaderUpload {
    parts: Parts,
    /// For the part that is being filled; nothing while the reader asks for the next.
    room: u64,
    object: Arc<LargeObject>,
}

impl ReaderUpload {
    fn take_room(&mut self, engine: &Engine<'_>) -> Result<(), MirrorError> {
        let room = self.parts.part_bytes() + OVERHEAD_BYTES;
        engine.take_room(room)?;
        self.room = room;
        Ok(())
    }

    fn send_full_part(&mut self, engine: &Engine<'_>) -> Result<(), MirrorError> {
        let Some((number, body)) = self.parts.take_full() else { return Ok(()) };
        self.send(engine, number, body);
        self.take_room(engine)
    }

    fn send(&mut self, engine: &Engine<'_>, number: u32, body: Vec<u8>) {
        self.object.ledger.sent();
        self.object.stored_len.fetch_add(body.len() as u64, Ordering::Relaxed);
        let room = std::mem::take(&mut self.room);
        engine.ask(|scheduler| scheduler.other_began());
        engine.request(Job::Part { object: Arc::clone(&self.object), number, body, room });
    }

    fn end(mut self, engine: &Engine<'_>, index: Index, identity: Object) {
        *self.object.identity.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((index, identity));
        let limits = engine.env.store.limits();
        let last = std::mem::replace(&mut self.parts, Parts::new(limits)).take_last();
        if last.is_some() {
            // Before it is closed: it counts.
            self.object.ledger.sent();
        }
        let all_in = self.object.ledger.close();
        let (object, room) = (Arc::clone(&self.object), std::mem::take(&mut self.room));
        if let Some((number, body)) = last {
            object.stored_len.fetch_add(body.len() as u64, Ordering::Relaxed);
            engine.ask(|scheduler| scheduler.other_began());
            engine.request(Job::Part { object, number, body, room });
        } else if all_in {
            engine.ask(|scheduler| scheduler.other_began());
            engine.request(Job::Finish { object, room });
        } else {
            engine.ask(|scheduler| scheduler.return_room(room));
        }
    }
}

/// A delta's header is at most two numbers of ten bytes.
fn keep_beginning(beginning: &mut Vec<u8>, inflated: &[u8]) {
    let missing = inflated.len().min(20 - beginning.len());
    beginning.extend_from_slice(&inflated[..missing]);
}
