//! Cards as provers: each in a child process, so that a driver that crashes costs a proof and no Container.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::hardware::{Gpu, GpuModel};
use muster_core::ids::ContentHash;
use muster_core::proof::{Challenge, Draw, Openings, Stage};
use muster_gpu::{CardProver, ProveError};
use tracing::{debug, warn};

use super::prover::{Prover, Provers};

/// How long a driver may take to open a card and compile the kernels.
const OPEN_WITHIN: Duration = Duration::from_secs(60);
/// How long a short request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Beyond a stage's deadline nobody waits for it any more.
const SLACK: Duration = Duration::from_secs(10);

/// A card and what is ready for its next proof.
#[derive(Debug)]
struct Slot {
    adapter: u32,
    /// The processor in place of a card: opened when it is needed, since an open one holds 64 MiB of the machine's memory.
    software: bool,
    /// An opened card without a pad: it holds next to none of the memory that leases use.
    ready: Mutex<Option<CardProver>>,
}

#[derive(Debug)]
struct Inner {
    exe: PathBuf,
    environment: Vec<(OsString, OsString)>,
    slots: Vec<Slot>,
}

/// The cards that a Container offers, in their order.
#[derive(Clone, Debug)]
pub struct Cards(Arc<Inner>);

impl Cards {
    /// Finds the adapters of the offered cards, through `exe` (which calls [`muster_gpu::prove_main`] for the argument
    /// [`muster_gpu::GPU_PROVE`]). A card whose adapter is not found is proved on the processor, as slow as that is; of
    /// several of one model the first is the first adapter's. Blocks for as long as the drivers need.
    ///
    /// # Errors
    /// The child cannot be started, or does not answer.
    pub fn of(exe: &Path, environment: Vec<(OsString, OsString)>, offered: &[Gpu]) -> Result<Self, ProveError> {
        let mut adapters = CardProver::start(exe, &environment)?.adapters(OPEN_WITHIN)?;
        let processor = adapters.iter().find(|adapter| adapter.software).or(adapters.last());
        let processor = processor.map_or(0, |adapter| adapter.index);
        let mut slots = Vec::with_capacity(offered.len().max(1));
        for card in offered {
            let same = |name: &str| GpuModel::new(name).is_ok_and(|model| model == card.model);
            let place = adapters.iter().position(|adapter| !adapter.software && same(&adapter.name));
            let adapter = place.map_or(processor, |place| adapters.remove(place).index);
            if place.is_none() {
                warn!(model = %card.model, "no adapter of this machine is such a card: the processor proves in its place");
            }
            slots.push(Slot { adapter, software: place.is_none(), ready: Mutex::new(None) });
        }
        if slots.is_empty() {
            slots.push(Slot { adapter: processor, software: true, ready: Mutex::new(None) });
        }
        let cards = Self(Arc::new(Inner { exe: exe.to_owned(), environment, slots }));
        (0..cards.0.slots.len()).for_each(|card| cards.prepare(card));
        Ok(cards)
    }

    fn open(&self, slot: &Slot) -> Result<CardProver, ProveError> {
        let mut prover = CardProver::start(&self.0.exe, &self.0.environment)?;
        prover.open(slot.adapter, OPEN_WITHIN)?;
        Ok(prover)
    }

    /// Opens a card for its next proof, in the background.
    fn prepare(&self, card: usize) {
        if self.0.slots.get(card).is_none_or(|slot| slot.software) {
            return;
        }
        let cards = self.clone();
        let spawned = std::thread::Builder::new().name("card".to_owned()).spawn(move || {
            let Some(slot) = cards.0.slots.get(card) else { return };
            match cards.open(slot) {
                Ok(prover) => *held(&slot.ready) = Some(prover),
                Err(error) => debug!(card, %error, "a card cannot be opened for its next proof"),
            }
        });
        if let Err(error) = spawned {
            debug!(card, %error, "no thread to open a card in");
        }
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provers for Cards {
    fn begin(&self, challenge: &Challenge) -> Result<Box<dyn Prover>, String> {
        let card = usize::from(challenge.card);
        let slot = self.0.slots.get(card).ok_or("there is no such card")?;
        let ready = held(&slot.ready).take();
        let words = |error: ProveError| error.to_string();
        let mut prover = match ready {
            Some(prover) => prover,
            None => self.open(slot).map_err(words)?,
        };
        prover.begin(challenge, ANSWER_WITHIN).map_err(words)?;
        let (plan, _) = challenge.plan();
        Ok(Box::new(OnCard { cards: self.clone(), card, prover, deadline_ms: plan.deadline_ms }))
    }
}

/// A proof on a card.
#[derive(Debug)]
struct OnCard {
    cards: Cards,
    card: usize,
    prover: CardProver,
    deadline_ms: [u32; 4],
}

impl Prover for OnCard {
    fn compute(&mut self, stage: Stage, walk_seed: &[u8; 32]) -> Result<ContentHash, String> {
        let deadline_ms = self.deadline_ms.get(stage.index()).copied().unwrap_or(0);
        let within = Duration::from_millis(deadline_ms.into()).saturating_add(SLACK);
        self.prover.compute(stage, *walk_seed, within).map(|(root, _)| root).map_err(|error| error.to_string())
    }

    fn open(&mut self, draw: &Draw) -> Result<Openings, String> {
        self.prover.open_draw(draw, ANSWER_WITHIN).map_err(|error| error.to_string())
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        // The child ends with this one, and gives the card's memory back; another is opened for the next proof.
        self.cards.prepare(self.card);
    }
}
