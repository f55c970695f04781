//! Accounts that pay beforehand: how one stands, and crediting it with a transfer of tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use muster_chain::message::message_signer;
use muster_chain::settle::{ClientError, TxId};
use muster_core::ids::Address;
use muster_core::units::{TokenAmount, UsdMicro};
use muster_core::voucher::CompactSignature;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Gateway;
use crate::api::{bearer, blocking};
use crate::keys::now_s;
use crate::refusal::{Body, ErrorBody, Refusal};
use crate::till::Till;
use crate::usage::{Balance, Credit, CreditError, UsageError};

/// What the sender of a transfer signs, as a personal message (EIP-191): that it is meant for this account. So nobody else
/// can claim it, and no other account, and no other Gateway.
#[must_use]
pub fn credit_message(tx: &str, account: &str, gateway: Address, chain_id: u64) -> String {
    format!(
        "Muster: credit an account\ntransaction: {tx}\naccount: {account}\ngateway: {gateway} on chain {chain_id}\n"
    )
}

/// A transfer that an account was credited with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CreditState {
    /// The transaction.
    tx: String,
    /// Who sent it.
    from: String,
    /// Of the token's smallest units, as a decimal text.
    amount: String,
    /// What it was worth, in millionths of a dollar.
    usd_micro: u64,
    /// When it was credited, seconds since 1970.
    at_s: u64,
}

/// How an account stands. Amounts in dollars are in millionths.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountState {
    /// Its name.
    account: String,
    /// Whether requests to models are paid out of it; otherwise nothing is taken off.
    prepaid: bool,
    /// What can be spent.
    balance_usd_micro: u64,
    /// What was ever paid in.
    credited_usd_micro: u64,
    /// What requests have cost.
    spent_usd_micro: u64,
    /// What requests hold that run.
    reserved_usd_micro: u64,
    /// The transfers that it was credited with, the oldest first.
    credits: Vec<CreditState>,
    /// Where to pay in; none where this Gateway cannot be paid.
    pay_in: Option<PayIn>,
}

/// Where tokens are paid in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayIn {
    /// The Gateway's wallet.
    to: String,
    /// The token's contract.
    token: String,
    chain_id: u64,
    /// What a whole token is worth, in millionths of a dollar.
    token_usd_micro: u64,
}

impl PayIn {
    fn of(till: &Till) -> Self {
        let (client, token_usd_micro) = (till.client(), till.token_price().0);
        let token = client.contracts().token.to_string();
        Self { to: till.wallet().to_string(), token, chain_id: client.chain_id(), token_usd_micro }
    }
}

/// A transfer that is claimed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimCredit {
    /// The transaction: `0x` and 64 hex digits.
    tx: String,
    /// The account [default: that of the key].
    account: Option<String>,
    /// By the wallet that sent it, over the text that `muster account claim` signs: 128 hex digits, `r` and then `vs`.
    signature: String,
}

impl From<UsageError> for Refusal {
    fn from(error: UsageError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "io", error.to_string())
    }
}

impl From<CreditError> for Refusal {
    fn from(error: CreditError) -> Self {
        match error {
            CreditError::Taken { .. } => Self::new(StatusCode::CONFLICT, "credited_already", error.to_string()),
            CreditError::Store(error) => error.into(),
        }
    }
}

fn away(error: &ClientError) -> Refusal {
    let why = format!("the transfer cannot be looked at just now, try again later: {error}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "chain_away", why)
}

/// Whose key it is, whatever the key opens.
fn account(gateway: &Gateway, headers: &HeaderMap) -> Result<String, Refusal> {
    let key = bearer(headers).and_then(|key| gateway.inner.keys.find(key)).filter(|key| !key.is_expired(now_s()));
    let key = key.ok_or_else(Refusal::unauthorised)?;
    gateway.inner.limits.account(key.owner())?;
    Ok(key.owner().to_owned())
}

async fn state(gateway: Gateway, account: String) -> Result<AccountState, Refusal> {
    let ledger = Arc::clone(gateway.inner.model_api.ledger());
    let pay_in = gateway.inner.model_api.till().map(PayIn::of);
    let (credits, balance, prepaid, account) = blocking(move || {
        let balance = ledger.purse(&account).balance();
        Ok::<_, UsageError>((ledger.credits(&account)?, balance, ledger.is_prepaid(), account))
    })
    .await?;
    let Balance { credited, spent, reserved } = balance;
    let shown = |credit: Credit| CreditState {
        tx: credit.tx,
        from: credit.from.to_string(),
        amount: credit.tokens.0.to_string(),
        usd_micro: credit.usd.0,
        at_s: credit.at_s,
    };
    Ok(AccountState {
        account,
        prepaid,
        balance_usd_micro: balance.left().0,
        credited_usd_micro: credited,
        spent_usd_micro: spent,
        reserved_usd_micro: reserved,
        credits: credits.into_iter().map(shown).collect(),
        pay_in,
    })
}

/// How the key's account stands.
#[utoipa::path(get, path = "/api/v1/account",
    responses((status = 200, body = AccountState), (status = 401, body = ErrorBody)))]
