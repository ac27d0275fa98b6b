//! The beginning of a conversation over smart HTTP: which protocol does the server speak?
//!
//! Follows gitprotocol-http(5), "Smart Server Response", and gitprotocol-v2(5), "Initial Client
//! Request". The answer to `GET info/refs?service=git-upload-pack` is recognised by its content: a server
//! that does not know `Git-Protocol: version=2` answers as version 0.

use std::io::Read;

use crate::git::fetch_v0::{self, AdvertisementV0};
use crate::git::fetch_v2::{self, Capabilities};
use crate::git::pkt_line::{Packets, chomp};
use crate::git::protocol::{ProtocolError, next_data};

/// What the server's first answer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Version 0 (or 1, which is 0 with one line before it): the refs are here.
    V0(AdvertisementV0),
    /// Version 2: what the server can do; the refs are asked for with
    /// [`fetch_v2::ls_refs_request`].
    V2(Capabilities),
}

/// Does this look like the beginning of a smart server's answer? For servers that give the wrong
/// Content-Type, as git's `check_smart_http` does it. Twelve bytes of `start` are enough.
pub fn looks_smart(start: &[u8]) -> bool {
    let text = start.get(4..).unwrap_or_default();
    start.len() >= 12 && (text.starts_with(b"# servic") || text.starts_with(b"version "))
}

/// Reads the whole first answer.
pub fn read_greeting<R: Read>(input: R) -> Result<Greeting, ProtocolError> {
    let mut packets = Packets::new(input);
    let mut first = next_data(&mut packets)?;
    if let Some(line) = &first
        && line.starts_with(b"# service=")
    {
        if chomp(line) != b"# service=git-upload-pack" {
            return Err(ProtocolError::unexpected("service", line));
        }
        if let Some(line) = next_data(&mut packets)? {
            return Err(ProtocolError::unexpected("line after the service's name", &line));
        }
        first = next_data(&mut packets)?;
    }
    match first.as_deref().map(chomp) {
        Some(b"version 2") => Ok(Greeting::V2(fetch_v2::read_capabilities(&mut packets)?)),
        Some(b"version 1") => {
            let first = next_data(&mut packets)?;
            Ok(Greeting::V0(fetch_v0::read_advertisement(first, &mut packets)?))
        }
        _ => Ok(Greeting::V0(fetch_v0::read_advertisement(first, &mut packets)?)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::git::bundle::read_header;
    use crate::git::refs::Head;
    use crate::git::sideband::Demux;

    const LS_REFS: &[u8] = include_bytes!("../../fixtures/wire/v2/ls-refs.response");
    const FETCH: &[u8] = include_bytes!("../../fixtures/wire/v2/fetch.response");

    const V0: &[u8] = include_bytes!("../../fixtures/wire/v0/advertisement.response");
    const V0_EMPTY: &[u8] = include_bytes!("../../fixtures/wire/v0/empty.response");
    const V2: &[u8] = include_bytes!("../../fixtures/wire/v2/capabilities.response");

    #[test]
    fn the_version_is_told_by_the_content() {
        assert!(matches!(read_greeting(V0), Ok(Greeting::V0(_))));
        assert!(matches!(read_greeting(V2), Ok(Greeting::V2(_))));
        // Some forges send the service's name before version 2 as well.
        let named = [&b"001e# service=git-upload-pack\n0000"[..], V2].concat();
        assert_eq!(read_greeting(&named[..]).unwrap(), read_greeting(V2).unwrap());
        let start = V0.iter().position(|&b| b == b'\n').unwrap() + 5;
        let one = [&V0[..start], b"000eversion 1\n", &V0[start..]].concat();
        assert_eq!(read_greeting(&one[..]).unwrap(), read_greeting(V0).unwrap());
    }

    #[test]
    fn an_empty_repository_is_no_error() {
        let Greeting::V0(v0) = read_greeting(V0_EMPTY).unwrap() else { panic!("version 0") };
        assert!(v0.advertised.advertisement.refs.is_empty());
        assert_eq!(v0.advertised.advertisement.head, Head::Absent);
    }

    #[test]
    fn another_service_is_refused() {
        let error = read_greeting(&b"001f# service=git-receive-pack\n0000"[..]).unwrap_err();
        assert!(error.to_string().contains("unexpected service"), "{error}");
    }

    #[test]
    fn an_answer_cut_at_any_byte_is_an_error() {
        for whole in [V0, V0_EMPTY, V2] {
            for cut in 0..whole.len() {
                assert!(read_greeting(&whole[..cut]).is_err(), "{cut}");
            }
        }
    }

    proptest! {
        /// Recorded answers with a few bytes changed: whatever comes, nobody panics.
        #[test]
        fn no_answer_makes_the_parsers_panic(
            which in 0..6usize,
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = [V0, V0_EMPTY, V2, LS_REFS, FETCH, b""][which].to_vec();
            bytes.push(b'0');
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = (read_greeting(&bytes[..]), fetch_v2::read_refs(&bytes[..], crate::git::object::ObjectFormat::Sha1));
            let mut packets = Packets::new(&bytes[..]);
            let _ = fetch_v2::read_until_pack(&mut packets);
            let mut demux = Demux::after_acks(packets.into_inner(), |_: &str| ());
            let _ = demux.read_to_end(&mut Vec::new());
            let _ = read_header(&mut &bytes[..], u64::MAX);
        }
    }

    #[test]
    fn a_smart_answer_is_recognised_without_its_content_type() {
        assert!(looks_smart(V0) && looks_smart(V2));
        for other in [&b""[..], b"<!DOCTYPE html>", b"0000", b"1111111111111111111111\trefs"] {
            assert!(!looks_smart(other));
        }
    }
}
