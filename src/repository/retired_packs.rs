//! When packs have left the list, so that `gc` keeps them for the readers who hold an old one.
//!
//! A pack's LastModified tells the age of its bytes, not how long it is unlisted: a pack of last year
//! that a new one stands for since a minute ago is still being read. So whoever takes packs off the
//! list says so first, in a key of its own ([`note`]): one line a pack. That key's LastModified is
//! the time. gc deletes it once it is older than the grace period, and the packs with it.

use std::collections::HashMap;
use std::time::SystemTime;

use super::packs::MAX_LIST_BYTES;
use super::{files, listing};
use crate::git::object::Oid;
use crate::store::{Key, ObjectHeaders, Store, StoreError, StoreErrorKind};

const PREFIX: &str = "mirror_state/replaced/";

const PLAIN: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// What all notes may have together: 8,000 compactions without a gc. 180,000 names take 50 MB.
const MAX_NOTES_BYTES: u64 = 8 << 20;

/// Says that `replaced` are about to leave the list, because `new` stands for them.
pub(crate) fn note(store: &dyn Store, new: &str, replaced: &[String]) -> Result<(), StoreError> {
    let key = Key::new(format!("{PREFIX}{new}")).expect("pack- and hexadecimal digits");
    let lines: String = replaced.iter().map(|name| format!("{name}\n")).collect();
    store.put(&key, lines.as_bytes(), PLAIN, None)?;
    Ok(())
}

/// What has left the list, by what was noted.
#[derive(Default)]
pub(crate) struct RetiredPacks {
    since: HashMap<String, SystemTime>,
    /// By pack, the packs that stand for it.
    by: HashMap<String, Vec<String>>,
    notes: Vec<(Key, SystemTime)>,
}

impl RetiredPacks {
    pub(crate) fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let mut found = RetiredPacks::default();
        let mut bytes = 0;
        listing::pages(store, PREFIX, |page| {
            for info in page {
                let name = info.key.as_str().strip_prefix(PREFIX);
                // What is no note of ours is neither read nor ever deleted.
                let new = name.and_then(|name| pack_name(name.as_bytes()));
                let (Some(new), Some(at)) = (new, info.last_modified) else { continue };
                // Another gc may have just deleted it.
                let file = files::get(store, &info.key, None, MAX_LIST_BYTES)?;
                let Some((file, _)) = file else { continue };
                bytes += file.len() as u64;
                if bytes > MAX_NOTES_BYTES {
                    let what = format!(
                        "the notes of replaced packs have more than {MAX_NOTES_BYTES} bytes together; \
                         check what else writes below {PREFIX}"
                    );
                    let target = format!("{}/{}", store.describe(), info.key);
                    return Err(StoreError::new(StoreErrorKind::Other, "read", target, what));
                }
                for name in file.split(|byte| *byte == b'\n').filter_map(pack_name) {
                    found.by.entry(name.clone()).or_default().push(new.clone());
                    let since = found.since.entry(name).or_insert(at);
                    *since = at.max(*since);
                }
                found.notes.push((info.key, at));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Since when a pack is not listed, if that was noted.
    pub(crate) fn since(&self, name: &str) -> Option<SystemTime> {
        self.since.get(name).copied()
    }

    /// Does one of `listed` stand for this pack?
    pub(crate) fn is_replaced_by_one_of(&self, name: &str, listed: &[String]) -> bool {
        self.by.get(name).is_some_and(|by| by.iter().any(|new| listed.contains(new)))
    }

    /// Notes of which `is_old` says so.
    pub(crate) fn old_notes(&self, is_old: impl Fn(SystemTime) -> bool) -> Vec<Key> {
        self.notes.iter().filter(|(_, at)| is_old(*at)).map(|(key, _)| key.clone()).collect()
    }
}

fn pack_name(line: &[u8]) -> Option<String> {
    let trailer = Oid::from_hex(line.strip_prefix(b"pack-")?)?;
    Some(format!("pack-{trailer}"))
}
