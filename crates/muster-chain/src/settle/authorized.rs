//! Transfers of the token that somebody signs and somebody else brings (ERC-3009), and what a receipt says of transfers.

use alloy::primitives::{B256, Signature, U64, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::{Eip712Domain, SolEvent, SolStruct, eip712_domain};
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use muster_core::voucher::CompactSignature;
use serde::Deserialize;
use serde_json::json;

use super::client::ChainClient;
use super::groups::SettlementError;
use super::operations::Settlement;
use super::rpc::ClientError;
use super::transaction::{MinedTx, TxId};
use crate::contracts::abi::MusterToken;
use crate::convert::{amount, from_evm, to_evm};
use crate::ecdsa;
use crate::keys::Wallet;

mod typed {
    alloy::sol! {
        /// The struct that is signed; name and order of the fields are part of the digest.
        struct TransferWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }
    }
}

/// A transfer that its payer allows, whoever brings it, once, and between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Who pays, and signs.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much.
    pub value: TokenAmount,
    /// Good after this moment, in Unix seconds.
    pub valid_after_s: u64,
    /// Good before this moment, in Unix seconds.
    pub valid_before_s: u64,
    /// Drawn at random by the payer: what makes this one unlike all others.
    pub nonce: [u8; 32],
}

/// An authorization with the signature of whoever gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedAuthorization {
    /// What is allowed.
    pub authorization: Authorization,
    /// Of the payer's wallet.
    pub signature: CompactSignature,
}

/// Where authorizations count: one token on one chain.
#[derive(Clone, Debug)]
pub struct TokenDomain {
    name: String,
    version: String,
    domain: Eip712Domain,
}

impl TokenDomain {
    fn new(name: String, version: String, chain_id: u64, token: Address) -> Self {
        let domain = eip712_domain! {
            name: name.clone(),
            version: version.clone(),
            chain_id: chain_id,
            verifying_contract: to_evm(token),
        };
        Self { name, version, domain }
    }

    /// The token's name, as signers must know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, as signers must know it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    fn digest(&self, a: &Authorization) -> B256 {
        let typed = typed::TransferWithAuthorization {
            from: to_evm(a.from),
            to: to_evm(a.to),
            value: U256::from(a.value.0),
            validAfter: U256::from(a.valid_after_s),
            validBefore: U256::from(a.valid_before_s),
            nonce: a.nonce.into(),
        };
        typed.eip712_signing_hash(&self.domain)
    }

    /// Signs a transfer out of a wallet.
    #[must_use]
    pub fn sign(&self, wallet: &Wallet, authorization: Authorization) -> SignedAuthorization {
        let signature = ecdsa::compact(wallet.sign(self.digest(&authorization)));
        SignedAuthorization { authorization, signature }
    }

    /// Whether the payer's own wallet signed. Signatures of wallets that are contracts are none here.
    #[must_use]
    pub fn is_signed(&self, signed: &SignedAuthorization) -> bool {
        let signature = ecdsa::expand(&signed.signature);
        let signer = ecdsa::recover(&signature, self.digest(&signed.authorization));
        signer.map(from_evm) == Some(signed.authorization.from)
    }
}

/// A signature of 65 bytes (`r`, `s`, and a parity as 0, 1, 27 or 28) in the compact form; `None` for what a chain would
/// not accept.
#[must_use]
pub fn compact_signature(bytes: &[u8; 65]) -> Option<CompactSignature> {
    let signature = Signature::from_raw_array(bytes).ok()?;
    // Its malleable twin is refused by the token, too.
    signature.normalize_s().is_none().then(|| ecdsa::compact(signature))
}

/// The 65 bytes of a signature, with 27 or 28 at their end.
#[must_use]
pub fn long_signature(signature: &CompactSignature) -> [u8; 65] {
    ecdsa::expand(signature).as_bytes()
}

fn call(signed: &SignedAuthorization) -> MusterToken::transferWithAuthorizationCall {
    let a = &signed.authorization;
    let signature = ecdsa::expand(&signed.signature);
    MusterToken::transferWithAuthorizationCall {
        from: to_evm(a.from),
        to: to_evm(a.to),
        value: U256::from(a.value.0),
        validAfter: U256::from(a.valid_after_s),
        validBefore: U256::from(a.valid_before_s),
        nonce: a.nonce.into(),
        v: if signature.v() { 28 } else { 27 },
        r: signature.r().into(),
        s: signature.s().into(),
    }
}

/// What a transaction moved, as the token's events say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Transfers: from, to, how much.
    pub transfers: Vec<(Address, Address, TokenAmount)>,
    /// Payers whose authorizations it used.
    pub authorized: Vec<Address>,
}

