//! One pass over all listed packs: is each of them sound, and what do its objects point to?
//!
//! An index is read as a stream and leaves a fingerprint an object ([`Known`]). Then its pack is read
//! in pack order in large blocks, and the ingest's engine resolves it family by family on all cores.
//! Every object's name must be one that the index lists; whether its offsets and CRCs are right,
//! sums of keyed hashes of both sides tell. Links are looked up as objects pass and leave one bit.
//!
//! The pass proves or it does not: what it can't prove ([`Survey::Unsure`]) somebody looks at more
//! closely and names it. So it is exact where all is well, which is nearly always, and cheap.
//!
//! **Memory**: `memory_bytes` for blocks, bases and entries; 6.5 bytes an object (8 while indices are
//! read), and 9 an object of the pack that is being read; what is linked and in no pack, and LFS
//! pointers, 32 bytes each. Nothing is written: what the engine lays down stays in memory
//! (`scratch`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::known::{Fingerprint, Keys, Known};
use super::links::tree_links;
use super::pass::Pass;
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, ObjectFormat, Oid, check_name, hash_object};
use crate::git::oids::OidMap;
use crate::ingest::sink::check::{Examiner, Found};
use crate::pack::index_scan::{IndexEvents, scan_index};
use crate::repository::error::MirrorError;
use crate::repository::links::{commit_links, tag_link};
use crate::repository::packed::{self, Catalogue, PackedReader, ReadError};
use crate::repository::packs;
use crate::store::{Key, Store, StoreError};

/// How to look.
pub(crate) struct Surveyor<'e> {
    pub(crate) pass: Pass<'e>,
    /// Packs that were last written before this are old.
    pub(crate) old_before: Option<SystemTime>,
}

/// What the pass found.
pub(crate) enum Survey {
    /// All packs are what their indices say.
    Sound(Box<Surveyed>),
    /// Something is not as it must be, or could not be held. The words are for the log.
    Unsure(String),
}

/// Packs that are sound.
pub(crate) struct Surveyed {
    pub(crate) known: Known,
    /// Linked, and in no pack, with what the link says that it is.
    pub(crate) outside: OidMap<Kind>,
    /// LFS objects that pointers in packs name, and their sizes.
    pub(crate) lfs: HashMap<[u8; 32], u64>,
}

/// More than so many of these are not held; something is very wrong then, or this is no pack mirror.
const MAX_OUTSIDE: usize = 4 << 20;

/// Why a pass ended.
enum Stop {
    Unsure(String),
    Error(MirrorError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error.is_not_found() {
            true => Stop::Unsure(error.to_string()),
            false => Stop::Error(error.into()),
        }
    }
}

impl From<MirrorError> for Stop {
    fn from(error: MirrorError) -> Self {
        match error {
            MirrorError::Store(error) => error.into(),
            MirrorError::Interrupted | MirrorError::Internal(_) => Stop::Error(error),
            other => Stop::Unsure(other.to_string()),
        }
    }
}

/// A pack, and what its index says in sum.
struct Pack {
    name: String,
    len: u64,
    is_old: bool,
    objects: u64,
    crcs: u64,
    offsets: u64,
}

