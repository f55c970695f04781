//! How often somebody may ask: by address and by account.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::refusal::Refusal;

/// Requests a second that an address may keep up, and how many at once.
const ADDRESS: Rate = Rate { each_s: 50.0, burst: 200.0 };
/// The same for an account.
const ACCOUNT: Rate = Rate { each_s: 20.0, burst: 60.0 };
/// Addresses and accounts that are remembered; the least lately seen are forgotten, which gives them a full bucket.
const REMEMBERED_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug)]
struct Rate {
    each_s: f64,
    burst: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Account(String),
}

/// Buckets of all who asked lately.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: Mutex<HashMap<Who, Bucket>>,
}

impl Limits {
    /// Counts a request of an address.
    pub(crate) fn address(&self, ip: IpAddr) -> Result<(), Refusal> {
        self.take(Who::Address(network_of(ip)), ADDRESS, Instant::now(), "address")
    }

    /// Counts a request of an account.
    pub(crate) fn account(&self, name: &str) -> Result<(), Refusal> {
        self.take(Who::Account(name.to_owned()), ACCOUNT, Instant::now(), "account")
    }

    fn take(&self, who: Who, rate: Rate, now: Instant, what: &str) -> Result<(), Refusal> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED_MAX && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs_f64() * rate.each_s < rate.burst);
            if buckets.len() >= REMEMBERED_MAX {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(who).or_insert(Bucket { left: rate.burst, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64();
        bucket.left = passed.mul_add(rate.each_s, bucket.left).min(rate.burst);
        bucket.at = now;
        if bucket.left < 1.0 {
            let why = format!("more than {} requests a second from this {what}; wait a second", rate.each_s);
            return Err(Refusal::too_many(why, 1));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

/// Whoever has an IPv6 address has a whole network of them.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(six) => IpAddr::V6(std::net::Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let (limits, now) = (Limits::default(), Instant::now());
        let ask = |at| limits.take(Who::Account("a".into()), ACCOUNT, at, "account").is_ok();
        assert_eq!((0..200).filter(|_| ask(now)).count(), 60);
        assert_eq!((0..200).filter(|_| ask(now + Duration::from_secs(1))).count(), 20);
        assert!(limits.take(Who::Account("b".into()), ACCOUNT, now, "account").is_ok());
    }

    #[test]
    fn neighbours_of_an_ipv6_network_share_a_bucket() {
        let net = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::2"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_ne!(net("10.0.0.1"), net("10.0.0.2"));
    }
}
