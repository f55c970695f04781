//! The conversation of a proof ([`muster_core::proof::session`]) as messages.

use muster_core::proof::openings::HINT_WORDS_MAX;
use muster_core::proof::transcript::WHY_LEN_MAX;
use muster_core::proof::{CheckerSays, Opening, ProverSays, Transcript};

use crate::frame::{WireError, WireMessage};

/// The longest openings: what production's scale opens is below 300 kB.
const OPENINGS_LEN_MAX: usize = 384 * 1024;

impl WireMessage for CheckerSays {
    const MAX_LEN: usize = 2 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Challenge(challenge) => {
                challenge.check().map_err(|why| WireError::field("challenge", why.to_string()))
            }
            Self::Walk { .. } | Self::Reveal { .. } => Ok(()),
        }
    }
}

impl WireMessage for ProverSays {
    const MAX_LEN: usize = OPENINGS_LEN_MAX;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Root { .. } => Ok(()),
            Self::Broken { why } if why.len() > WHY_LEN_MAX => {
                Err(WireError::field("why", format!("longer than {WHY_LEN_MAX} bytes")))
            }
            Self::Broken { .. } => Ok(()),
            Self::Openings { openings, .. } => {
                if openings.hint.len() > HINT_WORDS_MAX {
                    return Err(WireError::field("hint", format!("more than {HINT_WORDS_MAX} words")));
                }
                [&openings.tiles, &openings.rows, &openings.chunks, &openings.walks].into_iter().try_for_each(opening)
            }
        }
    }
}

impl WireMessage for Transcript {
    const MAX_LEN: usize = OPENINGS_LEN_MAX + 4 * 1024;
    fn check(&self) -> Result<(), WireError> {
        self.challenge.check().map_err(|why| WireError::field("challenge", why.to_string()))?;
        if self.roots.len() > 4 {
            return Err(WireError::field("roots", "more than there are stages"));
        }
        let openings = self.openings.iter();
        openings.flat_map(|o| [&o.tiles, &o.rows, &o.chunks, &o.walks]).try_for_each(opening)
    }
}

/// How many leaves are right is the verdict's business; here only what nobody could have asked for is refused.
fn opening(opening: &Opening) -> Result<(), WireError> {
    let most = usize::try_from(muster_core::proof::challenge::OPENED_MAX).unwrap_or(usize::MAX);
    if opening.leaves.len() > 2 * most || opening.path.len() > 64 * most {
        return Err(WireError::field("openings", "more leaves or hashes than any draw asks for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_core::ids::ContentHash;
    use muster_core::proof::{Leaf, Openings, Seal, Stage};

    use super::*;
    use crate::frame;

    #[test]
    fn what_nobody_asks_for_is_refused() {
        let root = ProverSays::Root { stage: Stage::Render, root: ContentHash([1; 32]) };
        assert_eq!(frame::decode::<ProverSays>(&frame::encode(&root).unwrap()), Ok(root));
        let refused = |says: ProverSays| assert!(matches!(says.check(), Err(WireError::Field { .. })));
        refused(ProverSays::Broken { why: "x".repeat(WHY_LEN_MAX + 1) });
        let mut openings = Openings { hint: vec![0; HINT_WORDS_MAX + 1], ..Openings::default() };
        let says = |openings: &Openings| ProverSays::Openings {
            openings: Box::new(openings.clone()),
            seal: Seal([0; 32], [0; 32]),
        };
        refused(says(&openings));
        openings.hint.clear();
        openings.rows.leaves = vec![Leaf { index: 0, data: Vec::new() }; 1_000];
        refused(says(&openings));
        openings.rows.leaves = vec![Leaf { index: 0, data: vec![0; OPENINGS_LEN_MAX] }];
        assert!(frame::encode(&says(&openings)).is_err(), "too long for a frame");
    }
}