impl Surveyor<'_> {
    /// Looks at the packs of these names. An error: the store failed, or somebody stopped it.
    pub(crate) fn look(&self, names: &[String]) -> Result<Survey, MirrorError> {
        match self.try_look(names) {
            Ok(surveyed) => Ok(Survey::Sound(Box::new(surveyed))),
            Err(Stop::Unsure(what)) => Ok(Survey::Unsure(what)),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn try_look(&self, names: &[String]) -> Result<Surveyed, Stop> {
        let (keys, mut fingerprints, mut opened) = (Keys::default(), Vec::new(), Vec::new());
        self.pass.progress.phase("reading indexes");
        for name in names {
            opened.push(self.read_index(name, &keys, &mut fingerprints)?);
        }
        let shared = Shared {
            known: Known::new(keys, fingerprints),
            run: RUNS.fetch_add(1, Ordering::Relaxed),
            links: Mutex::default(),
            overflow: AtomicBool::new(false),
        };
        self.pass.progress.phase("reading packs");
        for pack in &opened {
            self.read_pack(pack, &shared)?;
        }
        let links = shared.links.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = links.broken {
            return Err(Stop::Unsure(what));
        }
        if shared.overflow.into_inner() {
            return Err(Stop::Unsure(format!("over {MAX_OUTSIDE} objects are not in any pack")));
        }
        Ok(Surveyed { known: shared.known, outside: links.outside, lfs: links.lfs })
    }

    /// Streams an index.
    fn read_index(
        &self,
        name: &str,
        keys: &Keys,
        fingerprints: &mut Vec<Fingerprint>,
    ) -> Result<Pack, Stop> {
        let missing = |key: Key| Stop::Unsure(format!("{key} is missing"));
        let (key, index_key) = (packs::key(name, "pack"), packs::key(name, "idx"));
        let info = self.pass.store.head(&key)?.ok_or_else(|| missing(key))?;
        let index = self.pass.store.head(&index_key)?.ok_or_else(|| missing(index_key.clone()))?;
        if let Some(what) = packed::index_fault(self.pass.store, name, index.len, info.len)? {
            return Err(Stop::Unsure(format!("{index_key}: {what}")));
        }
        let written = info.last_modified;
        let mut events = IndexSums {
            keys,
            first: fingerprints.len(),
            fingerprints,
            pack: Pack {
                name: name.to_owned(),
                len: info.len,
                is_old: self.old_before.zip(written).is_some_and(|(old, written)| written < old),
                objects: 0,
                crcs: 0,
                offsets: 0,
            },
        };
        let trailer = std::thread::scope(|scope| {
            let file = (index_key.clone(), index.len);
            let stream = self.pass.open(scope, file)?;
            scan_index(stream, index.len, packs::format_of(name), &mut events).map_err(|error| {
                match error {
                    crate::pack::index_scan::ScanError::Io(error) => io_stop(error),
                    other => Stop::Unsure(format!("{index_key}: {other}")),
                }
            })
        })?;
        if format!("pack-{trailer}") != name {
            return Err(Stop::Unsure(format!("{index_key} belongs to pack-{trailer}")));
        }
        Ok(events.pack)
    }

    /// Reads a pack from end to end.
    fn read_pack(&self, pack: &Pack, shared: &Shared) -> Result<(), Stop> {
        let examiner = PackExaminer {
            shared,
            pack,
            store: self.pass.store,
            objects: AtomicU64::new(0),
            crcs: AtomicU64::new(0),
            offsets: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            large: Mutex::default(),
        };
        let look = |oid: &Oid, kind, content: &[u8]| shared.look(oid, kind, content);
        let checked = self.pass.read(&pack.name, pack.len, &look, &examiner)?;
        checked.map_err(|what| Stop::Unsure(format!("{}: {what}", pack.name)))?;
        examiner.compare()?;
        let large = examiner.large.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.look_at_large(pack, large, shared)
    }

    /// What was too large to be whole in memory at once: nearly always a blob.
    fn look_at_large(&self, pack: &Pack, large: Vec<Found>, shared: &Shared) -> Result<(), Stop> {
        let one = OnePack(pack);
        let mut reader = PackedReader::new(self.pass.store, &one, self.pass.memory_bytes);
        let stop = |error| match error {
            ReadError::Store(error) => Stop::from(error),
            ReadError::Damaged(what) => Stop::Unsure(format!("{}: {what}", pack.name)),
            ReadError::TooLarge(bytes) => Stop::Unsure(format!("an object needs {bytes} bytes")),
        };
        for found in large {
            let place = (0, found.offset);
            let kind = reader.kind(place).map_err(stop)?;
            shared.known.found(shared.known.keys.fingerprint(&found.oid), kind, pack.is_old);
            if kind != Kind::Blob {
                let (kind, content) = reader.read(place).map_err(stop)?;
                check_name(hash_object(found.oid.format(), kind, &content), &found.oid)
                    .map_err(|what| Stop::Unsure(format!("{}: {what}", found.oid)))?;
                shared.look(&found.oid, kind, &content);
            }
        }
        Ok(())
    }
}

fn io_stop(error: std::io::Error) -> Stop {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()) {
        Some(error) => error.clone().into(),
        None => Stop::Unsure(error.to_string()),
    }
}

