//! Loose objects: a zlib stream of `<kind> <size>\0` and the content.
//!
//! Follows gitformat-loose(5) and, for what is refused, `parse_loose_header` and
//! `unpack_loose_rest` in git's object-file.c. [`Rewrap`] makes a loose object of a pack entry
//! without recompressing it; [`encode_loose`] deflates what a delta made; [`decode_loose`] and
//! [`LooseReader`] read them back, whole or as a stream. Objects read back come from a store that
//! others may have written to, so they are trusted no more than a pack is. Names are not computed
//! here.

use std::io::{self, Read};

use zlib_rs::adler32::{adler32, adler32_combine};
use zune_inflate::errors::DecodeErrorStatus;
use zune_inflate::{DeflateDecoder, DeflateOptions};

use super::deflate::Deflater;
use super::inflate::{Inflater, Step};
use crate::git::object::{Kind, object_header};

/// Why an entry's zlib stream can't become a loose object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewrapError {
    /// Fewer bytes than the shortest zlib stream has.
    #[error("zlib stream of the entry has only {raw_len} bytes")]
    TooShort {
        /// How many bytes were pushed.
        raw_len: u64,
    },
    /// The first two bytes are no zlib header, or ask for a preset dictionary.
    #[error("entry has a bad zlib header")]
    BadHeader,
}

/// Makes a loose object of a pack entry that is no delta, without recompressing it.
///
/// The entry's deflate blocks are kept byte for byte: zlib header, one stored block with the loose
/// header, the entry's blocks, and the Adler-32 of both, combined arithmetically. `git fsck --full`
/// and a dumb clone accept every such object (tried over a real repository).
///
/// Streaming: the caller pushes the entry's raw zlib bytes in any chunking, and loose-object bytes
/// are appended to `out`. The entry's body must have been checked (inflated to `size` bytes) by
/// the time that `finish` is called, as [`crate::pack::reader::PackReader::read_body`] does.
pub struct Rewrap {
    size: u64,
    header_adler: u32,
    raw_len: u64,
    /// The entry's two bytes of zlib header, which are dropped.
    zlib_header: [u8; 2],
    /// The last four bytes so far: the entry's Adler-32 if no more come.
    held: [u8; ADLER_LEN],
    held_len: usize,
}

const ADLER_LEN: usize = 4;

/// Zlib header (RFC 1950): deflate, a window of 32 KiB, no dictionary, fastest. The window may be
/// larger than the entry's own, never smaller.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];

/// Zlib header, the least block (an empty one of fixed codes is 2 bytes), Adler-32.
const SHORTEST_ZLIB: u64 = 8;

impl Rewrap {
    /// Begins the loose object of `size` content bytes: appends a zlib header and a stored block
    /// with the loose header to `out`.
    pub fn new(kind: Kind, size: u64, out: &mut Vec<u8>) -> Self {
        let header = object_header(kind, size);
        let len = header.len() as u16; // at most 28: a kind, 20 digits, a space and a NUL
        out.extend(ZLIB_HEADER);
        // RFC 1951, 3.2.4: not the final block, stored; then its length, and that inverted.
        out.push(0);
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(&header);
        Rewrap {
            size,
            header_adler: adler32(1, &header),
            raw_len: 0,
            zlib_header: [0; 2],
            held: [0; ADLER_LEN],
            held_len: 0,
        }
    }

    /// Takes the next raw bytes of the entry's zlib stream and appends what is ready to `out`.
    pub fn push(&mut self, mut raw: &[u8], out: &mut Vec<u8>) {
        while let (0 | 1, Some((&byte, rest))) = (self.raw_len, raw.split_first()) {
            self.zlib_header[self.raw_len as usize] = byte;
            self.raw_len += 1;
            raw = rest;
        }
        self.raw_len += raw.len() as u64;
        let ready = (self.held_len + raw.len()).saturating_sub(ADLER_LEN);
        let from_held = ready.min(self.held_len);
        let (now, later) = raw.split_at(ready - from_held);
        out.extend_from_slice(&self.held[..from_held]);
        out.extend_from_slice(now);
        self.held.copy_within(from_held..self.held_len, 0);
        self.held_len -= from_held;
        self.held[self.held_len..self.held_len + later.len()].copy_from_slice(later);
        self.held_len += later.len();
    }

