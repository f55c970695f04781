//! The loop that performs what the brain decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::brain::consumer::{Effect, Event, Renting};
use muster_core::ids::LeaseId;
use muster_core::inference::TokenCounts;
use muster_core::lease::{End, Lease, Phase};
use muster_core::protocol::{ToConsumer, ToContainer};
use muster_core::units::{TimeMs, TokenAmount};
use muster_core::voucher::{SignedVoucher, Voucher};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::line::{LeaseLine, Line, LineNote, Tally};
use super::notes::{NOTES_MAX, Note, Notes};
use super::onchain::ChainState;
use super::stdio::{Pipes, Watcher};
use super::transfers::Transfers;
use super::{Command, RentalEnd, RentalError, RentalEvent, Stdio};
use crate::files::Claims;
use crate::renter::Renter;
use crate::session::SessionKey;
use crate::store::{LeaseFile, LeasePlan, LeaseRecord, LeaseState, StoreError, Wish, WishKind};

/// How often the brain is told that time passes.
const TICK: Duration = Duration::from_millis(100);
/// Wishes of other processes are looked for every so many ticks.
const WISH_TICKS: u32 = 5;
/// How often a record that cannot be written is tried again, with a pause of a second.
const SAVE_TRIES: u32 = 5;
/// How often broken standard streams are asked for again on a line that stands.
const STDIO_TRIES: u32 = 5;

/// When a deposit runs low, this process adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopUp {
    /// For so many seconds more each time.
    pub seconds: u64,
}

/// A lease that this process drives.
#[derive(Debug)]
pub struct Rental {
    renter: Renter,
    file: LeaseFile,
    stdio: Stdio,
    claims: Claims,
    top_up: Option<TopUp>,
    work_over: watch::Sender<Option<End>>,
    shown_line: Option<watch::Sender<Option<LeaseLine>>>,
    events: mpsc::Sender<RentalEvent>,
    commands: mpsc::Receiver<Command>,
}

impl Rental {
    /// A lease whose record is locked by this process. Events are dropped when nobody takes them.
    #[must_use]
    pub fn new(
        renter: Renter,
        file: LeaseFile,
        events: mpsc::Sender<RentalEvent>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            renter,
            file,
            stdio: Stdio::default(),
            claims: Claims::alone(),
            top_up: None,
            work_over: watch::channel(None).0,
            shown_line: None,
            events,
            commands,
        }
    }

    /// Where its standard streams go and come from.
    #[must_use]
    pub fn with_stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }

    /// With whom its outputs share a folder.
    #[must_use]
    pub fn with_claims(mut self, claims: Claims) -> Self {
        self.claims = claims;
        self
    }

    /// Adds to the deposit by itself when it runs low.
    #[must_use]
    pub const fn with_top_up(mut self, top_up: Option<TopUp>) -> Self {
        self.top_up = top_up;
        self
    }

    /// Says how the workload ended as soon as nothing is left but the settlement on the chain, which may take a whole
    /// challenge window.
    #[must_use]
    pub fn with_work_over(mut self, told: watch::Sender<Option<End>>) -> Self {
        self.work_over = told;
        self
    }

    /// Shows on which connection the lease was proved, while the line stands: for streams of one's own.
    #[must_use]
    pub fn with_shown_line(mut self, shown: Option<watch::Sender<Option<LeaseLine>>>) -> Self {
        self.shown_line = shown;
        self
    }

    /// Drives the lease until nothing is left to do, or it is told to let go. Gives the record as it was last
    /// written.
    ///
    /// # Errors
    /// The record cannot be read or written; the lease is as it was last written, and can be driven on later.
    pub async fn run(self) -> Result<(RentalEnd, LeaseRecord), RentalError> {
        let mut commands = self.commands;
        let (sender, mut notes) = mpsc::channel(NOTES_MAX);
        let record = self.file.record().clone();
        let key = SessionKey::from_secret(&record.plan.session_key)?;
        let now = self.renter.now();
        // A Container takes inputs once it sees the deposit, so what brings some waits for that.
        let starts_early = record.plan.spec.session.is_some() && record.plan.inputs.is_empty();
        let brain = Renting::restore(record.state.rented.clone(), self.renter.params().clone(), now)
            .with_early_start(starts_early);
        let pipes = Pipes::new(self.stdio, self.file.folder(), record.state.out_seen, record.state.err_seen);
        let mut driver = Driver {
            lease: record.id(),
            transfers: Transfers::new(self.claims),
            plan: record.plan,
            // What the wallet was needed for is found out again: this process may have one, or the chain moved on.
            state: LeaseState { needs: None, ..record.state },
            file: Arc::new(Mutex::new(self.file)),
            renter: self.renter,
            brain,
            key,
            events: self.events,
            notes: Notes(sender),
            tasks: JoinSet::new(),
            line: LineState::default(),
            tally: Arc::default(),
            pipes: Arc::new(pipes),
            stdio: StdioState::default(),
            ended: watch::channel(false).0,
            chain: ChainState::default(),
            top_up: self.top_up,
            work_over: self.work_over,
            shown_line: self.shown_line,
            dirty: false,
            pending: Vec::new(),
            finished: false,
        };
        let end = driver.drive(&mut notes, &mut commands).await?;
        driver.line.let_finish();
        Ok((end, driver.record()))
    }
}

