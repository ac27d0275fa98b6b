//! A stored object as a stream that survives a broken connection: it opens again where it was.

use std::io::{self, Read};

use crate::store::{Key, Store, StoreErrorKind};

/// Breaks in a row, with no byte between them, that are tolerated.
const BREAKS: u32 = 5;

/// Reads a stored object from an offset on.
pub(crate) struct ResumingReader<'e> {
    store: &'e dyn Store,
    key: Key,
    offset: u64,
    stream: Option<Box<dyn Read + Send>>,
    breaks: u32,
}

impl<'e> ResumingReader<'e> {
    pub(crate) fn new(store: &'e dyn Store, key: Key, offset: u64) -> Self {
        ResumingReader { store, key, offset, stream: None, breaks: 0 }
    }
}

impl Read for ResumingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                // The store retries the opening itself.
                None => {
                    let opened = self.store.open(&self.key, self.offset);
                    self.stream.insert(opened.map_err(io::Error::other)?)
                }
            };
            match stream.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    self.breaks = 0;
                    return Ok(read);
                }
                Err(error) if self.breaks < BREAKS && is_transient(&error) => {
                    log::debug!("{} was cut off at {}: {error}", self.key, self.offset);
                    self.stream = None;
                    self.breaks += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    use crate::store::StoreError;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
    inner.is_none_or(|error| matches!(error.kind, StoreErrorKind::Transient { .. }))
}
