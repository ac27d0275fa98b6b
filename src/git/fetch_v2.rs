//! Fetching with protocol version 2: capabilities, `ls-refs`, and `fetch`.
//!
//! Follows gitprotocol-v2(5). As in version 0 the negotiation is one request that ends in `done`, so
//! that the answer always has a pack. What the server offers decides what is asked for; `thin-pack`
//! never is, so that the pack is self-contained, nor is `packfile-uris`; `filter` is sent only by
//! [`objects_request`], for objects that a repair names. History
//! is cut (`shallow`, `deepen`) only by [`deepen_request`], for a first fetch in slices.

use std::io::Read;

use crate::git::object::{ObjectFormat, Oid};
use crate::git::pkt_line::{self, Packet, Packets, chomp, write_line};
use crate::git::protocol::{AGENT, ProtocolError, next_data, object_format};
use crate::git::refs::{Advertised, Collector};

/// The most bytes that may come before the pack: lines for 500,000 commits. More than the sections of
/// any repository, and its commits still fit the memory that is not `--memory`.
const MAX_SECTIONS_BYTES: u64 = 32 << 20;

/// What of a server's capabilities matters for fetching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    agent: bool,
    object_format: Option<ObjectFormat>,
    ls_refs_unborn: bool,
    shallow: bool,
    filter: bool,
    bundle_uri: bool,
}

impl Capabilities {
    /// What the repository's objects are named with: SHA-1 if it does not say.
    pub(crate) fn format(self) -> ObjectFormat {
        self.object_format.unwrap_or_default()
    }

    /// Can the server send some objects without what they lead to?
    pub(crate) fn can_pick(self) -> bool {
        self.shallow && self.filter
    }

    /// Does the server say where bundles are?
    pub(crate) fn has_bundle_uri(self) -> bool {
        self.bundle_uri
    }

    /// Can the server send history down to a depth only?
    pub(crate) fn can_deepen(self) -> bool {
        self.shallow
    }
}

/// How much of history is asked for, and where what is there ends.
#[derive(Clone, Copy, Debug)]
pub struct Deepen<'a> {
    /// Commits that are there without their parents.
    pub shallow: &'a [Oid],
    /// How many generations from the wants on, the wants themselves counted; at least 1.
    pub depth: u32,
}

/// What changes where history is cut: the section `shallow-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShallowInfo {
    /// Commits that come without their parents.
    pub shallow: Vec<Oid>,
    /// Commits whose parents come now.
    pub unshallow: Vec<Oid>,
}

/// Reads the capabilities after the line `version 2`, up to the flush packet.
pub(crate) fn read_capabilities<R: Read>(
    packets: &mut Packets<R>,
) -> Result<Capabilities, ProtocolError> {
    let mut found = Capabilities::default();
    let (mut ls_refs, mut fetch) = (false, false);
    while let Some(line) = next_data(packets)? {
        let line = chomp(&line);
        let mut halves = line.splitn(2, |&byte| byte == b'=');
        let key = halves.next().unwrap_or_default();
        let value = halves.next().unwrap_or_default();
        match key {
            b"agent" => found.agent = true,
            b"bundle-uri" => found.bundle_uri = true,
            b"fetch" => {
                fetch = true;
                let has = |wanted: &[u8]| value.split(|&b| b == b' ').any(|word| word == wanted);
                (found.shallow, found.filter) = (has(b"shallow"), has(b"filter"));
            }
            b"ls-refs" => {
                ls_refs = true;
                found.ls_refs_unborn = value.split(|&b| b == b' ').any(|word| word == b"unborn");
            }
            b"object-format" if found.object_format.is_none() => {
                found.object_format = Some(object_format(value)?);
            }
            _ => {}
        }
    }
    match (ls_refs, fetch) {
        (true, true) => Ok(found),
        (false, _) => Err(ProtocolError::Unsupported("ls-refs")),
        (true, false) => Err(ProtocolError::Unsupported("fetch")),
    }
}

pub(crate) fn begin_command(capabilities: Capabilities, command: &str) -> Vec<u8> {
    let mut body = Vec::new();
    write_line(&mut body, &format!("command={command}"));
    if capabilities.agent {
        write_line(&mut body, &format!("agent={AGENT}"));
    }
    if let Some(format) = capabilities.object_format {
        write_line(&mut body, &format!("object-format={format}"));
    }
    body.extend_from_slice(pkt_line::DELIMITER);
    body
}

