//! Object names, kinds and hashing.
//!
//! Follows git's object model: an object's name (*oid*) is the SHA-1 of the header
//! `<kind> <size>\0` followed by its content (gitformat-pack(5), "Object types"; git-hash-object(1)).
//! Nothing here does I/O. An oid is computed from bytes or parsed strictly, never believed.
//!
//! SHA-1 is broken: two contents with one name can be made. As git does (`sha1dc/sha1.c`), every hash
//! looks at each block for the marks of the 32 disturbance vectors of Stevens and Shumow, and a hit is
//! a [`Collision`], never a name. `sha1dc` detects on top of the processor's SHA-1 instructions, so
//! nothing is exempt: packing curl's history takes 5.4 s of CPU with it and 5.1 without; hashing alone
//! is 25 to 50 % slower, with `sha1-checked`, a port of the C code, 76 to 90 %. Checksums of packs and
//! indices are no names and stay plain SHA-1.

use std::fmt;
use std::str::FromStr;

/// A SHA-1 object name: 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid([u8; 20]);

impl Oid {
    /// The all-zero name, which no object has ("null oid" in git).
    pub const NULL: Oid = Oid([0; 20]);

    /// Wraps 20 raw bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Oid(bytes)
    }

    /// The 20 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Parses exactly 40 hexadecimal digits in lower case, as git writes them.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let hex: &[u8; 40] = hex.try_into().ok()?;
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Oid(bytes))
    }

    /// Is this the all-zero name?
    pub fn is_null(&self) -> bool {
        *self == Self::NULL
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
        let mut hex = [0; 40];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&hex).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was wrong with a text that should have been an oid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an object name of 40 lower-case hexadecimal digits")]
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
pub struct ObjectHasher(sha1dc::Hasher);

impl ObjectHasher {
    /// Starts the hash of an object of `size` bytes.
    pub fn new(kind: Kind, size: u64) -> Self {
        let mut hasher = sha1dc::Hasher::new();
        #[cfg(test)]
        if HEADERLESS.contains(&size) {
            return ObjectHasher(hasher);
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
        ObjectHasher(hasher)
    }

    /// Takes the next piece of the content.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// Ends the hash.
    pub fn finish(self) -> Result<Oid, Collision> {
        match self.0.finalize() {
            Ok(digest) => Ok(Oid(digest.to_bytes())),
            Err(collision) => Err(Collision(Oid(collision.digest().to_bytes()))),
        }
    }
}

/// The name of an object that is whole in memory.
pub fn hash_object(kind: Kind, content: &[u8]) -> Result<Oid, Collision> {
    let mut hasher = ObjectHasher::new(kind, content.len() as u64);
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
    use sha1::{Digest, Sha1};

    use super::*;

    #[test]
    fn empty_blob_has_the_name_that_git_gives_it() {
        let oid = hash_object(Kind::Blob, b"").unwrap();
        assert_eq!(oid.to_string(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(oid.to_string().parse(), Ok(oid));
    }

    #[test]
    fn what_is_hashed_first_is_the_header() {
        for size in [0, 9, 10, 12_345, u64::MAX] {
            let mut hasher = Sha1::new();
            hasher.update(object_header(Kind::Commit, size));
            assert_eq!(
                ObjectHasher::new(Kind::Commit, size).finish().unwrap().0,
                <[u8; 20]>::from(hasher.finalize())
            );
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
                let mut hasher = ObjectHasher::new(Kind::Blob, HEADERLESS[0]);
                content.chunks(piece).for_each(|piece| hasher.update(piece));
                let Collision(oid) = hasher.finish().unwrap_err();
                assert_eq!(<[u8; 20]>::from(Sha1::digest(&content)), oid.0, "pieces of {piece}");
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
        let [one, two] = halves.map(|half| hash_object(Kind::Blob, half).unwrap().to_string());
        assert_eq!(
            [&one[..], &two],
            [
                "ef380704685cc8e54de9bc13556d1ff7026ec0cc",
                "6e98aef8bba6ff517f5b164d7418c5e2a6cf90c9"
            ]
        );
    }

    #[test]
    fn upper_case_short_and_long_names_are_refused() {
        for text in ["", "E69DE29BB2D1D6434B8B29AE775AD8C2E48C5391", "e69d", &"0".repeat(64)] {
            assert_eq!(text.parse::<Oid>(), Err(ParseOidError), "{text}");
        }
    }
}
