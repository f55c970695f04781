//! The conversation of one proof, from both sides, without sockets or clocks: events and the time go in, effects come out.
//!
//! ```text
//! Checker                                   Container
//!    | challenge (with its commitment) ------->|
//!    |<------------------------- root: render  |
//!    |<------------------------- root: multiply|
//!    |<------------------------- root: fill    |
//!    | walk (seed) --------------------------->|
//!    |<------------------------- root: walk    |
//!    | reveal (nonce) ------------------------>|
//!    |<------------------------- openings      |
//! transcript
//! ```

use serde::{Deserialize, Serialize};

use super::challenge::{Challenge, ChallengeError, Plan, Secrets, Stage};
use super::openings::{Draw, Openings};
use super::transcript::{End, Seal, Timings, Transcript, cut, sealed, walk_seed};
use crate::ids::{ContentHash, NodeId};
use crate::units::TimeMs;

/// What a Checker says, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckerSays {
    /// Begin.
    Challenge(Box<Challenge>),
    /// The pad's root came: walk through it from here.
    Walk {
        /// Where the walks begin.
        seed: [u8; 32],
    },
    /// All roots came: this draws what is opened.
    Reveal {
        /// The nonce that the challenge is committed to.
        nonce: [u8; 32],
    },
}

/// What a Container says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProverSays {
    /// A stage is computed.
    Root {
        /// Which.
        stage: Stage,
        /// Its root.
        root: ContentHash,
    },
    /// What was drawn.
    Openings {
        /// It.
        openings: Box<Openings>,
        /// The Container's signature over [`sealed`]. Whoever receives it checks it and drops the connection when it is
        /// wrong.
        seal: Seal,
    },
    /// The card or its driver failed.
    Broken {
        /// How, a sentence of at most 200 bytes.
        why: String,
    },
}

/// What happens to a Checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckerEvent {
    /// The Container said something.
    Said(ProverSays),
    /// The connection ended.
    Lost,
    /// The time of the last [`CheckerEffect::Wake`] has come.
    Tick,
    /// A way to the Container and back took so long; the shortest counts.
    Latency(u32),
}

/// What a Checker does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckerEffect {
    /// Say this to the Container.
    Say(CheckerSays),
    /// Send [`CheckerEvent::Tick`] at this time; a later one replaces an earlier one.
    Wake(TimeMs),
    /// It is over; nothing that happens later matters. [`Transcript::verify`] judges it.
    Done(Box<Transcript>),
}

/// The Checker's side.
#[derive(Clone, Debug)]
pub struct Checker {
    challenge: Challenge,
    plan: Plan,
    secrets: Secrets,
    roots: Vec<ContentHash>,
    walk_seed: [u8; 32],
    timings: Timings,
    /// When the present stage began.
    began: TimeMs,
    over: bool,
}

impl Checker {
    /// Begins: say the challenge, and wake for the first deadline.
    ///
    /// # Errors
    /// [`ChallengeError`] for a challenge that nobody can compute, or that is not committed to these secrets.
    pub fn begin(
        challenge: Challenge,
        secrets: Secrets,
        now: TimeMs,
    ) -> Result<(Self, Vec<CheckerEffect>), ChallengeError> {
        challenge.check()?;
        if secrets.commitment() != challenge.commitment {
            return Err(ChallengeError::Commitment);
        }
        let (plan, _) = challenge.plan();
        let say = CheckerEffect::Say(CheckerSays::Challenge(Box::new(challenge.clone())));
        let checker = Self {
            challenge,
            plan,
            secrets,
            roots: Vec::new(),
            walk_seed: [0; 32],
            timings: Timings { latency_ms: u32::MAX, stage_ms: [0; 4] },
            began: now,
            over: false,
        };
        let wake = checker.wake();
        Ok((checker, vec![say, wake]))
    }

