//! A network in one process: a chain in memory, an Indexer that offers in turn, and Containers that run the core's own
//! brain over real sockets. Their "jobs" are a handful of words instead of programs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::keys::Wallet;
use muster_chain::message::message_signer;
use muster_chain::settle::VoucherDomain;
use muster_client::ledger::{Ledger, LedgerError};
use muster_client::network::{Chain, Contracts, IndexerEntry};
use muster_client::{ACCEPTANCE_CONTEXT, ClientDir, Network, Renter, SessionKey};
use muster_core::brain::container::{Config, Container, Effect, Event, StopBy};
use muster_core::hardware::{Allocation, Capacity};
use muster_core::ids::{Address, ContentHash, LeaseId, NodeId};
use muster_core::lease::{End, Lease, LeaseTerms};
use muster_core::params::Params;
use muster_core::pricing::Ask;
use muster_core::protocol::{
    Candidates, CandidatesRequest, EscrowLease, EscrowStatus, JobSpec, MatchFailed, MatchFailure, MatchReply,
    MatchRequest, Matched, OfferRejected, ToConsumer, ToContainer,
};
use muster_core::units::{Bytes, TimeMs, TokenAmount, UsdMicro};
use muster_core::voucher::{SignedVoucher, Voucher};
use muster_net::{Connection, FramedStream, NetError, NodeSecret, Peer, PeerConfig, StreamKind};
use muster_wire::BoundedBytes;
use muster_wire::message::files::{Outcome, Piece, Transfer};
use muster_wire::message::stdio::{Input, Output, Stream, Watch};
use muster_wire::message::{attach_bytes, terms_bytes};
use tokio::sync::{mpsc, oneshot, watch};

/// For who does not ask when a deposit is on its way.
pub(crate) fn unheard() -> oneshot::Sender<()> {
    oneshot::channel().0
}

