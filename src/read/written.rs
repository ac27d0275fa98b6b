//! A pack that is made here, of single objects that have been read and hashed.
//!
//! One that was whole in the mirror keeps its deflate blocks, and a delta stays one if its base is in this
//! pack already. Anything else is deflated. Git makes deltas again when it repacks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::entries::{EntryNumber, Form};
use super::local::{TEMPORARY, failed};
use super::objects::Stored;
use super::whole::install;
use crate::git::checksum::Checksum;
use crate::git::object::{Kind, ObjectFormat, ObjectHasher, Oid, check_name, hash_object};
use crate::pack::deflate::Deflater;
use crate::pack::gather::{entry_header, ofs_delta_header};
use crate::pack::index_entries::IndexEntries;
use crate::repository::error::MirrorError;
use crate::repository::packed::Content;

/// Entries of a pack that are noted together.
const NOTED: usize = 4096;

/// Which entry of this pack was which of the mirror's: four bytes for each of a pack from which most come,
/// none where nothing comes from.
#[derive(Default)]
struct Origins(HashMap<EntryNumber, Box<[u32; NOTED]>>);

impl Origins {
    fn at(EntryNumber { pack, rank }: EntryNumber) -> (EntryNumber, usize) {
        (EntryNumber { pack, rank: rank / NOTED as u32 }, rank as usize % NOTED)
    }

    fn note(&mut self, origin: EntryNumber, entry: u32) {
        let (chunk, at) = Self::at(origin);
        let chunk = self.0.entry(chunk).or_insert_with(|| Box::new([u32::MAX; NOTED]));
        chunk[at] = entry;
    }

    fn get(&self, origin: EntryNumber) -> Option<u32> {
        let (chunk, at) = Self::at(origin);
        self.0.get(&chunk).map(|chunk| chunk[at]).filter(|entry| *entry != u32::MAX)
    }
}

/// A pack on its way into the repository. Removed when dropped, unless it is installed.
pub(super) struct PackWriter {
    folder: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
    deflater: Deflater,
    format: ObjectFormat,
    entries: IndexEntries,
    origins: Origins,
    at: u64,
}

impl PackWriter {
    /// Begins a pack in `folder`, a folder of packs.
    pub(super) fn begin(folder: &Path, format: ObjectFormat) -> Result<Self, MirrorError> {
        fs::create_dir_all(folder).map_err(|error| failed("create", folder, &error))?;
        let name = format!("{TEMPORARY}{}-{:08x}.pack", std::process::id(), fastrand::u32(..));
        let path = folder.join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = BufWriter::new(file.map_err(|error| failed("create", &path, &error))?);
        let (folder, deflater) = (folder.to_owned(), Deflater::new(1));
        let entries = IndexEntries::with_capacity(format, 0);
        let (origins, at) = (Origins::default(), 12);
        let mut pack = PackWriter { folder, path, file, deflater, format, entries, origins, at };
        // The count is written last.
        pack.write(b"PACK\0\0\0\x02\0\0\0\0")?;
        Ok(pack)
    }

