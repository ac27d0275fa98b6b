//! Stored files in pieces, and the index of a pack read that way.
//!
//! [`Pieces`] is what has been read of a file; [`fetch`] brings what is missing of many ranges, near ones
//! as one and all at once. Of an index come the fan-out table, the names that begin like those that are
//! looked for, and the offsets, which also tell where each entry ends; never the CRCs. Nothing of it is
//! trusted: what is read at an offset is hashed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::git::object::{ObjectFormat, Oid};
use crate::pack::index::search_names;
use crate::repository::error::MirrorError;
use crate::repository::packs;
use crate::run::threads::for_each;
use crate::store::{Key, Store};

use super::stream::damaged;

/// What is read of an index at first: all of it, if it lists up to some 2,000 objects.
const HEAD_BYTES: u64 = 64 << 10;

/// Requests at once.
pub(super) const THREADS: usize = 64;

/// No GET is for more.
const MAX_GET_BYTES: u64 = 1 << 20;

const NAMES_AT: u64 = 8 + 256 * 4;

/// What has been read of a file: by offset, none overlaps another.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Where they begin, as they came; some may be gone.
    order: VecDeque<u64>,
    pub(super) bytes: u64,
}

impl Pieces {
    fn end((start, bytes): (&u64, &Vec<u8>)) -> u64 {
        start + bytes.len() as u64
    }

    /// The bytes of `range`, if all are there.
    pub(super) fn read(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?);
        let mut at = range.start;
        while at < range.end {
            let (start, bytes) = self.pieces.range(..=at).next_back()?;
            let piece = bytes.get((at - start) as usize..)?;
            if piece.is_empty() {
                return None;
            }
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
            out.extend_from_slice(&piece[..wanted]);
            at += wanted as u64;
        }
        Some(out)
    }

    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.pieces.range(..=at).next_back().map(Self::end) {
                Some(end) if end > at => at = end,
                _ => return false,
            }
        }
        true
    }

    pub(super) fn insert(&mut self, start: u64, mut bytes: Vec<u8>) {
        let covered: Vec<u64> = {
            let end = start + bytes.len() as u64;
            let inside = self.pieces.range(start..end).filter(|piece| Self::end(*piece) <= end);
            inside.map(|(start, _)| *start).collect()
        };
        for start in covered {
            self.bytes -= self.pieces.remove(&start).map_or(0, |piece| piece.len() as u64);
        }
        let mut at = start;
        if let Some(before) = self.pieces.range(..=at).next_back().map(Self::end)
            && before > at
        {
            bytes.drain(..((before - at) as usize).min(bytes.len()));
            at = before;
        }
        let end = at + bytes.len() as u64;
        if let Some((next, _)) = self.pieces.range(at..end).next() {
            bytes.truncate((next - at) as usize);
        }
        if !bytes.is_empty() {
            self.bytes += bytes.len() as u64;
            self.pieces.insert(at, bytes);
            self.order.push_back(at);
        }
    }

    /// Lets those go that begin in `range`.
    fn forget(&mut self, range: &Range<u64>) {
        let starts: Vec<u64> = self.pieces.range(range.clone()).map(|(start, _)| *start).collect();
        for start in starts {
            self.bytes -= self.pieces.remove(&start).map_or(0, |piece| piece.len() as u64);
        }
    }

    /// Lets those go that came first, until no more than `most` bytes are left.
    pub(super) fn shrink(&mut self, most: u64) {
        while self.bytes > most
            && let Some(first) = self.order.pop_front()
        {
            self.bytes -= self.pieces.remove(&first).map_or(0, |piece| piece.len() as u64);
        }
    }
}

/// Brings what is missing of `wanted`, ranges of the files `keys`. Two that are at most `gap` bytes apart
/// are read as one. What lies past a file's end is left out.
pub(super) fn fetch(
    store: &dyn Store,
    files: &mut [(Key, &mut Pieces)],
    wanted: Vec<(usize, Range<u64>)>,
    gap: u64,
) -> Result<(), MirrorError> {
    let pieces: Vec<&Pieces> = files.iter().map(|(_, pieces)| &**pieces).collect();
    let gets = coalesce(&pieces, wanted, gap).into_iter();
    let gets = gets.map(|(file, range)| (file, files[file].0.clone(), range)).collect();
    for (file, start, bytes) in fetch_all(store, gets)? {
        files[file].1.insert(start, bytes);
    }
    Ok(())
}

