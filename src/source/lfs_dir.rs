//! LFS objects in a directory, laid out as a clone's `.git/lfs`: `objects/aa/bb/<oid>`.
//!
//! For bundles, which carry none. Sizes and hashes are checked by the reader, as those of any server.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::error::{BatchError, SourceError, SourceErrorKind};
use super::exchange::Download;
use super::interface::{LfsSource, Offer};
use crate::git::lfs_pointer::LfsPointer;

/// The directory that holds `objects`.
#[derive(Clone, Debug)]
pub struct LfsDir {
    dir: PathBuf,
}

impl LfsDir {
    /// The folder `lfs` of a git directory, by its absolute path. Nothing is opened yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        LfsDir { dir: dir.into() }
    }

    fn offer(&self, pointer: &LfsPointer) -> Offer {
        let hex = pointer.hex();
        let path = self.dir.join("objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
        let len = match path.metadata() {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) => return Err(format!("{} is not a file", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("not in {}", self.dir.display()));
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        if len != pointer.size {
            let size = pointer.size;
            return Err(format!("{} has {len} bytes, not {size}", path.display()));
        }
        let href = Url::from_file_path(&path);
        let href = href.map_err(|()| format!("{} is not an absolute path", path.display()))?;
        Ok(Download::new(href, Vec::new()))
    }
}

impl LfsSource for LfsDir {
    fn describe(&self) -> String {
        self.dir.display().to_string()
    }

    fn batch(&self, objects: &[LfsPointer]) -> Result<Vec<Offer>, BatchError> {
        Ok(objects.iter().map(|pointer| self.offer(pointer)).collect())
    }

    fn open(&self, download: &Download, offset: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        let url = download.href.to_string();
        let fail = |error: io::Error| SourceError {
            kind: SourceErrorKind::Fatal,
            url: url.clone(),
            message: format!("cannot read it: {error}"),
        };
        let path =
            download.href.to_file_path().map_err(|()| fail(io::ErrorKind::NotFound.into()))?;
        let mut file = File::open(path).map_err(fail)?;
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        Ok(Box::new(file))
    }

    /// A disk that fails has no better hour.
    fn first_wait(&self) -> Duration {
        Duration::from_millis(10)
    }
}
