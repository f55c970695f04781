//! A Container as matching keeps it.

use serde::{Deserialize, Serialize};

use crate::demand::{ComplianceTier, NetworkId, Origin, Region, WorkloadKind, WorkloadKinds};
use crate::hardware::{Capacity, Free, GpuModel, GpuSet};
use crate::ids::NodeId;
use crate::inference::TokenAsk;
use crate::packages::PackageSetId;
use crate::pricing::Ask;
use crate::protocol::EndpointOffer;
use crate::units::{Bytes, Ob, TimeMs, TokenAmount, UsdMicro};

use super::geo::{Around, Point};
use super::summary::Summary;
use super::tree::Key;

/// The best quality: everything that was promised was delivered.
pub const QUALITY_BPS_MAX: u16 = 10_000;
/// What being chosen once adds to a Container's recent count.
const RECENT_ONE: u32 = 1 << 8;
/// The recent count stays at this: some 4,000 times.
const RECENT_MAX: u32 = 1 << 20;

/// Keeps quotients by speed apart: 144,000,000 times this is below 2^60.
pub(super) const DEMERIT_SCALE: u64 = 1 << 32;

/// Where a Container stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// On chain, not yet seen.
    #[default]
    Registered,
    /// Ready and idle.
    Standby,
    /// Ready and at work.
    Serving,
    /// Finishes what runs, takes nothing new.
    Draining,
    /// Silent.
    Offline,
    /// Slashed, and its stake is not whole again.
    Jailed,
}

impl ContainerState {
    /// Whether it takes work.
    #[must_use]
    pub const fn takes_work(self) -> bool {
        matches!(self, Self::Standby | Self::Serving)
    }
}

impl core::fmt::Display for ContainerState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Registered => "registered",
            Self::Standby => "standby",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Offline => "offline",
            Self::Jailed => "jailed",
        })
    }
}

/// A place under one roof, inside which machines talk fast; a number that the owner names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SiteId(pub u64);

/// All that matching knows of a Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Its name.
    pub node: NodeId,
    /// Where it stands.
    pub state: ContainerState,
    /// What it has.
    pub capacity: Capacity,
    /// What of it is free; more than there is counts as all.
    pub free: Free,
    /// What it asks.
    pub ask: Ask,
    /// Where it is, by name.
    pub region: Option<Region>,
    /// Where it is, by place and network.
    pub origin: Origin,
    /// The roof it is under; `None`: alone.
    pub site: Option<SiteId>,
    /// Its line, in Mbit/s.
    pub bandwidth_mbps: u32,
    /// The work that it runs.
    pub kinds: WorkloadKinds,
    /// Whether it lets work reach the internet.
    pub egress: bool,
    /// How much is known of its owner.
    pub compliance: ComplianceTier,
    /// The longest time limit that it takes, in seconds.
    pub time_limit_s_max: u32,
    /// What Checkers found, in ten-thousandths; more than [`QUALITY_BPS_MAX`] counts as that.
    pub quality_bps: u16,
    /// Its stake.
    pub stake: TokenAmount,
    /// Sets of packages that it has.
    pub warm: Vec<PackageSetId>,
    /// What it asks for a million tokens for each GiB of a model's weights; without an ask it runs no models.
    pub models: Option<TokenAsk>,
    /// What its owner's own engines serve; without any it runs no endpoints.
    pub endpoints: Vec<EndpointOffer>,
}

/// A class of demand: which cards count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No card is wanted.
    Cpu,
    /// Cards of any model.
    AnyGpu,
    /// Cards of the model with this hash.
    Model(u64),
}

/// A kind of Container for a class of demand; each kind has trees of its own. Kept apart by model, the cards in a
/// tree are alike, and its summaries tell nearly what each Container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stand {
    /// Everybody, for demands without cards.
    Cpu,
    /// Those with cards of several models, for demands of any card.
    Mixed,
    /// Those with cards of several models, for demands of this one.
    MixedModel(u64),
    /// Those with cards of this model alone.
    Model(u64),
}

impl Stand {
    /// Whether a card counts in the summaries of its trees.
    fn counts(self, card: &Card) -> bool {
        match self {
            Self::Cpu => false,
            Self::Mixed => true,
            Self::Model(hash) | Self::MixedModel(hash) => card.model == hash,
        }
    }
}

