//! `mirror_state/slices.json`: how far a first fetch in slices has come, for the run after a killed one.
//!
//! The packs that it names are stored with their indices and listed; no ref is published yet. It is
//! deleted once refs are.

use serde::{Deserialize, Serialize};

use super::error::MirrorError;
use super::files::{self, key};
use super::packs;
use crate::git::object::{ObjectFormat, Oid};
use crate::store::{ObjectHeaders, Store};

const KEY: &str = "mirror_state/slices.json";

/// Some ten thousand refs and packs.
const MAX_BYTES: u64 = 16 << 20;

/// What of a repository is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slices {
    /// Of which source; another one begins anew.
    source: String,
    /// The commit whose history is fetched, and how many generations of it are still to come.
    want: Option<String>,
    pub(crate) remaining: u32,
    /// Commits that many generations down: they are there with everything that they reach.
    base: Vec<String>,
    /// Tips that are there with everything that they reach.
    done: Vec<String>,
    /// Names of packs, in the order in which they came.
    pub(crate) packs: Vec<String>,
    /// How large a slice may be.
    #[serde(default)]
    pub(crate) pace: Pace,
}

/// A slice that nothing is known of yet.
const FIRST_BYTES: u64 = 8 << 20;

/// Smaller ones are not aimed at: each costs two requests.
const LEAST_BYTES: u64 = 64 << 10;

/// How large slices are, as learnt from those that came and those that were cut.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// Generations of the next slice; 0: nothing is known yet.
    pub(crate) step: u32,
    /// The most that has come at once, in bytes.
    pub(crate) most_bytes: u64,
    /// A slice was cut since then: what was aimed at is too much.
    is_cut: bool,
}

impl Pace {
    /// What the next slice should have, in bytes.
    fn aim(&self) -> u64 {
        match (self.most_bytes, self.is_cut) {
            (0, _) => FIRST_BYTES,
            // Above three quarters, so that slices which turn out larger show that more may come.
            (most, false) => most / 8 * 7,
            (most, true) => most / 4 * 3,
        }
        .max(LEAST_BYTES)
    }

    /// A slice of `received` bytes has come whole. No more than twice as many generations are next:
    /// the young history of a repository says little of what follows.
    pub(crate) fn came(&mut self, received: u64) {
        self.most_bytes = self.most_bytes.max(received);
        let step = u64::from(self.step);
        let fits = step.saturating_mul(self.aim()) / received.max(1);
        self.step = fits.clamp(1, step.saturating_mul(2).max(1)).try_into().unwrap_or(u32::MAX);
    }

    /// A slice was cut after `received` bytes; `again`: so was the one before.
    pub(crate) fn was_cut(&mut self, received: u64, again: bool) {
        // The source, or what lies between, may have less patience than it had.
        let most = if again { self.most_bytes / 2 } else { self.most_bytes };
        self.most_bytes = most.max(received);
        self.is_cut = true;
        let step = u64::from(self.step);
        // The slice is longer than what came of it.
        let fits = step.saturating_mul(self.aim()) / received.saturating_add(received / 8).max(1);
        let fits = fits.clamp(1, (step / 4 * 3).max(step / 2).max(1));
        self.step = fits.try_into().unwrap_or(u32::MAX);
    }
}

impl Slices {
    /// What runs before this one have stored of `source`.
    pub(crate) fn read(
        store: &dyn Store,
        source: &str,
        format: ObjectFormat,
    ) -> Result<Self, MirrorError> {
        let new = || Slices { source: source.to_owned(), ..Slices::default() };
        let Some((file, _)) = files::get(store, &key(KEY), None, MAX_BYTES)? else {
            return Ok(new());
        };
        let found = serde_json::from_slice::<Slices>(&file).ok();
        let found = found.filter(|found| found.source == source && found.is_sound(format));
        if found.is_none() {
            log::info!("{}/{KEY} belongs to another source: starting over", store.describe());
        }
        Ok(found.unwrap_or_else(new))
    }

    /// Is everything in it a name of this format?
    fn is_sound(&self, format: ObjectFormat) -> bool {
        let is_right = |oid: Option<Oid>| oid.is_some_and(|oid| oid.format() == format);
        let oid = |text: &String| is_right(Oid::from_hex(text.as_bytes()));
        let pack = |name: &String| is_right(packs::trailer_of(name));
        self.want.iter().chain(&self.base).chain(&self.done).all(oid) && self.packs.iter().all(pack)
    }

    /// Was anything stored before?
    pub(crate) fn is_begun(&self) -> bool {
        !self.packs.is_empty()
    }

    pub(crate) fn want(&self) -> Option<Oid> {
        self.want.as_ref().and_then(|text| Oid::from_hex(text.as_bytes()))
    }

    pub(crate) fn set_want(&mut self, want: Oid, generations: u32) {
        self.want = Some(want.to_string());
        self.remaining = generations;
        self.base.clear();
    }

    pub(crate) fn base(&self) -> Vec<Oid> {
        oids(&self.base)
    }

    pub(crate) fn set_base(&mut self, base: &[Oid], remaining: u32) {
        self.base = base.iter().map(Oid::to_string).collect();
        self.remaining = remaining;
    }

    pub(crate) fn done(&self) -> Vec<Oid> {
        oids(&self.done)
    }

    pub(crate) fn add_done(&mut self, tips: &[Oid]) {
        self.done.extend(tips.iter().map(Oid::to_string));
    }

