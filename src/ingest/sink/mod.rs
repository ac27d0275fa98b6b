//! How a stream of objects is laid out in the bucket: one file a layout, behind one trait.

pub(super) mod loose;
mod pack;
mod records;

use std::io::{self, Read};

use rayon::Scope;

use super::engine::{Engine, Env, Slice};
use super::heavy::LargeResult;
use super::scheduler::{Done, Unit};
use crate::git::object::{Kind, Oid};
use crate::pack::resolver::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::Layout;
use crate::repository::packs::StoredPack;
use crate::repository::parts::Parts;
use crate::store::{Key, ObjectHeaders, Part, Upload};

/// A layout.
pub(super) trait Sink: Sync {
    /// Can what is stored be read while the pack still comes?
    fn is_readable(&self) -> bool;
    /// Are the pack's own deflate blocks wanted, as a loose object's body?
    fn keeps_raw(&self) -> bool;
    /// Sees the pack's raw bytes, in order. Called by the reader.
    fn tap(&self, engine: &Engine<'_>, bytes: &[u8]) -> Result<(), MirrorError>;

    /// A unit is resolved: stores its objects and tells the scheduler.
    fn take<'s>(
        &self,
        engine: &'s Engine<'_>,
        scope: &Scope<'s>,
        unit: Unit<Slice>,
        done: Vec<Done>,
        results: Slice,
    ) -> Result<(), MirrorError>;
    /// Notes an object that passed through in pieces.
    fn note(
        &self,
        engine: &Engine<'_>,
        oid: &Oid,
        offset: u64,
        crc32: u32,
    ) -> Result<(), MirrorError>;
    /// Tells every object that was taken so far, by its offset in the pack.
    fn each_named(
        &self,
        engine: &Engine<'_>,
        tell: &mut dyn FnMut(u64, &Oid),
    ) -> Result<(), MirrorError>;

    /// Reads a base back, whole; it should have `len` bytes, but whoever applies a delta to it checks.
    fn read_base(
        &self,
        engine: &Engine<'_>,
        index: Index,
        kind: Kind,
        oid: Option<Oid>,
        len: u64,
    ) -> Result<Vec<u8>, MirrorError>;
    /// Reads a delta's instructions back from the pack.
    fn read_delta(&self, engine: &Engine<'_>, index: Index) -> Result<Vec<u8>, MirrorError>;
    /// The same as a stream.
    fn open_entry<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        index: Index,
    ) -> io::Result<Box<dyn Read + 'a>>;
    /// A large object as a stream.
    fn open_object<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        index: Index,
        kind: Kind,
        oid: Option<Oid>,
    ) -> Result<Box<dyn Read + 'a>, MirrorError>;

    /// Where a large object of the pack goes; `None`: nowhere but in the pack.
    fn begin_object(&self, engine: &Engine<'_>) -> Result<Option<Upload>, MirrorError>;
    /// Where a large delta waits; `None`: it is in the pack.
    fn begin_delta<'a>(&self, engine: &Engine<'a>)
    -> Result<Option<InlineUpload<'a>>, MirrorError>;
    /// Where a heavy delta's large result goes.
    fn begin_result<'a>(
        &'a self,
        engine: &'a Engine<'_>,
        kind: Kind,
        len: u64,
    ) -> Result<Box<dyn LargeResult + 'a>, MirrorError>;
    /// Stores a heavy delta's small result.
    fn take_heavy(
        &self,
        engine: &Engine<'_>,
        index: Index,
        crc32: u32,
        object: &Object,
        content: &[u8],
    ) -> Result<(), MirrorError>;

    /// The pack has been read: ends the run. Called by the reader; `len` bytes, trailer included.
    fn finish<'s>(
        &self,
        engine: &'s Engine<'_>,
        scope: &Scope<'s>,
        trailer: Oid,
        len: u64,
    ) -> Result<Option<StoredPack>, MirrorError>;
}

/// The run's layout. `objects`: what the pack's header promises; `wants` must be among them.
pub(super) fn sink_of<'e>(
    env: &'e Env<'e>,
    objects: u32,
    wants: &[Oid],
) -> Result<Box<dyn Sink + 'e>, MirrorError> {
    Ok(match env.layout {
        Layout::Loose => Box::new(loose::Loose::new(wants)),
        Layout::Pack => Box::new(pack::Pack::begin(env, objects, wants)?),
    })
}

/// A multipart upload whose parts are sent by the thread that makes them: one part in memory.
pub(super) struct InlineUpload<'e> {
    env: &'e Env<'e>,
    upload: Upload,
    pub(super) parts: Parts,
    stored: Vec<Part>,
    stored_len: u64,
}

impl<'e> InlineUpload<'e> {
    pub(super) fn begin(
        env: &'e Env<'e>,
        key: &Key,
        headers: ObjectHeaders,
    ) -> Result<Self, MirrorError> {
        let upload = env.temp.create_upload(key, headers)?;
        let parts = Parts::new(env.store.limits());
        Ok(InlineUpload { env, upload, parts, stored: Vec::new(), stored_len: 0 })
    }

    /// Sends the part in hand if it is full.
    pub(super) fn send_full_part(&mut self) -> Result<(), MirrorError> {
        match self.parts.take_full() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, (number, body): (u32, Vec<u8>)) -> Result<(), MirrorError> {
        self.stored_len += body.len() as u64;
        self.stored.push(self.env.store.put_part(&self.upload, number, &body)?);
        self.env.progress.stored(body.len() as u64);
        Ok(())
    }

    /// Sends the rest. The upload is complete but for being completed.
    fn end(mut self) -> Result<(Upload, Vec<Part>, u64), MirrorError> {
        let limits = self.env.store.limits();
        let parts = std::mem::replace(&mut self.parts, Parts::new(limits));
        if let Some(last) = parts.take_last() {
            self.send(last)?;
        }
        Ok((self.upload, self.stored, self.stored_len))
    }

    /// Sends the rest and makes the object appear under its key, which it answers.
    pub(super) fn finish(self) -> Result<Key, MirrorError> {
        let env = self.env;
        let (upload, parts, _) = self.end()?;
        env.store.complete_upload(&upload, &parts)?;
        env.temp.upload_ended(&upload);
        Ok(upload.key)
    }
}

/// The pack ended without an object that was asked for.
fn missing(oid: &Oid) -> MirrorError {
    MirrorError::Pack(format!("it does not contain {oid}, which was asked for"))
}
