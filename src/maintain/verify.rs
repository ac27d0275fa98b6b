//! Reads a mirror back and proves it, or says what lacks.
//!
//! In order: `info/refs` and `HEAD` parse and agree; every listed pack has a sound index and, unless
//! `quick`, is read once from end to end: its checksum, and of every entry the offset, the CRC-32
//! and the name that the index gives it; everything that the refs reach exists, and what is read
//! hashes to its name; the LFS objects of the pointers reached exist, by size if `quick` and by
//! SHA-256 otherwise.
//!
//! Packs are proven in one pass (`survey`); only where that does not succeed are they looked at once
//! more, entry by entry and from ref to ref (`walk`), to say what is wrong and which ref it hurts.
//!
//! `quick` reads commits and trees, which it must to find the rest, and asks for blobs by listing,
//! or one by one where a store can't list. Small blobs are read for LFS pointers only if some
//! `.gitattributes` speaks of LFS.
//!
//! Refs are read first, so a run that publishes meanwhile takes nothing from what is verified.
//! Memory: as `survey`; of damaged mirrors indices as they are and 32 bytes an object of the pack that
//! is being read, and as `walk`. Nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::inventory;
use super::survey::{Survey, Surveyed, Surveyor};
use super::walk::{Pointers, Problem, Reached, Walk, io_error};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, ObjectHasher, Oid, hash_object};
use crate::git::refs::{Head, Ref, parse_head_file, parse_info_refs};
use crate::pack::entry::{EntryHeader, EntryKind};
use crate::pack::index::IndexEntry;
use crate::pack::reader::{PackError, PackReader};
use crate::progress::{Progress, Silent};
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::lfs_objects;
use crate::repository::listing::LFS;
use crate::repository::packed::{self, Content, Pack, PackedReader, Packs, ReadError};
use crate::repository::packs;
use crate::repository::reopen::Reopening;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreError, StoreErrorKind};

/// How to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Ask for blobs, packs and LFS objects by name and size instead of reading them.
    pub quick: bool,
    /// Requests in flight; at least 1.
    pub concurrency: usize,
    /// Memory for packs, in bytes: blocks, bases, and the largest object that is held.
    pub memory_bytes: u64,
    /// To stop it.
    pub cancel: Cancel,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            quick: false,
            concurrency: 64,
            memory_bytes: 64 << 20,
            cancel: Cancel::default(),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The key in the mirror.
    pub key: String,
    /// What is wrong with it, for people.
    pub what: String,
    /// A ref that reaches it, if one does and it is known.
    pub reached_by: Option<String>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.what)?;
        match &self.reached_by {
            Some(name) => write!(f, " (reached by {name})"),
            None => Ok(()),
        }
    }
}

/// What was looked at and what was found. The mirror is sound if nothing was found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Refs published.
    pub refs: usize,
    /// Objects that were looked at: all of the listed packs, and those that refs reach.
    pub objects: u64,
    /// Packs listed.
    pub packs: usize,
    /// LFS objects that pointers name.
    pub lfs_objects: u64,
    /// What is wrong, sorted by key: at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How much is wrong in all.
    pub finding_count: u64,
    /// Requests to the store.
    pub store_requests: u64,
    /// Wall time.
    pub elapsed: Duration,
}

impl VerifyReport {
    /// Was nothing found?
    pub fn is_sound(&self) -> bool {
        self.finding_count == 0
    }
}

/// An emptied bucket lacks every object: more findings than these are only counted.
pub const MAX_FINDINGS: usize = 1000;

/// What has been found so far.
#[derive(Default)]
struct Findings(Mutex<(Vec<Finding>, u64)>);

impl Findings {
    fn add(&self, key: impl Into<String>, what: impl Into<String>, reached_by: Option<String>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.1 += 1;
        if found.0.len() < MAX_FINDINGS {
            found.0.push(Finding { key: key.into(), what: what.into(), reached_by });
        }
    }
}

