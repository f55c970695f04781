//! Finding a Container through one of the network's Indexers.

use muster_core::brain::consumer::{Seek, SeekStep};
use muster_core::ids::RequestId;
use muster_core::pricing::Exchange;
use muster_core::protocol::{MatchFailed, MatchFailure, MatchReply, MatchRequest, Matched};
use muster_net::{StreamKind, verify};
use muster_wire::Signature64;
use muster_wire::message::terms_bytes;
use std::time::Duration;

use muster_core::demand::Demand;

use crate::renter::Renter;
use crate::session::SessionKey;

/// What a Container signs when it accepts terms.
pub const ACCEPTANCE_CONTEXT: &str = "muster/acceptance/1";

/// Why no Container was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeekError {
    /// No Container could ever meet the demand; the nearest miss is named.
    #[error("no Container fits: {}", .0.why)]
    NothingFits(MatchFailed),
    /// Some could, once they are free.
    #[error("every Container that fits is busy: {}", .0.why)]
    Busy(MatchFailed),
    /// The request is wrong, or an Indexer answered wrongly.
    #[error("the request was refused: {}", .0.why)]
    Refused(MatchFailed),
    /// The Indexers that answered take no requests just now.
    #[error("the Indexers are overloaded: {}", .0.why)]
    Overloaded(MatchFailed),
    /// No Indexer can be reached.
    #[error(
        "none of the {asked} Indexers of network {network:?} can be reached; is the network running, and this machine connected to it?"
    )]
    Unreachable {
        /// How many were tried.
        asked: u32,
        /// The network's name.
        network: String,
    },
    /// The network file names no Indexer.
    #[error("the network file names no Indexer; ask whoever gave it to you for a newer one")]
    NoIndexers,
    /// This process holds no wallet.
    #[error("renting needs a wallet")]
    NoWallet,
}

impl SeekError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Overloaded(_)) || self.is_young()
    }

    /// Whether the network, as far as it can be seen, has only just begun or is starting again: no Indexer answers, or
    /// those that do know no Container at all yet.
    #[must_use]
    pub const fn is_young(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::NothingFits(failed) => failed.considered == 0,
            Self::Busy(_) | Self::Refused(_) | Self::Overloaded(_) | Self::NoIndexers | Self::NoWallet => false,
        }
    }
}

/// Asks Indexers, in an order drawn at random, until one finds a Container that holds a slot. `deposit_seconds` is how
/// long the deposit shall last.
///
/// # Errors
/// As [`SeekError`].
pub async fn seek(
    renter: &Renter,
    demand: &Demand,
    deposit_seconds: u64,
    key: &SessionKey,
) -> Result<Matched, SeekError> {
    let consumer = renter.ledger().consumer().ok_or(SeekError::NoWallet)?;
    let addrs = renter.network().indexer_addrs();
    if addrs.is_empty() {
        return Err(SeekError::NoIndexers);
    }
    let salt: [u8; 32] = rand::random();
    let request = MatchRequest {
        request: RequestId(rand::random()),
        lease: renter.ledger().lease_id(consumer, salt),
        salt,
        consumer,
        session_key: key.address(),
        demand: demand.clone(),
        deposit_seconds: deposit_seconds.clamp(1, demand.time_limit_s.max(1)),
    };
    let ids: Vec<_> = addrs.iter().map(|a| a.id).collect();
    let mut brain = Seek::new(request.clone(), &ids, rand::random(), renter.params());
    let within = Duration::from_millis(renter.params().match_timeout_ms);
    let mut step = brain.begin(renter.now());
    loop {
        step = match step {
            SeekStep::Ask(id) => {
                let answer = match addrs.iter().find(|a| a.id == id) {
                    Some(addr) => renter.ask::<_, MatchReply>(addr, StreamKind::Demand, &request, within).await,
                    None => Err("it is not in the network file".to_owned()),
                };
                match answer {
                    Ok(reply) => brain.answered(id, believable(renter, &request, reply), renter.now()),
                    Err(why) => {
                        tracing::info!(indexer = %id.short(), %why, "an Indexer was passed over");
                        brain.unreachable(id, renter.now())
                    }
                }
            }
            SeekStep::Wait => brain.tick(renter.now()),
            SeekStep::Matched(matched) => return Ok(*matched),
            SeekStep::Failed { answer, unreachable } => return Err(failed(renter, answer, unreachable)),
        };
    }
}

fn failed(renter: &Renter, answer: Option<MatchFailed>, unreachable: u32) -> SeekError {
    match answer {
        None => SeekError::Unreachable { asked: unreachable, network: renter.network().name.clone() },
        Some(failed) => match failed.kind {
            MatchFailure::NothingFits => SeekError::NothingFits(failed),
            MatchFailure::Busy => SeekError::Busy(failed),
            MatchFailure::BadRequest => SeekError::Refused(failed),
            MatchFailure::Overloaded => SeekError::Overloaded(failed),
        },
    }
}

/// A match that the Container did not sign, or that costs more than was allowed, is none: an Indexer may lie.
fn believable(renter: &Renter, request: &MatchRequest, reply: MatchReply) -> MatchReply {
    let MatchReply::Matched(matched) = &reply else { return reply };
    match check(renter, request, matched) {
        Ok(()) => reply,
        Err(why) => {
            tracing::warn!(indexer = %matched.terms.indexer.short(), %why, "an Indexer's proposal was not believed");
            let kind = MatchFailure::BadRequest;
            MatchReply::Failed(MatchFailed { kind, why, considered: 0, turned_down: Vec::new() })
        }
    }
}

fn check(renter: &Renter, request: &MatchRequest, matched: &Matched) -> Result<(), String> {
    let terms = &matched.terms;
    let bytes = terms_bytes(terms).map_err(|e| e.to_string())?;
    verify(terms.container, ACCEPTANCE_CONTEXT, &bytes, &Signature64::from(matched.acceptance))
        .map_err(|_| "the Indexer proposed terms that the Container has not signed".to_owned())?;
    if terms.interval_ms > renter.params().voucher_interval_ms {
        return Err("the Indexer proposed a longer voucher interval than the network allows".to_owned());
    }
    if let Some(most) = request.demand.price_max {
        let exchange = Exchange { token_price: renter.params().token_price };
        let allowed = exchange.rate_per_second(most).map_err(|e| e.to_string())?;
        if terms.rate_per_second > allowed {
            let got = terms.rate_per_second;
            return Err(format!("the Indexer proposed {got} tokens a second, more than the {allowed} allowed"));
        }
    }
    Ok(())
}
