//! Objects by name: kept for loose objects, which are stored by it, and for packs with REF_DELTAs.
//!
//! Twenty bytes an entry, and five to ten for the table.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use super::table::Column;
use crate::git::object::Oid;
use crate::pack::object::Index;

pub(super) struct Names {
    oids: Column<Oid>,
    by_oid: HashTable<Index>,
    /// Oids are spread evenly by themselves, but a hostile pack could choose prefixes that collide.
    keys: RandomState,
}

impl Default for Names {
    fn default() -> Self {
        Names { oids: Column::new(), by_oid: HashTable::new(), keys: RandomState::new() }
    }
}

impl Names {
    /// Makes place for the next entry, whose name is not known yet.
    pub(super) fn add(&mut self) {
        self.oids.push(Oid::NULL);
    }

    /// Names an entry; answers the first entry with that name.
    pub(super) fn resolve(&mut self, index: Index, oid: &Oid) -> Index {
        self.oids.set(index, *oid);
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