/// The body of the POST that asks for all refs. No `ref-prefix`: the filter is ours, and a mirror
/// must see when refs go away.
pub fn ls_refs_request(capabilities: Capabilities) -> Vec<u8> {
    let mut body = begin_command(capabilities, "ls-refs");
    write_line(&mut body, "peel");
    write_line(&mut body, "symrefs");
    if capabilities.ls_refs_unborn {
        write_line(&mut body, "unborn");
    }
    body.extend_from_slice(pkt_line::FLUSH);
    body
}

/// Reads the answer to [`ls_refs_request`].
pub fn read_refs<R: Read>(input: R, format: ObjectFormat) -> Result<Advertised, ProtocolError> {
    let mut packets = Packets::new(input);
    let mut refs = Collector::new(format);
    while let Some(line) = next_data(&mut packets)? {
        let line = chomp(&line);
        add_line(line, &mut refs)?.ok_or_else(|| ProtocolError::unexpected("ref line", line))?;
    }
    Ok(refs.finish())
}

/// Takes one line; `None`: it is malformed.
fn add_line(line: &[u8], refs: &mut Collector) -> Result<Option<()>, ProtocolError> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(first), Some(name)) = (words.next(), words.next()) else { return Ok(None) };
    let mut peeled = None;
    for attribute in words {
        if let Some(oid) = attribute.strip_prefix(b"peeled:") {
            let Some(oid) = Oid::from_hex(oid) else { return Ok(None) };
            peeled = Some(oid);
        } else if let Some(target) = attribute.strip_prefix(b"symref-target:")
            && name == b"HEAD"
        {
            refs.set_head_target(target);
        }
    }
    if first == b"unborn" {
        // Only HEAD can say more by being unborn than by not being there.
        return Ok(Some(()));
    }
    let Some(oid) = Oid::from_hex(first) else { return Ok(None) };
    refs.add(name, oid, peeled)?;
    Ok(Some(()))
}

/// The body of the POST that asks for a pack: `wants`, of which there must be one, `haves`, `done`.
pub fn fetch_request(capabilities: Capabilities, wants: &[Oid], haves: &[Oid]) -> Vec<u8> {
    request(capabilities, wants, haves, None, None)
}

/// The same for a part of history.
pub fn deepen_request(
    capabilities: Capabilities,
    wants: &[Oid],
    haves: &[Oid],
    deepen: Deepen<'_>,
) -> Vec<u8> {
    request(capabilities, wants, haves, Some(deepen), None)
}

fn request(
    capabilities: Capabilities,
    wants: &[Oid],
    haves: &[Oid],
    deepen: Option<Deepen<'_>>,
    filter: Option<&str>,
) -> Vec<u8> {
    let mut body = begin_command(capabilities, "fetch");
    write_line(&mut body, "ofs-delta");
    if filter.is_none() {
        write_line(&mut body, "include-tag");
    }
    for want in wants {
        write_line(&mut body, &format!("want {want}"));
    }
    for have in haves {
        write_line(&mut body, &format!("have {have}"));
    }
    if let Some(Deepen { shallow, depth }) = deepen {
        for commit in shallow {
            write_line(&mut body, &format!("shallow {commit}"));
        }
        write_line(&mut body, &format!("deepen {depth}"));
    }
    if let Some(filter) = filter {
        write_line(&mut body, &format!("filter {filter}"));
    }
    write_line(&mut body, "done");
    body.extend_from_slice(pkt_line::FLUSH);
    body
}

/// The same for these objects alone, of whatever kind: commits without their parents, and no tree or
/// blob that is not named. Version 2 sends what it has, also if no ref names it.
pub fn objects_request(capabilities: Capabilities, wants: &[Oid]) -> Vec<u8> {
    let deepen = Deepen { shallow: &[], depth: 1 };
    request(capabilities, wants, &[], Some(deepen), Some("tree:0"))
}

