//! One pass over a stream of pack bytes, entry by entry, nothing trusted.
//!
//! Follows gitformat-pack(5) and the first pass of git's `builtin/index-pack.c`. A pack has no
//! compressed lengths, so the end of an entry is found by inflating it. The reader checks what can
//! be checked on the way: header, types, lengths, zlib, the trailer and that nothing follows it.
//! It resolves no delta and names no object.

use std::io::{self, Read};

use zlib_rs::crc32::crc32;

use super::entry::{self, EntryError, EntryHeader, FIRST_ENTRY, MAX_HEADER_LEN};
use super::inflate::Inflater;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};

/// Input is read, hashed and tapped in pieces of this size.
const INPUT_LEN: usize = 128 * 1024;

/// Inflated bytes pass through a buffer of this size, so that no caller's memory is taken on a
/// length's word, and most entries are inflated by one call. The copy costs some 4 % (perf, over
/// ripgrep's pack); nine tenths of the reader's time are zlib-rs.
const OUTPUT_LEN: usize = 64 * 1024;

/// The end of an entry: what its raw bytes were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryEnd {
    /// Length of the whole entry in the pack, its header included, in bytes.
    pub raw_len: u64,
    /// CRC-32 over the header and the body as they are in the pack: what an `.idx` wants.
    pub crc32: u32,
}

/// Why a pack was refused, or could not be read. `offset` is the entry's start in the pack, in
/// bytes (of the trailer, where no entry is meant). A message leaves out what its source error
/// says: who prints the chain has it.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The stream failed. The error inside is the stream's own, so what it wraps can be got back.
    #[error("cannot read pack entry at offset {offset}")]
    Io {
        /// The entry's offset.
        offset: u64,
        /// The stream's error, unchanged.
        source: io::Error,
    },
    /// The tap refused the bytes (see [`PackReader::with_tap`]).
    #[error("cannot hand on the pack at offset {offset}")]
    Tap {
        /// The entry's offset.
        offset: u64,
        /// The tap's error, unchanged.
        source: io::Error,
    },
    /// The stream does not start with `PACK`.
    #[error("not a pack: it starts with {found:02x?}")]
    BadSignature {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A pack version that is neither 2 nor 3.
    #[error("pack version {0} is not supported")]
    BadVersion(u32),
    /// The stream ended too soon.
    #[error("pack is truncated in the entry at offset {offset}")]
    Truncated {
        /// The entry's offset.
        offset: u64,
    },
    /// The entry's header is invalid.
    #[error("cannot read pack entry at offset {offset}")]
    BadEntry {
        /// The entry's offset.
        offset: u64,
        /// What is wrong with the header.
        source: EntryError,
    },
    /// The entry's body is no valid zlib stream.
    #[error("cannot inflate pack entry at offset {offset}: {reason}")]
    BadZlib {
        /// The entry's offset.
        offset: u64,
        /// What zlib says.
        reason: &'static str,
    },
    /// The entry's body inflates to fewer bytes than its header says.
    #[error("pack entry at offset {offset} inflates to {got} bytes, but claims {wanted}")]
    TooShort {
        /// The entry's offset.
        offset: u64,
        /// The length in the header.
        wanted: u64,
        /// What there was.
        got: u64,
    },
    /// The entry's body inflates to more bytes than its header says.
    #[error("pack entry at offset {offset} inflates to more than the {wanted} bytes it claims")]
    TooLong {
        /// The entry's offset.
        offset: u64,
        /// The length in the header.
        wanted: u64,
    },
    /// [`PackReader::read_small`] was asked for an entry above the limit.
    #[error("pack entry at offset {offset} has {inflated_len} bytes, the limit is {max_len}")]
    TooLarge {
        /// The entry's offset.
        offset: u64,
        /// The length in the header.
        inflated_len: u64,
        /// The limit.
        max_len: u64,
    },
    /// The pack ended, with a correct trailer, before as many objects as its header promises.
    #[error("pack ends at offset {offset} after {found} of {promised} objects")]
    FewerObjects {
        /// Where the trailer starts.
        offset: u64,
        /// The header's count.
        promised: u32,
        /// How many there were.
        found: u32,
    },
    /// The trailer is not the checksum of the pack. Also seen when there are more objects than
    /// the header promises.
    #[error("trailer of the pack at offset {offset} is {found}, but its checksum is {computed}")]
    WrongTrailer {
        /// Where the trailer starts.
        offset: u64,
        /// The trailer.
        found: Oid,
        /// The checksum of the bytes before it.
        computed: Oid,
    },
    /// Bytes follow the trailer.
    #[error("garbage after the end of the pack at offset {offset}")]
    GarbageAtEnd {
        /// Where the garbage starts.
        offset: u64,
    },
    /// A call out of order: a body without an announced entry, or anything after an error.
    #[error("pack reader has no entry to read at offset {offset}")]
    OutOfOrder {
        /// How far the reader had come.
        offset: u64,
    },
}