impl Class {
    pub(super) fn model(model: &GpuModel) -> Self {
        Self::Model(hash_of(model.as_str().as_bytes())[0])
    }

    pub(super) fn counts(self, card: &Card) -> bool {
        match self {
            Self::Cpu => false,
            Self::AnyGpu => true,
            Self::Model(hash) => card.model == hash,
        }
    }
}

/// Which capacity counts: what is free now, or all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    Free,
    Total,
}

/// By what a tree is ordered, so that the best come first: one order for each objective, distance left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Price,
    Balanced,
    Best,
}

/// A card that the policy lets be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Card {
    /// Hash of the model.
    pub(super) model: u64,
    pub(super) vram: u64,
    /// Price of an hour.
    pub(super) hour: u64,
    pub(super) ob: u32,
}

/// One basis of a Container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) cpu: u32,
    /// How many cards, when all are alike; else 0.
    pub(super) alike: u8,
    pub(super) memory: u64,
    pub(super) disk: u64,
    /// The first of `cards`, at hand.
    pub(super) first: Option<Card>,
    /// By model's name, then OB, then number, as [`crate::hardware::pick_gpus`] takes them.
    pub(super) cards: Box<[Card]>,
}

/// A Container with what is derived from it once, so that a match need not. What every check reads stands together
/// here; the rest is a step away.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) free: Side,
    pub(super) price: Prices,
    pub(super) hash: [u64; 2],
    pub(super) point: Option<Point>,
    pub(super) network: Option<NetworkId>,
    pub(super) bandwidth_mbps: u32,
    pub(super) time_limit_s_max: u32,
    pub(super) kinds: u16,
    pub(super) quality_bps: u16,
    /// Its ask for tokens, see [`TokenAsk::typical`]; the greatest number where it runs no models.
    pub(super) tokens: u64,
    pub(super) egress: bool,
    pub(super) compliance: ComplianceTier,
    /// Whether it has cards, free or not.
    pub(super) has_cards: bool,
    /// 8 to 72: grows by one with each doubling of the stake.
    pub(super) stake_weight: u8,
    recent: u32,
    recent_at: TimeMs,
    pub(super) cold: Box<Cold>,
}

/// What only changes, reports and the few that are chosen need.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    pub(super) total: Side,
    /// Cards that the policy lets be used.
    pub(super) usable: GpuSet,
    pub(super) provider: Provider,
}

/// An ask without the share for cards, in micro-dollars; [`crate::pricing::ASK_MAX`] is below 2^32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    pub(super) core_hour: u32,
    pub(super) memory_gib_hour: u32,
    pub(super) disk_gib_hour: u32,
    pub(super) reserved_bps: Option<u16>,
}

/// What a price counts as for the objective `balanced`: up to three times as much for bad quality; rounded down.
pub(super) fn dearer(price: u64, quality_bps: u16) -> u64 {
    let factor = 10_000 + 2 * u64::from(QUALITY_BPS_MAX.saturating_sub(quality_bps));
    // Dividing 128 bits takes long, and hardly any price is so high.
    match price.checked_mul(factor) {
        Some(product) => product / 10_000,
        None => u64::try_from(u128::from(price) * u128::from(factor) / 10_000).unwrap_or(u64::MAX),
    }
}

/// How bad a Container is for the objective `best`, distance left out: the square of what its quality lacks (and a
/// fifth of the best on top), divided by the speed of its cards; rounded down.
pub(super) fn demerit(quality_bps: u16, ob: u32) -> u64 {
    let lacking = u64::from(QUALITY_BPS_MAX.saturating_sub(quality_bps)).saturating_add(2_000);
    lacking.saturating_mul(lacking).saturating_mul(DEMERIT_SCALE) / u64::from(ob.max(1))
}

/// The first sixteen bytes of BLAKE3, as numbers.
pub(super) fn hash_of(bytes: &[u8]) -> [u64; 2] {
    let hash = blake3::hash(bytes);
    let word =
        |at: usize| hash.as_bytes().iter().skip(at).take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    [word(0), word(8)]
}

