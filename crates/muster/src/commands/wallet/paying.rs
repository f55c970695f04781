//! Sending with a wallet from a command: its outbox, its turn among other processes, and outcomes that take their time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_chain::keys::Wallet;
use muster_chain::settle::{
    ChainClient, ClientError, OutboxError, SendError, SenderConfig, Settlement, SettlementError, TxSender,
};
use muster_client::Network;
use muster_core::ids::Address;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::Context;
use crate::failure::{Because, Code, Failure};

/// How long a command waits for another process that sends with the same wallet.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two tries.
const TURN_PAUSE: Duration = Duration::from_millis(100);
/// How often a transaction that is not in a block yet is asked for; each time takes some twenty seconds.
const ASKED_MAX: u32 = 15;

/// Where transactions of a consumer's wallet are written down: the folder that renting with it uses as well, so that
/// the two never take each other's nonces.
pub(crate) fn outbox(cx: &Context, network: &Network, wallet: Address) -> Result<PathBuf, Failure> {
    let name = format!("{}-{}", network.fingerprint(), hex::encode(wallet.0));
    Ok(cx.client_dir()?.root().join("outbox").join(name))
}

/// Sends with a wallet: waits for its turn, and runs its sender for as long as `act` lasts.
pub(crate) async fn pay<T, F>(
    outbox: &Path,
    wallet: Wallet,
    client: &ChainClient,
    act: impl FnOnce(Settlement) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let sender = open(outbox, &wallet, client).await?;
    let stop = CancellationToken::new();
    let (running, told) = (sender.clone(), stop.clone());
    let task = tokio::spawn(async move { running.run(told.cancelled_owned()).await });
    let done = act(Settlement::new(sender)).await;
    stop.cancel();
    let ended = task.await.because(Code::Internal, "the sender of transactions failed")?;
    // What was asked for has its own outcome; a sender that broke afterwards is worth a line.
    if let Err(error) = ended {
        tracing::warn!(%error, "the sender of transactions stopped");
    }
    done
}

async fn open(outbox: &Path, wallet: &Wallet, client: &ChainClient) -> Result<TxSender, Failure> {
    let until = Instant::now() + TURN_WITHIN;
    loop {
        match TxSender::open(outbox, wallet.clone(), client.clone(), SenderConfig::default()).await {
            Ok(sender) => return Ok(sender),
            Err(SendError::Outbox(OutboxError::Busy { .. })) if Instant::now() < until => {
                tokio::time::sleep(TURN_PAUSE).await;
            }
            Err(error) => return Err(send_failure(&error)),
        }
    }
}

/// Asks for an operation until the chain has decided it. `ask` names the same intent each time, so it is paid once.
pub(crate) async fn decided<T, F>(cx: &Context, mut ask: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, SettlementError>>,
{
    for _ in 1..ASKED_MAX {
        match ask().await {
            Err(SettlementError::Unknown { tx }) => {
                cx.output.note(&format!("transaction {tx} is sent but not in a block yet; waiting …"));
            }
            outcome => return outcome.map_err(|error| settlement_failure(&error)),
        }
    }
    ask().await.map_err(|error| settlement_failure(&error))
}

/// An operation's error as a failure of a command.
pub(crate) fn settlement_failure(error: &SettlementError) -> Failure {
    match error {
        SettlementError::Send(error) => send_failure(error),
        SettlementError::Client(error) => client_failure(error),
        SettlementError::Failed { .. } => Failure::new(Code::Reverted, error),
        SettlementError::Unknown { tx } => {
            let why = format!(
                "transaction {tx} is sent but not in a block yet; it is sent on by the next command that pays with this \
                 wallet. Look with `muster wallet balance` before you send again"
            );
            Failure::new(Code::Chain, why)
        }
    }
}

fn client_failure(error: &ClientError) -> Failure {
    let code = if matches!(error, ClientError::Reverted(_)) { Code::Reverted } else { Code::Chain };
    Failure::new(code, error)
}

fn send_failure(error: &SendError) -> Failure {
    let code = match error {
        SendError::Client(error) => return client_failure(error),
        SendError::WouldFail(_) => Code::Reverted,
        SendError::InsufficientFunds { .. } => {
            let why = format!(
                "{error}; nothing was sent. On a development network `muster wallet faucet` gives ether as well as tokens"
            );
            return Failure::new(Code::Balance, why);
        }
        SendError::Outbox(OutboxError::Busy { .. }) => Code::InUse,
        SendError::Outbox(_) => Code::Data,
        SendError::Superseded { .. } | SendError::Stopped => Code::Chain,
        SendError::KeyReused { .. } | SendError::BadKey { .. } => Code::Internal,
    };
    Failure::new(code, error)
}
