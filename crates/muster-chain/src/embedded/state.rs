//! The state as the EVM sees it: while a block is made, and for reads in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy::primitives::{Address, B256, U256, keccak256};
use revm::bytecode::Bytecode;
use revm::primitives::{AddressMap, KECCAK_EMPTY};
use revm::state::{Account, AccountInfo};
use revm::{Database, DatabaseCommit};

use super::codec::AccountRecord;
use super::store::{Snapshot, StoreError};

/// Most entries the hot cache holds of each kind; past that it begins anew.
const HOT_ACCOUNTS_MAX: usize = 50_000;
const HOT_SLOTS_MAX: usize = 100_000;
const HOT_CODE_MAX: usize = 256;

/// State that was read or written lately, over the database. Written through, so it may be dropped at any time.
#[derive(Debug, Default)]
pub(crate) struct HotCache {
    accounts: HashMap<Address, Option<AccountRecord>>,
    slots: HashMap<(Address, U256), U256>,
    code: HashMap<B256, Bytecode>,
}

impl HotCache {
    /// Forgets what is past the bounds. To be called between blocks.
    pub(crate) fn trim(&mut self) {
        if self.accounts.len() > HOT_ACCOUNTS_MAX {
            self.accounts.clear();
        }
        if self.slots.len() > HOT_SLOTS_MAX {
            self.slots.clear();
        }
        if self.code.len() > HOT_CODE_MAX {
            self.code.clear();
        }
    }
}

/// What a block changes: the newest value of everything it wrote.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// `None`: the account no longer exists.
    pub(crate) accounts: BTreeMap<Address, Option<AccountRecord>>,
    pub(crate) slots: BTreeMap<(Address, U256), U256>,
    pub(crate) code: BTreeMap<B256, Bytecode>,
}

impl Changes {
    /// The chain's stand-in for a state root: a hash over the parent's and over everything the block changed.
    ///
    /// Two chains have the same value only if every block changed the same things; it proves no single account
    /// (see ADR 0003).
    pub(crate) fn commitment(&self, parent: B256) -> B256 {
        let mut bytes = Vec::with_capacity(32 + self.accounts.len() * 100 + self.slots.len() * 84);
        bytes.extend_from_slice(parent.as_slice());
        for (address, account) in &self.accounts {
            bytes.push(u8::from(account.is_some()));
            bytes.extend_from_slice(address.as_slice());
            if let Some(account) = account {
                bytes.extend_from_slice(&account.encode());
            }
        }
        for ((address, slot), value) in &self.slots {
            bytes.push(2);
            bytes.extend_from_slice(address.as_slice());
            bytes.extend_from_slice(&slot.to_be_bytes::<32>());
            bytes.extend_from_slice(&value.to_be_bytes::<32>());
        }
        keccak256(bytes)
    }
}

/// The state while a block is made: the snapshot of the parent, the hot cache, and the block's own changes.
#[derive(Debug)]
pub(crate) struct WorkingState<'a> {
    snapshot: Arc<Snapshot>,
    hot: &'a mut HotCache,
    pub(crate) changes: Changes,
}

impl<'a> WorkingState<'a> {
    pub(crate) fn new(snapshot: Arc<Snapshot>, hot: &'a mut HotCache) -> Self {
        Self { snapshot, hot, changes: Changes::default() }
    }

    fn account(&mut self, address: Address) -> Result<Option<AccountRecord>, StoreError> {
        if let Some(known) = self.hot.accounts.get(&address) {
            return Ok(*known);
        }
        let found = self.snapshot.account(address)?;
        self.hot.accounts.insert(address, found);
        Ok(found)
    }

    fn write_account(&mut self, address: Address, record: Option<AccountRecord>) {
        self.hot.accounts.insert(address, record);
        self.changes.accounts.insert(address, record);
    }
}

impl Database for WorkingState<'_> {
    type Error = StoreError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        Ok(self.account(address)?.map(info_of))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StoreError> {
        if let Some(code) = self.hot.code.get(&code_hash) {
            return Ok(code.clone());
        }
        let code = read_code(&self.snapshot, code_hash)?;
        self.hot.code.insert(code_hash, code.clone());
        Ok(code)
    }

    fn storage(&mut self, address: Address, index: U256) -> Result<U256, StoreError> {
        if let Some(value) = self.hot.slots.get(&(address, index)) {
            return Ok(*value);
        }
        let value = self.snapshot.slot(address, index)?;
        self.hot.slots.insert((address, index), value);
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        read_block_hash(&self.snapshot, number)
    }
}

impl DatabaseCommit for WorkingState<'_> {
    fn commit(&mut self, changes: AddressMap<Account>) {
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            // An account can destroy itself only in the transaction that created it (EIP-6780), so
            // it leaves no storage behind. A touched empty account ceases to exist (EIP-161).
            if account.is_selfdestructed() || account.info.is_empty() {
                self.write_account(address, None);
                continue;
            }
            if let Some(code) = account.info.code.filter(|_| account.info.code_hash != KECCAK_EMPTY)
                && account.status.contains(revm::state::AccountStatus::Created)
            {
                self.hot.code.insert(account.info.code_hash, code.clone());
                self.changes.code.insert(account.info.code_hash, code);
            }
            for (slot, value) in account.storage.iter().filter(|(_, value)| value.is_changed()) {
                self.hot.slots.insert((address, *slot), value.present_value);
                self.changes.slots.insert((address, *slot), value.present_value);
            }
            let AccountInfo { nonce, balance, code_hash, .. } = account.info;
            self.write_account(address, Some(AccountRecord { nonce, balance, code_hash }));
        }
    }
}

/// The state of a snapshot, for calls that change nothing.
#[derive(Debug, Clone)]
pub(crate) struct FrozenState(pub(crate) Arc<Snapshot>);

impl Database for FrozenState {
    type Error = StoreError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        Ok(self.0.account(address)?.map(info_of))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StoreError> {
        read_code(&self.0, code_hash)
    }

    fn storage(&mut self, address: Address, index: U256) -> Result<U256, StoreError> {
        self.0.slot(address, index)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        read_block_hash(&self.0, number)
    }
}

fn info_of(record: AccountRecord) -> AccountInfo {
    AccountInfo { balance: record.balance, nonce: record.nonce, code_hash: record.code_hash, ..AccountInfo::default() }
        .without_code()
}

fn read_code(snapshot: &Snapshot, hash: B256) -> Result<Bytecode, StoreError> {
    if hash == KECCAK_EMPTY || hash.is_zero() { Ok(Bytecode::default()) } else { snapshot.code(hash) }
}

fn read_block_hash(snapshot: &Snapshot, number: u64) -> Result<B256, StoreError> {
    Ok(snapshot.header(number)?.map_or(B256::ZERO, |head| head.hash))
}
