//! Where the parts of an upload lie in the file that they will be.
//!
//! Parts come in any order, and nobody says where one will begin; but all that are followed by others are
//! mostly of one length. So the first to come tells where the others belong, and they are written there at
//! once. A guess that was wrong costs a copy when the upload is completed, and nothing else.

use std::collections::HashMap;

use crate::store::interface::Part;

/// The parts of an upload that were written to their places.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By their first part.
    stretches: Vec<Stretch>,
    taken: HashMap<u32, Place>,
    last: u32,
}

/// Parts of one length, one after the other.
#[derive(Debug)]
struct Stretch {
    first: u32,
    start: u64,
    part_len: u64,
}

#[derive(Debug)]
struct Place {
    start: u64,
    len: u64,
    /// Of what was written there; empty until all of it is.
    etag: String,
}

impl Places {
    /// Where to write this part, which nobody else may then; `None`: to a file of its own.
    pub(super) fn take(&mut self, number: u32, len: u64) -> Option<u64> {
        if number == 0 || self.taken.contains_key(&number) {
            return None;
        }
        if self.stretches.is_empty() {
            self.stretches.push(Stretch { first: 1, start: 0, part_len: len });
        }
        let stretch = self.stretches.iter().rev().find(|stretch| stretch.first <= number)?;
        let before = u64::from(number - stretch.first).checked_mul(stretch.part_len)?;
        let start = stretch.start.checked_add(before)?;
        start.checked_add(len)?;
        if len > stretch.part_len {
            // Parts become longer as their numbers run out.
            if number <= self.last {
                return None;
            }
            self.stretches.push(Stretch { first: number, start, part_len: len });
        }
        self.last = self.last.max(number);
        self.taken.insert(number, Place { start, len, etag: String::new() });
        Some(start)
    }

    /// All of it is there.
    pub(super) fn written(&mut self, part: &Part) {
        if let Some(place) = self.taken.get_mut(&part.number) {
            place.etag.clone_from(&part.etag.0);
        }
    }

    /// The whole is cut to these parts, sorted by number: of others nothing is left there.
    pub(super) fn keep(&mut self, parts: &[Part]) {
        self.taken.retain(|number, place| {
            let found = parts.binary_search_by_key(number, |part| part.number);
            found.is_ok_and(|at| parts[at].etag.0 == place.etag)
        });
    }

    /// Where it was written, and its length.
    pub(super) fn find(&self, part: &Part) -> Option<(u64, u64)> {
        let place = self.taken.get(&part.number)?;
        (place.etag == part.etag.0 && !place.etag.is_empty()).then_some((place.start, place.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::interface::ETag;

    #[test]
    fn parts_of_one_length_have_their_places_in_whatever_order_they_come() {
        let mut places = Places::default();
        assert_eq!(places.take(3, 10), Some(20));
        assert_eq!(places.take(1, 10), Some(0));
        assert_eq!(places.take(4, 7), Some(30));
        assert_eq!(places.take(1, 10), None, "it is taken");
        assert_eq!(places.take(2, 11), None, "it would reach into the third");
        assert_eq!(places.take(2, 10), Some(10));
        assert_eq!((places.take(0, 1), places.take(u32::MAX, u64::MAX)), (None, None));
    }

    #[test]
    fn parts_may_become_longer() {
        let mut places = Places::default();
        for (number, len, start) in [(1, 10, 0), (2, 10, 10), (3, 20, 20), (5, 20, 60), (4, 20, 40)]
        {
            assert_eq!(places.take(number, len), Some(start), "{number}");
        }
        assert_eq!(places.take(6, 40), Some(80));
        assert_eq!(places.take(7, 1), Some(120));
    }

    #[test]
    fn only_what_was_written_is_found() {
        let mut places = Places::default();
        let part = |etag: &str| Part { number: 2, etag: ETag(etag.into()) };
        places.take(2, 10);
        assert_eq!(places.find(&part("")), None);
        places.written(&part("a"));
        assert_eq!((places.find(&part("a")), places.find(&part("b"))), (Some((10, 10)), None));
    }
}
