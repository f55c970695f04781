//! A Checker as somebody who asks a model: through a Gateway that has it at a Container, or rents it there like anybody; asks
//! questions of its own, and has the answers drawn again by another Container with the same weights.
//!
//! What was committed to is asked for when the last answer is there: until then nobody can know that this was an audit.
//! A look takes as long as it takes, beside the tests of epochs; what it came to counts for a while at every look at that
//! Container's work. Where it shows another model, a larger committee is asked, and each of it looks for itself.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_client::Renter;
use muster_client::job::{JobControl, JobRequest};
use muster_client::model::{self, ModelLine};
use muster_client::weights;
use muster_core::demand::{Demand, Reach};
use muster_core::epoch::{Draw, EpochNo};
use muster_core::ids::{ContentHash, NodeId};
use muster_core::inference::audit::{Account, COMMITMENT_CONTEXT, Limits, LimitsTable, Standing};
use muster_core::inference::{ModelDemand, ModelError, ModelKind, ModelSpec, TokenAsk, WEIGHTS_NAME, WeightsId};
use muster_core::protocol::NodeSignature;
use muster_core::reward::Finding;
use muster_core::units::{Bytes, TimeMs};
use muster_engine::audit::visit;
use muster_engine::upstream::{GatewayLine, Through};
use muster_engine::{Engine, EngineInfo};
use serde::{Deserialize, Serialize};

use super::{Found, Job, unknown};
use crate::accounts::Audited;
use crate::node::House;

/// Questions of one visit, at most: so many that their answers are an aggregate, where they are not very short.
const QUESTIONS_MAX: u32 = 24;
/// Looks that go on at once.
const VISITS_AT_ONCE: usize = 4;
/// What a look may take, from renting to the last replay.
const VISIT_WITHIN: Duration = Duration::from_secs(900);
/// How often a dispute looks whether its answers are there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What renting and loading may take, once there is room.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Left over at the end for the result.
const GRACE: Duration = Duration::from_millis(500);
/// The lease's time limit in seconds: what is held at most if this Checker dies.
const LIMIT_S: u64 = 900;
/// Tokens, of prompts and of answers each, that a visit may count.
const TOKENS_MAX: u64 = 100_000;
/// Containers of which one is to replay, of those in the view.
const WITNESSES_ASKED: usize = 8;
/// Memory beside the weights: contexts, and the engine itself.
const MEMORY_BESIDE: u64 = 512 * Bytes::MIB;
/// Disk beside them.
const DISK_BESIDE: u64 = 64 * Bytes::MIB;

/// A model that is audited.
#[derive(Clone, Debug)]
pub struct AuditedModel {
    /// What is rented.
    pub spec: ModelSpec,
    /// Its quantisation, as the table of limits calls it.
    pub quantisation: String,
    /// Its weights, for Containers that lack them.
    pub path: PathBuf,
    /// Thousandths of a core that are rented for it.
    pub cpu_millis: u32,
}

/// A model that shall be audited, as an operator writes it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditedFile {
    /// Its name, as the table of limits calls it.
    pub name: String,
    /// Its quantisation, as the table of limits calls it.
    pub quantisation: String,
    /// Its weights.
    pub path: PathBuf,
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Thousandths of a core that are rented for it.
    #[serde(default = "cpu_millis")]
    pub cpu_millis: u32,
}

const fn cpu_millis() -> u32 {
    500
}

/// Why a model cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditedError {
    /// Its file.
    #[error("the weights {} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its name or its numbers.
    #[error("the model {name:?} cannot be audited")]
    Spec {
        /// Which.
        name: String,
        /// Why.
        source: ModelError,
    },
}

impl AuditedFile {
    /// Reads its weights through, for their hash, and has them in a folder under the name by which Containers look for what is
    /// sent: another name of the same file, or a copy where the disk is another one. Waits for the disk.
    ///
    /// # Errors
    /// They cannot be read or copied, or the model is none.
    pub fn open(&self, folder: &Path) -> Result<AuditedModel, AuditedError> {
        let broken = |source| AuditedError::File { path: self.path.clone(), source };
        let (id, bytes) = weights::hash(&self.path).map_err(broken)?;
        let spec = ModelSpec {
            endpoint: None,
            name: self.name.clone(),
            kind: ModelKind::Chat,
            weights: id,
            bytes: Bytes(bytes),
            parts: Vec::new(),
            sources: Vec::new(),
            context: self.context,
            parallel: 1,
        };
        spec.check().map_err(|source| AuditedError::Spec { name: self.name.clone(), source })?;
        let path = self.sendable(folder, &spec).map_err(broken)?;
        let (quantisation, cpu_millis) = (self.quantisation.clone(), self.cpu_millis);
        Ok(AuditedModel { spec, quantisation, path, cpu_millis })
    }
}

