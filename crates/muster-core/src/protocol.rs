//! What nodes say to each other. `muster-wire` turns bytes into these types and checks every bound;
//! the brains and the simulator use them as they are.

use core::fmt;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::delivery::Receipts;
use crate::demand::{Demand, Place, Region};
use crate::hardware::{Capacity, Free};
use crate::ids::{Address, LeaseId, NodeId, RequestId};
use crate::inference::{ModelSpec, TokenAsk, TokenCounts};
use crate::lease::{End, LeaseTerms, Phase};
use crate::live::SessionSpec;
use crate::packages::{PackageSet, PackageSetId};
use crate::pricing::Ask;
use crate::units::{Bytes, TokenAmount};
use crate::voucher::{CompactSignature, SignedVoucher};

/// An ed25519 signature by a node key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSignature {
    /// First half: the commitment.
    pub r: [u8; 32],
    /// Second half: the response.
    pub s: [u8; 32],
}

/// Where a node is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddr {
    /// Its key.
    pub id: NodeId,
    /// Addresses that may reach it directly.
    pub direct: Vec<SocketAddr>,
    /// The relay that it is connected to.
    pub relay: Option<String>,
}

/// Consumer to Indexer: find me a Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchRequest {
    /// Drawn by the consumer; a request that is repeated is answered the same.
    pub request: RequestId,
    /// The lease that is to come of it.
    pub lease: LeaseId,
    /// The salt of that lease.
    pub salt: [u8; 32],
    /// The wallet that will pay.
    pub consumer: Address,
    /// The key that will sign vouchers.
    pub session_key: Address,
    /// What is wanted.
    pub demand: Demand,
    /// For how many seconds the deposit shall last at least.
    pub deposit_seconds: u64,
}

/// Consumer to Indexer: who would serve this, so that I can measure the way to them before I choose?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidatesRequest {
    /// What is wanted.
    pub demand: Demand,
}

/// The most Containers that an answer to a [`CandidatesRequest`] names.
pub const CANDIDATES_MAX: usize = 8;

/// Indexer to consumer: the answer to a [`CandidatesRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidates {
    /// Where they are dialled, at most [`CANDIDATES_MAX`]; none when nobody fits.
    pub containers: Vec<NodeAddr>,
}

/// Consumer to the Indexer that found its Container: what was delivered, once the lease is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryReport {
    /// Which lease.
    pub lease: LeaseId,
    /// What its players said.
    pub receipts: Receipts,
    /// By the lease's session key, over all of the above and the Indexer's key.
    pub proof: CompactSignature,
}

/// Indexer to consumer: the answer to a [`DeliveryReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryNoted {
    /// Whether it counts: the lease is one of this Indexer's, by this key, and was not reported before.
    pub counts: bool,
}

/// Indexer to consumer: the answer to a [`MatchRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchReply {
    /// A Container holds a slot for the consumer.
    Matched(Box<Matched>),
    /// No Container fits, or none would take it.
    Failed(MatchFailed),
}

/// A slot that waits for its deposit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    /// What was agreed.
    pub terms: LeaseTerms,
    /// The Container's signature over the terms.
    pub acceptance: NodeSignature,
    /// Where the Container is dialled.
    pub container: NodeAddr,
    /// How many Containers were looked at.
    pub considered: u64,
    /// Why others were turned down: a sentence and how many.
    pub turned_down: Vec<(String, u64)>,
    /// Other Containers that say that they have the model's weights, the nearest first; at most [`HOLDERS_MAX`].
    pub holders: Vec<NodeAddr>,
}

/// The most Containers that are named as having a model's weights.
pub const HOLDERS_MAX: usize = 3;

/// Why there is no match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchFailed {
    /// What kind of failure.
    pub kind: MatchFailure,
    /// A sentence for people; names the nearest miss.
    pub why: String,
    /// How many Containers were looked at.
    pub considered: u64,
    /// Why they were turned down: a sentence and how many.
    pub turned_down: Vec<(String, u64)>,
}

/// Kinds of failure to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchFailure {
    /// No Container could ever meet this demand as it stands.
    NothingFits,
    /// Some could, once they are free again.
    Busy,
    /// The request itself is wrong.
    BadRequest,
    /// The Indexer takes no requests just now.
    Overloaded,
}

