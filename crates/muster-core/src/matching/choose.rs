//! From those that fit to the one that is chosen.

use serde::{Deserialize, Serialize};

use crate::demand::{Demand, ONLY_MAX, Objective};
use crate::hardware::{Allocation, Free, GpuSet, pick_gpus};
use crate::ids::NodeId;
use crate::pricing::UsdPerHour;
use crate::units::TimeMs;

use super::query::{Paid, Query, Rank};
use super::record::{Class, Record};
use super::search::{Found, Random, Search, Tally, mix};
use super::tree::{Body, Node};
use super::warm::worst as warm_worst;
use super::why::{Odds, Reason, Rejection, Report};
use super::{EXACT_REPORT_MAX, Latencies, SAMPLE_MAX, View};

/// Up to so many near-best, all of them take part in the draw; of more, a sample that is drawn evenly.
const NEAR_ALL_MAX: usize = 16;
/// The size of such a sample.
const NEAR_SAMPLE: usize = 8;
/// A sample this small is filled up with near-best that the search met.
const NEAR_SAMPLE_MIN: usize = 4;
/// How often a Container is drawn for a sample; draws that hit one which does not fit are lost.
const DRAWS_MAX: usize = 40;
/// How finely the near-best are told from the rest before a sample is drawn.
const BRANCHES_MAX: usize = 16;
/// Once something fits, so many more branches are opened for more that are near the best, where the best was not
/// promised to the last per cent.
const NEAR_BRANCHES_MAX: u64 = 12;
/// The same for demands that pay by the token: trees are not ordered by that price, so that who is about as cheap stands in
/// other branches.
const NEAR_BRANCHES_BY_TOKEN_MAX: u64 = 96;
/// Once something fits, so many more branches are opened for more to fall back on.
const FALLBACK_BRANCHES_MAX: u64 = 12;

/// So many of those that were turned down are named when somebody was chosen; more when nothing fits.
const SAMPLE_WITH_CHOICE: usize = 3;

/// A Container that would serve a demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Which Container.
    pub node: NodeId,
    /// What it would set aside.
    pub allocation: Allocation,
    /// What that costs, under the demand's term.
    pub price: UsdPerHour,
    /// The round trip in microseconds, where anything is known of it.
    pub latency_us: Option<u64>,
    /// Whether the packages that the demand names are there; `None` when it names none.
    pub warm: Option<bool>,
}

/// The answer to a demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchResult {
    /// The chosen Container, then those to fall back on when it declines; empty when nothing fits.
    pub choices: Vec<Choice>,
    /// Who was considered, and why others were turned down.
    pub report: Report,
}

impl View {
    /// Finds a Container for one task of a demand that [`Demand::check`] accepts.
    ///
    /// `seed` should be drawn anew for each demand, by somebody whom no Container can foretell. `now` tells how
    /// long ago Containers were chosen. The same view, demand, seed and time give the same answer.
    #[must_use]
    pub fn match_one(&self, demand: &Demand, seed: u64, now: TimeMs) -> MatchResult {
        self.match_some(demand, self.settings.choices_max.max(1), seed, now)
    }

    /// A few Containers that would serve a demand if they are near enough, for a consumer who measures the way to them
    /// before it chooses ([`Demand::only`]). At most [`ONLY_MAX`].
    #[must_use]
    pub fn candidates(&self, demand: &Demand, count: usize, seed: u64, now: TimeMs) -> Vec<NodeId> {
        let anywhere = Demand { latency_ms_max: None, ..demand.clone() };
        let found = self.match_some(&anywhere, count.clamp(1, ONLY_MAX), seed, now);
        found.choices.into_iter().map(|choice| choice.node).collect()
    }

