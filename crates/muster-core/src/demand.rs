//! What a consumer asks for.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hardware::{BYTES_MAX, CPU_MILLIS_MAX, Cores, GPUS_MAX, GpuModel, Need, OB_MAX};
use crate::ids::NodeId;
use crate::inference::{ModelDemand, ModelError};
use crate::packages::{PackageSet, PackageSetId};
use crate::pricing::UsdPerHour;
use crate::units::{Bytes, Ob};

/// The most tasks of one array or gang.
pub const COUNT_MAX: u32 = 10_000;
/// The most Containers that one demand can exclude.
pub const EXCLUDE_MAX: usize = 1_024;
/// The most Containers that one demand can pick out.
pub const ONLY_MAX: usize = 16;
/// The longest time limit: 30 days.
pub const TIME_LIMIT_S_MAX: u64 = 30 * 86_400;
/// The longest latency that can be asked for; more is no limit.
pub const LATENCY_MS_MAX: u32 = 60_000;
/// The most bandwidth that can be asked for, in Mbit/s.
pub const BANDWIDTH_MBPS_MAX: u32 = 1_000_000;
/// The longest name of a region, in bytes.
pub const REGION_LEN_MAX: usize = 32;
/// Nothing smaller than this runs: a hundredth of a core.
pub const CPU_MILLIS_MIN: u32 = 10;
/// Nothing smaller than this runs.
pub const MEMORY_MIN: Bytes = Bytes(4 * Bytes::MIB);

/// What is wrong with a demand; each sentence names the field and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// A field is outside its bounds.
    #[error("{field} is {got}; it must be from {min} to {max}")]
    OutOfBounds {
        /// The field, as it is called in [`Demand`].
        field: &'static str,
        /// What it holds.
        got: String,
        /// The least it may hold.
        min: String,
        /// The most it may hold.
        max: String,
    },
    /// A property of GPUs is asked for, but no GPU.
    #[error("{field} is set, but gpu_count is 0; ask for at least 1 GPU or leave {field} out")]
    GpuPropertyWithoutGpu {
        /// The field that speaks of GPUs.
        field: &'static str,
    },
    /// No place.
    #[error("{text:?} is no place; write degrees north and east, for example 45.508,-73.587")]
    PlaceText {
        /// What was written.
        text: String,
    },
    /// A latency is limited, but from where is not said.
    #[error("latency_ms_max is set, but origin says neither a place nor a network to measure it from")]
    LatencyFromNowhere,
    /// A region's name has other characters than it may, or too many.
    #[error(
        "region {text:?} is not a region; write lower-case words joined by hyphens, for example eu-west, at most 32 characters"
    )]
    Region {
        /// What was given, cut to 32 characters.
        text: String,
    },
    /// A place is not on the globe.
    #[error(
        "the place {latitude_mdeg}, {longitude_mdeg} is not on the globe; latitude is within ±90000 and longitude within ±180000 thousandths of a degree"
    )]
    Place {
        /// Thousandths of a degree north.
        latitude_mdeg: i32,
        /// Thousandths of a degree east.
        longitude_mdeg: i32,
    },
    /// The model that is asked for is none, or none is where one has to be.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model where none belongs, or none where one does.
    #[error("the demand is for {kind} and {has} a model; only a demand for a model names one")]
    ModelMissing {
        /// What is asked for.
        kind: WorkloadKind,
        /// `names` or `lacks`.
        has: &'static str,
    },
    /// A word that is none of those that this option knows.
    #[error("{text:?} is not {what}; choose one of {known}")]
    Word {
        /// What was given.
        text: String,
        /// What was expected, with its article.
        what: &'static str,
        /// The words that are known.
        known: &'static str,
    },
}

/// Gives an enum its words: as text, from text.
macro_rules! words {
    ($name:ident, $what:literal, $known:literal, $($word:literal => $variant:ident),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $name {
            type Err = DemandError;
            fn from_str(text: &str) -> Result<Self, DemandError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(DemandError::Word {
                        text: text.chars().take(32).collect(),
                        what: $what,
                        known: $known,
                    }),
                }
            }
        }
    };
}

