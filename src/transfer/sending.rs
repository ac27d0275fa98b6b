//! Chosen objects of a mirror as the stream of one pack, made while it is read.
//!
//! Entries of the mirror's packs are taken over as they are, deltas as well where their base comes before
//! them in the stream; so no circle of deltas can arise where an object is in several packs. What stands
//! on an object that was not chosen is made whole, so that nothing else travels along. Loose objects come
//! last, whole. A packed entry must have the CRC-32 of its index; everything that is made whole, and every
//! loose object, is hashed.
//!
//! **Thread**: one, `send`, makes the pack. It waits for its requests and for the reader, never for a
//! lock; it ends after the last byte, with the first error, or when the stream is dropped, which waits
//! for that.
//!
//! **Memory**: the chosen names, the indices, 40 bytes an object of the pack that is read, and
//! `memory_bytes` for blocks, bases and small loose objects.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use zlib_rs::crc32::crc32;

use super::prove::SMALL_BYTES;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid, check_name, hash_object};
use crate::git::oids::ManyOids;
use crate::pack::deflate::Deflater;
use crate::pack::entry::{EntryKind, MAX_HEADER_LEN, parse_header};
use crate::pack::gather::{PACK_LEVEL, entry_header, entry_of_loose, ofs_delta_header};
use crate::pack::inflate::Inflater;
use crate::pack::loose::LooseError;
use crate::repository::checked_loose::CheckedLoose;
use crate::repository::error::MirrorError;
use crate::repository::loose;
use crate::repository::packed::{Catalogue, PackedReader, Packs, ReadError};
use crate::repository::resuming::ResumingReader;
use crate::run::threads::for_each;
use crate::source::{SourceError, SourceErrorKind};
use crate::store::{Key, Store, StoreError, StoreErrorKind};

/// What is handed over at once, and how many such pieces may wait.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 16;

/// Between two entries that are read with one request: as much as a request takes the time of.
const GAP_BYTES: u64 = 512 << 10;

/// The most content of a loose object that is held.
const HELD_BYTES: u64 = 1 << 20;

/// What is to be sent, and from where.
pub(crate) struct Chosen {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) packs: Packs,
    /// What they are named with.
    pub(crate) format: ObjectFormat,
    pub(crate) objects: ManyOids,
    pub(crate) concurrency: usize,
    pub(crate) memory_bytes: u64,
}

/// The stream. Its errors wrap a [`SourceError`].
pub(crate) struct PackStream {
    /// `None` once it is over.
    pieces: Option<Receiver<Result<Vec<u8>, MirrorError>>>,
    piece: Cursor<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    name: String,
}

impl PackStream {
    /// Begins to make the pack of what `chosen` names. `name`: of the source, for people.
    pub(crate) fn begin(chosen: Chosen, name: String) -> Result<Self, MirrorError> {
        let (sender, pieces) = sync_channel(PIECES);
        let make = move || {
            let checksum = Checksum::new(chosen.format);
            let mut out = Out { sender, ready: Vec::new(), checksum, at: 0 };
            if let Err(error) = chosen.make(&mut out) {
                // Nobody hears it if the stream was dropped.
                let _ = out.sender.send(Err(error));
            }
        };
        let thread = Builder::new().name("send".into()).spawn(make);
        let thread = thread
            .map_err(|error| MirrorError::Internal(format!("cannot start a thread: {error}")))?;
        Ok(PackStream {
            pieces: Some(pieces),
            piece: Cursor::default(),
            thread: Some(thread),
            name,
        })
    }
}

impl Read for PackStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 {
            let Some(pieces) = &self.pieces else { return Ok(0) };
            match pieces.recv() {
                Ok(Ok(piece)) => self.piece = Cursor::new(piece),
                Ok(Err(error)) => {
                    self.pieces = None;
                    return Err(io::Error::other(as_source_error(self.name.clone(), &error)));
                }
                Err(_) => self.pieces = None,
            }
        }
        self.piece.read(buffer)
    }
}

impl Drop for PackStream {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that makes a pack panicked");
        }
    }
}

