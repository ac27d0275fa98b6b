//! One object on its way into the store: hashed as it comes, and stored when it is what its pointer
//! says.

use std::io::Read;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::gate::Gate;
use super::stop::Stop;
use crate::git::lfs_pointer::LfsPointer;
use crate::progress::{Progress, Silent};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::lfs_objects;
use crate::repository::parts::{FIRST_PART_BYTES, part_bytes};
use crate::repository::temp::TempKeys;
use crate::repository::writer::KeyWriter;
use crate::source::{LfsSource, SourceError, SourceErrorKind};
use crate::store::{Limits, ObjectHeaders, Store};

const HEADERS: ObjectHeaders = ObjectHeaders::immutable("application/octet-stream");

/// Between what objects travel.
pub(super) struct Ends<'a> {
    pub(super) server: &'a dyn LfsSource,
    pub(super) store: &'a dyn Store,
    pub(super) progress: &'a dyn Progress,
    pub(super) temp: TempKeys<'a>,
    pub(super) gate: Arc<Gate>,
}

impl Ends<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.gate.is_closed()
    }
}

/// The most bytes that an object of `size` has in memory: all of it, or its largest part.
pub(super) fn room_for(size: u64, limits: &Limits) -> u64 {
    let (mut covered, mut largest) = (0_u64, 0);
    for number in 1..=limits.max_parts {
        largest = part_bytes(number, FIRST_PART_BYTES, limits);
        covered = covered.saturating_add(largest);
        if covered >= size {
            break;
        }
    }
    largest.min(size)
}

/// How a stream ended.
pub(super) enum Taken {
    /// Everything came and is what the pointer says.
    Whole,
    /// Something else came.
    Wrong(String),
    /// It broke off, or ended early.
    Cut(SourceError),
}

/// An object on its way into the store: hashed, and cut into parts if it is larger than one.
pub(super) struct Sink<'f, 'a> {
    ends: &'f Ends<'a>,
    pointer: LfsPointer,
    hasher: Sha256,
    pub(super) received: u64,
    writer: KeyWriter<'f>,
}

impl<'f, 'a> Sink<'f, 'a> {
    pub(super) fn new(ends: &'f Ends<'a>, pointer: LfsPointer) -> Self {
        Sink {
            ends,
            pointer,
            hasher: Sha256::new(),
            received: 0,
            // What came is counted as it comes.
            writer: KeyWriter::temporary(&ends.temp, &Silent, "lfs", TEMPORARY),
        }
    }

    /// Takes what `stream` gives, which begins where the last one ended.
    pub(super) fn take(&mut self, mut stream: impl Read) -> Result<Taken, Stop> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.ends.is_over() {
                return Err(Stop::Failed(MirrorError::Interrupted));
            }
            // One byte more than there may be, to see that there is none.
            let free = self.writer.part_bytes().saturating_sub(self.writer.body().len() as u64);
            let want = buffer.len().min(usize::try_from(free.max(1)).unwrap_or(usize::MAX));
            match stream.read(&mut buffer[..want]) {
                Ok(0) => return Ok(self.end_of_stream()),
                Ok(read) if read as u64 > self.pointer.size - self.received => {
                    let size = self.pointer.size;
                    let what = format!("the server sends more than its {size} bytes");
                    return Ok(Taken::Wrong(what));
                }
                Ok(read) => self.push(&buffer[..read])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Taken::Cut(self.broken(&error))),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.hasher.update(bytes);
        let part_bytes = self.writer.part_bytes();
        let body = self.writer.body();
        if body.is_empty() {
            // As much as will come, so that growing does not double it; within the room taken.
            let left = self.pointer.size - self.received;
            body.reserve_exact(usize::try_from(part_bytes.min(left)).unwrap_or(0));
        }
        body.extend_from_slice(bytes);
        self.received += bytes.len() as u64;
        self.ends.progress.lfs_received(bytes.len() as u64);
        // The last part waits for the check; an object of one part is stored by one PUT.
        if self.received < self.pointer.size {
            self.writer.send_full_part()?;
        }
        Ok(())
    }

    fn end_of_stream(&self) -> Taken {
        let (size, received) = (self.pointer.size, self.received);
        if received < size {
            let kind = SourceErrorKind::Transient { retry_after: None };
            let message = format!("the download ended after {received} of {size} bytes");
            return Taken::Cut(SourceError { kind, url: self.ends.server.describe(), message });
        }
        let found: [u8; 32] = self.hasher.clone().finalize().into();
        if found == self.pointer.oid {
            return Taken::Whole;
        }
        let found = LfsPointer { oid: found, size }.hex();
        Taken::Wrong(format!("the server sends different content: its SHA-256 is {found}"))
    }

    fn broken(&self, error: &std::io::Error) -> SourceError {
        SourceError::from_io(error).cloned().unwrap_or_else(|| SourceError {
            kind: SourceErrorKind::Transient { retry_after: None },
            url: self.ends.server.describe(),
            message: error.to_string(),
        })
    }

    /// Makes the object appear under its key. The check has passed.
    pub(super) fn store(self) -> Result<(), Stop> {
        Ok(self.writer.finish_as(lfs_objects::key(&self.pointer.oid), HEADERS)?)
    }

    /// Forgets what came; parts that are in the store go away.
    pub(super) fn restart(&mut self) -> Result<(), Stop> {
        let new = Sink::new(self.ends, self.pointer);
        Ok(std::mem::replace(self, new).writer.abort()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_the_object_or_its_largest_part() {
        let limits = Limits::S3;
        assert_eq!(room_for(0, &limits), 0);
        assert_eq!(room_for(100, &limits), 100);
        assert_eq!(room_for(300 << 20, &limits), 8 << 20);
        assert_eq!(room_for(6 << 30, &limits), 16 << 20);
        assert!(room_for(u64::MAX, &limits) > 0);
    }
}
