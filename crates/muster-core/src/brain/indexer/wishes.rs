//! What players ask for: sets of packages that were wanted lately, so that idle Containers may have them beforehand.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::packages::{PackageSet, PackageSetId};
use crate::units::TimeMs;

/// Sets that are remembered; the least asked for gives way.
const SETS_MAX: usize = 256;
/// Containers of which it is remembered when they were told; the map is emptied beyond, which tells some too early.
const TOLD_MAX: usize = 100_000;
/// Being asked for counts half after so long.
const HALF_LIFE_MS: u64 = 30 * 60_000;
/// Being asked for once.
const ONE: u64 = 1_000;
/// A set that was asked for about three times lately is worth having somewhere else too.
const WORTH: u64 = 2_500;
/// A Container is told of one set in so long.
const TELL_EVERY_MS: u64 = 60_000;
/// Who was told of a set may take so long to have it; until then it counts as if it had.
const FETCHED_WITHIN_MS: u64 = 10 * 60_000;

#[derive(Clone, Debug)]
struct Wish {
    set: PackageSet,
    /// In thousandths, as of `at`.
    asked: u64,
    at: TimeMs,
    /// Containers that were told lately.
    told: BTreeMap<NodeId, TimeMs>,
}

impl Wish {
    /// How often it was asked for lately: halved every half-life, linear in between.
    fn asked_now(&self, now: TimeMs) -> u64 {
        let elapsed = now.since(self.at);
        let halvings = u32::try_from(elapsed / HALF_LIFE_MS).unwrap_or(u32::MAX);
        let whole = self.asked.checked_shr(halvings).unwrap_or(0);
        let rest = whole.saturating_mul(elapsed % HALF_LIFE_MS) / HALF_LIFE_MS.saturating_mul(2);
        whole.saturating_sub(rest)
    }
}

/// All that is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    all: BTreeMap<PackageSetId, Wish>,
    told: BTreeMap<NodeId, TimeMs>,
}

impl Wishes {
    /// Somebody wants a Container with these packages.
    pub(super) fn note(&mut self, set: &PackageSet, now: TimeMs) {
        let Some(id) = set.id() else { return };
        if !self.all.contains_key(&id) && self.all.len() >= SETS_MAX {
            let least = self.all.iter().min_by_key(|(id, wish)| (wish.asked_now(now), **id)).map(|(id, _)| *id);
            least.map(|least| self.all.remove(&least));
        }
        let wish =
            self.all.entry(id).or_insert_with(|| Wish { set: set.clone(), asked: 0, at: now, told: BTreeMap::new() });
        wish.asked = wish.asked_now(now).saturating_add(ONE);
        wish.at = wish.at.max(now);
    }

    /// What an idle Container should fetch: the most asked for of the sets that it lacks and that fewer have than there
    /// were askers lately. `count` says how many have a set. The Container counts as told.
    pub(super) fn suggest(
        &mut self,
        container: NodeId,
        has: &[PackageSetId],
        count: impl Fn(PackageSetId) -> usize,
        now: TimeMs,
    ) -> Option<PackageSet> {
        if self.all.is_empty() || self.told.get(&container).is_some_and(|at| now.since(*at) < TELL_EVERY_MS) {
            return None;
        }
        let lacking = self.all.iter_mut().filter(|(id, _)| !has.contains(id));
        let wanted = lacking.filter_map(|(id, wish)| {
            let asked = wish.asked_now(now);
            wish.told.retain(|_, at| now.since(*at) < FETCHED_WITHIN_MS);
            let have = u64::try_from(count(*id).saturating_add(wish.told.len())).unwrap_or(u64::MAX);
            (asked >= WORTH && have < asked.div_ceil(ONE)).then_some((asked, std::cmp::Reverse(*id), wish))
        });
        let (_, _, wish) = wanted.max_by_key(|(asked, id, _)| (*asked, *id))?;
        wish.told.insert(container, now);
        let set = wish.set.clone();
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(container, now);
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> PackageSet {
        PackageSet::new([name.to_owned()]).unwrap()
    }

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn what_is_asked_for_often_and_rare_is_told_to_few() {
        let mut wishes = Wishes::default();
        let at = |s: u64| TimeMs(1_000_000 + s * 1_000);
        (0..2).for_each(|s| wishes.note(&set("game"), at(s)));
        assert_eq!(wishes.suggest(node(1), &[], |_| 1, at(3)), None, "twice is chance");
        (3..5).for_each(|s| wishes.note(&set("game"), at(s)));
        wishes.note(&set("other"), at(5));
        wishes.note(&PackageSet::default(), at(5));
        let has = [set("game").id().unwrap()];
        assert_eq!(wishes.suggest(node(1), &has, |_| 1, at(6)), None, "it has it");
        assert_eq!(wishes.suggest(node(2), &[], |_| 1, at(6)), Some(set("game")));
        assert_eq!(wishes.suggest(node(2), &[], |_| 1, at(7)), None, "one thing at a time");
        assert_eq!(wishes.suggest(node(3), &[], |_| 1, at(7)), Some(set("game")));
        assert_eq!(wishes.suggest(node(4), &[], |_| 1, at(8)), Some(set("game")));
        assert_eq!(wishes.suggest(node(5), &[], |_| 1, at(9)), None, "one has it, three are told, four asked");
        assert_eq!(wishes.suggest(node(5), &[], |_| 0, at(9)), Some(set("game")));
        // Whoever was told and does not have it is told again, once the others had their time.
        assert_eq!(wishes.suggest(node(2), &[], |_| 1, at(700)), Some(set("game")));
        // What nobody asks for any more is not worth having.
        assert_eq!(wishes.suggest(node(6), &[], |_| 0, at(7_200)), None);
    }

    #[test]
    fn the_least_asked_for_gives_way() {
        let mut wishes = Wishes::default();
        for _ in 0..4 {
            wishes.note(&set("popular"), TimeMs(5));
        }
        for n in 0..2 * SETS_MAX {
            wishes.note(&set(&format!("p{n}x")), TimeMs(6));
        }
        assert_eq!(wishes.all.len(), SETS_MAX);
        assert_eq!(wishes.suggest(node(1), &[], |_| 0, TimeMs(7)), Some(set("popular")));
    }
}