/// What went wrong with a mirror, as an error of the source that it is.
pub(super) fn as_source_error(url: String, error: &MirrorError) -> SourceError {
    let kind = match error {
        MirrorError::Store(error) => match error.kind {
            StoreErrorKind::Transient { retry_after } => SourceErrorKind::Transient { retry_after },
            StoreErrorKind::Denied => SourceErrorKind::Denied,
            _ => SourceErrorKind::Fatal,
        },
        // Whoever cancelled knows.
        MirrorError::Interrupted => SourceErrorKind::Transient { retry_after: None },
        _ => SourceErrorKind::Fatal,
    };
    SourceError { kind, url, message: error.to_string() }
}

/// The pack in the making.
struct Out {
    sender: SyncSender<Result<Vec<u8>, MirrorError>>,
    ready: Vec<u8>,
    checksum: Checksum,
    at: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        self.checksum.update(bytes);
        self.at += bytes.len() as u64;
        self.ready.extend_from_slice(bytes);
        if self.ready.len() >= PIECE_BYTES { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), MirrorError> {
        let piece = std::mem::take(&mut self.ready);
        self.sender.send(Ok(piece)).map_err(|_| MirrorError::Interrupted)
    }

    fn finish(&mut self) -> Result<(), MirrorError> {
        let trailer = self.checksum.so_far();
        self.ready.extend_from_slice(trailer.as_bytes());
        self.hand_over()
    }
}

/// An entry of the pack that is read, by its offset.
struct Row {
    offset: u64,
    crc32: u32,
    oid: Oid,
    is_chosen: bool,
}

impl Chosen {
    fn make(&self, out: &mut Out) -> Result<(), MirrorError> {
        let count = u32::try_from(self.objects.len()).map_err(|_| {
            let count = self.objects.len();
            MirrorError::Mirror(format!("{count} objects are more than a pack can have"))
        })?;
        out.put(b"PACK\0\0\0\x02")?;
        out.put(&count.to_be_bytes())?;
        for number in 0..self.packs.0.len() {
            self.send_pack(number, out)?;
        }
        let is_loose = |oid: &Oid| self.packs.find(oid).is_none();
        let mut loose: Vec<Oid> = self.objects.iter().filter(is_loose).collect();
        loose.sort_unstable();
        self.send_loose(&loose, out)?;
        out.finish()
    }

    fn damaged(&self, key: &Key, what: impl std::fmt::Display) -> MirrorError {
        let place = self.store.describe();
        MirrorError::Mirror(format!("{place}/{key} is damaged: {what}; check it with verify"))
    }