impl AuditedFile {
    fn sendable(&self, folder: &Path, spec: &ModelSpec) -> std::io::Result<PathBuf> {
        let own = folder.join(spec.weights.to_string());
        let path = own.join(WEIGHTS_NAME);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == spec.bytes.0) {
            return Ok(path);
        }
        std::fs::create_dir_all(&own)?;
        let fresh = own.join("new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        weights::name_again(&self.path, &fresh)?;
        std::fs::rename(&fresh, &path)?;
        Ok(path)
    }
}

/// How a Checker audits answers.
#[derive(Clone, Debug)]
pub struct AnswersConfig {
    /// Rents for it, from a wallet of its own.
    pub renter: Renter,
    /// One in so many looks at a Container's work asks it.
    pub every: NonZeroU32,
    /// The most that a million tokens may cost.
    pub price_max: TokenAsk,
    /// What is asked.
    pub models: Vec<AuditedModel>,
    /// What honest answers come to.
    pub limits: LimitsTable,
    /// Gateways through which it asks, where one has the model at the Container: what comes from there are requests of many.
    pub through: Vec<AskedThrough>,
}

impl AnswersConfig {
    fn limits_of(&self, model: &AuditedModel, engine: &str) -> Option<Limits> {
        self.limits.judged_by(&model.spec.name, &model.quantisation, engine)
    }
}

/// A Gateway that a Checker asks through.
#[derive(Clone, Debug)]
pub struct AskedThrough {
    /// Where it is, with a key.
    pub gateway: Through,
    /// Whether it is the operator's own: then it counts that a transcript does not come, too. What Containers have signed counts
    /// whoever passes it on.
    pub own: bool,
}

/// A model on a lease, which is stopped whatever becomes of whoever waits.
struct Rented {
    line: ModelLine,
    info: EngineInfo,
    container: NodeId,
    control: JobControl,
}

/// Who answers.
enum Subject {
    /// A Container, on a lease of this Checker's own.
    Rented(Rented),
    /// A Container, on a lease of a Gateway.
    Through(GatewayLine, EngineInfo, bool),
}

impl Subject {
    fn engine(&self) -> &dyn Engine {
        match self {
            Self::Rented(rented) => &rented.line,
            Self::Through(line, ..) => line,
        }
    }

    /// What it is asked through, in one word.
    const fn way(&self) -> &'static str {
        match self {
            Self::Rented(_) => "lease",
            Self::Through(..) => "gateway",
        }
    }

    /// Whether it is the Container's own doing where a transcript does not come.
    const fn is_close(&self) -> bool {
        match self {
            Self::Rented(_) => true,
            Self::Through(_, _, own) => *own,
        }
    }

    const fn info(&self) -> &EngineInfo {
        match self {
            Self::Rented(rented) => &rented.info,
            Self::Through(_, info, _) => info,
        }
    }
}

