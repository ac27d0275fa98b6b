//! Deltas that wait for their bases.
//!
//! In a large pack they may be half of all entries, most of which have been let go: their bytes are in
//! the pack that is being stored. Such a one is a row of 20 bytes; the others are few, because their bytes
//! are held by the intake or by the room for short deltas.

use slab::Slab;

use super::cache::IndexMap;
use crate::pack::delta::DeltaHeader;
use crate::pack::object::Index;

/// No entry.
pub(super) const NONE: Index = Index::MAX;

/// A delta, without the name of its base.
#[derive(Clone)]
pub(super) struct Delta<B> {
    pub(super) header: DeltaHeader,
    /// Of its instructions.
    pub(super) len: u64,
    pub(super) bytes: DeltaBytes<B>,
}

impl<B> Delta<B> {
    /// Are its instructions in memory?
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.bytes, DeltaBytes::Memory(_))
    }
}

/// Where a delta's instructions are.
#[derive(Clone)]
pub(super) enum DeltaBytes<B> {
    Memory(B),
    /// In a temporary key, by its number: from `start`.
    Spilled {
        file: u32,
        start: u64,
    },
    /// In the pack itself.
    InPack,
}

/// A delta that waits.
pub(super) struct Parked<B> {
    pub(super) crc32: u32,
    pub(super) delta: Delta<B>,
    /// What of the intake it holds.
    pub(super) held: u64,
    /// The next delta that waits for the same base.
    pub(super) next: Index,
}

/// A delta that is in the pack alone.
#[derive(Clone, Copy)]
struct LetGo {
    crc32: u32,
    base_len: u32,
    result_len: u32,
    len: u32,
    next: Index,
}

#[derive(Clone, Copy)]
enum Place {
    LetGo(u32),
    Held(u32),
}

/// What has to be known of a parked delta to decide about it.
#[derive(Clone, Copy)]
pub(super) struct About {
    pub(super) header: DeltaHeader,
    /// Of its instructions.
    pub(super) len: u64,
    pub(super) in_memory: bool,
}

/// By entry.
pub(super) struct Parking<B> {
    places: IndexMap<Place>,
    let_go: Slab<LetGo>,
    held: Slab<(Index, Parked<B>)>,
}

impl<B> Parking<B> {
    pub(super) fn new() -> Self {
        Parking { places: IndexMap::default(), let_go: Slab::new(), held: Slab::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn insert(&mut self, index: Index, parked: Parked<B>) {
        let place = match LetGo::of(&parked) {
            Some(row) => Place::LetGo(self.let_go.insert(row) as u32),
            None => Place::Held(self.held.insert((index, parked)) as u32),
        };
        self.places.insert(index, place);
    }

    fn place(&self, index: Index) -> Place {
        self.places.get(&index).copied().expect("what waits is parked")
    }

    pub(super) fn remove(&mut self, index: Index) -> Parked<B> {
        match self.places.remove(&index).expect("what waits is parked") {
            Place::LetGo(row) => self.let_go.remove(row as usize).into(),
            Place::Held(row) => self.held.remove(row as usize).1,
        }
    }

    pub(super) fn about(&self, index: Index) -> About {
        match self.place(index) {
            Place::LetGo(row) => {
                let row = self.let_go[row as usize];
                About { header: row.header(), len: row.len.into(), in_memory: false }
            }
            Place::Held(row) => {
                let delta = &self.held[row as usize].1.delta;
                About { header: delta.header, len: delta.len, in_memory: delta.is_in_memory() }
            }
        }
    }

    /// The delta after this one in its list, if it is parked.
    pub(super) fn next(&self, index: Index) -> Option<Index> {
        Some(match self.places.get(&index)? {
            Place::LetGo(row) => self.let_go[*row as usize].next,
            Place::Held(row) => self.held[*row as usize].1.next,
        })
    }

    /// Puts `next` behind this one; answers what was there.
    pub(super) fn set_next(&mut self, index: Index, next: Index) -> Index {
        let slot = match self.place(index) {
            Place::LetGo(row) => &mut self.let_go[row as usize].next,
            Place::Held(row) => &mut self.held[row as usize].1.next,
        };
        std::mem::replace(slot, next)
    }

    /// Those that are more than a row, in no order.
    pub(super) fn held(&self) -> impl Iterator<Item = (Index, &Parked<B>)> {
        self.held.iter().map(|(_, (index, parked))| (*index, parked))
    }

    /// Changes one of those.
    pub(super) fn change(&mut self, index: Index, change: impl FnOnce(&mut Parked<B>)) {
        let Some(Place::Held(row)) = self.places.get(&index).copied() else { return };
        change(&mut self.held[row as usize].1);
        if LetGo::of(&self.held[row as usize].1).is_some() {
            let parked = self.remove(index);
            self.insert(index, parked);
        }
    }
}

impl LetGo {
    fn of<B>(parked: &Parked<B>) -> Option<Self> {
        let DeltaHeader { base_len, result_len } = parked.delta.header;
        if parked.held > 0 || !matches!(parked.delta.bytes, DeltaBytes::InPack) {
            return None;
        }
        Some(LetGo {
            crc32: parked.crc32,
            base_len: u32::try_from(base_len).ok()?,
            result_len: u32::try_from(result_len).ok()?,
            len: u32::try_from(parked.delta.len).ok()?,
            next: parked.next,
        })
    }

    fn header(&self) -> DeltaHeader {
        DeltaHeader { base_len: self.base_len.into(), result_len: self.result_len.into() }
    }
}

impl<B> From<LetGo> for Parked<B> {
    fn from(row: LetGo) -> Self {
        let bytes = DeltaBytes::InPack;
        let delta = Delta { header: row.header(), len: row.len.into(), bytes };
        Parked { crc32: row.crc32, delta, held: 0, next: row.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(len: u64, bytes: DeltaBytes<()>, held: u64) -> Parked<()> {
        let header = DeltaHeader { base_len: 7, result_len: 9 };
        Parked { crc32: 5, delta: Delta { header, len, bytes }, held, next: NONE }
    }

    #[test]
    fn what_is_let_go_comes_back_as_it_was() {
        let mut parking = Parking::new();
        parking.insert(3, parked(100, DeltaBytes::Memory(()), 50));
        parking.insert(4, parked(u64::MAX, DeltaBytes::InPack, 0));
        assert_eq!(parking.set_next(3, 4), NONE);
        assert!(parking.about(3).in_memory);
        parking.change(3, |parked| {
            parked.held = 0;
            parked.delta.bytes = DeltaBytes::InPack;
        });
        assert_eq!((parking.let_go.len(), parking.held().count()), (1, 1), "too long for a row");
        assert_eq!(
            (parking.next(3), parking.next(4), parking.next(5)),
            (Some(4), Some(NONE), None)
        );
        let about = parking.about(3);
        assert_eq!((about.header.base_len, about.header.result_len, about.len), (7, 9, 100));
        assert!(!about.in_memory);
        let back = parking.remove(3);
        assert_eq!((back.crc32, back.next, back.delta.len), (5, 4, 100));
        assert_eq!((parking.remove(4).delta.len, parking.len()), (u64::MAX, 0));
    }
}
