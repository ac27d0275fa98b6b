//! Keeps the bundles beside a mirror's packs right ([`bundles`]): after a publication the new pack
//! becomes a bundle, and after a compaction the bundles of its parts become one.
//!
//! A bundle is a header and a pack that is stored already: the store copies the pack's bytes itself,
//! behind a first part that has the header and as much of the pack as a part must have (5 MiB on S3).
//!
//! **What a bundle may promise**: with what its prerequisites reach, its pack has all that its refs
//! reach. The first one has everything. A later one names the commits that the mirror's branches were
//! at before its publication, and the parents of its own commits that are not in it: what the source
//! was found in the mirror, as far as these are surely commits. Bundles of one row that follow
//! each other can become one, because the refs of each are what the next one starts from.
//!
//! A bundle that is no longer listed stays for readers that hold the old list, as long as its pack
//! does: `gc` deletes both after the grace period.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::compact::{Compaction, Merged};
use crate::git::bundle::write_header;
use crate::git::object::{Kind, Oid};
use crate::git::oids::OidSet;
use crate::git::refs::{Advertisement, Head, Ref};
use crate::pack::index::parse_index;
use crate::progress::Silent;
use crate::repository::bundles::{self, BUNDLE, Entry};
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::links::commit_links;
use crate::repository::packs;
use crate::repository::parts::FIRST_PART_BYTES;
use crate::repository::publish;
use crate::repository::resuming::ResumingReader;
use crate::repository::writer::KeyWriter;
use crate::store::{Key, StoreErrorKind};

/// Sees the commits of an increment, and tells which of their parents it does not have.
#[derive(Default)]
pub(crate) struct Boundary(Mutex<Seen>);

/// Guarded by [`Boundary`].
#[derive(Default)]
struct Seen {
    commits: OidSet,
    parents: OidSet,
}

impl Boundary {
    pub(crate) fn look(&self, oid: &Oid, kind: Kind, content: &[u8]) {
        if kind == Kind::Commit
            && let Some((_, parents)) = commit_links(content)
        {
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            seen.commits.add(*oid);
            seen.parents.extend(parents);
        }
    }

    /// What a bundle of the increment needs; `before`: the refs that were published.
    pub(crate) fn prerequisites(self, before: &[Ref]) -> BTreeSet<Oid> {
        let seen = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let branches = before.iter().filter(|r| r.name.is_branch()).map(|r| r.oid);
        let needed = seen.parents.keys().chain(branches);
        needed.filter(|oid| !seen.commits.contains(oid)).collect()
    }
}

/// What a publication brought.
#[derive(Default)]
pub(crate) struct News {
    /// `None`: no object.
    pub(crate) pack: Option<String>,
    pub(crate) prerequisites: BTreeSet<Oid>,
}

/// What is needed to keep the bundles.
pub(crate) struct Bundling<'b> {
    pub(crate) compaction: &'b Compaction<'b>,
    /// What is published.
    pub(crate) published: &'b Advertisement,
}

