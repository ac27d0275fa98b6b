//! The loose layout: each object is stored as it is resolved, under its own name.

use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::git::object::{Kind, Oid, object_header};
use crate::ingest::bytes::Slice;
use crate::ingest::engine::{Engine, LargeResult, Sink};
use crate::ingest::hands::Hands;
use crate::ingest::jobs::{Job, Uploads};
use crate::ingest::units::{Done, Stored, Unit, Work};
use crate::pack::deflate::Deflater;
use crate::pack::loose::encode_loose;
use crate::pack::object::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::loose;
use crate::repository::packs::StoredPack;
use crate::repository::resuming::ResumingReader;
use crate::repository::writer::KeyWriter;
use crate::store::Upload;

/// git's own default for loose objects (`core.looseCompression`): speed.
const LEVEL: i32 = 1;

/// Deflates a loose object; each thread keeps its deflate state (300 KB, slow to set up).
pub(in crate::ingest) fn deflate(kind: Kind, content: &[u8]) -> Vec<u8> {
    thread_local! {
        static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(LEVEL));
    }
    DEFLATER.with_borrow_mut(|deflater| encode_loose(kind, content, deflater))
}

pub(in crate::ingest) struct Loose {
    wants: Vec<Oid>,
}

impl Loose {
    pub(in crate::ingest) fn new(wants: &[Oid]) -> Self {
        Loose { wants: wants.to_vec() }
    }
}

impl Sink for Loose {
    fn is_readable(&self) -> bool {
        true
    }

    fn keeps_raw(&self) -> bool {
        true
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
        let bodies = unit.items.iter().zip(&done).map(|(item, done)| match &item.work {
            Work::Object { raw: Some(raw), .. } => raw.len() as u64,
            _ => done.len as u64 + 64,
        });
        let bodies = bodies.sum();
        let weighed = results.iter().map(|buffer| (buffer.clone(), buffer.len() as u64)).collect();
        let first = engine.tell(&hands.busy(), |scheduler| {
            scheduler.resolved(&unit, &done, weighed, Some(bodies))
        });
        let existing = &engine.env.existing;
        let is_new = |at: usize| first[at] && !existing.contains(&done[at].oid);
        let new: Vec<usize> = (0..done.len()).filter(|at| is_new(*at)).collect();
        let known = done.len() - new.len();
        if known > 0 {
            engine.env.progress.objects_done(known as u64);
        }
        if new.is_empty() {
            engine.tell(hands, |scheduler| scheduler.stored(unit.id));
            return Ok(());
        }
        let uploads = Arc::new(Uploads { unit: unit.id, left: AtomicUsize::new(new.len()) });
        let mut items: Vec<_> = unit.items.into_iter().map(|item| Some(item.work)).collect();
        for at in new {
            let Done { kind, oid, .. } = done[at];
            let body = match items[at].take() {
                Some(Work::Object { raw: Some(raw), .. }) => raw,
                _ => deflate(kind, done[at].content(&results)).into(),
            };
            engine.request(Job::Put { oid, body, unit: Arc::clone(&uploads) });
        }
        Ok(())
    }

    fn note(&self, _: &Engine<'_>, _: &Oid, _: u64, _: u32) -> Result<(), MirrorError> {
        Ok(())
    }

    fn each_named(&self, _: &Engine<'_>, _: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError> {
        // Names are known from the start.
        Ok(())
    }

    fn read_base(
        &self,
        engine: &Engine<'_>,
        Stored { offset, kind, oid }: Stored,
        len: u64,
    ) -> Result<Vec<u8>, MirrorError> {
        let oid = named(oid)?;
        let store = engine.env.store;
        let read = loose::read_back(store, &Object { oid, kind, len });
        let Err(error) = read else { return read };
        // A delta may claim another length than its base has.
        match loose::look(store, &oid)? {
            Some(found) if found.len != len => Err(Engine::broken_at(
                offset,
                format!("a delta expects it to have {len} bytes, but it has {}", found.len),
            )),
            _ => Err(error),
        }
    }

    fn make_link(&self, _: &Engine<'_>, _: u64) -> Result<(), MirrorError> {
        Ok(())
    }