    fn match_some(&self, demand: &Demand, choices_max: usize, seed: u64, now: TimeMs) -> MatchResult {
        let query = Query::new(demand, self);
        let mut random = Random::new(mix(seed ^ 0x6d61_7463_6869_6e67));
        if !demand.only.is_empty() {
            return self.match_listed(demand, &query, choices_max, now, &mut random);
        }
        let region = demand.region.as_ref();
        if demand.objective == Objective::Balanced && demand.price_max.is_some() {
            // The trees of this objective tell no plain prices, so whether anybody is cheap enough is asked elsewhere.
            let by_price = query.by(Rank::Objective(Objective::Cheapest));
            let roots = self.roots(&by_price, region);
            let mut search = Search::new(self, &by_price, &roots, seed);
            if search.next().is_none() {
                return self.result(Vec::new(), demand, &query, search.tally);
            }
        }
        let roots = self.roots(&query, region);
        let mut search = Search::new(self, &query, &roots, seed);
        let Gathered { mut near, beyond, near_worst } = gather(&mut search, demand.objective, choices_max);
        let best = near.iter().map(|found| found.fit.badness).min();
        let warm = best.map_or_else(Vec::new, |best| self.warm_ones(demand, &query, best, seed));
        if near.len() > NEAR_ALL_MAX {
            let mut sample = self.sample(&query, &roots.nodes, near_worst, &mut random);
            if sample.len() < NEAR_SAMPLE_MIN {
                near.retain(|found| !sample.contains(found));
                sample.append(&mut near);
            }
            near = sample;
        }
        let (mut picked, odds) = if warm.is_empty() {
            self.draw_with_odds(near, &query, choices_max, now, &mut random)
        } else {
            let (mut first, odds) = self.draw_with_odds(warm, &query, choices_max, now, &mut random);
            near.retain(|found| !first.iter().any(|one| one.slot == found.slot));
            first.extend(self.draw(near, &query, choices_max, now, &mut random));
            (first, odds)
        };
        let known: Vec<u32> = picked.iter().map(|found| found.slot).collect();
        picked.extend(beyond.into_iter().filter(|found| !known.contains(&found.slot)));
        picked.truncate(choices_max);
        let mut result = self.result(picked, demand, &query, search.tally);
        result.report.odds = odds;
        result
    }

    /// The same among Containers that the demand names: they are looked at one by one, and nobody else is.
    fn match_listed(
        &self,
        demand: &Demand,
        query: &Query,
        choices_max: usize,
        now: TimeMs,
        random: &mut Random,
    ) -> MatchResult {
        let mut slots: Vec<u32> = demand.only.iter().filter_map(|reach| self.slot(&reach.node)).collect();
        slots.sort_unstable();
        slots.dedup();
        let considered = u64::try_from(slots.len()).unwrap_or(u64::MAX);
        let mut report = Report { considered, ..Report::default() };
        let mut fits: Vec<Found> = Vec::new();
        for slot in &slots {
            let Some(record) = self.record(*slot) else { continue };
            match self.first_why(*slot, demand, query) {
                Some(why) => {
                    match report.turned_down.iter_mut().find(|(reason, _)| *reason == why.reason()) {
                        Some((_, count)) => *count = count.saturating_add(1),
                        None => report.turned_down.push((why.reason(), 1)),
                    }
                    report.sample.push(Rejection { node: record.provider().node, why });
                }
                None => fits.extend(query.check(*slot, record, &self.latencies).map(|fit| Found { slot: *slot, fit })),
            }
        }
        report.fit = u64::try_from(fits.len()).unwrap_or(u64::MAX);
        fits.sort_unstable_by_key(|found| (found.fit.badness, found.slot));
        let best = fits.first().map_or(0, |best| best.fit.badness);
        // Where the packages are there already comes first, as everywhere.
        let is_warm = |found: &Found| {
            let provider = self.record(found.slot).map(Record::provider);
            let has = demand.warm_id().is_some_and(|set| provider.is_some_and(|p| p.warm.contains(&set)));
            has && found.fit.badness <= warm_worst(demand.objective, best)
        };
        let (warm, others): (Vec<Found>, Vec<Found>) = fits.into_iter().partition(is_warm);
        let worst = near_best(demand.objective, best);
        let (near, beyond): (Vec<Found>, Vec<Found>) = others.into_iter().partition(|f| f.fit.badness <= worst);
        let (mut picked, mut odds) = self.draw_with_odds(warm, query, choices_max, now, random);
        let (drawn, odds_of_near) = self.draw_with_odds(near, query, choices_max, now, random);
        if picked.is_empty() {
            odds = odds_of_near;
        }
        picked.extend(drawn);
        picked.extend(beyond);
        picked.truncate(choices_max);
        let choices: Vec<Choice> = picked
            .iter()
            .filter_map(|found| choice_of(self.record(found.slot)?, demand, query, &self.latencies))
            .collect();
        report.odds = odds;
        if choices.is_empty() {
            report.nearest_miss = Some(self.listed_miss(demand, query, &slots, &report));
        }
        MatchResult { choices, report }
    }

