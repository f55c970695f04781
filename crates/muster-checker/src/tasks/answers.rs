//! A Checker as somebody who asks a model: rents it from a Container like anybody, asks questions of its own, and has the
//! answers drawn again by another Container with the same weights.
//!
//! What was committed to is asked for when the last answer is there: until then nobody can know that this was an audit.
//! One visit proves nothing; its answers are added to those of the visits before.

use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_client::Renter;
use muster_client::job::{JobControl, JobRequest};
use muster_client::model::{self, ModelLine};
use muster_core::demand::{Demand, Reach};
use muster_core::ids::NodeId;
use muster_core::inference::audit::{Account, LimitsTable, Standing};
use muster_core::inference::{ModelDemand, ModelError, ModelKind, ModelSpec, TokenAsk, WeightsId};
use muster_core::units::Bytes;
use muster_engine::audit::visit;
use muster_engine::{Engine, EngineInfo};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Job;
use crate::node::House;

/// Questions of one visit.
const QUESTIONS: u32 = 8;
/// What renting and loading may take, once there is room.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Left over at the end for the result.
const GRACE: Duration = Duration::from_millis(500);
/// What is left of the tests must hold a start, some answers and their replays.
const NEEDS: Duration = Duration::from_secs(20);
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
    /// Reads its weights through, for their hash. Waits for the disk.
    ///
    /// # Errors
    /// They cannot be read, or the model is none.
    pub fn open(&self) -> Result<AuditedModel, AuditedError> {
        let broken = |source| AuditedError::File { path: self.path.clone(), source };
        let mut file = std::fs::File::open(&self.path).map_err(broken)?;
        let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0u64, vec![0; 1 << 20]);
        loop {
            let read = file.read(&mut piece).map_err(broken)?;
            if read == 0 {
                break;
            }
            hasher.update(piece.get(..read).unwrap_or_default());
            bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        let spec = ModelSpec {
            endpoint: None,
            name: self.name.clone(),
            kind: ModelKind::Chat,
            weights: WeightsId(hasher.finalize().into()),
            bytes: Bytes(bytes),
            parts: Vec::new(),
            sources: Vec::new(),
            context: self.context,
            parallel: 1,
        };
        spec.check().map_err(|source| AuditedError::Spec { name: self.name.clone(), source })?;
        Ok(AuditedModel { spec, quantisation: self.quantisation.clone(), path: self.path.clone() })
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
}

/// A model on a lease, which is stopped whatever becomes of whoever waits.
struct Rented {
    line: ModelLine,
    info: EngineInfo,
    container: NodeId,
    control: JobControl,
}

impl Drop for Rented {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// Asks, if chance wants it and there is time. `None`: nothing can be said.
pub(super) async fn answers(house: &Arc<House>, job: &Job) -> Option<(Honest, String)> {
    let config = house.answers.as_ref()?;
    if rand::random_range(0..config.every.get()) != 0 || config.models.is_empty() {
        return None;
    }
    let model = config.models.get(rand::random_range(0..config.models.len()))?;
    let left = job.left(house.clock.now()).checked_sub(NEEDS + GRACE)?;
    tokio::time::sleep(left.mul_f64(rand::random_range(0.0..0.5))).await;
    let until = Instant::now() + job.left(house.clock.now()).checked_sub(GRACE)?;
    let looked = tokio::time::timeout_at(until, look(house, config, model, job)).await;
    match looked {
        Ok(Ok(found)) => found,
        Ok(Err(why)) => {
            tracing::info!(container = %job.subject.short(), model = %model.spec.name, %why, "not asked");
            None
        }
        Err(_) => {
            tracing::info!(container = %job.subject.short(), model = %model.spec.name, "not asked: no time was left");
            None
        }
    }
}

async fn look(
    house: &Arc<House>,
    config: &AnswersConfig,
    model: &AuditedModel,
    job: &Job,
) -> Result<Option<(Honest, String)>, String> {
    let (subject, weights) = (job.subject, model.spec.weights);
    let mut account = house.accounts.get(subject, weights);
    let (itself, (others, more)) = ([subject], witnesses(&account, job));
    let (one, other, third) =
        tokio::join!(rent(config, model, &itself), rent(config, model, &others), rent(config, model, &more));
    let (one, other) = (one?, other?);
    // A second witness is as good as a second visit, and can be done without.
    let others: Vec<Rented> = [other].into_iter().chain(third.ok()).collect();
    let witnesses: Vec<(NodeId, &dyn Engine)> =
        others.iter().map(|other| (other.container, &other.line as &dyn Engine)).collect();
    let chat = one.info.abilities.chat && model.spec.kind == ModelKind::Chat;
    let numbers: Vec<u64> = (0..QUESTIONS).map(|_| rand::random()).collect();
    let visit = visit(&one.line, &witnesses, &mut account, &numbers, chat).await;
    metrics::counter!("muster_checker_answers_total").increment(visit.compared.into());
    let limits = config.limits.find(&model.spec.name, &model.quantisation, &one.info.engine);
    let found = limits.map(|entry| found(&account, account.standing(&entry.limits)));
    let (kept, sum) = (Arc::clone(house), account);
    let written = house.blocking(move || kept.accounts.put(subject, weights, sum)).await;
    if let Some(Err(error)) = written {
        tracing::warn!(%error, "what answers came to is not kept");
    }
    if limits.is_none() {
        let (name, quantisation, engine) = (&model.spec.name, &model.quantisation, &one.info.engine);
        return Err(format!("no limits are known for {name} in {quantisation} on {engine}"));
    }
    Ok(found)
}

/// Whether a Container's answers are what they should be. Three-valued: too few say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Honest {
    Yes,
    No,
    Unknown,
}