impl Record {
    pub(super) fn new(mut provider: Provider, usable: GpuSet) -> Self {
        provider.free = provider.free.within(&provider.capacity);
        provider.quality_bps = provider.quality_bps.min(QUALITY_BPS_MAX);
        if provider.models.is_none() {
            provider.kinds = provider.kinds.without(WorkloadKind::Model);
        }
        if provider.endpoints.is_empty() {
            provider.kinds = provider.kinds.without(WorkloadKind::Endpoint);
        }
        let stake_tokens = provider.stake.0 / TokenAmount::ONE.0;
        let doublings = u128::BITS.saturating_sub(stake_tokens.leading_zeros()).min(64);
        let total = side(&provider, Free::all_of(&provider.capacity), usable);
        let ask = |usd: UsdMicro| u32::try_from(usd.0).unwrap_or(u32::MAX);
        Self {
            free: side(&provider, provider.free, usable),
            price: Prices {
                core_hour: ask(provider.ask.core_hour),
                memory_gib_hour: ask(provider.ask.memory_gib_hour),
                disk_gib_hour: ask(provider.ask.disk_gib_hour),
                reserved_bps: provider.ask.reserved_bps,
            },
            hash: hash_of(&provider.node.0),
            point: provider.origin.place.map(Point::of),
            network: provider.origin.network,
            bandwidth_mbps: provider.bandwidth_mbps,
            time_limit_s_max: provider.time_limit_s_max,
            kinds: provider.kinds.bits(),
            tokens: provider.models.map_or(u64::MAX, |ask| ask.typical()),
            egress: provider.egress,
            compliance: provider.compliance,
            quality_bps: provider.quality_bps,
            has_cards: !total.cards.is_empty(),
            stake_weight: u8::try_from(doublings).unwrap_or(64).saturating_add(8),
            recent: 0,
            recent_at: TimeMs(0),
            cold: Box::new(Cold { total, usable, provider }),
        }
    }

    pub(super) const fn provider(&self) -> &Provider {
        &self.cold.provider
    }

    /// Takes over how often the Container was chosen, when what is known of it is replaced.
    pub(super) fn keep_recent(&mut self, of: &Self) {
        (self.recent, self.recent_at) = (of.recent, of.recent_at);
    }

    /// Replaces what is free; whether anything changed.
    pub(super) fn set_free(&mut self, free: Free) -> bool {
        let free = free.within(&self.cold.provider.capacity);
        if free == self.cold.provider.free {
            return false;
        }
        let cards_changed = free.gpus != self.cold.provider.free.gpus;
        self.cold.provider.free = free;
        if cards_changed {
            self.free = side(&self.cold.provider, free, self.cold.usable);
        } else {
            (self.free.cpu, self.free.memory, self.free.disk) = (free.cpu_millis, free.memory.0, free.disk.0);
        }
        true
    }

    pub(super) fn side(&self, basis: Basis) -> &Side {
        match basis {
            Basis::Free => &self.free,
            Basis::Total => &self.cold.total,
        }
    }

    /// Where it stands in a tree. What is free plays no part, so that a heartbeat moves nothing.
    pub(super) fn key(&self, stand: Stand, order: Order) -> Key {
        const GIB: Bytes = Bytes(Bytes::GIB);
        let common = self.cold.provider.ask.amounts_hour(1000, GIB, GIB).0;
        let cards = || self.cold.total.cards.iter().filter(|card| stand.counts(card));
        let price = common.saturating_add(cards().map(|card| card.hour).min().unwrap_or(0));
        let place = match order {
            Order::Price => price,
            Order::Balanced => dearer(price, self.quality_bps),
            Order::Best => demerit(self.quality_bps, cards().map(|card| card.ob).max().unwrap_or(0)),
        };
        Key { place, hash: self.hash }
    }

    /// The kinds that it is of.
    pub(super) fn stands(&self) -> Vec<Stand> {
        let mut models: Vec<u64> = self.cold.total.cards.iter().map(|card| card.model).collect();
        models.sort_unstable();
        models.dedup();
        let mut stands = vec![Stand::Cpu];
        if models.len() == 1 {
            stands.extend(models.into_iter().map(Stand::Model));
        } else if !models.is_empty() {
            stands.push(Stand::Mixed);
            stands.extend(models.into_iter().map(Stand::MixedModel));
        }
        stands
    }

