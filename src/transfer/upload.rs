//! A key on its way into the store: one PUT if it is small, else a multipart upload.
//!
//! The upload is completed only once what came has been proven, so a broken copy never appears under
//! its key. One part is in memory. An upload to a final key is noted in the run's folder, as
//! `repository/temp.rs` says, so that a killed run leaves none that nobody finds.

use crate::progress::Progress;
use crate::repository::parts::Parts;
use crate::repository::temp::{NotedUpload, TempKeys};
use crate::store::{Key, ObjectHeaders, Part, StoreError};

pub(super) struct KeyUpload<'e> {
    temp: &'e TempKeys<'e>,
    progress: &'e dyn Progress,
    key: Key,
    headers: ObjectHeaders,
    parts: Parts,
    begun: Option<(NotedUpload, Vec<Part>)>,
}

impl<'e> KeyUpload<'e> {
    /// Nothing is sent yet.
    pub(super) fn new(
        temp: &'e TempKeys<'e>,
        progress: &'e dyn Progress,
        key: Key,
        headers: ObjectHeaders,
    ) -> Self {
        let parts = Parts::new(temp.store().limits());
        KeyUpload { temp, progress, key, headers, parts, begun: None }
    }

    /// Takes the next bytes; sends a part if one is full.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.parts.body.extend_from_slice(bytes);
        match self.parts.take_full() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, (number, body): (u32, Vec<u8>)) -> Result<(), StoreError> {
        let begun = match &mut self.begun {
            Some(begun) => begun,
            None => {
                let noted = self.temp.create_noted_upload(&self.key, self.headers)?;
                self.begun.insert((noted, Vec::new()))
            }
        };
        begun.1.push(self.temp.store().put_part(&begun.0.upload, number, &body)?);
        self.progress.stored(body.len() as u64);
        Ok(())
    }

    /// What came is right: it appears under its key. Without this nothing does; the run's own cleaning
    /// aborts what was begun.
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        if self.begun.is_none() {
            let body = std::mem::take(&mut self.parts.body);
            self.temp.store().put(&self.key, &body, self.headers, None)?;
            self.progress.stored(body.len() as u64);
            return Ok(());
        }
        if !self.parts.body.is_empty() {
            let empty = Parts::new(self.temp.store().limits());
            if let Some(last) = std::mem::replace(&mut self.parts, empty).take_last() {
                self.send(last)?;
            }
        }
        let (noted, parts) = self.begun.expect("asked above");
        self.temp.store().complete_upload(&noted.upload, &parts)?;
        self.temp.noted_upload_completed(&noted)
    }
}
