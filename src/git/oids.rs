//! Many object names in memory, in as many bytes as their format has.
//!
//! An [`Oid`] takes 33 bytes, whatever its format: too many where there is one for each object of a
//! repository. Here names of 20 bytes take 20. Names of both formats may come; in one repository
//! those of the other are none, and cost nothing.

use std::collections::hash_map::{HashMap, RandomState};
use std::hash::BuildHasher;

use crate::git::object::Oid;

/// A name's bytes, by format.
enum Raw {
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

impl Raw {
    fn of(oid: &Oid) -> Raw {
        let bytes = oid.as_bytes();
        match bytes.first_chunk::<32>() {
            Some(bytes) => Raw::Sha256(*bytes),
            None => Raw::Sha1(*bytes.first_chunk().expect("a name has at least 20 bytes")),
        }
    }
}

/// A value for each name.
#[derive(Clone, Debug)]
pub struct OidMap<V, S = RandomState> {
    sha1: HashMap<[u8; 20], V, S>,
    sha256: HashMap<[u8; 32], V, S>,
}

impl<V, S: Default> Default for OidMap<V, S> {
    fn default() -> Self {
        OidMap { sha1: HashMap::default(), sha256: HashMap::default() }
    }
}

impl<V, S: BuildHasher> OidMap<V, S> {
    /// How many names there are.
    pub fn len(&self) -> usize {
        self.sha1.len() + self.sha256.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name's value.
    pub fn get(&self, oid: &Oid) -> Option<&V> {
        match Raw::of(oid) {
            Raw::Sha1(name) => self.sha1.get(&name),
            Raw::Sha256(name) => self.sha256.get(&name),
        }
    }

    /// Is the name there?
    pub fn contains(&self, oid: &Oid) -> bool {
        self.get(oid).is_some()
    }

    /// Gives the name a value; answers the one that it had.
    pub fn insert(&mut self, oid: Oid, value: V) -> Option<V> {
        match Raw::of(&oid) {
            Raw::Sha1(name) => self.sha1.insert(name, value),
            Raw::Sha256(name) => self.sha256.insert(name, value),
        }
    }

    /// Takes the name out; answers its value.
    pub fn remove(&mut self, oid: &Oid) -> Option<V> {
        match Raw::of(oid) {
            Raw::Sha1(name) => self.sha1.remove(&name),
            Raw::Sha256(name) => self.sha256.remove(&name),
        }
    }

    /// The name's value, the default one if it has none yet.
    pub fn entry(&mut self, oid: &Oid) -> &mut V
    where
        V: Default,
    {
        match Raw::of(oid) {
            Raw::Sha1(name) => self.sha1.entry(name).or_default(),
            Raw::Sha256(name) => self.sha256.entry(name).or_default(),
        }
    }

    /// All names with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Oid, &V)> {
        let sha1 = self.sha1.iter().map(|(name, value)| (Oid::from_bytes(*name), value));
        let sha256 = self.sha256.iter().map(|(name, value)| (Oid::from_bytes(*name), value));
        sha1.chain(sha256)
    }

    /// All names, in no order.
    pub fn keys(&self) -> impl Iterator<Item = Oid> {
        self.iter().map(|(oid, _)| oid)
    }
}

/// Names without values.
pub type OidSet<S = RandomState> = OidMap<(), S>;

impl<S: BuildHasher> OidSet<S> {
    /// Puts the name in; is it new?
    pub fn add(&mut self, oid: Oid) -> bool {
        self.insert(oid, ()).is_none()
    }
}

/// Names of which there may be millions, in no order: many tables with a fast hash, so that one that grows
/// is not there twice. One takes some 24 bytes.
pub struct ManyOids(Vec<OidSet<hashbrown::DefaultHashBuilder>>);

impl Default for ManyOids {
    fn default() -> Self {
        ManyOids((0..256).map(|_| OidSet::default()).collect())
    }
}

impl ManyOids {
    /// Puts the name in; is it new?
    pub fn add(&mut self, oid: Oid) -> bool {
        self.0[usize::from(oid.as_bytes()[0])].add(oid)
    }

    /// Is the name there?
    pub fn contains(&self, oid: &Oid) -> bool {
        self.0[usize::from(oid.as_bytes()[0])].contains(oid)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(OidSet::len).sum()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(OidSet::is_empty)
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = Oid> {
        self.0.iter().flat_map(OidSet::keys)
    }
}

impl<S: BuildHasher> Extend<Oid> for OidSet<S> {
    fn extend<T: IntoIterator<Item = Oid>>(&mut self, oids: T) {
        for oid in oids {
            self.add(oid);
        }
    }
}

impl FromIterator<Oid> for OidSet {
    fn from_iter<T: IntoIterator<Item = Oid>>(oids: T) -> Self {
        let mut set = OidSet::default();
        set.extend(oids);
        set
    }
}

/// A list of names, each with a value, that can be sorted, and then searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidList<V = ()> {
    sha1: Vec<([u8; 20], V)>,
    sha256: Vec<([u8; 32], V)>,
}

impl<V> Default for OidList<V> {
    fn default() -> Self {
        OidList { sha1: Vec::new(), sha256: Vec::new() }
    }
}

impl<V: Copy> OidList<V> {
    /// Adds a name at the end of those of its format.
    pub fn push_with(&mut self, oid: &Oid, value: V) {
        match Raw::of(oid) {
            Raw::Sha1(name) => self.sha1.push((name, value)),
            Raw::Sha256(name) => self.sha256.push((name, value)),
        }
    }

