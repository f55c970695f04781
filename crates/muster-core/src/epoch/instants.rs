//! Who is tested at the same instant.

use super::RegistryView;
use super::committee::at;

/// For each Container the place of the first one (by key) that it is tied to; itself where it stands alone.
///
/// Ties are owner, address block and fingerprint, and they chain: who shares the block of one and the owner of
/// another is in one group with both.
pub(super) fn groups(view: &RegistryView) -> Vec<u32> {
    let count = u32::try_from(view.containers().len()).unwrap_or(u32::MAX);
    let mut groups = Groups((0..count).collect());
    let entries = || view.containers().iter().zip(0u32..);
    groups.tie(entries().map(|(c, place)| (c.owner, place)).collect());
    groups.tie(entries().filter_map(|(c, place)| Some((c.block?, place))).collect());
    groups.tie(entries().filter_map(|(c, place)| Some((c.fingerprint?, place))).collect());
    (0..count).map(|place| groups.root(place)).collect()
}

/// A union-find in which the least place of a group is its root, so that the order of the ties does not matter.
struct Groups(Vec<u32>);

impl Groups {
    fn root(&mut self, mut place: u32) -> u32 {
        // Each step halves the way for the next one; it ends because a parent is never greater than its child.
        while let Some(parent) = self.0.get(at(place)).copied()
            && parent != place
        {
            let grand = self.0.get(at(parent)).copied().unwrap_or(parent);
            if let Some(slot) = self.0.get_mut(at(place)) {
                *slot = grand;
            }
            place = grand;
        }
        place
    }

    fn tie<K: Ord + Copy>(&mut self, mut named: Vec<(K, u32)>) {
        named.sort_unstable();
        let seconds = named.iter().skip(1);
        for ((name, place), (other, next)) in named.iter().zip(seconds) {
            if name == other {
                let (a, b) = (self.root(*place), self.root(*next));
                if let Some(slot) = self.0.get_mut(at(a.max(b))) {
                    *slot = a.min(b);
                }
            }
        }
    }
}