/// The most endpoints that a Container offers.
pub const ENDPOINTS_MAX: usize = 16;

/// A model that a Container's owner serves with an engine of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointOffer {
    /// Which: [`crate::inference::WeightsId::warm_id`] of what stands for its weights.
    pub id: PackageSetId,
    /// How large its owner says that its weights are: prices go by it.
    pub bytes: Bytes,
    /// What is asked for a million tokens for each GiB.
    pub ask: TokenAsk,
}

/// Container to Indexer, every heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Grows by one each time, also over restarts (starts at the wall clock).
    pub seq: u64,
    /// Where the Container is dialled.
    pub addr: NodeAddr,
    /// All that it offers.
    pub total: Capacity,
    /// What of it is free.
    pub free: Free,
    /// What it asks.
    pub ask: Ask,
    /// Takes nothing new.
    pub draining: bool,
    /// Whether jobs may have the network.
    pub egress: bool,
    /// Whether jobs may have a display that is streamed.
    pub sessions: bool,
    /// A place, as the owner names it: `ca-east`.
    pub region: Option<Region>,
    /// Where that is on the globe, if the owner says so.
    pub place: Option<Place>,
    /// Leases that hold capacity.
    pub leases: u32,
    /// Whether it fetches packages that it lacks.
    pub fetches: bool,
    /// Sets of packages and weights that are there already, the last used first; at most [`crate::packages::WARM_MAX`].
    pub warm: Vec<PackageSetId>,
    /// What is asked for a million tokens for each GiB of a model's weights, where models are served.
    pub models: Option<TokenAsk>,
    /// What the owner's own engines serve; at most [`ENDPOINTS_MAX`].
    pub endpoints: Vec<EndpointOffer>,
}

/// Container to Indexer on its standing stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerReport {
    /// I live, and this is free.
    Heartbeat(Box<Heartbeat>),
    /// A lease of yours came to here.
    Lease(LeaseReport),
}

/// What became of a lease, for the Indexer that proposed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// Which.
    pub lease: LeaseId,
    /// Where it stands.
    pub phase: Phase,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// How long the workload ran.
    pub ran_ms: u64,
}

/// Indexer to Container: take this?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offer {
    /// Hold a slot on these terms.
    Take(Box<LeaseTerms>),
    /// Forget the slot: the answer came too late and somebody else has the work.
    Withdraw(LeaseId),
    /// These packages are asked for: fetch them if you are idle and like to.
    Fetch(PackageSet),
}

/// Container to Indexer: the answer to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferAnswer {
    /// The slot is held.
    Accepted {
        /// Over the terms.
        signature: NodeSignature,
    },
    /// It is not.
    Rejected(OfferRejected),
    /// The withdrawal was noted.
    Withdrawn,
    /// What is asked for was noted.
    Noted,
}

/// Why a Container turned an offer down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferRejected {
    /// It takes nothing new.
    Draining,
    /// What is asked for is not free.
    NoCapacity(String),
    /// The rate is below what it asks.
    TooCheap {
        /// Asked, per second.
        asked: TokenAmount,
        /// Offered, per second.
        offered: TokenAmount,
    },
    /// The tokens' rates are below what it asks.
    TokensTooCheap,
    /// It serves no models.
    NoModels,
    /// The provider lets no job reach the network.
    NoEgress,
    /// The terms name another Container, are out of bounds or came too late.
    BadTerms(String),
    /// A lease of this name exists already.
    KnownLease,
    /// Stake or registration is not in order.
    NotRegistered(String),
}

impl fmt::Display for OfferRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("the Container is draining and takes nothing new"),
            Self::NoCapacity(why) => write!(f, "the Container is busy: {why}"),
            Self::TooCheap { asked, offered } => {
                write!(f, "the Container asks {asked} a second, offered were {offered}")
            }
            Self::TokensTooCheap => f.write_str("the Container asks more for this model's tokens than was offered"),
            Self::NoModels => f.write_str("the Container serves no models"),
            Self::NoEgress => f.write_str("the Container lets no job reach the network"),
            Self::BadTerms(why) => write!(f, "the terms are not acceptable: {why}"),
            Self::KnownLease => f.write_str("a lease of this name exists already"),
            Self::NotRegistered(why) => write!(f, "the Container is not in good standing: {why}"),
        }
    }
}

