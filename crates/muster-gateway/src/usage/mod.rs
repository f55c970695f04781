//! What keys have used: counted in memory, checked against their budgets before the work, and written behind; and what
//! accounts and payers without one have paid for it.
//!
//! A request reserves what it may cost, and settles what it did cost: so a thousand requests side by side spend no more
//! than one after the other. What is written lies at most [`store::WRITE_EVERY`] behind what is counted.

mod payments;
mod purse;
mod store;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use muster_core::inference::TokenCounts;
use muster_core::units::UsdMicro;
use serde::{Deserialize, Serialize};

use crate::keys::{Key, KeyTerms};
pub(crate) use payments::{Held, PaymentError, Payments, Step};
pub(crate) use purse::{Balance, Credit, CreditError, Purse};
pub use store::{UsageError, read_snapshot};

/// Under what the usage of those is kept who pay for each request by itself.
pub const PAYERS: &str = "x402";
/// Requests a minute, tokens a minute and requests at once of a key that says nothing of them.
const REQUESTS_PER_MINUTE: u32 = 60_000;
const TOKENS_PER_MINUTE: u64 = 60_000_000;
const AT_ONCE: u32 = 4_096;

/// What a key used of a model in a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Requests that were answered, or broke off after something of the answer was there.
    pub requests: u64,
    /// Tokens by the engine's count.
    pub input: u64,
    /// Of `input`, what was remembered.
    pub cached: u64,
    /// Drawn.
    pub output: u64,
    /// What that cost, in millionths of a dollar.
    pub usd_micro: u64,
}

impl Used {
    fn add(&mut self, counts: TokenCounts, cost: UsdMicro) {
        self.requests = self.requests.saturating_add(1);
        self.input = self.input.saturating_add(counts.input);
        self.cached = self.cached.saturating_add(counts.cached);
        self.output = self.output.saturating_add(counts.output);
        self.usd_micro = self.usd_micro.saturating_add(cost.0);
    }
}

/// A line of usage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The key, by the beginning of its hash.
    pub key: String,
    /// The month, `2026-11`, UTC.
    pub month: String,
    /// Which model.
    pub model: String,
    /// What was used.
    #[serde(flatten)]
    pub used: Used,
}

/// A calendar month, UTC: twelve times the year, and the month from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month(pub(crate) u32);

impl Month {
    /// The month of a time in seconds since 1970. The days of a year are counted from March, so that the leap day is last.
    pub(crate) fn at(now_s: u64) -> Self {
        let days = now_s / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let (year, month) = (year_of_era + era * 400, from_march + 2);
        Self(u32::try_from(year * 12 + month).unwrap_or(u32::MAX))
    }

    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

/// A bucket that fills by the minute.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at_ms: u64,
}

impl Bucket {
    fn fill(&mut self, limit: f64, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        self.left = (self.left + whole(passed_ms) * limit / 60_000.0).min(limit);
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates and times far below 2^53")]
fn whole(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, and never below zero")]
fn rounded(number: f64) -> u64 {
    number.max(0.0) as u64
}

/// What a request may use, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) tokens: u64,
    pub(crate) cost: UsdMicro,
}

/// What a key may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budgets {
    month: Option<UsdMicro>,
    ever: Option<UsdMicro>,
}

impl Budgets {
    const fn of(terms: &KeyTerms) -> Self {
        Self { month: terms.budget_month_usd_micro, ever: terms.budget_usd_micro }
    }
}

/// How a key's limits stand, for the headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) limit_requests: u64,
    pub(crate) left_requests: u64,
    pub(crate) reset_requests_ms: u64,
    pub(crate) limit_tokens: u64,
    pub(crate) left_tokens: u64,
    pub(crate) reset_tokens_ms: u64,
}

/// Why a key's request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    AtOnce {
        limit: u32,
    },
    Requests {
        limit: u64,
        retry_after_s: u64,
    },
    Tokens {
        limit: u64,
        wanted: u64,
        retry_after_s: u64,
    },
    Budget(String),
    /// What the account has paid in does not hold it.
    Purse {
        account: String,
        cost: UsdMicro,
        left: UsdMicro,
        reserved: UsdMicro,
    },
}

#[derive(Debug)]
struct State {
    month: Month,
    spent_month: u64,
    spent: u64,
    reserved: u64,
    running: u32,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    rows: Vec<Row>,
}

/// What was used of a model in a month, and whether that is written.
#[derive(Debug)]
struct Row {
    month: Month,
    model: Arc<str>,
    used: Used,
    written: bool,
}

