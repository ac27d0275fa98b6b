//! One object on its way into the store: hashed as it comes, and stored when it is what its pointer
//! says.

use std::io::Read;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::gate::Gate;
use super::stop::Stop;
use crate::git::lfs_pointer::LfsPointer;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::lfs_objects;
use crate::repository::parts::{FIRST_PART_BYTES, Parts, copy_any_size, part_bytes};
use crate::repository::temp::TempKeys;
use crate::source::{LfsSource, SourceError, SourceErrorKind};
use crate::store::{Key, Limits, ObjectHeaders, Part, Store, StoreError, Upload};

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
    parts: Parts,
    upload: Option<(Key, Upload)>,
    stored: Vec<Part>,
}

impl<'f, 'a> Sink<'f, 'a> {
    pub(super) fn new(ends: &'f Ends<'a>, pointer: LfsPointer) -> Self {
        Sink {
            ends,
            pointer,
            hasher: Sha256::new(),
            received: 0,
            parts: Parts::new(ends.store.limits()),
            upload: None,
            stored: Vec::new(),
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
            let free = (self.parts.part_bytes() - self.parts.body.len() as u64).max(1);
            let want = buffer.len().min(usize::try_from(free).unwrap_or(usize::MAX));
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
        if self.parts.body.capacity() == 0 {
            // As much as will come, so that growing does not double it; within the room taken.
            let left = self.pointer.size - self.received;
            let want = self.parts.part_bytes().min(left);
            self.parts.body.reserve_exact(usize::try_from(want).unwrap_or(0));
        }
        self.parts.body.extend_from_slice(bytes);
        self.received += bytes.len() as u64;
        self.ends.progress.lfs_received(bytes.len() as u64);
        // The last part waits for the check; an object of one part is stored by one PUT.
        if self.received < self.pointer.size
            && let Some((number, body)) = self.parts.take_full()
        {
            self.send(number, &body)?;
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

    fn send(&mut self, number: u32, body: &[u8]) -> Result<(), StoreError> {
        if self.upload.is_none() {
            let key = self.ends.temp.key("lfs");
            let upload = self.ends.temp.create_upload(&key, TEMPORARY)?;
            self.upload = Some((key, upload));
        }
        if let Some((_, upload)) = &self.upload {
            self.stored.push(self.ends.store.put_part(upload, number, body)?);
        }
        Ok(())
    }

    /// Makes the object appear under its key. The check has passed.
    pub(super) fn store(mut self) -> Result<(), Stop> {
        let (store, temp) = (self.ends.store, &self.ends.temp);
        let to = lfs_objects::key(&self.pointer.oid);
        if self.upload.is_none() {
            store.put(&to, &self.parts.body, HEADERS, None)?;
            return Ok(());
        }
        let parts = std::mem::replace(&mut self.parts, Parts::new(store.limits()));
        if let Some((number, body)) = parts.take_last() {
            self.send(number, &body)?;
        }
        if let Some((from, upload)) = self.upload.take() {
            store.complete_upload(&upload, &self.stored)?;
            temp.upload_ended(&upload);
            copy_any_size(temp, &from, &to, self.pointer.size, HEADERS)?;
            temp.delete(&from)?;
        }
        Ok(())
    }

    /// Forgets what came; parts that are in the store go away.
    pub(super) fn restart(&mut self) -> Result<(), Stop> {
        if let Some((key, upload)) = self.upload.take() {
            self.ends.store.abort_upload(&upload)?;
            self.ends.temp.upload_ended(&upload);
            self.ends.temp.forget(&key);
        }
        *self = Sink::new(self.ends, self.pointer);
        Ok(())
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
