//! Why a Container was turned down, and why nothing fits.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::demand::{ComplianceTier, Region, Term, WorkloadKind};
use crate::hardware::{Cores, GpuModel};
use crate::ids::NodeId;
use crate::pricing::UsdPerHour;
use crate::units::{Bytes, Ob, TokenAmount};

use super::ContainerState;

/// The kinds of [`Why`], in the order in which a Container is checked; each is counted in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It takes no work now.
    NotReady,
    /// It is elsewhere.
    Region,
    /// The network's policy forbids it.
    Forbidden,
    /// It has no such GPU, or none at all.
    GpuModel,
    /// It does not run that kind of work.
    Kind,
    /// It lets no work reach the internet.
    Egress,
    /// It does not offer the term.
    Term,
    /// Too little is known of who provides.
    Compliance,
    /// It takes no work for so long.
    TimeLimit,
    /// Its line is too slow.
    Bandwidth,
    /// Too few cores are free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk is free.
    Disk,
    /// The free cards have too little VRAM.
    Vram,
    /// The free cards are too slow.
    Ob,
    /// Too few cards that serve are free.
    GpuCount,
    /// It is too far away, or how far is unknown.
    Latency,
    /// It asks too much.
    Price,
    /// The demand excludes it.
    Excluded,
}

impl Reason {
    /// How many reasons there are.
    pub(super) const COUNT: usize = 19;

    /// All of them, in the order of the checks.
    pub const ALL: [Self; Self::COUNT] = [
        Self::NotReady,
        Self::Region,
        Self::Forbidden,
        Self::GpuModel,
        Self::Kind,
        Self::Egress,
        Self::Term,
        Self::Compliance,
        Self::TimeLimit,
        Self::Bandwidth,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Vram,
        Self::Ob,
        Self::GpuCount,
        Self::Latency,
        Self::Price,
        Self::Excluded,
    ];

    /// Its place in [`Reason::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "takes no work now",
            Self::Region => "is in another region",
            Self::Forbidden => "may not be used there under the network's policy",
            Self::GpuModel => "has no such GPU that may be used",
            Self::Kind => "does not run this kind of work",
            Self::Egress => "lets no work reach the internet",
            Self::Term => "does not offer this term",
            Self::Compliance => "is of a lower compliance tier",
            Self::TimeLimit => "takes no work for so long",
            Self::Bandwidth => "has too little bandwidth",
            Self::Cpu => "has too few free cores",
            Self::Memory => "has too little free memory",
            Self::Disk => "has too little free disk",
            Self::Vram => "has no free GPU with so much VRAM",
            Self::Ob => "has no free GPU that is so fast",
            Self::GpuCount => "has too few free GPUs",
            Self::Latency => "is too far away",
            Self::Price => "asks more than the greatest price",
            Self::Excluded => "is excluded by the demand",
        })
    }
}

/// Why one Container was turned down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Why {
    /// Its state.
    #[error("is {state} and takes no work now")]
    NotReady {
        /// The state.
        state: ContainerState,
    },
    /// Its region.
    #[error("is in {}, not in {want}", region_name(have.as_ref()))]
    OtherRegion {
        /// Demanded.
        want: Region,
        /// Where it is, if it says.
        have: Option<Region>,
    },
    /// The policy on a region.
    #[error("may not be used in {} under the network's policy", region_name(region.as_ref()))]
    RegionForbidden {
        /// Where it is; unknown counts as forbidden where anything is.
        region: Option<Region>,
    },
    /// The policy on a card in a region.
    #[error("may not use its {model} in {} under the network's policy", region_name(region.as_ref()))]
    GpuForbidden {
        /// The card's model.
        model: GpuModel,
        /// Where it is; unknown counts as forbidden where anything is.
        region: Option<Region>,
    },
    /// It has no GPU.
    #[error("has no GPU")]
    NoGpu,
    /// It has no GPU of that model.
    #[error("has no {want}")]
    OtherGpu {
        /// Demanded.
        want: GpuModel,
    },
    /// The kind of work.
    #[error("does not run work of the kind {kind}")]
    KindRefused {
        /// Demanded.
        kind: WorkloadKind,
    },
    /// The provider keeps work off the internet.
    #[error("lets no work reach the internet")]
    NoEgress,
    /// The term.
    #[error("does not offer the term {term}")]
    TermRefused {
        /// Demanded.
        term: Term,
    },
    /// The tier.
    #[error("needs the compliance tier {need}; has {have}")]
    ComplianceShort {
        /// Demanded.
        need: ComplianceTier,
        /// Known.
        have: ComplianceTier,
    },
    /// The longest lease it takes.
    #[error("needs {need_s} seconds; takes work for at most {have_s}")]
    TimeShort {
        /// Demanded.
        need_s: u64,
        /// Its limit.
        have_s: u64,
    },
    /// Its line.
    #[error("needs {need_mbps} Mbit/s; has {have_mbps}")]
    BandwidthShort {
        /// Demanded.
        need_mbps: u32,
        /// What it has.
        have_mbps: u32,
    },
    /// Cores.
    #[error("needs {} cores; {} are free", Cores(*.need), Cores(*.have))]
    CpuShort {
        /// Thousandths demanded.
        need: u32,
        /// Thousandths free.
        have: u32,
    },
    /// Memory.
    #[error("needs {need} of memory; {have} are free")]
    MemoryShort {
        /// Demanded.
        need: Bytes,
        /// Free.
        have: Bytes,
    },
    /// Disk.
    #[error("needs {need} of disk; {have} are free")]
    DiskShort {
        /// Demanded.
        need: Bytes,
        /// Free.
        have: Bytes,
    },
    /// VRAM of the largest free card (of the model, if one is demanded).
    #[error("needs {need} of VRAM; the largest free is {have}")]
    VramShort {
        /// Demanded.
        need: Bytes,
        /// Of the largest free card; zero when none is free.
        have: Bytes,
    },
    /// OB of the fastest free card.
    #[error("needs {need}; the fastest free has {have}")]
    ObShort {
        /// Demanded.
        need: Ob,
        /// Of the fastest free card; zero when none is free.
        have: Ob,
    },
    /// Cards.
    #[error("needs {need} GPUs of one model that serve; {have} are free")]
    GpusShort {
        /// Demanded.
        need: u8,
        /// The most cards of one model that are free and serve.
        have: u8,
    },
    /// Distance in time.
    #[error("needs a round trip of {max_ms} ms; it is {}.{} ms away", have_us / 1000, have_us % 1000 / 100)]
    LatencyOver {
        /// Demanded.
        max_ms: u32,
        /// Measured or bounded by distance, in microseconds.
        have_us: u64,
    },
    /// Neither a measurement nor a place.
    #[error("needs a round trip of {max_ms} ms; how far it is, is unknown")]
    LatencyUnknown {
        /// Demanded.
        max_ms: u32,
    },
    /// Price.
    #[error("needs a price of at most {max}; asks {asks}")]
    PriceOver {
        /// Demanded.
        max: UsdPerHour,
        /// What the work would cost there.
        asks: UsdPerHour,
    },
    /// Named in the demand.
    #[error("is excluded by the demand")]
    Excluded,
}