impl Drop for Rented {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// The looks that this Checker has going on: one at a Container and model, and so many in all.
#[derive(Debug, Default)]
pub(crate) struct Visits(Mutex<BTreeSet<(NodeId, WeightsId)>>);

/// One of them, until it is dropped.
struct Visiting {
    house: Arc<House>,
    of: (NodeId, WeightsId),
}

impl Visits {
    fn held(&self) -> MutexGuard<'_, BTreeSet<(NodeId, WeightsId)>> {
        // Every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visiting {
    fn begin(house: &Arc<House>, of: (NodeId, WeightsId)) -> Option<Self> {
        let mut all = house.visits.held();
        (all.len() < VISITS_AT_ONCE && all.insert(of)).then(|| Self { house: Arc::clone(house), of })
    }
}

impl Drop for Visiting {
    fn drop(&mut self) {
        self.house.visits.held().remove(&self.of);
    }
}

/// Now and then begins to ask for a Container's answers, at an instant that nobody foresees: that takes longer than the tests
/// of a short epoch, goes on beside them, and counts from then on.
pub(super) fn ask_by_chance(house: &Arc<House>, job: &Job) {
    let Some(config) = house.answers.as_ref().filter(|config| !config.models.is_empty()) else { return };
    if rand::random_range(0..config.every.get()) == 0 {
        begin(house, job, rand::random_range(0..config.models.len()), job.left(house.clock.now()).mul_f64(0.5));
    }
}

/// What is known of a Container's answers, and by which weights. `None`: nothing can be said.
pub(super) fn answers(house: &House, job: &Job) -> Option<(Honest, String, ContentHash)> {
    let config = house.answers.as_ref()?;
    let fresh_ms = job.draw.params().suspect_for_ms;
    let since = TimeMs(house.clock.now().0.saturating_sub(fresh_ms));
    let each = config.models.iter().filter_map(|model| {
        let (honest, why, _) = known(house, config, model, job.subject, since)?;
        Some((honest, why, ContentHash(model.spec.weights.0)))
    });
    each.max_by_key(|(honest, ..)| *honest)
}

/// Decides whether a Container answers with another model than that with these weights, as it was accused of in an epoch: by
/// answers that were given since.
pub(super) async fn substitution(house: &Arc<House>, job: &Job, weights: ContentHash, accused: EpochNo) -> Found {
    let asked = house.answers.as_ref().and_then(|config| {
        let is_it = |(_, model): &(usize, &AuditedModel)| model.spec.weights.0 == weights.0;
        config.models.iter().enumerate().find(is_it).map(|(at, model)| (config, at, model))
    });
    let Some((config, at, model)) = asked else {
        return unknown("this Checker does not audit the model that the Container is accused about");
    };
    let since = job.draw.params().begin(accused);
    loop {
        match known(house, config, model, job.subject, since) {
            Some((Honest::No, why, evidence)) => return (Finding::Upheld { evidence }, Some(why)),
            Some((Honest::Yes, why, _)) => return (Finding::Dismissed, Some(why)),
            Some((Honest::Hides | Honest::Unknown, ..)) | None => {}
        }
        if job.left(house.clock.now()) <= GRACE + LOOK_EVERY {
            return unknown("too few of its answers were looked at since it was accused");
        }
        begin(house, job, at, Duration::ZERO);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Begins a look at a Container's answers, within some time, unless one goes on.
fn begin(house: &Arc<House>, job: &Job, model: usize, within: Duration) {
    let Some(weights) = house.answers.as_ref().and_then(|config| config.models.get(model)).map(|m| m.spec.weights)
    else {
        return;
    };
    let Some(visiting) = Visiting::begin(house, (job.subject, weights)) else { return };
    let (draw, subject) = (Arc::clone(&job.draw), job.subject);
    house.spawn(async move {
        let house = &visiting.house;
        tokio::time::sleep(within.mul_f64(rand::random_range(0.0..1.0))).await;
        let Some(config) = &house.answers else { return };
        let Some(model) = config.models.get(model) else { return };
        let name = &model.spec.name;
        let why = match tokio::time::timeout(VISIT_WITHIN, look(house, config, model, subject, &draw)).await {
            Ok(Ok(why)) => why,
            Ok(Err(why)) => format!("not asked: {why}"),
            Err(_) => format!("not asked to the end: it takes longer than {} s", VISIT_WITHIN.as_secs()),
        };
        tracing::info!(container = %subject.short(), model = %name, "a look at its answers: {why}");
    });
}

async fn look(
    house: &Arc<House>,
    config: &AnswersConfig,
    model: &AuditedModel,
    subject: NodeId,
    draw: &Draw,
) -> Result<String, String> {
    let weights = model.spec.weights;
    let mut account = house.accounts.get(subject, weights).map(|audited| audited.account).unwrap_or_default();
    let trusted = |node: &NodeId| is_trusted(house, config, model, node);
    let (others, more) = witnesses(&account, subject, draw, trusted);
    let (other, third) = tokio::join!(rent(config, model, &others), rent(config, model, &more));
    // A second witness is as good as a second visit, and can be done without.
    let others: Vec<Rented> = [other?].into_iter().chain(third.ok()).collect();
    let witnesses: Vec<(NodeId, &dyn Engine)> =
        others.iter().map(|other| (other.container, &other.line as &dyn Engine)).collect();
    let mut ask = async |one: Subject| {
        let chat = one.info().abilities.chat && model.spec.kind == ModelKind::Chat;
        let numbers: Vec<u64> = (0..QUESTIONS_MAX).map(|_| rand::random()).collect();
        let seen = visit(one.engine(), &witnesses, &mut account, &numbers, chat, one.is_close()).await;
        (one, seen)
    };
    let (one, visit) = match through(config, model, subject).await {
        Some(one) => ask(one).await,
        None => ask(Subject::Rented(rent(config, model, &[subject]).await?)).await,
    };
    let (one, visit) = match visit.compared {
        // What comes through a Gateway cannot be judged: it is asked itself.
        0 if matches!(one, Subject::Through(..)) => {
            tracing::info!(container = %subject.short(), "nothing that came through a Gateway can be judged");
            ask(Subject::Rented(rent(config, model, &[subject]).await?)).await
        }
        _ => (one, visit),
    };
    let info = one.info();
    metrics::counter!("muster_checker_answers_total", "way" => one.way()).increment(visit.answered.into());
    let engine = info.engine.clone();
    let limits = config.limits_of(model, &engine);
    let found = limits.map(|limits| found(&account, account.standing(&limits, trusted)).1);
    let audited = Audited { account, engine, at: house.clock.now() };
    let kept = Arc::clone(house);
    let written = house.blocking(move || kept.accounts.put(subject, weights, audited)).await;
    if let Some(Err(error)) = written {
        tracing::warn!(%error, "what answers came to is not kept");
    }
    let (name, quantisation) = (&model.spec.name, &model.quantisation);
    let answered =
        format!("{} answered through a {}, {} replays held against them", visit.answered, one.way(), visit.compared);
    let unknown = || format!("no limits are known for {name} in {quantisation}");
    Ok(format!("{answered}: {}", found.unwrap_or_else(unknown)))
}

/// Whether a Container's answers are what they should be. Too few say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Honest {
    Unknown,
    Yes,
    /// It does not tell what it committed to.
    Hides,
    /// Many of them together are another model's.
    No,
}

/// Whether a Container may be another one's witness: not one whose own answers were found to be another model's.
fn is_trusted(house: &House, config: &AnswersConfig, model: &AuditedModel, node: &NodeId) -> bool {
    let Some(audited) = house.accounts.get(*node, model.spec.weights) else { return true };
    let limits = config.limits_of(model, &audited.engine);
    !limits.is_some_and(|limits| matches!(audited.account.standing(&limits, |_| true), Standing::Deviates(_)))
}

/// What is known of a Container's answers as one model since some time, with its sentence and its fingerprint.
fn known(
    house: &House,
    config: &AnswersConfig,
    model: &AuditedModel,
    container: NodeId,
    since: TimeMs,
) -> Option<(Honest, String, ContentHash)> {
    let audited = house.accounts.get(container, model.spec.weights).filter(|audited| audited.at >= since)?;
    let limits = config.limits_of(model, &audited.engine)?;
    let trusted = |node: &NodeId| is_trusted(house, config, model, node);
    let (honest, why) = found(&audited.account, audited.account.standing(&limits, trusted));
    Some((honest, format!("{}: {why}", model.spec.name), audited.fingerprint(container, model.spec.weights)))
}

/// What an account says, with its sentence.
fn found(account: &Account, standing: Standing) -> (Honest, String) {
    match standing {
        Standing::Deviates(deviation) => (Honest::No, format!("its answers are not the model's: {deviation}")),
        _ if account.hides() => (Honest::Hides, "it does not tell what it committed to with its answers".to_owned()),
        Standing::Faithful => (Honest::Yes, "its answers are the model's own".to_owned()),
        Standing::Unknown => (Honest::Unknown, "too few of its answers were looked at".to_owned()),
    }
}

/// Whose replays are wanted, of two groups one each: those of who replayed before, and chance.
fn witnesses(
    account: &Account,
    subject: NodeId,
    draw: &Draw,
    trusted: impl Fn(&NodeId) -> bool,
) -> (Vec<NodeId>, Vec<NodeId>) {
    let view = draw.view().containers();
    let here = |node: &NodeId| *node != subject && trusted(node);
    let known = account.witnesses().into_iter().filter(|node| draw.view().container(node).is_some());
    // Two that say enough are enough.
    let mut wanted: Vec<NodeId> = known.filter(here).take(2).collect();
    let first = rand::random_range(0..view.len().max(1));
    let rest = view.iter().cycle().skip(first).take(view.len()).map(|container| container.node);
    let rest: Vec<NodeId> = rest.filter(here).filter(|node| !wanted.contains(node)).collect();
    wanted.extend(rest);
    wanted.truncate(2 * WITNESSES_ASKED);
    let every_other = |first: usize| wanted.iter().skip(first).step_by(2).copied().collect();
    (every_other(0), every_other(1))
}

/// A way to ask a Container through a Gateway, where one has this model there.
async fn through(config: &AnswersConfig, model: &AuditedModel, subject: NodeId) -> Option<Subject> {
    let verify = |node, bytes: &[u8], signature: &NodeSignature| {
        muster_net::verify(node, COMMITMENT_CONTEXT, bytes, &(*signature).into()).is_ok()
    };
    for AskedThrough { gateway, own } in &config.through {
        match gateway.find(model.spec.weights, subject, verify).await {
            Ok(Some(line)) => match line.ready().await {
                Ok(info) => return Some(Subject::Through(line, info, *own)),
                Err(error) => tracing::warn!(%error, "a Container is not asked through a Gateway"),
            },
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a Container is not asked through a Gateway"),
        }
    }
    None
}

async fn rent(config: &AnswersConfig, model: &AuditedModel, of: &[NodeId]) -> Result<Rented, String> {
    if of.is_empty() {
        return Err("no other Container could replay an answer".to_owned());
    }
    let spec = &model.spec;
    let demand = Demand {
        cpu_millis: model.cpu_millis,
        memory: Bytes(spec.bytes.0.saturating_mul(5) / 4 + MEMORY_BESIDE),
        disk: Bytes(spec.bytes.0.saturating_mul(21) / 20 + DISK_BESIDE),
        time_limit_s: LIMIT_S,
        only: of.iter().map(|node| Reach { node: *node, round_trip_us: None }).collect(),
        model: Some(ModelDemand {
            endpoint: false,
            weights: spec.weights,
            bytes: spec.bytes,
            price_max: Some(config.price_max),
            deposit_tokens: TOKENS_MAX * 4,
            credit_tokens: TOKENS_MAX,
        }),
        ..Demand::default()
    };
    let mut request = JobRequest::for_model(demand, spec.clone());
    request.inputs = vec![model.path.clone()];
    request.deposit_seconds = Some(1);
    request.keep_logs = false;
    request.busy_patience = Duration::ZERO;
    let replica = model::start(config.renter.clone(), request, None).map_err(|error| error.to_string())?;
    let (line, control, state) = (replica.line(), replica.control(), replica.state());
    let stopping = Stopping(Some(control));
    // Settled on its own, when this look is long over.
    tokio::spawn(replica.over());
    let info = match tokio::time::timeout(START_WITHIN, line.ready()).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("it did not answer within {} s", START_WITHIN.as_secs())),
    };
    let container = state.borrow().container.ok_or("its Container is not known")?;
    let control = stopping.done().ok_or("it was stopped")?;
    Ok(Rented { line, info, container, control })
}

