//! What the contracts say, in the core's types.

use muster_core::apps::{AppStake, StakeStatus};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::protocol::{EscrowLease, EscrowStatus};
use muster_core::units::TokenAmount;
use muster_core::voucher::SignedVoucher;
use serde::{Deserialize, Serialize};

use crate::contracts::abi::{LeaseEscrow, Registry};
use crate::convert::from_evm;

/// What a registered node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// Runs work.
    Container,
    /// Matches demand.
    Indexer,
    /// Audits Containers.
    Checker,
    /// No node, but an app whose publisher stakes for it; it is named by [`muster_core::apps::app_id`].
    App,
}

impl NodeKind {
    /// The contract's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Container => 1,
            Self::Indexer => 2,
            Self::Checker => 3,
            Self::App => 4,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Container),
            2 => Some(Self::Indexer),
            3 => Some(Self::Checker),
            4 => Some(Self::App),
            _ => None,
        }
    }
}

/// Whether a node may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeStatus {
    /// Registered, with enough stake.
    Active,
    /// Slashed below the least stake.
    Jailed,
    /// Leaving, or gone.
    Left,
}

/// A node in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOnChain {
    /// Its key.
    pub node: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Whether it may serve.
    pub status: NodeStatus,
    /// Who owns it and gets paid.
    pub owner: Address,
    /// Stake that counts.
    pub stake: TokenAmount,
    /// Stake that was asked back, still slashable.
    pub unbonding: TokenAmount,
    /// When it can be withdrawn, in Unix seconds; 0 when nothing is unbonding.
    pub unbond_at_s: u64,
    /// Rewards not claimed yet.
    pub rewards: TokenAmount,
    /// When it registered, in Unix seconds.
    pub registered_at_s: u64,
    /// Commitment to its hardware; of an app, the hash of what is published.
    pub fingerprint: [u8; 32],
    /// Where it can be reached, in its own words; of an app, its name.
    pub endpoint: String,
}

impl NodeOnChain {
    /// `None` where the registry knows no such node.
    pub(crate) fn from_abi(node: NodeId, n: Registry::Node) -> Option<Self> {
        let status = match n.status {
            1 => NodeStatus::Active,
            2 => NodeStatus::Jailed,
            3 => NodeStatus::Left,
            _ => return None,
        };
        Some(Self {
            node,
            kind: NodeKind::from_code(n.kind)?,
            status,
            owner: from_evm(n.owner),
            stake: TokenAmount(n.stake),
            unbonding: TokenAmount(n.unbonding),
            unbond_at_s: n.unbondAt,
            rewards: TokenAmount(n.rewards),
            registered_at_s: n.registeredAt,
            fingerprint: n.fingerprint.0,
            endpoint: n.endpoint,
        })
    }
}

impl NodeOnChain {
    /// The stake of an app; `None` where this is a node.
    #[must_use]
    pub fn app_stake(&self) -> Option<AppStake> {
        let status = match self.status {
            NodeStatus::Active => StakeStatus::Active,
            NodeStatus::Jailed => StakeStatus::Jailed,
            NodeStatus::Left => StakeStatus::Left,
        };
        let (owner, stake, unbonding, hash) = (self.owner, self.stake, self.unbonding, self.fingerprint);
        (self.kind == NodeKind::App).then_some(AppStake { owner, status, stake, unbonding, hash })
    }
}

/// What a node registers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What it is.
    pub kind: NodeKind,
    /// Its key.
    pub node: NodeId,
    /// Where it can be reached, at most 256 bytes.
    pub endpoint: String,
    /// Commitment to its hardware.
    pub fingerprint: [u8; 32],
    /// Its stake.
    pub stake: TokenAmount,
}

/// How far a lease has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseStatus {
    /// Opened and paid for.
    Open,
    /// The consumer has closed it; vouchers still count until the challenge window ends.
    Closing,
    /// Settled for good.
    Closed,
}

