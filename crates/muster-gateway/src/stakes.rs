//! Stakes of apps: a Gateway that asks for them takes an app only from who stakes for exactly what is published.

use axum::http::{HeaderMap, StatusCode};
use muster_chain::message::message_signer;
use muster_chain::settle::{ChainClient, ClientError, NodeKind};
use muster_core::apps::{StakeLack, stands, stands_for};
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use muster_core::voucher::CompactSignature;

use crate::apps::{App, Published};
use crate::refusal::Refusal;

/// The header that carries a publisher's signature, as 128 hex digits: `r`, then `vs` (EIP-2098).
pub const PUBLISHER_HEADER: &str = "muster-publisher";
/// The code of a refusal that a publisher mends on the chain, or by signing.
pub const STAKE_NEEDED: &str = "stake_needed";

impl App {
    /// What the chain holds of it: BLAKE3 over its JSON, without blanks, the fields in the order in which the API shows
    /// them. A field that comes to be later must be left out of the JSON where it says nothing, or hashes change.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("muster app v1");
        hasher.update(&serde_json::to_vec(self).expect("texts, numbers and lists are JSON"));
        hasher.finalize().into()
    }

    /// The stake that its file promises; zero where it promises none.
    #[must_use]
    pub fn promised(&self) -> TokenAmount {
        TokenAmount(u128::from(self.stake.unwrap_or(0)).saturating_mul(TokenAmount::ONE.0))
    }
}

/// What a publisher signs, as a personal message (EIP-191): that this app is published by whoever holds an API key. The
/// key's hash makes it useless to another account, and at another Gateway.
#[must_use]
pub fn publish_message(app: &App, chain_id: u64, registry: Address, api_key: &str) -> String {
    format!(
        "Muster: publish an app\nname: {}\nversion: {}\nhash: {}\nregistry: {registry} on chain {chain_id}\naccount: {}\n",
        app.name,
        app.version,
        hex::encode(app.hash()),
        blake3::hash(api_key.as_bytes()).to_hex(),
    )
}

/// What a Gateway asks of who publishes.
#[derive(Clone, Debug)]
pub struct AppStakes {
    /// The chain that holds stakes.
    pub client: ChainClient,
    /// The least stake of an app, as the network's file has it. The chain's own counts where it is more.
    pub least: TokenAmount,
}

impl AppStakes {
    /// Who publishes: whoever signed, if a stake of theirs stands for exactly this app.
    pub(crate) async fn admit(&self, app: &App, headers: &HeaderMap, api_key: &str) -> Result<Address, Refusal> {
        let least = self.client.min_stake(NodeKind::App).await.map_err(away)?.max(self.least);
        let promised = app.promised();
        if app.stake.is_some() && promised < least {
            let why = format!(
                "stake: {promised} tokens are less than the {least} that an app takes here; raise or remove `stake`"
            );
            return Err(Refusal::bad("bad_app", why));
        }
        let need = promised.max(least);
        let Some(signature) = signature(headers)? else {
            let why = format!(
                "this Gateway takes an app only with a stake of {need} tokens on the chain, and signed by who staked: \
                 `muster app publish` stakes from your wallet and signs"
            );
            return Err(Refusal::new(StatusCode::PAYMENT_REQUIRED, STAKE_NEEDED, why));
        };
        let message = publish_message(app, self.client.chain_id(), self.client.contracts().registry, api_key);
        let Some(publisher) = message_signer(message.as_bytes(), &signature) else {
            let why = format!("{PUBLISHER_HEADER}: nobody can have signed this; publish with `muster app publish`");
            return Err(Refusal::bad("bad_signature", why));
        };
        let found = self.client.app_stake(&app.name).await.map_err(away)?;
        stands_for(&app.name, found.as_ref(), publisher, need, app.hash())?;
        Ok(publisher)
    }

    /// Whether the stake of a published app stands, so that it may be played. Those that come with Muster need none. The
    /// hash is not looked at: a publisher who registers the next version before it is here has still published this one.
    pub(crate) async fn playable(&self, published: &Published) -> Result<(), Refusal> {
        if published.account.is_none() {
            return Ok(());
        }
        let (app, gone) = (&published.app, |why: String| Refusal::new(StatusCode::CONFLICT, "stake_gone", why));
        let Some(publisher) = published.publisher else {
            let why = format!(
                "{:?} was published before this Gateway asked for stakes: its publisher's `muster app publish` sees to it",
                app.name
            );
            return Err(gone(why));
        };
        let found = self.client.app_stake(&app.name).await.map_err(away)?;
        stands(&app.name, found.as_ref(), publisher, app.promised()).map(drop).map_err(|lack| gone(lack.to_string()))
    }
}