    /// Ends the loose object: appends the Adler-32 of header and content to `out`.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), RewrapError> {
        if self.raw_len < SHORTEST_ZLIB {
            return Err(RewrapError::TooShort { raw_len: self.raw_len });
        }
        if !is_zlib_header(self.zlib_header) {
            return Err(RewrapError::BadHeader);
        }
        let content_adler = u32::from_be_bytes(self.held);
        let both = adler32_combine(self.header_adler, content_adler, self.size);
        out.extend(both.to_be_bytes());
        Ok(())
    }
}

/// Deflate with a window that RFC 1950 allows, the check bits right, and no preset dictionary.
fn is_zlib_header([cmf, flg]: [u8; 2]) -> bool {
    cmf & 0x0f == 8
        && cmf >> 4 <= 7
        && u16::from_be_bytes([cmf, flg]).is_multiple_of(31)
        && flg & 0x20 == 0
}

/// A loose object with this content, deflated. `content` must be the whole content.
pub fn encode_loose(kind: Kind, content: &[u8], deflater: &mut Deflater) -> Vec<u8> {
    let mut out = Vec::new();
    deflater.compress_into(&[&object_header(kind, content.len() as u64), content], &mut out);
    out
}

/// Why the bytes of a loose object were refused.
#[derive(Debug, thiserror::Error)]
pub enum LooseError {
    /// The bytes are no zlib stream, or a damaged or cut one.
    #[error("loose object is not a whole zlib stream: {0}")]
    Zlib(&'static str),
    /// It does not start with `<kind> <size>\0` as git writes it.
    #[error("loose object has a bad header")]
    BadHeader,
    /// The content is larger than the caller allows.
    #[error("loose object has more than {max_len} bytes")]
    TooLarge {
        /// What the caller allows, in bytes.
        max_len: u64,
    },
    /// The content is not as long as the header says.
    #[error("loose object's header says {wanted} bytes, but there are {got}")]
    WrongSize {
        /// The header's size.
        wanted: u64,
        /// What there was; when there is too much, where that was noticed.
        got: u64,
    },
    /// It was made for a SHA-1 collision.
    #[error(transparent)]
    Collision(#[from] crate::git::object::Collision),
    /// Something follows the zlib stream.
    #[error("loose object is followed by garbage")]
    TrailingGarbage,
    /// Reading failed; the source error is kept.
    #[error("cannot read loose object")]
    Io(#[source] std::io::Error),
}

/// The longest header that git reads (`MAX_HEADER_LEN` in object-file.c).
const MAX_HEADER_LEN: usize = 32;

/// Kind, size and length of the header at the start of `bytes`: a kind's name, one space, decimal
/// digits without a leading zero, a NUL.
fn parse_header(bytes: &[u8]) -> Option<(Kind, u64, usize)> {
    let bytes = &bytes[..bytes.len().min(MAX_HEADER_LEN)];
    let nul = bytes.iter().position(|b| *b == 0)?;
    let space = bytes[..nul].iter().position(|b| *b == b' ')?;
    let kind = Kind::from_name(&bytes[..space])?;
    let digits = &bytes[space + 1..nul];
    if !digits.iter().all(u8::is_ascii_digit)
        || (digits[..] != *b"0" && digits.first() == Some(&b'0'))
    {
        return None;
    }
    let size = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((kind, size, nul + 1))
}

/// Inflates a loose object that is whole in memory: its kind and its content.
///
/// `max_len` is the greatest content length allowed, in bytes. The content has exactly the memory
/// that it needs; while this runs, at most about twice `max_len` is allocated.
pub fn decode_loose(bytes: &[u8], max_len: u64) -> Result<(Kind, Vec<u8>), LooseError> {
    let mut inflated = inflate_whole(bytes, max_len)?;
    let (kind, wanted, header_len) = parse_header(&inflated).ok_or(LooseError::BadHeader)?;
    if wanted > max_len {
        return Err(LooseError::TooLarge { max_len });
    }
    let content = inflated.split_off(header_len);
    let got = content.len() as u64;
    if got != wanted {
        return Err(LooseError::WrongSize { wanted, got });
    }
    Ok((kind, content))
}

/// Inflates by zune-inflate, which is as fast as zlib-rs here without a state to keep, but leaves
/// three things to its caller: a preset dictionary, bytes after the stream, and a limit that it
/// overruns by up to a block.
fn inflate_whole(bytes: &[u8], max_len: u64) -> Result<Vec<u8>, LooseError> {
    if !bytes.first_chunk().copied().is_some_and(is_zlib_header) {
        return Err(LooseError::Zlib("incorrect header"));
    }
    let limit = usize::try_from(max_len).unwrap_or(usize::MAX).saturating_add(MAX_HEADER_LEN);
    let options = DeflateOptions::default()
        .set_limit(limit)
        .set_size_hint(bytes.len().saturating_mul(4).min(limit))
        .set_confirm_checksum(false);
    let inflated = DeflateDecoder::new_with_options(bytes, options).decode_zlib().map_err(|e| {
        match e.error {
            DecodeErrorStatus::OutputLimitExceeded(..) => LooseError::TooLarge { max_len },
            DecodeErrorStatus::InsufficientData => LooseError::Zlib("cut short"),
            DecodeErrorStatus::Generic(reason) => LooseError::Zlib(reason),
            _ => LooseError::Zlib("invalid data"),
        }
    })?;
    // zune-inflate does not say where the stream ends. The Adler-32 must be the last four bytes:
    // that finds damage, a cut and garbage alike.
    if bytes.last_chunk() != Some(&adler32(1, &inflated).to_be_bytes()) {
        return Err(LooseError::Zlib("incorrect data check, or garbage after the stream"));
    }
    Ok(inflated)
}

/// Streams the content of a loose object.
///
/// [`Read`] gives the content. Its last read (the one that answers 0) has checked the size, the
/// Adler-32 and that nothing follows. A refusal is an [`std::io::Error`] of kind `InvalidData`
/// that wraps a [`LooseError`]; an error of the inner reader comes through as it is.
pub struct LooseReader<R: Read> {
    input: R,
    /// `buffer[pos..end]` has been read and not yet inflated.
    buffer: Box<[u8]>,
    pos: usize,
    end: usize,
    inflater: Inflater,
    output_was_full: bool,
    ended: bool,
    kind: Kind,
    size: u64,
    /// Content bytes inflated so far.
    got: u64,
    /// Content that was inflated along with the header and not yet given out.
    first: Vec<u8>,
}

const BUFFER_LEN: usize = 32 * 1024;

impl<R: Read> LooseReader<R> {
    /// Reads and checks the header.
    pub fn new(input: R) -> Result<Self, LooseError> {
        let mut reader = LooseReader {
            input,
            buffer: vec![0; BUFFER_LEN].into(),
            pos: 0,
            end: 0,
            inflater: Inflater::new(),
            output_was_full: false,
            ended: false,
            kind: Kind::Blob,
            size: 0,
            got: 0,
            first: Vec::new(),
        };
        reader.read_header()?;
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<(), LooseError> {
        let mut head = [0; MAX_HEADER_LEN];
        let mut len = 0;
        while len < MAX_HEADER_LEN && !head[..len].contains(&0) {
            match self.inflate(&mut head[len..])? {
                0 => break,
                more => len += more,
            }
        }
        let (kind, size, used) = parse_header(&head[..len]).ok_or(LooseError::BadHeader)?;
        (self.kind, self.size) = (kind, size);
        self.first = head[used..len].to_vec();
        self.count(len - used)
    }

    /// The object's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The content's length in bytes, as the header says it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Inflates the next bytes, at least one; 0 at the stream's end.
    fn inflate(&mut self, output: &mut [u8]) -> Result<usize, LooseError> {
        while !self.ended {
            // A full output may have left more that needs no input.
            if self.pos == self.end && !self.output_was_full && !self.fill()? {
                return Err(LooseError::Zlib("cut short"));
            }
            let input = &self.buffer[self.pos..self.end];
            let Step { consumed, produced, ended } =
                self.inflater.step(input, output).map_err(|e| LooseError::Zlib(e.0))?;
            if consumed + produced == 0 && !input.is_empty() && !ended {
                return Err(LooseError::Zlib("no progress")); // an endless loop otherwise
            }
            self.pos += consumed;
            self.output_was_full = produced == output.len();
            if ended && (self.pos < self.end || self.fill()?) {
                return Err(LooseError::TrailingGarbage);
            }
            self.ended = ended;
            if produced > 0 {
                return Ok(produced);
            }
        }
        Ok(0)
    }

    /// Counts `len` more content bytes and checks them against the size.
    fn count(&mut self, len: usize) -> Result<(), LooseError> {
        self.got += len as u64;
        let (wanted, got) = (self.size, self.got);
        if got > wanted || (self.ended && got < wanted) {
            return Err(LooseError::WrongSize { wanted, got });
        }
        Ok(())
    }

    /// Reads into the empty buffer; false at the end.
    fn fill(&mut self) -> Result<bool, LooseError> {
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(len) => {
                    (self.pos, self.end) = (0, len);
                    return Ok(len > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LooseError::Io(e)),
            }
        }
    }
}

impl<R: Read> Read for LooseReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.first.is_empty() {
            let len = buf.len().min(self.first.len());
            buf[..len].copy_from_slice(&self.first[..len]);
            self.first.drain(..len);
            return Ok(len);
        }
        let counted = self.inflate(buf).and_then(|len| self.count(len).map(|()| len));
        counted.map_err(|e| match e {
            LooseError::Io(e) => e,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 4] = [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag];

    fn zlib(content: &[u8], level: i32) -> Vec<u8> {
        let mut out = Vec::new();
        Deflater::new(level).compress_into(&[content], &mut out);
        out
    }

    fn read_back(bytes: &[u8]) -> Result<(Kind, Vec<u8>), LooseError> {
        let mut reader = LooseReader::new(bytes)?;
        let mut content = Vec::new();
        match reader.read_to_end(&mut content) {
            Ok(_) => Ok((reader.kind(), content)),
            Err(e) => Err(*e.into_inner().unwrap().downcast().unwrap()),
        }
    }

    fn rewrapped(kind: Kind, content: &[u8], level: i32, chunk: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rewrap = Rewrap::new(kind, content.len() as u64, &mut out);
        zlib(content, level).chunks(chunk).for_each(|raw| rewrap.push(raw, &mut out));
        rewrap.finish(&mut out).unwrap();
        out
    }

    /// Both decoders refuse `bytes`.
    fn refused(bytes: &[u8]) -> (LooseError, LooseError) {
        (decode_loose(bytes, 1000).unwrap_err(), read_back(bytes).unwrap_err())
    }

    #[test]
    fn header_that_git_would_not_write_is_refused() {
        for header in [
            "blob 03\0abc",
            "blob +3\0abc",
            "blob 3abc",
            "blob\0 3abc",
            "Blob 3\0abc",
            "blob  3\0abc",
            "blob \0",
            "",
            "blob 18446744073709551616\0",
            "blob 3 \0abc",
            "file 3\0abc",
            "\0",
            "blob 0000000000000000000000000000000003\0abc",
        ] {
            let (whole, streamed) = refused(&zlib(header.as_bytes(), 1));
            assert!(matches!(whole, LooseError::BadHeader), "{header:?}: {whole}");
            assert!(matches!(streamed, LooseError::BadHeader), "{header:?}: {streamed}");
        }
    }

    #[test]
    fn content_longer_or_shorter_than_the_header_says_is_refused() {
        for text in ["blob 3\0abcd", "blob 3\0ab", "blob 400\0", "blob 0\0a"] {
            let (whole, streamed) = refused(&zlib(text.as_bytes(), 1));
            assert!(matches!(whole, LooseError::WrongSize { .. }), "{text:?}: {whole}");
            assert!(matches!(streamed, LooseError::WrongSize { .. }), "{text:?}: {streamed}");
        }
        let long = [b"blob 50000\0".as_slice(), &[7; 50_001]].concat();
        let error = read_back(&zlib(&long, 1)).unwrap_err();
        assert!(matches!(error, LooseError::WrongSize { wanted: 50_000, .. }), "{error}");
    }

    #[test]
    fn object_above_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let content = vec![0; 100_000];
        let bytes = encode_loose(Kind::Blob, &content, &mut Deflater::new(1));
        assert_eq!(decode_loose(&bytes, 100_000).unwrap().1, content);
        for max_len in [99_999, 5000, 0] {
            let error = decode_loose(&bytes, max_len).unwrap_err();
            assert!(matches!(error, LooseError::TooLarge { .. }), "{error}");
        }
        let claims = decode_loose(&zlib(b"blob 999\0abc", 1), 10).unwrap_err();
        assert!(matches!(claims, LooseError::TooLarge { max_len: 10 }), "{claims}");
    }

    #[test]
    fn object_cut_anywhere_or_followed_by_anything_is_refused() {
        let bytes = encode_loose(Kind::Tree, b"some content, some content", &mut Deflater::new(1));
        for cut in 0..bytes.len() {
            refused(&bytes[..cut]);
        }
        let (whole, streamed) = refused(&[&bytes[..], b"x"].concat());
        assert!(matches!(whole, LooseError::Zlib(_)), "{whole}");
        assert!(matches!(streamed, LooseError::TrailingGarbage), "{streamed}");
    }

    #[test]
    fn every_flipped_bit_is_refused_or_changes_nothing() {
        let bytes = encode_loose(Kind::Blob, b"abcabcabc abcdefabc", &mut Deflater::new(6));
        let object = decode_loose(&bytes, 100).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            for decoded in [decode_loose(&bytes, 100), read_back(&bytes)] {
                assert!(decoded.is_err() || decoded.unwrap() == object, "bit {bit}");
            }
        }
    }

    #[test]
    fn preset_dictionary_is_refused() {
        let (whole, streamed) = refused(&[0x78, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(matches!(whole, LooseError::Zlib("incorrect header")), "{whole}");
        assert!(matches!(streamed, LooseError::Zlib("preset dictionary")), "{streamed}");
    }

    #[test]
    fn error_of_the_inner_reader_comes_through() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::TimedOut.into())
            }
        }
        assert!(matches!(LooseReader::new(Fails), Err(LooseError::Io(_))));
        let noise: Vec<u8> = (0..40_000u32).map(|i| ((i * i) >> 7) as u8).collect();
        let bytes = encode_loose(Kind::Blob, &noise, &mut Deflater::new(0));
        let mut reader = LooseReader::new(bytes[..30_000].chain(Fails)).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn entry_that_is_no_zlib_stream_is_not_rewrapped() {
        let finish = |raw: &[u8]| {
            let mut out = Vec::new();
            let mut rewrap = Rewrap::new(Kind::Blob, 0, &mut out);
            rewrap.push(raw, &mut out);
            rewrap.finish(&mut out)
        };
        let empty = zlib(b"", 1);
        assert_eq!(finish(&empty), Ok(()));
        assert_eq!(finish(&empty[..7]), Err(RewrapError::TooShort { raw_len: 7 }));
        assert_eq!(finish(b""), Err(RewrapError::TooShort { raw_len: 0 }));
        for header in [[0x79, 0x01], [0x78, 0x02], [0x78, 0xbb], [0x88, 0x1c]] {
            let mut bad = empty.clone();
            bad[..2].copy_from_slice(&header);
            assert_eq!(finish(&bad), Err(RewrapError::BadHeader), "{header:x?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_object_decodes_to_itself(
            kind in prop::sample::select(&KINDS),
            content in prop::collection::vec(0..9u8, 0..3000),
            level in 0..=9,
        ) {
            let bytes = encode_loose(kind, &content, &mut Deflater::new(level));
            prop_assert_eq!(decode_loose(&bytes, 3000).unwrap(), (kind, content.clone()));
            prop_assert_eq!(read_back(&bytes).unwrap(), (kind, content));
        }

        #[test]
        fn rewrapped_entry_decodes_to_the_object_in_any_chunking(
            kind in prop::sample::select(&KINDS),
            content in prop::collection::vec(0..9u8, 0..3000),
            level in 0..=9,
            chunk in prop_oneof![1..9usize, 9..4000usize],
        ) {
            let bytes = rewrapped(kind, &content, level, chunk);
            prop_assert_eq!(decode_loose(&bytes, 3000).unwrap(), (kind, content.clone()));
            prop_assert_eq!(read_back(&bytes).unwrap(), (kind, content));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            bytes.splice(0..0, ZLIB_HEADER);
            let _ = decode_loose(&bytes, 1000);
            let _ = read_back(&bytes);
        }
    }
}
