//! Arguments of `muster account`.

use clap::Subcommand;
use muster_core::units::TokenAmount;

use super::AtGateway;

/// `muster account`.
#[derive(Subcommand, Debug)]
pub(crate) enum AccountCommand {
    /// Show what the key's account has paid in, what it has spent, and what is left.
    Show {
        #[command(flatten)]
        at: AtGateway,
    },
    /// Pay tokens of the wallet into an account of the Gateway.
    TopUp {
        /// How many tokens.
        amount: TokenAmount,
        /// Which account [default: that of the key].
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Have an account credited with tokens that the wallet has sent to the Gateway already.
    Claim {
        /// The transaction that sent them.
        tx: String,
        /// Which account [default: that of the key].
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        #[command(flatten)]
        at: AtGateway,
    },
}