#[derive(Debug, Default)]
struct LineState {
    generation: u64,
    task: Option<AbortHandle>,
    to: Option<mpsc::Sender<ToContainer>>,
    connection: Option<muster_net::Connection>,
    stale: bool,
}

impl LineState {
    /// The line carries what was said last and ends by itself; [`Renter::close`] waits for it.
    fn let_finish(&mut self) {
        self.to = None;
        self.task = None;
    }
}

impl Drop for LineState {
    /// A driver that was stopped in the middle leaves no line behind.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Debug, Default)]
struct StdioState {
    running: bool,
    over: bool,
    tries: u32,
}

/// Whether somebody beside this process and its person sees the effect.
const fn reaches_others(effect: &Effect) -> bool {
    !matches!(
        effect,
        Effect::Save
            | Effect::Sign(_)
            | Effect::AskChain
            | Effect::NowRunning
            | Effect::NowEnded
            | Effect::Complaint(_)
            | Effect::Finished
    )
}

pub(super) struct Driver {
    pub(super) lease: LeaseId,
    pub(super) plan: LeasePlan,
    pub(super) state: LeaseState,
    file: Arc<Mutex<LeaseFile>>,
    pub(super) renter: Renter,
    pub(super) brain: Renting,
    key: SessionKey,
    events: mpsc::Sender<RentalEvent>,
    pub(super) notes: Notes,
    pub(super) tasks: JoinSet<()>,
    tally: Arc<Tally>,
    line: LineState,
    pipes: Arc<Pipes>,
    stdio: StdioState,
    ended: watch::Sender<bool>,
    pub(super) chain: ChainState,
    pub(super) transfers: Transfers,
    pub(super) top_up: Option<TopUp>,
    work_over: watch::Sender<Option<End>>,
    shown_line: Option<watch::Sender<Option<LeaseLine>>>,
    /// The record changed since it was written.
    dirty: bool,
    /// Decided, and to be performed once the record is written.
    pending: Vec<Effect>,
    finished: bool,
}

impl Driver {
    async fn drive(
        &mut self,
        notes: &mut mpsc::Receiver<Note>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<RentalEnd, RentalError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticks, mut commanded) = (0u32, true);
        self.ended.send_replace(self.lease_now().end.is_some());
        self.feed(Event::Begin);
        loop {
            self.flush().await?;
            self.tell_work_over();
            if self.finished {
                self.keep_last().await?;
                return Ok(RentalEnd::Finished);
            }
            if self.state.needs.is_some() && self.renter.ledger().consumer().is_none() && self.only_chain_left() {
                self.keep().await?;
                return Ok(RentalEnd::NeedsWallet);
            }
            tokio::select! {
                Some(note) = notes.recv() => {
                    self.on_note(note).await?;
                    for _ in 0..NOTES_MAX {
                        let Ok(note) = notes.try_recv() else { break };
                        self.on_note(note).await?;
                    }
                }
                command = commands.recv(), if commanded => match command {
                    Some(Command::Stop) => self.feed(Event::Stop),
                    Some(Command::Look) => self.ask_chain(),
                    Some(Command::Detach) => {
                        self.flush().await?;
                        self.save().await?;
                        return Ok(RentalEnd::Detached);
                    }
                    None => commanded = false,
                },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(WISH_TICKS) {
                        self.look_for_wishes().await?;
                    }
                    self.on_tick().await?;
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = done && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
    }

    fn tell_work_over(&self) {
        if self.brain.only_settlement_left() && self.work_over.borrow().is_none() {
            self.work_over.send_replace(self.lease_now().end.clone());
        }
    }

    pub(super) fn now(&self) -> TimeMs {
        self.renter.now()
    }

    pub(super) fn lease_now(&self) -> &Lease {
        self.brain.lease()
    }

    /// The connection to the Container, while the line stands.
    pub(super) fn connection(&self) -> Option<muster_net::Connection> {
        self.line.to.as_ref().and(self.line.connection.clone())
    }

    pub(super) const fn generation(&self) -> u64 {
        self.line.generation
    }

    /// Tells whoever watches; nobody is waited for, because vouchers must not wait for a terminal.
    pub(super) fn tell(&self, event: RentalEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::debug!(lease = %self.lease.short(), ?event, "nobody took this event in time");
        }
    }