    fn result(&self, picked: Vec<Found>, demand: &Demand, query: &Query, mut tally: Tally) -> MatchResult {
        let choices: Vec<Choice> = picked
            .iter()
            .filter_map(|found| choice_of(self.record(found.slot)?, demand, query, &self.latencies))
            .collect();
        if !choices.is_empty() {
            tally.sample.truncate(SAMPLE_WITH_CHOICE);
        }
        let mut report = self.report(demand, query, tally);
        if choices.is_empty() {
            report.nearest_miss = Some(self.nearest_miss(demand, query));
        }
        MatchResult { choices, report }
    }

    /// Draws near-best evenly: branches without near-best are left out, a place among the rest is drawn, and it counts
    /// if who stands there is near-best. Every near-best has the same odds, whatever stands around it.
    fn sample(&self, query: &Query, roots: &[&Node], worst: u64, random: &mut Random) -> Vec<Found> {
        let near = |node: &Node| query.bound(&node.summary).is_ok_and(|badness| badness <= worst);
        let mut branches: Vec<&Node> = roots.iter().copied().filter(|root| near(root)).collect();
        while branches.len() < BRANCHES_MAX {
            let inner = branches.iter().enumerate().filter(|(_, node)| matches!(node.body, Body::Inner(_)));
            let Some((at, node)) = inner.max_by_key(|(at, node)| (node.summary.count, core::cmp::Reverse(*at))) else {
                break;
            };
            let Body::Inner(children) = &node.body else { break };
            branches.swap_remove(at);
            branches.extend(children.iter().filter(|child| near(child)));
        }
        let count = branches.iter().map(|node| u64::from(node.summary.count)).sum();
        let mut sample: Vec<Found> = Vec::with_capacity(NEAR_SAMPLE);
        for _ in 0..DRAWS_MAX {
            let place = random.below(count);
            let Some(slot) = slot_at(&branches, place, &near) else { continue };
            let Some(record) = self.record(slot) else { continue };
            let Ok(fit) = query.check(slot, record, &self.latencies) else { continue };
            if fit.badness <= worst && !sample.iter().any(|found| found.slot == slot) {
                sample.push(Found { slot, fit });
                if sample.len() >= NEAR_SAMPLE {
                    break;
                }
            }
        }
        sample
    }

    /// Takes up to `count` of the near-best one after the other, each with odds by its weight.
    pub(super) fn draw(
        &self,
        near: Vec<Found>,
        query: &Query,
        count: usize,
        now: TimeMs,
        random: &mut Random,
    ) -> Vec<Found> {
        self.draw_with_odds(near, query, count, now, random).0
    }

    /// The same, and what made the odds of those that were taken.
    fn draw_with_odds(
        &self,
        near: Vec<Found>,
        query: &Query,
        count: usize,
        now: TimeMs,
        random: &mut Random,
    ) -> (Vec<Found>, Vec<Odds>) {
        let best = near.iter().map(|found| found.fit.badness).min().unwrap_or(0);
        let prices = near.iter().filter_map(|found| query.compared_of(self.record(found.slot)?));
        let least = if query.rank == Rank::Objective(Objective::Best) { prices.min() } else { None };
        let mut left: Vec<(u64, Found)> = near
            .into_iter()
            .filter_map(|found| Some((self.weight(self.record(found.slot)?, &found, (best, least), query, now), found)))
            .collect();
        let mut drawn = Vec::with_capacity(count);
        let mut odds = Vec::with_capacity(count.min(left.len()));
        let all: u64 = left.iter().map(|(weight, _)| *weight).sum();
        while drawn.len() < count && !left.is_empty() {
            let sum = left.iter().map(|(weight, _)| *weight).sum();
            let mut place = random.below(sum);
            let at = left.iter().position(|(weight, _)| {
                let here = place < *weight;
                place = place.saturating_sub(*weight);
                here
            });
            let (weight, found) = left.remove(at.unwrap_or(0));
            odds.extend(self.record(found.slot).map(|record| self.odds(record, query, (weight, all), now)));
            drawn.push(found);
        }
        (drawn, odds)
    }

