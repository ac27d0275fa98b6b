//! Side-bands: the pack, the server's progress and its last words, mixed in one stream of packets
//! (gitprotocol-pack(5), "Packfile Data"; gitprotocol-v2(5), `packfile` section).
//!
//! Each packet's first byte is its band: 1 is the pack, 2 is text for people, 3 is a fatal error.
//! [`Demux`] is a [`Read`] over band 1. It copies from the stream straight into the caller's buffer
//! (a pack of many gigabytes goes through here) and takes no byte beyond the flush packet that ends
//! the pack. A stream without that packet was cut, and is an error even where the pack looks whole.

use std::io::{self, Read};

use crate::git::pkt_line::{self, Header, PacketError};

/// The longest line of progress that is handed on, in characters; the rest of it is dropped.
const MAX_LINE_LEN: usize = 300;

/// The most bytes of `ACK` and `NAK` lines: 500,000 lines. They could come forever.
const MAX_ACKS_BYTES: u64 = 32 << 20;

/// Why the pack's stream failed. It comes inside an [`io::Error`]; [`SidebandError::from_io`] finds
/// it again. An error of the stream below is handed on as it is.
#[derive(Debug, thiserror::Error)]
pub enum SidebandError {
    /// Band 3: the server gave up, and this is why.
    #[error("the server reported a fatal error: {0}")]
    Fatal(String),
    /// An `ERR` packet.
    #[error("the server says: {0}")]
    Server(String),
    /// The stream ended before the packet that ends a pack.
    #[error("the pack stream ended early")]
    Truncated,
    /// No packet, or a packet of no known band.
    #[error("unexpected data in the pack stream: {0}")]
    Malformed(String),
}

