//! A listing that never ends is an error, not a way to hold a run.
//!
//! Tokens that lead in a circle are found with Brent's algorithm: one token is kept, and another in
//! its place after twice as many pages, so a circle of any length is noticed within a few rounds. The
//! same is done with the first key of each page, since a store may give the same pages with new tokens.
//! Pages without a key are legal, but not many in a row.

use super::interface::{StoreError, StoreErrorKind};

/// Pages without anything on them that are tolerated in a row.
const MAX_EMPTY: u32 = 1000;

/// Watches over the pages of one listing.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    tokens: Circle,
    firsts: Circle,
    empty: u32,
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
    /// A page came that begins with this entry, if it has any, and the next one has this token. `place`
    /// is for the error.
    pub(crate) fn turn(
        &mut self,
        place: &str,
        first: Option<&str>,
        next: &str,
    ) -> Result<(), StoreError> {
        self.empty = if first.is_none() { self.empty + 1 } else { 0 };
        let circle = self.tokens.is_closed_by(next)
            || first.is_some_and(|key| self.firsts.is_closed_by(key));
        if circle || self.empty > MAX_EMPTY {
            let what = if circle { "is circular" } else { "has endless empty pages" };
            let message = format!("the store's listing {what}");
            return Err(StoreError::new(StoreErrorKind::Other, "list", place, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pages are read of a listing whose tokens repeat after so many.
    fn pages_read(before: u32, circle: u32) -> u32 {
        let mut pages = Pages::default();
        (0..1_000_000)
            .find(|&page| {
                let token = if page < before { page } else { before + (page - before) % circle };
                pages.turn("s3://b", Some(&page.to_string()), &token.to_string()).is_err()
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
        let mut pages = Pages::default();
        for page in 0..100_000 {
            let key = page.to_string();
            pages.turn("", (page % 900 == 0).then_some(&key[..]), &key).unwrap();
        }
        let mut pages = Pages::default();
        let ended = (0..10_000).find(|page: &u32| pages.turn("", None, &page.to_string()).is_err());
        assert_eq!(ended, Some(MAX_EMPTY));
    }

    #[test]
    fn same_pages_with_new_tokens_are_a_circle() {
        for circle in [1, 2, 7] {
            let mut pages = Pages::default();
            let ended = (0..1000u32).find(|page| {
                let key = (page % circle).to_string();
                pages.turn("", Some(&key), &format!("token {page}")).is_err()
            });
            assert!(ended.is_some_and(|page| page <= 4 * circle + 4), "{circle}: {ended:?}");
        }
    }
}
