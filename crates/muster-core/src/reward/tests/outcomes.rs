//! What is paid, what does not count, and what is published.

use super::*;
use crate::epoch::RegistryStatus;
use crate::ids::{Address, LeaseId, NodeId};

fn why(settled: &Settled, checker: &NodeId) -> Vec<IgnoredWhy> {
    settled.ignored.iter().filter(|i| i.checker == *checker).map(|i| i.why).collect()
}

#[test]
fn what_does_not_count_is_left_out_with_its_reason() {
    let mut net = Net::new(small());
    let draw = net.draw();
    let mut bundle = synthetic::bundle(&draw, |a| Some(synthetic::honest(&draw, a)));
    let names: Vec<NodeId> = draw.view().checkers().iter().map(|c| c.node).collect();
    let reveal = |bundle: &Bundle, at: usize| bundle.entries[at].reveal.clone().unwrap();
    // 0 never reveals, 1 reveals something else, 2 is of another epoch, 3 of another view, 4 commits twice, 5 is out of
    // order, 6 reports what it was not drawn for, 7 what cannot be, 8 is there twice with the same, and a stranger.
    bundle.entries[0].reveal = None;
    bundle.entries[1].reveal.as_mut().unwrap().salt = [9; 32];
    for (at, change) in [
        (2, (|r: &mut Report| r.epoch = EpochNo(77)) as fn(&mut Report)),
        (3, |r| r.view = crate::ids::ContentHash([1; 32])),
        (5, |r| r.results.reverse()),
        (6, |r| {
            let mut stray = r.results[0];
            stray.task.subject = 4_000_000_000;
            r.results.push(stray);
            r.results.sort_by_key(|x| x.task);
        }),
        (7, |r| r.results[0].finding = Finding::Good),
    ] {
        let mut changed = reveal(&bundle, at);
        change(&mut changed.report);
        bundle.entries[at] = synthetic::entry_of(changed);
    }
    let mut other = reveal(&bundle, 4);
    other.salt = [1; 32];
    bundle.entries.push(synthetic::entry_of(other));
    bundle.entries.push(bundle.entries[8].clone());
    let mut stranger = reveal(&bundle, 10);
    stranger.report.checker = NodeId([3; 32]);
    bundle.entries.push(synthetic::entry_of(stranger));
    let bundle = answered(&draw, bundle, |_| Reexecution::Good);
    let settled = net.settle(&draw, &bundle);
    let expected = [
        (names[0], IgnoredWhy::NoReveal),
        (names[1], IgnoredWhy::Mismatch),
        (names[2], IgnoredWhy::OtherEpoch),
        (names[3], IgnoredWhy::OtherView),
        (names[4], IgnoredWhy::Twice),
        (names[5], IgnoredWhy::Disorder),
        (names[6], IgnoredWhy::NotDrawn),
        (names[7], IgnoredWhy::WrongKind),
        (NodeId([3; 32]), IgnoredWhy::NotRegistered),
    ];
    for (checker, reason) in expected {
        assert_eq!(why(&settled, &checker), vec![reason], "{reason}");
    }
    assert_eq!(settled.ignored.len(), expected.len());
    assert!((0..6).all(|c| settled.checkers[c].done == 0 && settled.checkers[c].due > 0));
    assert_eq!(settled.checkers[8].done, settled.checkers[8].due);
}

#[test]
fn a_barred_checker_is_not_heard() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let with = net.draw();
    net.state.checkers[2].barred_until = EpochNo(1_000);
    let draw = net.draw();
    let reveal = Reveal {
        report: Report {
            epoch: draw.epoch(),
            checker: net.view.checkers()[2].node,
            view: draw.view_hash(),
            secret: [0; 32],
            results: Vec::new(),
        },
        salt: [0; 32],
    };
    assert!(with.can_be_drawn(2) && !draw.can_be_drawn(2));
    let settled = net.settle(&draw, &Bundle { entries: vec![synthetic::entry_of(reveal)], reexecuted: Vec::new() });
    assert_eq!(why(&settled, &net.view.checkers()[2].node), vec![IgnoredWhy::CannotBeDrawn]);
}

