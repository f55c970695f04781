//! One answer against its replay.

use core::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::transcript::{LIKELY, Likely, Replayed, Transcript, millinats};

/// The most that the margin of one token counts, in thousandths of a nat.
pub const MARGIN_MAX: u16 = 3_000;
/// The most that one log-probability may count as apart, in thousandths of a nat.
pub const DISTANCE_MAX: u16 = 3_000;

/// A position of a replayed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The token that is drawn here with the seed of the request.
    pub own: u32,
    /// By how much its score with its noise is above that of the claimed one, in thousandths; 0 where it is the same.
    pub margin: u16,
    /// What is likely here, the likeliest first.
    pub likely: [Likely; LIKELY],
}

impl Row {
    /// `margin` in nats.
    #[must_use]
    pub fn new(own: u32, margin: f64, likely: [Likely; LIKELY]) -> Self {
        Self { own, margin: millinats(margin).min(MARGIN_MAX), likely }
    }
}

/// Sums over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Tokens compared.
    pub tokens: u64,
    /// Of which another one was drawn in the replay.
    pub differing: u64,
    /// Their margins, clipped, in thousandths of a nat.
    pub margin: u64,
    /// How far the likeliest tokens' log-probabilities lie apart, the mean at each position, in thousandths of a nat.
    pub distance: u64,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.differing = self.differing.saturating_add(other.differing);
        self.margin = self.margin.saturating_add(other.margin);
        self.distance = self.distance.saturating_add(other.distance);
    }
}

/// A replay that says nothing of this answer: whoever replayed did something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has {claimed} tokens, and {replayed} were replayed: ask another Container")]
pub struct NotComparable {
    /// Tokens of the answer.
    pub claimed: usize,
    /// Of the replay.
    pub replayed: usize,
}

/// Holds an answer against its replay. Of an answer to another prompt each token counts as wrong by all that one can be.
///
/// # Errors
/// Not as many tokens were replayed as there are.
pub fn compare(claimed: &Transcript, replayed: &Replayed) -> Result<Compared, NotComparable> {
    let (ours, theirs) = (claimed.tokens.len(), replayed.rows.len());
    if ours != theirs || ours == 0 {
        return Err(NotComparable { claimed: ours, replayed: theirs });
    }
    let tokens = u64::try_from(ours).unwrap_or(u64::MAX);
    if (claimed.prompt, claimed.prompt_tokens) != (replayed.prompt, replayed.prompt_tokens) {
        let most = |each: u16| tokens.saturating_mul(u64::from(each));
        return Ok(Compared { tokens, differing: tokens, margin: most(MARGIN_MAX), distance: most(DISTANCE_MAX) });
    }
    let mut sums = Compared { tokens, ..Compared::default() };
    for (token, row) in claimed.tokens.iter().zip(&replayed.rows) {
        if token.id != row.own {
            sums.differing = sums.differing.saturating_add(1);
            sums.margin = sums.margin.saturating_add(row.margin.min(MARGIN_MAX).into());
        }
        sums.distance = sums.distance.saturating_add(distance(&token.likely, &row.likely));
    }
    Ok(sums)
}