    fn odds(&self, record: &Record, query: &Query, (weight, all): (u64, u64), now: TimeMs) -> Odds {
        let share = u128::from(weight).saturating_mul(1_000_000) / u128::from(all.max(1));
        let recent = u64::from(record.recent_now(now, self.settings.recent_half_life_ms));
        Odds {
            node: record.provider().node,
            share_ppm: u32::try_from(share).unwrap_or(1_000_000),
            quality_bps: record.quality_bps,
            stake: record.provider().stake,
            warm: query.packages.map(|set| record.provider().warm.contains(&set)),
            // Being chosen once counts 256.
            chosen_lately_milli: recent.saturating_mul(1_000) / 256,
        }
    }

    /// A Container's odds: never zero, below 2^50. `best` has the least badness of the near-best and, where the price
    /// has no part in the rank, their least price: at least it shall count among those who are about as good.
    fn weight(&self, record: &Record, found: &Found, best: (u64, Option<u64>), query: &Query, now: TimeMs) -> u64 {
        // Who has cards should be left for work that needs them.
        let by_match = if query.class == Class::Cpu && record.has_cards { 250 } else { 1_000 };
        // Within the near-best, ten times the distance to the best is the share of the odds that is lost.
        let behind = found.fit.badness.saturating_sub(best.0);
        let lost = u128::from(behind).saturating_mul(10_000) / u128::from(best.0.max(1));
        let mut by_rank = 1_000u64.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX).min(750));
        if let (Some(least), Some(price)) = (best.1, query.compared_of(record)) {
            let share = u128::from(least).saturating_mul(1_000) / u128::from(price.max(1));
            by_rank = by_rank.saturating_mul(u64::try_from(share).unwrap_or(1_000).clamp(1, 1_000)) / 1_000;
        }
        let by_quality = u64::from(record.quality_bps).saturating_add(1_000);
        let by_stake = u64::from(record.stake_weight);
        let recent = u64::from(record.recent_now(now, self.settings.recent_half_life_ms));
        let weight = by_match * by_rank.max(1) * by_quality * by_stake / 1_000;
        (weight.saturating_mul(256) / recent.saturating_add(256)).max(1)
    }

    /// Counts who was turned down. A few Containers are counted one by one, each under its own first reason.
    pub(super) fn report(&self, demand: &Demand, query: &Query, tally: Tally) -> Report {
        let considered = u64::try_from(self.len()).unwrap_or(u64::MAX);
        if self.len() <= EXACT_REPORT_MAX {
            return self.exact_report(demand, query, considered);
        }
        let mut counts = tally.turned_down;
        let mut add = |reason: Reason, count: u64| {
            if let Some(sum) = counts.get_mut(reason.index()) {
                *sum = sum.saturating_add(count);
            }
        };
        let region = demand.region.as_ref();
        let (everywhere, there) = (self.ready(Class::Cpu, None), self.ready(Class::Cpu, region));
        let in_class = self.ready(query.class, region);
        add(Reason::NotReady, self.idle.values().sum());
        add(Reason::Forbidden, self.forbidden);
        add(Reason::Region, everywhere.saturating_sub(there));
        add(Reason::GpuModel, there.saturating_sub(in_class));
        let turned_down: Vec<(Reason, u64)> =
            Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        let known: u64 = turned_down.iter().map(|(_, count)| *count).sum::<u64>().saturating_add(tally.fit);
        let sample = tally.sample.into_iter().filter_map(|slot| {
            let why = self.first_why(slot, demand, query)?;
            Some(Rejection { node: self.record(slot)?.provider().node, why })
        });
        Report {
            considered,
            fit: tally.fit,
            not_compared: considered.saturating_sub(known),
            turned_down,
            sample: sample.collect(),
            nearest_miss: None,
            odds: Vec::new(),
        }
    }

    fn exact_report(&self, demand: &Demand, query: &Query, considered: u64) -> Report {
        let mut report = Report { considered, ..Report::default() };
        let mut counts = [0u64; Reason::COUNT];
        for slot in self.slots() {
            let Some(why) = self.first_why(slot, demand, query) else {
                report.fit = report.fit.saturating_add(1);
                continue;
            };
            if let Some(count) = counts.get_mut(why.reason().index()) {
                *count = count.saturating_add(1);
            }
            if report.sample.len() < SAMPLE_MAX
                && let Some(record) = self.record(slot)
            {
                report.sample.push(Rejection { node: record.provider().node, why });
            }
        }
        report.turned_down = Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        report
    }
}