/// Hears an index.
struct IndexSums<'s> {
    keys: &'s Keys,
    /// Where its own begin.
    first: usize,
    fingerprints: &'s mut Vec<Fingerprint>,
    pack: Pack,
}

impl IndexEvents for IndexSums<'_> {
    fn count(&mut self, objects: u32) {
        self.pack.objects = objects.into();
        self.fingerprints.reserve_exact(objects as usize);
    }

    fn name(&mut self, oid: Oid) {
        self.fingerprints.push(self.keys.fingerprint(&oid));
    }

    fn crc32(&mut self, place: u32, crc32: u32) {
        let object = self.fingerprints[self.first + place as usize];
        self.pack.crcs = self.pack.crcs.wrapping_add(self.keys.hash(object, crc32.into()));
    }

    fn offset(&mut self, place: u32, offset: u64) {
        let object = self.fingerprints[self.first + place as usize];
        self.pack.offsets = self.pack.offsets.wrapping_add(self.keys.hash(object, offset));
    }
}

/// Hears the objects of a pack.
struct PackExaminer<'s> {
    shared: &'s Shared,
    pack: &'s Pack,
    store: &'s dyn Store,
    objects: AtomicU64,
    crcs: AtomicU64,
    offsets: AtomicU64,
    /// Objects that no index lists.
    strangers: AtomicU64,
    large: Mutex<Vec<Found>>,
}

impl Examiner for PackExaminer<'_> {
    fn found(&self, objects: &[Found]) {
        let known = &self.shared.known;
        let (mut crcs, mut offsets, mut strangers) = (0u64, 0u64, 0);
        for found in objects {
            let object = known.keys.fingerprint(&found.oid);
            crcs = crcs.wrapping_add(known.keys.hash(object, found.crc32.into()));
            offsets = offsets.wrapping_add(known.keys.hash(object, found.offset));
            match found.kind {
                Some(kind) if known.found(object, kind, self.pack.is_old) => {}
                Some(_) => strangers += 1,
                None => {
                    self.large.lock().unwrap_or_else(PoisonError::into_inner).push(*found);
                }
            }
        }
        self.objects.fetch_add(objects.len() as u64, Ordering::Relaxed);
        self.crcs.fetch_add(crcs, Ordering::Relaxed);
        self.offsets.fetch_add(offsets, Ordering::Relaxed);
        self.strangers.fetch_add(strangers, Ordering::Relaxed);
    }

    fn each_listed(&self, tell: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError> {
        let key = packs::key(&self.pack.name, "idx");
        let index = packed::read_index(self.store, &self.pack.name, Some(self.pack.len), u64::MAX)?;
        let index = index.map_err(|what| MirrorError::Mirror(format!("{key}: {what}")))?;
        index.entries().for_each(|entry| tell(entry.offset, &entry.oid));
        Ok(())
    }
}

impl PackExaminer<'_> {
    fn compare(&self) -> Result<(), Stop> {
        let (pack, now) = (self.pack, |sum: &AtomicU64| sum.load(Ordering::Relaxed));
        let agree = now(&self.objects) == pack.objects
            && now(&self.strangers) == 0
            && now(&self.crcs) == pack.crcs
            && now(&self.offsets) == pack.offsets;
        match agree {
            true => Ok(()),
            false => Err(Stop::Unsure(format!("{} does not match its index", pack.name))),
        }
    }
}

