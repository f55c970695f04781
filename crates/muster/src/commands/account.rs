//! `muster account`: accounts of a Gateway that pay beforehand.

use muster_chain::keys::Wallet;
use muster_core::ids::Address;
use muster_core::units::{TokenAmount, UsdMicro};
use muster_gateway::{credit_message, signature_text};
use reqwest::Method;
use serde_json::{Value, json};

use super::live::{Customer, text};
use super::wallet::paying;
use super::{Context, chain_failure};
use crate::cli::AccountCommand;
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};

const ACCOUNT: &str = "/api/v1/account";
const CREDITS: &str = "/api/v1/account/credits";

/// Runs one of the commands.
pub(super) async fn run(cx: &Context, command: AccountCommand) -> Result<u8, Failure> {
    match command {
        AccountCommand::Show { at } => {
            let state = Customer::find(cx, &at).await?.call(Method::GET, ACCOUNT, None).await?;
            cx.output.result(&state, || state_text(&state));
        }
        AccountCommand::TopUp { amount, account, at } => {
            let customer = Customer::find(cx, &at).await?;
            top_up(cx, &customer, amount, account).await?;
        }
        AccountCommand::Claim { tx, account, at } => {
            let customer = Customer::find(cx, &at).await?;
            let wallet = cx.wallet()?;
            let place = Place::of(cx, &customer, account).await?;
            claim(cx, &customer, &wallet, &place, &tx).await?;
        }
    }
    Ok(0)
}

/// Where tokens are paid in, and for whom.
struct Place {
    account: String,
    to: Address,
    chain_id: u64,
}

impl Place {
    /// As the Gateway says; it must be of this network.
    async fn of(cx: &Context, customer: &Customer, account: Option<String>) -> Result<Self, Failure> {
        let state = customer.call(Method::GET, ACCOUNT, None).await?;
        if state.pointer("/pay_in").is_none_or(Value::is_null) {
            return Err(Failure::new(Code::Config, "this Gateway has no wallet, so nothing can be paid in"));
        }
        let network = cx.network()?;
        let token = text(&state, "/pay_in/token").parse::<Address>();
        let chain_id = state.pointer("/pay_in/chain_id").and_then(Value::as_u64).unwrap_or_default();
        if token != Ok(network.contracts.token) || chain_id != network.chain.id {
            let why = format!(
                "the Gateway takes the token {} of chain {chain_id}, the network {} has {} on chain {}; nothing was sent. \
                 Name the Gateway's network with --network",
                text(&state, "/pay_in/token"),
                network.name,
                network.contracts.token,
                network.chain.id,
            );
            return Err(Failure::new(Code::Config, why));
        }
        let to = text(&state, "/pay_in/to").parse().because(Code::Unreachable, "the Gateway tells no wallet")?;
        Ok(Self { account: account.unwrap_or_else(|| text(&state, "/account")), to, chain_id })
    }
}

async fn top_up(
    cx: &Context,
    customer: &Customer,
    amount: TokenAmount,
    account: Option<String>,
) -> Result<(), Failure> {
    if amount == TokenAmount::ZERO {
        return Err(Failure::new(Code::Balance, "an amount of 0 pays nothing in; nothing was sent"));
    }
    let place = Place::of(cx, customer, account).await?;
    let (network, wallet, client) = (cx.network()?, cx.wallet()?, cx.chain().await?);
    let (from, to) = (wallet.address(), place.to);
    if from == to {
        let why =
            format!("{from} is the Gateway's own wallet, which cannot pay itself; name another one with --wallet");
        return Err(Failure::new(Code::Wallet, why));
    }
    let have = client.token_balance(from).await.map_err(|e| chain_failure(&e))?;
    if have < amount {
        let why = format!(
            "wallet {from} holds {have} tokens, less than the {amount} to be paid in; nothing was sent. On a development \
             network `muster wallet faucet` gives more"
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let outbox = paying::outbox(cx, &network, from)?;
    let intent = format!("top up {:032x}", rand::random::<u128>());
    let mined = paying::pay(&outbox, wallet.clone(), &client, |settlement| async move {
        paying::decided(cx, || settlement.send_tokens(&intent, to, amount)).await
    })
    .await?;
    let tx = mined.tx.to_string();
    cx.output.note(&format!(
        "sent {} to the Gateway's wallet {to}: transaction {tx}; should this stop here, `muster account claim {tx} \
         --account {}` has it credited",
        tokens(amount),
        place.account,
    ));
    claim(cx, customer, &wallet, &place, &tx).await
}

/// Has a transfer credited: the wallet that sent it says for whom.
async fn claim(cx: &Context, customer: &Customer, wallet: &Wallet, place: &Place, tx: &str) -> Result<(), Failure> {
    let tx = tx.trim().to_ascii_lowercase();
    let message = credit_message(&tx, &place.account, place.to, place.chain_id);
    let signature = signature_text(&wallet.sign_message(message.as_bytes()));
    let body = json!({ "tx": tx, "account": place.account, "signature": signature });
    let state = customer.call(Method::POST, CREDITS, Some(&body)).await?;
    cx.output.result(&state, || state_text(&state));
    Ok(())
}

fn state_text(state: &Value) -> String {
    let usd = |field: &str| UsdMicro(state.pointer(field).and_then(Value::as_u64).unwrap_or_default());
    let prepaid = state.pointer("/prepaid").and_then(Value::as_bool).unwrap_or_default();
    let mut lines = format!(
        "account {}: {} left of {} paid in; requests have cost {}, and hold {}",
        text(state, "/account"),
        usd("/balance_usd_micro"),
        usd("/credited_usd_micro"),
        usd("/spent_usd_micro"),
        usd("/reserved_usd_micro"),
    );
    if !prepaid {
        lines.push_str("\nThis Gateway does not ask accounts to pay beforehand: nothing is taken off.");
    }
    let credits = state.pointer("/credits").and_then(Value::as_array).cloned().unwrap_or_default();
    if !credits.is_empty() {
        let row = |credit: &Value| {
            let amount = TokenAmount(text(credit, "/amount").parse().unwrap_or_default());
            let usd = UsdMicro(credit.pointer("/usd_micro").and_then(Value::as_u64).unwrap_or_default());
            vec![text(credit, "/tx"), text(credit, "/from"), tokens(amount), usd.to_string()]
        };
        lines.push('\n');
        lines.push_str(&table(&["transaction", "from", "amount", "worth"], credits.iter().map(row).collect()));
    }
    lines
}
