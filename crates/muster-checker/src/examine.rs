//! Running again what a Checker shows: anybody who does comes to the same.

use muster_core::calibration::Table;
use muster_core::epoch::{Draw, Task, TaskKind};
use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::challenge::PROOF_VERSION;
use muster_core::proof::{Challenge, Claim, Fault, Gap, Scale, Transcript, Verdict};
use muster_core::reward::{Doubt, Reexecution};
use muster_net::{Signature64, verify};
use muster_wire::message::audit::{SetProof, SignedTranscript};

/// What a Container's seal under its openings is for.
pub(crate) const PROOF: &str = "muster/proof/1";
/// What a Checker's signature under a transcript is for.
pub(crate) const TRANSCRIPT: &str = "muster/transcript/1";
/// What a Checker's signature under a proof that it sets is for.
pub(crate) const SET_PROOF: &str = "muster/set-proof/1";

/// The challenge of one card, as everybody makes it from the same draw, but for the Checker's own commitment.
#[must_use]
pub fn challenge(
    draw: &Draw,
    (checker, container): (NodeId, NodeId),
    (card, claim): (u8, &Claim),
    scale: Scale,
    table: &Table,
    commitment: ContentHash,
) -> Challenge {
    Challenge {
        version: PROOF_VERSION,
        beacon: draw.seed().0,
        epoch: draw.epoch().0,
        container,
        checker,
        card,
        claim: claim.clone(),
        rates: table.find(&claim.model).rates,
        scale,
        commitment,
    }
}

/// Whether the Container's seal stands under what a transcript says that it opened. `None`: it opened nothing.
#[must_use]
pub fn is_sealed(transcript: &Transcript) -> Option<bool> {
    let (digest, seal) = transcript.sealed()?;
    let mut signature = [0; 64];
    let (r, s) = signature.split_at_mut(32);
    r.copy_from_slice(&seal.0);
    s.copy_from_slice(&seal.1);
    Some(verify(transcript.challenge.container, PROOF, &digest, &Signature64(signature)).is_ok())
}

/// Runs again what a doubt names. `claims` gives what a Container (by its place in the view) claims, as the chain had it
/// when the epoch was frozen. Takes about a second of one core for each card at production's scale.
#[must_use]
pub fn reverify(
    bytes: &[u8],
    draw: &Draw,
    doubt: &Doubt,
    scale: Scale,
    table: &Table,
    claims: &[Claim],
) -> Reexecution {
    if blake3::hash(bytes).as_bytes() != &doubt.transcript.0 {
        return Reexecution::Unavailable;
    }
    let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    let Some(checker) = draw.view().checkers().get(place(doubt.checker)).map(|c| c.node) else {
        return Reexecution::Forged;
    };
    match doubt.task.kind {
        TaskKind::Capacity | TaskKind::Dispute => {
            let container = draw.view().containers().get(place(doubt.task.subject)).map(|c| c.node);
            let Some(container) = container else { return Reexecution::Forged };
            match SignedTranscript::from_bytes(bytes) {
                Ok(shown) => capacity(&shown, draw, (checker, container), scale, table, claims),
                Err(_) => Reexecution::Forged,
            }
        }
        TaskKind::Recheck => {
            let setter = draw.view().checkers().get(place(doubt.task.subject)).map(|c| c.node);
            match (setter, SetProof::from_bytes(bytes)) {
                (Some(setter), Ok(set)) => recheck(&set, draw, (setter, checker), doubt.task),
                _ => Reexecution::Forged,
            }
        }
        // Nothing of these kinds can be run again yet.
        TaskKind::Liveness | TaskKind::Quality | TaskKind::Duplicate => Reexecution::Unavailable,
    }
}

fn capacity(
    shown: &SignedTranscript,
    draw: &Draw,
    (checker, container): (NodeId, NodeId),
    scale: Scale,
    table: &Table,
    claims: &[Claim],
) -> Reexecution {
    let named = (shown.epoch, shown.checker, shown.container) == (draw.epoch().0, checker, container);
    let signed = verify(checker, TRANSCRIPT, &shown.digest(), &shown.signature).is_ok();
    if !named || !signed || shown.cards.len() != claims.len() {
        return Reexecution::Forged;
    }
    let mut bad = false;
    for ((card, claim), at) in shown.cards.iter().zip(claims).zip(0u8..) {
        // A Checker that asked for more than the claim stands for would refute whomever it likes.
        let right = challenge(draw, (checker, container), (at, claim), scale, table, card.challenge.commitment);
        if card.challenge != right || is_sealed(card) != Some(true) {
            return Reexecution::Forged;
        }
        match card.verify() {
            Verdict::Fail(fault) if fault.is_provable() => bad = true,
            Verdict::Pass(_) | Verdict::Fail(Fault::Slow { .. }) | Verdict::Inconclusive(Gap::Slower { .. }) => {}
            // No proof that came to its end: whoever shows it as one is wrong, whatever it says of it.
            Verdict::Fail(_) | Verdict::Inconclusive(_) => return Reexecution::Forged,
        }
    }
    if bad { Reexecution::Bad } else { Reexecution::Good }
}

fn recheck(set: &SetProof, draw: &Draw, (setter, checker): (NodeId, NodeId), task: Task) -> Reexecution {
    let named = (set.epoch, set.setter, set.checker, set.nth) == (draw.epoch().0, setter, checker, task.nth);
    if !named || verify(setter, SET_PROOF, &set.digest(), &set.signature).is_err() {
        return Reexecution::Forged;
    }
    if is_right(&set.proof) { Reexecution::Good } else { Reexecution::Bad }
}

/// Whether the work of a bare proof is right, whatever its times.
#[must_use]
pub fn is_right(proof: &Transcript) -> bool {
    matches!(
        proof.verify(),
        Verdict::Pass(_) | Verdict::Fail(Fault::Slow { .. }) | Verdict::Inconclusive(Gap::Slower { .. })
    )
}