/// How far two lists lie apart. A token that stands in one list only was at most as likely for the other as the last
/// that stands there: by so much it is apart at least.
fn distance(a: &[Likely; LIKELY], b: &[Likely; LIKELY]) -> u64 {
    let real = |likely: &&Likely| likely.id != u32::MAX;
    let (mut sum, mut count) = (0u64, 0u64);
    let mut add = |apart: u16| {
        sum = sum.saturating_add(apart.min(DISTANCE_MAX).into());
        count = count.saturating_add(1);
    };
    let found = |list: &[Likely; LIKELY], id: u32| list.iter().find(|other| other.id == id).copied();
    let alone = |one: &Likely, list: &[Likely; LIKELY]| {
        let last = list.iter().filter(real).map(|likely| likely.millinats).max().unwrap_or(u16::MAX);
        last.saturating_sub(one.millinats)
    };
    for one in a.iter().filter(real) {
        match found(b, one.id) {
            Some(other) => add(one.millinats.abs_diff(other.millinats)),
            None => add(alone(one, b)),
        }
    }
    for one in b.iter().filter(real).filter(|one| found(a, one.id).is_none()) {
        add(alone(one, a));
    }
    sum.checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::audit::{Claimed, PromptHash};
    use proptest::prelude::*;

    fn likely(list: [(u32, u16); LIKELY]) -> [Likely; LIKELY] {
        list.map(|(id, millinats)| Likely { id, millinats })
    }

    const LIST: [(u32, u16); LIKELY] = [(1, 100), (2, 3_000), (3, 4_000), (4, 5_000), (5, 6_000)];

    fn pair(rows: &[(u32, u32, u16)]) -> (Transcript, Replayed) {
        let prompt = PromptHash::of(&[1]);
        let tokens = rows.iter().map(|(id, _, _)| Claimed { id: *id, likely: likely(LIST) }).collect();
        let claimed = Transcript { seed: 1, choice: 0, prompt, prompt_tokens: 1, tokens };
        let rows = rows.iter().map(|(_, own, margin)| Row { own: *own, margin: *margin, likely: likely(LIST) });
        (claimed, Replayed { prompt, prompt_tokens: 1, rows: rows.collect() })
    }

    #[test]
    fn what_agrees_counts_nothing() {
        let (claimed, mut replayed) = pair(&[(1, 1, 0), (2, 7, 250), (3, 8, 60_000)]);
        let compared = compare(&claimed, &replayed).unwrap();
        assert_eq!(compared, Compared { tokens: 3, differing: 2, margin: 3_250, distance: 0 });
        replayed.prompt_tokens += 1;
        let other = compare(&claimed, &replayed).unwrap();
        assert_eq!(other, Compared { tokens: 3, differing: 3, margin: 9_000, distance: 9_000 });
        replayed.rows.pop();
        assert_eq!(compare(&claimed, &replayed), Err(NotComparable { claimed: 3, replayed: 2 }));
        let (claimed, replayed) = pair(&[]);
        assert!(compare(&claimed, &replayed).is_err());
    }

    #[test]
    fn lists_lie_apart_by_what_both_say() {
        let same = likely(LIST);
        assert_eq!(distance(&same, &same), 0);
        assert_eq!(distance(&same, &likely([(1, 600), LIST[1], LIST[2], LIST[3], LIST[4]])), 100);
        // 9 for 5: each is apart from the other list's last by what is known of it.
        let other = likely([LIST[0], LIST[1], LIST[2], LIST[3], (9, 5_400)]);
        assert_eq!(distance(&same, &other), 600 / 6);
        let none = [Likely::NONE; LIKELY];
        assert_eq!((distance(&none, &none), distance(&same, &none) > 2_000), (0, true));
        let few = likely([LIST[0], LIST[1], LIST[2], LIST[3], (u32::MAX, u16::MAX)]);
        assert_eq!(distance(&few, &few), 0);
    }

    proptest! {
        #[test]
        fn neither_side_is_favoured_and_nothing_overflows(
            a in prop::collection::vec((0u32..9, any::<u16>()), LIKELY),
            b in prop::collection::vec((0u32..9, any::<u16>()), LIKELY),
        ) {
            let list = |of: &[(u32, u16)]| likely([of[0], of[1], of[2], of[3], of[4]]);
            let apart = distance(&list(&a), &list(&b));
            prop_assert!(apart <= u64::from(DISTANCE_MAX));
            prop_assert_eq!(distance(&list(&a), &list(&a)) == 0 || a.iter().any(|x| a.iter().filter(|y| y.0 == x.0).count() > 1), true);
        }

        #[test]
        fn sums_are_those_of_the_parts(
            rows in prop::collection::vec((0u32..3, 0u32..3, any::<u16>()), 2..40), cut in 1usize..39,
        ) {
            let cut = cut.min(rows.len() - 1);
            let of = |rows: &[(u32, u32, u16)]| { let (c, r) = pair(rows); compare(&c, &r).unwrap() };
            let mut sum = of(&rows[..cut]);
            sum += of(&rows[cut..]);
            prop_assert_eq!(sum, of(&rows));
        }
    }
}
