//! Multipart uploads: folders in the temporary folder, with one file for the key and one for the whole.
//!
//! Parts are written to their places in the whole ([`Places`]), which then needs but a name. One that has no
//! place yet has a file of its own, and is copied when the upload is completed. Where they lie is known to
//! the store that began the upload, and to it alone.
//!
//! Assumes that an upload may outlive its run: others list it and end it. An upload's id comes from
//! outside, so it never leads out of the temporary folder, and a folder without its key in it is none.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::files::{Done, Trouble, again, open_regular, read_dir_if_there, refused};
use super::partial::{Partial, Temporary, UPLOAD_NAME};
use super::places::Places;
use crate::store::interface::{ETag, Key, Limits, OpenUpload, Part, StoreErrorKind, Upload};

/// Where the key of an upload is kept, inside its folder.
const KEY_FILE: &str = "key";
/// What the parts are written to, inside it.
const WHOLE_FILE: &str = "whole";

/// An upload in one file that is on the disk.
pub(super) enum Whole {
    /// In the upload's folder.
    InPlace(PathBuf),
    Copied(Temporary),
}

impl Whole {
    pub(super) fn path(&self) -> &Path {
        match self {
            Whole::InPlace(path) => path,
            Whole::Copied(temporary) => &temporary.path,
        }
    }
}

/// Where a part is.
enum Source {
    /// In the whole, from this byte.
    Whole(u64),
    Own(PathBuf),
}

impl Partial {
    /// Begins one.
    pub(super) fn create_upload(&self, key: &Key) -> Done<Upload> {
        let id = self.new_name(UPLOAD_NAME)?;
        let dir = self.path().join(&id);
        again(|| fs::create_dir_all(&dir))?;
        fs::write(dir.join(KEY_FILE), key.as_str())?;
        self.places().insert(id.clone(), Places::default());
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

    /// It is completed, or given up.
    pub(super) fn remove_upload(&self, upload: &Upload, dir: &Path) -> Done<()> {
        fs::remove_dir_all(dir)?;
        self.places().remove(&upload.id);
        Ok(())
    }

    /// Stores a part: all that `from` gives, which is to be `len` bytes and is not more.
    pub(super) fn put_part_from(
        &self,
        upload: &Upload,
        number: u32,
        mut from: impl Read,
        len: u64,
    ) -> Done<Part> {
        let dir = self.upload_dir(upload)?;
        if number == 0 || number > Limits::S3.max_parts {
            return Err(refused(format!("part {number} of 1 to {}", Limits::S3.max_parts)));
        }
        let mut write = |file: &mut File| match io::copy(&mut from, file)? {
            copied if copied == len => Ok(()),
            _ => Err(refused("the range is not inside the source")),
        };
        // Not a hash, which would cost more than the copy: it need only tell one write from another.
        let etag = format!("{:016x}", fastrand::u64(..));
        let part = Part { number, etag: ETag(etag) };
        let place = self.places().get_mut(&upload.id).and_then(|places| places.take(number, len));
        if let Some(start) = place {
            let mut options = File::options();
            options.write(true).create(true).truncate(false);
            let mut whole = open_regular(&dir.join(WHOLE_FILE), &mut options)?;
            whole.seek(SeekFrom::Start(start))?;
            write(&mut whole)?;
            if let Some(places) = self.places().get_mut(&upload.id) {
                places.written(&part);
            }
            return Ok(part);
        }
        let mut temporary = self.temporary()?;
        write(&mut temporary.file)?;
        // The entity tag is in the name, so that a part stored twice is found by its tag.
        fs::rename(&temporary.path, dir.join(part_name(&part)))?;
        Ok(part)
    }

    /// The whole of it in one file that is on the disk.
    pub(super) fn join_parts(&self, upload: &Upload, dir: &Path, parts: &[Part]) -> Done<Whole> {
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(refused("parts must be in order of their numbers, one at least"));
        }
        let mut sources: Vec<(Source, u64)> = Vec::with_capacity(parts.len());
        for part in parts {
            let place = self.places().get(&upload.id).and_then(|places| places.find(part));
            sources.push(match place {
                Some((start, len)) => (Source::Whole(start), len),
                None => own_file(dir, part)?,
            });
        }
        let mut end = 0;
        let (mut has_place, mut is_in_place) = (false, true);
        for (source, len) in &sources {
            if let Source::Whole(start) = source {
                has_place = true;
                is_in_place &= *start == end;
            }
            end += len;
        }
        let path = dir.join(WHOLE_FILE);
        if has_place && is_in_place {
            let mut whole = open_regular(&path, File::options().write(true))?;
            // Those that were stored and are none of it may be overwritten now, and are cut off.
            if let Some(places) = self.places().get_mut(&upload.id) {
                places.keep(parts);
            }
            let mut start = 0;
            for (source, len) in &sources {
                if let Source::Own(path) = source {
                    whole.seek(SeekFrom::Start(start))?;
                    append(path, 0, *len, &mut whole)?;
                }
                start += len;
            }
            whole.set_len(end)?;
            whole.sync_data()?;
            return Ok(Whole::InPlace(path));
        }
        let mut whole = self.temporary()?;
        for (source, len) in &sources {
            match source {
                Source::Whole(start) => append(&path, *start, *len, &mut whole.file)?,
                Source::Own(path) => append(path, 0, *len, &mut whole.file)?,
            }
        }
        whole.file.sync_data()?;
        Ok(Whole::Copied(whole))
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

fn part_name(part: &Part) -> String {
    format!("{:05}.{}", part.number, part.etag.0)
}

/// A part's own file, and its length.
fn own_file(dir: &Path, part: &Part) -> Done<(Source, u64)> {
    let is_sound = part.etag.0.chars().all(|c| c.is_ascii_hexdigit());
    let path = dir.join(part_name(part));
    let file = open_regular(&path, File::options().read(true)).ok().filter(|_| is_sound);
    let file = file.ok_or_else(|| refused(format!("part {} is not stored", part.number)))?;
    Ok((Source::Own(path), file.metadata()?.len()))
}

/// Copies a range of a file.
fn append(from: &Path, start: u64, len: u64, to: &mut File) -> Done<()> {
    let mut from = open_regular(from, File::options().read(true))?;
    from.seek(SeekFrom::Start(start))?;
    match io::copy(&mut from.take(len), to)? {
        copied if copied == len => Ok(()),
        _ => Err(refused("a part became shorter")),
    }
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
    use std::ops::Range;

    use crate::store::dir::DirStore;
    use crate::store::testing::{TEXT, key};
    use crate::store::{Store, StoreError};

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

    /// Parts in their places, and others, as they come.
    #[test]
    fn parts_of_any_length_in_any_order_become_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        let mut in_place = 0;
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let upload = store.create_upload(&key("a"), TEXT).unwrap();
            let count = random.u32(1..8);
            let usual = random.usize(1..100);
            let mut bodies: Vec<(u32, Vec<u8>)> = Vec::new();
            for number in 1..=count {
                let len = match random.u32(0..12) {
                    0 => random.usize(0..100),
                    1 => 2 * usual,
                    _ => usual,
                };
                bodies.push((number, std::iter::repeat_with(|| random.u8(..)).take(len).collect()));
            }
            let mut order: Vec<u32> = (1..=count).collect();
            // One that is stored twice, one that is stored and not wanted.
            order.extend([random.u32(1..=count), count + 1]);
            if random.bool() {
                random.shuffle(&mut order);
            }
            let mut parts: Vec<Part> = Vec::new();
            for number in order {
                let body = bodies.iter().find(|(of, _)| *of == number);
                let body = body.map_or(&[7; 500][..random.usize(1..500)], |(_, body)| body);
                let part = store.put_part(&upload, number, body).unwrap();
                if number <= count {
                    parts.retain(|part| part.number != number);
                    parts.push(part);
                }
            }
            parts.sort_by_key(|part| part.number);
            let folder = dir.path().join(super::super::partial::PARTIAL).join(&upload.id);
            let joined = store.partial.join_parts(&upload, &folder, &parts);
            in_place += u32::from(matches!(joined, Ok(Whole::InPlace(_))));
            drop(joined);
            store.complete_upload(&upload, &parts).unwrap();
            let wanted: Vec<u8> = bodies.into_iter().flat_map(|(_, body)| body).collect();
            assert!(store.get(&key("a"), None, 9999).unwrap().0 == wanted, "seed {seed}");
            assert!(store.partial.places().is_empty());
        }
        assert!((50..150).contains(&in_place), "{in_place} of 200");
    }

