//! The entries of a pack in six bytes each (nine where links of chains are made again): where an entry
//! begins, what it has become, and what its chain takes.

use crate::git::object::Kind;
use crate::pack::column::Column;
use crate::pack::object::Index;

/// Which entry begins where, and of what kind it is once it is resolved.
pub(super) struct Table {
    offsets_low: Column<u32>,
    offsets_high: Column<u8>,
    /// The lower three bits: 0 if it is not resolved, else a kind; the others: the [`Size`] of the longest
    /// link of the chain that it ends.
    kinds: Column<u8>,
    /// How many entries before a delta its base is; 0 where that is not known, or further than three
    /// bytes tell. Only where they are kept.
    distances: Option<Column<[u8; 3]>>,
    resolved: usize,
}

/// A length in 32 steps up to the longest object that is whole in memory, rounded up: that one itself,
/// 3/4, 1/2, 3/8, 1/4 of it, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(u8);

impl Size {
    pub(super) const NONE: Size = Size(0);
    /// Anything up to the longest.
    pub(super) const UNKNOWN: Size = Size(31);

    pub(super) fn of(len: u64, longest: u64) -> Self {
        let halvings = (longest / len.max(1)).checked_ilog2().unwrap_or(0).min(15);
        let size = Size(31 - 2 * halvings as u8);
        let less = Size(size.0 - 1);
        if less.bytes(longest) >= len { less } else { size }
    }

    /// In bytes, at least what it was made of.
    pub(super) fn bytes(self, longest: u64) -> u64 {
        let steps = 31 - self.0;
        let whole = longest >> (steps / 2);
        if steps % 2 == 1 { whole - whole / 4 } else { whole }
    }
}

const KINDS: [Kind; 4] = [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag];

impl Table {
    /// `keeps_bases`: three more bytes an entry.
    pub(super) fn new(keeps_bases: bool) -> Self {
        Table {
            offsets_low: Column::new(),
            offsets_high: Column::new(),
            kinds: Column::new(),
            distances: keeps_bases.then(Column::new),
            resolved: 0,
        }
    }

    /// Enters the next entry. Offsets rise, and five bytes hold them: a pack of a terabyte. `size`: what
    /// it takes to make it, without its base.
    pub(super) fn add(&mut self, offset: u64, base: Option<Index>, size: Size) -> Index {
        self.offsets_low.push(offset as u32);
        self.offsets_high.push((offset >> 32).min(0xff) as u8);
        let longest = base.map_or(size, |base| self.longest(base).max(size));
        self.kinds.push(longest.0 << 3);
        let index = (self.len() - 1) as Index;
        if let Some(distances) = &mut self.distances {
            let distance = base.map_or(0, |base| index - base).to_be_bytes();
            let near = if distance[0] == 0 { distance } else { [0; 4] };
            distances.push([near[1], near[2], near[3]]);
        }
        index
    }

    /// A delta's base, where that is kept.
    pub(super) fn base(&self, index: Index) -> Option<Index> {
        let [a, b, c] = self.distances.as_ref()?.get(index);
        let distance = u32::from_be_bytes([0, a, b, c]);
        (distance > 0).then(|| index - distance)
    }

    /// The longest link of the chain that the entry ends, itself included.
    pub(super) fn longest(&self, index: Index) -> Size {
        Size(self.kinds.get(index) >> 3)
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn resolved_count(&self) -> usize {
        self.resolved
    }

    pub(super) fn offset(&self, index: Index) -> u64 {
        u64::from(self.offsets_high.get(index)) << 32 | u64::from(self.offsets_low.get(index))
    }

    /// The entry that begins at `offset`. Bases are mostly near, so it looks from the end.
    pub(super) fn find(&self, offset: u64) -> Option<Index> {
        let len = self.len();
        let mut step = 1;
        while step < len && self.offset((len - step) as Index) > offset {
            step *= 2;
        }
        let (mut low, mut high) = (len.saturating_sub(step), len - step / 2);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.offset(middle as Index) < offset { low = middle + 1 } else { high = middle }
        }
        (low < len && self.offset(low as Index) == offset).then_some(low as Index)
    }

    pub(super) fn kind(&self, index: Index) -> Option<Kind> {
        let kind = self.kinds.get(index) & 7;
        kind.checked_sub(1).map(|kind| KINDS[usize::from(kind)])
    }

    pub(super) fn resolve(&mut self, index: Index, kind: Kind) {
        let at = KINDS.iter().position(|known| *known == kind).expect("there are four kinds");
        let was = self.kinds.get(index);
        if was & 7 == 0 {
            self.resolved += 1;
        }
        self.kinds.set(index, was & !7 | (at as u8 + 1));
    }

    pub(super) fn first_unresolved(&self) -> Option<Index> {
        (0..self.len() as Index).find(|index| self.kind(*index).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_their_offset_across_chunks() {
        let mut table = Table::new(true);
        let offset = |number: u64| 12 + number * 40 + (number / 70_000) * (5 << 32);
        for number in 0..150_000 {
            let base = (number > 9).then_some(number as Index / 2);
            let size = if number == 5 { Size::of(40, 160) } else { Size::NONE };
            assert_eq!(table.add(offset(number), base, size), number as Index);
            assert_eq!(table.base(number as Index), base);
            let on_five = [5, 10, 11, 20, 23].contains(&number);
            if on_five || [4, 9, 12, 19, 24].contains(&number) {
                let longest = if on_five { 40 } else { Size::NONE.bytes(160) };
                assert_eq!(table.longest(number as Index).bytes(160), longest, "{number}");
            }
            if number % 997 == 0 {
                assert_eq!(table.find(offset(number / 2)), Some(number as Index / 2));
                assert_eq!(table.find(offset(number) + 1), None);
            }
        }
        assert_eq!(table.offset(140_000), offset(140_000));
        assert_eq!((table.find(11), table.find(u64::MAX)), (None, None));
        assert_eq!(Table::new(false).find(12), None);
    }

    #[test]
    fn sizes_are_never_less_than_what_they_are_made_of() {
        for longest in [1, 7, 100, 256 << 10, 4 << 20, 1 << 60] {
            for part in 1..=64 {
                for len in [longest / part, longest / part + 1] {
                    let len = len.min(longest);
                    let size = Size::of(len, longest);
                    assert!(size.bytes(longest) >= len, "{len} of {longest}");
                    assert!(
                        size.bytes(longest) <= len.saturating_mul(3) / 2 + 1,
                        "{len} of {longest}"
                    );
                }
            }
            assert_eq!(Size::UNKNOWN.bytes(longest), longest);
            assert!(Size::of(0, longest) <= Size::of(1, longest));
        }
        assert_eq!((Size::of(5, 0), Size::of(5, 2)), (Size::UNKNOWN, Size::UNKNOWN));
        assert_eq!(Size::NONE.bytes(4 << 20), 96);
    }

    #[test]
    fn what_is_resolved_has_a_kind_and_keeps_its_size() {
        let mut table = Table::new(false);
        for index in 0..4 {
            table.add(12 + index, None, Size::of(index, 4));
        }
        assert_eq!(table.first_unresolved(), Some(0));
        for (index, kind) in KINDS.into_iter().enumerate() {
            table.resolve(index as Index, kind);
            assert_eq!(table.kind(index as Index), Some(kind));
            assert_eq!(table.longest(index as Index), Size::of(index as u64, 4));
        }
        assert_eq!((table.first_unresolved(), table.resolved_count()), (None, 4));
    }
}