pub(crate) async fn get_account(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<AccountState>, Refusal> {
    let account = account(&gateway, &headers)?;
    Ok(Json(state(gateway, account).await?))
}

/// Credits an account with a transfer of tokens to the Gateway's wallet. Each transfer counts once.
#[utoipa::path(post, path = "/api/v1/account/credits", request_body = ClaimCredit,
    responses((status = 201, body = AccountState), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn credit_account(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Body(claim): Body<ClaimCredit>,
) -> Result<(StatusCode, Json<AccountState>), Refusal> {
    let own = account(&gateway, &headers)?;
    let name = claim.account.unwrap_or(own);
    if !gateway.inner.keys.has_account(&name) {
        let why = format!("no key of this Gateway belongs to an account {name:?}; make one first, or mend the name");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_account", why));
    }
    let Some(till) = gateway.inner.model_api.till().cloned() else {
        let why = "this Gateway has no wallet, so nothing can be paid in";
        return Err(Refusal::new(StatusCode::CONFLICT, "no_payments", why));
    };
    let credit = looked_at(&till, &claim.tx, &claim.signature, name.clone()).await?;
    let ledger = Arc::clone(gateway.inner.model_api.ledger());
    let account = credit.account.clone();
    tracing::info!(%account, amount = %credit.tokens, usd = %credit.usd, tx = %credit.tx, "an account pays in");
    blocking(move || ledger.credit(&credit)).await?;
    Ok((StatusCode::CREATED, Json(state(gateway, name).await?)))
}

/// What a transfer is worth, if it was sent to this Gateway by whoever signed.
async fn looked_at(till: &Till, tx: &str, signature: &str, account: String) -> Result<Credit, Refusal> {
    let mut id = [0; 32];
    if hex::decode_to_slice(tx.strip_prefix("0x").unwrap_or(tx), &mut id).is_err() {
        return Err(Refusal::bad("bad_transaction", "tx: write the transaction as 0x and 64 hex digits"));
    }
    let (tx, client, to) = (TxId(id), till.client(), till.wallet());
    let message = credit_message(&tx.to_string(), &account, to, client.chain_id());
    let signer = read(signature).and_then(|signature| message_signer(message.as_bytes(), &signature));
    let bad =
        || Refusal::bad("bad_signature", "signature: nobody can have signed this; pay in with `muster account top-up`");
    let signer = signer.ok_or_else(bad)?;
    let moved = client.moved(tx).await.map_err(|error| away(&error))?;
    let Some(moved) = moved else {
        let why = format!(
            "the transaction {tx} is in no block of chain {}, or it failed; claim it once it is",
            client.chain_id()
        );
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_transaction", why));
    };
    if signer == to || moved.authorized.contains(&signer) {
        let why = format!(
            "the transaction {tx} pays a request by itself, or the Gateway itself: it is no transfer into an account"
        );
        return Err(Refusal::new(StatusCode::CONFLICT, "no_transfer", why));
    }
    let own = moved.transfers.iter().filter(|(from, paid, _)| *from == signer && *paid == to);
    let tokens = own.fold(TokenAmount::ZERO, |sum, (.., amount)| sum.saturating_add(*amount));
    let usd = till.worth(tokens);
    if usd == UsdMicro(0) {
        let why = format!(
            "the transaction {tx} moves nothing that counts from {signer}, which signed, to this Gateway's wallet {to}: sign \
             with the wallet that sent the tokens"
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, "no_transfer", why));
    }
    Ok(Credit { tx: tx.to_string(), from: signer, account, tokens, usd, at_s: now_s() })
}

fn read(signature: &str) -> Option<CompactSignature> {
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature.strip_prefix("0x").unwrap_or(signature), &mut bytes).ok()?;
    let (mut r, mut vs) = ([0; 32], [0; 32]);
    r.copy_from_slice(&bytes[..32]);
    vs.copy_from_slice(&bytes[32..]);
    Some(CompactSignature { r, vs })
}
