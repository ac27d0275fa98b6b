//! A run's temporary keys and multipart uploads, under `mirror_tmp/<run id>/`.
//!
//! Everything temporary is written down here *before* it is made, so that [`TempKeys::clean`] finds
//! it on every way out. What a killed run leaves is swept by a later one ([`sweep`]).
//!
//! Which run is dead? A run id is `<host>-<boot>-<namespace>-<pid>-<start>-<random>`. A run of this
//! host's earlier boot is dead; in this boot and pid namespace the process table tells, and of this
//! process itself which of its runs are under way. For others
//! (containers, several VMs on one target) only age can, and it errs on the side of leaving things:
//! [`ABANDONED_AFTER`]. A host is its name and its machine-id(5), so clones of a VM need a
//! machine-id each, as systemd wants it anyway.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::store::{Key, ObjectHeaders, OpenUpload, Store, StoreError, Upload};

/// The folder of all temporary keys.
pub(crate) const TEMP_PREFIX: &str = "mirror_tmp/";

/// A key that only a run of this program makes: `mirror_tmp/<run id>/<what>-<number>`. The sweep
/// deletes and aborts nothing else, whatever a listing says.
#[derive(Debug)]
struct TempKey {
    key: Key,
    run_id: String,
}

impl TempKey {
    fn parse(key: Key) -> Option<Self> {
        let (run_id, name) = key.as_str().strip_prefix(TEMP_PREFIX)?.split_once('/')?;
        let (what, number) = name.rsplit_once('-')?;
        let is_name = !what.is_empty() && what.bytes().all(|c| c.is_ascii_lowercase());
        if !is_name || !is_number(number) || !is_run_id(run_id) {
            return None;
        }
        let run_id = run_id.to_owned();
        Some(TempKey { key, run_id })
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

/// A foreign host's run whose temporary keys and uploads are so old is dead. A live one would have
/// to take longer for a single upload, which in the pack layout is the whole pack: the README says
/// so.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The temporary keys and uploads of one run.
pub(crate) struct TempKeys<'e> {
    store: &'e dyn Store,
    run_id: String,
    next: AtomicU32,
    made: Mutex<Made>,
}

/// Guarded by [`TempKeys::made`].
#[derive(Default)]
struct Made {
    keys: BTreeSet<Key>,
    uploads: Vec<Upload>,
}

/// The runs of this process that are under way: it may go on for long after one has ended.
static UNDER_WAY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn under_way() -> MutexGuard<'static, BTreeSet<String>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for TempKeys<'_> {
    fn drop(&mut self) {
        under_way().remove(&self.run_id);
    }
}

impl<'e> TempKeys<'e> {
    pub(crate) fn new(store: &'e dyn Store) -> Self {
        let run_id = new_run_id();
        under_way().insert(run_id.clone());
        TempKeys { store, run_id, next: AtomicU32::new(0), made: Mutex::default() }
    }

    /// A new temporary key; `what` says what for, in the bucket's listing.
    pub(crate) fn key(&self, what: &str) -> Key {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = Key::new(format!("{TEMP_PREFIX}{}/{what}-{number}", self.run_id))
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

    /// The upload has been completed or aborted.
    pub(crate) fn upload_ended(&self, upload: &Upload) {
        self.made().uploads.retain(|known| known != upload);
    }

    /// Deletes one temporary key now.
    pub(crate) fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.store.delete(std::slice::from_ref(key))?;
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
            outcome = outcome.and(self.store.abort_upload(upload));
        }
        let keys: Vec<Key> = made.keys.into_iter().collect();
        if keys.is_empty() { outcome } else { outcome.and(self.store.delete(&keys)) }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes what dead runs have left, and aborts their uploads. Answers how many keys, uploads and
/// other leftovers. Keys of any other form stay, whoever made them.
pub(crate) fn sweep(store: &dyn Store) -> Result<usize, StoreError> {
    let now = SystemTime::now();
    let mut dead = Vec::new();
    let mut page = None;
    loop {
        let listed = store.list(TEMP_PREFIX, page.as_deref())?;
        for object in listed.objects {
            let temporary = TempKey::parse(object.key);
            dead.extend(temporary.filter(|key| key.is_dead(object.last_modified, now)));
        }
        page = listed.next;
        if page.is_none() {
            break;
        }
    }
    let mut swept = dead.len() + store.remove_leftovers()?;
    for OpenUpload { upload, initiated } in store.list_uploads(TEMP_PREFIX)? {
        if TempKey::parse(upload.key.clone()).is_some_and(|key| key.is_dead(initiated, now)) {
            store.abort_upload(&upload)?;
            swept += 1;
        }
    }
    delete(store, dead)?;
    Ok(swept)
}

fn delete(store: &dyn Store, dead: Vec<TempKey>) -> Result<(), StoreError> {
    let keys: Vec<Key> = dead.into_iter().map(|temporary| temporary.key).collect();
    if keys.is_empty() { Ok(()) } else { store.delete(&keys) }
}

/// Is the run that has this id a process of this host? `None`: that can't be told here.
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
        // Without a machine-id, another boot can't be told from another host: it becomes one.
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
