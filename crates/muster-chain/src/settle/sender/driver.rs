//! The task that owns an account's nonces.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::receipt::{Receipt, remembered};
use super::stages::{Account, Looks, Needs, SendAnswer, Step, look, prepare, send};
use super::{Answer, Command, Inner, SendError};
use crate::settle::outbox::{Record, State, StoredCall};
use crate::settle::rpc::ClientError;
use crate::settle::transaction::{Fees, TxOutcome, sign};

/// Intents that are prepared and signed together, and transactions that are sent or looked for at once.
const GROUP_MAX: usize = 64;
/// What the chain said of balance and fees counts for so long: intents that need nothing else are not asked about.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Looks in a row that must agree before a transaction counts as displaced.
const DISPLACED_LOOKS: u32 = 5;
/// Replacements of one transaction, at most.
const ATTEMPTS_MAX: usize = 12;

/// A transaction that is written and not decided.
struct InFlight {
    record: Record,
    waiters: Vec<(Instant, oneshot::Sender<Answer>)>,
    /// When the newest attempt was signed, and when it was last sent.
    signed_at: Instant,
    sent_at: Instant,
    resend_pause: Duration,
    /// Looks in a row in which the chain was past this nonce without a receipt, and since when.
    displaced: u32,
    displaced_since: Option<Instant>,
    /// The node said that it pays too little.
    underpriced: bool,
    /// The last send had no answer: send again as soon as the chain answers.
    unanswered: bool,
}

pub(super) struct Driver {
    inner: Arc<Inner>,
    next_nonce: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// What the chain said last of the account, and when; the balance less what was spent since.
    known: Option<(Instant, Account)>,
    /// Keys of intents that are being prepared, and submits that wait for one of them.
    preparing: BTreeSet<String>,
    deferred: Vec<Command>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    looking: bool,
    pause: Duration,
    look_at: Instant,
}

impl Driver {
    /// Reads what an earlier run left, and asks the chain where the account's nonces are.
    pub(super) async fn start(inner: Arc<Inner>) -> Result<Self, SendError> {
        let (pending, next_in_outbox) = inner.outbox.pending()?;
        let account = crate::convert::to_evm(inner.wallet.address());
        let params = serde_json::json!([account, "latest"]);
        let on_chain: alloy::primitives::U64 = inner.client.rpc().ask("eth_getTransactionCount", params).await?;
        let now = Instant::now();
        let pause = inner.config.poll.0;
        let mut driver = Self {
            next_nonce: next_in_outbox.max(on_chain.to()),
            in_flight: BTreeMap::new(),
            known: None,
            preparing: BTreeSet::new(),
            deferred: Vec::new(),
            steps: FuturesUnordered::new(),
            looking: false,
            pause,
            look_at: now,
            inner,
        };
        let nonces: Vec<u64> = pending.keys().copied().collect();
        if !nonces.is_empty() {
            tracing::info!(account = %driver.inner.wallet.address(), count = nonces.len(), "resuming transactions");
        }
        driver.in_flight = pending.into_iter().map(|(nonce, record)| (nonce, driver.fly(record, Vec::new()))).collect();
        driver.send(nonces);
        Ok(driver)
    }

    fn fly(&self, record: Record, waiters: Vec<(Instant, oneshot::Sender<Answer>)>) -> InFlight {
        let now = Instant::now();
        let resend_pause = self.inner.config.resend_after;
        InFlight {
            record,
            waiters,
            signed_at: now,
            sent_at: now,
            resend_pause,
            displaced: 0,
            displaced_since: None,
            underpriced: false,
            unanswered: false,
        }
    }

