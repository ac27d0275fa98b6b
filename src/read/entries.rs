//! Entries of a mirror's packs: where they are, what has been read of them, and what they stand on.
//!
//! An entry is named by its [`Place`]. [`Entries::find`] tells it from the indices,
//! [`Entries::coalesced`] what is to be fetched for its bytes, [`Entries::follow`] how far the chain of
//! a delta is there, and [`Entries::content`] makes an object of it. Nothing is hashed here.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::index::{Pieces, Ranges, RemoteIndex, THREADS, coalesce, fetch, fetch_all};
use super::stream::damaged;
use crate::git::object::{Kind, Oid};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind, MAX_HEADER_LEN, parse_header};
use crate::pack::inflate::Inflater;
use crate::repository::error::MirrorError;
use crate::repository::packed::{Content, Contents, Place};
use crate::repository::packs;
use crate::run::threads::{both, for_each};
use crate::store::{Key, Store};

/// A pack is read whole if it is not larger.
const SMALL_PACK: u64 = 2 << 20;

/// Between two entries that are read as one range.
const GAP_BYTES: u64 = 24 << 10;

/// Indices that are read whole for a reader who will need them anyway.
const INDICES_BYTES: u64 = 16 << 20;

/// Contents that may be bases.
const BASES_BYTES: u64 = 8 << 20;

/// No delta chain of any tool is longer (git's own limit is 4,095).
const MAX_CHAIN: usize = 10_000;

/// An entry by its number: that of the pack, and its rank there, which goes by offset. The half of a
/// [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EntryNumber {
    pub(super) pack: u32,
    pub(super) rank: u32,
}

/// How far around an entry more is read than is asked for, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around {
    pub(super) before: u64,
    pub(super) behind: u64,
}

struct RemotePack {
    key: Key,
    index: RemoteIndex,
    len: Option<u64>,
    pieces: Pieces,
}

/// The packs of a mirror.
pub(super) struct Entries<'e> {
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

/// What entries say that have come.
pub(super) type Links = HashMap<Place, Link>;

#[derive(Clone, Copy)]
pub(super) enum Link {
    Whole(Kind),
    DeltaOf(Place),
}

/// How far the chain of an object is there.
pub(super) enum Followed {
    /// To its end, or to contents at hand.
    Whole(Kind),
    /// This entry is the first that is not.
    Missing(Place),
}

/// How a pack has an object. `raw` is the zlib stream.
pub(super) enum Form<'a> {
    Whole {
        raw: &'a [u8],
    },
    /// A delta of `len` bytes. What it was applied to was not hashed.
    Delta {
        base: EntryNumber,
        base_content: Content,
        len: u64,
        raw: &'a [u8],
    },
}

impl<'e> Entries<'e> {
    /// No packs at all.
    pub(super) fn empty(store: &'e dyn Store) -> Self {
        Entries { store, packs: Vec::new(), contents: Contents::new(0), inflater: Inflater::new() }
    }

    /// Opens the indices of `names`. One that is gone is an error of kind NotFound. `whole`: most of each
    /// will be needed, and is read at once if it is not large; so is the length of each pack.
    pub(super) fn open(
        store: &'e dyn Store,
        names: &[String],
        whole: bool,
    ) -> Result<Self, MirrorError> {
        let packs = Mutex::new(BTreeMap::new());
        let numbered: Vec<(usize, &String)> = names.iter().enumerate().collect();
        let lock = || packs.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || {
            for_each(&numbered, THREADS, "index", |(number, name)| {
                let index = RemoteIndex::open(store, name)?;
                lock().insert(*number, index);
                Ok::<_, MirrorError>(())
            })
        };
        let lens = Mutex::new(HashMap::new());
        let ask = || {
            for_each(&numbered, THREADS, "length", |(number, name)| {
                // One that is gone is seen when it is read.
                if let Some(info) = store.head(&packs::key(name, "pack"))? {
                    let mut lens = lens.lock().unwrap_or_else(PoisonError::into_inner);
                    lens.insert(*number, info.len);
                }
                Ok::<_, MirrorError>(())
            })
        };
        match whole {
            true => {
                let (asked, opened) = both("lengths", ask, open);
                opened.and(asked)?;
            }
            false => open()?,
        }
        let lens = lens.into_inner().unwrap_or_else(PoisonError::into_inner);
        let pack = |(number, index): (usize, RemoteIndex)| RemotePack {
            key: packs::key(&names[number], "pack"),
            index,
            len: lens.get(&number).copied(),
            pieces: Pieces::default(),
        };
        let packs = packs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let packs = packs.into_iter().map(pack).collect();
        let (contents, inflater) = (Contents::new(BASES_BYTES), Inflater::new());
        let mut entries = Entries { store, packs, contents, inflater };
        if whole {
            entries.read_indices()?;
        }
        Ok(entries)
    }

