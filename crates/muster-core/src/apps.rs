//! The stake that stands for an app on the chain: under which key, whether it is enough, what its publisher does next.

use core::fmt;

use crate::ids::{Address, NodeId};
use crate::reward::merkle::keccak256;
use crate::units::TokenAmount;

/// What the keys of apps begin with in the registry, and those of nobody else.
pub const APP_TAG: [u8; 8] = *b"must-app";

/// The key of the app of a name in the registry: [`APP_TAG`], then the first 24 bytes of the name's keccak256. A node's
/// key that begins so is refused by the registry, and an app's key must be that of its name.
#[must_use]
pub fn app_id(name: &str) -> NodeId {
    let hash = keccak256(name.as_bytes());
    let mut id = [0; 32];
    for (slot, byte) in id.iter_mut().zip(APP_TAG.iter().chain(&hash)) {
        *slot = *byte;
    }
    NodeId(id)
}

/// How a stake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StakeStatus {
    /// It counts.
    Active,
    /// It was slashed below the least.
    Jailed,
    /// It was asked back.
    Left,
}

/// What the registry holds for an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppStake {
    /// Who published it.
    pub owner: Address,
    /// How it stands.
    pub status: StakeStatus,
    /// What counts.
    pub stake: TokenAmount,
    /// What was asked back and is not paid out.
    pub unbonding: TokenAmount,
    /// Hash of what is published.
    pub hash: [u8; 32],
}

/// Why an app is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StakeLack {
    /// None was ever registered.
    #[error("no stake stands for the app {name:?} on the chain, and {need} tokens must: {ADVICE}")]
    Missing {
        /// The app.
        name: String,
        /// What must stand.
        need: TokenAmount,
    },
    /// Somebody else has registered this name.
    #[error("the name {name:?} is staked on the chain by {owner}, not by {publisher}; choose another name")]
    Another {
        /// The app.
        name: String,
        /// Who holds the name.
        owner: Address,
        /// Who wants to publish.
        publisher: Address,
    },
    /// Its owner asked it back.
    #[error("the stake of the app {name:?} was asked back by its publisher: {ADVICE}")]
    Left {
        /// The app.
        name: String,
    },
    /// There is too little.
    #[error("{have} tokens stand for the app {name:?} on the chain, and {need} must: {ADVICE}")]
    Short {
        /// The app.
        name: String,
        /// What stands.
        have: TokenAmount,
        /// What must.
        need: TokenAmount,
    },
    /// It was slashed and not made whole.
    #[error("the stake of the app {name:?} was slashed below the least: {ADVICE}")]
    Jailed {
        /// The app.
        name: String,
    },
    /// It stands for something else.
    #[error("the chain holds the hash {} for the app {name:?}, and what was sent has {}: {ADVICE}", Hex(.registered), Hex(.sent))]
    OtherHash {
        /// The app.
        name: String,
        /// What the chain holds.
        registered: [u8; 32],
        /// What was sent.
        sent: [u8; 32],
    },
}

const ADVICE: &str = "its publisher's `muster app publish` sees to it";

/// Bytes as hex digits.
struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether a stake of at least `need` stands for the app of this publisher.
///
/// # Errors
/// [`StakeLack`], what is missing.
pub fn stands(
    name: &str,
    stake: Option<&AppStake>,
    publisher: Address,
    need: TokenAmount,
) -> Result<AppStake, StakeLack> {
    let name = || name.to_owned();
    let Some(found) = stake else { return Err(StakeLack::Missing { name: name(), need }) };
    if found.owner != publisher {
        return Err(StakeLack::Another { name: name(), owner: found.owner, publisher });
    }
    match found.status {
        StakeStatus::Left => Err(StakeLack::Left { name: name() }),
        _ if found.stake < need => Err(StakeLack::Short { name: name(), have: found.stake, need }),
        StakeStatus::Jailed => Err(StakeLack::Jailed { name: name() }),
        StakeStatus::Active => Ok(*found),
    }
}

