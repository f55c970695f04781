//! A network of Checkers' brains: the bodies, the wires and the chain.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::*;
use crate::epoch::{Assignment, Draw, EpochNo, RegistryView, Seed};
use crate::ids::{ContentHash, NodeId};
use crate::params::Params;
use crate::protocol::NodeSignature;
use crate::reward::synthetic::{self, Sizes};
use crate::reward::{
    Bundle, ChainFacts, Finding, Ignored, Published, Receipt, Reexecution, SlashLeaf, merkle, settle, slash_root,
};
use crate::units::{TimeMs, TokenAmount};
use crate::voucher::CompactSignature;

pub(super) const STAKE: TokenAmount = TokenAmount(1_000 * TokenAmount::ONE.0);
const STEP_MS: u64 = 250;
const BAD: ContentHash = ContentHash([0xbb; 32]);

/// What is on the chain.
pub(super) struct Chain {
    pub(super) up: bool,
    pub(super) posted: Vec<Posted>,
    pub(super) executed: Vec<(SlashLeaf, merkle::Hash)>,
    data: BTreeMap<ContentHash, Arc<Vec<u8>>>,
}

pub(super) struct Net {
    pub(super) checkers: Vec<Checker>,
    pub(super) chain: Chain,
    pub(super) params: Params,
    pub(super) view: RegistryView,
    pub(super) genesis: u64,
    pub(super) away: bool,
    pub(super) cut: Vec<(NodeId, NodeId)>,
    /// A seed, and how many of a hundred messages are lost (as many come twice).
    pub(super) loss: Option<(u64, u64)>,
    pub(super) skew: Vec<u64>,
    pub(super) find: fn(&Draw, &Assignment) -> Option<Finding>,
    pub(super) liar: Option<NodeId>,
    pub(super) two_faced: Option<NodeId>,
    pub(super) refused: usize,
    pub(super) performed: Vec<(TimeMs, EpochNo, Assignment)>,
    bundles: BTreeMap<EpochNo, (Arc<Draw>, State, Bundle)>,
    saved: Vec<Vec<Saved>>,
    dead: Vec<bool>,
    draws: BTreeMap<EpochNo, Arc<Draw>>,
    queue: VecDeque<(usize, Event)>,
    now: TimeMs,
}

impl Net {
    pub(super) fn new(count: u32) -> Self {
        let params = Params::development();
        let genesis = 1_000u64;
        let sizes = Sizes { containers: 6, checkers: count, licences: count * 2, indexers: 1 };
        let made = synthetic::view(3, sizes, EpochNo(genesis), STAKE).unwrap();
        let parts = (made.containers(), made.checkers(), made.indexers(), made.licences());
        let view = RegistryView::new(
            EpochNo(genesis),
            EpochNo(genesis),
            parts.0.to_vec(),
            parts.1.to_vec(),
            parts.2.to_vec(),
            parts.3.to_vec(),
        )
        .unwrap();
        let count = count as usize;
        let mut net = Self {
            checkers: Vec::new(),
            chain: Chain { up: true, posted: Vec::new(), executed: Vec::new(), data: BTreeMap::new() },
            now: params.epoch.begin(EpochNo(genesis)),
            params,
            view,
            genesis,
            away: false,
            cut: Vec::new(),
            loss: None,
            skew: vec![0; count],
            find: |_, _| None,
            liar: None,
            two_faced: None,
            refused: 0,
            performed: Vec::new(),
            bundles: BTreeMap::new(),
            saved: vec![Vec::new(); count],
            dead: vec![false; count],
            draws: BTreeMap::new(),
            queue: VecDeque::new(),
        };
        net.checkers = (0..count).map(|at| Checker::new(net.config(at))).collect();
        net
    }

    pub(super) fn config(&self, at: usize) -> Config {
        let member = |c: &crate::epoch::CheckerEntry| Member { node: c.node, signer: c.signer };
        let own = &self.view.checkers()[at];
        Config {
            id: own.node,
            signer: own.signer,
            params: self.params.clone(),
            first_committee: self.view.checkers().iter().take(3).map(member).collect(),
        }
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.view.checkers().iter().map(|c| c.node).collect()
    }

    pub(super) const fn time(&self) -> TimeMs {
        self.now
    }

    fn at(&self, id: &NodeId) -> usize {
        self.view.checker(id).unwrap() as usize
    }

    pub(super) fn draw_of(&self, epoch: EpochNo) -> Arc<Draw> {
        let state = self.chain.posted.last().map_or_else(State::default, |posted| {
            Published::decode(&self.chain.data[&posted.outcome.data_hash]).unwrap().state
        });
        let view = state.freeze(self.view.at(epoch));
        let seed = Seed(*blake3::hash(&epoch.0.to_be_bytes()).as_bytes());
        Arc::new(Draw::new(Arc::new(view), self.params.epoch.clone(), seed))
    }

    pub(super) fn kill(&mut self, id: NodeId) {
        let at = self.at(&id);
        self.dead[at] = true;
    }

