//! Makes packs by hand, right and wrong ones.
//!
//! Needs nothing of the crate under test, so that unit tests can take it in as well:
//! `#[path = "../../tests/support/pack_builder.rs"] mod pack_builder;`. It trusts its caller:
//! whatever gitformat-pack(5) forbids can be made here. An entry's offset is what the methods that
//! add one answer; an object's name is what [`oid`] answers.
//!
//! ```text
//! let mut pack = PackBuilder::new();
//! let base = pack.blob(b"hello");                                    // its offset: 12
//! pack.ofs_delta(base, &delta(b"hello", b"hello world"));
//! pack.ref_delta(oid("blob", b"later"), &delta(b"later", b"late"));  // a delta before its base
//! pack.blob(b"later");
//! let bytes = pack.build();
//! ```
#![allow(dead_code, reason = "each test crate that takes this file in uses another part of it")]

use sha1::{Digest, Sha1};

/// Type numbers of entries, as in gitformat-pack(5).
pub const COMMIT: u8 = 1;
/// See [`COMMIT`].
pub const TREE: u8 = 2;
/// See [`COMMIT`].
pub const BLOB: u8 = 3;
/// See [`COMMIT`].
pub const TAG: u8 = 4;
/// See [`COMMIT`].
pub const OFS_DELTA: u8 = 6;
/// See [`COMMIT`].
pub const REF_DELTA: u8 = 7;

/// A pack in the making.
#[derive(Clone)]
pub struct PackBuilder {
    version: u32,
    level: i32,
    promised: Option<u32>,
    trailer: Option<[u8; 20]>,
    garbage: Vec<u8>,
    count: u32,
    entries: Vec<u8>,
}

impl PackBuilder {
    /// A pack of version 2 without entries; bodies are deflated at level 6.
    pub fn new() -> Self {
        PackBuilder {
            version: 2,
            level: 6,
            promised: None,
            trailer: None,
            garbage: Vec::new(),
            count: 0,
            entries: Vec::new(),
        }
    }

    /// Writes this version into the header.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Deflates the entries that follow at this level (0 stores them).
    pub fn level(&mut self, level: i32) -> &mut Self {
        self.level = level;
        self
    }

    /// Lets the header promise `count` objects, however many there are.
    pub fn promise(&mut self, count: u32) -> &mut Self {
        self.promised = Some(count);
        self
    }

    /// Ends the pack with this instead of its SHA-1.
    pub fn trailer(&mut self, trailer: [u8; 20]) -> &mut Self {
        self.trailer = Some(trailer);
        self
    }

    /// Puts these bytes after the trailer.
    pub fn garbage(&mut self, garbage: &[u8]) -> &mut Self {
        self.garbage = garbage.to_vec();
        self
    }

    /// Where the next entry will start.
    pub fn next_offset(&self) -> u64 {
        12 + self.entries.len() as u64
    }

    /// Adds an object of this type ([`COMMIT`], [`TREE`], [`BLOB`], [`TAG`]).
    pub fn object(&mut self, type_id: u8, content: &[u8]) -> u64 {
        self.lying(type_id, content.len() as u64, &[], content)
    }

    /// Adds a blob.
    pub fn blob(&mut self, content: &[u8]) -> u64 {
        self.object(BLOB, content)
    }

    /// Adds a delta against the entry at `base_offset`. It may be any offset before the next entry,
    /// also one where no entry starts.
    pub fn ofs_delta(&mut self, base_offset: u64, delta: &[u8]) -> u64 {
        let distance = ofs_distance(self.next_offset() - base_offset);
        self.lying(OFS_DELTA, delta.len() as u64, &distance, delta)
    }

    /// Adds a delta against the object of this name, which may come later, or never.
    pub fn ref_delta(&mut self, base: [u8; 20], delta: &[u8]) -> u64 {
        self.lying(REF_DELTA, delta.len() as u64, &base, delta)
    }

    /// Adds an entry of any type that claims to inflate to `claimed_len` bytes; `base` is what
    /// stands between the header and the body of a delta.
    pub fn lying(&mut self, type_id: u8, claimed_len: u64, base: &[u8], body: &[u8]) -> u64 {
        let mut entry = entry_header(type_id, claimed_len);
        entry.extend(base);
        entry.extend(zlib(body, self.level));
        self.raw(&entry)
    }

    /// Adds an entry of these very bytes, header included.
    pub fn raw(&mut self, entry: &[u8]) -> u64 {
        let offset = self.next_offset();
        self.entries.extend(entry);
        self.count += 1;
        offset
    }

