//! Raw transactions for tests.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip2930::{AccessList, AccessListItem};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use muster_chain::keys::Wallet;

/// What a transaction is made from.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) kind: u8,
    pub(crate) chain_id: u64,
    pub(crate) nonce: u64,
    pub(crate) gas: u64,
    pub(crate) max_fee: u128,
    pub(crate) tip: u128,
    pub(crate) to: Option<Address>,
    pub(crate) value: U256,
    pub(crate) data: Vec<u8>,
}

impl Draft {
    pub(crate) fn transfer(chain_id: u64, nonce: u64, to: Address, value: u128) -> Self {
        Self {
            kind: 2,
            chain_id,
            nonce,
            gas: 21_000,
            max_fee: 10_000_000_000,
            tip: 0,
            to: Some(to),
            value: U256::from(value),
            data: Vec::new(),
        }
    }

    pub(crate) fn sign(&self, signer: &PrivateKeySigner) -> Signed {
        let to = self.to.map_or(TxKind::Create, TxKind::Call);
        let input = Bytes::from(self.data.clone());
        let access_list = AccessList(vec![AccessListItem {
            address: Address::with_last_byte(7),
            storage_keys: vec![B256::with_last_byte(1)],
        }]);
        let envelope: TxEnvelope = match self.kind {
            0 => sign(
                signer,
                TxLegacy {
                    chain_id: Some(self.chain_id),
                    nonce: self.nonce,
                    gas_price: self.max_fee,
                    gas_limit: self.gas,
                    to,
                    value: self.value,
                    input,
                },
            ),
            1 => sign(
                signer,
                TxEip2930 {
                    chain_id: self.chain_id,
                    nonce: self.nonce,
                    gas_price: self.max_fee,
                    gas_limit: self.gas,
                    to,
                    value: self.value,
                    access_list,
                    input,
                },
            ),
            _ => sign(
                signer,
                TxEip1559 {
                    chain_id: self.chain_id,
                    nonce: self.nonce,
                    gas_limit: self.gas,
                    max_fee_per_gas: self.max_fee,
                    max_priority_fee_per_gas: self.tip,
                    to,
                    value: self.value,
                    access_list: AccessList::default(),
                    input,
                },
            ),
        };
        Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() }
    }
}

/// A signed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) hash: B256,
    pub(crate) raw: Bytes,
}

fn sign<T>(signer: &PrivateKeySigner, tx: T) -> TxEnvelope
where
    T: SignableTransaction<alloy::primitives::Signature>,
    alloy::consensus::Signed<T>: Into<TxEnvelope>,
{
    let signature = signer.sign_hash_sync(&tx.signature_hash()).unwrap();
    tx.into_signed(signature).into()
}

pub(crate) fn signer(wallet: &Wallet) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::from(wallet.secret())).unwrap()
}

/// A small generator with a printed seed: the same on every machine.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}
