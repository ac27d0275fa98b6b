//! A run's temporary keys and multipart uploads, under `mirror_tmp/<run id>/`.
//!
//! Everything temporary is written down here *before* it is made, so that [`TempKeys::clean`] finds
//! it on every way out. What a killed run leaves is swept by a later one ([`sweep`]).
//!
//! A copy of over 5 GiB is a multipart upload to a *final* key. It is noted in the run's folder before
//! it is begun, and its id right after, so that a sweep knows where to look and which is ours.
//!
//! Which run is stale? A run id is `<host>-<boot>-<namespace>-<pid>-<start>-<random>`. A run of this
//! host's earlier boot is stale; in this boot and pid namespace the process table tells, and of this
//! process itself which of its runs are under way. For others
//! (containers, several VMs on one target) only age can, and it errs on the side of leaving things:
//! [`ABANDONED_AFTER`]. A host is its name and its machine-id(5), so clones of a VM need a
//! machine-id each, as systemd wants it anyway.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::{files, listing};
use crate::git::lfs_pointer::sha256;
use crate::git::object::Oid;
use crate::store::{
    Key, ObjectHeaders, ObjectInfo, OpenUpload, Store, StoreError, StoreErrorKind, Upload,
};

/// The folder of all temporary keys.
pub(crate) const TEMP_PREFIX: &str = "mirror_tmp/";

/// Is it a temporary key that [`TempKeys::key`] made for `what`?
pub(crate) fn is_what(key: &Key, what: &str) -> bool {
    let name = key.as_str().strip_prefix(TEMP_PREFIX).and_then(|rest| rest.rsplit_once('/'));
    name.and_then(|(_, name)| name.rsplit_once('-')).is_some_and(|(is, _)| is == what)
}

/// A key that only a run of this program makes: `mirror_tmp/<run id>/<what>-<number>`. The sweep
/// deletes and aborts nothing else, whatever a listing says.
#[derive(Debug)]
struct TempKey {
    key: Key,
    run_id: String,
    /// Of an upload to a final key.
    is_note: bool,
}

impl TempKey {
    fn parse(key: Key) -> Option<Self> {
        let (run_id, name) = key.as_str().strip_prefix(TEMP_PREFIX)?.split_once('/')?;
        let (what, number) = name.rsplit_once('-')?;
        let is_name = !what.is_empty() && what.bytes().all(|c| c.is_ascii_lowercase());
        if !is_name || !is_number(number) || !is_run_id(run_id) {
            return None;
        }
        let (run_id, is_note) = (run_id.to_owned(), what == NOTE);
        Some(TempKey { key, run_id, is_note })
    }

    fn is_dead(&self, last_written: Option<SystemTime>, now: SystemTime) -> bool {
        match is_alive_here(&self.run_id) {
            // However old: a pack of the first run may take more than a day.
            Some(alive) => !alive,
            None => last_written
                .and_then(|at| now.duration_since(at).ok())
                .is_some_and(|age| age > ABANDONED_AFTER),
        }
    }
}

/// As [`new_run_id`] makes them.
fn is_run_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [host, boot, namespace, pid, started, random] = parts[..] else { return false };
    let is_hex = |text: &str| {
        (1..=16).contains(&text.len())
            && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    host.contains('.')
        && host.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.')
        && [boot, namespace, random].into_iter().all(is_hex)
        && is_number(pid)
        && is_number(started)
}

fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit())
}

/// A foreign host's run whose temporary keys and uploads are so old is stale. A live one would have
/// to take longer for a single upload, which in the pack layout is the whole pack: the README says
/// so.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The temporary keys and uploads of one run.
pub(crate) struct TempKeys<'e> {
    store: &'e dyn Store,
    run: Running,
    next: AtomicU32,
    made: Mutex<Made>,
}

/// What a note of an upload to a final key is called.
const NOTE: &str = "upload";

const NOTE_HEADERS: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// A key and an upload id have at most 1,024 bytes each on S3.
const MAX_NOTE_BYTES: u64 = 16 << 10;

