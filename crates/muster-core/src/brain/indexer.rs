//! The brain of an Indexer: it proposes, and owns nothing.
//!
//! It keeps a view of the Containers from the chain's registry and their heartbeats, answers requests
//! by offering to the chosen Containers one after the other, and remembers how leases ended so that
//! the same bad node is not picked again.

mod near;
mod wishes;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::delivery::Receipts;
use crate::demand::{ComplianceTier, Demand, Origin, TIME_LIMIT_S_MAX, WorkloadKind, WorkloadKinds};
use crate::ids::{Address, LeaseId, NodeId, RequestId};
use crate::inference::{ModelDemand, TokenRates};
use crate::lease::{End, LeaseTerms, Phase, TokenTerms};
use crate::matching::{Choice, ContainerState, Provider, Report, Settings, View};
use crate::packages::PackageSet;
use crate::params::Params;
use crate::pricing::Exchange;
use crate::protocol::{
    CANDIDATES_MAX, Candidates, DeliveryNoted, Heartbeat, LeaseReport, MatchFailed, MatchFailure, MatchReply,
    MatchRequest, Matched, NodeAddr, NodeSignature, OfferAnswer,
};
use crate::units::{TimeMs, TokenAmount};
use near::endpoint;
use wishes::Wishes;

/// Requests that may wait for Containers' answers at once.
const PENDING_MAX: usize = 20_000;
/// Answers that are kept for requests that come again.
const ANSWERED_MAX: usize = 20_000;
/// Leases whose end is awaited.
const LEASES_MAX: usize = 200_000;
/// Reasons that an answer lists.
const REASONS_MAX: usize = 16;
/// Quality of a Container that nothing is known of, in ten-thousandths.
const QUALITY_NEW_BPS: u16 = 7_000;
/// The best quality.
const QUALITY_MAX_BPS: u16 = 10_000;

/// What the chain says of a Container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// In good standing: registered, staked, not jailed, not leaving.
    pub active: bool,
    /// Its stake.
    pub stake: TokenAmount,
}

/// A lease as an Indexer records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub lease: LeaseId,
    /// The request.
    pub request: RequestId,
    /// Who runs it.
    pub container: NodeId,
    /// Frozen price.
    pub rate_per_second: TokenAmount,
    /// When the Container accepted.
    pub at: TimeMs,
    /// Where it stands, as last reported.
    pub phase: Phase,
    /// How it ended.
    pub end: Option<End>,
    /// How long it ran.
    pub ran_ms: u64,
}

#[derive(Clone, Debug)]
struct Known {
    registered: Option<Registered>,
    beat: Option<(Heartbeat, TimeMs)>,
    /// What leases that this Indexer matched came to.
    quality_bps: u16,
    /// What Checkers found, as the last outcome on the chain says.
    checked_bps: Option<u16>,
    listed: bool,
}

impl Known {
    /// What matching ranks by: the worse of what is known.
    fn quality(&self) -> u16 {
        self.checked_bps.map_or(self.quality_bps, |checked| checked.min(self.quality_bps))
    }
}

