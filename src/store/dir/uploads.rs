//! Multipart uploads: folders in the temporary folder, with one file for the key and one for each part.
//!
//! Assumes that an upload may outlive its run: others list it and end it. An upload's id comes from
//! outside, so it never leads out of the temporary folder, and a folder without its key in it is none.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::files::{Done, Trouble, again, open_regular, read_dir_if_there, refused};
use super::partial::{Partial, Temporary, UPLOAD_NAME};
use crate::store::interface::{ETag, Key, Limits, OpenUpload, Part, StoreErrorKind, Upload};

/// Where the key of an upload is kept, inside its folder.
const KEY_FILE: &str = "key";

impl Partial {
    /// Begins one.
    pub(super) fn create_upload(&self, key: &Key) -> Done<Upload> {
        let id = self.new_name(UPLOAD_NAME)?;
        let dir = self.path().join(&id);
        again(|| fs::create_dir_all(&dir))?;
        fs::write(dir.join(KEY_FILE), key.as_str())?;
        Ok(Upload { key: key.clone(), id })
    }

    /// The folder of an upload that exists.
    pub(super) fn upload_dir(&self, upload: &Upload) -> Done<PathBuf> {
        let gone = || Trouble(StoreErrorKind::NotFound, "there is no such upload".to_owned());
        if !upload.id.starts_with(UPLOAD_NAME) || upload.id.contains(['/', '\\']) {
            return Err(gone());
        }
        let dir = self.path().join(&upload.id);
        match read_key(&dir) {
            Ok(key) if key == upload.key.as_str() => Ok(dir),
            _ => Err(gone()),
        }
    }

    /// Stores a part: all that `from` gives, which is to be `wanted` bytes.
    pub(super) fn put_part_from(
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

    /// The whole of it in one file that is on the disk.
    pub(super) fn join_parts(&self, dir: &Path, parts: &[Part]) -> Done<Temporary> {
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
        Ok(whole)
    }

    /// All whose key begins with `prefix`.
    pub(super) fn open_uploads(&self, prefix: &str) -> Done<Vec<OpenUpload>> {
        let entries = read_dir_if_there(&self.path())?;
        let open = entries.flatten().filter_map(|entry| open_upload(&entry));
        Ok(open.filter(|open| open.upload.key.as_str().starts_with(prefix)).collect())
    }
}

fn open_upload(entry: &fs::DirEntry) -> Option<OpenUpload> {
    let id = entry.file_name().into_string().ok()?;
    if !id.starts_with(UPLOAD_NAME) {
        return None;
    }
    let key_file = entry.path().join(KEY_FILE);
    let key = Key::new(read_key(&entry.path()).ok()?).ok()?;
    let initiated = fs::metadata(&key_file).and_then(|about| about.modified()).ok();
    Some(OpenUpload { upload: Upload { key, id }, initiated })
}

fn part_name(number: u32, etag: &str) -> String {
    format!("{number:05}.{etag}")
}

/// The key of an upload, whose folder this is.
fn read_key(upload: &Path) -> io::Result<String> {
    let file = open_regular(&upload.join(KEY_FILE), File::options().read(true))?;
    let mut key = String::new();
    // A key has at most 1,024 bytes; one that is cut is none that is looked for.
    file.take(4096).read_to_string(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::dir::DirStore;
    use crate::store::testing::{TEXT, key};

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
}
