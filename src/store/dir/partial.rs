//! The folder of temporary files, and what killed runs leave in it.
//!
//! Everything in it has the name of its run, and a run holds a lock on the file `run-<name>` for as long
//! as it lives. Assumes that names do not repeat: process id, random number, count. Never removes what a
//! live run has, and never follows a link on the way to the folder.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::files::{Done, again, is_absent, is_named, open_regular, open_to_lock};
use super::places::Places;

/// The folder of temporary files and uploads.
pub(super) const PARTIAL: &str = "mirror_tmp/.partial";
/// What temporary keys begin with: they are deleted by the run that wrote them.
pub(super) const TEMPORARY: &str = "mirror_tmp/";
/// What single writes in the temporary folder are called.
const PUT_NAME: &str = "put-";
/// What uploads in the temporary folder are called.
pub(super) const UPLOAD_NAME: &str = "upload-";
/// What the files are called that a run holds locked while it lives.
const RUN_NAME: &str = "run-";
/// Who changes what runs there are, or sets a condition, holds this one.
const LOCK_FILE: &str = "lock";
/// Temporary files that belong to no known run are removed when they are older.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The temporary folder of one store below `root`, and the run that the store is.
#[derive(Debug)]
pub(super) struct Partial {
    root: PathBuf,
    /// The directory was there before this store.
    pub(super) had_root: bool,
    names: AtomicU64,
    /// What this store's temporary files have in their names.
    run: String,
    /// `run-<name>`, locked: made before the first temporary file. Guarded for making it once.
    alive: Mutex<Option<File>>,
    /// Of the uploads that this store has begun, by their ids.
    places: Mutex<HashMap<String, Places>>,
}

