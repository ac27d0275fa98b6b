//! A listing that never ends is an error, not a way to hold a run.
//!
//! Tokens that lead in a circle are found with Brent's algorithm: one token is kept, and another in
//! its place after twice as many pages, so a circle of any length is noticed within a few rounds. The
//! same is done with the first key of each page, because a store may give the same pages with new tokens.
//! Pages without a key are legal, but not many in a row.
//!
//! Ever new keys lead in no circle. So whoever lists says how many entries are believable. Their order is
//! no help: 1,024 bytes have room for an ascent without an end, and not every store sorts.

use super::interface::{StoreError, StoreErrorKind};

/// Pages without anything on them that are tolerated in a row.
const MAX_EMPTY: u32 = 1000;

/// Watches over the pages of one listing.
#[derive(Debug)]
pub(crate) struct Pages {
    tokens: Circle,
    firsts: Circle,
    empty: u32,
    listed: u64,
    max_listed: u64,
}

/// Notices when what must never come again does.
#[derive(Debug, Default)]
struct Circle {
    kept: Option<String>,
    seen: u64,
    renew_at: u64,
}

impl Circle {
    fn is_closed_by(&mut self, next: &str) -> bool {
        if self.kept.as_deref() == Some(next) {
            return true;
        }
        if self.seen >= self.renew_at {
            self.kept = Some(next.to_owned());
            self.renew_at = (2 * self.renew_at).max(1);
            self.seen = 0;
        }
        self.seen += 1;
        false
    }
}

impl Pages {
    /// Of a listing that has no more entries than this.
    pub(crate) fn of_at_most(max_listed: u64) -> Self {
        let (tokens, firsts) = (Circle::default(), Circle::default());
        Pages { tokens, firsts, empty: 0, listed: 0, max_listed }
    }

    /// A page came with so many entries that begins with this one, if it has any, and the next one has
    /// this token. `place` is for the error.
    pub(crate) fn turn(
        &mut self,
        place: &str,
        len: usize,
        first: Option<&str>,
        next: &str,
    ) -> Result<(), StoreError> {
        self.empty = if first.is_none() { self.empty + 1 } else { 0 };
        self.listed += len as u64;
        let circle = self.tokens.is_closed_by(next)
            || first.is_some_and(|key| self.firsts.is_closed_by(key));
        let what = match () {
            () if circle => "is circular".to_owned(),
            () if self.empty > MAX_EMPTY => "has endless empty pages".to_owned(),
            () if self.listed > self.max_listed => {
                format!("has more than {} entries and no end", self.max_listed)
            }
            () => return Ok(()),
        };
        let message = format!("the store's listing {what}");
        Err(StoreError::new(StoreErrorKind::Other, "list", place, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pages are read of a listing whose tokens repeat after so many.
    fn pages_read(before: u32, circle: u32) -> u32 {
        let mut pages = Pages::of_at_most(u64::MAX);
        (0..1_000_000)
            .find(|&page| {
                let token = if page < before { page } else { before + (page - before) % circle };
                pages.turn("s3://b", 1, Some(&page.to_string()), &token.to_string()).is_err()
            })
            .expect("it ends")
    }

    #[test]
    fn circle_of_any_length_is_found() {
        for (before, circle) in [(0, 1), (0, 2), (1, 2), (5, 3), (100, 7), (0, 1000), (999, 1000)] {
            let read = pages_read(before, circle);
            assert!(read <= 4 * (before + circle) + 4, "{before} {circle}: {read}");
        }
    }

    #[test]
    fn long_listing_is_read_and_empty_pages_are_borne_for_a_while() {
        let mut pages = Pages::of_at_most(u64::MAX);
        for page in 0..100_000 {
            let key = page.to_string();
            pages.turn("", 1, (page % 900 == 0).then_some(&key[..]), &key).unwrap();
        }
        let mut pages = Pages::of_at_most(u64::MAX);
        let ended =
            (0..10_000).find(|page: &u32| pages.turn("", 0, None, &page.to_string()).is_err());
        assert_eq!(ended, Some(MAX_EMPTY));
    }

    #[test]
    fn same_pages_with_new_tokens_are_a_circle() {
        for circle in [1, 2, 7] {
            let mut pages = Pages::of_at_most(u64::MAX);
            let ended = (0..1000u32).find(|page| {
                let key = (page % circle).to_string();
                pages.turn("", 1, Some(&key), &format!("token {page}")).is_err()
            });
            assert!(ended.is_some_and(|page| page <= 4 * circle + 4), "{circle}: {ended:?}");
        }
    }

    #[test]
    fn ever_new_keys_end_at_what_is_believable() {
        let mut pages = Pages::of_at_most(10_000);
        let error = (0..).find_map(|page: u32| {
            let key = format!("{page:010}");
            pages.turn("s3://b", 1000, Some(&key), &key).err().map(|error| (page, error))
        });
        let (page, error) = error.expect("it ends");
        assert_eq!(page, 10);
        assert!(error.to_string().contains("more than 10000 entries and no end"), "{error}");
    }
}