/// Stops what was started, unless somebody else will.
struct Stopping(Option<JobControl>);

impl Stopping {
    fn done(mut self) -> Option<JobControl> {
        self.0.take()
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::inference::audit::{Compared, Limits, UNREVEALED_MAX};

    #[test]
    fn an_operator_s_model_is_known_by_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let (name, quantisation) = ("m".to_owned(), "F16".to_owned());
        let file = AuditedFile { name, quantisation, path: path.clone(), context: 512, cpu_millis: 500 };
        let beside = folder.path().join("answers");
        assert!(file.open(&beside).unwrap_err().to_string().contains("m.gguf"));
        std::fs::write(&path, "abc").unwrap();
        let model = file.open(&beside).unwrap();
        assert_eq!(
            (std::fs::read(&model.path).unwrap(), model.path.file_name().unwrap()),
            (b"abc".to_vec(), "weights".as_ref())
        );
        assert_eq!(file.open(&beside).unwrap().path, model.path, "as often as one likes");
        assert_eq!(model.spec.bytes, Bytes(3));
        assert!(model.spec.weights.to_string().starts_with("ba7816bf8f01cfea"), "{}", model.spec.weights);
        assert!(matches!(AuditedFile { context: 1, ..file }.open(&beside), Err(AuditedError::Spec { .. })));
    }

    #[test]
    fn what_an_account_says_is_said_with_a_sentence() {
        let limits = Limits { differing_ppm: 10_000, margin_micronats: 1_000, distance_micronats: 5_000 };
        let mut account = Account::default();
        let said = |account: &Account| found(account, account.standing(&limits, |_| true));
        assert_eq!(said(&account).0, Honest::Unknown);
        for differing in [0, 30] {
            for _ in 0..10 {
                for node in [1, 2] {
                    let answer = Compared { tokens: 100, differing, margin: differing * 100, ..Compared::default() };
                    account.compared(NodeId([node; 32]), answer);
                }
            }
            let (honest, why) = said(&account);
            assert_eq!(honest, if differing == 0 { Honest::Yes } else { Honest::No }, "{why}");
        }
        assert!(said(&account).1.contains("30.00 %"), "{}", said(&account).1);
        // What is shown weighs more than what is not told.
        (0..UNREVEALED_MAX).for_each(|_| account.unrevealed());
        assert_eq!(said(&account).0, Honest::No);
        let mut silent = Account::default();
        (0..UNREVEALED_MAX).for_each(|_| silent.unrevealed());
        assert_eq!(said(&silent).0, Honest::Hides);
    }
}