    /// The chosen objects for which this pack is the first to look into.
    fn send_pack(&self, number: usize, out: &mut Out) -> Result<(), MirrorError> {
        let pack = &self.packs.0[number];
        let row = |entry: crate::pack::index::IndexEntry| Row {
            offset: entry.offset,
            crc32: entry.crc32,
            oid: entry.oid,
            is_chosen: self.objects.contains(&entry.oid)
                && self.packs.find(&entry.oid) == Some((number, entry.offset)),
        };
        let mut rows: Vec<Row> = pack.index.entries().map(row).collect();
        rows.sort_unstable_by_key(|row| row.offset);
        let pack_end = pack.len - pack.index.format().raw_len() as u64;
        let mut sending = SendingPack {
            chosen: self,
            number,
            key: pack.key(),
            input: Input { store: &*self.store, key: pack.key(), stream: None, at: 0 },
            reader: PackedReader::new(&*self.store, &self.packs, self.memory_bytes / 2),
            placed: Vec::new(),
            deflater: Deflater::new(PACK_LEVEL),
        };
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.is_chosen) {
            let end = rows.get(at + 1).map_or(pack_end, |next| next.offset);
            sending.send(row, end, out)?;
        }
        Ok(())
    }

    /// Small ones many at once, in their order.
    fn send_loose(&self, loose: &[Oid], out: &mut Out) -> Result<(), MirrorError> {
        let threads = self.concurrency.max(1);
        for oids in loose.chunks(2 * threads) {
            let entries = Mutex::new(BTreeMap::new());
            for_each(oids, threads, "loose", |oid| {
                if let Some(entry) = self.small_loose(oid)? {
                    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
                    entries.insert(*oid, entry);
                }
                Ok::<_, MirrorError>(())
            })?;
            let mut entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
            for oid in oids {
                match entries.remove(oid) {
                    Some(entry) => out.put(&entry)?,
                    None => self.send_large_loose(oid, out)?,
                }
            }
        }
        Ok(())
    }

    /// The entry of a loose object; `None`: it is too large to be held.
    fn small_loose(&self, oid: &Oid) -> Result<Option<Vec<u8>>, MirrorError> {
        let key = loose::key(oid);
        let mut bytes = Vec::new();
        let stream = ResumingReader::new(&*self.store, key.clone(), 0);
        let read = stream.take(SMALL_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unread(&key, error))?;
        if bytes.len() as u64 > SMALL_BYTES {
            return Ok(None);
        }
        let (mut deflater, mut inflater) = (Deflater::new(PACK_LEVEL), Inflater::new());
        match entry_of_loose(&bytes, oid.format(), HELD_BYTES, &mut deflater, &mut inflater) {
            Ok((found, entry)) if found == *oid => Ok(Some(entry)),
            Ok((found, _)) => Err(self.damaged(&key, format!("it is {found}"))),
            Err(LooseError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(self.damaged(&key, error)),
        }
    }

    fn send_large_loose(&self, oid: &Oid, out: &mut Out) -> Result<(), MirrorError> {
        let key = loose::key(oid);
        let unread = |error| match error {
            ReadError::Store(error) => MirrorError::Store(error),
            ReadError::Damaged(what) => self.damaged(&key, what),
            ReadError::TooLarge(bytes) => self.damaged(&key, format!("it has {bytes} bytes")),
        };
        let mut reader = CheckedLoose::open(&*self.store, oid).map_err(unread)?;
        let mut deflater = Deflater::new(PACK_LEVEL);
        out.put(&entry_header(reader.kind(), reader.size()))?;
        deflater.begin();
        let (mut piece, mut deflated) = (vec![0; PIECE_BYTES], Vec::new());
        loop {
            let read = reader.read(&mut piece).map_err(unread)?;
            if read == 0 {
                break;
            }
            deflater.write(&piece[..read], &mut deflated);
            out.put(&deflated)?;
            deflated.clear();
        }
        deflater.finish(&mut deflated);
        out.put(&deflated)
    }

    /// An error of the store, or what is wrong with its bytes.
    fn unread(&self, key: &Key, error: io::Error) -> MirrorError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()) {
            Some(error) => MirrorError::Store(error.clone()),
            None => self.damaged(key, error),
        }
    }
}

/// One pack on its way.
struct SendingPack<'e> {
    chosen: &'e Chosen,
    number: usize,
    key: Key,
    input: Input<'e>,
    /// For what must be made whole.
    reader: PackedReader<'e>,
    /// Where its entries were and where they are in the stream, both rising.
    placed: Vec<(u64, u64)>,
    deflater: Deflater,
}