#[test]
fn delivery_and_matching_never_cost_more_than_the_fees() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let draw = net.draw();
    let (node, indexer) = (net.view.containers()[1].node, net.view.indexers()[0]);
    let fee = TokenAmount(1_000_000);
    let lease = MatchedLease { lease: LeaseId([1; 32]), indexer: indexer.node, fee };
    let chain = ChainFacts {
        fees: vec![FeesPaid { container: node, fee }, FeesPaid { container: NodeId([9; 32]), fee }],
        // Told twice, counted once; and one of a stranger.
        matched: vec![lease, lease, MatchedLease { lease: LeaseId([2; 32]), indexer: node, fee }],
    };
    let bundle = synthetic::bundle(&draw, |a| Some(synthetic::honest(&draw, a)));
    let bundle = answered(&draw, bundle, |_| Reexecution::Good);
    let settled = net.settle_with(&draw, &bundle, &chain);
    let quality = u128::from(net.state.containers[1].quality_bps);
    assert_eq!(settled.containers[1].delivery.0, 500_000 * quality / 10_000);
    let (_, leaf) = settled.state.leaf(LeafKind::Indexer, &indexer.node.0).unwrap();
    assert_eq!((leaf.cumulative, leaf.account), (200_000, indexer.owner));
    assert!(settled.containers[1].delivery.0 + leaf.cumulative < fee.0);
}

#[test]
fn what_is_paid_is_capped_by_the_table_and_by_the_week() {
    let mut net = Net::new(Sizes { containers: 2, ..small() });
    let mut record = ContainerRecord::new(NodeId([1; 32]));
    for (day, ob) in [(10, 500), (11, 100), (13, 300), (14, 9_000)] {
        record.note_ob(day, crate::units::Ob(ob));
    }
    assert_eq!(record.ob_median(14), crate::units::Ob(300));
    assert_eq!(record.ob_median(17), crate::units::Ob(300));
    assert_eq!(record.ob_median(18), crate::units::Ob(300));
    assert_eq!(record.ob_median(20), crate::units::Ob(9_000));
    assert_eq!(record.ob_median(21), crate::units::Ob(0));
    // Two alike but for a proved speed far above the cap are paid alike.
    let mut containers = net.view.containers().to_vec();
    for c in &mut containers {
        (c.ob_claimed, c.ob_cap) = (crate::units::Ob(10_000), crate::units::Ob(11_000));
    }
    let rest = (net.view.checkers().to_vec(), net.view.indexers().to_vec(), net.view.licences().to_vec());
    net.view = RegistryView::new(EpochNo(0), EpochNo(0), containers, rest.0, rest.1, rest.2).unwrap();
    let find = |draw: &Draw, a: &Assignment| {
        let ob = crate::units::Ob(if a.task.subject == 0 { 11_000 } else { 90_000 });
        is_test(a).then_some(Finding::Proved { ob, took_ms: 1, transcript: synthetic::transcript(draw, a) })
    };
    let settled = net.epoch(find, |_| Reexecution::Good);
    assert_eq!(settled.containers[0].capacity, settled.containers[1].capacity);
    assert!(settled.containers[0].capacity > TokenAmount::ZERO);
}

#[test]
fn licences_earn_for_their_owners() {
    let mut net = Net::new(small());
    let settled = net.honest_epoch();
    let owner = net.view.licences()[0].owner;
    let sum: u128 = net
        .view
        .licences()
        .iter()
        .zip(&settled.licences)
        .filter(|(l, _)| l.owner == owner)
        .map(|(_, l)| l.base.0 + l.bonus.0 + l.penalties.0)
        .sum();
    let (at, leaf) = settled.state.leaf(LeafKind::LicenceOwner, &owner_key(&owner)).unwrap();
    assert_eq!((leaf.cumulative, leaf.account), (sum, owner));
    let hashes: Vec<merkle::Hash> = settled.state.leaves.iter().map(RewardLeaf::hash).collect();
    let proof = merkle::proof(&hashes, at).unwrap();
    assert!(merkle::verify(leaf.hash(), &proof, settled.outcome.reward_root));
    assert!(!merkle::verify(RewardLeaf { cumulative: sum + 1, ..*leaf }.hash(), &proof, settled.outcome.reward_root));
}