/// Reads the sections of the answer to [`fetch_request`] up to the line `packfile`; the pack's
/// side-bands follow.
pub fn read_until_pack<R: Read>(packets: &mut Packets<R>) -> Result<(), ProtocolError> {
    read_sections(packets, None)
}

/// The same for the answer to [`deepen_request`].
pub fn read_until_deepened_pack<R: Read>(
    packets: &mut Packets<R>,
) -> Result<ShallowInfo, ProtocolError> {
    let mut info = ShallowInfo::default();
    read_sections(packets, Some(&mut info))?;
    Ok(info)
}

fn read_sections<R: Read>(
    packets: &mut Packets<R>,
    mut info: Option<&mut ShallowInfo>,
) -> Result<(), ProtocolError> {
    let mut sections = Sections { packets, read_bytes: 0 };
    loop {
        let section = match sections.next()? {
            Packet::Data(line) => chomp(line),
            Packet::Flush => {
                return Err(ProtocolError::unexpected("end before the pack", b"Flush"));
            }
            other => {
                return Err(ProtocolError::unexpected("packet", format!("{other:?}").as_bytes()));
            }
        };
        match section {
            b"packfile" => return Ok(()),
            // A server must leave the first one out after `done`, but one that sends it is understood.
            b"acknowledgments" | b"wanted-refs" => while sections.line()?.is_some() {},
            b"shallow-info" => match &mut info {
                None => return Err(ProtocolError::Shallow),
                Some(info) => read_shallow_info(&mut sections, info)?,
            },
            other => return Err(ProtocolError::unexpected("section", other)),
        }
    }
}

fn read_shallow_info<R: Read>(
    sections: &mut Sections<'_, R>,
    info: &mut ShallowInfo,
) -> Result<(), ProtocolError> {
    while let Some(line) = sections.line()? {
        let (list, oid) = match line.strip_prefix(b"shallow ") {
            Some(oid) => (&mut info.shallow, Oid::from_hex(oid)),
            None => {
                let oid = line.strip_prefix(b"unshallow ").and_then(Oid::from_hex);
                (&mut info.unshallow, oid)
            }
        };
        list.push(oid.ok_or_else(|| ProtocolError::unexpected("shallow line", line))?);
    }
    Ok(())
}

/// Packets before the pack. A server could send them forever, and each is a sign of life.
struct Sections<'p, R> {
    packets: &'p mut Packets<R>,
    read_bytes: u64,
}

