//! The keys of a mirror, and the proof of each: content read once, and compared with what its name says.
//!
//! A loose object by its name, a pack by its trailer, an index by its checksum and by the pack that it
//! names, an LFS object by its SHA-256.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, ObjectHasher, Oid, check_name};
use crate::pack::loose::{LooseError, LooseReader};
use crate::repository::{lfs_objects, loose, packs};
use crate::store::{ETag, Key, ObjectHeaders};

/// Up to this length a key is small.
pub(super) const SMALL_BYTES: u64 = 256 << 10;

/// What is read of a key at once.
const PIECE_BYTES: usize = 64 << 10;

/// Where an index holds the number of its objects: after its header and 255 counts
/// (gitformat-pack(5)).
const INDEX_COUNT_AT: usize = 8 + 255 * 4;

/// A key to bring.
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) len: u64,
    pub(super) what: What,
    /// On the side that it comes from, if it is known.
    pub(super) etag: Option<ETag>,
}

/// What a key is, by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Loose(Oid),
    /// By its trailer.
    Pack(Oid),
    Index(Oid),
    Lfs([u8; 32]),
}

impl What {
    pub(super) fn of(key: &str) -> Option<Self> {
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

    /// What it is named with; LFS objects have no format.
    pub(super) fn format(self) -> Option<ObjectFormat> {
        match self {
            What::Loose(oid) | What::Pack(oid) | What::Index(oid) => Some(oid.format()),
            What::Lfs(_) => None,
        }
    }

    pub(super) fn headers(self) -> ObjectHeaders {
        match self {
            What::Loose(_) => loose::HEADERS,
            What::Pack(_) => packs::PACK,
            What::Index(_) => packs::INDEX,
            What::Lfs(_) => lfs_objects::HEADERS,
        }
    }
}

/// What has been brought.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) objects: AtomicU64,
    /// Without those of LFS objects.
    pub(super) bytes: AtomicU64,
    pub(super) lfs: AtomicU64,
    pub(super) lfs_bytes: AtomicU64,
    /// What the packs copied by this run say they hold, by their names.
    packed: Mutex<HashMap<Oid, u32>>,
}

impl Counts {
    pub(super) fn count(&self, item: &Item) {
        let bytes = if let What::Lfs(_) = item.what { &self.lfs_bytes } else { &self.bytes };
        bytes.fetch_add(item.len, Ordering::Relaxed);
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

/// Reads `content` to its end and proves that it is what the item's key and length say. An error of
/// kind `InvalidData` says what is wrong with it.
pub(super) fn prove(content: &mut impl Read, item: &Item, counts: &Counts) -> io::Result<()> {
    let mut content = Counted { input: content, len: 0 };
    match item.what {
        What::Loose(oid) => prove_loose(&mut content, oid),
        What::Pack(name) => prove_pack(&mut content, name, counts),
        What::Index(name) => prove_index(&mut content, name, counts),
        What::Lfs(oid) => prove_lfs(&mut content, oid),
    }?;
    match content.len == item.len {
        true => Ok(()),
        false => bad(format!("it has {} bytes, not {} as listed", content.len, item.len)),
    }
}

struct Counted<'r, R> {
    input: &'r mut R,
    len: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.len += read as u64;
        Ok(read)
    }
}

pub(super) fn bad<T>(what: impl Into<String>) -> io::Result<T> {
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
    let mut hasher = ObjectHasher::new(oid.format(), reader.kind(), reader.size());
    each_piece(&mut reader, |piece| hasher.update(piece))?;
    check_name(hasher.finish(), &oid).or_else(bad)
}

fn prove_lfs(copy: &mut impl Read, oid: [u8; 32]) -> io::Result<()> {
    let mut hasher = Sha256::new();
    each_piece(copy, |piece| hasher.update(piece))?;
    match hasher.finalize()[..] == oid {
        true => Ok(()),
        false => bad("its SHA-256 does not match its name"),
    }
}

/// The first bytes of a file, its last ones, and the checksum of all but the one at its end.
struct Summed {
    head: Vec<u8>,
    tail: Vec<u8>,
    sum: Oid,
}

/// `sums`: how many checksums there are at the end.
fn sum(
    copy: &mut impl Read,
    format: ObjectFormat,
    head_bytes: usize,
    sums: usize,
) -> io::Result<Summed> {
    let tail_bytes = sums * format.raw_len();
    let mut hasher = Checksum::new(format);
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
        return bad("it is truncated");
    }
    hasher.update(&tail[..tail_bytes - format.raw_len()]);
    Ok(Summed { head, tail, sum: hasher.finish() })
}

fn prove_pack(copy: &mut impl Read, name: Oid, counts: &Counts) -> io::Result<()> {
    let Summed { head, tail, sum } = sum(copy, name.format(), 12, 1)?;
    if head[..4] != *b"PACK" {
        return bad("it is not a pack");
    }
    if sum != name || tail != name.as_bytes() {
        return bad(format!("its checksum is {sum}"));
    }
    let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    counts.packed().insert(name, count);
    Ok(())
}

fn prove_index(copy: &mut impl Read, name: Oid, counts: &Counts) -> io::Result<()> {
    let Summed { head, tail, sum } = sum(copy, name.format(), INDEX_COUNT_AT + 4, 2)?;
    let (of_pack, own) = tail.split_at(name.format().raw_len());
    if own != sum.as_bytes() {
        return bad(format!("its checksum is {sum}"));
    }
    if of_pack != name.as_bytes() {
        return bad("it belongs to another pack");
    }
    let at = INDEX_COUNT_AT;
    let count = u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // A pack that was there before has not been looked at.
    match counts.packed().get(&name) {
        Some(packed) if *packed != count => {
            bad(format!("it lists {count} objects, but its pack has {packed}"))
        }
        _ => Ok(()),
    }
}
