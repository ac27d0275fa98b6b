//! Objects in the packs that `objects/info/packs` lists, read by their offset.
//!
//! For [`crate::maintain`], which read a mirror back, and for the few objects that a
//! run wants to see (`objects`). The former hold each index whole (28 bytes an object, as the file
//! has them); of the packs only blocks are ([`BlockCache`]). Bases of deltas are in another LRU. Nothing that a pack or an index
//! says is trusted: an offset that leads nowhere, a chain that has no end or a length that lies is
//! an error with words, and memory grows with what is really there.

use std::collections::HashSet;
use std::sync::Arc;

use lru::LruCache;

use super::blocks::BlockCache;
use super::{files, packs};
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::pack::delta;
use crate::pack::entry::{EntryHeader, EntryKind, MAX_HEADER_LEN, parse_header};
use crate::pack::index::{INDEX_HEAD_LEN, IndexError, IndexReader, check_index_head, parse_index};
use crate::pack::inflate::Inflater;
use crate::store::{Key, Store, StoreError};

/// An index of 2^32 objects would have 128 GiB; more than this is no index that fits here.
const MAX_INDEX_BYTES: u64 = 4 << 30;

/// An index that is no longer is read at once.
const SMALL_INDEX_BYTES: u64 = 1 << 20;

/// No delta chain of any tool is longer (git's own limit is 4,095).
const MAX_CHAIN: usize = 10_000;

/// What is wrong with one object, or with reading it.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The store failed: nothing is known of the object.
    Store(StoreError),
    /// The object is damaged, in these words.
    Damaged(String),
    /// It needs more memory than there is: so many bytes.
    TooLarge(u64),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        ReadError::Store(error)
    }
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        damaged(error)
    }
}

fn damaged(what: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged(what.to_string())
}

/// A pack that is listed, with its index.
pub(crate) struct Pack {
    /// `pack-<40 hex>`.
    pub(crate) name: String,
    /// The pack's length in bytes.
    pub(crate) len: u64,
    pub(crate) index: IndexReader<Vec<u8>>,
}

impl Pack {
    pub(crate) fn key(&self) -> Key {
        packs::key(&self.name, "pack")
    }

    /// Looks for the pack and reads its index. The inner error: what is wrong, and with which key.
    pub(crate) fn open(
        store: &dyn Store,
        name: &str,
    ) -> Result<Result<Pack, (Key, String)>, StoreError> {
        let (key, index_key) = (packs::key(name, "pack"), packs::key(name, "idx"));
        let Some(info) = store.head(&key)? else {
            return Ok(Err((key, "listed in objects/info/packs, but missing".into())));
        };
        let index = match read_index(store, name, Some(info.len), u64::MAX)? {
            Ok(index) => index,
            Err(what) => return Ok(Err((index_key, what))),
        };
        let end = info.len.saturating_sub(index.format().raw_len() as u64);
        if let Some(far) = index.entries().find(|e| e.offset >= end) {
            let what = format!(
                "{} lies at offset {}, but {key} has {} bytes",
                far.oid, far.offset, info.len
            );
            return Ok(Err((index_key, what)));
        }
        Ok(Ok(Pack { name: name.to_owned(), len: info.len, index }))
    }
}

/// The longest index that a pack of so many bytes can have: an entry has nine bytes at least, and its
/// place in an index 16 more than a name at most, beside the index's header, fan-out and checksums.
fn max_index_len(pack_len: u64, format: ObjectFormat) -> u64 {
    let name_len = format.raw_len() as u64;
    let each = (name_len + 16).div_ceil(9);
    (pack_len.saturating_mul(each) + 1032 + 2 * name_len).min(MAX_INDEX_BYTES)
}

