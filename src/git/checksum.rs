//! The checksum of a pack or of an index: the plain hash of its bytes, in its repository's format.
//!
//! It ends the file and, for a pack, names it (gitformat-pack(5)), so it is kept as an [`Oid`]. No
//! collision is looked for: whoever can make one could as well send another pack.

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::git::object::{ObjectFormat, Oid};

/// The hash in the making.
#[derive(Clone)]
pub struct Checksum(Inner);

#[derive(Clone)]
enum Inner {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Checksum {
    /// Of no bytes yet.
    pub fn new(format: ObjectFormat) -> Self {
        Checksum(match format {
            ObjectFormat::Sha1 => Inner::Sha1(Sha1::new()),
            ObjectFormat::Sha256 => Inner::Sha256(Sha256::new()),
        })
    }

    /// Of these bytes.
    pub fn of(format: ObjectFormat, bytes: &[u8]) -> Oid {
        let mut checksum = Checksum::new(format);
        checksum.update(bytes);
        checksum.finish()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha1(hasher) => hasher.update(bytes),
            Inner::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Oid {
        match self.0 {
            Inner::Sha1(hasher) => Oid::from_bytes(<[u8; 20]>::from(hasher.finalize())),
            Inner::Sha256(hasher) => Oid::from_bytes(<[u8; 32]>::from(hasher.finalize())),
        }
    }

    /// What [`Checksum::finish`] would answer now.
    pub fn so_far(&self) -> Oid {
        self.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha1sum_and_sha256sum() {
        for (format, sum) in [
            (ObjectFormat::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                ObjectFormat::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ] {
            let mut pieces = Checksum::new(format);
            pieces.update(b"a");
            pieces.update(b"bc");
            assert_eq!(pieces.so_far().to_string(), sum);
            assert_eq!(pieces.finish(), Checksum::of(format, b"abc"));
        }
    }
}
