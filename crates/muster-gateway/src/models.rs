//! The models that a Gateway serves, and the replicas that answer for each.
//!
//! Who rents adds replicas, drains and removes them while requests run: one that was begun keeps what it needs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_core::ids::NodeId;
use muster_core::inference::{self, Late, TokenAsk, WeightsId};
use muster_engine::{Abilities, Engine, EngineInfo};
use tokio::sync::Notify;

use crate::apps;

/// Models that a Gateway serves, and replicas of each.
const MODELS_MAX: usize = 4_096;
const REPLICAS_MAX: usize = 256;
/// Bytes of the longest name of a model.
const NAME_LEN_MAX: usize = 200;
/// Beginnings of prompts that a replica is taken to remember.
const PREFIXES: usize = 1_024;
/// How often whoever rents is told that somebody waits.
const CALL_EVERY: Duration = Duration::from_millis(200);
/// How long a replica that failed is asked last.
const SHAKY_MS: u64 = 2_000;
/// Names that are told where there is none of the name that was asked for.
const NEAREST: usize = 3;

/// Which replica of a model; the lease that it runs under, or whatever else tells it apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub String);

/// Who may ask a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The account that deployed it, and no other.
    Owner,
    /// Whoever has a key.
    #[default]
    Keys,
    /// Whoever has a key; who has none pays for each request by itself, by x402.
    Offered,
}

/// A model as it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// What requests call it.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// What it can do.
    pub abilities: Abilities,
    /// Its price.
    pub price: TokenAsk,
    /// Who may ask it.
    pub access: Access,
    /// When it was deployed, seconds since 1970.
    pub created_s: u64,
    /// The context that its replicas are to have, in tokens: what is reckoned with while none is there.
    pub context: u32,
    /// After so long without a first token a request is sent to a second replica, too; `None`: never.
    pub hedge_after_ms: Option<u64>,
}

/// Why the list of models cannot be changed like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelsError {
    /// A name that is none.
    #[error("{0:?} is no name for a model: use 1 to 200 letters, digits, or any of . _ : / -")]
    Name(String),
    /// Somebody else's.
    #[error("the model {name:?} belongs to {owner:?}; choose another name")]
    Taken {
        /// Which.
        name: String,
        /// Whose.
        owner: String,
    },
    /// Too many.
    #[error("this Gateway serves {MODELS_MAX} models already; withdraw one first")]
    Full,
    /// No such model.
    #[error("there is no model {0:?} to add a replica to; deploy it first")]
    Unknown(String),
    /// Too many replicas.
    #[error("the model {0:?} has {REPLICAS_MAX} replicas already; remove one first")]
    ReplicasFull(String),
    /// A replica twice.
    #[error("the model {model:?} has a replica {replica:?} already")]
    Twice {
        /// Which model.
        model: String,
        /// Which replica.
        replica: String,
    },
}

/// All models. Clones share them.
#[derive(Clone, Default)]
pub struct Models {
    all: Arc<RwLock<BTreeMap<String, Arc<Model>>>>,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("names", &self.names()).finish()
    }
}

/// Where a replica runs, and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whence {
    /// Its Container; none where it is no rented one.
    pub container: Option<NodeId>,
    /// Its weights; none where they are not known.
    pub weights: Option<WeightsId>,
}

/// A replica.
pub(crate) struct Replica {
    id: ReplicaId,
    pub(crate) whence: Whence,
    /// What runs it, for people and for tables of limits.
    pub(crate) runs: String,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) context: u32,
    parallel: u32,
    draining: AtomicBool,
    /// Requests of this Gateway that it has.
    held: AtomicU32,
    /// Smoothed time to the first token.
    first_token_us: AtomicU64,
    /// Until when it is asked last, in the Gateway's own milliseconds.
    shaky_until_ms: AtomicU64,
    prefixes: Box<[AtomicU64]>,
}

impl Replica {
    fn remembers(&self, prefix: u64) -> bool {
        prefix != 0 && self.slot(prefix).is_some_and(|slot| slot.load(Ordering::Relaxed) == prefix)
    }

