//! Several packs as one, without resolving a delta: the compaction of a mirror.
//!
//! An entry of a pack depends on its place only if it is an OFS_DELTA, and that one says how far back
//! its base is (gitformat-pack(5)). So the bodies of several packs behind one header with the summed
//! count, and a new checksum, are a pack; and its index is theirs, merged, with shifted offsets and the
//! same CRCs.
//!
//! An object that stands in several of the packs is kept where it comes first: `git index-pack
//! --strict`, and so a reader with `fetch.fsckObjects`, refuses it twice. A pack from which an object
//! is left out is copied entry by entry: a delta that follows says a new distance, one whose base is
//! left out names the copy that is kept, which comes earlier because the packs are in order. That
//! makes no circle: what is kept of a pack leads to that pack or to an earlier one. It could inside
//! one pack, so a pack that has an object twice is refused ([`ConcatError::Twice`]).
//!
//! Every pack is checked against its own trailer while it is read, so that no damage gets a new
//! trailer. A damaged pack can become one of its sound entries ([`Plan::of_sound_entries`]): there each
//! entry is checked against the CRC-32 in the index. Memory: the indices, and 32 bytes an object of packs
//! that are copied by entry.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::io::{self, Read};
use std::ops::Range;

use zlib_rs::crc32::crc32;

use super::entry::{EntryKind, FIRST_ENTRY, MAX_HEADER_LEN, parse_header};
use super::index::{ByOffset, Fanout, IndexEntry, IndexReader};
use super::inflate::Inflater;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};

const PIECE_LEN: usize = 64 << 10;

/// A pack to be taken in.
pub struct Input<'i> {
    /// The pack's length in bytes, trailer included.
    pub len: u64,
    /// Its index.
    pub index: &'i IndexReader<Vec<u8>>,
}

/// Where the new pack goes.
pub trait Output {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// A body of `len` bytes is about to come as it stands in its pack: which part of it does the
    /// output copy by itself?
    fn plan_copy(&mut self, len: u64) -> Range<u64> {
        let _ = len;
        0..0
    }

    /// Copies this range of an input's pack: the part that [`Output::plan_copy`] has answered.
    fn copy(&mut self, input: usize, range: Range<u64>) -> io::Result<()> {
        let _ = (input, range);
        Ok(())
    }
}

/// Why packs could not be concatenated.
#[derive(Debug, thiserror::Error)]
pub enum ConcatError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A pack has an object twice: it has to be left out.
    #[error("the pack has {oid} twice")]
    Twice {
        /// Which input.
        input: usize,
        /// The object.
        oid: Oid,
    },
    /// A pack's names are of another format than those of the new one: it has to be left out.
    #[error("it is not a pack of a repository with {format}")]
    OtherFormat {
        /// Which input.
        input: usize,
        /// The new one's.
        format: ObjectFormat,
    },
    /// A pack is not what its index or its trailer says.
    #[error("{what}")]
    Damaged {
        /// Which input.
        input: usize,
        /// What is wrong.
        what: String,
    },
    /// Together they have more objects than a pack can.
    #[error("more than 4,294,967,295 objects")]
    TooMany,
}

fn damaged(input: usize, what: impl Into<String>) -> ConcatError {
    ConcatError::Damaged { input, what: what.into() }
}

/// What is to be written: the packs in order, and what is left out of them.
pub struct Plan<'i> {
    format: ObjectFormat,
    inputs: Vec<Input<'i>>,
    /// Of each input, the offsets of entries that an earlier one has.
    dropped: Vec<BTreeSet<u64>>,
    count: u32,
    /// The one pack is damaged, and this is where its last entry ends.
    by_entry: Option<u64>,
}

/// The new pack.
pub struct Written {
    /// Its trailer, which names it.
    pub trailer: Oid,
    /// Its length in bytes.
    pub len: u64,
    moved: Vec<Moved>,
}