#[derive(Clone, Debug)]
struct Pending {
    reply: u64,
    request: MatchRequest,
    left: VecDeque<Choice>,
    asked: Option<(NodeId, u64, TimeMs, LeaseTerms)>,
    considered: u64,
    turned_down: Vec<(String, u64)>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The chain's registry says this of a Container; `None`: it is not registered.
    Registry {
        /// Which.
        container: NodeId,
        /// What.
        registered: Option<Registered>,
    },
    /// An outcome on the chain says this of a Container's quality, in ten-thousandths.
    Checked {
        /// Which.
        container: NodeId,
        /// What ([`ContainerRecord::quality_bps`](crate::reward::ContainerRecord::quality_bps)).
        quality_bps: u16,
    },
    /// A heartbeat from the Container itself.
    Beat(Box<Heartbeat>),
    /// A Container's connection is gone.
    Gone(NodeId),
    /// A consumer asks.
    Requested {
        /// Where the answer goes.
        reply: u64,
        /// What for.
        request: Box<MatchRequest>,
    },
    /// A consumer asks who would serve, to measure the way to them.
    Sounded {
        /// Where the answer goes.
        reply: u64,
        /// What for.
        demand: Box<Demand>,
    },
    /// A consumer says what was delivered.
    Delivered {
        /// Where the answer goes.
        reply: u64,
        /// On which lease.
        lease: LeaseId,
        /// Whose signature is under it.
        signer: Address,
        /// What its players said.
        receipts: Receipts,
    },
    /// A Container answered an offer; the body has checked its signature.
    Answered {
        /// Which offer.
        call: u64,
        /// The answer.
        answer: OfferAnswer,
    },
    /// An offer could not be delivered, or its answer was garbage.
    Undelivered {
        /// Which offer.
        call: u64,
    },
    /// What became of a lease, from the Container that runs it.
    Reported {
        /// Who says so.
        from: NodeId,
        /// What.
        report: LeaseReport,
    },
    /// Time passes; at least every 100 ms while requests wait.
    Tick,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write a lease's record.
    Save(Box<Record>),
    /// Offer a lease to a Container and report `Answered` or `Undelivered`.
    Offer {
        /// Names this offer.
        call: u64,
        /// To whom.
        to: NodeId,
        /// What.
        terms: Box<LeaseTerms>,
    },
    /// Take an offer back.
    Withdraw {
        /// From whom.
        from: NodeId,
        /// Which.
        lease: LeaseId,
    },
    /// Tell an idle Container of packages that are asked for.
    Suggest {
        /// Whom.
        to: NodeId,
        /// What.
        packages: PackageSet,
    },
    /// Answer a consumer.
    Reply {
        /// Where to.
        reply: u64,
        /// What.
        answer: Box<MatchReply>,
    },
    /// Tell a consumer who would serve.
    Candidates {
        /// Where to.
        reply: u64,
        /// Who.
        answer: Candidates,
    },
    /// Tell a consumer whether its report of a delivery counts.
    Noted {
        /// Where to.
        reply: u64,
        /// Whether.
        answer: DeliveryNoted,
    },
}

/// The brain of an Indexer.
#[derive(Debug)]
pub struct Indexer {
    id: NodeId,
    params: Params,
    view: View,
    known: BTreeMap<NodeId, Known>,
    pending: BTreeMap<RequestId, Pending>,
    calls: BTreeMap<u64, RequestId>,
    answered: BTreeMap<RequestId, MatchReply>,
    answered_order: VecDeque<RequestId>,
    leases: BTreeMap<LeaseId, Record>,
    lease_order: VecDeque<LeaseId>,
    /// Who may say what was delivered on a lease; gone once it was said. A restart forgets them: what is lost is a
    /// consumer's word on quality.
    payers: BTreeMap<LeaseId, Address>,
    wishes: Wishes,
    seed: u64,
    next_call: u64,
    swept_at: TimeMs,
}

impl Indexer {
    /// An Indexer that knows nobody yet; `seed` is drawn anew at each start.
    #[must_use]
    pub fn new(id: NodeId, params: Params, seed: u64) -> Self {
        Self {
            id,
            view: View::new(Settings::default()).expect("the default settings hold no policy that could be too long"),
            params,
            known: BTreeMap::new(),
            pending: BTreeMap::new(),
            calls: BTreeMap::new(),
            answered: BTreeMap::new(),
            answered_order: VecDeque::new(),
            leases: BTreeMap::new(),
            lease_order: VecDeque::new(),
            payers: BTreeMap::new(),
            wishes: Wishes::default(),
            seed,
            next_call: 1,
            swept_at: TimeMs(0),
        }
    }

    /// Remembers leases and what they say of quality after a restart.
    pub fn remember(&mut self, records: Vec<Record>) {
        for record in records {
            if let Some(end) = &record.end {
                self.judge(record.container, end);
            }
            self.keep(record);
        }
    }

