//! The thread that owns a model that places texts in the space of meanings.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, TryRecvError};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use muster_core::inference::{
    InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, Prompt, TokenCounts,
};

use super::model::{Loaded, token};
use super::{Gone, Mouth};
use crate::protocol::{FromEngine, ToEngine};

struct Job {
    id: u64,
    /// Texts that are not placed, with their tokens.
    inputs: VecDeque<(u32, Vec<u32>)>,
    dimensions: usize,
    counts: TokenCounts,
    began: bool,
}

/// A model that places texts.
pub(super) struct Embedder<'m> {
    loaded: &'m Loaded<'m>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    jobs: VecDeque<Job>,
    room: usize,
    parallel: usize,
}

impl<'m> Embedder<'m> {
    pub(super) fn new(loaded: &'m Loaded<'m>, context: LlamaContext<'m>) -> Self {
        let room = usize::try_from(loaded.info.context).unwrap_or(0);
        let parallel = usize::try_from(loaded.info.parallel).unwrap_or(1);
        Self { loaded, context, batch: LlamaBatch::new(room, 1), jobs: VecDeque::new(), room, parallel }
    }

    /// Answers until it is told to stop.
    pub(super) fn run(mut self, messages: &Receiver<ToEngine>, mouth: &mut Mouth) -> Result<(), Gone> {
        loop {
            let message = if self.jobs.is_empty() {
                messages.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                messages.try_recv()
            };
            match message {
                Ok(ToEngine::Ask { id, request }) => match self.job(id, &request) {
                    Ok(job) => self.jobs.push_back(job),
                    Err(error) => {
                        let counts = TokenCounts::ZERO;
                        let events = vec![InferenceEvent::Failed { error, counts }];
                        mouth.say(&FromEngine::Events { id, events, counts })?;
                    }
                },
                Ok(ToEngine::Cancel { id }) => {
                    if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
                        job.inputs.clear();
                        self.done(mouth)?;
                    }
                }
                Ok(ToEngine::Load(_)) => {}
                Ok(ToEngine::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => self.step(mouth)?,
            }
        }
    }

    fn job(&self, id: u64, request: &InferenceRequest) -> Result<Job, InferenceError> {
        let InferenceTask::Embedding(embedding) = &request.task else {
            let why = "this model gives embeddings and does not write; ask one for answers that was deployed for them";
            return Err(InferenceError::new(InferenceErrorKind::Unsupported, why).of("model"));
        };
        let has = self.loaded.info.dimensions;
        let dimensions = embedding.dimensions.unwrap_or(has);
        if dimensions > has {
            let why = format!("dimensions is {dimensions}; this model gives {has}");
            return Err(InferenceError::new(InferenceErrorKind::BadRequest, why).of("dimensions"));
        }
        let mut inputs = VecDeque::new();
        for (index, input) in (0u32..).zip(&embedding.inputs) {
            let tokens = match input {
                Prompt::Text(text) => self.loaded.tokenize(text),
                Prompt::Tokens(tokens) => tokens.clone(),
            };
            if let Some(unknown) = tokens.iter().find(|token| **token >= self.loaded.tokens) {
                let why = format!("text {index} holds token {unknown}; the model has {}, from 0", self.loaded.tokens);
                return Err(InferenceError::new(InferenceErrorKind::BadRequest, why).of("input"));
            }
            if tokens.is_empty() || tokens.len() > self.room {
                let why = format!("text {index} has {} tokens; this model takes from 1 to {}", tokens.len(), self.room);
                return Err(InferenceError::new(InferenceErrorKind::ContextOverflow, why).of("input"));
            }
            inputs.push_back((index, tokens));
        }
        let dimensions = usize::try_from(dimensions).unwrap_or(0);
        Ok(Job { id, inputs, dimensions, counts: TokenCounts::ZERO, began: false })
    }

    /// Places as many texts as fit, the oldest first.
    fn step(&mut self, mouth: &mut Mouth) -> Result<(), Gone> {
        self.batch.clear();
        self.context.clear_kv_cache();
        let mut taken: Vec<(usize, u32, usize)> = Vec::new();
        let mut room = self.room;
        'all: for (nth, job) in self.jobs.iter_mut().enumerate() {
            while let Some((index, tokens)) = job.inputs.front() {
                if tokens.len() > room || taken.len() == self.parallel {
                    break 'all;
                }
                let sequence = i32::try_from(taken.len()).unwrap_or(0);
                for (position, number) in (0i32..).zip(tokens) {
                    let added = self.batch.add(token(*number), position, &[sequence], true);
                    added.map_err(|error| Gone(format!("a step is too long: {error}")))?;
                }
                room -= tokens.len();
                taken.push((nth, *index, tokens.len()));
                job.inputs.pop_front();
            }
        }
        self.context.decode(&mut self.batch).map_err(|error| Gone(format!("llama.cpp failed at a step: {error}")))?;
        for (sequence, (nth, index, tokens)) in (0i32..).zip(taken) {
            let numbers = self.context.embeddings_seq_ith(sequence);
            let numbers = numbers.map_err(|_| {
                Gone("the model has no way to make one place of a text's tokens; say how by pooling".to_owned())
            })?;
            let Some(job) = self.jobs.get_mut(nth) else { continue };
            let vector = normal(numbers.get(..job.dimensions).unwrap_or(numbers));
            job.counts.input += u64::try_from(tokens).unwrap_or(u64::MAX);
            let mut events = Vec::new();
            if !job.began {
                job.began = true;
                events.push(InferenceEvent::Began { counts: job.counts });
            }
            events.push(InferenceEvent::Embedding { index, vector });
            mouth.say(&FromEngine::Events { id: job.id, events, counts: job.counts })?;
        }
        self.done(mouth)
    }

    fn done(&mut self, mouth: &mut Mouth) -> Result<(), Gone> {
        for job in self.jobs.iter().filter(|job| job.inputs.is_empty()) {
            let events = vec![InferenceEvent::Done { counts: job.counts }];
            mouth.say(&FromEngine::Events { id: job.id, events, counts: job.counts })?;
        }
        self.jobs.retain(|job| !job.inputs.is_empty());
        Ok(())
    }
}

/// The same direction, of length 1.
fn normal(numbers: &[f32]) -> Vec<f32> {
    let length = numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    // A length of numbers that fit.
    #[allow(clippy::cast_possible_truncation, reason = "a ratio from -1 to 1")]
    let scaled = |number: &f32| if length > 0.0 { (f64::from(*number) / length) as f32 } else { 0.0 };
    numbers.iter().map(scaled).collect()
}