/// Where the entries of one input are in the new pack.
enum Moved {
    /// All of them as they were, so far further on.
    By(u64),
    /// By their old offsets.
    Each(Vec<Place>),
}

#[derive(Clone, Copy)]
struct Place {
    old: u64,
    new: u64,
    crc32: u32,
}

impl Moved {
    /// The new offset and CRC-32 of an entry.
    fn place(&self, old: u64, crc32: u32) -> Option<(u64, u32)> {
        match self {
            Moved::By(shift) => Some((old + shift, crc32)),
            Moved::Each(places) => {
                let at = places.binary_search_by_key(&old, |place| place.old).ok()?;
                Some((places[at].new, places[at].crc32))
            }
        }
    }
}

impl<'i> Plan<'i> {
    /// The packs in the order that they will have, all of one format.
    pub fn new(format: ObjectFormat, inputs: Vec<Input<'i>>) -> Result<Self, ConcatError> {
        if let Some(input) = inputs.iter().position(|input| input.index.format() != format) {
            return Err(ConcatError::OtherFormat { input, format });
        }
        let mut dropped = vec![BTreeSet::new(); inputs.len()];
        let (mut last, mut count) = (None, 0u64);
        for (input, entry) in Merged::new(&inputs) {
            match last {
                Some((oid, first)) if oid == entry.oid && first == input => {
                    return Err(ConcatError::Twice { input, oid });
                }
                Some((oid, _)) if oid == entry.oid => {
                    dropped[input].insert(entry.offset);
                    // Its own second one would be left out as well, but it must not be there.
                    last = Some((oid, input));
                }
                _ => {
                    last = Some((entry.oid, input));
                    count += 1;
                }
            }
        }
        let count = u32::try_from(count).map_err(|_| ConcatError::TooMany)?;
        Ok(Plan { format, inputs, dropped, count, by_entry: None })
    }

    /// A damaged pack without its broken entries: [`broken_entries`].
    pub fn of_sound_entries(input: Input<'i>, broken: Broken) -> Result<Self, ConcatError> {
        let Broken { offsets, end } = broken;
        let plan = Plan::new(input.index.format(), vec![input])?;
        let count = plan.count.saturating_sub(u32::try_from(offsets.len()).unwrap_or(u32::MAX));
        Ok(Plan { dropped: vec![offsets], count, by_entry: Some(end), ..plan })
    }

    /// How many objects the new pack has.
    pub fn object_count(&self) -> u32 {
        self.count
    }