    /// Containers that are offered work at this moment.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.known.values().filter(|k| k.listed).count()
    }

    /// Requests that wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: TimeMs) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Registry { container, registered } => self.on_registry(container, registered, now),
            Event::Checked { container, quality_bps } => {
                let known = self.known(container);
                known.checked_bps = Some(quality_bps.min(QUALITY_MAX_BPS));
                let quality_bps = known.quality();
                self.view.set_quality(&container, quality_bps);
            }
            Event::Beat(beat) => self.on_beat(*beat, now, &mut out),
            Event::Gone(container) => self.on_gone(container),
            Event::Requested { reply, request } => self.on_request(reply, *request, now, &mut out),
            Event::Sounded { reply, demand } => {
                let containers = self.candidates(&demand, now);
                out.push(Effect::Candidates { reply, answer: Candidates { containers } });
            }
            Event::Delivered { reply, lease, signer, receipts } => {
                let counts = self.on_delivered(lease, signer, &receipts);
                out.push(Effect::Noted { reply, answer: DeliveryNoted { counts } });
            }
            Event::Answered { call, answer } => self.on_answer(call, answer, now, &mut out),
            Event::Undelivered { call } => self.on_undelivered(call, now, &mut out),
            Event::Reported { from, report } => self.on_report(from, report, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        out
    }

    fn known(&mut self, container: NodeId) -> &mut Known {
        self.known.entry(container).or_insert(Known {
            registered: None,
            beat: None,
            quality_bps: QUALITY_NEW_BPS,
            checked_bps: None,
            listed: false,
        })
    }

    fn on_registry(&mut self, container: NodeId, registered: Option<Registered>, now: TimeMs) {
        self.known(container).registered = registered;
        self.relist(container, now);
    }

    fn on_beat(&mut self, beat: Heartbeat, now: TimeMs, out: &mut Vec<Effect>) {
        let container = beat.addr.id;
        let known = self.known(container);
        // Heartbeats may overtake one another.
        if known.beat.as_ref().is_some_and(|(last, _)| last.seq >= beat.seq) {
            return;
        }
        let has = (beat.leases == 0 && beat.sessions && beat.fetches).then(|| beat.warm.clone());
        known.beat = Some((beat, now));
        self.relist(container, now);
        if let Some(has) = has
            && self.known(container).listed
            && let Some(packages) = self.wishes.suggest(container, &has, |set| self.view.warm_count(set), now)
        {
            out.push(Effect::Suggest { to: container, packages });
        }
    }

    fn on_gone(&mut self, container: NodeId) {
        if let Some(known) = self.known.get_mut(&container) {
            known.listed = false;
            self.view.remove(&container);
        }
    }

    /// Brings the view in line with what is known of a Container.
    fn relist(&mut self, container: NodeId, now: TimeMs) {
        let silent_after = self.params.silent_after_ms;
        let Some(known) = self.known.get_mut(&container) else { return };
        let registered = known.registered.filter(|r| r.active);
        let beat = known.beat.as_ref().filter(|(b, at)| !b.draining && now.since(*at) <= silent_after);
        match (registered, beat) {
            (Some(registered), Some((beat, _))) => {
                let provider = provider(beat, registered.stake, known.quality());
                // The wire has checked the heartbeat: what still cannot be listed is not offered.
                known.listed = self.view.upsert(provider).is_ok();
                if !known.listed {
                    self.view.remove(&container);
                }
            }
            _ => {
                if known.listed {
                    known.listed = false;
                    self.view.remove(&container);
                }
            }
        }
    }

    fn on_request(&mut self, reply: u64, request: MatchRequest, now: TimeMs, out: &mut Vec<Effect>) {
        if let Some(answer) = self.answered.get(&request.request) {
            out.push(Effect::Reply { reply, answer: Box::new(answer.clone()) });
            return;
        }
        if let Some(pending) = self.pending.get_mut(&request.request) {
            // Asked again while we wait: the answer goes to the newest stream.
            pending.reply = reply;
            return;
        }
        if self.pending.len() >= PENDING_MAX {
            let why = "the Indexer has too many requests at the moment; ask again or ask another".to_owned();
            out.push(failed(reply, MatchFailure::Overloaded, why, 0, Vec::new()));
            return;
        }
        if let Err(why) = request.demand.check() {
            out.push(failed(reply, MatchFailure::BadRequest, why.to_string(), 0, Vec::new()));
            return;
        }
        self.wishes.note(&request.demand.packages, now);
        let seed = self.draw();
        let Some(demand) = self.narrowed(&request.demand) else {
            let why = "no Container serves a model of this name with an engine of its own just now; write the name as its provider does";
            out.push(failed(reply, MatchFailure::NothingFits, why.to_owned(), 0, Vec::new()));
            return;
        };
        let found = self.view.match_one(&demand, seed, now);
        let considered = found.report.considered;
        let turned_down = reasons(&found.report);
        if found.choices.is_empty() {
            let (kind, why) = match &found.report.nearest_miss {
                Some(miss) if miss.busy => (MatchFailure::Busy, miss.sentence.clone()),
                Some(miss) => (MatchFailure::NothingFits, miss.sentence.clone()),
                None => (MatchFailure::NothingFits, "no Container fits".to_owned()),
            };
            out.push(failed(reply, kind, why, considered, turned_down));
            return;
        }
        let id = request.request;
        let left = found.choices.into();
        self.pending.insert(id, Pending { reply, request, left, asked: None, considered, turned_down });
        self.ask_next(id, now, out);
    }

    /// Where those are dialled that would serve a demand if they are near enough.
    fn candidates(&mut self, demand: &Demand, now: TimeMs) -> Vec<NodeAddr> {
        let anywhere = Demand { latency_ms_max: None, ..demand.clone() };
        if anywhere.check().is_err() {
            return Vec::new();
        }
        let seed = self.draw();
        let Some(anywhere) = self.narrowed(&anywhere) else { return Vec::new() };
        let found = self.view.candidates(&anywhere, CANDIDATES_MAX, seed, now);
        found.iter().filter_map(|node| Some(self.known.get(node)?.beat.as_ref()?.0.addr.clone())).collect()
    }

    fn draw(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Offers to the next candidate, or gives up.
    fn ask_next(&mut self, id: RequestId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(mut pending) = self.pending.remove(&id) else { return };
        while let Some(candidate) = pending.left.pop_front() {
            let terms = match self.terms(&pending.request, &candidate) {
                Ok(terms) => terms,
                Err(why) => {
                    count(&mut pending.turned_down, why);
                    continue;
                }
            };
            let call = self.next_call;
            self.next_call = self.next_call.wrapping_add(1);
            self.calls.insert(call, id);
            // Others shall not be sent after the same slot; the next heartbeat tells the truth anyway.
            self.view.hold(&candidate.node, &candidate.allocation);
            out.push(Effect::Offer { call, to: candidate.node, terms: Box::new(terms.clone()) });
            pending.asked = Some((candidate.node, call, now, terms));
            self.pending.insert(id, pending);
            return;
        }
        let why = match pending.turned_down.last() {
            Some((last, _)) => format!("every Container that fits turned the offer down; the last one: {last}"),
            None => "every Container that fits turned the offer down".to_owned(),
        };
        out.push(failed(pending.reply, MatchFailure::Busy, why, pending.considered, pending.turned_down));
    }

    fn terms(&self, request: &MatchRequest, candidate: &Choice) -> Result<LeaseTerms, String> {
        let rate = exchange(&self.params).rate_per_second(candidate.price).map_err(|why| why.to_string())?;
        let interval_ms = self.params.voucher_interval_ms;
        let deposit_ms = request.deposit_seconds.saturating_mul(1_000).max(interval_ms.saturating_mul(2));
        let demand: &Demand = &request.demand;
        let tokens = demand.model.as_ref().map(|model| self.token_terms(model, candidate.node)).transpose()?;
        let (rate, deposit) = match (&tokens, &demand.model) {
            (Some(terms), Some(model)) => (TokenAmount::ZERO, model.deposit(&terms.rates).max(terms.credit)),
            _ => (rate, rate.per_second_for_ms(deposit_ms)),
        };
        Ok(LeaseTerms {
            lease: request.lease,
            salt: request.salt,
            request: request.request,
            consumer: request.consumer,
            session_key: request.session_key,
            container: candidate.node,
            indexer: self.id,
            rate_per_second: rate,
            deposit,
            max_seconds: demand.time_limit_s,
            interval_ms,
            open_within_ms: self.params.open_timeout_ms,
            allocation: candidate.allocation,
            egress: demand.egress,
            tokens,
        })
    }

    /// What a model's tokens cost on this Container; the reason, where that is more than was asked for.
    fn token_terms(&self, model: &ModelDemand, node: NodeId) -> Result<TokenTerms, String> {
        let beat = self.known.get(&node).and_then(|known| known.beat.as_ref());
        let (ask, bytes) = if model.endpoint {
            let offer = beat.and_then(|(beat, _)| endpoint(beat, model.weights.warm_id()));
            offer.map(|offer| (offer.ask, offer.bytes)).ok_or_else(|| "it has no such endpoint".to_owned())?
        } else {
            let ask = beat.and_then(|(beat, _)| beat.models).ok_or_else(|| "it serves no models".to_owned())?;
            (ask, model.bytes)
        };
        let ask = ask.for_weights(bytes);
        if let Some(most) = &model.price_max
            && !ask.is_within(most)
        {
            return Err(format!(
                "it asks {} for a million tokens of prompts and {} for a million of answers, more than was offered",
                ask.input, ask.output
            ));
        }
        let rates = TokenRates::freeze(&ask, &exchange(&self.params)).map_err(|why| why.to_string())?;
        Ok(TokenTerms { weights: bytes, rates, credit: model.credit(&rates) })
    }

    fn on_answer(&mut self, call: u64, answer: OfferAnswer, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(id) = self.calls.remove(&call) else { return };
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Some((container, asked, _, terms)) = pending.asked.clone() else { return };
        if asked != call {
            return;
        }
        match answer {
            OfferAnswer::Accepted { signature } => self.on_accepted(id, container, terms, signature, now, out),
            OfferAnswer::Rejected(why) => {
                count(&mut pending.turned_down, why.to_string());
                self.ask_next(id, now, out);
            }
            OfferAnswer::Withdrawn | OfferAnswer::Noted => self.ask_next(id, now, out),
        }
    }

    fn on_accepted(
        &mut self,
        id: RequestId,
        container: NodeId,
        terms: LeaseTerms,
        signature: NodeSignature,
        now: TimeMs,
        out: &mut Vec<Effect>,
    ) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let addr = self
            .known
            .get(&container)
            .and_then(|k| k.beat.as_ref())
            .map_or(NodeAddr { id: container, direct: Vec::new(), relay: None }, |(b, _)| b.addr.clone());
        let holders = self.holders(&pending.request.demand, container);
        self.view.note_chosen(&container, now);
        self.payers.insert(terms.lease, terms.session_key);
        let record = Record {
            lease: terms.lease,
            request: id,
            container,
            rate_per_second: terms.rate_per_second,
            at: now,
            phase: Phase::Accepted,
            end: None,
            ran_ms: 0,
        };
        self.keep(record.clone());
        let answer = MatchReply::Matched(Box::new(Matched {
            terms,
            acceptance: signature,
            container: addr,
            considered: pending.considered,
            turned_down: pending.turned_down,
            holders,
        }));
        self.answered.insert(id, answer.clone());
        self.answered_order.push_back(id);
        if self.answered_order.len() > ANSWERED_MAX
            && let Some(old) = self.answered_order.pop_front()
        {
            self.answered.remove(&old);
        }
        out.push(Effect::Save(Box::new(record)));
        out.push(Effect::Reply { reply: pending.reply, answer: Box::new(answer) });
    }

    fn keep(&mut self, record: Record) {
        let lease = record.lease;
        if self.leases.insert(lease, record).is_none() {
            self.lease_order.push_back(lease);
        }
        if self.lease_order.len() > LEASES_MAX
            && let Some(old) = self.lease_order.pop_front()
        {
            self.leases.remove(&old);
            self.payers.remove(&old);
        }
    }

    fn on_undelivered(&mut self, call: u64, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(id) = self.calls.remove(&call) else { return };
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Some((container, asked, _, _)) = pending.asked.clone() else { return };
        if asked != call {
            return;
        }
        count(&mut pending.turned_down, "the Container did not answer".to_owned());
        let lease = pending.request.lease;
        // Silence is a phantom offer: what cannot be reached is not offered until it beats again.
        self.on_gone(container);
        out.push(Effect::Withdraw { from: container, lease });
        self.ask_next(id, now, out);
    }

    fn on_report(&mut self, from: NodeId, report: LeaseReport, out: &mut Vec<Effect>) {
        let Some(record) = self.leases.get_mut(&report.lease) else { return };
        if record.container != from || report.phase < record.phase {
            return;
        }
        let ended = record.end.is_none() && report.end.is_some();
        record.phase = report.phase;
        record.ran_ms = report.ran_ms;
        record.end.clone_from(&report.end);
        out.push(Effect::Save(Box::new(record.clone())));
        if ended && let Some(end) = report.end {
            self.judge(from, &end);
        }
    }

    /// What a consumer says of a lease counts once, and a little: it has paid for that little, and may lie. More counts
    /// what Checkers find, who come as players as well.
    fn on_delivered(&mut self, lease: LeaseId, signer: Address, receipts: &Receipts) -> bool {
        if self.payers.get(&lease) != Some(&signer) {
            return false;
        }
        self.payers.remove(&lease);
        let Some(record) = self.leases.get(&lease) else { return false };
        let container = record.container;
        if receipts.is_poor() {
            let known = self.known(container);
            known.quality_bps -= known.quality_bps / 20;
            let quality_bps = known.quality();
            self.view.set_quality(&container, quality_bps);
        }
        true
    }

    /// Quality moves a little up with work that was done, and a lot down with work that was broken off.
    fn judge(&mut self, container: NodeId, end: &End) {
        let known = self.known(container);
        if end.is_interruption() {
            known.quality_bps = known.quality_bps / 4 * 3;
        } else if end.is_own() {
            let room = QUALITY_MAX_BPS.saturating_sub(known.quality_bps);
            known.quality_bps = known.quality_bps.saturating_add((room / 20).max(1)).min(QUALITY_MAX_BPS);
        }
        let quality_bps = known.quality();
        self.view.set_quality(&container, quality_bps);
    }

    fn on_tick(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let timeout = self.params.offer_timeout_ms;
        let late: Vec<u64> = self
            .pending
            .values()
            .filter_map(|p| p.asked.as_ref())
            .filter(|(_, _, at, _)| now.since(*at) > timeout)
            .map(|(_, call, _, _)| *call)
            .collect();
        for call in late {
            self.on_undelivered(call, now, out);
        }
        if now.since(self.swept_at) >= self.params.heartbeat_ms {
            self.swept_at = now;
            let silent: Vec<NodeId> = self
                .known
                .iter()
                .filter(|(_, k)| k.listed)
                .filter(|(_, k)| k.beat.as_ref().is_none_or(|(_, at)| now.since(*at) > self.params.silent_after_ms))
                .map(|(id, _)| *id)
                .collect();
            for container in silent {
                self.on_gone(container);
            }
        }
    }
}

