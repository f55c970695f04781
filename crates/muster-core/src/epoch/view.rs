//! The registry as an epoch sees it.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::EpochNo;
use crate::ids::{Address, ContentHash, NodeId};
use crate::units::{Ob, TimeMs, TokenAmount};

/// The most Containers that a view can number.
pub const CONTAINERS_MAX: usize = 4_000_000;
/// The most Checkers, Indexers or licences of a view.
pub const OTHERS_MAX: usize = 200_000;

/// Where a node stands in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistryStatus {
    /// In good standing.
    Active,
    /// Its stake is below the least.
    Jailed,
    /// It left or is leaving.
    Left,
}

/// The commitment to its hardware that a Container registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

/// Neighbours on the internet: the first 24 bits of an IPv4 address, the first 48 of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddressBlock(pub u64);

impl AddressBlock {
    /// The block of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self((4 << 56) | u64::from(v4.to_bits() >> 8)),
            IpAddr::V6(v6) => Self((6 << 56) | u64::try_from(v6.to_bits() >> 80).unwrap_or(0)),
        }
    }
}

/// What a committee said of a Container, and another is to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accusation {
    /// Of what.
    pub of: AccusedOf,
    /// In which epoch it was found.
    pub epoch: EpochNo,
}

/// Faults that are found by vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccusedOf {
    /// It did not answer the test, or too late.
    Absence,
    /// It is far slower than it claims.
    FarBelow,
    /// It broke work off, or told more than it did.
    Interruption,
    /// It answered with another model than it is paid for.
    Substitution {
        /// The weights of the one that it is paid for.
        weights: ContentHash,
    },
}

impl AccusedOf {
    /// Whether votes over what was done decide it; the others are decided by another test.
    #[must_use]
    pub const fn is_decided_by_votes(self) -> bool {
        matches!(self, Self::Interruption | Self::Substitution { .. })
    }

    /// As it is written: a number of its own, above zero, and what it is about.
    pub(crate) const fn parts(self) -> (u8, ContentHash) {
        match self {
            Self::Absence => (1, ContentHash::ZERO),
            Self::FarBelow => (2, ContentHash::ZERO),
            Self::Interruption => (3, ContentHash::ZERO),
            Self::Substitution { weights } => (4, weights),
        }
    }

    /// From what was written so; `None` for what nobody writes.
    pub(crate) fn of_parts(number: u8, about: ContentHash) -> Option<Self> {
        match number {
            1 if about == ContentHash::ZERO => Some(Self::Absence),
            2 if about == ContentHash::ZERO => Some(Self::FarBelow),
            3 if about == ContentHash::ZERO => Some(Self::Interruption),
            4 => Some(Self::Substitution { weights: about }),
            _ => None,
        }
    }
}

/// A Container as an epoch sees it: the registry's entry, its claims, and what earlier epochs found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEntry {
    /// Its key.
    pub node: NodeId,
    /// Who owns it, and is paid.
    pub owner: Address,
    /// Its stake.
    pub stake: TokenAmount,
    /// What its stake has to be: K of its hardware class times the coefficient.
    pub stake_due: TokenAmount,
    /// Where it stands.
    pub status: RegistryStatus,
    /// When it registered.
    pub registered_at: TimeMs,
    /// The hardware that it committed to, if it did.
    pub fingerprint: Option<Fingerprint>,
    /// Where it was last seen on the internet, if it was.
    pub block: Option<AddressBlock>,
    /// The speed that it claims, all cards together.
    pub ob_claimed: Ob,
    /// 1.1 times the calibration table's value for the models that it claims; nothing above is ever paid.
    pub ob_cap: Ob,
    /// Whether it has leases at work as the chain knows them.
    pub serving: bool,
    /// The epoch of its last full test that came to a verdict; `None`: it has never been proved.
    pub tested: Option<EpochNo>,
    /// Until when it is suspect; an epoch in the past: it is not.
    pub suspect_until: EpochNo,
    /// A test of it came to no verdict: it is repeated at once.
    pub again: bool,
    /// What a larger committee has to decide now.
    pub accused: Option<Accusation>,
}

/// A Checker as an epoch sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerEntry {
    /// Its key.
    pub node: NodeId,
    /// Who owns it.
    pub owner: Address,
    /// The account that signs for it on the chain, to which licences are delegated.
    pub signer: Address,
    /// Its stake.
    pub stake: TokenAmount,
    /// Where it stands.
    pub status: RegistryStatus,
    /// Until when it is barred; an epoch in the past: it is not.
    pub barred_until: EpochNo,
}