impl Bundling<'_> {
    /// Begins anew with a bundle that has everything: the packs of the list, which have it, become one.
    /// False: they can't.
    pub(crate) fn begin(&self, listed: Vec<String>) -> Result<bool, MirrorError> {
        let store = self.compaction.store;
        let (listed, _) = Compaction { max_packs: 1, ..*self.compaction }.packs(listed)?;
        let [pack] = &listed[..] else { return Ok(false) };
        let old = bundles::read(store)?.unwrap_or_default();
        let entry = Entry { pack: pack.clone(), is_whole: true, token: next_token(&old) };
        self.make(&entry, &BTreeSet::new(), self.published)?;
        bundles::write(store, &[entry])?;
        Ok(true)
    }

    /// Adds what a publication brought, then does as the packs that were merged. False: the bundles do
    /// not fit to the packs, and have to begin anew.
    pub(crate) fn follow(&self, news: &News, merged: Option<&Merged>) -> Result<bool, MirrorError> {
        let store = self.compaction.store;
        let Some(mut entries) = bundles::read(store)? else { return Ok(false) };
        let before = entries.clone();
        if let Some(pack) = news.pack.as_ref().filter(|pack| !is_among(&entries, pack)) {
            // A bundle that follows others names what it needs. This one came from a bundle of everything,
            // or no branch was published before it.
            if news.prerequisites.is_empty() {
                return Ok(false);
            }
            let entry = Entry { pack: pack.clone(), is_whole: false, token: next_token(&entries) };
            self.make(&entry, &news.prerequisites, self.published)?;
            entries.push(entry);
        }
        if let Some(merged) = merged {
            let Some(first) = entries.iter().position(|e| e.pack == merged.parts[0]) else {
                return Ok(false);
            };
            let range = first..first + merged.parts.len();
            let parts = entries.get(range.clone()).unwrap_or_default();
            if !parts.iter().map(|entry| &entry.pack).eq(&merged.parts) {
                return Ok(false);
            }
            let entry = self.merge(&merged.new, parts)?;
            entries.splice(range, [entry]);
        }
        if entries != before {
            bundles::write(store, &entries)?;
        }
        Ok(true)
    }

    /// One bundle of several that follow each other; `new` has their objects.
    fn merge(&self, new: &str, parts: &[Entry]) -> Result<Entry, MirrorError> {
        let store = self.compaction.store;
        let (first, last) = (&parts[0], &parts[parts.len() - 1]);
        let max_bytes = publish::max_file_bytes(self.compaction.memory_bytes);
        let read = |entry: &Entry| {
            let failed = |error| MirrorError::Mirror(format!("{}: {error}", entry.key()));
            Ok::<_, MirrorError>(bundles::header(store, &entry.key(), max_bytes).map_err(failed)?.0)
        };
        let mut needed = BTreeSet::new();
        if !first.is_whole {
            for part in parts {
                needed.extend(read(part)?.prerequisites);
            }
            let key = packs::key(new, "idx");
            let limit = self.compaction.memory_bytes;
            let index = files::get(store, &key, None, limit)?;
            let index = index.ok_or_else(|| MirrorError::Mirror(format!("{key} is missing")))?;
            let index = parse_index(index.0, packs::format_of(new))
                .map_err(|e| MirrorError::Mirror(format!("{key}: {e}")))?;
            needed.retain(|oid| index.lookup(oid).is_none());
        }
        let refs = read(last)?.advertised.advertisement;
        let entry = Entry { pack: new.to_owned(), is_whole: first.is_whole, token: last.token };
        self.make(&entry, &needed, &refs)?;
        Ok(entry)
    }

    /// Stores one bundle: its header, and the pack as it is stored.
    fn make(
        &self,
        entry: &Entry,
        prerequisites: &BTreeSet<Oid>,
        refs: &Advertisement,
    ) -> Result<(), MirrorError> {
        let header = write_header(refs.format, prerequisites, &lines(refs));
        let pack = packs::key(&entry.pack, "pack");
        let missing = || MirrorError::Mirror(format!("{pack} is missing"));
        let len = self.compaction.store.head(&pack)?.ok_or_else(missing)?.len;
        match self.write(&entry.key(), &header, &pack, len, true) {
            Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => {
                self.write(&entry.key(), &header, &pack, len, false)
            }
            outcome => outcome,
        }
    }

    fn write(
        &self,
        bundle: &Key,
        header: &[u8],
        pack: &Key,
        len: u64,
        may_copy: bool,
    ) -> Result<(), MirrorError> {
        let Compaction { store, temp, .. } = *self.compaction;
        let mut writer = KeyWriter::new(temp, &Silent, bundle.clone(), BUNDLE);
        writer.push(header)?;
        let smallest = store.limits().min_part_bytes;
        let is_small = header.len() as u64 + len <= FIRST_PART_BYTES.max(smallest);
        let read = match may_copy && !is_small {
            true => smallest.saturating_sub(header.len() as u64).min(len),
            false => len,
        };
        let mut stream = ResumingReader::new(store, pack.clone(), 0).take(read);
        let copied = io::copy(&mut stream, &mut writer).map_err(failed)?;
        if copied < read {
            return Err(MirrorError::Mirror(format!("{pack} has become shorter")));
        }
        if read < len {
            self.compaction.check_cancelled()?;
            writer.copy(pack, read..len)?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn failed(error: io::Error) -> MirrorError {
    match error.downcast() {
        Ok(error) => MirrorError::Store(error),
        Err(error) => MirrorError::Mirror(error.to_string()),
    }
}

fn is_among(entries: &[Entry], pack: &str) -> bool {
    entries.iter().any(|entry| entry.pack == pack)
}

/// Rises, also if the list was lost: seconds since 1970, as git suggests.
fn next_token(entries: &[Entry]) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    now.max(entries.last().map_or(0, |entry| entry.token + 1))
}

/// HEAD if it leads anywhere, and the refs.
fn lines(refs: &Advertisement) -> Vec<(Oid, &str)> {
    let head = match &refs.head {
        Head::Branch(name) => refs.find(name).map(|found| found.oid),
        Head::Detached(oid) => Some(*oid),
        Head::Unborn(_) | Head::Absent => None,
    };
    let head = head.map(|oid| (oid, "HEAD"));
    head.into_iter().chain(refs.refs.iter().map(|r| (r.oid, r.name.as_str()))).collect()
}
