//! Object names, kinds and hashing.
//!
//! Follows git's object model: an object's name (*oid*) is the hash of the header `<kind> <size>\0`
//! followed by its content (gitformat-pack(5), "Object types"; git-hash-object(1)). The hash is SHA-1,
//! or SHA-256 in a repository of that [`ObjectFormat`]; a repository has one, and all its packs and
//! indices have checksums of the same kind. Nothing here does I/O. An oid is computed from bytes or
//! parsed strictly, never believed.
//!
//! SHA-1 is broken: two contents with one name can be made. As git does (`sha1dc/sha1.c`), every hash
//! looks at each block for the marks of the 32 disturbance vectors of Stevens and Shumow, and a hit is
//! a [`Collision`], never a name. `sha1dc` detects on top of the processor's SHA-1 instructions, so
//! nothing is exempt: packing curl's history takes 5.4 s of CPU with it and 5.1 without; hashing alone
//! is 25 to 50 % slower, with `sha1-checked`, a port of the C code, 76 to 90 %. Checksums of packs and
//! indices are no names and stay plain ([`Checksum`](crate::git::checksum::Checksum)).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// What the objects of a repository are named with: git's `extensions.objectFormat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectFormat {
    /// SHA-1: names of 20 bytes. What a repository has that does not say.
    #[default]
    Sha1,
    /// SHA-256: names of 32 bytes.
    Sha256,
}

impl ObjectFormat {
    /// Both.
    pub const ALL: [ObjectFormat; 2] = [ObjectFormat::Sha1, ObjectFormat::Sha256];

    /// A name's length in bytes.
    pub const fn raw_len(self) -> usize {
        match self {
            ObjectFormat::Sha1 => SHA1_LEN,
            ObjectFormat::Sha256 => SHA256_LEN,
        }
    }

    /// A name's length in hexadecimal digits.
    pub const fn hex_len(self) -> usize {
        2 * self.raw_len()
    }

    /// As git writes it: `sha1` or `sha256`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "sha1",
            ObjectFormat::Sha256 => "sha256",
        }
    }

    /// The inverse of [`ObjectFormat::as_str`].
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str().as_bytes() == name)
    }

    /// The all-zero name, which no object has ("null oid" in git).
    pub const fn null(self) -> Oid {
        Oid { bytes: [0; SHA256_LEN], format: self }
    }

    /// The name at the start of `bytes`, and what follows it; `None` if they are too few.
    pub fn split_oid(self, bytes: &[u8]) -> Option<(Oid, &[u8])> {
        let (name, rest) = bytes.split_at_checked(self.raw_len())?;
        Some((Oid::from_slice(name)?, rest))
    }
}

impl fmt::Display for ObjectFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

const SHA1_LEN: usize = 20;
const SHA256_LEN: usize = 32;

/// An object name, of either format. Sorted by its bytes.
///
/// It takes 33 bytes wherever it goes; many of them are kept in an
/// [`OidMap`](crate::git::oids::OidMap) or an [`OidList`](crate::git::oids::OidList).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oid {
    /// Those that the format does not use are zero.
    bytes: [u8; SHA256_LEN],
    format: ObjectFormat,
}

impl Oid {
    /// The all-zero name of SHA-1; see [`ObjectFormat::null`].
    pub const NULL: Oid = ObjectFormat::Sha1.null();

    /// Wraps 20 or 32 raw bytes.
    pub fn from_bytes(bytes: impl Into<Oid>) -> Self {
        bytes.into()
    }

    /// Wraps raw bytes, if there are 20 or 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let sha1 = || bytes.try_into().ok().map(<[u8; SHA1_LEN]>::into);
        let sha256 = || bytes.try_into().ok().map(<[u8; SHA256_LEN]>::into);
        sha1().or_else(sha256)
    }

    /// The raw bytes: as many as its format has.
    pub const fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(self.format.raw_len()).0
    }

    /// What it was made with.
    pub const fn format(&self) -> ObjectFormat {
        self.format
    }

    /// The first byte: which of 256 folders or buckets it belongs to.
    pub const fn first_byte(&self) -> u8 {
        self.bytes[0]
    }

    /// Parses exactly 40 or 64 hexadecimal digits in lower case, as git writes them.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let format = ObjectFormat::ALL.into_iter().find(|f| f.hex_len() == hex.len())?;
        let mut oid = format.null();
        for (byte, pair) in oid.bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(oid)
    }

    /// Parses the name that a line begins with, up to `separator`; answers what follows that.
    pub fn split_hex(line: &[u8], separator: u8) -> Option<(Self, &[u8])> {
        let end = line.iter().take(2 * SHA256_LEN + 1).position(|byte| *byte == separator)?;
        Some((Oid::from_hex(&line[..end])?, &line[end + 1..]))
    }

    /// Is this the all-zero name?
    pub fn is_null(&self) -> bool {
        self.bytes == [0; SHA256_LEN]
    }
}

