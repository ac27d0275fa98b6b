//! A pack's index, version 2: written byte for byte as `git index-pack` writes it, and read
//! strictly, for verification.
//!
//! Follows gitformat-pack(5), "Version 2 pack-*.idx files", and git's `pack-write.c`
//! (`write_idx_file`).

use std::io::{self, Write};
use std::ops::Range;

use super::column::Column;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};

/// One object of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The object's name.
    pub oid: Oid,
    /// CRC-32 of the entry's raw bytes ([`crate::pack::reader::EntryEnd::crc32`]).
    pub crc32: u32,
    /// Where the entry starts in the pack, in bytes.
    pub offset: u64,
}

/// `\377tOc` and version 2.
const HEADER: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];

/// Offsets above this are in the table of 64-bit offsets.
const GREATEST_SMALL_OFFSET: u32 = 0x7fff_ffff;

/// In the table of 32-bit offsets: the other bits are a place in the table of 64-bit offsets.
const LARGE: u32 = 0x8000_0000;

/// Writes the index of the pack whose trailer is `pack_trailer`; answers the index's own checksum
/// (its end). The trailer's format is the names'.
///
/// Sorts `entries` in place by oid, equal ones by offset (git writes an object that is twice in
/// a pack twice, in pack order). Written as a stream in small pieces: give it a buffered writer,
/// and flush that. More entries than a pack can hold (2^32 - 1) are an error of kind
/// `InvalidInput`.
pub fn write_index(
    entries: &mut [IndexEntry],
    pack_trailer: &Oid,
    out: &mut impl Write,
) -> io::Result<Oid> {
    write_index_with_limit(entries, pack_trailer, GREATEST_SMALL_OFFSET, out)
}

/// [`write_index`] with offsets above `greatest_small_offset` in the table of 64-bit offsets, as
/// `git index-pack --index-version=2,<offset>` does. For tests: the true limit is 2 GiB.
#[doc(hidden)]
pub fn write_index_with_limit(
    entries: &mut [IndexEntry],
    pack_trailer: &Oid,
    greatest_small_offset: u32,
    out: &mut impl Write,
) -> io::Result<Oid> {
    entries.sort_unstable_by_key(|entry| (entry.oid, entry.offset));
    let mut fanout = Fanout::default();
    entries.iter().for_each(|entry| fanout.count(&entry.oid));
    let sorted = entries.iter().map(|entry| Ok(*entry));
    write_sorted_with_limit(&fanout, sorted, pack_trailer, greatest_small_offset, out)
}

/// How many names begin with each byte.
#[derive(Clone)]
pub struct Fanout([u64; 256]);

impl Default for Fanout {
    fn default() -> Self {
        Fanout([0; 256])
    }
}

impl Fanout {
    /// Counts one name.
    pub fn count(&mut self, oid: &Oid) {
        self.0[usize::from(oid.first_byte())] += 1;
    }
}

/// [`write_index`] of entries that come sorted by name, and then by offset. `fanout` has counted them.
/// Held meanwhile: nine bytes an object, because names, CRCs and offsets are tables of their own.
pub fn write_sorted(
    fanout: &Fanout,
    sorted: impl Iterator<Item = io::Result<IndexEntry>>,
    pack_trailer: &Oid,
    out: &mut impl Write,
) -> io::Result<Oid> {
    write_sorted_with_limit(fanout, sorted, pack_trailer, GREATEST_SMALL_OFFSET, out)
}

