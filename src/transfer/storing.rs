//! Where proven keys go: each is read once, hashed and uploaded at the same time, and appears under its
//! key only if the proof holds.

use std::io::{self, Read};

use super::prove::{Counts, Item, prove};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::parts::FIRST_PART_BYTES;
use crate::repository::temp::TempKeys;
use crate::repository::writer::KeyWriter;
use crate::run::Cancel;
use crate::store::{Elsewhere, Store, StoreError, StoreErrorKind};

/// The mirror that is filled, and what that may take.
pub(crate) struct Storing<'e> {
    pub(crate) to: &'e dyn Store,
    pub(crate) temp: &'e TempKeys<'e>,
    pub(crate) progress: &'e dyn Progress,
    pub(crate) cancel: &'e Cancel,
    pub(crate) concurrency: usize,
    pub(crate) memory_bytes: u64,
}

/// What was copied. Only a clean end makes one.
pub(crate) struct Copied {
    /// All packs that the other mirror lists, in its order.
    pub(crate) packs: Vec<String>,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Whatever keys come from.
pub(crate) trait Bring {
    /// Brings what `into` is missing: git objects if `git` says so, LFS objects if `lfs` does, which it
    /// counts.
    fn bring(
        &self,
        into: &Storing<'_>,
        git: bool,
        lfs: bool,
    ) -> Result<(Option<Copied>, u64), MirrorError>;

    /// The other mirror itself, where there is one to be asked.
    fn mirror(&self) -> Option<&dyn Store> {
        None
    }
}

/// Why a key was not stored.
pub(super) enum Failed {
    /// A store failed, or the run was asked to stop.
    Run(MirrorError),
    /// The content is not what its name says, in words.
    Damaged(String),
}

impl Storing<'_> {
    /// How many large keys may be on their way: each holds a part of its upload.
    pub(super) fn large_at_once(&self) -> usize {
        let at_once = (self.memory_bytes / (2 * FIRST_PART_BYTES)).max(1) as usize;
        at_once.min(self.concurrency)
    }

    /// Stores `content` under the item's key, if it is what that key says.
    pub(super) fn store(
        &self,
        item: &Item,
        content: &mut dyn Read,
        counts: &Counts,
    ) -> Result<(), Failed> {
        if self.cancel.is_cancelled() {
            return Err(Failed::Run(MirrorError::Interrupted));
        }
        let headers = item.what.headers();
        let upload = KeyWriter::new(self.temp, self.progress, item.key.clone(), headers);
        let mut copy = Tee { input: content, upload, progress: self.progress, cancel: self.cancel };
        prove(&mut copy, item, counts).map_err(|error| self.failed(error))?;
        copy.upload.finish().map_err(|error| Failed::Run(error.into()))?;
        counts.count(item);
        self.progress.objects_done(1);
        Ok(())
    }

    /// Has the server copy the object that `content` is, if that is what its key says. False: it does
    /// not, and nothing was stored.
    ///
    /// The object had this entity tag when it was listed and has it when it is copied, so what was
    /// read in between is what is copied. A store that ignores the condition copies what is there: keys
    /// never change, but for damage.
    pub(super) fn take_over(
        &self,
        item: &Item,
        content: &mut dyn Read,
        from: &Elsewhere,
        counts: &Counts,
    ) -> Result<bool, Failed> {
        let mut content = Watched { input: content, progress: self.progress, cancel: self.cancel };
        prove(&mut content, item, counts).map_err(|error| self.failed(error))?;
        match self.to.copy_from(from, &item.key, item.what.headers()) {
            Ok(()) => {
                counts.count(item);
                self.progress.stored(item.len);
                self.progress.objects_done(1);
                Ok(true)
            }
            Err(error) if matches!(error.kind, StoreErrorKind::Transient { .. }) => {
                Err(Failed::Run(error.into()))
            }
            Err(error) => {
                log::info!("{error}; uploading it instead");
                Ok(false)
            }
        }
    }

    /// An error of the stores or of the run, or damage.
    fn failed(&self, error: io::Error) -> Failed {
        if self.cancel.is_cancelled() {
            return Failed::Run(MirrorError::Interrupted);
        }
        let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
        match wrapped {
            Some(error) => Failed::Run(MirrorError::Store(error.clone())),
            None => Failed::Damaged(error.to_string()),
        }
    }
}

/// What is read goes into the upload, too.
struct Tee<'e> {
    input: &'e mut dyn Read,
    upload: KeyWriter<'e>,
    progress: &'e dyn Progress,
    cancel: &'e Cancel,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.input.read(buffer)?;
        self.upload.push(&buffer[..read]).map_err(io::Error::other)?;
        self.progress.received(read as u64);
        Ok(read)
    }
}

/// What is read and kept by nobody.
struct Watched<'e> {
    input: &'e mut dyn Read,
    progress: &'e dyn Progress,
    cancel: &'e Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.input.read(buffer)?;
        self.progress.received(read as u64);
        Ok(read)
    }
}
