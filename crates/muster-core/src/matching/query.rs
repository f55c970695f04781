//! A demand made ready to be held against many Containers.

use crate::demand::{ComplianceTier, Demand, NetworkId, Objective, Reach, Term};
use crate::hardware::Need;
use crate::packages::PackageSetId;
use crate::pricing::{UsdPerHour, mib_begun, share};

use super::geo::{Point, round_trip_us};
use super::record::{Basis, Card, Class, DEMERIT_SCALE, Order, Prices, QUALITY_BPS_MAX, Record, Side, dearer};
use super::summary::Summary;
use super::why::Reason;
use super::{Latencies, View};

/// What an unknown round trip counts as when Containers are compared: that of the far side of the globe.
const UNKNOWN_ROUND_TRIP_US: u64 = 300_000;

/// The round trip that doubles a price under `balanced`.
const BALANCED_US: u64 = 250_000;
/// The round trip that doubles a demerit under `best`.
const BEST_US: u64 = 50_000;
/// Round trips are told apart by so much when Containers are compared.
const STEP_US: u64 = 5_000;

/// By what Containers are put in order; the least is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// As the demand says.
    Objective(Objective),
    /// By how near they come in one property that is not required: what is missing most searches by.
    Nearest(Reason),
}

/// What a demand pays by, which is what Containers are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paid {
    /// The time that it takes capacity.
    ByTheHour,
    /// Tokens of a model with weights of its own: their ask for each GiB, which says as much as for all of them.
    ByTheToken,
    /// Tokens of this endpoint.
    AtEndpoint(PackageSetId),
}

/// The thresholds, prices and preferences of a demand. A threshold at its least (or greatest) requires nothing,
/// so that one can be left out without another code path.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) class: Class,
    pub(super) basis: Basis,
    pub(super) rank: Rank,
    pub(super) cpu: u32,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) gpu_count: u8,
    pub(super) vram: u64,
    pub(super) ob: u32,
    pub(super) bandwidth_mbps: u32,
    pub(super) time_limit_s: u64,
    pub(super) kinds: u16,
    pub(super) egress: bool,
    pub(super) term: Term,
    pub(super) term_required: bool,
    pub(super) compliance: ComplianceTier,
    pub(super) latency_us_max: Option<u64>,
    pub(super) price_max: u64,
    /// What one task needs of a machine.
    pub(super) need: Need,
    /// Slots, ascending.
    pub(super) excluded: Vec<u32>,
    /// The only ones that are wanted; empty: all.
    pub(super) only: Vec<Reach>,
    /// Packages that had better be there.
    pub(super) packages: Option<PackageSetId>,
    /// By what it is paid.
    pub(super) paid: Paid,
    priced_cpu: u64,
    priced_memory_mib: u64,
    priced_disk_mib: u64,
    origin_known: bool,
    /// Whether a round trip may have been measured to be shorter than distance suggests.
    may_be_measured: bool,
    point: Option<Point>,
    network: Option<NetworkId>,
}

/// A Container that meets a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// The least is the best.
    pub(super) badness: u64,
}

/// Cards that would be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Picked {
    hour: u64,
    ob: u64,
}