    /// Runs until `shutdown` is ready or the outbox fails.
    pub(super) async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), SendError> {
        let mut shutdown = pin!(shutdown);
        let mut group = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                Some(step) = self.steps.next() => self.act(step).await?,
                count = commands.recv_many(&mut group, GROUP_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.accept(std::mem::take(&mut group)).await?;
                }
                () = tokio::time::sleep_until(self.look_at), if !self.in_flight.is_empty() => self.tick(),
            }
        }
    }

    /// Tells everybody who still waits that the outcome is not known.
    pub(super) fn stop(&mut self) {
        for command in self.deferred.drain(..) {
            command.answer(Err(SendError::Stopped));
        }
        for flight in self.in_flight.values_mut() {
            let tx = flight.record.tx();
            for (_, waiter) in flight.waiters.drain(..) {
                let _ = waiter.send(Ok(TxOutcome::Unknown { tx }));
            }
        }
    }

    /// Takes submits: known intents get their outcome or wait for it, new ones are prepared, or written at once where
    /// nothing has to be asked for them.
    async fn accept(&mut self, mut commands: Vec<Command>) -> Result<(), SendError> {
        while !commands.is_empty() {
            let fresh = self.sort(commands)?;
            if fresh.is_empty() {
                return Ok(());
            }
            let Some(needs) = self.needs_known(&fresh) else {
                self.steps.push(Box::pin(prepare(Arc::clone(&self.inner), fresh)));
                return Ok(());
            };
            self.prepared(&fresh);
            self.write(fresh, needs).await?;
            // Who came with one of these intents once more finds it written now.
            commands = std::mem::take(&mut self.deferred);
        }
        Ok(())
    }

    /// Answers or keeps who asks for what is known already, and gives back the others.
    fn sort(&mut self, commands: Vec<Command>) -> Result<Vec<Command>, SendError> {
        let mut fresh = Vec::new();
        for command in commands {
            if command.keys.iter().any(|key| self.preparing.contains(key)) {
                self.deferred.push(command);
                continue;
            }
            match self.inner.outbox.find_first(command.keys.iter().map(String::as_str))? {
                Some((0, record)) => self.attach(command, &record),
                // A second transaction for one of its intents is never signed.
                Some((place, _)) => {
                    let key = command.keys[place].clone();
                    command.answer(Err(SendError::KeyReused { key }));
                }
                None => {
                    self.preparing.extend(command.keys.iter().cloned());
                    fresh.push(command);
                }
            }
        }
        Ok(fresh)
    }

    /// What these intents need, where it is known without asking: who may not be able to pay is asked about.
    fn needs_known(&self, commands: &[Command]) -> Option<Needs> {
        let (_, account) = self.known.filter(|(at, _)| at.elapsed() < KNOWN_FOR)?;
        let mut cost = self.reserved_wei();
        let mut gas_limits = Vec::with_capacity(commands.len());
        for command in commands {
            let gas_limit = command.call.gas_limit?;
            cost = cost.saturating_add(cost_wei(gas_limit, account.fees, command.call.value_wei));
            gas_limits.push(Ok(gas_limit));
        }
        (cost <= account.balance_wei).then_some(Needs { gas_limits, account })
    }

    /// Nobody has to wait for these intents' preparation any more.
    fn prepared(&mut self, commands: &[Command]) {
        for key in commands.iter().flat_map(|command| &command.keys) {
            self.preparing.remove(key);
        }
    }

    fn attach(&mut self, command: Command, record: &Record) {
        if record.intent != command.call.intent() {
            let key = command.keys[0].clone();
            return command.answer(Err(SendError::KeyReused { key }));
        }
        match self.in_flight.get_mut(&record.nonce) {
            Some(flight) => {
                flight.waiters.push((Instant::now() + self.inner.config.answer_within, command.reply));
                self.soon();
            }
            None => command.answer(remembered(self.inner.wallet.address(), record)),
        }
    }

    async fn act(&mut self, step: Step) -> Result<(), SendError> {
        match step {
            Step::Prepared { commands, needs } => {
                self.prepared(&commands);
                let result = match needs {
                    Ok(needs) => {
                        self.known = Some((Instant::now(), needs.account));
                        self.write(commands, needs).await
                    }
                    Err(error) => {
                        commands.into_iter().for_each(|c| c.answer(Err(SendError::Client(error.clone()))));
                        Ok(())
                    }
                };
                result?;
                let deferred = std::mem::take(&mut self.deferred);
                self.accept(deferred).await
            }
            Step::Sent { nonces, answers } => self.sent(&nonces, answers),
            Step::Looked { looks } => {
                self.looking = false;
                self.looked(looks).await
            }
        }
    }

    /// Gives each intent its nonce, signs, and writes them all durably; only then they are sent.
    async fn write(&mut self, commands: Vec<Command>, needs: Needs) -> Result<(), SendError> {
        let Needs { gas_limits, account: Account { balance_wei, chain_nonce, fees } } = needs;
        let mut committed = self.reserved_wei();
        let mut accepted = Vec::with_capacity(commands.len());
        for (command, gas_limit) in commands.into_iter().zip(gas_limits) {
            let gas_limit = match gas_limit {
                Ok(gas_limit) => gas_limit,
                Err(error) => {
                    command.answer(Err(error));
                    continue;
                }
            };
            let need_wei = committed.saturating_add(cost_wei(gas_limit, fees, command.call.value_wei));
            if need_wei > balance_wei {
                let account = self.inner.wallet.address();
                command.answer(Err(SendError::InsufficientFunds { account, have_wei: balance_wei, need_wei }));
                continue;
            }
            committed = need_wei;
            accepted.push((command, gas_limit));
        }
        if accepted.is_empty() {
            return Ok(());
        }
        // Past what the chain has seen: the wallet may have been used elsewhere in between.
        self.next_nonce = self.next_nonce.max(chain_nonce);
        let first = self.next_nonce;
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || sign_and_write(&inner, first, fees, accepted)).await;
        let (records, replies) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => return Err(error),
            // Only a panic of our own ends here; the nonces may be on disk, so nothing more may be signed.
            Err(_) => return Err(SendError::Stopped),
        };
        self.inner.written.notify_waiters();
        let deadline = Instant::now() + self.inner.config.answer_within;
        let mut nonces = Vec::with_capacity(records.len());
        for (record, reply) in records.into_iter().zip(replies) {
            self.next_nonce = record.nonce + 1;
            nonces.push(record.nonce);
            let flight = self.fly(record, vec![(deadline, reply)]);
            self.in_flight.insert(flight.record.nonce, flight);
        }
        self.soon();
        self.send(nonces);
        Ok(())
    }

    /// The most that the transactions in flight can still take from the account.
    fn reserved_wei(&self) -> u128 {
        self.in_flight.values().fold(0, |sum, flight| reserved_wei(&flight.record).saturating_add(sum))
    }

    /// Sends the newest attempts of these nonces.
    fn send(&mut self, nonces: Vec<u64>) {
        let now = Instant::now();
        let mut batch = Vec::with_capacity(nonces.len());
        for nonce in nonces {
            let Some(flight) = self.in_flight.get_mut(&nonce) else { continue };
            if let Some(attempt) = flight.record.attempts.last() {
                flight.sent_at = now;
                batch.push((nonce, attempt.tx, attempt.raw.clone()));
            }
        }
        for group in batch.chunks(GROUP_MAX) {
            self.steps.push(Box::pin(send(Arc::clone(&self.inner), group.to_vec())));
        }
    }

    fn sent(&mut self, nonces: &[u64], answers: Result<Vec<SendAnswer>, ClientError>) -> Result<(), SendError> {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                // They may have arrived all the same: the next look tells.
                tracing::warn!(%error, count = nonces.len(), "sending transactions: no answer, trying on");
                for nonce in nonces {
                    self.in_flight.entry(*nonce).and_modify(|flight| flight.unanswered = true);
                }
                self.soon();
                return Ok(());
            }
        };
        let mut receipts = Vec::new();
        for (nonce, answer) in nonces.iter().zip(answers) {
            if let Err(error) = answer.sent {
                self.not_accepted(*nonce, &error);
            }
            receipts.extend(answer.receipt.map(|receipt| (*nonce, receipt)));
        }
        self.finish(receipts)
    }

    /// A refusal decides nothing: an earlier send of the same transaction may be in a block.
    fn not_accepted(&mut self, nonce: u64, error: &ClientError) {
        let text = error.to_string();
        let Some(flight) = self.in_flight.get_mut(&nonce) else { return };
        if text.contains("underpriced") || text.contains("less than block base fee") {
            flight.underpriced = true;
            tracing::warn!(nonce, %error, "a transaction pays too little");
        } else if text.contains("already known") || text.contains("nonce too low") {
            tracing::debug!(nonce, %error, "the node knows the transaction");
        } else {
            tracing::warn!(nonce, %error, "the node did not take a transaction; trying on");
        }
    }

    /// Records what is in blocks, and answers who waits.
    fn finish(&mut self, receipts: Vec<(u64, Receipt)>) -> Result<(), SendError> {
        let contracts = self.inner.client.contracts();
        let account = self.inner.wallet.address();
        let mut done = Vec::new();
        for (nonce, receipt) in receipts {
            let Some(mut flight) = self.in_flight.remove(&nonce) else { continue };
            if let Some((_, known)) = &mut self.known {
                // The most that it can have taken; the next question tells what it took.
                known.balance_wei = known.balance_wei.saturating_sub(reserved_wei(&flight.record));
            }
            flight.record.finish(receipt.state());
            done.push((flight, Some(receipt)));
        }
        self.inner.outbox.put_finished(done.iter().map(|(flight, _)| &flight.record))?;
        for (flight, receipt) in done {
            let mut answer = remembered(account, &flight.record);
            if let (Ok(TxOutcome::Mined(mined)), Some(receipt)) = (&mut answer, receipt) {
                receipt.complete(mined, &contracts);
            }
            for (_, waiter) in flight.waiters {
                let _ = waiter.send(answer.clone());
            }
        }
        Ok(())
    }

    /// Looks again shortly, because something changed.
    fn soon(&mut self) {
        self.pause = self.inner.config.poll.0;
        self.look_at = Instant::now() + self.pause;
    }

    /// Answers who has waited long enough, and looks for receipts.
    fn tick(&mut self) {
        let now = Instant::now();
        for flight in self.in_flight.values_mut() {
            let tx = flight.record.tx();
            let (late, waiting) = flight.waiters.drain(..).partition(|(deadline, _)| *deadline <= now);
            flight.waiters = waiting;
            let late: Vec<(Instant, oneshot::Sender<Answer>)> = late;
            for (_, waiter) in late {
                let _ = waiter.send(Ok(TxOutcome::Unknown { tx }));
            }
        }
        self.look_at = now + self.pause;
        self.pause = self.pause.saturating_mul(2).min(self.inner.config.poll.1);
        if !self.looking {
            self.looking = true;
            let oldest = self.in_flight.values().take(GROUP_MAX);
            let pending = oldest
                .map(|flight| (flight.record.nonce, flight.record.attempts.iter().map(|attempt| attempt.tx).collect()));
            self.steps.push(Box::pin(look(Arc::clone(&self.inner), pending.collect())));
        }
    }

    async fn looked(&mut self, looks: Result<Looks, ClientError>) -> Result<(), SendError> {
        let looks = match looks {
            Ok(looks) => looks,
            Err(error) => {
                tracing::warn!(%error, "looking for receipts: no answer, trying on");
                return Ok(());
            }
        };
        let mut found = Vec::new();
        let mut again = Vec::new();
        let mut displaced = Vec::new();
        let now = Instant::now();
        for (nonce, receipt) in looks.receipts {
            if let Some(receipt) = receipt {
                found.push((nonce, receipt));
                continue;
            }
            let Some(flight) = self.in_flight.get_mut(&nonce) else { continue };
            if looks.chain_nonce > nonce {
                // A node that lags behind its neighbour may know the nonce and not yet the receipt.
                flight.displaced += 1;
                let since = *flight.displaced_since.get_or_insert(now);
                let long = now.duration_since(since) >= self.inner.config.displaced_after;
                if long && flight.displaced >= DISPLACED_LOOKS {
                    displaced.push(nonce);
                }
                continue;
            }
            flight.displaced = 0;
            flight.displaced_since = None;
            if std::mem::take(&mut flight.unanswered) {
                again.push(nonce);
            } else if now.duration_since(flight.sent_at) >= flight.resend_pause {
                flight.resend_pause = flight.resend_pause.saturating_mul(2).min(Duration::from_secs(60));
                again.push(nonce);
            }
        }
        self.finish(found)?;
        self.displace(displaced)?;
        self.send(again);
        self.replace_stuck(looks.chain_nonce, looks.fees).await
    }

    /// Gives up transactions whose nonce another one took.
    fn displace(&mut self, nonces: Vec<u64>) -> Result<(), SendError> {
        let account = self.inner.wallet.address();
        for nonce in nonces {
            let Some(mut flight) = self.in_flight.remove(&nonce) else { continue };
            tracing::warn!(%account, nonce, "a transaction was displaced by one that was not sent from here");
            // What the other one took is not known here.
            self.known = None;
            flight.record.finish(State::Superseded);
            self.inner.outbox.put([&flight.record])?;
            for (_, waiter) in flight.waiters {
                let _ = waiter.send(Err(SendError::Superseded { account, nonce }));
            }
        }
        Ok(())
    }

    /// Replaces the transaction that the chain waits for, if it has been stuck: same nonce, same
    /// payload, higher fee, written before it is sent.
    async fn replace_stuck(&mut self, chain_nonce: u64, going: Fees) -> Result<(), SendError> {
        let inner = Arc::clone(&self.inner);
        let Some(flight) = self.in_flight.get_mut(&chain_nonce) else { return Ok(()) };
        let stuck = flight.signed_at.elapsed() >= inner.config.stuck_after || flight.underpriced;
        let Some(last) = flight.record.attempts.last() else { return Ok(()) };
        let Some(call) = flight.record.call.as_ref().map(StoredCall::to_call) else { return Ok(()) };
        let fees = last.fees.raised(going);
        if !stuck || flight.record.attempts.len() >= ATTEMPTS_MAX {
            return Ok(());
        }
        if fees.max_fee > inner.config.fee_max {
            tracing::warn!(nonce = chain_nonce, fee = fees.max_fee, "a stuck transaction would cost more than allowed");
            return Ok(());
        }
        flight.underpriced = false;
        flight.signed_at = Instant::now();
        let gas_limit = flight.record.gas_limit;
        flight.record.attempts.push(sign(&inner.wallet, inner.client.chain_id(), chain_nonce, gas_limit, fees, &call));
        let record = flight.record.clone();
        tracing::info!(nonce = chain_nonce, fee = fees.max_fee, "replacing a stuck transaction");
        match tokio::task::spawn_blocking(move || inner.outbox.put([&record])).await {
            Ok(result) => result?,
            Err(_) => return Err(SendError::Stopped),
        }
        self.send(vec![chain_nonce]);
        Ok(())
    }
}