    /// Gives an event to the brain and notes what it decides; [`Driver::flush`] performs it.
    pub(super) fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let now = self.now();
            for effect in self.brain.handle(event, now) {
                match effect {
                    Effect::Save => self.dirty = true,
                    // A signature that nobody has seen changes nothing outside, so it need not wait for the disk.
                    Effect::Sign(amount) => queue.push_back(Event::Signed(self.sign(amount))),
                    // Nor does a question.
                    Effect::AskChain => self.ask_chain(),
                    // What takes no time needs no write of its own between the one before and the one after.
                    Effect::SendInputs if self.plan.inputs.is_empty() => queue.push_back(Event::InputsSent),
                    Effect::TakeOutputs if self.plan.output.is_none() => {
                        self.transfers.wanted = true;
                        queue.extend(self.take_outputs());
                    }
                    other => self.pending.push(other),
                }
            }
        }
    }

    fn sign(&self, amount: TokenAmount) -> SignedVoucher {
        let voucher = Voucher { lease: self.lease, amount, as_of_s: self.now().secs() };
        let lease = self.lease_now();
        self.tell(RentalEvent::Paid { ran_ms: lease.ran_ms, tokens: lease.tokens, amount });
        self.renter.ledger().sign_voucher(&self.key, voucher)
    }

    /// Performs what was decided, in order. What reaches others has been written down before, and what happened at about
    /// the same time shares one write: a change that nobody outside can see yet waits for the next one that somebody
    /// can, or for the next tick.
    async fn flush(&mut self) -> Result<(), RentalError> {
        while !self.pending.is_empty() {
            if self.pending.iter().any(reaches_others) {
                self.keep().await?;
            }
            for effect in std::mem::take(&mut self.pending) {
                self.perform(effect);
            }
        }
        Ok(())
    }

    /// Writes the record if it changed.
    async fn keep(&mut self) -> Result<(), RentalError> {
        if std::mem::take(&mut self.dirty) { self.save().await } else { Ok(()) }
    }

    /// Writes the last state. That the chain has closed the lease is found out again where a machine fails before it is
    /// on the disk; that a lease was given up is not.
    async fn keep_last(&mut self) -> Result<(), RentalError> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        self.write(self.lease_now().phase != Phase::Closed).await
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Save => self.dirty = true,
            Effect::Sign(amount) => {
                let signed = self.sign(amount);
                self.feed(Event::Signed(signed));
            }
            Effect::OpenOnChain => self.open(),
            Effect::Connect => self.connect(),
            Effect::SendInputs => self.send_inputs(),
            Effect::Go => {
                self.tell(RentalEvent::Starting);
                self.say(ToContainer::Go(self.plan.spec.clone()));
                self.watch_stdio();
            }
            Effect::Pay(voucher) => self.say(ToContainer::Paid(voucher)),
            Effect::SayStop => self.say(ToContainer::Stop),
            Effect::SayTaken => self.say(ToContainer::Taken),
            Effect::SayToppedUp => {
                self.tell(RentalEvent::ToppedUp { deposit: self.lease_now().deposit });
                self.say(ToContainer::ToppedUp);
            }
            Effect::TakeOutputs => {
                self.transfers.wanted = true;
                if let Some(event) = self.take_outputs() {
                    self.feed(event);
                }
            }
            Effect::AskChain => self.ask_chain(),
            Effect::CloseOnChain => self.close(),
            Effect::Finalize => self.finalize(),
            Effect::DepositLow { left_ms } => {
                self.tell(RentalEvent::DepositLow { left_ms });
                self.add_to_deposit();
            }
            Effect::TokensLow { left } => {
                self.tell(RentalEvent::TokensLow { left });
                self.add_to_deposit();
            }
            Effect::NowRunning => self.tell(RentalEvent::Running),
            Effect::NowEnded => self.on_ended(),
            Effect::Complaint(why) => self.tell(RentalEvent::Complaint(why)),
            Effect::Finished => self.finished = true,
        }
    }

    /// Writes the record; durable when this returns. A full disk may be a matter of seconds; beyond that nothing may
    /// be done, because what is done must be written first.
    pub(super) async fn save(&mut self) -> Result<(), RentalError> {
        self.write(true).await
    }

    async fn write(&mut self, wait: bool) -> Result<(), RentalError> {
        self.state.rented = self.brain.rented().clone();
        self.state.out_seen = self.pipes.seen().of(muster_wire::message::stdio::Stream::Out);
        self.state.err_seen = self.pipes.seen().of(muster_wire::message::stdio::Stream::Err);
        let mut tries = 0;
        loop {
            let (file, state) = (Arc::clone(&self.file), self.state.clone());
            let saved = tokio::task::spawn_blocking(move || {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                if wait { file.save(state) } else { file.save_soon(state) }
            });
            let result = saved.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            match result {
                Ok(()) => return Ok(()),
                Err(StoreError::Io { path, reason }) if tries < SAVE_TRIES => {
                    tries += 1;
                    tracing::warn!(path = %path.display(), error = %reason, tries, "the lease's record could not be written");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn record(&self) -> LeaseRecord {
        LeaseRecord { plan: self.plan.clone(), state: self.state.clone() }
    }

    async fn on_tick(&mut self) -> Result<(), RentalError> {
        self.open_again();
        self.show_progress();
        if let Some(event) = self.retry_outputs().await? {
            self.feed(event);
        }
        self.take_tally();
        self.feed(Event::Tick);
        self.keep().await
    }

    /// Tells the brain what answers of this lease's model have counted.
    fn take_tally(&mut self) {
        let (counts, most) = self.tally.take();
        if counts != TokenCounts::ZERO {
            self.feed(Event::Answered { counts });
        }
        if most != TokenCounts::ZERO {
            self.feed(Event::AnswerLost { most });
        }
    }

    /// Other processes leave wishes as files. They are taken away once they are in the record.
    async fn look_for_wishes(&mut self) -> Result<(), RentalError> {
        for kind in [WishKind::Stop, WishKind::Look] {
            let wish = Wish { lease: self.lease, kind };
            if !self.renter.dir().has_wish(wish) {
                continue;
            }
            match kind {
                WishKind::Stop => self.feed(Event::Stop),
                WishKind::Look => self.ask_chain(),
            }
            self.keep().await?;
            if let Err(error) = self.renter.dir().fulfilled(wish) {
                tracing::warn!(lease = %self.lease.short(), %error, "a wish that was fulfilled cannot be taken away");
            }
        }
        Ok(())
    }

    fn on_ended(&mut self) {
        self.ended.send_replace(true);
        let lease = self.lease_now();
        let end = lease.end.clone().unwrap_or_else(|| match &self.brain.rented().gone {
            Some(why) => End::Interrupted(why.clone()),
            None => End::NeverStarted,
        });
        self.tell(RentalEvent::Ended { end, ran_ms: lease.ran_ms });
    }

    async fn on_note(&mut self, note: Note) -> Result<(), RentalError> {
        match note {
            Note::Line(generation, what) => {
                if generation == self.line.generation {
                    self.on_line(what);
                }
            }
            Note::Inputs(generation, result) => {
                if let Some(event) = self.on_inputs(generation, result) {
                    self.feed(event);
                }
            }
            Note::LeftOut(names) => self.tell(RentalEvent::LeftOut { names }),
            Note::Outputs(result) => {
                if let Some(event) = self.on_outputs(result).await? {
                    self.feed(event);
                }
            }
            Note::Stdio(result) => self.on_stdio(result),
            Note::Missed(stream, count) => self.tell(RentalEvent::Missed { stream, count }),
            Note::OpenSent => self.feed(Event::OpenSent),
            Note::Opened(result) => self.on_opened(result),
            Note::Seen(result) => self.on_seen(result),
            Note::Closed(result) => self.on_closed(result).await?,
            Note::Finalized(result) => self.on_finalized(result).await?,
            Note::ToppedUp(amount, result) => self.on_topped_up(amount, result),
        }
        Ok(())
    }
}

/// The line.
impl Driver {
    fn connect(&mut self) {
        if self.line.to.is_some() || self.line.task.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        self.line.generation += 1;
        let line = Line {
            renter: self.renter.clone(),
            lease: self.lease,
            container: self.brain.rented().container.clone(),
            key: self.key.clone(),
            generation: self.line.generation,
            fresh: std::mem::take(&mut self.line.stale),
            notes: self.notes.clone(),
        };
        self.line.task = Some(self.renter.lines().spawn(line.run()).abort_handle());
    }

    /// Says something, if the line stands; after a break the brain says again what matters.
    pub(super) fn say(&self, message: ToContainer) {
        if let Some(to) = &self.line.to
            && to.try_send(message).is_err()
        {
            tracing::debug!(lease = %self.lease.short(), "the line takes nothing just now");
        }
    }

    fn on_line(&mut self, what: LineNote) {
        match what {
            LineNote::Up { connection, to } => {
                self.line.to = Some(to);
                self.show_line(Some(connection.clone()));
                self.line.connection = Some(connection);
                self.tell(RentalEvent::Connected { container: self.brain.rented().container.id });
                self.feed(Event::Connected);
            }
            LineNote::Heard(message) => {
                if let ToConsumer::Attached { phase, .. } = &message
                    && !matches!(phase, Phase::Accepted | Phase::Open | Phase::Void)
                {
                    self.watch_stdio();
                }
                if matches!(message, ToConsumer::Counted { .. }) {
                    // What is known here counts first.
                    self.take_tally();
                }
                self.feed(Event::Heard(message));
            }
            LineNote::Down { why, stale, cut_off } => {
                self.line.to = None;
                self.line.connection = None;
                self.show_line(None);
                self.line.stale = stale;
                self.tell(RentalEvent::Lost { why: why.clone() });
                self.feed(Event::Lost { why, cut_off });
            }
        }
    }

    fn show_line(&self, connection: Option<muster_net::Connection>) {
        let Some(shown) = &self.shown_line else { return };
        let working = self.lease_now().end.is_none();
        // A lease whose work another one has taken over may still be settling: it must not take that one's place.
        shown.send_if_modified(|line| match connection {
            Some(connection) if working => {
                let tally = Arc::clone(&self.tally);
                *line = Some(LeaseLine { lease: self.lease, connection, tally });
                true
            }
            Some(_) => false,
            None => line.take_if(|line| line.lease == self.lease).is_some(),
        });
    }

    fn watch_stdio(&mut self) {
        if !self.plan.keep_logs || self.stdio.running || self.stdio.over {
            return;
        }
        let Some(connection) = self.connection() else { return };
        self.stdio.running = true;
        let watcher = Watcher {
            connection,
            lease: self.lease,
            pipes: Arc::clone(&self.pipes),
            stdin: self.plan.spec.stdin,
            ended: self.ended.subscribe(),
            notes: self.notes.clone(),
        };
        self.tasks.spawn(watcher.run());
    }

    fn on_stdio(&mut self, result: Result<(), String>) {
        self.stdio.running = false;
        if let Err(why) = result {
            tracing::debug!(lease = %self.lease.short(), %why, "the job's streams broke");
            // Streams often tell of a dead connection before the line does. Asking on it again would only use up the tries.
            let lost = self.connection().is_none_or(|connection| connection.close_reason().is_some());
            if lost {
                // They are asked for again when the line stands again.
                return;
            }
            self.stdio.tries += 1;
            if self.stdio.tries < STDIO_TRIES {
                self.watch_stdio();
                return;
            }
            self.tell(RentalEvent::Complaint(format!("the rest of the job's output could not be read: {why}")));
        }
        self.stdio.over = true;
        if let Some(event) = self.outputs_all_here() {
            self.feed(event);
        }
    }

    /// Whether nothing more of the standard streams is awaited.
    pub(super) fn stdio_over(&self) -> bool {
        !self.plan.keep_logs || self.stdio.over || self.lease_now().started_at.is_none()
    }
}
