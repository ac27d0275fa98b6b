//! Which networks a request may go to.
//!
//! An LFS server says where its objects are. Were that followed anywhere, whoever controls it could
//! have this machine ask its own services, the cloud's metadata, or what only its own network can
//! reach. So such requests stay on the public Internet and in the kinds of networks that the source
//! itself is in. It is decided by the address that the connection is made to, not by the host's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of network an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The Internet.
    Public,
    /// Private and shared address space: `10.0.0.0/8`, `fc00::/7` and the like.
    Private,
    /// This machine.
    Loopback,
    /// The nearest machines, the cloud's metadata among them (`169.254.0.0/16`, `fe80::/10`), which some
    /// clouds have at an address of a private network; also what is no address to connect to.
    LinkLocal,
}

/// Where Alibaba Cloud has its metadata.
const METADATA_V4: [u8; 4] = [100, 100, 100, 200];

/// Where AWS has its metadata beside `169.254.169.254`.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl Network {
    /// Where `address` is.
    pub fn of(address: IpAddr) -> Network {
        match address {
            IpAddr::V4(address) => Network::of_v4(address),
            IpAddr::V6(address) => match embedded_v4(address) {
                Some(address) => Network::of_v4(address),
                None => Network::of_v6(address),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Network {
        match address.octets() {
            [127, ..] | [0, ..] => Network::Loopback,
            METADATA_V4 | [169, 254, ..] | [224..=255, ..] => Network::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Network::Private,
            [100, 64..=127, ..] | [198, 18..=19, ..] | [192, 0, 0, _] => Network::Private,
            _ => Network::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Network {
        match address.segments()[0] {
            _ if address.is_loopback() || address.is_unspecified() => Network::Loopback,
            _ if address == METADATA_V6 => Network::LinkLocal,
            // Unique local, and what was site local.
            0xfc00..=0xfdff | 0xfec0..=0xfeff => Network::Private,
            0xfe80..=0xfebf | 0xff00.. => Network::LinkLocal,
            _ => Network::Public,
        }
    }
}

/// An IPv4 address in IPv6 clothes: mapped, compatible, behind NAT64 (`64:ff9b::/96`) or a 6to4 relay
/// (`2002::/16`).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, mut high, mut low] = address.segments();
    let is_6to4 = a == 0x2002;
    if is_6to4 {
        (high, low) = (b, c);
    }
    let prefix = [a, b, c, d, e, f];
    let is_embedded = prefix == [0, 0, 0, 0, 0, 0xffff] || prefix == [0x64, 0xff9b, 0, 0, 0, 0];
    let is_compatible = prefix == [0; 6] && high != 0;
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    (is_embedded || is_compatible || is_6to4).then(|| Ipv4Addr::new(a, b, c, d))
}

/// The networks that requests may go to: always the public one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    private: bool,
    loopback: bool,
    link_local: bool,
}

impl Reach {
    /// Everywhere.
    pub const ANYWHERE: Reach = Reach { private: true, loopback: true, link_local: true };

    /// The same and what who is in `network` can reach: others there; and from this machine itself
    /// its private networks.
    #[must_use]
    pub fn and(self, network: Network) -> Reach {
        match network {
            Network::Public => self,
            Network::Private => Reach { private: true, ..self },
            Network::Loopback => Reach { private: true, loopback: true, ..self },
            Network::LinkLocal => Reach { link_local: true, ..self },
        }
    }

    /// May a request go to `address`?
    pub fn covers(self, address: IpAddr) -> bool {
        match Network::of(address) {
            Network::Public => true,
            Network::Private => self.private,
            Network::Loopback => self.loopback,
            Network::LinkLocal => self.link_local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_network() {
        for (address, network) in [
            ("8.8.8.8", Network::Public),
            ("172.15.0.1", Network::Public),
            ("192.0.0.192", Network::Private),
            ("192.0.1.1", Network::Public),
            ("2002:7f00:1::", Network::Loopback),
            ("2002:a9fe:a9fe::1", Network::LinkLocal),
            ("2002:808:808::1", Network::Public),
            ("172.32.0.1", Network::Public),
            ("2001:db8::1", Network::Public),
            ("10.1.2.3", Network::Private),
            ("172.16.0.1", Network::Private),
            ("172.31.255.255", Network::Private),
            ("192.168.0.1", Network::Private),
            ("100.64.0.1", Network::Private),
            ("fd00:ec2::253", Network::Private),
            ("fd00:ec2::254", Network::LinkLocal),
            ("100.100.100.200", Network::LinkLocal),
            ("::ffff:100.100.100.200", Network::LinkLocal),
            ("100.100.100.201", Network::Private),
            ("127.0.0.1", Network::Loopback),
            ("127.8.9.1", Network::Loopback),
            ("0.0.0.0", Network::Loopback),
            ("::1", Network::Loopback),
            ("::", Network::Loopback),
            ("169.254.169.254", Network::LinkLocal),
            ("224.0.0.1", Network::LinkLocal),
            ("fe80::1", Network::LinkLocal),
            ("ff02::1", Network::LinkLocal),
            ("::ffff:169.254.169.254", Network::LinkLocal),
            ("::ffff:127.0.0.1", Network::Loopback),
            ("64:ff9b::10.0.0.1", Network::Private),
            ("::127.0.0.1", Network::Loopback),
            ("::ffff:8.8.8.8", Network::Public),
        ] {
            assert_eq!(Network::of(address.parse().unwrap()), network, "{address}");
        }
    }

    #[test]
    fn who_is_in_a_network_reaches_it_and_the_public_one() {
        let [public, private, loopback, metadata] =
            ["8.8.8.8", "10.0.0.1", "127.0.0.1", "169.254.169.254"].map(|a| a.parse().unwrap());
        for (network, reached) in [
            (Network::Public, [true, false, false, false]),
            (Network::Private, [true, true, false, false]),
            (Network::Loopback, [true, true, true, false]),
            (Network::LinkLocal, [true, false, false, true]),
        ] {
            let reach = Reach::default().and(network);
            let found = [public, private, loopback, metadata].map(|address| reach.covers(address));
            assert_eq!(found, reached, "{network:?}");
        }
        assert!(Reach::ANYWHERE.covers(metadata));
    }
}