impl Query {
    pub(super) fn new(demand: &Demand, view: &View) -> Self {
        let mut excluded: Vec<u32> = demand.exclude.iter().filter_map(|node| view.slot(node)).collect();
        excluded.sort_unstable();
        let class = match (&demand.gpu_model, demand.gpu_count) {
            (_, 0) => Class::Cpu,
            (None, _) => Class::AnyGpu,
            (Some(model), _) => Class::model(model),
        };
        Self {
            class,
            basis: Basis::Free,
            rank: Rank::Objective(demand.objective),
            cpu: demand.cpu_millis,
            memory: demand.memory.0,
            disk: demand.disk.0,
            gpu_count: demand.gpu_count,
            vram: demand.vram.0,
            ob: demand.ob.0,
            bandwidth_mbps: demand.bandwidth_mbps,
            time_limit_s: demand.time_limit_s,
            kinds: crate::demand::WorkloadKinds::NONE.with(demand.kind).bits(),
            egress: demand.egress,
            term: demand.term,
            term_required: demand.term == Term::Reserved,
            compliance: demand.compliance,
            latency_us_max: demand.latency_ms_max.map(|ms| u64::from(ms) * 1000),
            price_max: demand.price_max.map_or(u64::MAX, |price| price.0),
            need: demand.need(),
            excluded,
            only: demand.only.clone(),
            packages: demand.warm_id(),
            paid: match &demand.model {
                None => Paid::ByTheHour,
                Some(model) if model.endpoint => Paid::AtEndpoint(model.weights.warm_id()),
                Some(_) => Paid::ByTheToken,
            },
            priced_cpu: u64::from(demand.cpu_millis),
            priced_memory_mib: mib_begun(demand.memory),
            priced_disk_mib: mib_begun(demand.disk),
            may_be_measured: demand.origin.network.is_some_and(|network| view.latencies.knows(network)),
            origin_known: !demand.origin.is_unknown() || demand.only.iter().any(|reach| reach.round_trip_us.is_some()),
            point: demand.origin.place.map(Point::of),
            network: demand.origin.network,
        }
    }

    /// The same query on another basis.
    pub(super) fn on(&self, basis: Basis) -> Self {
        Self { basis, ..self.clone() }
    }

    /// The same query in another order.
    pub(super) fn by(&self, rank: Rank) -> Self {
        Self { rank, ..self.clone() }
    }

    /// The same query with all thresholds at their least; a class of cards stays.
    pub(super) fn requiring_nothing(&self) -> Self {
        Self {
            cpu: 0,
            memory: 0,
            disk: 0,
            gpu_count: 0,
            vram: 0,
            ob: 0,
            bandwidth_mbps: 0,
            time_limit_s: 0,
            kinds: 0,
            egress: false,
            term_required: false,
            compliance: ComplianceTier::Open,
            latency_us_max: None,
            price_max: u64::MAX,
            excluded: Vec::new(),
            only: Vec::new(),
            ..self.clone()
        }
    }

    /// The order of the trees that serve it best.
    pub(super) const fn order(&self) -> Order {
        match (self.basis, self.rank) {
            (Basis::Free, Rank::Objective(Objective::Balanced)) => Order::Balanced,
            (Basis::Free, Rank::Objective(Objective::Best)) => Order::Best,
            _ => Order::Price,
        }
    }

    /// Whether distances matter to it, so that Containers should be searched region by region.
    pub(super) fn minds_distance(&self) -> bool {
        let ranked = match self.rank {
            Rank::Objective(objective) => objective != Objective::Cheapest,
            Rank::Nearest(reason) => reason == Reason::Latency,
        };
        self.point.is_some() && (ranked || self.latency_us_max.is_some())
    }

    /// The badness that each of the summarised Containers has at least, or a reason that holds for all of them. The
    /// summary must be of a tree of the query's own order.
    pub(super) fn bound(&self, all: &Summary) -> Result<u64, Reason> {
        self.bound_in(all, self.order())
    }

    /// A reason that holds for all Containers of a tree that is ordered by price; the badness says nothing unless that
    /// is the query's own order.
    pub(super) fn bound_by_price(&self, all: &Summary) -> Result<u64, Reason> {
        self.bound_in(all, Order::Price)
    }