/// An upload whose id was not noted yet when its run was killed began so soon after the note.
const NOTED_BEFORE: Duration = Duration::from_secs(10 * 60);

/// Stores tell times by the second or millisecond, rounded either way.
const ROUNDING: Duration = Duration::from_secs(2);

/// An upload to a final key, and where it is noted.
pub(crate) struct NotedUpload {
    pub(crate) upload: Upload,
    note: Key,
}

/// Guarded by [`TempKeys::made`].
#[derive(Default)]
struct Made {
    keys: BTreeSet<Key>,
    uploads: Vec<Upload>,
}

/// The runs of this process that are under way: it may continue for long after one has ended.
static UNDER_WAY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn under_way() -> MutexGuard<'static, BTreeSet<String>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run of this process that is under way, as long as this is held.
pub(crate) struct Running {
    pub(crate) id: String,
}

impl Running {
    pub(crate) fn begin() -> Self {
        let id = new_run_id();
        under_way().insert(id.clone());
        Running { id }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        under_way().remove(&self.id);
    }
}

/// Is the run that has this id, and that was begun then, over? Of other hosts only age can tell.
pub(crate) fn is_over(run_id: &str, begun: Option<SystemTime>, now: SystemTime) -> bool {
    match is_alive_here(run_id) {
        Some(alive) => !alive,
        // A time that is as far ahead says nothing: a wrong clock must not keep it alive forever.
        None => begun.is_none_or(|at| {
            now.duration_since(at).unwrap_or_else(|ahead| ahead.duration()) > ABANDONED_AFTER
        }),
    }
}

impl<'e> TempKeys<'e> {
    pub(crate) fn new(store: &'e dyn Store) -> Self {
        let (run, next) = (Running::begin(), AtomicU32::new(0));
        TempKeys { store, run, next, made: Mutex::default() }
    }

    /// A new temporary key; `what` says what for, in the bucket's listing.
    pub(crate) fn key(&self, what: &str) -> Key {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = Key::new(format!("{TEMP_PREFIX}{}/{what}-{number}", self.run.id))
            .expect("a run id has no slash and no control character");
        self.made().keys.insert(key.clone());
        key
    }

    /// Begins a multipart upload, which [`TempKeys::clean`] will abort unless it is completed.
    pub(crate) fn create_upload(
        &self,
        key: &Key,
        headers: ObjectHeaders,
    ) -> Result<Upload, StoreError> {
        let upload = self.store.create_upload(key, headers)?;
        self.made().uploads.push(upload.clone());
        Ok(upload)
    }

    /// Begins a multipart upload to a final key, and leaves a note of it under a temporary key: no
    /// listing of the run's folder shows such an upload.
    pub(crate) fn create_noted_upload(
        &self,
        key: &Key,
        headers: ObjectHeaders,
    ) -> Result<NotedUpload, StoreError> {
        let note = self.key(NOTE);
        self.store.put(&note, format!("{key}\n").as_bytes(), NOTE_HEADERS, None)?;
        let upload = self.create_upload(key, headers).inspect_err(|error| {
            // Its answer may have been lost: the note stays for the next run.
            if matches!(error.kind, StoreErrorKind::Transient { .. }) {
                self.forget(&note);
            }
        })?;
        let body = format!("{key}\n{}\n", upload.id);
        self.store.put(&note, body.as_bytes(), NOTE_HEADERS, None)?;
        Ok(NotedUpload { upload, note })
    }

    /// The noted upload has been completed. If another one is open under its key (one whose answer
    /// was lost and that was begun again), the note stays for the next run.
    pub(crate) fn noted_upload_completed(&self, noted: &NotedUpload) -> Result<(), StoreError> {
        self.upload_ended(&noted.upload);
        let open = self.store.list_uploads(noted.upload.key.as_str()).unwrap_or_default();
        if open.iter().any(|open| open.upload.key == noted.upload.key) {
            self.forget(&noted.note);
            return Ok(());
        }
        self.delete(&noted.note)
    }

