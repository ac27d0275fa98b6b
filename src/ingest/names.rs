//! Objects by name: kept for loose objects, which are stored by it, and for packs with REF_DELTAs.
//!
//! Twenty bytes an entry, 32 with SHA-256, and five to ten for the table.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use crate::git::object::{ObjectFormat, Oid};
use crate::pack::column::Column;
use crate::pack::object::Index;

pub(super) struct Names {
    oids: Oids,
    by_oid: HashTable<Index>,
    /// Oids are spread evenly by themselves, but a hostile pack could choose prefixes that collide.
    keys: RandomState,
}

/// One name an entry, all of one format.
enum Oids {
    Sha1(Column<[u8; 20]>),
    Sha256(Column<[u8; 32]>),
}

impl Oids {
    fn new(format: ObjectFormat) -> Self {
        match format {
            ObjectFormat::Sha1 => Oids::Sha1(Column::new()),
            ObjectFormat::Sha256 => Oids::Sha256(Column::new()),
        }
    }

    fn push_null(&mut self) {
        match self {
            Oids::Sha1(oids) => oids.push([0; 20]),
            Oids::Sha256(oids) => oids.push([0; 32]),
        }
    }

    fn set(&mut self, index: Index, oid: &Oid) {
        const ONE: &str = "a pack has one format";
        match self {
            Oids::Sha1(oids) => oids.set(index, oid.as_bytes().try_into().expect(ONE)),
            Oids::Sha256(oids) => oids.set(index, oid.as_bytes().try_into().expect(ONE)),
        }
    }

    fn get(&self, index: Index) -> Oid {
        match self {
            Oids::Sha1(oids) => Oid::from_bytes(oids.get(index)),
            Oids::Sha256(oids) => Oid::from_bytes(oids.get(index)),
        }
    }
}

impl Names {
    /// For a pack whose names are of this format.
    pub(super) fn new(format: ObjectFormat) -> Self {
        Names { oids: Oids::new(format), by_oid: HashTable::new(), keys: RandomState::new() }
    }

    /// Makes place for the next entry, whose name is not known yet.
    pub(super) fn add(&mut self) {
        self.oids.push_null();
    }

    /// Names an entry; answers the first entry with that name.
    pub(super) fn resolve(&mut self, index: Index, oid: &Oid) -> Index {
        self.oids.set(index, oid);
        if let Some(first) = self.find(oid) {
            return first;
        }
        let (oids, keys) = (&self.oids, &self.keys);
        self.by_oid.insert_unique(hash(keys, oid), index, |at| hash(keys, &oids.get(*at)));
        index
    }

    /// The first entry with that name.
    pub(super) fn find(&self, oid: &Oid) -> Option<Index> {
        self.by_oid.find(hash(&self.keys, oid), |at| self.oids.get(*at) == *oid).copied()
    }

    pub(super) fn oid(&self, index: Index) -> Oid {
        self.oids.get(index)
    }
}

fn hash(keys: &RandomState, oid: &Oid) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write(oid.as_bytes());
    hasher.finish()
}