impl Partial {
    /// That of the directory `root`. Makes nothing.
    pub(super) fn new(root: PathBuf) -> Partial {
        let random = std::hash::RandomState::new().hash_one(SystemTime::now());
        Partial {
            root,
            had_root: true,
            names: AtomicU64::new(0),
            run: format!("{}-{random:016x}", std::process::id()),
            alive: Mutex::default(),
            places: Mutex::default(),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, HashMap<String, Places>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it; an error if a part of its path inside the directory is a link.
    fn make(&self) -> io::Result<()> {
        fs::create_dir_all(self.path())?;
        let mut path = self.root.clone();
        for part in PARTIAL.split('/') {
            path.push(part);
            if !fs::symlink_metadata(&path)?.is_dir() {
                let what = format!("{} is not a directory: remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
            }
        }
        Ok(())
    }

    /// A name that no other process or thread uses, with this run's in it.
    pub(super) fn new_name(&self, kind: &str) -> Done<String> {
        self.show_life()?;
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{kind}{}-{number}", self.run))
    }

    /// Makes and locks `run-<name>`, once. Under the common lock: so nobody finds it made and not
    /// yet locked.
    pub(super) fn show_life(&self) -> Done<()> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if alive.is_none() {
            let _lock = self.lock()?;
            let mut options = OpenOptions::new();
            let file = open_regular(
                &self.run_file(&self.run),
                options.write(true).create(true).truncate(false),
            )?;
            match file.try_lock() {
                Err(fs::TryLockError::Error(error))
                    if error.kind() != io::ErrorKind::Unsupported =>
                {
                    return Err(error.into());
                }
                _ => *alive = Some(file),
            }
        }
        Ok(())
    }

    fn run_file(&self, run: &str) -> PathBuf {
        self.path().join(format!("{RUN_NAME}{run}"))
    }

    /// A new file in it. Removed when dropped, unless it was renamed.
    pub(super) fn temporary(&self) -> Done<Temporary> {
        let path = self.path().join(self.new_name(PUT_NAME)?);
        let file = again(|| {
            self.make()?;
            OpenOptions::new().write(true).create_new(true).open(&path)
        })?;
        Ok(Temporary { path, file })
    }

    /// Another name for `file`, which has the name `path`, as if it had been written now. `None` where that
    /// can't be, and it has to be copied.
    pub(super) fn second_name(&self, file: &File, path: &Path) -> Done<Option<SecondName>> {
        let second = SecondName(self.path().join(self.new_name(PUT_NAME)?));
        self.make()?;
        // Links are linked, too: somebody may have put one there.
        let is_same = || {
            fs::symlink_metadata(&second.0).is_ok_and(|about| about.is_file())
                && is_named(file, &second.0)
        };
        let made = fs::hard_link(path, &second.0).is_ok() && is_same();
        Ok((made && file.set_modified(SystemTime::now()).is_ok()).then_some(second))
    }

    /// Held until it is dropped. File systems without locks go without.
    pub(super) fn lock(&self) -> Done<File> {
        let path = self.path().join(LOCK_FILE);
        loop {
            let lock = again(|| {
                self.make()?;
                let mut options = OpenOptions::new();
                open_regular(&path, options.write(true).create(true).truncate(false))
            })?;
            match lock.lock() {
                Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                    return Err(error.into());
                }
                // Who held it may have removed it; then the next one to come makes another.
                _ if is_named(&lock, &path) => return Ok(lock),
                _ => {}
            }
        }
    }

    /// Names in it.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Does a process hold this run's file? `None`: there is none, or no lock can tell. Asked under
    /// the common lock, because the answer takes the file's lock for a moment.
    fn is_alive(&self, run: &str) -> Option<bool> {
        match open_to_lock(&self.run_file(run)).ok()?.try_lock() {
            Ok(()) => Some(false),
            Err(fs::TryLockError::WouldBlock) => Some(true),
            Err(fs::TryLockError::Error(_)) => None,
        }
    }

    /// Removes what killed runs have left. What belongs to no run that is known goes by its age, but
    /// for uploads: those are listed, so that others can judge them.
    pub(super) fn remove_stale(&self) -> Done<usize> {
        let names = self.entries();
        if names.iter().all(|name| name == LOCK_FILE) {
            return Ok(0);
        }
        let _lock = self.lock()?;
        // A run's file last: as long as it is there, it is known what the run left.
        let (runs, files): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.starts_with(RUN_NAME));
        let mut removed = 0;
        for name in files.iter().chain(&runs) {
            let Some((kind, run)) = parse_name(name) else { continue };
            let path = self.path().join(name);
            let is_old = || {
                let modified = fs::metadata(&path).and_then(|about| about.modified());
                modified.ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > STALE)
            };
            let goes = match self.is_alive(run) {
                Some(alive) => !alive,
                None => kind != UPLOAD_NAME && is_old(),
            };
            if !goes {
                continue;
            }
            let gone = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            match gone {
                Err(error) if !is_absent(&error) => return Err(error.into()),
                _ => removed += usize::from(kind != RUN_NAME),
            }
        }
        Ok(removed)
    }
}

impl Drop for Partial {
    /// This run's file; the folder, if nothing is in it; and a directory that this store has made, if it
    /// has become empty.
    fn drop(&mut self) {
        let alive = self.alive.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if alive.is_some() {
            let _ = fs::remove_file(self.run_file(&self.run));
        }
        let lock = || self.path().join(LOCK_FILE);
        if self.entries() == [LOCK_FILE]
            // Whoever holds it continues, and removes it in turn.
            && let Ok(held) = open_to_lock(&lock())
            && held.try_lock().is_ok()
        {
            let _ = fs::remove_file(lock());
        }
        // A run that is killed before its first temporary key is there leaves the folder for it.
        let temporary = self.root.join("mirror_tmp");
        for folder in fs::read_dir(&temporary).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(folder.path());
        }
        let _ = fs::remove_dir(temporary);
        if !self.had_root {
            let _ = fs::remove_dir(&self.root);
        }
    }
}

/// A file in the temporary folder.
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone already if it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name in the temporary folder for a file that has another one.
pub(super) struct SecondName(pub(super) PathBuf);

impl Drop for SecondName {
    fn drop(&mut self) {
        // Gone already if it was renamed; still there if it was renamed to what is the same file.
        let _ = fs::remove_file(&self.0);
    }
}