/// What one key has used.
#[derive(Debug)]
pub(crate) struct Account {
    id: String,
    /// Whose purse pays, where accounts pay beforehand; known from this process's first request on.
    purse: OnceLock<(Arc<str>, Arc<Purse>)>,
    state: Mutex<State>,
    /// Whether the writer knows that there is something to write.
    queued: AtomicBool,
}

impl Account {
    fn new(id: &str) -> Self {
        let state = State {
            month: Month::default(),
            spent_month: 0,
            spent: 0,
            reserved: 0,
            running: 0,
            requests: None,
            tokens: None,
            rows: Vec::new(),
        };
        Self { id: id.to_owned(), purse: OnceLock::new(), state: Mutex::new(state), queued: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a row that was written by an earlier process.
    fn restore(&self, month: Month, model: &str, used: Used, now: Month) {
        let mut state = self.state();
        state.month = now;
        state.spent = state.spent.saturating_add(used.usd_micro);
        if month == now {
            state.spent_month = state.spent_month.saturating_add(used.usd_micro);
            state.rows.push(Row { month, model: model.into(), used, written: true });
        }
    }

    /// Lets a request in, with what it may use reserved; how the limits stand is told either way.
    fn admit(&self, terms: &KeyTerms, wanted: Estimate, now_ms: u64) -> (Standing, Result<(), Denied>) {
        let limit_requests = u64::from(terms.requests_per_minute.unwrap_or(REQUESTS_PER_MINUTE));
        let limit_tokens = terms.tokens_per_minute.unwrap_or(TOKENS_PER_MINUTE);
        let (requests_max, tokens_max) = (whole(limit_requests), whole(limit_tokens));
        let mut state = self.state();
        state.turn(Month::at(now_ms / 1_000));
        let mut requests = state.requests.unwrap_or(Bucket { left: requests_max, at_ms: now_ms });
        let mut tokens = state.tokens.unwrap_or(Bucket { left: tokens_max, at_ms: now_ms });
        requests.fill(requests_max, now_ms);
        tokens.fill(tokens_max, now_ms);
        let at_once = terms.requests_at_once.unwrap_or(AT_ONCE);
        let wanted_tokens = whole(wanted.tokens);
        let wait_s = |short: f64, limit: f64| rounded((short * 60.0 / limit.max(1.0)).ceil()).max(1);
        let denied = if state.running >= at_once {
            Err(Denied::AtOnce { limit: at_once })
        } else if requests.left < 1.0 {
            Err(Denied::Requests { limit: limit_requests, retry_after_s: wait_s(1.0 - requests.left, requests_max) })
        } else if tokens.left < wanted_tokens {
            let retry_after_s = wait_s(wanted_tokens - tokens.left, tokens_max);
            Err(Denied::Tokens { limit: limit_tokens, wanted: wanted.tokens, retry_after_s })
        } else {
            state.fits(Budgets::of(terms), wanted.cost).map_err(Denied::Budget)
        };
        if denied.is_ok() {
            state.running += 1;
            state.reserved = state.reserved.saturating_add(wanted.cost.0);
            requests.left -= 1.0;
            tokens.left -= wanted_tokens;
        }
        state.requests = Some(requests);
        state.tokens = Some(tokens);
        let full_in = |left: f64, limit: f64| rounded((limit - left).max(0.0) * 60_000.0 / limit.max(1.0));
        let standing = Standing {
            limit_requests,
            left_requests: rounded(requests.left),
            reset_requests_ms: full_in(requests.left, requests_max),
            limit_tokens,
            left_tokens: rounded(tokens.left),
            reset_tokens_ms: full_in(tokens.left, tokens_max),
        };
        (standing, denied)
    }

    /// Reserves more for a request that is let in already.
    fn raise(&self, budgets: Budgets, more: UsdMicro) -> Result<(), Denied> {
        let mut state = self.state();
        state.fits(budgets, more).map_err(Denied::Budget)?;
        state.reserved = state.reserved.saturating_add(more.0);
        Ok(())
    }

    /// Gives back what was reserved, and notes what was used; `None` for a request of which nothing was answered.
    fn settle(&self, reserved: Estimate, used: Option<(&str, TokenCounts, UsdMicro)>, now_s: u64) {
        let mut state = self.state();
        state.turn(Month::at(now_s));
        state.running = state.running.saturating_sub(1);
        state.reserved = state.reserved.saturating_sub(reserved.cost.0);
        let tokens = used.map_or(0, |(_, counts, _)| counts.total());
        if let Some(bucket) = &mut state.tokens {
            bucket.left += whole(reserved.tokens) - whole(tokens);
        }
        let Some((model, counts, cost)) = used else { return };
        state.spent_month = state.spent_month.saturating_add(cost.0);
        state.spent = state.spent.saturating_add(cost.0);
        let month = state.month;
        match state.rows.iter_mut().find(|row| row.month == month && *row.model == *model) {
            Some(row) => {
                row.used.add(counts, cost);
                row.written = false;
            }
            None => {
                let mut used = Used::default();
                used.add(counts, cost);
                state.rows.push(Row { month, model: model.into(), used, written: false });
            }
        }
    }

    /// What has not been written; counted as written from now on.
    fn take_unwritten(&self) -> Vec<UsageRow> {
        self.queued.store(false, Ordering::Release);
        let mut state = self.state();
        let now = state.month;
        let open = state.rows.iter_mut().filter(|row| !row.written);
        let rows = open.map(|row| {
            row.written = true;
            row.told(&self.id)
        });
        let rows = rows.collect();
        state.rows.retain(|row| row.month >= now);
        rows
    }

    /// What was not written after all.
    fn give_back(&self) {
        self.state().rows.iter_mut().for_each(|row| row.written = false);
    }

    /// This month's rows.
    pub(crate) fn rows(&self, now_s: u64) -> Vec<UsageRow> {
        let now = Month::at(now_s);
        self.state().rows.iter().filter(|row| row.month == now).map(|row| row.told(&self.id)).collect()
    }

    /// What was spent this month and ever, and what is reserved.
    #[cfg(test)]
    pub(crate) fn spent(&self) -> (UsdMicro, UsdMicro, UsdMicro) {
        let state = self.state();
        (UsdMicro(state.spent_month), UsdMicro(state.spent), UsdMicro(state.reserved))
    }
}

impl Row {
    fn told(&self, id: &str) -> UsageRow {
        UsageRow { key: id.to_owned(), month: self.month.to_string(), model: self.model.to_string(), used: self.used }
    }
}

impl State {
    /// A new month begins with nothing spent.
    fn turn(&mut self, month: Month) {
        if month > self.month {
            self.month = month;
            self.spent_month = 0;
        }
    }

    fn fits(&self, budgets: Budgets, cost: UsdMicro) -> Result<(), String> {
        let month = (budgets.month, self.spent_month, "monthly budget");
        let ever = (budgets.ever, self.spent, "budget");
        for (budget, spent, what) in [month, ever] {
            let Some(budget) = budget else { continue };
            if spent.saturating_add(self.reserved).saturating_add(cost.0) <= budget.0 {
                continue;
            }
            let (spent, reserved) = (UsdMicro(spent), UsdMicro(self.reserved));
            let reset = if what == "budget" {
                "it is not filled again; ask for a key with another budget".to_owned()
            } else {
                format!("it is filled again on {}-01, 00:00 UTC", self.month.next())
            };
            return Err(format!(
                "this request may cost {cost}, and the {what} of this key is {budget}, of which {spent} are spent and \
                 {reserved} reserved by requests that run: {reset}, or send a smaller max_tokens"
            ));
        }
        Ok(())
    }
}

/// What all keys have used, and what accounts have paid in.
#[derive(Debug)]
pub(crate) struct Ledger {
    accounts: RwLock<HashMap<String, Arc<Account>>>,
    purses: RwLock<HashMap<String, Arc<Purse>>>,
    payments: Arc<Payments>,
    store: Arc<store::Store>,
    writer: store::Writer,
    /// Whether accounts have to pay beforehand.
    prepaid: bool,
}

impl Ledger {
    /// Reads what earlier processes counted, and begins to write.
    pub(crate) fn open(dir: &Path, now_s: u64, prepaid: bool) -> Result<Arc<Self>, UsageError> {
        let now = Month::at(now_s);
        let store = Arc::new(store::Store::open(dir)?);
        let mut accounts: HashMap<String, Arc<Account>> = HashMap::new();
        for (key, month, model, used) in store::read(&store)? {
            let account = accounts.entry(key).or_insert_with_key(|key| Arc::new(Account::new(key)));
            account.restore(month, &model, used, now);
        }
        let purses = purse::read_all(&store)?.into_iter().map(|(account, purse)| (account, Arc::new(purse))).collect();
        let payments = Payments::open(Arc::clone(&store), now_s)?;
        let writer = store::Writer::new(Arc::clone(&store));
        writer.begin(accounts.values().cloned().collect())?;
        let (accounts, purses) = (RwLock::new(accounts), RwLock::new(purses));
        Ok(Arc::new(Self { accounts, purses, payments, store, writer, prepaid }))
    }

    /// Whether accounts have to pay beforehand.
    pub(crate) const fn is_prepaid(&self) -> bool {
        self.prepaid
    }

    /// Payments of single requests.
    pub(crate) const fn payments(&self) -> &Arc<Payments> {
        &self.payments
    }

    /// A key's account.
    pub(crate) fn account<'a>(&self, key: &'a Key) -> &'a Arc<Account> {
        key.account.get_or_init(|| {
            let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
            let id = &key.shown.id;
            let account = Arc::clone(accounts.entry(id.clone()).or_insert_with(|| Arc::new(Account::new(id))));
            // Who pays for each request by itself has no purse.
            if self.prepaid && key.shown.id != PAYERS {
                account.purse.get_or_init(|| (key.owner().into(), self.purse(key.owner())));
            }
            account
        })
    }

