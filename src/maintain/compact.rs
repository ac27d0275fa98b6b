//! Compaction: a mirror's packs become fewer, and loose objects that have piled up become a pack, in
//! the bucket alone.
//!
//! [`tiers`] says which, [`concat`](crate::pack::concat) makes one of them; nothing is asked of the
//! source and no delta is resolved. The new pack is stored with its index, then it takes the place of
//! its parts in `objects/info/packs`. They stay for readers that hold the old list, until `gc` deletes
//! them after the grace period ([`replaced`]).
//!
//! Whatever fails or is killed leaves the list as it was, or changed to one that holds as much: so a
//! failure here is a warning of a run that has published. Beside other runs the list is only ever
//! changed on top of what it then is; if a part has left it meanwhile, nothing is listed. gc is kept
//! from deleting what is not listed yet by the fence, as for any run.
//!
//! **Loose objects** are packed when runs have stored more than [`MAX_LOOSE`] since the last time. They
//! stay loose too for [`GRACE`], so that a reader who fetches often finds what is new without reading
//! an index, and one who holds an old list finds it at all; then the next time deletes them
//! ([`packed_loose`]). Deleting follows gc's protocol (`fence`): a run that could rely on one of them
//! after all does not publish.
//!
//! **Bytes**: bodies of a part and more are copied by the store and read once, for the trailer;
//! smaller ones go through. **Memory**: indices of up to half of it (packs with larger ones stay as
//! they are), and one part.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::tiers;
use crate::git::object::{ObjectFormat, Oid};
use crate::git::oids::OidSet;
use crate::git::refs::Ref;
use crate::pack::concat::{ConcatError, Input, Output, Plan, Written};
use crate::pack::deflate::Deflater;
use crate::pack::gather::{Gathered, Gathering, PACK_LEVEL, entry_of_loose};
use crate::pack::index::{IndexReader, parse_index, write_sorted};
use crate::pack::inflate::Inflater;
use crate::progress::Silent;
use crate::repository::error::MirrorError;
use crate::repository::fence::{Deleting, Fence};
use crate::repository::files;
use crate::repository::listing;
use crate::repository::loose;
use crate::repository::packed_loose::{self, Note};
use crate::repository::packs::{self, INDEX, PACK};
use crate::repository::parts::FIRST_PART_BYTES;
use crate::repository::publish;
use crate::repository::resuming::ResumingReader;
use crate::repository::retired_packs;
use crate::repository::temp::TempKeys;
use crate::repository::writer::KeyWriter;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreError, StoreErrorKind};

/// Packs that have become one.
pub(crate) struct Merged {
    pub(crate) new: String,
    /// In the order of the list.
    pub(crate) parts: Vec<String>,
}

/// What became of loose objects.
pub(crate) struct Packed {
    /// The list of packs as it then is.
    pub(crate) listed: Vec<String>,
    /// Loose objects that are in no pack.
    pub(crate) left: u64,
    /// Of these packs they may go.
    old: Vec<Note>,
    /// Those that are in packs and are still there.
    still_loose: OidSet,
}

/// What a compaction is given.
#[derive(Clone, Copy)]
pub(crate) struct Compaction<'c> {
    pub(crate) store: &'c dyn Store,
    pub(crate) temp: &'c TempKeys<'c>,
    /// Read before the list was.
    pub(crate) fence: &'c Fence,
    /// What is published.
    pub(crate) refs: &'c [Ref],
    pub(crate) max_packs: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) concurrency: usize,
    pub(crate) cancel: &'c Cancel,
}

/// Above so many loose objects that runs have stored since the last time, they are packed. A clone
/// reads up to so many one by one, and those of the grace period.
pub(crate) const MAX_LOOSE: u64 = 200;

/// So long loose objects stay that are packed as well; as `gc` keeps packs.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Loose objects that are read at once.
const READ_AT_ONCE: usize = 8;

/// A pack that takes part.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) index: IndexReader<Vec<u8>>,
}