    /// The stage whose root is awaited; `None` after the draw.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        Stage::ALL.get(self.roots.len()).copied()
    }

    /// What happens when something happened.
    pub fn handle(&mut self, event: CheckerEvent, now: TimeMs) -> Vec<CheckerEffect> {
        if self.over {
            return Vec::new();
        }
        match event {
            CheckerEvent::Latency(ms) => {
                self.timings.latency_ms = self.timings.latency_ms.min(ms);
                Vec::new()
            }
            CheckerEvent::Said(ProverSays::Root { stage, root }) => self.root(stage, root, now),
            CheckerEvent::Said(ProverSays::Openings { openings, seal }) => match self.stage() {
                // What comes after its time is what a stalling prover sends.
                None if now > self.deadline() => self.done(None, End::Silent { stage: None }),
                None => self.done(Some((*openings, seal)), End::Opened),
                Some(stage) => self.stray(&format!("openings instead of the root of {stage}")),
            },
            CheckerEvent::Said(ProverSays::Broken { why }) => {
                let end = End::Broken { stage: self.stage(), why: cut(&why) };
                self.done(None, end)
            }
            CheckerEvent::Lost => self.done(None, End::Lost { stage: self.stage() }),
            CheckerEvent::Tick if now > self.deadline() => self.done(None, End::Silent { stage: self.stage() }),
            CheckerEvent::Tick => vec![self.wake()],
        }
    }

    fn root(&mut self, stage: Stage, root: ContentHash, now: TimeMs) -> Vec<CheckerEffect> {
        if self.stage() != Some(stage) {
            return self.stray(&format!("a root of {stage} out of turn"));
        }
        let took = u32::try_from(now.since(self.began)).unwrap_or(u32::MAX);
        self.timings.stage_ms[stage.index()] = took;
        self.roots.push(root);
        if stage == Stage::Fill {
            self.walk_seed = walk_seed(&self.secrets, &self.plan.seed, &root);
        }
        if took > self.plan.deadline_ms[stage.index()] {
            // Its lateness is in the times; the rest would change nothing.
            return self.done(None, End::Opened);
        }
        self.began = now;
        let mut effects = Vec::new();
        match stage {
            Stage::Render | Stage::Multiply => {}
            Stage::Fill => effects.push(CheckerEffect::Say(CheckerSays::Walk { seed: self.walk_seed })),
            Stage::Walk => effects.push(CheckerEffect::Say(CheckerSays::Reveal { nonce: self.secrets.nonce })),
        }
        effects.push(self.wake());
        effects
    }

    fn deadline(&self) -> TimeMs {
        let ms = self.stage().map_or(self.challenge.scale.opening_ms, |stage| self.plan.deadline_ms[stage.index()]);
        self.began.plus(ms.into())
    }

    /// A millisecond after the deadline: what comes at the deadline is in time.
    fn wake(&self) -> CheckerEffect {
        CheckerEffect::Wake(self.deadline().plus(1))
    }

    fn stray(&mut self, what: &str) -> Vec<CheckerEffect> {
        self.done(None, End::Protocol { what: what.to_owned() })
    }

    fn done(&mut self, opened: Option<(Openings, Seal)>, end: End) -> Vec<CheckerEffect> {
        self.over = true;
        let mut timings = self.timings;
        if timings.latency_ms == u32::MAX {
            timings.latency_ms = 0;
        }
        let (openings, seal) = opened.unzip();
        vec![CheckerEffect::Done(Box::new(Transcript {
            challenge: self.challenge.clone(),
            roots: self.roots.clone(),
            walk_seed: self.walk_seed,
            timings,
            secrets: self.secrets,
            openings,
            seal,
            end,
        }))]
    }
}

/// What happens to a prover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProverEvent {
    /// The Checker said something.
    Said(CheckerSays),
    /// [`ProverEffect::Compute`] is done.
    Computed {
        /// Which stage.
        stage: Stage,
        /// Its root.
        root: ContentHash,
    },
    /// [`ProverEffect::Open`] is done.
    Opened {
        /// What was drawn.
        openings: Box<Openings>,
        /// The node key's signature over [`Prover::digest`].
        seal: Seal,
    },
    /// The card, its driver or the prover's process failed.
    Failed {
        /// How, a sentence.
        why: String,
    },
}