    /// Writes the new pack. `open` gives an input's pack from its first byte on.
    pub fn write<'r>(
        &self,
        mut open: impl FnMut(usize) -> io::Result<Box<dyn Read + 'r>>,
        out: &mut dyn Output,
    ) -> Result<Written, ConcatError> {
        let mut out = Hashing { out, checksum: Checksum::new(self.format), at: 0 };
        out.write(b"PACK\0\0\0\x02")?;
        out.write(&self.count.to_be_bytes())?;
        let mut moved = Vec::new();
        for number in 0..self.inputs.len() {
            let stream = open(number)?;
            if let Some(end) = self.by_entry {
                let mut body = Body::begin_damaged(stream, number, &self.inputs[number], end)?;
                moved.push(self.copy_entries(&mut body, &moved, &mut out)?);
                continue;
            }
            let mut body = Body::begin(stream, number, &self.inputs[number])?;
            moved.push(match self.dropped[number].is_empty() {
                true => body.copy_whole(&mut out)?,
                false => self.copy_entries(&mut body, &moved, &mut out)?,
            });
            body.end()?;
        }
        let trailer = out.checksum.finish();
        out.out.write(trailer.as_bytes())?;
        Ok(Written { trailer, len: out.at + self.format.raw_len() as u64, moved })
    }

    fn copy_entries(
        &self,
        body: &mut Body<'_>,
        moved: &[Moved],
        out: &mut Hashing<'_>,
    ) -> Result<Moved, ConcatError> {
        let (input, dropped) = (body.input, &self.dropped[body.input]);
        let entries = self.inputs[input].index.by_offset();
        let mut places = Vec::with_capacity(entries.len() - dropped.len());
        let last = entries.iter().rposition(|entry| !dropped.contains(&entry.offset));
        let visited = match (self.by_entry, last) {
            (None, _) => entries.len(),
            // Behind the last that is kept it may end.
            (Some(_), last) => last.map_or(0, |last| last + 1),
        };
        for (at, entry) in entries.iter().enumerate().take(visited) {
            let end = entries.get(at + 1).map_or(body.end, |next| next.offset);
            let len = end - entry.offset;
            if dropped.contains(&entry.offset) {
                body.pass(len, &mut |_| Ok(()))?;
                continue;
            }
            let mut head = vec![0; len.min(MAX_HEADER_LEN as u64) as usize];
            body.fill(&mut head)?;
            let (new, read) = (out.at, head.len() as u64);
            let parsed = parse_header(&head, entry.offset, self.format).ok().flatten();
            let (header, used) =
                parsed.ok_or_else(|| damaged(input, format!("{} is not an entry", entry.oid)))?;
            let mut was = crc32(0, &head);
            if let EntryKind::OfsDelta { base_offset } = header.kind {
                let base = self.base(input, base_offset, &entries, &places, moved)?;
                head = with_distance(&head, used, new - base);
            }
            let mut crc = crc32(0, &head);
            out.write(&head)?;
            body.pass(len - read, &mut |bytes| {
                was = crc32(was, bytes);
                crc = crc32(crc, bytes);
                out.write(bytes)
            })?;
            if self.by_entry.is_some() && was != entry.crc32 {
                return Err(damaged(input, format!("{} has just changed", entry.oid)));
            }
            places.push(Place { old: entry.offset, new, crc32: crc });
        }
        Ok(Moved::Each(places))
    }

    /// Where the base that was at `offset` is now.
    fn base(
        &self,
        input: usize,
        offset: u64,
        entries: &ByOffset<'_, Vec<u8>>,
        places: &[Place],
        moved: &[Moved],
    ) -> Result<u64, ConcatError> {
        if let Ok(at) = places.binary_search_by_key(&offset, |place| place.old) {
            return Ok(places[at].new);
        }
        let nowhere = || damaged(input, format!("no entry starts at offset {offset}"));
        let oid = entries.find(offset).ok_or_else(nowhere)?.oid;
        let kept = (0..input).find_map(|earlier| {
            let old = self.inputs[earlier].index.lookup(&oid)?;
            let is_kept = !self.dropped[earlier].contains(&old);
            is_kept.then(|| moved[earlier].place(old, 0)).flatten()
        });
        kept.map(|(new, _)| new).ok_or_else(nowhere)
    }

    /// The entries of the new pack's index, sorted, and how many names begin with each byte.
    pub fn index<'p>(
        &'p self,
        written: &'p Written,
    ) -> (Fanout, impl Iterator<Item = io::Result<IndexEntry>> + 'p) {
        let mut fanout = Fanout::default();
        self.kept().for_each(|(_, entry)| fanout.count(&entry.oid));
        let moved = self.kept().map(|(input, entry)| {
            let place = written.moved[input].place(entry.offset, entry.crc32);
            let (offset, crc32) =
                place.ok_or_else(|| io::Error::other("an entry that is kept was not written"))?;
            Ok(IndexEntry { oid: entry.oid, crc32, offset })
        });
        (fanout, moved)
    }

    fn kept(&self) -> impl Iterator<Item = (usize, IndexEntry)> + '_ {
        Merged::new(&self.inputs)
            .filter(|(input, entry)| !self.dropped[*input].contains(&entry.offset))
    }
}

