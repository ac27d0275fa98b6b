//! Checks a mirror's integrity, and reports what is damaged or missing.
//!
//! In order: `info/refs` and `HEAD` parse and agree, with `packed-refs` too where git reads that; every
//! listed pack has a sound index and, unless `quick`, is read once from end to end: its checksum, and of
//! every entry the offset, the CRC-32 and the name that the index gives it; everything that the refs reach
//! exists, and what is read hashes to its name; the LFS objects of the pointers reached exist, by size if
//! `quick` and by SHA-256 otherwise; and bundles are the packs that they are named after (a sample looks
//! at their ends alone).
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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::bundle_check;
use super::diagnose::{Diagnosis, Tip};
use super::findings::Findings;
pub use super::findings::{Finding, MAX_FINDINGS};
use super::inventory;
use super::pass::Pass;
use super::past::{Past, tips_of};
pub use super::sample::Sample;
use super::sample::Sampler;
use super::survey::{Survey, Surveyed, Surveyor};
use super::walk::{MISSING, Pointers, Problem, Walk};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::refs::{Advertisement, Head, Ref, info_refs, parse_head_file, parse_info_refs};
use crate::progress::{Progress, Silent};
use crate::repository::checked_loose::io_error;
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::lfs_objects;
use crate::repository::listing::LFS;
use crate::repository::packed::{self, Packs, ReadError};
use crate::repository::publish;
use crate::repository::resuming::ResumingReader;
use crate::repository::state::{self, Recorded};
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, ObjectInfo, Store, StoreError, StoreErrorKind};

/// How to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Ask for blobs, packs and LFS objects by name and size instead of reading them.
    pub quick: bool,
    /// Read a share alone; its turn is kept in the mirror.
    pub sample: Option<Sample>,
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
            sample: None,
            concurrency: 64,
            memory_bytes: 64 << 20,
            cancel: Cancel::default(),
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
    /// All keys that something is wrong with; where more than 100,000 are missing, not all of these.
    pub damaged: BTreeSet<String>,
    /// LFS objects among these.
    pub lfs_damaged: Vec<LfsPointer>,
    /// What is no fault, but worth knowing.
    pub notices: Vec<String>,
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
    progress.phase("reading refs");
    let max_refs_bytes = publish::max_file_bytes(options.memory_bytes);
    if let Some((refs, head)) = read_refs(store, max_refs_bytes, &findings)? {
        let state = match &head {
            Some(head) => check_state(store, &refs, head, max_refs_bytes, &findings)?,
            None => State { recorded: read_state(store, &findings)?, ..State::default() },
        };
        if let Some(what) = unborn_head(&refs, head.as_ref()) {
            match state.describes_refs {
                true => report.notices.push(format!("HEAD, as it is in the source, {what}")),
                false => findings.add("HEAD", what, None),
            }
        }
        check_packed_refs(store, &refs, max_refs_bytes, &findings)?;
        report.refs = refs.len();
        let mut tips = tips_of(&Advertisement::of(refs, head.unwrap_or(Head::Absent)));
        tips.extend(past_tips(store, options, state.recorded.as_ref(), &tips, &findings)?);
        Verification { store, options, progress, findings: &findings, tips }.run(&mut report)?;
        if state.recorded.as_ref().is_some_and(Recorded::has_bundles) {
            let quick = options.quick || options.sample.is_some();
            bundle_check::check(store, quick, max_refs_bytes, &options.cancel, &findings)?;
        }
        report.notices.extend(state.unfinished.filter(|_| findings.count() == 0));
    } else {
        // A repair must know of it.
        read_state(store, &findings)?;
    }
    (report.findings, report.finding_count, report.damaged) = findings.finish();
    report.store_requests = store.requests() - requests_before;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// What the state says.
#[derive(Default)]
struct State {
    /// `None`: there is none, or none that can be read.
    recorded: Option<Recorded>,
    /// It describes these refs and this `HEAD`.
    describes_refs: bool,
    /// It describes other refs, and a run has begun and not said that it has ended: what every run
    /// leaves that is killed between its last two writes. In words.
    unfinished: Option<String>,
}

