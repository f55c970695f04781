//! What is known of all Containers, kept so that a match finds its way without looking at each.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::demand::{NetworkId, Region};
use crate::hardware::{Allocation, Free, GpuModel, GpuSet};
use crate::ids::NodeId;
use crate::units::{Bytes, TimeMs};

use super::query::Query;
use super::record::{Basis, Class, ContainerState, Order, Provider, Record, Stand};
use super::summary::{Change, Summary};
use super::tree::{Item, Node, Tree};
use super::warm::Warm;
use super::why::Reason;
use super::{Latencies, MatchingError, POLICY_RULES_MAX, REGIONS_MAX};

/// What may not be used where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// At most [`POLICY_RULES_MAX`].
    pub rules: Vec<PolicyRule>,
}

/// One rule: in this region this model, or whole Containers, may not be used. A Container whose region is
/// unknown counts as being in the region: unknown is not "no".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// Where.
    pub region: Region,
    /// Which cards; `None` for everything.
    pub model: Option<GpuModel>,
}

impl PolicyRule {
    fn concerns(&self, region: Option<&Region>) -> bool {
        region.is_none_or(|region| self.region.contains(region))
    }
}

/// How matching behaves beside what a demand says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// After so long, having been chosen counts half.
    pub recent_half_life_ms: u64,
    /// The most Containers that a match names, the chosen one and those to fall back on.
    pub choices_max: usize,
    /// What may not be used where.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self { recent_half_life_ms: 600_000, choices_max: 5, policy: Policy::default() }
    }
}

/// Where a search begins.
#[derive(Debug)]
pub(super) struct Roots<'v> {
    pub(super) nodes: Vec<&'v Node>,
    /// Whole kinds of Containers in which nobody serves.
    pub(super) turned_down: Vec<(Reason, u32)>,
}

/// Which tree it is, and what tells a Container's summary in it.
type Told<'t> = (Stand, Order, &'t dyn Fn(u32) -> Summary);

/// The trees of one kind of Container.
#[derive(Clone, Debug, Default)]
struct Forest {
    /// Everywhere; but what there is in all is only searched region by region.
    everywhere: Grove,
    regions: BTreeMap<Option<Region>, Grove>,
}

/// The trees of one kind of Container in one region or everywhere.
#[derive(Clone, Debug, Default)]
struct Grove {
    /// By price, by what is free.
    price: Tree,
    /// As the objective `balanced` has it, but for distance, by what is free.
    balanced: Tree,
    /// As the objective `best` has it, but for distance, by what is free.
    best: Tree,
    /// By price, by all that there is.
    total: Tree,
}

impl Grove {
    fn of(&self, query: &Query) -> &Tree {
        match (query.basis, query.order()) {
            (Basis::Total, _) => &self.total,
            (Basis::Free, Order::Price) => &self.price,
            (Basis::Free, Order::Balanced) => &self.balanced,
            (Basis::Free, Order::Best) => &self.best,
        }
    }

    fn count(&self) -> u64 {
        self.price.root().map_or(0, |root| u64::from(root.summary.count))
    }
}

/// What is known of all Containers.
///
/// Matching reads it; [`View::upsert`], [`View::update_free`] and the like change it, each in time logarithmic in
/// the number of Containers. A clone is an independent snapshot (and costs as much memory).
#[derive(Clone, Debug)]
pub struct View {
    pub(super) settings: Settings,
    records: Vec<Option<Record>>,
    spare: Vec<u32>,
    by_node: BTreeMap<NodeId, u32>,
    forests: BTreeMap<Stand, Forest>,
    /// How many Containers name each region.
    places: BTreeMap<Region, u64>,
    /// Known but not in the trees.
    pub(super) idle: BTreeMap<ContainerState, u64>,
    pub(super) forbidden: u64,
    /// Models that Containers in the trees offer, and how many do.
    pub(super) models: BTreeMap<GpuModel, u64>,
    pub(super) latencies: Latencies,
    pub(super) warm: Warm,
}

impl View {
    /// A view of no Container.
    ///
    /// # Errors
    /// [`MatchingError::PolicyTooLong`].
    pub fn new(settings: Settings) -> Result<Self, MatchingError> {
        let got = settings.policy.rules.len();
        if got > POLICY_RULES_MAX {
            return Err(MatchingError::PolicyTooLong { got });
        }
        Ok(Self {
            settings,
            records: Vec::new(),
            spare: Vec::new(),
            by_node: BTreeMap::new(),
            forests: BTreeMap::new(),
            places: BTreeMap::new(),
            idle: BTreeMap::new(),
            forbidden: 0,
            models: BTreeMap::new(),
            latencies: Latencies::default(),
            warm: Warm::default(),
        })
    }

