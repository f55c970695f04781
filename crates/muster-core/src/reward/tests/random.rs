//! Ten thousand epochs in which anything may be found.

use super::*;
use crate::ids::ContentHash;
use crate::units::Ob;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn any_finding(chance: &mut Chance, draw: &Draw, a: &Assignment) -> Option<Finding> {
    let transcript = ContentHash([chance.below(4) as u8; 32]);
    let ob = Ob(chance.below(200_000) as u32);
    let honest = synthetic::honest(draw, a);
    let interruption = draw
        .view()
        .containers()
        .get(a.task.subject as usize)
        .and_then(|c| c.accused)
        .is_some_and(|accused| accused.of.is_decided_by_votes());
    Some(match (chance.below(8), a.task.kind) {
        (0, _) => return None,
        (1, _) => Finding::Unknown,
        (2..=4, _) => honest,
        (_, TaskKind::Liveness) => Finding::Liveness { answered: chance.below(9) as u16, asked: 8 },
        (5, TaskKind::Capacity | TaskKind::Dispute) => Finding::Refuted { transcript },
        (_, TaskKind::Dispute) if interruption => Finding::Upheld { evidence: transcript },
        (6, TaskKind::Capacity | TaskKind::Dispute) => Finding::Absent,
        (_, TaskKind::Capacity | TaskKind::Dispute) => Finding::Proved { ob, took_ms: 3, transcript },
        (5, TaskKind::Quality) => Finding::Poor,
        (6, TaskKind::Quality) => Finding::Substituted { weights: ContentHash([6; 32]) },
        (_, TaskKind::Quality) => Finding::Interrupted,
        (_, TaskKind::Duplicate) => Finding::Differs { transcript },
        (_, TaskKind::Recheck) => Finding::Rechecked { good: chance.below(2) == 0, proof: transcript },
    })
}

fn any_truth(chance: &mut Chance) -> Reexecution {
    [Reexecution::Good, Reexecution::Good, Reexecution::Bad, Reexecution::Forged, Reexecution::Unavailable]
        [chance.below(5) as usize]
}

/// One epoch of whatever may come, with what must hold of every one.
fn one_epoch(net: &mut Net, chance: &mut Chance, permute: bool) {
    let draw = net.draw();
    let mut bundle = synthetic::bundle(&draw, |a| any_finding(chance, &draw, a));
    if chance.below(3) == 0 {
        let at = chance.below(bundle.entries.len().max(1) as u64) as usize;
        if let Some(entry) = bundle.entries.get_mut(at) {
            entry.reveal = None;
        }
    }
    let list = doubts(&draw, &bundle).unwrap();
    bundle.reexecuted = list.into_iter().map(|doubt| (doubt, any_truth(chance))).collect();
    let container = net.view.containers()[chance.below(net.view.containers().len() as u64) as usize].node;
    let fee = TokenAmount(u128::from(chance.below(u64::MAX)));
    let chain = ChainFacts { fees: vec![FeesPaid { container, fee }], matched: Vec::new() };
    let before = net.state.clone();
    let settled = settle(&before, &draw, &bundle, &chain, &net.params).unwrap();

    if permute {
        chance.shuffle(&mut bundle.entries);
        chance.shuffle(&mut bundle.reexecuted);
        assert_eq!(settle(&before, &draw, &bundle, &chain, &net.params).unwrap(), settled);
        assert_eq!(Published::decode(&settled.published).unwrap().state, settled.state);
    }
    let total = |state: &State| state.leaves.iter().map(|leaf| leaf.cumulative).sum::<u128>();
    assert_eq!(total(&settled.state), settled.outcome.cumulative_total.0);
    assert_eq!(total(&settled.state) - total(&before), settled.growth.0);
    for leaf in &before.leaves {
        assert!(settled.state.leaf(leaf.kind, &leaf.key).unwrap().1.cumulative >= leaf.cumulative);
    }
    let pools = pools(&net.params, net.epochs.epoch_ms, draw.view().genesis(), draw.epoch()).unwrap();
    let sum = |amounts: &mut dyn Iterator<Item = TokenAmount>| amounts.map(|a| a.0).sum::<u128>();
    let capacity = sum(&mut settled.containers.iter().map(|c| c.capacity));
    let delivery = sum(&mut settled.containers.iter().map(|c| c.delivery));
    let base = sum(&mut settled.licences.iter().map(|l| l.base));
    let bonus = sum(&mut settled.licences.iter().map(|l| l.bonus));
    let penalties = sum(&mut settled.licences.iter().map(|l| l.penalties));
    assert!(capacity <= pools.capacity && base <= pools.checker_base && bonus <= pools.checker_bonus);
    // Rounding loses less than one unit a share.
    assert!(capacity == 0 || pools.capacity - capacity < settled.containers.len() as u128);
    assert!(base == 0 || pools.checker_base - base < settled.licences.len() as u128);
    assert!(delivery <= fee.0 / 2);
    assert!(penalties <= sum(&mut settled.slashes.iter().map(|s| s.amount)) / 4);
    assert_eq!(capacity + delivery + base + bonus + penalties, settled.growth.0);
    for slash in &settled.slashes {
        let entry = &draw.view().containers()[draw.view().container(&slash.node).unwrap() as usize];
        assert!(slash.amount <= entry.stake_due && slash.evidence != ContentHash::ZERO);
    }
    assert!(settled.slashes.is_sorted_by(|a, b| a.node < b.node));
    net.state = settled.state;
    net.next += 1;
}

#[test]
fn ten_thousand_random_epochs() {
    let mut chance = Chance(1);
    for world in 0..100u64 {
        let sizes = Sizes {
            containers: 1 + chance.below(5) as u32,
            checkers: 1 + chance.below(8) as u32,
            licences: chance.below(20) as u32,
            indexers: 1,
        };
        let mut net = Net::new(sizes);
        net.view = synthetic::view(world, sizes, EpochNo(0), STAKE).unwrap();
        net.epochs = EpochParams { dispute_seats: 9, ..EpochParams::production() };
        if world % 2 == 0 {
            // Bars end soon, so that those who were barred come back.
            net.params.month_ms = 5 * net.epochs.epoch_ms;
        }
        for epoch in 0..100 {
            one_epoch(&mut net, &mut chance, epoch % 10 == 0);
        }
    }
}