/// What is wrong with an index, as far as lengths and the first bytes of it and of its pack say it: room
/// for what it lists is made after this. A small one is not looked at.
pub(crate) fn index_fault(
    store: &dyn Store,
    name: &str,
    index_len: u64,
    pack_len: u64,
) -> Result<Option<String>, StoreError> {
    let fault = index_len_fault(index_len, pack_len, packs::format_of(name));
    if fault.is_some() || index_len <= SMALL_INDEX_BYTES {
        return Ok(fault);
    }
    let (head, _) = store.get(&packs::key(name, "idx"), Some(0..INDEX_HEAD_LEN), INDEX_HEAD_LEN)?;
    let listed = match check_index_head(&head, index_len, packs::format_of(name)) {
        Ok(listed) => listed,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let (head, _) = store.get(&packs::key(name, "pack"), Some(8..12), 4)?;
    let held = head.first_chunk().map(|count| u32::from_be_bytes(*count));
    Ok((held != Some(listed)).then(|| {
        format!("it lists {listed} objects, but its pack has {}", held.unwrap_or_default())
    }))
}

/// What is wrong with an index of this length for a pack of that one.
fn index_len_fault(index_len: u64, pack_len: u64, format: ObjectFormat) -> Option<String> {
    let most = max_index_len(pack_len, format);
    (index_len > most).then(|| {
        format!(
            "it has {index_len} bytes, but the index of a pack of {pack_len} bytes has at most {most}"
        )
    })
}

/// Reads an index that is sound in itself and belongs to the pack of this name. The inner error: what
/// is wrong with it. `pack_len` is `None` if the pack is missing; only then does `memory_bytes` bound
/// what is held, because a pack bounds its index.
///
/// A damaged index can have any length. So its length is compared with the pack's, and what its first
/// bytes say with both, before the rest is read.
pub(crate) fn read_index(
    store: &dyn Store,
    name: &str,
    pack_len: Option<u64>,
    memory_bytes: u64,
) -> Result<Result<IndexReader<Vec<u8>>, String>, StoreError> {
    let key = packs::key(name, "idx");
    let missing = || Ok(Err("its pack is listed, but the index is missing".into()));
    let Some(len) = store.head(&key)?.map(|info| info.len) else { return missing() };
    let fault = match pack_len {
        Some(pack_len) => index_len_fault(len, pack_len, packs::format_of(name)),
        None => (len > memory_bytes.min(MAX_INDEX_BYTES)).then(|| {
            format!("it has {len} bytes, more than --memory allows while its pack is missing")
        }),
    };
    if let Some(what) = fault {
        return Ok(Err(what));
    }
    if len > SMALL_INDEX_BYTES {
        let head = files::get(store, &key, Some(0..INDEX_HEAD_LEN), INDEX_HEAD_LEN)?;
        let Some((head, _)) = head else { return missing() };
        if let Err(error) = check_index_head(&head, len, packs::format_of(name)) {
            return Ok(Err(error.to_string()));
        }
    }
    let Some((bytes, _)) = files::get(store, &key, None, len)? else { return missing() };
    Ok(match parse_index(bytes, packs::format_of(name)) {
        Ok(index) if format!("pack-{}", index.pack_trailer()) != name => {
            Err(format!("it belongs to another pack, {}", index.pack_trailer()))
        }
        Ok(index) => Ok(index),
        Err(error) => Err(error.to_string()),
    })
}

/// What [`PackedReader`] wants to know of packs.
pub(crate) trait Catalogue {
    /// The format of a pack's names.
    fn format(&self, pack: usize) -> ObjectFormat;

    fn key(&self, pack: usize) -> Key;

    /// The pack's length in bytes.
    fn pack_len(&self, pack: usize) -> Result<u64, ReadError>;

    /// Where an object's entry starts in this pack.
    fn offset(&self, pack: usize, oid: &Oid) -> Result<Option<u64>, ReadError>;
}

/// All listed packs.
#[derive(Default)]
pub(crate) struct Packs(pub(crate) Vec<Pack>);

/// An entry: which pack, and where in it.
pub(crate) type Place = (usize, u64);

impl Packs {
    /// Where an object is; the last listed pack first, as git looks.
    pub(crate) fn find(&self, oid: &Oid) -> Option<Place> {
        let mut packs = self.0.iter().enumerate().rev();
        packs.find_map(|(at, pack)| Some((at, pack.index.lookup(oid)?)))
    }
}

impl Catalogue for Packs {
    fn format(&self, pack: usize) -> ObjectFormat {
        self.0[pack].index.format()
    }

    fn key(&self, pack: usize) -> Key {
        self.0[pack].key()
    }

    fn pack_len(&self, pack: usize) -> Result<u64, ReadError> {
        Ok(self.0[pack].len)
    }

    fn offset(&self, pack: usize, oid: &Oid) -> Result<Option<u64>, ReadError> {
        Ok(self.0[pack].index.lookup(oid))
    }
}

/// A whole object: its kind and content.
pub(crate) type Content = (Kind, Arc<[u8]>);

/// Contents by place, bounded by bytes.
pub(crate) struct Contents {
    cached: LruCache<Place, Content>,
    bytes: u64,
    max_bytes: u64,
}

/// What an entry of the LRU costs beside its bytes.
const ENTRY_COST: u64 = 100;

impl Contents {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Contents { cached: LruCache::unbounded(), bytes: 0, max_bytes }
    }

    pub(crate) fn get(&mut self, place: Place) -> Option<Content> {
        self.cached.get(&place).cloned()
    }

    pub(crate) fn put(&mut self, place: Place, (kind, content): Content) {
        let cost = |content: &[u8]| content.len() as u64 + ENTRY_COST;
        if cost(&content) > self.max_bytes / 4 {
            return;
        }
        self.bytes += cost(&content);
        if let Some((_, old)) = self.cached.push(place, (kind, content)).map(|(_, old)| old) {
            self.bytes -= cost(&old);
        }
        while self.bytes > self.max_bytes {
            let Some((_, (_, old))) = self.cached.pop_lru() else { break };
            self.bytes -= cost(&old);
        }
    }
}

