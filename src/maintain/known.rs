//! The objects of all listed packs in six and a half bytes each, and what was learnt of them.
//!
//! An object is known by a fingerprint: a keyed hash of its name, whose key is random in each run, so
//! that nobody can make two names that meet. Fingerprints are sorted into buckets of about eight by
//! their first bits; forty more bits are kept. A name that is in no pack is taken for one that is with
//! a chance of 8 in 2^40.
//!
//! **Is everything reachable?** Each object remembers whether something points to it. Objects form no
//! circle (names are hashes), so from any object the way against the links ends at one that nothing
//! points to. If all of those are tips of refs, the refs reach everything; one that is no tip is
//! garbage for certain. So no link has to be kept.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::git::object::{Kind, Oid};

/// A keyed hash of a name.
pub(crate) type Fingerprint = u64;

/// What names are hashed with.
#[derive(Clone, Default)]
pub(crate) struct Keys(RandomState);

impl Keys {
    pub(crate) fn fingerprint(&self, oid: &Oid) -> Fingerprint {
        self.0.hash_one(oid.as_bytes())
    }

    /// A hash of a value that belongs to an object. Sums of these compare sets without holding them.
    pub(crate) fn hash(&self, object: Fingerprint, value: u64) -> u64 {
        self.0.hash_one((object, value))
    }
}

/// Bits of a fingerprint that are kept beside its bucket.
const REST_BITS: u32 = 40;

/// The kind in three bits, 0 while it is not known; then a bit for each kind that a link expects.
const KIND: u8 = 0b111;
const LINKED: u8 = 0b0111_1000;
/// Held by a pack that is older than the grace period.
const IN_OLD_PACK: u8 = 0b1000_0000;

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 0,
        Kind::Tree => 1,
        Kind::Blob => 2,
        Kind::Tag => 3,
    }
}

fn linked_as(kind: Kind) -> u8 {
    8 << number(kind)
}

/// See the module's page.
pub(crate) struct Known {
    pub(crate) keys: Keys,
    bucket_bits: u32,
    /// Where each bucket begins, and the end.
    starts: Vec<u32>,
    rests: Vec<[u8; 5]>,
    flags: Vec<AtomicU8>,
}

/// What [`Known::sum_up`] finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Objects that no pack turned out to have.
    pub(crate) absent: u64,
    /// Objects that are of another kind than a link says.
    pub(crate) of_wrong_kind: u64,
    /// Objects that nothing points to.
    pub(crate) unlinked: u64,
}

impl Known {
    /// Of these fingerprints; one that is there twice counts once.
    pub(crate) fn new(keys: Keys, mut fingerprints: Vec<Fingerprint>) -> Self {
        fingerprints.sort_unstable();
        let bucket_bits = (fingerprints.len() as u64 / 8).max(1).ilog2().clamp(1, 24);
        let mut known = Known {
            keys,
            bucket_bits,
            starts: Vec::with_capacity((1 << bucket_bits) + 1),
            rests: Vec::with_capacity(fingerprints.len()),
            flags: Vec::new(),
        };
        let mut last = None;
        for fingerprint in fingerprints {
            let (bucket, rest) = known.place(fingerprint);
            if last.replace((bucket, rest)) == Some((bucket, rest)) {
                continue;
            }
            while known.starts.len() <= bucket {
                known.starts.push(known.rests.len() as u32);
            }
            known.rests.push(rest);
        }
        known.starts.resize((1 << bucket_bits) + 1, known.rests.len() as u32);
        known.flags = std::iter::repeat_with(AtomicU8::default).take(known.rests.len()).collect();
        known
    }

    pub(crate) fn len(&self) -> usize {
        self.rests.len()
    }

    fn place(&self, fingerprint: Fingerprint) -> (usize, [u8; 5]) {
        let bucket = (fingerprint >> (64 - self.bucket_bits)) as usize;
        let rest = fingerprint << self.bucket_bits >> (64 - REST_BITS);
        (bucket, *rest.to_be_bytes().last_chunk().expect("eight bytes"))
    }