impl SendingPack<'_> {
    /// Sends the entry of `row`, which ends at `end`.
    fn send(&mut self, row: &Row, end: u64, out: &mut Out) -> Result<(), MirrorError> {
        let at = out.at;
        let mut head = vec![0; (end - row.offset).min(MAX_HEADER_LEN as u64) as usize];
        self.input.turn_to(row.offset).map_err(|error| self.unread(error))?;
        self.input.read_exact(&mut head).map_err(|error| self.unread(error))?;
        let parsed = parse_header(&head, row.offset, row.oid.format());
        let parsed = parsed.map_err(|error| self.bad(row, error))?;
        let (header, used) = parsed.ok_or_else(|| self.bad(row, "it ends in its header"))?;
        let base = match header.kind {
            EntryKind::Object(_) => None,
            EntryKind::OfsDelta { base_offset } => Some(base_offset),
            EntryKind::RefDelta { base } => {
                let found = self.chosen.packs.offset(self.number, &base);
                let found = found.map_err(|error| self.unmade(row, error))?;
                Some(found.ok_or_else(|| self.bad(row, "its base is in another pack"))?)
            }
        };
        match base.map(|base| self.place_of(base)) {
            None => {
                out.put(&head[..used])?;
                self.send_body(row, end, (&head, used), out)?;
            }
            Some(Some(base)) => {
                out.put(&ofs_delta_header(header.inflated_len, at - base))?;
                self.send_body(row, end, (&head, used), out)?;
            }
            Some(None) => self.send_whole(row, out)?,
        }
        self.placed.push((row.offset, at));
        Ok(())
    }

    /// Where the entry from `offset` is in the stream, if it is.
    fn place_of(&self, offset: u64) -> Option<u64> {
        let at = self.placed.binary_search_by_key(&offset, |(old, _)| *old).ok()?;
        Some(self.placed[at].1)
    }

    /// What follows the header, of `used` bytes: as it is.
    fn send_body(
        &mut self,
        row: &Row,
        end: u64,
        (head, used): (&[u8], usize),
        out: &mut Out,
    ) -> Result<(), MirrorError> {
        let mut crc = crc32(0, head);
        out.put(&head[used..])?;
        let mut left = end - row.offset - head.len() as u64;
        let mut piece = vec![0; left.min(PIECE_BYTES as u64) as usize];
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE_BYTES as u64) as usize];
            self.input.read_exact(piece).map_err(|error| self.unread(error))?;
            crc = crc32(crc, piece);
            out.put(piece)?;
            left -= piece.len() as u64;
        }
        match crc == row.crc32 {
            true => Ok(()),
            false => Err(self.bad(row, "its CRC-32 is not the one in the index")),
        }
    }

    fn send_whole(&mut self, row: &Row, out: &mut Out) -> Result<(), MirrorError> {
        let read = self.reader.read((self.number, row.offset));
        let (kind, content) = read.map_err(|error| self.unmade(row, error))?;
        let name = hash_object(row.oid.format(), kind, &content);
        check_name(name, &row.oid).map_err(|what| self.bad(row, what))?;
        let mut entry = entry_header(kind, content.len() as u64);
        self.deflater.compress_into(&[&content], &mut entry);
        out.put(&entry)
    }

    fn bad(&self, row: &Row, what: impl std::fmt::Display) -> MirrorError {
        self.chosen.damaged(&self.key, format!("{} at offset {}: {what}", row.oid, row.offset))
    }

    fn unmade(&self, row: &Row, error: ReadError) -> MirrorError {
        match error {
            ReadError::Store(error) => MirrorError::Store(error),
            ReadError::Damaged(what) => self.bad(row, what),
            ReadError::TooLarge(bytes) => MirrorError::Mirror(format!(
                "{}/{}: the object {} needs {} MiB of memory to be resolved: raise --memory",
                self.chosen.store.describe(),
                self.key,
                row.oid,
                (2 * bytes).div_ceil(1 << 20),
            )),
        }
    }

    fn unread(&self, error: io::Error) -> MirrorError {
        self.chosen.unread(&self.key, error)
    }
}

/// A pack that is read onward, with gaps.
struct Input<'e> {
    store: &'e dyn Store,
    key: Key,
    stream: Option<ResumingReader<'e>>,
    at: u64,
}

impl Input<'_> {
    /// Continues at `offset`: with the same request if that is near.
    fn turn_to(&mut self, offset: u64) -> io::Result<()> {
        let ahead = offset.checked_sub(self.at).filter(|gap| *gap <= GAP_BYTES);
        match (&mut self.stream, ahead) {
            (Some(stream), Some(gap)) => {
                io::copy(&mut stream.take(gap), &mut io::sink())?;
            }
            _ => self.stream = Some(ResumingReader::new(self.store, self.key.clone(), offset)),
        }
        self.at = offset;
        Ok(())
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let read = stream.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}
