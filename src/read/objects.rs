//! Single objects of a mirror, many at a time: found through the indices, read by ranged GETs.
//!
//! Objects are read in batches of a few MiB. Of a batch all entries are fetched at once, near ones as
//! one range; then the bases of those that are deltas, and theirs, a round of requests for each link of
//! the longest chain that is not at hand yet. In later rounds more is read than is asked for, because a
//! chain lies close together in a pack. A pack of up to [`SMALL_PACK`] is read whole. What is in no pack
//! is looked for as a loose object, [`THREADS`] at once. Every object is hashed.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::index::{Pieces, RemoteIndex, THREADS, fetch};
use super::stream::damaged;
use crate::git::object::{Kind, Oid, check_name, hash_object};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind, MAX_HEADER_LEN, parse_header};
use crate::pack::entry_stream::EntryStream;
use crate::pack::inflate::Inflater;
use crate::pack::loose::{LooseReader, decode_loose};
use crate::repository::error::MirrorError;
use crate::repository::packed::{Content, Contents, Place};
use crate::repository::resuming::ResumingReader;
use crate::repository::{files, loose, packs};
use crate::run::threads::for_each;
use crate::store::{Key, Store};

/// A pack is read whole if it is not larger.
const SMALL_PACK: u64 = 2 << 20;

/// Entries that are read at once, in bytes as they are stored.
const BATCH_BYTES: u64 = 3 << 20;

/// And so many at most.
const BATCH_OBJECTS: usize = 4096;

/// Between two entries that are read as one range.
const GAP_BYTES: u64 = 16 << 10;

/// What is kept of packs for the next batch.
const KEPT_BYTES: u64 = 16 << 20;

/// Contents that may be bases.
const BASES_BYTES: u64 = 16 << 20;

/// A whole object above this is streamed.
const LARGE_BYTES: u64 = 16 << 20;

/// No delta chain of any tool is longer (git's own limit is 4,095).
const MAX_CHAIN: usize = 10_000;

/// An object as it is handed on.
pub(super) enum Item<'a> {
    /// In memory; `stored`: how a pack of the mirror has it, if one does.
    Whole { oid: Oid, kind: Kind, content: &'a [u8], stored: Option<Stored<'a>> },
    /// Too large for that, and not hashed yet.
    Large { oid: Oid, kind: Kind, len: u64, content: &'a mut dyn Read },
}

/// How a pack of the mirror has an object.
pub(super) struct Stored<'a> {
    pub(super) place: Place,
    pub(super) form: Form<'a>,
}

/// See [`Stored`]. `raw` is the zlib stream.
pub(super) enum Form<'a> {
    Whole {
        raw: &'a [u8],
    },
    /// A delta of `len` bytes. What it was applied to was not hashed.
    Delta {
        base: Place,
        base_content: Content,
        len: u64,
        raw: &'a [u8],
    },
}

type Each<'c> = dyn FnMut(Item<'_>) -> Result<(), MirrorError> + 'c;

/// How far around an entry more is read than is asked for: bytes before and behind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around(pub(super) u64, pub(super) u64);

struct RemotePack {
    key: Key,
    index: RemoteIndex,
    len: Option<u64>,
    pieces: Pieces,
}

/// The objects of a mirror.
pub(super) struct Objects<'e> {
    store: &'e dyn Store,
    packs: Vec<RemotePack>,
    contents: Contents,
    inflater: Inflater,
}

/// An entry that has been read: what it says, and its body.
struct Entry {
    header: EntryHeader,
    /// Where its zlib stream is in the pack.
    raw: Range<u64>,
    body: Vec<u8>,
}

impl<'e> Objects<'e> {
    /// No objects at all, to stand in for those that are lent out.
    pub(super) fn empty(&self) -> Self {
        let contents = Contents::new(0);
        Objects { store: self.store, packs: Vec::new(), contents, inflater: Inflater::new() }
    }

    /// Opens the indices of `names`. One that is gone is an error of kind NotFound.
    pub(super) fn open(store: &'e dyn Store, names: &[String]) -> Result<Self, MirrorError> {
        let opened = Mutex::new(Vec::new());
        let numbered: Vec<(usize, &String)> = names.iter().enumerate().collect();
        for_each(&numbered, THREADS, "index", |(number, name)| {
            let index = RemoteIndex::open(store, name)?;
            opened.lock().unwrap_or_else(PoisonError::into_inner).push((*number, index));
            Ok::<_, MirrorError>(())
        })?;
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_unstable_by_key(|(number, _)| *number);
        let pack = |(number, index): (usize, RemoteIndex)| RemotePack {
            key: packs::key(&names[number], "pack"),
            index,
            len: None,
            pieces: Pieces::default(),
        };
        let packs = opened.into_iter().map(pack).collect();
        let contents = Contents::new(BASES_BYTES);
        Ok(Objects { store, packs, contents, inflater: Inflater::new() })
    }

