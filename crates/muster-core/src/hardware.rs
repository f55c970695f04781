//! What a Container has, what of it is free, and which part of it a lease holds.
//!
//! Cores, memory and disk divide freely; a GPU is held whole, by one lease. [`Inventory`] is the
//! Container's own ledger: nothing can be taken twice and nothing can be given back that was not taken.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Ob};

/// The most GPUs one Container can offer; [`GpuSet`] has a bit for each.
pub const GPUS_MAX: usize = 64;
/// The most thousandths of a core one Container can offer or one demand can ask for (4,096 cores).
pub const CPU_MILLIS_MAX: u32 = 4_096_000;
/// The most memory, VRAM or disk one Container can offer or one demand can ask for (1 PiB).
pub const BYTES_MAX: Bytes = Bytes(1 << 50);
/// The most OctaneBench points one GPU can have (100,000 points; the fastest card of 2026 has some 1,700).
pub const OB_MAX: Ob = Ob::points(100_000);
/// The longest name of a GPU model, in bytes.
pub const GPU_MODEL_LEN_MAX: usize = 64;

/// What is wrong with a description of hardware, or with a use of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// A GPU model's name is empty, too long or has no letter or digit that tells it from others.
    #[error("gpu model {text:?} names no model; write for example \"rtx 4090\", at most 64 characters")]
    Model {
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// A quantity is beyond what this version counts with.
    #[error("{field} is {got}, more than the greatest that is accepted, {max}")]
    TooMuch {
        /// The field.
        field: &'static str,
        /// What it holds, with its unit.
        got: String,
        /// What it may hold, with its unit.
        max: String,
    },
    /// An allocation names cards that the Container does not have.
    #[error("the allocation names GPUs that this Container does not have")]
    UnknownGpus,
    /// More is given back than is out: it was given back before, or was never taken.
    #[error("{what} of the allocation are not taken, so they cannot be given back")]
    NotTaken {
        /// What exceeds what is taken.
        what: &'static str,
    },
}

/// Why a need does not fit; the figures are those that a person wants to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Short {
    /// Too few cores are free.
    #[error("needs {} cores; {} are free", Cores(*.need), Cores(*.have))]
    Cpu {
        /// Thousandths of a core that are needed.
        need: u32,
        /// Thousandths of a core that are free.
        have: u32,
    },
    /// Too little memory is free.
    #[error("needs {need} of memory; {have} are free")]
    Memory {
        /// Needed.
        need: Bytes,
        /// Free.
        have: Bytes,
    },
    /// Too little disk is free.
    #[error("needs {need} of disk; {have} are free")]
    Disk {
        /// Needed.
        need: Bytes,
        /// Free.
        have: Bytes,
    },
    /// Too few GPUs that serve are free.
    #[error("needs {need} GPUs that serve the demand; {have} are free")]
    Gpus {
        /// Needed.
        need: u8,
        /// The most that one lease could have.
        have: u8,
    },
}

/// Shows thousandths of a core as cores: `2`, `0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores(pub u32);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{rest:03}").trim_end_matches('0'))
    }
}

/// Who made a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GpuVendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple.
    Apple,
    /// Somebody else, or unknown.
    #[default]
    Other,
}

/// The model of a GPU in one spelling, so that what a driver reports and what a person types are equal:
/// `NVIDIA GeForce RTX 4090`, `RTX 4090` and `rtx4090` are all `rtx4090`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuModel(String);

impl GpuModel {
    /// Brings a name to its one spelling: lower case, without the maker's brands, memory sizes, form factors,
    /// remarks in brackets and punctuation.
    ///
    /// # Errors
    /// [`HardwareError::Model`] when nothing is left or the name is longer than [`GPU_MODEL_LEN_MAX`] bytes.
    pub fn new(text: &str) -> Result<Self, HardwareError> {
        const NOISE: [&str; 14] = [
            "nvidia",
            "geforce",
            "amd",
            "radeon",
            "intel",
            "apple",
            "tesla",
            "gpu",
            "graphics",
            "generation",
            "pcie",
            "hbm2e",
            "hbm3",
            "tm",
        ];
        let malformed = || HardwareError::Model { text: text.chars().take(GPU_MODEL_LEN_MAX).collect() };
        if text.len() > GPU_MODEL_LEN_MAX {
            return Err(malformed());
        }
        let bare = text.split('(').next().unwrap_or_default().to_ascii_lowercase();
        let is_noise = |word: &str| {
            NOISE.contains(&word)
                || word.strip_suffix("gb").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                || word.strip_prefix("sxm").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
        };
        let key: String = bare.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !is_noise(word)).collect();
        if key.is_empty() { Err(malformed()) } else { Ok(Self(key)) }
    }

    /// The one spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GpuModel {
    type Err = HardwareError;
    fn from_str(text: &str) -> Result<Self, HardwareError> {
        Self::new(text)
    }
}

