//! What an index will list, while the objects of its pack are still being named: 29 bytes an object,
//! 41 with SHA-256, in one piece of memory.
//!
//! A record is a name, an offset in five bytes and a CRC-32, so that records sorted by their bytes
//! are sorted by name and then by offset, as an index has them (gitformat-pack(5)). Five bytes of an
//! offset are a pack of a terabyte.

use std::io::{self, Write};

use super::index::{Fanout, IndexEntry, write_sorted};
use crate::git::object::{ObjectFormat, Oid};

const OFFSET_LEN: usize = 5;
const CRC_LEN: usize = 4;
const SHA1_LEN: usize = record_len(ObjectFormat::Sha1);
const SHA256_LEN: usize = record_len(ObjectFormat::Sha256);

/// How long a record is.
pub const fn record_len(format: ObjectFormat) -> usize {
    format.raw_len() + OFFSET_LEN + CRC_LEN
}

/// The entry that a record of this format says.
pub fn entry_of(record: &[u8], format: ObjectFormat) -> IndexEntry {
    let (oid, rest) = format.split_oid(record).expect("a record begins with a name");
    let mut offset = [0; 8];
    offset[8 - OFFSET_LEN..].copy_from_slice(&rest[..OFFSET_LEN]);
    let crc32 = *rest[OFFSET_LEN..].first_chunk().expect("a record ends in a CRC-32");
    IndexEntry { oid, offset: u64::from_be_bytes(offset), crc32: u32::from_be_bytes(crc32) }
}

/// Entries in any order.
#[derive(Debug)]
pub struct IndexEntries {
    format: ObjectFormat,
    records: Vec<u8>,
}

impl IndexEntries {
    /// With room for so many.
    pub fn with_capacity(format: ObjectFormat, entries: usize) -> Self {
        IndexEntries { format, records: Vec::with_capacity(entries * record_len(format)) }
    }

    /// Adds one.
    ///
    /// # Panics
    /// If its name is of another format.
    pub fn push(&mut self, oid: &Oid, offset: u64, crc32: u32) {
        assert!(oid.format() == self.format, "an index has one format");
        self.records.extend_from_slice(oid.as_bytes());
        self.records.extend_from_slice(&offset.to_be_bytes()[8 - OFFSET_LEN..]);
        self.records.extend_from_slice(&crc32.to_be_bytes());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len() / record_len(self.format)
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Sorts them by name, and then by offset.
    pub fn sort(&mut self) {
        match self.format {
            ObjectFormat::Sha1 => self.records.as_chunks_mut::<SHA1_LEN>().0.sort_unstable(),
            ObjectFormat::Sha256 => self.records.as_chunks_mut::<SHA256_LEN>().0.sort_unstable(),
        }
    }

    /// All records, one after the other.
    pub fn as_bytes(&self) -> &[u8] {
        &self.records
    }

    /// The entry at this place, if there is one.
    pub fn get(&self, place: usize) -> Option<IndexEntry> {
        let len = record_len(self.format);
        Some(entry_of(self.records.get(place * len..(place + 1) * len)?, self.format))
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = IndexEntry> {
        let records = self.records.chunks_exact(record_len(self.format));
        records.map(|record| entry_of(record, self.format))
    }

    /// Writes the index of the pack with this trailer ([`write_sorted`]); answers its checksum.
    pub fn write_index(mut self, pack_trailer: &Oid, out: &mut impl Write) -> io::Result<Oid> {
        self.sort();
        let mut fanout = Fanout::default();
        self.iter().for_each(|entry| fanout.count(&entry.oid));
        write_sorted(&fanout, self.iter().map(Ok), pack_trailer, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::checksum::Checksum;
    use crate::pack::index::write_index;

    #[test]
    fn index_is_written_as_from_entries_one_by_one_and_takes_29_bytes_an_object() {
        for (format, len) in [(ObjectFormat::Sha1, 29), (ObjectFormat::Sha256, 41)] {
            let mut packed = IndexEntries::with_capacity(format, 500);
            assert!(packed.is_empty());
            let mut single = Vec::new();
            for number in 0..500u32 {
                // Some objects are there twice.
                let oid = Checksum::of(format, &(number % 490).to_be_bytes());
                let offset = 12 + (u64::from(number) << 24);
                packed.push(&oid, offset, number);
                single.push(IndexEntry { oid, offset, crc32: number });
            }
            assert_eq!((packed.len(), packed.as_bytes().len()), (500, 500 * len));
            assert_eq!(packed.iter().collect::<Vec<_>>(), single);
            assert_eq!((packed.get(499), packed.get(500)), (single.last().copied(), None));
            let (trailer, mut ours, mut other) = (format.null(), Vec::new(), Vec::new());
            let sum = packed.write_index(&trailer, &mut ours).unwrap();
            assert_eq!(sum, write_index(&mut single, &trailer, &mut other).unwrap());
            assert!(ours == other);
        }
    }
}