    fn bound_in(&self, all: &Summary, order: Order) -> Result<u64, Reason> {
        if all.kinds & self.kinds != self.kinds {
            return Err(Reason::Kind);
        }
        if self.egress && !all.egress {
            return Err(Reason::Egress);
        }
        if self.term_required && all.reserved_bps == u16::MAX {
            return Err(Reason::Term);
        }
        if all.compliance < self.compliance {
            return Err(Reason::Compliance);
        }
        if u64::from(all.time_limit_s) < self.time_limit_s {
            return Err(Reason::TimeLimit);
        }
        if all.bandwidth_mbps < self.bandwidth_mbps {
            return Err(Reason::Bandwidth);
        }
        self.fits_amounts(all.cpu, all.memory, all.disk)?;
        let mut cards = Picked::default();
        if self.gpu_count > 0 {
            if all.vram < self.vram {
                return Err(Reason::Vram);
            }
            if all.ob < self.ob {
                return Err(Reason::Ob);
            }
            if all.cards < self.gpu_count {
                return Err(Reason::GpuCount);
            }
            let by_ob = u64::from(self.ob).saturating_mul(u64::from(all.obh)).div_ceil(100);
            let count = u64::from(self.gpu_count);
            let hour = if all.cards == 0 { 0 } else { all.card_hour.max(by_ob).saturating_mul(count) };
            cards = Picked { hour, ob: u64::from(all.ob).saturating_mul(count) };
        }
        let latency_us = self.latency_bound(all);
        if self.latency_us_max.is_some_and(|max| latency_us > max) {
            return Err(Reason::Latency);
        }
        let reserved_bps = (all.reserved_bps != u16::MAX).then_some(all.reserved_bps);
        let (core, memory, disk) =
            (u64::from(all.core_hour), u64::from(all.memory_gib_hour), u64::from(all.disk_gib_hour));
        let price = self.price(core, memory, disk, reserved_bps, cards.hour);
        // Under `balanced` the summary has no plain prices; each Container's own is checked.
        if order != Order::Balanced && price > self.price_max {
            return Err(Reason::Price);
        }
        let least = match self.paid {
            // Each item of the price was rounded up, which must not lift the bound above a Container's badness.
            Paid::ByTheHour => price.saturating_sub(u64::from(self.gpu_count).saturating_add(6)),
            Paid::ByTheToken => all.tokens,
            // Summaries know nothing of endpoints; demands for them name those that have one.
            Paid::AtEndpoint(_) => 0,
        };
        Ok(match self.rank {
            Rank::Objective(Objective::Cheapest) if self.paid == Paid::ByTheHour => price,
            Rank::Objective(Objective::Cheapest) => least,
            Rank::Objective(Objective::Balanced) => farther(u128::from(least), latency_us, BALANCED_US),
            Rank::Objective(Objective::Best) => {
                let demerit = all.demerit / u64::from(self.gpu_count.max(1));
                farther(u128::from(demerit), latency_us, BEST_US)
            }
            Rank::Nearest(reason) => match reason {
                Reason::Cpu => u64::MAX - u64::from(all.cpu),
                Reason::Memory => u64::MAX - all.memory,
                Reason::Disk => u64::MAX - all.disk,
                Reason::Vram => u64::MAX - all.vram,
                Reason::Ob => u64::MAX - u64::from(all.ob),
                Reason::GpuCount => u64::MAX - u64::from(all.cards),
                Reason::Bandwidth => u64::MAX - u64::from(all.bandwidth_mbps),
                Reason::TimeLimit => u64::MAX - u64::from(all.time_limit_s),
                Reason::Compliance => u64::MAX - all.compliance as u64,
                Reason::Latency => latency_us,
                Reason::Price => price,
                Reason::NotReady
                | Reason::Region
                | Reason::Forbidden
                | Reason::GpuModel
                | Reason::Kind
                | Reason::Egress
                | Reason::Term
                | Reason::Excluded => 0,
            },
        })
    }