impl TryFrom<String> for GpuModel {
    type Error = HardwareError;
    fn try_from(text: String) -> Result<Self, HardwareError> {
        Self::new(&text)
    }
}

impl From<GpuModel> for String {
    fn from(model: GpuModel) -> Self {
        model.0
    }
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Which model it is.
    pub model: GpuModel,
    /// Who made it.
    pub vendor: GpuVendor,
    /// Its own memory.
    pub vram: Bytes,
    /// Its speed: proven where a proof exists, else claimed.
    pub ob: Ob,
}

/// Everything that a Container offers when nothing of it is taken. A GPU's place in `gpus` is its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk for work folders.
    pub disk: Bytes,
    /// The cards, in a lasting order.
    pub gpus: Vec<Gpu>,
}

impl Capacity {
    /// Refuses quantities that this version does not count with; whoever reads a capacity from outside calls it.
    ///
    /// # Errors
    /// [`HardwareError::TooMuch`] names the field.
    pub fn check(&self) -> Result<(), HardwareError> {
        let too_much = |field, got: &dyn fmt::Display, max: &dyn fmt::Display| {
            Err(HardwareError::TooMuch { field, got: got.to_string(), max: max.to_string() })
        };
        if self.cpu_millis > CPU_MILLIS_MAX {
            return too_much("cpu_millis", &self.cpu_millis, &CPU_MILLIS_MAX);
        }
        if self.memory > BYTES_MAX {
            return too_much("memory", &self.memory, &BYTES_MAX);
        }
        if self.disk > BYTES_MAX {
            return too_much("disk", &self.disk, &BYTES_MAX);
        }
        if self.gpus.len() > GPUS_MAX {
            return too_much("the number of gpus", &self.gpus.len(), &GPUS_MAX);
        }
        for gpu in &self.gpus {
            if gpu.vram > BYTES_MAX {
                return too_much("vram", &gpu.vram, &BYTES_MAX);
            }
            if gpu.ob > OB_MAX {
                return too_much("ob", &gpu.ob, &OB_MAX);
            }
        }
        Ok(())
    }
}

/// A set of a Container's GPUs: bit n stands for the card at place n of [`Capacity::gpus`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuSet(pub u64);

impl GpuSet {
    /// No card.
    pub const NONE: Self = Self(0);

    /// The first `count` cards; at most all 64.
    #[must_use]
    pub fn first(count: usize) -> Self {
        if count >= GPUS_MAX { Self(u64::MAX) } else { Self((1u64 << count) - 1) }
    }

    /// Whether card `index` is in it.
    #[must_use]
    pub const fn contains(self, index: usize) -> bool {
        index < GPUS_MAX && self.0 & (1u64 << index) != 0
    }

    /// This set and card `index`; numbers from 64 change nothing.
    #[must_use]
    pub const fn with(self, index: usize) -> Self {
        if index < GPUS_MAX { Self(self.0 | (1u64 << index)) } else { self }
    }

    /// How many cards.
    #[must_use]
    pub fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).unwrap_or(u8::MAX)
    }

    /// Whether it holds no card.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all cards of `other` are in this set.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the cards of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The cards of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The numbers of its cards, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..GPUS_MAX).filter(move |index| self.contains(*index))
    }
}

/// The part of a capacity that nobody holds: what a heartbeat tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Free {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Cards.
    pub gpus: GpuSet,
}

impl Free {
    /// All of a capacity.
    #[must_use]
    pub fn all_of(capacity: &Capacity) -> Self {
        Self {
            cpu_millis: capacity.cpu_millis,
            memory: capacity.memory,
            disk: capacity.disk,
            gpus: GpuSet::first(capacity.gpus.len()),
        }
    }

    /// The part of it that `capacity` really has: a heartbeat that claims more is cut to this.
    #[must_use]
    pub fn within(self, capacity: &Capacity) -> Self {
        let all = Self::all_of(capacity);
        Self {
            cpu_millis: self.cpu_millis.min(all.cpu_millis),
            memory: self.memory.min(all.memory),
            disk: self.disk.min(all.disk),
            gpus: GpuSet(self.gpus.0 & all.gpus.0),
        }
    }
}