/// Whether it stands for exactly what is published, which has this hash.
///
/// # Errors
/// [`StakeLack`], what is missing.
pub fn stands_for(
    name: &str,
    stake: Option<&AppStake>,
    publisher: Address,
    need: TokenAmount,
    hash: [u8; 32],
) -> Result<(), StakeLack> {
    let found = stands(name, stake, publisher, need)?;
    if found.hash == hash {
        return Ok(());
    }
    Err(StakeLack::OtherHash { name: name.to_owned(), registered: found.hash, sent: hash })
}

/// What a publisher does on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StakeStep {
    /// Registers the app with so much.
    Register(TokenAmount),
    /// Puts back what was asked back and not paid out yet.
    Return,
    /// Adds so much.
    Add(TokenAmount),
    /// Says the hash of what is published.
    Update,
}

/// The next thing that a publisher does so that [`stands_for`] comes true; `None` when it is. To be asked again with what
/// the chain then holds, so that whoever was cut off goes on where it stopped and pays nothing twice.
///
/// # Errors
/// The name is somebody else's.
pub fn next_step(
    name: &str,
    stake: Option<&AppStake>,
    publisher: Address,
    need: TokenAmount,
    hash: [u8; 32],
) -> Result<Option<StakeStep>, StakeLack> {
    let lack = match stands_for(name, stake, publisher, need, hash) {
        Ok(()) => return Ok(None),
        Err(lack) => lack,
    };
    Ok(Some(match (lack, stake) {
        (lack @ StakeLack::Another { .. }, _) => return Err(lack),
        (StakeLack::Left { .. }, Some(found)) if found.unbonding > TokenAmount::ZERO => StakeStep::Return,
        (StakeLack::Missing { .. } | StakeLack::Left { .. }, _) => StakeStep::Register(need),
        // One that is whole again and still jailed, since the least has fallen, is freed by whatever is added.
        (StakeLack::Short { have, .. }, _) => StakeStep::Add(need.saturating_sub(have)),
        (StakeLack::Jailed { .. }, _) => StakeStep::Add(TokenAmount(1)),
        (StakeLack::OtherHash { .. }, _) => StakeStep::Update,
    }))
}

/// What a publisher pays by all the steps that are left: what is staked or unbonding is not paid anew.
#[must_use]
pub fn cost(stake: Option<&AppStake>, need: TokenAmount) -> TokenAmount {
    let there = stake.map_or(TokenAmount::ZERO, |found| found.stake.saturating_add(found.unbonding_if_left()));
    need.saturating_sub(there)
}

