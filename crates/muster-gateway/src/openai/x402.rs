//! x402, version 2, over HTTP: a request without a key is told what it costs; one that brings a payment is answered.
//!
//! The scheme is `exact` on EVM chains, by ERC-3009: the payer signs a transfer of the network's token, and this Gateway
//! brings it to the chain itself. What became of each payment is written down before it is acted on
//! ([`crate::usage::Payments`]), so that it buys one answer and no second.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use muster_chain::settle::{Authorization, ClientError, SignedAuthorization, TokenDomain, TxId, compact_signature};
use muster_client::ledger::LedgerError;
use muster_core::ids::Address;
use muster_core::inference::{InferenceRequest, InferenceTask, Sampling};
use muster_core::units::{TokenAmount, UsdMicro};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::models::Deployment;
use crate::till::Till;
use crate::usage::{Held, PaymentError, Payments, Step, UsageError};

/// The version that is spoken.
const VERSION: u64 = 2;
/// The scheme that is taken, and how its tokens move.
const SCHEME: &str = "exact";
const METHOD: &str = "eip3009";
/// Seconds that a payment may take to arrive.
const WITHIN_S: u64 = 60;
/// A payment that is good for less than this is not begun with: it might be refused on its way.
const GOOD_FOR_S: u64 = 3;
/// The token takes moments past this for never.
const MOMENT_MAX_S: u64 = 1 << 47;
/// Bytes of the longest payment.
const HEADER_BYTES_MAX: usize = 8 * 1_024;
/// Tokens of an answer where a request that is paid by itself says nothing of them.
const ANSWER_TOKENS: u32 = 1_024;

