//! A pack's index read once from its beginning to its end, as a stream: for packs whose index is too
//! large to be held.
//!
//! It checks what [`super::index::parse_index`] checks. An index has its names, CRCs and offsets in
//! three tables, one after the other, so whoever listens hears them in three rounds, each time by the
//! object's place in the index.

use std::io::{self, Read};

use super::index::{IndexError, index_fixed_len};
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};

/// `\377tOc` and version 2.
const HEADER: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];
const LARGE: u32 = 0x8000_0000;

/// What an index says, in the order of the file.
pub trait IndexEvents {
    /// It lists so many objects; its length agrees with that.
    fn count(&mut self, objects: u32);
    /// The next object's name.
    fn name(&mut self, oid: Oid);
    /// The CRC-32 of the object at this place.
    fn crc32(&mut self, place: u32, crc32: u32);
    /// Where the object at this place begins.
    fn offset(&mut self, place: u32, offset: u64);
}

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It could not be read.
    #[error("cannot read the pack index: {0}")]
    Io(#[from] io::Error),
    /// It is not sound.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Its table of 64-bit offsets is not in the order of the names, as every known writer has it.
    #[error("the 64-bit offsets of the pack index are in an unusual order")]
    UnusualOrder,
}

struct Stream<R> {
    input: R,
    checksum: Checksum,
    buffer: Vec<u8>,
}

impl<R: Read> Stream<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ScanError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.checksum.update(&bytes);
        Ok(bytes)
    }

    fn oid(&mut self, format: ObjectFormat) -> Result<Oid, ScanError> {
        Ok(match format {
            ObjectFormat::Sha1 => Oid::from_bytes(self.array::<20>()?),
            ObjectFormat::Sha256 => Oid::from_bytes(self.array::<32>()?),
        })
    }

    /// Hands on `count` names.
    fn oids(
        &mut self,
        format: ObjectFormat,
        count: u64,
        mut hear: impl FnMut(u32, Oid) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        match format {
            ObjectFormat::Sha1 => {
                self.records(count, |place, name: &[u8; 20]| hear(place, Oid::from_bytes(*name)))
            }
            ObjectFormat::Sha256 => {
                self.records(count, |place, name: &[u8; 32]| hear(place, Oid::from_bytes(*name)))
            }
        }
    }

    /// Hands on `count` records of `N` bytes.
    fn records<const N: usize>(
        &mut self,
        count: u64,
        mut hear: impl FnMut(u32, &[u8; N]) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        let (mut place, mut left) = (0, count);
        while left > 0 {
            let records = left.min(4096);
            self.buffer.resize(records as usize * N, 0);
            self.input.read_exact(&mut self.buffer)?;
            self.checksum.update(&self.buffer);
            for record in self.buffer.as_chunks::<N>().0 {
                hear(place, record)?;
                place += 1;
            }
            left -= records;
        }
        Ok(())
    }
}

/// Reads an index of `len` bytes with names of `format`; answers the trailer of the pack that it
/// belongs to.
pub fn scan_index(
    input: impl Read,
    len: u64,
    format: ObjectFormat,
    events: &mut impl IndexEvents,
) -> Result<Oid, ScanError> {
    let mut stream = Stream { input, checksum: Checksum::new(format), buffer: Vec::new() };
    if len < index_fixed_len(format, 0) || stream.array()? != HEADER {
        return Err(IndexError::BadHeader.into());
    }
    let mut fanout = [0u32; 256];
    stream.records(256, |place, word: &[u8; 4]| {
        fanout[place as usize] = u32::from_be_bytes(*word);
        Ok(())
    })?;
    let object_count = fanout[255];
    let large_len = len.checked_sub(index_fixed_len(format, object_count));
    let large_len = large_len.filter(|l| l.is_multiple_of(8) && l / 8 <= object_count.into());
    let large_len = large_len.ok_or(IndexError::WrongLen { object_count, len })?;
    events.count(object_count);
    read_names(&mut stream, format, &fanout, events)?;
    stream.records(object_count.into(), |place, crc32: &[u8; 4]| {
        events.crc32(place, u32::from_be_bytes(*crc32));
        Ok(())
    })?;
    read_offsets(&mut stream, object_count, large_len / 8, events)?;
    let trailer = stream.oid(format)?;
    let computed = stream.checksum.so_far();
    let found = stream.oid(format)?;
    if computed != found {
        return Err(IndexError::WrongChecksum { found, computed }.into());
    }
    Ok(trailer)
}

fn read_names(
    stream: &mut Stream<impl Read>,
    format: ObjectFormat,
    fanout: &[u32; 256],
    events: &mut impl IndexEvents,
) -> Result<(), ScanError> {
    let falls = (1..256).find(|at| fanout[*at] < fanout[*at - 1]);
    if let Some(at) = falls {
        return Err(IndexError::BadFanout { first_byte: at as u8 }.into());
    }
    let mut last = format.null();
    stream.oids(format, fanout[255].into(), |place, oid| {
        let first = usize::from(oid.first_byte());
        if oid < last {
            return Err(IndexError::NotSorted { oid }.into());
        }
        if place >= fanout[first] || (first > 0 && place < fanout[first - 1]) {
            return Err(IndexError::BadFanout { first_byte: oid.first_byte() }.into());
        }
        last = oid;
        events.name(oid);
        Ok(())
    })
}