/// Reads packed objects by their places; one for each thread that reads.
pub(crate) struct PackedReader<'e> {
    packs: &'e dyn Catalogue,
    blocks: BlockCache<'e>,
    pub(crate) contents: Contents,
    inflater: Inflater,
    /// The largest object, or base, that is held.
    max_len: u64,
}

/// One link of a delta chain that has been read: the delta, and where its base is.
struct Link {
    place: Place,
    delta: Vec<u8>,
}

impl<'e> PackedReader<'e> {
    /// Holds at most about `memory_bytes`: a quarter of it blocks, a half bases.
    pub(crate) fn new(store: &'e dyn Store, packs: &'e dyn Catalogue, memory_bytes: u64) -> Self {
        PackedReader {
            packs,
            blocks: BlockCache::new(store, memory_bytes / 4),
            contents: Contents::new(memory_bytes / 2),
            inflater: Inflater::new(),
            max_len: memory_bytes,
        }
    }

    /// The object at `place`, with its deltas applied. Not hashed.
    pub(crate) fn read(&mut self, place: Place) -> Result<Content, ReadError> {
        let mut chain = Vec::new();
        let mut held = 0u64;
        let mut at = place;
        let mut base = loop {
            if let Some(content) = self.contents.get(at) {
                break content;
            }
            let (header, header_len) = self.header(at)?;
            held = held.saturating_add(header.inflated_len);
            if held > self.max_len {
                return Err(ReadError::TooLarge(held));
            }
            let body = self.inflate(at, header_len, header.inflated_len)?;
            let next = match header.kind {
                EntryKind::Object(kind) => break (kind, Arc::from(body)),
                EntryKind::OfsDelta { base_offset } => (at.0, base_offset),
                EntryKind::RefDelta { base } => self.place_in(at.0, &base)?,
            };
            chain.push(Link { place: at, delta: body });
            if chain.len() > MAX_CHAIN {
                return Err(damaged("its delta chain has a cycle"));
            }
            at = next;
        };
        // The chain's end may serve others, too.
        self.contents.put(at, base.clone());
        while let Some(Link { place, delta }) = chain.pop() {
            base = self.apply(&base, &delta)?;
            self.contents.put(place, base.clone());
        }
        Ok(base)
    }

    /// Applies a delta if base and result fit.
    pub(crate) fn apply(&self, base: &Content, delta: &[u8]) -> Result<Content, ReadError> {
        let (header, _) = delta::parse_header(delta).map_err(damaged)?;
        if header.result_len > self.max_len {
            return Err(ReadError::TooLarge(header.result_len));
        }
        let mut result = Vec::new();
        delta::apply(&base.1, delta, &mut result).map_err(damaged)?;
        Ok((base.0, result.into()))
    }

    /// Where `base` is, in the same pack: a pack of a mirror is never thin.
    pub(crate) fn place_in(&self, pack: usize, base: &Oid) -> Result<Place, ReadError> {
        match self.packs.offset(pack, base)? {
            Some(offset) => Ok((pack, offset)),
            None => Err(damaged(format!("its base {base} is not in the pack"))),
        }
    }

    /// What the object is: what the end of its chain of deltas is. Only headers are read.
    pub(crate) fn kind(&mut self, place: Place) -> Result<Kind, ReadError> {
        let mut at = place;
        for _ in 0..MAX_CHAIN {
            at = match self.header(at)?.0.kind {
                EntryKind::Object(kind) => return Ok(kind),
                EntryKind::OfsDelta { base_offset } => (at.0, base_offset),
                EntryKind::RefDelta { base } => self.place_in(at.0, &base)?,
            };
        }
        Err(damaged("its delta chain has a cycle"))
    }

