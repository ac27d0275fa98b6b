//! What a server sends back: the pack as a stream, refs up to a limit, and what is wrong with an answer.
//!
//! Nothing that a server sends is trusted: its words are cleaned and cut before they are shown. Every error
//! has a kind, so that the caller knows what may succeed the next time.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::http::Response;
use ureq::{Body, BodyReader};

use crate::git::ProtocolError;
use crate::git::pkt_line::{PacketError, clean_text};
use crate::git::sideband::{Demux, SidebandError};
use crate::http;
use crate::source::error::NOT_OUR_REF;
use crate::source::error::SourceError;
use crate::source::exchange::{content_type, fatal, from_ureq, transient};

/// The most bytes that may come after all that matters of an answer.
const MAX_DRAIN_BYTES: u64 = 128 << 10;

/// Refs that end with an error when they are too many for the memory.
pub(super) struct Limited<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R> Limited<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Limited { inner, limit, left: limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(TooManyRefs(self.limit)));
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..want])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// More refs than the memory is for.
#[derive(Debug, thiserror::Error)]
#[error("the source has more than {0} bytes of refs: more than --memory allows; raise it")]
struct TooManyRefs(u64);

/// Who hears the server's progress.
type Words<'a> = Box<dyn FnMut(&str) + Send + 'a>;

/// The pack's bytes; its errors are [`SourceError`]s.
pub(super) struct PackStream<'a> {
    pub(super) demux: Demux<BodyReader<'static>, Words<'a>>,
    pub(super) place: String,
    pub(super) broken: Arc<AtomicBool>,
}

impl Read for PackStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.demux.read(buffer).map_err(|error| match error.kind() {
            // Not a failure: `read` is to be called again.
            io::ErrorKind::Interrupted => error,
            kind => {
                self.broken.store(true, Ordering::Relaxed);
                io::Error::new(kind, from_io(&self.place, error))
            }
        })?;
        if got == 0 && !buffer.is_empty() {
            drain(self.demux.input());
        }
        Ok(got)
    }
}

/// Reads an answer to its end after its last packet: only then does its connection go back to the
/// pool. There is nothing to read but HTTP's own last chunk; a server that sends more loses the
/// connection.
pub(super) fn drain(body: &mut impl Read) {
    // Whatever happens here, the answer was read already.
    let _ = http::at_most(MAX_DRAIN_BYTES, || io::copy(&mut body.take(256), &mut io::sink()));
}

/// An error from a body: of the side-bands, or of the connection.
pub(super) fn from_io(place: &str, error: io::Error) -> SourceError {
    if let Some(many) = error.get_ref().and_then(|inner| inner.downcast_ref::<TooManyRefs>()) {
        return fatal(place, many.to_string());
    }
    match SidebandError::from_io(&error) {
        Some(cut @ SidebandError::Truncated) => transient(place, cut.to_string()),
        Some(SidebandError::Server(words)) => from_server(place, words),
        Some(other) => fatal(place, other.to_string()),
        None => from_ureq(place, &ureq::Error::from(error)),
    }
}

pub(super) fn from_protocol(place: &str, error: ProtocolError) -> SourceError {
    match error {
        ProtocolError::Packet(PacketError::Io(error)) => from_io(place, error),
        ProtocolError::Packet(cut @ PacketError::Truncated) => transient(place, cut.to_string()),
        ProtocolError::Packet(PacketError::Server(words)) => from_server(place, &words),
        other => fatal(place, other.to_string()),
    }
}

/// An `ERR` packet.
fn from_server(place: &str, words: &str) -> SourceError {
    // A ref moved, or went away, between the advertisement and the request: the next run sees it.
    let make = if words.contains(NOT_OUR_REF) { transient } else { fatal };
    make(place, format!("the server says: {words}"))
}

/// The server's own words beside a status, if they are plain text.
pub(super) fn plain_words(response: Response<Body>) -> String {
    if content_type(response.headers()) != "text/plain" {
        return String::new();
    }
    let start = read_start(&mut response.into_body().into_reader()).unwrap_or_default();
    let words = clean_text(&start, 200);
    if words.is_empty() { words } else { format!(" ({words})") }
}

/// Up to 200 bytes, enough to tell what an answer is.
pub(super) fn read_start(body: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(200);
    body.take(200).read_to_end(&mut start)?;
    Ok(start)
}

/// What an answer is that is no smart server's.
pub(super) fn not_smart(place: &str, content_type: &str, start: &[u8]) -> SourceError {
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
    let dumb = start.iter().take(40).filter(|byte| is_hex(byte)).count() == 40
        || (start.is_empty() && content_type == "text/plain");
    let message = if dumb {
        "the server speaks only git's dumb protocol; mirroring needs the smart one".to_owned()
    } else if content_type == "text/html" || start.trim_ascii_start().starts_with(b"<") {
        "the response is a web page, not a git repository: check the URL, and whether it requires authentication"
            .to_owned()
    } else {
        let what = clean_text(content_type.as_bytes(), 60);
        format!("not a git repository: the response has the type {what:?}")
    };
    fatal(place, message)
}