/// [`verify_with`] that nobody watches.
pub fn verify(store: &dyn Store, options: &VerifyOptions) -> Result<VerifyReport, MirrorError> {
    verify_with(store, options, &Silent)
}

/// Verifies the mirror in `store`. An error means that the store failed, so that nothing is known;
/// what is wrong with the mirror is in the report.
pub fn verify_with(
    store: &dyn Store,
    options: &VerifyOptions,
    progress: &dyn Progress,
) -> Result<VerifyReport, MirrorError> {
    let started = Instant::now();
    let requests_before = store.requests();
    let findings = Findings::default();
    let mut report = VerifyReport::default();
    if let Some((refs, head)) = read_refs(store, &findings)? {
        let checked =
            Verification { store, options, progress, findings: &findings, tips: tips(&refs, head) };
        report.refs = refs.len();
        checked.run(&mut report)?;
    }
    let (mut found, count) = findings.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort();
    report.findings = found;
    report.finding_count = count;
    report.store_requests = store.requests() - requests_before;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// What [`read_refs`] finds.
type RefsAndHead = (Vec<Ref>, Option<Head>);

/// Refs and HEAD; `None` if the refs can't be used.
fn read_refs(store: &dyn Store, findings: &Findings) -> Result<Option<RefsAndHead>, MirrorError> {
    let get = |key| {
        let found = files::get(store, &files::key(key), None, 256 << 20)?;
        if found.is_none() {
            findings.add(key, "missing", None);
        }
        Ok::<_, StoreError>(found.map(|(file, _)| file))
    };
    let Some(file) = get("info/refs")? else { return Ok(None) };
    let refs = match parse_info_refs(&file) {
        Ok(refs) => refs,
        Err(error) => {
            findings.add("info/refs", error.to_string(), None);
            return Ok(None);
        }
    };
    let Some(file) = get("HEAD")? else { return Ok(Some((refs, None))) };
    let head = match parse_head_file(&file, &refs) {
        Ok(head) => head,
        Err(error) => {
            findings.add("HEAD", error.to_string(), None);
            return Ok(Some((refs, None)));
        }
    };
    if let Head::Unborn(name) = &head
        && refs.iter().any(|r| r.name.is_branch())
    {
        let what = format!("names {name}, which is not published: clones check nothing out");
        findings.add("HEAD", what, None);
    }
    Ok(Some((refs, Some(head))))
}

/// An object to begin with, what it must be if that is known, and who names it.
type Tip = (Oid, Option<Kind>, String);

fn tips(refs: &[Ref], head: Option<Head>) -> Vec<Tip> {
    let mut tips: Vec<Tip> = Vec::new();
    for r in refs {
        let kind = if r.name.is_branch() { Some(Kind::Commit) } else { None };
        let kind = kind.or(r.peeled.map(|_| Kind::Tag));
        tips.push((r.oid, kind, r.name.to_string()));
        tips.extend(r.peeled.map(|oid| (oid, None, format!("{}^{{}}", r.name))));
    }
    if let Some(Head::Detached(oid)) = head {
        tips.push((oid, Some(Kind::Commit), "HEAD".to_owned()));
    }
    tips
}

/// A pointer in a pack, of which it is not known yet who reaches it.
const OF_A_PACK: u32 = u32::MAX;

/// An LFS object that is not what its pointer says.
struct LfsFault {
    oid: [u8; 32],
    what: String,
    /// The tip that reaches its pointer.
    via: u32,
}

struct Verification<'v> {
    store: &'v dyn Store,
    options: &'v VerifyOptions,
    progress: &'v dyn Progress,
    findings: &'v Findings,
    tips: Vec<Tip>,
}

