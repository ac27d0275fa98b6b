//! `mirror_state/state.json`: for operators, what was published last, from where and by what.
//!
//! Written before a run stores anything that must not stay (`begun`), after each publication, and by a
//! run with nothing new only if it does not describe what is published (the last write failed) or
//! names runs that are over. It is not the foundation: if it cannot be written that is a
//! warning, because the refs are published already. But it is a second witness. An empty `info/refs`
//! can be damage, or a cache's empty answer; [`crate::mirror`] and [`crate::maintain`] believe it only
//! if the state agrees.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::MirrorError;
use super::files;
use super::history::Name;
use super::holds::Holds;
use super::layout::LayoutOption;
use super::publish::{MAX_HEAD_BYTES, MAX_REFS_BYTES, Published};
use crate::git::object::ObjectFormat;
use crate::git::refs::{
    Advertisement, Head, Ref, format_of, head_file, info_refs, parse_head_file, parse_info_refs,
};
use crate::source::Source;
use crate::store::{Condition, ETag, ObjectHeaders, Store, StoreError, StoreErrorKind};

/// The key below the target's prefix.
pub const KEY: &str = "mirror_state/state.json";

/// Ours has under 1 KiB.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// What the last run to publish has recorded. Fields that an older program did not write are `None`.
#[derive(Debug)]
pub(crate) struct Recorded {
    known: Known,
    pub(crate) refs: Option<usize>,
    file: File,
}

#[derive(Debug, Deserialize)]
struct Known {
    source: Option<String>,
    repository: Option<String>,
    refs: Option<usize>,
    ref_fingerprint: Option<String>,
    object_format: Option<String>,
    #[serde(alias = "lfs_lacking")]
    lfs_missing: Option<usize>,
    loose_objects: Option<u64>,
    bundled_refs: Option<String>,
    keep_history_seconds: Option<u64>,
    published_at: Option<String>,
    layout: Option<String>,
    holds: Option<Holds>,
    tool: Option<String>,
    checksum: Option<Checksum>,
    #[serde(default)]
    snapshots: Vec<String>,
    #[serde(default)]
    writing: Vec<Begun>,
}

/// The file's own checksum, so that a flipped bit is not believed. An older program leaves it as it was
/// and writes its own version: then it says nothing.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Checksum {
    /// The field `tool` beside it.
    tool: Option<String>,
    /// Of all other fields, as JSON without spaces, sorted by name.
    sha256: String,
}

impl Checksum {
    /// For the other fields of the file.
    fn of(fields: &Map<String, Value>) -> Self {
        let mut fields = fields.clone();
        fields.remove(CHECKSUM);
        let bytes = serde_json::to_vec(&fields).expect("what was JSON stays to be it");
        let tool = fields.get("tool").and_then(Value::as_str).map(str::to_owned);
        Checksum { tool, sha256: hex_of_sha256(&[&bytes]) }
    }
}

/// A run that has begun to write, and has not said that it has ended.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) run: String,
    /// RFC 3339, by the clock of the machine that runs it.
    pub(crate) begun: String,
}

/// The file as it was read, to be changed and written back.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    fields: Map<String, Value>,
    stored: Stored,
}

/// What is known of the file that is stored.
#[derive(Clone, Debug, Default, PartialEq)]
enum Stored {
    #[default]
    Unknown,
    Absent,
    As(Option<ETag>),
}

/// Runs that write the file at the same moment make each other look again.
const TRIES: u32 = 10;

const HEADERS: ObjectHeaders = ObjectHeaders::changing("application/json");

/// Fields of [`State`].
const REFS: &str = "refs";
const FINGERPRINT: &str = "ref_fingerprint";

/// The [`fingerprint`] of the refs that the bundles have.
const BUNDLED: &str = "bundled_refs";

/// The field of a [`Checksum`].
const CHECKSUM: &str = "checksum";

/// Names of the past publications that must be there.
const SNAPSHOTS: &str = "snapshots";

/// Of so many publications the names are kept, the newest: 60 KB.
const MAX_SNAPSHOTS: usize = 2000;

/// The field of [`Begun`] runs.
pub(crate) const WRITING: &str = "writing";

