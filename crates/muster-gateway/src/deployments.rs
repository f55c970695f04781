//! Models that accounts have deployed: what they want, written down; what runs for them, rented.
//!
//! Each deployment has a task that looks at its replicas, asks [`Fleet`] what to do, and does it: rents, tells the list of
//! models that a replica answers, drains and ends. What was wanted outlives this process; replicas of an earlier one are
//! stopped, and new ones take their place.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_client::Renter;
use muster_client::job::{JobControl, JobReport, JobRequest};
use muster_client::live::{Complaints, LiveState, LiveStep};
use muster_client::model::{self, ModelLine, ModelStanding};
use muster_client::rental::TopUp;
use muster_core::demand::Demand;
use muster_core::inference::fleet::{Fleet, Order, Scale, Seen, Stage};
use muster_core::inference::placement::{Failed, Placement, Stands};
use muster_core::inference::{ModelKind, ModelSpec, TokenAsk, TokenCounts, TokenRates};
use muster_core::pricing::Exchange;
use muster_core::units::{TimeMs, TokenAmount, UsdMicro};
use muster_engine::{Abilities, Engine, EngineInfo};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::keys::{secret, write_private};
use crate::logs::Log;
use crate::models::{Access, Deployment, Models, ModelsError, ReplicaId, Whence};
use crate::weights::Weights;

/// How often a deployment is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Deployments of one account.
const DEPLOYMENTS_MAX: usize = 64;
/// How long a Container that fits may be busy before that counts as a failure to start.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// What was deployed: all that has to be known to begin anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) account: String,
    /// Grows with each change of model or demand.
    pub(crate) version: u64,
    pub(crate) created_s: u64,
    /// Whether every account of this Gateway may ask it.
    pub(crate) shared: bool,
    /// Whether anybody may who pays for each request by itself.
    #[serde(default)]
    pub(crate) offered: bool,
    pub(crate) model: ModelSpec,
    pub(crate) demand: Demand,
    pub(crate) scale: Scale,
    /// Whether this Gateway has the weights, and sends them.
    pub(crate) sends_weights: bool,
    /// Whether it shall be near: round trips are measured before each choice.
    #[serde(default)]
    pub(crate) edge: bool,
    /// After so long without a first token a request is sent to a second replica, too; none: never.
    #[serde(default)]
    pub(crate) hedge_after_ms: Option<u64>,
}

/// Why something cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error("the model, or what it needs, is wrong: {0}")]
    Wrong(String),
    #[error("this account has {DEPLOYMENTS_MAX} deployments already; remove one first with `muster model rm`")]
    Full,
    #[error("there is no deployment {0:?}; `muster model ls` names those of this account")]
    Unknown(String),
    #[error("no replica of {0:?} with this lease waits for a token now; `muster model show` tells which do")]
    NoTokenWanted(String),
    #[error("the Container does not take the token: {0}")]
    Token(String),
    #[error(transparent)]
    Name(#[from] ModelsError),
    #[error("the deployments in {path} cannot be {what}: {source}", path = path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("the deployments in {path} cannot be understood: {why}; restore the file from a backup, or remove it and deploy again", path = path.display())]
    Damaged { path: PathBuf, why: String },
}

/// A replica as it is shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ReplicaState {
    /// `matching`, `opening`, `starting`, `ready`, `draining` or `ended`.
    pub(crate) state: &'static str,
    /// Of which version of the deployment.
    pub(crate) version: u64,
    /// What it waits for, or how it ended.
    pub(crate) why: Option<String>,
    pub(crate) lease: Option<String>,
    pub(crate) container: Option<String>,
    /// What runs it.
    pub(crate) engine: Option<String>,
    /// Requests in hand or waiting.
    pub(crate) held: u32,
    pub(crate) input_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    /// What those cost.
    pub(crate) paid: String,
    /// The token that its weights need, where it waits for one.
    pub(crate) wants_token: Option<WantsToken>,
}

/// A token that a replica waits for. Whoever has it seals it to the node; this Gateway only passes it on.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct WantsToken {
    /// The Container's key, 64 hex digits: what the token is sealed to.
    pub(crate) node: String,
    /// The lease, which the seal is bound to.
    pub(crate) lease: String,
    /// The file: `hf:OWNER/NAME@REVISION:FILE`; the seal is bound to its repository.
    pub(crate) source: String,
}

