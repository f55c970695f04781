//! The thread that owns a model that writes.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use muster_core::inference::audit::{Claimed, Commitment, Replayed, Row, TRANSCRIPT_TOKENS_MAX, Transcript};
use muster_core::inference::{
    Finish, InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, TokenCounts,
    TokenLogprob,
};

use super::ask::{Answer, answers};
use super::model::{BATCH, Loaded, number, token};
use super::{Gone, Mouth};
use crate::protocol::{FromEngine, ToEngine};
use crate::scheduler::{Ask, Candidate, Entry, Kept, NoToken, Piece, Placement, Slots};

/// A request that is being answered.
#[derive(Default)]
struct Open {
    stream: bool,
    counts: TokenCounts,
    /// Answers that are not complete.
    left: usize,
    began: bool,
    /// What was not told yet.
    events: Vec<InferenceEvent>,
    over: bool,
}

type Key = (u64, u32);

/// A model that draws.
pub(super) struct Drawing<'m> {
    loaded: &'m Loaded<'m>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    slots: Slots,
    /// Who has which place.
    placed: Vec<Option<Key>>,
    /// What each of them remembered, until its prompt is read.
    remembered: Vec<usize>,
    answers: BTreeMap<Key, Answer>,
    requests: BTreeMap<u64, Open>,
    kept: Kept,
}

impl<'m> Drawing<'m> {
    pub(super) fn new(loaded: &'m Loaded<'m>, context: LlamaContext<'m>) -> Result<Self, Gone> {
        let count = usize::try_from(loaded.info.parallel).map_err(|error| Gone(error.to_string()))?;
        let size = usize::try_from(BATCH).unwrap_or(512).max(count);
        Ok(Self {
            loaded,
            context,
            batch: LlamaBatch::new(size, 1),
            slots: Slots::new(count, size),
            placed: vec![None; count],
            remembered: vec![0; count],
            answers: BTreeMap::new(),
            requests: BTreeMap::new(),
            kept: Kept::default(),
        })
    }

