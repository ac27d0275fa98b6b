//! Buffers that several share: what the scheduler calls bytes.

use std::ops::Deref;
use std::sync::Arc;

use super::cache::Bytes;

/// A piece of a buffer that several share.
#[derive(Clone)]
pub(super) struct Slice {
    buffer: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl From<Vec<u8>> for Slice {
    fn from(buffer: Vec<u8>) -> Self {
        let len = buffer.len();
        Slice { buffer: Arc::new(buffer), start: 0, len }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl Bytes for Slice {
    fn slice(&self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Slice { buffer: Arc::clone(&self.buffer), start: self.start + start, len }
    }

    fn detach(&self) -> Self {
        // Alone in its buffer, or nearly so.
        if self.len * 2 > self.buffer.capacity() { self.clone() } else { self.to_vec().into() }
    }
}