    /// How many Containers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    /// Whether no Container is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    /// What is known of a Container.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Provider> {
        self.record(self.slot(node)?).map(|record| record.provider())
    }

    /// All Containers, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.by_node.values().filter_map(|slot| self.record(*slot)).map(|record| record.provider())
    }

    /// Takes a Container in, or replaces what was known of it; how often it was chosen lately stays.
    ///
    /// # Errors
    /// Its hardware or ask is out of bounds, it names one region too many, or the view is full; then nothing changed.
    pub fn upsert(&mut self, provider: Provider) -> Result<(), MatchingError> {
        provider.capacity.check()?;
        provider.ask.check()?;
        let node = provider.node;
        if let Some(region) = &provider.region
            && !self.places.contains_key(region)
            && self.places.len() >= REGIONS_MAX
        {
            return Err(MatchingError::TooManyRegions { region: region.clone() });
        }
        let usable = self.usable(&provider);
        let mut record = Record::new(provider, usable);
        let slot = if let Some(slot) = self.slot(&node) {
            self.detach(slot);
            if let Some(old) = self.records.get(usize::try_from(slot).unwrap_or(usize::MAX)).and_then(Option::as_ref) {
                record.keep_recent(old);
                self.warm.remove(old.provider());
            }
            slot
        } else {
            let next = u32::try_from(self.records.len()).ok();
            let slot = self.spare.pop().or(next).ok_or(MatchingError::Full { have: self.len() })?;
            if next == Some(slot) {
                self.records.push(None);
            }
            self.by_node.insert(node, slot);
            slot
        };
        self.warm.add(record.provider());
        if let Some(place) = self.at_mut(slot) {
            *place = Some(record);
        }
        self.attach(slot);
        Ok(())
    }

    /// Forgets a Container; whether it was known.
    pub fn remove(&mut self, node: &NodeId) -> bool {
        let Some(slot) = self.by_node.remove(node) else { return false };
        self.detach(slot);
        if let Some(old) = self.at_mut(slot).and_then(Option::take) {
            self.warm.remove(old.provider());
        }
        self.spare.push(slot);
        true
    }

    /// Notes what of a Container is free, as a heartbeat tells; whether it is known.
    pub fn update_free(&mut self, node: &NodeId, free: Free) -> bool {
        let Some(slot) = self.slot(node) else { return false };
        let Some(record) = self.at_mut(slot).and_then(Option::as_mut) else { return false };
        let before = record.clone();
        if record.set_free(free) {
            self.refresh(slot, &before);
        }
        true
    }

    /// Counts an allocation as taken until the next heartbeat tells; whether the Container is known and has it free.
    pub fn hold(&mut self, node: &NodeId, allocation: &Allocation) -> bool {
        let Some(free) = self.get(node).map(|provider| provider.free) else { return false };
        let Some(cpu_millis) = free.cpu_millis.checked_sub(allocation.cpu_millis) else { return false };
        let Some(memory) = free.memory.0.checked_sub(allocation.memory.0) else { return false };
        let Some(disk) = free.disk.0.checked_sub(allocation.disk.0) else { return false };
        if !free.gpus.contains_all(allocation.gpus) {
            return false;
        }
        let gpus = free.gpus.without(allocation.gpus);
        self.update_free(node, Free { cpu_millis, memory: Bytes(memory), disk: Bytes(disk), gpus })
    }

    /// Notes where a Container stands; whether it is known.
    pub fn set_state(&mut self, node: &NodeId, state: ContainerState) -> bool {
        let Some(slot) = self.slot(node) else { return false };
        if self.record(slot).is_some_and(|record| record.provider().state != state) {
            // Standby and serving are in the same trees, but going from one to the other is rare enough.
            self.detach(slot);
            if let Some(record) = self.at_mut(slot).and_then(Option::as_mut) {
                record.cold.provider.state = state;
            }
            self.attach(slot);
        }
        true
    }

    /// Notes what Checkers found of a Container, in ten-thousandths; whether it is known.
    pub fn set_quality(&mut self, node: &NodeId, quality_bps: u16) -> bool {
        let Some(slot) = self.slot(node) else { return false };
        let quality_bps = quality_bps.min(super::QUALITY_BPS_MAX);
        if self.record(slot).is_some_and(|record| record.quality_bps != quality_bps) {
            // Quality decides where it stands in the trees.
            self.detach(slot);
            if let Some(record) = self.at_mut(slot).and_then(Option::as_mut) {
                record.quality_bps = quality_bps;
                record.cold.provider.quality_bps = quality_bps;
            }
            self.attach(slot);
        }
        true
    }

    /// Counts that a Container was chosen, which lowers its odds for a while; whether it is known.
    pub fn note_chosen(&mut self, node: &NodeId, now: TimeMs) -> bool {
        let half_life_ms = self.settings.recent_half_life_ms;
        let record = self.slot(node).and_then(|slot| self.at_mut(slot)).and_then(Option::as_mut);
        record.map(|record| record.note_chosen(now, half_life_ms)).is_some()
    }

    /// Notes a round trip that was measured between two networks, in microseconds. Whether it was taken: a new pair
    /// is not once there are [`super::LATENCIES_MAX`].
    pub fn note_latency(&mut self, a: NetworkId, b: NetworkId, round_trip_us: u64) -> bool {
        self.latencies.note(a, b, round_trip_us)
    }

    /// The cards that the policy lets a Container use; see [`View::region_forbidden`] for whole Containers.
    fn usable(&self, provider: &Provider) -> GpuSet {
        let region = provider.region.as_ref();
        let models = self.settings.policy.rules.iter().filter(|rule| rule.concerns(region));
        let forbidden: Vec<&GpuModel> = models.filter_map(|rule| rule.model.as_ref()).collect();
        let cards = provider.capacity.gpus.iter().enumerate();
        cards.filter(|(_, gpu)| !forbidden.contains(&&gpu.model)).fold(GpuSet::NONE, |set, (index, _)| set.with(index))
    }

    pub(super) fn region_forbidden(&self, region: Option<&Region>) -> bool {
        self.settings.policy.rules.iter().any(|rule| rule.model.is_none() && rule.concerns(region))
    }

    pub(super) fn slot(&self, node: &NodeId) -> Option<u32> {
        self.by_node.get(node).copied()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.by_node.values().copied()
    }

    pub(super) fn record(&self, slot: u32) -> Option<&Record> {
        self.records.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    fn at_mut(&mut self, slot: u32) -> Option<&mut Option<Record>> {
        self.records.get_mut(usize::try_from(slot).ok()?)
    }

    /// The trees in which a query's answers are, the demand's region being `region`.
    pub(super) fn roots(&self, query: &Query, region: Option<&Region>) -> Roots<'_> {
        let mut roots = Roots { nodes: Vec::with_capacity(32), turned_down: Vec::new() };
        for forest in self.forests(query.class) {
            if let Some(region) = region {
                roots.nodes.extend(forest.within(region).filter_map(|grove| grove.of(query).root()));
                continue;
            }
            if query.basis == Basis::Free
                && let Some(root) = forest.everywhere.price.root()
                && let Err(reason) = query.bound_by_price(&root.summary)
            {
                // Where nobody serves, regions need not be looked at one by one.
                roots.turned_down.push((reason, root.summary.count));
            } else if query.basis == Basis::Free && !query.minds_distance() {
                roots.nodes.extend(forest.everywhere.of(query).root());
            } else {
                roots.nodes.extend(forest.regions.values().filter_map(|grove| grove.of(query).root()));
            }
        }
        roots
    }

    /// The kinds of Containers that a class of demand concerns.
    fn forests(&self, class: Class) -> impl Iterator<Item = &Forest> {
        let (first, rest) = match class {
            Class::Cpu => (Stand::Cpu, Stand::Cpu..=Stand::Cpu),
            Class::AnyGpu => (Stand::Mixed, Stand::Model(0)..=Stand::Model(u64::MAX)),
            Class::Model(model) => (Stand::MixedModel(model), Stand::Model(model)..=Stand::Model(model)),
        };
        let first = (class != Class::Cpu).then(|| self.forests.get(&first)).flatten();
        first.into_iter().chain(self.forests.range(rest).map(|(_, forest)| forest))
    }

    /// How many Containers of a class take work, in a region or anywhere.
    pub(super) fn ready(&self, class: Class, region: Option<&Region>) -> u64 {
        let count = |forest: &Forest| match region {
            Some(region) => forest.within(region).map(Grove::count).sum(),
            None => forest.everywhere.count(),
        };
        self.forests(class).map(count).sum()
    }

    /// The named regions in which Containers of a class take work.
    pub(super) fn regions(&self, class: Class) -> BTreeSet<&Region> {
        self.forests(class).flat_map(|forest| forest.regions.keys().flatten()).collect()
    }

    /// Puts a Container in the trees of its kinds, or counts why it is in none.
    fn attach(&mut self, slot: u32) {
        let Some(record) = self.record(slot) else { return };
        let state = record.provider().state;
        if let Some(region) = record.provider().region.clone() {
            let count = self.places.entry(region).or_insert(0);
            *count = count.saturating_add(1);
        }
        let Some(record) = self.record(slot) else { return };
        if !state.takes_work() {
            let count = self.idle.entry(state).or_insert(0);
            *count = count.saturating_add(1);
        } else if self.region_forbidden(record.provider().region.as_ref()) {
            self.forbidden = self.forbidden.saturating_add(1);
        } else {
            for model in usable_models(record) {
                let count = self.models.entry(model).or_insert(0);
                *count = count.saturating_add(1);
            }
            self.in_trees(slot, true, |tree, item, (_, _, of)| tree.insert(item, &of));
        }
    }

    /// The reverse of [`View::attach`].
    fn detach(&mut self, slot: u32) {
        let Some(record) = self.record(slot) else { return };
        let state = record.provider().state;
        if let Some(count) = record.provider().region.clone().and_then(|region| self.places.get_mut(&region)) {
            *count = count.saturating_sub(1);
            self.places.retain(|_, count| *count > 0);
        }
        let Some(record) = self.record(slot) else { return };
        if !state.takes_work() {
            self.idle.entry(state).and_modify(|count| *count = count.saturating_sub(1));
            self.idle.retain(|_, count| *count > 0);
        } else if self.region_forbidden(record.provider().region.as_ref()) {
            self.forbidden = self.forbidden.saturating_sub(1);
        } else {
            for model in usable_models(record) {
                self.models.entry(model).and_modify(|count| *count = count.saturating_sub(1));
            }
            self.models.retain(|_, count| *count > 0);
            self.in_trees(slot, true, |tree, item, (_, _, of)| {
                let was_there = tree.remove(&item.key, &of);
                debug_assert!(was_there, "a Container that takes work is in its trees");
            });
        }
    }

    /// Brings the summaries above a Container up to date with what is free; `before` is what was known of it.
    fn refresh(&mut self, slot: u32, before: &Record) {
        let Some(record) = self.record(slot) else { return };
        if record.provider().state.takes_work() && !self.region_forbidden(record.provider().region.as_ref()) {
            self.in_trees(slot, false, |tree, item, told| {
                let (stand, order, of) = told;
                let change = Change { before: before.summary(stand, Basis::Free, order), after: of(slot) };
                let was_there = tree.refresh(&item.key, &change, &of);
                debug_assert!(was_there, "a Container that takes work is in its trees");
            });
        }
    }

    /// Does something to each tree that a Container belongs to, or only to those that tell what is free; and drops
    /// trees that became empty.
    fn in_trees(&mut self, slot: u32, total_too: bool, mut act: impl FnMut(&mut Tree, Item, Told<'_>)) {
        let records = &self.records;
        let record_at = |slot: u32| usize::try_from(slot).ok().and_then(|at| records.get(at)?.as_ref());
        let Some(record) = record_at(slot) else { return };
        let region = &record.provider().region;
        for stand in record.stands() {
            let mut act = |tree: &mut Tree, basis: Basis, order: Order| {
                let of =
                    |slot: u32| record_at(slot).map_or(Summary::EMPTY, |record| record.summary(stand, basis, order));
                act(tree, Item { key: record.key(stand, order), slot }, (stand, order, &of));
            };
            let forest = self.forests.entry(stand).or_default();
            let grove = match forest.regions.get_mut(region) {
                Some(grove) => grove,
                None => forest.regions.entry(region.clone()).or_default(),
            };
            for grove in [&mut forest.everywhere, &mut *grove] {
                act(&mut grove.price, Basis::Free, Order::Price);
                act(&mut grove.balanced, Basis::Free, Order::Balanced);
                act(&mut grove.best, Basis::Free, Order::Best);
            }
            if total_too {
                act(&mut grove.total, Basis::Total, Order::Price);
            }
            if grove.count() == 0 {
                forest.regions.remove(region);
            }
            if forest.everywhere.count() == 0 {
                self.forests.remove(&stand);
            }
        }
    }
}

impl Forest {
    /// The groves of the regions inside `region`.
    fn within(&self, region: &Region) -> impl Iterator<Item = &Grove> {
        // Names that begin with the region's own stand together; `eur` may stand among those of `eu`.
        self.regions
            .range(Some(region.clone())..)
            .take_while(move |(name, _)| name.as_ref().is_some_and(|n| n.as_str().starts_with(region.as_str())))
            .filter(move |(name, _)| name.as_ref().is_some_and(|name| region.contains(name)))
            .map(|(_, grove)| grove)
    }
}

fn usable_models(record: &Record) -> Vec<GpuModel> {
    let cards = record.provider().capacity.gpus.iter().enumerate();
    let mut models: Vec<GpuModel> =
        cards.filter(|(index, _)| record.cold.usable.contains(*index)).map(|(_, gpu)| gpu.model.clone()).collect();
    models.sort_unstable();
    models.dedup();
    models
}