/// A pack for a reader by offset. Bases by name are not looked for.
struct OnePack<'p>(&'p Pack);

impl Catalogue for OnePack<'_> {
    fn format(&self, _: usize) -> ObjectFormat {
        packs::format_of(&self.0.name)
    }

    fn key(&self, _: usize) -> Key {
        packs::key(&self.0.name, "pack")
    }

    fn pack_len(&self, _: usize) -> Result<u64, ReadError> {
        Ok(self.0.len)
    }

    fn offset(&self, _: usize, _: &Oid) -> Result<Option<u64>, ReadError> {
        Ok(None)
    }
}

/// What all packs share.
struct Shared {
    known: Known,
    /// Which pass this is: links that a thread remembers of another are not this one's.
    run: u64,
    links: Mutex<Links>,
    overflow: AtomicBool,
}

/// Guarded by [`Shared::links`].
#[derive(Default)]
struct Links {
    outside: OidMap<Kind>,
    lfs: HashMap<[u8; 32], u64>,
    broken: Option<String>,
}

static RUNS: AtomicU64 = AtomicU64::new(1);

/// Links that this thread has noted lately: trees of one family name the same again and again.
struct Recent {
    run: u64,
    links: Vec<(Oid, Option<Kind>)>,
}

const RECENT: usize = 1 << 13;

thread_local! {
    static LATELY: RefCell<Recent> = const { RefCell::new(Recent { run: 0, links: Vec::new() }) };
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where an object leads.
    fn look(&self, oid: &Oid, kind: Kind, content: &[u8]) {
        let well_formed = match kind {
            Kind::Blob => {
                if let Some(pointer) = LfsPointer::parse(content) {
                    self.links().lfs.insert(pointer.oid, pointer.size);
                }
                true
            }
            Kind::Commit => commit_links(content).is_some_and(|(tree, parents)| {
                self.link(&tree, Kind::Tree);
                parents.iter().for_each(|parent| self.link(parent, Kind::Commit));
                true
            }),
            Kind::Tag => tag_link(content).is_some_and(|(target, kind)| {
                self.link(&target, kind);
                true
            }),
            Kind::Tree => {
                LATELY.with_borrow_mut(|lately| self.look_at_tree(lately, content, oid.format()))
            }
        };
        if !well_formed {
            self.links().broken.get_or_insert_with(|| format!("{oid} is not a valid {kind}"));
        }
    }

    fn look_at_tree(&self, lately: &mut Recent, tree: &[u8], format: ObjectFormat) -> bool {
        if lately.run != self.run {
            lately.run = self.run;
            lately.links = vec![(format.null(), None); RECENT];
        }
        for entry in tree_links(tree, format) {
            let Some(entry) = entry else { return false };
            let Some(kind) = entry.kind else { continue };
            let bytes = entry.oid.as_bytes();
            let [a, b] = [bytes[0], bytes[1]];
            let place = &mut lately.links[usize::from(u16::from_le_bytes([a, b])) % RECENT];
            let link = (entry.oid, Some(kind));
            if *place != link {
                *place = link;
                self.link(&entry.oid, kind);
            }
        }
        true
    }

    fn link(&self, oid: &Oid, kind: Kind) {
        if self.known.linked(oid, Some(kind)) {
            return;
        }
        let mut links = self.links();
        if links.outside.len() >= MAX_OUTSIDE {
            self.overflow.store(true, Ordering::Relaxed);
            return;
        }
        let known = links.outside.get(oid).copied();
        if known.is_some_and(|known| known != kind) {
            links.broken.get_or_insert_with(|| format!("{oid} is referred to as two kinds"));
        } else {
            links.outside.insert(*oid, kind);
        }
    }
}