pub(crate) fn now() -> TimeMs {
    TimeMs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

// ---- the chain ------------------------------------------------------------------------------------------------------

/// The escrow and the token, in memory.
#[derive(Debug)]
pub(crate) struct FakeChain {
    pub(crate) leases: Mutex<BTreeMap<LeaseId, EscrowLease>>,
    pub(crate) balance: Mutex<TokenAmount>,
    /// Opens fail with this sentence.
    pub(crate) refuse_opens: Mutex<Option<String>>,
    /// Opens are on their way, and get into no block, while this is set.
    pub(crate) holds_opens: watch::Sender<bool>,
    /// Challenge windows do not end while this is set.
    pub(crate) holds_windows: AtomicBool,
    domain: VoucherDomain,
}

impl FakeChain {
    fn view(&self, lease: LeaseId) -> EscrowLease {
        let none = EscrowLease {
            status: EscrowStatus::None,
            consumer: Address::ZERO,
            session_key: Address::ZERO,
            container: NodeId::ZERO,
            deposit: TokenAmount::ZERO,
            redeemed: TokenAmount::ZERO,
            rate_per_second: TokenAmount::ZERO,
            max_seconds: 0,
        };
        self.leases.lock().unwrap().get(&lease).cloned().unwrap_or(none)
    }

    fn settle(&self, lease: LeaseId, voucher: Option<&SignedVoucher>) -> Option<(TokenAmount, TokenAmount)> {
        let mut leases = self.leases.lock().unwrap();
        let held = leases.get_mut(&lease)?;
        if held.status == EscrowStatus::Closed {
            return None;
        }
        if let Some(v) = voucher {
            assert_eq!(self.domain.signer(v).unwrap(), held.session_key, "a voucher by another key reached the chain");
            assert!(v.voucher.amount <= held.deposit);
            held.redeemed = held.redeemed.max(v.voucher.amount);
        }
        held.status = EscrowStatus::Closed;
        let refund = held.deposit.saturating_sub(held.redeemed);
        let redeemed = held.redeemed;
        drop(leases);
        let mut balance = self.balance.lock().unwrap();
        *balance = balance.saturating_add(refund);
        Some((redeemed, refund))
    }
}

/// A consumer's view of it, with or without a wallet.
#[derive(Debug)]
pub(crate) struct FakeLedger {
    pub(crate) chain: Arc<FakeChain>,
    pub(crate) wallet: Option<Address>,
}

impl Ledger for FakeLedger {
    fn consumer(&self) -> Option<Address> {
        self.wallet
    }

    fn lease_id(&self, consumer: Address, salt: [u8; 32]) -> LeaseId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&consumer.0).update(&salt);
        LeaseId(*hasher.finalize().as_bytes())
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<EscrowLease, LedgerError>> {
        async move { Ok(self.chain.view(lease)) }.boxed()
    }

    fn open(&self, terms: LeaseTerms, sent: oneshot::Sender<()>) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            self.wallet.ok_or(LedgerError::NoWallet("opening"))?;
            // Whoever asked may have gone.
            sent.send(()).ok();
            drop(self.chain.holds_opens.subscribe().wait_for(|holds| !holds).await);
            if let Some(why) = self.chain.refuse_opens.lock().unwrap().clone() {
                return Err(LedgerError::Refused(why));
            }
            let mut leases = self.chain.leases.lock().unwrap();
            if leases.contains_key(&terms.lease) {
                return Ok(());
            }
            let mut balance = self.chain.balance.lock().unwrap();
            *balance = TokenAmount(balance.0.checked_sub(terms.deposit.0).expect("the wallet is not overdrawn"));
            leases.insert(
                terms.lease,
                EscrowLease {
                    status: EscrowStatus::Open,
                    consumer: terms.consumer,
                    session_key: terms.session_key,
                    container: terms.container,
                    deposit: terms.deposit,
                    redeemed: TokenAmount::ZERO,
                    rate_per_second: terms.rate_per_second,
                    max_seconds: terms.max_seconds,
                },
            );
            Ok(())
        }
        .boxed()
    }

    fn top_up(&self, lease: LeaseId, amount: TokenAmount, _: String) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            self.wallet.ok_or(LedgerError::NoWallet("topping up"))?;
            let mut leases = self.chain.leases.lock().unwrap();
            let held = leases.get_mut(&lease).ok_or_else(|| LedgerError::Refused("no such lease".into()))?;
            held.deposit = held.deposit.saturating_add(amount);
            let mut balance = self.chain.balance.lock().unwrap();
            *balance = balance.saturating_sub(amount);
            Ok(())
        }
        .boxed()
    }

    fn redeem(&self, v: SignedVoucher) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            self.wallet.ok_or(LedgerError::NoWallet("redeeming"))?;
            let mut leases = self.chain.leases.lock().unwrap();
            let held = leases.get_mut(&v.voucher.lease).ok_or_else(|| LedgerError::Refused("no such lease".into()))?;
            assert_eq!(self.chain.domain.signer(&v).unwrap(), held.session_key);
            if held.status == EscrowStatus::Closed || v.voucher.amount <= held.redeemed {
                return Err(LedgerError::Refused("nothing to pay".into()));
            }
            held.redeemed = v.voucher.amount;
            Ok(())
        }
        .boxed()
    }

    fn close(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            self.wallet.ok_or(LedgerError::NoWallet("closing"))?;
            if let Some(held) = self.chain.leases.lock().unwrap().get_mut(&lease)
                && held.status == EscrowStatus::Open
            {
                held.status = EscrowStatus::Closing;
            }
            Ok(())
        }
        .boxed()
    }

    fn finalize(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            self.wallet.ok_or(LedgerError::NoWallet("finalising"))?;
            if self.chain.holds_windows.load(Ordering::SeqCst) {
                return Err(LedgerError::Refused("too early".into()));
            }
            self.chain.settle(lease, None);
            Ok(())
        }
        .boxed()
    }

    fn balance(&self) -> BoxFuture<'_, Result<TokenAmount, LedgerError>> {
        async move { Ok(*self.chain.balance.lock().unwrap()) }.boxed()
    }

    fn sign_voucher(&self, key: &SessionKey, voucher: Voucher) -> SignedVoucher {
        self.chain.domain.sign(key.wallet(), voucher)
    }
}

// ---- a Container ----------------------------------------------------------------------------------------------------