fn read_offsets(
    stream: &mut Stream<impl Read>,
    count: u32,
    large_count: u64,
    events: &mut impl IndexEvents,
) -> Result<(), ScanError> {
    // One bit an object, where there are large offsets at all.
    let words = if large_count > 0 { count as usize / 64 + 1 } else { 0 };
    let (mut is_large, mut large) = (vec![0u64; words], 0u64);
    stream.records(count.into(), |place, word: &[u8; 4]| {
        let word = u32::from_be_bytes(*word);
        if word & LARGE == 0 {
            events.offset(place, word.into());
            return Ok(());
        }
        if u64::from(word & !LARGE) != large || large >= large_count {
            return Err(ScanError::UnusualOrder);
        }
        is_large[place as usize / 64] |= 1 << (place % 64);
        large += 1;
        Ok(())
    })?;
    if large != large_count {
        return Err(ScanError::UnusualOrder);
    }
    let mut places = (0..count).filter(|at| is_large[*at as usize / 64] >> (at % 64) & 1 == 1);
    stream.records(large_count, |_, offset: &[u8; 8]| {
        let place = places.next().ok_or(ScanError::UnusualOrder)?;
        events.offset(place, u64::from_be_bytes(*offset));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::index::{IndexEntry, parse_index, write_index_with_limit};

    #[derive(Default)]
    struct Heard {
        entries: Vec<IndexEntry>,
    }

    impl IndexEvents for Heard {
        fn count(&mut self, _: u32) {}
        fn name(&mut self, oid: Oid) {
            self.entries.push(IndexEntry { oid, crc32: 0, offset: 0 });
        }
        fn crc32(&mut self, place: u32, crc32: u32) {
            self.entries[place as usize].crc32 = crc32;
        }
        fn offset(&mut self, place: u32, offset: u64) {
            self.entries[place as usize].offset = offset;
        }
    }

    fn trailer(format: ObjectFormat) -> Oid {
        Checksum::of(format, b"")
    }

    fn index(format: ObjectFormat, count: u32, greatest_small: u32) -> (Vec<IndexEntry>, Vec<u8>) {
        let entry = |number: u32| {
            let mut name = [7; 32];
            name[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
            let (oid, _) = format.split_oid(&name).unwrap();
            let offset = 12 + u64::from(number) * 50;
            IndexEntry { oid, crc32: number, offset }
        };
        let mut entries: Vec<_> = (0..count).map(entry).collect();
        let mut bytes = Vec::new();
        let trailer = trailer(format);
        write_index_with_limit(&mut entries, &trailer, greatest_small, &mut bytes).unwrap();
        (entries, bytes)
    }

    fn scan(format: ObjectFormat, bytes: &[u8]) -> Result<Vec<IndexEntry>, ScanError> {
        let mut heard = Heard::default();
        let found = scan_index(bytes, bytes.len() as u64, format, &mut heard)?;
        assert_eq!(found, trailer(format));
        Ok(heard.entries)
    }

    #[test]
    fn scan_hears_what_the_index_says_with_and_without_64_bit_offsets() {
        for format in ObjectFormat::ALL {
            for (count, greatest) in [(0, 1 << 30), (1, 1 << 30), (9000, 1 << 30), (9000, 200_000)]
            {
                let (entries, bytes) = index(format, count, greatest);
                assert_eq!(scan(format, &bytes).unwrap(), entries);
            }
        }
    }

    #[test]
    fn no_cut_and_no_flip_is_taken_for_sound() {
        for format in ObjectFormat::ALL {
            let (_, bytes) = index(format, 200, 5000);
            for cut in 0..bytes.len() {
                assert!(scan(format, &bytes[..cut]).is_err(), "{cut}");
            }
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x41;
                let (len, mut heard) = (flipped.len() as u64, Heard::default());
                assert!(scan_index(&flipped[..], len, format, &mut heard).is_err(), "{at}");
                assert!(parse_index(&flipped[..], format).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn index_of_the_other_format_is_refused() {
        for format in ObjectFormat::ALL {
            for count in [0, 1, 300] {
                let (_, bytes) = index(format, count, 1 << 30);
                let other = ObjectFormat::ALL.into_iter().find(|other| *other != format).unwrap();
                let (len, mut heard) = (bytes.len() as u64, Heard::default());
                assert!(
                    scan_index(&bytes[..], len, other, &mut heard).is_err(),
                    "{format} {count}"
                );
                assert!(parse_index(&bytes[..], other).is_err(), "{format} {count}");
            }
        }
    }
}