const REQUIRED: HeaderName = HeaderName::from_static("payment-required");
const SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
const RESPONSE: HeaderName = HeaderName::from_static("payment-response");
/// What version 1 sent its payments in.
const OLD_SIGNATURE: HeaderName = HeaderName::from_static("x-payment");

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is to be paid, as both sides write it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requirements {
    scheme: String,
    network: String,
    amount: String,
    asset: String,
    pay_to: String,
    #[serde(default)]
    max_timeout_seconds: u64,
    #[serde(default)]
    extra: Extra,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Extra {
    asset_transfer_method: Option<String>,
    name: String,
    version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    url: &'a str,
    description: &'a str,
    mime_type: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Required<'a> {
    #[serde(rename = "x402Version")]
    version: u64,
    error: &'a str,
    resource: Resource<'a>,
    accepts: [Requirements; 1],
}

/// What a payer sends. Fields that are not needed are left aside.
#[derive(Deserialize)]
struct Sent {
    accepted: Requirements,
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    signature: String,
    authorization: Allowed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Allowed {
    from: String,
    to: String,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

/// What a payer is told of a payment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<&'static str>,
    transaction: String,
    network: String,
    payer: String,
}

/// What one request costs, to whom it is paid, and how.
pub(super) struct Offer<'a> {
    till: &'a Till,
    domain: &'a TokenDomain,
    amount: TokenAmount,
    url: String,
    about: String,
}

/// Bounds an answer that says nothing of its length, so that its price is one that somebody would pay.
pub(super) fn bound(request: &mut InferenceRequest) {
    let sampling: Option<&mut Sampling> = match &mut request.task {
        InferenceTask::Chat(chat) => Some(&mut chat.sampling),
        InferenceTask::Completion(completion) => Some(&mut completion.sampling),
        InferenceTask::Embedding(_) | InferenceTask::Reveal(_) | InferenceTask::Replay(_) => None,
    };
    if let Some(sampling) = sampling {
        sampling.max_tokens.get_or_insert(ANSWER_TOKENS);
    }
}

/// Why a payment is not taken, by the protocol's own word and in a sentence.
struct Refused {
    reason: &'static str,
    why: String,
}

impl Refused {
    fn new(reason: &'static str, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

fn invalid(code: &'static str, why: impl Into<String>) -> ApiError {
    let why = why.into();
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, format!("PAYMENT-SIGNATURE: {why}"))
}

fn broken(error: &UsageError) -> ApiError {
    tracing::error!(%error, "payments cannot be kept");
    let why = "this Gateway cannot keep payments just now; nothing was taken, send the request again later";
    ApiError::unavailable(why, 5)
}

fn away(error: &ClientError) -> ApiError {
    let why = format!("the payment cannot be looked at just now, nothing was taken; send it again later: {error}");
    ApiError::unavailable(why, 5)
}

impl<'a> Offer<'a> {
    /// `None` where this Gateway cannot be paid for single requests.
    pub(super) fn new(
        till: Option<&'a Till>,
        model: &Deployment,
        path: &str,
        cost: UsdMicro,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let till = till?;
        let domain = till.domain()?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        Some(Self {
            till,
            domain,
            amount: till.tokens(cost),
            url: format!("http://{host}{path}"),
            about: format!("an answer of the model {}", model.name),
        })
    }

    fn requirements(&self) -> Requirements {
        Requirements {
            scheme: SCHEME.to_owned(),
            network: self.till.network(),
            amount: self.amount.0.to_string(),
            asset: self.till.client().contracts().token.to_string(),
            pay_to: self.till.wallet().to_string(),
            max_timeout_seconds: WITHIN_S,
            extra: Extra {
                asset_transfer_method: Some(METHOD.to_owned()),
                name: self.domain.name().to_owned(),
                version: self.domain.version().to_owned(),
            },
        }
    }

    /// The answer 402: its header and its body say the same.
    fn required(&self, error: &str) -> ApiError {
        let resource = Resource { url: &self.url, description: &self.about, mime_type: "application/json" };
        let body = Required { version: VERSION, error, resource, accepts: [self.requirements()] };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let header = HeaderValue::try_from(BASE64.encode(&body));
        let told = ApiError::payment(body);
        header.into_iter().fold(told, |told, header| told.header(REQUIRED, header))
    }

    /// The payment that a request brings; where it brings none, what it has to pay.
    pub(super) fn payment(&self, headers: &HeaderMap) -> Result<SignedAuthorization, ApiError> {
        let Some(sent) = headers.get(&SIGNATURE) else {
            let why = if headers.contains_key(&OLD_SIGNATURE) {
                "this Gateway speaks x402 version 2: send the payment as PAYMENT-SIGNATURE"
            } else {
                "this needs an API key, or a payment of the amount that is named, in the header PAYMENT-SIGNATURE"
            };
            return Err(self.required(why));
        };
        if sent.len() > HEADER_BYTES_MAX {
            return Err(invalid("invalid_payload", format!("it is longer than {HEADER_BYTES_MAX} bytes")));
        }
        let text = BASE64.decode(sent).map_err(|error| invalid("invalid_payload", format!("no base64: {error}")))?;
        let version: Version =
            serde_json::from_slice(&text).map_err(|error| invalid("invalid_payload", error.to_string()))?;
        if version.version != VERSION {
            let why = format!("x402Version is {}; this Gateway speaks version {VERSION}", version.version);
            return Err(invalid("invalid_x402_version", why));
        }
        let sent: Sent =
            serde_json::from_slice(&text).map_err(|error| invalid("invalid_payload", error.to_string()))?;
        let signed = signed(&sent.payload)?;
        let payer = signed.authorization.from;
        self.check(&sent.accepted, &signed).map_err(|refused| self.refused(payer, &refused))?;
        Ok(signed)
    }

    /// Refuses what is not what was asked for, or not signed by its payer. Asks nobody.
    fn check(&self, accepted: &Requirements, signed: &SignedAuthorization) -> Result<(), Refused> {
        let asked = self.requirements();
        if accepted.scheme != asked.scheme {
            let why = format!("the scheme {:?} is not taken; pay by {SCHEME}", shown(&accepted.scheme));
            return Err(Refused::new("unsupported_scheme", why));
        }
        if accepted.network != asked.network {
            let why = format!("the network {:?} is not taken; pay on {}", shown(&accepted.network), asked.network);
            return Err(Refused::new("invalid_network", why));
        }
        if accepted.extra.asset_transfer_method.as_deref().is_some_and(|method| method != METHOD) {
            return Err(Refused::new("unsupported_scheme", format!("pay by the transfer method {METHOD}")));
        }
        let token = self.till.client().contracts().token;
        if accepted.asset.parse::<Address>() != Ok(token) {
            let why = format!("the token {:?} is not taken; pay in {token}", shown(&accepted.asset));
            return Err(Refused::new("invalid_payment_requirements", why));
        }
        let authorization = &signed.authorization;
        if accepted.pay_to.parse::<Address>() != Ok(self.till.wallet()) || authorization.to != self.till.wallet() {
            let why = format!("the payment is for somebody else; pay to {}", self.till.wallet());
            return Err(Refused::new("invalid_exact_evm_payload_recipient_mismatch", why));
        }
        if authorization.from == authorization.to {
            return Err(Refused::new("invalid_payload", "a wallet that pays itself pays nothing"));
        }
        if !self.domain.is_signed(signed) {
            let why = format!(
                "{} has not signed this: sign TransferWithAuthorization with the domain {:?}, version {:?}, chain {}, \
                 token {token}; wallets that are contracts are not known here",
                authorization.from,
                self.domain.name(),
                self.domain.version(),
                self.till.client().chain_id(),
            );
            return Err(Refused::new("invalid_exact_evm_payload_signature", why));
        }
        Ok(())
    }

    /// The amount is that of this request, and no other. What is paid already may be more.
    fn check_amount(&self, paid: TokenAmount, is_settled: bool) -> Result<(), Refused> {
        if paid == self.amount || (is_settled && paid > self.amount) {
            return Ok(());
        }
        let why =
            format!("this request costs {} of the token's smallest units, the payment is of {}", self.amount.0, paid.0);
        Err(Refused::new("invalid_exact_evm_payload_authorization_value_mismatch", why))
    }

    fn refused(&self, payer: Address, refused: &Refused) -> ApiError {
        let told = Told {
            success: false,
            error_reason: Some(refused.reason),
            transaction: String::new(),
            network: self.till.network(),
            payer: payer.to_string(),
        };
        told.header().into_iter().fold(self.required(&refused.why), |error, header| error.header(RESPONSE, header))
    }

    /// Takes a payment in hand and looks at it as closely as can be: nothing is taken yet.
    pub(super) async fn hold(
        &self,
        payments: &std::sync::Arc<Payments>,
        signed: &SignedAuthorization,
        now_s: u64,
    ) -> Result<Held, ApiError> {
        let (payments, authorization) = (std::sync::Arc::clone(payments), signed.authorization);
        let payer = authorization.from;
        let held = tokio::task::spawn_blocking(move || payments.hold(&authorization)).await;
        let held =
            match held.map_err(|_| ApiError::unavailable("the payment could not be looked at; send it again", 1))? {
                Ok(held) => held,
                Err(PaymentError::Store(error)) => return Err(broken(&error)),
                Err(error @ (PaymentError::InHand | PaymentError::Used(_))) => {
                    let refused = Refused::new("invalid_exact_evm_nonce_already_used", error.to_string());
                    return Err(self.refused(payer, &refused));
                }
            };
        self.check_amount(authorization.value, held.known.is_some())
            .map_err(|refused| self.refused(payer, &refused))?;
        if held.known.is_none() {
            self.verify(signed, now_s).await?.map_err(|refused| self.refused(payer, &refused))?;
        }
        Ok(held)
    }

    /// Asks the chain whether the payment is good; the outer error is that nobody knows.
    async fn verify(&self, signed: &SignedAuthorization, now_s: u64) -> Result<Result<(), Refused>, ApiError> {
        let Authorization { from, value, valid_after_s, valid_before_s, nonce, .. } = signed.authorization;
        if valid_after_s >= now_s {
            let why = format!("the payment is good only after {valid_after_s}; it is {now_s} (Unix seconds)");
            return Ok(Err(Refused::new("invalid_exact_evm_payload_authorization_valid_after", why)));
        }
        if valid_before_s <= now_s.saturating_add(GOOD_FOR_S) {
            let why = format!("the payment is good only before {valid_before_s}; it is {now_s} (Unix seconds)");
            return Ok(Err(Refused::new("invalid_exact_evm_payload_authorization_valid_before", why)));
        }
        let client = self.till.client();
        if client.authorization_used(from, nonce).await.map_err(|error| away(&error))? {
            let why = "this payment was used already, or cancelled; sign a payment for each request";
            return Ok(Err(Refused::new("invalid_exact_evm_nonce_already_used", why)));
        }
        let have = client.token_balance(from).await.map_err(|error| away(&error))?;
        if have < value {
            let why = format!("the wallet {from} holds {have} tokens, the request costs {value}");
            return Ok(Err(Refused::new("insufficient_funds", why)));
        }
        match client.try_authorized(signed).await {
            Ok(()) => Ok(Ok(())),
            Err(ClientError::Reverted(why)) => Ok(Err(Refused::new("invalid_transaction_state", why))),
            Err(error) => Err(away(&error)),
        }
    }

    /// Has the payment in a block, whatever becomes of who asked: once this comes back, it is paid.
    pub(super) async fn settle(&self, held: Held, signed: SignedAuthorization) -> Result<Paid, ApiError> {
        let payer = signed.authorization.from;
        let till = self.till.clone();
        // Whoever hangs up now has paid all the same: what became of it must be known to the next try.
        let settled = tokio::spawn(async move { settle(&till, held, signed).await }).await;
        let gone =
            |_| ApiError::unavailable("the payment was broken off; send the same request with the same payment", 1);
        match settled.map_err(gone)? {
            Ok(paid) => Ok(paid),
            Err(Unsettled::Refused(why)) => Err(self.refused(payer, &Refused::new("invalid_transaction_state", why))),
            Err(Unsettled::Unknown(why)) => {
                let why = format!(
                    "the payment is on its way, and not in a block yet: send the same request with the same payment, it \
                     is not taken twice ({why})"
                );
                Err(ApiError::unavailable(why, 5))
            }
            Err(Unsettled::Store(error)) => Err(broken(&error)),
        }
    }
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "x402Version")]
    version: u64,
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The authorization of a payment, in our own terms.
fn signed(payload: &Payload) -> Result<SignedAuthorization, ApiError> {
    let Payload { signature, authorization: allowed } = payload;
    let wrong = |field: &str, what: &str| invalid("invalid_payload", format!("payload.{field} is no {what}"));
    let address =
        |field: &str, text: &str| text.parse::<Address>().map_err(|_| wrong(field, "address (0x and 40 hex digits)"));
    let moment = |field: &str, text: &str| {
        let moment = text.parse::<u64>().ok().filter(|moment| *moment < MOMENT_MAX_S);
        moment.ok_or_else(|| wrong(field, "moment in Unix seconds, as a decimal text"))
    };
    let bytes = |field: &str, text: &str, to: &mut [u8], what: &str| {
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), to).map_err(|_| wrong(field, what))
    };
    let (mut nonce, mut long) = ([0; 32], [0; 65]);
    bytes("authorization.nonce", &allowed.nonce, &mut nonce, "nonce (0x and 64 hex digits)")?;
    bytes("signature", signature, &mut long, "signature of 65 bytes (0x and 130 hex digits)")?;
    let value = allowed.value.parse().map(TokenAmount);
    let authorization = Authorization {
        from: address("authorization.from", &allowed.from)?,
        to: address("authorization.to", &allowed.to)?,
        value: value
            .map_err(|_| wrong("authorization.value", "amount of the token's smallest units, as a decimal text"))?,
        valid_after_s: moment("authorization.validAfter", &allowed.valid_after)?,
        valid_before_s: moment("authorization.validBefore", &allowed.valid_before)?,
        nonce,
    };
    let signature =
        compact_signature(&long).ok_or_else(|| wrong("signature", "signature that the token would take"))?;
    Ok(SignedAuthorization { authorization, signature })
}

