//! Copies what one mirror has and the other has not, and proves each key on its way.
//!
//! What a mirror consists of is listed: loose objects, the packs that `objects/info/packs` names with
//! their indices, LFS objects. A key with the same length on the other side is there already, since its
//! name says its content. Small keys travel `--concurrency` at once; of large ones, which hold a part
//! of an upload each, as many as fit into the working memory. Indices come last: a pack is whole
//! before anybody can find it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::git::object::{ObjectHasher, Oid, check_name};
use crate::pack::loose::{LooseError, LooseReader};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::parts::FIRST_PART_BYTES;
use crate::repository::publish::listed_packs;
use crate::repository::reopen::Reopening;
use crate::repository::temp::TempKeys;
use crate::repository::writer::KeyWriter;
use crate::repository::{lfs_objects, listing, loose, packs};
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, ObjectHeaders, Store, StoreError};

/// Up to this length a key is small.
const SMALL_BYTES: u64 = 256 << 10;

/// What is read of a key at once.
const PIECE_BYTES: usize = 64 << 10;

/// Folders whose keys are compared at once.
const FOLDERS_AT_ONCE: usize = 8;

/// Length of a pack's trailer, and of an index's checksum.
const SUM_BYTES: usize = 20;

/// Where an index holds the number of its objects: after its header and 255 counts
/// (gitformat-pack(5)).
const INDEX_COUNT_AT: usize = 8 + 255 * 4;

/// Both ends, and what a copy may take.
pub(crate) struct Copying<'e> {
    pub(crate) from: &'e dyn Store,
    pub(crate) to: &'e dyn Store,
    pub(crate) temp: &'e TempKeys<'e>,
    pub(crate) progress: &'e dyn Progress,
    pub(crate) cancel: &'e Cancel,
    pub(crate) concurrency: usize,
    pub(crate) memory_bytes: u64,
}

/// What was copied. Only a clean end of [`Copying::git`] makes one.
pub(crate) struct Copied {
    /// All packs that the source lists, in its order.
    pub(crate) packs: Vec<String>,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// A key to copy.
struct Item {
    key: Key,
    len: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Loose(Oid),
    /// By its trailer.
    Pack(Oid),
    Index(Oid),
    Lfs([u8; 32]),
}

impl What {
    fn of(key: &str) -> Option<Self> {
        if let Some(oid) = loose::oid_of_key(key) {
            return Some(What::Loose(oid));
        }
        if let Some(oid) = lfs_objects::oid_of_key(key) {
            return Some(What::Lfs(oid));
        }
        let (name, extension) = key.strip_prefix("objects/pack/pack-")?.rsplit_once('.')?;
        let trailer = Oid::from_hex(name.as_bytes())?;
        match extension {
            "pack" => Some(What::Pack(trailer)),
            "idx" => Some(What::Index(trailer)),
            _ => None,
        }
    }

    fn headers(self) -> ObjectHeaders {
        match self {
            What::Loose(_) => loose::HEADERS,
            What::Pack(_) => packs::PACK,
            What::Index(_) => packs::INDEX,
            What::Lfs(_) => lfs_objects::HEADERS,
        }
    }
}

impl Copying<'_> {
    /// Copies all objects and listed packs that are not there. The caller has read the refs before: what
    /// they reach is listed then.
    pub(crate) fn git(&self) -> Result<Copied, MirrorError> {
        let listed = listed_packs(self.from)?;
        let mut missing: BTreeSet<Key> = listed
            .iter()
            .flat_map(|name| ["pack", "idx"].map(|end| packs::key(name, end)))
            .collect();
        let wanted = |key: &Key| match What::of(key.as_str()) {
            Some(What::Pack(_) | What::Index(_)) => missing.remove(key),
            Some(What::Loose(_)) => true,
            Some(What::Lfs(_)) | None => false,
        };
        let counts = Counts::default();
        self.copy_folder(listing::OBJECTS, wanted, &counts)?;
        if let Some(key) = missing.first() {
            return Err(self.damaged(key, "it is listed and missing"));
        }
        let Counts { objects, bytes, .. } = counts;
        let (objects, bytes) = (objects.into_inner(), bytes.into_inner());
        Ok(Copied { packs: listed, objects, bytes })
    }

