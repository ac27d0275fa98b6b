//! A stored loose object, read as a stream and hashed on the way.

use std::io::{self, Read};

use super::loose;
use super::packed::ReadError;
use super::resuming::ResumingReader;
use crate::git::object::{Kind, ObjectHasher, Oid, check_name};
use crate::pack::loose::{LooseError, LooseReader};
use crate::store::{Store, StoreError};

/// See the module's page.
pub(crate) struct CheckedLoose<'e> {
    oid: Oid,
    reader: LooseReader<ResumingReader<'e>>,
    /// `None`: the end was reached.
    hasher: Option<ObjectHasher>,
}

impl<'e> CheckedLoose<'e> {
    /// Reads its header.
    pub(crate) fn open(store: &'e dyn Store, oid: &Oid) -> Result<Self, ReadError> {
        let stream = ResumingReader::new(store, loose::key(oid), 0);
        let reader = LooseReader::new(stream).map_err(|error| match error {
            LooseError::Io(error) => io_error(error),
            other => ReadError::Damaged(other.to_string()),
        })?;
        let hasher = Some(ObjectHasher::new(oid.format(), reader.kind(), reader.size()));
        Ok(CheckedLoose { oid: *oid, reader, hasher })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.reader.kind()
    }

    /// The content's length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.reader.size()
    }

    /// The next bytes of its content. 0: that was all, and it is what its name says.
    pub(crate) fn read(&mut self, piece: &mut [u8]) -> Result<usize, ReadError> {
        let len = self.reader.read(piece).map_err(io_error)?;
        match &mut self.hasher {
            Some(hasher) if len > 0 => hasher.update(&piece[..len]),
            hasher => {
                if let Some(hasher) = hasher.take() {
                    check_name(hasher.finish(), &self.oid).map_err(ReadError::Damaged)?;
                }
            }
        }
        Ok(len)
    }
}

/// A stream's error: the store's, or what is wrong with the object.
pub(crate) fn io_error(error: io::Error) -> ReadError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()) {
        Some(store) => ReadError::Store(store.clone()),
        None => ReadError::Damaged(error.to_string()),
    }
}
