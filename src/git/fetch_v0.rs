//! Fetching with protocol version 0: the advertisement, and the request for a pack.
//!
//! Follows gitprotocol-pack(5), "Reference Discovery" and "Packfile Negotiation", and
//! gitprotocol-capabilities(5). The whole negotiation is one request that ends in `done`: the mirror
//! knows exactly what it has. Without `multi_ack` the answer is then one `ACK` or `NAK` line, and the
//! pack ([`Demux::after_acks`](crate::git::sideband::Demux::after_acks)). Without `thin-pack` the
//! pack is self-contained.

use std::io::Read;

use crate::git::object::{ObjectFormat, Oid};
use crate::git::pkt_line::{self, Packets, chomp, write_line};
use crate::git::protocol::{AGENT, ProtocolError, next_data, object_format};
use crate::git::refs::{Advertised, Collector};

/// What a server of version 0 says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisementV0 {
    /// Its refs.
    pub advertised: Advertised,
    /// The capabilities that it offers and that are used here.
    pub capabilities: CapabilitiesV0,
}

/// What of a server's capabilities matters for fetching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitiesV0 {
    /// `None`: it says nothing, so SHA-1.
    object_format: Option<ObjectFormat>,
    side_band_64k: bool,
    side_band: bool,
    ofs_delta: bool,
    include_tag: bool,
    agent: bool,
}

/// Reads the refs up to the flush packet; `first` is the packet that was read already (`None`: it
/// was a flush packet, and there is nothing, not even capabilities).
pub(crate) fn read_advertisement<R: Read>(
    first: Option<Vec<u8>>,
    packets: &mut Packets<R>,
) -> Result<AdvertisementV0, ProtocolError> {
    let mut refs = Collector::default();
    let Some(first) = first else {
        return Err(ProtocolError::Unsupported("any capability"));
    };
    let Some(nul) = first.iter().position(|&byte| byte == 0) else {
        return Err(ProtocolError::unexpected("first line", &first));
    };
    let capabilities = parse_capabilities(chomp(&first[nul + 1..]), &mut refs)?;
    add_line(&first[..nul], &mut refs)?;
    while let Some(line) = next_data(packets)? {
        add_line(chomp(&line), &mut refs)?;
    }
    Ok(AdvertisementV0 { advertised: refs.finish(), capabilities })
}

fn parse_capabilities(list: &[u8], refs: &mut Collector) -> Result<CapabilitiesV0, ProtocolError> {
    let mut found = CapabilitiesV0::default();
    for word in list.split(|&byte| byte == b' ') {
        match word {
            b"side-band-64k" => found.side_band_64k = true,
            b"side-band" => found.side_band = true,
            b"ofs-delta" => found.ofs_delta = true,
            b"include-tag" => found.include_tag = true,
            _ if word.starts_with(b"agent=") => found.agent = true,
            _ => parse_value(word, &mut found, refs)?,
        }
    }
    Ok(found)
}

/// The capabilities that carry something to know.
fn parse_value(
    word: &[u8],
    found: &mut CapabilitiesV0,
    refs: &mut Collector,
) -> Result<(), ProtocolError> {
    if let Some(target) = word.strip_prefix(b"symref=HEAD:") {
        refs.set_head_target(target);
    }
    // Of several the first is that of the refs (gitprotocol-capabilities(5)).
    if let Some(value) = word.strip_prefix(b"object-format=")
        && found.object_format.is_none()
    {
        let format = object_format(value)?;
        found.object_format = Some(format);
        refs.set_format(format);
    }
    Ok(())
}

fn add_line(line: &[u8], refs: &mut Collector) -> Result<(), ProtocolError> {
    if line.starts_with(b"shallow ") {
        return Err(ProtocolError::Shallow);
    }
    let Some((oid, name)) = Oid::split_hex(line, b' ') else {
        return Err(ProtocolError::unexpected("ref line", line));
    };
    match name.strip_suffix(b"^{}") {
        // An empty repository has capabilities, and no ref to hang them on.
        Some(b"capabilities") if oid.is_null() => refs.check(oid).map(drop),
        Some(tag) => refs.add_peeled(tag, oid),
        None => refs.add(name, oid, None),
    }
}