/// What one deployment has, as its task keeps it.
#[derive(Debug)]
struct Replica {
    id: u64,
    version: u64,
    state: watch::Receiver<LiveState>,
    standing: watch::Receiver<ModelStanding>,
    line: ModelLine,
    control: JobControl,
    done: JoinHandle<Option<JobReport>>,
    /// Under which name it is among the models; none before it answers.
    listed: Option<ReplicaId>,
    draining: bool,
    /// What the log says of it last.
    told: (&'static str, Option<String>),
}

/// What is shown of a deployment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) replicas: Vec<ReplicaState>,
    pub(crate) wanted: u16,
    /// The last failure.
    pub(crate) why: Option<String>,
    pub(crate) price: Option<TokenAsk>,
    pub(crate) info: Option<EngineInfo>,
    /// Ways to those that wait for a token.
    waiting: Vec<(String, ModelLine)>,
}

struct Deployed {
    record: watch::Sender<Record>,
    view: watch::Receiver<View>,
    log: Log,
    stop: CancellationToken,
}

/// All deployments.
pub(crate) struct Deployments {
    path: PathBuf,
    all: Mutex<BTreeMap<String, Deployed>>,
    models: Models,
    renter: Renter,
    weights: Weights,
    running: TaskTracker,
}

impl std::fmt::Debug for Deployments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployments").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Deployments {
    /// Reads what was deployed before. [`Deployments::begin`] starts it.
    pub(crate) fn open(path: PathBuf, models: Models, renter: Renter, weights: Weights) -> Result<Self, DeployError> {
        let this = Self { path, all: Mutex::default(), models, renter, weights, running: TaskTracker::new() };
        let text = match std::fs::read(&this.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(this),
            Err(source) => return Err(DeployError::Io { path: this.path, what: "read", source }),
        };
        let records: Vec<Record> = serde_json::from_slice(&text)
            .map_err(|e| DeployError::Damaged { path: this.path.clone(), why: e.to_string() })?;
        for record in records {
            this.list(&record, None)?;
            this.lock().insert(record.id.clone(), idle(record));
        }
        Ok(this)
    }

    /// Starts what was deployed before. Needs a runtime.
    pub(crate) fn begin(&self) {
        for deployed in self.lock().values_mut() {
            let record = deployed.record.borrow().clone();
            *deployed = self.run(record);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Deployed>> {
        // Every change is one insertion or removal, so a panic in between leaves nothing wrong.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deploys a model; one of the same name and account is changed to it.
    pub(crate) fn deploy(&self, mut record: Record) -> Result<Record, DeployError> {
        check(&record)?;
        let mut all = self.lock();
        let same = all.values().find_map(|deployed| {
            let known = deployed.record.borrow();
            (known.account == record.account && known.model.name == record.model.name).then(|| known.clone())
        });
        match &same {
            Some(known) => {
                (record.id, record.created_s) = (known.id.clone(), known.created_s);
                let alike = known.model == record.model && known.demand == record.demand;
                record.version = if alike { known.version } else { known.version.saturating_add(1) };
            }
            None => {
                let own = all.values().filter(|one| one.record.borrow().account == record.account).count();
                if own >= DEPLOYMENTS_MAX {
                    return Err(DeployError::Full);
                }
                record.id = secret().chars().take(16).collect();
                record.version = 1;
            }
        }
        // One that only is scaled goes on at the price that its replicas ask, and not at none.
        let view = same.as_ref().and_then(|_| all.get(&record.id)).map(|deployed| deployed.view.borrow().clone());
        self.list(&record, view.as_ref())?;
        let mut records: Vec<Record> = all.values().map(|deployed| deployed.record.borrow().clone()).collect();
        records.retain(|known| known.id != record.id);
        records.push(record.clone());
        self.write(&records)?;
        match all.get(&record.id) {
            Some(deployed) => {
                deployed.record.send_replace(record.clone());
            }
            None => {
                all.insert(record.id.clone(), self.run(record.clone()));
            }
        }
        Ok(record)
    }

    /// Changes how many replicas there are.
    pub(crate) fn scale(&self, account: &str, id: &str, scale: Scale) -> Result<Record, DeployError> {
        let known = self.record(account, id)?;
        self.deploy(Record { scale, ..known })
    }

    /// Ends a deployment; answers that are being given are finished.
    pub(crate) fn remove(&self, account: &str, id: &str) -> Result<Record, DeployError> {
        let known = self.record(account, id)?;
        let mut all = self.lock();
        let mut records: Vec<Record> = all.values().map(|deployed| deployed.record.borrow().clone()).collect();
        records.retain(|record| record.id != known.id);
        self.write(&records)?;
        if let Some(deployed) = all.remove(&known.id) {
            deployed.stop.cancel();
        }
        self.models.withdraw(&known.model.name);
        Ok(known)
    }

    /// What was deployed, by its id or its name.
    pub(crate) fn record(&self, account: &str, id: &str) -> Result<Record, DeployError> {
        let all = self.lock();
        let own = |deployed: &&Deployed| {
            let record = deployed.record.borrow();
            record.account == account && (record.id == id || record.model.name == id)
        };
        let found = all.values().find(own).map(|deployed| deployed.record.borrow().clone());
        found.ok_or_else(|| DeployError::Unknown(id.to_owned()))
    }

    /// How a deployment stands.
    pub(crate) fn view(&self, id: &str) -> View {
        self.lock().get(id).map(|deployed| deployed.view.borrow().clone()).unwrap_or_default()
    }

    /// What became of a deployment.
    pub(crate) fn log(&self, id: &str) -> Log {
        self.lock().get(id).map(|deployed| deployed.log.clone()).unwrap_or_default()
    }

    /// Passes a sealed token on to the replica with this lease.
    pub(crate) async fn give_token(
        &self,
        account: &str,
        id: &str,
        lease: &str,
        sealed: Vec<u8>,
    ) -> Result<(), DeployError> {
        let record = self.record(account, id)?;
        let waiting = self.view(&record.id).waiting.into_iter().find(|(of, _)| of == lease);
        let (_, line) = waiting.ok_or_else(|| DeployError::NoTokenWanted(record.model.name.clone()))?;
        line.give_token(sealed).await.map_err(DeployError::Token)
    }

    /// All of an account.
    pub(crate) fn of(&self, account: &str) -> Vec<Record> {
        let all = self.lock();
        let mut records: Vec<Record> = all.values().map(|deployed| deployed.record.borrow().clone()).collect();
        records.retain(|record| record.account == account);
        records
    }

    /// Ends all replicas; what is wanted stays written down.
    pub(crate) fn stop_all(&self) {
        self.lock().values().for_each(|deployed| deployed.stop.cancel());
    }

    /// Waits until all are settled. No new ones should begin.
    pub(crate) async fn settled(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Lists a deployment as its replicas made it known, if any of this version has; else as what is wanted.
    fn list(&self, record: &Record, known: Option<&View>) -> Result<(), DeployError> {
        if let Some((info, price)) = known.and_then(|view| view.info.as_ref().zip(view.price)) {
            self.models.deploy(listing(record, info.abilities, price))?;
            return Ok(());
        }
        let abilities = match record.model.kind {
            ModelKind::Chat => Abilities { chat: true, completion: true, ..Abilities::default() },
            ModelKind::Completion => Abilities { completion: true, ..Abilities::default() },
            ModelKind::Embedding => Abilities { embedding: true, ..Abilities::default() },
        };
        let price = record.demand.model.as_ref().and_then(|model| model.price_max).unwrap_or_default();
        self.models.deploy(listing(record, abilities, price))?;
        Ok(())
    }

    fn write(&self, records: &[Record]) -> Result<(), DeployError> {
        let failed = |source| DeployError::Io { path: self.path.clone(), what: "written", source };
        let text = serde_json::to_vec_pretty(records).map_err(|e| failed(e.into()))?;
        write_private(&self.path, &text).map_err(failed)
    }

    fn run(&self, record: Record) -> Deployed {
        let (record, wanted) = watch::channel(record);
        let (shown, view) = watch::channel(View::default());
        let (stop, log) = (CancellationToken::new(), Log::default());
        let asked = self.models.calls(&wanted.borrow().model.name).unwrap_or_default();
        let task = Task {
            record: wanted,
            shown,
            stop: stop.clone(),
            log: log.clone(),
            asked,
            models: self.models.clone(),
            renter: self.renter.clone(),
            weights: self.weights.clone(),
            replicas: Vec::new(),
            next: 0,
            placement: Placement::default(),
            why: None,
            price: None,
            info: None,
        };
        self.running.spawn(task.run());
        Deployed { record, view, log, stop }
    }
}

fn idle(record: Record) -> Deployed {
    let (record, _) = watch::channel(record);
    let (_, view) = watch::channel(View::default());
    Deployed { record, view, log: Log::default(), stop: CancellationToken::new() }
}

fn listing(record: &Record, abilities: Abilities, price: TokenAsk) -> Deployment {
    Deployment {
        name: record.model.name.clone(),
        owner: record.account.clone(),
        abilities,
        price,
        access: match (record.offered, record.shared) {
            (true, _) => Access::Offered,
            (false, true) => Access::Keys,
            (false, false) => Access::Owner,
        },
        created_s: record.created_s,
        context: record.model.context,
        hedge_after_ms: record.hedge_after_ms,
    }
}

/// What is wanted, for the log.
fn wish(record: &Record) -> String {
    let Scale { min, max, .. } = record.scale;
    let count = if min == max { min.to_string() } else { format!("{min} to {max}") };
    format!("version {} of {} is wanted on {count} Containers", record.version, record.model.name)
}

fn check(record: &Record) -> Result<(), DeployError> {
    let wrong = |why: String| DeployError::Wrong(why);
    record.model.check().map_err(|e| wrong(e.to_string()))?;
    record.demand.check().map_err(|e| wrong(e.to_string()))?;
    record.scale.check().map_err(|e| wrong(e.to_string()))
}

/// The task of one deployment.
struct Task {
    record: watch::Receiver<Record>,
    shown: watch::Sender<View>,
    stop: CancellationToken,
    log: Log,
    asked: Arc<Notify>,
    models: Models,
    renter: Renter,
    weights: Weights,
    replicas: Vec<Replica>,
    next: u64,
    /// Which Containers are left out.
    placement: Placement,
    why: Option<String>,
    price: Option<TokenAsk>,
    info: Option<EngineInfo>,
}

impl Task {
    async fn run(mut self) {
        let record = self.record.borrow_and_update().clone();
        self.log.say(None, &wish(&record));
        let mut fleet = Fleet::new(record.scale, record.version, self.renter.now());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                changed = self.record.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let record = self.record.borrow_and_update().clone();
                    fleet.change(record.scale, record.version);
                    self.log.say(None, &wish(&record));
                }
                () = self.asked.notified() => fleet.asked(self.renter.now()),
                _ = look.tick() => {}
            }
            self.tell_changes();
            self.look_at_replicas(&mut fleet);
            let now = self.renter.now();
            for order in fleet.decide(&self.seen(), now) {
                self.perform(order, &mut fleet, now);
            }
            self.show(fleet.wanted());
        }
        for replica in &self.replicas {
            replica.control.stop();
        }
        for mut replica in std::mem::take(&mut self.replicas) {
            self.unlist(&mut replica);
            // How it ended stands in the records of its leases.
            drop(replica.done.await);
        }
    }

    /// Writes down what has changed of the replicas.
    fn tell_changes(&mut self) {
        for replica in &mut self.replicas {
            let state = shown(replica, None);
            let now = (state.state, state.why);
            if now == replica.told {
                continue;
            }
            let on = state.container.map(|container| format!(" on Container {container}")).unwrap_or_default();
            let what = now.1.as_ref().or(state.engine.as_ref()).map(|what| format!(": {what}")).unwrap_or_default();
            self.log.say(Some(replica.id), &format!("{}{on}{what}", now.0));
            replica.told = now;
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let stage = |replica: &Replica| {
            if replica.draining {
                Stage::Draining
            } else if replica.listed.is_some() {
                Stage::Ready
            } else {
                Stage::Starting
            }
        };
        let one = |replica: &Replica| {
            let load = replica.line.load();
            let parallel = match &*replica.standing.borrow() {
                ModelStanding::Ready(info) => info.parallel,
                ModelStanding::Preparing(_) | ModelStanding::TokenWanted(_) | ModelStanding::Over(_) => 1,
            };
            let held = load.busy.saturating_add(load.waiting);
            Seen { id: replica.id, version: replica.version, stage: stage(replica), held, parallel }
        };
        self.replicas.iter().map(one).collect()
    }

    /// Lists those that answer now, and takes those away that are over.
    fn look_at_replicas(&mut self, fleet: &mut Fleet) {
        let now = self.renter.now();
        let mut over = Vec::new();
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get(at) else { break };
            let standing = replica.standing.borrow().clone();
            let ended = replica.state.borrow().step == LiveStep::Ended || replica.done.is_finished();
            match standing {
                _ if ended => over.push(at),
                ModelStanding::Ready(info) => {
                    if replica.listed.is_none() && !replica.draining {
                        self.list(at, &info);
                        fleet.came_up();
                    }
                }
                // The line is down, or its engine broke: others answer until it is back.
                ModelStanding::Preparing(_) | ModelStanding::TokenWanted(_) | ModelStanding::Over(_) => {
                    if let Some(id) = self.replicas.get_mut(at).and_then(|replica| replica.listed.take()) {
                        self.models.remove(&self.record.borrow().model.name, &id);
                    }
                }
            }
        }
        for at in over.into_iter().rev() {
            let mut replica = self.replicas.remove(at);
            self.unlist(&mut replica);
            let state = replica.state.borrow().clone();
            if !replica.draining {
                self.failed(&state, now);
                fleet.failed(now);
            }
        }
    }

    fn failed(&mut self, state: &LiveState, now: TimeMs) {
        let why = state.why.clone().unwrap_or_else(|| "it ended without a word".to_owned());
        tracing::warn!(model = %self.record.borrow().model.name, %why, "a replica is over");
        let failed = Failed {
            container: state.container,
            interrupted: state.end.as_ref().is_some_and(muster_core::lease::End::is_interruption),
            others: !self.replicas.is_empty(),
        };
        self.placement.failed(&failed, now);
        self.why = Some(why);
    }

    /// Where its replicas stand.
    fn standing(&self) -> Vec<Stands> {
        let one = |replica: &Replica| Stands {
            version: replica.version,
            draining: replica.draining,
            container: replica.state.borrow().container,
        };
        self.replicas.iter().map(one).collect()
    }

    fn list(&mut self, at: usize, info: &EngineInfo) {
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let state = replica.state.borrow().clone();
        let record = self.record.borrow().clone();
        if let Some(price) = state.tokens.and_then(|rates| usd(&self.renter, &rates)) {
            self.price = Some(match self.price {
                Some(known) if self.replicas.len() > 1 => dearer(known, price),
                _ => price,
            });
        }
        let price = self.price.unwrap_or_default();
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let id = ReplicaId(state.lease.map_or_else(|| replica.id.to_string(), |lease| lease.to_string()));
        // Of a version that was replaced meanwhile nobody knows here which weights those are.
        let weights =
            (replica.version == record.version && record.model.endpoint.is_none()).then_some(record.model.weights);
        let whence = Whence { container: state.container, weights };
        let engine = Arc::new(replica.line.clone());
        let listed = self
            .models
            .deploy(listing(&record, info.abilities, price))
            .and_then(|()| self.models.add(&record.model.name, id.clone(), engine, info, whence));
        match listed {
            Ok(()) => {
                replica.listed = Some(id);
                self.info = Some(info.clone());
                self.why = None;
            }
            Err(error) => tracing::warn!(%error, "a replica that answers is not listed"),
        }
    }

    fn unlist(&self, replica: &mut Replica) {
        if let Some(id) = replica.listed.take() {
            self.models.remove(&self.record.borrow().model.name, &id);
        }
    }

    fn perform(&mut self, order: Order, fleet: &mut Fleet, now: TimeMs) {
        match order {
            Order::Start if !Placement::may_start(&self.standing()) => {}
            Order::Start => {
                if let Err(why) = self.start(now) {
                    self.log.say(None, &format!("no replica can be started: {why}"));
                    self.why = Some(why);
                    fleet.failed(now);
                }
            }
            Order::Drain(id) => {
                let name = self.record.borrow().model.name.clone();
                if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == id) {
                    replica.draining = true;
                    if let Some(listed) = &replica.listed {
                        self.models.drain(&name, listed);
                    }
                }
            }
            Order::Stop(id) => {
                if let Some(replica) = self.replicas.iter().find(|replica| replica.id == id) {
                    replica.control.stop();
                }
            }
        }
    }

    fn start(&mut self, now: TimeMs) -> Result<(), String> {
        let record = self.record.borrow().clone();
        let mut demand = record.demand.clone();
        let standing = self.standing();
        demand.exclude.extend(self.placement.exclude(record.version, &standing, now));
        let mut request = JobRequest::for_model(demand, record.model.clone());
        if record.sends_weights {
            let files = self.weights.files(&record.model).map_err(|error| error.to_string())?;
            request.inputs = files.ok_or_else(|| {
                "this Gateway has the weights no longer; deploy the model again from its file".to_owned()
            })?;
        }
        request.top_up = Some(TopUp { seconds: 0 });
        request.deposit_seconds = Some(1);
        request.busy_patience = BUSY_PATIENCE;
        request.nearest = record.edge;
        self.next += 1;
        let (log, number) = (self.log.clone(), self.next);
        let complaints: Complaints = Box::new(move || Box::new(log.engine(number)));
        let replica =
            model::start(self.renter.clone(), request, Some(complaints)).map_err(|error| error.to_string())?;
        let (state, line, control) = (replica.state(), replica.line(), replica.control());
        let standing = line.standing();
        let done = tokio::spawn(replica.over());
        let (id, version) = (self.next, record.version);
        self.replicas.push(Replica {
            id,
            version,
            state,
            standing,
            line,
            control,
            done,
            listed: None,
            draining: false,
            told: ("", None),
        });
        Ok(())
    }

    fn show(&self, wanted: u16) {
        let source = self.record.borrow().model.hub().map(|(file, _)| file.to_string());
        let replicas: Vec<ReplicaState> = self.replicas.iter().map(|replica| shown(replica, source.as_ref())).collect();
        let lines = self.replicas.iter().zip(&replicas);
        let waits = |(replica, state): (&Replica, &ReplicaState)| {
            state.wants_token.as_ref().map(|wants| (wants.lease.clone(), replica.line.clone()))
        };
        let waiting = lines.filter_map(waits).collect();
        let (why, price, info) = (self.why.clone(), self.price, self.info.clone());
        self.shown.send_replace(View { replicas, wanted, why, price, info, waiting });
    }
}

