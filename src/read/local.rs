//! The repository that is read into: which objects it has, and where it is shallow.
//!
//! Objects are looked up in the indices of its packs, in its loose objects and in those of its
//! alternates, without git: asking git about an object of a partial clone would fetch it. An object
//! that is there says nothing of those that it leads to; git checks that after every fetch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::git::object::Oid;
use crate::pack::index::{IndexError, lookup_by_ranges};
use crate::repository::error::MirrorError;

/// Alternates of alternates are followed so deep (git's own limit, `link_alt_odb_entries`).
const MAX_ALTERNATES: usize = 5;

/// The repository that is read into.
pub(crate) struct Local {
    /// Its folder of objects.
    pub(crate) objects: PathBuf,
    /// The file that lists where history is cut off.
    shallow: PathBuf,
    roots: Vec<PathBuf>,
    packs: Vec<File>,
}

impl Local {
    /// Opens the indices of all packs. `objects` and `shallow` are as `git rev-parse --git-path` says.
    pub(crate) fn open(objects: &Path, shallow: &Path) -> Result<Self, MirrorError> {
        let mut roots = vec![objects.to_owned()];
        add_alternates(objects, 0, &mut roots);
        let (objects, shallow) = (objects.to_owned(), shallow.to_owned());
        let mut local = Local { objects, shallow, roots, packs: Vec::new() };
        local.open_packs()?;
        Ok(local)
    }

    /// Sees what packs there are now.
    pub(crate) fn open_packs(&mut self) -> Result<(), MirrorError> {
        self.packs.clear();
        for root in &self.roots {
            let folder = root.join("pack");
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &folder, &error)),
            };
            for entry in entries {
                let path = entry.map_err(|error| failed("read", &folder, &error))?.path();
                let is_temporary =
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tmp_"));
                if path.extension().is_some_and(|extension| extension == "idx") && !is_temporary {
                    // One that `git gc` has just removed is in another pack by now.
                    self.packs.extend(File::open(&path).ok());
                }
            }
        }
        Ok(())
    }

    /// Removes what runs have left that were killed: locks on packs, and folders of work. What can be
    /// used again stays.
    pub(crate) fn sweep(&self) {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries(&self.objects) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let work = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split_once('-'));
            if work.is_some_and(|(process, _)| is_left(process, &entry)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for entry in entries(&self.objects.join("pack")) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split_once('-'));
            let is_dead = match written {
                Some((process, _)) => is_left(process, &entry),
                None if name.ends_with(".keep") => {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let process = text.strip_prefix(KEPT_BY).map(str::trim_end);
                    process.is_some_and(|process| is_left(process, &entry))
                }
                None => false,
            };
            if is_dead {
                // Another run may be quicker.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Is the object here?
    pub(crate) fn has(&self, oid: &Oid) -> bool {
        self.packs.iter().any(|pack| is_in(pack, oid)) || self.has_loose(oid)
    }

    fn has_loose(&self, oid: &Oid) -> bool {
        let hex = oid.to_string();
        self.roots.iter().any(|root| root.join(&hex[..2]).join(&hex[2..]).exists())
    }

    /// Has it no object at all, as far as packs and folders of loose objects tell?
    pub(crate) fn is_empty(&self) -> bool {
        let is_folder_of_loose =
            |name: &str| name.len() == 2 && u8::from_str_radix(name, 16).is_ok();
        let has_loose = |root: &PathBuf| {
            let entries = fs::read_dir(root).into_iter().flatten().flatten();
            entries
                .into_iter()
                .any(|entry| is_folder_of_loose(&entry.file_name().to_string_lossy()))
        };
        self.packs.is_empty() && !self.roots.iter().any(has_loose)
    }

    /// The commits whose parents are cut off.
    pub(crate) fn shallow(&self) -> Result<BTreeSet<Oid>, MirrorError> {
        match fs::read(&self.shallow) {
            Ok(file) => Ok(file
                .split(|byte| *byte == b'\n')
                .filter_map(|line| Oid::from_hex(line.trim_ascii()))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(failed("read", &self.shallow, &error)),
        }
    }

    /// Writes them anew, as fetch-pack does: under git's own lock; no file if there are none.
    pub(crate) fn set_shallow(&self, shallow: &BTreeSet<Oid>) -> Result<(), MirrorError> {
        let path = &self.shallow;
        let lock = path.with_extension("lock");
        let mut text = String::new();
        shallow.iter().for_each(|oid| text += &format!("{oid}\n"));
        let file = File::create_new(&lock);
        let mut file = file.map_err(|error| failed("create", &lock, &error))?;
        let written = io::Write::write_all(&mut file, text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| match shallow.is_empty() {
                true => match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => fs::remove_file(&lock),
                },
                false => fs::rename(&lock, path),
            });
        written.map_err(|error| {
            // The failure is reported; what is left of the lock would only stop git.
            let _ = fs::remove_file(&lock);
            failed("write", path, &error)
        })
    }
}

