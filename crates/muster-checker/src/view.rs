//! From what the chain says to the view that an epoch is drawn from. Everybody makes the same of the same chain.

use std::collections::{BTreeMap, BTreeSet};

use muster_chain::settle::{NodeKind, NodeOnChain, NodeStatus};
use muster_core::calibration::Table;
use muster_core::epoch::{
    AddressBlock, CheckerEntry, ContainerEntry, EpochNo, Fingerprint, IndexerEntry, Licence, RegistryStatus,
    RegistryView, ViewError,
};
use muster_core::ids::{Address, NodeId};
use muster_core::params::Params;
use muster_core::proof::Claim;
use muster_core::units::{Ob, TimeMs};
use muster_wire::endpoint::Endpoint;

use crate::ledger::Snapshot;

/// What a Container claims, cut to what the calibration table allows for each of its cards: what its challenges carry.
#[must_use]
pub fn claims(endpoint: &Endpoint, table: &Table) -> Vec<Claim> {
    let cut = |card: &Claim| {
        let most = table.find(&card.model).rates.most();
        Claim { ob: card.ob.min(most), ..card.clone() }
    };
    endpoint.cards.iter().map(cut).collect()
}

/// The most that a Container's cards are ever paid for.
fn ob_cap(endpoint: &Endpoint, table: &Table) -> Ob {
    let most = endpoint.cards.iter().map(|card| table.find(&card.model).rates.most().0);
    Ob(most.fold(0u32, u32::saturating_add))
}

/// The view of an epoch, before what earlier epochs found is written into it
/// ([`State::freeze`](muster_core::reward::State::freeze)).
///
/// The account that signs for a Checker is its owner, and one account signs for one Checker: of several that an owner
/// has registered, the one that registered first is drawn (of equal times the one with the smaller key).
///
/// # Errors
/// More nodes than can be numbered.
pub fn view(
    snapshot: &Snapshot,
    epoch: EpochNo,
    genesis: EpochNo,
    params: &Params,
    table: &Table,
) -> Result<RegistryView, ViewError> {
    let of = |kind: NodeKind| snapshot.nodes.iter().filter(move |node| node.kind == kind);
    let containers = of(NodeKind::Container).map(|node| container(node, snapshot, params, table)).collect();
    let indexers = of(NodeKind::Indexer)
        .map(|n| IndexerEntry { node: n.node, owner: n.owner, stake: n.stake, status: status(n.status) })
        .collect();
    let checkers = checkers(of(NodeKind::Checker));
    let signers: BTreeMap<NodeId, Address> = checkers.iter().map(|c| (c.node, c.signer)).collect();
    let licence = |licence: &crate::ledger::LicenceOnChain| Licence {
        id: licence.id,
        owner: licence.owner,
        delegate: licence.delegate.and_then(|node| signers.get(&node).copied()),
    };
    let licences = snapshot.licences.iter().map(licence).collect();
    RegistryView::new(epoch, genesis, containers, checkers, indexers, licences)
}

/// The Checker that each account signs for.
pub(crate) fn signers(snapshot: &Snapshot) -> BTreeMap<Address, NodeId> {
    let of = snapshot.nodes.iter().filter(|node| node.kind == NodeKind::Checker);
    checkers(of).into_iter().map(|checker| (checker.signer, checker.node)).collect()
}

fn checkers<'n>(nodes: impl Iterator<Item = &'n NodeOnChain>) -> Vec<CheckerEntry> {
    let mut nodes: Vec<&NodeOnChain> = nodes.collect();
    // Those that left come last: an owner may register another key afterwards.
    nodes.sort_unstable_by_key(|node| (node.status == NodeStatus::Left, node.registered_at_s, node.node));
    let mut owners = BTreeSet::new();
    nodes.retain(|node| owners.insert(node.owner));
    let entry = |node: &NodeOnChain| CheckerEntry {
        node: node.node,
        owner: node.owner,
        signer: node.owner,
        stake: node.stake,
        status: status(node.status),
        barred_until: EpochNo(0),
    };
    nodes.into_iter().map(entry).collect()
}