/// A job and what it left behind.
#[derive(Default)]
struct Work {
    spec: Option<JobSpec>,
    files: BTreeMap<String, Vec<u8>>,
    inputs: BTreeMap<String, Vec<u8>>,
    out: Vec<u8>,
    stdin: Vec<u8>,
    stdin_over: bool,
    killed: bool,
    over: bool,
}

struct House {
    brain: Container,
    answers: BTreeMap<u64, Result<Box<LeaseTerms>, OfferRejected>>,
    sessions: BTreeMap<u64, mpsc::UnboundedSender<ToConsumer>>,
    work: BTreeMap<LeaseId, Work>,
}

pub(crate) struct FakeContainer {
    pub(crate) peer: Peer,
    chain: Arc<FakeChain>,
    house: Mutex<House>,
    changed: watch::Sender<u64>,
    next: AtomicU64,
    /// Interrupts this many jobs as soon as they run.
    pub(crate) interrupts: AtomicU32,
    /// It runs an older version, which cannot read what a job is.
    pub(crate) is_older: AtomicBool,
    /// Takes outputs away from nobody until this is set.
    pub(crate) holds_outputs: AtomicBool,
    /// Neither answers nor settles any more.
    dead: AtomicBool,
    /// How often work was asked to be cleaned up.
    pub(crate) cleaned: AtomicU32,
}

impl FakeContainer {
    async fn new(chain: Arc<FakeChain>, params: Params, slots: u32) -> Arc<Self> {
        let secret = NodeSecret::generate();
        let peer = Peer::bind(PeerConfig::new(secret, "127.0.0.1:0".parse().unwrap())).await.unwrap();
        let total = Capacity {
            cpu_millis: 1000 * slots,
            memory: Bytes(u64::from(slots) * Bytes::GIB),
            disk: Bytes(u64::from(slots) * 2 * Bytes::GIB),
            ..Capacity::default()
        };
        let ask = Ask { core_hour: UsdMicro(36_000), ..Ask::default() };
        let config = Config { id: peer.id(), total, ask, models: None, model_idle_ms: 60_000, egress: false, params };
        let house = House {
            brain: Container::new(config).unwrap(),
            answers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            work: BTreeMap::new(),
        };
        let this = Arc::new(Self {
            peer,
            chain,
            house: Mutex::new(house),
            changed: watch::channel(0).0,
            next: AtomicU64::new(1),
            interrupts: AtomicU32::new(0),
            is_older: AtomicBool::new(false),
            holds_outputs: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            cleaned: AtomicU32::new(0),
        });
        tokio::spawn(Arc::clone(&this).accept());
        tokio::spawn(Arc::clone(&this).tick());
        this
    }

    pub(crate) fn id(&self) -> NodeId {
        self.peer.id()
    }

    pub(crate) fn stop_by_provider(self: &Arc<Self>, lease: LeaseId) {
        self.feed(Event::Stop { lease, by: StopBy::Provider });
    }

    /// A lease as this Container knows it.
    pub(crate) fn known(&self, lease: LeaseId) -> Lease {
        self.house.lock().unwrap().brain.held(lease).unwrap().lease.clone()
    }

    /// What arrived as inputs of a lease.
    pub(crate) fn inputs(&self, lease: LeaseId) -> BTreeMap<String, Vec<u8>> {
        self.house.lock().unwrap().work.get(&lease).map(|w| w.inputs.clone()).unwrap_or_default()
    }

    /// Cuts every line to it, as a pulled cable would.
    pub(crate) fn cut_lines(&self) {
        self.house.lock().unwrap().sessions.clear();
    }

