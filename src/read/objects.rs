//! Single objects of a mirror, many at a time: found through the indices, read by ranged GETs.
//!
//! They are read in rounds. A round fetches one entry of each object that has begun, near ones as one
//! range and all at once: its own at first, then the base that it is a delta of, and so on. An object
//! whose chain is there is handed on, and whoever takes it may want more, which begin in the next round:
//! the levels of a tree and the links of chains wait for the store together, not after each other. Files
//! lead to nothing: they begin when nothing else waits, and are handed on while the next round is on its
//! way. All begin in the order of their packs, so that bases come before deltas. So many objects begin as fit
//! into [`BEGUN_BYTES`]. In later rounds more is read than is asked for, because a chain lies close
//! together in a pack. What is in no pack is looked for as a loose object, [`THREADS`] at once. Every
//! object is hashed.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::mem::take;
use std::sync::{Mutex, PoisonError};

use super::entries::{Around, Entries, EntryNumber, Followed, Form, Links};
use super::index::{Ranges, RemoteIndex, THREADS, fetch_all};
use super::stream::damaged;
use crate::git::object::{Kind, Oid, check_name, hash_object};
use crate::pack::entry::{EntryKind, MAX_HEADER_LEN, parse_header};
use crate::pack::entry_stream::EntryStream;
use crate::pack::loose::{LooseReader, decode_loose};
use crate::repository::error::MirrorError;
use crate::repository::packed::Place;
use crate::repository::resuming::ResumingReader;
use crate::repository::{files, loose};
use crate::run::threads::{both, for_each};
use crate::store::Store;

/// Objects that are begun at once, in bytes as they are stored.
const BEGUN_BYTES: u64 = 4 << 20;

/// And so many at most.
const BEGUN_OBJECTS: usize = 4096;

/// An entry above this may be streamed.
const LONG_BYTES: u64 = 3 << 20;

/// If more is kept of packs, what has begun ends before anything else begins, and half of it goes.
const KEPT_BYTES: u64 = 8 << 20;

/// The same of what entries say.
const KEPT_LINKS: usize = 1 << 16;

/// A whole object above this is streamed.
const LARGE_BYTES: u64 = 16 << 20;

/// An object as it is handed on.
pub(super) enum Item<'a> {
    /// In memory; `stored`: how a pack of the mirror has it, if one does.
    Whole { oid: Oid, kind: Kind, content: &'a [u8], stored: Option<Stored<'a>> },
    /// Too large for that, and not hashed yet.
    Large { oid: Oid, kind: Kind, len: u64, content: &'a mut dyn Read },
}

/// How a pack of the mirror has an object.
pub(super) struct Stored<'a> {
    pub(super) entry: EntryNumber,
    pub(super) form: Form<'a>,
}

/// What is to be read.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) oids: Vec<Oid>,
    /// They begin when nothing else waits: those that lie first are known then.
    pub(super) files: Vec<Oid>,
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.oids.is_empty() && self.files.is_empty()
    }
}

/// Takes an object; what is added is read as well.
type Each<'c> = dyn FnMut(Item<'_>, &mut Wanted) -> Result<(), MirrorError> + 'c;

/// Whoever takes objects, and what it has added.
struct Taker<'t, 'c> {
    each: &'t mut Each<'c>,
    wanted: Wanted,
}

impl Taker<'_, '_> {
    fn take(&mut self, item: Item<'_>) -> Result<(), MirrorError> {
        (self.each)(item, &mut self.wanted)
    }
}

/// The objects of a mirror.
pub(super) struct Objects<'e> {
    store: &'e dyn Store,
    entries: Entries<'e>,
}

/// An object that is being read.
struct Begun {
    place: Place,
    oid: Oid,
    /// As it is stored.
    len: u64,
    /// Which entry is needed next: its own, or one that it stands on.
    next: Place,
    rounds: u32,
}

/// What [`Objects::read`] is at.
#[derive(Default)]
struct Wave {
    /// Found, and not begun.
    waiting: BTreeSet<EntryNumber>,
    files: BTreeSet<EntryNumber>,
    begun: Vec<Begun>,
    /// Rounds that fetched something.
    rounds: u32,
    /// Their chains are there, and they lead to no other object.
    ready: Vec<(Place, Oid)>,
    links: Links,
}

impl<'e> Objects<'e> {
    /// No objects at all, to stand in for those that are lent out.
    pub(super) fn empty(&self) -> Self {
        Objects { store: self.store, entries: Entries::empty(self.store) }
    }

    /// See [`Entries::open`].
    pub(super) fn open(
        store: &'e dyn Store,
        names: &[String],
        whole: bool,
    ) -> Result<Self, MirrorError> {
        Ok(Objects { store, entries: Entries::open(store, names, whole)? })
    }

    /// The index of the pack `number` of those that were named.
    pub(super) fn index(&self, number: usize) -> &RemoteIndex {
        self.entries.index(number)
    }

