//! What reaches a Checker's brain and what it says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::epoch::{Assignment, Draw, EpochNo, Task};
use crate::ids::{Address, ContentHash, NodeId};
use crate::reward::merkle::Hash;
use crate::reward::{
    Bundle, ChainFacts, Commitment, Doubt, Entry, Finding, Outcome, Receipt, Reexecution, SlashLeaf, State,
};
use crate::units::TimeMs;
use crate::voucher::CompactSignature;

/// Checker to Checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To a member: this is what I will reveal.
    Commit(Commitment),
    /// From a member: your commitment was here in time.
    Receipt {
        /// Which epoch's.
        epoch: EpochNo,
        /// Its hash.
        hash: ContentHash,
        /// The word.
        receipt: Receipt,
    },
    /// To a member: this is what I, or somebody, committed to; with the receipts.
    Reveal(Box<Entry>),
    /// From a member: it is here.
    Taken {
        /// Which epoch's.
        epoch: EpochNo,
    },
    /// From the member whose turn it is: sign this.
    Propose(Box<Proposal>),
    /// To that member.
    Answer(Box<Answer>),
    /// Among the dispute committee: this is what a disputed outcome should be.
    Decide(Box<SignedOutcome>),
}

/// Epochs that one outcome settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub first: EpochNo,
    /// The last; the same for an epoch with reports.
    pub last: EpochNo,
}

/// What an outcome is computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which epochs.
    pub span: Span,
    /// Everything that was reported in an epoch; `None`: nobody reported in any of them.
    pub bundle: Option<Bundle>,
    /// What came of it.
    pub outcome: Outcome,
}

/// An outcome with one member's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOutcome {
    /// The outcome.
    pub outcome: Outcome,
    /// Whose signature.
    pub signer: Address,
    /// Over the outcome, as the contract checks it.
    pub signature: CompactSignature,
}

/// A member's answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// I computed the same.
    Signed(Box<SignedOutcome>),
    /// I hold what is missing: an entry at a time comes as [`Message::Reveal`]; propose again.
    Missing {
        /// In which epoch.
        epoch: EpochNo,
        /// Whose.
        checkers: Vec<NodeId>,
    },
    /// I computed something else, or do not believe what came of running something again.
    Differs {
        /// Which epochs.
        span: Span,
        /// A sentence for the log.
        why: String,
    },
}

/// An outcome as it stands on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// The outcome; after a dispute the one that took its place.
    pub outcome: Outcome,
    /// When its dispute window is over.
    pub final_at: TimeMs,
    /// Whether it is final.
    pub finalized: bool,
}

/// An outcome that is disputed on the chain, and who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disputed {
    /// What stands there.
    pub posted: Outcome,
    /// The dispute committee that the outcome before it names, in the order of the draw.
    pub members: Vec<super::Member>,
}

/// What the chain says of outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainSeen {
    /// Those that are not final yet and the last one that is, in their order.
    pub posted: Vec<Posted>,
}

