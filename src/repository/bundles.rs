//! The bundles beside a mirror's packs: `clone.bundle`, `bundles/` and the list of them, `bundle-list`
//! (gitformat-bundle(5), git's `Documentation/technical/bundle-uri`).
//!
//! Each bundle has one pack of the mirror, byte for byte, behind a header of its own. `clone.bundle`
//! has everything up to some publication; each further one what a later publication brought, and names
//! what a reader must have for it. `bundle-list` names them with rising creation tokens, so that git
//! downloads those alone that it has not seen. A list that can't be understood counts as none: bundles
//! are made again from the packs.

use std::io::{self, BufReader};

use super::error::MirrorError;
use super::files::{self, key};
use crate::git::bundle::{BundleHeader, read_header};
use crate::store::{Key, ObjectHeaders, Store};

/// The key of the list, and where a reader finds all of it: `git clone --bundle-uri=URL/bundle-list`.
pub(crate) const LIST: &str = "bundle-list";

/// The key of the bundle that has everything.
pub(crate) const WHOLE: &str = "clone.bundle";

/// The others are below this.
pub(crate) const FOLDER: &str = "bundles/";

/// What bundles are stored with: `clone.bundle` changes.
pub(crate) const BUNDLE: ObjectHeaders = ObjectHeaders::changing("application/octet-stream");

const TEXT: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// Lists of ours have a hundred bytes a bundle, and as many bundles as the mirror has packs.
pub(crate) const MAX_LIST_BYTES: u64 = 1 << 20;

/// One bundle of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `pack-` and the trailer of the pack that it has.
    pub(crate) pack: String,
    pub(crate) is_whole: bool,
    /// Rises along the list.
    pub(crate) token: u64,
}

impl Entry {
    pub(crate) fn key(&self) -> Key {
        match self.is_whole {
            true => key(WHOLE),
            false => Key::new(format!("{FOLDER}{}.bundle", self.pack)).expect("a pack's name"),
        }
    }
}

/// The pack that a key below [`FOLDER`] is named after.
pub(crate) fn pack_of_key(key: &str) -> Option<&str> {
    let name = key.strip_prefix(FOLDER)?.strip_suffix(".bundle")?;
    is_pack_name(name).then_some(name)
}

fn is_pack_name(name: &str) -> bool {
    name.strip_prefix("pack-").is_some_and(|hex| hex.parse::<crate::git::object::Oid>().is_ok())
}

/// The bundles that are listed; `None`: there is no list, or none of ours.
pub(crate) fn read(store: &dyn Store) -> Result<Option<Vec<Entry>>, MirrorError> {
    let found = files::get(store, &key(LIST), None, MAX_LIST_BYTES)?;
    Ok(found.and_then(|(file, _)| parse(&file)))
}

pub(crate) fn write(store: &dyn Store, entries: &[Entry]) -> Result<(), MirrorError> {
    store.put(&key(LIST), file(entries).as_bytes(), TEXT, None)?;
    Ok(())
}

fn file(entries: &[Entry]) -> String {
    let head = "[bundle]\n\tversion = 1\n\tmode = all\n\theuristic = creationToken\n";
    let bundle = |entry: &Entry| {
        let Entry { pack, token, .. } = entry;
        format!("\n[bundle \"{pack}\"]\n\turi = {}\n\tcreationToken = {token}\n", entry.key())
    };
    entries.iter().map(bundle).fold(head.to_owned(), |file, bundle| file + &bundle)
}

/// Only what [`file`] writes: the rest of git's configuration language means nothing here.
pub(crate) fn parse(list: &[u8]) -> Option<Vec<Entry>> {
    let text = std::str::from_utf8(list).ok()?;
    let mut entries = Vec::new();
    for section in text.split("\n[bundle \"").skip(1) {
        let (pack, rest) = section.split_once("\"]\n")?;
        let mut lines = rest.lines();
        let uri = lines.next()?.strip_prefix("\turi = ")?;
        let token = lines.next()?.strip_prefix("\tcreationToken = ")?.parse().ok()?;
        let entry = Entry { pack: pack.to_owned(), is_whole: uri == WHOLE, token };
        entries.push(entry);
    }
    let is_ours = file(&entries) == text
        && entries.iter().all(|entry| is_pack_name(&entry.pack))
        && entries.first()?.is_whole
        && entries.iter().skip(1).all(|entry| !entry.is_whole)
        && entries.is_sorted_by(|a, b| a.token < b.token);
    is_ours.then_some(entries)
}

/// What a bundle says before its pack, which has no more than `max_bytes`, and how many bytes that is.
pub(crate) fn header(
    store: &dyn Store,
    bundle: &Key,
    max_bytes: u64,
) -> io::Result<(BundleHeader, u64)> {
    let stream = store.open(bundle, 0).map_err(io::Error::other)?;
    let mut stream = Counted { stream: BufReader::new(stream), read: 0 };
    let header = read_header(&mut stream, max_bytes).map_err(io::Error::other)?;
    Ok((header, stream.read))
}

/// Counts what is consumed.
struct Counted<S> {
    stream: S,
    read: u64,
}

impl<S: io::BufRead> io::Read for Counted<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(bytes)?;
        self.read += read as u64;
        Ok(read)
    }
}

impl<S: io::BufRead> io::BufRead for Counted<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount as u64;
        self.stream.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digit: u8, token: u64) -> Entry {
        let hex = format!("{digit:x}").repeat(40);
        Entry { pack: format!("pack-{hex}"), is_whole: digit == 0, token }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let entries = [entry(0, 7), entry(1, 8), entry(2, 11)];
        let text = file(&entries);
        assert_eq!(parse(text.as_bytes()).as_deref(), Some(&entries[..]));
        assert_eq!(parse(file(&entries[..1]).as_bytes()).as_deref(), Some(&entries[..1]));
        for cut in 0..text.len() {
            // Where a section ends, the list has ended.
            let is_whole = cut == file(&entries[..1]).len() || cut == file(&entries[..2]).len();
            assert_eq!(parse(&text.as_bytes()[..cut]).is_some(), is_whole, "{cut}");
        }
        for wrong in [
            file(&[entry(1, 1)]),
            file(&[entry(0, 2), entry(1, 2)]),
            file(&[entry(0, 2), entry(0, 3)]),
            file(&[Entry { pack: "pack-../x".into(), ..entry(0, 1) }]),
            text.replace("mode = all", "mode = any"),
            text.replace("clone.bundle", "https://example.com/clone.bundle"),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn keys_tell_their_packs() {
        let entry = entry(3, 1);
        assert_eq!(pack_of_key(entry.key().as_str()), Some(&*entry.pack));
        for other in ["clone.bundle", "bundles/x.bundle", "bundles/pack-1.bundle", "bundle-list"] {
            assert_eq!(pack_of_key(other), None, "{other}");
        }
    }
}