    pub(super) fn revive(&mut self, id: NodeId) {
        let at = self.at(&id);
        self.dead[at] = false;
        self.restart(at);
    }

    /// A process that died and comes back with what it had saved.
    pub(super) fn restart(&mut self, at: usize) {
        self.queue.retain(|(to, _)| *to != at);
        let mut checker = Checker::new(self.config(at));
        checker.restore(self.saved[at].clone());
        self.checkers[at] = checker;
        let settled = self.checkers[at].state().settled;
        // The draw of the last settled epoch tells who settles the next one.
        let draws: Vec<Arc<Draw>> =
            self.draws.range(settled.unwrap_or(EpochNo(0))..).map(|(_, d)| Arc::clone(d)).collect();
        for draw in draws {
            self.begin(at, draw);
        }
        self.drain();
    }

    fn begin(&mut self, at: usize, draw: Arc<Draw>) {
        let mut chance = [0; 64];
        let (secret, salt) = synthetic::secret_and_salt(&draw, at as u32);
        chance[..32].copy_from_slice(&secret);
        chance[32..].copy_from_slice(&salt);
        // After a restart other chance comes; what was committed must stand all the same.
        chance[63] ^= self.saved[at].len() as u8;
        self.give(at, Event::Epoch { draw, chance });
    }

    pub(super) fn run_epochs(&mut self, count: u64) {
        let end = self.params.epoch.end(EpochNo(self.params.epoch.at(self.now).0 + count - 1));
        self.run_ms(end.since(self.now));
    }

    pub(super) fn run_to_epoch(&mut self, epochs: u64) {
        let end = self.params.epoch.begin(EpochNo(self.genesis + epochs));
        self.run_ms(end.since(self.now));
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while self.now < end {
            self.step();
            self.now = self.now.plus(STEP_MS);
        }
    }