    fn find(&self, fingerprint: Fingerprint) -> Option<&AtomicU8> {
        let (bucket, rest) = self.place(fingerprint);
        let (start, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let at = self.rests[start..end].iter().position(|known| *known == rest)?;
        Some(&self.flags[start + at])
    }

    pub(crate) fn contains(&self, oid: &Oid) -> bool {
        self.find(self.keys.fingerprint(oid)).is_some()
    }

    /// An object was found, and what it is. `false`: none of this name should be there.
    pub(crate) fn found(&self, object: Fingerprint, kind: Kind, in_old_pack: bool) -> bool {
        let Some(flags) = self.find(object) else { return false };
        let new = (number(kind) + 1) | if in_old_pack { IN_OLD_PACK } else { 0 };
        flags.fetch_or(new, Ordering::Relaxed);
        true
    }

    /// Something points to an object, and expects a kind if it says so. `false`: it is in no pack.
    pub(crate) fn linked(&self, oid: &Oid, kind: Option<Kind>) -> bool {
        let Some(flags) = self.find(self.keys.fingerprint(oid)) else { return false };
        let now = flags.load(Ordering::Relaxed);
        let expected = match kind {
            Some(kind) => linked_as(kind),
            // As what it is; before it was found nobody asks so.
            None => 8 << (now & KIND).saturating_sub(1),
        };
        if now & expected == 0 {
            flags.fetch_or(expected, Ordering::Relaxed);
        }
        true
    }

    /// Is the object in a pack that is older than the grace period?
    pub(crate) fn is_in_old_pack(&self, oid: &Oid) -> bool {
        let flags = self.find(self.keys.fingerprint(oid));
        flags.is_some_and(|flags| flags.load(Ordering::Relaxed) & IN_OLD_PACK != 0)
    }

    /// Once all packs were read and all tips are linked.
    pub(crate) fn sum_up(&self) -> Sums {
        let mut sums = Sums::default();
        for flags in &self.flags {
            let flags = flags.load(Ordering::Relaxed);
            let Some(kind) = (flags & KIND).checked_sub(1) else {
                sums.absent += 1;
                continue;
            };
            sums.of_wrong_kind += u64::from(flags & LINKED & !(8 << kind) != 0);
            sums.unlinked += u64::from(flags & LINKED == 0);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(number: u32) -> Oid {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Oid::from_bytes(bytes)
    }

    fn known(count: u32) -> Known {
        let keys = Keys::default();
        let mut prints: Vec<_> = (0..count).map(|n| keys.fingerprint(&oid(n))).collect();
        // An object of two packs.
        prints.extend(prints.first().copied());
        Known::new(keys, prints)
    }

    #[test]
    fn what_is_in_a_pack_is_known_and_nothing_else() {
        for count in [0, 1, 2, 9, 1000, 100_000] {
            let known = known(count);
            assert_eq!(known.len(), count as usize);
            assert!((0..count).all(|n| known.contains(&oid(n))), "{count}");
            assert!((count..count + 1000).all(|n| !known.contains(&oid(n))), "{count}");
        }
    }

    #[test]
    fn objects_that_nothing_points_to_or_of_another_kind_are_counted() {
        let known = known(4);
        assert_eq!(known.sum_up(), Sums { absent: 4, ..Sums::default() });
        for number in 0..4 {
            assert!(known.found(known.keys.fingerprint(&oid(number)), Kind::Tree, number == 2));
        }
        assert!(!known.found(known.keys.fingerprint(&oid(4)), Kind::Tree, false));
        assert_eq!(known.sum_up(), Sums { unlinked: 4, ..Sums::default() });
        assert!(known.linked(&oid(0), Some(Kind::Tree)) && known.linked(&oid(1), None));
        assert!(known.linked(&oid(2), Some(Kind::Blob)) && !known.linked(&oid(5), None));
        assert_eq!(known.sum_up(), Sums { unlinked: 1, of_wrong_kind: 1, absent: 0 });
        assert!(known.is_in_old_pack(&oid(2)) && !known.is_in_old_pack(&oid(1)));
    }
}