fn write_sorted_with_limit(
    fanout: &Fanout,
    sorted: impl Iterator<Item = io::Result<IndexEntry>>,
    pack_trailer: &Oid,
    greatest_small_offset: u32,
    out: &mut impl Write,
) -> io::Result<Oid> {
    let mut out = HashingWriter { out, checksum: Checksum::new(pack_trailer.format()) };
    out.put(&HEADER)?;
    let mut sum = 0;
    for of_this_byte in fanout.0 {
        sum += of_this_byte;
        out.put(&u32::try_from(sum).map_err(|_| too_many())?.to_be_bytes())?;
    }
    let count = usize::try_from(sum).map_err(|_| too_many())?;
    // What an ingest has freed by now is taken again, chunk by chunk.
    let mut crcs: Column<u32> = Column::new();
    let mut offsets = Offsets { low: Column::new(), high: Column::new() };
    for entry in sorted {
        let entry = entry?;
        out.put(entry.oid.as_bytes())?;
        crcs.push(entry.crc32);
        offsets.push(entry.offset);
    }
    debug_assert_eq!(crcs.len(), count);
    for crc32 in crcs.iter() {
        out.put(&crc32.to_be_bytes())?;
    }
    drop(crcs);
    write_offsets(&offsets, greatest_small_offset.min(GREATEST_SMALL_OFFSET), &mut out)?;
    out.put(pack_trailer.as_bytes())?;
    out.finish()
}

/// Five bytes each.
struct Offsets {
    low: Column<u32>,
    high: Column<u8>,
}

impl Offsets {
    fn push(&mut self, offset: u64) {
        self.low.push(offset as u32);
        self.high.push((offset >> 32) as u8);
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let both = self.low.iter().zip(self.high.iter());
        both.map(|(low, high)| u64::from(high) << 32 | u64::from(low))
    }
}

fn write_offsets(
    offsets: &Offsets,
    greatest_small: u32,
    out: &mut HashingWriter<impl Write>,
) -> io::Result<()> {
    let small = |offset: u64| u32::try_from(offset).ok().filter(|offset| *offset <= greatest_small);
    let mut large_count = 0u32;
    for offset in offsets.iter() {
        let word = match small(offset) {
            Some(offset) => offset,
            None if large_count < LARGE => {
                large_count += 1;
                LARGE | (large_count - 1)
            }
            None => return Err(too_many()),
        };
        out.put(&word.to_be_bytes())?;
    }
    for offset in offsets.iter().filter(|offset| small(*offset).is_none()) {
        out.put(&offset.to_be_bytes())?;
    }
    Ok(())
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "more objects than a pack index can hold")
}

/// Hashes what it passes on.
struct HashingWriter<W> {
    out: W,
    checksum: Checksum,
}

impl<W: Write> HashingWriter<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.out.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<Oid> {
        let checksum = self.checksum.finish();
        self.out.write_all(checksum.as_bytes())?;
        Ok(checksum)
    }
}

/// Why an index was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It does not start with the magic number and version 2.
    #[error("not a pack index of version 2")]
    BadHeader,
    /// Its length does not agree with the number of objects in it.
    #[error("pack index of {object_count} objects cannot have {len} bytes")]
    WrongLen {
        /// What the fan-out table says.
        object_count: u32,
        /// The file's length in bytes.
        len: u64,
    },
    /// The checksum at its end is not that of the bytes before.
    #[error("checksum of the pack index is {found}, but its content gives {computed}")]
    WrongChecksum {
        /// What the index says.
        found: Oid,
        /// The checksum of its bytes.
        computed: Oid,
    },
    /// The fan-out table does not rise, or does not agree with the names.
    #[error("fan-out table of the pack index is wrong at {first_byte:#04x}")]
    BadFanout {
        /// The first byte of a name at which that was noticed.
        first_byte: u8,
    },
    /// The names are not sorted.
    #[error("pack index is not sorted at {oid}")]
    NotSorted {
        /// The name that is smaller than the one before.
        oid: Oid,
    },
    /// The object has no offset: its place in the table of 64-bit offsets is not there.
    #[error("pack index has no offset for {oid}")]
    BadOffset {
        /// The object.
        oid: Oid,
    },
}

