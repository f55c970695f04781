//! Many tasks of one demand: arrays, of which as many run at once as fit, and gangs, which run whole or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::demand::{Demand, Grouping};
use crate::hardware::Free;
use crate::units::{Bytes, TimeMs};

use super::View;
use super::choose::{Choice, choice_from, near_best};
use super::query::Query;
use super::record::{Basis, Record, SiteId};
use super::search::{Found, Random, Search, mix};
use super::why::{Miss, Report};

/// So many sites that can hold a gang are compared by price.
const SITES_MAX: usize = 8;
/// Up to so many near-best are put in order by their odds, beyond that by rank alone.
const DRAWN_MAX: usize = 128;

/// The answer to a demand for many tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupResult {
    /// One for each task that has a place; a Container stands here once for each of its tasks.
    pub choices: Vec<Choice>,
    /// Tasks without a place: for an array the rest, for a gang all or none.
    pub unplaced: u32,
    /// Who was considered, and why others were turned down.
    pub report: Report,
}

/// Where a gang can stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Roof {
    Site(SiteId),
    Alone([u64; 2]),
}

impl View {
    /// Finds places for the `count` tasks of a demand that [`Demand::check`] accepts.
    ///
    /// An array is spread: each of the best Containers gets a task before any gets a second. A gang is kept
    /// together, in one site or anywhere as the demand says. The work grows with the number of Containers that are
    /// needed; only a gang that no site can hold looks at all that fit.
    #[must_use]
    pub fn match_group(&self, demand: &Demand, seed: u64, now: TimeMs) -> GroupResult {
        let query = Query::new(demand, self);
        let roots = self.roots(&query, demand.region.as_ref());
        let mut search = Search::new(self, &query, &roots, seed);
        let (choices, most) = match demand.grouping {
            Grouping::Array | Grouping::GangAnywhere => {
                let choices = self.spread(demand, &query, &mut search, seed, now);
                let most = choices.len();
                (choices, most)
            }
            Grouping::GangInOneSite => self.in_one_site(demand, &query, &mut search, seed),
        };
        let wanted = usize::try_from(demand.count).unwrap_or(usize::MAX);
        let whole = choices.len() >= wanted;
        let choices = if whole || demand.grouping == Grouping::Array { choices } else { Vec::new() };
        let placed = u32::try_from(choices.len()).unwrap_or(u32::MAX);
        let mut report = self.report(demand, &query, search.tally);
        if placed == 0 {
            report.nearest_miss = Some(match most {
                0 => self.nearest_miss(demand, &query),
                most => self.gang_miss(demand, &query, most),
            });
        }
        GroupResult { choices, unplaced: demand.count.saturating_sub(placed), report }
    }

    /// Gives each of the best Containers a task, then each that still can another, until all tasks have a place.
    fn spread(
        &self,
        demand: &Demand,
        query: &Query,
        search: &mut Search<'_, '_>,
        seed: u64,
        now: TimeMs,
    ) -> Vec<Choice> {
        let wanted = usize::try_from(demand.count).unwrap_or(usize::MAX);
        let mut found: Vec<Found> = Vec::new();
        while found.len() < wanted
            && let Some(next) = search.next()
        {
            found.push(next);
        }
        let near_worst = near_best(demand.objective, found.first().map_or(0, |first| first.fit.badness));
        let near = found.partition_point(|found| found.fit.badness <= near_worst);
        if near <= DRAWN_MAX {
            let beyond = found.split_off(near);
            let mut random = Random::new(mix(seed ^ 0x7370_7265_6164));
            found = self.draw(found, query, near, now, &mut random);
            found.extend(beyond);
        }
        let slots = found.iter().map(|found| found.slot);
        self.place(slots, demand, query, wanted)
    }

    /// Places up to `wanted` tasks on Containers in rounds, each taking what it still can.
    fn place(&self, slots: impl Iterator<Item = u32>, demand: &Demand, query: &Query, wanted: usize) -> Vec<Choice> {
        let mut open: Vec<(&Record, Free)> =
            slots.filter_map(|slot| self.record(slot)).map(|record| (record, record.provider().free)).collect();
        let mut choices = Vec::new();
        while choices.len() < wanted && !open.is_empty() {
            open.retain_mut(|(record, free)| {
                if choices.len() >= wanted {
                    return true;
                }
                let choice = choice_from(record, free, demand, query, &self.latencies)
                    .filter(|choice| choice.price.0 <= query.price_max);
                let Some(choice) = choice else { return false };
                free.cpu_millis = free.cpu_millis.saturating_sub(demand.cpu_millis);
                free.memory = Bytes(free.memory.0.saturating_sub(demand.memory.0));
                free.disk = Bytes(free.disk.0.saturating_sub(demand.disk.0));
                free.gpus = free.gpus.without(choice.allocation.gpus);
                choices.push(choice);
                true
            });
        }
        choices
    }