    fn step(&mut self) {
        if self.away {
            return;
        }
        let epoch = self.params.epoch.at(self.now);
        if !self.draws.contains_key(&epoch) {
            let draw = self.draw_of(epoch);
            self.draws.insert(epoch, Arc::clone(&draw));
            for at in 0..self.checkers.len() {
                self.begin(at, Arc::clone(&draw));
            }
        }
        for at in 0..self.checkers.len() {
            self.give(at, Event::Tick);
            if self.chain.up && self.now.0.is_multiple_of(1_000) {
                let posted = self.chain.posted.iter().rev().take(5).rev().copied().collect();
                self.give(at, Event::Chain(Box::new(ChainSeen { posted })));
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        let mut rounds = 0;
        while let Some((at, event)) = self.queue.pop_front() {
            self.give(at, event);
            rounds += 1;
            assert!(rounds < 200_000, "messages go round and round");
        }
    }

    fn give(&mut self, at: usize, event: Event) {
        if self.dead[at] {
            return;
        }
        let now = self.now.plus(self.skew[at]);
        for effect in self.checkers[at].handle(event, now) {
            self.perform(at, effect);
        }
    }

    fn chance(&mut self) -> u64 {
        let Some((state, _)) = &mut self.loss else { return 99 };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % 100
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let share = self.loss.map_or(0, |(_, share)| share);
        let lot = self.chance();
        if lot < share {
            return;
        }
        let at = self.at(&to);
        let event = Event::Heard { from, message: Box::new(message) };
        if lot >= 100 - share.min(99) && share > 0 {
            self.queue.push_back((at, event.clone()));
        }
        self.queue.push_back((at, event));
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        let (me, signer) = (self.view.checkers()[at].node, self.view.checkers()[at].signer);
        match effect {
            Effect::Save(saved) => {
                if matches!(*saved, Saved::Settled(_)) {
                    self.saved[at].clear();
                }
                self.saved[at].push(*saved);
            }
            Effect::Perform { epoch, assignment } => {
                self.performed.push((self.now, epoch, assignment));
                let draw = &self.draws[&epoch];
                let finding = (self.find)(draw, &assignment).unwrap_or_else(|| synthetic::honest(draw, &assignment));
                self.queue.push_back((at, Event::Found { epoch, task: assignment.task, finding }));
            }
            Effect::Vouch(mut commitment) => {
                commitment.signature = NodeSignature { r: [1; 32], s: [2; 32] };
                self.queue.push_back((at, Event::Vouched(commitment)));
            }
            Effect::Acknowledge(commitment) => {
                let signature = NodeSignature { r: [3; 32], s: [4; 32] };
                let receipt = Receipt { member: me, signature };
                let message = Message::Receipt { epoch: commitment.epoch, hash: commitment.hash, receipt };
                self.send(me, commitment.checker, message);
            }
            Effect::Send { to, message } => self.pass(me, to, *message),
            Effect::Reexecute { epoch, doubt } => {
                let bad = doubt.transcript == BAD;
                let result = if bad { Reexecution::Bad } else { Reexecution::Good };
                self.queue.push_back((at, Event::Reexecuted { epoch, doubt, result }));
            }
            Effect::AskFacts(epoch) => {
                if self.chain.up {
                    self.queue.push_back((at, Event::Facts { epoch, facts: Box::new(ChainFacts::default()) }));
                }
            }
            Effect::Sign(outcome) => {
                let signed = SignedOutcome {
                    outcome: *outcome,
                    signer,
                    signature: CompactSignature { r: [5; 32], vs: [6; 32] },
                };
                self.queue.push_back((at, Event::Signed(Box::new(signed))));
            }
            Effect::Post { outcome, signatures, published } => self.post(&outcome, &signatures, published),
            Effect::Fetch(hash) => {
                if let Some(bytes) = self.chain.data.get(&hash) {
                    self.queue.push_back((at, Event::Published(Arc::clone(bytes))));
                }
            }
            Effect::Finalize(posted) => {
                for one in &mut self.chain.posted {
                    if one.outcome == posted.outcome && self.now >= one.final_at && self.chain.up {
                        one.finalized = true;
                    }
                }
            }
            Effect::Slash { leaf, proof } => self.slash(at, leaf, &proof),
            Effect::Dispute { .. } => panic!("nothing was disputed"),
            Effect::Reexamine(_) | Effect::Resolve { .. } => panic!("nothing was disputed"),
            Effect::Publish(_) | Effect::Forget(_) => {}
        }
    }

    /// Lies and double dealing happen on the way.
    fn pass(&mut self, from: NodeId, to: NodeId, mut message: Message) {
        match &mut message {
            Message::Propose(proposal) => {
                if let Some(bundle) = &proposal.bundle {
                    let epoch = proposal.span.first;
                    let state = self.checkers[0].state().clone();
                    let draw = Arc::clone(&self.draws[&epoch]);
                    let last = self.bundles.entry(epoch).or_insert_with(|| (draw, state, Bundle::default()));
                    last.2 = bundle.clone();
                }
                if self.liar == Some(from) {
                    proposal.outcome.cumulative_total.0 *= 2;
                }
            }
            Message::Answer(answer) => {
                if matches!(**answer, Answer::Differs { .. }) {
                    self.refused += 1;
                }
            }
            // To the last member it commits to something else.
            Message::Commit(commitment)
                if self.two_faced == Some(from)
                    && self.checkers[0].committee(commitment.epoch).last().is_some_and(|last| last.node == to) =>
            {
                commitment.hash = ContentHash([0xee; 32]);
            }
            _ => {}
        }
        self.send(from, to, message);
    }

    fn post(
        &mut self,
        outcome: &Outcome,
        signatures: &[(crate::ids::Address, CompactSignature)],
        published: Arc<Vec<u8>>,
    ) {
        if !self.chain.up {
            return;
        }
        let next = self.chain.posted.last().map_or(EpochNo(self.genesis), |p| p.outcome.last_epoch.next());
        if outcome.first_epoch != next {
            return;
        }
        let signers: std::collections::BTreeSet<_> = signatures.iter().map(|(signer, _)| *signer).collect();
        assert!(signers.len() >= 2 && signers.len() == signatures.len());
        assert_eq!(ContentHash(*blake3::hash(&published).as_bytes()), outcome.data_hash);
        self.chain.data.insert(outcome.data_hash, published);
        let final_at = self.now.plus(self.params.epoch.dispute_window_ms);
        self.chain.posted.push(Posted { outcome: *outcome, final_at, finalized: false });
    }

    fn slash(&mut self, at: usize, leaf: SlashLeaf, proof: &[merkle::Hash]) {
        let posted = self.chain.posted.iter().find(|p| p.outcome.last_epoch == leaf.last_epoch).unwrap();
        assert!(posted.finalized);
        assert!(merkle::verify(leaf.hash(), proof, posted.outcome.slash_root));
        assert_eq!(slash_root(&[leaf]), posted.outcome.slash_root);
        let root = posted.outcome.slash_root;
        if !self.chain.executed.iter().any(|(have, _)| *have == leaf) {
            self.chain.executed.push((leaf, root));
        }
        self.queue.push_back((at, Event::SlashExecuted { epoch: leaf.last_epoch, node: leaf.node }));
    }

    /// What did not count in an epoch, by the last bundle that was proposed.
    pub(super) fn ignored(&self, epoch: EpochNo) -> Vec<Ignored> {
        let (draw, state, bundle) = &self.bundles[&epoch];
        settle(state, draw, bundle, &ChainFacts::default(), &self.params.reward).unwrap().ignored
    }

    /// The outcomes on the chain follow one another without a gap, and each was signed by whom the one before names.
    pub(super) fn assert_chained(&self) {
        let mut next = EpochNo(self.genesis);
        for posted in &self.chain.posted {
            assert_eq!(posted.outcome.first_epoch, next);
            next = posted.outcome.last_epoch.next();
        }
        assert_eq!(self.checkers[0].state().settled.map(EpochNo::next), Some(next));
    }
}