/// The type of "no tap".
pub type NoTap = fn(&[u8]) -> io::Result<()>;

/// Reads a pack from a stream: [`PackReader::next_entry`], then its body, until `None`.
///
/// After an error the reader is spent: every later call answers [`PackError::OutOfOrder`].
pub struct PackReader<R: Read, T = NoTap> {
    stream: R,
    tap: T,
    state: State,
    /// `input[..hashed]` has been hashed and tapped, `input[hashed..pos]` has been consumed, and
    /// `input[pos..end]` is yet to be.
    input: Box<[u8]>,
    hashed: usize,
    pos: usize,
    end: usize,
    /// Where `input[0]` lies in the pack.
    input_offset: u64,
    output: Box<[u8]>,
    inflater: Inflater,
    format: ObjectFormat,
    checksum: Checksum,
    /// Objects that the header promises, and entries announced so far.
    promised: u32,
    found: u32,
    max_len: u64,
    /// Where the present entry starts, for errors.
    entry_offset: u64,
}

/// What may be called next.
#[derive(Clone, Copy)]
enum State {
    /// `next_entry`.
    BetweenEntries,
    /// `read_body`, of an entry whose header was `header_len` bytes with this CRC-32.
    BeforeBody { inflated_len: u64, header_len: usize, crc32: u32 },
    /// Nothing: the pack has ended well.
    Ended { trailer: Oid },
    /// Nothing: an error has been reported, or a body was left half-way.
    Spent,
}

impl<R: Read> PackReader<R> {
    /// Reads and checks the pack's header. Nothing in a pack says what its names are: who sent it
    /// did.
    pub fn new(stream: R, format: ObjectFormat) -> Result<Self, PackError> {
        let mut reader = PackReader {
            stream,
            tap: (|_| Ok(())) as NoTap,
            state: State::BetweenEntries,
            input: vec![0; INPUT_LEN].into(),
            hashed: 0,
            pos: 0,
            end: 0,
            input_offset: 0,
            output: vec![0; OUTPUT_LEN].into(),
            inflater: Inflater::new(),
            format,
            checksum: Checksum::new(format),
            promised: 0,
            found: 0,
            max_len: u64::MAX,
            entry_offset: 0,
        };
        reader.read_pack_header()?;
        Ok(reader)
    }

    fn read_pack_header(&mut self) -> Result<(), PackError> {
        let whole = self.buffer(FIRST_ENTRY as usize)?;
        let input = &self.input[..self.end];
        if let Some(found) = input.first_chunk().filter(|found| *found != b"PACK") {
            return Err(PackError::BadSignature { found: *found });
        }
        if !whole {
            return Err(PackError::Truncated { offset: 0 });
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| input[at + i]));
        let version = word(4);
        if !matches!(version, 2 | 3) {
            return Err(PackError::BadVersion(version));
        }
        self.promised = word(8);
        self.pos = FIRST_ENTRY as usize;
        Ok(())
    }

    /// Lets `tap` see every raw byte of the pack in order, header and trailer included, in pieces
    /// of up to 128 KiB. Its error ends the reading with [`PackError::Tap`].
    ///
    /// The bytes of an entry may be tapped later than its end is reported; all are tapped when
    /// [`PackReader::next_entry`] has answered `None`. The trailer is tapped only when it has
    /// proved right; bytes after the pack never are.
    ///
    /// # Panics
    /// If an entry has been read already: its bytes would be missing.
    pub fn with_tap<T: FnMut(&[u8]) -> io::Result<()>>(self, tap: T) -> PackReader<R, T> {
        assert!(self.position() == FIRST_ENTRY, "a tap is set before the first entry");
        PackReader {
            stream: self.stream,
            tap,
            state: self.state,
            input: self.input,
            hashed: self.hashed,
            pos: self.pos,
            end: self.end,
            input_offset: self.input_offset,
            output: self.output,
            inflater: self.inflater,
            format: self.format,
            checksum: self.checksum,
            promised: self.promised,
            found: self.found,
            max_len: self.max_len,
            entry_offset: self.entry_offset,
        }
    }
}

impl<R: Read, T: FnMut(&[u8]) -> io::Result<()>> PackReader<R, T> {
    /// Lets [`PackReader::read_small`] refuse entries of more than `max_len` inflated bytes.
    /// Without it there is no limit but what really arrives.
    pub fn with_max_len(self, max_len: u64) -> Self {
        PackReader { max_len, ..self }
    }

