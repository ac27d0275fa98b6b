//! Deltas that do not fit into memory: a large base, a large result, or a large delta.
//!
//! One thread takes them one after the other, so that whatever their size only one part and a few
//! blocks are held. A loose object is one deflate stream and can't be read at an offset, so a large
//! base is first laid down *raw* under a temporary key, once, and then read in ranges. The result is
//! hashed and deflated on its way into a multipart upload.
//!
//! In the pack layout all of them come in the second pass. Objects and deltas are read from the
//! stored pack, the result is hashed, and it is laid down raw if something may still wait for it.

use std::io::{self, Read};

use lru::LruCache;
use rayon::Scope;

use super::bases::Content;
use super::gate::Permit;
use super::pipeline::{Delta, DeltaBytes, Engine, Env, LEVEL};
use crate::git::object::{ObjectHasher, object_header};
use crate::pack::deflate::Deflater;
use crate::pack::delta::{Instr, InstructionReader};
use crate::pack::entry_stream::EntryStream;
use crate::pack::resolver::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::{Layout, TEMPORARY};
use crate::repository::loose;
use crate::repository::parts::Parts;
use crate::repository::reopen::Reopening;
use crate::store::{Key, ObjectHeaders, Part, Store, StoreError, Upload};

/// A block of a raw base: what one ranged GET brings.
const BLOCK_BYTES: u64 = 1 << 20;

/// Blocks that are kept.
const BLOCKS: usize = 4;

/// A delta for this thread; its base is resolved and, if it is large, stored.
pub(super) struct LargeDelta {
    pub(super) index: Index,
    pub(super) base: Index,
    pub(super) base_object: Object,
    pub(super) delta: Delta,
    /// Keeps the run from being called idle.
    pub(super) permit: Permit,
}

/// Applies one delta.
pub(super) fn run<'s>(
    engine: &'s Engine<'_>,
    scope: &Scope<'s>,
    task: LargeDelta,
) -> Result<(), MirrorError> {
    let LargeDelta { index, base, base_object, delta, permit } = task;
    // All the room that this delta will ever need, taken before it holds any: nothing below waits
    // for more, so it can't wait for what it holds itself.
    let room = room_bytes(engine.env, &base_object, &delta);
    let room = engine.gate.wait_results(room).ok_or_else(|| engine.closed())?;
    // `None`: another thread's read of it failed, and has said why.
    let Some(mut base) = open_base(engine, base, &base_object)? else {
        return Ok(());
    };
    let failed = |error| delta_error(engine, index, &base_object, error);
    let instructions = open_delta(engine, index, &delta).map_err(|error| failed(error.into()))?;
    let mut instructions =
        InstructionReader::new(instructions).map_err(|error| failed(error.into()))?;
    let header = instructions.header();
    if header.base_len != base_object.len {
        let what = format!(
            "the delta wants a base of {} bytes, but {} has {}",
            header.base_len, base_object.oid, base_object.len
        );
        return Err(engine.broken(index, what));
    }
    let is_small = header.result_len <= engine.env.budget.large;
    match engine.env.layout {
        _ if is_small => {
            let mut content = Vec::new();
            apply(&mut base, &mut instructions, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .map_err(failed)?;
            drop(base);
            if engine.env.layout == Layout::Pack && engine.others_wait() {
                // It can't be rebuilt from the pack in memory: an ancestor is large.
                let key = engine.env.temp.key("base");
                engine.env.store.put(&key, &content, TEMPORARY, None)?;
                engine.set_raw_key(index, key);
            }
            engine.accept(scope, index, base_object.kind, content, None, room)?;
            engine.end_task(scope, permit);
            return Ok(());
        }
        Layout::Loose => {
            let kind = base_object.kind;
            let key = engine.env.temp.key("object");
            let mut upload = InlineUpload::begin(engine.env, &key, loose::HEADERS)?;
            let mut hasher = ObjectHasher::new(kind, header.result_len);
            let mut deflater = Deflater::new(LEVEL);
            deflater.begin();
            deflater.write(&object_header(kind, header.result_len), &mut upload.parts.body);
            apply(&mut base, &mut instructions, &mut |bytes| {
                hasher.update(bytes);
                deflater.write(bytes, &mut upload.parts.body);
                upload.send_full_part()
            })
            .map_err(failed)?;
            deflater.finish(&mut upload.parts.body);
            let object = Object { oid: hasher.finish(), kind, len: header.result_len };
            let (upload, parts, stored_len) = upload.end()?;
            engine.store_large(scope, &upload, parts, stored_len, index, object)?;
        }
        Layout::Pack => {
            let kind = base_object.kind;
            let mut hasher = ObjectHasher::new(kind, header.result_len);
            let mut raw = match engine.others_wait() {
                true => {
                    let key = engine.env.temp.key("base");
                    Some((key.clone(), InlineUpload::begin(engine.env, &key, TEMPORARY)?))
                }
                false => None,
            };
            apply(&mut base, &mut instructions, &mut |bytes| {
                hasher.update(bytes);
                let Some((_, upload)) = &mut raw else { return Ok(()) };
                upload.parts.body.extend_from_slice(bytes);
                upload.send_full_part()
            })
            .map_err(failed)?;
            if let Some((key, upload)) = raw {
                upload.finish()?;
                engine.set_raw_key(index, key);
            }
            let object = Object { oid: hasher.finish(), kind, len: header.result_len };
            engine.resolved_in_pack(scope, index, object);
        }
    }
    // Before the last look for what is ready: what waits for this room must find it.
    drop(room);
    engine.end_task(scope, permit);
    Ok(())
}

/// The most that a large delta ever holds: a base that is whole in memory, and once more while it is
/// inflated; the result and its deflated form, or a part of either.
fn room_bytes(env: &Env<'_>, base: &Object, delta: &Delta) -> u64 {
    let part = Parts::new(env.store.limits()).part_bytes();
    let result_len = delta.header.result_len;
    let result = if result_len <= env.budget.large { 2 * result_len } else { part };
    match base.len <= env.budget.large {
        true => 2 * base.len + result,
        // Laid down in parts first.
        false => result.max(part),
    }
}

/// A delta's instructions as a stream.
fn open_delta<'a>(
    engine: &Engine<'a>,
    index: Index,
    delta: &'a Delta,
) -> io::Result<Box<dyn Read + 'a>> {
    let store = engine.env.store;
    Ok(match &delta.bytes {
        DeltaBytes::Memory(held) => Box::new(&held.0[..]),
        DeltaBytes::Stored(place) => {
            let (key, range) = &**place;
            let stream = Reopening::new(store, (**key).clone(), range.start);
            Box::new(stream.take(range.end - range.start))
        }
        DeltaBytes::InPack { .. } => Box::new(open_in_pack(engine, index)?),
    })
}