/// The body of the POST to `git-upload-pack`: `wants`, of which there must be one, `haves`, `done`.
///
/// A server without side-bands is refused: no server in use is that old, and without them a pack that was
/// cut cannot be distinguished from a whole one.
pub fn fetch_request(
    capabilities: CapabilitiesV0,
    wants: &[Oid],
    haves: &[Oid],
) -> Result<Vec<u8>, ProtocolError> {
    let CapabilitiesV0 { side_band_64k, side_band, ofs_delta, include_tag, agent, object_format } =
        capabilities;
    if !side_band_64k && !side_band {
        return Err(ProtocolError::Unsupported("side-band-64k"));
    }
    let mut asked = String::from(if side_band_64k { " side-band-64k" } else { " side-band" });
    for (offered, word) in [(ofs_delta, " ofs-delta"), (include_tag, " include-tag")] {
        if offered {
            asked += word;
        }
    }
    // SHA-1 is what a server takes for granted.
    if let Some(format @ ObjectFormat::Sha256) = object_format {
        asked += &format!(" object-format={format}");
    }
    if agent {
        asked += &format!(" agent={AGENT}");
    }
    let mut body = Vec::new();
    for want in wants {
        // Only the first line carries capabilities.
        write_line(&mut body, &format!("want {want}{}", std::mem::take(&mut asked)));
    }
    body.extend_from_slice(pkt_line::FLUSH);
    for have in haves {
        write_line(&mut body, &format!("have {have}"));
    }
    write_line(&mut body, "done");
    Ok(body)
}

