//! A directory: `file:///dir`. A key's slashes are its folders.
//!
//! A write goes to a temporary file below `mirror_tmp/.partial` first and is renamed, so that a
//! reader sees the old bytes or the new ones. Multipart uploads are folders there. Nothing below
//! that folder can be a key, and no listing shows it. A temporary key, which is below `mirror_tmp/`
//! and deleted once it has its name, is copied by a hard link where the file system has such. A
//! symbolic link on the way of a key is refused: no key leads out of the directory. Files get the
//! usual permissions (umask), so that git can clone by path.
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
//! process ends, on any host and in any container. Who gets that lock knows that the run has ended and
//! removes what it left ([`Store::remove_leftovers`]). On a file system without locks only age
//! tells.

mod files;
mod listing;
mod partial;
mod places;
mod uploads;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::files::open_regular;
use self::files::{Done, MAX_HASHED, Trouble, again, etag_of, is_absent, refused};
use self::listing::{Wanted, folders, walk};
use self::partial::{PARTIAL, Partial, TEMPORARY, is_partial};
use super::interface::{
    Condition, ETag, FolderPage, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload,
    Part, Store, StoreError, StoreErrorKind, Upload,
};

/// A directory as a store.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    page_size: usize,
    requests: AtomicU64,
    partial: Partial,
}

impl DirStore {
    /// A store over `root`, which is made by the first write if it does not exist.
    ///
    /// # Errors
    /// Kind Denied or Other: it can't be looked at, or is no directory.
    pub fn new(root: impl Into<PathBuf>) -> Result<DirStore, StoreError> {
        let root = root.into();
        let partial = Partial::new(root.clone());
        let mut store = DirStore { root, page_size: 1000, requests: AtomicU64::new(0), partial };
        store.partial.had_root = store.request("use", "", || match fs::metadata(&store.root) {
            Ok(about) if !about.is_dir() => Err(refused("it is not a directory")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            found => Ok(found.is_ok()),
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
        let mut temporary = self.partial.temporary()?;
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
            let mut bytes = Vec::with_capacity(wanted as usize);
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
                    self.partial.show_life()?;
                    let lock = self.partial.lock()?;
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
            walk(&self.root, "", &wanted, &mut objects)?;
            let more = objects.len() > self.page_size;
            objects.truncate(self.page_size);
            let next = objects.last().filter(|_| more).map(|object| object.key.to_string());
            Ok(ListPage { objects, next })
        })
    }

    fn list_folders(&self, folder: &str, _page: Option<&str>) -> Result<FolderPage, StoreError> {
        self.request("list", folder, || {
            Ok(FolderPage { names: folders(&self.root, folder)?, next: None })
        })
    }

    fn copy(&self, from: &Key, to: &Key, _headers: ObjectHeaders) -> Result<(), StoreError> {
        self.request("copy to", to.as_str(), || {
            let (mut source, _) = self.open_file(from)?;
            // What is temporary goes once it has its name: another name for it will do.
            if from.as_str().starts_with(TEMPORARY)
                && let Some(second) = self.partial.second_name(&source, &self.path(from)?)?
            {
                source.sync_data()?;
                return self.publish(&second.0, to);
            }
            let mut temporary = self.partial.temporary()?;
            io::copy(&mut source, &mut temporary.file)?;
            temporary.file.sync_data()?;
            self.publish(&temporary.path, to)
        })
    }

    fn create_upload(&self, key: &Key, _headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.request("begin an upload of", key.as_str(), || {
            self.path(key)?;
            self.partial.create_upload(key)
        })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.request("put a part of", upload.key.as_str(), || {
            self.partial.put_part_from(upload, number, body, body.len() as u64)
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
            self.partial.put_part_from(upload, number, source.take(wanted), wanted)
        })
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.request("complete the upload of", upload.key.as_str(), || {
            let dir = self.partial.upload_dir(upload)?;
            let whole = self.partial.join_parts(upload, &dir, parts)?;
            self.publish(whole.path(), &upload.key)?;
            self.partial.remove_upload(upload, &dir)
        })
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.request("abort the upload of", upload.key.as_str(), || {
            match self.partial.upload_dir(upload) {
                Err(Trouble(StoreErrorKind::NotFound, _)) => Ok(()),
                Err(trouble) => Err(trouble),
                Ok(dir) => self.partial.remove_upload(upload, &dir),
            }
        })
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.request("list the uploads of", prefix, || self.partial.open_uploads(prefix))
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        // No request: on S3 there is nothing like it.
        self.partial.remove_stale().map_err(|Trouble(kind, message)| {
            let place = self.partial.path().display().to_string();
            StoreError::new(kind, "remove what killed runs left in", place, message)
        })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::store::testing::{TEXT, key};

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
    #[cfg(unix)]
    fn what_is_temporary_is_not_copied_to_its_name_but_named_again() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        let file = |name: &str| fs::metadata(dir.path().join(name)).unwrap();
        for (from, is_one_file) in [("mirror_tmp/run/pack-1", true), ("kept", false)] {
            store.put(&key(from), b"bytes", TEXT, None).unwrap();
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            File::open(dir.path().join(from)).unwrap().set_modified(hour_ago).unwrap();
            // A second time it has the name already.
            for _ in 0..2 {
                store.copy(&key(from), &key("named"), TEXT).unwrap();
                assert_eq!(file("named").ino() == file(from).ino(), is_one_file);
                let age = file("named").modified().unwrap().elapsed().unwrap_or_default();
                assert!(age < Duration::from_secs(60), "as old as what it came from: {age:?}");
            }
            store.delete(&[key(from)]).unwrap();
            assert_eq!(store.get(&key("named"), None, 9).unwrap().0, b"bytes");
            assert_eq!(file("named").nlink(), 1);
        }
        // The name that was opened is another file's by now.
        fs::write(dir.path().join("other"), "other").unwrap();
        let other = File::open(dir.path().join("other")).unwrap();
        let second = store.partial.second_name(&other, &dir.path().join("named"));
        assert!(second.is_ok_and(|second| second.is_none()));
        std::os::unix::fs::symlink("other", dir.path().join("link")).unwrap();
        let second = store.partial.second_name(&other, &dir.path().join("link"));
        assert!(second.is_ok_and(|second| second.is_none()));
        fs::remove_file(dir.path().join("other")).unwrap();
        drop(store);
        assert!(!dir.path().join("mirror_tmp").exists());
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
        let store = DirStore::new(&root).unwrap();
        store.put(&key("info/refs"), b"x", TEXT, None).unwrap();
        store.delete(&[key("info/refs")]).unwrap();
        drop(store);
        assert!(!root.exists(), "what it has made goes with its last key");
        fs::create_dir(&root).unwrap();
        drop(DirStore::new(&root).unwrap());
        assert!(root.exists(), "made by someone else");
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
