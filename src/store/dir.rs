//! A directory: `file:///dir`. A key's slashes are its folders.
//!
//! A write goes to a temporary file below `mirror_tmp/.partial` first and is renamed, so that a
//! reader sees the old bytes or the new ones. Multipart uploads are folders there. Nothing below
//! that folder can be a key, and no listing shows it. A symbolic link on the way of a key is
//! refused: no key leads out of the directory. Files get the usual permissions (umask), so that
//! git can clone by path.
//!
//! What changes, and what is large enough to be uploaded in parts, is synced to disk before its
//! rename; small immutable files are not, as a sync for each costs more than all else. Git makes
//! the same choice for loose objects (`core.fsync` is `committed,-loose-object` by default).
//!
//! **Other users of the machine.** Who may write to the directory can plant links and FIFOs in it. What
//! is opened is opened without following a link, without waiting for a FIFO's other end, and used only
//! if it is a regular file; nothing is truncated. A temporary folder that is a link is refused.
//!
//! Conditions are compared under a file lock that only conditional writes take, so two programs
//! that both set one see each other.
//!
//! **What killed runs leave.** Everything temporary has the name of its run in it, and a run holds a
//! lock on the file `run-<name>` for as long as it lives: the kernel lets go of it however the
//! process ends, on any host and in any container. Who gets that lock knows that the run is dead and
//! removes what it left ([`Store::remove_leftovers`]). On a file system without locks only age
//! tells.

use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::interface::{
    Condition, ETag, FolderPage, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload,
    Part, Store, StoreError, StoreErrorKind, Upload,
};

/// The folder of temporary files and uploads.
const PARTIAL: &str = "mirror_tmp/.partial";
/// Where the key of an upload is kept, inside its folder.
const KEY_FILE: &str = "key";
/// What single writes in the temporary folder are called.
const PUT_NAME: &str = "put-";
/// What uploads in the temporary folder are called.
const UPLOAD_NAME: &str = "upload-";
/// What the files are called that a run holds locked while it lives.
const RUN_NAME: &str = "run-";
/// Who changes what runs there are, or sets a condition, holds this one.
const LOCK_FILE: &str = "lock";
/// Temporary files that belong to no known run are removed when they are older.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Up to this many bytes, an entity tag is the MD5 of the content.
const MAX_HASHED: u64 = 1 << 20;

/// A directory as a store.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    page_size: usize,
    requests: AtomicU64,
    names: AtomicU64,
    /// What this store's temporary files have in their names.
    run: String,
    /// `run-<name>`, locked: made before the first temporary file. Guarded for making it once.
    alive: Mutex<Option<File>>,
}

type Done<T> = Result<T, Trouble>;

/// A failure before its request is named.
struct Trouble(StoreErrorKind, String);

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::*;
        let kind = match error.kind() {
            NotFound => StoreErrorKind::NotFound,
            PermissionDenied | ReadOnlyFilesystem => StoreErrorKind::Denied,
            Interrupted | TimedOut | ResourceBusy | StaleNetworkFileHandle => {
                StoreErrorKind::Transient { retry_after: None }
            }
            _ => StoreErrorKind::Other,
        };
        Trouble(kind, error.to_string())
    }
}

fn refused(why: impl Into<String>) -> Trouble {
    Trouble(StoreErrorKind::Other, why.into())
}

