//! Packets: git's framing on the wire (gitprotocol-common(5), "pkt-line Format").
//!
//! A packet is four hexadecimal digits that count themselves and the data, then the data; the
//! lengths 0, 1 and 2 are the flush, delimiter and response-end packets. Reading takes exactly the
//! bytes of a packet and never one more, so that [`Packets::into_inner`] hands the rest of the
//! stream to whoever comes next. One buffer is reused for all packets, and nothing larger than a
//! packet is ever allocated.

use std::io::{self, Read};

/// The longest packet, its four digits included (`LARGE_PACKET_MAX` in git's `pkt-line.h`).
pub const MAX_PACKET_LEN: usize = 65520;

/// The most data that one packet carries.
pub const MAX_DATA_LEN: usize = MAX_PACKET_LEN - 4;

/// The longest text of a server that an error or a message carries, in characters.
pub const MAX_TEXT_LEN: usize = 500;

/// A flush packet, as it is sent.
pub const FLUSH: &[u8] = b"0000";

/// A delimiter packet, as it is sent.
pub const DELIMITER: &[u8] = b"0001";

/// What was wrong with a stream of packets.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The stream below failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stream ended inside a packet, or where one had to come.
    #[error("the response ended early")]
    Truncated,
    /// Four bytes that are no packet length: not hexadecimal, 3, or above [`MAX_PACKET_LEN`].
    #[error("not a packet length: {0:?}")]
    BadLength(String),
    /// The server's `ERR` packet (gitprotocol-pack(5), `error-line`).
    #[error("the server says: {0}")]
    Server(String),
}

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Data, as it came: a final line feed is still there.
    Data(&'a [u8]),
    /// `0000`
    Flush,
    /// `0001`
    Delimiter,
    /// `0002`
    ResponseEnd,
}

/// What a packet's four digits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// So many bytes of data follow, at most [`MAX_DATA_LEN`].
    Data(usize),
    /// `0000`
    Flush,
    /// `0001`
    Delimiter,
    /// `0002`
    ResponseEnd,
}

impl Header {
    fn parse(digits: [u8; 4]) -> Result<Header, PacketError> {
        let bad = || PacketError::BadLength(clean_text(&digits, 4));
        let mut len = 0;
        for digit in digits {
            let value = char::from(digit).to_digit(16).ok_or_else(bad)?;
            len = len * 16 + value as usize;
        }
        match len {
            0 => Ok(Header::Flush),
            1 => Ok(Header::Delimiter),
            2 => Ok(Header::ResponseEnd),
            4..=MAX_PACKET_LEN => Ok(Header::Data(len - 4)),
            _ => Err(bad()),
        }
    }

    /// Reads the four digits of the next packet.
    pub(crate) fn read(input: &mut impl Read) -> Result<Header, PacketError> {
        let mut digits = [0; 4];
        read_all(input, &mut digits)?;
        Header::parse(digits)
    }
}

/// `read_exact`, with the end of the stream distinguished from other failures.
pub(crate) fn read_all(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), PacketError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => PacketError::Truncated,
        _ => PacketError::Io(error),
    })
}

/// Reads packets from a stream.
#[derive(Debug)]
pub struct Packets<R> {
    input: R,
    buffer: Vec<u8>,
}

impl<R: Read> Packets<R> {
    /// Reads from `input`, packet by packet and not one byte ahead.
    pub fn new(input: R) -> Self {
        Packets { input, buffer: Vec::new() }
    }

    /// The next packet. It must come: the end of the stream is [`PacketError::Truncated`]. An
    /// `ERR` packet is [`PacketError::Server`] with the server's words.
    pub fn read(&mut self) -> Result<Packet<'_>, PacketError> {
        let len = match Header::read(&mut self.input)? {
            Header::Flush => return Ok(Packet::Flush),
            Header::Delimiter => return Ok(Packet::Delimiter),
            Header::ResponseEnd => return Ok(Packet::ResponseEnd),
            Header::Data(len) => len,
        };
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let data = &mut self.buffer[..len];
        read_all(&mut self.input, data)?;
        match server_error(data) {
            Some(words) => Err(PacketError::Server(words)),
            None => Ok(Packet::Data(data)),
        }
    }

    /// The rest of the stream, from the packet after the last one read.
    pub fn into_inner(self) -> R {
        self.input
    }
}

/// The words of an `ERR` packet, if `data` is one.
pub fn server_error(data: &[u8]) -> Option<String> {
    data.strip_prefix(b"ERR ").map(|words| clean_text(words, MAX_TEXT_LEN))
}