    pub(super) fn summary(&self, stand: Stand, basis: Basis, order: Order) -> Summary {
        let side = self.side(basis);
        let priced = |usd: u64| if order == Order::Balanced { dearer(usd, self.quality_bps) } else { usd };
        let ask = |usd: u32| u32::try_from(priced(u64::from(usd))).unwrap_or(u32::MAX);
        let mut summary = Summary {
            count: 1,
            cpu: side.cpu,
            memory: side.memory,
            disk: side.disk,
            bandwidth_mbps: self.bandwidth_mbps,
            time_limit_s: self.time_limit_s_max,
            core_hour: ask(self.price.core_hour),
            memory_gib_hour: ask(self.price.memory_gib_hour),
            disk_gib_hour: ask(self.price.disk_gib_hour),
            kinds: self.kinds,
            tokens: priced(self.tokens),
            reserved_bps: self.price.reserved_bps.unwrap_or(u16::MAX),
            compliance: self.compliance,
            egress: self.egress,
            unplaced: self.point.is_none(),
            around: self.point.map_or(Around::NOTHING, Around::point),
            ..Summary::EMPTY
        };
        if stand != Stand::Cpu {
            for group in side.cards.chunk_by(|a, b| a.model == b.model) {
                let Some(true) = group.first().map(|card| stand.counts(card)) else { continue };
                summary.cards = summary.cards.max(u8::try_from(group.len()).unwrap_or(u8::MAX));
                for card in group {
                    summary.vram = summary.vram.max(card.vram);
                    summary.ob = summary.ob.max(card.ob);
                    summary.card_hour = summary.card_hour.min(priced(card.hour));
                }
            }
            summary.obh = ask(u32::try_from(self.cold.provider.ask.obh.0).unwrap_or(u32::MAX));
        }
        summary.demerit = demerit(self.quality_bps, summary.ob);
        summary
    }

    /// Counts that it was chosen.
    pub(super) fn note_chosen(&mut self, now: TimeMs, half_life_ms: u64) {
        self.recent = self.recent_now(now, half_life_ms).saturating_add(RECENT_ONE).min(RECENT_MAX);
        self.recent_at = self.recent_at.max(now);
    }

    /// How often it was chosen lately, in 1/256: halved every half-life, linear in between.
    pub(super) fn recent_now(&self, now: TimeMs, half_life_ms: u64) -> u32 {
        let elapsed = now.since(self.recent_at);
        let half_life = half_life_ms.max(1);
        let halvings = u32::try_from(elapsed / half_life).unwrap_or(u32::MAX);
        let whole = self.recent.checked_shr(halvings).unwrap_or(0);
        let rest = u64::from(whole).saturating_mul(elapsed % half_life) / half_life.saturating_mul(2);
        whole.saturating_sub(u32::try_from(rest).unwrap_or(u32::MAX))
    }
}

fn side(provider: &Provider, free: Free, usable: GpuSet) -> Side {
    let mut cards: Vec<(&GpuModel, Ob, usize)> = provider
        .capacity
        .gpus
        .iter()
        .enumerate()
        .filter(|(index, _)| free.gpus.contains(*index) && usable.contains(*index))
        .map(|(index, gpu)| (&gpu.model, gpu.ob, index))
        .collect();
    cards.sort_unstable();
    let cards: Box<[Card]> = cards
        .into_iter()
        .filter_map(|(model, ob, index)| {
            let gpu = provider.capacity.gpus.get(index)?;
            let model = hash_of(model.as_str().as_bytes())[0];
            Some(Card { model, vram: gpu.vram.0, hour: provider.ask.gpu_hour(ob).0, ob: ob.0 })
        })
        .collect();
    let first = cards.first().copied();
    let alike = if cards.windows(2).all(|pair| pair.first() == pair.last()) { cards.len() } else { 0 };
    Side {
        cpu: free.cpu_millis,
        alike: u8::try_from(alike).unwrap_or(0),
        memory: free.memory.0,
        disk: free.disk.0,
        first,
        cards,
    }
}