impl DirStore {
    /// A store over `root`, which is made by the first write if it does not exist.
    ///
    /// # Errors
    /// Kind Denied or Other: it can't be looked at, or is no directory.
    pub fn new(root: impl Into<PathBuf>) -> Result<DirStore, StoreError> {
        let random = std::hash::RandomState::new().hash_one(SystemTime::now());
        let store = DirStore {
            root: root.into(),
            page_size: 1000,
            requests: AtomicU64::new(0),
            names: AtomicU64::new(0),
            run: format!("{}-{random:016x}", std::process::id()),
            alive: Mutex::default(),
        };
        store.request("use", "", || match fs::metadata(&store.root) {
            Ok(about) if !about.is_dir() => Err(refused("it is not a directory")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        })?;
        Ok(store)
    }

    /// Gives at most `keys` keys a page of a listing (default: 1,000).
    #[must_use]
    pub fn with_page_size(mut self, keys: usize) -> Self {
        self.page_size = keys.max(1);
        self
    }

    fn request<T>(
        &self,
        verb: &'static str,
        key: &str,
        effect: impl FnOnce() -> Done<T>,
    ) -> Result<T, StoreError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        effect().map_err(|Trouble(kind, message)| {
            StoreError::new(kind, verb, format!("{}/{key}", self.describe()), message)
        })
    }

