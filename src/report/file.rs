//! Files that are replaced as a whole, `--metrics-file` above all.
//!
//! Others may be able to write to the folder: nothing that they put there is followed. A file that cannot
//! be written is found before anything is begun.

use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::CliError;

/// A larger metrics file (bytes) is not read back.
const MAX_METRICS: u64 = 64 << 20;

/// The metrics file of the run before; empty if there is none, or none of ours. It is not followed to
/// what is no regular file.
pub fn read_metrics(path: &Path) -> String {
    let is_ours =
        fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() < MAX_METRICS);
    if is_ours { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// Writes `text` so that a reader sees the old file or the new one: a temporary file beside it,
/// renamed. Its name does not end in `.prom`, or the collector would read it too.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, mut file) = beside(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Could [`write_atomically`] write `path`? It is left as it is.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let (temporary, _) = beside(path)?;
    fs::remove_file(temporary)
}

/// The same for the file of `--metrics-file`, before anything is begun.
pub fn check_metrics_file(path: &Path) -> Result<(), CliError> {
    check_writable(path).map_err(|error| {
        CliError::new(format!("cannot write the metrics file {}: {error}", path.display()))
    })
}

/// A new file beside `path`. Others who may write to the folder can't guess its name, and nothing that
/// they put there is followed.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        // A rename would put a file in the place of a device.
        Ok(about) if !about.is_file() && !about.is_symlink() => {
            return Err(io::Error::other("it is not a regular file"));
        }
        _ => {}
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", std::hash::RandomState::new().hash_one(name)));
    let temporary = path.with_file_name(temporary);
    let file = File::options().write(true).create_new(true).open(&temporary)?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.prom");
        write_atomically(&path, "one").unwrap();
        write_atomically(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        fs::create_dir(dir.path().join("taken")).unwrap();
        write_atomically(&dir.path().join("taken"), "three").unwrap_err();
        write_atomically(&dir.path().join("no/m.prom"), "four").unwrap_err();
        write_atomically(Path::new("/"), "five").unwrap_err();
        // A rename would put a file in the place of the device.
        check_writable(Path::new("/dev/null")).unwrap_err();
        check_writable(&path).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.prom", "taken"]);
    }
}
