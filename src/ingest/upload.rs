//! Uploads in parts by the thread that makes them.

use super::env::Env;
use crate::repository::error::MirrorError;
use crate::repository::parts::Parts;
use crate::store::{Key, ObjectHeaders, Part, Upload};

/// A multipart upload whose parts are sent by the thread that makes them: one part in memory.
pub(super) struct InlineUpload<'e> {
    env: &'e Env<'e>,
    upload: Upload,
    pub(super) parts: Parts,
    stored: Vec<Part>,
    stored_len: u64,
}

impl<'e> InlineUpload<'e> {
    pub(super) fn begin(
        env: &'e Env<'e>,
        key: &Key,
        headers: ObjectHeaders,
    ) -> Result<Self, MirrorError> {
        let upload = env.temp.create_upload(key, headers)?;
        let parts = Parts::new(env.store.limits());
        Ok(InlineUpload { env, upload, parts, stored: Vec::new(), stored_len: 0 })
    }

    /// Sends the part in hand if it is full.
    pub(super) fn send_full_part(&mut self) -> Result<(), MirrorError> {
        match self.parts.take_full() {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, (number, body): (u32, Vec<u8>)) -> Result<(), MirrorError> {
        self.stored_len += body.len() as u64;
        self.stored.push(self.env.store.put_part(&self.upload, number, &body)?);
        self.env.progress.stored(body.len() as u64);
        Ok(())
    }

    /// Sends the rest. The upload is complete but for being completed.
    pub(super) fn end(mut self) -> Result<(Upload, Vec<Part>, u64), MirrorError> {
        let limits = self.env.store.limits();
        let parts = std::mem::replace(&mut self.parts, Parts::new(limits));
        if let Some(last) = parts.take_last() {
            self.send(last)?;
        }
        Ok((self.upload, self.stored, self.stored_len))
    }

    /// Sends the rest and makes the object appear under its key, which it answers.
    pub(super) fn finish(self) -> Result<Key, MirrorError> {
        let env = self.env;
        let (upload, parts, _) = self.end()?;
        env.store.complete_upload(&upload, &parts)?;
        env.temp.upload_ended(&upload);
        Ok(upload.key)
    }
}