/// A lease in the escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOnChain {
    /// Its name.
    pub lease: LeaseId,
    /// Who pays.
    pub consumer: Address,
    /// Who gets paid.
    pub payee: Address,
    /// Whose vouchers count.
    pub session_key: Address,
    /// Where the work runs.
    pub container: NodeId,
    /// What was deposited in all.
    pub deposit: TokenAmount,
    /// What was redeemed so far, the network's fee included.
    pub redeemed: TokenAmount,
    /// The frozen rate, per second.
    pub rate_per_second: TokenAmount,
    /// In Unix seconds.
    pub opened_at_s: u64,
    /// Longest term.
    pub max_seconds: u64,
    /// When the consumer closed it, in Unix seconds; 0 while it has not.
    pub closing_at_s: u64,
    /// When it was closed, in Unix seconds; 0 while it is not.
    pub closed_at_s: u64,
    /// The network's share, frozen at opening, in hundredths of a per cent.
    pub fee_bps: u16,
    /// How far it has come.
    pub status: LeaseStatus,
}

impl LeaseOnChain {
    /// `None` where the escrow knows no such lease.
    pub(crate) fn from_abi(lease: LeaseId, l: LeaseEscrow::Lease) -> Option<Self> {
        let status = match l.status {
            1 => LeaseStatus::Open,
            2 => LeaseStatus::Closing,
            3 => LeaseStatus::Closed,
            _ => return None,
        };
        Some(Self {
            lease,
            consumer: from_evm(l.consumer),
            payee: from_evm(l.payee),
            session_key: from_evm(l.sessionKey),
            container: NodeId(l.container.0),
            deposit: TokenAmount(l.deposit),
            redeemed: TokenAmount(l.redeemed),
            rate_per_second: TokenAmount(l.ratePerSecond),
            opened_at_s: l.openedAt,
            max_seconds: l.maxSeconds,
            closing_at_s: l.closingAt,
            closed_at_s: l.closedAt,
            fee_bps: l.feeBps,
            status,
        })
    }

    /// What the state machines see of a lease: one that was never opened has status `None`.
    #[must_use]
    pub fn escrow_view(found: Option<Self>) -> EscrowLease {
        let Some(l) = found else {
            return EscrowLease {
                status: EscrowStatus::None,
                consumer: Address::ZERO,
                session_key: Address::ZERO,
                container: NodeId::ZERO,
                deposit: TokenAmount::ZERO,
                redeemed: TokenAmount::ZERO,
                rate_per_second: TokenAmount::ZERO,
                max_seconds: 0,
            };
        };
        EscrowLease {
            status: match l.status {
                LeaseStatus::Open => EscrowStatus::Open,
                LeaseStatus::Closing => EscrowStatus::Closing,
                LeaseStatus::Closed => EscrowStatus::Closed,
            },
            consumer: l.consumer,
            session_key: l.session_key,
            container: l.container,
            deposit: l.deposit,
            redeemed: l.redeemed,
            rate_per_second: l.rate_per_second,
            max_seconds: l.max_seconds,
        }
    }
}

/// A lease to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLease {
    /// Drawn at random; the lease's name follows from it (see `ChainClient::lease_id`).
    pub salt: [u8; 32],
    /// Where the work will run.
    pub container: NodeId,
    /// Who matched it; rewarded when the lease has run to its end and was paid.
    pub indexer: NodeId,
    /// Whose vouchers count.
    pub session_key: Address,
    /// Paid into the escrow now.
    pub deposit: TokenAmount,
    /// The agreed rate.
    pub rate_per_second: TokenAmount,
    /// Longest term, in seconds.
    pub max_seconds: u64,
}

impl OpenLease {
    pub(crate) fn to_abi(self) -> LeaseEscrow::OpenParams {
        LeaseEscrow::OpenParams {
            salt: self.salt.into(),
            container: self.container.0.into(),
            indexer: self.indexer.0.into(),
            sessionKey: crate::convert::to_evm(self.session_key),
            deposit: self.deposit.0,
            ratePerSecond: self.rate_per_second.0,
            maxSeconds: self.max_seconds,
        }
    }
}