impl File {
    /// For a target of which no state could be read.
    pub(crate) fn absent() -> Self {
        File { stored: Stored::Absent, ..File::default() }
    }

    fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let Some((file, etag)) = files::get(store, &files::key(KEY), None, MAX_STATE_BYTES)? else {
            return Ok(File::absent());
        };
        let fields = serde_json::from_slice(&file).unwrap_or_default();
        Ok(File { fields, stored: Stored::As(etag) })
    }

    /// Does it describe the refs that are published? If not, another run has published after the one
    /// that wrote it, and may have written its state before: then what is published is described.
    pub(crate) fn settle(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            // A run that has never published says nothing of what is.
            let Some(said) = self.fields.get(FINGERPRINT) else { return Ok(()) };
            let (refs, fingerprint) = fingerprint_of_published(store)?;
            if said.as_str() == Some(&fingerprint) {
                return Ok(());
            }
            self.update(store, |state| {
                state.insert(FINGERPRINT.into(), fingerprint.as_str().into());
                state.insert(REFS.into(), refs.into());
            })?;
        }
        Ok(())
    }

    /// Deletes a file that says nothing.
    pub(crate) fn delete_if_empty(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if self.fields.is_empty() {
            store.delete(&[files::key(KEY)])?;
            *self = File::absent();
        }
        Ok(())
    }

    /// Writes the file with what `edit` makes of it, on top of what others have written meanwhile
    /// where the store knows conditions.
    pub(crate) fn update(
        &mut self,
        store: &dyn Store,
        edit: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), StoreError> {
        let key = files::key(KEY);
        for tries in 0.. {
            let mut fields = self.fields.clone();
            edit(&mut fields);
            fields.remove(CHECKSUM);
            if !fields.is_empty() {
                fields.insert(CHECKSUM.into(), serde_json::json!(Checksum::of(&fields)));
            }
            let mut file =
                serde_json::to_vec_pretty(&fields).expect("what was JSON stays to be it");
            file.push(b'\n');
            let condition = match &self.stored {
                Stored::Absent => Some(Condition::Absent),
                Stored::As(Some(etag)) => Some(Condition::Matches(etag.clone())),
                Stored::As(None) | Stored::Unknown => None,
            };
            let condition = condition.filter(|_| tries < TRIES);
            match store.put(&key, &file, HEADERS, condition.as_ref()) {
                Ok(etag) => {
                    *self = File { fields, stored: Stored::As(etag) };
                    return Ok(());
                }
                Err(error) if error.kind == StoreErrorKind::ConditionFailed => {
                    let unknown = || File { stored: Stored::Unknown, ..self.clone() };
                    let mut now = match File::read(store) {
                        Err(error) if error.kind == StoreErrorKind::Denied => unknown(),
                        now => now?,
                    };
                    // Nobody has written: this store refuses what is right.
                    if now.stored == self.stored {
                        now.stored = Stored::Unknown;
                    }
                    *self = now;
                }
                Err(error) if error.kind == StoreErrorKind::Unsupported && condition.is_some() => {
                    self.stored = Stored::Unknown;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try has no condition")
    }
}

impl Recorded {
    /// `None`: there is no state.
    pub(crate) fn read(store: &dyn Store) -> Result<Option<Self>, MirrorError> {
        let (file, etag) = match files::get(store, &files::key(KEY), None, MAX_STATE_BYTES) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // S3 answers 403 for a missing key to those who may not list.
            Err(error) if error.kind == StoreErrorKind::Denied => {
                log::warn!("cannot compare with the last run's state: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: &dyn std::fmt::Display| {
            MirrorError::Mirror(format!(
                "{}/{KEY} is damaged ({what}); check for a cache that answers instead of the store; \
                 verify --repair --source URL writes it again",
                store.describe()
            ))
        };
        if file.is_empty() {
            return Err(damaged(&"0 bytes"));
        }
        let known: Known = serde_json::from_slice(&file).map_err(|error| damaged(&error))?;
        let fields = serde_json::from_slice(&file).map_err(|error| damaged(&error))?;
        if let Some(checksum) = known.checksum.as_ref().filter(|sum| sum.tool == known.tool)
            && *checksum != Checksum::of(&fields)
        {
            return Err(damaged(&"its checksum is wrong"));
        }
        let file = File { fields, stored: Stored::As(etag) };
        Ok(Some(Recorded { refs: known.refs, known, file }))
    }

    /// The file that this was read from.
    pub(crate) fn file(&self) -> File {
        self.file.clone()
    }

    /// Runs that have begun to write and not said that they have ended.
    pub(crate) fn writing(&self) -> &[Begun] {
        &self.known.writing
    }

    /// How many LFS objects were missing when it was written.
    pub(crate) fn lfs_missing(&self) -> Option<usize> {
        self.known.lfs_missing
    }

    /// How many loose objects runs have stored since they were last packed.
    pub(crate) fn loose_objects(&self) -> Option<u64> {
        self.known.loose_objects
    }

    /// Are there bundles, whatever they have?
    pub(crate) fn has_bundles(&self) -> bool {
        self.known.bundled_refs.is_some()
    }

    /// When something was last published: RFC 3339.
    pub(crate) fn published_at(&self) -> Option<&str> {
        self.known.published_at.as_deref()
    }

    /// Where the last run had it from: a URL, or in words.
    pub(crate) fn source(&self) -> Option<&str> {
        self.repository().or(self.known.source.as_deref())
    }

    /// The layout of the last run.
    pub(crate) fn layout(&self) -> Option<&str> {
        self.known.layout.as_deref()
    }

    /// What the mirror held then.
    pub(crate) fn holds(&self) -> Option<Holds> {
        self.known.holds
    }

    /// Do the bundles have all that is published?
    pub(crate) fn is_bundled(&self) -> bool {
        let Known { bundled_refs, ref_fingerprint, .. } = &self.known;
        bundled_refs.is_some() && bundled_refs == ref_fingerprint
    }

    /// Past publications that must be there.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = Name> {
        self.known.snapshots.iter().filter_map(|name| Name::parse(name))
    }

    /// How long past publications are kept; zero: not at all. `None`: nobody has said it.
    pub(crate) fn keep_history(&self) -> Option<Duration> {
        self.known.keep_history_seconds.map(Duration::from_secs)
    }

    /// The URL of the repository that this is a mirror of. `None`: it only ever came in bundles.
    pub(crate) fn repository(&self) -> Option<&str> {
        let named = [&self.known.repository, &self.known.source].into_iter().flatten();
        named.map(String::as_str).find(|url| identity(url).is_some())
    }

    /// What the objects of the refs that it describes are named with; SHA-1 if it does not say.
    pub(crate) fn object_format(&self) -> Result<ObjectFormat, String> {
        match &self.known.object_format {
            None => Ok(ObjectFormat::Sha1),
            Some(name) => ObjectFormat::from_name(name.as_bytes()).ok_or_else(|| name.clone()),
        }
    }

    /// Are there fewer than half as many refs as it says? No run that was killed explains that.
    pub(crate) fn is_far_more_than(&self, refs: usize) -> bool {
        self.known.refs.is_some_and(|recorded| recorded > refs.saturating_mul(2))
    }

    /// Are these the refs that it describes? `None`: it is too old to tell.
    pub(crate) fn describes(&self, refs: &[Ref], head: Option<&Head>) -> Option<bool> {
        Some(*self.known.ref_fingerprint.as_ref()? == fingerprint(refs, head))
    }
}

/// What is the same for all URLs of one repository: host, port and path, without scheme, userinfo, a
/// default port, a `.git` and slashes at the end. `None`: no URL. A bundle has no identity, because it
/// comes from another path or from standard input each time.
pub(crate) fn identity(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    Some(format!("{host}{path}"))
}

/// Is `source` the repository that the state names? A bundle is taken for it.
pub(crate) fn is_same_source(recorded: Option<&Recorded>, source: &str) -> bool {
    let known = recorded.and_then(Recorded::repository).and_then(identity);
    known.zip(identity(source)).is_none_or(|(known, now)| known == now)
}

/// What the objects of a mirror are named with: what its refs name, or else what its state says.
/// `None`: nothing tells, because nothing was published.
pub(crate) fn object_format(
    store: &dyn Store,
    published: &Published,
    recorded: Option<&Recorded>,
) -> Result<Option<ObjectFormat>, MirrorError> {
    let head = published.head.as_ref().unwrap_or(&Head::Absent);
    if let Some(format) = format_of(&published.refs, head) {
        return Ok(Some(format));
    }
    let said = recorded.filter(|_| published.exists()).map(Recorded::object_format).transpose();
    said.map_err(|name| {
        let place = store.describe();
        MirrorError::Mirror(format!("{place}/{KEY} names an unknown object format: {name:?}"))
    })
}

/// The field that says that the bundles have all that `wanted` names.
pub(crate) fn bundled(wanted: &Advertisement) -> (String, Value) {
    (BUNDLED.into(), fingerprint(&wanted.refs, Some(&wanted.head)).into())
}

/// Says that there are no bundles.
pub(crate) fn forget_bundles(store: &dyn Store) -> Result<(), StoreError> {
    let mut file = File::read(store)?;
    match file.fields.contains_key(BUNDLED) {
        true => file.update(store, |state| drop(state.remove(BUNDLED))),
        false => Ok(()),
    }
}

#[derive(Serialize)]
struct State<'s> {
    /// Without secrets.
    source: String,
    /// Where the source has redirected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirected_to: Option<String>,
    /// The repository's URL: of `source`, or what was known before a bundle came.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// The program and its version.
    tool: &'s str,
    /// RFC 3339, UTC, by the clock of the machine that ran it.
    published_at: String,
    layout: &'s str,
    refs: usize,
    /// SHA-256 of the files `info/refs` and `HEAD`, one after the other:
    /// `cat info/refs HEAD | sha256sum`.
    ref_fingerprint: String,
    /// What objects are named with, unless that is SHA-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    object_format: Option<&'s str>,
    lfs_missing: usize,
    /// Stored since loose objects were last packed.
    loose_objects: u64,
}

/// What a run has published, in the fields of the file.
pub(crate) fn published(
    source: &dyn Source,
    recorded: Option<&Recorded>,
    layout: LayoutOption,
    wanted: &Advertisement,
    lfs_missing: usize,
    loose_objects: u64,
) -> Map<String, Value> {
    let redirected_to = source.redirected_to();
    let origin = source.origin();
    let source = source.describe();
    let known = || recorded.and_then(Recorded::repository).map(str::to_owned);
    let state = State {
        repository: identity(&source).is_some().then(|| source.clone()).or(origin).or_else(known),
        source,
        redirected_to,
        tool: concat!("mirror-git-to-s3 ", env!("CARGO_PKG_VERSION")),
        published_at: now(),
        layout: layout.name(),
        refs: wanted.refs.len(),
        ref_fingerprint: fingerprint(&wanted.refs, Some(&wanted.head)),
        object_format: (wanted.format != ObjectFormat::Sha1).then(|| wanted.format.as_str()),
        lfs_missing,
        loose_objects,
    };
    match serde_json::to_value(state) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a struct of strings and numbers is always an object"),
    }
}