/// A Checker licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Licence {
    /// Its number.
    pub id: u32,
    /// Who owns it, and is paid.
    pub owner: Address,
    /// The signer of the Checker that works for it.
    pub delegate: Option<Address>,
}

/// An Indexer as an epoch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexerEntry {
    /// Its key.
    pub node: NodeId,
    /// Who owns it, and is paid.
    pub owner: Address,
    /// Its stake.
    pub stake: TokenAmount,
    /// Where it stands.
    pub status: RegistryStatus,
}

/// What is wrong with a view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// A name twice.
    #[error("{what} {name} is in the registry's view twice")]
    Twice {
        /// What kind of thing.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// Too many.
    #[error("the registry's view has {got} {what}; at most {max} can be numbered")]
    TooMany {
        /// What kind of thing.
        what: &'static str,
        /// How many.
        got: usize,
        /// The most.
        max: usize,
    },
}

/// The registry, frozen at an epoch's start: what all nodes read from the chain as of the last block before it, with
/// what the last outcome that was posted by then says of each node.
///
/// Lists are in the order of their keys; a node is named by its place in its list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    epoch: EpochNo,
    genesis: EpochNo,
    containers: Vec<ContainerEntry>,
    checkers: Vec<CheckerEntry>,
    indexers: Vec<IndexerEntry>,
    licences: Vec<Licence>,
}