impl Compaction<'_> {
    /// What the mirror's objects are named with. What is of another format is a stranger's.
    fn format(&self) -> ObjectFormat {
        self.refs.first().map_or_else(ObjectFormat::default, |r| r.oid.format())
    }

    /// Makes fewer packs of those that are listed, if there are too many. Answers the list as it then
    /// is, as far as this run knows, and which have become one.
    pub(crate) fn packs(
        &self,
        listed: Vec<String>,
    ) -> Result<(Vec<String>, Option<Merged>), MirrorError> {
        if listed.len() <= self.max_packs {
            return Ok((listed, None));
        }
        let sizes = self.lens(&listed, "pack")?;
        let Some(range) = tiers::choose(&sizes, self.max_packs) else { return Ok((listed, None)) };
        let mut parts = self.open(&listed[range.clone()], &sizes[range])?;
        let new = loop {
            if parts.len() < 2 {
                log::info!("{}: no two packs can be merged", self.store.describe());
                return Ok((listed, None));
            }
            match self.join(&parts) {
                Ok(new) => break new,
                Err(JoinError::Without(input, why)) => {
                    log::info!("{} is kept as it is: {why}", parts[input].name);
                    parts.remove(input);
                }
                Err(JoinError::Failed(error)) => return Err(error),
            }
        };
        let parts: Vec<String> = parts.into_iter().map(|part| part.name).collect();
        log::info!("merged {} packs into {new}", parts.len());
        let listed = self.list(&new, &parts)?;
        let is_listed = listed.contains(&new);
        Ok((listed, is_listed.then_some(Merged { new, parts })))
    }

    /// Packs the loose objects that are in no pack, if there are many, and finds those that have been in
    /// one for long enough.
    pub(crate) fn loose(&self, listed: Vec<String>) -> Result<Packed, MirrorError> {
        let notes = packed_loose::read(self.store)?;
        let notes = notes.into_iter().partition(|note| listed.contains(&note.pack));
        let (notes, stale): (Vec<Note>, Vec<Note>) = notes;
        let format = self.format();
        let packed: OidSet = notes.iter().flat_map(|note| note.oids.iter()).collect();
        let (mut found, mut still_loose) = (Vec::new(), OidSet::default());
        let mut now = notes.iter().filter_map(|note| note.written).max();
        let (largest, at_most) = (self.memory_bytes / 64, self.memory_bytes / 256);
        listing::pages(self.store, listing::OBJECTS, |page| {
            for info in page {
                // The store's own clock: this run has just written.
                now = now.max(info.last_modified);
                let oid = loose::oid_of_key(info.key.as_str());
                let Some(oid) = oid.filter(|oid| oid.format() == format) else { continue };
                if packed.contains(&oid) {
                    still_loose.add(oid);
                } else if info.len <= largest && (found.len() as u64) < at_most {
                    found.push((oid, info.len));
                }
            }
            self.check_cancelled()
        })?;
        let is_old = |note: &&Note| {
            let age = now.zip(note.written).and_then(|(now, at)| now.duration_since(at).ok());
            age.is_some_and(|age| age > GRACE)
        };
        let stale: Vec<Key> = stale.iter().filter(is_old).map(|note| note.key.clone()).collect();
        let old: Vec<Note> = notes.into_iter().filter(|note| is_old(&note)).collect();
        let (mut listed, mut left) = (listed, found.len() as u64);
        if left > MAX_LOOSE / 2 {
            let new = self.gather(found)?;
            self.check_cancelled()?;
            self.fence.check(self.store)?;
            (listed, left) = (publish::add_pack(self.store, self.refs, &new)?, 0);
        }
        if !stale.is_empty() {
            self.store.delete(&stale)?;
        }
        Ok(Packed { listed, left, old, still_loose })
    }

    /// Deletes loose objects that their packs have had for long. Their packs must be listed still when
    /// runs can no longer begin to rely on the loose ones. It is a fence for its own run, too,
    /// which can't list anything after this.
    pub(crate) fn delete_packed(&self, packed: Packed) -> Result<(), MirrorError> {
        let Packed { old, still_loose: loose, .. } = packed;
        if old.is_empty() {
            return Ok(());
        }
        let Some(deleting) = Deleting::begin_alone(self.store)? else {
            log::info!("{}: gc is running, keeping loose objects", self.store.describe());
            return Ok(());
        };
        let listed = publish::listed_packs(self.store)?;
        let mut keys = Vec::new();
        for note in old.iter().filter(|note| listed.contains(&note.pack)) {
            keys.extend(
                note.oids.iter().filter(|oid| loose.contains(oid)).map(|oid| loose::key(&oid)),
            );
            keys.push(note.key.clone());
        }
        let count = keys.len();
        let deleted = if keys.is_empty() { Ok(()) } else { self.store.delete(&keys) };
        deleting.end()?;
        deleted?;
        log::info!("{}: deleted {count} loose objects that are packed", self.store.describe());
        Ok(())
    }

    /// Stores these loose objects as a pack, with its index and the note; answers its name.
    fn gather(&self, mut found: Vec<(Oid, u64)>) -> Result<String, MirrorError> {
        found.sort_unstable();
        loop {
            self.check_cancelled()?;
            let (name, left_out) = self.try_gather(&found)?;
            let Some(name) = name else {
                found.retain(|(oid, _)| !left_out.contains(oid));
                continue;
            };
            packed_loose::write(self.store, &name, found.iter().map(|(oid, _)| *oid))?;
            log::info!(
                "{}: packed {} loose objects into {name}",
                self.store.describe(),
                found.len()
            );
            return Ok(name);
        }
    }

    /// The pack, or the objects that can't be in it.
    fn try_gather(
        &self,
        found: &[(Oid, u64)],
    ) -> Result<(Option<String>, HashSet<Oid>), MirrorError> {
        let mut out = PackOutput::new(self, &[], false);
        let made = self.gather_into(found, &mut out);
        let (gathered, left_out) = match made {
            Ok(made) => made,
            Err(error) => {
                out.abort();
                return Err(error);
            }
        };
        let Some(gathered) = gathered else {
            out.abort();
            return Ok((None, left_out));
        };
        let name = format!("pack-{}", gathered.trailer);
        out.finish(&name)?;
        let mut index = Vec::new();
        gathered
            .entries
            .write_index(&gathered.trailer, &mut index)
            .map_err(|error| MirrorError::Internal(error.to_string()))?;
        self.store.put(&packs::key(&name, "idx"), &index, INDEX, None)?;
        Ok((Some(name), left_out))
    }

    fn gather_into(
        &self,
        found: &[(Oid, u64)],
        out: &mut PackOutput<'_>,
    ) -> Result<(Option<Gathered>, HashSet<Oid>), MirrorError> {
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let format = self.format();
        let mut pack = Gathering::begin(out, count, format).map_err(unwrap_error)?;
        let mut left_out = HashSet::new();
        for some in found.chunks(READ_AT_ONCE) {
            self.check_cancelled()?;
            let entries = Mutex::new(BTreeMap::new());
            for_each(some, READ_AT_ONCE.min(self.concurrency), "gather", |(oid, len)| {
                let entry = self.read_entry(oid, *len)?;
                entries.lock().unwrap_or_else(PoisonError::into_inner).insert(*oid, entry);
                Ok::<_, MirrorError>(())
            })?;
            for (oid, entry) in entries.into_inner().unwrap_or_else(PoisonError::into_inner) {
                match entry {
                    Some(entry) if left_out.is_empty() => {
                        pack.push(oid, &entry).map_err(unwrap_error)?;
                    }
                    Some(_) => {}
                    None => drop(left_out.insert(oid)),
                }
            }
        }
        match left_out.is_empty() {
            true => Ok((Some(pack.finish().map_err(unwrap_error)?), left_out)),
            false => Ok((None, left_out)),
        }
    }

    /// A loose object as a pack's entry. `None`: it is gone, too large or damaged, and stays as it is.
    fn read_entry(&self, oid: &Oid, len: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        let key = loose::key(oid);
        let Some((bytes, _)) = files::get(self.store, &key, None, len)? else { return Ok(None) };
        let (mut deflater, mut inflater) = (Deflater::new(PACK_LEVEL), Inflater::new());
        let max_len = self.memory_bytes / 16;
        match entry_of_loose(&bytes, oid.format(), max_len, &mut deflater, &mut inflater) {
            Ok((found, entry)) if found == *oid => Ok(Some(entry)),
            Ok((found, _)) => {
                log::warn!("{}/{key} is damaged: it is {found}", self.store.describe());
                Ok(None)
            }
            Err(error) => {
                log::warn!("{}/{key} stays loose: {error}", self.store.describe());
                Ok(None)
            }
        }
    }

    /// Notes of loose objects go with their packs into the new one.
    fn carry_notes(&self, new: &str, parts: &[String]) -> Result<Vec<Key>, MirrorError> {
        let mut notes = packed_loose::read(self.store)?;
        notes.retain(|note| parts.contains(&note.pack) && note.pack != new);
        if !notes.is_empty() {
            let oids: BTreeSet<Oid> = notes.iter().flat_map(|note| note.oids.iter()).collect();
            packed_loose::write(self.store, new, oids.into_iter())?;
        }
        Ok(notes.into_iter().map(|note| note.key).collect())
    }

    /// Puts `new` into the place of `parts` on the list.
    pub(super) fn list(&self, new: &str, parts: &[String]) -> Result<Vec<String>, MirrorError> {
        self.check_cancelled()?;
        let notes = self.carry_notes(new, parts)?;
        self.fence.check(self.store)?;
        let listed = publish::replace_packs(self.store, self.refs, new, parts)?;
        if !notes.is_empty() && listed.iter().any(|name| name == new) {
            self.store.delete(&notes)?;
        }
        Ok(listed)
    }

    /// The same while there is no list to change: `new` is to be listed, `old` is not.
    pub(super) fn retire_unlisted(&self, new: &str, old: &str) -> Result<(), MirrorError> {
        self.check_cancelled()?;
        let parts = [old.to_owned()];
        self.carry_notes(new, &parts)?;
        self.fence.check(self.store)?;
        if new != old {
            retired_packs::note(self.store, new, &parts)?;
        }
        Ok(())
    }

    pub(crate) fn check_cancelled(&self) -> Result<(), MirrorError> {
        if self.cancel.is_cancelled() { Err(MirrorError::Interrupted) } else { Ok(()) }
    }

    /// How long these files are.
    fn lens(&self, names: &[String], extension: &str) -> Result<Vec<u64>, MirrorError> {
        let lens = Mutex::new(vec![0; names.len()]);
        let numbers: Vec<usize> = (0..names.len()).collect();
        for_each(&numbers, self.concurrency, "head", |&at| {
            let key = packs::key(&names[at], extension);
            let info = self.store.head(&key)?.ok_or_else(|| self.missing(&key))?;
            lens.lock().expect("nobody panics with it")[at] = info.len;
            Ok::<_, MirrorError>(())
        })?;
        Ok(lens.into_inner().expect("nobody panics with it"))
    }

    fn missing(&self, key: &Key) -> MirrorError {
        let place = self.store.describe();
        MirrorError::Mirror(format!("{place}/{key} is missing, but its pack is listed"))
    }

    /// Reads the indices of these packs: of all but the largest, if they do not fit.
    pub(super) fn open(&self, names: &[String], lens: &[u64]) -> Result<Vec<Member>, MirrorError> {
        let index_lens = self.lens(names, "idx")?;
        let mut chosen: Vec<usize> = (0..names.len()).collect();
        let held = |chosen: &[usize]| chosen.iter().map(|at| index_lens[*at]).sum::<u64>();
        while held(&chosen) > self.memory_bytes / 2 {
            let largest = chosen.iter().copied().max_by_key(|at| index_lens[*at]);
            chosen.retain(|at| Some(*at) != largest);
        }
        let mut parts = Vec::new();
        for at in chosen {
            self.check_cancelled()?;
            let key = packs::key(&names[at], "idx");
            let file = files::get(self.store, &key, None, index_lens[at])?;
            let (file, _) = file.ok_or_else(|| self.missing(&key))?;
            let index = parse_index(file, packs::format_of(&names[at]))
                .map_err(|error| self.damaged(&key, &error))?;
            parts.push(Member { name: names[at].clone(), len: lens[at], index });
        }
        Ok(parts)
    }

    fn damaged(&self, key: &Key, what: &dyn std::fmt::Display) -> MirrorError {
        let place = self.store.describe();
        MirrorError::Mirror(format!("{place}/{key} is damaged: {what}; run once with --full"))
    }

    /// Stores the parts as one pack, with its index; answers its name.
    fn join(&self, parts: &[Member]) -> Result<String, JoinError> {
        let format = self.format();
        let inputs = parts.iter().map(|part| Input { len: part.len, index: &part.index });
        let plan =
            Plan::new(format, inputs.collect()).map_err(|error| self.explain(parts, error))?;
        match self.write(parts, &plan, true) {
            // Not every store copies parts.
            Err(JoinError::Failed(MirrorError::Store(error)))
                if error.kind == StoreErrorKind::Unsupported =>
            {
                log::info!("{error}; sending the packs instead");
                self.write(parts, &plan, false)
            }
            outcome => outcome,
        }
    }

    pub(super) fn write(
        &self,
        parts: &[Member],
        plan: &Plan<'_>,
        may_copy: bool,
    ) -> Result<String, JoinError> {
        let mut out = PackOutput::new(self, parts, may_copy);
        let open = |at: usize| -> io::Result<Box<dyn Read + '_>> {
            self.check_cancelled().map_err(io::Error::other)?;
            Ok(Box::new(ResumingReader::new(self.store, packs::key(&parts[at].name, "pack"), 0)))
        };
        let written = match plan.write(open, &mut out) {
            Ok(written) => written,
            Err(error) => {
                out.abort();
                return Err(self.explain(parts, error));
            }
        };
        let name = format!("pack-{}", written.trailer);
        out.finish(&name).map_err(MirrorError::from)?;
        self.store_index(plan, &written, &name)?;
        Ok(name)
    }

    fn store_index(
        &self,
        plan: &Plan<'_>,
        written: &Written,
        name: &str,
    ) -> Result<(), MirrorError> {
        let (fanout, entries) = plan.index(written);
        let mut index = Vec::new();
        write_sorted(&fanout, entries, &written.trailer, &mut index)
            .map_err(|error| MirrorError::Internal(error.to_string()))?;
        self.store.put(&packs::key(name, "idx"), &index, INDEX, None)?;
        Ok(())
    }

    fn explain(&self, parts: &[Member], error: ConcatError) -> JoinError {
        match error {
            ConcatError::Twice { input, .. } | ConcatError::OtherFormat { input, .. } => {
                JoinError::Without(input, error.to_string())
            }
            ConcatError::Damaged { input, what } => {
                JoinError::Failed(self.damaged(&packs::key(&parts[input].name, "pack"), &what))
            }
            ConcatError::TooMany => JoinError::Without(0, error.to_string()),
            ConcatError::Io(error) => JoinError::Failed(unwrap_error(error)),
        }
    }
}

