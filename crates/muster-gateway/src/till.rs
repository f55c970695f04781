//! The till: how a Gateway is paid in the network's token, for single requests and into accounts.

use std::sync::Arc;

use muster_chain::settle::{ChainClient, ClientError, TokenDomain};
use muster_client::chain::ChainLedger;
use muster_client::ledger::Ledger;
use muster_core::ids::Address;
use muster_core::pricing::Exchange;
use muster_core::units::{TokenAmount, UsdMicro};

/// The Gateway's wallet, the chain it is paid on, and the rate. Clones share it.
#[derive(Clone, Debug)]
pub struct Till {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    chain: Arc<ChainLedger>,
    wallet: Address,
    /// Where authorized transfers count; `None` where the token knows none.
    domain: Option<TokenDomain>,
    exchange: Exchange,
}

impl Till {
    /// The till of a wallet; `None` for a Gateway without one. Asks the chain what its token can do.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn open(chain: Arc<ChainLedger>, token_price: UsdMicro) -> Result<Option<Self>, ClientError> {
        let Some(wallet) = chain.consumer() else { return Ok(None) };
        let domain = chain.client().token_domain().await?;
        let exchange = Exchange { token_price };
        Ok(Some(Self { inner: Arc::new(Inner { chain, wallet, domain, exchange }) }))
    }

    /// Whether single requests can be paid, by x402: the token must know authorized transfers (ERC-3009).
    #[must_use]
    pub fn takes_single_payments(&self) -> bool {
        self.inner.domain.is_some()
    }

    /// Who is paid.
    #[must_use]
    pub fn wallet(&self) -> Address {
        self.inner.wallet
    }

    pub(crate) fn chain(&self) -> &Arc<ChainLedger> {
        &self.inner.chain
    }

    pub(crate) fn client(&self) -> &ChainClient {
        self.inner.chain.client()
    }

    pub(crate) fn domain(&self) -> Option<&TokenDomain> {
        self.inner.domain.as_ref()
    }

    /// The chain, as CAIP-2 names it.
    pub(crate) fn network(&self) -> String {
        format!("eip155:{}", self.client().chain_id())
    }

    pub(crate) fn token_price(&self) -> UsdMicro {
        self.inner.exchange.token_price
    }

    /// Tokens for so many dollars, rounded up; never nothing.
    pub(crate) fn tokens(&self, usd: UsdMicro) -> TokenAmount {
        let usd = UsdMicro(usd.0.max(1));
        // A network whose token has no price is refused when it is loaded.
        self.inner.exchange.tokens_for(usd).unwrap_or(TokenAmount(u128::MAX)).max(TokenAmount(1))
    }

    /// What tokens are worth, rounded down.
    pub(crate) fn worth(&self, tokens: TokenAmount) -> UsdMicro {
        self.inner.exchange.worth(tokens).unwrap_or_default()
    }
}
