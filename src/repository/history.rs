//! The refs of past publications, one key each: `mirror_state/refs/<UTC time>`.
//!
//! Kept for those mirrors of which `--keep-history` was asked; how long is in the state
//! (`keep_history_seconds`), so that gc knows it too. A snapshot is what was published *until* the next
//! one: it is out of date once its successor is older than that time, and never while it is the last. So
//! a branch that nobody has touched for years is kept for the full time after it was force-pushed.
//!
//! A key never changes. It holds a line with its checksum, `HEAD`, and `info/refs`, as these files were.
//! A run writes what it has published after it, and before it publishes, what was published and has no
//! snapshot yet (history has just begun, or a run was killed). Names are by the clock of the machine
//! that ran it; whether one is out of date is decided by the later of that and the store's time.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::error::MirrorError;
use super::files;
use super::listing;
use super::publish::max_file_bytes;
use crate::git::refs::{
    Advertisement, Head, head_file, info_refs, parse_head_file, parse_info_refs,
};
use crate::store::{Condition, Key, ObjectHeaders, ObjectInfo, Store, StoreError, StoreErrorKind};

/// The folder of snapshots.
pub(crate) const FOLDER: &str = "mirror_state/refs/";

/// What is said of a snapshot that the state has noted and that is not there.
const MISSING: &str = "missing: that publication is lost, and gc keeps everything until that is accepted \
                       (verify --repair)";

/// What the file begins with.
const MAGIC: &str = "mirror-git-to-s3 refs 1 ";

/// What a snapshot has beside an `info/refs`, at most.
const BESIDE_REFS_BYTES: u64 = 64 << 10;

const HEADERS: ObjectHeaders = ObjectHeaders::immutable("text/plain");

/// So many publications within a second have names of their own.
const MAX_NUMBER: u32 = 10_000;

const NAME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// A snapshot's name: when it was published, to the second, and which of that second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    at: OffsetDateTime,
    number: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.format(NAME).map_err(|_| fmt::Error)?;
        match self.number {
            1 => f.write_str(&at),
            number => write!(f, "{at}-{number}"),
        }
    }
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let (at, number) = match text.split_once('-') {
            None => (text, 1),
            Some((at, number)) => (at, number.parse().ok().filter(|number| *number > 1)?),
        };
        let at = time::PrimitiveDateTime::parse(at, NAME).ok()?.assume_utc();
        let name = Name { at, number };
        (name.to_string() == text).then_some(name)
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(format!("{FOLDER}{self}")).expect("digits and letters")
    }

    /// When it was published, RFC 3339.
    pub(crate) fn time(&self) -> String {
        self.at.format(&Rfc3339).unwrap_or_default()
    }
}

/// A snapshot that is stored, or that should be.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// By the store's clock.
    written: Option<SystemTime>,
}

impl Entry {
    pub(crate) fn key(&self) -> Key {
        self.name.key()
    }