/// The state must be readable, or no run begins and gc deletes nothing; and it must not be another
/// mirror's. A run writes it right after it has published, so it gets the time for that.
fn check_state(
    store: &dyn Store,
    refs: &[Ref],
    head: &Head,
    max_refs_bytes: u64,
    findings: &Findings,
) -> Result<State, MirrorError> {
    let mut known = State::default();
    for is_last in [false, true] {
        match read_state(store, findings)? {
            None => break,
            Some(recorded) => {
                let state = known.recorded.insert(recorded);
                let describes = state.describes(refs, Some(head));
                known.describes_refs = describes == Some(true);
                if describes != Some(false) {
                    break;
                }
                if let Some(run) =
                    state.writing().first().filter(|_| !state.is_far_more_than(refs.len()))
                {
                    known.unfinished = Some(format!(
                        "{} describes other refs than info/refs: a run has been writing since {}, or \
                         was killed before it could record what it published. All that the refs need \
                         is there; the next run records it, and gc waits for that",
                        state::KEY,
                        run.begun,
                    ));
                    break;
                }
                if !is_last {
                    std::thread::sleep(STATE_GRACE);
                    continue;
                }
                let same = files::get(store, &files::key("info/refs"), None, max_refs_bytes)?;
                // A run has published meanwhile.
                if same.is_some_and(|(file, _)| file != info_refs(refs)) {
                    break;
                }
                let what =
                    format!("{} describes other refs: one of the two is damaged", state::KEY);
                findings.add("info/refs", what, None);
                findings.blame(state::KEY);
            }
        }
    }
    Ok(known)
}

/// What the last run has recorded. A finding if that can't be read.
fn read_state(store: &dyn Store, findings: &Findings) -> Result<Option<Recorded>, MirrorError> {
    match Recorded::read(store) {
        Err(MirrorError::Mirror(what)) => {
            findings.add(state::KEY, what, None);
            Ok(None)
        }
        read => read,
    }
}

/// Where git reads the directory by path, `packed-refs` must say what `info/refs` says. A run writes it
/// right after that.
fn check_packed_refs(
    store: &dyn Store,
    refs: &[Ref],
    max_refs_bytes: u64,
    findings: &Findings,
) -> Result<(), MirrorError> {
    if publish::packed_refs_fault(store, refs)?.is_none() {
        return Ok(());
    }
    std::thread::sleep(STATE_GRACE);
    let Some(what) = publish::packed_refs_fault(store, refs)? else { return Ok(()) };
    let now = files::get(store, &files::key("info/refs"), None, max_refs_bytes)?;
    // Else a run has published meanwhile.
    if now.is_none_or(|(file, _)| file == info_refs(refs)) {
        findings.add("packed-refs", what, None);
    }
    Ok(())
}

/// What only past publications name. One that can't be read is a finding.
fn past_tips(
    store: &dyn Store,
    options: &VerifyOptions,
    recorded: Option<&Recorded>,
    today: &[Tip],
    findings: &Findings,
) -> Result<Vec<Tip>, MirrorError> {
    let past = Past::list_if_possible(store, recorded)?;
    if recorded.is_none() && !past.is_empty() && store.head(&files::key(state::KEY))?.is_none() {
        let what = "missing, although past publications are kept: for how long is not known";
        findings.add(state::KEY, what, None);
    }
    let today = today.iter().map(|(oid, ..)| *oid);
    past.tips(
        store,
        (options.concurrency, options.memory_bytes),
        &options.cancel,
        today,
        &|key, what| {
            findings.add(key.as_str(), what, None);
        },
    )
}

/// So long after the refs a run may write its state.
const STATE_GRACE: Duration = Duration::from_secs(1);