/// `data` without one final line feed. Senders should send it, receivers must not rely on it
/// (gitprotocol-common(5)).
pub fn chomp(data: &[u8]) -> &[u8] {
    data.strip_suffix(b"\n").unwrap_or(data)
}

/// Appends one packet that holds `data`.
///
/// # Panics
///
/// If `data` is longer than [`MAX_DATA_LEN`]. All that is sent is lines of our own making, and the
/// longest holds an oid and the capabilities.
pub fn write_packet(out: &mut Vec<u8>, data: &[u8]) {
    assert!(
        data.len() <= MAX_DATA_LEN,
        "a packet of ours is never longer than a few hundred bytes"
    );
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

/// Appends one packet that holds `line` and a line feed.
pub fn write_line(out: &mut Vec<u8>, line: &str) {
    write_packet(out, format!("{line}\n").as_bytes());
}

/// A server's text made fit for a terminal and a log: UTF-8, no control characters (a terminal
/// would obey them), no more than `max_chars` characters.
pub fn clean_text(bytes: &[u8], max_chars: usize) -> String {
    // A character has at most four bytes, and no more is decoded than can be shown.
    let shown = &bytes[..bytes.len().min(max_chars.saturating_mul(4))];
    let text = String::from_utf8_lossy(shown);
    // A line break inside becomes a space, so that words stay apart.
    let clean = text.trim().replace(['\n', '\t'], " ");
    clean.chars().filter(|c| !c.is_control()).take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_of(bytes: &[u8]) -> Result<Vec<u8>, PacketError> {
        match Packets::new(bytes).read()? {
            Packet::Data(data) => Ok(data.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_of_packet_is_told_apart() {
        let mut packets = Packets::new(&b"0006a\n0005b0004000000010002000Bfoobar\n"[..]);
        assert_eq!(packets.read().unwrap(), Packet::Data(b"a\n"));
        assert_eq!(packets.read().unwrap(), Packet::Data(b"b"));
        assert_eq!(packets.read().unwrap(), Packet::Data(b""));
        assert_eq!(packets.read().unwrap(), Packet::Flush);
        assert_eq!(packets.read().unwrap(), Packet::Delimiter);
        assert_eq!(packets.read().unwrap(), Packet::ResponseEnd);
        assert_eq!(packets.read().unwrap(), Packet::Data(b"foobar\n"));
        assert!(matches!(packets.read(), Err(PacketError::Truncated)));
    }

    #[test]
    fn a_length_must_be_four_hexadecimal_digits_up_to_the_largest_packet() {
        for bad in ["0003", "fff1", "ffff", "+004", " 004", "00g0", "<!DO", "\u{1b}[2J"] {
            let error = data_of(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, PacketError::BadLength(_)), "{bad}: {error:?}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        let mut largest = Vec::new();
        write_packet(&mut largest, &[b'x'; MAX_DATA_LEN]);
        assert_eq!(&largest[..4], b"fff0");
        assert_eq!(data_of(&largest).unwrap().len(), MAX_DATA_LEN);
    }

    #[test]
    fn a_packet_cut_at_any_byte_is_truncated() {
        for cut in 0..10 {
            let error = data_of(&b"000afoobar"[..cut]).unwrap_err();
            assert!(matches!(error, PacketError::Truncated), "{cut}: {error:?}");
        }
    }

    #[test]
    fn a_read_takes_no_byte_after_the_packet() {
        let mut packets = Packets::new(&b"0005aPACK"[..]);
        packets.read().unwrap();
        assert_eq!(packets.into_inner(), b"PACK");
    }

    #[test]
    fn the_servers_error_comes_with_its_words_and_without_its_control_characters() {
        let error = data_of(b"0019ERR no \x1b[31msuch\nrep\n").unwrap_err();
        assert_eq!(error.to_string(), "the server says: no [31msuch rep");
    }

    #[test]
    fn an_error_of_the_stream_below_stays_what_it_is() {
        struct Reset;
        impl Read for Reset {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        match Packets::new(Reset).read() {
            Err(PacketError::Io(e)) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_is_cut_by_characters_never_inside_one() {
        assert_eq!(clean_text("äöü\u{9b}x".as_bytes(), 2), "äö");
        assert_eq!(clean_text("ä\u{9b}x".as_bytes(), 9), "äx");
        assert_eq!(clean_text(b"\xff\xfe", 9), "\u{fffd}\u{fffd}");
    }
}
