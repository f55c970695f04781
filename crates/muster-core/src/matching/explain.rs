//! Why each Container would or would not serve: for reports, not for matching.

use core::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::demand::Demand;
use crate::hardware::GpuModel;
use crate::ids::NodeId;
use crate::units::{Bytes, Ob};

use super::View;
use super::choose::{Choice, choice_of};
use super::query::Query;
use super::record::{Card, Record};
use super::why::Why;

/// One Container's answer to a demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Which Container.
    pub node: NodeId,
    /// What it would be chosen for, or every check that it fails (at least one).
    pub verdict: Result<Choice, Vec<Why>>,
}

impl View {
    /// What every Container would answer to a demand, by name. This looks at all of them: for reports that somebody
    /// asked for, not for matching.
    #[must_use]
    pub fn explain(&self, demand: &Demand) -> Vec<Explained> {
        let query = Query::new(demand, self);
        self.slots()
            .filter_map(|slot| {
                let record = self.record(slot)?;
                let whys = self.whys(slot, record, demand, &query);
                let choice = if whys.is_empty() { choice_of(record, demand, &query, &self.latencies) } else { None };
                Some(Explained { node: record.provider().node, verdict: choice.ok_or(whys) })
            })
            .collect()
    }

    /// Every check that a Container fails, in the order of the checks.
    pub(super) fn whys(&self, slot: u32, record: &Record, demand: &Demand, query: &Query) -> Vec<Why> {
        let mut whys = Vec::new();
        self.tell_whys(slot, record, demand, query, &mut |why| {
            whys.push(why);
            ControlFlow::Continue(())
        });
        whys
    }

    /// The first check that a Container fails; `None` when it serves.
    pub(super) fn first_why(&self, slot: u32, demand: &Demand, query: &Query) -> Option<Why> {
        let mut first = None;
        self.tell_whys(slot, self.record(slot)?, demand, query, &mut |why| {
            first = Some(why);
            ControlFlow::Break(())
        });
        first
    }

    fn tell_whys(&self, slot: u32, record: &Record, demand: &Demand, query: &Query, tell: Tell<'_>) {
        let region_forbidden = self.region_forbidden(record.provider().region.as_ref());
        let mut tell_all = || {
            standing_whys(record, demand, region_forbidden, tell)?;
            offer_whys(record, demand, query, tell)?;
            amount_whys(record, demand, tell)?;
            card_whys(record, demand, query, tell)?;
            self.last_whys(slot, record, demand, query, tell)
        };
        // Who broke off has heard enough.
        let (ControlFlow::Break(()) | ControlFlow::Continue(())) = tell_all();
    }

    /// Distance, price and exclusion.
    fn last_whys(&self, slot: u32, record: &Record, demand: &Demand, query: &Query, tell: Tell<'_>) -> ControlFlow<()> {
        if let (Some(max_ms), Some(max_us)) = (demand.latency_ms_max, query.latency_us_max) {
            match query.latency_us(record, &self.latencies) {
                Some(have_us) if have_us <= max_us => {}
                Some(have_us) => tell(Why::LatencyOver { max_ms, have_us })?,
                None => tell(Why::LatencyUnknown { max_ms })?,
            }
        }
        if let (Some(max), Some(asks)) = (demand.price_max, query.price_of(record))
            && asks > max
        {
            tell(Why::PriceOver { max, asks })?;
        }
        if query.excludes(slot, record) {
            tell(Why::Excluded)?;
        }
        ControlFlow::Continue(())
    }
}

/// Hears of one failed check after the other, until it has heard enough.
type Tell<'a> = &'a mut dyn FnMut(Why) -> ControlFlow<()>;