impl Verification<'_> {
    fn run(&self, report: &mut VerifyReport) -> Result<(), MirrorError> {
        let mut list_is_sound = true;
        let names = packed::listed_names(self.store, |key, what| {
            list_is_sound = false;
            self.findings.add(key, what, None);
        })?;
        report.packs = names.len();
        // Without a pack, the walk is all that there is to do.
        let may_prove = !self.options.quick && list_is_sound && !names.is_empty();
        if may_prove && self.prove(&names, report)? {
            return Ok(());
        }
        self.diagnose(&names, report)
    }

    /// One pass over all packs, and the loose objects that refs and packs name. `false`: something is
    /// wrong, or could not be held; nothing was reported.
    fn prove(&self, names: &[String], report: &mut VerifyReport) -> Result<bool, MirrorError> {
        let options = self.options;
        let surveyor = Surveyor {
            store: self.store,
            memory_bytes: options.memory_bytes,
            concurrency: options.concurrency,
            cancel: &options.cancel,
            progress: self.progress,
            old_before: None,
        };
        let Surveyed { known, outside, lfs } = match surveyor.look(names)? {
            Survey::Sound(surveyed) => *surveyed,
            Survey::Unsure(what) => return Ok(self.look_closer(&what)),
        };
        // The refs themselves, and then what packs name.
        let tips = self.tips.iter().map(|(oid, kind, _)| (*oid, *kind));
        let from: Vec<_> = tips.chain(outside.iter().map(|(o, k)| (*o, Some(*k)))).collect();
        let walk = Walk {
            store: self.store,
            packs: &Packs::default(),
            threads: options.concurrency,
            memory_bytes: options.memory_bytes,
            cancel: &options.cancel,
            read_blobs: true,
            blobs_exist: true,
            stored: None,
            pointers: Pointers::No,
            elsewhere: &|oid, kind| known.linked(oid, kind),
        };
        self.progress.phase("loose objects");
        let problems = Mutex::new(Vec::new());
        let reached = walk.run(&from, &|problem| {
            problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
        })?;
        let problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        // An object that a pack names may hang on garbage alone.
        if let Some(problem) = problems.iter().find(|p| p.via as usize >= self.tips.len()) {
            return Ok(self.look_closer(&format!("{}: {}", problem.key, problem.what)));
        }
        let sums = known.sum_up();
        if sums.absent + sums.of_wrong_kind > 0 {
            return Ok(self.look_closer(&format!("{sums:?}")));
        }
        for Problem { key, what, via } in problems {
            self.findings.add(key, what, self.name_of(via));
        }
        report.objects = known.len() as u64 + reached.objects.len() as u64;
        drop((known, outside, reached.objects));
        let mut wanted = reached.lfs;
        for (oid, size) in lfs {
            wanted.entry(oid).or_insert((size, OF_A_PACK));
        }
        report.lfs_objects = wanted.len() as u64;
        let mut faults = self.lfs_faults(wanted.into_iter().collect())?;
        if faults.iter().any(|fault| fault.via == OF_A_PACK) {
            let reached = self.reach_pointers(names)?;
            faults.retain_mut(|fault| match reached.get(&fault.oid) {
                Some((_, via)) => {
                    fault.via = *via;
                    true
                }
                // Only garbage names it.
                None => fault.via != OF_A_PACK,
            });
        }
        self.tell(faults);
        Ok(true)
    }

    fn look_closer(&self, why: &str) -> bool {
        log::info!("looking more closely: {why}");
        false
    }

    /// Through which refs LFS objects are reached, when all packs are sound.
    fn reach_pointers(
        &self,
        names: &[String],
    ) -> Result<HashMap<[u8; 32], (u64, u32)>, MirrorError> {
        let packs = packed::open_all(self.store, names, |key, what| {
            log::debug!("{key}: {what}");
        })?;
        let walk = Walk {
            store: self.store,
            packs: &packs,
            threads: self.options.concurrency,
            memory_bytes: self.options.memory_bytes,
            cancel: &self.options.cancel,
            read_blobs: false,
            blobs_exist: false,
            stored: None,
            pointers: Pointers::Yes,
            elsewhere: &|_, _| false,
        };
        let tips: Vec<_> = self.tips.iter().map(|(oid, kind, _)| (*oid, *kind)).collect();
        Ok(walk.run(&tips, &|_| {})?.lfs)
    }

    /// Entry by entry and from ref to ref: what is wrong?
    fn diagnose(&self, names: &[String], report: &mut VerifyReport) -> Result<(), MirrorError> {
        let bad = |key, what| self.findings.add(key, what, None);
        let packs = packed::open_all(self.store, names, bad)?;
        let mut pointers = HashMap::new();
        for at in 0..packs.0.len() {
            if self.options.quick {
                self.check_trailer(&packs.0[at])?;
            } else {
                self.check_pack(&packs, at, &mut pointers)?;
            }
        }
        let reached = self.walk(&packs, pointers)?;
        report.objects = reached.objects.len() as u64;
        report.lfs_objects = reached.lfs.len() as u64;
        drop(reached.objects);
        let faults = self.lfs_faults(reached.lfs.into_iter().collect())?;
        self.tell(faults);
        Ok(())
    }

    fn walk(
        &self,
        packs: &Packs,
        pointers: HashMap<Oid, LfsPointer>,
    ) -> Result<Reached, MirrorError> {
        let options = self.options;
        let stored = match options.quick {
            false => None,
            true => match inventory::stored(self.store, options.concurrency, &options.cancel) {
                Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => None,
                listed => Some(listed?),
            },
        };
        let walk = Walk {
            store: self.store,
            packs,
            threads: options.concurrency,
            memory_bytes: options.memory_bytes,
            cancel: &options.cancel,
            read_blobs: !options.quick,
            blobs_exist: true,
            stored: stored.as_ref(),
            pointers: match options.quick {
                true => Pointers::IfAttributes,
                false => Pointers::Known(pointers),
            },
            elsewhere: &|_, _| false,
        };
        let tips: Vec<_> = self.tips.iter().map(|(oid, kind, _)| (*oid, *kind)).collect();
        walk.run(&tips, &|Problem { key, what, via }| {
            self.findings.add(key, what, self.name_of(via));
        })
    }

    fn name_of(&self, via: u32) -> Option<String> {
        self.tips.get(via as usize).map(|(_, _, name)| name.clone())
    }

    /// `quick`: the pack's last 20 bytes are its name.
    fn check_trailer(&self, pack: &Pack) -> Result<(), MirrorError> {
        let range = pack.len.saturating_sub(20)..pack.len;
        let (trailer, _) = self.store.get(&pack.key(), Some(range), 20)?;
        if trailer != pack.index.pack_trailer().as_bytes() {
            let what = "does not end in the checksum that its name is: cut short or another pack";
            self.findings.add(pack.key().as_str(), what, None);
        }
        Ok(())
    }

    /// Reads a pack from end to end and compares every entry with the index.
    fn check_pack(
        &self,
        packs: &Packs,
        at: usize,
        pointers: &mut HashMap<Oid, LfsPointer>,
    ) -> Result<(), MirrorError> {
        let mut check = PackCheck {
            reader: PackedReader::new(self.store, packs, self.options.memory_bytes),
            pack: at,
            pointers,
            max_held: self.options.memory_bytes,
        };
        let pack = &packs.0[at];
        match check.run(self.store, pack, &self.options.cancel, self.findings) {
            Ok(()) => Ok(()),
            Err(Stop::Cancelled) => Err(MirrorError::Interrupted),
            Err(Stop::Pack(PackError::Io { source, .. })) => match io_error(source) {
                ReadError::Store(error) if !error.is_not_found() => Err(error.into()),
                _ => {
                    self.findings.add(pack.key().as_str(), "missing", None);
                    Ok(())
                }
            },
            Err(Stop::Pack(error)) => {
                self.findings.add(pack.key().as_str(), with_causes(&error), None);
                Ok(())
            }
            Err(Stop::Store(error)) => Err(error.into()),
        }
    }

    /// Do the LFS objects exist, and are they what their names say?
    fn lfs_faults(
        &self,
        mut wanted: Vec<([u8; 32], (u64, u32))>,
    ) -> Result<Vec<LfsFault>, MirrorError> {
        let faults = Mutex::new(Vec::new());
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.progress.phase("LFS objects");
        wanted.sort_unstable();
        let sizes = if self.options.quick { self.list_lfs()? } else { None };
        for_each(&wanted, self.options.concurrency, "verify", |(oid, (size, via))| {
            if let Some(what) = self.check_lfs_object(oid, *size, sizes.as_ref())? {
                let fault = LfsFault { oid: *oid, what, via: *via };
                faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
            }
            Ok::<_, MirrorError>(())
        })?;
        Ok(faults.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, faults: Vec<LfsFault>) {
        for LfsFault { oid, what, via } in faults {
            let key = lfs_objects::key(&oid);
            self.findings.add(key.as_str(), what, self.name_of(via));
        }
    }

    /// Sizes of the LFS objects in the bucket; `None` where nothing can be listed.
    fn list_lfs(&self) -> Result<Option<BTreeMap<[u8; 32], u64>>, MirrorError> {
        let sizes = Mutex::new(BTreeMap::new());
        let options = self.options;
        let listed =
            inventory::pages(self.store, LFS, options.concurrency, &options.cancel, &|page| {
                let found = page.into_iter().filter_map(|info| {
                    Some((lfs_objects::oid_of_key(info.key.as_str())?, info.len))
                });
                sizes.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                Ok(())
            });
        match listed {
            Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(sizes.into_inner().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    fn check_lfs_object(
        &self,
        oid: &[u8; 32],
        size: u64,
        sizes: Option<&BTreeMap<[u8; 32], u64>>,
    ) -> Result<Option<String>, MirrorError> {
        if self.options.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let key = lfs_objects::key(oid);
        if !self.options.quick {
            return self.lfs_fault(&key, oid, size);
        }
        let found = match sizes {
            Some(sizes) => sizes.get(oid).copied(),
            None => self.store.head(&key)?.map(|info| info.len),
        };
        Ok(match found {
            None => Some("LFS object missing".to_owned()),
            Some(len) if len != size => Some(wrong_size(len, size)),
            Some(_) => None,
        })
    }

    /// Reads an LFS object as a stream.
    fn lfs_fault(
        &self,
        key: &Key,
        oid: &[u8; 32],
        size: u64,
    ) -> Result<Option<String>, MirrorError> {
        let mut stream = Reopening::new(self.store, key.clone(), 0);
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        let mut len = 0u64;
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    len += read as u64;
                }
                Err(error) => match io_error(error) {
                    ReadError::Store(error) if error.is_not_found() => {
                        return Ok(Some("LFS object missing".to_owned()));
                    }
                    ReadError::Store(error) => return Err(error.into()),
                    _ => return Ok(Some("LFS object can't be read".to_owned())),
                },
            }
            if self.options.cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
        }
        let found: [u8; 32] = hasher.finalize().into();
        Ok(match (len == size, found == *oid) {
            (false, _) => Some(wrong_size(len, size)),
            (true, false) => Some("LFS object's SHA-256 is not its name".to_owned()),
            (true, true) => None,
        })
    }
}

