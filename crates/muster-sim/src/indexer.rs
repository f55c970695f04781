//! An Indexer's body in the simulator, and the lies of a bad one.

use std::collections::BTreeMap;

use muster_core::brain::indexer::{Effect, Event, Indexer, Record, Registered};
use muster_core::ids::{LeaseId, NodeId};
use muster_core::protocol::{ContainerReport, MatchReply, Offer, OfferAnswer};
use muster_core::units::TokenAmount;

use crate::config::{Config, RoleKind};
use crate::container::{container_id, container_index};
use crate::rng::Rng;
use crate::world::{Rpc, Who, World};

/// An Indexer.
#[derive(Debug)]
pub(crate) struct IndexerNode {
    pub(crate) id: NodeId,
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) skew_ms: u64,
    lies: bool,
    brain: Indexer,
    disk: BTreeMap<LeaseId, Record>,
    /// Where answers go: reply → (consumer, request).
    replies: BTreeMap<u64, (usize, u128)>,
}

impl IndexerNode {
    pub(crate) fn new(index: usize, config: &Config, rng: &mut Rng) -> Self {
        let mut bytes = [0x1d; 32];
        bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
        let id = NodeId(bytes);
        let mut node = Self {
            id,
            up: true,
            life: 0,
            skew_ms: rng.below(config.faults.skew_ms + 1),
            // The first is honest: with nobody honest there is nothing to be had from the network.
            lies: index > 0 && rng.below(100) < config.faults.lying_indexers,
            brain: Indexer::new(id, config.params.clone(), rng.draw()),
            disk: BTreeMap::new(),
            replies: BTreeMap::new(),
        };
        node.register(config);
        node
    }

    fn register(&mut self, config: &Config) {
        for i in 0..config.containers {
            let registered = Some(Registered { active: true, stake: TokenAmount::ONE });
            let now = muster_core::units::TimeMs(0);
            self.brain.handle(Event::Registry { container: container_id(i), registered }, now);
        }
    }

    pub(crate) fn die(&mut self) {
        self.up = false;
        self.life += 1;
    }
}

impl World {
    pub(crate) fn tick_indexer(&mut self, i: usize) -> bool {
        self.feed_indexer(i, Event::Tick);
        self.indexers[i].brain.waiting() > 0
    }

    fn feed_indexer(&mut self, i: usize, event: Event) {
        if !self.indexers[i].up {
            return;
        }
        let now = self.clock(Who::Indexer(i));
        let effects = self.indexers[i].brain.handle(event, now);
        for effect in effects {
            if self.dies(RoleKind::Indexer) {
                self.crash(Who::Indexer(i));
                return;
            }
            self.indexer_does(i, effect);
        }
    }

    fn indexer_does(&mut self, i: usize, effect: Effect) {
        let id = self.indexers[i].id;
        match effect {
            // Nobody in the simulator measures ways or plays: these answer questions that it does not ask.
            Effect::Candidates { .. } | Effect::Noted { .. } => {}
            Effect::Save(record) => {
                self.indexers[i].disk.insert(record.lease, *record);
            }
            Effect::Offer { call, to, terms } => {
                if let Some(n) = container_index(to) {
                    let offer = Box::new(Offer::Take(terms));
                    self.send(Who::Indexer(i), Who::Container(n), Rpc::Offer { reply: call, from: id, offer });
                }
            }
            Effect::Suggest { .. } => {}
            Effect::Withdraw { from, lease } => {
                if let Some(n) = container_index(from) {
                    let offer = Box::new(Offer::Withdraw(lease));
                    self.send(Who::Indexer(i), Who::Container(n), Rpc::Offer { reply: 0, from: id, offer });
                }
            }
            Effect::Reply { reply, mut answer } => {
                let Some((consumer, request)) = self.indexers[i].replies.remove(&reply) else { return };
                if self.indexers[i].lies {
                    self.twist(&mut answer);
                }
                self.send(
                    Who::Indexer(i),
                    Who::Consumer(consumer),
                    Rpc::MatchReply { from: id, request, reply: answer },
                );
            }
        }
    }

    /// A bad Indexer changes what was agreed.
    fn twist(&mut self, answer: &mut MatchReply) {
        let MatchReply::Matched(m) = answer else { return };
        match self.rng.below(5) {
            0 => m.terms.deposit = TokenAmount(m.terms.deposit.0.saturating_mul(1_000)),
            1 => m.terms.session_key = muster_core::ids::Address([9; 20]),
            2 => m.terms.container = NodeId([9; 32]),
            3 => m.terms.allocation.cpu_millis /= 2,
            _ => m.terms.rate_per_second = TokenAmount(m.terms.rate_per_second.0 / 2),
        }
    }

    pub(crate) fn indexer_gets(&mut self, i: usize, from: Who, rpc: Rpc) {
        match rpc {
            Rpc::Match(request) => {
                let Who::Consumer(consumer) = from else { return };
                self.next_reply += 1;
                let reply = self.next_reply;
                self.indexers[i].replies.insert(reply, (consumer, request.request.0));
                self.feed_indexer(i, Event::Requested { reply, request });
            }
            Rpc::Report(report) => match *report {
                ContainerReport::Heartbeat(beat) => self.feed_indexer(i, Event::Beat(beat)),
                ContainerReport::Lease(report) => {
                    let Who::Container(n) = from else { return };
                    let from = self.containers[n].id;
                    self.feed_indexer(i, Event::Reported { from, report });
                }
            },
            Rpc::OfferAnswer { reply, answer } => {
                let answer: OfferAnswer = *answer;
                self.feed_indexer(i, Event::Answered { call: reply, answer });
            }
            _ => {}
        }
    }

    pub(crate) fn restart_indexer(&mut self, i: usize) {
        let seed = self.rng.draw();
        let node = &mut self.indexers[i];
        node.up = true;
        node.replies.clear();
        node.brain = Indexer::new(node.id, self.config.params.clone(), seed);
        node.brain.remember(node.disk.values().cloned().collect());
        node.register(&self.config);
    }
}
