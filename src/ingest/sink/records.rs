//! What a pack's index will list: name, offset and CRC of each object, as they are resolved.
//!
//! 29 bytes an object (41 with SHA-256), in any order. A pack whose records outgrow the working memory
//! has them written away in sorted runs under temporary keys, which are merged when the index is
//! written.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

use crate::git::object::{ObjectFormat, Oid};
use crate::ingest::context::RunContext;
use crate::pack::index::{Fanout, IndexEntry};
use crate::pack::index_entries::{IndexEntries, entry_of, record_len};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::store::{Key, Store};

/// Sorted records in a temporary key.
struct Run {
    key: Key,
    len: u64,
}

pub(super) struct Records {
    format: ObjectFormat,
    /// In memory, at most `capacity`.
    open: IndexEntries,
    capacity: usize,
    runs: Vec<Run>,
    fanout: Fanout,
}

/// Records that are full and on their way out of memory.
pub(super) struct Full(IndexEntries);

impl Records {
    /// For a pack that promises `objects`.
    pub(super) fn new(format: ObjectFormat, objects: u32, memory_bytes: u64) -> Self {
        let bytes = u64::from(objects) * record_len(format) as u64;
        let capacity = match bytes <= memory_bytes {
            true => objects as usize,
            false => (memory_bytes / 4) as usize / record_len(format),
        };
        let capacity = capacity.max(1);
        // Address space alone, and no more than the working memory: pages come as they are used.
        let open = IndexEntries::with_capacity(format, capacity + 1);
        Records { format, open, capacity, runs: Vec::new(), fanout: Fanout::default() }
    }

    pub(super) fn push(&mut self, oid: &Oid, offset: u64, crc32: u32) {
        self.open.push(oid, offset, crc32);
        self.fanout.count(oid);
    }

    /// What has to leave memory now, if anything has.
    pub(super) fn take_full(&mut self) -> Option<Full> {
        // One more than all of a pack can't come.
        (self.open.len() > self.capacity).then(|| {
            let empty = IndexEntries::with_capacity(self.format, self.capacity + 1);
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
        let mut tell = |entry: IndexEntry| tell(entry.offset, &entry.oid);
        self.open.iter().for_each(&mut tell);
        for run in &self.runs {
            let mut reader = RunReader::new(store, self.format, run, 1 << 20);
            while let Some(entry) = reader.next()? {
                tell(entry);
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
        self.open.sort();
        let piece = memory_bytes / (self.runs.len() as u64).max(1);
        let run = |run| RunReader::new(store, self.format, run, piece);
        let readers = self.runs.iter().map(run).collect();
        let mut sorted = Sorted { open: self.open, place: 0, readers, heap: BinaryHeap::new() };
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
    pub(super) fn write(mut self, env: &RunContext<'_>) -> Result<(Key, u64), MirrorError> {
        self.0.sort();
        let key = env.temp.key("names");
        let body = self.0.as_bytes();
        env.store.put(&key, body, TEMPORARY, None)?;
        env.progress.stored(body.len() as u64);
        Ok((key, body.len() as u64))
    }
}

/// Reads a run in pieces.
struct RunReader<'e> {
    store: &'e dyn Store,
    format: ObjectFormat,
    key: Key,
    len: u64,
    at: u64,
    piece: u64,
    bytes: Vec<u8>,
    taken: usize,
}

impl<'e> RunReader<'e> {
    fn new(store: &'e dyn Store, format: ObjectFormat, run: &Run, piece: u64) -> Self {
        let record_len = record_len(format) as u64;
        let piece = (piece / record_len).clamp(256, 1 << 15) * record_len;
        let (key, len) = (run.key.clone(), run.len);
        RunReader { store, format, key, len, at: 0, piece, bytes: Vec::new(), taken: 0 }
    }

    fn next(&mut self) -> Result<Option<IndexEntry>, MirrorError> {
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
        // Pieces hold whole records.
        let entry = entry_of(&self.bytes[self.taken..], self.format);
        self.taken += record_len(self.format);
        Ok(Some(entry))
    }
}

/// A merge of sorted runs and of what is in memory.
pub(super) struct Sorted<'e> {
    open: IndexEntries,
    /// The next of `open`.
    place: usize,
    readers: Vec<RunReader<'e>>,
    /// The next entry of each (name, offset, CRC), and whose it is: `readers.len()` is memory.
    heap: BinaryHeap<Reverse<(Oid, u64, u32, usize)>>,
}

impl Sorted<'_> {
    fn next_open(&mut self) -> Option<IndexEntry> {
        self.place += 1;
        self.open.get(self.place - 1)
    }

    fn refill(&mut self, from: usize) -> Result<(), MirrorError> {
        let next = match self.readers.get_mut(from) {
            Some(reader) => reader.next()?,
            None => self.next_open(),
        };
        self.heap.extend(next.map(|e| Reverse((e.oid, e.offset, e.crc32, from))));
        Ok(())
    }
}

impl Iterator for Sorted<'_> {
    type Item = io::Result<IndexEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.readers.is_empty() {
            return self.next_open().map(Ok);
        }
        let Reverse((oid, offset, crc32, from)) = self.heap.pop()?;
        if let Err(error) = self.refill(from) {
            return Some(Err(io::Error::other(error)));
        }
        Some(Ok(IndexEntry { oid, crc32, offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectHeaders;
    use crate::store::memory::MemoryStore;

    fn oid(format: ObjectFormat, number: u32) -> Oid {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        format.split_oid(&bytes).unwrap().0
    }

    #[test]
    fn records_come_back_by_name_from_memory_and_from_runs() {
        let store = MemoryStore::new();
        for (format, memory) in
            ObjectFormat::ALL.into_iter().flat_map(|f| [(f, 1 << 20), (f, 11_600)])
        {
            let mut records = Records::new(format, 1000, memory);
            for number in 0..1000 {
                records.push(&oid(format, number), 12 + u64::from(number) * (3 << 25), number);
                if let Some(mut full) = records.take_full() {
                    full.0.sort();
                    let key = Key::new(format!("run-{format}-{number}")).unwrap();
                    let body = full.0.as_bytes();
                    store.put(&key, body, ObjectHeaders::changing("x"), None).unwrap();
                    records.written((key, body.len() as u64));
                }
            }
            assert_eq!(records.runs.is_empty(), memory == 1 << 20);
            let mut reported = 0;
            records.each(&store, &mut |_, _| reported += 1).unwrap();
            assert_eq!(reported, 1000);
            let sorted: Vec<IndexEntry> =
                records.sorted(&store, 1 << 20).unwrap().map(Result::unwrap).collect();
            assert_eq!(sorted.len(), 1000);
            assert!(sorted.is_sorted_by_key(|entry| entry.oid));
            for entry in sorted {
                let number = entry.crc32;
                assert_eq!(entry.oid, oid(format, number));
                assert_eq!(entry.offset, 12 + u64::from(number) * (3 << 25));
            }
        }
    }
}