    /// How long the object is when whole; at most the header and the start of a delta are read, of
    /// a delta that is longer than `max_delta` nothing: `None`.
    pub(crate) fn len(&mut self, place: Place, max_delta: u64) -> Result<Option<u64>, ReadError> {
        let (header, header_len) = self.header(place)?;
        match header.kind {
            EntryKind::Object(_) => Ok(Some(header.inflated_len)),
            _ if header.inflated_len > max_delta => Ok(None),
            _ => {
                let body = self.inflate(place, header_len, header.inflated_len)?;
                let (header, _) = delta::parse_header(&body).map_err(damaged)?;
                Ok(Some(header.result_len))
            }
        }
    }

    fn header(&self, (pack, at): Place) -> Result<(EntryHeader, u64), ReadError> {
        let range = at..at.saturating_add(MAX_HEADER_LEN as u64);
        let bytes = self.blocks.read(&self.packs.key(pack), self.packs.pack_len(pack)?, range)?;
        match parse_header(&bytes, at, self.packs.format(pack)).map_err(damaged)? {
            Some((header, used)) => Ok((header, used as u64)),
            None => Err(damaged("the pack ends inside the entry's header")),
        }
    }

    /// The body of the entry at `place`: exactly `wanted` bytes.
    fn inflate(
        &mut self,
        place: Place,
        header_len: u64,
        wanted: u64,
    ) -> Result<Vec<u8>, ReadError> {
        self.inflater.restart();
        let mut out = Vec::new();
        let mut piece = vec![0; 32 << 10];
        let (key, len) = (self.packs.key(place.0), self.packs.pack_len(place.0)?);
        let mut at = place.1 + header_len;
        loop {
            let Some((block, from)) = self.blocks.block(&key, len, at)? else {
                return Err(damaged("the pack ends inside the entry"));
            };
            let mut input = &block[from..];
            loop {
                let step = self.inflater.step(input, &mut piece).map_err(damaged)?;
                out.extend_from_slice(&piece[..step.produced]);
                input = &input[step.consumed..];
                at += step.consumed as u64;
                if out.len() as u64 > wanted {
                    return Err(damaged(format!("it inflates to more than {wanted} bytes")));
                }
                if step.ended && out.len() as u64 == wanted {
                    return Ok(out);
                }
                if step.ended {
                    let len = out.len();
                    return Err(damaged(format!("it inflates to {len} bytes, not {wanted}")));
                }
                if input.is_empty() && step.produced < piece.len() {
                    break;
                }
                if step.consumed + step.produced == 0 {
                    return Err(damaged("zlib makes no progress"));
                }
            }
        }
    }
}

/// The names of all packs that `objects/info/packs` lists, each once. `bad` hears what is wrong with
/// the list, by key.
pub(crate) fn listed_names(
    store: &dyn Store,
    mut bad: impl FnMut(String, String),
) -> Result<Vec<String>, StoreError> {
    let key = files::key("objects/info/packs");
    // git tolerates it if there is none.
    let file = files::get(store, &key, None, packs::MAX_LIST_BYTES)?;
    let Some((file, _)) = file else { return Ok(Vec::new()) };
    Ok(names_in(&file, |what| bad(key.to_string(), what)))
}

/// The names in a list of packs, each once. `bad` hears what is wrong with it.
pub(crate) fn names_in(file: &[u8], mut bad: impl FnMut(String)) -> Vec<String> {
    if file.is_empty() {
        bad("0 bytes: it is damaged, or a cache answers instead of the store".into());
    }
    let mut names = packs::parse_pack_list(file).unwrap_or_else(|line| {
        bad(format!("not a pack list line: {line}"));
        Vec::new()
    });
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Opens the packs of these names, as far as they are sound. `bad` hears what is wrong, by key.
pub(crate) fn open_all(
    store: &dyn Store,
    names: &[String],
    mut bad: impl FnMut(String, String),
) -> Result<Packs, StoreError> {
    let mut opened = Vec::new();
    for name in names {
        match Pack::open(store, name)? {
            Ok(pack) => opened.push(pack),
            Err((key, what)) => bad(key.to_string(), what),
        }
    }
    Ok(Packs(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stay_within_their_bytes() {
        let mut contents = Contents::new(10_000);
        for at in 0..100 {
            contents.put((0, at), (Kind::Blob, vec![0; 1000].into()));
            contents.put((0, at), (Kind::Blob, vec![1; 500].into()));
            assert!(contents.bytes <= 10_000);
        }
        assert!(contents.get((0, 99)).is_some() && contents.get((0, 0)).is_none());
        contents.put((1, 0), (Kind::Blob, vec![0; 5000].into()));
        assert!(contents.get((1, 0)).is_none(), "one that would fill it is not kept");
    }
}