impl SidebandError {
    /// The error that `error` wraps, if it came from a [`Demux`].
    pub fn from_io(error: &io::Error) -> Option<&SidebandError> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<SidebandError> for io::Error {
    fn from(error: SidebandError) -> io::Error {
        let kind = match error {
            SidebandError::Truncated => io::ErrorKind::UnexpectedEof,
            SidebandError::Malformed(_) => io::ErrorKind::InvalidData,
            SidebandError::Fatal(_) | SidebandError::Server(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two packets. `acks`: no band has been seen yet, `ACK` and `NAK` lines may come (v0).
    Between { acks: bool },
    /// Inside a packet of band 1 with so many bytes to go.
    Pack { left: usize },
    /// After the flush packet.
    Ended,
    /// After an error: the stream is no longer usable.
    Failed,
}

/// Reads the pack out of the side-bands.
///
/// `words` hears band 2 line by line, free of control characters. A carriage return ends a line as
/// a line feed does: with it git redraws its counters.
pub struct Demux<R, W> {
    input: R,
    words: W,
    state: State,
    line: Vec<u8>,
    /// Of lines before the first band.
    ack_bytes: u64,
    sign_of_life: fn(usize),
}

impl<R: Read, W: FnMut(&str)> Demux<R, W> {
    /// Reads from `input`, whose next packet belongs to a band (v2, after the line `packfile`).
    pub fn new(input: R, words: W) -> Self {
        let state = State::Between { acks: false };
        Demux { input, words, state, line: Vec::new(), ack_bytes: 0, sign_of_life: |_| () }
    }

    /// As [`Demux::new`], and skips the `ACK` and `NAK` lines that come before the first band (v0).
    pub fn after_acks(input: R, words: W) -> Self {
        Demux { state: State::Between { acks: true }, ..Demux::new(input, words) }
    }

    /// The same; `hook` hears the bytes of packets that bring nothing of the pack and say that the server
    /// works on it, as they come: progress, or an empty packet that keeps the line alive.
    #[must_use]
    pub fn on_sign_of_life(self, hook: fn(usize)) -> Self {
        Demux { sign_of_life: hook, ..self }
    }

    /// The stream below. After the end of the pack it is at the byte after the flush packet.
    pub fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads packets until one of band 1 has data, or the end.
    fn open_packet(&mut self, acks: bool) -> io::Result<State> {
        let len = match Header::read(&mut self.input).map_err(into_io)? {
            Header::Data(len) => len,
            Header::Flush => return Ok(self.end()),
            Header::Delimiter | Header::ResponseEnd => {
                return Err(SidebandError::Malformed("a delimiter packet".into()).into());
            }
        };
        // A packet without even a band is what some servers send to keep the line alive.
        if len == 0 {
            (self.sign_of_life)(4);
            return Ok(State::Between { acks });
        }
        let mut band = [0];
        self.fill(&mut band)?;
        let left = len - 1;
        match band[0] {
            1 if left == 0 => {
                (self.sign_of_life)(5);
                Ok(State::Between { acks: false })
            }
            1 => Ok(State::Pack { left }),
            2 => {
                (self.sign_of_life)(5);
                let text = self.progress(left)?;
                self.hear(&text);
                Ok(State::Between { acks: false })
            }
            3 => {
                let text = self.rest(left)?;
                self.end();
                Err(SidebandError::Fatal(pkt_line::clean_text(&text, pkt_line::MAX_TEXT_LEN))
                    .into())
            }
            first => {
                let mut line = vec![first];
                line.append(&mut self.rest(left)?);
                self.ack_bytes += len as u64;
                if self.ack_bytes > MAX_ACKS_BYTES {
                    return Err(SidebandError::Malformed("endless acknowledgments".into()).into());
                }
                outside_bands(&line, acks)
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        pkt_line::read_all(&mut self.input, buffer).map_err(into_io)
    }

    /// The rest of a packet, which is bounded by [`pkt_line::MAX_DATA_LEN`].
    fn rest(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; len];
        self.fill(&mut data)?;
        Ok(data)
    }

    /// The same of a packet of band 2. All that has come is said before more is waited for: then it is
    /// asked how much of what came was useful.
    fn progress(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut text = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.input.read(&mut text[filled..]) {
                Ok(0) => return Err(SidebandError::Truncated.into()),
                Ok(count) => {
                    (self.sign_of_life)(count);
                    filled += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(text)
    }

    /// Hands on every line that ends in `text`, and keeps the beginning of the next one.
    fn hear(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let room = (MAX_LINE_LEN * 4).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") || piece.ends_with(b"\r") {
                self.say_line();
            }
        }
    }

    fn say_line(&mut self) {
        let line = pkt_line::clean_text(&self.line, MAX_LINE_LEN);
        self.line.clear();
        if !line.is_empty() {
            (self.words)(&line);
        }
    }

    fn end(&mut self) -> State {
        self.say_line();
        State::Ended
    }
}

/// What to do with a packet that belongs to no band: a line of the negotiation, or an error.
fn outside_bands(line: &[u8], acks: bool) -> io::Result<State> {
    if let Some(words) = pkt_line::server_error(line) {
        return Err(SidebandError::Server(words).into());
    }
    if acks && (line.starts_with(b"ACK ") || pkt_line::chomp(line) == b"NAK") {
        return Ok(State::Between { acks });
    }
    let text = pkt_line::clean_text(line, 60);
    Err(SidebandError::Malformed(format!("a packet of no known band: {text:?}")).into())
}

fn into_io(error: PacketError) -> io::Error {
    match error {
        PacketError::Io(error) => error,
        PacketError::Truncated => SidebandError::Truncated.into(),
        PacketError::Server(words) => SidebandError::Server(words).into(),
        bad @ PacketError::BadLength(_) => SidebandError::Malformed(bad.to_string()).into(),
    }
}

impl<R: Read, W: FnMut(&str)> Read for Demux<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::Ended => return Ok(0),
                State::Failed => return Err(SidebandError::Truncated.into()),
                State::Pack { left } => {
                    let want = left.min(buffer.len());
                    let got = self.input.read(&mut buffer[..want])?;
                    if got == 0 {
                        self.state = State::Failed;
                        return Err(SidebandError::Truncated.into());
                    }
                    self.state = match left - got {
                        0 => State::Between { acks: false },
                        left => State::Pack { left },
                    };
                    return Ok(got);
                }
                State::Between { acks } => {
                    self.state = State::Failed;
                    self.state = self.open_packet(acks)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(data: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for packet in data {
            pkt_line::write_packet(&mut out, packet);
        }
        out.extend_from_slice(pkt_line::FLUSH);
        out
    }

    fn run(stream: &[u8]) -> (io::Result<Vec<u8>>, Vec<String>) {
        let mut lines = Vec::new();
        let mut pack = Vec::new();
        let mut demux = Demux::after_acks(stream, |line: &str| lines.push(line.to_owned()));
        let result = demux.read_to_end(&mut pack).map(|_| pack);
        (result, lines)
    }

    fn error_of(stream: &[u8]) -> String {
        let error = run(stream).0.unwrap_err();
        SidebandError::from_io(&error).expect("an error of the side-bands").to_string()
    }

    #[test]
    fn the_pack_is_put_together_from_packets_of_any_size() {
        let long = [[1].as_slice(), &[7; pkt_line::MAX_DATA_LEN - 1]].concat();
        let stream = packets(&[b"\x01PA", b"", b"\x01", b"\x02hi\n", b"\x01CK", &long]);
        let (pack, lines) = run(&stream);
        let pack = pack.unwrap();
        assert_eq!(&pack[..4], b"PACK");
        assert_eq!(pack.len(), 4 + pkt_line::MAX_DATA_LEN - 1);
        assert_eq!(lines, ["hi"]);
    }

    #[test]
    fn acknowledgments_without_an_end_are_refused() {
        let ack = b"ACK 1111111111111111111111111111111111111111 common\n";
        let lines = |count: usize| {
            let mut stream = packets(&vec![&ack[..]; count]);
            stream.truncate(stream.len() - pkt_line::FLUSH.len());
            [&stream[..], &packets(&[b"\x01PACK"])].concat()
        };
        assert_eq!(run(&lines(100_000)).0.unwrap(), b"PACK");
        let too_many = MAX_ACKS_BYTES as usize / ack.len() + 1;
        assert!(error_of(&lines(too_many)).contains("endless acknowledgments"));
    }

    #[test]
    fn progress_lines_end_with_either_line_end_and_may_span_packets() {
        let stream = packets(&[
            b"\x02Counting: 1\rCount",
            b"\x02ing: 2, done.\n\x1b]0;x\x07y\n\n",
            b"\x02rest",
        ]);
        let (_, lines) = run(&stream);
        assert_eq!(lines, ["Counting: 1", "Counting: 2, done.", "]0;xy", "rest"]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_a_line() {
        let long = [[2].as_slice(), &[b'x'; 60_000]].concat();
        let stream = packets(&[&long, &long, &long, b"\x02\nnext\n"]);
        let (_, lines) = run(&stream);
        assert_eq!(lines, ["x".repeat(MAX_LINE_LEN).as_str(), "next"]);
    }

    /// One byte at a time: before each all that came is known to be useless.
    struct Dripping<'b>(&'b [u8], usize);

    thread_local! {
        static SAID: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // The packet that ends the pack, and the five bytes that begin a packet.
            assert!(self.1 - SAID.get() <= 5, "{} of {}", SAID.get(), self.1);
            let count = (&self.0[..1.min(self.0.len())]).read(buffer)?;
            self.0 = &self.0[count..];
            self.1 += count;
            Ok(count)
        }
    }

    #[test]
    fn progress_is_no_pack_while_it_comes() {
        let stream = packets(&[&[[2].as_slice(), &[b'x'; 60_000]].concat(), b"", b"\x01"]);
        let input = Dripping(&stream, 0);
        let mut demux =
            Demux::new(input, |_: &str| ()).on_sign_of_life(|count| SAID.set(SAID.get() + count));
        demux.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(SAID.get(), stream.len() - 4);
    }

    #[test]
    fn band_three_is_the_servers_last_word() {
        let stream = packets(&[b"\x01PACK", b"\x03pack-objects died\n"]);
        assert_eq!(error_of(&stream), "the server reported a fatal error: pack-objects died");
    }

    #[test]
    fn an_err_packet_ends_the_stream() {
        assert_eq!(error_of(&packets(&[b"ERR not our ref"])), "the server says: not our ref");
    }

    #[test]
    fn acks_come_before_the_pack_and_never_inside_it() {
        let ack = format!("ACK {}\n", "1".repeat(40));
        let (pack, _) = run(&packets(&[ack.as_bytes(), b"NAK\n", b"\x01PACK"]));
        assert_eq!(pack.unwrap(), b"PACK");
        assert!(error_of(&packets(&[b"\x01PACK", b"NAK\n"])).contains("no known band"));
        let mut strict = Vec::new();
        let stream = packets(&[b"NAK\n"]);
        assert!(Demux::new(&stream[..], |_: &str| ()).read_to_end(&mut strict).is_err());
    }

    #[test]
    fn a_stream_cut_at_any_byte_is_an_error_and_never_a_pack() {
        let stream = packets(&[b"NAK\n", b"\x01PACK", b"\x02words", b"\x01more"]);
        for cut in 0..stream.len() {
            assert_eq!(error_of(&stream[..cut]), "the pack stream ended early", "{cut}");
        }
        assert_eq!(run(&stream).0.unwrap(), b"PACKmore");
    }

    #[test]
    fn other_packets_and_other_bands_are_refused() {
        for bad in [&b"0001"[..], b"0002", b"<htm", b"0005\x04", b"0009hello"] {
            let error = error_of(bad);
            assert!(error.starts_with("unexpected data in the pack stream"), "{error}");
        }
    }

    #[test]
    fn after_an_error_the_stream_stays_failed() {
        let stream = packets(&[b"\x03gone", b"\x01PACK"]);
        let mut demux = Demux::new(&stream[..], |_: &str| ());
        let mut buffer = [0; 8];
        assert!(demux.read(&mut buffer).is_err());
        assert!(demux.read(&mut buffer).is_err());
    }

    #[test]
    fn no_byte_after_the_flush_packet_is_taken() {
        let mut stream = packets(&[b"\x01PACK"]);
        stream.extend_from_slice(b"next");
        let mut input = &stream[..];
        Demux::new(&mut input, |_: &str| ()).read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(input, b"next");
    }
}