    /// The file of `key`, with no symbolic link on the way to it.
    fn path(&self, key: &Key) -> Done<PathBuf> {
        if is_partial(key.as_str()) {
            return Err(refused(format!("{PARTIAL} is for temporary files")));
        }
        let mut path = self.root.clone();
        for part in key.as_str().split('/') {
            // On Windows a key could name a drive.
            if Path::new(part).components().count() != 1 || part.contains('\\') {
                return Err(refused("the key is not a valid file name"));
            }
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                return Err(refused(format!("{} is a symbolic link", path.display())));
            }
        }
        Ok(path)
    }

    fn open_file(&self, key: &Key) -> Done<(File, fs::Metadata)> {
        let path = self.path(key)?;
        let file = open_regular(&path, File::options().read(true)).map_err(|error| match error
            .kind()
        {
            // `a/b` where `a` is a file: there is no such key.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                Trouble(StoreErrorKind::NotFound, error.to_string())
            }
            _ => error.into(),
        })?;
        let about = file.metadata()?;
        Ok((file, about))
    }

    /// A name that no other process or thread uses, with this run's in it.
    fn new_name(&self, kind: &str) -> Done<String> {
        self.show_life()?;
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{kind}{}-{number}", self.run))
    }

    /// Makes and locks `run-<name>`, once. Under the common lock: so nobody finds it made and not
    /// yet locked.
    fn show_life(&self) -> Done<()> {
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
        self.partial().join(format!("{RUN_NAME}{run}"))
    }

    fn partial(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    /// Makes the temporary folder; an error if a part of its path inside the directory is a link.
    fn make_partial(&self) -> io::Result<()> {
        fs::create_dir_all(self.partial())?;
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

    /// A new file in the temporary folder. Removed when dropped, unless it was renamed.
    fn temporary(&self) -> Done<Temporary> {
        let path = self.partial().join(self.new_name(PUT_NAME)?);
        let file = again(|| {
            self.make_partial()?;
            OpenOptions::new().write(true).create_new(true).open(&path)
        })?;
        Ok(Temporary { path, file })
    }

    /// Lets `from` appear under `key`.
    fn publish(&self, from: &Path, key: &Key) -> Done<()> {
        let to = self.path(key)?;
        let folder = to.parent().unwrap_or(&self.root);
        Ok(again(|| {
            // Tried first, as the folder is most often there.
            match fs::rename(from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(folder)?;
                    fs::rename(from, &to)
                }
                done => done,
            }
        })?)
    }

    fn put_file(&self, key: &Key, body: &[u8], headers: ObjectHeaders) -> Done<()> {
        let mut temporary = self.temporary()?;
        temporary.file.write_all(body)?;
        if headers.cache_control == Some("no-cache") {
            temporary.file.sync_data()?;
        }
        self.publish(&temporary.path, key)
    }

    fn check(&self, key: &Key, condition: &Condition) -> Done<()> {
        let now = match self.open_file(key) {
            Ok((mut file, about)) => Some(etag_of(&mut file, &about)?),
            Err(Trouble(StoreErrorKind::NotFound, _)) => None,
            Err(trouble) => return Err(trouble),
        };
        let holds = match condition {
            Condition::Absent => now.is_none(),
            Condition::Matches(etag) => now.as_ref() == Some(etag),
        };
        let words = || "the condition failed".to_owned();
        if holds { Ok(()) } else { Err(Trouble(StoreErrorKind::ConditionFailed, words())) }
    }

    /// Held until it is dropped. File systems without locks go without.
    fn lock(&self) -> Done<File> {
        let path = self.partial().join(LOCK_FILE);
        loop {
            let lock = again(|| {
                self.make_partial()?;
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

    /// The folder of an upload that exists.
    fn upload_dir(&self, upload: &Upload) -> Done<PathBuf> {
        let gone = || Trouble(StoreErrorKind::NotFound, "there is no such upload".to_owned());
        if !upload.id.starts_with(UPLOAD_NAME) || upload.id.contains(['/', '\\']) {
            return Err(gone());
        }
        let dir = self.partial().join(&upload.id);
        match read_key(&dir) {
            Ok(key) if key == upload.key.as_str() => Ok(dir),
            _ => Err(gone()),
        }
    }

    fn put_part_from(
        &self,
        upload: &Upload,
        number: u32,
        mut from: impl Read,
        wanted: Option<u64>,
    ) -> Done<Part> {
        let dir = self.upload_dir(upload)?;
        if number == 0 || number > Limits::S3.max_parts {
            return Err(refused(format!("part {number} of 1 to {}", Limits::S3.max_parts)));
        }
        let mut temporary = self.temporary()?;
        let len = io::copy(&mut from, &mut temporary.file)?;
        // Not a hash, which would cost more than the copy: it need only tell one write from another.
        let etag = format!("{:016x}", fastrand::u64(..));
        if wanted.is_some_and(|wanted| wanted != len) {
            return Err(refused("the range is not inside the source"));
        }
        // The entity tag is in the name, so that a part stored twice is found by its tag.
        fs::rename(&temporary.path, dir.join(part_name(number, &etag)))?;
        Ok(Part { number, etag: ETag(etag) })
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Done<()> {
        let dir = self.upload_dir(upload)?;
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(refused("parts must be in order of their numbers, one at least"));
        }
        let mut whole = self.temporary()?;
        for part in parts {
            let name = part_name(part.number, &part.etag.0);
            let sound = part.etag.0.chars().all(|c| c.is_ascii_hexdigit());
            let file = open_regular(&dir.join(name), File::options().read(true));
            let file = file.ok().filter(|_| sound);
            let Some(mut file) = file else {
                return Err(refused(format!("part {} is not stored", part.number)));
            };
            io::copy(&mut file, &mut whole.file)?;
        }
        whole.file.sync_data()?;
        self.publish(&whole.path, &upload.key)?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn open_upload(&self, entry: &fs::DirEntry) -> Option<OpenUpload> {
        let id = entry.file_name().into_string().ok()?;
        if !id.starts_with(UPLOAD_NAME) {
            return None;
        }
        let key_file = entry.path().join(KEY_FILE);
        let key = Key::new(read_key(&entry.path()).ok()?).ok()?;
        let initiated = fs::metadata(&key_file).and_then(|about| about.modified()).ok();
        Some(OpenUpload { upload: Upload { key, id }, initiated })
    }

    /// Names in the temporary folder.
    fn partial_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.partial()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Does a process hold this run's file? `None`: there is none, or no lock can tell. Asked under
    /// the common lock, since the answer takes the file's lock for a moment.
    fn is_alive(&self, run: &str) -> Option<bool> {
        match open_to_lock(&self.run_file(run)).ok()?.try_lock() {
            Ok(()) => Some(false),
            Err(fs::TryLockError::WouldBlock) => Some(true),
            Err(fs::TryLockError::Error(_)) => None,
        }
    }

    /// Removes what dead runs have left. What belongs to no run that is known goes by its age, but
    /// for uploads: those are listed, so that others can judge them.
    fn remove_dead(&self) -> Done<usize> {
        let names = self.partial_names();
        if names.iter().all(|name| name == LOCK_FILE) {
            return Ok(0);
        }
        let _lock = self.lock()?;
        // A run's file last: as long as it is there, what the run left can be told.
        let (runs, files): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.starts_with(RUN_NAME));
        let mut removed = 0;
        for name in files.iter().chain(&runs) {
            let Some((kind, run)) = parse_name(name) else { continue };
            let path = self.partial().join(name);
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

    /// Objects below `folder` (a key with a slash at its end, or nothing) into `found`, in order,
    /// until there are `limit`.
    fn walk(&self, folder: &str, wanted: &Wanted<'_>, found: &mut Vec<ObjectInfo>) -> Done<()> {
        let mut names = Vec::new();
        for entry in read_dir_if_there(&self.root.join(folder))? {
            let entry = entry?;
            // What has no text for a name can't be a key. Links are not followed.
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                // In byte order of keys `a-b` comes before `a/c`.
                name.push('/');
            } else if !kind.is_file() {
                continue;
            }
            names.push(format!("{folder}{name}"));
        }
        names.sort_unstable();
        for name in names {
            if found.len() >= wanted.limit {
                return Ok(());
            }
            if let Some(folder) = name.strip_suffix('/') {
                if !is_partial(folder) && wanted.may_be_below(&name) {
                    self.walk(&name, wanted, found)?;
                }
            } else if wanted.is_wanted(&name)
                && let Ok(key) = Key::new(name)
                // It may be gone by now.
                && let Ok(about) = fs::metadata(self.root.join(key.as_str()))
            {
                let last_modified = about.modified().ok();
                found.push(ObjectInfo { key, len: about.len(), last_modified, etag: None });
            }
        }
        Ok(())
    }
}

impl Drop for DirStore {
    /// This run's file; and the temporary folder, if nothing is in it.
    fn drop(&mut self) {
        let alive = self.alive.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if alive.is_some() {
            let _ = fs::remove_file(self.run_file(&self.run));
        }
        let partial = self.partial();
        let lock = || partial.join(LOCK_FILE);
        if self.partial_names() == [LOCK_FILE]
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
    }
}

/// What a listing wants.
struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
}

impl Wanted<'_> {
    fn is_wanted(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Can a key that begins with `folder` be wanted?
    fn may_be_below(&self, folder: &str) -> bool {
        let inside = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        inside && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }
}

fn is_partial(key: &str) -> bool {
    key.strip_prefix(PARTIAL).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn part_name(number: u32, etag: &str) -> String {
    format!("{number:05}.{etag}")
}

/// Folders are removed when they are empty, perhaps just before a file is made in them.
fn again<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..10 {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    make()
}

fn read_dir_if_there(
    dir: &Path,
) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

/// The MD5 of a small file's content; of a large one, what changes with every write.
fn etag_of(file: &mut File, about: &fs::Metadata) -> io::Result<ETag> {
    if about.len() > MAX_HASHED {
        let modified = about.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        return Ok(ETag(format!("{:x}-{:x}", modified.as_nanos(), about.len())));
    }
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok(ETag(format!("{:x}", md5::compute(&bytes))))
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

/// NFS wants to write what it locks.
fn open_to_lock(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().write(true))
}

/// Opens a regular file and nothing else: no link is followed, and no FIFO or device waited for.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

/// The key of an upload, whose folder this is.
fn read_key(upload: &Path) -> io::Result<String> {
    let file = open_regular(&upload.join(KEY_FILE), File::options().read(true))?;
    let mut key = String::new();
    // A key has at most 1,024 bytes; one that is cut is none that is looked for.
    file.take(4096).read_to_string(&mut key)?;
    Ok(key)
}

/// Is this open file still the one that `path` names?
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |about: fs::Metadata| (about.dev(), about.ino());
    file.metadata().map(id).ok() == fs::metadata(path).map(id).ok()
}

/// An open file can't lose its name here.
#[cfg(not(unix))]
fn is_named(_: &File, _: &Path) -> bool {
    true
}

struct Temporary {
    path: PathBuf,
    file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone already if it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store for DirStore {
    fn describe(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn limits(&self) -> Limits {
        Limits { max_copy_bytes: u64::MAX, ..Limits::S3 }
    }

    fn is_read_by_path(&self) -> bool {
        true
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok((Vec::new(), None));
        }
        self.request("get", key.as_str(), || {
            let (mut file, about) = self.open_file(key)?;
            let etag = etag_of(&mut file, &about)?;
            let len = about.len();
            let range = range.unwrap_or(0..u64::MAX);
            if range.start > 0 && range.start >= len {
                return Err(refused(format!("a range from byte {} of {len}", range.start)));
            }
            let wanted = range.end.min(len) - range.start;
            if wanted > max_len {
                return Err(refused(format!("{wanted} bytes, more than the {max_len} allowed")));
            }
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::new();
            file.take(wanted).read_to_end(&mut bytes)?;
            Ok((bytes, Some(etag)))
        })
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.request("get", key.as_str(), || {
            let (mut file, about) = self.open_file(key)?;
            if offset > 0 && offset >= about.len() {
                return Err(refused(format!("a range from byte {offset} of {}", about.len())));
            }
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file) as Box<dyn Read + Send>)
        })
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.request("look up", key.as_str(), || {
            let (mut file, about) = match self.open_file(key) {
                Err(Trouble(StoreErrorKind::NotFound, _)) => return Ok(None),
                found => found?,
            };
            Ok(Some(ObjectInfo {
                key: key.clone(),
                len: about.len(),
                last_modified: about.modified().ok(),
                etag: Some(etag_of(&mut file, &about)?),
            }))
        })
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.request("put", key.as_str(), || {
            let _lock = match condition {
                None => None,
                Some(condition) => {
                    // It takes the same lock, which nobody can hold twice.
                    self.show_life()?;
                    let lock = self.lock()?;
                    self.check(key, condition)?;
                    Some(lock)
                }
            };
            self.put_file(key, body, headers)?;
            let hashed = body.len() as u64 <= MAX_HASHED;
            Ok(hashed.then(|| ETag(format!("{:x}", md5::compute(body)))))
        })
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| {
            self.request("delete", key.as_str(), || {
                let path = self.path(key)?;
                match fs::remove_file(&path) {
                    Err(error) if is_absent(&error) => return Ok(()),
                    done => done?,
                }
                // S3 has no folders: those that are empty now go too.
                let folders = path.ancestors().skip(1).take_while(|folder| *folder != self.root);
                for folder in folders {
                    if fs::remove_dir(folder).is_err() {
                        break;
                    }
                }
                Ok(())
            })
        })
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.request("list", prefix, || {
            let wanted = Wanted { prefix, after: page, limit: self.page_size + 1 };
            let mut objects = Vec::new();
            self.walk("", &wanted, &mut objects)?;
            let more = objects.len() > self.page_size;
            objects.truncate(self.page_size);
            let next = objects.last().filter(|_| more).map(|object| object.key.to_string());
            Ok(ListPage { objects, next })
        })
    }

    fn list_folders(&self, folder: &str, _page: Option<&str>) -> Result<FolderPage, StoreError> {
        self.request("list", folder, || {
            let mut names = Vec::new();
            for entry in read_dir_if_there(&self.root.join(folder))? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let prefix = format!("{folder}{name}/");
                // S3 has no folders without keys. A link is no folder: nothing is followed.
                if entry.file_type()?.is_dir() && !is_partial(&prefix) {
                    let mut first = Vec::new();
                    let wanted = Wanted { prefix: &prefix, after: None, limit: 1 };
                    self.walk(&prefix, &wanted, &mut first)?;
                    names.extend((!first.is_empty()).then_some(name));
                }
            }
            names.sort();
            Ok(FolderPage { names, next: None })
        })
    }

    fn copy(&self, from: &Key, to: &Key, _headers: ObjectHeaders) -> Result<(), StoreError> {
        self.request("copy to", to.as_str(), || {
            let (mut source, _) = self.open_file(from)?;
            let mut temporary = self.temporary()?;
            io::copy(&mut source, &mut temporary.file)?;
            temporary.file.sync_data()?;
            self.publish(&temporary.path, to)
        })
    }

    fn create_upload(&self, key: &Key, _headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.request("begin an upload of", key.as_str(), || {
            self.path(key)?;
            let id = self.new_name(UPLOAD_NAME)?;
            let dir = self.partial().join(&id);
            again(|| fs::create_dir_all(&dir))?;
            fs::write(dir.join(KEY_FILE), key.as_str())?;
            Ok(Upload { key: key.clone(), id })
        })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.request("put a part of", upload.key.as_str(), || {
            self.put_part_from(upload, number, body, None)
        })
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.request("copy a part of", upload.key.as_str(), || {
            let wanted = range.end.saturating_sub(range.start);
            if wanted == 0 {
                return Err(refused("cannot copy a part from an empty range"));
            }
            let (mut source, _) = self.open_file(from)?;
            source.seek(SeekFrom::Start(range.start))?;
            self.put_part_from(upload, number, source.take(wanted), Some(wanted))
        })
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.request("complete the upload of", upload.key.as_str(), || self.complete(upload, parts))
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.request("abort the upload of", upload.key.as_str(), || match self.upload_dir(upload) {
            Err(Trouble(StoreErrorKind::NotFound, _)) => Ok(()),
            Err(trouble) => Err(trouble),
            Ok(dir) => Ok(fs::remove_dir_all(dir)?),
        })
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.request("list the uploads of", prefix, || {
            let entries = read_dir_if_there(&self.partial())?;
            let open = entries.flatten().filter_map(|entry| self.open_upload(&entry));
            Ok(open.filter(|open| open.upload.key.as_str().starts_with(prefix)).collect())
        })
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        // No request: on S3 there is nothing like it.
        self.remove_dead().map_err(|Trouble(kind, message)| {
            let place = self.partial().display().to_string();
            StoreError::new(kind, "remove what killed runs left in", place, message)
        })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: ObjectHeaders = ObjectHeaders::changing("text/plain");

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    #[cfg(unix)]
    fn a_symbolic_link_never_leads_out_of_the_directory() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("way")).unwrap();
        let file = inside.path().join("file");
        std::os::unix::fs::symlink(outside.path().join("secret"), file).unwrap();
        let store = DirStore::new(inside.path()).unwrap();
        for name in ["way/secret", "file"] {
            assert!(store.get(&key(name), None, 99).is_err(), "{name}");
            assert!(store.put(&key(name), b"x", TEXT, None).is_err(), "{name}");
            assert!(store.delete(&[key(name)]).is_err(), "{name}");
        }
        assert!(store.list("", None).unwrap().objects.is_empty());
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    }

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
    fn an_open_upload_outlives_the_store_and_can_be_found() {
        let dir = tempfile::tempdir().unwrap();
        let upload = {
            let store = DirStore::new(dir.path()).unwrap();
            let upload = store.create_upload(&key("a"), TEXT).unwrap();
            store.put_part(&upload, 1, b"1").unwrap();
            upload
        };
        let store = DirStore::new(dir.path()).unwrap();
        assert_eq!(store.list_uploads("").unwrap()[0].upload, upload);
        store.abort_upload(&upload).unwrap();
        assert!(store.list_uploads("").unwrap().is_empty());
    }

    #[test]
    fn an_upload_id_cannot_name_a_folder_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("upload-x")).unwrap();
        fs::write(dir.path().join("upload-x/key"), "a").unwrap();
        let upload = Upload { key: key("a"), id: "upload-/../../../../upload-x".into() };
        assert!(store.put_part(&upload, 1, b"").unwrap_err().is_not_found());
        store.abort_upload(&upload).unwrap();
        assert!(dir.path().join("upload-x").exists());
    }

    #[test]
    #[cfg(unix)]
    fn files_have_the_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        store.put(&key("by/store"), b"", TEXT, None).unwrap();
        fs::write(dir.path().join("by-hand"), "").unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("by/store"), mode("by-hand"));
    }

    #[test]
    fn what_a_dead_run_left_is_removed_and_what_a_live_one_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join(PARTIAL);
        let dead = DirStore::new(dir.path()).unwrap();
        let upload = dead.create_upload(&key("mirror_tmp/run/x"), TEXT).unwrap();
        dead.put_part(&upload, 1, b"1").unwrap();
        // Killed before the folder had its key in it: no listing shows it.
        fs::create_dir(partial.join(format!("{UPLOAD_NAME}{}-77", dead.run))).unwrap();
        fs::write(partial.join(format!("{PUT_NAME}{}-78", dead.run)), "half").unwrap();
        let live = DirStore::new(dir.path()).unwrap();
        let kept = live.create_upload(&key("mirror_tmp/run/y"), TEXT).unwrap();
        fs::write(partial.join(format!("{PUT_NAME}{}-78", live.run)), "half").unwrap();
        let next = DirStore::new(dir.path()).unwrap();
        assert_eq!(next.remove_leftovers().unwrap(), 0, "both are alive");
        // As the kernel does it with a killed process: its locks go, its files stay.
        drop(dead.alive.lock().unwrap().take());
        std::mem::forget(dead);
        assert_eq!(next.remove_leftovers().unwrap(), 3);
        assert_eq!(next.list_uploads("").unwrap()[0].upload, kept);
        assert_eq!(next.partial_names().len(), 4, "{:?}", next.partial_names());
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

    #[test]
    fn opening_and_reading_make_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let store = DirStore::new(&root).unwrap();
        assert!(store.get(&key("HEAD"), None, 9).unwrap_err().is_not_found());
        assert!(store.list("", None).unwrap().objects.is_empty());
        assert!(store.list_uploads("").unwrap().is_empty());
        assert_eq!(store.remove_leftovers().unwrap(), 0);
        drop(store);
        assert!(!dir.path().join("a").exists());
        DirStore::new(&root).unwrap().put(&key("HEAD"), b"x", TEXT, None).unwrap();
        assert!(root.join("HEAD").exists());
        assert!(DirStore::new(root.join("HEAD")).is_err(), "a file is no directory");
    }

    #[test]
    fn conditions_exclude_each_other_while_stores_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let won = AtomicU64::new(0);
        for round in 0..30 {
            let name = key(&format!("file-{round}"));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        // Its end removes the lock file, if nobody else is at work.
                        let store = DirStore::new(dir.path()).unwrap();
                        let put = store.put(&name, b"x", TEXT, Some(&Condition::Absent));
                        match put {
                            Ok(_) => drop(won.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => {
                                assert_eq!(error.kind, StoreErrorKind::ConditionFailed, "{error}");
                            }
                        }
                    });
                }
            });
        }
        assert_eq!(won.into_inner(), 30);
        assert!(!dir.path().join("mirror_tmp").exists());
    }

    #[test]
    fn a_file_cannot_be_a_folder_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        store.put(&key("a"), b"1", TEXT, None).unwrap();
        assert!(store.put(&key("a/b"), b"1", TEXT, None).is_err());
        assert!(store.head(&key("a/b")).unwrap().is_none());
        store.put(&key("c/d"), b"1", TEXT, None).unwrap();
        assert!(store.head(&key("c")).unwrap().is_none());
    }
}