/// Adds what the mirror holds to the fields of [`published`]; `None`: it is no longer known.
pub(crate) fn holding(fields: &mut Map<String, Value>, holds: Option<Holds>) {
    fields.insert("holds".into(), serde_json::json!(holds));
}

/// Records what the mirror holds, as it was counted.
pub(crate) fn note_holds(store: &dyn Store, holds: Holds) -> Result<(), StoreError> {
    amend(store, |fields| holding(fields, Some(holds)))
}

/// Records how many LFS objects are missing.
pub(crate) fn note_lfs_missing(store: &dyn Store, missing: usize) -> Result<(), StoreError> {
    amend(store, |fields| drop(fields.insert("lfs_missing".into(), missing.into())))
}

/// Changes the state, unless there is none, or one that describes nothing yet.
fn amend(store: &dyn Store, edit: impl Fn(&mut Map<String, Value>)) -> Result<(), StoreError> {
    let mut file = File::read(store)?;
    match file.fields.contains_key(FINGERPRINT) {
        true => file.update(store, edit),
        false => Ok(()),
    }
}

/// Adds the names of past publications to the fields of the file.
pub(crate) fn note_snapshots(fields: &mut Map<String, Value>, names: &[Name]) {
    if names.is_empty() {
        return;
    }
    let mut all = snapshots_in(fields);
    all.extend(names);
    let surplus = all.len().saturating_sub(MAX_SNAPSHOTS);
    let names: Vec<String> = all.iter().skip(surplus).map(Name::to_string).collect();
    fields.insert(SNAPSHOTS.into(), names.into());
}

