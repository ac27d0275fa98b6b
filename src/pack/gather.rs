//! Loose objects as a pack: whole objects, no delta.
//!
//! A loose object that was made of a pack entry ([`super::loose::Rewrap`]) begins with a stored block
//! that holds its header, and the entry's own blocks follow: they are taken over. One that was
//! deflated together with its header is deflated anew, at git's own level for packs. Either way the
//! object is read whole and named by what it holds, and the blocks are inflated once more, since
//! those of a foreign encoder could refer back into the header.

use std::io;

use zlib_rs::adler32::adler32;
use zlib_rs::crc32::crc32;

use super::concat::Output;
use super::deflate::Deflater;
use super::index_entries::IndexEntries;
use super::inflate::Inflater;
use super::loose::{LooseError, decode_loose};
use crate::git::checksum::Checksum;
use crate::git::object::{Kind, ObjectFormat, Oid, hash_object, object_header};

/// zlib's own default, and git's for packs (`pack.compression`).
pub const PACK_LEVEL: i32 = 6;

/// Zlib header, and a stored block's type and lengths.
const BEFORE_HEADER: usize = 2 + 5;

const ADLER_LEN: usize = 4;

/// The pack entry of a loose object, and the object's name. At most `max_len` bytes of content.
pub fn entry_of_loose(
    bytes: &[u8],
    format: ObjectFormat,
    max_len: u64,
    deflater: &mut Deflater,
    inflater: &mut Inflater,
) -> Result<(Oid, Vec<u8>), LooseError> {
    let (kind, content) = decode_loose(bytes, max_len)?;
    let mut entry = entry_header(kind, content.len() as u64);
    match kept_blocks(bytes, kind, &content, inflater) {
        Some(stream) => entry.extend(stream),
        None => deflater.compress_into(&[&content], &mut entry),
    }
    Ok((hash_object(format, kind, &content)?, entry))
}

/// The object's own deflate blocks as a zlib stream, if its header is in a block of its own.
fn kept_blocks(
    bytes: &[u8],
    kind: Kind,
    content: &[u8],
    inflater: &mut Inflater,
) -> Option<Vec<u8>> {
    let header = object_header(kind, content.len() as u64);
    let len = header.len() as u16; // at most 28
    let (zlib_header, rest) = bytes.split_at_checked(2)?;
    let rest = rest.strip_prefix(&[0])?.strip_prefix(&len.to_le_bytes())?;
    let rest = rest.strip_prefix(&(!len).to_le_bytes())?.strip_prefix(&header[..])?;
    debug_assert_eq!(bytes.len() - rest.len(), BEFORE_HEADER + header.len());
    let blocks = rest.len().checked_sub(ADLER_LEN)?;
    let mut stream = zlib_header.to_vec();
    stream.extend_from_slice(&rest[..blocks]);
    stream.extend(adler32(1, content).to_be_bytes());
    inflates_to(&stream, content, inflater).then_some(stream)
}

fn inflates_to(stream: &[u8], content: &[u8], inflater: &mut Inflater) -> bool {
    inflater.restart();
    let (mut input, mut left) = (stream, content);
    let mut piece = [0; 8 << 10];
    loop {
        let Ok(step) = inflater.step(input, &mut piece) else { return false };
        let Some(rest) = left.strip_prefix(&piece[..step.produced]) else { return false };
        (left, input) = (rest, &input[step.consumed..]);
        if step.ended {
            return left.is_empty() && input.is_empty();
        }
        if step.consumed + step.produced == 0 {
            return false;
        }
    }
}

/// The type and the length at an entry's start (gitformat-pack(5), "size encoding").
pub fn entry_header(kind: Kind, len: u64) -> Vec<u8> {
    let type_id = match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    };
    let mut header = vec![type_id << 4 | (len & 0x0f) as u8];
    let mut rest = len >> 4;
    while rest > 0 {
        *header.last_mut().expect("it has a first byte") |= 0x80;
        header.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    header
}

/// The header of a delta whose base is so far back (gitformat-pack(5), "offset encoding").
pub fn ofs_delta_header(inflated_len: u64, mut distance: u64) -> Vec<u8> {
    const OFS_DELTA: u8 = 6;
    let mut header = entry_header(Kind::Commit, inflated_len);
    header[0] = header[0] & 0x8f | OFS_DELTA << 4;
    let mut backwards = vec![(distance & 0x7f) as u8];
    loop {
        distance >>= 7;
        if distance == 0 {
            break;
        }
        distance -= 1;
        backwards.push(0x80 | (distance & 0x7f) as u8);
    }
    header.extend(backwards.iter().rev());
    header
}

/// A pack in the making.
pub struct Gathering<'o> {
    out: &'o mut dyn Output,
    checksum: Checksum,
    at: u64,
    promised: u32,
    entries: IndexEntries,
}

/// A pack that was made, and what its index needs.
pub struct Gathered {
    /// Its trailer, which names it.
    pub trailer: Oid,
    /// Its length in bytes.
    pub len: u64,
    /// Its objects, unsorted.
    pub entries: IndexEntries,
}

impl<'o> Gathering<'o> {
    /// Begins a pack of so many objects.
    pub fn begin(out: &'o mut dyn Output, objects: u32, format: ObjectFormat) -> io::Result<Self> {
        let entries = IndexEntries::with_capacity(format, objects as usize);
        let checksum = Checksum::new(format);
        let mut pack = Gathering { out, checksum, at: 0, promised: objects, entries };
        pack.put(b"PACK\0\0\0\x02")?;
        pack.put(&objects.to_be_bytes())?;
        Ok(pack)
    }

    /// Adds an entry.
    pub fn push(&mut self, oid: Oid, entry: &[u8]) -> io::Result<()> {
        self.entries.push(&oid, self.at, crc32(0, entry));
        self.put(entry)
    }

    /// Ends the pack, which must have as many objects as it promised.
    pub fn finish(self) -> io::Result<Gathered> {
        if self.entries.len() != self.promised as usize {
            let count = self.entries.len();
            let promised = self.promised;
            return Err(io::Error::other(format!("{count} objects of {promised} in a pack")));
        }
        let trailer = self.checksum.finish();
        self.out.write(trailer.as_bytes())?;
        let len = self.at + trailer.as_bytes().len() as u64;
        Ok(Gathered { trailer, len, entries: self.entries })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::entry::{EntryKind, parse_header};

    #[test]
    fn header_of_an_entry_is_read_back_as_it_was_written() {
        for kind in [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag] {
            for len in [0, 1, 15, 16, 2047, 2048, 1 << 40, u64::MAX] {
                let bytes = entry_header(kind, len);
                let (header, used) = parse_header(&bytes, 12, ObjectFormat::Sha1).unwrap().unwrap();
                assert_eq!((header.kind, header.inflated_len), (EntryKind::Object(kind), len));
                assert_eq!(used, bytes.len());
            }
        }
    }

    #[test]
    fn header_of_a_delta_is_read_as_it_was_written() {
        for distance in [1, 127, 128, 129, 16_511, 16_512, 2_113_664, 1 << 33] {
            for len in [0, 15, 16, 2047, 2048, 1 << 40] {
                let header = ofs_delta_header(len, distance);
                let offset = 12 + distance;
                let (parsed, used) =
                    parse_header(&header, offset, ObjectFormat::Sha1).unwrap().unwrap();
                assert_eq!(parsed.kind, EntryKind::OfsDelta { base_offset: 12 });
                assert_eq!((parsed.inflated_len, used), (len, header.len()));
            }
        }
    }
}