/// How temporary files and folders begin, in the folder of objects and in that of packs: `git gc`
/// removes old ones of that name (`prune.c`, `remove_temporary_files`).
pub(super) const TEMPORARY: &str = "tmp_mirror_";

/// What is in a `.keep` file, before the process's number.
pub(super) const KEPT_BY: &str = "git-remote-mirror ";

/// Younger files may be of another host's process.
const STALE: Duration = Duration::from_secs(600);

/// Is the process gone that has made this some time ago?
fn is_left(process: &str, entry: &fs::DirEntry) -> bool {
    let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    let modified = entry.metadata().and_then(|about| about.modified()).ok();
    let is_old = modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > STALE);
    is_number && is_old && !Path::new("/proc").join(process).exists()
}

/// What went wrong with a file of the repository's.
pub(crate) fn failed(verb: &str, path: &Path, error: &io::Error) -> MirrorError {
    MirrorError::Mirror(format!("cannot {verb} {}: {error}", path.display()))
}

fn is_in(index: &File, oid: &Oid) -> bool {
    let read = |range: std::ops::Range<u64>| {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        let mut bytes = vec![0; len];
        match index.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(IndexError::BadHeader),
        }
    };
    // A damaged index has nothing: what it lists is fetched again.
    matches!(lookup_by_ranges(oid, read), Ok(Some(_)))
}

/// `objects/info/alternates`: a path a line, relative ones to the folder of objects.
fn add_alternates(objects: &Path, depth: usize, roots: &mut Vec<PathBuf>) {
    let Ok(text) = fs::read_to_string(objects.join("info/alternates")) else { return };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let path = objects.join(line);
        if depth < MAX_ALTERNATES && !roots.contains(&path) {
            roots.push(path.clone());
            add_alternates(&path, depth + 1, roots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::index::{IndexEntry, write_index};

    fn oid(byte: u8) -> Oid {
        Oid::from_bytes([byte; 20])
    }

    #[test]
    fn objects_are_found_in_packs_loose_and_in_alternates() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        fs::create_dir_all(own.join("info")).unwrap();
        fs::create_dir_all(own.join("pack")).unwrap();
        let local = |own: &Path| Local::open(own, &dir.path().join("shallow")).unwrap();
        assert!(local(&own).is_empty());
        let mut entries = [IndexEntry { oid: oid(1), crc32: 0, offset: 12 }];
        let mut index = Vec::new();
        write_index(&mut entries, &oid(9), &mut index).unwrap();
        fs::write(own.join("pack/pack-x.idx"), index).unwrap();
        fs::write(own.join("pack/pack-y.idx"), "damaged").unwrap();
        let loose = oid(2).to_string();
        fs::create_dir_all(other.join(&loose[..2])).unwrap();
        fs::write(other.join(&loose[..2]).join(&loose[2..]), "").unwrap();
        assert!(local(&own).has(&oid(1)) && !local(&own).has(&oid(2)));
        fs::write(own.join("info/alternates"), "# a comment\n../other\n").unwrap();
        let local = local(&own);
        assert!(local.has(&oid(1)) && local.has(&oid(2)) && !local.has(&oid(3)));
        assert!(!local.is_empty());
    }

    #[test]
    fn list_of_shallow_commits_is_written_read_and_removed_under_gits_lock() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shallow");
        let local = Local::open(dir.path(), &file).unwrap();
        assert!(local.shallow().unwrap().is_empty());
        let cut = BTreeSet::from([oid(2), oid(1)]);
        local.set_shallow(&cut).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n{}\n", oid(1), oid(2)));
        assert_eq!(local.shallow().unwrap(), cut);
        fs::write(dir.path().join("shallow.lock"), "").unwrap();
        let error = local.set_shallow(&BTreeSet::new()).unwrap_err().to_string();
        assert!(error.contains("shallow.lock"), "{error}");
        fs::remove_file(dir.path().join("shallow.lock")).unwrap();
        local.set_shallow(&BTreeSet::new()).unwrap();
        assert!(!file.exists() && !dir.path().join("shallow.lock").exists());
    }
}
