//! What goes into the brain of a Container and what comes out of it.

use serde::{Deserialize, Serialize};

use crate::hardware::Capacity;
use crate::ids::{Address, LeaseId, NodeId};
use crate::inference::{TokenAsk, TokenCounts};
use crate::lease::{End, Lease, LeaseTerms};
use crate::params::Params;
use crate::pricing::Ask;
use crate::protocol::{EscrowLease, LeaseReport, OfferRejected, ToConsumer};
use crate::units::TokenAmount;
use crate::voucher::SignedVoucher;

/// What a Container offers and under which rules.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its key.
    pub id: NodeId,
    /// All that it offers.
    pub total: Capacity,
    /// What it asks.
    pub ask: Ask,
    /// What it asks for a million tokens for each GiB of a model's weights; `None` where it serves no models.
    pub models: Option<TokenAsk>,
    /// A model that nobody asks anything for so long gives its place back, in milliseconds.
    pub model_idle_ms: u64,
    /// Whether jobs may reach the network.
    pub egress: bool,
    /// The network's parameters.
    pub params: Params,
}

/// Who wants a job stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopBy {
    /// The consumer: billed to that moment.
    Consumer,
    /// The provider: an interruption.
    Provider,
}

/// What a lease's record holds beside the lease itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The lease.
    pub lease: Lease,
    /// The consumer has taken outputs and logs, or they were given up.
    pub taken: bool,
    /// The transaction that closed the lease, if ours.
    pub settle_tx: Option<[u8; 32]>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// An Indexer proposes a lease.
    Offered {
        /// Where the answer goes.
        reply: u64,
        /// The terms.
        terms: Box<LeaseTerms>,
    },
    /// An Indexer takes an offer back.
    Withdrawn {
        /// Which.
        lease: LeaseId,
        /// Who says so.
        from: NodeId,
    },
    /// The chain's view of a lease.
    ChainSeen {
        /// Which.
        lease: LeaseId,
        /// What it says.
        view: EscrowLease,
    },
    /// The consumer has proved itself on a control stream.
    Attached {
        /// Which lease.
        lease: LeaseId,
        /// The stream; later ones replace earlier ones.
        session: u64,
    },
    /// A control stream is gone.
    Detached {
        /// Which lease.
        lease: LeaseId,
        /// The stream.
        session: u64,
    },
    /// Inputs are arriving.
    Touched {
        /// Which lease.
        lease: LeaseId,
    },
    /// The consumer says go.
    Go {
        /// Which lease.
        lease: LeaseId,
        /// It is for a live session: it may begin while the deposit is on its way.
        early: bool,
    },
    /// The workload reports running.
    JobStarted {
        /// Which lease.
        lease: LeaseId,
    },
    /// A model has had something to do, and has read and drawn so many tokens since its lease began; at least each second
    /// while it has.
    Counted {
        /// Which lease.
        lease: LeaseId,
        /// By the engine's count.
        tokens: TokenCounts,
    },
    /// The workload is over.
    JobEnded {
        /// Which lease.
        lease: LeaseId,
        /// How.
        end: End,
    },
    /// A voucher came; the body has recovered its signer.
    Paid {
        /// The voucher.
        voucher: SignedVoucher,
        /// Who signed it.
        signer: Address,
    },
    /// The consumer says that the deposit grew.
    ToppedUp {
        /// Which lease.
        lease: LeaseId,
    },
    /// Somebody wants it stopped.
    Stop {
        /// Which lease.
        lease: LeaseId,
        /// Who.
        by: StopBy,
    },
    /// The consumer needs outputs and logs no more.
    Taken {
        /// Which lease.
        lease: LeaseId,
    },
    /// The chain has closed a lease.
    Settled {
        /// Which.
        lease: LeaseId,
        /// Paid out in all.
        redeemed: TokenAmount,
        /// Given back.
        refunded: TokenAmount,
        /// Our transaction, if it was ours.
        tx: Option<[u8; 32]>,
    },
    /// Take nothing new.
    Drain,
    /// Take offers again.
    Resume,
    /// The chain says whether this Container is in good standing.
    Standing {
        /// Why not, if not.
        problem: Option<String>,
    },
    /// Time passes; at least every 100 ms while leases run.
    Tick,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write the lease's record durably before anything that follows.
    Save(LeaseId),
    /// The record may be deleted.
    Forget(LeaseId),
    /// Answer an offer.
    Answer {
        /// Where to.
        reply: u64,
        /// `Ok`: sign the terms and send them.
        result: Result<Box<LeaseTerms>, OfferRejected>,
    },
    /// Make the work folder ready.
    Prepare(LeaseId),
    /// Ask the chain about a lease and report `ChainSeen`.
    AskChain(LeaseId),
    /// Start the workload that `Go` named.
    Start(LeaseId),
    /// Kill the workload; report `JobEnded`.
    Kill(LeaseId),
    /// Tell the consumer, if it is attached.
    Tell {
        /// The control stream.
        session: u64,
        /// What to say.
        message: ToConsumer,
    },
    /// Hand the last voucher (or none) to the escrow and close the lease there.
    Settle {
        /// Which.
        lease: LeaseId,
        /// The last voucher.
        voucher: Option<SignedVoucher>,
    },
    /// Tell the Indexer that proposed it what became of a lease.
    Report {
        /// To whom.
        indexer: NodeId,
        /// What.
        report: LeaseReport,
    },
    /// Capacity changed: send a heartbeat now rather than at the next beat.
    Beat,
    /// Remove work folder, outputs and logs.
    CleanUp(LeaseId),
}
