//! Places: each holds the tokens of one answer, and after it what it remembers.
//!
//! An answer that waits takes the free place that remembers most of its prompt. Where another place, busy or not, has more
//! of it, that one's memory is copied. In each step every answer that is being drawn gives one token; what room is left in
//! the batch goes to prompts, the oldest first, so that a long prompt holds up nobody's answer.

use std::collections::VecDeque;

/// Tokens of replays in one step, at most: each needs room for the odds of the whole vocabulary.
const REPLAYED_MAX: usize = 64;
/// Tokens more that another place must remember before its memory is copied.
const COPY_MIN: usize = 32;

/// An answer that wants a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Of which request, by the caller's own number.
    pub request: u64,
    /// Which answer to it.
    pub choice: u32,
    /// Its prompt; never empty. Of an answer that is replayed, the answer is part of it.
    pub prompt: Vec<u32>,
    /// The first place in the prompt after whose token something is drawn: the last one, or where a replay begins.
    pub draws_from: usize,
}

/// An answer got a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Of which request.
    pub request: u64,
    /// Which answer.
    pub choice: u32,
    /// Where.
    pub slot: usize,
    /// What is kept of what was remembered. The caller may find that less is there: [`Slots::forget`].
    pub remembered: Remembered,
}

/// What a place keeps from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Tokens at the beginning of the prompt.
    pub tokens: usize,
    /// The place whose memory is to be copied first, where it is not the own one.
    pub from: Option<usize>,
}

/// A token of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of which place.
    pub slot: usize,
    /// The token.
    pub token: u32,
    /// Its position.
    pub position: usize,
    /// Whether a token is to be drawn after it.
    pub draws: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Tokens that the model has in this place.
    held: Vec<u32>,
    /// Tokens to come: the rest of the prompt, or the one that was drawn last.
    next: VecDeque<u32>,
    busy: Option<(u64, u32)>,
    draws_from: usize,
    /// When it was given, by the count of placements.
    given: u64,
    /// Whether its prompt was read.
    drawing: bool,
}

impl Slot {
    /// Whether something is drawn after more than the last token to come.
    fn is_replay(&self) -> bool {
        self.draws_from + 1 < self.held.len() + self.next.len()
    }
}

/// All places, and who waits for one.
#[derive(Clone, Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    waiting: VecDeque<Ask>,
    batch_max: usize,
    placements: u64,
}

impl Slots {
    /// `count` places; a step has at most `batch_max` tokens, and at least one for each place.
    #[must_use]
    pub fn new(count: usize, batch_max: usize) -> Self {
        Self {
            slots: vec![Slot::default(); count.max(1)],
            waiting: VecDeque::new(),
            batch_max: batch_max.max(count),
            placements: 0,
        }
    }

    /// Puts an answer at the end of those that wait.
    pub fn wait(&mut self, ask: Ask) {
        self.waiting.push_back(ask);
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.iter().all(|slot| slot.busy.is_none())
    }

