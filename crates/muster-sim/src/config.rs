//! What kind of world a seed makes.

use muster_core::params::Params;

use crate::rng::Rng;

/// A world before it begins. `World::new` draws everything else from the seed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Everything follows from it.
    pub seed: u64,
    /// Containers.
    pub containers: usize,
    /// Indexers.
    pub indexers: usize,
    /// Consumers.
    pub consumers: usize,
    /// Tasks that each consumer wants done.
    pub tasks_each: u32,
    /// Virtual milliseconds in which faults happen and work arrives.
    pub busy_ms: u64,
    /// Virtual milliseconds after that, without faults, in which everything must come to its end.
    pub calm_ms: u64,
    /// Of a hundred tasks, so many are live sessions, whose workload may begin before its deposit is seen.
    pub sessions_percent: u64,
    /// Of a hundred tasks, so many are models, whose tokens are paid.
    pub models_percent: u64,
    /// Faults.
    pub faults: Faults,
    /// One planned crash.
    pub crash: Option<CrashAt>,
    /// The network's parameters.
    pub params: Params,
}

/// A role, for planned crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// The chain's node.
    Chain,
    /// Any Indexer.
    Indexer,
    /// Any Container.
    Container,
    /// Any consumer.
    Consumer,
}

impl RoleKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chain, Self::Indexer, Self::Container, Self::Consumer];
}

/// A crash at one exact place: just before the role performs its n-th effect, which is just after it has performed
/// the one before. The chain performs what it is asked; its answer is lost when it dies after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashAt {
    /// Whose.
    pub role: RoleKind,
    /// Which effect of all nodes of that role, from 0.
    pub effect: u64,
}

/// How bad the world is; chances in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A message between nodes or with the chain is lost.
    pub loss_ppm: u32,
    /// It arrives twice.
    pub duplicate_ppm: u32,
    /// A control stream breaks with a message.
    pub break_ppm: u32,
    /// A process dies between two effects.
    pub crash_ppm: u32,
    /// A Container that dies does so for good.
    pub burn_ppm: u32,
    /// The least and the greatest one-way delay.
    pub delay_ms: (u64, u64),
    /// How long an opening waits for its block at least and at most; whatever is sent later may overtake it. Other
    /// transactions do not wait: the challenge window of this world is seconds long, and would be over.
    pub chain_ms: (u64, u64),
    /// The chain refuses the opening of a lease.
    pub refused_ppm: u32,
    /// Nodes are cut off from the others every so often; 0 for never.
    pub partition_every_ms: u64,
    /// How far clocks are off at most.
    pub skew_ms: u64,
    /// Of a hundred Containers, so many lie about the time that ran.
    pub lying_containers: u64,
    /// Of a hundred consumers, so many do not sign what they owe, and pay only every other deposit.
    pub lying_consumers: u64,
    /// Of a hundred Indexers, so many change the terms.
    pub lying_indexers: u64,
}

impl Faults {
    /// A world where everything works.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            loss_ppm: 0,
            duplicate_ppm: 0,
            break_ppm: 0,
            crash_ppm: 0,
            burn_ppm: 0,
            delay_ms: (1, 5),
            chain_ms: (0, 0),
            refused_ppm: 0,
            partition_every_ms: 0,
            skew_ms: 0,
            lying_containers: 0,
            lying_consumers: 0,
            lying_indexers: 0,
        }
    }

    /// Whether nothing goes wrong by itself.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Faults drawn from a seed: from friendly worlds to awful ones.
    #[must_use]
    pub fn drawn(rng: &mut Rng) -> Self {
        let mut ppm = |max: u64| {
            let part = rng.below(4);
            u32::try_from(rng.below(max * part / 3 + 1)).unwrap_or(0)
        };
        let (loss_ppm, duplicate_ppm, break_ppm, crash_ppm) = (ppm(100_000), ppm(50_000), ppm(30_000), ppm(8_000));
        Self {
            loss_ppm,
            duplicate_ppm,
            break_ppm,
            crash_ppm,
            burn_ppm: if rng.chance(500_000) { 150_000 } else { 0 },
            delay_ms: (1, 1 + rng.below(200)),
            partition_every_ms: if rng.chance(500_000) { 5_000 + rng.below(60_000) } else { 0 },
            skew_ms: rng.below(3_600_000),
            lying_containers: rng.below(30),
            lying_consumers: rng.below(30),
            lying_indexers: rng.below(50),
            chain_ms: match rng.below(4) {
                0 => (0, 0),
                1 => (0, 100),
                2 => (200, 2_000),
                _ => (0, 14_000),
            },
            refused_ppm: if rng.chance(500_000) { 100_000 } else { 0 },
        }
    }
}

impl Config {
    /// The world of a seed: a size, a load and faults.
    #[must_use]
    pub fn drawn(seed: u64, hours: u64) -> Self {
        let mut rng = Rng::new(seed);
        let big = rng.chance(20_000);
        let containers = if big { 200 + rng.below(1_000) } else { 1 + rng.below(40) };
        let consumers = 1 + rng.below(if big { 60 } else { 12 });
        Self {
            seed,
            containers: usize::try_from(containers).unwrap_or(1),
            indexers: usize::try_from(1 + rng.below(4)).unwrap_or(1),
            consumers: usize::try_from(consumers).unwrap_or(1),
            tasks_each: u32::try_from(1 + rng.below(6) + hours.saturating_mul(4)).unwrap_or(u32::MAX),
            busy_ms: 60_000 + hours.saturating_mul(3_600_000),
            calm_ms: 240_000,
            faults: Faults::drawn(&mut rng),
            sessions_percent: rng.below(101),
            models_percent: if rng.chance(700_000) { rng.below(101) } else { 0 },
            crash: None,
            params: Params {
                settle_grace_ms: 4_000,
                close_patience_ms: 10_000,
                keep_outputs_ms: 60_000,
                early_start_ms: match rng.below(4) {
                    0 => 0,
                    1 => 1_500,
                    2 => 4_000,
                    _ => 10_000,
                },
                ..Params::development()
            },
        }
    }
}
