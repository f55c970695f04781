//! The line of a live session: offers of players to the Container, its answers and news back.
//!
//! It outlives the connection below it: when the lease's line stands again, the session's stream is opened anew and every
//! offer that is not answered yet is sent once more.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_core::ids::LeaseId;
use muster_net::{FrameReader, FrameWriter, NetError, StreamKind};
use muster_wire::message::session::{
    FromSession, SDP_LEN_MAX, Sdp, Sentence, SessionOpen, SessionStats, ToSession, Word,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::rental::LeaseLine;

/// What waits for the stream.
const ASKS_MAX: usize = 64;
/// News that may wait for one who listens; who is slower misses some.
const NEWS_MAX: usize = 256;
/// A message that the Container does not take for so long breaks the stream.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// Pause before the stream is opened again on a connection that stands.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why a player's offer came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct SessionRefusal {
    /// For programs: `no_codec`, `bad_offer`, `too_many_players`, `too_many_requests`, `session_ended`.
    pub code: String,
    /// For people.
    pub why: String,
}

impl SessionRefusal {
    fn new(code: &str, why: impl Into<String>) -> Self {
        Self { code: code.to_owned(), why: why.into() }
    }

    fn ended() -> Self {
        Self::new("session_ended", "the session is over; start another one")
    }
}

/// What a session tells whoever listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionNews {
    /// The display is up and offers are taken.
    Ready,
    /// The program has drawn something.
    Drawing,
    /// A player is connected, or no longer.
    Player {
        /// Which, by the number that its offer had.
        player: u64,
        /// Whether it is.
        connected: bool,
    },
    /// Nobody has used the session for long; it ends.
    Idle {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// How the stream does, each second while somebody looks on.
    Stats(SessionStats),
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
    /// The program has not begun: what it needs is being fetched.
    Preparing {
        /// What, and how far it is.
        what: String,
    },
    /// It is over on this Container.
    Over,
}

enum Ask {
    Offer { player: u64, sdp: Sdp, answer: oneshot::Sender<Result<String, SessionRefusal>> },
    Say(ToSession),
}

/// The line of one live session. Clones share it.
#[derive(Clone, Debug)]
pub struct SessionLine {
    to: mpsc::Sender<Ask>,
    news: broadcast::WeakSender<SessionNews>,
}

impl SessionLine {
    /// Brings a player's offer to the session and waits for the answer, for as long as the session takes to come up:
    /// wrap it in a time limit of your own. One that is dropped is forgotten.
    ///
    /// # Errors
    /// The session does not take the player, or is over.
    pub async fn offer(&self, player: u64, sdp: &str) -> Result<String, SessionRefusal> {
        let too_long = |_| SessionRefusal::new("bad_offer", format!("the offer is longer than {SDP_LEN_MAX} bytes"));
        let sdp = Sdp::new(sdp).map_err(too_long)?;
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Offer { player, sdp, answer };
        self.to.send(ask).await.map_err(|_| SessionRefusal::ended())?;
        answered.await.unwrap_or_else(|_| Err(SessionRefusal::ended()))
    }

    /// A player has gone for good. Forgotten where the line is down: its connection ends by itself as well.
    pub async fn drop_player(&self, player: u64) {
        self.say(ToSession::Drop { player }).await;
    }

    /// Tells all players something: `code` for programs (a word of a-z, 0-9 and _), `text` for people, `seconds` where it
    /// is something to come.
    pub async fn note(&self, code: &str, text: &str, seconds: Option<u64>) {
        let (code, text) = (Word::truncated(code), Sentence::truncated(text));
        self.say(ToSession::Note { code, text, seconds }).await;
    }

    /// News from now on; `None` when the session is over.
    #[must_use]
    pub fn news(&self) -> Option<broadcast::Receiver<SessionNews>> {
        self.news.upgrade().map(|news| news.subscribe())
    }

    async fn say(&self, message: ToSession) {
        // A session that is over has nobody to tell.
        drop(self.to.send(Ask::Say(message)).await);
    }
}

/// An offer without its answer.
struct Pending {
    player: u64,
    sdp: Sdp,
    answer: oneshot::Sender<Result<String, SessionRefusal>>,
}

/// The task behind a [`SessionLine`].
pub(super) struct Carrier {
    asks: mpsc::Receiver<Ask>,
    news: broadcast::Sender<SessionNews>,
    line: watch::Receiver<Option<LeaseLine>>,
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

/// How a stream came to its end.
enum Broke {
    /// The session of this lease is over.
    Over,
    /// Nobody asks any more.
    Unused,
    /// It can be opened again.
    Again,
}

impl Carrier {
    pub(super) fn new(line: watch::Receiver<Option<LeaseLine>>) -> (SessionLine, Self) {
        let (to, asks) = mpsc::channel(ASKS_MAX);
        let (news, _) = broadcast::channel(NEWS_MAX);
        let shown = SessionLine { to, news: news.downgrade() };
        (shown, Self { asks, news, line, pending: BTreeMap::new(), next: 0 })
    }