enum Unsettled {
    Refused(String),
    Unknown(String),
    Store(UsageError),
}

async fn settle(till: &Till, held: Held, signed: SignedAuthorization) -> Result<Paid, Unsettled> {
    if let Some(Step::Settled(tx)) = held.known {
        return Ok(Paid { held, tx });
    }
    let held = noted(held, Step::Taken).await.map_err(Unsettled::Store)?;
    match till.chain().bring_authorized(signed).await {
        Ok(tx) => {
            let held = noted(held, Step::Settled(tx)).await.map_err(Unsettled::Store)?;
            let Authorization { from, value, .. } = signed.authorization;
            tracing::info!(payer = %from, amount = %value, %tx, "a request is paid");
            Ok(Paid { held, tx })
        }
        Err(LedgerError::Refused(why)) => {
            let forgotten = tokio::task::spawn_blocking(move || held.forget()).await;
            match forgotten {
                Ok(Ok(())) => Err(Unsettled::Refused(why)),
                Ok(Err(error)) => Err(Unsettled::Store(error)),
                Err(_) => Err(Unsettled::Unknown(why)),
            }
        }
        Err(error @ (LedgerError::Unknown(_) | LedgerError::NoWallet(_))) => Err(Unsettled::Unknown(error.to_string())),
    }
}