    /// How many objects the header promises.
    pub fn object_count(&self) -> u32 {
        self.promised
    }

    /// How many bytes of the pack have been consumed.
    pub fn position(&self) -> u64 {
        self.input_offset + self.pos as u64
    }

    /// How many bytes are at hand that have not been consumed: with none, the next call reads from
    /// the stream.
    pub fn buffered(&self) -> usize {
        self.end - self.pos
    }

    /// The pack's trailer, once [`PackReader::next_entry`] has answered `None`.
    pub fn trailer(&self) -> Option<Oid> {
        match self.state {
            State::Ended { trailer } => Some(trailer),
            _ => None,
        }
    }

    /// The next entry's header; `None` after the last, when the trailer has been checked, and that
    /// nothing follows it. A body that was not read is skipped, and checked on the way.
    pub fn next_entry(&mut self) -> Result<Option<EntryHeader>, PackError> {
        if let State::BeforeBody { .. } = self.state {
            self.read_body(|_, _| Ok::<_, PackError>(()))?;
        }
        match self.state {
            State::BetweenEntries => {}
            State::Ended { .. } => return Ok(None),
            _ => return Err(PackError::OutOfOrder { offset: self.position() }),
        }
        self.state = State::Spent; // until the end of this call proves otherwise
        self.entry_offset = self.position();
        if self.found == self.promised {
            let trailer = self.read_trailer()?;
            self.state = State::Ended { trailer };
            return Ok(None);
        }
        self.read_entry_header().map(Some)
    }

    fn read_entry_header(&mut self) -> Result<EntryHeader, PackError> {
        let offset = self.entry_offset;
        if !self.buffer(MAX_HEADER_LEN)? {
            self.check_premature_end()?;
        }
        let (header, header_len) =
            entry::parse_header(&self.input[self.pos..self.end], offset, self.format)
                .map_err(|source| PackError::BadEntry { offset, source })?
                .ok_or(PackError::Truncated { offset })?;
        let crc32 = crc32(0, &self.input[self.pos..self.pos + header_len]);
        self.pos += header_len;
        self.found += 1;
        self.state = State::BeforeBody { inflated_len: header.inflated_len, header_len, crc32 };
        Ok(header)
    }

    /// Called when less than [`MAX_HEADER_LEN`] bytes are left: with no more than a trailer there
    /// can't be an entry. A right trailer says that the count was wrong, not the transfer.
    fn check_premature_end(&mut self) -> Result<(), PackError> {
        let left = self.end - self.pos;
        if left > self.format.raw_len() {
            return Ok(());
        }
        let offset = self.entry_offset;
        self.hash_consumed()?;
        if self.input[self.pos..self.end] == *self.checksum.so_far().as_bytes() {
            let (promised, found) = (self.promised, self.found);
            return Err(PackError::FewerObjects { offset, promised, found });
        }
        Err(PackError::Truncated { offset })
    }

    fn read_trailer(&mut self) -> Result<Oid, PackError> {
        let offset = self.entry_offset;
        let trailer_len = self.format.raw_len();
        if !self.buffer(trailer_len)? {
            return Err(PackError::Truncated { offset });
        }
        self.hash_consumed()?;
        let trailer = &self.input[self.pos..self.pos + trailer_len];
        let found = Oid::from_slice(trailer).expect("a trailer is as long as a name");
        let computed = self.checksum.so_far();
        if found != computed {
            return Err(PackError::WrongTrailer { offset, found, computed });
        }
        (self.tap)(trailer).map_err(|source| PackError::Tap { offset, source })?;
        self.pos += trailer_len;
        self.hashed = self.pos;
        if self.pos < self.end || self.fill()? {
            return Err(PackError::GarbageAtEnd { offset: self.position() });
        }
        Ok(found)
    }

