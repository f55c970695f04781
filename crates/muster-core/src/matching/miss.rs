//! When nothing fits: what comes nearest.

use crate::demand::{ComplianceTier, Demand};
use crate::hardware::Cores;
use crate::pricing::UsdPerHour;
use crate::units::{Bytes, Ob};

use super::View;
use super::query::{Query, Rank};
use super::record::{Basis, Class};
use super::search::{Found, Search};
use super::summary::Summary;
use super::why::{Miss, Reason, Rejection, Report, Why};

/// What can be left out of a query to see whether it alone is in the way, in the order in which it is told.
const LEFT_OUT: [Reason; 14] = [
    Reason::Vram,
    Reason::Ob,
    Reason::GpuCount,
    Reason::Cpu,
    Reason::Memory,
    Reason::Disk,
    Reason::Bandwidth,
    Reason::TimeLimit,
    Reason::Price,
    Reason::Latency,
    Reason::Egress,
    Reason::Term,
    Reason::Compliance,
    Reason::Excluded,
];
/// So many branches are opened to find the nearest in one property; without an answer by then, it is not told.
const BRANCHES_MAX: u64 = 5_000;
/// The most names in one sentence.
const NAMES_MAX: usize = 5;

/// The nearest in one property, all others being met.
struct Near {
    reason: Reason,
    /// How much of what is needed is missing, in ten-thousandths.
    gap_bps: u64,
    have: Have,
}

/// What the nearest has of the property.
#[derive(Clone, Copy)]
enum Have {
    Amount(u64),
    Unknown,
}

impl View {
    /// Says why nothing fits: the one property that is in the way, with the nearest to it that there is; or, when
    /// several are, one that nobody has; or that nobody has all together.
    pub(super) fn nearest_miss(&self, demand: &Demand, query: &Query) -> Miss {
        if let Some(miss) = self.nobody(demand, query) {
            return miss;
        }
        let ever = query.on(Basis::Total).by(Rank::Nearest(Reason::Excluded));
        let busy = self.first(&ever, demand, u64::MAX).is_some();
        // What is told is what is in the way now, unless it would be even if everything were free.
        let basis = if busy { Basis::Free } else { Basis::Total };
        let query = query.on(basis);
        let nearest =
            LEFT_OUT.into_iter().filter_map(|reason| self.near(reason, demand, &query)).min_by_key(|near| near.gap_bps);
        let mut all = Summary::EMPTY;
        // Without any requirement no kind is left out, and the plain order tells plain prices.
        let anybody = query.by(Rank::Nearest(Reason::Excluded)).requiring_nothing();
        for root in self.roots(&anybody, demand.region.as_ref()).nodes {
            all.merge(&root.summary);
        }
        if let Some(near) = nearest {
            let alone = most_of_all(near.reason, &all).filter(|most| *most < needed(near.reason, &query));
            let sentence = match alone {
                Some(most) => sentence(near.reason, demand, Have::Amount(most), busy, false),
                None => sentence(near.reason, demand, near.have, busy, true),
            };
            return Miss { busy, reason: Some(near.reason), sentence };
        }
        for reason in LEFT_OUT {
            if let Some(most) = most_of_all(reason, &all).filter(|most| *most < needed(reason, &query)) {
                let told = sentence(reason, demand, Have::Amount(most), busy, false);
                return Miss {
                    busy,
                    reason: Some(reason),
                    sentence: format!("{told}; and that is not all that is missing"),
                };
            }
        }
        let free = if busy { "now" } else { "even when it is idle" };
        let sentence =
            format!("no Container meets all of the demand at once {free}; ask for less in more than one respect");
        Miss { busy, reason: None, sentence }
    }

