//! Incoming connections, until their key is known and passes: before that, the network address is all there is to
//! count by.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use iroh::Endpoint;
use iroh::endpoint::{Incoming, IncomingAddr};
use muster_core::ids::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::account::Book;
use crate::addr::node_id;
use crate::connection::Connection;
use crate::limits::Bucket;
use crate::stats::Stats;
use crate::{CloseCode, Limits, NetError};

/// Network addresses whose rate is remembered.
const SOURCES_MAX: usize = 4_096;

/// Where an incoming connection comes from, as far as that can be counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    /// A /64: what one customer gets.
    V6([u8; 8]),
    /// Through a relay, which vouches for the key.
    Relayed(NodeId),
    Other,
}

impl Source {
    fn of(addr: &IncomingAddr) -> Self {
        match addr {
            IncomingAddr::Ip(addr) => match addr.ip().to_canonical() {
                IpAddr::V4(ip) => Self::V4(ip.octets()),
                IpAddr::V6(ip) => Self::V6(network(ip)),
            },
            IncomingAddr::Relay { endpoint_id, .. } => Self::Relayed(node_id(*endpoint_id)),
            _ => Self::Other,
        }
    }
}

fn network(ip: Ipv6Addr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = ip.octets();
    [a, b, c, d, e, f, g, h]
}

/// What to do with an incoming connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Shake,
    /// Let it first prove that it is where it says: that costs us nothing.
    Prove,
    /// Not worth an answer.
    Ignore,
}

/// Counts handshakes by where they come from.
#[derive(Debug, Default)]
struct Gate {
    sources: HashMap<Source, Bucket>,
}

impl Gate {
    fn judge(&mut self, source: Source, proved: bool, pending: usize, limits: &Limits, now: Instant) -> Verdict {
        if pending >= limits.handshakes_max {
            return Verdict::Ignore;
        }
        // Addresses can be forged until they are proved: then a flood could name anybody, and exhaust anybody's rate.
        if !proved && pending >= limits.handshakes_max / 4 && matches!(source, Source::V4(_) | Source::V6(_)) {
            return Verdict::Prove;
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= SOURCES_MAX {
                return Verdict::Ignore;
            }
        }
        if self.sources.entry(source).or_default().take(limits.handshakes, now) {
            Verdict::Shake
        } else {
            Verdict::Ignore
        }
    }
}

/// What the accepting task needs of its peer.
pub(crate) struct Acceptor {
    pub(crate) endpoint: Endpoint,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) book: Arc<Book>,
    /// `None` for a node that takes no connections.
    pub(crate) accepted: Option<mpsc::Sender<Connection>>,
}

impl Acceptor {
    /// Runs until the endpoint closes.
    pub(crate) async fn run(self) {
        let mut gate = Gate::default();
        let mut shaking = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take(incoming, &mut gate, &mut shaking),
                    None => return,
                },
                Some(done) = shaking.join_next() => {
                    if let Err(error) = done.unwrap_or_else(|panic| Err(NetError::Io(panic.into()))) {
                        self.stats.refused.add_one();
                        debug!(%error, "incoming connection turned down");
                    }
                }
            }
        }
    }

    fn take(&self, incoming: Incoming, gate: &mut Gate, shaking: &mut JoinSet<Result<(), NetError>>) {
        let Some(accepted) = &self.accepted else {
            incoming.refuse();
            self.stats.refused.add_one();
            return;
        };
        let source = Source::of(&incoming.remote_addr());
        let proved = incoming.remote_addr_validated();
        match gate.judge(source, proved, shaking.len(), &self.limits, Instant::now()) {
            Verdict::Shake => {
                let (limits, book) = (Arc::clone(&self.limits), Arc::clone(&self.book));
                shaking.spawn(shake(incoming, limits, book, accepted.clone()));
            }
            Verdict::Prove => {
                if let Err(proved_already) = incoming.retry() {
                    // Cannot be, as it was asked above; dropping it refuses it.
                    drop(proved_already);
                }
            }
            Verdict::Ignore => {
                incoming.ignore();
                self.stats.refused.add_one();
            }
        }
    }
}

async fn shake(
    incoming: Incoming,
    limits: Arc<Limits>,
    book: Arc<Book>,
    accepted: mpsc::Sender<Connection>,
) -> Result<(), NetError> {
    let after = limits.header_deadline;
    let shaken = timeout(after, async { incoming.await.map_err(|error| NetError::Io(std::io::Error::other(error))) });
    let quic = shaken.await.unwrap_or(Err(NetError::Timeout { what: "a handshake", after }))?;
    let account = book.open(node_id(quic.remote_id()), Instant::now());
    let connection = Connection::new(quic, Arc::clone(&account));
    if let Err(error) = account.incoming(Instant::now()) {
        connection.close_with(CloseCode::Banned, &error.to_string());
        return Err(error);
    }
    let connection = connection.register()?;
    accepted.try_send(connection).map_err(|refused| {
        let connection = match refused {
            mpsc::error::TrySendError::Full(connection) | mpsc::error::TrySendError::Closed(connection) => connection,
        };
        connection.close_with(CloseCode::Busy, "too many connections wait to be taken");
        NetError::Closed
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    #[test]
    fn one_source_that_floods_does_not_shut_out_another() {
        let limits = Limits { handshakes: Rate::new(1, 2), handshakes_max: 8, ..Limits::bulk() };
        let (mut gate, now) = (Gate::default(), Instant::now());
        let (bad, good) = (Source::V4([192, 0, 2, 1]), Source::V4([192, 0, 2, 2]));
        let verdicts = [0; 4].map(|_| gate.judge(bad, false, 0, &limits, now));
        assert_eq!(verdicts, [Verdict::Shake, Verdict::Shake, Verdict::Ignore, Verdict::Ignore]);
        assert_eq!(gate.judge(good, false, 0, &limits, now), Verdict::Shake);
        // Under pressure an address must be proved first, and at the limit nobody gets in.
        assert_eq!(gate.judge(good, false, 2, &limits, now), Verdict::Prove);
        assert_eq!(gate.judge(good, true, 2, &limits, now), Verdict::Shake);
        assert_eq!(gate.judge(good, true, 8, &limits, now), Verdict::Ignore);
    }

    #[test]
    fn the_gate_is_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for i in 0..u32::try_from(SOURCES_MAX * 2).unwrap() {
            gate.judge(Source::V4(i.to_be_bytes()), false, 0, &Limits::bulk(), now);
        }
        assert_eq!(gate.sources.len(), SOURCES_MAX);
        let later = now + std::time::Duration::from_secs(60);
        assert_eq!(gate.judge(Source::Other, false, 0, &Limits::bulk(), later), Verdict::Shake);
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        let of = |text: &str| Source::of(&IncomingAddr::Ip(text.parse().unwrap()));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:2"));
    }
}