/// Checks an index and gives access to it. `bytes` is the whole file. Nothing in it says how long its
/// names are: the name of its pack does, and so the caller.
///
/// Checked: the version, the length, the index's own checksum, that the fan-out table rises and
/// agrees with the names, that the names are sorted (an object may be there twice, as in the
/// pack), and that every object has an offset. What the offsets mean, only the pack can say.
pub fn parse_index<B: AsRef<[u8]>>(
    bytes: B,
    format: ObjectFormat,
) -> Result<IndexReader<B>, IndexError> {
    let index = bytes.as_ref();
    let fixed_len = HEADER.len() + FANOUT_LEN + 2 * format.raw_len();
    if index.len() < fixed_len || index[..HEADER.len()] != HEADER {
        return Err(IndexError::BadHeader);
    }
    let count = word(index, fanout_at(255));
    let wrong_len = IndexError::WrongLen { object_count: count, len: index.len() as u64 };
    let rest = (index.len() - fixed_len) as u64;
    let large_len = rest.checked_sub(u64::from(count) * entry_len(format)).ok_or(wrong_len)?;
    if !large_len.is_multiple_of(8) || large_len / 8 > count.into() {
        return Err(wrong_len);
    }
    let large_count = large_len as usize / 8;
    let reader = IndexReader { format, count: count as usize, large_count, bytes };
    reader.check_checksum()?;
    reader.check_names()?;
    reader.check_offsets()?;
    Ok(reader)
}

/// So many bytes of an index say how many objects it lists.
pub const INDEX_HEAD_LEN: u64 = (HEADER.len() + FANOUT_LEN) as u64;

/// Looks at an index of `len` bytes of which only the first [`INDEX_HEAD_LEN`] are at hand: the version,
/// that the fan-out table rises, and that the length fits. Answers how many objects it lists. For a
/// file that may be huge and no index at all.
pub fn check_index_head(head: &[u8], len: u64, format: ObjectFormat) -> Result<u32, IndexError> {
    if (head.len() as u64) < INDEX_HEAD_LEN || head[..HEADER.len()] != HEADER {
        return Err(IndexError::BadHeader);
    }
    let falls =
        (1..=255u8).find(|byte| word(head, fanout_at(*byte)) < word(head, fanout_at(byte - 1)));
    if let Some(first_byte) = falls {
        return Err(IndexError::BadFanout { first_byte });
    }
    let object_count = word(head, fanout_at(255));
    let fixed_len = index_fixed_len(format, object_count);
    match len.checked_sub(fixed_len) {
        Some(large) if large.is_multiple_of(8) && large / 8 <= object_count.into() => {
            Ok(object_count)
        }
        _ => Err(IndexError::WrongLen { object_count, len }),
    }
}

const FANOUT_LEN: usize = 256 * 4;

/// A name, a CRC-32 and a 32-bit offset.
const fn entry_len(format: ObjectFormat) -> u64 {
    format.raw_len() as u64 + 8
}

/// How long an index of so many objects is, without the table of 64-bit offsets.
pub(super) const fn index_fixed_len(format: ObjectFormat, objects: u32) -> u64 {
    INDEX_HEAD_LEN + 2 * format.raw_len() as u64 + objects as u64 * entry_len(format)
}

fn fanout_at(first_byte: u8) -> usize {
    HEADER.len() + usize::from(first_byte) * 4
}

/// The big-endian word at `at`, which the caller knows to lie inside.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([0, 1, 2, 3].map(|i| bytes[at + i]))
}

/// An index that has been checked: [`parse_index`].
pub struct IndexReader<B> {
    format: ObjectFormat,
    bytes: B,
    count: usize,
    large_count: usize,
}

/// The entries of an index by their offsets, and those of one offset by name; 4 bytes of memory each.
pub struct ByOffset<'i, B> {
    index: &'i IndexReader<B>,
    /// Places in the index.
    order: Vec<u32>,
}

impl<B: AsRef<[u8]>> ByOffset<'_, B> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The entry that has so many before it in the pack.
    pub fn get(&self, at: usize) -> Option<IndexEntry> {
        Some(self.index.entry(*self.order.get(at)? as usize))
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = IndexEntry> + ExactSizeIterator + '_ {
        self.order.iter().map(|place| self.index.entry(*place as usize))
    }

    /// The entry that begins at `offset`, if one does.
    pub fn find(&self, offset: u64) -> Option<IndexEntry> {
        let at = |place: &u32| self.index.entry(*place as usize).offset;
        self.get(self.order.binary_search_by_key(&offset, at).ok()?)
    }
}

impl<B: AsRef<[u8]>> IndexReader<B> {
    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The format of the names in it.
    pub fn format(&self) -> ObjectFormat {
        self.format
    }

    /// How many objects it lists.
    pub fn object_count(&self) -> u32 {
        self.count as u32 // it came from a u32
    }