/// Past publications need not be there any more.
pub(crate) fn forget_snapshots(store: &dyn Store, names: &[Name]) -> Result<(), StoreError> {
    let mut file = File::read(store)?;
    let noted = snapshots_in(&file.fields);
    if !names.iter().any(|name| noted.contains(name)) {
        return Ok(());
    }
    file.update(store, |fields| {
        let mut left = snapshots_in(fields);
        left.retain(|name| !names.contains(name));
        let left: Vec<String> = left.iter().map(Name::to_string).collect();
        fields.insert(SNAPSHOTS.into(), left.into());
    })
}

fn snapshots_in(fields: &Map<String, Value>) -> BTreeSet<Name> {
    let names = fields.get(SNAPSHOTS).and_then(Value::as_array).into_iter().flatten();
    names.filter_map(|name| Name::parse(name.as_str()?)).collect()
}

/// Adds how long past publications are kept to the fields of [`published`], if that is to change.
pub(crate) fn keep_history(fields: &mut Map<String, Value>, keep: Option<Duration>) {
    if let Some(keep) = keep {
        fields.insert("keep_history_seconds".into(), keep.as_secs().into());
    }
}

/// Says that other refs were published than the last run's: past ones, again. All else stays as it is.
/// `snapshots`: those that were written for it.
pub(crate) fn describe(
    store: &dyn Store,
    recorded: Option<&Recorded>,
    published: &Advertisement,
    snapshots: &[Name],
) {
    let mut file = recorded.map_or_else(File::absent, Recorded::file);
    let print = fingerprint(&published.refs, Some(&published.head));
    let written = file.update(store, |fields| {
        fields.insert("published_at".into(), now().into());
        fields.insert("refs".into(), published.refs.len().into());
        fields.insert("ref_fingerprint".into(), print.clone().into());
        note_snapshots(fields, snapshots);
    });
    if let Err(error) = written {
        log::warn!("published, but {error}");
    }
}