    /// Sorts the names, and gives back memory that is not used.
    pub fn sort(&mut self) {
        self.sha1.sort_unstable_by_key(|(name, _)| *name);
        self.sha256.sort_unstable_by_key(|(name, _)| *name);
        self.sha1.shrink_to_fit();
        self.sha256.shrink_to_fit();
    }

    /// The name's value, if it is there. The list has to be sorted.
    pub fn get(&self, oid: &Oid) -> Option<V> {
        match Raw::of(oid) {
            Raw::Sha1(name) => {
                let at = self.sha1.binary_search_by_key(&name, |(name, _)| *name).ok()?;
                Some(self.sha1[at].1)
            }
            Raw::Sha256(name) => {
                let at = self.sha256.binary_search_by_key(&name, |(name, _)| *name).ok()?;
                Some(self.sha256[at].1)
            }
        }
    }

    /// Is the name there? The list has to be sorted.
    pub fn contains(&self, oid: &Oid) -> bool {
        self.get(oid).is_some()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.sha1.len() + self.sha256.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of SHA-1.
    pub fn sha1(&self) -> impl Iterator<Item = [u8; 20]> {
        self.sha1.iter().map(|(name, _)| *name)
    }

    /// The names of SHA-256.
    pub fn sha256(&self) -> impl Iterator<Item = [u8; 32]> {
        self.sha256.iter().map(|(name, _)| *name)
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = Oid> {
        self.sha1().map(Oid::from_bytes).chain(self.sha256().map(Oid::from_bytes))
    }

    /// The memory that the names take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<([u8; 20], V)>() * self.sha1.capacity()
            + size_of::<([u8; 32], V)>() * self.sha256.capacity()
    }
}

impl OidList {
    /// Adds a name at the end of those of its format.
    pub fn push(&mut self, oid: &Oid) {
        self.push_with(oid, ());
    }

    /// [`OidList::push`] that keeps the list sorted; `None`: the name is not greater than the last one.
    pub fn push_ascending(&mut self, oid: &Oid) -> Option<()> {
        let is_greater = match Raw::of(oid) {
            Raw::Sha1(name) => self.sha1.last().is_none_or(|(last, ())| *last < name),
            Raw::Sha256(name) => self.sha256.last().is_none_or(|(last, ())| *last < name),
        };
        is_greater.then(|| self.push(oid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oids() -> [Oid; 4] {
        let [one, two] = [1, 2].map(|byte| Oid::from_bytes([byte; 20]));
        let [long, longer] = [1, 2].map(|byte| Oid::from_bytes([byte; 32]));
        [two, longer, one, long]
    }

    #[test]
    fn names_of_both_formats_are_found_again() {
        let [two, longer, one, long] = oids();
        let mut set: OidSet = [two, longer].into_iter().collect();
        assert!(set.add(one) && !set.add(two) && set.contains(&longer) && !set.contains(&long));
        assert_eq!(set.len(), 3);
        assert_eq!((set.remove(&two), set.remove(&two)), (Some(()), None));
        let mut map: OidMap<u8> = OidMap::default();
        assert!(map.is_empty());
        *map.entry(&long) |= 1;
        *map.entry(&long) |= 4;
        assert_eq!((map.get(&long), map.get(&one)), (Some(&5), None));
        assert_eq!(map.iter().collect::<Vec<_>>(), [(long, &5)]);
    }

    #[test]
    fn list_is_searched_once_it_is_sorted_and_twenty_bytes_are_held_for_sha1() {
        let mut list: OidList = OidList::default();
        assert!(list.is_empty());
        let [two, longer, one, long] = oids();
        [two, longer, one].iter().for_each(|oid| list.push(oid));
        list.sort();
        assert_eq!(list.iter().collect::<Vec<_>>(), [one, two, longer]);
        assert!(list.contains(&one) && list.contains(&longer) && !list.contains(&long));
        assert_eq!((list.len(), list.memory_bytes()), (3, 20 + 20 + 32));
        assert!(list.push_ascending(&one).is_none() && list.push_ascending(&two).is_none());
        assert!(list.push_ascending(&Oid::from_bytes([3; 20])).is_some());
        let mut lens: OidList<u32> = OidList::default();
        [(two, 2), (one, 1)].iter().for_each(|(oid, len)| lens.push_with(oid, *len));
        lens.sort();
        assert_eq!((lens.get(&one), lens.get(&long), lens.memory_bytes()), (Some(1), None, 48));
    }
}
