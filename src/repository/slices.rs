//! `mirror_state/slices.json`: how far a first fetch in slices has come, for the run after a killed one.
//!
//! The packs that it names are stored with their indices and listed; no ref is published yet. It is
//! deleted once refs are.

use serde::{Deserialize, Serialize};

use super::error::MirrorError;
use super::files::{self, key};
use super::packs;
use crate::git::object::Oid;
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
}

impl Slices {
    /// What runs before this one have stored of `source`.
    pub(crate) fn read(store: &dyn Store, source: &str) -> Result<Self, MirrorError> {
        let new = || Slices { source: source.to_owned(), ..Slices::default() };
        let Some((file, _)) = files::get(store, &key(KEY), None, MAX_BYTES)? else {
            return Ok(new());
        };
        let found = serde_json::from_slice::<Slices>(&file).ok();
        let found = found.filter(|found| found.source == source && found.is_sound());
        if found.is_none() {
            log::info!("{}/{KEY} is of another source: starting again", store.describe());
        }
        Ok(found.unwrap_or_else(new))
    }

    fn is_sound(&self) -> bool {
        let oid = |text: &String| Oid::from_hex(text.as_bytes()).is_some();
        let pack = |name: &String| {
            packs::parse_pack_list(format!("P {name}.pack\n").as_bytes())
                .is_ok_and(|n| n.len() == 1)
        };
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
        let mut slices = Slices::read(&store, "https://a").unwrap();
        assert!(!slices.is_begun());
        slices.set_want(oid, 9);
        slices.set_base(&[oid], 7);
        slices.add_done(&[oid]);
        slices.packs.push(format!("pack-{oid}"));
        slices.write(&store).unwrap();
        let read = Slices::read(&store, "https://a").unwrap();
        assert_eq!((read.want(), read.remaining), (Some(oid), 7));
        assert_eq!((read.base(), read.done(), read.packs.len()), (vec![oid], vec![oid], 1));
        assert!(!Slices::read(&store, "https://b").unwrap().is_begun());
        slices.packs.push("pack-../../HEAD".into());
        slices.write(&store).unwrap();
        assert!(!Slices::read(&store, "https://a").unwrap().is_begun());
        store.put(&key(KEY), b"{", ObjectHeaders::changing("application/json"), None).unwrap();
        assert!(!Slices::read(&store, "https://a").unwrap().is_begun());
        Slices::forget(&store);
        assert!(store.keys().is_empty());
    }
}
