//! Where a server's bundles are: the command `bundle-uri` of protocol version 2.
//!
//! Follows gitprotocol-v2(5) and git's `Documentation/technical/bundle-uri.adoc`: a list of
//! `bundle.<id>.<key>=<value>` lines. Only what a first fetch needs is read: bundles of a whole
//! repository. Git's creation tokens order them, the oldest, on which the others build, first.

use std::collections::BTreeMap;
use std::io::Read;

use crate::git::fetch_v2::{self, Capabilities};
use crate::git::pkt_line::{self, Packets, chomp};
use crate::git::protocol::{ProtocolError, next_data};

/// More bundles than this are not looked at.
const MAX_BUNDLES: usize = 1000;

/// The body of the POST that asks for the list.
pub(crate) fn request(capabilities: Capabilities) -> Vec<u8> {
    let mut body = fetch_v2::begin_command(capabilities, "bundle-uri");
    body.extend_from_slice(pkt_line::FLUSH);
    body
}

#[derive(Default)]
struct Bundle {
    uri: Option<String>,
    token: u64,
    is_partial: bool,
}

/// Reads the answer: URIs, perhaps relative to the repository's own, the one to try first first. Lists
/// of a version that is not known are empty.
pub(crate) fn read_uris<R: Read>(input: R) -> Result<Vec<String>, ProtocolError> {
    let mut packets = Packets::new(input);
    let mut bundles: BTreeMap<String, Bundle> = BTreeMap::new();
    let mut order = Vec::new();
    let mut is_known = false;
    while let Some(line) = next_data(&mut packets)? {
        let Ok(line) = std::str::from_utf8(chomp(&line)) else { continue };
        let Some((key, value)) = line.split_once('=') else { continue };
        if key == "bundle.version" {
            is_known = value == "1";
        }
        let rest = key.strip_prefix("bundle.").and_then(|rest| rest.rsplit_once('.'));
        let Some((id, what)) = rest else { continue };
        if !bundles.contains_key(id) {
            if bundles.len() == MAX_BUNDLES {
                continue;
            }
            order.push(id.to_owned());
        }
        let bundle = bundles.entry(id.to_owned()).or_default();
        match what {
            "uri" => bundle.uri = Some(value.to_owned()),
            "creationToken" => bundle.token = value.parse().unwrap_or(u64::MAX),
            "filter" => bundle.is_partial = true,
            _ => {}
        }
    }
    let found = order.into_iter().filter_map(|id| bundles.remove(&id));
    let mut found: Vec<Bundle> = found.filter(|bundle| is_known && !bundle.is_partial).collect();
    found.sort_by_key(|bundle| bundle.token);
    Ok(found.into_iter().filter_map(|bundle| bundle.uri).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::pkt_line::write_line;

    fn read(lines: &[&str]) -> Vec<String> {
        let mut body = Vec::new();
        lines.iter().for_each(|line| write_line(&mut body, line));
        body.extend_from_slice(pkt_line::FLUSH);
        read_uris(&body[..]).unwrap()
    }

    #[test]
    fn oldest_token_comes_first_and_partial_bundles_are_left_out() {
        let found = read(&[
            "bundle.version=1",
            "bundle.mode=all",
            "bundle.heuristic=creationToken",
            "bundle.b.uri=https://cdn.example/2.bundle",
            "bundle.b.creationToken=2",
            "bundle.a.x.uri=one.bundle",
            "bundle.a.x.creationToken=1",
            "bundle.p.uri=partial.bundle",
            "bundle.p.filter=blob:none",
            "bundle.n.creationToken=0",
            "nonsense",
        ]);
        assert_eq!(found, ["one.bundle", "https://cdn.example/2.bundle"]);
        let found = read(&["bundle.version=1", "bundle.z.uri=z", "bundle.y.uri=y"]);
        assert_eq!(found, ["z", "y"], "without tokens as they are listed");
        assert!(read(&["bundle.version=2", "bundle.a.uri=a"]).is_empty());
        assert!(read(&[]).is_empty());
    }

    #[test]
    fn endless_list_is_cut() {
        let lines: Vec<String> = (0..3000).map(|n| format!("bundle.{n}.uri=u")).collect();
        let lines = ["bundle.version=1"].into_iter().chain(lines.iter().map(String::as_str));
        assert_eq!(read(&lines.collect::<Vec<_>>()).len(), MAX_BUNDLES);
        assert!(read_uris(&b"0005"[..]).is_err());
    }
}