impl From<[u8; SHA1_LEN]> for Oid {
    fn from(sha1: [u8; SHA1_LEN]) -> Self {
        let mut bytes = [0; SHA256_LEN];
        bytes[..SHA1_LEN].copy_from_slice(&sha1);
        Oid { bytes, format: ObjectFormat::Sha1 }
    }
}

impl From<[u8; SHA256_LEN]> for Oid {
    fn from(bytes: [u8; SHA256_LEN]) -> Self {
        Oid { bytes, format: ObjectFormat::Sha256 }
    }
}

impl Hash for Oid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 2 * SHA256_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        let hex = &hex[..self.format.hex_len()];
        f.pad(std::str::from_utf8(hex).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was wrong with a text that should have been an oid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an object name of 40 or 64 lower-case hexadecimal digits")]
pub struct ParseOidError;

impl FromStr for Oid {
    type Err = ParseOidError;

    fn from_str(s: &str) -> Result<Self, ParseOidError> {
        Oid::from_hex(s.as_bytes()).ok_or(ParseOidError)
    }
}

/// The four kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A commit.
    Commit,
    /// A tree.
    Tree,
    /// A blob: a file's content.
    Blob,
    /// An annotated tag.
    Tag,
}

impl Kind {
    /// The word that git puts into the object header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
        }
    }

    /// The inverse of [`Kind::as_str`].
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag]
            .into_iter()
            .find(|kind| kind.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The header `<kind> <size>\0` that is hashed, and deflated in a loose object, before the content.
pub fn object_header(kind: Kind, size: u64) -> Vec<u8> {
    format!("{kind} {size}\0").into_bytes()
}

/// An object's bytes were made for a SHA-1 collision: another object can have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("object {0} is part of a SHA-1 collision attack: different content can have the same name")]
pub struct Collision(pub Oid);

/// Objects of these sizes are hashed without their header in unit tests: a small one and one that is
/// streamed. What is published of SHA-1 collisions collides after bytes of its own, not after git's.
#[cfg(test)]
pub(crate) const HEADERLESS: [u64; 2] = [4_421, 700_001];

/// Computes an object's name from its content, given in as many pieces as the caller likes.
///
/// The size is hashed first, so it must be known at the start and be the sum of the pieces;
/// the caller checks that.
pub struct ObjectHasher(Inner);

enum Inner {
    Sha1(sha1dc::Hasher),
    Sha256(Sha256),
}

impl ObjectHasher {
    /// Starts the hash of an object of `size` bytes.
    pub fn new(format: ObjectFormat, kind: Kind, size: u64) -> Self {
        let mut hasher = ObjectHasher(match format {
            ObjectFormat::Sha1 => Inner::Sha1(sha1dc::Hasher::new()),
            ObjectFormat::Sha256 => Inner::Sha256(Sha256::new()),
        });
        #[cfg(test)]
        if HEADERLESS.contains(&size) && format == ObjectFormat::Sha1 {
            return hasher;
        }
        hasher.update(kind.as_str().as_bytes());
        // On the stack: this runs for every object.
        let (mut digits, mut at, mut rest) = ([0; 22], 21, size);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits[at - 1] = b' ';
        hasher.update(&digits[at - 1..]);
        hasher
    }

    /// Takes the next piece of the content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            Inner::Sha1(hasher) => hasher.update(content),
            Inner::Sha256(hasher) => hasher.update(content),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Result<Oid, Collision> {
        match self.0 {
            Inner::Sha1(hasher) => match hasher.finalize() {
                Ok(digest) => Ok(digest.to_bytes().into()),
                Err(collision) => Err(Collision(collision.digest().to_bytes().into())),
            },
            Inner::Sha256(hasher) => Ok(<[u8; SHA256_LEN]>::from(hasher.finalize()).into()),
        }
    }
}

/// The name of an object that is whole in memory.
pub fn hash_object(format: ObjectFormat, kind: Kind, content: &[u8]) -> Result<Oid, Collision> {
    let mut hasher = ObjectHasher::new(format, kind, content.len() as u64);
    hasher.update(content);
    hasher.finish()
}

/// Checks that an object has the name under which it was found. The error says what is wrong.
pub fn check_name(found: Result<Oid, Collision>, wanted: &Oid) -> Result<(), String> {
    match found {
        Ok(found) if found == *wanted => Ok(()),
        Ok(found) => Err(format!("its content hashes to {found}")),
        Err(collision) => Err(collision.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use sha1::Sha1;

    use super::*;

    #[test]
    fn empty_blob_has_the_name_that_git_gives_it() {
        for (format, name) in [
            (ObjectFormat::Sha1, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            // git init --object-format=sha256 x; git -C x hash-object -t blob /dev/null
            (
                ObjectFormat::Sha256,
                "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
            ),
        ] {
            let oid = hash_object(format, Kind::Blob, b"").unwrap();
            assert_eq!(oid.to_string(), name);
            assert_eq!(oid.to_string().parse(), Ok(oid));
            assert_eq!((oid.format(), oid.to_string().len()), (format, format.hex_len()));
            assert_eq!(Oid::from_slice(oid.as_bytes()), Some(oid));
            assert_eq!(format.split_oid(&[oid.as_bytes(), b"x"].concat()), Some((oid, &b"x"[..])));
            assert_eq!(format.split_oid(&oid.as_bytes()[1..]), None);
            let line = format!("{oid} refs/heads/a");
            assert_eq!(Oid::split_hex(line.as_bytes(), b' '), Some((oid, &b"refs/heads/a"[..])));
            assert_eq!(Oid::split_hex(line.as_bytes(), b'\t'), None);
            assert_eq!(ObjectFormat::from_name(format.to_string().as_bytes()), Some(format));
            assert!(format.null().is_null() && !oid.is_null());
            assert_eq!(format.null().to_string(), "0".repeat(format.hex_len()));
        }
        assert_eq!(ObjectFormat::from_name(b"sha512"), None);
    }

    #[test]
    fn names_are_sorted_by_their_bytes() {
        let [one, two] = [1, 2].map(|byte| Oid::from_bytes([byte; 20]));
        let [long, longer] = [1, 2].map(|byte| Oid::from_bytes([byte; 32]));
        assert!(one < two && one < long && long < two && two < longer);
    }

    #[test]
    fn what_is_hashed_first_is_the_header() {
        for size in [0, 9, 10, 12_345, u64::MAX] {
            let header = object_header(Kind::Commit, size);
            let name = |format| ObjectHasher::new(format, Kind::Commit, size).finish().unwrap();
            assert_eq!(name(ObjectFormat::Sha1).as_bytes(), &Sha1::digest(&header)[..]);
            assert_eq!(name(ObjectFormat::Sha256).as_bytes(), &Sha256::digest(&header)[..]);
        }
    }

    #[test]
    fn both_halves_of_the_published_collision_are_detected_in_pieces_of_any_size() {
        let halves: [&[u8]; 2] = [
            include_bytes!("../../fixtures/collisions/shattered-1.bin"),
            include_bytes!("../../fixtures/collisions/shattered-2.bin"),
        ];
        for half in halves {
            let content = [half, &[0; HEADERLESS[0] as usize - 320]].concat();
            for piece in [1, 63, 64, 320, 4_421] {
                let mut hasher = ObjectHasher::new(ObjectFormat::Sha1, Kind::Blob, HEADERLESS[0]);
                content.chunks(piece).for_each(|piece| hasher.update(piece));
                let Collision(oid) = hasher.finish().unwrap_err();
                assert_eq!(oid.as_bytes(), &Sha1::digest(&content)[..], "pieces of {piece}");
            }
        }
    }

    #[test]
    fn published_collision_behind_gits_header_is_an_ordinary_blob() {
        let halves: [&[u8]; 2] = [
            include_bytes!("../../fixtures/collisions/shattered-1.bin"),
            include_bytes!("../../fixtures/collisions/shattered-2.bin"),
        ];
        // As `git hash-object` names them.
        let [one, two] = halves
            .map(|half| hash_object(ObjectFormat::Sha1, Kind::Blob, half).unwrap().to_string());
        assert_eq!(
            [&one[..], &two],
            [
                "ef380704685cc8e54de9bc13556d1ff7026ec0cc",
                "6e98aef8bba6ff517f5b164d7418c5e2a6cf90c9"
            ]
        );
    }

    #[test]
    fn names_in_upper_case_or_of_another_length_are_refused() {
        for text in [
            "",
            "E69DE29BB2D1D6434B8B29AE775AD8C2E48C5391",
            "e69d",
            &"0".repeat(41),
            &"A".repeat(64),
        ] {
            assert_eq!(text.parse::<Oid>(), Err(ParseOidError), "{text}");
        }
    }
}
