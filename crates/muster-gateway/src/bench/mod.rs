//! What a Gateway costs, measured from outside: `muster bench gateway`.
//!
//! A Gateway in a process of its own answers chats over a played model that answers at once: one time behind the OpenAI API
//! on loopback, as a provider's own engine is asked, one time in the Gateway's process. Other servers that stand before the
//! same played model ([`Peer`]) are measured in turn with it. Keys, limits, budgets and counts are those of every Gateway, and
//! in the end what it has written down must be what came, to the token.
//!
//! | module | does |
//! | --- | --- |
//! | `load` | asks |
//! | `upstream` | answers at once |
//! | `server` | the Gateway's process |
//! | `figures` | what came of it |

mod figures;
mod load;
mod server;
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::process::Command;

use self::figures::PLAYED;
pub use self::figures::{Figures, Round, Way};
use self::load::{Load, aside, at_once, in_turn};
pub use self::server::serve;
use self::server::{Server, metered};
use self::upstream::Upstream;

/// Before the clock runs.
const WARM: Duration = Duration::from_millis(500);
/// Single requests before those that are timed.
const WARM_REQUESTS: u64 = 200;
/// Whoever answers fewer requests a second is not asked for streams: it would be for minutes.
const STREAMS_FROM: f64 = 1_000.0;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The system fails.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// An answer that is none.
    #[error("{0}; stop what else answers there, or ask for less")]
    Load(String),
    /// The Gateway fails.
    #[error("the Gateway that is measured: {0}")]
    Gateway(String),
    /// What was counted is not what came.
    #[error("the Gateway counted {requests} requests and {tokens} tokens, and {came_requests} and {came_tokens} came")]
    Miscounted {
        /// Requests that it wrote down.
        requests: u64,
        /// Tokens of answers that it wrote down.
        tokens: u64,
        /// Requests that were answered.
        came_requests: u64,
        /// Tokens that came.
        came_tokens: u64,
    },
    /// A peer that cannot be understood.
    #[error("{0:?} is no peer: write NAME=HOST:PORT, with KEY@ before the host where it wants a key")]
    Peer(String),
    /// A plan that cannot be carried out.
    #[error("--{0} must be above zero")]
    Zero(&'static str),
}

/// Another server before the same played model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// Where it serves `/v1`.
    pub at: SocketAddr,
    /// Its key, where it wants one.
    pub key: Option<String>,
}

impl FromStr for Peer {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, BenchError> {
        let wrong = || BenchError::Peer(text.to_owned());
        let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        let (key, at) = match rest.rsplit_once('@') {
            Some((key, at)) => (Some(key.to_owned()), at),
            None => (None, rest),
        };
        Ok(Self { name: name.to_owned(), at: at.parse().map_err(|_| wrong())?, key })
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds; every way is measured once in each, in turn.
    pub rounds: usize,
    /// How long each measurement of a round runs.
    pub ran: Duration,
    /// Connections that ask for whole answers.
    pub connections: usize,
    /// Connections that ask for streamed answers.
    pub streams: usize,
    /// Tokens of a streamed answer.
    pub tokens: u64,
    /// Whether the played model sends each token by itself, in turn with those of all other streams, as an engine does that
    /// draws one for each answer at a time; otherwise whatever is taken at once.
    pub apart: bool,
    /// Where the played model listens, so that peers can be told before; 0 for any port.
    pub upstream_port: u16,
    /// Who is measured in turn with the Gateway.
    pub peers: Vec<Peer>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rounds: 3,
            ran: Duration::from_secs(3),
            connections: 64,
            streams: 1_000,
            tokens: 100,
            apart: false,
            upstream_port: 0,
            peers: Vec::new(),
        }
    }
}

impl Plan {
    /// Whether something is measured at all.
    ///
    /// # Errors
    /// What is zero.
    pub fn check(&self) -> Result<(), BenchError> {
        let counts =
            [(self.rounds, "rounds"), (self.connections, "connections"), (self.streams, "streams")].into_iter();
        let zero = counts.filter(|(count, _)| *count == 0).map(|(_, name)| name).next();
        match zero {
            Some(name) => Err(BenchError::Zero(name)),
            None if self.ran.is_zero() => Err(BenchError::Zero("seconds")),
            None if self.tokens == 0 => Err(BenchError::Zero("tokens")),
            None => Ok(()),
        }
    }
}

/// A way to the played model.
struct Target {
    name: String,
    at: SocketAddr,
    keys: Vec<String>,
    /// What came by it in all, where it is a Gateway of ours.
    came: (u64, u64),
    rounds: Vec<Round>,
}

impl Target {
    fn new(name: &str, at: SocketAddr, keys: Vec<String>) -> Self {
        Self { name: name.to_owned(), at, keys, came: (0, 0), rounds: Vec::new() }
    }

    fn add(&mut self, requests: u64, tokens: u64) {
        self.came.0 += requests;
        self.came.1 += tokens;
    }