    /// Says why none of the Containers that a demand names would serve it: what the first check says of the one that
    /// comes nearest in that.
    pub(super) fn listed_miss(&self, demand: &Demand, query: &Query, slots: &[u32], report: &Report) -> Miss {
        let ever = query.on(Basis::Total);
        let serves = |slot: &u32| self.record(*slot).is_some_and(|r| ever.check(*slot, r, &self.latencies).is_ok());
        let ready = |slot: &u32| self.record(*slot).is_some_and(|r| r.provider().state.takes_work());
        let busy = slots.iter().any(|slot| ready(slot) && serves(slot));
        let far = |rejection: &&Rejection| match rejection.why {
            Why::LatencyOver { have_us, .. } => (1, have_us),
            _ => (0, 0),
        };
        // Who is only too far away came nearest: all else was met.
        let nearest = report.sample.iter().filter(|r| far(r).0 == 1).min_by_key(far).or(report.sample.first());
        let named = demand.only.len();
        let sentence = match nearest {
            Some(rejection) => format!(
                "none of the {named} Containers that were picked out serves; of the nearest, {}: {}",
                rejection.node.short(),
                rejection.why
            ),
            None => format!("none of the {named} Containers that were picked out takes work here just now"),
        };
        Miss { busy, reason: nearest.map(|rejection| rejection.why.reason()), sentence }
    }

    /// The miss when there is no Container of the class at all.
    fn nobody(&self, demand: &Demand, query: &Query) -> Option<Miss> {
        let region = demand.region.as_ref();
        let place = region.map_or_else(String::new, |region| format!(" in {region}"));
        let miss = |reason, sentence| Some(Miss { busy: false, reason, sentence });
        if self.is_empty() {
            return miss(None, "no Container takes work here just now: none has joined, or all of them are draining; try again in a moment".to_owned());
        }
        if self.ready(Class::Cpu, None) == 0 {
            let mut states: Vec<String> = self.idle.iter().map(|(state, count)| format!("{count} {state}")).collect();
            if self.forbidden > 0 {
                states.push(format!("{} forbidden by policy", self.forbidden));
            }
            let sentence = format!("no Container takes work now: {}", states.join(", "));
            return miss(Some(Reason::NotReady), sentence);
        }
        if self.ready(Class::Cpu, region) == 0 {
            let regions = self.regions(Class::Cpu);
            let others = if regions.is_empty() {
                "name no region".to_owned()
            } else {
                format!("are in {}", names(regions.iter(), ""))
            };
            return miss(Some(Reason::Region), format!("no Container{place} takes work now; those that do {others}"));
        }
        if self.ready(query.class, region) > 0 {
            return None;
        }
        let Some(model) = &demand.gpu_model else {
            return miss(Some(Reason::GpuModel), format!("needs a GPU; no Container{place} that takes work has one"));
        };
        let sentence = if self.models.contains_key(model) {
            let elsewhere = names(self.regions(query.class).iter(), "other places");
            format!("needs a GPU {model}; no Container{place} has one, but there are some in {elsewhere}")
        } else {
            let offered = names(self.models.keys(), "no GPUs at all");
            format!("needs a GPU {model}; no Container offers one; offered: {offered}")
        };
        miss(Some(Reason::GpuModel), sentence)
    }

    fn first(&self, query: &Query, demand: &Demand, branches: u64) -> Option<Found> {
        let roots = self.roots(query, demand.region.as_ref());
        let mut search = Search::new(self, query, &roots, 0);
        search.branches_left = branches;
        search.next()
    }