    /// The cheapest of the first sites that can hold the whole gang; else nothing, and the most tasks that any can.
    fn in_one_site(
        &self,
        demand: &Demand,
        query: &Query,
        search: &mut Search<'_, '_>,
        seed: u64,
    ) -> (Vec<Choice>, usize) {
        let wanted = usize::try_from(demand.count).unwrap_or(usize::MAX);
        let mut sites: BTreeMap<Roof, (Vec<u32>, usize)> = BTreeMap::new();
        let mut whole: Vec<(u64, u64, Vec<Choice>)> = Vec::new();
        while whole.len() < SITES_MAX
            && let Some(found) = search.next()
        {
            let Some(record) = self.record(found.slot) else { continue };
            let roof = roof(record);
            let (members, room) = sites.entry(roof).or_default();
            let before = *room;
            *room = room.saturating_add(tasks_that_fit(record, demand, query, wanted));
            members.push(found.slot);
            if before < wanted && *room >= wanted {
                let choices = self.place(members.iter().copied(), demand, query, wanted);
                if choices.len() >= wanted {
                    let price = choices.iter().map(|choice| choice.price.0).fold(0, u64::saturating_add);
                    whole.push((price, mix(seed ^ record.hash[0]), choices));
                } else {
                    // Dearer cards than the price allows were counted: wait for another member.
                    *room = choices.len();
                }
            }
        }
        let most = sites.values().map(|(_, room)| *room).max().unwrap_or(0);
        let best = whole.into_iter().min_by_key(|(price, tie, _)| (*price, *tie));
        (best.map(|(_, _, choices)| choices).unwrap_or_default(), most)
    }

    /// Why a gang has no place though a task of it has.
    fn gang_miss(&self, demand: &Demand, query: &Query, most: usize) -> Miss {
        let wanted = usize::try_from(demand.count).unwrap_or(usize::MAX);
        let total = query.on(Basis::Total);
        let roots = self.roots(&total, demand.region.as_ref());
        let mut search = Search::new(self, &total, &roots, 0);
        let mut rooms: BTreeMap<Option<Roof>, usize> = BTreeMap::new();
        let mut busy = false;
        while !busy && let Some(found) = search.next() {
            let Some(record) = self.record(found.slot) else { continue };
            let roof = (demand.grouping == Grouping::GangInOneSite).then(|| roof(record));
            let room = rooms.entry(roof).or_insert(0);
            *room = room.saturating_add(tasks_that_fit(record, demand, &total, wanted));
            busy = *room >= wanted;
        }
        let place = match demand.grouping {
            Grouping::GangInOneSite => "the site with the most room takes",
            Grouping::GangAnywhere | Grouping::Array => "all Containers together take",
        };
        let sentence = format!("needs room for {wanted} tasks at once; {place} {most} now");
        Miss { busy, reason: None, sentence }
    }
}

fn roof(record: &Record) -> Roof {
    record.provider().site.map_or(Roof::Alone(record.hash), Roof::Site)
}

/// How many tasks a Container has room for, at most `wanted`; what dearer cards cost is not looked at.
fn tasks_that_fit(record: &Record, demand: &Demand, query: &Query, wanted: usize) -> usize {
    let side = record.side(query.basis);
    let times = |have: u64, need: u64| have.checked_div(need).map_or(wanted, |n| usize::try_from(n).unwrap_or(wanted));
    let amounts = times(u64::from(side.cpu), u64::from(demand.cpu_millis))
        .min(times(side.memory, demand.memory.0))
        .min(times(side.disk, demand.disk.0));
    let cards = if demand.gpu_count == 0 {
        wanted
    } else {
        let serving = query.serving(&side.cards, |_| 0);
        serving.iter().map(|group| group.len() / usize::from(demand.gpu_count)).fold(0, usize::saturating_add)
    };
    amounts.min(cards).min(wanted)
}