    /// Reads what is needed of the indices, if it is not much.
    fn read_indices(&mut self) -> Result<(), MirrorError> {
        let (mut bytes, mut wanted) = (0, Vec::new());
        for (number, pack) in self.packs.iter().enumerate().rev() {
            let parts = pack.index.parts();
            bytes += parts.iter().map(|part| part.end - part.start).sum::<u64>();
            if bytes > INDICES_BYTES {
                break;
            }
            wanted.extend(parts.map(|part| (number, part)));
        }
        let packs = self.packs.iter_mut();
        let mut files: Vec<_> = packs.map(|pack| pack.index.file()).collect();
        fetch(self.store, &mut files, wanted, 0)
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

    /// The entries of objects; and those that are in no pack.
    #[allow(clippy::type_complexity)] // Two lists, each taken apart at once.
    pub(super) fn find(
        &mut self,
        mut left: Vec<Oid>,
    ) -> Result<(Vec<(EntryNumber, Oid)>, Vec<Oid>), MirrorError> {
        left.sort_unstable();
        left.dedup();
        let mut entries = Vec::new();
        // The last listed first, as git looks.
        for number in (0..self.packs.len()).rev() {
            if left.is_empty() {
                break;
            }
            let found = self.packs[number].index.look_up(self.store, &left)?;
            if found.is_empty() {
                continue;
            }
            // Both are sorted.
            let mut here = found.iter().map(|(oid, _)| oid).peekable();
            left.retain(|oid| here.next_if_eq(&oid).is_none());
            let pack = number as u32;
            entries.extend(found.into_iter().map(|(oid, rank)| (EntryNumber { pack, rank }, oid)));
        }
        Ok((entries, left))
    }

    /// Where an entry is that was found, and which object it has.
    pub(super) fn found(&self, entry: EntryNumber) -> Result<(Place, Oid), MirrorError> {
        let number = entry.pack as usize;
        let index = &self.packs[number].index;
        let found = index.offset(entry.rank).zip(index.name(entry.rank));
        let (offset, oid) = found.ok_or_else(|| index.too_short(self.store))?;
        Ok(((number, offset), oid))
    }

    /// The entry at this place of a pack in which one was found.
    pub(super) fn number(&self, (number, offset): Place) -> Option<EntryNumber> {
        let rank = self.packs[number].index.rank(offset)?;
        Some(EntryNumber { pack: number as u32, rank })
    }

    /// The pack's key.
    pub(super) fn key(&self, number: usize) -> &Key {
        &self.packs[number].key
    }

    /// How many bytes of packs are kept.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.pieces.bytes).sum()
    }

    /// Keeps what was fetched.
    pub(super) fn keep(&mut self, fetched: Vec<(usize, u64, Vec<u8>)>) {
        for (number, start, bytes) in fetched {
            self.packs[number].pieces.insert(start, bytes);
        }
    }