/// The kind of work, which a Container must be able to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WorkloadKind {
    /// A command with its arguments, in a Sandbox.
    #[default]
    Process,
    /// A command whose private display is streamed to players.
    Session,
    /// A model that answers requests.
    Model,
    /// A model that the Container's owner serves with an engine of its own.
    Endpoint,
}
words!(WorkloadKind, "a kind of workload", "process, session, model, endpoint",
    "process" => Process, "session" => Session, "model" => Model, "endpoint" => Endpoint);

impl WorkloadKind {
    /// Whether it is paid by the token.
    #[must_use]
    pub const fn is_model(self) -> bool {
        matches!(self, Self::Model | Self::Endpoint)
    }
}

/// A set of kinds of work: what a Container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadKinds(u16);

impl WorkloadKinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Processes alone.
    pub const PROCESS: Self = Self(1);

    /// This set and `kind`.
    #[must_use]
    pub const fn with(self, kind: WorkloadKind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// This set but for `kind`.
    #[must_use]
    pub const fn without(self, kind: WorkloadKind) -> Self {
        Self(self.0 & !Self::bit(kind))
    }

    /// Whether `kind` is in it.
    #[must_use]
    pub const fn contains(self, kind: WorkloadKind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// The kinds of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// A bit for each kind.
    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    const fn bit(kind: WorkloadKind) -> u16 {
        match kind {
            WorkloadKind::Process => 1,
            WorkloadKind::Session => 2,
            WorkloadKind::Model => 4,
            WorkloadKind::Endpoint => 8,
        }
    }
}

impl Default for WorkloadKinds {
    fn default() -> Self {
        Self::PROCESS
    }
}

/// What is wanted most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The least price, within one per cent.
    Cheapest,
    /// The best quality, nearness and speed; the price counts little.
    Best,
    /// Price, worse quality and latency making it dearer.
    #[default]
    Balanced,
}
words!(Objective, "an objective", "cheapest, best, balanced",
    "cheapest" => Cheapest, "best" => Best, "balanced" => Balanced);

/// How long a price is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Term {
    /// Until either side ends it.
    #[default]
    OnDemand,
    /// For the whole time limit.
    Reserved,
}
words!(Term, "a term", "on-demand, reserved", "on-demand" => OnDemand, "reserved" => Reserved);

/// How much is known of who provides; a higher tier serves a lower demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComplianceTier {
    /// Anybody with a stake.
    #[default]
    Open,
    /// The owner is known by name.
    Verified,
    /// The site is audited as well.
    Certified,
}
words!(ComplianceTier, "a compliance tier", "open, verified, certified",
    "open" => Open, "verified" => Verified, "certified" => Certified);

/// A part of the world by name; `eu` holds `eu-west`, which holds `eu-west-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