    async fn tick(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.feed(Event::Tick);
        }
    }

    /// Its machine burns down.
    pub(crate) async fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.peer.close().await;
    }

    fn feed(self: &Arc<Self>, event: Event) {
        if self.dead.load(Ordering::SeqCst) {
            return;
        }
        let mut queue = vec![event];
        while let Some(event) = queue.pop() {
            let effects = self.house.lock().unwrap().brain.handle(event, now());
            for effect in effects {
                self.perform(effect, &mut queue);
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    fn perform(self: &Arc<Self>, effect: Effect, queue: &mut Vec<Event>) {
        let mut house = self.house.lock().unwrap();
        match effect {
            Effect::Answer { reply, result } => drop(house.answers.insert(reply, result)),
            Effect::Prepare(lease) => drop(house.work.entry(lease).or_default()),
            Effect::AskChain(lease) => queue.push(Event::ChainSeen { lease, view: self.chain.view(lease) }),
            Effect::Start(lease) => drop(tokio::spawn(Arc::clone(self).job(lease))),
            Effect::Kill(lease) => {
                if let Some(work) = house.work.get_mut(&lease) {
                    work.killed = true;
                }
            }
            Effect::Tell { session, message } => {
                if let Some(line) = house.sessions.get(&session) {
                    drop(line.send(message));
                }
            }
            Effect::Settle { lease, voucher } => {
                if let Some((redeemed, refunded)) = self.chain.settle(lease, voucher.as_ref()) {
                    queue.push(Event::Settled { lease, redeemed, refunded, tx: Some([9; 32]) });
                }
            }
            Effect::CleanUp(_) => drop(self.cleaned.fetch_add(1, Ordering::SeqCst)),
            Effect::Save(_) | Effect::Forget(_) | Effect::Report { .. } | Effect::Beat => {}
        }
    }

    fn with_work<T>(&self, lease: LeaseId, act: impl FnOnce(&mut Work) -> T) -> T {
        let done = act(self.house.lock().unwrap().work.entry(lease).or_default());
        self.changed.send_modify(|n| *n += 1);
        done
    }

    /// The job: `say TEXT`, `write NAME TEXT`, `sleep MS`, `cat` (input to output), `exit CODE`, `forever`; words are
    /// joined by `;` in the first argument.
    async fn job(self: Arc<Self>, lease: LeaseId) {
        let spec = self.with_work(lease, |w| w.spec.clone().unwrap());
        self.feed(Event::JobStarted { lease });
        if self.interrupts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            self.stop_by_provider(lease);
        }
        let index = spec.env.iter().find(|(n, _)| n == "MUSTER_TASK_INDEX").map_or("", |(_, v)| v.as_str());
        let mut end = End::Exited(0);
        for step in spec.command[0].replace("$I", index).split(';').map(str::trim) {
            let mut words = step.splitn(3, ' ');
            match (words.next().unwrap(), words.next().unwrap_or(""), words.next().unwrap_or("")) {
                ("say", a, b) => self.with_work(lease, |w| w.out.extend_from_slice(format!("{a} {b}\n").as_bytes())),
                ("write", name, text) => {
                    drop(self.with_work(lease, |w| w.files.insert(name.to_owned(), text.as_bytes().to_vec())));
                }
                ("sleep", ms, _) => self.unless_killed(lease, Some(ms.parse().unwrap())).await,
                ("forever", ..) => self.unless_killed(lease, None).await,
                ("cat", ..) => self.cat(lease).await,
                ("exit", code, _) => end = End::Exited(code.parse().unwrap()),
                other => panic!("no such word: {other:?}"),
            }
        }
        let killed = self.with_work(lease, |w| {
            w.over = true;
            w.killed
        });
        self.feed(Event::JobEnded { lease, end: if killed { End::Signaled(9) } else { end } });
    }

    async fn unless_killed(&self, lease: LeaseId, ms: Option<u64>) {
        let killed = async {
            let mut changed = self.changed.subscribe();
            while !self.house.lock().unwrap().work.get(&lease).is_none_or(|w| w.killed) {
                changed.changed().await.unwrap();
            }
        };
        match ms {
            Some(ms) => drop(tokio::time::timeout(Duration::from_millis(ms), killed).await),
            None => killed.await,
        }
    }

    async fn cat(&self, lease: LeaseId) {
        let mut changed = self.changed.subscribe();
        loop {
            let over = {
                let mut house = self.house.lock().unwrap();
                let work = house.work.get_mut(&lease).unwrap();
                let input = std::mem::take(&mut work.stdin);
                work.out.extend_from_slice(&input);
                work.stdin_over || work.killed
            };
            self.changed.send_modify(|n| *n += 1);
            if over {
                return;
            }
            changed.changed().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    // ---- streams ----

    async fn accept(self: Arc<Self>) {
        while let Ok(connection) = self.peer.accept().await {
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                while let Ok(stream) = connection.accept_bi().await {
                    let (this, connection, kind) = (Arc::clone(&this), connection.clone(), stream.kind());
                    let line = stream.framed();
                    tokio::spawn(async move {
                        let done = match kind {
                            StreamKind::Lease => this.lease(connection, line).await,
                            StreamKind::Files => this.files(line).await,
                            StreamKind::Job => this.stdio(line).await,
                            other => panic!("unexpected stream {other:?}"),
                        };
                        if let Err(error) = done {
                            tracing::debug!(%error, "stream over");
                        }
                    });
                }
            });
        }
    }

    async fn lease(self: Arc<Self>, connection: Connection, line: FramedStream) -> Result<(), NetError> {
        let (mut from, mut to) = line.split();
        let Some(ToContainer::Attach { lease, proof }) = from.recv().await? else { return Ok(()) };
        let expected = self.house.lock().unwrap().brain.held(lease).map(|h| h.lease.terms.session_key);
        let signer = message_signer(&attach_bytes(lease, self.id(), connection.remote_id()), &proof);
        assert_eq!(signer, expected, "the proof is by the session key");
        let session = self.next.fetch_add(1, Ordering::SeqCst);
        let (say, mut said) = mpsc::unbounded_channel();
        self.house.lock().unwrap().sessions.insert(session, say);
        self.feed(Event::Attached { lease, session });
        loop {
            tokio::select! {
                message = said.recv() => match message {
                    Some(message) => to.send(&message).await?,
                    None => {
                        connection.close("the cable was pulled");
                        break;
                    }
                },
                message = from.recv::<ToContainer>() => match message? {
                    Some(ToContainer::Go(_)) if self.is_older.load(Ordering::SeqCst) => {
                        return Err(connection.cut("it names nothing that this build knows"));
                    }
                    Some(message) => self.hear(lease, message),
                    None => break,
                },
            }
        }
        self.feed(Event::Detached { lease, session });
        Ok(())
    }

    fn hear(self: &Arc<Self>, lease: LeaseId, message: ToContainer) {
        match message {
            ToContainer::Go(spec) => {
                let early = spec.session.is_some();
                self.with_work(lease, |w| w.spec = Some(spec));
                self.feed(Event::Go { lease, early });
            }
            ToContainer::Paid(voucher) => {
                let signer = self.chain.domain.signer(&voucher).unwrap();
                self.feed(Event::Paid { voucher, signer });
            }
            ToContainer::ToppedUp => self.feed(Event::ToppedUp { lease }),
            ToContainer::Stop => self.feed(Event::Stop { lease, by: StopBy::Consumer }),
            ToContainer::Taken => self.feed(Event::Taken { lease }),
            ToContainer::Attach { .. } | ToContainer::Ping => {}
        }
    }

    async fn files(self: Arc<Self>, mut line: FramedStream) -> Result<(), NetError> {
        match line.recv::<Transfer>().await? {
            Some(Transfer::Inputs { lease }) => {
                let (mut got, mut open, mut count) = (BTreeMap::new(), None, (0, 0));
                while let Some(piece) = line.recv::<Piece>().await? {
                    match piece {
                        Piece::Folder { .. } => count.0 += 1,
                        Piece::File { path, .. } => open = Some((path, Vec::new())),
                        Piece::Chunk(bytes) => open.as_mut().unwrap().1.extend_from_slice(&bytes),
                        Piece::End { hash } => {
                            let (path, bytes) = open.take().unwrap();
                            assert_eq!(ContentHash(*blake3::hash(&bytes).as_bytes()), hash);
                            count = (count.0 + 1, count.1 + bytes.len() as u64);
                            got.insert(path, bytes);
                        }
                        Piece::Done { .. } => break,
                        Piece::Abort { why } => return line.send(&Outcome::Refused { why }).await,
                    }
                }
                self.with_work(lease, |w| w.inputs = got);
                line.send(&Outcome::Received { entries: count.0, bytes: count.1 }).await?;
            }
            Some(Transfer::Outputs { lease }) => {
                let files = self.with_work(lease, |w| w.files.clone());
                let mut bytes = 0;
                for (path, contents) in &files {
                    bytes += contents.len() as u64;
                    let len = contents.len() as u64;
                    line.send(&Piece::File { path: path.clone(), len, executable: false }).await?;
                    line.send(&Piece::Chunk(BoundedBytes::new(contents.clone()).unwrap())).await?;
                    line.send(&Piece::End { hash: ContentHash(*blake3::hash(contents).as_bytes()) }).await?;
                }
                while self.holds_outputs.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                line.send(&Piece::Done { entries: files.len() as u64, bytes, left_out: Vec::new() }).await?;
                drop(line.recv::<Outcome>().await?);
            }
            None => {}
        }
        line.finish().await
    }

    async fn stdio(self: Arc<Self>, line: FramedStream) -> Result<(), NetError> {
        let (mut from, mut to) = line.split();
        let Some(watched) = from.recv::<Watch>().await? else { return Ok(()) };
        let lease = watched.lease;
        let this = Arc::clone(&self);
        let feeding = async move {
            while let Ok(Some(input)) = from.recv::<Input>().await {
                this.with_work(lease, |w| match input {
                    Input::Data(bytes) => w.stdin.extend_from_slice(&bytes),
                    Input::End => w.stdin_over = true,
                });
            }
            std::future::pending::<()>().await;
        };
        let showing = async {
            let (mut at, mut changed) = (watched.out_from as usize, self.changed.subscribe());
            loop {
                let (rest, over) = self.with_work_quietly(lease, |w| (w.out[at.min(w.out.len())..].to_vec(), w.over));
                for piece in rest.chunks(1000) {
                    at += piece.len();
                    let bytes = BoundedBytes::new(piece).unwrap();
                    to.send(&Output::Data { stream: Stream::Out, bytes }).await?;
                }
                if rest.is_empty() && (over || !watched.follow) {
                    to.send(&Output::End).await?;
                    return to.finish().await;
                }
                if rest.is_empty() {
                    changed.changed().await.unwrap();
                }
            }
        };
        tokio::select! { shown = showing => shown, () = feeding => Ok(()) }
    }

    fn with_work_quietly<T>(&self, lease: LeaseId, act: impl FnOnce(&mut Work) -> T) -> T {
        act(self.house.lock().unwrap().work.entry(lease).or_default())
    }

    fn offer(self: &Arc<Self>, terms: LeaseTerms) -> Result<Matched, OfferRejected> {
        let reply = self.next.fetch_add(1, Ordering::SeqCst);
        self.feed(Event::Offered { reply, terms: Box::new(terms) });
        let terms = *self.house.lock().unwrap().answers.remove(&reply).unwrap()?;
        let acceptance = self.peer.sign(ACCEPTANCE_CONTEXT, &terms_bytes(&terms).unwrap()).into();
        let container = self.peer.addr().to_wire().unwrap().into();
        Ok(Matched { terms, acceptance, container, considered: 1, turned_down: Vec::new(), holders: Vec::new() })
    }
}

// ---- the network ----------------------------------------------------------------------------------------------------

pub(crate) struct World {
    pub(crate) chain: Arc<FakeChain>,
    pub(crate) containers: Vec<Arc<FakeContainer>>,
    pub(crate) network: Network,
    pub(crate) temp: tempfile::TempDir,
    pub(crate) wallet: Address,
    _indexer: Peer,
}

impl World {
    /// A network of so many Containers with so many slots each.
    pub(crate) async fn new(containers: usize, slots: u32) -> Self {
        // As on a development network: time enough for a busy machine to hand a lease from one driver to the next.
        Self::with_interval(containers, slots, 2_000).await
    }

    /// With another voucher interval.
    pub(crate) async fn with_interval(containers: usize, slots: u32, voucher_interval_ms: u64) -> Self {
        let escrow = Address([3; 20]);
        let chain = Arc::new(FakeChain {
            leases: Mutex::default(),
            balance: Mutex::new(TokenAmount(1_000_000 * TokenAmount::ONE.0)),
            refuse_opens: Mutex::default(),
            holds_opens: watch::Sender::new(false),
            holds_windows: AtomicBool::new(false),
            domain: VoucherDomain::new(31_337, escrow),
        });
        let params = Params {
            voucher_interval_ms,
            settle_grace_ms: 1_000,
            close_patience_ms: 2_000,
            keep_outputs_ms: 20_000,
            ..Params::development()
        };
        let mut houses = Vec::new();
        for _ in 0..containers {
            houses.push(FakeContainer::new(Arc::clone(&chain), params.clone(), slots).await);
        }
        let config = PeerConfig::new(NodeSecret::generate(), "127.0.0.1:0".parse().unwrap());
        let indexer = Peer::bind(config).await.unwrap();
        tokio::spawn(index(indexer.clone(), houses.clone(), params.clone()));
        let contracts = Contracts { token: Address([1; 20]), registry: Address([2; 20]), escrow };
        let rpc = Chain { id: 31_337, rpc: "http://127.0.0.1:1".to_owned() };
        let mut network = Network::new("test", rpc, contracts, params);
        network.indexers.push(IndexerEntry { id: indexer.id(), direct: vec![indexer.listen_addr()], relay: None });
        let temp = tempfile::tempdir().unwrap();
        let wallet = Wallet::random().address();
        Self { chain, containers: houses, network, temp, wallet, _indexer: indexer }
    }

    pub(crate) fn dir(&self) -> ClientDir {
        ClientDir::open(&self.temp.path().join("data")).unwrap()
    }

    /// A process that rents, with the wallet.
    pub(crate) async fn renter(&self) -> Renter {
        self.process(Some(self.wallet)).await
    }

    /// One that only drives on, without it.
    pub(crate) async fn process(&self, wallet: Option<Address>) -> Renter {
        let ledger = FakeLedger { chain: Arc::clone(&self.chain), wallet };
        Renter::new(self.network.clone(), Arc::new(ledger), self.dir()).await.unwrap()
    }

    /// Tokens in the wallet.
    pub(crate) fn balance(&self) -> TokenAmount {
        *self.chain.balance.lock().unwrap()
    }
}

async fn index(peer: Peer, containers: Vec<Arc<FakeContainer>>, params: Params) {
    while let Ok(connection) = peer.accept().await {
        let (containers, params, id) = (containers.clone(), params.clone(), peer.id());
        tokio::spawn(async move {
            while let Ok(stream) = connection.accept_bi().await {
                let kind = stream.kind();
                let mut line = stream.framed();
                if kind == StreamKind::Candidates {
                    // Sessions measure the way to several before they ask for one; here nobody is far.
                    drop(line.recv::<CandidatesRequest>().await);
                    drop(line.send(&Candidates { containers: Vec::new() }).await);
                    drop(line.finish().await);
                    continue;
                }
                let Ok(Some(request)) = line.recv::<MatchRequest>().await else { continue };
                let reply = answer(&request, &containers, &params, id);
                drop(line.send(&reply).await);
                drop(line.finish().await);
            }
        });
    }
}

fn answer(request: &MatchRequest, containers: &[Arc<FakeContainer>], params: &Params, indexer: NodeId) -> MatchReply {
    let fits: Vec<_> = containers.iter().filter(|c| !request.demand.exclude.contains(&c.id())).collect();
    for container in &fits {
        let rate = TokenAmount(TokenAmount::ONE.0 / 500);
        let deposit = rate.per_second_for_ms(request.deposit_seconds * 1000);
        let terms = LeaseTerms {
            lease: request.lease,
            salt: request.salt,
            request: request.request,
            consumer: request.consumer,
            session_key: request.session_key,
            container: container.id(),
            indexer,
            rate_per_second: rate,
            deposit,
            max_seconds: request.demand.time_limit_s,
            interval_ms: params.voucher_interval_ms,
            open_within_ms: params.open_timeout_ms,
            allocation: Allocation {
                cpu_millis: request.demand.cpu_millis,
                memory: request.demand.memory,
                disk: request.demand.disk,
                ..Allocation::default()
            },
            egress: request.demand.egress,
            tokens: None,
        };
        if let Ok(matched) = container.offer(terms) {
            return MatchReply::Matched(Box::new(matched));
        }
    }
    let kind = if fits.is_empty() { MatchFailure::NothingFits } else { MatchFailure::Busy };
    let why = if fits.is_empty() { "all are excluded" } else { "all are busy" }.to_owned();
    MatchReply::Failed(MatchFailed { kind, why, considered: containers.len() as u64, turned_down: Vec::new() })
}
