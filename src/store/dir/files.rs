//! Opening files that others may have planted, and what can go wrong.
//!
//! Who may write to the directory can plant links and FIFOs in it. What is opened here is opened without
//! following a link, without waiting for a FIFO's other end, and only if it is a regular file; nothing is
//! truncated.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::SystemTime;

use crate::store::interface::{ETag, StoreErrorKind};

/// Up to this many bytes, an entity tag is the MD5 of the content.
pub(super) const MAX_HASHED: u64 = 1 << 20;

pub(super) type Done<T> = Result<T, Trouble>;

/// A failure before its request is named.
pub(super) struct Trouble(pub(super) StoreErrorKind, pub(super) String);

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

pub(super) fn refused(why: impl Into<String>) -> Trouble {
    Trouble(StoreErrorKind::Other, why.into())
}

/// Opens a regular file and nothing else: no link is followed, and no FIFO or device waited for.
pub(crate) fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
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

/// NFS wants to write what it locks.
pub(super) fn open_to_lock(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().write(true))
}

/// Is this open file still the one that `path` names?
#[cfg(unix)]
pub(super) fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |about: fs::Metadata| (about.dev(), about.ino());
    file.metadata().map(id).ok() == fs::metadata(path).map(id).ok()
}

/// An open file can't lose its name here.
#[cfg(not(unix))]
pub(super) fn is_named(_: &File, _: &Path) -> bool {
    true
}

/// The MD5 of a small file's content; of a large one, what changes with every write.
pub(super) fn etag_of(file: &mut File, about: &fs::Metadata) -> io::Result<ETag> {
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

/// Folders are removed when they are empty, perhaps just before a file is made in them.
pub(super) fn again<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..10 {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    make()
}

pub(super) fn read_dir_if_there(
    dir: &Path,
) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
