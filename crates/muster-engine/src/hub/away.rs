//! Where a hub may send a reader: to public addresses.

use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why a name leads nowhere.
const NOT_PUBLIC: &str = "the name leads to an address of a private network";

/// Resolves names to public addresses only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Public;

#[derive(Debug, thiserror::Error)]
#[error("{NOT_PUBLIC}")]
struct NotPublic;

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The port is the request's own.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|addr| is_public(addr.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// What went wrong, without an address.
pub(super) fn words(error: &reqwest::Error) -> &'static str {
    let mut source = error.source();
    while let Some(inner) = source {
        if inner.downcast_ref::<NotPublic>().is_some() {
            return NOT_PUBLIC;
        }
        source = inner.source();
    }
    if error.is_timeout() {
        "it took too long"
    } else if error.is_connect() {
        "nobody answers there"
    } else {
        "the connection failed"
    }
}

/// Whether an address is one that everybody can reach.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => is_public_4(mapped),
            None => is_public_6(ip),
        },
    }
}

fn is_public_4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let special = a == 0 || a >= 240 || (a == 192 && b == 0 && c == 0);
    let private = ip.is_private() || ip.is_loopback() || ip.is_link_local();
    !(private || shared || benchmark || special || ip.is_multicast() || ip.is_documentation())
}

fn is_public_6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    // Only 2000::/3 is given out; of that, those that wrap an IPv4 address (Teredo, 6to4) and examples are not followed.
    let global = first & 0xe000 == 0x2000;
    let wrapped = first == 0x2002 || (first == 0x2001 && second < 0x200);
    global && !wrapped && !(first == 0x2001 && second == 0x0db8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_private_networks_are_told_from_public_ones() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for good in ["8.8.8.8", "93.184.216.34", "2606:4700::1", "2a00:1450:4001::1"] {
            assert!(public(good), "{good}");
        }
        for bad in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::1",
            "64:ff9b::a00:1",
            "2001::1",
        ] {
            assert!(!public(bad), "{bad}");
        }
    }
}
