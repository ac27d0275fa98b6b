//! Large objects on their way into the store: a stream cut into parts, and the ledger of a
//! multipart upload whose parts are sent by many threads.
//!
//! Whoever makes the stream owns a [`Parts`] and hands every full part on; the [`Ledger`] knows
//! when the last one is in. Nobody waits for that: the thread that stores the last part continues to
//! finish the object.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::temp::TempKeys;
use crate::store::{Key, Limits, ObjectHeaders, Part, Store, StoreError, Upload};

/// A part to begin with. S3's smallest is 5 MiB; 8 MiB divides what machines like to read.
pub(crate) const FIRST_PART_BYTES: u64 = 8 << 20;

/// How large a part is, so that a stream of unknown length fits into the parts that there are.
///
/// The size doubles whenever a sixteenth of the parts are used: with 10,000 parts, 5 GB go out in
/// parts of 8 MiB, the next 10 GB in parts of 16 MiB, and 5 TiB fit (with 1,000 parts 500 GB).
pub(crate) fn part_bytes(number: u32, first_part_bytes: u64, limits: &Limits) -> u64 {
    let doublings = number.saturating_sub(1) / (limits.max_parts / 16).max(1);
    first_part_bytes.max(limits.min_part_bytes).saturating_mul(1 << doublings.min(20))
}

/// Cuts a stream into parts.
pub(crate) struct Parts {
    limits: Limits,
    first_part_bytes: u64,
    number: u32,
    /// The part that is being filled.
    pub(crate) body: Vec<u8>,
}

impl Parts {
    pub(crate) fn new(limits: Limits) -> Self {
        Self::of_at_least(limits, FIRST_PART_BYTES)
    }

    /// Begins with parts of `first_part_bytes`, or the smallest that the store takes.
    pub(crate) fn of_at_least(limits: Limits, first_part_bytes: u64) -> Self {
        Parts { limits, first_part_bytes, number: 1, body: Vec::new() }
    }

    /// How many bytes the part that is being filled may take.
    pub(crate) fn part_bytes(&self) -> u64 {
        part_bytes(self.number, self.first_part_bytes, &self.limits)
    }

    /// Takes the next bytes, at most a part. A part's memory is taken once: one that doubles while it
    /// grows leaves holes of its own size in the heap.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.body.capacity() == 0 {
            self.body.reserve_exact(self.part_bytes() as usize + bytes.len());
        }
        self.body.extend_from_slice(bytes);
    }

    /// The part, if it is full.
    pub(crate) fn take_full(&mut self) -> Option<(u32, Vec<u8>)> {
        (self.body.len() as u64 >= self.part_bytes()).then(|| self.take())
    }

    /// The last part, whatever it holds; `None` if it is empty and not the first: an upload needs
    /// at least one part.
    pub(crate) fn take_last(mut self) -> Option<(u32, Vec<u8>)> {
        (self.number == 1 || !self.body.is_empty()).then(|| self.take())
    }

    /// The part that is being filled, whatever it holds; `None` if it is empty.
    pub(crate) fn take_any(&mut self) -> Option<(u32, Vec<u8>)> {
        (!self.body.is_empty()).then(|| self.take())
    }

    /// The number of a part that somebody else makes.
    pub(crate) fn skip(&mut self) -> u32 {
        let number = self.number;
        self.number += 1;
        number
    }

    fn take(&mut self) -> (u32, Vec<u8>) {
        (self.skip(), std::mem::take(&mut self.body))
    }
}

/// What is known of an upload's parts.
pub(crate) struct Ledger {
    pub(crate) upload: Upload,
    state: Mutex<State>,
}

/// Guarded by [`Ledger::state`].
#[derive(Default)]
struct State {
    parts: Vec<Part>,
    /// Parts handed on.
    sent: usize,
    /// No more will come.
    closed: bool,
}

impl Ledger {
    pub(crate) fn new(upload: Upload) -> Self {
        Ledger { upload, state: Mutex::default() }
    }

    /// A part is about to be handed on.
    pub(crate) fn sent(&self) {
        self.lock().sent += 1;
    }

    /// A part is in. True if it was the last one of all: then the caller finishes the object.
    pub(crate) fn stored(&self, part: Part) -> bool {
        let mut state = self.lock();
        state.parts.push(part);
        state.closed && state.parts.len() == state.sent
    }

    /// No more parts will be handed on. True if they are all in: then the caller finishes.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        state.closed = true;
        state.parts.len() == state.sent
    }

    /// All parts in order.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut parts = std::mem::take(&mut self.lock().parts);
        parts.sort_by_key(|part| part.number);
        parts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A range in pieces of about the same size, each at most `most` bytes: none is smaller than a part may
/// be if the range is not.
pub(crate) fn even_pieces(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let len = range.end - range.start;
    let pieces = len.div_ceil(most);
    let at = move |piece: u64| {
        range.start + (u128::from(len) * u128::from(piece) / u128::from(pieces)) as u64
    };
    (0..pieces).map(move |piece| at(piece)..at(piece + 1))
}

/// A copy made by the store, of any size: one request up to the store's limit, above it in parts.
pub(crate) fn copy_any_size(
    temp: &TempKeys<'_>,
    from: &Key,
    to: &Key,
    len: u64,
    headers: ObjectHeaders,
) -> Result<(), StoreError> {
    let store = temp.store();
    let limits = store.limits();
    if len <= limits.max_copy_bytes {
        return store.copy(from, to, headers);
    }
    let noted = temp.create_noted_upload(to, headers)?;
    match copy_in_parts(store, &noted.upload, from, len, limits.max_copy_bytes) {
        Ok(()) => temp.noted_upload_completed(&noted),
        Err(error) => {
            // The first error is the one to tell; an upload that stays is found by its note.
            let _ = temp.abort_noted_upload(&noted);
            Err(error)
        }
    }
}

fn copy_in_parts(
    store: &dyn Store,
    upload: &Upload,
    from: &Key,
    len: u64,
    step: u64,
) -> Result<(), StoreError> {
    let mut parts = Vec::new();
    let mut start = 0_u64;
    for number in 1.. {
        let end = start.saturating_add(step).min(len);
        parts.push(store.copy_part(upload, number, from, start..end)?);
        start = end;
        if start == len {
            break;
        }
    }
    store.complete_upload(upload, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_the_largest_object_fits() {
        for max_parts in [1_000, 10_000] {
            let limits = Limits { max_parts, ..Limits::S3 };
            let total: u64 =
                (1..=max_parts).map(|number| part_bytes(number, FIRST_PART_BYTES, &limits)).sum();
            assert!(total > 500 << 30, "{max_parts} parts hold {total} bytes");
            assert_eq!(part_bytes(1, FIRST_PART_BYTES, &limits), FIRST_PART_BYTES);
        }
    }

    #[test]
    fn last_part_tells_whoever_stores_it() {
        let key = Key::new("k").unwrap();
        let ledger = Ledger::new(Upload { key, id: "u".into() });
        let part = |number| Part { number, etag: Default::default() };
        ledger.sent();
        ledger.sent();
        assert!(!ledger.stored(part(2)));
        assert!(!ledger.close());
        assert!(ledger.stored(part(1)));
        assert_eq!(ledger.parts(), [part(1), part(2)]);
    }
}
