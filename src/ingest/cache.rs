//! Contents that may be bases: the results of units, the least recently used leave first.
//!
//! Small results of a unit share a buffer and come and go together: one allocation and one place in
//! the list for many objects, and families are together in a pack anyway. A buffer is small, so that
//! one object in use does not keep many in memory that are not.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use crate::pack::object::Index;

/// Bytes that the shell holds: a piece of a shared buffer.
pub(super) trait Bytes: Clone {
    /// `len` bytes from `start`, in the same buffer.
    fn slice(&self, start: usize, len: usize) -> Self;
    /// The same bytes in a buffer of their own.
    fn detach(&self) -> Self;
}

/// What an object in the cache costs beside its content.
const MEMBER_BYTES: u64 = 56;

/// A map by small consecutive numbers, which nobody outside can choose.
pub(super) type IndexMap<V> = HashMap<Index, V, BuildHasherDefault<IndexHasher>>;

/// Spreads consecutive numbers (Fibonacci hashing).
#[derive(Default)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        let mixed = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

struct Group<B> {
    results: B,
    weight: u64,
    members: Vec<Member>,
}

/// An object, where its content begins in the results, and its length.
pub(super) type Member = (Index, u32, u32);

pub(super) struct Cache<B> {
    limit: u64,
    held: u64,
    groups: LruCache<u32, Group<B>>,
    next: u32,
    /// Not stored yet, so not to be let go; counted by the unit's room.
    pinned: HashMap<u32, Group<B>>,
    /// The groups of a unit that are pinned.
    of_unit: HashMap<u32, Vec<u32>>,
    /// By entry: the group, and the place in it.
    places: IndexMap<(u32, u32)>,
}

impl<B: Bytes> Cache<B> {
    pub(super) fn new(limit: u64) -> Self {
        Cache {
            limit,
            held: 0,
            groups: LruCache::unbounded(),
            next: 0,
            pinned: HashMap::new(),
            of_unit: HashMap::new(),
            places: IndexMap::default(),
        }
    }

    /// Takes a buffer of results of a unit, which weighs so much; `pinned` ones stay until
    /// [`Cache::unpin`].
    pub(super) fn insert(
        &mut self,
        unit: u32,
        (results, weight): (B, u64),
        members: Vec<Member>,
        pinned: bool,
    ) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        for (at, (index, ..)) in members.iter().enumerate() {
            self.places.insert(*index, (id, at as u32));
        }
        let weight = weight + MEMBER_BYTES * members.len() as u64;
        let group = Group { results, weight, members };
        if pinned {
            self.pinned.insert(id, group);
            self.of_unit.entry(unit).or_default().push(id);
        } else {
            self.keep(id, group);
        }
    }

    /// A unit's results are stored: they may leave from here on.
    pub(super) fn unpin(&mut self, unit: u32) {
        for id in self.of_unit.remove(&unit).unwrap_or_default() {
            if let Some(group) = self.pinned.remove(&id) {
                self.keep(id, group);
            }
        }
    }

    fn keep(&mut self, id: u32, group: Group<B>) {
        self.held += group.weight;
        self.groups.put(id, group);
        while self.held > self.limit {
            let Some((id, evicted)) = self.groups.pop_lru() else { break };
            self.held -= evicted.weight;
            for (index, ..) in evicted.members {
                if self.places.get(&index).is_some_and(|(group, _)| *group == id) {
                    self.places.remove(&index);
                }
            }
        }
    }

    pub(super) fn contains(&self, index: Index) -> bool {
        self.places.contains_key(&index)
    }

    pub(super) fn get(&mut self, index: Index) -> Option<B> {
        self.get_with_group(index).map(|(content, ..)| content)
    }

    /// An object's content, the group that it is in, and what that weighs.
    pub(super) fn get_with_group(&mut self, index: Index) -> Option<(B, u32, u64)> {
        let (id, at) = *self.places.get(&index)?;
        let group = match self.pinned.get(&id) {
            Some(group) => group,
            None => self.groups.get(&id)?,
        };
        let (_, start, len) = group.members[at as usize];
        Some((group.results.slice(start as usize, len as usize), id, group.weight))
    }
}