/// The header of an OFS_DELTA with another distance; what follows it in `head` stays.
fn with_distance(head: &[u8], used: usize, distance: u64) -> Vec<u8> {
    let size_len = 1 + head.iter().take_while(|byte| **byte & 0x80 != 0).count();
    let mut out = head[..size_len].to_vec();
    // gitformat-pack(5), "offset encoding": one is taken away at each byte that continues.
    let mut bytes = vec![(distance & 0x7f) as u8];
    let mut left = distance >> 7;
    while left > 0 {
        left -= 1;
        bytes.push(0x80 | (left & 0x7f) as u8);
        left >>= 7;
    }
    out.extend(bytes.iter().rev());
    out.extend_from_slice(&head[used..]);
    out
}

/// Hashes what goes by.
struct Hashing<'o> {
    out: &'o mut dyn Output,
    checksum: Checksum,
    at: u64,
}

impl Hashing<'_> {
    fn hash(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.at += bytes.len() as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash(bytes);
        self.out.write(bytes)
    }
}

/// What lies between a pack's header and its trailer, on its way.
struct Body<'r> {
    stream: Box<dyn Read + 'r>,
    input: usize,
    checksum: Checksum,
    /// Where the last entry ends.
    end: u64,
    trailer: Oid,
    piece: Vec<u8>,
}

impl<'r> Body<'r> {
    /// Reads the header.
    fn begin(
        stream: Box<dyn Read + 'r>,
        number: usize,
        input: &Input<'_>,
    ) -> Result<Self, ConcatError> {
        let trailer_len = input.index.format().raw_len() as u64;
        let end = input.len.checked_sub(trailer_len).filter(|end| *end >= FIRST_ENTRY);
        let end = end.ok_or_else(|| damaged(number, "it is too short for a pack"))?;
        let offsets = || input.index.entries().map(|entry| entry.offset);
        if offsets().min().is_some_and(|first| first != FIRST_ENTRY)
            || offsets().any(|offset| offset >= end)
        {
            return Err(damaged(number, "its index has offsets outside of it"));
        }
        let trailer = input.index.pack_trailer();
        let checksum = Checksum::new(trailer.format());
        let piece = vec![0; PIECE_LEN];
        let mut body = Body { stream, input: number, checksum, end, trailer, piece };
        let mut header = [0; FIRST_ENTRY as usize];
        body.fill(&mut header)?;
        let count = u32::from_be_bytes([8, 9, 10, 11].map(|at| header[at]));
        if !matches!(&header[..8], b"PACK\0\0\0\x02" | b"PACK\0\0\0\x03") {
            return Err(damaged(number, "it is not a pack"));
        }
        if count != input.index.object_count() {
            let listed = input.index.object_count();
            let what = format!("it has {count} objects, and its index {listed}");
            return Err(damaged(number, what));
        }
        Ok(body)
    }