fn container(node: &NodeOnChain, snapshot: &Snapshot, params: &Params, table: &Table) -> ContainerEntry {
    let endpoint = Endpoint::parse(&node.endpoint);
    ContainerEntry {
        node: node.node,
        owner: node.owner,
        stake: node.stake,
        stake_due: params.container_stake,
        status: status(node.status),
        registered_at: TimeMs(node.registered_at_s.saturating_mul(1_000)),
        fingerprint: (node.fingerprint != [0; 32]).then_some(Fingerprint(node.fingerprint)),
        block: endpoint.direct.first().map(|addr| AddressBlock::of(addr.ip())),
        ob_claimed: endpoint.ob(),
        ob_cap: ob_cap(&endpoint, table),
        serving: snapshot.serving.contains(&node.node),
        tested: None,
        suspect_until: EpochNo(0),
        again: false,
        accused: None,
    }
}

const fn status(status: NodeStatus) -> RegistryStatus {
    match status {
        NodeStatus::Active => RegistryStatus::Active,
        NodeStatus::Jailed => RegistryStatus::Jailed,
        NodeStatus::Left => RegistryStatus::Left,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ledger::LicenceOnChain;
    use muster_core::units::TokenAmount;

    /// A small table: processors only.
    pub(crate) fn table() -> Table {
        let fallback = muster_core::calibration::Fallback {
            ob: 100,
            steps_per_ob: 160_000_000,
            products_per_ob: 600_000_000,
            reads_per_ob: 2_500_000,
            source: String::new(),
        };
        Table {
            serial: 1,
            issued: "2026-11-25".to_owned(),
            version: "2020".to_owned(),
            fallback,
            architecture: Vec::new(),
            card: Vec::new(),
        }
    }

    pub(crate) fn node(kind: NodeKind, key: u8, owner: u8, at: u64, endpoint: &str) -> NodeOnChain {
        NodeOnChain {
            node: NodeId([key; 32]),
            kind,
            status: NodeStatus::Active,
            owner: Address([owner; 20]),
            stake: TokenAmount(1_000 * TokenAmount::ONE.0),
            unbonding: TokenAmount::ZERO,
            unbond_at_s: 0,
            rewards: TokenAmount::ZERO,
            registered_at_s: at,
            fingerprint: [0; 32],
            endpoint: endpoint.to_owned(),
        }
    }

    #[test]
    fn order_does_not_matter_and_an_owner_has_one_checker() {
        let nodes = vec![
            node(NodeKind::Checker, 3, 1, 10, ""),
            node(NodeKind::Checker, 2, 1, 5, ""),
            node(NodeKind::Checker, 4, 2, 7, ""),
            node(NodeKind::Container, 9, 3, 1, "gpu=processor:1:16 192.0.2.1:7000"),
            node(NodeKind::Container, 8, 3, 1, "gpu=processor:9999999:16"),
        ];
        let licences = vec![
            LicenceOnChain { id: 1, owner: Address([7; 20]), delegate: Some(NodeId([2; 32])) },
            LicenceOnChain { id: 2, owner: Address([7; 20]), delegate: Some(NodeId([3; 32])) },
            LicenceOnChain { id: 3, owner: Address([7; 20]), delegate: None },
        ];
        let snapshot = Snapshot { nodes, licences, serving: [NodeId([9; 32])].into(), ..Snapshot::default() };
        let make = |s: &Snapshot| view(s, EpochNo(5), EpochNo(1), &Params::development(), &table()).unwrap();
        let made = make(&snapshot);
        let mut reversed = snapshot.clone();
        reversed.nodes.reverse();
        reversed.licences.reverse();
        assert_eq!(make(&reversed).hash(), made.hash());
        let drawn: Vec<u8> = made.checkers().iter().map(|c| c.node.0[0]).collect();
        assert_eq!(drawn, [2, 4], "the one that registered later is left out");
        assert_eq!(made.licences()[0].delegate, Some(Address([1; 20])));
        assert_eq!(made.licences()[1].delegate, None, "the second Checker of an owner serves nobody");
        let [eight, nine] = made.containers() else { panic!("two Containers") };
        assert_eq!((nine.ob_claimed, nine.serving), (Ob(1), true));
        assert_eq!(nine.block, Some(AddressBlock::of([192, 0, 2, 77].into())));
        assert!(eight.ob_claimed > eight.ob_cap, "the table's bound holds, whatever is claimed");
    }
}