/// Consumer to Container, on the control stream of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToContainer {
    /// I am the consumer of this lease: the session key's signature over lease, Container and the
    /// key of this connection.
    Attach {
        /// Which lease.
        lease: LeaseId,
        /// Signature by the session key.
        proof: CompactSignature,
    },
    /// The inputs are all there: begin. For a live session without inputs also before the deposit is seen.
    Go(JobSpec),
    /// Paid so far.
    Paid(SignedVoucher),
    /// Look at the chain: the deposit grew.
    ToppedUp,
    /// Stop the workload.
    Stop,
    /// Outputs and logs are no longer needed.
    Taken,
    /// I am here.
    Ping,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables beside the ones that every job gets.
    pub env: Vec<(String, String)>,
    /// Whether the consumer will feed standard input; otherwise it is empty.
    pub stdin: bool,
    /// A private display that is streamed; none for a job that only computes.
    #[serde(default)]
    pub session: Option<SessionSpec>,
    /// A model that answers requests; `command` is then empty.
    #[serde(default)]
    pub model: Option<ModelSpec>,
}

/// Container to consumer, on the control stream of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToConsumer {
    /// You are attached; this is where the lease stands.
    Attached {
        /// Phase as the Container knows it.
        phase: Phase,
        /// How long the workload has run.
        ran_ms: u64,
        /// What the Container holds of promises.
        paid: TokenAmount,
    },
    /// The deposit is seen; inputs may come and the job may start.
    Open,
    /// The request cannot be met; the lease is not changed by it.
    Refused {
        /// What was wrong and what to do.
        why: String,
    },
    /// The workload reports running; billing begins.
    Started,
    /// So long has it run: please pay.
    Usage {
        /// Milliseconds of running.
        ran_ms: u64,
    },
    /// So many tokens were read and drawn in all: please pay.
    Counted {
        /// By the engine's count.
        tokens: TokenCounts,
    },
    /// The workload is over.
    Ended {
        /// How.
        end: End,
        /// Milliseconds that it ran in all.
        ran_ms: u64,
    },
    /// The chain has closed the lease.
    Settled {
        /// Paid out in all.
        redeemed: TokenAmount,
        /// Given back.
        refunded: TokenAmount,
        /// The transaction that did it, if it was this Container's.
        tx: Option<[u8; 32]>,
    },
    /// The Container knows no such lease, or has given it up.
    Gone {
        /// Why.
        why: String,
    },
    /// I am here.
    Pong,
}

/// A lease as the escrow has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EscrowLease {
    /// Where it stands.
    pub status: EscrowStatus,
    /// Who pays.
    pub consumer: Address,
    /// Who signs vouchers.
    pub session_key: Address,
    /// Who works.
    pub container: NodeId,
    /// Held in all.
    pub deposit: TokenAmount,
    /// Paid out so far.
    pub redeemed: TokenAmount,
    /// Frozen price.
    pub rate_per_second: TokenAmount,
    /// Longest run.
    pub max_seconds: u64,
}

/// Where a lease stands on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EscrowStatus {
    /// Never opened.
    None,
    /// Open.
    Open,
    /// The consumer asked to close; the challenge window runs.
    Closing,
    /// Closed.
    Closed,
}

impl EscrowLease {
    /// Whether the chain says what the terms say.
    ///
    /// # Errors
    /// The first field that differs, as a sentence.
    pub fn matches(&self, terms: &LeaseTerms) -> Result<(), String> {
        let differs = |what: &str| Err(format!("the lease on the chain has another {what} than agreed"));
        if self.consumer != terms.consumer {
            return differs("consumer");
        }
        if self.session_key != terms.session_key {
            return differs("session key");
        }
        if self.container != terms.container {
            return differs("Container");
        }
        if self.rate_per_second != terms.rate_per_second {
            return differs("rate");
        }
        if self.max_seconds != terms.max_seconds {
            return differs("length");
        }
        Ok(())
    }
}