    #[test]
    fn a_part_that_is_not_whole_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        store.put(&key("from"), b"0123456789", TEXT, None).unwrap();
        let upload = store.create_upload(&key("a"), TEXT).unwrap();
        let mut parts: Vec<Part> =
            [0..4, 4..8].map(|range| copy(&store, &upload, range).unwrap()).into();
        let error = copy(&store, &upload, 8..12).unwrap_err();
        assert!(error.to_string().contains("not inside the source"), "{error}");
        let never = Part { number: 3, etag: ETag(String::new()) };
        parts.push(never);
        let error = store.complete_upload(&upload, &parts).unwrap_err();
        assert!(error.to_string().contains("part 3 is not stored"), "{error}");
        parts[2] = copy(&store, &upload, 8..10).unwrap();
        // Another store does not know where they lie.
        let other = DirStore::new(dir.path()).unwrap();
        let error = other.complete_upload(&upload, &parts[..1]).unwrap_err();
        assert!(error.to_string().contains("part 1 is not stored"), "{error}");
        store.complete_upload(&upload, &parts).unwrap();
        assert_eq!(store.get(&key("a"), None, 99).unwrap().0, b"0123456789");
    }

    #[test]
    fn a_part_that_a_failed_completion_has_cut_off_is_not_taken_for_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path()).unwrap();
        store.put(&key("a/folder"), b"in the way", TEXT, None).unwrap();
        let upload = store.create_upload(&key("a"), TEXT).unwrap();
        let parts = [1, 2, 3].map(|number| store.put_part(&upload, number, b"1234").unwrap());
        store.complete_upload(&upload, &parts[..2]).unwrap_err();
        store.delete(&[key("a/folder")]).unwrap();
        let error = store.complete_upload(&upload, &parts).unwrap_err();
        assert!(error.to_string().contains("part 3 is not stored"), "{error}");
        store.complete_upload(&upload, &parts[..2]).unwrap();
        assert_eq!(store.get(&key("a"), None, 99).unwrap().0, b"12341234");
    }

    /// As the part that this range begins, of four bytes each.
    fn copy(store: &DirStore, upload: &Upload, range: Range<u64>) -> Result<Part, StoreError> {
        store.copy_part(upload, range.start as u32 / 4 + 1, &key("from"), range)
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
