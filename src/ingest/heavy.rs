//! Deltas that do not fit into memory: a large base, a large result, or a large delta.
//!
//! One thread takes them one after the other, so that whatever their size only one part and a few
//! blocks are held, beside a base or a result that is no larger than [`Budget::large`]. A loose object
//! is one deflate stream and can't be read at an offset, so a large base is first laid down *raw*
//! under a temporary key, once, and then read in ranges.
//!
//! [`Budget::large`]: super::budget::Budget::large

use std::io::{self, Read};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::bytes::Slice;
use super::engine::Engine;
use super::hands::Hands;
use super::parked::DeltaBytes;
use super::units::{Done, Heavy};
use crate::git::object::{ObjectHasher, hash_object};
use crate::pack::delta::{Instr, InstructionReader};
use crate::pack::object::{Index, Object};
use crate::repository::blocks::BlockCache;
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::resuming::ResumingReader;
use crate::repository::writer::KeyWriter;
use crate::store::{Key, Store, StoreError};

/// Blocks of a raw base that are kept.
const RAW_BYTES: u64 = 4 << 20;

impl<'e> Engine<'e> {
    /// Applies one delta.
    pub(super) fn run_heavy<'s>(
        &'s self,
        hands: &Hands<'_, 's>,
        heavy: Heavy<Slice>,
    ) -> Result<(), MirrorError> {
        let index = heavy.index;
        let mut base = self.open_base(&heavy)?;
        let kind = heavy.stored_base.kind;
        let failed = |error: Failed| match error {
            Failed::Run(error) => error,
            Failed::Instructions(error) => match wrapped_store_error(&error) {
                Some(error) => MirrorError::Store(error),
                None => {
                    self.broken(index, format!("delta against {}: {error}", self.name_base(&heavy)))
                }
            },
        };
        let instructions = self.open_delta(&heavy).map_err(|error| failed(error.into()))?;
        let mut instructions =
            InstructionReader::new(instructions).map_err(|error| failed(error.into()))?;
        let header = instructions.header();
        if header.base_len != base.len() {
            let what = format!(
                "the delta needs a base of {} bytes, but {} has {}",
                header.base_len,
                self.name_base(&heavy),
                base.len()
            );
            return Err(self.broken(index, what));
        }
        if header.result_len <= self.env.budget.large {
            let mut content = Vec::new();
            self.copy(&mut base, &mut instructions, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .map_err(failed)?;
            drop(base);
            let oid = hash_object(self.env.format, kind, &content);
            let oid = oid.map_err(|collision| self.broken(index, collision))?;
            (self.env.observe)(&oid, kind, &content);
            let object = Object { oid, kind, len: content.len() as u64 };
            self.sink.take_heavy(self, index, heavy.crc32, &object, &content)?;
            let done = Done { kind, oid, buffer: 0, start: 0, len: content.len() };
            let weight = content.capacity() as u64;
            let content = Some((Slice::from(content), weight));
            drop(instructions);
            self.tell(hands, |scheduler| scheduler.heavy_done(&heavy, done, content));
            return Ok(());
        }
        let mut result = self.sink.begin_result(self, kind, header.result_len)?;
        let mut hasher = ObjectHasher::new(self.env.format, kind, header.result_len);
        self.copy(&mut base, &mut instructions, &mut |bytes| {
            hasher.update(bytes);
            result.write(bytes)
        })
        .map_err(failed)?;
        let oid = hasher.finish().map_err(|collision| self.broken(index, collision))?;
        let object = Object { oid, kind, len: header.result_len };
        result.finish(index, heavy.crc32, &object)?;
        drop(instructions);
        let done = Done { kind, oid: object.oid, buffer: 0, start: 0, len: 0 };
        self.tell(hands, |scheduler| scheduler.heavy_done(&heavy, done, None));
        Ok(())
    }

    fn name_base(&self, heavy: &Heavy<Slice>) -> String {
        match heavy.stored_base.oid {
            Some(oid) => oid.to_string(),
            None => format!("the object at offset {}", heavy.stored_base.offset),
        }
    }

    /// A delta's instructions as a stream.
    fn open_delta<'a>(&'a self, heavy: &'a Heavy<Slice>) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match &heavy.delta.bytes {
            DeltaBytes::Memory(bytes) => Box::new(&bytes[..]),
            DeltaBytes::Spilled { file, start } => {
                let stream = ResumingReader::new(self.env.store, self.spill_key(*file), *start);
                Box::new(stream.take(heavy.delta.len))
            }
            DeltaBytes::InPack => {
                let offset = self.ask(|scheduler| scheduler.offset(heavy.index));
                self.sink.open_entry(self, offset)?
            }
        })
    }

    fn open_base(&self, heavy: &Heavy<Slice>) -> Result<Base<'e>, MirrorError> {
        if let Some(content) = &heavy.base_content {
            return Ok(Base::Memory(content.clone()));
        }
        let base_len = heavy.delta.header.base_len;
        let raw = self.raw_key(heavy.base);
        if base_len <= self.env.budget.large && raw.is_none() {
            let content = self.sink.read_base(self, heavy.stored_base, base_len)?;
            return Ok(Base::Memory(content.into()));
        }
        let store = self.env.store;
        let (key, len) = match raw {
            Some(key) => {
                let info = store.head(&key)?;
                let gone = || MirrorError::Mirror(format!("{key} disappeared while it was in use"));
                let len = info.ok_or_else(gone)?.len;
                (key, len)
            }
            None => {
                let laid_down = self.lay_down_raw(heavy)?;
                self.set_raw_key(heavy.base, laid_down.0.clone());
                laid_down
            }
        };
        Ok(Base::Raw { key, len, blocks: BlockCache::new(store, RAW_BYTES) })
    }

    /// Inflates a stored object into a temporary key, where it can be read in ranges. In the pack
    /// layout it is one that is no delta: a large result was laid down when it was made.
    fn lay_down_raw(&self, heavy: &Heavy<Slice>) -> Result<(Key, u64), MirrorError> {
        let store = self.env.store;
        let mut upload = KeyWriter::temporary(self.env.temp, self.env.progress, "base", TEMPORARY);
        let mut content = self.sink.open_object(self, heavy.stored_base)?;
        let mut buffer = vec![0; 64 << 10];
        let mut len = 0;
        loop {
            if self.is_over() {
                return Err(self.closed());
            }
            let read = content.read(&mut buffer).map_err(|error| store_error(store, error))?;
            if read == 0 {
                break;
            }
            len += read as u64;
            self.beats.fetch_add(1, Ordering::Relaxed);
            upload.push(&buffer[..read])?;
        }
        Ok((upload.finish()?.0, len))
    }

    /// Where a large object was laid down raw, or a small one that has a large ancestor.
    pub(super) fn raw_key(&self, index: Index) -> Option<Key> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    /// The same for the entry at `offset`.
    pub(super) fn raw_key_at(&self, offset: u64) -> Option<Key> {
        if self.raw.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return None;
        }
        self.ask(|scheduler| scheduler.find_offset(offset)).and_then(|index| self.raw_key(index))
    }

    pub(super) fn set_raw_key(&self, index: Index, key: Key) {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner).insert(index, key);
    }

    fn copy(
        &self,
        base: &mut Base<'_>,
        instructions: &mut InstructionReader<Box<dyn Read + '_>>,
        to: &mut To<'_>,
    ) -> Result<(), Failed> {
        let wanted = instructions.header().result_len;
        let mut made = 0_u64;
        let mut buffer = vec![0; 64 << 10];
        while let Some(instruction) = instructions.next()? {
            if self.is_over() {
                return Err(Failed::Run(self.closed()));
            }
            self.beats.fetch_add(1, Ordering::Relaxed);
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
                            "copy of {len} bytes at {offset} exceeds the base's length {base_len}"
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
}

/// A base that can be read at any offset.
enum Base<'e> {
    Memory(Slice),
    Raw { key: Key, len: u64, blocks: BlockCache<'e> },
}

impl Base<'_> {
    fn len(&self) -> u64 {
        match self {
            Base::Memory(content) => content.len() as u64,
            Base::Raw { len, .. } => *len,
        }
    }

    /// Hands on `len` bytes from `offset`, in pieces. The range must lie inside.
    fn copy(&mut self, mut offset: u64, mut len: u64, to: &mut To<'_>) -> Result<(), MirrorError> {
        match self {
            Base::Memory(content) => to(&content[offset as usize..(offset + len) as usize]),
            Base::Raw { key, len: base_len, blocks } => {
                while len > 0 {
                    let Some((block, from)) = blocks.block(key, *base_len, offset)? else {
                        let what = format!("{key} became shorter while it was read");
                        return Err(MirrorError::Mirror(what));
                    };
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
type To<'a> = dyn FnMut(&[u8]) -> Result<(), MirrorError> + 'a;

/// Why a delta could not be applied.
enum Failed {
    /// The run's own trouble.
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

fn invalid(what: String) -> Failed {
    Failed::Instructions(io::Error::new(io::ErrorKind::InvalidData, what))
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
