//! Which addresses may be dialed, and how names become addresses. Dials nothing.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use claviger_core::BoxFuture;
use claviger_core::egress::Fault;
use claviger_core::http::CidrBlock;

/// A name may lead to at most this many addresses: large services publish a dozen.
const MAX_ADDRESSES: usize = 64;

/// Turns a host name into addresses. Asked once for each new connection, after the request was permitted, and never before.
pub trait Resolver: Debug + Send + Sync {
    /// All addresses of a host name, in the order in which they are tried.
    ///
    /// # Errors
    /// When there is none, or nobody who knows can be asked.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver. Dropping the future does not end a lookup that the system has begun.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            // The port is ours to add: the system is asked for addresses alone.
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Addresses that were checked against a grant, in canonical form, at least one. The only thing that is dialed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked(
    // Invariant: not empty; each is public or within a block that the grant names.
    Vec<IpAddr>,
);

impl Checked {
    /// Checks every address that a name leads to. One that is not allowed refuses all: a name that leads inside and outside is either
    /// a mistake or an attack.
    pub(crate) fn new(found: &[IpAddr], private_networks: &[CidrBlock]) -> Result<Self, Fault> {
        if found.is_empty() {
            return Err(Fault::NoAddress);
        }
        let mut checked = Vec::with_capacity(found.len().min(MAX_ADDRESSES));
        for address in found {
            let address = address.to_canonical();
            if found.len() > MAX_ADDRESSES || !allowed(address, private_networks) {
                return Err(Fault::ForbiddenAddress);
            }
            if !checked.contains(&address) {
                checked.push(address);
            }
        }
        Ok(Self(checked))
    }

    /// The addresses.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.0
    }
}

fn allowed(address: IpAddr, private_networks: &[CidrBlock]) -> bool {
    if names_no_single_host(address) {
        return false;
    }
    let public = match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    };
    public || private_networks.iter().any(|block| block.contains(address))
}

/// Addresses that no exception covers: systems take "this host" for loopback, and nobody holds a TLS server at the others.
fn names_no_single_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first == 0 || first >= 240 || address.is_multicast()
        }
        IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
    }
}

/// The IANA IPv4 Special-Purpose Address Registry (RFC 6890), without what it calls globally reachable.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)             // this network, private, loopback
            | (100, 64..=127, _)       // shared by carriers (RFC 6598)
            | (169, 254, _)            // link-local, with the metadata services of clouds
            | (172, 16..=31, _)        // private
            | (192, 0, 0 | 2)          // protocol assignments, documentation
            | (192, 52, 193)           // AMT relays (RFC 7450)
            | (192, 88, 99)            // 6to4 relays (RFC 7526)
            | (192, 168, _)            // private
            | (198, 18..=19, _)        // benchmarks (RFC 2544)
            | (198, 51, 100)           // documentation
            | (203, 0, 113)            // documentation
            | (224.., ..) // multicast, reserved, broadcast
    )
}

/// Global unicast (RFC 4291 §2.4: `2000::/3`) without the parts of the IANA IPv6 Special-Purpose Address Registry in it. Whatever
/// holds an IPv4 address (`::/96`, `64:ff9b::/96`, `2002::/16`, Teredo) is outside, whichever IPv4 address it is.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    (0x2000..=0x3fff).contains(&a)
        && !matches!(
            (a, b),
            (0x2001, 0..=0x01ff)       // protocol assignments: Teredo, ORCHID, benchmarks
                | (0x2001, 0x0db8)     // documentation
                | (0x2002, _)          // 6to4
                | (0x3fff, 0..=0x0fff) // documentation (RFC 9637)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &[&str], blocks: &[&str]) -> Result<Checked, Fault> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let blocks: Vec<CidrBlock> = blocks.iter().map(|text| text.parse().unwrap()).collect();
        Checked::new(&addresses, &blocks)
    }

    /// Addresses that lead to the machine itself, its neighbours, a cloud's metadata, or nowhere.
    const FORBIDDEN: [&str; 68] = [
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "10.0.0.0",
        "10.1.2.3",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.1.2.3",
        "127.255.255.255",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.170",
        "192.0.2.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::ffff:0.0.0.0",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:192.168.1.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ];

    #[test]
    fn no_special_address_is_dialed_alone_or_beside_a_public_one() {
        for address in FORBIDDEN {
            assert_eq!(check(&[address], &[]), Err(Fault::ForbiddenAddress), "{address}");
            for order in [["8.8.8.8", address], [address, "2606:4700::1111"]] {
                assert_eq!(check(&order, &[]), Err(Fault::ForbiddenAddress), "{address}");
            }
        }
    }

    #[test]
    fn public_addresses_are_dialed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(check(&[address], &[]).is_ok(), "{address}");
        }
    }

    #[test]
    fn an_exception_opens_its_block_and_no_more() {
        assert!(check(&["10.1.2.3", "8.8.8.8"], &["10.1.0.0/16"]).is_ok());
        assert!(check(&["::ffff:10.1.2.3"], &["10.1.0.0/16"]).is_ok());
        assert!(check(&["::1", "127.0.0.1"], &["127.0.0.0/8", "::1/128"]).is_ok());
        for (address, block) in [
            ("10.2.0.1", "10.1.0.0/16"),
            ("64:ff9b::10.1.2.3", "10.1.0.0/16"),
            ("0.0.0.0", "0.0.0.0/0"),
            ("255.255.255.255", "0.0.0.0/0"),
            ("224.0.0.1", "0.0.0.0/0"),
            ("ff02::1", "::/0"),
            ("::", "::/0"),
        ] {
            assert_eq!(
                check(&[address], &[block]),
                Err(Fault::ForbiddenAddress),
                "{address}"
            );
        }
    }

    #[test]
    fn what_is_dialed_is_canonical_without_repetition_and_bounded() {
        let checked = check(&["::ffff:8.8.8.8", "8.8.8.8"], &[]).unwrap();
        assert_eq!(checked.addresses(), ["8.8.8.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(check(&[], &[]), Err(Fault::NoAddress));
        assert_eq!(
            check(&["8.8.8.8"; MAX_ADDRESSES + 1], &[]),
            Err(Fault::ForbiddenAddress)
        );
    }
}