#[test]
fn a_checker_that_does_less_earns_less_and_has_no_bonus() {
    let mut net = Net::new(small());
    let draw = net.draw();
    let half = |a: &Assignment| a.checker != 5 || a.task.subject.is_multiple_of(2);
    let bundle = synthetic::bundle(&draw, |a| half(a).then(|| synthetic::honest(&draw, a)));
    let bundle = answered(&draw, bundle, |_| Reexecution::Good);
    let settled = net.settle(&draw, &bundle);
    let of = |checker: usize| {
        let signer = net.view.checkers()[checker].signer;
        let at = net.view.licences().iter().position(|l| l.delegate == Some(signer)).unwrap();
        settled.licences[at]
    };
    assert!(of(5).base.0 > 0 && of(5).base < of(6).base);
    assert!(of(5).bonus == TokenAmount::ZERO && of(6).bonus > TokenAmount::ZERO);
}

#[test]
fn epochs_come_in_their_order_and_silent_ones_as_a_range() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let before = net.state.clone();
    net.next = 4;
    let draw = net.draw();
    let bundle = Bundle::default();
    let wrong = settle(&net.state, &draw, &bundle, &ChainFacts::default(), &net.params);
    assert_eq!(wrong.unwrap_err(), SettleError::OutOfOrder { next: EpochNo(1), got: EpochNo(4) });
    let silent = settle_silence(&net.state, &draw).unwrap();
    assert_eq!((silent.outcome.first_epoch, silent.outcome.last_epoch), (EpochNo(1), EpochNo(4)));
    assert_eq!((silent.growth, silent.slashes.len()), (TokenAmount::ZERO, 0));
    assert_eq!((&silent.state.leaves, &silent.state.containers), (&before.leaves, &before.containers));
    assert!(settle_silence(&silent.state, &draw).is_err());
    net.state = silent.state;
    net.next = 5;
    net.honest_epoch();
}

#[test]
fn published_bytes_are_read_back_and_belong_to_their_outcome() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let settled = net.honest_epoch();
    let read = Published::decode(&settled.published).unwrap();
    assert_eq!(read.state, settled.state);
    assert_eq!(read.outcome(&settled.published).unwrap(), settled.outcome);
    assert_eq!(State::decode(&settled.state.encode()).unwrap(), settled.state);
    for cut in [0, 7, 8, 50, settled.published.len() - 1] {
        assert!(Published::decode(&settled.published[..cut]).is_err());
    }
    let mut longer = settled.published.clone();
    longer.push(0);
    assert!(Published::decode(&longer).is_err());
    // A count beyond what is there is refused before memory is taken.
    let mut lying = settled.published.clone();
    lying[56..64].copy_from_slice(&u64::MAX.to_be_bytes());
    assert_eq!(Published::decode(&lying).unwrap_err(), SettleError::Truncated);
}

#[test]
fn jailed_and_gone_containers_earn_nothing_and_keep_their_leaves() {
    let mut net = Net::new(small());
    let first = net.honest_epoch();
    let mut containers = net.view.containers().to_vec();
    containers[0].status = RegistryStatus::Jailed;
    let gone = containers.remove(1);
    let rest = (net.view.checkers().to_vec(), net.view.indexers().to_vec(), net.view.licences().to_vec());
    net.view = RegistryView::new(EpochNo(0), EpochNo(0), containers, rest.0, rest.1, rest.2).unwrap();
    let second = net.honest_epoch();
    assert_eq!(second.containers[0].capacity, TokenAmount::ZERO);
    for node in [net.view.containers()[0].node, gone.node] {
        let leaf = |settled: &Settled| *settled.state.leaf(LeafKind::Container, &node.0).unwrap().1;
        assert_eq!(leaf(&first), leaf(&second));
    }
    assert!(second.state.container(&gone.node).is_some());
}

#[test]
fn committees_are_named_by_the_hash_of_their_accounts() {
    let members = [Address([1; 20]), Address([2; 20])];
    let words: Vec<u8> = members.iter().flat_map(|m| [&[0u8; 12][..], &m.0].concat()).collect();
    assert_eq!(committee_hash(&members), merkle::keccak256(&words));
    let mut net = Net::new(small());
    let settled = net.honest_epoch();
    assert_eq!((settled.next_committee.len(), settled.next_dispute_committee.len()), (7, 21));
    assert_eq!(settled.outcome.next_committee, committee_hash(&settled.next_committee));
}
