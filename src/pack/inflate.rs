//! Streaming zlib inflation (RFC 1950) over zlib-rs, with a state that is reused.
//!
//! A new state for each object would cost a quarter of the speed (measured over public packs), so
//! [`Inflater::restart`] takes the same one for the next stream. The inflater never reads past a
//! stream's end and says how much it took: that is how a pack's entries are distinguished. A stream
//! that asks for a preset dictionary is refused, as git does.

use zlib_rs::{Inflate, InflateFlush, Status};

/// Inflates one zlib stream after another.
pub struct Inflater {
    state: Inflate,
}

/// What one [`Inflater::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes of the input were taken.
    pub consumed: usize,
    /// How many bytes of the output were written.
    pub produced: usize,
    /// Whether the stream has ended, with a right Adler-32.
    pub ended: bool,
}

/// Why a stream was refused: zlib's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InflateError(pub &'static str);

impl Inflater {
    /// An inflater at the start of a stream.
    pub fn new() -> Self {
        Inflater { state: Inflate::new(true, MAX_WINDOW_BITS) }
    }

    /// Gives up the present stream and starts the next one.
    pub fn restart(&mut self) {
        self.state.reset(true);
    }

    /// How many bytes of the stream have been taken.
    pub fn total_in(&self) -> u64 {
        self.state.total_in()
    }

    /// How many bytes it has inflated to so far.
    pub fn total_out(&self) -> u64 {
        self.state.total_out()
    }

    /// Has the stream taken far more bytes than `inflated_len` can need? Empty blocks inflate to nothing,
    /// and a stream of them need not end. The slack is for writers that flush often.
    pub fn is_bloated(&self, inflated_len: u64) -> bool {
        self.total_in() > inflated_len.saturating_mul(2).saturating_add(BLOAT_BYTES)
    }

    /// Inflates from `input` into `output` until the stream ends, or either is used up.
    ///
    /// No progress is no error: more input, or more room, is needed then. If `output` was filled,
    /// more may be ready without any further input.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, InflateError> {
        let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(input, output, InflateFlush::NoFlush).map_err(|e| {
            InflateError(match e {
                zlib_rs::InflateError::NeedDict { .. } => "preset dictionary",
                _ => self.state.error_message().unwrap_or(e.as_str()),
            })
        })?;
        // Both differences are at most the length of a slice, so they fit.
        Ok(Step {
            consumed: (self.state.total_in() - before_in) as usize,
            produced: (self.state.total_out() - before_out) as usize,
            ended: status == Status::StreamEnd,
        })
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

/// What a stream may have beside twice what it inflates to.
const BLOAT_BYTES: u64 = 64 << 10;

/// The largest window that RFC 1950 allows: 32 KiB.
const MAX_WINDOW_BITS: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::deflate::Deflater;

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Deflater::new(6).compress_into(&[content], &mut out);
        out
    }

    #[test]
    fn stream_ends_exactly_and_what_follows_is_left() {
        let mut input = deflated(b"hello hello hello");
        let len = input.len();
        input.extend(b"next");
        let mut output = [0; 100];
        let mut inflater = Inflater::new();
        for _ in 0..2 {
            let step = inflater.step(&input, &mut output).unwrap();
            assert_eq!(step, Step { consumed: len, produced: 17, ended: true });
            assert_eq!((inflater.total_in(), inflater.total_out()), (len as u64, 17));
            inflater.restart();
        }
    }

    #[test]
    fn preset_dictionary_is_refused() {
        let mut inflater = Inflater::new();
        let result = inflater.step(&[0x78, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8], &mut [0; 10]);
        assert_eq!(result, Err(InflateError("preset dictionary")));
    }

    #[test]
    fn wrong_adler_is_refused() {
        let mut input = deflated(b"content");
        *input.last_mut().unwrap() ^= 1;
        let result = Inflater::new().step(&input, &mut [0; 10]);
        assert_eq!(result, Err(InflateError("incorrect data check")));
    }
}