    /// The nearest in one property among those that meet all others; `None` when the demand does not ask for the
    /// property or nobody meets the others.
    fn near(&self, reason: Reason, demand: &Demand, query: &Query) -> Option<Near> {
        let without = without(reason, query)?;
        let found = self.first(&without, demand, BRANCHES_MAX)?;
        let value = found.fit.badness;
        let (have, gap_bps) = match reason {
            Reason::Price => (Have::Amount(value), gap(value.saturating_sub(query.price_max), query.price_max)),
            Reason::Latency => {
                let record = self.record(found.slot)?;
                let max = query.latency_us_max.unwrap_or(u64::MAX);
                match query.latency_us(record, &self.latencies) {
                    Some(us) => (Have::Amount(us), gap(us.saturating_sub(max), max)),
                    None => (Have::Unknown, 10_000),
                }
            }
            Reason::Egress | Reason::Term | Reason::Compliance | Reason::Excluded => {
                (Have::Amount(u64::MAX.saturating_sub(value)), 10_000)
            }
            _ => {
                let (have, need) = (u64::MAX.saturating_sub(value), needed(reason, query));
                (Have::Amount(have), gap(need.saturating_sub(have), need))
            }
        };
        Some(Near { reason, gap_bps, have })
    }
}

fn gap(missing: u64, of: u64) -> u64 {
    let bps = u128::from(missing).saturating_mul(10_000) / u128::from(of.max(1));
    u64::try_from(bps).unwrap_or(u64::MAX)
}

/// The query without one requirement, ordered by how near Containers come to it; `None` when it requires nothing.
fn without(reason: Reason, query: &Query) -> Option<Query> {
    let mut relaxed = query.by(Rank::Nearest(reason));
    let required = match reason {
        Reason::Vram => core::mem::take(&mut relaxed.vram) > 0,
        Reason::Ob => core::mem::take(&mut relaxed.ob) > 0,
        Reason::GpuCount => core::mem::replace(&mut relaxed.gpu_count, 1) > 1,
        Reason::Cpu => core::mem::take(&mut relaxed.cpu) > 0,
        Reason::Memory => core::mem::take(&mut relaxed.memory) > 0,
        Reason::Disk => core::mem::take(&mut relaxed.disk) > 0,
        Reason::Bandwidth => core::mem::take(&mut relaxed.bandwidth_mbps) > 0,
        Reason::TimeLimit => core::mem::take(&mut relaxed.time_limit_s) > 0,
        Reason::Price => core::mem::replace(&mut relaxed.price_max, u64::MAX) < u64::MAX,
        Reason::Latency => relaxed.latency_us_max.take().is_some(),
        Reason::Egress => core::mem::take(&mut relaxed.egress),
        Reason::Term => core::mem::take(&mut relaxed.term_required),
        Reason::Compliance => core::mem::take(&mut relaxed.compliance) > ComplianceTier::Open,
        Reason::Excluded => {
            let excluded = core::mem::take(&mut relaxed.excluded);
            !excluded.is_empty() || !core::mem::take(&mut relaxed.only).is_empty()
        }
        Reason::NotReady | Reason::Region | Reason::Forbidden | Reason::GpuModel | Reason::Kind => false,
    };
    required.then_some(relaxed)
}

/// What a query needs at least of a property of which more is better; 0 for others.
fn needed(reason: Reason, query: &Query) -> u64 {
    match reason {
        Reason::Vram => query.vram,
        Reason::Ob => u64::from(query.ob),
        Reason::GpuCount => u64::from(query.gpu_count),
        Reason::Cpu => u64::from(query.cpu),
        Reason::Memory => query.memory,
        Reason::Disk => query.disk,
        Reason::Bandwidth => u64::from(query.bandwidth_mbps),
        Reason::TimeLimit => query.time_limit_s,
        _ => 0,
    }
}

/// The most that any Container has of a property; `None` where the summary does not tell exactly.
fn most_of_all(reason: Reason, all: &Summary) -> Option<u64> {
    match reason {
        Reason::Vram => Some(all.vram),
        Reason::Ob => Some(u64::from(all.ob)),
        Reason::GpuCount => Some(u64::from(all.cards)),
        Reason::Cpu => Some(u64::from(all.cpu)),
        Reason::Memory => Some(all.memory),
        Reason::Disk => Some(all.disk),
        Reason::Bandwidth => Some(u64::from(all.bandwidth_mbps)),
        Reason::TimeLimit => Some(u64::from(all.time_limit_s)),
        _ => None,
    }
}