/// What matching shall know of a Container.
fn provider(beat: &Heartbeat, stake: TokenAmount, quality_bps: u16) -> Provider {
    Provider {
        node: beat.addr.id,
        state: if beat.leases == 0 { ContainerState::Standby } else { ContainerState::Serving },
        capacity: beat.total.clone(),
        free: beat.free,
        ask: beat.ask,
        region: beat.region.clone(),
        origin: Origin { place: beat.place, network: None },
        site: None,
        bandwidth_mbps: 0,
        kinds: kinds(beat),
        egress: beat.egress,
        compliance: ComplianceTier::default(),
        time_limit_s_max: u32::try_from(TIME_LIMIT_S_MAX).unwrap_or(u32::MAX),
        quality_bps,
        stake,
        warm: beat.warm.clone(),
        models: beat.models,
        endpoints: beat.endpoints.clone(),
    }
}

/// The kinds of work that it takes.
const fn kinds(beat: &Heartbeat) -> WorkloadKinds {
    let mut kinds = WorkloadKinds::PROCESS;
    if beat.sessions {
        kinds = kinds.with(WorkloadKind::Session);
    }
    if beat.models.is_some() {
        kinds = kinds.with(WorkloadKind::Model);
    }
    if !beat.endpoints.is_empty() {
        kinds = kinds.with(WorkloadKind::Endpoint);
    }
    kinds
}

/// The report's counts as sentences.
fn reasons(report: &Report) -> Vec<(String, u64)> {
    report.turned_down.iter().take(REASONS_MAX).map(|(reason, count)| (reason.to_string(), *count)).collect()
}

const fn exchange(params: &Params) -> Exchange {
    Exchange { token_price: params.token_price }
}

fn failed(reply: u64, kind: MatchFailure, why: String, considered: u64, turned_down: Vec<(String, u64)>) -> Effect {
    Effect::Reply { reply, answer: Box::new(MatchReply::Failed(MatchFailed { kind, why, considered, turned_down })) }
}

fn count(reasons: &mut Vec<(String, u64)>, why: String) {
    if let Some((_, n)) = reasons.iter_mut().find(|(known, _)| *known == why) {
        *n = n.saturating_add(1);
    } else if reasons.len() < REASONS_MAX {
        reasons.push((why, 1));
    }
}