async fn noted(held: Held, step: Step) -> Result<Held, UsageError> {
    match tokio::task::spawn_blocking(move || held.note(step).map(|()| held)).await {
        Ok(noted) => noted,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is ending, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// A payment that is in a block.
pub(super) struct Paid {
    held: Held,
    tx: TxId,
}

impl Paid {
    /// The header that tells the payer.
    fn told(&self, till: &Till, payer: Address) -> Option<HeaderValue> {
        let told = Told {
            success: true,
            error_reason: None,
            transaction: self.tx.to_string(),
            network: till.network(),
            payer: payer.to_string(),
        };
        told.header()
    }

    /// Hands the answer out: from now on the payment is used. An answer that did not come about leaves it good for another
    /// try, and says so by the same header.
    pub(super) async fn answer(
        self,
        till: &Till,
        payer: Address,
        answer: Result<Response, ApiError>,
    ) -> Result<Response, ApiError> {
        let header = self.told(till, payer);
        match answer {
            Ok(mut response) => {
                noted(self.held, Step::Answered(self.tx)).await.map_err(|error| broken(&error))?;
                response.headers_mut().extend(header.map(|header| (RESPONSE, header)));
                Ok(response)
            }
            Err(error) => Err(header.into_iter().fold(error, |error, header| error.header(RESPONSE, header))),
        }
    }
}

impl Told {
    fn header(&self) -> Option<HeaderValue> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        HeaderValue::try_from(BASE64.encode(text)).ok()
    }
}