impl<R: Read> Sections<'_, R> {
    fn next(&mut self) -> Result<Packet<'_>, ProtocolError> {
        let packet = self.packets.read()?;
        let data_len = if let Packet::Data(data) = &packet { data.len() } else { 0 };
        self.read_bytes += 4 + data_len as u64;
        if self.read_bytes > MAX_SECTIONS_BYTES {
            return Err(ProtocolError::Endless(MAX_SECTIONS_BYTES));
        }
        Ok(packet)
    }

    /// The next line of a section; `None`: it has ended, and another one follows.
    fn line(&mut self) -> Result<Option<&[u8]>, ProtocolError> {
        match self.next()? {
            Packet::Data(line) => Ok(Some(chomp(line))),
            Packet::Delimiter => Ok(None),
            other => {
                let got = format!("{other:?}");
                Err(ProtocolError::unexpected("end before the pack", got.as_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::handshake::{Greeting, read_greeting};
    use crate::git::refs::{Head, RefName};

    const ONE: &str = "1111111111111111111111111111111111111111";
    const CAPABILITIES: &[u8] = include_bytes!("../../fixtures/wire/v2/capabilities.response");
    const LS_REFS: &[u8] = include_bytes!("../../fixtures/wire/v2/ls-refs.response");
    const UNBORN: &[u8] = include_bytes!("../../fixtures/wire/v2/ls-refs-unborn.response");
    const FETCH: &[u8] = include_bytes!("../../fixtures/wire/v2/fetch.response");

    fn packets(lines: &[&str], end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            write_line(&mut bytes, line);
        }
        bytes.extend_from_slice(end);
        bytes
    }

    fn greet(lines: &[&str]) -> Result<Greeting, ProtocolError> {
        read_greeting(&packets(lines, pkt_line::FLUSH)[..])
    }

    fn name(name: &str) -> RefName {
        RefName::new(name).unwrap()
    }

    #[test]
    fn single_objects_are_asked_for_without_what_they_lead_to() {
        let capabilities = Capabilities { shallow: true, filter: true, ..Capabilities::default() };
        assert!(capabilities.can_pick());
        assert!(!Capabilities { filter: false, ..capabilities }.can_pick());
        let body = objects_request(capabilities, &[Oid::from_bytes([0x11; 20])]);
        let text = String::from_utf8(body).unwrap();
        for line in ["want 1111111111111111111111111111111111111111", "deepen 1", "filter tree:0"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("include-tag") && !text.contains("have"), "{text}");
    }

    #[test]
    fn recorded_capabilities_are_read() {
        let all = Capabilities {
            agent: true,
            object_format: Some(ObjectFormat::Sha1),
            ls_refs_unborn: true,
            shallow: true,
            filter: false,
            bundle_uri: false,
        };
        assert_eq!(read_greeting(CAPABILITIES).unwrap(), Greeting::V2(all));
    }

    #[test]
    fn a_server_without_a_command_or_with_another_hash_is_refused() {
        let error = |lines: &[&str]| greet(lines).unwrap_err().to_string();
        assert!(error(&["version 2", "fetch"]).contains("does not offer ls-refs"));
        assert!(error(&["version 2", "ls-refs"]).contains("does not offer fetch"));
        let future = ["version 2", "ls-refs", "fetch", "object-format=sha512"];
        assert!(error(&future).contains("only sha1 and sha256"));
        assert!(greet(&["version 2", "ls-refs", "fetch=shallow", "future=1"]).is_ok());
        let Greeting::V2(found) = greet(&["version 2", "ls-refs", "fetch", "bundle-uri"]).unwrap()
        else {
            panic!("version 2")
        };
        assert!(found.has_bundle_uri());
    }

    #[test]
    fn format_that_the_server_names_is_asked_for_and_that_of_its_refs() {
        let lines = ["version 2", "ls-refs", "fetch", "object-format=sha256", "object-format=sha1"];
        let Greeting::V2(found) = greet(&lines).unwrap() else { panic!("version 2") };
        assert_eq!(found.format(), ObjectFormat::Sha256);
        let body = String::from_utf8(ls_refs_request(found)).unwrap();
        assert!(body.contains("object-format=sha256\n0001"), "{body}");
        let long = format!("{} refs/heads/a", "1".repeat(64));
        let refs = packets(&[&long], pkt_line::FLUSH);
        let advertisement = read_refs(&refs[..], found.format()).unwrap().advertisement;
        assert_eq!(advertisement.format, ObjectFormat::Sha256);
        assert_eq!(advertisement.refs[0].oid.format(), ObjectFormat::Sha256);
        let mixed = read_refs(&refs[..], ObjectFormat::Sha1).unwrap_err();
        assert!(matches!(mixed, ProtocolError::OtherFormat { .. }));
    }

    #[test]
    fn recorded_refs_are_read() {
        let advertisement = read_refs(LS_REFS, ObjectFormat::Sha1).unwrap().advertisement;
        let names: Vec<_> = advertisement.refs.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            ["refs/heads/main", "refs/heads/topic", "refs/tags/light", "refs/tags/v1"]
        );
        assert_eq!(advertisement.head, Head::Branch(name("refs/heads/main")));
        assert_eq!(advertisement.refs[3].peeled, Some(advertisement.refs[0].oid));
        assert_eq!(advertisement.refs[2].peeled, None);
    }

    #[test]
    fn the_unborn_branch_of_an_empty_repository_is_known() {
        let advertisement = read_refs(UNBORN, ObjectFormat::Sha1).unwrap().advertisement;
        assert_eq!(advertisement.refs, []);
        assert_eq!(advertisement.head, Head::Unborn(name("refs/heads/main")));
    }

    #[test]
    fn a_head_without_target_is_detached() {
        let bytes = packets(&[&format!("{ONE} HEAD")], pkt_line::FLUSH);
        let head = read_refs(&bytes[..], ObjectFormat::Sha1).unwrap().advertisement.head;
        assert_eq!(head, Head::Detached(Oid::from_bytes([0x11; 20])));
    }

    #[test]
    fn lines_that_are_no_refs_are_refused() {
        for bad in ["", ONE, "x refs/heads/a", &format!("{ONE} refs/tags/t peeled:1")] {
            let error =
                read_refs(&packets(&[bad], pkt_line::FLUSH)[..], ObjectFormat::Sha1).unwrap_err();
            assert!(matches!(error, ProtocolError::Unexpected { .. }), "{bad}");
        }
    }

    #[test]
    fn refs_cut_at_any_byte_are_an_error() {
        for cut in 0..LS_REFS.len() {
            assert!(read_refs(&LS_REFS[..cut], ObjectFormat::Sha1).is_err(), "{cut}");
        }
    }

    #[test]
    fn requests_follow_what_is_offered() {
        let oid = Oid::from_bytes([0x11; 20]);
        let bare = Capabilities::default();
        assert_eq!(ls_refs_request(bare), b"0014command=ls-refs\n00010009peel\n000csymrefs\n0000");
        let all = Capabilities {
            agent: true,
            object_format: Some(ObjectFormat::Sha1),
            ls_refs_unborn: true,
            shallow: true,
            filter: false,
            bundle_uri: false,
        };
        let text = String::from_utf8(ls_refs_request(all)).unwrap();
        assert!(text.contains("object-format=sha1\n0001") && text.ends_with("000bunborn\n0000"));
        let text = String::from_utf8(fetch_request(bare, &[oid], &[oid])).unwrap();
        let lines = format!("000eofs-delta\n0010include-tag\n0032want {ONE}\n0032have {ONE}\n");
        assert_eq!(text, format!("0012command=fetch\n0001{lines}0009done\n0000"));
    }

    #[test]
    fn the_pack_is_found_behind_other_sections() {
        let mut recorded = Packets::new(FETCH);
        read_until_pack(&mut recorded).unwrap();
        let acks = packets(&["acknowledgments", &format!("ACK {ONE}"), "ready"], b"0001");
        let bytes = [&acks[..], FETCH].concat();
        read_until_pack(&mut Packets::new(&bytes[..])).unwrap();
        let rest = |end: &[u8]| {
            let bytes = packets(&["acknowledgments", "NAK"], end);
            read_until_pack(&mut Packets::new(&bytes[..])).unwrap_err().to_string()
        };
        assert!(rest(b"0000").contains("end before the pack"));
        assert!(rest(b"").contains("ended early"));
    }

    #[test]
    fn a_shallow_answer_and_unknown_sections_are_refused() {
        let read = |line: &str| read_until_pack(&mut Packets::new(&packets(&[line], b"0001")[..]));
        assert!(matches!(read("shallow-info"), Err(ProtocolError::Shallow)));
        assert!(matches!(read("packfile-uris"), Err(ProtocolError::Unexpected { .. })));
        assert!(read_until_pack(&mut Packets::new(pkt_line::FLUSH)).is_err());
    }

    #[test]
    fn sections_without_an_end_are_refused_after_a_while() {
        let oid = Oid::from_bytes([0x11; 20]);
        let shallow = packets(&[&format!("shallow {oid}")], b"");
        for (name, again) in [
            ("acknowledgments", packets(&["NAK"], b"")),
            ("wanted-refs", packets(&[], b"0004")),
            ("shallow-info", shallow),
            ("acknowledgments", [pkt_line::DELIMITER, &packets(&["wanted-refs"], b"")].concat()),
        ] {
            let times = MAX_SECTIONS_BYTES as usize / again.len() + 2;
            let answer = [packets(&[name], b""), again.repeat(times)].concat();
            let mut read = Packets::new(&answer[..]);
            let error = read_until_deepened_pack(&mut read).unwrap_err();
            assert!(matches!(error, ProtocolError::Endless(_)), "{name}: {error}");
        }
        // A line for each of 100,000 commits is what a large repository may send.
        let line = packets(&[&format!("shallow {oid}")], b"").repeat(100_000);
        let end = packets(&["packfile"], b"");
        let begin = packets(&["shallow-info"], b"");
        let answer = [&begin[..], &line, pkt_line::DELIMITER, &end].concat();
        let info = read_until_deepened_pack(&mut Packets::new(&answer[..])).unwrap();
        assert_eq!(info.shallow.len(), 100_000);
    }
}