    fn slot(&self, prefix: u64) -> Option<&AtomicU64> {
        let count = u64::try_from(self.prefixes.len()).unwrap_or(1).max(1);
        self.prefixes.get(usize::try_from(prefix % count).unwrap_or(0))
    }

    /// The first token came after so long.
    pub(crate) fn answered_after(&self, took_us: u64) {
        let before = self.first_token_us.load(Ordering::Relaxed);
        let smoothed = if before == 0 { took_us } else { (before.saturating_mul(7).saturating_add(took_us)) / 8 };
        self.first_token_us.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// It failed: others come first for a while.
    pub(crate) fn failed(&self, now_ms: u64) {
        self.shaky_until_ms.store(now_ms.saturating_add(SHAKY_MS), Ordering::Relaxed);
    }
}

/// A place at a replica, given back when it is dropped.
pub(crate) struct Seat {
    pub(crate) replica: Arc<Replica>,
}

impl Seat {
    fn at(replica: &Arc<Replica>, prefix: u64) -> Self {
        replica.held.fetch_add(1, Ordering::Relaxed);
        if prefix != 0
            && let Some(slot) = replica.slot(prefix)
        {
            slot.store(prefix, Ordering::Relaxed);
        }
        Self { replica: Arc::clone(replica) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.replica.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A model with its replicas.
pub(crate) struct Model {
    pub(crate) deployment: Deployment,
    /// Shared by all that this model was and will be: one that is deployed anew meanwhile keeps those who wait.
    shared: Arc<Shared>,
    turn: AtomicU64,
}

#[derive(Default)]
struct Shared {
    replicas: RwLock<Vec<Arc<Replica>>>,
    /// Somebody asks and nobody is there: whoever rents hears it.
    calls: Arc<Notify>,
    /// A replica came.
    came: Notify,
}

impl Model {
    /// A place at the replica that answers soonest, leaving out those that were tried.
    pub(crate) fn seat(&self, prefix: u64, now_ms: u64, tried: &[Arc<Replica>]) -> Option<Seat> {
        let replicas = self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        let chosen = match replicas.as_slice() {
            // One replica is what most models have.
            [one] => (!one.draining.load(Ordering::Relaxed) && tried.is_empty()).then_some(one),
            several => {
                let known: Vec<inference::Replica> = several.iter().map(|r| state(r, prefix, now_ms, tried)).collect();
                inference::route(&known, self.turn.fetch_add(1, Ordering::Relaxed)).and_then(|at| several.get(at))
            }
        }?;
        Some(Seat::at(chosen, prefix))
    }

    /// A place at the replica of one Container, where it has one that takes requests.
    pub(crate) fn seat_at(&self, container: NodeId) -> Option<Seat> {
        let replicas = self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        let takes = |replica: &&Arc<Replica>| {
            replica.whence.container == Some(container) && !replica.draining.load(Ordering::Relaxed)
        };
        replicas.iter().find(takes).map(|chosen| Seat::at(chosen, 0))
    }

    /// Its replicas that take requests.
    pub(crate) fn replicas(&self) -> Vec<Arc<Replica>> {
        let replicas = self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        replicas.iter().filter(|replica| !replica.draining.load(Ordering::Relaxed)).cloned().collect()
    }

    /// A place for a request that is late at another replica already, where one is free.
    pub(crate) fn second_seat(&self, prefix: u64, now_ms: u64, tried: &[Arc<Replica>], late: &Late) -> Option<Seat> {
        let replicas = self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<inference::Replica> = replicas.iter().map(|r| state(r, prefix, now_ms, tried)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = inference::hedge(&known, late, self.deployment.hedge_after_ms, turn)?;
        replicas.get(chosen).map(|chosen| Seat::at(chosen, prefix))
    }

    /// As [`Model::seat`], and waits for a replica where none takes requests: whoever rents is told, again and again while
    /// somebody waits, that one is wanted.
    pub(crate) async fn seat_soon(&self, prefix: u64, now_ms: impl Fn() -> u64, within: Duration) -> Option<Seat> {
        let found = async {
            loop {
                let came = self.shared.came.notified();
                tokio::pin!(came);
                // From here on none is missed.
                came.as_mut().enable();
                if let Some(seat) = self.seat(prefix, now_ms(), &[]) {
                    return Some(seat);
                }
                self.shared.calls.notify_one();
                // Whether one came or not, it is looked again.
                drop(tokio::time::timeout(CALL_EVERY, came).await);
            }
        };
        tokio::time::timeout(within, found).await.unwrap_or(None)
    }

    /// Whether beginnings of prompts are worth looking at.
    pub(crate) fn has_choice(&self) -> bool {
        self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner).len() > 1
    }

    /// Whether any replica is there, drained or not.
    pub(crate) fn has_replicas(&self) -> bool {
        !self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The least and the greatest context of its replicas; what was deployed, where none is there.
    pub(crate) fn contexts(&self) -> (u32, u32) {
        let replicas = self.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        let ends = replicas.iter().map(|replica| (replica.context, replica.context));
        ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((self.deployment.context, self.deployment.context))
    }

    /// The least context of its replicas.
    pub(crate) fn context(&self) -> u32 {
        self.contexts().0
    }
}

fn state(replica: &Arc<Replica>, prefix: u64, now_ms: u64, tried: &[Arc<Replica>]) -> inference::Replica {
    let load = replica.engine.load();
    let held = load.busy.saturating_add(load.waiting).max(replica.held.load(Ordering::Relaxed));
    inference::Replica {
        takes: !replica.draining.load(Ordering::Relaxed) && !tried.iter().any(|one| Arc::ptr_eq(one, replica)),
        shaky: replica.shaky_until_ms.load(Ordering::Relaxed) > now_ms,
        held,
        parallel: replica.parallel,
        first_token_us: replica.first_token_us.load(Ordering::Relaxed),
        remembers: replica.remembers(prefix),
    }
}

impl Models {
    /// Offers a model, or changes how one is offered; its replicas stay.
    ///
    /// # Errors
    /// The name is none, or somebody else's, or there are too many.
    pub fn deploy(&self, deployment: Deployment) -> Result<(), ModelsError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        let name = deployment.name.clone();
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(good) {
            return Err(ModelsError::Name(name));
        }
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let shared = match all.get(&name) {
            Some(model) if model.deployment.owner != deployment.owner => {
                return Err(ModelsError::Taken { name, owner: model.deployment.owner.clone() });
            }
            Some(model) => Arc::clone(&model.shared),
            None if all.len() >= MODELS_MAX => return Err(ModelsError::Full),
            None => Arc::default(),
        };
        let model = Model { deployment, shared, turn: AtomicU64::new(0) };
        all.insert(name, Arc::new(model));
        Ok(())
    }

    /// Offers a model no more. Requests that run go on. `false` where there is none.
    pub fn withdraw(&self, name: &str) -> bool {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// Adds a replica that is ready; `info` is what it said of itself.
    ///
    /// # Errors
    /// There is no such model, too many replicas of it, or this one already.
    pub fn add(
        &self,
        name: &str,
        id: ReplicaId,
        engine: Arc<dyn Engine>,
        info: &EngineInfo,
        whence: Whence,
    ) -> Result<(), ModelsError> {
        // The list is held while the replica goes in: a model that is deployed anew meanwhile must not miss it.
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let model = all.get(name).ok_or_else(|| ModelsError::Unknown(name.to_owned()))?;
        let mut replicas = model.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        if replicas.iter().any(|replica| replica.id == id) {
            return Err(ModelsError::Twice { model: name.to_owned(), replica: id.0 });
        }
        if replicas.len() >= REPLICAS_MAX {
            return Err(ModelsError::ReplicasFull(name.to_owned()));
        }
        replicas.push(Arc::new(Replica {
            id,
            whence,
            runs: info.engine.clone(),
            engine,
            context: info.context,
            parallel: info.parallel,
            draining: AtomicBool::new(false),
            held: AtomicU32::new(0),
            first_token_us: AtomicU64::new(0),
            shaky_until_ms: AtomicU64::new(0),
            prefixes: std::iter::repeat_with(AtomicU64::default).take(PREFIXES).collect(),
        }));
        drop(replicas);
        model.shared.came.notify_waiters();
        Ok(())
    }

    /// Lets a replica finish what it has and gives it nothing new. `false` where there is none such.
    pub fn drain(&self, name: &str, id: &ReplicaId) -> bool {
        self.with(name, |replicas| {
            let found = replicas.iter().find(|replica| replica.id == *id);
            found.map(|replica| replica.draining.store(true, Ordering::Relaxed)).is_some()
        })
    }

    /// Removes a replica; requests that it has go on, or fail as it goes. `false` where there is none such.
    pub fn remove(&self, name: &str, id: &ReplicaId) -> bool {
        self.with(name, |replicas| {
            let before = replicas.len();
            replicas.retain(|replica| replica.id != *id);
            replicas.len() != before
        })
    }

    /// Requests of this Gateway that a replica has; `None` where there is none such.
    #[must_use]
    pub fn held(&self, name: &str, id: &ReplicaId) -> Option<u32> {
        let model = self.get(name)?;
        let replicas = model.shared.replicas.read().unwrap_or_else(PoisonError::into_inner);
        replicas.iter().find(|replica| replica.id == *id).map(|replica| replica.held.load(Ordering::Relaxed))
    }

    /// Rings when somebody asks a model that has no replica; `None` where there is no such model.
    #[must_use]
    pub fn calls(&self, name: &str) -> Option<Arc<Notify>> {
        self.get(name).map(|model| Arc::clone(&model.shared.calls))
    }

    /// Names of all models.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Vec<Arc<Replica>>) -> bool) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name)
            .is_some_and(|model| change(&mut model.shared.replicas.write().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Model>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Model>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The names that come nearest to one, among those that `may` be told.
    pub(crate) fn nearest(&self, name: &str, may: impl Fn(&Deployment) -> bool) -> Vec<String> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let told = all.values().filter(|model| may(&model.deployment)).map(|model| &model.deployment.name);
        let mut ranked: Vec<(usize, &String)> = told.map(|known| (distance(name, known), known)).collect();
        ranked.sort();
        ranked.into_iter().take(NEAREST).map(|(_, known)| known.clone()).collect()
    }
}

/// How far two names are apart, case aside.
fn distance(a: &str, b: &str) -> usize {
    apps::distance(&a.to_ascii_lowercase(), &b.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_by_letters() {
        assert_eq!(distance("llama", "llama"), 0);
        assert_eq!(distance("llama-3", "Llama-3"), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    fn deployment(name: &str, owner: &str) -> Deployment {
        Deployment {
            name: name.into(),
            owner: owner.into(),
            abilities: Abilities { chat: true, ..Abilities::default() },
            price: TokenAsk::default(),
            access: Access::Keys,
            created_s: 1,
            context: 1_024,
            hedge_after_ms: None,
        }
    }

    #[test]
    fn a_name_belongs_to_who_came_first() {
        let models = Models::default();
        models.deploy(deployment("a/b:1", "me")).unwrap();
        models.deploy(deployment("a/b:1", "me")).unwrap();
        let taken = models.deploy(deployment("a/b:1", "you")).unwrap_err();
        assert!(taken.to_string().contains("me"), "{taken}");
        assert!(matches!(models.deploy(deployment("a b", "me")), Err(ModelsError::Name(_))));
        assert!(matches!(models.deploy(deployment("", "me")), Err(ModelsError::Name(_))));
        for name in ["llama-8b", "llama-70b", "qwen", "mistral"] {
            models.deploy(deployment(name, "me")).unwrap();
        }
        let nearest = models.nearest("lama-8b", |_| true);
        assert_eq!((nearest.len(), &nearest[..2]), (3, &["llama-8b".to_owned(), "llama-70b".to_owned()][..]));
        assert!(models.withdraw("qwen") && !models.withdraw("qwen"));
    }
}