/// RFC 3339, to the second.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

fn fingerprint(refs: &[Ref], head: Option<&Head>) -> String {
    hex_of_sha256(&[&info_refs(refs), &head.and_then(head_file).unwrap_or_default()])
}

/// How many refs are published, and their [`fingerprint`].
fn fingerprint_of_published(store: &dyn Store) -> Result<(usize, String), StoreError> {
    let read = |name, max_bytes| {
        let found = files::get(store, &files::key(name), None, max_bytes)?;
        Ok::<_, StoreError>(found.map(|(file, _)| file).unwrap_or_default())
    };
    let (refs, head) = (read("info/refs", MAX_REFS_BYTES)?, read("HEAD", MAX_HEAD_BYTES)?);
    // As this program writes them: another one may have left a line feed out.
    if let Ok(parsed) = parse_info_refs(&refs)
        && let Ok(head) = parse_head_file(&head, &parsed)
    {
        return Ok((parsed.len(), fingerprint(&parsed, Some(&head))));
    }
    let lines = refs.split_inclusive(|byte| *byte == b'\n');
    let count = lines.filter(|line| !line.ends_with(b"^{}\n")).count();
    Ok((count, hex_of_sha256(&[&refs, &head])))
}

fn hex_of_sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn stored() -> (MemoryStore, Vec<u8>) {
        let store = MemoryStore::new();
        File::absent()
            .update(&store, |fields| {
                fields.insert("tool".into(), "mirror-git-to-s3 9.9.9".into());
                fields.insert("source".into(), "https://git.example/a".into());
                fields.insert("refs".into(), 7.into());
                fields.insert("keep_history_seconds".into(), 7_776_000.into());
                note_snapshots(fields, &[Name::parse("20260101T000000Z").unwrap()]);
            })
            .unwrap();
        let bytes = store.bytes(KEY).unwrap().to_vec();
        (store, bytes)
    }

    fn put(store: &MemoryStore, bytes: &[u8]) {
        store.put(&files::key(KEY), bytes, HEADERS, None).unwrap();
    }

    #[test]
    fn no_flipped_bit_of_what_is_recorded_is_believed() {
        let (store, bytes) = stored();
        let said = |store: &MemoryStore| {
            let state = Recorded::read(store).ok()??;
            Some((state.refs, state.keep_history(), state.repository()?.to_owned()))
        };
        let right = said(&store).unwrap();
        let mut unnoticed = 0;
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            put(&store, &flipped);
            if let Some(said) = said(&store) {
                assert_eq!(said, right, "bit {bit} of byte {at}");
                unnoticed += 1;
            }
        }
        // Spaces, the name of the checksum and the version beside it.
        assert!(unnoticed < bytes.len() * 8 / 3, "{unnoticed} of {}", bytes.len() * 8);
    }

    #[test]
    fn older_program_and_a_hand_that_removes_the_checksum_may_change_the_file() {
        let (store, bytes) = stored();
        let text = String::from_utf8(bytes).unwrap();
        put(&store, text.replace("\"refs\": 7", "\"refs\": 8").as_bytes());
        let error = Recorded::read(&store).unwrap_err().to_string();
        assert!(error.contains("its checksum is wrong"), "{error}");
        let at = text.rfind("9.9.9").unwrap();
        assert!(text[..at].rfind("checksum") < text[..at].rfind("\"tool\""), "{text}");
        let older = format!("{}0.2.0{}", &text[..at], &text[at + 5..]);
        put(&store, older.replace("\"refs\": 7", "\"refs\": 8").as_bytes());
        assert_eq!(Recorded::read(&store).unwrap().unwrap().refs, Some(8));
    }

    #[test]
    fn past_publications_are_noted_once_the_newest_of_them_and_forgotten() {
        let name = |day: u32, number: u32| match number {
            1 => Name::parse(&format!("202601{day:02}T000000Z")).unwrap(),
            _ => Name::parse(&format!("202601{day:02}T000000Z-{number}")).unwrap(),
        };
        let (store, _) = stored();
        let noted = || Recorded::read(&store).unwrap().unwrap().snapshots().collect::<Vec<_>>();
        let mut file = File::read(&store).unwrap();
        file.update(&store, |fields| note_snapshots(fields, &[name(3, 1), name(2, 2)])).unwrap();
        assert_eq!(noted(), [name(1, 1), name(2, 2), name(3, 1)]);
        forget_snapshots(&store, &[name(1, 1), name(9, 1)]).unwrap();
        assert_eq!(noted(), [name(2, 2), name(3, 1)]);
        store.clear_recorded();
        forget_snapshots(&store, &[name(1, 1)]).unwrap();
        assert_eq!(store.recorded().len(), 1, "it is only read");
        let many: Vec<Name> = (1..=2500).map(|number| name(4, number)).collect();
        let mut file = File::read(&store).unwrap();
        file.update(&store, |fields| note_snapshots(fields, &many)).unwrap();
        assert_eq!(noted(), many[500..]);
    }

    #[test]
    fn urls_of_one_repository_have_one_identity() {
        let wanted = identity("https://git.example/a/b");
        assert_eq!(wanted.as_deref(), Some("git.example/a/b"));
        for same in [
            "https://git.example/a/b.git",
            "https://git.example/a/b/",
            "https://git.example/a/b.git/",
            "http://git.example/a/b",
            "http://git.example:80/a/b",
            "HTTPS://user:pass@GIT.example:443/a/b",
        ] {
            assert_eq!(identity(same), wanted, "{same}");
        }
        for other in [
            "https://git.example/a/c",
            "https://git.example/A/b",
            "https://git.example/a",
            "https://other.example/a/b",
            "https://git.example:8443/a/b",
            "https://git.example:80/a/b",
        ] {
            assert_ne!(identity(other), wanted, "{other}");
        }
        for none in ["-", "bundle:/tmp/a.bundle", "standard input", "file:///a"] {
            assert_eq!(identity(none), None, "{none}");
        }
    }
}