/// What one task needs of a machine. All cards of a need are of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// How many cards; 0 for none.
    pub gpu_count: u8,
    /// Which model; `None` for any.
    pub gpu_model: Option<GpuModel>,
    /// The least VRAM of each card.
    pub vram: Bytes,
    /// The least speed of each card.
    pub ob: Ob,
}

/// What a lease holds of a Container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Cards.
    pub gpus: GpuSet,
}

/// Picks the cards for a need among the free ones: of one model, the slowest that serve, so that fast cards stay
/// for who needs them and the price is the lowest (a price rises with OB). Among models the one with the least
/// OB in all, then the first in the alphabet; among equal cards the lowest numbers. A need of no card picks none.
///
/// # Errors
/// [`Short::Gpus`] with the most cards of one model that serve.
pub fn pick_gpus(gpus: &[Gpu], free: GpuSet, need: &Need) -> Result<GpuSet, Short> {
    if need.gpu_count == 0 {
        return Ok(GpuSet::NONE);
    }
    let serving = gpus
        .iter()
        .enumerate()
        .filter(|(index, gpu)| {
            free.contains(*index)
                && gpu.vram >= need.vram
                && gpu.ob >= need.ob
                && need.gpu_model.as_ref().is_none_or(|model| *model == gpu.model)
        })
        .map(|(index, gpu)| (&gpu.model, gpu.ob, index));
    if need.gpu_count == 1 {
        // The usual case needs no sorting by models.
        let picked = serving.min_by_key(|(model, ob, index)| (*ob, *model, *index));
        return picked.map(|(_, _, index)| GpuSet::NONE.with(index)).ok_or(Short::Gpus { need: 1, have: 0 });
    }
    let mut serving: Vec<(&GpuModel, Ob, usize)> = serving.collect();
    serving.sort_unstable();
    let count = usize::from(need.gpu_count);
    let mut have = 0usize;
    let mut best: Option<(u64, GpuSet)> = None;
    for group in serving.chunk_by(|a, b| a.0 == b.0) {
        have = have.max(group.len());
        let Some(picked) = group.get(..count) else { continue };
        let ob_sum = picked.iter().map(|(_, ob, _)| u64::from(ob.0)).sum::<u64>();
        if best.is_none_or(|(least, _)| ob_sum < least) {
            best = Some((ob_sum, picked.iter().fold(GpuSet::NONE, |set, (_, _, index)| set.with(*index))));
        }
    }
    best.map(|(_, set)| set).ok_or(Short::Gpus { need: need.gpu_count, have: u8::try_from(have).unwrap_or(u8::MAX) })
}

/// A Container's ledger: what it has and what of it is free.
///
/// Invariant: what is free never exceeds what there is, and what is taken is the sum of the allocations that are out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    total: Capacity,
    free: Free,
}

impl Inventory {
    /// A ledger in which everything is free.
    ///
    /// # Errors
    /// As [`Capacity::check`].
    pub fn new(total: Capacity) -> Result<Self, HardwareError> {
        total.check()?;
        let free = Free::all_of(&total);
        Ok(Self { total, free })
    }

    /// What there is.
    #[must_use]
    pub const fn total(&self) -> &Capacity {
        &self.total
    }

    /// What is free.
    #[must_use]
    pub const fn free(&self) -> Free {
        self.free
    }

