//! Which loose objects are in a pack, too, and since when.
//!
//! Compaction packs loose objects that have piled up. They stay loose for the readers that hold an
//! old list of packs, and for those that fetch often and need nothing else. When they may go is noted
//! beside: the key [`PREFIX`]`<pack>` holds their names, a line each, and its LastModified is the time.
//! A note counts only while its pack is listed; when the pack becomes part of another, so does the note.

use std::time::SystemTime;

use super::{files, listing, packs};
use crate::git::object::Oid;
use crate::git::oids::OidList;
use crate::store::{Key, ObjectHeaders, Store, StoreError};

const PREFIX: &str = "mirror_state/packed/";

const PLAIN: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// A million objects are 41 MB, or 65 with SHA-256.
const MAX_NOTE_BYTES: u64 = 64 << 20;

/// Loose objects that are in a pack.
pub(crate) struct Note {
    pub(crate) key: Key,
    /// `pack-<hex>`.
    pub(crate) pack: String,
    pub(crate) written: Option<SystemTime>,
    pub(crate) oids: OidList,
}

/// All notes.
pub(crate) fn read(store: &dyn Store) -> Result<Vec<Note>, StoreError> {
    let mut notes = Vec::new();
    listing::pages(store, PREFIX, |page| {
        for info in page {
            // What is no note of ours is neither read nor ever deleted.
            let name = info.key.as_str().strip_prefix(PREFIX);
            let Some(trailer) = name.and_then(packs::trailer_of) else { continue };
            let file = files::get(store, &info.key, None, MAX_NOTE_BYTES)?;
            let Some((file, _)) = file else { continue };
            let mut oids = OidList::default();
            let lines = file.split(|byte| *byte == b'\n').filter_map(Oid::from_hex);
            lines.for_each(|oid| oids.push(&oid));
            let (pack, written) = (format!("pack-{trailer}"), info.last_modified);
            notes.push(Note { key: info.key, pack, written, oids });
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(notes)
}

/// Notes that the loose objects `oids` are in `pack`.
pub(crate) fn write(
    store: &dyn Store,
    pack: &str,
    oids: impl Iterator<Item = Oid>,
) -> Result<(), StoreError> {
    let key = Key::new(format!("{PREFIX}{pack}")).expect("pack- and hexadecimal digits");
    let lines: String = oids.map(|oid| format!("{oid}\n")).collect();
    store.put(&key, lines.as_bytes(), PLAIN, None).map(drop)
}