    /// What an account has paid in.
    pub(crate) fn purse(&self, account: &str) -> Arc<Purse> {
        let known = self.purses.read().unwrap_or_else(PoisonError::into_inner).get(account).cloned();
        known.unwrap_or_else(|| {
            let mut purses = self.purses.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(purses.entry(account.to_owned()).or_default())
        })
    }

    /// Credits an account with a transfer, once. Waits for the disk.
    pub(crate) fn credit(&self, credit: &Credit) -> Result<Balance, CreditError> {
        let purse = self.purse(&credit.account);
        purse::credit(&self.store, &purse, credit)?;
        Ok(purse.balance())
    }

    /// The transfers that an account was credited with. Waits for the disk.
    pub(crate) fn credits(&self, account: &str) -> Result<Vec<Credit>, UsageError> {
        purse::credits(&self.store, account)
    }

    /// Lets a request in; the bill has to be settled, and gives back what was reserved when it is dropped.
    pub(crate) fn admit(
        self: &Arc<Self>,
        key: &Key,
        wanted: Estimate,
        now_ms: u64,
    ) -> (Standing, Result<Bill, Denied>) {
        let account = self.account(key);
        let (standing, denied) = account.admit(&key.shown.terms, wanted, now_ms);
        if let Err(denied) = denied {
            return (standing, Err(denied));
        }
        let short = account.purse.get().and_then(|(_, purse)| purse.reserve(wanted.cost).err());
        if let Some(balance) = short {
            account.settle(wanted, None, now_ms / 1_000);
            let (left, reserved) = (balance.left(), UsdMicro(balance.reserved));
            let account = key.owner().to_owned();
            return (standing, Err(Denied::Purse { account, cost: wanted.cost, left, reserved }));
        }
        let budgets = Budgets::of(&key.shown.terms);
        let bill =
            Bill { ledger: Arc::clone(self), account: Arc::clone(account), budgets, reserved: wanted, open: true };
        (standing, Ok(bill))
    }