    /// The index of the pack `number` of those that were named.
    pub(super) fn index(&self, number: usize) -> &RemoteIndex {
        &self.packs[number].index
    }

    /// The pack's length in bytes.
    pub(super) fn pack_len(&mut self, number: usize) -> Result<u64, MirrorError> {
        let RemotePack { key, len, .. } = &mut self.packs[number];
        if let Some(len) = len {
            return Ok(*len);
        }
        let info = self.store.head(key)?;
        // Asking for it says in the store's own words that it is gone.
        let found = match info {
            Some(info) => info.len,
            None => self.store.get(key, Some(0..1), 1).map(|_| 0)?,
        };
        Ok(*len.insert(found))
    }

    /// Reads `oids` and hands each on, in any order. The answer: those that the mirror does not have.
    /// `around`: more is read than is asked for.
    pub(super) fn read(
        &mut self,
        oids: &[Oid],
        around: Around,
        each: &mut Each<'_>,
    ) -> Result<Vec<Oid>, MirrorError> {
        let (places, loose) = self.find(oids)?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (place, oid) in places {
            let len = self.extent(place)?.end - place.1;
            if len > BATCH_BYTES && self.read_large(place, &oid, each)? {
                continue;
            }
            bytes += len;
            batch.push((place, oid));
            if bytes > BATCH_BYTES || batch.len() == BATCH_OBJECTS {
                self.read_batch(&batch, around, each)?;
                batch.clear();
                bytes = 0;
            }
        }
        self.read_batch(&batch, around, each)?;
        self.read_loose(&loose, each)
    }

    /// How many bytes the entries of `oids` have as they are stored; 0 for loose ones.
    pub(super) fn stored_lens(&mut self, oids: &[Oid]) -> Result<HashMap<Oid, u64>, MirrorError> {
        let (places, _) = self.find(oids)?;
        let mut lens = HashMap::new();
        for (place, oid) in places {
            lens.insert(oid, self.extent(place)?.end - place.1);
        }
        Ok(lens)
    }

    /// Where objects are, by place; and those that are in no pack.
    #[allow(clippy::type_complexity)] // Two lists, each taken apart at once.
    fn find(&mut self, oids: &[Oid]) -> Result<(Vec<(Place, Oid)>, Vec<Oid>), MirrorError> {
        let mut left: Vec<Oid> = oids.to_vec();
        left.sort_unstable();
        left.dedup();
        let mut places = Vec::new();
        // The last listed first, as git looks.
        for number in (0..self.packs.len()).rev() {
            if left.is_empty() {
                break;
            }
            let found = self.packs[number].index.look_up(self.store, &left)?;
            if found.is_empty() {
                continue;
            }
            let here: BTreeSet<Oid> = found.iter().map(|(oid, _)| *oid).collect();
            left.retain(|oid| !here.contains(oid));
            places.extend(found.into_iter().map(|(oid, offset)| ((number, offset), oid)));
        }
        places.sort_unstable();
        Ok((places, left))
    }

    /// Where the entry's bytes are.
    fn extent(&mut self, (number, offset): Place) -> Result<Range<u64>, MirrorError> {
        let len = self.pack_len(number)?;
        let end = self.packs[number].index.end_of(offset, len);
        if offset >= end {
            let words = format!("its index has an entry at {offset}, but it has {len} bytes");
            return Err(damaged(self.store, &self.packs[number].key, &words));
        }
        Ok(offset..end)
    }

    /// Brings the bytes of entries.
    fn load(&mut self, places: &[Place], around: Around) -> Result<(), MirrorError> {
        let mut wanted = Vec::new();
        for place in places {
            let (len, extent) = (self.pack_len(place.0)?, self.extent(*place)?);
            let range = match len <= SMALL_PACK {
                true => 0..len,
                false => {
                    extent.start.saturating_sub(around.0)
                        ..len.min(extent.end.saturating_add(around.1))
                }
            };
            // Only what is not there yet is worth reading more around it.
            let has = self.packs[place.0].pieces.read(&extent).is_some();
            wanted.push((place.0, if has { extent } else { range }));
        }
        let packs = self.packs.iter_mut();
        let mut files: Vec<_> = packs.map(|pack| (pack.key.clone(), &mut pack.pieces)).collect();
        fetch(self.store, &mut files, wanted, GAP_BYTES)
    }