    /// The pack's length in bytes.
    pub(super) fn pack_len(&mut self, number: usize) -> Result<u64, MirrorError> {
        self.entries.pack_len(number)
    }

    /// Reads `oids`, and what `each` adds to them, and hands each on, in any order. The answer: those that
    /// the mirror does not have. `around`: more is read than is asked for.
    pub(super) fn read(
        &mut self,
        oids: Vec<Oid>,
        around: Around,
        each: &mut Each<'_>,
    ) -> Result<Vec<Oid>, MirrorError> {
        let (mut wave, mut missing) = (Wave::default(), Vec::new());
        let mut taker = Taker { each, wanted: Wanted { oids, files: Vec::new() } };
        loop {
            let Wanted { oids, files } = take(&mut taker.wanted);
            for (oids, waiting) in [(oids, &mut wave.waiting), (files, &mut wave.files)] {
                let (found, loose) = self.entries.find(oids)?;
                waiting.extend(found.into_iter().map(|(entry, _)| entry));
                missing.extend(self.read_loose(&loose, &mut taker)?);
            }
            self.begin(&mut wave, around, &mut taker)?;
            if wave.begun.is_empty() && wave.ready.is_empty() && taker.wanted.is_empty() {
                return Ok(missing);
            }
            let (store, ranges) = (self.store, self.ranges(&wave, around)?);
            let ready = take(&mut wave.ready);
            let (fetched, handed_on) = match ranges.is_empty() {
                true => (Ok(Vec::new()), self.hand_on(ready, &wave.links, &mut taker)),
                false => {
                    wave.rounds += 1;
                    both(
                        "round",
                        || fetch_all(store, ranges),
                        || self.hand_on(ready, &wave.links, &mut taker),
                    )
                }
            };
            handed_on?;
            self.entries.keep(fetched?);
            let leading = self.follow_all(&mut wave)?;
            self.hand_on(leading, &wave.links, &mut taker)?;
        }
    }

    /// How many bytes the entries of `oids` have as they are stored; 0 for loose ones.
    pub(super) fn stored_lens(&mut self, oids: &[Oid]) -> Result<HashMap<Oid, u64>, MirrorError> {
        let (found, _) = self.entries.find(oids.to_vec())?;
        let mut lens = HashMap::new();
        for (entry, oid) in found {
            let (place, _) = self.entries.found(entry)?;
            lens.insert(oid, self.entries.len(place)?);
        }
        Ok(lens)
    }

    /// Begins objects that wait, as many as there is room for. Large ones are streamed at once.
    fn begin(
        &mut self,
        wave: &mut Wave,
        around: Around,
        taker: &mut Taker<'_, '_>,
    ) -> Result<(), MirrorError> {
        // What is read behind is of those that come next.
        let most = if around.behind > 0 { 2 * KEPT_BYTES } else { KEPT_BYTES };
        if self.entries.kept_bytes() > most || wave.links.len() > KEPT_LINKS {
            if !wave.begun.is_empty() || !wave.ready.is_empty() {
                return Ok(());
            }
            self.entries.shrink();
            wave.links.clear();
        }
        let mut bytes: u64 = wave.begun.iter().map(|begun| begun.len).sum();
        while bytes < BEGUN_BYTES
            && wave.begun.len() < BEGUN_OBJECTS
            && let Some(entry) = wave.waiting.pop_first().or_else(|| wave.files.pop_first())
        {
            let (place, oid) = self.entries.found(entry)?;
            let len = self.entries.len(place)?;
            if len <= LONG_BYTES || !self.read_large(place, &oid, taker)? {
                // What is read behind counts, too: it is mostly of what comes next.
                bytes += if self.entries.has(place)? { 0 } else { len + around.behind };
                wave.begun.push(Begun { place, oid, len, next: place, rounds: 0 });
            }
        }
        Ok(())
    }

    /// What is to be fetched for the entries that are needed next.
    fn ranges(&mut self, wave: &Wave, around: Around) -> Result<Ranges, MirrorError> {
        // However many there are, no more than this is read around them.
        let most = BEGUN_BYTES / wave.begun.len().max(1) as u64;
        let around = |begun: &Begun| match begun.rounds {
            0 => Around { behind: around.behind << wave.rounds.min(1), ..around },
            rounds => Around {
                before: most.min((1 << 10) << (2 * rounds).min(7)),
                behind: around.behind.min(most),
            },
        };
        let places = wave.begun.iter().map(|begun| (begun.next, around(begun)));
        self.entries.coalesced(places.collect())
    }