    /// Writes all that is counted, and ends.
    pub(crate) fn close(&self) {
        self.writer.close();
    }
}

/// What a request will have to pay.
#[derive(Debug)]
pub(crate) struct Bill {
    ledger: Arc<Ledger>,
    account: Arc<Account>,
    budgets: Budgets,
    reserved: Estimate,
    open: bool,
}

impl Bill {
    /// Reserves more, where the request turns out to cost up to `cost`; where that does not fit, all is as before.
    pub(crate) fn raise(&mut self, cost: UsdMicro) -> Result<(), Denied> {
        let more = UsdMicro(cost.0.saturating_sub(self.reserved.cost.0));
        if more == UsdMicro(0) {
            return Ok(());
        }
        self.account.raise(self.budgets, more)?;
        if let Some((account, purse)) = self.account.purse.get()
            && let Err(balance) = purse.reserve(more)
        {
            let mut state = self.account.state();
            state.reserved = state.reserved.saturating_sub(more.0);
            let (left, reserved) = (balance.left(), UsdMicro(balance.reserved));
            return Err(Denied::Purse { account: account.to_string(), cost: more, left, reserved });
        }
        self.reserved.cost = cost;
        Ok(())
    }

    /// Notes what the request used and cost. Once.
    pub(crate) fn settle(mut self, model: &str, counts: TokenCounts, cost: UsdMicro) {
        self.open = false;
        self.account.settle(self.reserved, Some((model, counts, cost)), crate::keys::now_s());
        if let Some((_, purse)) = self.account.purse.get() {
            purse.settle(self.reserved.cost, cost);
        }
        if !self.account.queued.swap(true, Ordering::AcqRel) {
            self.ledger.writer.note(Arc::clone(&self.account));
        }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        if self.open {
            self.account.settle(self.reserved, None, crate::keys::now_s());
            if let Some((_, purse)) = self.account.purse.get() {
                purse.settle(self.reserved.cost, UsdMicro(0));
            }
        }
    }
}

#[cfg(test)]
mod tests;