fn wrong_size(found: u64, wanted: u64) -> String {
    format!("LFS object has {found} bytes, its pointer says {wanted}")
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words += &format!(": {inner}");
        cause = inner.source();
    }
    words
}

/// Why the reading of a pack ended early.
enum Stop {
    Pack(PackError),
    Store(StoreError),
    Cancelled,
}

impl From<PackError> for Stop {
    fn from(error: PackError) -> Self {
        Stop::Pack(error)
    }
}

/// One pack, entry by entry.
struct PackCheck<'c> {
    /// Bases that have left the cache are read again by their place.
    reader: PackedReader<'c>,
    pack: usize,
    pointers: &'c mut HashMap<Oid, LfsPointer>,
    max_held: u64,
}

impl PackCheck<'_> {
    fn run(
        &mut self,
        store: &dyn Store,
        pack: &Pack,
        cancel: &Cancel,
        findings: &Findings,
    ) -> Result<(), Stop> {
        let key = pack.key();
        let index_key = packs::key(&pack.name, "idx");
        let mut listed: Vec<IndexEntry> = pack.index.entries().collect();
        listed.sort_unstable_by_key(|entry| entry.offset);
        let mut listed = listed.into_iter();
        let stream = Reopening::new(store, key.clone(), 0);
        let mut entries = PackReader::new(stream)?;
        while let Some(header) = entries.next_entry()? {
            if cancel.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            let entry = match listed.next() {
                Some(entry) if entry.offset == header.offset => entry,
                other => {
                    let says =
                        other.map_or("no more".to_owned(), |e| format!("one at {}", e.offset));
                    let what =
                        format!("the pack has an entry at {}, the index {says}", header.offset);
                    findings.add(index_key.as_str(), what, None);
                    // The rest of the pack is still checked against its own checksum.
                    while entries.next_entry()?.is_some() {}
                    return Ok(());
                }
            };
            let (crc32, fault) = self.entry(&mut entries, &header, &entry)?;
            if crc32 != entry.crc32 {
                let what = format!(
                    "CRC-32 of {} is {:08x} in the index, {crc32:08x} in the pack",
                    entry.oid, entry.crc32
                );
                findings.add(index_key.as_str(), what, None);
            }
            if let Some(what) = fault {
                let what = format!("{} at offset {}: {what}", entry.oid, entry.offset);
                findings.add(key.as_str(), what, None);
            }
        }
        if let Some(extra) = listed.next() {
            let what = format!("{} at offset {} is not in the pack", extra.oid, extra.offset);
            findings.add(index_key.as_str(), what, None);
        }
        Ok(())
    }

    /// Reads the body of an entry: its CRC-32, and what is wrong with the object.
    fn entry<R: Read>(
        &mut self,
        entries: &mut PackReader<R>,
        header: &EntryHeader,
        listed: &IndexEntry,
    ) -> Result<(u32, Option<String>), Stop> {
        let place = (self.pack, header.offset);
        if let EntryKind::Object(kind) = header.kind
            && header.inflated_len > self.max_held / 8
        {
            let mut hasher = ObjectHasher::new(kind, header.inflated_len);
            let end = entries.read_body(|_, piece| {
                hasher.update(piece);
                Ok::<_, PackError>(())
            })?;
            return Ok((end.crc32, other_name(hasher.finish(), listed.oid)));
        }
        if header.inflated_len > self.max_held {
            let end = entries.read_body(|_, _| Ok::<_, PackError>(()))?;
            let words = format!("not checked: its delta has {} bytes", header.inflated_len);
            return Ok((end.crc32, Some(words)));
        }
        let mut body = Vec::new();
        let end = entries.read_small(None, &mut body)?;
        let resolved = match header.kind {
            EntryKind::Object(kind) => Ok((kind, body.into())),
            EntryKind::OfsDelta { base_offset } => self.delta((self.pack, base_offset), &body),
            EntryKind::RefDelta { base } => {
                self.reader.place_in(self.pack, &base).and_then(|base| self.delta(base, &body))
            }
        };
        let fault = match resolved {
            Ok((kind, content)) => {
                let fault = other_name(hash_object(kind, &content), listed.oid);
                if kind == Kind::Blob
                    && let Some(pointer) = LfsPointer::parse(&content)
                {
                    self.pointers.insert(listed.oid, pointer);
                }
                self.reader.contents.put(place, (kind, content));
                fault
            }
            Err(ReadError::Store(error)) => return Err(Stop::Store(error)),
            Err(ReadError::Damaged(what)) => Some(what),
            Err(ReadError::TooLarge(bytes)) => {
                Some(format!("not checked: it needs {bytes} bytes of memory; see --memory"))
            }
        };
        Ok((end.crc32, fault))
    }

    fn delta(&mut self, base: packed::Place, delta: &[u8]) -> Result<Content, ReadError> {
        let base = self.reader.read(base)?;
        self.reader.apply(&base, delta)
    }
}

fn other_name(found: Oid, wanted: Oid) -> Option<String> {
    (found != wanted).then(|| format!("its content has the name {found}"))
}
