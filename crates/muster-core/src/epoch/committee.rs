//! Weighted seats without replacement.

use super::view::{CheckerEntry, RegistryStatus};
use super::{EpochParams, RegistryView, SEATS_MAX, Seed};
use crate::ids::Address;

/// What a licence weighs; as much again is the most that stake adds.
const LICENCE_WEIGHT: u64 = 1_000;

/// The Checkers of a committee in the order in which they were drawn, by their places in the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    len: u8,
    places: [u32; SEATS_MAX],
}

impl Seats {
    /// The Checkers' places, in draw order.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.places.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// How many seats were filled.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nobody could be drawn.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which seat a Checker has.
    #[must_use]
    pub fn seat_of(&self, checker: u32) -> Option<usize> {
        self.as_slice().iter().position(|place| *place == checker)
    }

    /// Two thirds of the seats, rounded up: so many must agree.
    #[must_use]
    pub const fn two_thirds(&self) -> usize {
        (self.len() * 2).div_ceil(3)
    }

    fn push(&mut self, checker: u32) {
        if let Some(slot) = self.places.get_mut(usize::from(self.len)) {
            *slot = checker;
            self.len = self.len.saturating_add(1);
        }
    }
}

/// A stream of numbers that is determined by a seed, a purpose and a subject.
pub(super) struct Lots(blake3::OutputReader);

impl Lots {
    pub(super) fn new(seed: &Seed, purpose: &[u8; 8], subject: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&seed.0);
        hasher.update(purpose).update(subject);
        Self(hasher.finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A number below `bound`: the upper half of a product of 128 bits, so that the bias is below `bound` / 2⁶⁴.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()).saturating_mul(u128::from(bound)) >> 64;
        u64::try_from(wide).unwrap_or(0)
    }

    /// True in `bps` of ten thousand cases.
    pub(super) fn chance(&mut self, bps: u16) -> bool {
        self.below(10_000) < u64::from(bps)
    }
}

/// The Checkers that can be drawn, with their weights.
#[derive(Clone, Debug)]
pub(super) struct Urn {
    /// Place in the view, and the sum of all weights up to and with this one.
    sums: Vec<(u32, u64)>,
    /// Owners of Checkers that can be drawn, each once.
    owners: Vec<Address>,
}

impl Urn {
    pub(super) fn new(view: &RegistryView, params: &EpochParams) -> Self {
        let mut licences = vec![0u64; view.checkers().len()];
        for checker in view.serving_checkers().into_iter().flatten() {
            if let Some(count) = licences.get_mut(at(checker)) {
                *count = count.saturating_add(1);
            }
        }
        let mut sums = Vec::new();
        let mut owners = Vec::new();
        let mut sum = 0u64;
        for ((checker, held), place) in view.checkers().iter().zip(licences).zip(0u32..) {
            let weight = weight(checker, held, view, params);
            if weight > 0 {
                sum = sum.saturating_add(weight);
                sums.push((place, sum));
                owners.push(checker.owner);
            }
        }
        owners.sort_unstable();
        owners.dedup();
        Self { sums, owners }
    }

    /// How many Checkers can be drawn.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// A Checker's weight; 0: it is never drawn.
    pub(super) fn weight_of(&self, checker: u32) -> u64 {
        let Ok(index) = self.sums.binary_search_by_key(&checker, |(place, _)| *place) else { return 0 };
        let before = index.checked_sub(1).and_then(|i| self.sums.get(i)).map_or(0, |(_, sum)| *sum);
        self.sums.get(index).map_or(0, |(_, sum)| sum.saturating_sub(before))
    }

    /// The sum of all weights.
    pub(super) fn total(&self) -> u64 {
        self.sums.last().map_or(0, |(_, sum)| *sum)
    }

    /// All Checkers that can be drawn, by their places.
    pub(super) fn places(&self) -> impl Iterator<Item = u32> {
        self.sums.iter().map(|(place, _)| *place)
    }

    /// Draws up to `count` seats one after the other, each by weight among those whose owner has no seat yet and is
    /// not `except`.
    ///
    /// A draw that hits somebody who may not sit is repeated, which leaves everybody else's odds as they should be;
    /// where that goes on for too long, the rest is drawn from the list of those who may.
    pub(super) fn seats(&self, mut lots: Lots, count: u8, except: Option<Address>, view: &RegistryView) -> Seats {
        let barred = except.is_some_and(|owner| self.owners.binary_search(&owner).is_ok());
        let free = self.owners.len().saturating_sub(usize::from(barred));
        let wanted = usize::from(count).min(SEATS_MAX).min(free);
        let mut seats = Seats::default();
        let mut tries = wanted.saturating_mul(4).saturating_add(8);
        while seats.len() < wanted && tries > 0 {
            tries = tries.saturating_sub(1);
            let lot = lots.below(self.total());
            let index = self.sums.partition_point(|(_, sum)| *sum <= lot);
            let Some((checker, _)) = self.sums.get(index) else { break };
            if may_sit(*checker, &seats, except, view) {
                seats.push(*checker);
            }
        }
        while seats.len() < wanted {
            let Some(checker) = self.draw_from_the_rest(&mut lots, &seats, except, view) else { break };
            seats.push(checker);
        }
        seats
    }

    fn draw_from_the_rest(
        &self,
        lots: &mut Lots,
        seats: &Seats,
        except: Option<Address>,
        view: &RegistryView,
    ) -> Option<u32> {
        let mut before = 0u64;
        let mut sum = 0u64;
        let mut rest: Vec<(u32, u64)> = Vec::new();
        for (checker, upto) in &self.sums {
            let weight = upto.saturating_sub(before);
            before = *upto;
            if may_sit(*checker, seats, except, view) {
                sum = sum.saturating_add(weight);
                rest.push((*checker, sum));
            }
        }
        let lot = lots.below(sum);
        rest.get(rest.partition_point(|(_, upto)| *upto <= lot)).map(|(checker, _)| *checker)
    }
}

fn may_sit(checker: u32, seats: &Seats, except: Option<Address>, view: &RegistryView) -> bool {
    let owner_of = |place: u32| view.checkers().get(at(place)).map(|c| c.owner);
    let owner = owner_of(checker);
    owner != except && !seats.as_slice().iter().any(|seated| owner_of(*seated) == owner)
}

/// Licences weigh; stake at most doubles what they do, so that neither alone buys the seats.
fn weight(checker: &CheckerEntry, licences: u64, view: &RegistryView, params: &EpochParams) -> u64 {
    let drawn = checker.status == RegistryStatus::Active
        && checker.stake >= params.checker_stake
        && checker.barred_until <= view.epoch();
    if !drawn {
        return 0;
    }
    let by_licences = licences.saturating_mul(LICENCE_WEIGHT);
    let least = params.checker_stake.0.max(1);
    let by_stake = (checker.stake.0 / least).saturating_mul(u128::from(LICENCE_WEIGHT));
    by_licences.saturating_add(by_licences.min(u64::try_from(by_stake).unwrap_or(u64::MAX)))
}

/// A place as an index.
pub(super) fn at(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