    /// An object of one format can name one of another, which no repository has.
    fn check_format(&self, oid: &Oid) -> Result<(), MirrorError> {
        match oid.format() == self.format {
            true => Ok(()),
            false => {
                let words = format!("{oid} is not an object of a repository with {}", self.format);
                Err(MirrorError::Mirror(words))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        self.file.write_all(bytes).map_err(|error| failed("write", &self.path, &error))
    }

    /// Adds an object, as it is `stored` if that can be.
    pub(super) fn add(
        &mut self,
        oid: &Oid,
        kind: Kind,
        content: &[u8],
        stored: Option<&Stored<'_>>,
    ) -> Result<(), MirrorError> {
        self.check_format(oid)?;
        let mut entry = entry_header(kind, content.len() as u64);
        match stored.map(|stored| &stored.form) {
            Some(Form::Whole { raw }) => entry.extend_from_slice(raw),
            Some(Form::Delta { base, base_content, len, raw })
                if let Some(distance) = self.distance(*base, base_content) =>
            {
                entry = ofs_delta_header(*len, distance);
                entry.extend_from_slice(raw);
            }
            _ => self.deflater.compress_into(&[content], &mut entry),
        }
        self.write(&entry)?;
        if let Some(stored) = stored {
            self.origins.note(stored.entry, self.entries.len() as u32);
        }
        let crc32 = zlib_rs::crc32::crc32(0, &entry);
        self.entries.push(oid, self.at, crc32);
        self.at += entry.len() as u64;
        Ok(())
    }

    /// How far back the base is that was this entry of the mirror's. The content that the delta was applied
    /// to was not checked by itself, so it is here: in this pack there is what its name says.
    fn distance(&self, base: EntryNumber, (kind, content): &Content) -> Option<u64> {
        let entry = self.entries.get(self.origins.get(base)? as usize)?;
        let found = hash_object(self.format, *kind, content);
        check_name(found, &entry.oid).ok()?;
        Some(self.at - entry.offset)
    }

    /// Adds an object of `len` bytes that is too large for memory, and checks its name.
    pub(super) fn add_stream(
        &mut self,
        oid: &Oid,
        kind: Kind,
        len: u64,
        content: &mut dyn Read,
    ) -> Result<(), MirrorError> {
        let bad = |what: String| {
            MirrorError::Mirror(format!("the stored object {oid} is damaged: {what}"))
        };
        self.check_format(oid)?;
        let (offset, mut hasher) = (self.at, ObjectHasher::new(oid.format(), kind, len));
        let (mut crc32, mut left) = (0, len);
        let mut out = entry_header(kind, len);
        let mut buffer = vec![0; 64 << 10];
        self.deflater.begin();
        loop {
            let read = match content.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| bad(error.to_string()))?,
            };
            left = left.checked_sub(read as u64).ok_or_else(|| bad("it is too long".into()))?;
            match read {
                0 => self.deflater.finish(&mut out),
                read => {
                    hasher.update(&buffer[..read]);
                    self.deflater.write(&buffer[..read], &mut out);
                }
            }
            self.write(&out)?;
            crc32 = zlib_rs::crc32::crc32(crc32, &out);
            self.at += out.len() as u64;
            out.clear();
            if read == 0 {
                break;
            }
        }
        if left > 0 {
            return Err(bad("it ends early".into()));
        }
        check_name(hasher.finish(), oid).map_err(bad)?;
        self.entries.push(oid, offset, crc32);
        Ok(())
    }

    /// Ends the pack and installs it. The answer is its `.keep`.
    pub(super) fn finish(mut self, promisor: bool) -> Result<PathBuf, MirrorError> {
        let trailer = self.end_file().map_err(|error| failed("write", &self.path, &error))?;
        self.origins = Origins::default();
        let empty = IndexEntries::with_capacity(self.format, 0);
        let entries = std::mem::replace(&mut self.entries, empty);
        let write_index = |mut out: &mut dyn Write| entries.write_index(&trailer, &mut out);
        install(&self.folder, &trailer, &self.path, write_index, promisor)
    }

    fn end_file(&mut self) -> io::Result<Oid> {
        let count = u32::try_from(self.entries.len());
        let count = count.map_err(|_| io::Error::other("more objects than a pack can have"))?;
        self.file.flush()?;
        let file = self.file.get_mut();
        file.seek(SeekFrom::Start(8))?;
        file.write_all(&count.to_be_bytes())?;
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Checksum::new(self.format);
        let mut reader = BufReader::with_capacity(64 << 10, &*file);
        loop {
            let bytes = io::BufRead::fill_buf(&mut reader)?;
            if bytes.is_empty() {
                break;
            }
            hash.update(bytes);
            let read = bytes.len();
            io::BufRead::consume(&mut reader, read);
        }
        drop(reader);
        let trailer = hash.finish();
        file.seek(SeekFrom::End(0))?;
        file.write_all(trailer.as_bytes())?;
        Ok(trailer)
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        // It has its final name, or is worth nothing.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_accepts_the_pack_and_a_dropped_one_leaves_nothing() {
        for format in ObjectFormat::ALL {
            git_accepts_it(format);
        }
    }

    fn git_accepts_it(format: ObjectFormat) {
        let dir = tempfile::tempdir().unwrap();
        let (small, large) = (b"small".to_vec(), vec![7; 300_000]);
        let mut pack = PackWriter::begin(dir.path(), format).unwrap();
        let small_oid = hash_object(format, Kind::Blob, &small).unwrap();
        pack.add(&small_oid, Kind::Blob, &small, None).unwrap();
        let large_oid = hash_object(format, Kind::Blob, &large).unwrap();
        let len = large.len() as u64;
        pack.add_stream(&large_oid, Kind::Blob, len, &mut &large[..]).unwrap();
        let keep = pack.finish(true).unwrap();
        for extension in ["pack", "idx", "promisor"] {
            assert!(keep.with_extension(extension).exists(), "{extension}");
        }
        let verified = std::process::Command::new("git")
            .args(["verify-pack", "-v", &format!("--object-format={format}")])
            .arg(keep.with_extension("idx"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success() && text.contains(&large_oid.to_string()), "{text}");
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let before = files();
        let mut pack = PackWriter::begin(dir.path(), format).unwrap();
        let error = pack.add_stream(&small_oid, Kind::Blob, 5, &mut &b"other"[..]).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        drop(pack);
        assert_eq!(files(), before);
    }
}