    fn read_delta(&self, _: &Engine<'_>, _: u64) -> Result<Vec<u8>, MirrorError> {
        Err(MirrorError::Internal("loose objects come from no stored pack".into()))
    }

    fn open_entry<'a>(&'a self, _: &'a Engine<'_>, _: u64) -> io::Result<Box<dyn Read + 'a>> {
        Err(io::Error::other("loose objects come from no stored pack"))
    }

    fn open_object<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        Stored { kind, oid, .. }: Stored,
    ) -> Result<Box<dyn Read + 'a>, MirrorError> {
        let oid = named(oid)?;
        let store = engine.env.store;
        let Some(object) = loose::look(store, &oid)? else {
            return Err(MirrorError::Mirror(format!("{} has disappeared", loose::key(&oid))));
        };
        let object = Object { kind, ..object };
        let stream = ResumingReader::new(store, loose::key(&oid), 0);
        Ok(Box::new(loose::open(stream, store, &object)?))
    }

    fn begin_object(&self, engine: &Engine<'_>) -> Result<Option<Upload>, MirrorError> {
        let key = engine.env.temp.key("object");
        Ok(Some(engine.env.temp.create_upload(&key, loose::HEADERS)?))
    }

    fn begin_delta<'a>(&self, engine: &Engine<'a>) -> Result<Option<KeyWriter<'a>>, MirrorError> {
        let env = engine.env;
        Ok(Some(KeyWriter::temporary(env.temp, env.progress, "delta", TEMPORARY)))
    }

    fn begin_result<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        kind: Kind,
        len: u64,
    ) -> Result<Box<dyn LargeResult + 'a>, MirrorError> {
        let env = engine.env;
        let mut upload = KeyWriter::temporary(env.temp, env.progress, "object", loose::HEADERS);
        let mut deflater = Deflater::new(LEVEL);
        deflater.begin();
        deflater.write(&object_header(kind, len), upload.body());
        Ok(Box::new(DeflatedResult { engine, upload, deflater }))
    }

    fn take_heavy(
        &self,
        engine: &Engine<'_>,
        _: Index,
        _: u32,
        object: &Object,
        content: &[u8],
    ) -> Result<(), MirrorError> {
        if !engine.is_stored(&object.oid) {
            let body = deflate(object.kind, content);
            engine.env.store.put(&loose::key(&object.oid), &body, loose::HEADERS, None)?;
            engine.count_stored(1, body.len() as u64);
            engine.env.progress.stored(body.len() as u64);
        }
        engine.env.progress.objects_done(1);
        Ok(())
    }

    fn finish<'s>(
        &self,
        engine: &'s Engine<'_>,
        _: &Hands<'_, 's>,
        _: Oid,
        _: u64,
    ) -> Result<Option<StoredPack>, MirrorError> {
        engine.wait_idle()?;
        engine.all_resolved()?;
        let absent = self.wants.iter().filter(|oid| !engine.is_stored(oid));
        let absent: Vec<Oid> = absent.copied().collect();
        engine.on_network(|| engine.env.must_have(&absent))?;
        Ok(None)
    }
}

fn named(oid: Option<Oid>) -> Result<Oid, MirrorError> {
    oid.ok_or_else(|| MirrorError::Internal("loose objects are known by name".into()))
}

/// A large result on its way into the store.
struct DeflatedResult<'a, 'e> {
    engine: &'a Engine<'e>,
    upload: KeyWriter<'e>,
    deflater: Deflater,
}

impl LargeResult for DeflatedResult<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        self.deflater.write(bytes, self.upload.body());
        Ok(self.upload.send_full_part()?)
    }

    fn finish(mut self: Box<Self>, _: Index, _: u32, object: &Object) -> Result<(), MirrorError> {
        self.deflater.finish(self.upload.body());
        let (key, len) = self.upload.finish()?;
        self.engine.name_object(&key, len, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deflated_object_is_what_it_was() {
        let body = deflate(Kind::Blob, b"content");
        let (kind, content) = crate::pack::loose::decode_loose(&body, 100).unwrap();
        assert_eq!((kind, &content[..]), (Kind::Blob, &b"content"[..]));
    }
}