/// Why parts did not become one.
pub(super) enum JoinError {
    /// One of them has to stay as it is.
    Without(usize, String),
    Failed(MirrorError),
}

impl From<MirrorError> for JoinError {
    fn from(error: MirrorError) -> Self {
        JoinError::Failed(error)
    }
}

/// The error of ours that an I/O error carries.
pub(super) fn unwrap_error(error: io::Error) -> MirrorError {
    match error.downcast::<StoreError>() {
        Ok(error) => MirrorError::Store(error),
        Err(error) => match error.downcast::<MirrorError>() {
            Ok(error) => error,
            Err(other) => MirrorError::Internal(other.to_string()),
        },
    }
}

/// The new pack on its way: one PUT if it fits into a part, else a multipart upload.
struct PackOutput<'o> {
    writer: KeyWriter<'o>,
    smallest_part_bytes: u64,
    parts: &'o [Member],
    may_copy: bool,
}

impl<'o> PackOutput<'o> {
    fn new(compaction: &'o Compaction<'_>, parts: &'o [Member], may_copy: bool) -> Self {
        let smallest_part_bytes = compaction.store.limits().min_part_bytes;
        let first = (compaction.memory_bytes / 8).min(FIRST_PART_BYTES);
        let writer = KeyWriter::temporary(compaction.temp, &Silent, "pack", PACK);
        PackOutput { writer: writer.with_parts_of(first), smallest_part_bytes, parts, may_copy }
    }

    /// Stores the pack under its name.
    fn finish(self, name: &str) -> Result<(), StoreError> {
        self.writer.finish_as(packs::key(name, "pack"), PACK)
    }

    /// What was begun is of no use; on an error [`TempKeys::clean`] tries again.
    fn abort(self) {
        if let Err(error) = self.writer.abort() {
            log::info!("{error}");
        }
    }
}

impl Output for PackOutput<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.push(bytes).map_err(io::Error::other)
    }

    /// From where the part that is being filled is large enough to the end, if that is worth a part.
    fn plan_copy(&mut self, len: u64) -> Range<u64> {
        let head = match self.writer.body().len() as u64 {
            0 => 0,
            filled => self.smallest_part_bytes.saturating_sub(filled),
        };
        match self.may_copy && len >= head + self.smallest_part_bytes {
            true => head..len,
            false => 0..0,
        }
    }

    fn copy(&mut self, input: usize, range: Range<u64>) -> io::Result<()> {
        let from = packs::key(&self.parts[input].name, "pack");
        self.writer.copy(&from, range).map_err(io::Error::other)
    }
}