impl Region {
    /// Takes a name of lower-case words and digits joined by hyphens.
    ///
    /// # Errors
    /// [`DemandError::Region`].
    pub fn new(text: &str) -> Result<Self, DemandError> {
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if text.len() > REGION_LEN_MAX || !text.split('-').all(word) {
            return Err(DemandError::Region { text: text.chars().take(REGION_LEN_MAX).collect() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this region or lies in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Region {
    type Err = DemandError;
    fn from_str(text: &str) -> Result<Self, DemandError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Region {
    type Error = DemandError;
    fn try_from(text: String) -> Result<Self, DemandError> {
        Self::new(&text)
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

/// A point on the globe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(i32, i32)", into = "(i32, i32)")]
pub struct Place {
    latitude_mdeg: i32,
    longitude_mdeg: i32,
}

impl Place {
    /// A point by thousandths of a degree north and east.
    ///
    /// # Errors
    /// [`DemandError::Place`].
    pub const fn new(latitude_mdeg: i32, longitude_mdeg: i32) -> Result<Self, DemandError> {
        if latitude_mdeg.unsigned_abs() > 90_000 || longitude_mdeg.unsigned_abs() > 180_000 {
            return Err(DemandError::Place { latitude_mdeg, longitude_mdeg });
        }
        Ok(Self { latitude_mdeg, longitude_mdeg })
    }

    /// Thousandths of a degree north, within ±90,000.
    #[must_use]
    pub const fn latitude_mdeg(self) -> i32 {
        self.latitude_mdeg
    }

    /// Thousandths of a degree east, within ±180,000.
    #[must_use]
    pub const fn longitude_mdeg(self) -> i32 {
        self.longitude_mdeg
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let degrees = |mdeg: i32| {
            let sign = if mdeg < 0 { "-" } else { "" };
            format!("{sign}{}.{:03}", mdeg.unsigned_abs() / 1_000, mdeg.unsigned_abs() % 1_000)
        };
        write!(f, "{},{}", degrees(self.latitude_mdeg), degrees(self.longitude_mdeg))
    }
}

impl FromStr for Place {
    type Err = DemandError;
    /// `45.508,-73.587`: degrees north and east, with at most three decimals.
    fn from_str(text: &str) -> Result<Self, DemandError> {
        let wrong = || DemandError::PlaceText { text: text.chars().take(32).collect() };
        let mdeg = |degrees: &str| {
            let (negative, digits) = degrees.strip_prefix('-').map_or((false, degrees), |rest| (true, rest));
            let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
            let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i32>().ok())?;
            if whole.len() > 3 || decimals.is_empty() || decimals.len() > 3 {
                return None;
            }
            let scale = [1_000, 100, 10, 1].get(decimals.len())?;
            let mdeg = number(whole)?.checked_mul(1_000)?.checked_add(number(decimals)?.checked_mul(*scale)?)?;
            Some(if negative { -mdeg } else { mdeg })
        };
        let (latitude, longitude) = text.split_once(',').ok_or_else(wrong)?;
        let (latitude, longitude) = mdeg(latitude.trim()).zip(mdeg(longitude.trim())).ok_or_else(wrong)?;
        Self::new(latitude, longitude)
    }
}

impl TryFrom<(i32, i32)> for Place {
    type Error = DemandError;
    fn try_from((latitude_mdeg, longitude_mdeg): (i32, i32)) -> Result<Self, DemandError> {
        Self::new(latitude_mdeg, longitude_mdeg)
    }
}

impl From<Place> for (i32, i32) {
    fn from(place: Place) -> Self {
        (place.latitude_mdeg, place.longitude_mdeg)
    }
}

/// A network between which latencies are measured, by a number that the measurers agree on (say, of an
/// autonomous system or an address block).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub u32);

/// Where somebody is, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The point on the globe.
    pub place: Option<Place>,
    /// The network.
    pub network: Option<NetworkId>,
}

impl Origin {
    /// Whether nothing is known.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.place.is_none() && self.network.is_none()
    }
}

/// How tasks belong together when more than one is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// Each by itself: as many at once as fit, the rest later.
    #[default]
    Array,
    /// All at once inside one site, or none.
    GangInOneSite,
    /// All at once wherever they fit, or none.
    GangAnywhere,
}
words!(Grouping, "a grouping", "array, gang-in-one-site, gang-anywhere",
    "array" => Array, "gang-in-one-site" => GangInOneSite, "gang-anywhere" => GangAnywhere);

/// A Container that the consumer has picked out, and how far away it found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Which.
    pub node: NodeId,
    /// The round trip to it, as the consumer has measured it, in microseconds.
    pub round_trip_us: Option<u32>,
}

/// What is asked for. Every quantity is for one task; `count` tasks are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// The kind of work.
    pub kind: WorkloadKind,
    /// Which model of GPU; `None` for any. All cards of a task are of one model.
    pub gpu_model: Option<GpuModel>,
    /// How many GPUs; 0 for none.
    pub gpu_count: u8,
    /// The least VRAM of each GPU.
    pub vram: Bytes,
    /// The least speed of each GPU.
    pub ob: Ob,
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory: Bytes,
    /// Disk for the work folder.
    pub disk: Bytes,
    /// The least bandwidth of the Container's line, in Mbit/s; 0 for any.
    pub bandwidth_mbps: u32,
    /// Where; `None` for anywhere.
    pub region: Option<Region>,
    /// Where the consumer is, as far as it tells.
    pub origin: Origin,
    /// The longest round trip from `origin`, in milliseconds.
    pub latency_ms_max: Option<u32>,
    /// The most that one task may cost.
    pub price_max: Option<UsdPerHour>,
    /// What is wanted most.
    pub objective: Objective,
    /// How long the price is bound.
    pub term: Term,
    /// Whether the work needs the internet.
    pub egress: bool,
    /// The least that must be known of who provides.
    pub compliance: ComplianceTier,
    /// After how many seconds the work is stopped.
    pub time_limit_s: u64,
    /// How many tasks.
    pub count: u32,
    /// How the tasks belong together.
    pub grouping: Grouping,
    /// Containers that are not wanted: those that failed a task before, say.
    pub exclude: Vec<NodeId>,
    /// The only Containers that are wanted, with the round trips that the consumer has measured, which count before all
    /// that is known otherwise; empty: all.
    pub only: Vec<Reach>,
    /// Packages that had better be there: a preference, nobody is turned down for it.
    #[serde(default)]
    pub packages: PackageSet,
    /// The model that is wanted, where one is: it is paid by the token.
    #[serde(default)]
    pub model: Option<ModelDemand>,
}

impl Default for Demand {
    /// One task on one core with 512 MiB of memory and 1 GiB of disk, for an hour at most, wherever it fits.
    fn default() -> Self {
        Self {
            kind: WorkloadKind::Process,
            gpu_model: None,
            gpu_count: 0,
            vram: Bytes(0),
            ob: Ob(0),
            cpu_millis: 1000,
            memory: Bytes(512 * Bytes::MIB),
            disk: Bytes(Bytes::GIB),
            bandwidth_mbps: 0,
            region: None,
            origin: Origin::default(),
            latency_ms_max: None,
            price_max: None,
            objective: Objective::default(),
            term: Term::default(),
            egress: false,
            compliance: ComplianceTier::default(),
            time_limit_s: 3600,
            count: 1,
            grouping: Grouping::default(),
            exclude: Vec::new(),
            only: Vec::new(),
            packages: PackageSet::default(),
            model: None,
        }
    }
}

impl Demand {
    /// Refuses what no Container could understand; whoever reads a demand from outside calls it first.
    ///
    /// # Errors
    /// The first field that is wrong, with what it may hold.
    pub fn check(&self) -> Result<(), DemandError> {
        let zero = Bytes(0);
        within("gpu_count", &usize::from(self.gpu_count), &0, &GPUS_MAX)?;
        within("vram", &self.vram, &zero, &BYTES_MAX)?;
        within("ob", &self.ob, &Ob(0), &OB_MAX)?;
        if self.cpu_millis < CPU_MILLIS_MIN || self.cpu_millis > CPU_MILLIS_MAX {
            let shown = |millis| Cores(millis).to_string();
            let (min, max) = (shown(CPU_MILLIS_MIN), shown(CPU_MILLIS_MAX));
            return Err(DemandError::OutOfBounds { field: "cpus", got: shown(self.cpu_millis), min, max });
        }
        within("memory", &self.memory, &MEMORY_MIN, &BYTES_MAX)?;
        within("disk", &self.disk, &zero, &BYTES_MAX)?;
        within("bandwidth_mbps", &self.bandwidth_mbps, &0, &BANDWIDTH_MBPS_MAX)?;
        if let Some(latency_ms_max) = self.latency_ms_max {
            within("latency_ms_max", &latency_ms_max, &1, &LATENCY_MS_MAX)?;
            // For a live session the consumer measures the way itself, after it has asked who would serve.
            let measured = self.kind == WorkloadKind::Session || self.only.iter().any(|r| r.round_trip_us.is_some());
            if self.origin.is_unknown() && !measured {
                return Err(DemandError::LatencyFromNowhere);
            }
        }
        match &self.model {
            Some(model) => model.check()?,
            None if self.kind.is_model() => {
                return Err(DemandError::ModelMissing { kind: self.kind, has: "lacks" });
            }
            None => {}
        }
        let right = |model: &ModelDemand| match self.kind {
            WorkloadKind::Model => !model.endpoint,
            WorkloadKind::Endpoint => model.endpoint,
            WorkloadKind::Process | WorkloadKind::Session => false,
        };
        if self.model.as_ref().is_some_and(|model| !right(model)) {
            return Err(DemandError::ModelMissing { kind: self.kind, has: "names" });
        }
        within("time_limit_s", &self.time_limit_s, &1, &TIME_LIMIT_S_MAX)?;
        within("count", &self.count, &1, &COUNT_MAX)?;
        within("the number of excluded Containers", &self.exclude.len(), &0, &EXCLUDE_MAX)?;
        within("the number of Containers picked out", &self.only.len(), &0, &ONLY_MAX)?;
        if self.gpu_count == 0 {
            let gpu_fields =
                [("gpu_model", self.gpu_model.is_some()), ("vram", self.vram > zero), ("ob", self.ob > Ob(0))];
            if let Some((field, _)) = gpu_fields.into_iter().find(|(_, set)| *set) {
                return Err(DemandError::GpuPropertyWithoutGpu { field });
            }
        }
        Ok(())
    }

    /// What had better be there already: a model's weights, or packages.
    #[must_use]
    pub fn warm_id(&self) -> Option<PackageSetId> {
        self.model.as_ref().map_or_else(|| self.packages.id(), |model| Some(model.weights.warm_id()))
    }

    /// What one task needs of a machine.
    #[must_use]
    pub fn need(&self) -> Need {
        Need {
            cpu_millis: self.cpu_millis,
            memory: self.memory,
            disk: self.disk,
            gpu_count: self.gpu_count,
            gpu_model: self.gpu_model.clone(),
            vram: self.vram,
            ob: self.ob,
        }
    }
}

fn within<T: PartialOrd + fmt::Display>(field: &'static str, got: &T, min: &T, max: &T) -> Result<(), DemandError> {
    if got < min || got > max {
        return Err(DemandError::OutOfBounds {
            field,
            got: got.to_string(),
            min: min.to_string(),
            max: max.to_string(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Demand)) -> String {
        let mut demand = Demand::default();
        change(&mut demand);
        demand.check().unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(Demand::default().check(), Ok(()));
        assert_eq!(refused(|d| d.cpu_millis = 0), "cpus is 0; it must be from 0.01 to 4096");
        assert_eq!(refused(|d| d.memory = Bytes(1)), "memory is 1 B; it must be from 4 MiB to 1024 TiB");
        assert_eq!(refused(|d| d.count = 0), "count is 0; it must be from 1 to 10000");
        assert_eq!(refused(|d| d.time_limit_s = 0), "time_limit_s is 0; it must be from 1 to 2592000");
        assert_eq!(
            refused(|d| d.vram = Bytes(Bytes::GIB)),
            "vram is set, but gpu_count is 0; ask for at least 1 GPU or leave vram out"
        );
        assert_eq!(refused(|d| d.gpu_count = 65), "gpu_count is 65; it must be from 0 to 64");
        assert!(refused(|d| d.latency_ms_max = Some(20)).contains("origin"));
        let only = |count| vec![Reach { node: NodeId::ZERO, round_trip_us: Some(1) }; count];
        assert!(refused(|d| d.only = only(ONLY_MAX + 1)).contains("picked out"));
        let live = Demand { kind: WorkloadKind::Session, latency_ms_max: Some(20), ..Demand::default() };
        assert_eq!(live.check(), Ok(()));
        let measured = Demand { latency_ms_max: Some(20), only: only(1), ..Demand::default() };
        assert_eq!(measured.check(), Ok(()));
        assert!(refused(|d| d.exclude = vec![NodeId::ZERO; EXCLUDE_MAX + 1]).contains("excluded"));
    }

    #[test]
    fn regions_hold_regions() {
        let region = |text| Region::new(text).unwrap();
        assert!(region("eu").contains(&region("eu-west-1")));
        assert!(region("eu-west").contains(&region("eu-west")));
        assert!(!region("eu-west").contains(&region("eu")));
        assert!(!region("eu").contains(&region("eur")));
        for wrong in ["", "EU", "eu-", "-eu", "eu--west", "eu west", &"x".repeat(33)] {
            assert!(Region::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn words_go_both_ways() {
        for objective in [Objective::Cheapest, Objective::Best, Objective::Balanced] {
            assert_eq!(objective.to_string().parse(), Ok(objective));
        }
        assert_eq!(
            "dearest".parse::<Objective>().unwrap_err().to_string(),
            "\"dearest\" is not an objective; choose one of cheapest, best, balanced"
        );
        assert!(Place::new(90_001, 0).is_err());
        for (text, latitude, longitude) in
            [("45.508,-73.587", 45_508, -73_587), ("-0.5, 7", -500, 7_000), ("0,0.25", 0, 250)]
        {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.latitude_mdeg(), place.longitude_mdeg()), (latitude, longitude), "{text}");
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in
            ["", "45", "45,", "45.5;7", "45.1234,7", "north,7", "+1,2", "1.,2", "91,0", "0,181", "1e1,2", "--1,2"]
        {
            assert!(wrong.parse::<Place>().is_err(), "{wrong:?}");
        }
    }
}