fn open_in_pack<'e>(engine: &Engine<'e>, index: Index) -> io::Result<EntryStream<Reopening<'e>>> {
    let place = engine.place_in_pack(index);
    let (key, offset) = place.ok_or_else(|| io::Error::other("the pack is not stored yet"))?;
    EntryStream::new(Reopening::new(engine.env.store, key, offset), offset)
}

fn open_base<'e>(
    engine: &Engine<'e>,
    base: Index,
    object: &Object,
) -> Result<Option<Base<'e>>, MirrorError> {
    let store = engine.env.store;
    if object.len <= engine.env.budget.large {
        if let Some(content) = engine.base_in_memory(base) {
            return Ok(Some(Base::Memory(content)));
        }
        return Ok(engine.base_content(base, object)?.map(Base::Memory));
    }
    let key = match engine.raw_key(base) {
        Some(key) => key,
        None => {
            let key = lay_down_raw(engine, base, object)?;
            engine.set_raw_key(base, key.clone());
            key
        }
    };
    let blocks = LruCache::new(BLOCKS.try_into().expect("not zero"));
    Ok(Some(Base::Raw { store, key, len: object.len, blocks }))
}

/// Inflates a stored object into a temporary key, where it can be read in ranges. In the pack layout
/// it is one that is no delta: a large result was laid down when it was made.
fn lay_down_raw(engine: &Engine<'_>, index: Index, object: &Object) -> Result<Key, MirrorError> {
    let store = engine.env.store;
    let key = engine.env.temp.key("base");
    let mut upload = InlineUpload::begin(engine.env, &key, TEMPORARY)?;
    let mut content: Box<dyn Read + '_> = match engine.env.layout {
        Layout::Loose => {
            let stream = Reopening::new(store, loose::key(&object.oid), 0);
            Box::new(loose::open(stream, store, object)?)
        }
        Layout::Pack => {
            Box::new(open_in_pack(engine, index).map_err(|error| store_error(store, error))?)
        }
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        if engine.is_over() {
            return Err(engine.closed());
        }
        let read = content.read(&mut buffer).map_err(|error| store_error(store, error))?;
        if read == 0 {
            break;
        }
        upload.parts.body.extend_from_slice(&buffer[..read]);
        upload.send_full_part()?;
    }
    upload.finish()?;
    Ok(key)
}

/// A base that can be read at any offset.
enum Base<'e> {
    Memory(Content),
    Raw { store: &'e dyn Store, key: Key, len: u64, blocks: LruCache<u64, Vec<u8>> },
}

