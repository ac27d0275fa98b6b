//! A key on its way into the store, written from one thread: one PUT if it is small, else a multipart
//! upload whose parts leave as they fill, so that one part is in memory.
//!
//! Nothing appears under the key before [`KeyWriter::finish`]. An upload to a temporary key is found by
//! the sweep in the run's folder; one to a final key is noted there, as `temp.rs` says. What must be
//! checked before it appears, or learns its name only at its end, goes to a temporary key and is copied
//! ([`KeyWriter::finish_as`]).

use std::io::{self, Write};
use std::ops::Range;

use super::parts::{Parts, copy_any_size, even_pieces};
use super::temp::{NotedUpload, TempKeys};
use crate::progress::Progress;
use crate::store::{Key, ObjectHeaders, Part, StoreError, Upload};

pub(crate) struct KeyWriter<'e> {
    temp: &'e TempKeys<'e>,
    progress: &'e dyn Progress,
    to: To,
    headers: ObjectHeaders,
    parts: Parts,
    begun: Option<(Begun, Vec<Part>)>,
    sent: u64,
}

enum To {
    /// A key that says what for.
    Temporary(&'static str),
    Final(Key),
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
        what: &'static str,
        headers: ObjectHeaders,
    ) -> Self {
        Self::to(temp, progress, To::Temporary(what), headers)
    }

    /// For a final key. Nothing is sent yet.
    pub(crate) fn new(
        temp: &'e TempKeys<'e>,
        progress: &'e dyn Progress,
        key: Key,
        headers: ObjectHeaders,
    ) -> Self {
        Self::to(temp, progress, To::Final(key), headers)
    }

    fn to(
        temp: &'e TempKeys<'e>,
        progress: &'e dyn Progress,
        to: To,
        headers: ObjectHeaders,
    ) -> Self {
        let parts = Parts::new(temp.store().limits());
        KeyWriter { temp, progress, to, headers, parts, begun: None, sent: 0 }
    }

    /// Begins with parts of so many bytes, or the smallest that the store takes.
    pub(crate) fn with_parts_of(self, first_part_bytes: u64) -> Self {
        let parts = Parts::of_at_least(self.temp.store().limits(), first_part_bytes);
        KeyWriter { parts, ..self }
    }

    /// What of memory it may hold, in bytes.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.parts.part_bytes()
    }

    /// Where the next bytes may be written; [`KeyWriter::send_full_part`] has to follow.
    pub(crate) fn body(&mut self) -> &mut Vec<u8> {
        &mut self.parts.body
    }

    /// Takes the next bytes, and sends parts as they fill.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let room = self.parts.part_bytes().saturating_sub(self.parts.body.len() as u64);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.parts.push(now);
            bytes = later;
            self.send_full_part()?;
        }
        Ok(())
    }

    /// Sends the part in hand if it is full.
    pub(crate) fn send_full_part(&mut self) -> Result<(), StoreError> {
        match self.parts.take_full() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, (number, mut body): (u32, Vec<u8>)) -> Result<(), StoreError> {
        let store = self.temp.store();
        let (begun, stored) = self.begun()?;
        stored.push(store.put_part(begun.upload(), number, &body)?);
        self.count(body.len());
        body.clear();
        self.parts.body = body;
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
            let begun = match &self.to {
                To::Final(key) => Begun::Final(self.temp.create_noted_upload(key, self.headers)?),
                To::Temporary(what) => {
                    let key = self.temp.key(what);
                    Begun::Temporary(self.temp.create_upload(&key, self.headers)?)
                }
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
            let key = match &self.to {
                To::Temporary(what) => self.temp.key(what),
                To::Final(key) => key.clone(),
            };
            let headers = self.headers;
            return self.put(key, headers);
        }
        self.send_part_in_hand()?;
        let (begun, parts) = self.begun.expect("asked above");
        self.temp.store().complete_upload(begun.upload(), &parts)?;
        let key = begun.upload().key.clone();
        match begun {
            Begun::Temporary(upload) => self.temp.upload_ended(&upload),
            Begun::Final(noted) => self.temp.noted_upload_completed(&noted)?,
        }
        Ok((key, self.sent))
    }

    fn put(mut self, key: Key, headers: ObjectHeaders) -> Result<(Key, u64), StoreError> {
        let body = std::mem::take(&mut self.parts.body);
        self.temp.store().put(&key, &body, headers, None)?;
        self.count(body.len());
        Ok((key, self.sent))
    }

    /// That was all, of a temporary key, and it is right: it appears under this final one instead, by
    /// one PUT or a copy.
    pub(crate) fn finish_as(self, to: Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        if self.begun.is_none() {
            return self.put(to, headers).map(drop);
        }
        let temp = self.temp;
        let (from, len) = self.finish()?;
        copy_any_size(temp, &from, &to, len, headers)?;
        temp.delete(&from)
    }

    /// What came is of no use: parts that are in the store go away. On an error [`TempKeys::clean`] tries
    /// again.
    pub(crate) fn abort(self) -> Result<(), StoreError> {
        match self.begun {
            None => Ok(()),
            Some((Begun::Final(noted), _)) => self.temp.abort_noted_upload(&noted),
            Some((Begun::Temporary(upload), _)) => {
                self.temp.store().abort_upload(&upload)?;
                self.temp.upload_ended(&upload);
                self.temp.forget(&upload.key);
                Ok(())
            }
        }
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
            for at in (0..len).step_by(3 << 20) {
                let piece = vec![(at >> 20) as u8; (len - at).min(3 << 20) as usize];
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
                // All but the last are full, which some stores demand.
                let sent =
                    store.recorded().into_iter().filter(|r| r.operation == Operation::PutPart);
                let lens: Vec<_> = sent.map(|part| part.bytes).collect();
                assert!(lens.iter().rev().skip(1).all(|len| *len == FIRST_PART_BYTES), "{lens:?}");
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