    /// Remembers it for the next run.
    pub(crate) fn write(&self, store: &dyn Store) -> Result<(), MirrorError> {
        let file = serde_json::to_vec(self).expect("strings and numbers are always JSON");
        store.put(&key(KEY), &file, ObjectHeaders::changing("application/json"), None)?;
        Ok(())
    }

    /// Refs are published: nobody needs it.
    pub(crate) fn forget(store: &dyn Store) {
        if let Err(error) = store.delete(&[key(KEY)]) {
            log::warn!("published, but {error}");
        }
    }
}

fn oids(texts: &[String]) -> Vec<Oid> {
    texts.iter().filter_map(|text| Oid::from_hex(text.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn what_was_written_is_read_and_anything_else_begins_anew() {
        let store = MemoryStore::new();
        let oid: Oid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".parse().unwrap();
        let mut slices = Slices::read(&store, "https://a", ObjectFormat::Sha1).unwrap();
        assert!(!slices.is_begun());
        slices.set_want(oid, 9);
        slices.set_base(&[oid], 7);
        slices.add_done(&[oid]);
        slices.packs.push(format!("pack-{oid}"));
        slices.pace = Pace { step: 5, most_bytes: 700, is_cut: true };
        slices.write(&store).unwrap();
        let read = Slices::read(&store, "https://a", ObjectFormat::Sha1).unwrap();
        assert_eq!((read.want(), read.remaining), (Some(oid), 7));
        assert_eq!((read.base(), read.done(), read.packs.len()), (vec![oid], vec![oid], 1));
        let Pace { step, most_bytes, is_cut } = read.pace;
        assert_eq!((step, most_bytes, is_cut), (5, 700, true));
        assert!(!Slices::read(&store, "https://b", ObjectFormat::Sha1).unwrap().is_begun());
        assert!(!Slices::read(&store, "https://a", ObjectFormat::Sha256).unwrap().is_begun());
        slices.packs.push("pack-../../HEAD".into());
        slices.write(&store).unwrap();
        assert!(!Slices::read(&store, "https://a", ObjectFormat::Sha1).unwrap().is_begun());
        store.put(&key(KEY), b"{", ObjectHeaders::changing("application/json"), None).unwrap();
        assert!(!Slices::read(&store, "https://a", ObjectFormat::Sha1).unwrap().is_begun());
        Slices::forget(&store);
        assert!(store.keys().is_empty());
    }

    /// Slices of a history of `bytes` a generation through connections that last for `patience` bytes, of
    /// which a cut one hands over `seen` percent: how many come whole, and how many are cut.
    fn fetch(bytes: u64, generations: u64, patience: u64, seen: u64) -> (u32, u32) {
        let mut pace = Pace { step: 1, most_bytes: patience * seen / 100, is_cut: false };
        let (mut left, mut whole, mut cuts, mut in_a_row) = (generations, 0, 0, 0);
        while left > 0 {
            let step = u64::from(pace.step).min(left);
            if step * bytes > patience {
                in_a_row += 1;
                cuts += 1;
                pace.was_cut(patience * seen / 100, in_a_row > 1);
            } else {
                in_a_row = 0;
                whole += 1;
                left -= step;
                pace.came(step * bytes);
            }
            assert!(whole + cuts < 2000, "{pace:?}");
        }
        (whole, cuts)
    }

    #[test]
    fn slices_come_near_to_what_a_connection_lasts_for_and_few_are_cut() {
        for bytes in [50, 1_000, 7_000] {
            let (whole, cuts) = fetch(bytes, 150_000_000 / bytes, 8 << 20, 100);
            assert!(whole <= 44 && cuts <= 1, "{bytes}: {whole} slices, {cuts} cuts");
        }
        // As before, they are no longer than half of what a connection lasts for.
        let (whole, cuts) = fetch(1_000, 150_000, 8 << 20, 50);
        assert!(whole <= 60 && cuts == 0, "{whole} slices, {cuts} cuts");
    }

    #[test]
    fn slice_after_one_that_was_larger_than_expected_is_larger_too() {
        let mut pace = Pace { step: 100, most_bytes: 4_000_000, is_cut: false };
        pace.came(5_000_000);
        assert_eq!((pace.most_bytes, pace.aim(), pace.step), (5_000_000, 4_375_000, 87));
        pace.was_cut(3_000_000, false);
        assert_eq!((pace.most_bytes, pace.aim(), pace.step), (5_000_000, 3_750_000, 63));
        // A connection that lasts for less than before.
        pace.was_cut(1_000_000, true);
        assert_eq!((pace.most_bytes, pace.aim()), (2_500_000, 1_875_000));
        pace.was_cut(1_000_000, true);
        assert_eq!(pace.most_bytes, 1_250_000);
    }

    #[test]
    fn single_generation_is_never_made_smaller_and_nothing_overflows() {
        let mut pace = Pace { step: 1, most_bytes: 0, is_cut: false };
        pace.was_cut(0, false);
        assert_eq!(pace.step, 1);
        for (step, most_bytes) in [(u32::MAX, u64::MAX), (0, 0), (u32::MAX, 0), (1, u64::MAX)] {
            for received in [0, 1, u64::MAX] {
                let mut pace = Pace { step, most_bytes, is_cut: false };
                pace.came(received);
                assert!(pace.step >= 1);
                pace.was_cut(received, true);
                assert!(pace.step >= 1);
            }
        }
    }
}