    /// Of a pack of which nothing is believed but single entries; `end`: where the last one ends.
    fn begin_damaged(
        stream: Box<dyn Read + 'r>,
        number: usize,
        input: &Input<'_>,
        end: u64,
    ) -> Result<Self, ConcatError> {
        let trailer = input.index.pack_trailer();
        let checksum = Checksum::new(trailer.format());
        let piece = vec![0; PIECE_LEN];
        let mut body = Body { stream, input: number, checksum, end, trailer, piece };
        body.fill(&mut [0; FIRST_ENTRY as usize])?;
        Ok(body)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ConcatError> {
        self.stream.read_exact(bytes).map_err(|error| self.cut(error))?;
        self.checksum.update(bytes);
        Ok(())
    }

    fn cut(&self, error: io::Error) -> ConcatError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(self.input, "it ends early"),
            _ => ConcatError::Io(error),
        }
    }

    /// Hands on the next `len` bytes.
    fn pass(
        &mut self,
        len: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ConcatError> {
        let mut left = len;
        while left > 0 {
            let mut piece = std::mem::take(&mut self.piece);
            let wanted = left.min(piece.len() as u64) as usize;
            let filled = self.fill(&mut piece[..wanted]);
            let taken = filled.and_then(|()| Ok(take(&piece[..wanted])?));
            self.piece = piece;
            taken?;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// All entries as they are.
    fn copy_whole(&mut self, out: &mut Hashing<'_>) -> Result<Moved, ConcatError> {
        let (shift, len) = (out.at - FIRST_ENTRY, self.end - FIRST_ENTRY);
        let copied = out.out.plan_copy(len);
        self.pass(copied.start, &mut |bytes| out.write(bytes))?;
        if !copied.is_empty() {
            let range = copied.start + FIRST_ENTRY..copied.end + FIRST_ENTRY;
            out.out.copy(self.input, range)?;
            self.pass(copied.end - copied.start, &mut |bytes| {
                out.hash(bytes);
                Ok(())
            })?;
        }
        self.pass(len - copied.end, &mut |bytes| out.write(bytes))?;
        Ok(Moved::By(shift))
    }

    /// Reads the trailer: the pack must be what its index belongs to.
    fn end(mut self) -> Result<(), ConcatError> {
        let computed = self.checksum.so_far();
        let mut found = vec![0; computed.as_bytes().len()];
        self.fill(&mut found)?;
        let found = Oid::from_slice(&found).expect("a trailer is as long as a name");
        if computed != found || found != self.trailer {
            let what = format!("its checksum is {computed}, but its trailer says {found}");
            return Err(damaged(self.input, what));
        }
        Ok(())
    }
}

/// What of a damaged pack is not sound.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where the broken entries begin.
    pub offsets: BTreeSet<u64>,
    /// Where the last entry ends, unless it is broken.
    end: u64,
}

/// Those entries that are not what the pack's index says by their CRC-32, and all deltas that stand on one
/// of them. `stream` is the pack from its first byte on; where it ends, all that follows is broken.
/// An entry ends where the next one begins, and the last one where zlib says: the pack's length tells
/// nothing, because its trailer may be cut, or followed by more. 28 bytes of memory a delta.
pub fn broken_entries(stream: &mut dyn Read, input: &Input<'_>) -> io::Result<Broken> {
    let format = input.index.format();
    let entries = input.index.by_offset();
    let mut broken = BTreeSet::new();
    // Each delta that is sound by itself, and its base.
    let mut deltas = Vec::new();
    let mut piece = vec![0; PIECE_LEN];
    let mut at = 0;
    for (number, entry) in entries.iter().enumerate() {
        let next = entries.get(number + 1).map(|next| next.offset);
        let mut found = None;
        if at <= entry.offset && next.is_none_or(|next| entry.offset < next) {
            // What is in no entry is passed over.
            if each_piece(stream, entry.offset - at, &mut piece, |_| ())? {
                found = match next {
                    Some(next) => read_entry(stream, next - entry.offset, &mut piece)?,
                    None => read_last(stream, entry.offset, format, &mut piece)?,
                };
            }
            at = next.or(found.as_ref().map(|found| entry.offset + found.len)).unwrap_or(at);
        }
        let Some(Found { head, .. }) = found.filter(|found| found.crc32 == entry.crc32) else {
            broken.insert(entry.offset);
            continue;
        };
        match parse_header(&head, entry.offset, format).ok().flatten().map(|(h, _)| h.kind) {
            Some(EntryKind::Object(_)) => {}
            Some(EntryKind::OfsDelta { base_offset }) => {
                deltas.push((entry.offset, Some(base_offset)));
            }
            Some(EntryKind::RefDelta { base }) => {
                deltas.push((entry.offset, input.index.lookup(&base)));
            }
            None => drop(broken.insert(entry.offset)),
        }
    }
    let begins = |offset: u64| entries.find(offset).is_some();
    loop {
        let before = broken.len();
        deltas.retain(|(offset, base)| {
            let stands = base.is_some_and(|base| begins(base) && !broken.contains(&base));
            stands || !broken.insert(*offset)
        });
        if broken.len() == before {
            return Ok(Broken { offsets: broken, end: at });
        }
    }
}

/// An entry as it stands in a damaged pack.
struct Found {
    /// So much of it that its header is there.
    head: Vec<u8>,
    len: u64,
    crc32: u32,
}

/// The entry of `len` bytes that `stream` begins with; `None`: the stream has ended before.
fn read_entry(stream: &mut dyn Read, len: u64, piece: &mut [u8]) -> io::Result<Option<Found>> {
    let (mut crc, mut head) = (0, Vec::new());
    let is_whole = each_piece(stream, len, piece, |bytes| {
        crc = crc32(crc, bytes);
        let wanted = MAX_HEADER_LEN - head.len();
        head.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
    })?;
    Ok(is_whole.then_some(Found { head, len, crc32: crc }))
}

/// The entry that `stream` begins with, up to the end of its zlib stream; `None`: it is cut or damaged.
/// Inflates no more than its header says, into one piece of memory.
fn read_last(
    stream: &mut dyn Read,
    offset: u64,
    format: ObjectFormat,
    piece: &mut [u8],
) -> io::Result<Option<Found>> {
    let mut head = Vec::with_capacity(MAX_HEADER_LEN);
    each_piece(stream, MAX_HEADER_LEN as u64, piece, |bytes| head.extend_from_slice(bytes))?;
    let Ok(Some((header, used))) = parse_header(&head, offset, format) else { return Ok(None) };
    let (mut inflater, mut inflated) = (Inflater::new(), vec![0; PIECE_LEN]);
    let (mut crc, mut input) = (crc32(0, &head[..used]), &head[used..]);
    loop {
        let Ok(step) = inflater.step(input, &mut inflated) else { return Ok(None) };
        let (consumed, rest) = input.split_at(step.consumed);
        crc = crc32(crc, consumed);
        input = rest;
        if inflater.total_out() > header.inflated_len {
            return Ok(None);
        }
        if step.ended {
            let len = used as u64 + inflater.total_in();
            return Ok(Some(Found { head, len, crc32: crc }));
        }
        // Each round takes, makes or reads something, or the entry has no end.
        if step.produced == 0 && input.is_empty() {
            let read = stream.read(piece)?;
            input = &piece[..read];
            if read == 0 {
                return Ok(None);
            }
        } else if step.produced == 0 && step.consumed == 0 {
            return Ok(None);
        }
    }
}

/// Hands on the next `len` bytes; `false`: the stream has ended before.
fn each_piece(
    stream: &mut dyn Read,
    len: u64,
    piece: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let mut left = len;
    while left > 0 {
        let wanted = left.min(piece.len() as u64) as usize;
        match stream.read(&mut piece[..wanted])? {
            0 => return Ok(false),
            read => {
                take(&piece[..read]);
                left -= read as u64;
            }
        }
    }
    Ok(true)
}

type Entries<'m> = Box<dyn Iterator<Item = IndexEntry> + 'm>;

/// The entries of several indices by name; of one name in the order of the inputs.
struct Merged<'m> {
    of: Vec<Entries<'m>>,
    next: BinaryHeap<Reverse<(Oid, usize, u64, u32)>>,
}

impl<'m> Merged<'m> {
    fn new(inputs: &'m [Input<'_>]) -> Self {
        let of = inputs.iter().map(|input| Box::new(input.index.entries()) as Entries<'m>);
        let mut merged = Merged { of: of.collect(), next: BinaryHeap::new() };
        (0..inputs.len()).for_each(|input| merged.advance(input));
        merged
    }

    fn advance(&mut self, input: usize) {
        if let Some(IndexEntry { oid, crc32, offset }) = self.of[input].next() {
            self.next.push(Reverse((oid, input, offset, crc32)));
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = (usize, IndexEntry);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((oid, input, offset, crc32)) = self.next.pop()?;
        self.advance(input);
        Some((input, IndexEntry { oid, crc32, offset }))
    }
}