    /// Where the object's entry starts in the pack; the first of several.
    pub fn lookup(&self, oid: &Oid) -> Option<u64> {
        if oid.format() != self.format {
            return None;
        }
        let range = self.fanout(oid.first_byte());
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.name(middle) < oid.as_bytes() { low = middle + 1 } else { high = middle }
        }
        (low < range.end && self.name(low) == oid.as_bytes()).then(|| self.offset(low)).flatten()
    }

    /// All objects, by name.
    pub fn entries(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        (0..self.count).map(|place| self.entry(place))
    }

    /// All entries as they lie in the pack.
    pub fn by_offset(&self) -> ByOffset<'_, B> {
        let mut order: Vec<u32> = (0..self.object_count()).collect();
        order.sort_by_key(|place| self.offset(*place as usize));
        ByOffset { index: self, order }
    }

    fn entry(&self, place: usize) -> IndexEntry {
        IndexEntry {
            oid: self.oid(place),
            crc32: word(self.bytes.as_ref(), self.crc_table() + place * 4),
            offset: self.offset(place).expect("parse_index has checked every offset"),
        }
    }

    /// The trailer of the pack that it belongs to.
    pub fn pack_trailer(&self) -> Oid {
        self.oid_at(self.bytes.as_ref().len() - 2 * self.format.raw_len())
    }

    /// The index's own checksum.
    pub fn checksum(&self) -> Oid {
        self.oid_at(self.bytes.as_ref().len() - self.format.raw_len())
    }

    fn check_checksum(&self) -> Result<(), IndexError> {
        let bytes = self.bytes.as_ref();
        let body = &bytes[..bytes.len() - self.format.raw_len()];
        let (found, computed) = (self.checksum(), Checksum::of(self.format, body));
        if found == computed { Ok(()) } else { Err(IndexError::WrongChecksum { found, computed }) }
    }

    fn check_names(&self) -> Result<(), IndexError> {
        for first_byte in 0..=255 {
            let range = self.fanout(first_byte);
            let bad = range.start > range.end
                || range.end > self.count
                || range.clone().any(|i| self.name(i)[0] != first_byte);
            if bad {
                return Err(IndexError::BadFanout { first_byte });
            }
        }
        match (1..self.count).find(|i| self.name(*i) < self.name(i - 1)) {
            Some(i) => Err(IndexError::NotSorted { oid: self.oid(i) }),
            None => Ok(()),
        }
    }

    fn check_offsets(&self) -> Result<(), IndexError> {
        match (0..self.count).find(|i| self.offset(*i).is_none()) {
            Some(i) => Err(IndexError::BadOffset { oid: self.oid(i) }),
            None => Ok(()),
        }
    }

    /// The places of the names that start with this byte.
    fn fanout(&self, first_byte: u8) -> std::ops::Range<usize> {
        let at = |byte| word(self.bytes.as_ref(), fanout_at(byte)) as usize;
        first_byte.checked_sub(1).map_or(0, at)..at(first_byte)
    }

    fn oid(&self, i: usize) -> Oid {
        self.oid_at(HEADER.len() + FANOUT_LEN + i * self.format.raw_len())
    }

    /// [`IndexReader::oid`] as bytes, for comparing.
    fn name(&self, i: usize) -> &[u8] {
        let len = self.format.raw_len();
        let at = HEADER.len() + FANOUT_LEN + i * len;
        &self.bytes.as_ref()[at..at + len]
    }

    fn oid_at(&self, at: usize) -> Oid {
        let (oid, _) = self
            .format
            .split_oid(&self.bytes.as_ref()[at..])
            .expect("the index's length has been checked");
        oid
    }

    fn crc_table(&self) -> usize {
        HEADER.len() + FANOUT_LEN + self.count * self.format.raw_len()
    }

    fn offset(&self, i: usize) -> Option<u64> {
        let offset_table = self.crc_table() + self.count * 4;
        let word = word(self.bytes.as_ref(), offset_table + i * 4);
        if word & LARGE == 0 {
            return Some(word.into());
        }
        let place = (word & !LARGE) as usize;
        let at = offset_table + self.count * 4 + place * 8;
        let large = self.bytes.as_ref().get(at..at + 8).filter(|_| place < self.large_count)?;
        Some(u64::from_be_bytes(*large.first_chunk()?))
    }
}