    fn read_batch(
        &mut self,
        batch: &[(Place, Oid)],
        around: Around,
        each: &mut Each<'_>,
    ) -> Result<(), MirrorError> {
        if self.packs.iter().map(|pack| pack.pieces.bytes).sum::<u64>() > KEPT_BYTES {
            self.packs.iter_mut().for_each(|pack| pack.pieces.clear());
        }
        let places: Vec<Place> = batch.iter().map(|(place, _)| *place).collect();
        let entries = self.read_chains(places, around)?;
        for (place, oid) in batch {
            let (kind, content) = self.content(*place, &entries)?;
            check_name(hash_object(oid.format(), kind, &content), oid)
                .map_err(|what| self.bad(*place, &format!("{oid}: {what}")))?;
            let raw =
                entries.get(place).and_then(|entry| self.packs[place.0].pieces.read(&entry.raw));
            let stored = match (entries.get(place), &raw) {
                (Some(entry), Some(raw)) => self.form(*place, entry, raw)?,
                _ => None,
            };
            let stored = stored.map(|form| Stored { place: *place, form });
            each(Item::Whole { oid: *oid, kind, content: &content, stored })?;
        }
        Ok(())
    }

    /// `None`: its base is no longer at hand.
    fn form<'r>(
        &mut self,
        place: Place,
        entry: &Entry,
        raw: &'r [u8],
    ) -> Result<Option<Form<'r>>, MirrorError> {
        let Some(base) = self.base_of(place, entry)? else {
            return Ok(Some(Form::Whole { raw }));
        };
        let len = entry.header.inflated_len;
        let content = self.contents.get(base);
        Ok(content.map(|base_content| Form::Delta { base, base_content, len, raw }))
    }

    /// Reads entries, and those that they stand on until contents at hand.
    fn read_chains(
        &mut self,
        mut wanted: Vec<Place>,
        mut around: Around,
    ) -> Result<HashMap<Place, Entry>, MirrorError> {
        let mut entries = HashMap::new();
        for round in 0.. {
            if wanted.is_empty() {
                break;
            }
            if round > MAX_CHAIN {
                return Err(self.bad(wanted[0], "its delta chain has a cycle"));
            }
            self.load(&wanted, around)?;
            let mut bases = BTreeSet::new();
            for place in wanted {
                let entry = self.entry(place)?;
                let base = self.base_of(place, &entry)?;
                entries.insert(place, entry);
                bases.extend(base);
            }
            bases.retain(|base| !entries.contains_key(base) && self.contents.get(*base).is_none());
            wanted = bases.into_iter().collect();
            around.0 = (around.0 * 4).clamp(4 << 10, 128 << 10);
        }
        Ok(entries)
    }

    fn base_of(&mut self, place: Place, entry: &Entry) -> Result<Option<Place>, MirrorError> {
        match entry.header.kind {
            EntryKind::Object(_) => Ok(None),
            EntryKind::OfsDelta { base_offset } => Ok(Some((place.0, base_offset))),
            EntryKind::RefDelta { base } => {
                let found = self.packs[place.0].index.look_up(self.store, &[base])?;
                match found.first() {
                    Some((_, offset)) => Ok(Some((place.0, *offset))),
                    None => Err(self.bad(place, &format!("its base {base} is not in the pack"))),
                }
            }
        }
    }

    fn bad(&self, place: Place, what: &str) -> MirrorError {
        let words = format!("the entry at {}: {what}", place.1);
        damaged(self.store, &self.packs[place.0].key, &words)
    }

    /// Reads an entry whose bytes are there.
    fn entry(&mut self, place: Place) -> Result<Entry, MirrorError> {
        let extent = self.extent(place)?;
        let bytes = self.packs[place.0].pieces.read(&extent);
        let bytes = bytes.ok_or_else(|| self.bad(place, "the pack ends before it does"))?;
        let (header, used) = match parse_header(&bytes, place.1, self.packs[place.0].index.format())
        {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Err(self.bad(place, "the pack ends in its header")),
            Err(error) => return Err(self.bad(place, &error.to_string())),
        };
        let mut body = Vec::new();
        let mut input = &bytes[used..];
        let mut piece = [0; 16 << 10];
        self.inflater.restart();
        loop {
            let step = self.inflater.step(input, &mut piece);
            let step = step.map_err(|error| self.bad(place, &error.to_string()))?;
            body.extend_from_slice(&piece[..step.produced]);
            input = &input[step.consumed..];
            if body.len() as u64 > header.inflated_len {
                return Err(self.bad(place, "it inflates to more than it claims"));
            }
            if step.ended {
                break;
            }
            if step.consumed + step.produced == 0 {
                return Err(self.bad(place, "it ends early"));
            }
        }
        if body.len() as u64 != header.inflated_len {
            return Err(self.bad(place, "it inflates to less than it claims"));
        }
        let start = place.1 + used as u64;
        Ok(Entry { header, raw: start..start + self.inflater.total_in(), body })
    }

    /// The object at `place`, with deltas applied: all entries that it stands on are in `entries`, or
    /// their contents are at hand.
    fn content(
        &mut self,
        place: Place,
        entries: &HashMap<Place, Entry>,
    ) -> Result<Content, MirrorError> {
        let mut chain = Vec::new();
        let mut at = place;
        let mut base = loop {
            if let Some(content) = self.contents.get(at) {
                break content;
            }
            let Some(entry) = entries.get(&at) else {
                // It left the cache meanwhile: a batch that does not fit is read again.
                let again = self.read_chains(vec![at], Around::default())?;
                let content = self.content(at, &again)?;
                break content;
            };
            if let EntryKind::Object(kind) = entry.header.kind {
                break (kind, Arc::from(&entry.body[..]));
            }
            if chain.len() > MAX_CHAIN {
                return Err(self.bad(place, "its delta chain has a cycle"));
            }
            chain.push((at, entry));
            at = self.base_of(at, entry)?.unwrap_or(at);
        };
        self.contents.put(at, base.clone());
        for (place, entry) in chain.into_iter().rev() {
            let mut result = Vec::new();
            delta::apply(&base.1, &entry.body, &mut result)
                .map_err(|error| self.bad(place, &error.to_string()))?;
            base = (base.0, result.into());
            self.contents.put(place, base.clone());
        }
        Ok(base)
    }

    /// Streams the object at `place` if it is whole in the pack and large; false: it is not.
    fn read_large(
        &mut self,
        place: Place,
        oid: &Oid,
        each: &mut Each<'_>,
    ) -> Result<bool, MirrorError> {
        let key = self.packs[place.0].key.clone();
        let head = place.1..place.1 + MAX_HEADER_LEN as u64;
        let (head, _) = self.store.get(&key, Some(head), MAX_HEADER_LEN as u64)?;
        let header = match parse_header(&head, place.1, oid.format()) {
            Ok(Some((header, _))) => header,
            _ => return Err(self.bad(place, "it has no header")),
        };
        let EntryKind::Object(kind) = header.kind else { return Ok(false) };
        if header.inflated_len <= LARGE_BYTES {
            return Ok(false);
        }
        let stream = ResumingReader::new(self.store, key, place.1);
        let stream = EntryStream::new(stream, place.1, oid.format());
        let mut stream = stream.map_err(|error| self.bad(place, &error.to_string()))?;
        let len = header.inflated_len;
        each(Item::Large { oid: *oid, kind, len, content: &mut stream })?;
        Ok(true)
    }

    /// Reads loose objects; the answer: those that are missing.
    fn read_loose(&self, oids: &[Oid], each: &mut Each<'_>) -> Result<Vec<Oid>, MirrorError> {
        let mut missing = Vec::new();
        for chunk in oids.chunks(2 * THREADS) {
            let found = Mutex::new(Vec::new());
            for_each(chunk, THREADS, "loose", |oid| {
                // One byte more tells that there is more.
                let range = Some(0..BATCH_BYTES + 1);
                let bytes = files::get(self.store, &loose::key(oid), range, BATCH_BYTES + 1)?;
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((*oid, bytes.map(|(bytes, _)| bytes)));
                Ok::<_, MirrorError>(())
            })?;
            for (oid, bytes) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
                match bytes {
                    None => missing.push(oid),
                    Some(bytes) if bytes.len() as u64 > BATCH_BYTES => {
                        self.large_loose(&oid, each)?
                    }
                    Some(bytes) => self.small_loose(&oid, &bytes, each)?,
                }
            }
        }
        Ok(missing)
    }

    fn small_loose(&self, oid: &Oid, bytes: &[u8], each: &mut Each<'_>) -> Result<(), MirrorError> {
        let bad = |what: String| damaged(self.store, &loose::key(oid), &what);
        let reader = LooseReader::new(bytes).map_err(|error| bad(error.to_string()))?;
        if reader.size() > LARGE_BYTES {
            return self.large_loose(oid, each);
        }
        let (kind, content) =
            decode_loose(bytes, LARGE_BYTES).map_err(|error| bad(error.to_string()))?;
        check_name(hash_object(oid.format(), kind, &content), oid).map_err(bad)?;
        each(Item::Whole { oid: *oid, kind, content: &content, stored: None })
    }

    fn large_loose(&self, oid: &Oid, each: &mut Each<'_>) -> Result<(), MirrorError> {
        let key = loose::key(oid);
        let stream = ResumingReader::new(self.store, key.clone(), 0);
        let reader = LooseReader::new(stream);
        let mut reader = reader.map_err(|error| damaged(self.store, &key, &error.to_string()))?;
        let (kind, len) = (reader.kind(), reader.size());
        each(Item::Large { oid: *oid, kind, len, content: &mut reader })
    }
}