/// Is `key` in the temporary folder, or the folder itself?
pub(super) fn is_partial(key: &str) -> bool {
    key.strip_prefix(PARTIAL).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a name in the temporary folder begins with, and whose it is.
fn parse_name(name: &str) -> Option<(&'static str, &str)> {
    if let Some(run) = name.strip_prefix(RUN_NAME) {
        return Some((RUN_NAME, run));
    }
    let kind = [PUT_NAME, UPLOAD_NAME].into_iter().find(|kind| name.starts_with(kind))?;
    let (run, _number) = name[kind.len()..].rsplit_once('-')?;
    Some((kind, run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dir::DirStore;
    use crate::store::testing::{TEXT, key};
    use crate::store::{Condition, Store};

    #[test]
    fn the_temporary_folder_is_no_key_and_goes_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        store.put(&key("a/b"), b"1", TEXT, Some(&Condition::Absent)).unwrap();
        store.put(&key("mirror_tmp/run/x"), b"1", TEXT, None).unwrap();
        assert!(store.put(&key("mirror_tmp/.partial/x"), b"1", TEXT, None).is_err());
        assert!(store.get(&key("mirror_tmp/.partial/lock"), None, 9).is_err());
        let listed = store.list("", None).unwrap().objects;
        let names: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(names, ["a/b", "mirror_tmp/run/x"]);
        store.delete(&[key("mirror_tmp/run/x")]).unwrap();
        drop(store);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn empty_folders_of_killed_runs_go_with_the_store_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str| dir.path().join("mirror_tmp").join(name);
        fs::create_dir_all(run("killed")).unwrap();
        fs::create_dir_all(run("lives")).unwrap();
        fs::write(run("lives").join("pack-0"), b"1").unwrap();
        drop(DirStore::new(dir.path()).unwrap());
        assert!(!run("killed").exists() && run("lives").exists());
        fs::remove_file(run("lives").join("pack-0")).unwrap();
        drop(DirStore::new(dir.path()).unwrap());
        assert!(!dir.path().join("mirror_tmp").exists());
    }

    #[test]
    fn what_a_dead_run_left_is_removed_and_what_a_live_one_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join(PARTIAL);
        let stale = DirStore::new(dir.path()).unwrap();
        let upload = stale.create_upload(&key("mirror_tmp/run/x"), TEXT).unwrap();
        stale.put_part(&upload, 1, b"1").unwrap();
        // Killed before the folder had its key in it: no listing shows it.
        fs::create_dir(partial.join(format!("{UPLOAD_NAME}{}-77", stale.partial.run))).unwrap();
        fs::write(partial.join(format!("{PUT_NAME}{}-78", stale.partial.run)), "half").unwrap();
        let live = DirStore::new(dir.path()).unwrap();
        let kept = live.create_upload(&key("mirror_tmp/run/y"), TEXT).unwrap();
        fs::write(partial.join(format!("{PUT_NAME}{}-78", live.partial.run)), "half").unwrap();
        let next = DirStore::new(dir.path()).unwrap();
        assert_eq!(next.remove_leftovers().unwrap(), 0, "both are alive");
        // As the kernel does it with a killed process: its locks go, its files stay.
        drop(stale.partial.alive.lock().unwrap().take());
        std::mem::forget(stale);
        assert_eq!(next.remove_leftovers().unwrap(), 3);
        assert_eq!(next.list_uploads("").unwrap()[0].upload, kept);
        assert_eq!(next.partial.entries().len(), 4, "{:?}", next.partial.entries());
        assert_eq!(next.remove_leftovers().unwrap(), 0);
    }

    #[test]
    fn what_belongs_to_no_known_run_is_removed_by_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join(PARTIAL);
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("put-1-new-0"), "").unwrap();
        let old = File::create(partial.join("put-1-old-0")).unwrap();
        old.set_modified(SystemTime::now() - STALE * 2).unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        assert_eq!(store.remove_leftovers().unwrap(), 1);
        assert!(partial.join("put-1-new-0").exists() && !partial.join("put-1-old-0").exists());
    }
}