/// State, region, policy, and whether there is such a card at all.
fn standing_whys(record: &Record, demand: &Demand, region_forbidden: bool, tell: Tell<'_>) -> ControlFlow<()> {
    let provider = record.provider();
    if !provider.state.takes_work() {
        tell(Why::NotReady { state: provider.state })?;
    }
    if let Some(want) = &demand.region
        && !provider.region.as_ref().is_some_and(|have| want.contains(have))
    {
        tell(Why::OtherRegion { want: want.clone(), have: provider.region.clone() })?;
    }
    if region_forbidden {
        tell(Why::RegionForbidden { region: provider.region.clone() })?;
    }
    let counts = |model: &GpuModel| demand.gpu_model.as_ref().is_none_or(|want| want == model);
    let mut cards = provider.capacity.gpus.iter().enumerate().filter(|(_, gpu)| counts(&gpu.model)).peekable();
    if demand.gpu_count == 0 {
        return ControlFlow::Continue(());
    }
    match (cards.peek().copied(), &demand.gpu_model) {
        (Some(_), _) if cards.any(|(index, _)| record.cold.usable.contains(index)) => ControlFlow::Continue(()),
        (Some((_, gpu)), _) => tell(Why::GpuForbidden { model: gpu.model.clone(), region: provider.region.clone() }),
        (None, Some(want)) => tell(Why::OtherGpu { want: want.clone() }),
        (None, None) => tell(Why::NoGpu),
    }
}

/// What the provider offers beside hardware.
fn offer_whys(record: &Record, demand: &Demand, query: &Query, tell: Tell<'_>) -> ControlFlow<()> {
    let provider = record.provider();
    if !provider.kinds.contains(demand.kind) {
        tell(Why::KindRefused { kind: demand.kind })?;
    }
    if demand.egress && !provider.egress {
        tell(Why::NoEgress)?;
    }
    if query.term_required && provider.ask.reserved_bps.is_none() {
        tell(Why::TermRefused { term: demand.term })?;
    }
    let (need, have) = (demand.compliance, provider.compliance);
    if have < need {
        tell(Why::ComplianceShort { need, have })?;
    }
    let (need_s, have_s) = (demand.time_limit_s, u64::from(provider.time_limit_s_max));
    if have_s < need_s {
        tell(Why::TimeShort { need_s, have_s })?;
    }
    let (need_mbps, have_mbps) = (demand.bandwidth_mbps, provider.bandwidth_mbps);
    if have_mbps < need_mbps {
        tell(Why::BandwidthShort { need_mbps, have_mbps })?;
    }
    ControlFlow::Continue(())
}

/// Cores, memory and disk that are free.
fn amount_whys(record: &Record, demand: &Demand, tell: Tell<'_>) -> ControlFlow<()> {
    let free = &record.provider().free;
    if free.cpu_millis < demand.cpu_millis {
        tell(Why::CpuShort { need: demand.cpu_millis, have: free.cpu_millis })?;
    }
    if free.memory < demand.memory {
        tell(Why::MemoryShort { need: demand.memory, have: free.memory })?;
    }
    if free.disk < demand.disk {
        tell(Why::DiskShort { need: demand.disk, have: free.disk })?;
    }
    ControlFlow::Continue(())
}

/// VRAM, OB and number of the free cards of the class, where there is a card of the class at all.
fn card_whys(record: &Record, demand: &Demand, query: &Query, tell: Tell<'_>) -> ControlFlow<()> {
    if demand.gpu_count == 0 || !record.cold.total.cards.iter().any(|card| query.class.counts(card)) {
        return ControlFlow::Continue(());
    }
    let counted = || record.free.cards.iter().filter(|card| query.class.counts(card));
    let vram = counted().map(|card| card.vram).max().unwrap_or(0);
    if vram < demand.vram.0 {
        tell(Why::VramShort { need: demand.vram, have: Bytes(vram) })?;
    }
    let ob = counted().map(|card| card.ob).max().unwrap_or(0);
    if ob < demand.ob.0 {
        tell(Why::ObShort { need: demand.ob, have: Ob(ob) })?;
    }
    // Cards that are too small or too slow are told of already; here only whether there are enough of them.
    let told = vram < demand.vram.0 || ob < demand.ob.0;
    let serves = |card: &&Card| query.class.counts(card) && (told || query.serves(card));
    let groups = record.free.cards.chunk_by(|a, b| a.model == b.model);
    let most = groups.map(|group| group.iter().filter(serves).count()).max().unwrap_or(0);
    let have = u8::try_from(most).unwrap_or(u8::MAX);
    if have < demand.gpu_count {
        tell(Why::GpusShort { need: demand.gpu_count, have })?;
    }
    ControlFlow::Continue(())
}