/// The names that begin with one byte are read at once, up to so many bytes: those of a pack of a
/// hundred million objects.
const MAX_NAMES_LEN: u64 = 8 << 20;

/// Where the object's entry starts in the pack, without holding the index: `read` gives the bytes of
/// a range of it, fewer only where it ends.
///
/// At most four reads: the fan-out table, the names that begin like this one, the offset, and the
/// large offset. Nothing else is looked at, so the index may be damaged, and the entry has to be
/// hashed.
pub fn lookup_by_ranges<E: From<IndexError>>(
    oid: &Oid,
    mut read: impl FnMut(Range<u64>) -> Result<Vec<u8>, E>,
) -> Result<Option<u64>, E> {
    let names_at = (HEADER.len() + FANOUT_LEN) as u64;
    let fanout = read(0..names_at)?;
    if fanout.len() as u64 != names_at || fanout[..HEADER.len()] != HEADER {
        return Err(IndexError::BadHeader.into());
    }
    let (first_byte, oid_len) = (oid.first_byte(), oid.format().raw_len() as u64);
    let at = |byte| u64::from(word(&fanout, fanout_at(byte)));
    let (first, end, count) = (first_byte.checked_sub(1).map_or(0, at), at(first_byte), at(255));
    let names_len = end.saturating_sub(first) * oid_len;
    if first > end || end > count || names_len > MAX_NAMES_LEN {
        return Err(IndexError::BadFanout { first_byte }.into());
    }
    if names_len == 0 {
        return Ok(None);
    }
    let from = names_at + first * oid_len;
    let names = read(from..from + names_len)?;
    let Some(place) = search_names(&names, oid) else { return Ok(None) };
    let bad = || IndexError::BadOffset { oid: *oid };
    // After the names and their checksums of four bytes each.
    let offsets_at = names_at + count * (oid_len + 4);
    let from = offsets_at + (first + place as u64) * 4;
    let offset = read(from..from + 4)?;
    let offset = u32::from_be_bytes(*offset.first_chunk().ok_or_else(bad)?);
    if offset & LARGE == 0 {
        return Ok(Some(offset.into()));
    }
    let from = offsets_at + count * 4 + u64::from(offset & !LARGE) * 8;
    let offset = read(from..from + 8)?;
    Ok(Some(u64::from_be_bytes(*offset.first_chunk().ok_or_else(bad)?)))
}