/// What a prover does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProverEffect {
    /// Compute a stage, then tell [`ProverEvent::Computed`].
    Compute {
        /// Which.
        stage: Stage,
        /// Where walks begin; zero for other stages.
        walk_seed: [u8; 32],
    },
    /// Open what this draws, sign [`Prover::digest`] of it, then tell [`ProverEvent::Opened`].
    Open(Box<Draw>),
    /// Say this to the Checker.
    Say(ProverSays),
    /// It is over: end the work and the connection.
    Done {
        /// What the Checker did wrong, where it did.
        refused: Option<String>,
    },
}

/// The Container's side.
#[derive(Clone, Debug)]
pub struct Prover {
    challenge: Challenge,
    plan: Plan,
    roots: Vec<ContentHash>,
    walk_seed: Option<[u8; 32]>,
    over: bool,
}

impl Prover {
    /// Takes a challenge, if it is one for this Container that can be computed, and begins with the first stage.
    ///
    /// # Errors
    /// [`ChallengeError`].
    pub fn begin(challenge: &Challenge, own: &NodeId) -> Result<(Self, Vec<ProverEffect>), ChallengeError> {
        challenge.check()?;
        if challenge.container != *own {
            return Err(ChallengeError::Container { got: challenge.container });
        }
        let (plan, _) = challenge.plan();
        let first = ProverEffect::Compute { stage: Stage::Render, walk_seed: [0; 32] };
        let prover = Self { challenge: challenge.clone(), plan, roots: Vec::new(), walk_seed: None, over: false };
        Ok((prover, vec![first]))
    }

    /// The work.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the node key signs when everything is opened.
    #[must_use]
    pub fn digest(&self, openings: &Openings) -> [u8; 32] {
        sealed(&self.challenge, &self.roots, &self.walk_seed.unwrap_or_default(), openings)
    }

    /// What happens when something happened.
    pub fn handle(&mut self, event: ProverEvent) -> Vec<ProverEffect> {
        if self.over {
            return Vec::new();
        }
        let waits_for_walk = self.roots.len() == Stage::Walk.index() && self.walk_seed.is_none();
        match event {
            ProverEvent::Said(CheckerSays::Walk { seed }) if waits_for_walk => {
                self.walk_seed = Some(seed);
                vec![ProverEffect::Compute { stage: Stage::Walk, walk_seed: seed }]
            }
            ProverEvent::Said(CheckerSays::Reveal { nonce }) if self.roots.len() == Stage::ALL.len() => {
                vec![ProverEffect::Open(Box::new(Draw::new(&self.plan, &nonce, &self.roots)))]
            }
            ProverEvent::Said(_) => self.end(Some("the Checker spoke out of turn".to_owned())),
            ProverEvent::Computed { stage, root } if Stage::ALL.get(self.roots.len()) == Some(&stage) => {
                self.roots.push(root);
                let say = ProverEffect::Say(ProverSays::Root { stage, root });
                match Stage::ALL.get(self.roots.len()) {
                    Some(next @ (Stage::Multiply | Stage::Fill)) => {
                        vec![say, ProverEffect::Compute { stage: *next, walk_seed: [0; 32] }]
                    }
                    _ => vec![say],
                }
            }
            ProverEvent::Computed { stage, .. } => self.fail(&format!("{stage} was computed out of turn")),
            ProverEvent::Opened { openings, seal } => {
                let mut effects = vec![ProverEffect::Say(ProverSays::Openings { openings, seal })];
                effects.extend(self.end(None));
                effects
            }
            ProverEvent::Failed { why } => self.fail(&why),
        }
    }

    fn fail(&mut self, why: &str) -> Vec<ProverEffect> {
        let mut effects = vec![ProverEffect::Say(ProverSays::Broken { why: cut(why) })];
        effects.extend(self.end(None));
        effects
    }

    fn end(&mut self, refused: Option<String>) -> Vec<ProverEffect> {
        self.over = true;
        vec![ProverEffect::Done { refused }]
    }
}
