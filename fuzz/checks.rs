//! What each fuzz target does with its input, and what must hold then. Taken in by the targets and
//! by `tests/fuzz_seeds.rs`.
#![allow(dead_code, reason = "each target uses one function")]

use std::io::{self, Read};

use mirror_git_to_s3::git::fetch_v2::read_refs;
use mirror_git_to_s3::git::handshake::{Greeting, read_greeting};
use mirror_git_to_s3::git::object::ObjectFormat;
use mirror_git_to_s3::git::pkt_line::{Packet, Packets};
use mirror_git_to_s3::git::refs::{Advertised, info_refs, parse_info_refs};
use mirror_git_to_s3::git::sideband::Demux;
use mirror_git_to_s3::pack::delta::{self, Instr, InstructionReader};
use mirror_git_to_s3::pack::entry::{self, EntryKind, MAX_HEADER_LEN};
use mirror_git_to_s3::pack::reader::{PackError, PackReader};

/// Packets, and the side-bands in them. Read in one piece and byte by byte they are the same; no
/// packet is longer than git allows.
pub fn pkt_line(data: &[u8]) {
    assert_eq!(read_packets(data), read_packets(OneByte(data)));
    let demux = |input: &mut dyn Read| {
        let (mut band, mut said) = (Vec::new(), Vec::new());
        let read =
            Demux::new(input, |line: &str| said.push(line.to_owned())).read_to_end(&mut band);
        assert!(said.iter().all(|line| !line.contains(|c: char| c.is_control())));
        (band, said, read.is_ok())
    };
    assert_eq!(demux(&mut &data[..]), demux(&mut OneByte(data)));
}

/// The packets up to the first error, and whether that was one of the stream's end.
fn read_packets(input: impl Read) -> Vec<Option<Vec<u8>>> {
    let mut packets = Packets::new(input);
    let mut read = Vec::new();
    loop {
        match packets.read() {
            Ok(Packet::Data(data)) => {
                assert!(data.len() <= 65_516);
                read.push(Some(data.to_vec()));
            }
            Ok(_) => read.push(None),
            Err(_) => return read,
        }
    }
}

/// A server's first answer, or its list of refs. What is accepted can be published and read again.
pub fn advertisement(data: &[u8]) {
    if let Ok(Greeting::V0(answer)) = read_greeting(data) {
        publishable(&answer.advertised);
    }
    if let Ok(advertised) = read_refs(data, ObjectFormat::Sha1) {
        publishable(&advertised);
    }
}

fn publishable(advertised: &Advertised) {
    let refs = &advertised.advertisement.refs;
    assert!(refs.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(parse_info_refs(&info_refs(refs)).as_ref(), Ok(refs));
}

/// The header of an entry at an offset: the first eight bytes are the offset.
pub fn entry(data: &[u8]) {
    let Some((offset, bytes)) = data.split_first_chunk() else { return };
    let offset = u64::from_be_bytes(*offset);
    ObjectFormat::ALL.into_iter().for_each(|format| entry_of(format, offset, bytes));
}

fn entry_of(format: ObjectFormat, offset: u64, bytes: &[u8]) {
    match entry::parse_header(bytes, offset, format) {
        Ok(Some((header, used))) => {
            assert!(used <= MAX_HEADER_LEN && used <= bytes.len() && header.offset == offset);
            if let EntryKind::OfsDelta { base_offset } = header.kind {
                assert!((12..offset).contains(&base_offset));
            }
        }
        Ok(None) => assert!(bytes.len() < MAX_HEADER_LEN),
        Err(_) => {}
    }
}

/// A delta over a base: the first byte is the base's length. The whole and the streamed way agree.
pub fn delta(data: &[u8]) {
    let Some((base_len, delta)) = data.split_first() else { return };
    let base: Vec<u8> = (0..*base_len).collect();
    let mut whole = Vec::new();
    let applied = delta::apply(&base, delta, &mut whole);
    assert!(applied.is_ok() || whole.is_empty());
    if !matches!(applied, Err(delta::DeltaError::WrongBaseLen { .. })) {
        let streamed = stream_delta(&base, delta);
        assert_eq!(applied.is_ok().then_some(whole), streamed.ok());
    }
}

fn stream_delta(base: &[u8], delta: &[u8]) -> io::Result<Vec<u8>> {
    let mut reader = InstructionReader::new(delta)?;
    let mut result = Vec::new();
    while let Some(instr) = reader.next()? {
        match instr {
            Instr::Copy { offset, len } => result.extend(&base[offset as usize..][..len as usize]),
            Instr::Insert { len } => assert_eq!(reader.read_to_end(&mut result)? as u64, len),
        }
    }
    Ok(result)
}

/// A whole pack. Read in one piece and byte by byte, it gives the same entries or is refused both
/// times; lengths and offsets add up.
pub fn pack_reader(data: &[u8]) {
    let whole = read_pack(data);
    let trickled = read_pack(OneByte(data));
    assert_eq!(whole.is_ok(), trickled.is_ok());
    if let (Ok(whole), Ok(trickled)) = (whole, trickled) {
        assert!(whole == trickled);
    }
}

fn read_pack(stream: impl Read) -> Result<Vec<Vec<u8>>, PackError> {
    let mut reader = PackReader::new(stream, ObjectFormat::Sha1)?;
    let mut bodies = Vec::new();
    while let Some(header) = reader.next_entry()? {
        let (mut raw, mut inflated) = (Vec::new(), Vec::new());
        let end = reader.read_small(Some(&mut raw), &mut inflated)?;
        assert_eq!(inflated.len() as u64, header.inflated_len);
        assert_eq!(reader.position(), header.offset + end.raw_len);
        assert!(end.raw_len > raw.len() as u64);
        bodies.push(inflated);
    }
    assert_eq!(bodies.len() as u64, u64::from(reader.object_count()));
    assert!(reader.trailer().is_some());
    Ok(bodies)
}

struct OneByte<'a>(&'a [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(1);
        self.0.read(&mut buf[..len])
    }
}