    /// Carries until the lease's line is shown no more. Dropping it refuses what waits.
    pub(super) async fn run(mut self) {
        let mut over: Option<LeaseId> = None;
        loop {
            let Some(line) = self.standing(over).await else { break };
            match self.carry(&line).await {
                Ok(Broke::Over) => over = Some(line.lease),
                Ok(Broke::Unused) => return,
                Ok(Broke::Again) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(error) => {
                    tracing::debug!(lease = %line.lease.short(), %error, "a session's stream broke");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            // Whoever asked may have gone.
            drop(pending.answer.send(Err(SessionRefusal::ended())));
        }
    }

    /// The line, once it stands for a lease whose session is not over. `None` when it never will. Offers gather meanwhile.
    async fn standing(&mut self, over: Option<LeaseId>) -> Option<LeaseLine> {
        let Self { asks, line, pending, next, .. } = self;
        let fits = |line: &Option<LeaseLine>| line.as_ref().is_some_and(|line| Some(line.lease) != over);
        let mut shown = line.clone();
        let mut found = std::pin::pin!(shown.wait_for(fits));
        loop {
            tokio::select! {
                line = &mut found => return line.ok().and_then(|line| line.clone()),
                ask = asks.recv() => match ask? {
                    // Until the work begins again elsewhere, if it does.
                    Ask::Offer { answer, .. } if over.is_some() => drop(answer.send(Err(SessionRefusal::ended()))),
                    Ask::Offer { player, sdp, answer } => drop(keep(pending, next, player, sdp, answer)),
                    Ask::Say(_) => {}
                },
            }
        }
    }

    async fn carry(&mut self, line: &LeaseLine) -> Result<Broke, NetError> {
        let stream = line.connection.open_bi(StreamKind::Session).await?;
        let (mut from, mut to) = stream.framed().split();
        to.send_within(&SessionOpen { lease: line.lease }, SEND_WITHIN).await?;
        self.pending.retain(|_, pending| !pending.answer.is_closed());
        for (request, pending) in &self.pending {
            send_offer(&mut to, *request, pending).await?;
        }
        self.exchange(&mut from, &mut to).await
    }

    async fn exchange(&mut self, from: &mut FrameReader, to: &mut FrameWriter) -> Result<Broke, NetError> {
        loop {
            tokio::select! {
                message = from.recv::<FromSession>() => match message? {
                    Some(FromSession::Over) => {
                        self.tell(SessionNews::Over);
                        return Ok(Broke::Over);
                    }
                    Some(message) => self.hear(message),
                    None => return Ok(Broke::Again),
                },
                ask = self.asks.recv() => match ask {
                    Some(Ask::Offer { player, sdp, answer }) => {
                        let request = keep(&mut self.pending, &mut self.next, player, sdp, answer);
                        if let Some(pending) = request.and_then(|request| Some((request, self.pending.get(&request)?))) {
                            send_offer(to, pending.0, pending.1).await?;
                        }
                    }
                    Some(Ask::Say(message)) => to.send_within(&message, SEND_WITHIN).await?,
                    None => return Ok(Broke::Unused),
                },
            }
        }
    }

    fn hear(&mut self, message: FromSession) {
        let news = match message {
            FromSession::Answer { request, sdp } => {
                if let Some(pending) = self.pending.remove(&request) {
                    drop(pending.answer.send(Ok(sdp.into_string())));
                }
                return;
            }
            FromSession::Refused { request, code, why } => {
                if let Some(pending) = self.pending.remove(&request) {
                    drop(pending.answer.send(Err(SessionRefusal::new(code.as_str(), why.into_string()))));
                }
                return;
            }
            FromSession::Ready => SessionNews::Ready,
            FromSession::Drawing => SessionNews::Drawing,
            FromSession::Player { player, connected } => SessionNews::Player { player, connected },
            FromSession::Idle { ms } => SessionNews::Idle { ms },
            FromSession::Stats(stats) => SessionNews::Stats(stats),
            FromSession::Failed { why } => SessionNews::Failed { why: why.into_string() },
            FromSession::Preparing { what } => SessionNews::Preparing { what: what.into_string() },
            FromSession::Over => SessionNews::Over,
        };
        self.tell(news);
    }

    fn tell(&self, news: SessionNews) {
        // Nobody has to listen.
        let _ = self.news.send(news);
    }
}

/// Keeps an offer until its answer comes; gives its number. Offers that nobody waits for any more make room.
fn keep(
    pending: &mut BTreeMap<u64, Pending>,
    next: &mut u64,
    player: u64,
    sdp: Sdp,
    answer: oneshot::Sender<Result<String, SessionRefusal>>,
) -> Option<u64> {
    pending.retain(|_, pending| !pending.answer.is_closed());
    if pending.len() >= ASKS_MAX {
        let full = SessionRefusal::new("too_many_requests", "too many players want in at once; ask again shortly");
        drop(answer.send(Err(full)));
        return None;
    }
    let request = *next;
    *next = next.wrapping_add(1);
    pending.insert(request, Pending { player, sdp, answer });
    Some(request)
}

async fn send_offer(to: &mut FrameWriter, request: u64, pending: &Pending) -> Result<(), NetError> {
    let offer = ToSession::Offer { request, player: pending.player, sdp: pending.sdp.clone() };
    to.send_within(&offer, SEND_WITHIN).await
}