    /// Aborts the noted upload; on an error [`TempKeys::clean`] tries again.
    pub(crate) fn abort_noted_upload(&self, noted: &NotedUpload) -> Result<(), StoreError> {
        bear_denied(self.store.abort_upload(&noted.upload))?;
        self.upload_ended(&noted.upload);
        self.delete(&noted.note)
    }

    /// The store that they are in.
    pub(crate) fn store(&self) -> &'e dyn Store {
        self.store
    }

    /// The upload has been completed or aborted.
    pub(crate) fn upload_ended(&self, upload: &Upload) {
        self.made().uploads.retain(|known| known != upload);
    }

    /// Deletes one temporary key now.
    pub(crate) fn delete(&self, key: &Key) -> Result<(), StoreError> {
        bear_denied(self.store.delete(std::slice::from_ref(key)))?;
        self.made().keys.remove(key);
        Ok(())
    }

    /// The key was never written (its upload was aborted).
    pub(crate) fn forget(&self, key: &Key) {
        self.made().keys.remove(key);
    }

    /// Aborts and deletes all that is left. The first error is answered after everything has been
    /// tried.
    pub(crate) fn clean(&self) -> Result<(), StoreError> {
        let made = std::mem::take(&mut *self.made());
        let mut outcome = Ok(());
        for upload in &made.uploads {
            outcome = outcome.and(bear_denied(self.store.abort_upload(upload)));
        }
        let mut keys: Vec<Key> = made.keys.into_iter().collect();
        if outcome.is_err() {
            keys.retain(|key| !TempKey::parse(key.clone()).is_some_and(|key| key.is_note));
        }
        if keys.is_empty() {
            return outcome;
        }
        outcome.and(bear_denied(self.store.delete(&keys)))
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer without the right to delete leaves temporary keys behind: they take room, and publishing
/// does not depend on them. It is said once.
fn bear_denied(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    match outcome {
        Err(error) if error.kind == StoreErrorKind::Denied => {
            if !WARNED.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{error}; temporary keys stay in the bucket: allow s3:DeleteObject and \
                     s3:AbortMultipartUpload, or let a lifecycle rule expire mirror_tmp/"
                );
            }
            Ok(())
        }
        outcome => outcome,
    }
}

/// Not every store lists uploads, and not everyone may. Then a run continues, and this says so.
pub(crate) fn can_go_on_without_sweep(error: &StoreError) -> bool {
    let can = matches!(error.kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported);
    if can {
        log::warn!("cannot check for leftovers of killed runs: {error}");
    }
    can
}

/// What [`sweep_all`] has done.
pub(crate) struct Swept {
    /// Keys, uploads and other leftovers that are gone.
    pub(crate) deleted: usize,
    /// Something of a killed run has to wait for another sweep.
    pub(crate) is_left: bool,
}

/// Deletes what killed runs have left, and aborts their uploads. Answers how many keys, uploads and
/// other leftovers. Keys of any other form stay, whoever made them.
pub(crate) fn sweep(store: &dyn Store) -> Result<usize, StoreError> {
    Ok(sweep_all(store)?.deleted)
}