    /// Goes on with all that have begun. The answer: those whose chains are there and that lead to others,
    /// by place.
    fn follow_all(&mut self, wave: &mut Wave) -> Result<Vec<(Place, Oid)>, MirrorError> {
        let mut leading = Vec::new();
        for begun in take(&mut wave.begun) {
            match self.entries.follow(begun.next, &mut wave.links)? {
                Followed::Whole(Kind::Blob) => wave.ready.push((begun.place, begun.oid)),
                Followed::Whole(_) => leading.push((begun.place, begun.oid)),
                Followed::Missing(next) if next == begun.next => {
                    return Err(self.entries.cut_off(next));
                }
                Followed::Missing(next) => {
                    wave.begun.push(Begun { next, rounds: begun.rounds + 1, ..begun });
                }
            }
        }
        wave.ready.sort_unstable();
        leading.sort_unstable();
        Ok(leading)
    }

    /// Hands objects on whose chains are there.
    fn hand_on(
        &mut self,
        objects: Vec<(Place, Oid)>,
        links: &Links,
        taker: &mut Taker<'_, '_>,
    ) -> Result<(), MirrorError> {
        for (place, oid) in objects {
            let (kind, content) = self.entries.content(place, links)?;
            check_name(hash_object(oid.format(), kind, &content), &oid)
                .map_err(|what| self.entries.bad(place, &format!("{oid}: {what}")))?;
            let raw = self.entries.raw(place)?;
            let stored = match &raw {
                Some((header, raw)) => self.entries.form(place, header, raw)?,
                None => None,
            };
            let entry = self.entries.number(place);
            let stored = entry.zip(stored).map(|(entry, form)| Stored { entry, form });
            taker.take(Item::Whole { oid, kind, content: &content, stored })?;
        }
        Ok(())
    }

    /// Streams the object at `place` if it is whole in the pack and large; false: it is not.
    fn read_large(
        &mut self,
        place: Place,
        oid: &Oid,
        taker: &mut Taker<'_, '_>,
    ) -> Result<bool, MirrorError> {
        let key = self.entries.key(place.0).clone();
        let head = place.1..place.1 + MAX_HEADER_LEN as u64;
        let (head, _) = self.store.get(&key, Some(head), MAX_HEADER_LEN as u64)?;
        let header = match parse_header(&head, place.1, oid.format()) {
            Ok(Some((header, _))) => header,
            _ => return Err(self.entries.bad(place, "it has no header")),
        };
        let EntryKind::Object(kind) = header.kind else { return Ok(false) };
        if header.inflated_len <= LARGE_BYTES {
            return Ok(false);
        }
        let stream = ResumingReader::new(self.store, key, place.1);
        let stream = EntryStream::new(stream, place.1, oid.format());
        let mut stream = stream.map_err(|error| self.entries.bad(place, &error.to_string()))?;
        let len = header.inflated_len;
        taker.take(Item::Large { oid: *oid, kind, len, content: &mut stream })?;
        Ok(true)
    }

    /// Reads loose objects; the answer: those that are missing.
    fn read_loose(&self, oids: &[Oid], taker: &mut Taker<'_, '_>) -> Result<Vec<Oid>, MirrorError> {
        let mut missing = Vec::new();
        for chunk in oids.chunks(2 * THREADS) {
            let found = Mutex::new(Vec::new());
            for_each(chunk, THREADS, "loose", |oid| {
                // One byte more tells that there is more.
                let range = Some(0..LONG_BYTES + 1);
                let bytes = files::get(self.store, &loose::key(oid), range, LONG_BYTES + 1)?;
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((*oid, bytes.map(|(bytes, _)| bytes)));
                Ok::<_, MirrorError>(())
            })?;
            for (oid, bytes) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
                match bytes {
                    None => missing.push(oid),
                    Some(bytes) if bytes.len() as u64 > LONG_BYTES => {
                        self.large_loose(&oid, taker)?
                    }
                    Some(bytes) => self.small_loose(&oid, &bytes, taker)?,
                }
            }
        }
        Ok(missing)
    }

    fn small_loose(
        &self,
        oid: &Oid,
        bytes: &[u8],
        taker: &mut Taker<'_, '_>,
    ) -> Result<(), MirrorError> {
        let bad = |what: String| damaged(self.store, &loose::key(oid), &what);
        let reader = LooseReader::new(bytes).map_err(|error| bad(error.to_string()))?;
        if reader.size() > LARGE_BYTES {
            return self.large_loose(oid, taker);
        }
        let (kind, content) =
            decode_loose(bytes, LARGE_BYTES).map_err(|error| bad(error.to_string()))?;
        check_name(hash_object(oid.format(), kind, &content), oid).map_err(bad)?;
        taker.take(Item::Whole { oid: *oid, kind, content: &content, stored: None })
    }

    fn large_loose(&self, oid: &Oid, taker: &mut Taker<'_, '_>) -> Result<(), MirrorError> {
        let key = loose::key(oid);
        let stream = ResumingReader::new(self.store, key.clone(), 0);
        let reader = LooseReader::new(stream);
        let mut reader = reader.map_err(|error| damaged(self.store, &key, &error.to_string()))?;
        let (kind, len) = (reader.kind(), reader.size());
        taker.take(Item::Large { oid: *oid, kind, len, content: &mut reader })
    }
}