#[derive(Deserialize)]
struct Receipt {
    status: U64,
    logs: Vec<Log>,
}

impl ChainClient {
    /// Where authorizations of the network's token count; `None` where the token knows none, as those from before there
    /// were any.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn token_domain(&self) -> Result<Option<TokenDomain>, ClientError> {
        let token = self.contracts().token;
        let probe = MusterToken::authorizationStateCall { authorizer: to_evm(token), nonce: B256::ZERO };
        let known = match self.call(token, &probe).await {
            Ok(_) => self.call(token, &MusterToken::eip712DomainCall {}).await,
            Err(error) => Err(error),
        };
        match known {
            Ok(domain) => Ok(Some(TokenDomain::new(domain.name, domain.version, self.chain_id(), token))),
            Err(ClientError::Reverted(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether an authorization was used, or cancelled.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn authorization_used(&self, from: Address, nonce: [u8; 32]) -> Result<bool, ClientError> {
        let call = MusterToken::authorizationStateCall { authorizer: to_evm(from), nonce: nonce.into() };
        self.call(self.contracts().token, &call).await
    }

    /// Whether an authorized transfer would succeed now.
    ///
    /// # Errors
    /// The chain does not answer, or says why it would fail ([`ClientError::Reverted`]).
    pub async fn try_authorized(&self, signed: &SignedAuthorization) -> Result<(), ClientError> {
        self.call(self.contracts().token, &call(signed)).await.map(drop)
    }

    /// What a transaction moved; `None` where it is in no block, or failed.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn moved(&self, tx: TxId) -> Result<Option<Moved>, ClientError> {
        let receipt: Option<Receipt> = self.rpc().ask("eth_getTransactionReceipt", json!([B256::from(tx.0)])).await?;
        let Some(receipt) = receipt.filter(|receipt| receipt.status == U64::from(1)) else { return Ok(None) };
        let mut moved = Moved::default();
        let token = to_evm(self.contracts().token);
        for log in receipt.logs.iter().map(|log| &log.inner).filter(|log| log.address == token) {
            if let Ok(transfer) = MusterToken::Transfer::decode_log(log) {
                moved.transfers.push((from_evm(transfer.from), from_evm(transfer.to), amount(transfer.value)));
            } else if let Ok(used) = MusterToken::AuthorizationUsed::decode_log(log) {
                moved.authorized.push(from_evm(used.authorizer));
            }
        }
        Ok(Some(moved))
    }
}

impl Settlement {
    /// Brings an authorized transfer, and pays for its gas. Asked again for the same one, it is brought once; one that
    /// failed on the chain stays failed.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn bring_authorized(&self, signed: &SignedAuthorization) -> Result<MinedTx, SettlementError> {
        let Authorization { from, nonce, .. } = signed.authorization;
        let token = self.client().contracts().token;
        self.send_once(&format!("authorized {from} {}", hex::encode(nonce)), token, &call(signed)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_is_the_payers_own_and_for_one_token() {
        let domain = |chain: u64| TokenDomain::new("Muster".into(), "1".into(), chain, Address([9; 20]));
        let payer = Wallet::random();
        let authorization = Authorization {
            from: payer.address(),
            to: Address([2; 20]),
            value: TokenAmount(5),
            valid_after_s: 1,
            valid_before_s: 100,
            nonce: [3; 32],
        };
        let signed = domain(1).sign(&payer, authorization);
        assert!(domain(1).is_signed(&signed));
        assert!(!domain(2).is_signed(&signed), "another chain");
        let more = Authorization { value: TokenAmount(6), ..authorization };
        assert!(!domain(1).is_signed(&SignedAuthorization { authorization: more, ..signed }));
        assert!(!domain(1).is_signed(&domain(1).sign(&Wallet::random(), authorization)), "another wallet");
        let long = long_signature(&signed.signature);
        assert!(long[64] == 27 || long[64] == 28);
        assert_eq!(compact_signature(&long), Some(signed.signature));
        let mut parity = long;
        parity[64] -= 27;
        assert_eq!(compact_signature(&parity), Some(signed.signature), "the parity alone");
        assert_eq!(compact_signature(&[0xff; 65]), None);
    }

    #[test]
    fn the_twin_of_a_signature_is_none() {
        let order =
            U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16).unwrap();
        let payer = Wallet::random();
        let long = long_signature(&payer.sign_message(b"x"));
        let s = U256::from_be_slice(&long[32..64]);
        let mut twin = long;
        twin[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        twin[64] = 55 - long[64];
        assert_eq!(compact_signature(&twin), None);
    }
}
