//! What a pack's index will list: name, offset and CRC of each object, as they are resolved.
//!
//! 29 bytes an object, in any order. A pack whose records outgrow the working memory has them written
//! away in sorted runs under temporary keys, which are merged when the index is written.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

use crate::git::object::Oid;
use crate::ingest::env::Env;
use crate::pack::index::{Fanout, IndexEntry};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::store::{Key, Store};

/// Name, offset in five bytes, CRC-32: sorted by its bytes it is sorted by name, then by offset.
type Record = [u8; RECORD_LEN];
const RECORD_LEN: usize = 29;

/// Sorted records in a temporary key.
struct Run {
    key: Key,
    len: u64,
}

pub(super) struct Records {
    /// In memory, at most `capacity`.
    open: Vec<Record>,
    capacity: usize,
    runs: Vec<Run>,
    fanout: Fanout,
}

/// Records that are full and on their way out of memory.
pub(super) struct Full(Vec<Record>);

impl Records {
    /// For a pack that promises `objects`.
    pub(super) fn new(objects: u32, memory_bytes: u64) -> Self {
        let bytes = u64::from(objects) * RECORD_LEN as u64;
        let capacity = match bytes <= memory_bytes {
            true => objects as usize,
            false => (memory_bytes / 4) as usize / RECORD_LEN,
        };
        let capacity = capacity.max(1);
        // Address space alone, and no more than the working memory: pages come as they are used.
        let open = Vec::with_capacity(capacity + 1);
        Records { open, capacity, runs: Vec::new(), fanout: Fanout::default() }
    }

    pub(super) fn push(&mut self, oid: &Oid, offset: u64, crc32: u32) {
        let mut record = [0; RECORD_LEN];
        record[..20].copy_from_slice(oid.as_bytes());
        record[20..25].copy_from_slice(&offset.to_be_bytes()[3..]);
        record[25..].copy_from_slice(&crc32.to_be_bytes());
        self.open.push(record);
        self.fanout.count(oid);
    }

    /// What has to leave memory now, if anything has.
    pub(super) fn take_full(&mut self) -> Option<Full> {
        // One more than all of a pack can't come.
        (self.open.len() > self.capacity).then(|| {
            let empty = Vec::with_capacity(self.capacity + 1);
            Full(std::mem::replace(&mut self.open, empty))
        })
    }

    /// It has been written away.
    pub(super) fn written(&mut self, (key, len): (Key, u64)) {
        self.runs.push(Run { key, len });
    }

    pub(super) fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Tells every record, in no order.
    pub(super) fn each(
        &self,
        store: &dyn Store,
        tell: &mut dyn FnMut(u64, &Oid),
    ) -> Result<(), MirrorError> {
        let mut tell = |record: &Record| {
            let entry = entry_of(record);
            tell(entry.offset, &entry.oid);
        };
        self.open.iter().for_each(&mut tell);
        for run in &self.runs {
            let mut reader = RunReader::new(store, run, 1 << 20);
            while let Some(record) = reader.next()? {
                tell(&record);
            }
        }
        Ok(())
    }

    /// All records by name. `memory_bytes`: what reading runs may take.
    pub(super) fn sorted<'e>(
        mut self,
        store: &'e dyn Store,
        memory_bytes: u64,
    ) -> Result<Sorted<'e>, MirrorError> {
        self.open.sort_unstable();
        let piece = memory_bytes / (self.runs.len() as u64).max(1);
        let readers = self.runs.iter().map(|run| RunReader::new(store, run, piece)).collect();
        let mut sorted = Sorted { open: self.open.into_iter(), readers, heap: BinaryHeap::new() };
        if !sorted.readers.is_empty() {
            for from in 0..=sorted.readers.len() {
                sorted.refill(from)?;
            }
        }
        Ok(sorted)
    }
}

impl Full {
    /// Sorts the records and writes them to a temporary key.
    pub(super) fn write(mut self, env: &Env<'_>) -> Result<(Key, u64), MirrorError> {
        self.0.sort_unstable();
        let key = env.temp.key("names");
        let body = self.0.as_flattened();
        env.store.put(&key, body, TEMPORARY, None)?;
        env.progress.stored(body.len() as u64);
        Ok((key, body.len() as u64))
    }
}