impl AppStake {
    /// What comes back to the stake before anything is paid: a part that is unbonding of a stake that stands stays so.
    fn unbonding_if_left(&self) -> TokenAmount {
        match self.status {
            StakeStatus::Left => self.unbonding,
            StakeStatus::Active | StakeStatus::Jailed => TokenAmount::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: Address = Address([1; 20]);
    const HASH: [u8; 32] = [7; 32];
    const NEED: TokenAmount = TokenAmount(100);

    fn stake(status: StakeStatus, stake: u128, unbonding: u128) -> AppStake {
        AppStake { owner: ME, status, stake: TokenAmount(stake), unbonding: TokenAmount(unbonding), hash: HASH }
    }

    fn step(stake: Option<AppStake>) -> Option<StakeStep> {
        next_step("game", stake.as_ref(), ME, NEED, HASH).unwrap()
    }

    #[test]
    fn the_key_is_the_tag_and_the_names_hash() {
        // As the contract computes it: `cast keccak neverball`.
        let id = app_id("neverball");
        assert_eq!(&id.0[..8], b"must-app");
        assert_eq!(id.0[8..], keccak256(b"neverball")[..24]);
        assert_ne!(app_id("neverbal"), id);
    }

    #[test]
    fn each_state_has_its_step() {
        use StakeStatus::{Active, Jailed, Left};
        assert_eq!(step(None), Some(StakeStep::Register(NEED)));
        assert_eq!(step(Some(stake(Left, 0, 0))), Some(StakeStep::Register(NEED)));
        assert_eq!(step(Some(stake(Left, 0, 40))), Some(StakeStep::Return));
        assert_eq!(step(Some(stake(Jailed, 60, 0))), Some(StakeStep::Add(TokenAmount(40))));
        assert_eq!(step(Some(stake(Active, 60, 40))), Some(StakeStep::Add(TokenAmount(40))));
        assert_eq!(step(Some(stake(Jailed, 100, 0))), Some(StakeStep::Add(TokenAmount(1))));
        assert_eq!(step(Some(AppStake { hash: [8; 32], ..stake(Active, 100, 0) })), Some(StakeStep::Update));
        assert_eq!(step(Some(stake(Active, 100, 0))), None);
        let another = AppStake { owner: Address([2; 20]), ..stake(Active, 100, 0) };
        let told = next_step("game", Some(&another), ME, NEED, HASH).unwrap_err().to_string();
        assert!(told.contains("choose another name") && told.contains("0x0202"), "{told}");
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let told =
            |found: Option<AppStake>| stands_for("game", found.as_ref(), ME, NEED, HASH).unwrap_err().to_string();
        for found in [
            None,
            Some(stake(StakeStatus::Left, 0, 0)),
            Some(stake(StakeStatus::Active, 99, 0)),
            Some(stake(StakeStatus::Jailed, 100, 0)),
            Some(AppStake { hash: [8; 32], ..stake(StakeStatus::Active, 100, 0) }),
        ] {
            let told = told(found);
            assert!(told.contains("\"game\"") && told.contains("muster app publish"), "{told}");
        }
    }

    /// What the registry makes of a step.
    fn done(found: Option<AppStake>, step: StakeStep) -> AppStake {
        let before = found.unwrap_or(stake(StakeStatus::Left, 0, 0));
        let status = |sum: TokenAmount| if sum >= NEED { StakeStatus::Active } else { StakeStatus::Jailed };
        match step {
            StakeStep::Register(amount) => {
                AppStake { status: StakeStatus::Active, stake: amount, hash: HASH, ..before }
            }
            StakeStep::Return => {
                let sum = before.stake.saturating_add(before.unbonding);
                AppStake { status: status(sum), stake: sum, unbonding: TokenAmount::ZERO, ..before }
            }
            StakeStep::Add(amount) => {
                let sum = before.stake.saturating_add(amount);
                AppStake { status: status(sum), stake: sum, ..before }
            }
            StakeStep::Update => AppStake { hash: HASH, ..before },
        }
    }

    proptest! {
        #[test]
        fn the_steps_end_where_it_stands_and_cost_what_was_said(
            known in any::<bool>(), status in 0..3u8, have in 0..200u128, unbonding in 0..200u128, same in any::<bool>(),
        ) {
            let status = [StakeStatus::Active, StakeStatus::Jailed, StakeStatus::Left][usize::from(status)];
            let have = if status == StakeStatus::Left { 0 } else { have };
            let hash = if same { HASH } else { [8; 32] };
            let mut found = known.then(|| AppStake { hash, ..stake(status, have, unbonding) });
            let said = cost(found.as_ref(), NEED);
            let mut paid = 0;
            for _ in 0..3 {
                let Some(step) = next_step("game", found.as_ref(), ME, NEED, HASH).unwrap() else { break };
                if let StakeStep::Register(amount) | StakeStep::Add(amount) = step {
                    paid += amount.0;
                }
                found = Some(done(found, step));
            }
            prop_assert_eq!(stands_for("game", found.as_ref(), ME, NEED, HASH), Ok(()));
            // A jailed stake that is whole is freed by one unit.
            prop_assert!(paid == said.0 || paid == said.0 + 1, "{} {}", paid, said.0);
        }
    }
}