impl RegistryView {
    /// A view of these nodes in whatever order. `genesis` is the network's first epoch, from which emission counts.
    ///
    /// # Errors
    /// A node, a signer or a licence that is there twice, or too many of something.
    pub fn new(
        epoch: EpochNo,
        genesis: EpochNo,
        mut containers: Vec<ContainerEntry>,
        mut checkers: Vec<CheckerEntry>,
        mut indexers: Vec<IndexerEntry>,
        mut licences: Vec<Licence>,
    ) -> Result<Self, ViewError> {
        let lengths = [
            ("Containers", containers.len(), CONTAINERS_MAX),
            ("Checkers", checkers.len(), OTHERS_MAX),
            ("Indexers", indexers.len(), OTHERS_MAX),
            ("licences", licences.len(), OTHERS_MAX),
        ];
        if let Some((what, got, max)) = lengths.into_iter().find(|(_, got, max)| got > max) {
            return Err(ViewError::TooMany { what, got, max });
        }
        containers.sort_unstable_by_key(|c| c.node);
        checkers.sort_unstable_by_key(|c| c.node);
        indexers.sort_unstable_by_key(|i| i.node);
        licences.sort_unstable_by_key(|l| l.id);
        once("the Container", containers.iter().map(|c| c.node))?;
        once("the Checker", checkers.iter().map(|c| c.node))?;
        once("the Indexer", indexers.iter().map(|i| i.node))?;
        once("the licence", licences.iter().map(|l| l.id))?;
        let mut signers: Vec<Address> = checkers.iter().map(|c| c.signer).collect();
        signers.sort_unstable();
        once("the Checkers' signer", signers.into_iter())?;
        Ok(Self { epoch, genesis, containers, checkers, indexers, licences })
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> EpochNo {
        self.epoch
    }

    /// The network's first epoch.
    #[must_use]
    pub const fn genesis(&self) -> EpochNo {
        self.genesis
    }

    /// All Containers, by key.
    #[must_use]
    pub fn containers(&self) -> &[ContainerEntry] {
        &self.containers
    }

    /// All Checkers, by key.
    #[must_use]
    pub fn checkers(&self) -> &[CheckerEntry] {
        &self.checkers
    }

    /// All Indexers, by key.
    #[must_use]
    pub fn indexers(&self) -> &[IndexerEntry] {
        &self.indexers
    }

    /// All licences, by number.
    #[must_use]
    pub fn licences(&self) -> &[Licence] {
        &self.licences
    }

    /// The place of a Container.
    #[must_use]
    pub fn container(&self, node: &NodeId) -> Option<u32> {
        place(self.containers.binary_search_by_key(node, |c| c.node))
    }

    /// The place of a Checker.
    #[must_use]
    pub fn checker(&self, node: &NodeId) -> Option<u32> {
        place(self.checkers.binary_search_by_key(node, |c| c.node))
    }

    /// The place of an Indexer.
    #[must_use]
    pub fn indexer(&self, node: &NodeId) -> Option<u32> {
        place(self.indexers.binary_search_by_key(node, |i| i.node))
    }

    /// The place of the Checker that serves each licence, in the order of the licences.
    #[must_use]
    pub fn serving_checkers(&self) -> Vec<Option<u32>> {
        let mut signers: Vec<(Address, u32)> = self.checkers.iter().map(|c| c.signer).zip(0u32..).collect();
        signers.sort_unstable();
        let find = |delegate: Address| {
            let at = signers.binary_search_by_key(&delegate, |(signer, _)| *signer).ok()?;
            signers.get(at).map(|(_, checker)| *checker)
        };
        self.licences.iter().map(|licence| licence.delegate.and_then(find)).collect()
    }

    /// The same registry as a later epoch sees it, when nothing changed on the chain.
    #[must_use]
    pub fn at(&self, epoch: EpochNo) -> Self {
        Self { epoch, ..self.clone() }
    }

    /// Lets earlier epochs' findings into the view: `find` changes what is known of each node.
    pub(crate) fn entries_mut(&mut self) -> (&mut [ContainerEntry], &mut [CheckerEntry]) {
        (&mut self.containers, &mut self.checkers)
    }

    /// BLAKE3 of everything in the view in a fixed form: nodes with the same hash draw the same.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 registry view v1");
        for number in [self.epoch.0, self.genesis.0] {
            hasher.update(&number.to_be_bytes());
        }
        let count = |hasher: &mut blake3::Hasher, length: usize| {
            hasher.update(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
        };
        count(&mut hasher, self.containers.len());
        self.containers.iter().for_each(|c| hash_container(&mut hasher, c));
        count(&mut hasher, self.checkers.len());
        for c in &self.checkers {
            hasher.update(&c.node.0).update(&c.owner.0).update(&c.signer.0).update(&c.stake.0.to_be_bytes());
            hasher.update(&[c.status as u8]).update(&c.barred_until.0.to_be_bytes());
        }
        count(&mut hasher, self.indexers.len());
        for i in &self.indexers {
            hasher.update(&i.node.0).update(&i.owner.0).update(&i.stake.0.to_be_bytes()).update(&[i.status as u8]);
        }
        count(&mut hasher, self.licences.len());
        for l in &self.licences {
            hasher.update(&l.id.to_be_bytes()).update(&l.owner.0).update(&[u8::from(l.delegate.is_some())]);
            hasher.update(&l.delegate.unwrap_or(Address::ZERO).0);
        }
        ContentHash(*hasher.finalize().as_bytes())
    }
}

fn hash_container(hasher: &mut blake3::Hasher, c: &ContainerEntry) {
    let mut flags = [c.status as u8, u8::from(c.serving), u8::from(c.again), 0, 0, 0, 0];
    let [.., fingerprint, block, tested, accused] = &mut flags;
    *fingerprint = u8::from(c.fingerprint.is_some());
    *block = u8::from(c.block.is_some());
    *tested = u8::from(c.tested.is_some());
    let (number, about) = c.accused.map_or((0, ContentHash::ZERO), |a| a.of.parts());
    *accused = number;
    hasher.update(&c.node.0).update(&c.owner.0).update(&c.stake.0.to_be_bytes());
    hasher.update(&c.stake_due.0.to_be_bytes()).update(&flags).update(&about.0);
    hasher.update(&c.fingerprint.unwrap_or(Fingerprint([0; 32])).0);
    let numbers = [
        c.registered_at.0,
        c.block.map_or(0, |b| b.0),
        c.tested.map_or(0, |e| e.0),
        c.suspect_until.0,
        c.accused.map_or(0, |a| a.epoch.0),
        u64::from(c.ob_claimed.0),
        u64::from(c.ob_cap.0),
    ];
    for number in numbers {
        hasher.update(&number.to_be_bytes());
    }
}

fn place(found: Result<usize, usize>) -> Option<u32> {
    u32::try_from(found.ok()?).ok()
}

/// Whether every name of an ordered list is there once.
fn once<T: PartialEq + core::fmt::Display>(
    what: &'static str,
    names: impl Iterator<Item = T>,
) -> Result<(), ViewError> {
    let mut last: Option<T> = None;
    for name in names {
        if last.as_ref() == Some(&name) {
            return Err(ViewError::Twice { what, name: name.to_string() });
        }
        last = Some(name);
    }
    Ok(())
}