fn region_name(region: Option<&Region>) -> &str {
    region.map_or("an unknown region", Region::as_str)
}

impl Why {
    /// The kind under which it is counted.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotReady { .. } => Reason::NotReady,
            Self::OtherRegion { .. } => Reason::Region,
            Self::RegionForbidden { .. } | Self::GpuForbidden { .. } => Reason::Forbidden,
            Self::NoGpu | Self::OtherGpu { .. } => Reason::GpuModel,
            Self::KindRefused { .. } => Reason::Kind,
            Self::NoEgress => Reason::Egress,
            Self::TermRefused { .. } => Reason::Term,
            Self::ComplianceShort { .. } => Reason::Compliance,
            Self::TimeShort { .. } => Reason::TimeLimit,
            Self::BandwidthShort { .. } => Reason::Bandwidth,
            Self::CpuShort { .. } => Reason::Cpu,
            Self::MemoryShort { .. } => Reason::Memory,
            Self::DiskShort { .. } => Reason::Disk,
            Self::VramShort { .. } => Reason::Vram,
            Self::ObShort { .. } => Reason::Ob,
            Self::GpusShort { .. } => Reason::GpuCount,
            Self::LatencyOver { .. } | Self::LatencyUnknown { .. } => Reason::Latency,
            Self::PriceOver { .. } => Reason::Price,
            Self::Excluded => Reason::Excluded,
        }
    }
}

/// One Container that was turned down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Which.
    pub node: NodeId,
    /// Why: the first check that it failed.
    pub why: Why,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container {} {}", self.node.short(), self.why)
    }
}

/// Why nothing fits, and what would have to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// Whether some Container would fit if all that it offers were free: then waiting helps.
    pub busy: bool,
    /// What is short; `None` when more than one thing is, or when there are no Containers at all.
    pub reason: Option<Reason>,
    /// A sentence that names what is needed and the nearest to it that there is.
    pub sentence: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Who was considered for a demand, and why others were turned down.
///
/// `considered` is the sum of `fit`, `not_compared` and all counts of `turned_down`. Where Containers were turned
/// down together (all of a branch of the index have too few cores, say) they count under the reason that holds
/// for all of them, though others may hold as well; a price counts for all that have the cards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Containers known.
    pub considered: u64,
    /// Of those looked at one by one, how many fit.
    pub fit: u64,
    /// Not looked at because they cannot be better than those that fit.
    pub not_compared: u64,
    /// Why others were turned down, and how many; in the order of [`Reason::ALL`], without zeros.
    pub turned_down: Vec<(Reason, u64)>,
    /// Some of those that were turned down, at most [`super::SAMPLE_MAX`].
    pub sample: Vec<Rejection>,
    /// Set when nothing fits.
    pub nearest_miss: Option<Miss>,
    /// What the odds of the chosen one were made of, and of those to fall back on that were near the best.
    pub odds: Vec<Odds>,
}

/// A Container's odds among those near the best, and what made them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Odds {
    /// Which.
    pub node: NodeId,
    /// Its share of all weights, in millionths.
    pub share_ppm: u32,
    /// What Checkers and consumers found of it, in ten-thousandths; more raises the odds.
    pub quality_bps: u16,
    /// Its stake; more raises the odds.
    pub stake: TokenAmount,
    /// How often it was chosen lately, in thousandths; old times count less, and more lowers the odds.
    pub chosen_lately_milli: u64,
    /// Whether it has the packages that the demand names, which puts it first; `None` when it names none.
    pub warm: Option<bool>,
}

impl fmt::Display for Odds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = |of: u64, whole: u64| (of / whole, of % whole);
        let (share, rest) = hundredths(u64::from(self.share_ppm) / 100, 100);
        let (quality, tail) = hundredths(u64::from(self.quality_bps), 100);
        let (times, part) = hundredths(self.chosen_lately_milli / 10, 100);
        write!(
            f,
            "had {share}.{rest:02} % of the odds: quality {quality}.{tail:02} %, stake {}, chosen {times}.{part:02} times lately",
            self.stake
        )?;
        match self.warm {
            Some(true) => f.write_str("; the packages are there, which puts it first"),
            Some(false) => f.write_str("; the packages are to be fetched"),
            None => Ok(()),
        }
    }
}