fn entry_of(record: &Record) -> IndexEntry {
    let (oid, rest) = record.split_first_chunk::<20>().expect("29 bytes");
    let mut offset = [0; 8];
    offset[3..].copy_from_slice(&rest[..5]);
    IndexEntry {
        oid: Oid::from_bytes(*oid),
        offset: u64::from_be_bytes(offset),
        crc32: u32::from_be_bytes(*rest[5..].first_chunk().expect("four bytes")),
    }
}

/// Reads a run in pieces.
struct RunReader<'e> {
    store: &'e dyn Store,
    key: Key,
    len: u64,
    at: u64,
    piece: u64,
    bytes: Vec<u8>,
    taken: usize,
}

impl<'e> RunReader<'e> {
    fn new(store: &'e dyn Store, run: &Run, piece: u64) -> Self {
        let piece = (piece / RECORD_LEN as u64).clamp(256, 1 << 15) * RECORD_LEN as u64;
        let (key, len) = (run.key.clone(), run.len);
        RunReader { store, key, len, at: 0, piece, bytes: Vec::new(), taken: 0 }
    }

    fn next(&mut self) -> Result<Option<Record>, MirrorError> {
        if self.taken == self.bytes.len() {
            if self.at == self.len {
                return Ok(None);
            }
            let end = self.len.min(self.at + self.piece);
            self.bytes = self.store.get(&self.key, Some(self.at..end), self.piece)?.0;
            if self.bytes.len() as u64 != end - self.at {
                return Err(MirrorError::Mirror(format!("{} became shorter", self.key)));
            }
            (self.at, self.taken) = (end, 0);
        }
        let record = *self.bytes[self.taken..].first_chunk().expect("pieces hold whole records");
        self.taken += RECORD_LEN;
        Ok(Some(record))
    }
}

/// A merge of sorted runs and of what is in memory.
pub(super) struct Sorted<'e> {
    open: std::vec::IntoIter<Record>,
    readers: Vec<RunReader<'e>>,
    /// The next record of each, and whose it is: `readers.len()` is memory.
    heap: BinaryHeap<Reverse<(Record, usize)>>,
}

impl Sorted<'_> {
    fn refill(&mut self, from: usize) -> Result<(), MirrorError> {
        let next = match self.readers.get_mut(from) {
            Some(reader) => reader.next()?,
            None => self.open.next(),
        };
        self.heap.extend(next.map(|record| Reverse((record, from))));
        Ok(())
    }
}

impl Iterator for Sorted<'_> {
    type Item = io::Result<IndexEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.readers.is_empty() {
            return self.open.next().map(|record| Ok(entry_of(&record)));
        }
        let Reverse((record, from)) = self.heap.pop()?;
        if let Err(error) = self.refill(from) {
            return Some(Err(io::Error::other(error)));
        }
        Some(Ok(entry_of(&record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectHeaders;
    use crate::store::memory::MemoryStore;

    fn oid(number: u32) -> Oid {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        Oid::from_bytes(bytes)
    }

    #[test]
    fn records_come_back_by_name_from_memory_and_from_runs() {
        let store = MemoryStore::new();
        for memory in [1 << 20, 29 * 400] {
            let mut records = Records::new(1000, memory);
            for number in 0..1000 {
                records.push(&oid(number), 12 + u64::from(number) * (3 << 25), number);
                if let Some(mut full) = records.take_full() {
                    full.0.sort_unstable();
                    let key = Key::new(format!("run-{number}")).unwrap();
                    let body = full.0.as_flattened();
                    store.put(&key, body, ObjectHeaders::changing("x"), None).unwrap();
                    records.written((key, body.len() as u64));
                }
            }
            assert_eq!(records.runs.is_empty(), memory == 1 << 20);
            let mut told = 0;
            records.each(&store, &mut |_, _| told += 1).unwrap();
            assert_eq!(told, 1000);
            let sorted: Vec<IndexEntry> =
                records.sorted(&store, 1 << 20).unwrap().map(Result::unwrap).collect();
            assert_eq!(sorted.len(), 1000);
            assert!(sorted.is_sorted_by_key(|entry| entry.oid));
            for entry in sorted {
                let number = entry.crc32;
                assert_eq!(entry.oid, oid(number));
                assert_eq!(entry.offset, 12 + u64::from(number) * (3 << 25));
            }
        }
    }
}
