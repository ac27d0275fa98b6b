//! `NO_PROXY`: which hosts are reached without a proxy.

use std::net::IpAddr;

/// `NO_PROXY`, as curl reads it: `*`, hosts, domains with or without a leading dot (or `*.`), IP
/// addresses and CIDR blocks, apart by commas or spaces. A port is ignored.
#[derive(Clone, Debug, Default)]
pub(super) struct NoProxy {
    all: bool,
    domains: Vec<String>,
    blocks: Vec<(IpAddr, u8)>,
}

impl NoProxy {
    pub(super) fn parse(list: &str) -> Self {
        let mut parsed = NoProxy::default();
        for entry in list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                parsed.all = true;
            } else if let Some(block) = parse_block(entry) {
                parsed.blocks.push(block);
            } else {
                let host = entry.trim_start_matches("*.").trim_start_matches('.');
                let host = host.split_once(':').map_or(host, |(host, _port)| host);
                parsed.domains.push(host.trim_end_matches('.').to_ascii_lowercase());
            }
        }
        parsed
    }

    pub(super) fn covers(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.all || self.blocks.iter().any(|&block| block_has(block, address));
        }
        let host = bare.trim_end_matches('.').to_ascii_lowercase();
        let below = |domain: &String| {
            host.strip_suffix(domain.as_str())
                .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
        };
        self.all || self.domains.iter().any(below)
    }
}

/// `10.0.0.0/8`, `10.1.2.3`, `[::1]`, `fd00::/8`.
fn parse_block(entry: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = match entry.split_once('/') {
        Some((address, len)) => (address, Some(len.parse::<u8>().ok()?)),
        None => (entry, None),
    };
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(most);
    (len <= most).then_some((address, len))
}

fn block_has((network, len): (IpAddr, u8), address: IpAddr) -> bool {
    // Shifted by the whole width there is nothing left to compare: a block of length 0 has all.
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = u32::from(network) ^ u32::from(address);
            differ.checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = u128::from(network) ^ u128::from(address);
            differ.checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_takes_hosts_domains_addresses_and_blocks() {
        let list = NoProxy::parse(
            "localhost, .corp.example,*.lab.example ex.org:80 10.0.0.0/8,::1,192.168.7.7,fd00::/8",
        );
        for covered in [
            "localhost",
            "LOCALHOST",
            "git.corp.example",
            "corp.example",
            "a.lab.example",
            "ex.org",
            "www.ex.org.",
            "10.200.1.1",
            "[::1]",
            "192.168.7.7",
            "[fd12::1]",
        ] {
            assert!(list.covers(covered), "{covered}");
        }
        for other in [
            "notlocalhost",
            "xcorp.example",
            "org",
            "11.0.0.1",
            "[::2]",
            "192.168.7.8",
            "[fe80::1]",
            "",
        ] {
            assert!(!list.covers(other), "{other}");
        }
        assert!(NoProxy::parse("*").covers("anything"));
        assert!(NoProxy::parse("0.0.0.0/0").covers("1.2.3.4"));
        assert!(!NoProxy::parse("").covers("anything"));
    }
}