    /// One round.
    async fn measure(&mut self, plan: &Plan, upstream: &Target, server: Option<&Server>) -> Result<(), BenchError> {
        let whole = Load::chats(self.at, &self.keys, 1, false);
        let straight = Load::chats(upstream.at, &upstream.keys, 1, false);
        let (ran, connections) = (plan.ran, plan.connections);
        let times = {
            let whole = whole.clone();
            aside(move || in_turn(&straight, &whole, WARM_REQUESTS, ran)).await?
        };
        self.add(times.all, times.all);
        let before = server.map(Server::cpu).transpose()?;
        let came = aside(move || at_once(&whole, connections, WARM, ran)).await?;
        let after = server.map(Server::cpu).transpose()?;
        let spent = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        self.add(came.all_requests, came.all_tokens);
        let mut round = Round {
            straight_ms: (times.straight_ms(50), times.straight_ms(99)),
            through_ms: (times.through_ms(50), times.through_ms(99)),
            requests_per_second: came.requests_per_second(),
            cpu_us_per_request: spent.map(|spent| came.us_per_request(spent)),
            streamed_tokens_per_second: None,
        };
        if round.requests_per_second >= STREAMS_FROM {
            let streams = Load::chats(self.at, &self.keys, plan.tokens, true);
            let count = plan.streams;
            let came = aside(move || at_once(&streams, count, WARM, ran)).await?;
            self.add(came.all_requests, came.all_tokens);
            round.streamed_tokens_per_second = Some(came.tokens_per_second());
        }
        self.rounds.push(round);
        Ok(())
    }

    fn way(self, peak_rss_bytes: Option<u64>) -> Way {
        Way { name: self.name, rounds: self.rounds, peak_rss_bytes }
    }
}

/// Measures. `command` makes the command of a process that comes to [`serve`] with a folder and, where there is one, the
/// address of an upstream; `dir` is a folder for what they keep; `note` is told what goes on.
///
/// # Errors
/// Something cannot be started, answers wrongly, or counts wrongly.
pub async fn run(
    plan: &Plan,
    dir: &Path,
    command: impl Fn(&Path, Option<&str>) -> Command,
    note: impl Fn(&str),
) -> Result<Figures, BenchError> {
    plan.check()?;
    crate::allow_many_connections();
    let upstream = Upstream::start(plan.upstream_port, plan.apart)?;
    let nobody = || vec!["none".to_owned()];
    let base_url = format!("http://{}/v1", upstream.at);
    let folders = [dir.join("upstream"), dir.join("played")];
    for folder in &folders {
        let what = || format!("cannot make {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|source| BenchError::Io { what: what(), source })?;
    }
    let [over, played] = &folders;
    let servers =
        [Server::start(command(over, Some(base_url.as_str()))).await?, Server::start(command(played, None)).await?];
    let mut straight = Target::new("upstream", upstream.at, nobody());
    let mut targets: Vec<Target> = ["gateway", PLAYED]
        .into_iter()
        .zip(&servers)
        .map(|(name, server)| Target::new(name, server.at, server.keys.clone()))
        .collect();
    targets.extend(
        plan.peers
            .iter()
            .map(|peer| Target::new(&peer.name, peer.at, peer.key.clone().map_or_else(nobody, |key| vec![key]))),
    );
    for round in 1..=plan.rounds {
        let itself = Target::new("upstream", upstream.at, nobody());
        note(&format!("round {round} of {}: the played model itself …", plan.rounds));
        straight.measure(plan, &itself, None).await?;
        for (nth, target) in targets.iter_mut().enumerate() {
            note(&format!("round {round} of {}: {} …", plan.rounds, target.name));
            target.measure(plan, &itself, servers.get(nth)).await?;
        }
    }
    let mut ways = vec![straight.way(None)];
    let mut targets = targets.into_iter();
    for ((server, folder), target) in servers.into_iter().zip(&folders).zip(targets.by_ref()) {
        let peak = server.peak_rss()?;
        server.stop().await?;
        let ((requests, tokens), (came_requests, came_tokens)) = (metered(folder)?, target.came);
        if (requests, tokens) != (came_requests, came_tokens) {
            return Err(BenchError::Miscounted { requests, tokens, came_requests, came_tokens });
        }
        ways.push(target.way(Some(peak)));
    }
    ways.extend(targets.map(|target| target.way(None)));
    Ok(Figures { ways })
}

#[cfg(test)]
mod tests {
    use super::server::{cpu, peak_rss};
    use super::*;

    #[test]
    fn peers_are_read() {
        let peer: Peer = "litellm=sk-1=@127.0.0.1:4000".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.at.port(), peer.key.as_deref()), ("litellm", 4_000, Some("sk-1=")));
        assert_eq!("nginx=127.0.0.1:80".parse::<Peer>().unwrap().key, None);
        for wrong in ["nginx", "=127.0.0.1:80", "nginx=here", ""] {
            let error = wrong.parse::<Peer>().unwrap_err().to_string();
            assert!(error.contains("NAME=HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_plan_of_nothing_is_refused() {
        let plan = |rounds, tokens, ran| Plan { rounds, tokens, ran, ..Plan::default() };
        let ran = Duration::from_secs(1);
        assert!(plan(1, 1, ran).check().is_ok());
        for (wrong, name) in
            [(plan(0, 1, ran), "rounds"), (plan(1, 0, ran), "tokens"), (plan(1, 1, Duration::ZERO), "seconds")]
        {
            assert!(wrong.check().unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn what_a_process_holds_and_spends_is_read() {
        assert!(peak_rss(std::process::id()).unwrap() > 1024 * 1024);
        assert!(peak_rss(u32::MAX).is_err() && cpu(u32::MAX).is_err());
        let (before, mut sum) = (cpu(std::process::id()).unwrap(), 0_u64);
        while cpu(std::process::id()).unwrap() <= before {
            sum = (0..100_000_u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
    }
}