    /// Whether one Container of the class meets the query, and how well; else the first check that it fails.
    pub(super) fn check(&self, slot: u32, record: &Record, latencies: &Latencies) -> Result<Fit, Reason> {
        if record.kinds & self.kinds != self.kinds {
            return Err(Reason::Kind);
        }
        if self.egress && !record.egress {
            return Err(Reason::Egress);
        }
        if self.term_required && record.price.reserved_bps.is_none() {
            return Err(Reason::Term);
        }
        if record.compliance < self.compliance {
            return Err(Reason::Compliance);
        }
        if u64::from(record.time_limit_s_max) < self.time_limit_s {
            return Err(Reason::TimeLimit);
        }
        if record.bandwidth_mbps < self.bandwidth_mbps {
            return Err(Reason::Bandwidth);
        }
        let side = record.side(self.basis);
        self.fits_amounts(side.cpu, side.memory, side.disk)?;
        let cards = if self.gpu_count == 0 { Picked::default() } else { self.pick(side)? };
        let latency_us = self.latency_us(record, latencies);
        if self.latency_us_max.is_some_and(|max| latency_us.is_none_or(|us| us > max)) {
            return Err(Reason::Latency);
        }
        let price = self.price_at(&record.price, cards.hour);
        if price > self.price_max {
            return Err(Reason::Price);
        }
        if self.excludes(slot, record) {
            return Err(Reason::Excluded);
        }
        let latency_us = latency_us.unwrap_or(if self.origin_known { UNKNOWN_ROUND_TRIP_US } else { 0 });
        let badness = match self.rank {
            Rank::Objective(objective) => {
                badness(objective, self.compared(record, price), record.quality_bps, latency_us, cards.ob)
            }
            Rank::Nearest(reason) => self.nearness(reason, record, side, latency_us, price),
        };
        Ok(Fit { badness })
    }

    /// What the demand would cost on a Container, whether its cores, memory and disk are free or not; `None` when
    /// its free cards do not serve.
    pub(super) fn price_of(&self, record: &Record) -> Option<UsdPerHour> {
        let cards = if self.gpu_count == 0 { Picked::default() } else { self.pick(record.side(self.basis)).ok()? };
        Some(UsdPerHour(self.price_at(&record.price, cards.hour)))
    }

    /// By what a Container is compared with others, of the same demand; `None` when its free cards do not serve.
    pub(super) fn compared_of(&self, record: &Record) -> Option<u64> {
        match self.paid {
            Paid::ByTheHour => self.price_of(record).map(|price| price.0),
            Paid::ByTheToken | Paid::AtEndpoint(_) => Some(self.compared(record, 0)),
        }
    }

    /// What tokens cost there where the demand pays by the token; else the price of an hour.
    fn compared(&self, record: &Record, price: u64) -> u64 {
        match self.paid {
            Paid::ByTheHour => price,
            Paid::ByTheToken => record.tokens,
            Paid::AtEndpoint(id) => {
                let offer = record.provider().endpoints.iter().find(|offer| offer.id == id);
                // How large a model is that an endpoint serves, each owner says.
                offer.map_or(u64::MAX, |offer| offer.ask.for_weights(offer.bytes).typical())
            }
        }
    }

    fn price_at(&self, prices: &Prices, cards: u64) -> u64 {
        let [core, memory, disk] = [prices.core_hour, prices.memory_gib_hour, prices.disk_gib_hour].map(u64::from);
        self.price(core, memory, disk, prices.reserved_bps, cards)
    }

    fn fits_amounts(&self, cpu: u32, memory: u64, disk: u64) -> Result<(), Reason> {
        if cpu < self.cpu {
            return Err(Reason::Cpu);
        }
        if memory < self.memory {
            return Err(Reason::Memory);
        }
        if disk < self.disk {
            return Err(Reason::Disk);
        }
        Ok(())
    }

