//! The reader: takes entries off the stream, asks for room, and hands them on.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rayon::Scope;

use super::requests::{Job, LargeObject};
use super::table::{Delta, DeltaBytes};
use super::tasks::deflate_loose;
use super::{Engine, OVERHEAD_BYTES};
use crate::git::object::{Kind, ObjectHasher, hash_object};
use crate::ingest::gate::{Entered, Permit};
use crate::ingest::large;
use crate::ingest::thin;
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind};
use crate::pack::loose::Rewrap;
use crate::pack::reader::PackReader;
use crate::pack::resolver::{BaseName, Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::{Layout, TEMPORARY};
use crate::repository::loose;
use crate::repository::parts::{Ledger, Parts};

/// Memory that is taken at once for an entry of a promised length; more only as bytes arrive.
const TRUSTED_BYTES: u64 = 1 << 20;

impl Engine<'_> {
    /// Reads every entry of the pack and hands it on.
    pub(crate) fn read_pack<'s, R: Read, T: FnMut(&[u8]) -> io::Result<()>>(
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

    /// A thin pack has ended: bases that it lacks are in the mirror. The loose ones are read like
    /// others that have left memory; the rest are handed on as if the pack had them.
    pub(super) fn add_lacking_bases<'s>(&'s self, scope: &Scope<'s>) -> Result<(), MirrorError> {
        // Only then is it known what waits in vain.
        self.gate.wait_idle();
        let lacking = self.table().resolver.lacking_bases();
        log::debug!("{} bases are not in the pack", lacking.len());
        for oid in lacking {
            let Some(permit) = self.gate.token() else { return Ok(()) };
            self.send(&self.requests, Job::Base { oid, permit });
        }
        self.gate.wait_idle();
        let others =
            std::mem::take(&mut *self.not_loose.lock().unwrap_or_else(PoisonError::into_inner));
        if others.is_empty() || self.is_over() {
            return Ok(());
        }
        let mut take = |kind, content: Vec<u8>| {
            let mut permit = self.enter(2 * content.len() as u64 + OVERHEAD_BYTES)?;
            permit.shrink(content.capacity() as u64 + OVERHEAD_BYTES);
            let index = self.add_base()?;
            if content.len() as u64 > self.env.budget.large {
                return self.store_large_base(scope, index, kind, &content);
            }
            scope.spawn(move |scope| {
                self.guard(|| self.accept(scope, index, kind, content, None, permit));
            });
            Ok(())
        };
        thin::from_packs(self.env.store, others, self.env.budget.bases, &mut take)
    }

    /// Deltas against a large object read it from the store, so it is there before they know of it.
    fn store_large_base<'s>(
        &'s self,
        scope: &Scope<'s>,
        index: Index,
        kind: Kind,
        content: &[u8],
    ) -> Result<(), MirrorError> {
        let object = Object { oid: hash_object(kind, content), kind, len: content.len() as u64 };
        let body = deflate_loose(kind, content);
        self.env.store.put(&loose::key(&object.oid), &body, loose::HEADERS, None)?;
        self.count_stored(body.len() as u64);
        self.env.progress.stored(body.len() as u64);
        self.resolved(index, object);
        self.pump(scope);
        Ok(())
    }

    pub(super) fn add_base(&self) -> Result<Index, MirrorError> {
        let added = self.table().resolver.add_from_elsewhere();
        added.map_err(|error| MirrorError::Pack(error.to_string()))
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
    pub(crate) fn closed(&self) -> MirrorError {
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
                self.guard_task(|| self.accept(scope, index, kind, content, None, permit));
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
            self.guard_task(|| self.accept(scope, index, kind, content, body, permit));
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
            self.env.progress.object_done();
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
    pub(super) fn spill(&self) -> Result<(), MirrorError> {
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
        self.env.progress.stored(batch.len() as u64);
        batch.clear();
        let mut table = self.table();
        for (index, offset, len) in spilled.drain(..) {
            let delta = table.parked.get_mut(&index).expect("only the reader parks and spills");
            delta.bytes = DeltaBytes::Stored(Box::new((Arc::clone(&key), offset..offset + len)));
        }
        Ok(())
    }
}

/// What the reader fills for a large object.
struct LargeSink {
    parts: Parts,
    /// For the part that is being filled; `None` only while the reader asks for the next.
    permit: Option<Permit>,
    object: Arc<LargeObject>,
}

/// A delta's header is at most two numbers of ten bytes.
fn keep_beginning(beginning: &mut Vec<u8>, inflated: &[u8]) {
    let missing = inflated.len().min(20 - beginning.len());
    beginning.extend_from_slice(&inflated[..missing]);
}