    /// Copies all LFS objects that are not there; answers how many.
    pub(crate) fn lfs(&self) -> Result<u64, MirrorError> {
        let counts = Counts::default();
        let wanted = |key: &Key| matches!(What::of(key.as_str()), Some(What::Lfs(_)));
        self.copy_folder(listing::LFS, wanted, &counts)?;
        Ok(counts.lfs.into_inner())
    }

    /// A few folders at a time, so that what is held is a share of all keys, not all of them.
    fn copy_folder(
        &self,
        folder: &str,
        mut wanted: impl FnMut(&Key) -> bool,
        counts: &Counts,
    ) -> Result<(), MirrorError> {
        let folders = match self.from.list(folder, None)?.next {
            None => vec![folder.to_owned()],
            Some(_) => listing::folders(folder),
        };
        for folders in folders.chunks(FOLDERS_AT_ONCE) {
            let mut found = self.list(self.from, folders)?;
            found.retain(|key, _| wanted(key));
            if !found.is_empty() {
                let there = self.list(self.to, folders)?;
                self.copy(found, &there, counts)?;
            }
        }
        Ok(())
    }

    /// The keys below these folders, with their lengths.
    fn list(
        &self,
        store: &dyn Store,
        folders: &[String],
    ) -> Result<BTreeMap<Key, u64>, MirrorError> {
        let found = Mutex::new(BTreeMap::new());
        for_each(folders, self.concurrency, "list", |folder| {
            listing::pages(store, folder, |page| {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.extend(page.into_iter().map(|object| (object.key, object.len)));
                Ok::<_, StoreError>(())
            })
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn copy(
        &self,
        wanted: BTreeMap<Key, u64>,
        there: &BTreeMap<Key, u64>,
        counts: &Counts,
    ) -> Result<(), MirrorError> {
        let missing = wanted.into_iter().filter(|(key, len)| there.get(key) != Some(len));
        let items = missing.filter_map(|(key, len)| {
            let what = What::of(key.as_str())?;
            Some(Item { key, len, what })
        });
        let (indices, others): (Vec<Item>, Vec<Item>) =
            items.partition(|item| matches!(item.what, What::Index(_)));
        let (small, large): (Vec<Item>, Vec<Item>) =
            others.into_iter().partition(|item| item.len <= SMALL_BYTES);
        self.progress.expect_objects((small.len() + large.len() + indices.len()) as u64);
        let at_once = (self.memory_bytes / (2 * FIRST_PART_BYTES)).max(1) as usize;
        let few = at_once.min(self.concurrency);
        for (items, threads) in [(small, self.concurrency), (large, few), (indices, few)] {
            for_each(&items, threads, "copy", |item| self.copy_one(item, counts))?;
        }
        Ok(())
    }

    fn copy_one(&self, item: &Item, counts: &Counts) -> Result<(), MirrorError> {
        if self.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let headers = item.what.headers();
        let mut copy = Tee {
            input: Reopening::new(self.from, item.key.clone(), 0),
            upload: KeyWriter::new(self.temp, self.progress, item.key.clone(), headers),
            progress: self.progress,
            cancel: self.cancel,
            len: 0,
        };
        let proven = match item.what {
            What::Loose(oid) => prove_loose(&mut copy, oid),
            What::Pack(name) => prove_pack(&mut copy, name, counts),
            What::Index(name) => prove_index(&mut copy, name, counts),
            What::Lfs(oid) => prove_lfs(&mut copy, oid),
        };
        let proven = proven.and_then(|()| match copy.len == item.len {
            true => Ok(()),
            false => bad(format!("it has {} bytes, not the {} of the listing", copy.len, item.len)),
        });
        if let Err(error) = proven {
            return Err(self.failed(&item.key, error));
        }
        copy.upload.finish()?;
        counts.count(item);
        self.progress.objects_done(1);
        Ok(())
    }

    /// An error of the stores or of the run, or damage.
    fn failed(&self, key: &Key, error: io::Error) -> MirrorError {
        if self.cancel.is_cancelled() {
            return MirrorError::Interrupted;
        }
        let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
        match wrapped {
            Some(error) => MirrorError::Store(error.clone()),
            None => self.damaged(key, &error.to_string()),
        }
    }

    fn damaged(&self, key: &Key, what: &str) -> MirrorError {
        MirrorError::Mirror(format!(
            "{}/{key} is damaged: {what}; nothing was published, check that mirror with verify",
            self.from.describe()
        ))
    }
}

#[derive(Default)]
struct Counts {
    objects: AtomicU64,
    bytes: AtomicU64,
    lfs: AtomicU64,
    /// What the packs copied by this run say they hold, by their names.
    packed: Mutex<HashMap<Oid, u32>>,
}

impl Counts {
    fn count(&self, item: &Item) {
        self.bytes.fetch_add(item.len, Ordering::Relaxed);
        match item.what {
            What::Loose(_) => self.objects.fetch_add(1, Ordering::Relaxed),
            What::Lfs(_) => self.lfs.fetch_add(1, Ordering::Relaxed),
            What::Pack(name) => {
                self.objects.fetch_add(u64::from(self.of_pack(name)), Ordering::Relaxed)
            }
            What::Index(_) => 0,
        };
    }

    fn packed(&self) -> MutexGuard<'_, HashMap<Oid, u32>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_pack(&self, name: Oid) -> u32 {
        self.packed().get(&name).copied().unwrap_or(0)
    }
}

/// What is read goes into the upload, too.
struct Tee<'e> {
    input: Reopening<'e>,
    upload: KeyWriter<'e>,
    progress: &'e dyn Progress,
    cancel: &'e Cancel,
    len: u64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.input.read(buffer)?;
        self.upload.push(&buffer[..read]).map_err(io::Error::other)?;
        self.progress.received(read as u64);
        self.len += read as u64;
        Ok(read)
    }
}