/// Reads the line `ACK` or `NAK` with which the answer begins; the pack's side-bands follow.
pub fn read_ack<R: Read>(packets: &mut Packets<R>) -> Result<(), ProtocolError> {
    match next_data(packets)? {
        Some(line) if line.starts_with(b"ACK ") || chomp(&line) == b"NAK" => Ok(()),
        Some(line) if line.starts_with(b"shallow ") => Err(ProtocolError::Shallow),
        Some(line) => Err(ProtocolError::unexpected("line before the pack", &line)),
        None => Err(ProtocolError::unexpected("packet", b"Flush")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::handshake::{Greeting, read_greeting};
    use crate::git::refs::{Head, RefName};

    fn read(lines: &[&str]) -> Result<AdvertisementV0, ProtocolError> {
        let mut bytes = Vec::new();
        for line in lines {
            write_line(&mut bytes, line);
        }
        bytes.extend_from_slice(pkt_line::FLUSH);
        match read_greeting(&bytes[..])? {
            Greeting::V0(v0) => Ok(v0),
            Greeting::V2(_) => panic!("version 0"),
        }
    }

    const ONE: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn a_recorded_advertisement_is_read() {
        let bytes = include_bytes!("../../fixtures/wire/v0/advertisement.response");
        let Greeting::V0(v0) = read_greeting(&bytes[..]).unwrap() else { panic!("version 0") };
        let advertisement = v0.advertised.advertisement;
        let names: Vec<_> = advertisement.refs.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            ["refs/heads/main", "refs/heads/topic", "refs/tags/light", "refs/tags/v1"]
        );
        assert_eq!(advertisement.head, Head::Branch(RefName::new("refs/heads/main").unwrap()));
        let tag = &advertisement.refs[3];
        assert_eq!(tag.peeled, Some(advertisement.refs[0].oid));
        assert!(v0.capabilities.side_band_64k && v0.capabilities.ofs_delta);
    }

    #[test]
    fn a_head_without_symref_is_detached() {
        let v0 = read(&[&format!("{ONE} HEAD\0side-band-64k"), &format!("{ONE} refs/heads/a")]);
        let head = v0.unwrap().advertised.advertisement.head;
        assert_eq!(head, Head::Detached(Oid::from_bytes([0x11; 20])));
    }

    #[test]
    fn shallow_sources_and_unknown_hashes_are_refused() {
        let shallow = read(&[&format!("{ONE} HEAD\0side-band-64k"), &format!("shallow {ONE}")]);
        assert!(matches!(shallow, Err(ProtocolError::Shallow)));
        let future = read(&[&format!("{ONE} HEAD\0object-format=sha512")]);
        assert!(matches!(future, Err(ProtocolError::ObjectFormat(f)) if f == "sha512"));
    }

    #[test]
    fn format_that_the_server_names_first_is_that_of_its_refs_and_is_asked_for() {
        let long = "1".repeat(64);
        let words = "side-band-64k object-format=sha256 object-format=sha1";
        let v0 =
            read(&[&format!("{long} HEAD\0{words}"), &format!("{long} refs/heads/a")]).unwrap();
        assert_eq!(v0.advertised.advertisement.format, ObjectFormat::Sha256);
        let oid = long.parse().unwrap();
        let body = fetch_request(v0.capabilities, &[oid], &[]).unwrap();
        let text = String::from_utf8(body).unwrap();
        assert!(
            text.contains(&format!("want {long} side-band-64k object-format=sha256\n")),
            "{text}"
        );
        for (first, then) in [(&long[..], ONE), (ONE, &long[..])] {
            let words = format!("{first} HEAD\0side-band-64k object-format=sha256");
            let mixed = read(&[&words, &format!("{then} refs/heads/a")]);
            assert!(matches!(mixed, Err(ProtocolError::OtherFormat { .. })), "{first}");
        }
        // Without a word it is SHA-1.
        let silent = read(&[&format!("{long} HEAD\0side-band-64k")]);
        assert!(matches!(silent, Err(ProtocolError::OtherFormat { .. })));
        let empty = format!("{} capabilities^{{}}\0object-format=sha256", "0".repeat(64));
        let empty = read(&[&empty]).unwrap().advertised.advertisement;
        assert_eq!((empty.format, empty.refs.len()), (ObjectFormat::Sha256, 0));
    }

    #[test]
    fn lines_that_are_no_refs_are_refused() {
        for bad in ["", "x", ONE, &format!("{ONE}\trefs/heads/a"), &format!("{ONE}0 refs/heads/a")]
        {
            let result = read(&[&format!("{ONE} HEAD\0side-band-64k"), bad]);
            assert!(matches!(result, Err(ProtocolError::Unexpected { .. })), "{bad}");
        }
        assert!(matches!(read(&[&format!("{ONE} HEAD")]), Err(ProtocolError::Unexpected { .. })));
        assert!(matches!(read(&[]), Err(ProtocolError::Unsupported(_))));
    }

    #[test]
    fn an_invalid_name_is_skipped_and_told() {
        let v0 =
            read(&[&format!("{ONE} refs/heads/a\0x"), &format!("{ONE} refs/../../etc")]).unwrap();
        assert_eq!(v0.advertised.skipped.names, ["refs/../../etc"]);
        assert_eq!(v0.advertised.advertisement.refs.len(), 1);
    }

    #[test]
    fn the_request_asks_for_what_is_offered_and_nothing_else() {
        let oid = Oid::from_bytes([0x11; 20]);
        let capabilities =
            CapabilitiesV0 { side_band_64k: true, ofs_delta: true, ..Default::default() };
        let body = fetch_request(capabilities, &[oid, oid], &[oid]).unwrap();
        let expected = format!(
            "004awant {ONE} side-band-64k ofs-delta\n0032want {ONE}\n00000032have {ONE}\n0009done\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        let nothing = fetch_request(CapabilitiesV0::default(), &[oid], &[]);
        assert!(matches!(nothing, Err(ProtocolError::Unsupported("side-band-64k"))));
    }

    #[test]
    fn the_answer_begins_with_one_ack_or_nak() {
        for (line, good) in [("NAK", true), (&format!("ACK {ONE}"), true), ("\x01PACK", false)] {
            let mut bytes = Vec::new();
            write_line(&mut bytes, line);
            assert_eq!(read_ack(&mut Packets::new(&bytes[..])).is_ok(), good, "{line}");
        }
        assert!(read_ack(&mut Packets::new(pkt_line::FLUSH)).is_err());
    }
}
