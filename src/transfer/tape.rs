//! A tar as this program writes and reads it: regular files alone, one after the other, by short names.
//!
//! `tar` codes the headers (ustar, GNU's binary sizes above 8 GiB); its reader is not used, because it
//! resolves long names and links, in memory of any size: here every name that is not expected is an
//! error. No name ever becomes a path.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

/// Everything in a tar is in blocks of this size.
const BLOCK: usize = 512;

/// No entry is larger: S3's largest object is 5 TiB.
const MAX_LEN: u64 = 1 << 43;

/// Writes a tar.
pub(super) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Writer { out }
    }

    /// Begins an entry: `len` bytes have to be written to [`Writer::body`], then [`Writer::end_entry`].
    pub(super) fn begin(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_size(len);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    pub(super) fn body(&mut self) -> &mut W {
        &mut self.out
    }

    /// Fills the last block of an entry of `len` bytes.
    pub(super) fn end_entry(&mut self, len: u64) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding(len)])
    }

    /// A whole entry.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.begin(name, content.len() as u64)?;
        self.out.write_all(content)?;
        self.end_entry(content.len() as u64)
    }

    /// Two blocks of zeros end a tar.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn padding(len: u64) -> usize {
    (BLOCK - (len % BLOCK as u64) as usize) % BLOCK
}

/// The name and length of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) len: u64,
}

/// Reads a tar.
pub(super) struct Reader<R> {
    input: R,
    /// Of the entry in hand: bytes, and what fills its last block.
    remaining: u64,
    padding: usize,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Reader { input, remaining: 0, padding: 0 }
    }

    /// The next entry; what is unread of the one before is skipped. `None`: the tar ends here as it
    /// should. An end without its zeros is an error.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        io::copy(&mut self.by_ref(), &mut io::sink())?;
        self.fill(&mut [0; BLOCK][..self.padding])?;
        self.padding = 0;
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block == [0; BLOCK] {
            self.fill(&mut block)?;
            return match block == [0; BLOCK] {
                true => Ok(None),
                false => bad("it has no tar header where one should be"),
            };
        }
        let entry = parse(&block)?;
        (self.remaining, self.padding) = (entry.len, padding(entry.len));
        Ok(Some(entry))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut(),
            _ => error,
        })
    }

    /// The whole entry in hand, of `len` bytes: who asks has looked at it.
    pub(super) fn whole(&mut self, len: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.by_ref().take(len).read_to_end(&mut content)?;
        Ok(content)
    }
}

/// The bytes of the entry in hand.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(cut());
        }
        self.remaining -= read as u64;
        Ok(read)
    }
}

fn parse(block: &[u8; BLOCK]) -> io::Result<Entry> {
    let header = Header::from_byte_slice(block);
    // The checksum counts its own eight bytes as blanks.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let sum = sum(&block[..148]) + 8 * 32 + sum(&block[156..]);
    if header.cksum().ok() != Some(sum) {
        return bad("a tar header is damaged");
    }
    let name = header.path_bytes();
    let name = match std::str::from_utf8(&name) {
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => name.to_owned(),
        _ => return bad("an entry's name is not one that this program writes"),
    };
    if header.entry_type() != EntryType::Regular {
        return bad(format!("{name} is not a regular file"));
    }
    match header.entry_size() {
        Ok(len) if len <= MAX_LEN => Ok(Entry { name, len }),
        _ => bad(format!("{name} has no length")),
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is truncated")
}

fn bad<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.add("empty", b"").unwrap();
        writer.add("objects/aa/b", &[1; 512]).unwrap();
        writer.add("HEAD", b"ref: refs/heads/main\n").unwrap();
        writer.finish().unwrap()
    }

    fn read(tar: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut reader = Reader::new(tar);
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            found.push((entry.name, reader.whole(entry.len)?));
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_an_error() {
        let tar = written();
        let found = read(&tar).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["empty", "objects/aa/b", "HEAD"]);
        assert_eq!(found[1].1, [1; 512]);
        for at in 0..tar.len() {
            assert!(read(&tar[..at]).is_err(), "{at}");
        }
        // What is unread is skipped.
        let mut reader = Reader::new(&tar[..]);
        while reader.next().unwrap().is_some() {}
    }

    #[test]
    fn sizes_above_8_gib_are_read_as_they_are_written() {
        let mut writer = Writer::new(Vec::new());
        writer.begin("large", 300 << 30).unwrap();
        let entry = Reader::new(&writer.out[..]).next().unwrap().unwrap();
        assert_eq!(entry, Entry { name: "large".into(), len: 300 << 30 });
    }

    #[test]
    fn anything_but_a_regular_file_with_a_plain_name_is_refused() {
        let header = |change: &dyn Fn(&mut Header)| {
            let mut header = Header::new_gnu();
            header.set_path("HEAD").unwrap();
            header.set_size(0);
            header.set_entry_type(EntryType::Regular);
            change(&mut header);
            header.set_cksum();
            let tar = [&header.as_bytes()[..], &[0; 2048]].concat();
            Reader::new(&tar[..]).next().map(|entry| entry.unwrap().len)
        };
        assert_eq!(header(&|_| {}).unwrap(), 0);
        for kind in *b"12345567gxLKSDMV" {
            assert!(header(&|h| h.set_entry_type(EntryType::new(kind))).is_err(), "{kind}");
        }
        assert!(header(&|h| h.set_size(u64::MAX)).is_err());
        assert!(header(&|h| h.set_size(1 << 50)).is_err());
        assert!(header(&|h| h.as_old_mut().name[1] = b'\n').is_err());
        assert!(header(&|h| h.as_old_mut().name[1] = 0xff).is_err());
        assert!(header(&|h| h.as_old_mut().size = *b"no number   ").is_err());
        let mut damaged = written();
        damaged[600] ^= 1;
        assert!(read(&damaged).is_err());
    }

    /// GNU tar reads it.
    #[test]
    fn tar_lists_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.tar"), written()).unwrap();
        let out =
            std::process::Command::new("tar").arg("tf").arg(dir.path().join("a.tar")).output();
        let Ok(out) = out else { return };
        assert_eq!(String::from_utf8_lossy(&out.stdout), "empty\nobjects/aa/b\nHEAD\n");
    }
}
