//! A pack that is stored already: nothing is written, whoever checks it hears every object.
//!
//! As the pack layout's two passes, but that the pack can be read from the start, so that the second
//! pass needs no wait. What would go to temporary keys (a large base laid down raw) goes into the
//! run's store like everywhere; whoever checks gives one that keeps it in memory.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use super::pack::{RawResult, StoredPackReader};
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::ingest::bytes::Slice;
use crate::ingest::engine::{Engine, LargeResult, Sink};
use crate::ingest::hands::Hands;
use crate::ingest::units::{Done, Stored, Unit};
use crate::pack::entry_stream::EntryStream;
use crate::pack::object::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::packs::StoredPack;
use crate::repository::resuming::ResumingReader;
use crate::repository::writer::KeyWriter;
use crate::store::{Key, Store, Upload};

/// An object of the pack, as it really is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Its name, computed.
    pub(crate) oid: Oid,
    /// Where its entry begins.
    pub(crate) offset: u64,
    /// The CRC-32 of the entry's bytes.
    pub(crate) crc32: u32,
    /// `None`: of an object that was too large to be whole in memory. `RunContext::observe` sees the others.
    pub(crate) kind: Option<Kind>,
}

/// Whoever checks a pack.
pub(crate) trait Examiner: Sync {
    /// Hears some objects, each once. Called by many threads.
    fn found(&self, objects: &[Found]);

    /// Tells the objects that the pack should have, by offset and name: only for packs in which
    /// deltas name their bases.
    fn each_listed(&self, tell: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError>;
}

/// See the module's page.
pub(in crate::ingest) struct Check<'e> {
    examiner: &'e dyn Examiner,
    stored: StoredPackReader<'e>,
    /// The reader tells what is large by `note`, without its kind.
    noted: Mutex<Vec<Found>>,
}

impl<'e> Check<'e> {
    /// The pack `key` of `len` bytes; `memory_bytes`: what reading it again may take.
    pub(in crate::ingest) fn new(
        store: &'e dyn Store,
        format: ObjectFormat,
        (key, len): (Key, u64),
        memory_bytes: u64,
        examiner: &'e dyn Examiner,
    ) -> Self {
        let stored = StoredPackReader::new(store, format, (key, len), memory_bytes);
        Check { examiner, stored, noted: Mutex::default() }
    }

    fn offset(engine: &Engine<'_>, index: Index) -> u64 {
        engine.ask(|scheduler| scheduler.offset(index))
    }
}

impl Sink for Check<'_> {
    fn is_readable(&self) -> bool {
        false
    }

    fn keeps_raw(&self) -> bool {
        false
    }

    fn tap(&self, _: &Engine<'_>, _: &[u8]) -> Result<(), MirrorError> {
        Ok(())
    }

    fn take<'s>(
        &self,
        engine: &'s Engine<'_>,
        hands: &Hands<'_, 's>,
        unit: Unit<Slice>,
        done: Vec<Done>,
        results: Vec<Slice>,
    ) -> Result<(), MirrorError> {
        let found = unit.items.iter().zip(&done).map(|(item, done)| Found {
            oid: done.oid,
            offset: item.offset,
            crc32: item.crc32,
            kind: Some(done.kind),
        });
        self.examiner.found(&found.collect::<Vec<_>>());
        let weigh = |buffer: Slice| {
            let bytes = buffer.len() as u64;
            (buffer, bytes)
        };
        let results = results.into_iter().map(weigh).collect();
        engine.tell(hands, |scheduler| scheduler.resolved(&unit, &done, results, None));
        engine.env.progress.objects_done(done.len() as u64);
        Ok(())
    }

    fn note(&self, _: &Engine<'_>, oid: &Oid, offset: u64, crc32: u32) -> Result<(), MirrorError> {
        let found = Found { oid: *oid, offset, crc32, kind: None };
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(found);
        Ok(())
    }

    fn each_named(
        &self,
        _: &Engine<'_>,
        tell: &mut dyn FnMut(u64, &Oid),
    ) -> Result<(), MirrorError> {
        // By what the index says: if that is wrong, a base is, and so the object's name.
        self.examiner.each_listed(tell)
    }

    fn read_base(&self, engine: &Engine<'_>, base: Stored, _: u64) -> Result<Vec<u8>, MirrorError> {
        Ok(self.stored.object(engine, base.offset)?.to_vec())
    }

    fn make_link(&self, engine: &Engine<'_>, offset: u64) -> Result<(), MirrorError> {
        self.stored.make_link(engine, offset)
    }

    fn read_delta(&self, engine: &Engine<'_>, offset: u64) -> Result<Vec<u8>, MirrorError> {
        Ok(self.stored.entry(engine, offset)?.1)
    }

    fn open_entry<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        offset: u64,
    ) -> io::Result<Box<dyn Read + 'a>> {
        let stream = ResumingReader::new(engine.env.store, self.stored.key().clone(), offset);
        Ok(Box::new(EntryStream::new(stream, offset, engine.env.format)?))
    }

    fn open_object<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        base: Stored,
    ) -> Result<Box<dyn Read + 'a>, MirrorError> {
        self.open_entry(engine, base.offset).map_err(|error| {
            MirrorError::Mirror(format!("cannot read {}: {error}", self.stored.key()))
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
            let key = engine.env.temp.key("base");
            engine.env.store.put(&key, content, TEMPORARY, None)?;
            engine.set_raw_key(index, key);
        }
        let offset = Self::offset(engine, index);
        let found = Found { oid: object.oid, offset, crc32, kind: Some(object.kind) };
        self.examiner.found(&[found]);
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
        let deferred = engine.tell(hands, |scheduler| scheduler.pack_stored());
        log::debug!("{deferred} deltas were deferred to the second pass");
        engine.wait_idle()?;
        engine.all_resolved()?;
        self.examiner.found(&self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Some(StoredPack { name: format!("pack-{trailer}"), objects: 0, bytes: len }))
    }
}