/// As [`sweep`]; also says if something is left.
///
/// Two requests if there is nothing. Uploads to final keys (copies of over 5 GiB) are looked for only
/// where a killed run has left a note of one.
pub(crate) fn sweep_all(store: &dyn Store) -> Result<Swept, StoreError> {
    let now = SystemTime::now();
    let (mut stale, mut stale_notes, mut live_notes) = (Vec::new(), Vec::new(), Vec::new());
    listing::pages(store, TEMP_PREFIX, |page| {
        for ObjectInfo { key, last_modified, .. } in page {
            let Some(key) = TempKey::parse(key) else { continue };
            match (key.is_dead(last_modified, now), key.is_note) {
                (true, false) => stale.push(key),
                (true, true) => stale_notes.push((key, last_modified)),
                (false, true) => live_notes.push(key),
                (false, false) => {}
            }
        }
        Ok::<_, StoreError>(())
    })?;
    let (mut swept, mut is_left) = (store.remove_leftovers()?, false);
    for OpenUpload { upload, initiated } in store.list_uploads(TEMP_PREFIX)? {
        if TempKey::parse(upload.key.clone()).is_some_and(|key| key.is_dead(initiated, now)) {
            match is_allowed(store.abort_upload(&upload))? {
                true => swept += 1,
                false => is_left = true,
            }
        }
    }
    match delete(store, &stale)? {
        true => swept += stale.len(),
        false => is_left = true,
    }
    if !stale_notes.is_empty() {
        let noted = sweep_noted(store, stale_notes, &live_notes)?;
        swept += noted.deleted;
        is_left |= noted.is_left;
    }
    Ok(Swept { deleted: swept, is_left })
}

/// Who may not delete was warned by the run that left something, and not by each one after it.
fn is_allowed(outcome: Result<(), StoreError>) -> Result<bool, StoreError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::Denied => {
            log::info!("leftovers of an earlier run stay in the bucket: {error}");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// False: that is not allowed.
fn delete(store: &dyn Store, stale: &[TempKey]) -> Result<bool, StoreError> {
    let keys: Vec<Key> = stale.iter().map(|temporary| temporary.key.clone()).collect();
    if keys.is_empty() { Ok(true) } else { is_allowed(store.delete(&keys)) }
}

/// Aborts the uploads that killed runs have noted, and deletes the notes.
///
/// A run that was killed before it could note the upload's id leaves the key alone. Then it is an
/// upload of exactly this key that began right after the note, and that no run which is alive has
/// noted. If one that is alive has not noted an id either, they cannot be distinguished: later.
fn sweep_noted(
    store: &dyn Store,
    stale: Vec<(TempKey, Option<SystemTime>)>,
    alive: &[TempKey],
) -> Result<Swept, StoreError> {
    let read = |keys: &mut dyn Iterator<Item = &TempKey>| -> Result<Vec<Note>, StoreError> {
        keys.filter_map(|key| Note::read(store, &key.key).transpose()).collect()
    };
    let alive = read(&mut alive.iter())?;
    let (mut done, mut aborted, mut is_left) = (Vec::new(), 0, false);
    for (temporary, written) in stale {
        let note = Note::read(store, &temporary.key)?;
        // What can't be read names nothing that is ours.
        let Some(Note { key, id }) = note else {
            done.push(temporary);
            continue;
        };
        if let Some(id) = &id {
            let upload = Upload { key: key.clone(), id: id.clone() };
            if !is_allowed(store.abort_upload(&upload))? {
                is_left = true;
                continue;
            }
            aborted += 1;
        }
        let others: Vec<&Note> = alive.iter().filter(|other| other.key == key).collect();
        if others.iter().any(|other| other.id.is_none()) {
            is_left = true;
            continue;
        }
        let mut is_over = true;
        for OpenUpload { upload, initiated } in store.list_uploads(key.as_str())? {
            let is_noted = others.iter().any(|other| other.id.as_ref() == Some(&upload.id));
            if upload.key == key && !is_noted && began_right_after(written, initiated) {
                match is_allowed(store.abort_upload(&upload))? {
                    true => aborted += 1,
                    false => is_over = false,
                }
            }
        }
        match is_over {
            true => done.push(temporary),
            false => is_left = true,
        }
    }
    match delete(store, &done)? {
        true => aborted += done.len(),
        false => is_left = true,
    }
    Ok(Swept { deleted: aborted, is_left })
}

fn began_right_after(noted: Option<SystemTime>, begun: Option<SystemTime>) -> bool {
    let (Some(noted), Some(begun)) = (noted, begun) else { return false };
    begun + ROUNDING >= noted && begun <= noted + NOTED_BEFORE
}

/// An upload to a final key, as its run has noted it.
struct Note {
    key: Key,
    id: Option<String>,
}

impl Note {
    /// `None`: it is gone, or no note of ours.
    fn read(store: &dyn Store, key: &Key) -> Result<Option<Note>, StoreError> {
        let file = files::get(store, key, None, MAX_NOTE_BYTES)?;
        Ok(file.and_then(|(file, _)| Note::parse(&file)))
    }

    fn parse(file: &[u8]) -> Option<Note> {
        let mut lines = std::str::from_utf8(file).ok()?.lines();
        let key = lines.next().filter(|key| is_final(key))?;
        Some(Note { key: Key::new(key).ok()?, id: lines.next().map(str::to_owned) })
    }
}

/// Is this the key of an object, a pack, an index or an LFS object?
fn is_final(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        ["objects", "pack", file] => {
            let name = file.strip_suffix(".pack").or_else(|| file.strip_suffix(".idx"));
            let hex = name.and_then(|name| name.strip_prefix("pack-"));
            hex.is_some_and(|hex| Oid::from_hex(hex.as_bytes()).is_some())
        }
        ["objects", two, rest] => {
            two.len() == 2 && Oid::from_hex(format!("{two}{rest}").as_bytes()).is_some()
        }
        ["lfs", "objects", a, b, oid] => {
            sha256(oid).is_some() && oid.starts_with(&format!("{a}{b}")) && a.len() == 2
        }
        _ => false,
    }
}