fn shown(replica: &Replica, source: Option<&String>) -> ReplicaState {
    let state = replica.state.borrow().clone();
    let standing = replica.standing.borrow().clone();
    let load = replica.line.load();
    let (step, why, engine) = match (&standing, state.step) {
        (_, LiveStep::Ended) => ("ended", state.why.clone(), None),
        (ModelStanding::Ready(info), _) => {
            (if replica.draining { "draining" } else { "ready" }, None, Some(info.engine.clone()))
        }
        (ModelStanding::Preparing(what) | ModelStanding::TokenWanted(what) | ModelStanding::Over(what), step) => {
            let step = match step {
                LiveStep::Matching => "matching",
                LiveStep::Opening => "opening",
                LiveStep::Starting | LiveStep::Running | LiveStep::Ended => "starting",
            };
            // The Container has said nothing yet.
            let what = match (what.as_str(), step) {
                (model::LOOKED_FOR, "opening") => "the deposit is on its way",
                (model::LOOKED_FOR, "starting") => "the Container was told to begin",
                (what, _) => what,
            };
            (step, Some(what.to_owned()), None)
        }
    };
    let TokenCounts { input, cached, output } = state.counted;
    let wants_token = match (&standing, state.container, state.lease, source) {
        (ModelStanding::TokenWanted(_), Some(container), Some(lease), Some(source)) if step != "ended" => {
            Some(WantsToken { node: container.to_string(), lease: lease.to_string(), source: source.clone() })
        }
        _ => None,
    };
    ReplicaState {
        state: step,
        version: replica.version,
        why,
        lease: state.lease.map(|lease| lease.to_string()),
        container: state.container.map(|container| container.short().to_string()),
        engine,
        held: load.busy.saturating_add(load.waiting),
        input_tokens: input,
        cached_tokens: cached,
        output_tokens: output,
        paid: crate::api::must(state.paid),
        wants_token,
    }
}

/// What a million tokens of each kind cost in dollars, rounded up: accounts are kept in them.
fn usd(renter: &Renter, rates: &TokenRates) -> Option<TokenAsk> {
    let exchange = Exchange { token_price: renter.params().token_price };
    let worth = |amount: TokenAmount| -> Option<UsdMicro> {
        let micro = exchange.worth(amount).ok()?;
        Some(UsdMicro(micro.0.saturating_add(u64::from(amount != TokenAmount::ZERO))))
    };
    Some(TokenAsk { input: worth(rates.input)?, cached: worth(rates.cached)?, output: worth(rates.output)? })
}

fn dearer(a: TokenAsk, b: TokenAsk) -> TokenAsk {
    TokenAsk { input: a.input.max(b.input), cached: a.cached.max(b.cached), output: a.output.max(b.output) }
}
