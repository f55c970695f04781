//! Made-up networks and reports, for measurements, simulations and tests; the same for a seed on every machine.

use super::report::{Bundle, Commitment, Entry, Finding, Report, Reveal, TaskResult};
use crate::epoch::{
    AddressBlock, Assignment, CheckerEntry, ContainerEntry, Draw, EpochNo, Fingerprint, IndexerEntry, Licence,
    RegistryStatus, RegistryView, TaskKind, ViewError,
};
use crate::ids::{Address, ContentHash, NodeId};
use crate::protocol::NodeSignature;
use crate::units::{Ob, TimeMs, TokenAmount};

/// How large a made-up network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Containers; every third one belongs to an owner of several.
    pub containers: u32,
    /// Checkers, each of an owner of its own.
    pub checkers: u32,
    /// Licences, spread over the Checkers; an owner has up to three.
    pub licences: u32,
    /// Indexers.
    pub indexers: u32,
}

/// 32 bytes that a seed, a purpose and a number determine.
#[must_use]
pub fn bytes(seed: u64, purpose: &str, number: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 made-up network v1");
    hasher.update(&seed.to_be_bytes()).update(purpose.as_bytes()).update(&number.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// An account that a seed, a purpose and a number determine.
#[must_use]
pub fn account(seed: u64, purpose: &str, number: u64) -> Address {
    let mut address = Address::ZERO;
    for (to, from) in address.0.iter_mut().zip(bytes(seed, purpose, number)) {
        *to = from;
    }
    address
}

/// A registry in which everybody is in good standing. Nobody has been tested before.
///
/// # Errors
/// More nodes than a view can number.
pub fn view(seed: u64, sizes: Sizes, epoch: EpochNo, stake: TokenAmount) -> Result<RegistryView, ViewError> {
    let containers = (0..sizes.containers).map(|i| container(seed, u64::from(i), stake)).collect();
    let checkers = (0..sizes.checkers).map(u64::from).map(|i| CheckerEntry {
        node: NodeId(bytes(seed, "checker", i)),
        owner: account(seed, "checker's owner", i),
        signer: account(seed, "checker's signer", i),
        stake: TokenAmount(1_000 * TokenAmount::ONE.0),
        status: RegistryStatus::Active,
        barred_until: EpochNo(0),
    });
    let indexers = (0..sizes.indexers).map(u64::from).map(|i| IndexerEntry {
        node: NodeId(bytes(seed, "indexer", i)),
        owner: account(seed, "indexer's owner", i),
        stake,
        status: RegistryStatus::Active,
    });
    let licences = (0..sizes.licences).map(|id| Licence {
        id,
        owner: account(seed, "licence's owner", u64::from(id / 3)),
        delegate: id.checked_rem(sizes.checkers).map(|c| account(seed, "checker's signer", u64::from(c))),
    });
    RegistryView::new(epoch, EpochNo(0), containers, checkers.collect(), indexers.collect(), licences.collect())
}

fn container(seed: u64, i: u64, stake: TokenAmount) -> ContainerEntry {
    let [a, b, ..] = bytes(seed, "speed", i);
    let ob = Ob::points(100 + u32::from(u16::from_be_bytes([a, b])) % 1_500);
    let owner = if i.is_multiple_of(3) { i / 24 } else { i.saturating_add(1 << 40) };
    ContainerEntry {
        node: NodeId(bytes(seed, "container", i)),
        owner: account(seed, "container's owner", owner),
        stake,
        stake_due: stake,
        status: RegistryStatus::Active,
        registered_at: TimeMs(0),
        fingerprint: Some(Fingerprint(bytes(seed, "fingerprint", i))),
        block: Some(AddressBlock(i / 4)),
        ob_claimed: ob,
        ob_cap: Ob(ob.0 / 10 * 11),
        serving: i.is_multiple_of(5),
        tested: None,
        suspect_until: EpochNo(0),
        again: false,
        accused: None,
    }
}

/// The secret and the salt of a Checker of a made-up network in an epoch.
#[must_use]
pub fn secret_and_salt(draw: &Draw, checker: u32) -> ([u8; 32], [u8; 32]) {
    let number = u64::from(checker);
    (bytes(draw.epoch().0, "secret", number), bytes(draw.epoch().0, "salt", number))
}

/// The bundle in which each Checker found what `find` says (`None`: it left the task out).
pub fn bundle(draw: &Draw, mut find: impl FnMut(&Assignment) -> Option<Finding>) -> Bundle {
    let mut results: Vec<Vec<TaskResult>> = vec![Vec::new(); draw.view().checkers().len()];
    for assignment in draw.assignments() {
        let mine = usize::try_from(assignment.checker).ok().and_then(|checker| results.get_mut(checker));
        if let (Some(mine), Some(finding)) = (mine, find(&assignment)) {
            mine.push(TaskResult { task: assignment.task, finding });
        }
    }
    let places = draw.drawable().collect::<Vec<_>>();
    let entry = |place: u32| {
        let index = usize::try_from(place).ok()?;
        let checker = draw.view().checkers().get(index)?.node;
        let mut results = results.get_mut(index).map(core::mem::take)?;
        results.sort_unstable_by_key(|result| result.task);
        let (secret, salt) = secret_and_salt(draw, place);
        let report = Report { epoch: draw.epoch(), checker, view: draw.view_hash(), secret, results };
        Some(entry_of(Reveal { report, salt }))
    };
    Bundle { entries: places.into_iter().filter_map(entry).collect(), reexecuted: Vec::new() }
}

/// An entry around a reveal; its signature is empty.
#[must_use]
pub fn entry_of(reveal: Reveal) -> Entry {
    let commitment = Commitment {
        epoch: reveal.report.epoch,
        checker: reveal.report.checker,
        hash: reveal.commitment_hash(),
        signature: NodeSignature { r: [0; 32], s: [0; 32] },
    };
    Entry { commitment, receipts: Vec::new(), reveal: Some(reveal) }
}

/// The transcript of a task of a Checker in a made-up network.
#[must_use]
pub fn transcript(draw: &Draw, assignment: &Assignment) -> ContentHash {
    let mut hasher = blake3::Hasher::new_keyed(&draw.seed().0);
    hasher.update(&assignment.checker.to_be_bytes()).update(&[assignment.task.kind as u8]);
    hasher.update(&assignment.task.subject.to_be_bytes()).update(&assignment.task.nth.to_be_bytes());
    ContentHash(*hasher.finalize().as_bytes())
}

/// What an honest Checker finds where everybody is honest.
#[must_use]
pub fn honest(draw: &Draw, assignment: &Assignment) -> Finding {
    let transcript = transcript(draw, assignment);
    let entry = usize::try_from(assignment.task.subject).ok().and_then(|at| draw.view().containers().get(at));
    let proved = Finding::Proved { ob: entry.map_or(Ob(0), |c| c.ob_claimed), took_ms: 5_000, transcript };
    match assignment.task.kind {
        TaskKind::Liveness => Finding::Liveness { answered: 8, asked: 8 },
        TaskKind::Capacity => proved,
        TaskKind::Quality => Finding::Good,
        TaskKind::Duplicate => Finding::Same { transcript },
        TaskKind::Dispute => match entry.and_then(|c| c.accused).map(|accused| accused.of) {
            Some(of) if of.is_decided_by_votes() => Finding::Dismissed,
            _ => proved,
        },
        TaskKind::Recheck => {
            let (secret, _) = secret_and_salt(draw, assignment.task.subject);
            let planted = draw.planted(&secret, assignment.checker, assignment.task.nth);
            Finding::Rechecked { good: !planted, proof: transcript }
        }
    }
}