/// Is the run that has this id a process of this host? `None`: that cannot be determined here.
fn is_alive_here(run_id: &str) -> Option<bool> {
    let parts: Vec<&str> = run_id.split('-').collect();
    let [host, boot, namespace, pid, started, _random] = parts[..] else { return None };
    let here = Here::look();
    if host != here.host || here.boot == UNKNOWN {
        return None;
    }
    if boot != here.boot {
        return Some(false);
    }
    if namespace != here.namespace || !is_number(pid) || process_start("self").is_none() {
        return None;
    }
    let is_ours = pid == std::process::id().to_string();
    Some(
        process_start(pid).as_deref() == Some(started)
            && (!is_ours || under_way().contains(run_id)),
    )
}

fn new_run_id() -> String {
    use std::hash::BuildHasher;
    let Here { host, boot, namespace } = Here::look();
    let started = process_start("self").unwrap_or_else(|| UNKNOWN.into());
    let random = std::hash::RandomState::new().hash_one(SystemTime::now());
    format!("{host}-{boot}-{namespace}-{}-{started}-{random:016x}", std::process::id())
}

/// For what this system does not tell.
const UNKNOWN: &str = "0";

/// Which host, boot and pid namespace this is, each as a word without `-` and `/`.
struct Here {
    host: String,
    boot: String,
    namespace: String,
}

impl Here {
    fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let boot = read("/proc/sys/kernel/random/boot_id");
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let name = read("/proc/sys/kernel/hostname");
        // Without a machine-id, another boot cannot be distinguished from another host: it becomes one.
        let machine = match read("/etc/machine-id") {
            id if id.trim().is_empty() => boot.clone(),
            id => id,
        };
        let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '.';
        let name: String = name.trim().chars().filter(plain).take(40).collect();
        Here {
            host: format!("{name}.{}", word(&machine)),
            boot: word(&boot),
            namespace: word(&namespace.to_string_lossy()),
        }
    }
}

/// Eight hexadecimal digits that stand for `text` (FNV-1a), or [`UNKNOWN`] for nothing.
fn word(text: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.trim().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    if text.trim().is_empty() { UNKNOWN.into() } else { format!("{:08x}", hash as u32) }
}