fn away(error: ClientError) -> Refusal {
    let why = format!("whether a stake stands for the app is not known, try again later: {error}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "chain_away", why)
}

impl From<StakeLack> for Refusal {
    fn from(lack: StakeLack) -> Self {
        let (status, code) = match &lack {
            StakeLack::Another { .. } => (StatusCode::FORBIDDEN, "stake_of_another"),
            StakeLack::Missing { .. }
            | StakeLack::Left { .. }
            | StakeLack::Short { .. }
            | StakeLack::Jailed { .. }
            | StakeLack::OtherHash { .. } => (StatusCode::PAYMENT_REQUIRED, STAKE_NEEDED),
        };
        Self::new(status, code, lack.to_string())
    }
}

/// A signature as the header carries it.
#[must_use]
pub fn signature_text(signature: &CompactSignature) -> String {
    hex::encode([signature.r, signature.vs].concat())
}

fn signature(headers: &HeaderMap) -> Result<Option<CompactSignature>, Refusal> {
    let Some(value) = headers.get(PUBLISHER_HEADER) else { return Ok(None) };
    let mut bytes = [0; 64];
    if hex::decode_to_slice(value, &mut bytes).is_err() {
        let why = format!("{PUBLISHER_HEADER}: write the signature as 128 hex digits, r and then vs");
        return Err(Refusal::bad("bad_signature", why));
    }
    let (mut r, mut vs) = ([0; 32], [0; 32]);
    r.copy_from_slice(&bytes[..32]);
    vs.copy_from_slice(&bytes[32..]);
    Ok(Some(CompactSignature { r, vs }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use muster_chain::keys::Wallet;

    use super::*;

    const FILE: &str = "name = \"game\"\nversion = \"1\"\ntitle = \"Game\"\ncommand = [\"game\"]\n\
                        resolutions = [\"640x360\"]\nfps = [30]\n";

    #[test]
    fn hashes_of_apps_do_not_change() {
        // They are on chains: a build that counts another one turns every published app away.
        let app = App::parse(FILE).unwrap();
        assert_eq!(
            serde_json::to_string(&app).unwrap(),
            "{\"name\":\"game\",\"version\":\"1\",\"title\":\"Game\",\"command\":[\"game\"],\"packages\":[],\"env\":{},\
             \"resolutions\":[\"640x360\"],\"fps\":[30],\"keyboard\":\"position\",\"pointer\":\"absolute\",\
             \"sound\":true,\"microphone\":false,\"save\":true,\"needs\":{\"cpu_millis\":500,\"memory_mib\":512,\
             \"disk_mib\":256,\"ob\":0,\"vram_mib\":0}}"
        );
        let promised = App::parse(&format!("stake = 250\n{FILE}")).unwrap();
        assert_eq!((app.promised(), promised.promised()), (TokenAmount::ZERO, TokenAmount(250 * TokenAmount::ONE.0)));
        assert_ne!(app.hash(), promised.hash());
        assert_eq!(hex::encode(app.hash()), "ad3f12da1c2aa8f3ad1ffa97d601ae926e1b80ada2f0f6986d0b8c87404ae5c0");
    }

    #[test]
    fn a_signature_is_for_one_app_one_account_and_one_registry() {
        let (wallet, app) = (Wallet::random(), App::parse(FILE).unwrap());
        let other = App { version: "2".to_owned(), ..app.clone() };
        let signed = |app: &App, chain, registry: u8, key: &str| {
            publish_message(app, chain, Address([registry; 20]), key).into_bytes()
        };
        let signature = wallet.sign_message(&signed(&app, 1, 1, "mk_a"));
        let mut headers = HeaderMap::new();
        headers.insert(PUBLISHER_HEADER, HeaderValue::from_str(&signature_text(&signature)).unwrap());
        let read = super::signature(&headers).unwrap().unwrap();
        assert_eq!(message_signer(&signed(&app, 1, 1, "mk_a"), &read), Some(wallet.address()));
        for message in [
            signed(&other, 1, 1, "mk_a"),
            signed(&app, 2, 1, "mk_a"),
            signed(&app, 1, 2, "mk_a"),
            signed(&app, 1, 1, "mk_b"),
        ] {
            assert_ne!(message_signer(&message, &read), Some(wallet.address()));
        }
        for wrong in ["", "0x", "12", &"g".repeat(128), &"0".repeat(130)] {
            headers.insert(PUBLISHER_HEADER, HeaderValue::from_str(wrong).unwrap());
            assert!(super::signature(&headers).is_err(), "{wrong}");
        }
    }
}
