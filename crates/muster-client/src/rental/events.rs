//! What a lease tells whoever watches it, and what it can be told.

use muster_core::ids::NodeId;
use muster_core::inference::TokenCounts;
use muster_core::lease::End;
use muster_core::units::TokenAmount;
use muster_wire::message::stdio::Stream;

use crate::files::Fetched;

/// A step of one lease, for progress bars and logs. Steps may be left out when nobody reads them; the lease's record
/// is what counts.
#[derive(Clone, Debug, PartialEq)]
pub enum RentalEvent {
    /// The deposit is on its way to the chain.
    Opening {
        /// How much.
        deposit: TokenAmount,
    },
    /// The escrow holds the deposit.
    Opened,
    /// The line to the Container stands.
    Connected {
        /// Which Container.
        container: NodeId,
    },
    /// The line broke; it is dialled again.
    Lost {
        /// Why.
        why: String,
    },
    /// Inputs are on their way.
    Uploading {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Entries of the inputs that are not sent: links, devices, names that cannot travel.
    LeftOut {
        /// The first few by name.
        names: Vec<String>,
    },
    /// The inputs could not be sent, so nothing will run.
    InputsFailed {
        /// Why.
        why: String,
    },
    /// The Container was told to begin.
    Starting,
    /// The workload reports running; billing counts.
    Running,
    /// A voucher was signed.
    Paid {
        /// How long the workload has run.
        ran_ms: u64,
        /// Tokens that its model has read and drawn.
        tokens: TokenCounts,
        /// What it has cost so far.
        amount: TokenAmount,
    },
    /// The deposit of a model's lease pays only for so much more.
    TokensLow {
        /// What is left of it.
        left: TokenAmount,
    },
    /// The deposit lasts only so long.
    DepositLow {
        /// Milliseconds of running that it still pays for.
        left_ms: u64,
    },
    /// The deposit grew.
    ToppedUp {
        /// The whole deposit.
        deposit: TokenAmount,
    },
    /// Bytes of a standard stream that were not kept for us.
    Missed {
        /// Which stream.
        stream: Stream,
        /// How many.
        count: u64,
    },
    /// The workload is over.
    Ended {
        /// How.
        end: End,
        /// Milliseconds that it ran.
        ran_ms: u64,
    },
    /// Outputs are on their way.
    Downloading {
        /// Bytes so far.
        bytes: u64,
    },
    /// Outputs are here.
    Outputs(Fetched),
    /// Outputs are not here; the sentence says why and what happens next.
    OutputsFailed {
        /// Why.
        why: String,
        /// It is tried again while the Container keeps them.
        again: bool,
    },
    /// The Container refused something, or something is odd.
    Complaint(String),
    /// Nothing goes on without the wallet.
    NeedsWallet(String),
    /// The chain has closed the lease.
    Settled {
        /// Paid out in all.
        redeemed: TokenAmount,
        /// Given back.
        refunded: TokenAmount,
        /// The Container's transaction, as it says.
        tx: Option<[u8; 32]>,
    },
}

/// What a lease can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stop the work; the lease is settled as usual.
    Stop,
    /// Look at the chain: the deposit grew.
    Look,
    /// Stop driving it here; another process goes on.
    Detach,
}

/// Why driving a lease came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RentalEnd {
    /// Nothing is left to do.
    Finished,
    /// It was told to let go.
    Detached,
    /// What is left needs the wallet, which this process does not hold.
    NeedsWallet,
}