    /// The price and OB of the cards that [`crate::hardware::pick_gpus`] would take.
    fn pick(&self, side: &Side) -> Result<Picked, Reason> {
        let (mut vram, mut ob) = (0u64, 0u32);
        if side.alike > 0
            && let Some(card) = side.first.as_ref().filter(|card| self.class.counts(card))
        {
            let count = u64::from(self.gpu_count);
            if self.serves(card) && side.alike >= self.gpu_count {
                return Ok(Picked { hour: card.hour.saturating_mul(count), ob: u64::from(card.ob) * count });
            }
        }
        let cards = &side.cards;
        let mut best: Option<Picked> = None;
        for group in cards.chunk_by(|a, b| a.model == b.model) {
            if !group.first().is_some_and(|card| self.class.counts(card)) {
                continue;
            }
            let mut left = self.gpu_count;
            let mut picked = Picked::default();
            for card in group {
                (vram, ob) = (vram.max(card.vram), ob.max(card.ob));
                if left > 0 && self.serves(card) {
                    left = left.saturating_sub(1);
                    picked.hour = picked.hour.saturating_add(card.hour);
                    picked.ob = picked.ob.saturating_add(u64::from(card.ob));
                }
            }
            if left == 0 && best.is_none_or(|best| picked.ob < best.ob) {
                best = Some(picked);
            }
        }
        best.ok_or(if vram < self.vram {
            Reason::Vram
        } else if ob < self.ob {
            Reason::Ob
        } else {
            Reason::GpuCount
        })
    }

    /// Whether a card is large and fast enough.
    pub(super) const fn serves(&self, card: &Card) -> bool {
        card.vram >= self.vram && card.ob >= self.ob
    }

    /// Of each model of the class, the cards that serve by VRAM and OB; descending by what `of` tells of them.
    pub(super) fn serving(&self, cards: &[Card], of: impl Fn(&Card) -> u64) -> Vec<Vec<u64>> {
        cards
            .chunk_by(|a, b| a.model == b.model)
            .filter(|group| group.first().is_some_and(|card| self.class.counts(card)))
            .map(|group| {
                let mut values: Vec<u64> = group.iter().filter(|card| self.serves(card)).map(&of).collect();
                values.sort_unstable_by(|a, b| b.cmp(a));
                values
            })
            .collect()
    }

    fn nearness(&self, reason: Reason, record: &Record, side: &Side, latency_us: u64, price: u64) -> u64 {
        // Of so many cards of one model, the weakest counts; the best model counts.
        let nth = usize::from(self.gpu_count).saturating_sub(1);
        let of_weakest = |values: Vec<Vec<u64>>| values.iter().filter_map(|v| v.get(nth)).max().copied().unwrap_or(0);
        match reason {
            Reason::Cpu => u64::MAX - u64::from(side.cpu),
            Reason::Memory => u64::MAX - side.memory,
            Reason::Disk => u64::MAX - side.disk,
            Reason::Vram => u64::MAX - of_weakest(self.serving(&side.cards, |card| card.vram)),
            Reason::Ob => u64::MAX - of_weakest(self.serving(&side.cards, |card| u64::from(card.ob))),
            Reason::GpuCount => {
                let most = self.serving(&side.cards, |_| 0).iter().map(Vec::len).max().unwrap_or(0);
                u64::MAX - u64::try_from(most).unwrap_or(0)
            }
            Reason::Bandwidth => u64::MAX - u64::from(record.bandwidth_mbps),
            Reason::TimeLimit => u64::MAX - u64::from(record.time_limit_s_max),
            Reason::Compliance => u64::MAX - record.compliance as u64,
            Reason::Latency => latency_us,
            Reason::Price => price,
            Reason::NotReady
            | Reason::Region
            | Reason::Forbidden
            | Reason::GpuModel
            | Reason::Kind
            | Reason::Egress
            | Reason::Term
            | Reason::Excluded => 0,
        }
    }

    /// Whether the demand names a Container as unwanted, or names others alone.
    pub(super) fn excludes(&self, slot: u32, record: &Record) -> bool {
        let named = !self.excluded.is_empty() && self.excluded.binary_search(&slot).is_ok();
        named || !self.only.is_empty() && self.reach(record).is_none()
    }