impl Base<'_> {
    fn len(&self) -> u64 {
        match self {
            Base::Memory(content) => content.len() as u64,
            Base::Raw { len, .. } => *len,
        }
    }

    /// Hands on `len` bytes from `offset`, in pieces. The range must lie inside.
    fn copy(
        &mut self,
        mut offset: u64,
        mut len: u64,
        to: &mut Sink<'_>,
    ) -> Result<(), MirrorError> {
        match self {
            Base::Memory(content) => to(&content[offset as usize..(offset + len) as usize]),
            Base::Raw { store, key, len: base_len, blocks } => {
                while len > 0 {
                    let number = offset / BLOCK_BYTES;
                    let start = number * BLOCK_BYTES;
                    let block = match blocks.get(&number) {
                        Some(block) => block,
                        None => {
                            let end = (start + BLOCK_BYTES).min(*base_len);
                            let (block, _) = store.get(key, Some(start..end), BLOCK_BYTES)?;
                            if block.len() as u64 != end - start {
                                let what = format!("{key} has lost its end while it was read");
                                return Err(MirrorError::Mirror(what));
                            }
                            blocks.get_or_insert(number, || block)
                        }
                    };
                    let from = (offset - start) as usize;
                    let piece = &block[from..block.len().min(from + len as usize)];
                    to(piece)?;
                    offset += piece.len() as u64;
                    len -= piece.len() as u64;
                }
                Ok(())
            }
        }
    }
}

/// Takes the result, piece by piece.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), MirrorError> + 'a;

/// Why a large delta could not be applied.
enum Failed {
    /// The run's own trouble: store, gate.
    Run(MirrorError),
    /// The instructions: broken, or they could not be read.
    Instructions(io::Error),
}

impl From<MirrorError> for Failed {
    fn from(error: MirrorError) -> Self {
        Failed::Run(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Instructions(error)
    }
}

fn apply(
    base: &mut Base<'_>,
    instructions: &mut InstructionReader<Box<dyn Read + '_>>,
    to: &mut Sink<'_>,
) -> Result<(), Failed> {
    let wanted = instructions.header().result_len;
    let mut made = 0_u64;
    let mut buffer = vec![0; 64 << 10];
    while let Some(instruction) = instructions.next()? {
        let len = match instruction {
            Instr::Copy { len, .. } | Instr::Insert { len } => len,
        };
        made = made.saturating_add(len);
        if made > wanted {
            return Err(invalid(format!("result is longer than the {wanted} bytes promised")));
        }
        match instruction {
            Instr::Copy { offset, len } => {
                if offset.checked_add(len).is_none_or(|end| end > base.len()) {
                    let base_len = base.len();
                    return Err(invalid(format!(
                        "copy of {len} bytes at {offset} goes past the base's end at {base_len}"
                    )));
                }
                base.copy(offset, len, to)?;
            }
            Instr::Insert { mut len } => {
                while len > 0 {
                    let room = buffer.len().min(len as usize);
                    instructions.read_exact(&mut buffer[..room])?;
                    to(&buffer[..room])?;
                    len -= room as u64;
                }
            }
        }
    }
    if made == wanted {
        Ok(())
    } else {
        Err(invalid(format!("result has {made} of the {wanted} bytes promised")))
    }
}

fn invalid(what: String) -> Failed {
    Failed::Instructions(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn delta_error(
    engine: &Engine<'_>,
    index: Index,
    base: &Object,
    failed: impl Into<Failed>,
) -> MirrorError {
    match failed.into() {
        Failed::Run(error) => error,
        Failed::Instructions(error) => match wrapped_store_error(&error) {
            Some(store_error) => MirrorError::Store(store_error),
            None => engine.broken(index, format!("delta against {}: {error}", base.oid)),
        },
    }
}

fn wrapped_store_error(error: &io::Error) -> Option<StoreError> {
    error.get_ref()?.downcast_ref::<StoreError>().cloned()
}

fn store_error(store: &dyn Store, error: io::Error) -> MirrorError {
    match wrapped_store_error(&error) {
        Some(error) => MirrorError::Store(error),
        None => MirrorError::Mirror(format!("cannot read back from {}: {error}", store.describe())),
    }
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
    pub(super) fn end(mut self) -> Result<(Upload, Vec<Part>, u64), MirrorError> {
        let limits = self.env.store.limits();
        let parts = std::mem::replace(&mut self.parts, Parts::new(limits));
        if let Some(last) = parts.take_last() {
            self.send(last)?;
        }
        Ok((self.upload, self.stored, self.stored_len))
    }

    /// Sends the rest and makes the object appear under its key.
    pub(super) fn finish(self) -> Result<(), MirrorError> {
        let env = self.env;
        let (upload, parts, _) = self.end()?;
        env.store.complete_upload(&upload, &parts)?;
        env.temp.upload_ended(&upload);
        Ok(())
    }
}
