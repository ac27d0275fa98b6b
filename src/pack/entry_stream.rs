//! One entry of a stored pack as a stream: for entries that are too large for memory.
//!
//! Follows gitformat-pack(5). The caller knows where the entry begins; where it ends, zlib says.

use std::io::{self, Read};

use super::entry::{EntryHeader, parse_header};
use super::inflate::Inflater;
use crate::git::object::ObjectFormat;

const BUFFER_BYTES: usize = 64 << 10;

/// Reads an entry's inflated body. Its length is checked at the end.
pub struct EntryStream<R: Read> {
    stream: R,
    header: EntryHeader,
    inflater: Inflater,
    /// Bytes of the stream: those from `taken` to `filled` are not used yet.
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    made: u64,
    ended: bool,
}

impl<R: Read> EntryStream<R> {
    /// Reads the header of the entry that `stream` begins with; `offset` is its place in the pack.
    pub fn new(mut stream: R, offset: u64, format: ObjectFormat) -> io::Result<Self> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut filled = 0;
        let (header, taken) = loop {
            let read = stream.read(&mut buffer[filled..])?;
            filled += read;
            match parse_header(&buffer[..filled], offset, format) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) if read > 0 => {}
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(invalid(error.to_string())),
            }
        };
        let inflater = Inflater::new();
        Ok(EntryStream { stream, header, inflater, buffer, taken, filled, made: 0, ended: false })
    }

    /// The entry's header.
    pub fn header(&self) -> &EntryHeader {
        &self.header
    }
}

impl<R: Read> Read for EntryStream<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !out.is_empty() {
            if self.taken == self.filled {
                self.filled = self.stream.read(&mut self.buffer)?;
                self.taken = 0;
                if self.filled == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let input = &self.buffer[self.taken..self.filled];
            let step =
                self.inflater.step(input, out).map_err(|error| invalid(error.to_string()))?;
            self.taken += step.consumed;
            self.made += step.produced as u64;
            self.ended = step.ended;
            if self.ended && self.made != self.header.inflated_len {
                let (wanted, got) = (self.header.inflated_len, self.made);
                return Err(invalid(format!("inflates to {got} bytes, but claims {wanted}")));
            }
            if self.inflater.is_bloated(self.header.inflated_len) {
                return Err(invalid("endless blocks that inflate to nothing".to_owned()));
            }
            if step.produced > 0 {
                return Ok(step.produced);
            }
        }
        Ok(0)
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
