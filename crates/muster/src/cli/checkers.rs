//! Arguments of `muster checker`, `muster licence` and `muster epoch`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use muster_core::epoch::EpochNo;
use muster_core::ids::NodeId;
use muster_core::units::{Bytes, TokenAmount};

use super::RoleArgs;

/// `muster checker`.
#[derive(Subcommand, Debug)]
pub(crate) enum CheckerCommand {
    /// Write a configuration for this machine, with a node key and a wallet.
    Init(CheckerInitArgs),
    /// Serve: register, test Containers as drawn, settle epochs with other Checkers.
    Run(RoleArgs),
    /// State, tasks, results, earnings, licences served; and where the page is.
    Status,
    /// Add to the stake of a Checker that was slashed.
    TopUp {
        /// So many tokens [default: what is missing].
        amount: Option<TokenAmount>,
    },
    /// Ask the stake back; after the unbonding time the same command brings it. Licences can be taken back at any time.
    Leave,
}

/// Arguments of `muster checker init`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CheckerInitArgs {
    /// Address and port to listen on; port 0 takes one that is free now, for good.
    #[arg(long, default_value = "0.0.0.0:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// An address that others dial, where a router forwards one; may be given more than once.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) announce: Vec<SocketAddr>,
    /// The most disk for transcripts.
    #[arg(long, default_value = "8G", value_name = "SIZE")]
    pub(crate) evidence: Bytes,
}

/// `muster licence`.
#[derive(Subcommand, Debug)]
pub(crate) enum LicenceCommand {
    /// Buy licences.
    Buy {
        /// How many.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
        count: u32,
        /// The most that one may cost, in tokens [default: its price now].
        #[arg(long, value_name = "TOKENS")]
        max_price: Option<TokenAmount>,
    },
    /// List licences and whom they are delegated to.
    #[command(visible_alias = "ls")]
    List {
        /// Everybody's, not only this wallet's.
        #[arg(long, short)]
        all: bool,
    },
    /// Delegate licences to a Checker; one Checker serves many.
    Delegate {
        /// Their numbers.
        #[arg(required = true, value_name = "LICENCE")]
        licences: Vec<u64>,
        /// The Checker's key, as `muster checker status` shows it.
        #[arg(long, value_name = "CHECKER")]
        to: NodeId,
    },
    /// Take licences back from their Checkers.
    Undelegate {
        /// Their numbers.
        #[arg(required = true, value_name = "LICENCE")]
        licences: Vec<u64>,
    },
    /// What the licences of this wallet earned: in the last epoch, in all, claimed, vesting.
    Rewards,
    /// Claim what they earned: a part comes at once, the rest vests and is brought by the same command later.
    Claim,
}

/// `muster epoch`.
#[derive(Subcommand, Debug)]
pub(crate) enum EpochCommand {
    /// List the last outcomes: when, how far, and what they paid.
    Ls {
        /// How many.
        #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
        last: usize,
    },
    /// Who was drawn in an epoch, by whom, and why; computed here, from the beacon and the chain.
    Explain {
        /// A number, `now`, or `last` for the last one that was settled.
        #[arg(default_value = "now", value_name = "N")]
        epoch: EpochChoice,
        /// Only about this Container.
        #[arg(long, value_name = "ID")]
        container: Option<NodeId>,
    },
    /// Compute an epoch's outcome again from its reports, running every transcript; a wrong one is disputed.
    Verify {
        /// A number, or `last`.
        #[arg(default_value = "last", value_name = "N")]
        epoch: EpochChoice,
        /// Only say so where the outcome is wrong; file no dispute.
        #[arg(long)]
        no_dispute: bool,
    },
}

/// Which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochChoice {
    /// This one.
    Number(EpochNo),
    /// The one that runs.
    Now,
    /// The last one that was settled.
    Last,
}

impl std::str::FromStr for EpochChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "now" => Ok(Self::Now),
            "last" => Ok(Self::Last),
            _ => text
                .parse()
                .map(|number| Self::Number(EpochNo(number)))
                .map_err(|_| format!("{text:?} is no epoch; write its number, `now` or `last`")),
        }
    }
}