    /// Gives the next answer that waits its place, if one is free. An answer whose request has another one with the same
    /// prompt, not yet read, waits for that: its memory is then copied.
    pub fn place(&mut self) -> Option<Placement> {
        if self.slots.iter().all(|slot| slot.busy.is_some()) {
            return None;
        }
        let at = self.waiting.iter().position(|ask| !self.waits_for_a_sibling(ask))?;
        let ask = self.waiting.remove(at)?;
        // The last token of a prompt is always read: what comes after it is drawn from that. So is all that is replayed.
        let draws_from = ask.draws_from.min(ask.prompt.len() - 1);
        let common = |slot: &Slot| common(&slot.held, &ask.prompt).min(draws_from);
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.busy.is_none());
        let (own, mut tokens) = free
            .map(|(at, slot)| (at, common(slot), slot.given))
            .max_by_key(|(at, tokens, given)| (*tokens, u64::MAX - given, usize::MAX - at))
            .map(|(at, tokens, _)| (at, tokens))?;
        let other = self.slots.iter().enumerate().filter(|(at, _)| *at != own);
        let other = other.map(|(at, slot)| (at, common(slot))).max_by_key(|(at, tokens)| (*tokens, usize::MAX - at));
        let mut from = None;
        if let Some((other, more)) = other
            && more >= tokens + COPY_MIN
        {
            (from, tokens) = (Some(other), more);
        }
        self.placements += 1;
        let given = self.placements;
        let slot = self.slots.get_mut(own)?;
        slot.held = ask.prompt.get(..tokens)?.to_vec();
        slot.next = ask.prompt.iter().skip(tokens).copied().collect();
        slot.busy = Some((ask.request, ask.choice));
        slot.draws_from = draws_from;
        slot.given = given;
        slot.drawing = false;
        let remembered = Remembered { tokens, from };
        Some(Placement { request: ask.request, choice: ask.choice, slot: own, remembered })
    }

    fn waits_for_a_sibling(&self, ask: &Ask) -> bool {
        self.slots.iter().any(|slot| {
            let all = || slot.held.iter().chain(&slot.next).eq(&ask.prompt);
            slot.busy.is_some_and(|(request, _)| request == ask.request) && !slot.drawing && all()
        })
    }

    /// The place remembers nothing after all: all of the prompt is read.
    pub fn forget(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            for token in std::mem::take(&mut slot.held).into_iter().rev() {
                slot.next.push_front(token);
            }
        }
    }

    /// The tokens of the next step; none where nothing is to be done.
    #[must_use]
    pub fn step(&self) -> Vec<Entry> {
        let mut step = Vec::new();
        let busy = || self.slots.iter().enumerate().filter(|(_, slot)| slot.busy.is_some());
        for (at, slot) in busy().filter(|(_, slot)| slot.drawing) {
            let entry = |token: &u32| Entry { slot: at, token: *token, position: slot.held.len(), draws: true };
            step.extend(slot.next.front().map(entry));
        }
        let mut reading: Vec<(usize, &Slot)> = busy().filter(|(_, slot)| !slot.drawing).collect();
        reading.sort_by_key(|(_, slot)| slot.given);
        let mut replayed = 0;
        for (at, slot) in reading {
            let mut room = self.batch_max.saturating_sub(step.len());
            let silent = slot.draws_from.saturating_sub(slot.held.len());
            if slot.is_replay() {
                room = room.min(silent + REPLAYED_MAX.saturating_sub(replayed));
                replayed += room.min(slot.next.len()).saturating_sub(silent);
            }
            step.extend(slot.next.iter().take(room).enumerate().map(|(nth, token)| Entry {
                slot: at,
                token: *token,
                position: slot.held.len() + nth,
                draws: nth >= silent,
            }));
        }
        step
    }

    /// The step was done: the model has these tokens.
    pub fn done(&mut self, step: &[Entry]) {
        for entry in step {
            if let Some(slot) = self.slots.get_mut(entry.slot) {
                slot.held.extend(slot.next.pop_front());
                slot.drawing |= slot.next.is_empty();
            }
        }
    }

    /// A token was drawn for the answer in this place; it is read in the next step.
    pub fn drew(&mut self, slot: usize, token: u32) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.next.push_back(token);
        }
    }

    /// Tokens that the answer in this place has, with those to come.
    #[must_use]
    pub fn len(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |slot| slot.held.len() + slot.next.len())
    }

    /// Whether no place holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.held.is_empty())
    }

    /// The answer in this place is over; what it holds is remembered.
    pub fn free(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.busy = None;
            slot.drawing = false;
            slot.next.clear();
        }
    }

    /// No place remembers anything any more.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::default());
    }

    /// Whoever waits for this request waits no more.
    pub fn leave(&mut self, request: u64) {
        self.waiting.retain(|ask| ask.request != request);
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(request: u64, prompt: impl Into<Vec<u32>>) -> Ask {
        let prompt: Vec<u32> = prompt.into();
        Ask { request, choice: 0, draws_from: prompt.len() - 1, prompt }
    }

    fn run(slots: &mut Slots) -> Vec<Entry> {
        let step = slots.step();
        slots.done(&step);
        step
    }

    #[test]
    fn what_was_said_before_is_not_read_again() {
        let mut slots = Slots::new(2, 8);
        slots.wait(ask(1, [1, 2, 3]));
        assert_eq!(slots.place().unwrap().remembered.tokens, 0);
        assert_eq!(run(&mut slots).iter().map(|e| e.draws).collect::<Vec<_>>(), [false, false, true]);
        slots.drew(0, 4);
        run(&mut slots);
        slots.free(0);
        slots.wait(ask(2, [1, 2, 3, 4, 5, 6]));
        let placement = slots.place().unwrap();
        assert_eq!((placement.slot, placement.remembered.tokens), (0, 4));
        let step = run(&mut slots);
        assert_eq!(step.iter().map(|e| (e.token, e.position)).collect::<Vec<_>>(), [(5, 4), (6, 5)]);
        slots.free(0);
        slots.wait(ask(3, [1, 2, 3]));
        assert_eq!(slots.place().unwrap().remembered.tokens, 2, "the last token is read");
    }

    #[test]
    fn a_long_prompt_leaves_room_for_answers() {
        let mut slots = Slots::new(2, 4);
        slots.wait(ask(1, [1]));
        slots.place();
        run(&mut slots);
        slots.drew(0, 9);
        slots.wait(ask(2, (0..10).collect::<Vec<_>>()));
        slots.place();
        let step = run(&mut slots);
        assert_eq!(step.len(), 4);
        assert_eq!(step.first().map(|e| (e.slot, e.draws)), Some((0, true)));
        slots.drew(0, 9);
        assert_eq!(run(&mut slots).last().map(|e| e.position), Some(5));
    }

    #[test]
    fn answers_to_the_same_prompt_read_it_once() {
        let mut slots = Slots::new(2, 512);
        let prompt: Vec<u32> = (0..100).collect();
        slots.wait(ask(1, prompt.clone()));
        slots.wait(Ask { choice: 1, ..ask(1, prompt) });
        assert_eq!(slots.place().unwrap().slot, 0);
        assert_eq!(slots.place(), None, "waits for the first");
        run(&mut slots);
        let second = slots.place().unwrap();
        assert_eq!(second.remembered, Remembered { tokens: 99, from: Some(0) });
        slots.forget(second.slot);
        assert_eq!(slots.step().len(), 100, "nothing was there after all");
    }

    #[test]
    fn a_replay_draws_after_each_of_its_tokens() {
        let mut slots = Slots::new(2, 512);
        slots.wait(ask(1, (0..10).collect::<Vec<_>>()));
        slots.place();
        run(&mut slots);
        slots.free(0);
        slots.wait(Ask { draws_from: 4, ..ask(2, (0..150).collect::<Vec<_>>()) });
        assert_eq!(slots.place().unwrap().remembered.tokens, 4, "what is replayed is read");
        slots.wait(ask(3, [7, 8]));
        slots.place();
        let first = run(&mut slots);
        assert_eq!(first.iter().filter(|e| e.slot == 0 && e.draws).count(), REPLAYED_MAX);
        assert_eq!(first.iter().filter(|e| e.slot == 1).map(|e| e.draws).collect::<Vec<_>>(), [false, true]);
        let rest: Vec<Entry> = (0..2).flat_map(|_| run(&mut slots)).filter(|e| e.slot == 0).collect();
        assert!(rest.iter().all(|e| e.draws) && rest.last().map(|e| e.position) == Some(149));
        assert!(slots.step().iter().all(|e| e.slot == 1), "it is at its end");
    }

    proptest! {
        #[test]
        fn every_answer_is_placed_and_read_in_order(
            prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..30), 1..12),
            count in 1usize..4, batch in 1usize..16,
        ) {
            let mut slots = Slots::new(count, batch);
            for (request, prompt) in (0u64..).zip(&prompts) { slots.wait(ask(request, prompt.clone())); }
            let (mut finished, mut model) = (0, vec![Vec::<u32>::new(); count]);
            let mut placed = vec![None; count];
            for _ in 0..2_000 {
                if slots.is_idle() { break; }
                while let Some(p) = slots.place() {
                    let kept = model[p.remembered.from.unwrap_or(p.slot)].clone();
                    prop_assert!(p.remembered.tokens <= kept.len());
                    model[p.slot] = kept[..p.remembered.tokens].to_vec();
                    placed[p.slot] = Some(p.request);
                }
                let step = slots.step();
                prop_assert!(step.len() <= batch.max(count) && !step.is_empty());
                for e in &step {
                    prop_assert_eq!(e.position, model[e.slot].len());
                    model[e.slot].push(e.token);
                }
                slots.done(&step);
                for e in step.iter().filter(|e| e.draws) {
                    let request = placed[e.slot].unwrap();
                    prop_assert_eq!(&model[e.slot], &prompts[usize::try_from(request).unwrap()]);
                    slots.free(e.slot);
                    finished += 1;
                }
            }
            prop_assert_eq!(finished, prompts.len());
        }
    }
}
