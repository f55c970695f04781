//! What accounts have paid in beforehand, and what of it is left.
//!
//! A transfer is taken once, in one commit with what it is worth to its account; what requests cost is taken off in the
//! commit that writes their usage. So the two always agree, also after a process was killed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::ids::Address;
use muster_core::units::{TokenAmount, UsdMicro};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::store::{self, Store, UsageError};

/// By account: what was credited and what is spent, in millionths of a dollar.
const PURSES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("purses");
/// By transaction and sender: each transfer that was taken.
const CREDITS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("credits");

/// A transfer that an account was credited with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    /// The transaction, as text.
    pub(crate) tx: String,
    /// Who sent it.
    pub(crate) from: Address,
    pub(crate) account: String,
    pub(crate) tokens: TokenAmount,
    /// What it was worth.
    pub(crate) usd: UsdMicro,
    pub(crate) at_s: u64,
}

/// How a purse stands, in millionths of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) credited: u64,
    pub(crate) spent: u64,
    /// Held by requests that run.
    pub(crate) reserved: u64,
}

impl Balance {
    /// What can be spent. A request may cost more than was reserved for it: then less than nothing is left, and shown as
    /// nothing.
    pub(crate) fn left(&self) -> UsdMicro {
        UsdMicro(self.credited.saturating_sub(self.spent).saturating_sub(self.reserved))
    }
}

/// What an account has, as requests use it.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    balance: Mutex<Balance>,
}

impl Purse {
    fn lock(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn balance(&self) -> Balance {
        *self.lock()
    }

    /// Holds what a request may cost; how the purse stands where that is too much.
    pub(super) fn reserve(&self, cost: UsdMicro) -> Result<(), Balance> {
        let mut balance = self.lock();
        if balance.left() < cost {
            return Err(*balance);
        }
        balance.reserved = balance.reserved.saturating_add(cost.0);
        Ok(())
    }

    /// Gives back what was held, and takes off what was used.
    pub(super) fn settle(&self, reserved: UsdMicro, used: UsdMicro) {
        let mut balance = self.lock();
        balance.reserved = balance.reserved.saturating_sub(reserved.0);
        balance.spent = balance.spent.saturating_add(used.0);
    }

    fn credit(&self, usd: UsdMicro) {
        let mut balance = self.lock();
        balance.credited = balance.credited.saturating_add(usd.0);
    }
}

/// Why a transfer is not credited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreditError {
    #[error("the transaction {tx} was credited already, to the account {account:?}")]
    Taken { tx: String, account: String },
    #[error(transparent)]
    Store(#[from] UsageError),
}

/// Credits an account, once for each transfer; durable when this comes back.
pub(super) fn credit(store: &Store, purse: &Purse, credit: &Credit) -> Result<(), CreditError> {
    let key = format!("{}/{}", credit.tx, credit.from);
    let taken = store.write("credit an account in", |txn| {
        let mut credits = txn.open_table(CREDITS)?;
        if let Some(known) = credits.get(key.as_str())? {
            return Ok(Some(known.value().to_vec()));
        }
        credits.insert(key.as_str(), seal(credit).as_slice())?;
        drop(credits);
        change(txn, &credit.account, |balance| {
            balance.credited = balance.credited.saturating_add(credit.usd.0);
        })?;
        Ok(None)
    })?;
    match taken {
        None => {
            purse.credit(credit.usd);
            Ok(())
        }
        Some(known) => {
            let known = unseal(&key, &known).ok_or_else(|| store.damaged(&key))?;
            Err(CreditError::Taken { tx: known.tx, account: known.account })
        }
    }
}

/// Takes off what was used, in the transaction that writes the usage itself.
pub(super) fn take_off(txn: &WriteTransaction, account: &str, usd_micro: u64) -> Result<(), redb::Error> {
    change(txn, account, |balance| balance.spent = balance.spent.saturating_add(usd_micro))
}

fn change(txn: &WriteTransaction, account: &str, change: impl FnOnce(&mut Balance)) -> Result<(), redb::Error> {
    let mut purses = txn.open_table(PURSES)?;
    let mut balance = match purses.get(account)? {
        None => Balance::default(),
        Some(known) => read_balance(known.value())
            .ok_or_else(|| redb::Error::Corrupted(format!("the balance of the account {account:?} is damaged")))?,
    };
    change(&mut balance);
    purses.insert(account, store::seal(&[balance.credited, balance.spent]).as_slice())?;
    Ok(())
}

fn read_balance(bytes: &[u8]) -> Option<Balance> {
    let [credited, spent] = store::unseal(bytes)?;
    Some(Balance { credited, spent, reserved: 0 })
}

/// All purses, as an earlier process left them.
pub(super) fn read_all(store: &Store) -> Result<Vec<(String, Purse)>, UsageError> {
    let rows = store.read(|txn| {
        let purses = match txn.open_table(PURSES) {
            Ok(purses) => purses,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let rows =
            purses.iter()?.map(|entry| entry.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())));
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    })?;
    let purse = |(account, bytes): (String, Vec<u8>)| -> Result<(String, Purse), UsageError> {
        let balance = read_balance(&bytes).ok_or_else(|| store.damaged(&account))?;
        Ok((account, Purse { balance: Mutex::new(balance) }))
    };
    rows.into_iter().map(purse).collect()
}

/// All transfers that an account was credited with, the oldest first.
pub(super) fn credits(store: &Store, account: &str) -> Result<Vec<Credit>, UsageError> {
    let rows = store.read(|txn| {
        let credits = match txn.open_table(CREDITS) {
            Ok(credits) => credits,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let rows =
            credits.iter()?.map(|entry| entry.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())));
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    })?;
    let credit = |(key, bytes): (String, Vec<u8>)| unseal(&key, &bytes).ok_or_else(|| store.damaged(&key));
    let mut credits: Vec<Credit> = rows.into_iter().map(credit).collect::<Result<_, _>>()?;
    credits.retain(|credit| credit.account == account);
    credits.sort_by_key(|credit| credit.at_s);
    Ok(credits)
}

/// Moment, worth and amount as numbers, then the account's name.
fn seal(credit: &Credit) -> Vec<u8> {
    let amount = credit.tokens.0.to_le_bytes();
    let mut body = Vec::with_capacity(32 + credit.account.len());
    body.extend_from_slice(&credit.at_s.to_le_bytes());
    body.extend_from_slice(&credit.usd.0.to_le_bytes());
    body.extend_from_slice(&amount);
    body.extend_from_slice(credit.account.as_bytes());
    store::seal_bytes(&body)
}

fn unseal(key: &str, bytes: &[u8]) -> Option<Credit> {
    let (tx, from) = key.split_once('/')?;
    let body = store::unseal_bytes(bytes)?;
    let (at_s, rest) = body.split_first_chunk()?;
    let (usd, rest) = rest.split_first_chunk()?;
    let (tokens, account) = rest.split_first_chunk()?;
    Some(Credit {
        tx: tx.to_owned(),
        from: from.parse().ok()?,
        account: String::from_utf8(account.to_vec()).ok()?,
        tokens: TokenAmount(u128::from_le_bytes(*tokens)),
        usd: UsdMicro(u64::from_le_bytes(*usd)),
        at_s: u64::from_le_bytes(*at_s),
    })
}
