//! A key on its way into the store, written from one thread: one PUT if it is small, else a multipart
//! upload whose parts leave as they fill, so that one part is in memory.
//!
//! Nothing appears under the key before [`KeyWriter::finish`]. An upload to a temporary key is found by
//! the sweep in the run's folder; one to a final key is noted there, as `temp.rs` says.

use std::io::{self, Write};
use std::ops::Range;

use super::parts::{Parts, even_pieces};
use super::temp::{NotedUpload, TempKeys};
use crate::progress::Progress;
use crate::store::{Key, ObjectHeaders, Part, StoreError, Upload};

pub(crate) struct KeyWriter<'e> {
    temp: &'e TempKeys<'e>,
    progress: &'e dyn Progress,
    key: Key,
    headers: ObjectHeaders,
    is_final: bool,
    parts: Parts,
    begun: Option<(Begun, Vec<Part>)>,
    sent: u64,
}

enum Begun {
    Temporary(Upload),
    Final(NotedUpload),
}

impl Begun {
    fn upload(&self) -> &Upload {
        match self {
            Begun::Temporary(upload) => upload,
            Begun::Final(noted) => &noted.upload,
        }
    }
}

impl<'e> KeyWriter<'e> {
    /// For a temporary key; `what` says what for. Nothing is sent yet.
    pub(crate) fn temporary(
        temp: &'e TempKeys<'e>,
        progress: &'e dyn Progress,
        what: &str,
        headers: ObjectHeaders,
    ) -> Self {
        KeyWriter { is_final: false, ..Self::new(temp, progress, temp.key(what), headers) }
    }

    /// For a final key. Nothing is sent yet.
    pub(crate) fn new(
        temp: &'e TempKeys<'e>,
        progress: &'e dyn Progress,
        key: Key,
        headers: ObjectHeaders,
    ) -> Self {
        let parts = Parts::new(temp.store().limits());
        let (is_final, begun, sent) = (true, None, 0);
        KeyWriter { temp, progress, key, headers, is_final, parts, begun, sent }
    }

    /// What of memory it may hold, in bytes.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.parts.part_bytes()
    }

    /// Where the next bytes may be written; [`KeyWriter::send_full_part`] has to follow.
    pub(crate) fn body(&mut self) -> &mut Vec<u8> {
        &mut self.parts.body
    }

    /// Takes the next bytes, and sends the part if it is full.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.parts.body.extend_from_slice(bytes);
        self.send_full_part()
    }

    /// Sends the part in hand if it is full.
    pub(crate) fn send_full_part(&mut self) -> Result<(), StoreError> {
        match self.parts.take_full() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, (number, body): (u32, Vec<u8>)) -> Result<(), StoreError> {
        let store = self.temp.store();
        let (begun, stored) = self.begun()?;
        stored.push(store.put_part(begun.upload(), number, &body)?);
        self.count(body.len());
        Ok(())
    }

    /// Appends a range of what is stored under another key, copied by the store. What was written
    /// before is a part of its own, so it must be as large as one has to be, or nothing; and so must
    /// the range be, unless it is the last.
    pub(crate) fn copy(&mut self, from: &Key, range: Range<u64>) -> Result<(), StoreError> {
        self.send_part_in_hand()?;
        let store = self.temp.store();
        let len = range.end - range.start;
        for piece in even_pieces(range, store.limits().max_copy_bytes) {
            let number = self.parts.skip();
            let (begun, stored) = self.begun()?;
            stored.push(store.copy_part(begun.upload(), number, from, piece)?);
        }
        self.sent += len;
        Ok(())
    }

    fn send_part_in_hand(&mut self) -> Result<(), StoreError> {
        match self.parts.take_any() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn begun(&mut self) -> Result<&mut (Begun, Vec<Part>), StoreError> {
        if self.begun.is_none() {
            let begun = match self.is_final {
                true => Begun::Final(self.temp.create_noted_upload(&self.key, self.headers)?),
                false => Begun::Temporary(self.temp.create_upload(&self.key, self.headers)?),
            };
            self.begun = Some((begun, Vec::new()));
        }
        Ok(self.begun.as_mut().expect("just begun"))
    }

    fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.progress.stored(bytes as u64);
    }

    /// That was all: the object appears under its key. Answers it and its length. After an error, or
    /// without this, nothing appears, and the run's own cleaning aborts what was begun.
    pub(crate) fn finish(mut self) -> Result<(Key, u64), StoreError> {
        if self.begun.is_none() {
            let body = std::mem::take(&mut self.parts.body);
            self.temp.store().put(&self.key, &body, self.headers, None)?;
            self.count(body.len());
            return Ok((self.key, self.sent));
        }
        self.send_part_in_hand()?;
        let (begun, parts) = self.begun.expect("asked above");
        self.temp.store().complete_upload(begun.upload(), &parts)?;
        match begun {
            Begun::Temporary(upload) => self.temp.upload_ended(&upload),
            Begun::Final(noted) => self.temp.noted_upload_completed(&noted)?,
        }
        Ok((self.key, self.sent))
    }
}

/// An error wraps the [`StoreError`].
impl Write for KeyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::repository::parts::FIRST_PART_BYTES;
    use crate::store::StoreErrorKind;
    use crate::store::memory::{Fault, MemoryStore, Operation};

    const HEADERS: ObjectHeaders = ObjectHeaders::immutable("application/octet-stream");

    fn write(store: &MemoryStore, len: u64, is_final: bool) -> Result<Key, StoreError> {
        let temp = TempKeys::new(store);
        let key = Key::new("objects/pack/x").unwrap();
        let mut writer = match is_final {
            true => KeyWriter::new(&temp, &Silent, key, HEADERS),
            false => KeyWriter::temporary(&temp, &Silent, "test", HEADERS),
        };
        let written = (|| {
            for at in (0..len).step_by(1 << 20) {
                let piece = vec![(at >> 20) as u8; (len - at).min(1 << 20) as usize];
                writer.push(&piece)?;
            }
            writer.finish()
        })();
        let written = written.map(|(key, sent)| {
            assert_eq!((sent, store.bytes(key.as_str()).unwrap().len() as u64), (len, len));
            key
        });
        if written.is_err() {
            temp.clean().unwrap();
        }
        written
    }

    #[test]
    fn small_key_is_one_put_and_a_large_one_goes_in_parts() {
        for is_final in [true, false] {
            for (len, parts) in [(0, 0), (100, 0), (FIRST_PART_BYTES - 1, 0), (20 << 20, 3)] {
                let store = MemoryStore::new();
                write(&store, len, is_final).unwrap();
                assert_eq!(store.count(Operation::PutPart), parts, "{len}");
                assert_eq!(store.open_uploads(), 0);
                if parts == 0 {
                    assert_eq!(store.recorded().len(), 1, "{len}");
                }
                let left = store.keys().iter().filter(|key| key.contains("/upload-")).count();
                assert_eq!(left, 0, "no note stays");
            }
        }
    }

    #[test]
    fn whatever_fails_nothing_appears_under_the_key_and_nothing_is_left() {
        for is_final in [true, false] {
            for n in 1..20 {
                let store = MemoryStore::new();
                store.inject(Fault::new(StoreErrorKind::Other).nth(n));
                let written = write(&store, 20 << 20, is_final);
                // It is whole if only the cleaning after it has failed.
                let whole = store.bytes("objects/pack/x").is_some_and(|b| b.len() == 20 << 20);
                if written.is_err() {
                    let left = (store.keys().len(), store.open_uploads());
                    assert_eq!(left, (usize::from(whole), 0), "{is_final} {n}");
                }
            }
        }
    }
}