    fn reach(&self, record: &Record) -> Option<&Reach> {
        self.only.iter().find(|reach| reach.node == record.provider().node)
    }

    /// The round trip to a Container: measured by the consumer itself, measured between the networks or bounded by distance; `None` when neither
    /// is known.
    pub(super) fn latency_us(&self, record: &Record, latencies: &Latencies) -> Option<u64> {
        if !self.origin_known {
            return None;
        }
        if !self.only.is_empty()
            && let Some(us) = self.reach(record).and_then(|reach| reach.round_trip_us)
        {
            return Some(us.into());
        }
        let measured = match (self.network, record.network) {
            (Some(from), Some(to)) => latencies.get(from, to),
            _ => None,
        };
        match (self.point, record.point) {
            (Some(from), Some(to)) => Some(round_trip_us(from, to, measured)),
            _ => measured,
        }
    }

    fn latency_bound(&self, all: &Summary) -> u64 {
        match self.point {
            Some(from) if !all.unplaced && (self.latency_us_max.is_some() || self.minds_distance()) => {
                all.around.round_trip_us_min(from, self.may_be_measured)
            }
            _ => 0,
        }
    }

    /// Micro-dollars an hour; the same steps as [`crate::pricing::Ask::amounts_hour`], so that the two are equal.
    fn price(&self, core: u64, memory_gib: u64, disk_gib: u64, reserved_bps: Option<u16>, cards: u64) -> u64 {
        let cpu = self.priced_cpu.saturating_mul(core).div_ceil(1000);
        let memory = self.priced_memory_mib.saturating_mul(memory_gib).div_ceil(1024);
        let disk = self.priced_disk_mib.saturating_mul(disk_gib).div_ceil(1024);
        let sum = cpu.saturating_add(memory).saturating_add(disk).saturating_add(cards);
        match (self.term, reserved_bps) {
            (Term::Reserved, Some(bps)) => share(UsdPerHour(sum), bps).0,
            _ => sum,
        }
    }
}

/// How bad a Container is for an objective: falls with quality, rises with the round trip, and (where the demand is for a
/// model, the price is what typical tokens cost there, [`crate::inference::TokenAsk::typical`])
/// - `cheapest`: is the price;
/// - `balanced`: is the price, times up to three for bad quality, times one more for each 250 ms of round trip;
/// - `best`: is the square of what quality lacks (and a fifth on top) by the speed of the cards, times one more for
///   each 50 ms of round trip.
fn badness(objective: Objective, price: u64, quality_bps: u16, latency_us: u64, ob: u64) -> u64 {
    match objective {
        Objective::Cheapest => price,
        Objective::Balanced => {
            // One more, so that quality and distance count among Containers that cost nothing.
            let price = dearer(price.saturating_add(1), quality_bps);
            farther(u128::from(price), latency_us, BALANCED_US)
        }
        Objective::Best => {
            let lacking = u128::from(QUALITY_BPS_MAX.saturating_sub(quality_bps)).saturating_add(2_000);
            let scaled = lacking.saturating_mul(lacking).saturating_mul(u128::from(DEMERIT_SCALE));
            farther(scaled / u128::from(ob.max(1)), latency_us, BEST_US)
        }
    }
}

/// Something bad, made worse by a round trip: doubled by `unit_us`. Round trips count in whole steps, so that those who
/// are about as near are equal.
fn farther(bad: u128, latency_us: u64, unit_us: u64) -> u64 {
    let weight = (latency_us - latency_us % STEP_US).saturating_add(unit_us);
    // Dividing 128 bits takes long, and hardly anything is so bad.
    if let Some(product) = u64::try_from(bad).ok().and_then(|bad| bad.checked_mul(weight)) {
        return product / unit_us;
    }
    u64::try_from(bad.saturating_mul(u128::from(weight)) / u128::from(unit_us)).unwrap_or(u64::MAX)
}