/// Without `info/refs`: is there a damaged mirror, or none? Without the right to list, other files that
/// each mirror has tell.
fn refuse_no_mirror(store: &dyn Store) -> Result<(), MirrorError> {
    let place = store.describe();
    let listed = match store.list("", None) {
        Ok(page) => page.objects,
        Err(error) if error.kind == StoreErrorKind::Unsupported => {
            for key in ["HEAD", "objects/info/packs", state::KEY] {
                if store.head(&files::key(key))?.is_some() {
                    return Ok(());
                }
            }
            let what = "has neither info/refs nor HEAD: there is no mirror";
            return Err(MirrorError::Mirror(format!("{place} {what}")));
        }
        // There is no such bucket, or no right to see it.
        Err(error) => return Err(error.into()),
    };
    let of_a_mirror = |info: &ObjectInfo| {
        let key = info.key.as_str();
        key == "HEAD" || ["objects/", "info/", "mirror_state/"].iter().any(|p| key.starts_with(p))
    };
    if listed.is_empty() {
        return Err(MirrorError::Mirror(format!("{place} is empty: there is no mirror")));
    }
    if !listed.iter().any(of_a_mirror) {
        return Err(MirrorError::Mirror(format!("{place} contains files, but no mirror")));
    }
    Ok(())
}

/// What [`read_refs`] finds.
type RefsAndHead = (Vec<Ref>, Option<Head>);

/// Refs and HEAD; `None` if the refs can't be used.
fn read_refs(
    store: &dyn Store,
    max_refs_bytes: u64,
    findings: &Findings,
) -> Result<Option<RefsAndHead>, MirrorError> {
    let get = |key| {
        let found = files::get(store, &files::key(key), None, max_refs_bytes)?;
        if found.is_none() {
            findings.add(key, "missing", None);
        }
        Ok::<_, StoreError>(found.map(|(file, _)| file))
    };
    let Some(file) = get("info/refs")? else {
        refuse_no_mirror(store)?;
        return Ok(None);
    };
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
    Ok(Some((refs, Some(head))))
}

/// `HEAD` names a branch that is not there, though others are: in words what a clone gets.
fn unborn_head(refs: &[Ref], head: Option<&Head>) -> Option<String> {
    let Some(Head::Unborn(name)) = head else { return None };
    refs.iter()
        .any(|r| r.name.is_branch())
        .then(|| format!("names {name}, which is not published: clones get an empty working tree"))
}

/// A pointer in a pack, of which it is not known yet who reaches it.
const OF_A_PACK: u32 = u32::MAX;