/// A lease to be settled by its Container: redeem the last voucher, if any, and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleEntry {
    /// The lease.
    pub lease: LeaseId,
    /// Its last voucher; `None` closes without payment.
    pub voucher: Option<SignedVoucher>,
}

/// What became of a lease that was to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettleResult {
    /// Closed for good, by this or by an earlier transaction.
    Closed {
        /// Redeemed over the lease's life, the network's fee included.
        redeemed: TokenAmount,
        /// Given back to the consumer.
        refunded: TokenAmount,
    },
    /// The escrow skipped it; the lease is as it was.
    Skipped(SkipReason),
}

/// Why the escrow skipped an entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SkipReason {
    /// No such lease.
    #[error("there is no such lease")]
    UnknownLease,
    /// Closed already.
    #[error("the lease is closed already")]
    NotOpen,
    /// The challenge window or the term is over.
    #[error("the time to redeem vouchers is over")]
    WindowOver,
    /// The voucher adds nothing, or less than nothing.
    #[error("the voucher is not above what was redeemed already")]
    BelowRedeemed,
    /// The voucher promises more than there is.
    #[error("the voucher promises more than the deposit")]
    AboveDeposit,
    /// Not signed by the session key.
    #[error("the voucher is not signed by the lease's session key")]
    BadSignature,
    /// The sender is neither payee nor its operator.
    #[error("the sender is not who gets paid by the lease")]
    NotPayee,
    /// A reason of a newer contract.
    #[error("reason {0} of the contract")]
    Other(u8),
}

impl SkipReason {
    pub(crate) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::UnknownLease,
            2 => Self::NotOpen,
            3 => Self::WindowOver,
            4 => Self::BelowRedeemed,
            5 => Self::AboveDeposit,
            6 => Self::BadSignature,
            7 => Self::NotPayee,
            other => Self::Other(other),
        }
    }
}

/// Something that happened in the contracts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainEvent {
    /// A lease was opened.
    LeaseOpened {
        /// The lease.
        lease: LeaseId,
        /// Who pays.
        consumer: Address,
        /// Where it runs.
        container: NodeId,
        /// Who matched it.
        indexer: NodeId,
        /// Whose vouchers count.
        session_key: Address,
        /// Deposited.
        deposit: TokenAmount,
        /// The frozen rate.
        rate_per_second: TokenAmount,
        /// Longest term.
        max_seconds: u64,
    },
    /// A deposit grew.
    LeaseToppedUp {
        /// The lease.
        lease: LeaseId,
        /// Added.
        amount: TokenAmount,
        /// The deposit now.
        deposit: TokenAmount,
    },
    /// A voucher was paid.
    VoucherRedeemed {
        /// The lease.
        lease: LeaseId,
        /// Redeemed in all.
        amount: TokenAmount,
        /// Redeemed by this voucher.
        delta: TokenAmount,
        /// The network's part of `delta`.
        fee: TokenAmount,
    },
    /// An entry of a batch was skipped.
    VoucherSkipped {
        /// The lease.
        lease: LeaseId,
        /// Why.
        reason: SkipReason,
    },
    /// The consumer closed a lease; the challenge window runs.
    LeaseClosing {
        /// The lease.
        lease: LeaseId,
        /// Until when vouchers count, in Unix seconds.
        redeemable_until_s: u64,
    },
    /// A lease was settled for good.
    LeaseClosed {
        /// The lease.
        lease: LeaseId,
        /// Redeemed in all.
        redeemed: TokenAmount,
        /// Given back.
        refunded: TokenAmount,
    },
    /// A node registered, or anything about it changed: read it again.
    NodeChanged {
        /// The node.
        node: NodeId,
    },
}
