//! Deflating to zlib streams (RFC 1950) over zlib-rs, with a state that is reused.
//!
//! Only delta results are deflated: a whole object keeps its own blocks
//! ([`crate::pack::loose::Rewrap`]). Level 1 is git's own default for loose objects
//! (`core.looseCompression`). Setting up a state allocates some hundred KiB, so a thread keeps one.

use zlib_rs::{Deflate, DeflateFlush, Status};

/// Deflates to zlib streams, one after another with the same state.
///
/// Whole in memory: [`Deflater::compress_into`]. Larger than memory: [`Deflater::begin`], then
/// [`Deflater::write`] as often as needed, then [`Deflater::finish`].
pub struct Deflater {
    state: Deflate,
    /// Output passes through here, so that a caller's buffer grows only by what there is.
    scratch: Box<[u8]>,
}

impl Deflater {
    /// A deflater at `level` (0 to 9; others are taken as the nearest).
    pub fn new(level: i32) -> Self {
        Deflater {
            state: Deflate::new(level.clamp(0, 9), true, MAX_WINDOW_BITS),
            scratch: vec![0; SCRATCH_LEN].into(),
        }
    }

    /// Appends one zlib stream to `out` that inflates to the concatenation of `parts`.
    ///
    /// A stream that was begun and not finished is given up.
    pub fn compress_into(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        self.begin();
        for part in parts {
            self.write(part, out);
        }
        self.finish(out);
    }

    /// Begins a new stream; one that was not finished is given up.
    pub fn begin(&mut self) {
        self.state.reset();
    }

    /// Takes the next `bytes` and appends to `out` what is ready, which may be nothing.
    pub fn write(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let (consumed, _) = self.step(bytes, DeflateFlush::NoFlush, out);
            bytes = &bytes[consumed..];
        }
    }

    /// Ends the stream and appends its rest to `out`. Then only [`Deflater::begin`] or
    /// [`Deflater::compress_into`] make sense.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        while self.step(&[], DeflateFlush::Finish, out).1 != Status::StreamEnd {}
    }

    /// One call of the compressor: how much of `bytes` it took, and its status.
    fn step(&mut self, bytes: &[u8], flush: DeflateFlush, out: &mut Vec<u8>) -> (usize, Status) {
        let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
        let status = self
            .state
            .compress(bytes, &mut self.scratch, flush)
            .expect("deflating fails only on a state used after its end, and `begin` resets it");
        // Both differences are at most the length of a slice, so they fit.
        out.extend_from_slice(&self.scratch[..(self.state.total_out() - before_out) as usize]);
        ((self.state.total_in() - before_in) as usize, status)
    }
}

/// The largest window that RFC 1950 allows: 32 KiB.
const MAX_WINDOW_BITS: u8 = 15;

const SCRATCH_LEN: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::inflate::Inflater;

    fn inflate(stream: &[u8], len: usize) -> Vec<u8> {
        let mut content = vec![0; len + 1];
        let step = Inflater::new().step(stream, &mut content).unwrap();
        assert!(step.ended && step.consumed == stream.len());
        content.truncate(step.produced);
        content
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 1u32;
        let next = || {
            x = x.wrapping_mul(1664525).wrapping_add(1013904223);
            (x >> 24) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn parts_become_one_stream_and_the_state_serves_again() {
        let mut deflater = Deflater::new(1);
        let big = noise(200_000);
        for (first, second) in [(&b"blob 3\0"[..], &b"abc"[..]), (b"", b""), (b"x", &big)] {
            let mut out = b"before".to_vec();
            deflater.compress_into(&[first, second], &mut out);
            let content = [first, second].concat();
            assert_eq!(inflate(&out[6..], content.len()), content);
        }
    }

    #[test]
    fn streaming_makes_the_same_content_as_one_call() {
        let mut deflater = Deflater::new(1);
        let content = noise(100_000);
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        deflater.compress_into(&[&content], &mut whole);
        deflater.begin();
        deflater.write(b"given up", &mut pieces);
        pieces.clear();
        deflater.begin();
        content.chunks(777).for_each(|chunk| deflater.write(chunk, &mut pieces));
        deflater.finish(&mut pieces);
        assert_eq!(inflate(&pieces, content.len()), content);
        assert_eq!(inflate(&whole, content.len()), content);
    }

    #[test]
    fn levels_out_of_range_are_taken_as_the_nearest() {
        for level in [-7, 99] {
            let mut out = Vec::new();
            Deflater::new(level).compress_into(&[b"abc"], &mut out);
            assert_eq!(inflate(&out, 3), b"abc");
        }
    }
}