/// What is needed and the nearest that there is; `rest_met` when it is only looked for where all else is as needed.
fn sentence(reason: Reason, demand: &Demand, have: Have, busy: bool, rest_met: bool) -> String {
    let there = scope(reason, demand, busy, rest_met);
    let amount = match have {
        Have::Amount(amount) => amount,
        Have::Unknown => 0,
    };
    let small = u32::try_from(amount).unwrap_or(u32::MAX);
    let told = |need: String, best: &str, have: String| format!("needs {need}; the {best}{there} is {have}");
    match reason {
        Reason::Vram => told(format!("{} of VRAM", demand.vram), "largest", Bytes(amount).to_string()),
        Reason::Ob => told(demand.ob.to_string(), "fastest GPU", Ob(small).to_string()),
        Reason::GpuCount => {
            told(format!("{} GPUs of one model", demand.gpu_count), "most in one Container", amount.to_string())
        }
        Reason::Cpu => told(format!("{} cores", Cores(demand.cpu_millis)), "most", Cores(small).to_string()),
        Reason::Memory => told(format!("{} of memory", demand.memory), "most", Bytes(amount).to_string()),
        Reason::Disk => told(format!("{} of disk", demand.disk), "most", Bytes(amount).to_string()),
        Reason::Bandwidth => told(format!("{} Mbit/s", demand.bandwidth_mbps), "most", amount.to_string()),
        Reason::TimeLimit => {
            told(format!("{} seconds", demand.time_limit_s), "longest that is taken", amount.to_string())
        }
        Reason::Price => {
            let max = demand.price_max.unwrap_or_default();
            told(format!("a price of at most {max}"), "least", UsdPerHour(amount).to_string())
        }
        Reason::Latency => {
            let need = format!("a round trip of at most {} ms", demand.latency_ms_max.unwrap_or_default());
            match have {
                Have::Amount(us) => told(need, "nearest", format!("{}.{} ms away", us / 1000, us % 1000 / 100)),
                Have::Unknown => format!("needs {need}; how far those are that fit otherwise is unknown"),
            }
        }
        Reason::Egress => "needs the internet; no Container that fits otherwise lets work reach it".to_owned(),
        Reason::Term => format!("needs the term {}; no Container that fits otherwise offers it", demand.term),
        Reason::Compliance => {
            format!("needs the compliance tier {}; no Container that fits otherwise has it", demand.compliance)
        }
        Reason::Excluded => "every Container that fits is excluded by the demand".to_owned(),
        Reason::NotReady | Reason::Region | Reason::Forbidden | Reason::GpuModel | Reason::Kind => {
            format!("every Container {reason}")
        }
    }
}

/// Among what the nearest was looked for, so that the sentence claims no more than that.
fn scope(reason: Reason, demand: &Demand, busy: bool, rest_met: bool) -> String {
    if rest_met {
        return if busy { " free where all else fits" } else { " where all else fits" }.to_owned();
    }
    let mut scope = if busy { " free" } else { "" }.to_owned();
    if let Some(region) = &demand.region {
        scope.push_str(&format!(" in {region}"));
    }
    let of_cards = matches!(reason, Reason::Vram | Reason::Ob | Reason::GpuCount);
    match (&demand.gpu_model, demand.gpu_count) {
        (_, 0) => {}
        (Some(model), _) if of_cards => scope.push_str(&format!(" of a {model}")),
        (None, _) if of_cards => {}
        (Some(model), _) => scope.push_str(&format!(" beside a {model}")),
        (None, _) => scope.push_str(" beside a GPU"),
    }
    scope
}

/// A few names, joined for a sentence.
fn names<T: ToString>(all: impl Iterator<Item = T>, none: &str) -> String {
    let mut all = all.map(|name| name.to_string());
    let mut shown: Vec<String> = all.by_ref().take(NAMES_MAX).collect();
    if shown.is_empty() {
        return none.to_owned();
    }
    let more = all.count();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}
