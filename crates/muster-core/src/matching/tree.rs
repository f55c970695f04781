//! An ordered tree whose shape depends on what is in it and on nothing else.
//!
//! A node ends where the hash of the next item's name says so (as in a skip list whose levels are drawn by
//! hash), not where it happened to be full. Two trees with the same items are therefore equal however they came
//! to be, and what a search finds in them is equal too, on every machine. Every node carries the [`Summary`] of
//! what is below it, so that a search can leave out all of it at once.

use super::summary::{Change, Summary};

/// One item in `2^LEVEL_BITS` begins a new leaf, one in `4^LEVEL_BITS` a new node above it, and so on.
const LEVEL_BITS: u32 = 3;
/// Nodes at this height are never split: at most `8^12` items keep the mean size.
const LEVEL_MAX: u32 = 12;

/// Where an item stands: by what the tree is ordered by, then by the hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) place: u64,
    pub(super) hash: [u64; 2],
}

impl Key {
    /// How many heights of nodes begin with this item.
    const fn level(&self) -> u32 {
        let level = self.hash[0].trailing_zeros() / LEVEL_BITS;
        if level < LEVEL_MAX { level } else { LEVEL_MAX }
    }
}

/// A Container's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) slot: u32,
}

/// A part of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) first: Key,
    pub(super) summary: Summary,
    pub(super) body: Body,
}

/// What a node holds. Leaves are at height 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Leaf(Vec<Item>),
    Inner(Vec<Node>),
}

/// The tree. Every changing function takes `of`, which tells a slot's summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    root: Option<Node>,
}

/// A node that was cut off to the right; its first item has this level.
struct Split {
    right: Node,
    level: u32,
}

impl Tree {
    pub(super) const fn root(&self) -> Option<&Node> {
        self.root.as_ref()
    }

    /// Puts an item in; its key must not be there yet.
    pub(super) fn insert(&mut self, item: Item, of: &impl Fn(u32) -> Summary) {
        let Some(root) = self.root.as_mut() else {
            self.root = Some(Node::new(Body::Leaf(vec![item]), of));
            return;
        };
        let height = root.height();
        if let Some(Split { mut right, level }) = root.insert(item, &of(item.slot), height, of) {
            // A split that reaches the root lifts it to the height of the item that caused it.
            if let Some(mut left) = self.root.take() {
                for _ in height.saturating_add(1)..level {
                    left = Node::new(Body::Inner(vec![left]), of);
                    right = Node::new(Body::Inner(vec![right]), of);
                }
                self.root = Some(Node::new(Body::Inner(vec![left, right]), of));
            }
        }
    }

    /// Takes an item out; whether it was there.
    pub(super) fn remove(&mut self, key: &Key, of: &impl Fn(u32) -> Summary) -> bool {
        let Some(root) = self.root.as_mut() else { return false };
        if root.remove(key, of).is_none() {
            return false;
        }
        root.drop_empty_front(of);
        loop {
            match self.root.take() {
                Some(Node { body: Body::Inner(mut children), .. }) if children.len() <= 1 => {
                    self.root = children.pop();
                }
                Some(Node { body: Body::Leaf(items), .. }) if items.is_empty() => break,
                kept => {
                    self.root = kept;
                    break;
                }
            }
        }
        true
    }

    /// Brings the summaries above an item up to date, after its own has changed; whether it is there.
    pub(super) fn refresh(&mut self, key: &Key, change: &Change, of: &impl Fn(u32) -> Summary) -> bool {
        self.root.as_mut().is_some_and(|root| root.refresh(key, change, of).is_some())
    }
}

impl Node {
    fn new(body: Body, of: &impl Fn(u32) -> Summary) -> Self {
        let first = Key { place: 0, hash: [0; 2] };
        let mut node = Self { first, summary: Summary::EMPTY, body };
        node.summarise(of);
        node
    }

    fn height(&self) -> u32 {
        match &self.body {
            Body::Leaf(_) => 0,
            Body::Inner(children) => children.first().map_or(0, Self::height).saturating_add(1),
        }
    }

    fn summarise(&mut self, of: &impl Fn(u32) -> Summary) {
        let mut summary = Summary::EMPTY;
        match &self.body {
            Body::Leaf(items) => {
                items.iter().for_each(|item| summary.merge(&of(item.slot)));
                self.first = items.first().map_or(self.first, |item| item.key);
            }
            Body::Inner(children) => {
                children.iter().for_each(|child| summary.merge(&child.summary));
                self.first = children.first().map_or(self.first, |child| child.first);
            }
        }
        self.summary = summary;
    }

    fn insert(&mut self, item: Item, own: &Summary, height: u32, of: &impl Fn(u32) -> Summary) -> Option<Split> {
        let split = match &mut self.body {
            Body::Leaf(items) => {
                let at = items.partition_point(|other| other.key < item.key);
                let next_level = items.get(at).map_or(0, |next| next.key.level());
                if at > 0 && item.key.level() > 0 {
                    let mut rest = items.split_off(at);
                    rest.insert(0, item);
                    Some((Body::Leaf(rest), item.key.level()))
                } else if at == 0 && next_level > 0 {
                    // The new item is the least of all, and what was the least begins a leaf of its own.
                    Some((Body::Leaf(core::mem::replace(items, vec![item])), next_level))
                } else {
                    items.insert(at, item);
                    None
                }
            }
            Body::Inner(children) => {
                let at = children.partition_point(|child| child.first <= item.key).saturating_sub(1);
                let child = children.get_mut(at);
                let split = child.and_then(|child| child.insert(item, own, height.saturating_sub(1), of));
                split.and_then(|Split { right, level }| {
                    children.insert(at.saturating_add(1), right);
                    (level > height).then(|| (Body::Inner(children.split_off(at.saturating_add(1))), level))
                })
            }
        };
        if let Some((body, level)) = split {
            self.summarise(of);
            return Some(Split { right: Self::new(body, of), level });
        }
        self.first = self.first.min(item.key);
        self.summary.merge(own);
        None
    }