/// What an account says, with its sentence.
fn found(account: &Account, standing: Standing) -> (Honest, String) {
    match standing {
        _ if account.hides() => (Honest::No, "it does not tell what it committed to with its answers".to_owned()),
        Standing::Deviates(deviation) => (Honest::No, format!("its answers are not the model's: {deviation}")),
        Standing::Faithful => (Honest::Yes, "its answers are the model's own".to_owned()),
        Standing::Unknown => (Honest::Unknown, "too few of its answers were looked at".to_owned()),
    }
}

/// Whose replays are wanted, of two groups one each: those of who replayed before, and chance.
fn witnesses(account: &Account, job: &Job) -> (Vec<NodeId>, Vec<NodeId>) {
    let view = job.draw.view().containers();
    let here = |node: &NodeId| *node != job.subject && view.iter().any(|container| container.node == *node);
    let known = account.witnesses();
    // Two that say enough are enough.
    let mut wanted: Vec<NodeId> = known.into_iter().filter(here).take(2).collect();
    let first = rand::random_range(0..view.len().max(1));
    let rest = view.iter().cycle().skip(first).take(view.len()).map(|container| container.node);
    let rest: Vec<NodeId> = rest.filter(here).filter(|node| !wanted.contains(node)).collect();
    wanted.extend(rest);
    wanted.truncate(2 * WITNESSES_ASKED);
    let every_other = |first: usize| wanted.iter().skip(first).step_by(2).copied().collect();
    (every_other(0), every_other(1))
}

async fn rent(config: &AnswersConfig, model: &AuditedModel, of: &[NodeId]) -> Result<Rented, String> {
    if of.is_empty() {
        return Err("no other Container could replay an answer".to_owned());
    }
    let spec = &model.spec;
    let demand = Demand {
        cpu_millis: 500,
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
        let file = AuditedFile { name, quantisation, path: path.clone(), context: 512 };
        assert!(file.open().unwrap_err().to_string().contains("m.gguf"));
        std::fs::write(&path, "abc").unwrap();
        let model = file.open().unwrap();
        assert_eq!(model.spec.bytes, Bytes(3));
        assert!(model.spec.weights.to_string().starts_with("ba7816bf8f01cfea"), "{}", model.spec.weights);
        assert!(matches!(AuditedFile { context: 1, ..file }.open(), Err(AuditedError::Spec { .. })));
    }

    #[test]
    fn what_an_account_says_is_said_with_a_sentence() {
        let limits = Limits { differing_ppm: 10_000, margin_micronats: 1_000, distance_micronats: 5_000 };
        let mut account = Account::default();
        let said = |account: &Account| found(account, account.standing(&limits));
        assert_eq!(said(&account).0, Honest::Unknown);
        for differing in [0, 30] {
            for _ in 0..10 {
                for node in [1, 2] {
                    let answer = Compared { tokens: 100, differing, ..Compared::default() };
                    account.compared(NodeId([node; 32]), answer);
                }
            }
            let (honest, why) = said(&account);
            assert_eq!(honest, if differing == 0 { Honest::Yes } else { Honest::No }, "{why}");
        }
        assert!(said(&account).1.contains("30.00 %"), "{}", said(&account).1);
        (0..UNREVEALED_MAX).for_each(|_| account.unrevealed());
        assert!(said(&account).1.contains("does not tell"));
    }
}