/// Ranges of stored files, each with the file's number.
pub(super) type Ranges = Vec<(usize, Key, Range<u64>)>;

/// Brings ranges, all at once: the number of each one's file, where it begins, and its bytes.
pub(super) fn fetch_all(
    store: &dyn Store,
    gets: Ranges,
) -> Result<Vec<(usize, u64, Vec<u8>)>, MirrorError> {
    let fetched = Mutex::new(Vec::new());
    for_each(&gets, THREADS, "range", |(file, key, range)| {
        let (bytes, _) = store.get(key, Some(range.clone()), range.end - range.start)?;
        let mut fetched = fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.push((*file, range.start, bytes));
        Ok::<_, MirrorError>(())
    })?;
    Ok(fetched.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What is missing of `wanted`; two ranges that are at most `gap` bytes apart as one.
pub(super) fn coalesce(
    files: &[&Pieces],
    mut wanted: Vec<(usize, Range<u64>)>,
    gap: u64,
) -> Vec<(usize, Range<u64>)> {
    wanted.retain(|(file, range)| range.start < range.end && !files[*file].has(range));
    wanted.sort_unstable_by_key(|(file, range)| (*file, range.start, range.end));
    let mut gets: Vec<(usize, Range<u64>)> = Vec::new();
    for (file, range) in wanted {
        match gets.last_mut() {
            Some((last, get))
                if *last == file
                    && range.start <= get.end.saturating_add(gap)
                    && range.end.max(get.end) - get.start <= MAX_GET_BYTES =>
            {
                get.end = get.end.max(range.end);
            }
            _ => {
                let mut at = range.start;
                while at < range.end {
                    let end = range.end.min(at + MAX_GET_BYTES);
                    gets.push((file, at..end));
                    at = end;
                }
            }
        }
    }
    gets
}

/// The index of a stored pack.
pub(super) struct RemoteIndex {
    format: ObjectFormat,
    key: Key,
    pieces: Pieces,
    fanout: [u32; 256],
    /// Empty before they are needed.
    offsets: Offsets,
}

/// Where the entries of a pack begin. An entry's rank is how many begin before it. Twelve bytes an entry.
#[derive(Default)]
struct Offsets {
    /// Those below 4 GiB with the places of their names, as one number each, sorted.
    near: Vec<u64>,
    /// The others.
    far: Vec<(u64, u32)>,
    /// By the place of the name.
    ranks: Vec<u32>,
}

impl Offsets {
    /// `count` of them, of which `offset` tells each by the place of the name.
    fn new(count: u32, offset: impl Fn(u32) -> u64) -> Self {
        let (mut near, mut far) = (Vec::with_capacity(count as usize), Vec::new());
        for name in 0..count {
            match offset(name) {
                offset if offset >> 32 == 0 => near.push(offset << 32 | u64::from(name)),
                offset => far.push((offset, name)),
            }
        }
        near.sort_unstable();
        far.sort_unstable();
        let mut offsets = Offsets { near, far, ranks: vec![0; count as usize] };
        for rank in 0..count {
            if let Some((_, name)) = offsets.get(rank) {
                offsets.ranks[name as usize] = rank;
            }
        }
        offsets
    }

    /// The offset, and the place of the name.
    fn get(&self, rank: u32) -> Option<(u64, u32)> {
        let rank = rank as usize;
        let far = || self.far.get(rank - self.near.len()).copied();
        self.near.get(rank).map(|near| (near >> 32, *near as u32)).or_else(far)
    }

    /// The least rank with an offset that is greater.
    fn rank_after(&self, offset: u64) -> u32 {
        let rank = match offset >> 32 {
            0 => self.near.partition_point(|near| near >> 32 <= offset),
            _ => self.near.len() + self.far.partition_point(|(other, _)| *other <= offset),
        };
        rank as u32
    }
}

impl RemoteIndex {
    /// Reads its head. One that is gone is an error of kind NotFound.
    pub(super) fn open(store: &dyn Store, name: &str) -> Result<Self, MirrorError> {
        let key = packs::key(name, "idx");
        let (head, _) = store.get(&key, Some(0..HEAD_BYTES), HEAD_BYTES)?;
        let bad = || damaged(store, &key, "not a pack index of version 2");
        let table =
            head.strip_prefix(b"\xfftOc\0\0\0\x02").and_then(|rest| rest.first_chunk::<1024>());
        let mut fanout = [0; 256];
        let (words, _) = table.ok_or_else(bad)?.as_chunks::<4>();
        for (count, word) in fanout.iter_mut().zip(words) {
            *count = u32::from_be_bytes(*word);
        }
        if !fanout.is_sorted() {
            return Err(bad());
        }
        let mut pieces = Pieces::default();
        pieces.insert(0, head);
        let format = packs::format_of(name);
        Ok(RemoteIndex { format, key, pieces, fanout, offsets: Offsets::default() })
    }

    pub(super) fn format(&self) -> ObjectFormat {
        self.format
    }

    pub(super) fn object_count(&self) -> u32 {
        self.fanout[255]
    }

    /// Some of its names: names are hashes, so those that come first are as good as any.
    pub(super) fn some_names(&self, most: usize) -> Vec<Oid> {
        let count = most.min(self.object_count() as usize);
        let whole =
            (0..=count).rev().find_map(|count| self.pieces.read(&self.names(0..count as u64)));
        let names = whole.unwrap_or_default();
        names.chunks_exact(self.format.raw_len()).filter_map(Oid::from_slice).collect()
    }

    /// The names, and the offsets that fit into 31 bits.
    pub(super) fn parts(&self) -> [Range<u64>; 2] {
        let count = u64::from(self.object_count());
        [self.names(0..count), self.small_offsets()]
    }

    /// The stored file, to read parts of it at once with others.
    pub(super) fn file(&mut self) -> (Key, &mut Pieces) {
        (self.key.clone(), &mut self.pieces)
    }

    fn small_offsets(&self) -> Range<u64> {
        let count = u64::from(self.object_count());
        let start = NAMES_AT + count * (self.format.raw_len() as u64 + 4);
        start..start + count * 4
    }

    /// Where the names at these places are.
    fn names(&self, places: Range<u64>) -> Range<u64> {
        let len = self.format.raw_len() as u64;
        NAMES_AT + places.start * len..NAMES_AT + places.end * len
    }

    /// The places of the names that begin with `byte`.
    fn bucket(&self, byte: u8) -> Range<u64> {
        let at = |byte: u8| u64::from(self.fanout[usize::from(byte)]);
        byte.checked_sub(1).map_or(0, at)..at(byte)
    }

    /// The rank of the entry of each of `oids` (sorted), if the pack has it. The names that are needed are
    /// fetched.
    pub(super) fn look_up(
        &mut self,
        store: &dyn Store,
        oids: &[Oid],
    ) -> Result<Vec<(Oid, u32)>, MirrorError> {
        let by_byte = |a: &Oid, b: &Oid| a.first_byte() == b.first_byte();
        let groups: Vec<&[Oid]> = oids.chunk_by(by_byte).collect();
        let bucket_of = |group: &[Oid]| self.bucket(group[0].first_byte());
        let wanted = groups.iter().map(|group| (0, self.names(bucket_of(group)))).collect();
        // Names lie close; a request costs more than some of them.
        fetch(store, &mut [(self.key.clone(), &mut self.pieces)], wanted, 32 << 10)?;
        let mut places = Vec::new();
        for group in groups {
            let bucket = self.bucket(group[0].first_byte());
            let names = self.pieces.read(&self.names(bucket.clone()));
            let names = names.ok_or_else(|| self.too_short(store))?;
            // A name of another format is not there, and could not be compared.
            let group = group.iter().filter(|oid| oid.format() == self.format);
            for oid in group {
                if let Some(place) = search_names(&names, oid) {
                    places.push((*oid, bucket.start + place as u64));
                }
            }
        }
        if !places.is_empty() {
            self.load_offsets(store)?;
        }
        let rank = |(oid, place): (Oid, u64)| Some((oid, *self.offsets.ranks.get(place as usize)?));
        places.into_iter().map(|found| rank(found).ok_or_else(|| self.too_short(store))).collect()
    }

    /// Where the entry of this rank begins. Names have been looked up.
    pub(super) fn offset(&self, rank: u32) -> Option<u64> {
        self.offsets.get(rank).map(|(offset, _)| offset)
    }

    /// The rank of the entry at `offset`. Names have been looked up.
    pub(super) fn rank(&self, offset: u64) -> Option<u32> {
        let rank = self.offsets.rank_after(offset).checked_sub(1)?;
        (self.offset(rank) == Some(offset)).then_some(rank)
    }

    /// The name of the entry of this rank, which was found by its name.
    pub(super) fn name(&self, rank: u32) -> Option<Oid> {
        let (_, place) = self.offsets.get(rank)?;
        let place = u64::from(place);
        self.pieces.read(&self.names(place..place + 1)).and_then(|name| Oid::from_slice(&name))
    }

    pub(super) fn too_short(&self, store: &dyn Store) -> MirrorError {
        damaged(store, &self.key, "it is shorter than its fan-out table says")
    }

    fn load_offsets(&mut self, store: &dyn Store) -> Result<(), MirrorError> {
        if !self.offsets.ranks.is_empty() {
            return Ok(());
        }
        let at = self.small_offsets();
        let small = self.load(store, at.clone())?;
        let (words, _) = small.as_chunks::<4>();
        let large_count = words.iter().filter(|word| word[0] >> 7 == 1).count() as u64;
        let large = self.load(store, at.end..at.end + large_count * 8)?;
        let (large, _) = large.as_chunks::<8>();
        let offset = |word: &[u8; 4]| match u32::from_be_bytes(*word) {
            word if word >> 31 == 0 => Some(u64::from(word)),
            word => Some(u64::from_be_bytes(*large.get((word & 0x7fff_ffff) as usize)?)),
        };
        if words.iter().any(|word| offset(word).is_none()) {
            return Err(self.too_short(store));
        }
        let of_name = |name: u32| offset(&words[name as usize]).unwrap_or_default();
        self.offsets = Offsets::new(words.len() as u32, of_name);
        self.pieces.forget(&at);
        Ok(())
    }

    fn load(&mut self, store: &dyn Store, range: Range<u64>) -> Result<Vec<u8>, MirrorError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = vec![(0, range.clone())];
        fetch(store, &mut [(self.key.clone(), &mut self.pieces)], wanted, 0)?;
        self.pieces.read(&range).ok_or_else(|| self.too_short(store))
    }

    /// Where the entry at `offset` ends, in a pack of `pack_len` bytes.
    pub(super) fn end_of(&self, offset: u64, pack_len: u64) -> u64 {
        let last = pack_len.saturating_sub(self.format.raw_len() as u64);
        self.offset(self.offsets.rank_after(offset)).unwrap_or(last).min(last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::pack::index::{IndexEntry, write_index_with_limit};
    use crate::store::ObjectHeaders;
    use crate::store::memory::{MemoryStore, Operation};

    #[test]
    fn pieces_are_read_across_their_edges_and_never_overlap() {
        let file: Vec<u8> = (0..=255).collect();
        let mut pieces = Pieces::default();
        let put = |pieces: &mut Pieces, range: Range<usize>| {
            pieces.insert(range.start as u64, file[range].to_vec());
        };
        for range in [10..20, 30..40, 15..35, 0..5, 4..12, 38..39, 9..41] {
            put(&mut pieces, range);
        }
        assert_eq!(pieces.read(&(0..41)).unwrap(), file[..41]);
        assert_eq!(pieces.bytes, 41);
        assert!(pieces.read(&(40..42)).is_none() && pieces.has(&(3..41)) && !pieces.has(&(0..42)));
        put(&mut pieces, 50..60);
        pieces.shrink(12);
        assert!(pieces.bytes <= 12 && pieces.has(&(50..60)) && !pieces.has(&(10..20)));
        let kept: u64 = (0..60).map(|at| u64::from(pieces.has(&(at..at + 1)))).sum();
        assert_eq!(pieces.bytes, kept);
        pieces.shrink(0);
        assert_eq!((pieces.bytes, pieces.pieces.len()), (0, 0));
    }

    #[test]
    fn near_ranges_are_one_request_and_what_is_there_is_not_asked_for_again() {
        let (store, key) = (MemoryStore::new(), Key::new("file").unwrap());
        let body: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        store.put(&key, &body, ObjectHeaders::changing("x"), None).unwrap();
        let mut pieces = Pieces::default();
        let mut get = |ranges: &[Range<u64>], gap| {
            store.clear_recorded();
            let wanted = ranges.iter().map(|range| (0, range.clone())).collect();
            fetch(&store, &mut [(key.clone(), &mut pieces)], wanted, gap).unwrap();
            for range in ranges {
                let wanted = &body[range.start as usize..range.end as usize];
                assert!(pieces.read(range).unwrap() == wanted, "{range:?}");
            }
            store.count(Operation::Get)
        };
        assert_eq!(get(&[500..600, 0..100, 650..700], 400), 1);
        assert_eq!(get(&[500..600, 50..90], 0), 0);
        assert_eq!(get(&[1000..1100, 1200..1300], 99), 2);
        assert_eq!(get(&[0..2_500_000, 7..8], 0), 3);
    }

    #[test]
    fn objects_are_found_in_small_and_large_indices_with_small_and_large_offsets() {
        for (count, step) in [(1, 100), (700, 100), (9000, 100), (700, 1_000_000_000)] {
            let oid = |n: u32| {
                let mut bytes = [0; 20];
                bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
                Oid::from_bytes(bytes)
            };
            let offset = |n: u32| 12 + u64::from(n) * step;
            let entry = |n| IndexEntry { oid: oid(n), crc32: 1, offset: offset(n) };
            let mut entries: Vec<IndexEntry> = (0..count).map(entry).collect();
            let mut file = Vec::new();
            write_index_with_limit(&mut entries, &Oid::NULL, 5000, &mut file).unwrap();
            let store = MemoryStore::new();
            let name = format!("pack-{}", Oid::NULL);
            let key = packs::key(&name, "idx");
            store.put(&key, &file, ObjectHeaders::changing("x"), None).unwrap();
            let mut index = RemoteIndex::open(&store, &name).unwrap();
            assert_eq!(index.object_count(), count);
            assert!(index.some_names(50).len() == 50.min(count as usize));
            let mut asked: Vec<Oid> = (0..count).step_by(7).chain([count + 5]).map(oid).collect();
            asked.sort_unstable();
            let found = index.look_up(&store, &asked).unwrap();
            assert_eq!(found.len(), asked.len() - 1);
            let ranks: HashMap<Oid, u32> = found.into_iter().collect();
            for n in (0..count).step_by(7) {
                let rank = ranks[&oid(n)];
                assert_eq!(
                    (rank, index.rank(offset(n)), index.rank(offset(n) + 1)),
                    (n, Some(n), None)
                );
                assert_eq!((index.offset(rank), index.name(rank)), (Some(offset(n)), Some(oid(n))));
                assert_eq!(index.end_of(offset(n), offset(count) + 20), offset(n + 1));
            }
        }
    }

    #[test]
    fn damaged_index_is_an_error_with_its_key_whatever_its_bytes() {
        let mut file = Vec::new();
        let mut entries = [IndexEntry { oid: Oid::from_bytes([7; 20]), crc32: 1, offset: 12 }];
        write_index_with_limit(&mut entries, &Oid::NULL, 0, &mut file).unwrap();
        let name = format!("pack-{}", Oid::NULL);
        let key = packs::key(&name, "idx");
        // The place of the large offset's, and the checksums, are not looked at.
        for cut in 0..file.len() - 40 {
            let store = MemoryStore::new();
            store.put(&key, &file[..cut], ObjectHeaders::changing("x"), None).unwrap();
            let opened = RemoteIndex::open(&store, &name);
            let found = opened.and_then(|mut index| index.look_up(&store, &[entries[0].oid]));
            let error = found.expect_err("must fail").to_string();
            assert!(error.contains(".idx"), "{cut}: {error}");
        }
    }
}
