//! The repository's folder of objects as the store of one ingest: where the index of a pack is made.
//!
//! [`crate::ingest`] writes a pack and its index through a [`Store`]. The pack is on disk already, as
//! [`super::stream`] writes it while it is read: so its upload takes the parts and forgets them, and
//! reads come from that file. Everything else (runs of sorted names, the index) are files in a folder
//! of their own, `tmp_mirror_…`, which is removed with this value.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::local::TEMPORARY;
use crate::repository::temp;
use crate::store::{
    Condition, ETag, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store,
    StoreError, StoreErrorKind, Upload,
};

/// The upload of the pack.
const PACK_UPLOAD: &str = "pack";

/// See the module's page.
pub(super) struct Scratch {
    folder: PathBuf,
    pack: PathBuf,
    /// Where each key's bytes are.
    files: Mutex<BTreeMap<Key, PathBuf>>,
    next: AtomicU64,
    requests: AtomicU64,
}

impl Scratch {
    /// Makes a folder beside others in `objects`. `pack` is the pack that is written meanwhile.
    pub(super) fn new(objects: &Path, pack: &Path) -> io::Result<Self> {
        let folder =
            objects.join(format!("{TEMPORARY}{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&folder)?;
        Ok(Scratch {
            folder,
            pack: pack.to_owned(),
            files: Mutex::default(),
            next: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// The file that was stored under `key`.
    pub(super) fn file(&self, key: &Key) -> Option<PathBuf> {
        self.files().get(key).cloned()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<Key, PathBuf>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_path(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn part(&self, upload: &Upload, number: u32) -> PathBuf {
        self.folder.join(format!("{}.{number}", upload.id))
    }

    fn request<T>(
        &self,
        verb: &'static str,
        key: &str,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        work().map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => StoreErrorKind::NotFound,
                _ => StoreErrorKind::Other,
            };
            StoreError::new(kind, verb, format!("{}/{key}", self.describe()), error.to_string())
        })
    }

    fn open_file(&self, key: &Key) -> io::Result<File> {
        let path = self.file(key);
        File::open(path.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is `git gc`'s.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Store for Scratch {
    fn describe(&self) -> String {
        self.folder.display().to_string()
    }

    fn limits(&self) -> Limits {
        Limits { min_part_bytes: 1, max_copy_bytes: u64::MAX, ..Limits::S3 }
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.request("read", key.as_str(), || {
            let range = range.unwrap_or(0..u64::MAX);
            let mut file = self.open_file(key)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::new();
            let wanted = range.end.saturating_sub(range.start).min(max_len);
            file.take(wanted).read_to_end(&mut bytes)?;
            Ok((bytes, None))
        })
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.request("read", key.as_str(), || {
            let mut file = self.open_file(key)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file) as Box<dyn Read + Send>)
        })
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let Some(path) = self.file(key) else { return Ok(None) };
        let about = self.request("look at", key.as_str(), || fs::metadata(path))?;
        let key = key.clone();
        Ok(Some(ObjectInfo { key, len: about.len(), last_modified: None, etag: None }))
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        _: ObjectHeaders,
        _: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        let path = self.new_path();
        self.request("write", key.as_str(), || fs::write(&path, body))?;
        self.files().insert(key.clone(), path);
        Ok(None)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        for key in keys {
            let path = self.files().remove(key);
            if let Some(path) = path.filter(|path| path.starts_with(&self.folder)) {
                self.request("remove", key.as_str(), || fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    fn list_unchecked(&self, _: &str, _: Option<&str>) -> Result<ListPage, StoreError> {
        Ok(ListPage::default())
    }

    fn copy(&self, from: &Key, to: &Key, _: ObjectHeaders) -> Result<(), StoreError> {
        let path = self.file(from);
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let path = self.request("read", from.as_str(), || path.ok_or_else(missing))?;
        if path == self.pack {
            // Its final name is given to it when its index is there.
            self.files().insert(to.clone(), path);
            return Ok(());
        }
        let copied = self.new_path();
        self.request("write", to.as_str(), || fs::hard_link(&path, &copied))?;
        self.files().insert(to.clone(), copied);
        Ok(())
    }

    fn create_upload(&self, key: &Key, _: ObjectHeaders) -> Result<Upload, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = match temp::is_what(key, "pack") {
            true => PACK_UPLOAD.to_owned(),
            false => format!("upload-{number}"),
        };
        Ok(Upload { key: key.clone(), id })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        if upload.id != PACK_UPLOAD {
            let path = self.part(upload, number);
            self.request("write", upload.key.as_str(), || fs::write(path, body))?;
        }
        Ok(Part { number, etag: ETag::default() })
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        let (bytes, _) = self.get(from, Some(range), u64::MAX)?;
        self.put_part(upload, number, &bytes)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        let path = match upload.id == PACK_UPLOAD {
            true => self.pack.clone(),
            false => {
                let path = self.new_path();
                self.request("write", upload.key.as_str(), || {
                    let mut whole = File::create_new(&path)?;
                    for part in parts {
                        let part = self.part(upload, part.number);
                        io::copy(&mut File::open(&part)?, &mut whole)?;
                        fs::remove_file(part)?;
                    }
                    Ok(())
                })?;
                path
            }
        };
        self.files().insert(upload.key.clone(), path);
        Ok(())
    }

    fn abort_upload(&self, _: &Upload) -> Result<(), StoreError> {
        Ok(())
    }

    fn list_uploads_unchecked(&self, _: &str) -> Result<Vec<OpenUpload>, StoreError> {
        Ok(Vec::new())
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::packs;
    use crate::repository::temp::TempKeys;

    const HEADERS: ObjectHeaders = ObjectHeaders::immutable("application/octet-stream");

    #[test]
    fn parts_of_the_pack_are_not_kept_and_those_of_a_large_index_are() {
        let dir = tempfile::tempdir().unwrap();
        let pack = dir.path().join("pack");
        fs::write(&pack, b"the pack").unwrap();
        let scratch = Scratch::new(dir.path(), &pack).unwrap();
        let temp = TempKeys::new(&scratch);
        let store = |key: &Key, parts: [&[u8]; 2]| {
            let upload = scratch.create_upload(key, HEADERS).unwrap();
            let parts =
                [1, 2].map(|n| scratch.put_part(&upload, n, parts[n as usize - 1]).unwrap());
            scratch.complete_upload(&upload, &parts).unwrap();
            fs::read(scratch.file(key).unwrap()).unwrap()
        };
        let index = packs::key(&format!("pack-{}", "0".repeat(40)), "idx");
        assert_eq!(store(&temp.key("pack"), [b"is", b"dropped"]), b"the pack");
        assert_eq!(store(&index, [b"the ", b"index"]), b"the index");
        assert_eq!(store(&temp.key("names"), [b"a", b"run"]), b"arun");
    }
}