    /// Lets half of the bytes go that are kept: those that came first.
    pub(super) fn shrink(&mut self) {
        for RemotePack { pieces, .. } in &mut self.packs {
            pieces.shrink(pieces.bytes / 2);
        }
    }

    /// Are an entry's bytes there?
    pub(super) fn has(&mut self, place: Place) -> Result<bool, MirrorError> {
        let extent = self.extent(place)?;
        Ok(self.packs[place.0].pieces.has(&extent))
    }

    /// How long an entry is as it is stored.
    pub(super) fn len(&mut self, place: Place) -> Result<u64, MirrorError> {
        self.extent(place).map(|extent| extent.end - extent.start)
    }

    /// An entry's header and its zlib stream, if its bytes are there.
    pub(super) fn raw(
        &mut self,
        place: Place,
    ) -> Result<Option<(EntryHeader, Vec<u8>)>, MirrorError> {
        let extent = self.extent(place)?;
        if !self.packs[place.0].pieces.has(&extent) {
            return Ok(None);
        }
        let entry = self.entry(place)?;
        let raw = self.packs[place.0].pieces.read(&entry.raw);
        Ok(raw.map(|raw| (entry.header, raw)))
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

    /// What is to be fetched for the bytes of entries.
    pub(super) fn coalesced(
        &mut self,
        places: Vec<(Place, Around)>,
    ) -> Result<Ranges, MirrorError> {
        let mut wanted = Vec::new();
        for (place, around) in places {
            let (len, extent) = (self.pack_len(place.0)?, self.extent(place)?);
            let range = match len <= SMALL_PACK {
                true => 0..len,
                false => {
                    extent.start.saturating_sub(around.before)
                        ..len.min(extent.end.saturating_add(around.behind))
                }
            };
            // Only what is not there yet is worth reading more around it.
            let has = self.packs[place.0].pieces.has(&extent);
            wanted.push((place.0, if has { extent } else { range }));
        }
        let files: Vec<&Pieces> = self.packs.iter().map(|pack| &pack.pieces).collect();
        let ranges = coalesce(&files, wanted, GAP_BYTES).into_iter();
        Ok(ranges.map(|(number, range)| (number, self.packs[number].key.clone(), range)).collect())
    }

    /// Goes from an entry to what it stands on, as far as bytes are there.
    pub(super) fn follow(
        &mut self,
        from: Place,
        links: &mut Links,
    ) -> Result<Followed, MirrorError> {
        let mut at = from;
        for _ in 0..MAX_CHAIN {
            if let Some((kind, _)) = self.contents.get(at) {
                return Ok(Followed::Whole(kind));
            }
            let link = match links.get(&at) {
                Some(link) => *link,
                None => {
                    let extent = self.extent(at)?;
                    if !self.packs[at.0].pieces.has(&extent) {
                        return Ok(Followed::Missing(at));
                    }
                    let (header, _) = self.header(at, &extent)?;
                    let link = self.link(at, &header)?;
                    links.insert(at, link);
                    link
                }
            };
            match link {
                Link::Whole(kind) => return Ok(Followed::Whole(kind)),
                Link::DeltaOf(base) => at = base,
            }
        }
        Err(self.bad(from, "its delta chain has a cycle"))
    }

    fn link(&mut self, place: Place, header: &EntryHeader) -> Result<Link, MirrorError> {
        match header.kind {
            EntryKind::Object(kind) => Ok(Link::Whole(kind)),
            EntryKind::OfsDelta { base_offset } => Ok(Link::DeltaOf((place.0, base_offset))),
            EntryKind::RefDelta { base } => {
                let index = &mut self.packs[place.0].index;
                let found = index.look_up(self.store, &[base])?;
                match found.first().and_then(|(_, rank)| index.offset(*rank)) {
                    Some(offset) => Ok(Link::DeltaOf((place.0, offset))),
                    None => Err(self.bad(place, &format!("its base {base} is not in the pack"))),
                }
            }
        }
    }

    /// `None`: its base is no longer at hand.
    pub(super) fn form<'r>(
        &mut self,
        place: Place,
        header: &EntryHeader,
        raw: &'r [u8],
    ) -> Result<Option<Form<'r>>, MirrorError> {
        let Link::DeltaOf(base) = self.link(place, header)? else {
            return Ok(Some(Form::Whole { raw }));
        };
        let len = header.inflated_len;
        let content = self.contents.get(base);
        let based = |base_content| {
            let base = self.number(base)?;
            Some(Form::Delta { base, base_content, len, raw })
        };
        Ok(content.and_then(based))
    }

    /// The object at `place`, with deltas applied: the bytes of all entries that it stands on are there, or
    /// their contents are at hand.
    pub(super) fn content(&mut self, place: Place, links: &Links) -> Result<Content, MirrorError> {
        let mut chain = Vec::new();
        let mut at = place;
        let mut base = loop {
            if let Some(content) = self.contents.get(at) {
                break content;
            }
            match links.get(&at) {
                // It left the contents at hand meanwhile.
                None => break self.read_again(at)?,
                Some(Link::DeltaOf(base)) => {
                    chain.push(at);
                    at = *base;
                }
                Some(Link::Whole(_)) => {
                    let entry = self.entry(at)?;
                    let EntryKind::Object(kind) = entry.header.kind else {
                        return Err(self.bad(at, "its header has changed"));
                    };
                    break (kind, Arc::from(&entry.body[..]));
                }
            }
        };
        self.contents.put(at, base.clone());
        for place in chain.into_iter().rev() {
            let entry = self.entry(place)?;
            let mut result = Vec::new();
            delta::apply(&base.1, &entry.body, &mut result)
                .map_err(|error| self.bad(place, &error.to_string()))?;
            base = (base.0, result.into());
            self.contents.put(place, base.clone());
        }
        Ok(base)
    }

    /// Reads a base again, with all that it stands on.
    fn read_again(&mut self, place: Place) -> Result<Content, MirrorError> {
        let mut links = Links::new();
        let mut next = place;
        loop {
            let ranges = self.coalesced(vec![(next, Around::default())])?;
            self.keep(fetch_all(self.store, ranges)?);
            match self.follow(place, &mut links)? {
                Followed::Whole(_) => return self.content(place, &links),
                Followed::Missing(missing) if missing == next => return Err(self.cut_off(next)),
                Followed::Missing(missing) => next = missing,
            }
        }
    }

    /// Reads an entry whose bytes are there.
    fn entry(&mut self, place: Place) -> Result<Entry, MirrorError> {
        let extent = self.extent(place)?;
        let (header, used) = self.header(place, &extent)?;
        let bytes = self.packs[place.0].pieces.read(&extent);
        let bytes = bytes.ok_or_else(|| self.cut_off(place))?;
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

    /// What an entry whose bytes are there says of itself, and how long that is.
    fn header(
        &mut self,
        place: Place,
        extent: &Range<u64>,
    ) -> Result<(EntryHeader, usize), MirrorError> {
        let head = extent.start..extent.end.min(extent.start + MAX_HEADER_LEN as u64);
        let bytes = self.packs[place.0].pieces.read(&head);
        let bytes = bytes.ok_or_else(|| self.cut_off(place))?;
        match parse_header(&bytes, place.1, self.packs[place.0].index.format()) {
            Ok(Some(parsed)) => Ok(parsed),
            Ok(None) => Err(self.bad(place, "the pack ends in its header")),
            Err(error) => Err(self.bad(place, &error.to_string())),
        }
    }

    pub(super) fn cut_off(&self, place: Place) -> MirrorError {
        self.bad(place, "the pack ends before it does")
    }

    pub(super) fn bad(&self, place: Place, what: &str) -> MirrorError {
        let words = format!("the entry at {}: {what}", place.1);
        damaged(self.store, &self.packs[place.0].key, &words)
    }
}