    /// Streams the body of the entry just announced; at most once per entry.
    ///
    /// `sink` gets pieces in order: raw zlib bytes as they are in the pack, and inflated bytes;
    /// either may be empty. When this answers `Ok`, the body has inflated to exactly
    /// `inflated_len` bytes and its Adler-32 was right; before that the sink must take nothing it
    /// got for true. The sink never gets more than `inflated_len` bytes. Its error is passed on,
    /// and the reader is spent.
    pub fn read_body<E: From<PackError>>(
        &mut self,
        mut sink: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<EntryEnd, E> {
        let State::BeforeBody { inflated_len, header_len, crc32: mut crc } = self.state else {
            return Err(PackError::OutOfOrder { offset: self.position() }.into());
        };
        self.state = State::Spent; // until the end of this call proves otherwise
        self.inflater.restart();
        let mut output_was_full = false;
        loop {
            // A full output may have left more that needs no input.
            if self.pos == self.end && !output_was_full && !self.fill()? {
                return Err(PackError::Truncated { offset: self.entry_offset }.into());
            }
            let input = &self.input[self.pos..self.end];
            let step = self.inflater.step(input, &mut self.output).map_err(|e| self.zlib(e.0))?;
            if self.inflater.total_out() > inflated_len {
                let offset = self.entry_offset;
                return Err(PackError::TooLong { offset, wanted: inflated_len }.into());
            }
            let raw = &input[..step.consumed];
            crc = crc32(crc, raw);
            sink(raw, &self.output[..step.produced])?;
            self.pos += step.consumed;
            if self.inflater.is_bloated(inflated_len) {
                return Err(self.zlib("endless blocks that inflate to nothing").into());
            }
            if step.ended {
                break;
            }
            if step.consumed + step.produced == 0 && self.pos < self.end {
                return Err(self.zlib("no progress").into()); // an endless loop otherwise
            }
            output_was_full = step.produced == self.output.len();
        }
        self.end_body(inflated_len, header_len, crc).map_err(E::from)
    }

    fn zlib(&self, reason: &'static str) -> PackError {
        PackError::BadZlib { offset: self.entry_offset, reason }
    }

    fn end_body(
        &mut self,
        wanted: u64,
        header_len: usize,
        crc32: u32,
    ) -> Result<EntryEnd, PackError> {
        let got = self.inflater.total_out();
        if got < wanted {
            return Err(PackError::TooShort { offset: self.entry_offset, wanted, got });
        }
        self.state = State::BetweenEntries;
        Ok(EntryEnd { raw_len: header_len as u64 + self.inflater.total_in(), crc32 })
    }

    /// Reads the whole body of the entry just announced into memory.
    ///
    /// The raw zlib bytes (without the entry's header) are appended to `raw`, the inflated ones to
    /// `inflated`. Memory grows with what really arrives (at most doubling it), never with what the
    /// header claims. After an error the vectors may hold a part.
    pub fn read_small(
        &mut self,
        mut raw: Option<&mut Vec<u8>>,
        inflated: &mut Vec<u8>,
    ) -> Result<EntryEnd, PackError> {
        let State::BeforeBody { inflated_len, .. } = self.state else {
            return Err(PackError::OutOfOrder { offset: self.position() });
        };
        if inflated_len > self.max_len {
            self.state = State::Spent;
            let (offset, max_len) = (self.entry_offset, self.max_len);
            return Err(PackError::TooLarge { offset, inflated_len, max_len });
        }
        self.read_body(|raw_piece, piece| {
            if let Some(raw) = raw.as_deref_mut() {
                raw.extend_from_slice(raw_piece);
            }
            extend_exactly(inflated, piece, inflated_len);
            Ok(())
        })
    }

    /// Sees to it that `len` bytes are there to be consumed; false if the stream ends before.
    fn buffer(&mut self, len: usize) -> Result<bool, PackError> {
        while self.end - self.pos < len {
            if !self.fill()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads once from the stream; false at its end.
    ///
    /// The buffer is full only when nearly all of it has been consumed: what is asked for at once
    /// is a header or a trailer, so that there is always room.
    fn fill(&mut self) -> Result<bool, PackError> {
        if self.end == self.input.len() {
            self.hash_consumed()?;
            self.input.copy_within(self.pos..self.end, 0);
            self.input_offset += self.pos as u64;
            self.end -= self.pos;
            (self.hashed, self.pos) = (0, 0);
        }
        loop {
            match self.stream.read(&mut self.input[self.end..]) {
                Ok(len) => {
                    self.end += len;
                    return Ok(len > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PackError::Io { offset: self.entry_offset, source }),
            }
        }
    }

    /// Hashes and taps what has been consumed since the last time: in large pieces, since both
    /// cost a call for each.
    fn hash_consumed(&mut self) -> Result<(), PackError> {
        let consumed = &self.input[self.hashed..self.pos];
        if !consumed.is_empty() {
            self.checksum.update(consumed);
            let offset = self.entry_offset;
            (self.tap)(consumed).map_err(|source| PackError::Tap { offset, source })?;
            self.hashed = self.pos;
        }
        Ok(())
    }
}

/// Appends `piece`; the first time takes just the room that a small entry needs, so that buffers
/// of many small objects are no larger than the objects.
fn extend_exactly(out: &mut Vec<u8>, piece: &[u8], claimed_len: u64) {
    if piece.len() as u64 == claimed_len {
        out.reserve_exact(piece.len());
    }
    out.extend_from_slice(piece);
}