    /// Adds two REF deltas, each the base of the other: neither can be resolved.
    pub fn cycle(&mut self) {
        let (a, b) = (b"one side of a cycle", b"the other side of a cycle");
        self.ref_delta(oid("blob", b), &delta(b, a));
        self.ref_delta(oid("blob", a), &delta(a, b));
    }

    /// Adds a blob and `depth` OFS deltas, each against the one before; answers all contents.
    pub fn chain(&mut self, depth: usize) -> Vec<Vec<u8>> {
        let mut contents = vec![b"the base of a chain\n".to_vec()];
        let mut offset = self.blob(&contents[0]);
        for link in 0..depth {
            let base = &contents[link];
            let content = [base, format!("{link}\n").as_bytes()].concat();
            offset = self.ofs_delta(offset, &delta(base, &content));
            contents.push(content);
        }
        contents
    }

    /// The pack.
    pub fn build(&self) -> Vec<u8> {
        let mut pack = b"PACK".to_vec();
        pack.extend(self.version.to_be_bytes());
        pack.extend(self.promised.unwrap_or(self.count).to_be_bytes());
        pack.extend(&self.entries);
        let trailer = self.trailer.unwrap_or_else(|| Sha1::digest(&pack).into());
        pack.extend(trailer);
        pack.extend(&self.garbage);
        pack
    }
}

/// The type and length at an entry's start.
pub fn entry_header(type_id: u8, inflated_len: u64) -> Vec<u8> {
    let mut header = vec![type_id << 4 | (inflated_len & 0x0f) as u8];
    let mut rest = inflated_len >> 4;
    while rest > 0 {
        *header.last_mut().expect("it has a first byte") |= 0x80;
        header.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    header
}

/// The "offset encoding" of gitformat-pack(5).
pub fn ofs_distance(mut distance: u64) -> Vec<u8> {
    let mut bytes = vec![(distance & 0x7f) as u8];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        bytes.insert(0, 0x80 | (distance & 0x7f) as u8);
    }
    bytes
}

/// A delta that makes `result` of `base`: what both start with is copied, what both end with too,
/// the middle is inserted.
pub fn delta(base: &[u8], result: &[u8]) -> Vec<u8> {
    let same = |(a, b): &(&u8, &u8)| a == b;
    let start = base.iter().zip(result).take_while(same).count();
    let ends = base[start..].iter().rev().zip(result[start..].iter().rev());
    let end = ends.take_while(same).count();
    let mut steps = copy(0, start);
    steps.extend(insert(&result[start..result.len() - end]));
    steps.extend(copy(base.len() - end, end));
    raw_delta(base.len() as u64, result.len() as u64, &steps)
}

/// A delta with these lengths in its header, and these instructions.
pub fn raw_delta(base_len: u64, result_len: u64, instructions: &[u8]) -> Vec<u8> {
    let mut delta = Vec::new();
    for mut len in [base_len, result_len] {
        while len > 0x7f {
            delta.push(0x80 | (len & 0x7f) as u8);
            len >>= 7;
        }
        delta.push(len as u8);
    }
    delta.extend(instructions);
    delta
}

/// Instructions that copy `len` bytes at `offset` of the base.
pub fn copy(offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for start in (0..len).step_by(0xffff) {
        bytes.push(0xbf);
        bytes.extend(((offset + start) as u32).to_le_bytes());
        bytes.extend(((len - start).min(0xffff) as u16).to_le_bytes());
    }
    bytes
}

/// Instructions that insert `data`.
pub fn insert(data: &[u8]) -> Vec<u8> {
    data.chunks(127).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect()
}

/// The name of an object.
pub fn oid(kind: &str, content: &[u8]) -> [u8; 20] {
    let mut hash = Sha1::new_with_prefix(format!("{kind} {}\0", content.len()));
    hash.update(content);
    hash.finalize().into()
}

/// A zlib stream of `content`.
pub fn zlib(content: &[u8], level: i32) -> Vec<u8> {
    let mut stream = vec![0; zlib_rs::compress_bound(content.len())];
    let config = zlib_rs::DeflateConfig::new(level);
    let (written, _) = zlib_rs::compress_slice(&mut stream, content, config);
    let len = written.len();
    stream.truncate(len);
    stream
}

/// `len` bytes that do not deflate, the same for the same `seed`.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed;
    let next = || {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        (x >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
