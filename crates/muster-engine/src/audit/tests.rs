//! Visits to engines that are played: a made-up model, drawn as llama.cpp's is.

use std::collections::BTreeMap;
use std::sync::Mutex;

use muster_core::inference::audit::{Claimed, Limits, PromptHash, Row, Standing};
use muster_core::inference::{
    InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, TokenCounts,
};

use super::*;
use crate::scheduler::Drawer;
use crate::{Answer, EngineInfo, Later, Load, NotReady, answer};

const LIMITS: Limits = Limits { differing_ppm: 10_000, margin_micronats: 2_000, distance_micronats: 8_000 };
const VOCABULARY: u32 = 50;
const QUESTIONS: u32 = 8;

/// A model of its own: what comes next follows from what was before, by `weights`; its figures are off by `noise`.
#[derive(Default)]
struct Played {
    weights: u64,
    noise: f32,
    /// Reveals nothing.
    mute: bool,
    kept: Mutex<BTreeMap<Commitment, Transcript>>,
}

impl Played {
    fn logits(&self, before: &[u32]) -> Vec<f32> {
        let last = before.iter().rev().take(3).fold(self.weights, |sum, token| (sum << 9) ^ u64::from(*token));
        let place = u64::try_from(before.len()).unwrap();
        let figure = |token: u32| {
            let word = (last ^ (u64::from(token) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let fine = (word ^ place).wrapping_mul(0xd134_2543_de82_ef95) >> 54;
            let (coarse, fine) = (u16::try_from(word >> 52).unwrap(), u16::try_from(fine).unwrap());
            f32::from(coarse) / 700.0 + self.noise * (f32::from(fine) / 512.0 - 1.0)
        };
        (0..VOCABULARY).map(figure).collect()
    }

    fn prompt(to: &Replayable) -> Vec<u32> {
        let text = match to {
            Replayable::Chat(chat) => chat.messages.iter().map(|message| message.content.text()).collect::<String>(),
            Replayable::Completion(_) => panic!("only chats are asked here"),
        };
        text.bytes().map(u32::from).collect()
    }

    #[allow(clippy::unwrap_in_result, reason = "what cannot be is a failed test")]
    fn events(&self, request: InferenceRequest) -> Result<Vec<InferenceEvent>, InferenceError> {
        let done = |input: usize, output: usize| {
            let count = |tokens: usize| u64::try_from(tokens).unwrap();
            InferenceEvent::Done { counts: TokenCounts { input: count(input), cached: 0, output: count(output) } }
        };
        match request.task {
            InferenceTask::Chat(chat) => {
                let sampling = chat.sampling.clone();
                let mut before = Self::prompt(&Replayable::Chat(chat));
                let (prompt, have) = (PromptHash::of(&before), before.len());
                let mut drawer = Drawer::new(&sampling, 0, 0, &before);
                let mut tokens = Vec::new();
                for _ in 0..sampling.max_tokens.unwrap() {
                    let drawn = drawer.draw(&self.logits(&before), &[], None).unwrap();
                    before.push(drawn.token);
                    tokens.push(Claimed { id: drawn.token, likely: drawn.likely });
                }
                let (seed, prompt_tokens) = (sampling.seed.unwrap(), u32::try_from(have).unwrap());
                let transcript = Transcript { seed, choice: 0, prompt, prompt_tokens, tokens };
                let (commitment, output) = (transcript.commitment(), transcript.tokens.len());
                self.kept.lock().unwrap().insert(commitment, transcript);
                Ok(vec![InferenceEvent::Committed { choice: 0, commitment, signature: None }, done(have, output)])
            }
            InferenceTask::Reveal(commitment) if !self.mute => {
                let transcript = self.kept.lock().unwrap()[&commitment].clone();
                Ok(vec![InferenceEvent::Transcript(Box::new(transcript)), done(0, 0)])
            }
            InferenceTask::Replay(replay) => {
                let Replay { to, choice, tokens } = *replay;
                let mut before = Self::prompt(&to);
                let (prompt, prompt_tokens) = (PromptHash::of(&before), u32::try_from(before.len()).unwrap());
                let mut drawer = Drawer::new(to.sampling(), choice, 0, &before);
                let mut rows: Vec<Row> = Vec::new();
                for token in tokens {
                    rows.push(drawer.replay(&self.logits(&before), &[], None, token).unwrap());
                    before.push(token);
                }
                let replayed = Replayed { prompt, prompt_tokens, rows };
                Ok(vec![InferenceEvent::Replayed(Box::new(replayed)), done(before.len(), 0)])
            }
            _ => Err(InferenceError::new(InferenceErrorKind::BadRequest, "it is kept no longer")),
        }
    }
}

impl Engine for Played {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async { Err(NotReady("it is played".to_owned())) })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        let (answering, answer) = answer();
        let events = self
            .events(request)
            .unwrap_or_else(|error| vec![InferenceEvent::Failed { error, counts: TokenCounts::ZERO }]);
        answering.try_send(events).unwrap();
        answer
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

/// Two visits with two witnesses: two thousand tokens at most.
async fn visits(subject: &Played, witness: &Played) -> Account {
    let mut account = Account::default();
    let witnesses: [(NodeId, &dyn Engine); 2] = [1, 2].map(|node| (NodeId([node; 32]), witness as &dyn Engine));
    for at in 0..2 {
        let numbers: Vec<u64> = (0..u64::from(QUESTIONS)).map(|nth| at << 32 | nth << 7).collect();
        let visit = visit(subject, &witnesses, &mut account, &numbers, true, true).await;
        assert_eq!((visit.answered, visit.compared + 2 * visit.hidden), (QUESTIONS, 2 * QUESTIONS));
    }
    account
}

#[tokio::test]
async fn the_honest_are_faithful_and_others_are_found_out() {
    let witness = Played { weights: 5, noise: 1e-4, ..Played::default() };
    let honest = visits(&Played { weights: 5, ..Played::default() }, &witness).await;
    assert_eq!(honest.standing(&LIMITS, |_| true), Standing::Faithful);
    for cheat in [Played { weights: 6, ..Played::default() }, Played { weights: 5, noise: 0.2, ..Played::default() }] {
        let account = visits(&cheat, &witness).await;
        let standing = account.standing(&LIMITS, |_| true);
        assert!(matches!(standing, Standing::Deviates(_)), "{standing:?}");
    }
}

#[tokio::test]
async fn who_does_not_reveal_is_told_from_who_does_not_answer() {
    let witness = Played { weights: 5, ..Played::default() };
    let mute = visits(&Played { weights: 5, mute: true, ..Played::default() }, &witness).await;
    assert!(mute.hides() && mute.standing(&LIMITS, |_| true) == Standing::Unknown);
    // What somebody in between does not pass on says nothing of it.
    let (subject, mut account) = (Played { weights: 5, mute: true, ..Played::default() }, Account::default());
    let witnesses = [(NodeId::ZERO, &witness as &dyn Engine)];
    let seen = visit(&subject, &witnesses, &mut account, &[1, 2, 3, 4], true, false).await;
    assert!(seen.hidden == 4 && !account.hides());
    // Questions of another kind are refused by this engine: that is no fault of its answers.
    let mut account = Account::default();
    let subject = Played::default();
    let visit =
        visit(&subject, &[(NodeId::ZERO, &witness as &dyn Engine)], &mut account, &[1, 2, 3, 4], false, true).await;
    assert_eq!((visit, account.hides()), (Visit::default(), false));
}