/// An LFS object that is not what its pointer says.
struct LfsFault {
    pointer: LfsPointer,
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
        if names.is_empty() && list_is_sound && self.list_is_lost()? {
            list_is_sound = false;
            self.findings.add("objects/info/packs", "missing, but there are packs", None);
        }
        report.packs = names.len();
        if let Some(sample) = self.options.sample {
            let (pass, findings, tips) = (self.pass(), self.findings, &self.tips[..]);
            let looked = Sampler { pass, sample, findings, tips }.run(&names)?;
            report.objects = looked.objects;
            report.lfs_objects = looked.lfs_objects;
            return Ok(());
        }
        // Without a pack, the walk is all that there is to do.
        let may_prove = !self.options.quick && list_is_sound && !names.is_empty();
        if may_prove && self.prove(&names, report)? {
            return Ok(());
        }
        let diagnosis = Diagnosis {
            pass: self.pass(),
            quick: self.options.quick,
            findings: self.findings,
            tips: &self.tips,
        };
        let reached = diagnosis.find(&names, list_is_sound)?;
        report.objects = reached.objects.len() as u64;
        report.lfs_objects = reached.lfs.len() as u64;
        drop(reached.objects);
        let faults = self.lfs_faults(reached.lfs.into_iter().collect())?;
        self.tell(faults, report);
        Ok(())
    }

    /// Is there no list of packs, though there are packs? (git tolerates a missing one.)
    fn list_is_lost(&self) -> Result<bool, MirrorError> {
        let is_there = self.store.head(&files::key("objects/info/packs"))?.is_some();
        if is_there {
            return Ok(false);
        }
        match inventory::packs_there(self.store, &[]) {
            Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => {
                Ok(false)
            }
            packs => Ok(!packs?.is_empty()),
        }
    }

    /// One pass over all packs, and the loose objects that refs and packs name. `false`: something is
    /// wrong, or could not be held; nothing was reported.
    fn prove(&self, names: &[String], report: &mut VerifyReport) -> Result<bool, MirrorError> {
        let options = self.options;
        let surveyor = Surveyor { pass: self.pass(), old_before: None };
        let Surveyed { known, outside, lfs } = match surveyor.look(names)? {
            Survey::Sound(surveyed) => *surveyed,
            Survey::Unsure(what) => return Ok(self.look_closer(&what)),
        };
        // The refs themselves, and then what packs name.
        let tips = self.tips.iter().map(|(oid, kind, _)| (*oid, *kind));
        let from: Vec<_> =
            tips.chain(outside.iter().map(|(oid, kind)| (oid, Some(*kind)))).collect();
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
        self.progress.phase("reading loose objects");
        let (problems, of_packs) = (Findings::default(), Mutex::new(None));
        let reached = walk.run(&from, &|Problem { key, what, via, .. }| {
            if via as usize >= self.tips.len() {
                let mut of_packs = of_packs.lock().unwrap_or_else(PoisonError::into_inner);
                of_packs.get_or_insert(format!("{key}: {what}"));
            } else if what == MISSING {
                problems.add_missing(key, what, self.name_of(via));
            } else {
                problems.add(key, what, self.name_of(via));
            }
        })?;
        // An object that a pack names may hang on garbage alone.
        if let Some(what) = of_packs.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Ok(self.look_closer(&what));
        }
        let sums = known.sum_up();
        if sums.absent + sums.of_wrong_kind > 0 {
            return Ok(self.look_closer(&format!("{sums:?}")));
        }
        self.findings.absorb(problems);
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
            faults.retain_mut(|fault| match reached.get(&fault.pointer.oid) {
                Some((_, via)) => {
                    fault.via = *via;
                    true
                }
                // Only garbage names it.
                None => fault.via != OF_A_PACK,
            });
        }
        self.tell(faults, report);
        Ok(true)
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            store: self.store,
            memory_bytes: self.options.memory_bytes,
            concurrency: self.options.concurrency,
            cancel: &self.options.cancel,
            progress: self.progress,
        }
    }

    fn look_closer(&self, why: &str) -> bool {
        log::info!("checking object by object: {why}");
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

    fn name_of(&self, via: u32) -> Option<String> {
        self.tips.get(via as usize).map(|(_, _, name)| name.clone())
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
        self.progress.phase("checking LFS objects");
        wanted.sort_unstable();
        let sizes = if self.options.quick { self.list_lfs()? } else { None };
        for_each(&wanted, self.options.concurrency, "verify", |(oid, (size, via))| {
            if let Some(what) = self.check_lfs_object(oid, *size, sizes.as_ref())? {
                let pointer = LfsPointer { oid: *oid, size: *size };
                let fault = LfsFault { pointer, what, via: *via };
                faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
            }
            Ok::<_, MirrorError>(())
        })?;
        Ok(faults.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, faults: Vec<LfsFault>, report: &mut VerifyReport) {
        for LfsFault { pointer, what, via } in faults {
            let oid = pointer.oid;
            report.lfs_damaged.push(pointer);
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
        let mut stream = ResumingReader::new(self.store, key.clone(), 0);
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
                    _ => return Ok(Some("LFS object cannot be read".to_owned())),
                },
            }
            if self.options.cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
        }
        let found: [u8; 32] = hasher.finalize().into();
        Ok(match (len == size, found == *oid) {
            (false, _) => Some(wrong_size(len, size)),
            (true, false) => Some("its SHA-256 does not match its name".to_owned()),
            (true, true) => None,
        })
    }
}

fn wrong_size(found: u64, wanted: u64) -> String {
    format!("LFS object has {found} bytes, its pointer says {wanted}")
}