    /// Answers until it is told to stop.
    pub(super) fn run(mut self, messages: &Receiver<ToEngine>, mouth: &mut Mouth) -> Result<(), Gone> {
        loop {
            let message = if self.slots.is_idle() {
                messages.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                messages.try_recv()
            };
            match message {
                Ok(ToEngine::Ask { id, request }) => self.ask(id, &request),
                Ok(ToEngine::Cancel { id }) => self.cancel(id),
                Ok(ToEngine::Load(_)) => {}
                Ok(ToEngine::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => self.step()?,
            }
            self.tell(mouth)?;
        }
    }

    fn ask(&mut self, id: u64, request: &InferenceRequest) {
        let mut open = Open { stream: request.stream, ..Open::default() };
        if let InferenceTask::Reveal(commitment) = &request.task {
            open.events = self.reveal(commitment);
            open.over = true;
            self.requests.insert(id, open);
            return;
        }
        match answers(self.loaded, request) {
            Ok(all) => {
                open.left = all.len();
                for (choice, answer) in (0u32..).zip(all) {
                    let (prompt, draws_from) = (answer.prompt.clone(), answer.draws_from());
                    self.slots.wait(Ask { request: id, choice, prompt, draws_from });
                    self.answers.insert((id, choice), answer);
                }
            }
            Err(error) => {
                open.events.push(InferenceEvent::Failed { error, counts: TokenCounts::ZERO });
                open.over = true;
            }
        }
        self.requests.insert(id, open);
    }

    fn reveal(&self, commitment: &Commitment) -> Vec<InferenceEvent> {
        let counts = TokenCounts::ZERO;
        match self.kept.get(commitment) {
            Some(transcript) => {
                vec![InferenceEvent::Transcript(Box::new(transcript.clone())), InferenceEvent::Done { counts }]
            }
            None => {
                let why = "no transcript of this name is kept; ask sooner after the answer";
                let error = InferenceError::new(InferenceErrorKind::BadRequest, why).of("commitment");
                vec![InferenceEvent::Failed { error, counts }]
            }
        }
    }

    fn cancel(&mut self, id: u64) {
        if let Some(open) = self.requests.get_mut(&id).filter(|open| !open.over) {
            open.events.push(InferenceEvent::Done { counts: open.counts });
            open.over = true;
            self.leave(id);
        }
    }

    /// Nothing more is drawn for a request.
    fn leave(&mut self, id: u64) {
        self.slots.leave(id);
        for (slot, key) in self.placed.iter_mut().enumerate() {
            if key.is_some_and(|(request, _)| request == id) {
                *key = None;
                self.slots.free(slot);
            }
        }
        self.answers.retain(|(request, _), _| *request != id);
    }

    fn fail(&mut self, id: u64, error: InferenceError) {
        if let Some(open) = self.requests.get_mut(&id) {
            open.events.push(InferenceEvent::Failed { error, counts: open.counts });
            open.over = true;
        }
        self.leave(id);
    }

    /// Tells what is to be told.
    fn tell(&mut self, mouth: &mut Mouth) -> Result<(), Gone> {
        for (id, open) in &mut self.requests {
            let first = open.began && matches!(open.events.first(), Some(InferenceEvent::Began { .. }));
            if !open.events.is_empty() && (open.stream || open.over || first) {
                let events = std::mem::take(&mut open.events);
                mouth.say(&FromEngine::Events { id: *id, events, counts: open.counts })?;
            }
        }
        self.requests.retain(|_, open| !open.over);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Gone> {
        while let Some(placement) = self.slots.place() {
            self.place(&placement);
        }
        let step = self.slots.step();
        if step.is_empty() {
            return Ok(());
        }
        self.batch.clear();
        for entry in &step {
            let place = (i32::try_from(entry.position), i32::try_from(entry.slot));
            let (Ok(position), Ok(slot)) = place else { return Err(Gone("a context beyond all numbers".to_owned())) };
            let added = self.batch.add(token(entry.token), position, &[slot], entry.draws);
            added.map_err(|error| Gone(format!("a step is too long: {error}")))?;
        }
        self.context.decode(&mut self.batch).map_err(|error| Gone(format!("llama.cpp failed at a step: {error}")))?;
        self.slots.done(&step);
        for (at, entry) in (0i32..).zip(&step).filter(|(_, entry)| entry.draws) {
            self.draw(at, entry);
        }
        Ok(())
    }

    /// Prepares the memory of a place.
    fn place(&mut self, placement: &Placement) {
        let (slot, remembered) = (placement.slot, placement.remembered);
        let mut kept = remembered.tokens;
        let sequence = u32::try_from(slot).ok();
        if kept > 0 {
            let whole = self.loaded.model.is_recurrent() || self.loaded.model.is_hybrid();
            let copied = match remembered.from.map(|from| (i32::try_from(from), i32::try_from(slot))) {
                _ if whole => false,
                Some((Ok(from), Ok(slot))) => self.context.copy_kv_cache_seq(from, slot, None, None).is_ok(),
                Some(_) => false,
                None => true,
            };
            let from = u32::try_from(kept).ok();
            if !(copied && self.context.clear_kv_cache_seq(sequence, from, None).unwrap_or(false)) {
                self.slots.forget(slot);
                kept = 0;
            }
        }
        if kept == 0 {
            // All of a sequence can always be removed.
            let _ = self.context.clear_kv_cache_seq(sequence, None, None);
        }
        if let Some(place) = self.placed.get_mut(slot) {
            *place = Some((placement.request, placement.choice));
        }
        if let Some(place) = self.remembered.get_mut(slot) {
            *place = kept;
        }
    }

    /// Draws the next token of the answer in a place.
    fn draw(&mut self, at: i32, entry: &Entry) {
        let Some(key) = self.placed.get(entry.slot).copied().flatten() else { return };
        let (Some(answer), Some(open)) = (self.answers.get_mut(&key), self.requests.get_mut(&key.0)) else { return };
        if entry.position == answer.draws_from() {
            if answer.counts_prompt {
                let cached = self.remembered.get(entry.slot).copied().unwrap_or(0);
                let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
                open.counts.input += count(answer.prompt.len());
                open.counts.cached += count(cached);
            }
            if !open.began {
                open.began = true;
                open.events.push(InferenceEvent::Began { counts: TokenCounts { output: 0, ..open.counts } });
            }
            if let Some(echo) = answer.echo.take() {
                open.events.push(answer.writer.echo(echo));
            }
        }
        let logits = self.context.get_logits_ith(at);
        if answer.replay.is_some() {
            let rows = replay(self.loaded, answer, logits);
            return self.replayed(key, entry.slot, rows);
        }
        let held = answer.grammar.as_mut().filter(|_| !answer.writer.is_thinking());
        let drawn = match held {
            Some(grammar) => {
                let drawn = answer.drawer.draw(logits, &self.loaded.ends, Some(&mut |all| allow(grammar, all)));
                drawn.and_then(|drawn| {
                    grammar.try_accept(token(drawn.token)).map_err(|_| NoToken)?;
                    Ok(drawn)
                })
            }
            None => answer.drawer.draw(logits, &self.loaded.ends, None),
        };
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(error) => {
                return self.fail(key.0, no_token(&error));
            }
        };
        if answer.transcript.tokens.len() < TRANSCRIPT_TOKENS_MAX {
            answer.transcript.tokens.push(Claimed { id: drawn.token, likely: drawn.likely });
        }
        open.counts.output += 1;
        let before = open.events.len();
        let finished = if self.loaded.ends.binary_search(&drawn.token).is_ok() {
            open.events.extend(answer.writer.end(Finish::Stop));
            true
        } else {
            let logprob = drawn.logprob.map(|(logprob, top)| TokenLogprob {
                id: drawn.token,
                bytes: self.loaded.bytes(drawn.token),
                logprob,
                top: top.into_iter().map(|(token, logprob)| (token, self.loaded.bytes(token), logprob)).collect(),
            });
            let (events, finish) = answer.writer.push(Piece { bytes: self.loaded.says(drawn.token), logprob });
            open.events.extend(events);
            finish.is_some()
        };
        if !finished {
            return self.slots.drew(entry.slot, drawn.token);
        }
        // A commitment comes before the end that it is to.
        let finish = open.events.iter().skip(before).position(|event| matches!(event, InferenceEvent::Finished { .. }));
        if let (Some(finish), Some(answer)) = (finish, self.answers.remove(&key)) {
            let commitment = self.kept.keep(answer.transcript);
            open.events
                .insert(before + finish, InferenceEvent::Committed { choice: key.1, commitment, signature: None });
        }
        self.complete(key, entry.slot);
    }

    /// An answer is at its end.
    fn complete(&mut self, key: Key, slot: usize) {
        if let Some(open) = self.requests.get_mut(&key.0) {
            open.left -= 1;
            if open.left == 0 {
                open.events.push(InferenceEvent::Done { counts: open.counts });
                open.over = true;
            }
        }
        self.answers.remove(&key);
        self.slots.free(slot);
        if let Some(place) = self.placed.get_mut(slot) {
            *place = None;
        }
    }

    /// A token was drawn again; with the last one all is told.
    fn replayed(&mut self, key: Key, slot: usize, rows: Result<Option<Vec<Row>>, NoToken>) {
        match rows {
            Ok(None) => {}
            Ok(Some(rows)) => {
                if let (Some(answer), Some(open)) = (self.answers.get(&key), self.requests.get_mut(&key.0)) {
                    let Transcript { prompt, prompt_tokens, .. } = answer.transcript;
                    let replayed = Replayed { prompt, prompt_tokens, rows };
                    open.events.push(InferenceEvent::Replayed(Box::new(replayed)));
                }
                self.complete(key, slot);
            }
            Err(error) => self.fail(key.0, no_token(&error)),
        }
    }
}

fn no_token(error: &NoToken) -> InferenceError {
    InferenceError::new(InferenceErrorKind::BadRequest, error.to_string()).of("response_format")
}

/// Draws the next token of an answer that is replayed; all rows with the last one.
fn replay(loaded: &Loaded<'_>, answer: &mut Answer, logits: &[f32]) -> Result<Option<Vec<Row>>, NoToken> {
    let Answer { drawer, writer, grammar, replay: Some(replaying), .. } = answer else { return Ok(None) };
    let Some(claimed) = replaying.next() else { return Ok(None) };
    let held = grammar.as_mut().filter(|_| !writer.is_thinking());
    let row = match held {
        Some(sampler) => {
            let row = drawer.replay(logits, &loaded.ends, Some(&mut |all| allow(sampler, all)), claimed)?;
            // llama.cpp ends the process where it is given a token that breaks the form, so it is asked first. Such a token
            // has no place in it: what follows is looked at without.
            let mut one = vec![(claimed, 0.0)];
            allow(sampler, &mut one);
            let fits = one.first().is_some_and(|(_, logit)| logit.is_finite());
            if !(fits && sampler.try_accept(token(claimed)).is_ok()) {
                *grammar = None;
            }
            row
        }
        None => drawer.replay(logits, &loaded.ends, None, claimed)?,
    };
    // Only whether it thinks is asked of the writer.
    writer.push(Piece { bytes: loaded.says(claimed), logprob: None });
    replaying.push(row);
    Ok(replaying.whole())
}

/// Asks a grammar about tokens.
fn allow(grammar: &mut LlamaSampler, all: &mut Vec<Candidate>) {
    let data = all.iter().map(|(id, logit)| LlamaTokenData::new(token(*id), *logit, 0.0)).collect();
    let mut data = LlamaTokenDataArray::new(data, false);
    grammar.apply(&mut data);
    *all = data.data.iter().map(|one| (number(one.id()), one.logit())).collect();
}