    /// `None`: not there. `Some(true)`: the item that this node began with is gone, so what is left of the node
    /// belongs to the one before it.
    fn remove(&mut self, key: &Key, of: &impl Fn(u32) -> Summary) -> Option<bool> {
        let orphan = match &mut self.body {
            Body::Leaf(items) => {
                let at = items.binary_search_by(|item| item.key.cmp(key)).ok()?;
                items.remove(at);
                at == 0 && key.level() > 0
            }
            Body::Inner(children) => {
                let at = children.partition_point(|child| child.first <= *key).saturating_sub(1);
                let orphan = children.get_mut(at)?.remove(key, of)?;
                if orphan && at > 0 {
                    let right = children.remove(at);
                    children.get_mut(at.saturating_sub(1))?.join(right, of);
                }
                orphan && at == 0
            }
        };
        self.summarise(of);
        Some(orphan)
    }

    /// Appends the node that followed, whose beginning is gone at every height.
    fn join(&mut self, right: Self, of: &impl Fn(u32) -> Summary) {
        match (&mut self.body, right.body) {
            (Body::Leaf(items), Body::Leaf(more)) => items.extend(more),
            (Body::Inner(children), Body::Inner(more)) => {
                let mut more = more.into_iter();
                if let (Some(last), Some(first)) = (children.last_mut(), more.next()) {
                    last.join(first, of);
                }
                children.extend(more);
            }
            // Nodes side by side have the same height.
            (Body::Leaf(_), Body::Inner(_)) | (Body::Inner(_), Body::Leaf(_)) => {
                debug_assert!(false, "nodes of different height cannot be joined");
            }
        }
        self.summarise(of);
    }

    /// Drops the first leaf if its last item is gone, and nodes that are empty without it.
    fn drop_empty_front(&mut self, of: &impl Fn(u32) -> Summary) {
        let Body::Inner(children) = &mut self.body else { return };
        let Some(first) = children.first_mut() else { return };
        first.drop_empty_front(of);
        if first.summary.count == 0 {
            children.remove(0);
            self.summarise(of);
        } else if first.first != self.first {
            self.summarise(of);
        }
    }

    /// `None`: not there. Otherwise whether the summary changed; where it did not, nothing above it does.
    fn refresh(&mut self, key: &Key, change: &Change, of: &impl Fn(u32) -> Summary) -> Option<bool> {
        let stale = match &mut self.body {
            Body::Leaf(items) => items.binary_search_by(|item| item.key.cmp(key)).map(|_| true).ok()?,
            Body::Inner(children) => {
                let at = children.partition_point(|child| child.first <= *key).saturating_sub(1);
                children.get_mut(at)?.refresh(key, change, of)?
            }
        };
        if !stale || change.is_hidden_by(&self.summary) {
            return Some(false);
        }
        let before = self.summary;
        self.summarise(of);
        Some(self.summary != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn summary(slot: u32) -> Summary {
        Summary { count: 1, cpu: slot % 97, ..Summary::EMPTY }
    }

    /// Names whose hashes have high levels often, so that small trees are tall.
    fn item(name: u64) -> Item {
        let level = (name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) % 4;
        let key = Key { place: name % 7, hash: [(name << 16 | 1 << 15) & !0 << (level * 3) | 1 << (level * 3), name] };
        Item { key, slot: u32::try_from(name).unwrap() }
    }

    fn check(node: &Node, height: u32, first_of_all: bool) -> Vec<Key> {
        let mut sum = Summary::EMPTY;
        let keys: Vec<Key> = match &node.body {
            Body::Leaf(items) => {
                assert_eq!(height, 0);
                items.iter().for_each(|i| sum.merge(&summary(i.slot)));
                assert!(items.iter().skip(1).all(|i| i.key.level() == 0), "a leaf goes past a boundary");
                items.iter().map(|i| i.key).collect()
            }
            Body::Inner(children) => {
                children.iter().for_each(|c| sum.merge(&c.summary));
                assert!(children.iter().skip(1).all(|c| c.first.level() == height), "a node goes past a boundary");
                children.iter().enumerate().flat_map(|(n, c)| check(c, height - 1, first_of_all && n == 0)).collect()
            }
        };
        assert_eq!(sum, node.summary);
        assert_eq!(keys.first(), Some(&node.first));
        assert!(first_of_all || node.first.level() > height);
        assert!(keys.is_sorted());
        keys
    }

    proptest! {
        #[test]
        fn the_shape_depends_on_the_items_alone(
            names in prop::collection::btree_set(0u64..4000, 0..200),
            order in any::<u64>(),
            gone in prop::collection::btree_set(0u64..4000, 0..400),
        ) {
            let mut straight = Tree::default();
            for name in names.difference(&gone) {
                straight.insert(item(*name), &summary);
            }
            let mut shuffled: Vec<u64> = names.iter().copied().collect();
            shuffled.sort_by_key(|name| (name ^ order).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut around = Tree::default();
            for name in &shuffled {
                around.insert(item(*name), &summary);
            }
            for name in &gone {
                prop_assert_eq!(around.remove(&item(*name).key, &summary), names.contains(name));
            }
            prop_assert_eq!(&straight, &around);
            if let Some(root) = around.root() {
                let keys = check(root, root.height(), true);
                prop_assert_eq!(keys.len(), names.difference(&gone).count());
            } else {
                prop_assert_eq!(names.difference(&gone).count(), 0);
            }
        }
    }
}