/// When a process was started, in clock ticks since boot: field 22 of proc_pid_stat(5).
fn process_start(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, is in parentheses and may hold anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run_id: &str) -> TempKey {
        TempKey::parse(Key::new(format!("{TEMP_PREFIX}{run_id}/part-0")).unwrap()).unwrap()
    }

    fn run_id(host: &str, boot: &str, namespace: &str, started: &str) -> String {
        format!("{host}-{boot}-{namespace}-{}-{started}-00ff", std::process::id())
    }

    #[test]
    fn own_run_is_alive_however_old_until_it_ends() {
        let store = crate::store::memory::MemoryStore::new();
        let run = TempKeys::new(&store);
        let own = TempKey::parse(run.key("part")).unwrap();
        let now = SystemTime::now();
        for age in [Duration::ZERO, 3 * ABANDONED_AFTER] {
            assert!(!own.is_dead(Some(now - age), now), "{own:?}");
        }
        drop(run);
        assert!(own.is_dead(Some(now), now), "{own:?}");
    }

    #[test]
    fn process_that_is_no_more_and_earlier_boot_are_dead() {
        let Here { host, boot, namespace } = Here::look();
        assert_eq!(is_alive_here(&run_id(&host, &boot, &namespace, "1")), Some(false));
        assert_eq!(is_alive_here(&run_id(&host, "00000000", &namespace, "1")), Some(false));
        let elsewhere = run_id(&host, &boot, "00000000", "1");
        assert_eq!(is_alive_here(&elsewhere), None, "another pid namespace");
    }

    #[test]
    fn run_of_another_host_is_dead_by_age_alone() {
        let now = SystemTime::now();
        let foreign = key(&run_id("elsewhere.01234567", "1", "2", "3"));
        assert!(!foreign.is_dead(Some(now), now));
        assert!(!foreign.is_dead(None, now));
        assert!(foreign.is_dead(Some(now - 2 * ABANDONED_AFTER), now));
    }

    #[test]
    fn notes_name_keys_of_a_mirror_and_nothing_else() {
        let (hex, long) = ("ab".repeat(20), "ab".repeat(32));
        for key in [
            format!("objects/pack/pack-{hex}.pack"),
            format!("objects/pack/pack-{hex}.idx"),
            format!("objects/ab/{}", &hex[2..]),
            format!("lfs/objects/ab/ab/{long}"),
        ] {
            let note = Note::parse(format!("{key}\n").as_bytes()).expect(&key);
            assert_eq!((note.key.as_str(), note.id), (key.as_str(), None));
            let note = Note::parse(format!("{key}\n2~x+/=\n").as_bytes()).expect(&key);
            assert_eq!(note.id.as_deref(), Some("2~x+/="));
        }
        for key in [
            "",
            "HEAD",
            "objects/info/packs",
            "film.mov",
            &format!("objects/pack/pack-{hex}.rev"),
            &format!("lfs/objects/00/ab/{long}"),
            &format!("x/objects/pack/pack-{hex}.pack"),
        ] {
            assert!(Note::parse(format!("{key}\nid\n").as_bytes()).is_none(), "{key}");
        }
    }

    #[test]
    fn only_what_a_run_makes_is_a_temporary_key() {
        let store = crate::store::memory::MemoryStore::new();
        for what in ["pack", "delta", "lfs"] {
            assert!(TempKey::parse(TempKeys::new(&store).key(what)).is_some());
        }
        for text in [
            "HEAD",
            "objects/00/00000000000000000000000000000000000000",
            "mirror_tmp/notes.txt",
            "mirror_tmp/x/pack-0",
            "mirror_tmp/host.0-1-2-3-4/pack-0",
            "mirror_tmp/host-1-2-3-4-5/pack-0",
            "mirror_tmp/host.0-1-2-3-4-5-6/pack-0",
            "mirror_tmp/host.0-1-2-x-4-5/pack-0",
            "mirror_tmp/host.0-1-2-3-4-5/pack",
            "mirror_tmp/host.0-1-2-3-4-5/a/pack-0",
            "mirror_tmp/host.0-1-2-3-4-5/pack-x",
            "x/mirror_tmp/host.0-1-2-3-4-5/pack-0",
        ] {
            assert!(TempKey::parse(Key::new(text).unwrap()).is_none(), "{text}");
        }
    }
}