    /// Whether nothing is taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.free == Free::all_of(&self.total)
    }

    /// What a need would be granted now, taking nothing.
    ///
    /// # Errors
    /// What is short, the first of cores, memory, disk and GPUs.
    pub fn fits(&self, need: &Need) -> Result<Allocation, Short> {
        let free = &self.free;
        if need.cpu_millis > free.cpu_millis {
            return Err(Short::Cpu { need: need.cpu_millis, have: free.cpu_millis });
        }
        if need.memory > free.memory {
            return Err(Short::Memory { need: need.memory, have: free.memory });
        }
        if need.disk > free.disk {
            return Err(Short::Disk { need: need.disk, have: free.disk });
        }
        let gpus = pick_gpus(&self.total.gpus, free.gpus, need)?;
        Ok(Allocation { cpu_millis: need.cpu_millis, memory: need.memory, disk: need.disk, gpus })
    }

    /// Takes what a need asks for, whole or not at all.
    ///
    /// # Errors
    /// As [`Inventory::fits`]; then nothing was taken.
    pub fn reserve(&mut self, need: &Need) -> Result<Allocation, Short> {
        let allocation = self.fits(need)?;
        self.take(&allocation)?;
        Ok(allocation)
    }

    /// Takes exactly an allocation, as when leases are read back after a restart.
    ///
    /// # Errors
    /// What is short; then nothing was taken. Cards that are taken or that do not exist count as short.
    pub fn take(&mut self, allocation: &Allocation) -> Result<(), Short> {
        let free = self.free;
        let cpu_millis = free
            .cpu_millis
            .checked_sub(allocation.cpu_millis)
            .ok_or(Short::Cpu { need: allocation.cpu_millis, have: free.cpu_millis })?;
        let memory = free
            .memory
            .0
            .checked_sub(allocation.memory.0)
            .ok_or(Short::Memory { need: allocation.memory, have: free.memory })?;
        let disk =
            free.disk.0.checked_sub(allocation.disk.0).ok_or(Short::Disk { need: allocation.disk, have: free.disk })?;
        if !free.gpus.contains_all(allocation.gpus) {
            let have = GpuSet(free.gpus.0 & allocation.gpus.0).len();
            return Err(Short::Gpus { need: allocation.gpus.len(), have });
        }
        self.free =
            Free { cpu_millis, memory: Bytes(memory), disk: Bytes(disk), gpus: free.gpus.without(allocation.gpus) };
        Ok(())
    }

    /// Gives an allocation back, whole or not at all.
    ///
    /// # Errors
    /// [`HardwareError::NotTaken`] or [`HardwareError::UnknownGpus`] when that much is not out; then nothing changed.
    pub fn release(&mut self, allocation: &Allocation) -> Result<(), HardwareError> {
        let all = Free::all_of(&self.total);
        if !all.gpus.contains_all(allocation.gpus) {
            return Err(HardwareError::UnknownGpus);
        }
        let cpu_millis = self.free.cpu_millis.checked_add(allocation.cpu_millis).filter(|sum| *sum <= all.cpu_millis);
        let memory = self.free.memory.0.checked_add(allocation.memory.0).filter(|sum| *sum <= all.memory.0);
        let disk = self.free.disk.0.checked_add(allocation.disk.0).filter(|sum| *sum <= all.disk.0);
        if self.free.gpus.0 & allocation.gpus.0 != 0 {
            return Err(HardwareError::NotTaken { what: "the GPUs" });
        }
        self.free = Free {
            cpu_millis: cpu_millis.ok_or(HardwareError::NotTaken { what: "the cores" })?,
            memory: Bytes(memory.ok_or(HardwareError::NotTaken { what: "the bytes of memory" })?),
            disk: Bytes(disk.ok_or(HardwareError::NotTaken { what: "the bytes of disk" })?),
            gpus: self.free.gpus.union(allocation.gpus),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gpu(model: &str, vram_gib: u64, points: u32) -> Gpu {
        Gpu {
            model: GpuModel::new(model).unwrap(),
            vendor: GpuVendor::Nvidia,
            vram: Bytes(vram_gib * Bytes::GIB),
            ob: Ob::points(points),
        }
    }

    #[test]
    fn one_model_has_one_spelling() {
        let key = |text: &str| GpuModel::new(text).unwrap().to_string();
        assert_eq!(key("NVIDIA GeForce RTX 4090"), "rtx4090");
        assert_eq!(key("rtx 4090"), "rtx4090");
        assert_eq!(key("NVIDIA GeForce RTX 4090 Laptop GPU"), "rtx4090laptop");
        assert_eq!(key("NVIDIA A100-SXM4-80GB"), "a100");
        assert_eq!(key("NVIDIA H100 80GB HBM3"), "h100");
        assert_eq!(key("AMD Radeon RX 7900 XTX (RADV NAVI31)"), "rx7900xtx");
        assert_eq!(key("NVIDIA RTX 6000 Ada Generation"), "rtx6000ada");
        assert_eq!(key(&key("Tesla T4")), "t4");
        assert!(GpuModel::new("NVIDIA").is_err());
        assert!(GpuModel::new(&"x".repeat(65)).is_err());
    }

    #[test]
    fn cards_are_picked_slow_first_and_of_one_model() {
        let gpus = [gpu("rtx 4090", 24, 1300), gpu("rtx 3060", 12, 400), gpu("rtx 4090", 24, 1310)];
        let free = GpuSet::first(3);
        let mut need = Need { gpu_count: 1, ..Need::default() };
        assert_eq!(pick_gpus(&gpus, free, &need), Ok(GpuSet(0b010)));
        need.gpu_count = 2;
        assert_eq!(pick_gpus(&gpus, free, &need), Ok(GpuSet(0b101)));
        need.gpu_count = 3;
        assert_eq!(pick_gpus(&gpus, free, &need), Err(Short::Gpus { need: 3, have: 2 }));
        need = Need { gpu_count: 1, vram: Bytes(20 * Bytes::GIB), ..Need::default() };
        assert_eq!(pick_gpus(&gpus, free, &need), Ok(GpuSet(0b001)));
        assert_eq!(pick_gpus(&gpus, GpuSet(0b110), &need), Ok(GpuSet(0b100)));
    }

    #[test]
    fn shortage_reads_as_a_sentence() {
        let inventory = Inventory::new(Capacity { cpu_millis: 1500, ..Capacity::default() }).unwrap();
        let need = Need { cpu_millis: 2000, ..Need::default() };
        assert_eq!(inventory.fits(&need).unwrap_err().to_string(), "needs 2 cores; 1.5 are free");
    }

    #[test]
    fn nothing_is_given_back_twice() {
        let capacity =
            Capacity { cpu_millis: 4000, memory: Bytes(100), disk: Bytes(100), gpus: vec![gpu("rtx 4090", 24, 1300)] };
        let mut inventory = Inventory::new(capacity).unwrap();
        let need = Need { cpu_millis: 1000, memory: Bytes(10), gpu_count: 1, ..Need::default() };
        let allocation = inventory.reserve(&need).unwrap();
        assert!(matches!(inventory.reserve(&need), Err(Short::Gpus { need: 1, have: 0 })));
        inventory.release(&allocation).unwrap();
        let before = inventory.clone();
        assert!(inventory.release(&allocation).is_err());
        assert_eq!(inventory, before);
        assert!(inventory.is_idle());
    }

    prop_compose! {
        fn any_need()(cpu_millis in 0u32..3000, memory in 0u64..60, disk in 0u64..60, gpu_count in 0u8..3,
                      ob in 0u32..1000) -> Need {
            Need { cpu_millis, memory: Bytes(memory), disk: Bytes(disk), gpu_count, ob: Ob::points(ob), ..Need::default() }
        }
    }

    proptest! {
        #[test]
        fn capacity_is_conserved(needs in prop::collection::vec((any_need(), any::<bool>(), any::<prop::sample::Index>()), 1..60)) {
            let gpus = vec![gpu("a", 8, 100), gpu("a", 8, 900), gpu("b", 16, 500), gpu("b", 16, 500)];
            let total = Capacity { cpu_millis: 8000, memory: Bytes(200), disk: Bytes(200), gpus };
            let mut inventory = Inventory::new(total.clone()).unwrap();
            let mut out: Vec<Allocation> = Vec::new();
            for (need, give_back, which) in needs {
                if give_back && !out.is_empty() {
                    let allocation = out.swap_remove(which.index(out.len()));
                    inventory.release(&allocation).unwrap();
                } else {
                    let before = inventory.clone();
                    match inventory.reserve(&need) {
                        Ok(allocation) => {
                            prop_assert_eq!(allocation.gpus.len(), need.gpu_count);
                            out.push(allocation);
                        }
                        Err(_) => prop_assert_eq!(&inventory, &before),
                    }
                }
                let free = inventory.free();
                prop_assert_eq!(free.cpu_millis + out.iter().map(|g| g.cpu_millis).sum::<u32>(), total.cpu_millis);
                prop_assert_eq!(free.memory.0 + out.iter().map(|g| g.memory.0).sum::<u64>(), total.memory.0);
                prop_assert_eq!(free.disk.0 + out.iter().map(|g| g.disk.0).sum::<u64>(), total.disk.0);
                let held: u32 = out.iter().map(|g| g.gpus.0.count_ones()).sum();
                let union = out.iter().fold(free.gpus, |set, g| set.union(g.gpus));
                prop_assert_eq!(union, GpuSet::first(4), "every card is either free or held");
                prop_assert_eq!(held + free.gpus.0.count_ones(), 4, "no card is held twice");
            }
        }
    }
}
