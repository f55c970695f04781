//! Deposits that do not come back by themselves.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use muster_core::ids::LeaseId;
use muster_core::lease::Phase;
use muster_core::protocol::EscrowStatus;
use muster_core::units::TokenAmount;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{LeaseError, RECLAIM_EVERY, finish};
use crate::ledger::LedgerError;
use crate::renter::Renter;

/// Leases that were given up longer ago are not looked at any more, in milliseconds: four weeks.
const RECLAIM_WITHIN_MS: u64 = 28 * 24 * 3_600_000;
/// Leases that are brought to their end at once at most.
const AT_ONCE_MAX: usize = 64;

/// A lease whose deposit was brought back, or is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reclaimed {
    /// Which.
    pub id: LeaseId,
    /// What the escrow gave back so far.
    pub refunded: TokenAmount,
    /// Whether the chain has closed it; if not, its challenge window is not over.
    pub closed: bool,
    /// Why it could not be brought to its end, if so.
    pub problem: Option<String>,
}

/// Brings back what is stuck: of leases whose Container vanished, which only the wallet can close, and of leases that had
/// been given up here before their deposit reached the chain (a chain that was unreachable for long, a process that was
/// killed at the wrong moment). Waits `within` for challenge windows at most; what is not over then can be asked for again.
/// Leases for which there is nothing to do are not named.
///
/// # Errors
/// The folder cannot be read, or the chain does not answer.
pub async fn reclaim(renter: &Renter, within: Duration) -> Result<Vec<Reclaimed>, LeaseError> {
    let until = Instant::now() + within;
    let stuck = stuck(renter)?;
    let closing = stream::iter(stuck).map(|(lease, how)| async move {
        let done = match how {
            How::Finish => {
                let (events, _nobody_watches) = mpsc::channel(1);
                finish(renter, lease, within, events).await.map(|_| true)
            }
            How::Close => close_and_wait(renter, lease, until).await.map_err(LeaseError::from),
        };
        (lease, done)
    });
    let closed: Vec<_> = closing.buffer_unordered(AT_ONCE_MAX).collect().await;
    let mut reclaimed = Vec::new();
    for (id, done) in closed {
        let problem = match done {
            Ok(true) => None,
            Ok(false) => continue,
            Err(error) => Some(error.to_string()),
        };
        let view = renter.ledger().lease(id).await?;
        let closed = matches!(view.status, EscrowStatus::Closed | EscrowStatus::None);
        let refunded = if closed { view.deposit.saturating_sub(view.redeemed) } else { TokenAmount::ZERO };
        reclaimed.push(Reclaimed { id, refunded, closed, problem });
    }
    reclaimed.sort_by_key(|r| r.id);
    Ok(reclaimed)
}

/// What a lease needs.
enum How {
    /// Its record says that the wallet is needed.
    Finish,
    /// It was given up; the chain may have it all the same.
    Close,
}

/// Leases of this network, paid by this wallet, for which something may have to be done.
fn stuck(renter: &Renter) -> Result<Vec<(LeaseId, How)>, LeaseError> {
    let Some(wallet) = renter.ledger().consumer() else {
        return Err(LedgerError::NoWallet("bringing deposits back").into());
    };
    let network = renter.network().fingerprint();
    let mut stuck = Vec::new();
    for lease in renter.dir().leases()? {
        // A damaged record is told by `list`; the others are not to suffer for it.
        let Ok(record) = renter.dir().read(lease) else { continue };
        if record.plan.network != network || record.state.rented.lease.terms.consumer != wallet {
            continue;
        }
        if record.state.needs.is_some() {
            stuck.push((lease, How::Finish));
        } else if record.state.rented.lease.phase == Phase::Void
            && renter.now().since(record.plan.created_at) <= RECLAIM_WITHIN_MS
        {
            stuck.push((lease, How::Close));
        }
    }
    Ok(stuck)
}

/// Closes a lease that should not be open, and waits for the end of its challenge window. `false`: it is not.
async fn close_and_wait(renter: &Renter, lease: LeaseId, until: Instant) -> Result<bool, LedgerError> {
    let mut found = false;
    while close_stray(renter, lease).await? {
        found = true;
        if Instant::now() >= until {
            break;
        }
        tokio::time::sleep(RECLAIM_EVERY).await;
    }
    Ok(found)
}

/// Begins or ends the closing of a lease that should not be open. `false`: it is not.
pub(super) async fn close_stray(renter: &Renter, lease: LeaseId) -> Result<bool, LedgerError> {
    let ledger = renter.ledger();
    let done = match ledger.lease(lease).await?.status {
        EscrowStatus::Open => ledger.close(lease).await,
        EscrowStatus::Closing => ledger.finalize(lease).await,
        EscrowStatus::None | EscrowStatus::Closed => return Ok(false),
    };
    match done {
        // Its Container was quicker, or the challenge window is not over.
        Ok(()) | Err(LedgerError::Refused(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