    /// When it surely was there.
    fn since(&self) -> SystemTime {
        SystemTime::from(self.name.at).max(self.written.unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

/// Is there any snapshot, as far as can be listed?
pub(crate) fn is_kept(store: &dyn Store) -> Result<bool, MirrorError> {
    match store.list(FOLDER, None) {
        Ok(page) => Ok(!page.objects.is_empty()),
        Err(error)
            if matches!(error.kind, StoreErrorKind::Unsupported | StoreErrorKind::Denied) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// All snapshots, the oldest first, and those `noted` that are missing: to [`read`] they are.
pub(crate) fn list(
    store: &dyn Store,
    noted: impl IntoIterator<Item = Name>,
) -> Result<Vec<Entry>, MirrorError> {
    let mut entries = Vec::new();
    listing::pages(store, FOLDER, |page| {
        entries.extend(page.into_iter().filter_map(
            |ObjectInfo { key, len, last_modified, .. }| {
                let name = Name::parse(key.as_str().strip_prefix(FOLDER)?)?;
                Some(Entry { name, len, written: last_modified })
            },
        ));
        Ok::<_, MirrorError>(())
    })?;
    let stored: HashSet<Name> = entries.iter().map(|entry| entry.name).collect();
    let missing = noted.into_iter().filter(|name| !stored.contains(name));
    entries.extend(missing.map(|name| Entry { name, len: 0, written: None }));
    entries.sort_by_key(|entry| entry.name);
    Ok(entries)
}

/// Divides snapshots into those that are kept and those that are out of date. `keep` is zero where
/// history is not kept.
pub(crate) fn divide(
    entries: Vec<Entry>,
    keep: Duration,
    now: SystemTime,
) -> (Vec<Entry>, Vec<Entry>) {
    let until: Vec<_> =
        entries.iter().skip(1).map(|next| Some(next.since())).chain([None]).collect();
    let is_kept = |until: &Option<SystemTime>| match until {
        _ if keep.is_zero() => false,
        None => true,
        Some(until) => now.duration_since(*until).map_or(true, |age| age < keep),
    };
    let (kept, old): (Vec<_>, Vec<_>) =
        entries.into_iter().zip(until).partition(|(_, until)| is_kept(until));
    let strip = |pairs: Vec<(Entry, _)>| pairs.into_iter().map(|(entry, _)| entry).collect();
    (strip(kept), strip(old))
}

/// The most bytes of a snapshot that are read with so much working memory.
pub(crate) fn max_bytes(memory_bytes: u64) -> u64 {
    max_file_bytes(memory_bytes) + BESIDE_REFS_BYTES
}

/// What was published then. The inner error: what is wrong with the file, or that `memory_bytes` are not
/// enough for it ([`max_bytes`]).
pub(crate) fn read(
    store: &dyn Store,
    entry: &Entry,
    memory_bytes: u64,
) -> Result<Result<Advertisement, String>, StoreError> {
    let max_bytes = max_bytes(memory_bytes);
    if entry.len > max_bytes {
        let (len, mib) = (entry.len, memory_bytes >> 20);
        return Ok(Err(format!("it has {len} bytes, more than --memory {mib} allows")));
    }
    Ok(match files::get(store, &entry.key(), None, max_bytes)? {
        Some((file, _)) => parse(&file).map_err(|what| {
            format!("{what}: that publication is lost; delete the key, then verify --repair")
        }),
        None => Err(MISSING.into()),
    })
}

fn parse(file: &[u8]) -> Result<Advertisement, String> {
    let line = |bytes: &'_ [u8]| bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    let cut = || "it is truncated".to_owned();
    let (first, rest) = file.split_at(line(file).ok_or_else(cut)?);
    let sum = first.strip_prefix(MAGIC.as_bytes()).ok_or("it is not a snapshot of refs")?;
    if sum.trim_ascii_end() != checksum(rest).as_bytes() {
        return Err("its checksum is wrong".into());
    }
    let (head, refs) = rest.split_at(line(rest).ok_or_else(cut)?);
    let refs = parse_info_refs(refs).map_err(|error| error.to_string())?;
    let head = match head.trim_ascii_end() {
        b"" => Head::Absent,
        _ => parse_head_file(head, &refs).map_err(|error| error.to_string())?,
    };
    Ok(Advertisement::of(refs, head))
}

fn write(of: &Advertisement) -> Vec<u8> {
    let mut rest = head_file(&of.head).unwrap_or_else(|| b"\n".to_vec());
    rest.extend(info_refs(&of.refs));
    let mut file = format!("{MAGIC}{}\n", checksum(&rest)).into_bytes();
    file.extend(rest);
    file
}

fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes what has just been published.
pub(crate) fn note(store: &dyn Store, published: &Advertisement) -> Result<Name, StoreError> {
    let at = OffsetDateTime::now_utc();
    let at = at.replace_nanosecond(0).unwrap_or(at);
    let file = write(published);
    let mut last = None;
    for number in 1..=MAX_NUMBER {
        let name = Name { at, number };
        // Some stores ignore conditions without a word.
        if store.head(&name.key())?.is_some() {
            continue;
        }
        match store.put(&name.key(), &file, HEADERS, Some(&Condition::Absent)) {
            Ok(_) => return Ok(name),
            Err(error) if error.kind == StoreErrorKind::Unsupported => {
                store.put(&name.key(), &file, HEADERS, None)?;
                return Ok(name);
            }
            // Another run, or our own write whose answer was lost: the next name is free.
            Err(error) if error.kind == StoreErrorKind::ConditionFailed => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let words = "too many publications within one second";
    let too_many = || StoreError::new(StoreErrorKind::Other, "put", store.describe(), words);
    Err(last.unwrap_or_else(too_many))
}

/// Before other refs are published: sees to it that those that are have a snapshot. The names of all that
/// are there.
pub(crate) fn note_published(
    store: &dyn Store,
    published: &Advertisement,
) -> Result<Vec<Name>, MirrorError> {
    let file = write(published);
    let is_noted = |last: &Entry| {
        // Another length is another file.
        Ok::<_, MirrorError>(
            last.len == file.len() as u64
                && files::get(store, &last.key(), None, last.len)?
                    .is_some_and(|(stored, _)| stored == file),
        )
    };
    let stored = list(store, [])?;
    let mut names: Vec<Name> = stored.iter().map(|entry| entry.name).collect();
    if match stored.last() {
        Some(last) => !is_noted(last)?,
        None => true,
    } {
        names.push(note(store, published)?);
    }
    Ok(names)
}

/// Writes a damaged snapshot again if it was of what is published now. Its checksum says so, or all that
/// follows it.
pub(crate) fn mend(
    store: &dyn Store,
    key: &Key,
    published: &Advertisement,
    memory_bytes: u64,
) -> Result<bool, StoreError> {
    let max_bytes = max_bytes(memory_bytes);
    if store.head(key)?.is_none_or(|info| info.len > max_bytes) {
        return Ok(false);
    }
    let Some((damaged, _)) = files::get(store, key, None, max_bytes)? else { return Ok(false) };
    let right = write(published);
    let line = right.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let is_that =
        damaged.starts_with(&right[..line]) || damaged.get(line..) == Some(&right[line..]);
    if is_that {
        store.put(key, &right, HEADERS, None)?;
    }
    Ok(is_that)
}

/// The snapshot that `at` names: its own name, or a time as RFC 3339 has it, at which it was what was
/// published. The error says why there is none.
pub(crate) fn find<'e>(entries: &'e [Entry], at: &str) -> Result<&'e Entry, String> {
    if let Some(name) = Name::parse(at) {
        let found = entries.iter().find(|entry| entry.name == name);
        return found.ok_or_else(|| format!("there is no publication {at}"));
    }
    let time = OffsetDateTime::parse(at, &Rfc3339).map_err(|_| {
        format!("{at:?} is neither a time such as 2026-11-24T13:31:31Z nor a publication")
    })?;
    let found = entries.iter().rev().find(|entry| entry.name.at <= time);
    found.ok_or_else(|| match entries.first() {
        Some(first) => format!("the oldest publication kept is {}", first.name.time()),
        None => "no publications are kept: mirror with --keep-history".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::object::Oid;
    use crate::git::refs::{Ref, RefName};
    use crate::store::memory::{Fault, MemoryStore, Operation};

    fn refs(byte: u8) -> Advertisement {
        let name = RefName::new("refs/heads/main").unwrap();
        let (oid, peeled) = (Oid::from_bytes([byte; 20]), None);
        let refs = vec![Ref { name: name.clone(), oid, peeled }];
        Advertisement::of(refs, Head::Branch(name))
    }

    fn read_back(store: &MemoryStore, name: Name) -> Result<Advertisement, String> {
        let listed = list(store, []).unwrap();
        read(store, listed.iter().find(|entry| entry.name == name).unwrap(), 8 << 20).unwrap()
    }

    fn names(store: &MemoryStore) -> Vec<String> {
        list(store, []).unwrap().iter().map(|entry| entry.name.to_string()).collect()
    }

    #[test]
    fn publications_of_one_second_have_names_of_their_own_in_their_order() {
        let store = MemoryStore::new();
        let written: Vec<Name> = (0..12).map(|byte| note(&store, &refs(byte)).unwrap()).collect();
        let listed = list(&store, []).unwrap();
        assert_eq!(listed.iter().map(|entry| entry.name).collect::<Vec<_>>(), written);
        for (byte, name) in (0..12).zip(written) {
            assert_eq!(read_back(&store, name), Ok(refs(byte)));
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn store_that_knows_no_conditions_is_written_to_all_the_same() {
        let store = MemoryStore::new();
        let unsupported = || Fault::new(StoreErrorKind::Unsupported).on(Operation::Put).times(1);
        for byte in 0..3 {
            store.inject(unsupported());
            note(&store, &refs(byte)).unwrap();
        }
        assert_eq!(names(&store).len(), 3);
    }

    #[test]
    fn write_whose_answer_was_lost_and_that_is_repeated_loses_nothing() {
        let store = MemoryStore::new();
        store.inject(Fault::new(StoreErrorKind::ConditionFailed).on(Operation::Put).after_effect());
        let name = note(&store, &refs(1)).unwrap();
        assert_eq!(read_back(&store, name), Ok(refs(1)));
    }

    #[test]
    fn no_cut_and_no_flip_of_a_snapshot_is_believed() {
        let file = write(&refs(7));
        assert_eq!(parse(&file), Ok(refs(7)));
        for at in 0..file.len() {
            assert!(parse(&file[..at]).is_err(), "cut at {at}");
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(parse(&flipped).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn snapshot_that_is_too_long_for_the_memory_is_not_read() {
        let store = MemoryStore::new();
        note(&store, &refs(1)).unwrap();
        let entry = &list(&store, []).unwrap()[0];
        let larger = Entry { len: max_bytes(8 << 20) + 1, ..entry.clone() };
        let refused = read(&store, &larger, 8 << 20).unwrap().unwrap_err();
        assert!(refused.contains("more than --memory 8 allows"), "{refused}");
        assert_eq!(read(&store, entry, 8 << 20).unwrap(), Ok(refs(1)));
    }

    #[test]
    fn what_is_noted_already_is_not_noted_again_and_what_is_damaged_is() {
        let store = MemoryStore::new();
        let name = note(&store, &refs(1)).unwrap();
        note_published(&store, &refs(1)).unwrap();
        assert_eq!(names(&store).len(), 1);
        note_published(&store, &refs(2)).unwrap();
        assert_eq!(names(&store).len(), 2);
        let last = list(&store, []).unwrap().last().unwrap().name;
        let mut damaged = write(&refs(2));
        *damaged.last_mut().unwrap() ^= 1;
        store.put(&last.key(), &damaged, HEADERS, None).unwrap();
        note_published(&store, &refs(2)).unwrap();
        assert_eq!(names(&store).len(), 3);
        assert_eq!(read_back(&store, name), Ok(refs(1)));
    }

    #[test]
    fn heads_of_every_kind_come_back() {
        let heads = [
            Head::Absent,
            Head::Detached(Oid::from_bytes([3; 20])),
            Head::Unborn(RefName::new("refs/heads/none").unwrap()),
        ];
        for head in heads {
            let wanted = Advertisement { head, ..refs(2) };
            assert_eq!(parse(&write(&wanted)), Ok(wanted));
        }
    }

    #[test]
    fn snapshot_is_kept_so_long_after_the_next_one_and_the_last_for_ever() {
        let day = Duration::from_secs(24 * 3600);
        let now = SystemTime::now();
        let entry = |days: u32| Entry {
            name: Name { at: OffsetDateTime::from(now - days * day), number: 1 },
            len: 0,
            written: None,
        };
        let ages = |entries: &[Entry]| -> Vec<u64> {
            let age = |entry: &Entry| now.duration_since(entry.since()).unwrap().as_secs() / 86400;
            entries.iter().map(age).collect()
        };
        let all = || [400, 300, 100, 80].map(entry).to_vec();
        let (kept, old) = divide(all(), 90 * day, now);
        assert_eq!((ages(&kept), ages(&old)), (vec![100, 80], vec![400, 300]));
        let (kept, old) = divide(all(), 10 * day, now);
        assert_eq!((ages(&kept), ages(&old)), (vec![80], vec![400, 300, 100]));
        let (kept, old) = divide(all(), Duration::ZERO, now);
        assert_eq!((kept.len(), old.len()), (0, 4));
        // The store says that the next one came later than its name does.
        let mut late = all();
        late[2].written = Some(now - 20 * day);
        assert_eq!(ages(&divide(late, 90 * day, now).0), [300, 20, 80]);
    }

    #[test]
    fn time_finds_what_was_published_then() {
        let at = |text: &str| Entry { name: Name::parse(text).unwrap(), len: 0, written: None };
        let entries = ["20260101T000000Z", "20260102T000000Z", "20260102T000000Z-2"].map(at);
        let found = |at: &str| find(&entries, at).map(|entry| entry.name.to_string());
        for (at, wanted) in [
            ("20260102T000000Z", "20260102T000000Z"),
            ("2026-01-02T00:00:00Z", "20260102T000000Z-2"),
            ("2026-01-02T00:59:59+01:00", "20260101T000000Z"),
            ("2027-01-01T00:00:00Z", "20260102T000000Z-2"),
        ] {
            assert_eq!(found(at).as_deref(), Ok(wanted), "{at}");
        }
        for (at, words) in [
            ("2025-12-31T23:59:59Z", "the oldest publication kept is 2026-01-01"),
            ("20260103T000000Z", "there is no publication 20260103T000000Z"),
            ("yesterday", "neither a time such as"),
            ("20260102T000000Z-1", "neither a time such as"),
        ] {
            assert!(found(at).unwrap_err().contains(words), "{at}: {:?}", found(at));
        }
    }
}