/// The most that a transaction can take from its account.
fn cost_wei(gas_limit: u64, fees: Fees, value_wei: u128) -> u128 {
    u128::from(gas_limit).saturating_mul(fees.max_fee).saturating_add(value_wei)
}

/// The most that the newest attempt of a record can take.
fn reserved_wei(record: &Record) -> u128 {
    let value_wei = record.call.as_ref().map_or(0, StoredCall::value_wei);
    record.attempts.last().map_or(value_wei, |attempt| cost_wei(record.gas_limit, attempt.fees, value_wei))
}

type Written = (Vec<Record>, Vec<oneshot::Sender<Answer>>);

fn sign_and_write(
    inner: &Inner,
    first_nonce: u64,
    fees: Fees,
    accepted: Vec<(Command, u64)>,
) -> Result<Written, SendError> {
    let mut records = Vec::with_capacity(accepted.len());
    let mut replies = Vec::with_capacity(accepted.len());
    for (nonce, (command, gas_limit)) in (first_nonce..).zip(accepted) {
        let attempt = sign(&inner.wallet, inner.client.chain_id(), nonce, gas_limit, fees, &command.call);
        records.push(Record {
            nonce,
            intent: command.call.intent(),
            call: Some(StoredCall::of(&command.call)),
            keys: command.keys,
            gas_limit,
            attempts: vec![attempt],
            state: State::Pending,
        });
        replies.push(command.reply);
    }
    match inner.outbox.put(&records) {
        Ok(()) => Ok((records, replies)),
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(SendError::Outbox(error.clone())));
            }
            Err(SendError::Outbox(error))
        }
    }
}