/// The place of `oid` among sorted names; the first of several.
pub fn search_names(names: &[u8], oid: &Oid) -> Option<usize> {
    let (wanted, len) = (oid.as_bytes(), oid.format().raw_len());
    let name = |place: usize| &names[place * len..(place + 1) * len];
    let (mut low, mut high) = (0, names.len() / len);
    while low < high {
        let middle = low + (high - low) / 2;
        if name(middle) < wanted { low = middle + 1 } else { high = middle }
    }
    (low < names.len() / len && name(low) == wanted).then_some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index's tests in one format.
    #[derive(Clone, Copy)]
    struct In(ObjectFormat);

    const BOTH: [In; 2] = [In(ObjectFormat::Sha1), In(ObjectFormat::Sha256)];

    impl In {
        fn entry(self, first: u8, last: u8, offset: u64) -> IndexEntry {
            let mut name = vec![0; self.0.raw_len()];
            (name[0], *name.last_mut().unwrap()) = (first, last);
            let oid = Oid::from_slice(&name).unwrap();
            IndexEntry { oid, crc32: u32::from(last) << 24 | 7, offset }
        }

        fn trailer(self) -> Oid {
            Checksum::of(self.0, b"")
        }

        fn sample(self) -> Vec<IndexEntry> {
            vec![
                self.entry(255, 1, 0x1_0000_0000),
                self.entry(3, 2, 12),
                self.entry(3, 1, 0x7fff_ffff),
                self.entry(0, 0, 0x8000_0000),
            ]
        }

        fn written(self, entries: &mut [IndexEntry]) -> Vec<u8> {
            let mut out = Vec::new();
            let checksum = write_index(entries, &self.trailer(), &mut out).unwrap();
            assert!(out.ends_with(checksum.as_bytes()));
            out
        }

        /// `bytes` with its checksum made right again.
        fn sealed(self, mut bytes: Vec<u8>) -> Vec<u8> {
            let body = bytes.len() - self.0.raw_len();
            let sum = Checksum::of(self.0, &bytes[..body]);
            bytes[body..].copy_from_slice(sum.as_bytes());
            bytes
        }

        fn parsed(self, bytes: &[u8]) -> IndexReader<&[u8]> {
            parse_index(bytes, self.0).unwrap()
        }

        fn refused(self, bytes: &[u8]) -> IndexError {
            parse_index(bytes, self.0).err().expect("a wrong index must be refused")
        }
    }

    #[test]
    fn what_was_written_is_read_back_sorted() {
        for own in BOTH {
            let mut entries = own.sample();
            let bytes = own.written(&mut entries);
            let reader = own.parsed(&bytes);
            let names: Vec<_> = entries
                .iter()
                .map(|e| (e.oid.first_byte(), e.oid.as_bytes()[own.0.raw_len() - 1]))
                .collect();
            assert_eq!(names, [(0, 0), (3, 1), (3, 2), (255, 1)]);
            assert_eq!(reader.entries().collect::<Vec<_>>(), entries);
            assert_eq!((reader.object_count(), reader.pack_trailer()), (4, own.trailer()));
            for entry in &entries {
                assert_eq!(reader.lookup(&entry.oid), Some(entry.offset));
            }
            for (first, last) in [(3, 0), (3, 3), (0, 1), (254, 0), (255, 2)] {
                assert_eq!(reader.lookup(&own.entry(first, last, 0).oid), None);
            }
        }
    }

    #[test]
    fn object_that_is_there_twice_is_listed_twice_in_pack_order() {
        for own in BOTH {
            let mut entries = [own.entry(5, 5, 900), own.entry(5, 5, 12), own.entry(5, 5, 40)];
            let bytes = own.written(&mut entries);
            let reader = own.parsed(&bytes);
            let offsets: Vec<_> = reader.entries().map(|e| e.offset).collect();
            assert_eq!(offsets, [12, 40, 900]);
            assert_eq!(reader.lookup(&entries[0].oid), Some(12));
        }
    }

    #[test]
    fn entries_by_offset_are_those_of_the_index_and_each_is_found() {
        for own in BOTH {
            let mut entries = own.sample();
            entries.push(own.entry(9, 9, entries[0].offset));
            let bytes = own.written(&mut entries);
            let reader = own.parsed(&bytes);
            let by_offset = reader.by_offset();
            entries.sort_by_key(|entry| (entry.offset, entry.oid));
            assert_eq!((by_offset.len(), by_offset.is_empty()), (entries.len(), false));
            assert!(by_offset.iter().eq(entries.iter().copied()));
            assert_eq!(by_offset.get(2), Some(entries[2]));
            assert_eq!(by_offset.get(entries.len()), None);
            for entry in &entries {
                assert_eq!(by_offset.find(entry.offset).map(|e| e.offset), Some(entry.offset));
                let next = entry.offset + 1;
                let is_there = entries.iter().any(|other| other.offset == next);
                assert_eq!(by_offset.find(next).is_some(), is_there);
            }
        }
    }

    #[test]
    fn empty_index_is_read_back() {
        for own in BOTH {
            let bytes = own.written(&mut []);
            let reader = own.parsed(&bytes);
            assert_eq!((reader.object_count(), reader.lookup(&own.0.null())), (0, None));
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_refused() {
        for own in BOTH {
            let bytes = own.written(&mut own.sample());
            for i in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[i] ^= 0x41;
                own.refused(&flipped);
                own.refused(&bytes[..i]);
            }
            own.refused(&[&bytes[..], &[0; 8]].concat());
        }
    }

    #[test]
    fn each_wrong_table_is_named_even_if_the_checksum_is_right() {
        for own in BOTH {
            let bytes = own.written(&mut own.sample());
            let changed = |at: usize, byte: u8| {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                own.refused(&own.sealed(bytes))
            };
            assert_eq!(changed(7, 1), IndexError::BadHeader);
            let fanout = IndexError::BadFanout { first_byte: 2 };
            assert_eq!(changed(fanout_at(2) + 3, 9), fanout);
            assert_eq!(changed(fanout_at(2) + 3, 2), fanout);
            assert_eq!(changed(fanout_at(2) + 3, 0), fanout);
            let names = HEADER.len() + FANOUT_LEN;
            let unsorted = changed(names + 2 * own.0.raw_len() - 1, 5);
            assert_eq!(unsorted, IndexError::NotSorted { oid: own.entry(3, 2, 0).oid });
            let first_offset = names + 4 * (own.0.raw_len() + 4);
            let no_offset = changed(first_offset + 3, 9);
            assert_eq!(no_offset, IndexError::BadOffset { oid: own.0.null() });
            let count = changed(fanout_at(255) + 3, 200);
            assert!(matches!(count, IndexError::WrongLen { object_count: 200, .. }), "{count}");
        }
    }

    /// [`lookup_by_ranges`] in `bytes`, and how many reads it took.
    fn looked_up(bytes: &[u8], oid: &Oid) -> (Result<Option<u64>, IndexError>, usize) {
        let mut reads = 0;
        let found = lookup_by_ranges(oid, |range| {
            reads += 1;
            let end = range.end.min(bytes.len() as u64);
            Ok(bytes[range.start.min(end) as usize..end as usize].to_vec())
        });
        (found, reads)
    }

    #[test]
    fn lookup_by_ranges_finds_what_lookup_finds() {
        for own in BOTH {
            let mut entries: Vec<_> = (0..2000u32)
                .map(|i| {
                    let oid = Checksum::of(own.0, &i.to_be_bytes());
                    IndexEntry { oid, crc32: i, offset: 12 + 100 * u64::from(i) }
                })
                .collect();
            let mut bytes = Vec::new();
            // Half of the offsets are in the table of large ones.
            write_index_with_limit(&mut entries, &own.trailer(), 100_000, &mut bytes).unwrap();
            let mut most_reads = 0;
            for entry in &entries {
                let (found, reads) = looked_up(&bytes, &entry.oid);
                assert_eq!(found, Ok(Some(entry.offset)));
                most_reads = most_reads.max(reads);
                let flipped: Vec<u8> = entry.oid.as_bytes().iter().map(|byte| byte ^ 1).collect();
                let other = Oid::from_slice(&flipped).unwrap();
                assert_eq!(looked_up(&bytes, &other).0, Ok(None));
            }
            assert_eq!(most_reads, 4);
            let mut none = own.written(&mut []);
            assert_eq!(looked_up(&none, &own.0.null()), (Ok(None), 1));
            none.truncate(1000);
            assert_eq!(looked_up(&none, &own.0.null()).0, Err(IndexError::BadHeader));
        }
    }

    #[test]
    fn lookup_by_ranges_bears_any_damage() {
        for own in BOTH {
            let bytes = own.written(&mut own.sample());
            for i in 0..bytes.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[i] ^= flip;
                    for entry in own.sample() {
                        let _ = looked_up(&damaged, &entry.oid);
                        let _ = looked_up(&bytes[..i], &entry.oid);
                    }
                }
            }
            let mut greedy = bytes.clone();
            // As many names as a pack can have: more than is read.
            for first_byte in 3..=255 {
                greedy[fanout_at(first_byte)..][..4].fill(0xff);
            }
            let fanout = Err(IndexError::BadFanout { first_byte: 3 });
            assert_eq!(looked_up(&greedy, &own.entry(3, 1, 0).oid).0, fanout);
        }
    }

    #[test]
    fn error_of_the_writer_comes_through() {
        for own in BOTH {
            let mut full = [0u8; 2000];
            let len = own.written(&mut own.sample()).len();
            for room in 0..len {
                let mut out = &mut full[..room];
                let error = write_index(&mut own.sample(), &own.trailer(), &mut out).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::WriteZero, "{room}");
            }
        }
    }
}