fn bad<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.into()))
}

fn each_piece(copy: &mut impl Read, mut use_piece: impl FnMut(&[u8])) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match copy.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => use_piece(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn prove_loose(copy: &mut impl Read, oid: Oid) -> io::Result<()> {
    let mut reader = LooseReader::new(copy).map_err(|error| match error {
        LooseError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    })?;
    let mut hasher = ObjectHasher::new(reader.kind(), reader.size());
    each_piece(&mut reader, |piece| hasher.update(piece))?;
    check_name(hasher.finish(), &oid).or_else(bad)
}

fn prove_lfs(copy: &mut impl Read, oid: [u8; 32]) -> io::Result<()> {
    let mut hasher = Sha256::new();
    each_piece(copy, |piece| hasher.update(piece))?;
    match hasher.finalize()[..] == oid {
        true => Ok(()),
        false => bad("its SHA-256 is not its name"),
    }
}

/// The first bytes of a file, its last ones, and the SHA-1 of all but the last 20.
struct Summed {
    head: Vec<u8>,
    tail: Vec<u8>,
    sum: Oid,
}

fn sum(copy: &mut impl Read, head_bytes: usize, tail_bytes: usize) -> io::Result<Summed> {
    let mut hasher = Sha1::new();
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    each_piece(copy, |piece| {
        let missing = head_bytes - head.len();
        head.extend_from_slice(&piece[..missing.min(piece.len())]);
        tail.extend_from_slice(piece);
        let kept = tail.len().saturating_sub(tail_bytes);
        hasher.update(&tail[..kept]);
        tail.drain(..kept);
    })?;
    if tail.len() < tail_bytes || head.len() < head_bytes {
        return bad("it is cut short");
    }
    hasher.update(&tail[..tail_bytes - SUM_BYTES]);
    Ok(Summed { head, tail, sum: Oid::from_bytes(hasher.finalize().into()) })
}

fn prove_pack(copy: &mut impl Read, name: Oid, counts: &Counts) -> io::Result<()> {
    let Summed { head, tail, sum } = sum(copy, 12, SUM_BYTES)?;
    if head[..4] != *b"PACK" {
        return bad("it is no pack");
    }
    if sum != name || tail != name.as_bytes() {
        return bad(format!("its checksum is {sum}"));
    }
    let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    counts.packed().insert(name, count);
    Ok(())
}

fn prove_index(copy: &mut impl Read, name: Oid, counts: &Counts) -> io::Result<()> {
    let Summed { head, tail, sum } = sum(copy, INDEX_COUNT_AT + 4, 2 * SUM_BYTES)?;
    if tail[SUM_BYTES..] != *sum.as_bytes() {
        return bad(format!("its checksum is {sum}"));
    }
    if tail[..SUM_BYTES] != *name.as_bytes() {
        return bad("it belongs to another pack");
    }
    let at = INDEX_COUNT_AT;
    let count = u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // A pack that was there before has not been looked at.
    match counts.packed().get(&name) {
        Some(packed) if *packed != count => {
            bad(format!("it lists {count} objects, and its pack has {packed}"))
        }
        _ => Ok(()),
    }
}