/// What a search gave, from the best on.
struct Gathered {
    near: Vec<Found>,
    beyond: Vec<Found>,
    near_worst: u64,
}

/// Takes the near-best, until it is clear that they are more than take part in a draw, and if they are few, some
/// beyond them to fall back on.
fn gather(search: &mut Search<'_, '_>, objective: Objective, choices_max: usize) -> Gathered {
    let (mut near, mut beyond) = (Vec::new(), Vec::new());
    let mut near_worst = 0;
    while let Some(found) = search.next() {
        if near.is_empty() {
            if objective != Objective::Cheapest {
                search.branches_left = match search.paid() {
                    Paid::ByTheHour => NEAR_BRANCHES_MAX,
                    Paid::ByTheToken | Paid::AtEndpoint(_) => NEAR_BRANCHES_BY_TOKEN_MAX,
                };
            }
            near_worst = near_best(objective, found.fit.badness);
        }
        if found.fit.badness <= near_worst {
            near.push(found);
            if near.len() >= choices_max {
                search.worst = near_worst;
            }
            if near.len() > NEAR_ALL_MAX {
                break;
            }
        } else {
            if beyond.is_empty() {
                search.branches_left = search.branches_left.min(FALLBACK_BRANCHES_MAX);
            }
            beyond.push(found);
            if near.len().saturating_add(beyond.len()) >= choices_max {
                break;
            }
        }
    }
    Gathered { near, beyond, near_worst }
}

/// The worst badness that still counts as near the best.
pub(super) const fn near_best(objective: Objective, best: u64) -> u64 {
    best.saturating_add(match objective {
        Objective::Cheapest => best / 100,
        Objective::Best | Objective::Balanced => best / 20,
    })
}

/// Who stands at a place, counted through the branches; `None` when it is in a branch without near-best.
fn slot_at(branches: &[&Node], mut place: u64, near: &impl Fn(&Node) -> bool) -> Option<u32> {
    let mut node = *branches.iter().find(|node| passes(node, &mut place))?;
    loop {
        match &node.body {
            Body::Leaf(items) => return items.get(usize::try_from(place).ok()?).map(|item| item.slot),
            Body::Inner(children) => {
                node = children.iter().find(|child| passes(child, &mut place)).filter(|child| near(child))?;
            }
        }
    }
}

/// Whether a place is in this node; if not, the place is counted on from behind it.
fn passes(node: &Node, place: &mut u64) -> bool {
    let count = u64::from(node.summary.count);
    let here = *place < count;
    if !here {
        *place = place.saturating_sub(count);
    }
    here
}

/// What a Container would be chosen for; `None` when cores, memory, disk or cards are not free.
pub(super) fn choice_of(record: &Record, demand: &Demand, query: &Query, latencies: &Latencies) -> Option<Choice> {
    choice_from(record, &record.provider().free, demand, query, latencies)
}

/// The same when only `free` of the Container is.
pub(super) fn choice_from(
    record: &Record,
    free: &Free,
    demand: &Demand,
    query: &Query,
    latencies: &Latencies,
) -> Option<Choice> {
    let provider = record.provider();
    if free.cpu_millis < demand.cpu_millis || free.memory < demand.memory || free.disk < demand.disk {
        return None;
    }
    let usable = GpuSet(free.gpus.0 & record.cold.usable.0);
    let gpus = pick_gpus(&provider.capacity.gpus, usable, &query.need).ok()?;
    let Demand { cpu_millis, memory, disk, .. } = *demand;
    let allocation = Allocation { cpu_millis, memory, disk, gpus };
    let on_demand = provider.ask.allocation_hour(&allocation, &provider.capacity.gpus).ok()?;
    let price = provider.ask.under_term(on_demand, demand.term)?;
    let latency_us = query.latency_us(record, latencies);
    let warm = query.packages.map(|set| provider.warm.contains(&set));
    Some(Choice { node: provider.node, allocation, price, latency_us, warm })
}