/// Something durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saved {
    /// What the Checker promised of its own: what it reveals must be this.
    Mine {
        /// The epoch.
        epoch: EpochNo,
        /// Commitment, receipts so far, and reveal.
        entry: Box<Entry>,
    },
    /// A commitment that it gave a receipt for.
    Commitment(Commitment),
    /// What was revealed to it.
    Entry(Box<Entry>),
    /// All that settled epochs left behind. It replaces the one before, and what was saved of the epochs that it has
    /// settled can go.
    Settled(Box<State>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// An epoch begins, or is made up for: its beacon is known and its view was frozen
    /// ([`State::freeze`]) with the state of the last outcome that was posted before it began. Epochs come in order;
    /// those that are left out are taken as silent.
    Epoch {
        /// The draw; the body may make it in another thread.
        draw: Arc<Draw>,
        /// 64 random bytes, drawn anew: secret and salt. Nobody else may learn them before the reveal.
        chance: [u8; 64],
    },
    /// A task came to its end.
    Found {
        /// Which epoch's.
        epoch: EpochNo,
        /// Which.
        task: Task,
        /// What came of it.
        finding: Finding,
    },
    /// The node key signed this Checker's own commitment.
    Vouched(Commitment),
    /// Another Checker says something; its signatures are right.
    Heard {
        /// Who.
        from: NodeId,
        /// What.
        message: Box<Message>,
    },
    /// Something was run again.
    Reexecuted {
        /// Which epoch's.
        epoch: EpochNo,
        /// What.
        doubt: Doubt,
        /// What came of it.
        result: Reexecution,
    },
    /// What the chain says of an epoch, once it says it for good: the epoch is over and its blocks are final.
    Facts {
        /// Which.
        epoch: EpochNo,
        /// What.
        facts: Box<ChainFacts>,
    },
    /// The account's key signed an outcome.
    Signed(Box<SignedOutcome>),
    /// The chain was read.
    Chain(Box<ChainSeen>),
    /// What was published with an outcome was fetched.
    Published(Arc<Vec<u8>>),
    /// The first disputed outcome on the chain; `None`: none is.
    Disputed(Option<Box<Disputed>>),
    /// A disputed outcome was computed again from its reports, every transcript run.
    Reexamined {
        /// What stands on the chain.
        posted: Box<Outcome>,
        /// What should stand there; perhaps the same.
        right: Box<Outcome>,
        /// The bytes behind its data hash.
        published: Arc<Vec<u8>>,
    },
    /// The chain has executed a slash.
    SlashExecuted {
        /// The outcome's last epoch.
        epoch: EpochNo,
        /// Whose.
        node: NodeId,
    },
    /// Time passes; at least every second.
    Tick,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this durable before anything that stands behind it.
    Save(Box<Saved>),
    /// Do a task now, and report [`Event::Found`] before commitments begin. Liveness and quality go on until then.
    Perform {
        /// Which epoch's.
        epoch: EpochNo,
        /// What.
        assignment: Assignment,
    },
    /// Sign this commitment with the node key and report [`Event::Vouched`].
    Vouch(Commitment),
    /// Sign a receipt for this commitment with the node key and send it to its Checker as [`Message::Receipt`].
    Acknowledge(Commitment),
    /// Tell another Checker.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Box<Message>,
    },
    /// Fetch the transcript and run it again, then report [`Event::Reexecuted`]; [`Reexecution::Unavailable`] only
    /// after everybody who could have it was asked.
    Reexecute {
        /// Which epoch's.
        epoch: EpochNo,
        /// What.
        doubt: Doubt,
    },
    /// Read what the chain says of an epoch and report [`Event::Facts`].
    AskFacts(EpochNo),
    /// Sign this outcome with the account's key and report [`Event::Signed`].
    Sign(Box<Outcome>),
    /// Publish the data and post the outcome to the chain. Unknown is not no: it is sent again until the chain shows it.
    Post {
        /// The outcome.
        outcome: Box<Outcome>,
        /// Two thirds of the committee, in the committee's order.
        signatures: Vec<(Address, CompactSignature)>,
        /// The bytes behind its data hash.
        published: Arc<Vec<u8>>,
    },
    /// Keep these bytes and serve them to whoever asks by their hash.
    Publish(Arc<Vec<u8>>),
    /// Find the bytes with this hash and report [`Event::Published`].
    Fetch(ContentHash),
    /// Make an outcome final: its window is over.
    Finalize(Posted),
    /// Execute a slash of a final outcome.
    Slash {
        /// The leaf.
        leaf: SlashLeaf,
        /// Its proof to the outcome's slash root.
        proof: Vec<Hash>,
    },
    /// An outcome on the chain is not what its reports come to: file a dispute.
    Dispute {
        /// What is there.
        posted: Box<Outcome>,
    },
    /// Compute a disputed outcome again from its reports, running every transcript, and report [`Event::Reexamined`]. Where
    /// its reports are had from nobody, it is taken as an epoch without reports.
    Reexamine(Box<Outcome>),
    /// Bring what the dispute committee signed.
    Resolve {
        /// What stands on the chain.
        posted: Box<Outcome>,
        /// What two thirds signed.
        right: Box<Outcome>,
        /// The whole committee, in the order of the draw.
        members: Vec<Address>,
        /// Signatures of some of them, in that order.
        signatures: Vec<(Address, CompactSignature)>,
    },
    /// An epoch is settled: what was kept only for it can go (transcripts are kept as long as the body promises).
    Forget(EpochNo),
}
