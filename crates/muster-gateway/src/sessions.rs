//! Live sessions of a Gateway: who started them, who plays, what they cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_client::Renter;
use muster_client::job::{JobControl, JobReport, JobRequest, TaskOutcome};
use muster_client::live::{self, LiveState, LiveStep, SessionLine, SessionRefusal};
use muster_core::delivery::Receipts;
use muster_core::ids::LeaseId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::apps::App;
use crate::keys::{hash, secret};
use crate::receipts::{DeliveryState, Ledger, Receipt};
use crate::refusal::Refusal;
use crate::saves::Returning;
use axum::http::StatusCode;

/// How long a link's token is good.
pub(crate) const TOKEN_TTL: Duration = Duration::from_secs(120);
/// Players of one session that are remembered.
const PLAYERS_MAX: usize = 64;
/// Sessions that are over and still told of.
const OVER_MAX: usize = 256;
/// How long a join waits for the session to run.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// A server that helps players through firewalls (STUN or TURN).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct IceServer {
    /// Its addresses: `turn:host:3478`.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// Who plays.
#[derive(Debug)]
struct Player {
    key_hash: String,
    number: u64,
    public_key: Option<String>,
}

#[derive(Debug, Default)]
struct Door {
    /// Hash of the link's token, and until when it is good; gone once it was used.
    token: Option<(String, Instant)>,
    /// Hash of a token that was used, so that a second use is told from a wrong one.
    used: Option<(String, u64)>,
    players: Vec<Player>,
    next: u64,
    receipts: Ledger,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) app: App,
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) fps: u8,
    pub(crate) region: Option<String>,
    state: watch::Receiver<LiveState>,
    line: SessionLine,
    control: JobControl,
    door: Mutex<Door>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: Mutex<Vec<Arc<Session>>>,
    running: TaskTracker,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment or push, so a panic in between leaves nothing wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a session is asked to be.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) account: String,
    pub(crate) app: App,
    pub(crate) request: JobRequest,
    pub(crate) region: Option<String>,
    /// Where its home folder comes back to, if it does.
    pub(crate) returning: Option<Returning>,
}

impl Sessions {
    /// Starts one; gives it with the token of its link.
    pub(crate) fn start(
        &self,
        renter: &Renter,
        wanted: Wanted,
        at_once: usize,
    ) -> Result<(Arc<Session>, String), Refusal> {
        let spec = wanted.request.session.clone();
        let Some(spec) = spec else { return Err(Refusal::bad("bad_request", "the request holds no session")) };
        let mut all = guard(&self.all);
        let running = all.iter().filter(|s| s.account == wanted.account && !s.is_over()).count();
        if running >= at_once {
            let why = format!(
                "this account runs {running} sessions already, and may run {at_once}; stop one with `muster session stop`"
            );
            return Err(Refusal::too_many(why, 30).coded("too_many_sessions"));
        }
        let live =
            live::start(renter.clone(), wanted.request).map_err(|e| Refusal::bad("bad_request", e.to_string()))?;
        let token = secret();
        let door = Door { token: Some((hash(&token), Instant::now() + TOKEN_TTL)), ..Door::default() };
        let session = Arc::new(Session {
            id: short_id(),
            account: wanted.account,
            app: wanted.app,
            width: spec.width,
            height: spec.height,
            fps: spec.fps,
            region: wanted.region,
            state: live.state(),
            line: live.line(),
            control: live.control(),
            door: Mutex::new(door),
        });
        let over = all.iter().filter(|s| s.is_over()).count();
        if over > OVER_MAX
            && let Some(oldest) = all.iter().position(|s| s.is_over())
        {
            all.remove(oldest);
        }
        all.push(Arc::clone(&session));
        metrics::counter!("muster_gateway_sessions_total").increment(1);
        let returning = wanted.returning;
        let (renter, played) = (renter.clone(), Arc::clone(&session));
        self.running.spawn(async move {
            let report = live.over().await;
            for (lease, receipts) in played.delivered() {
                match live::report_delivery(&renter, lease, receipts).await {
                    Ok(counts) => tracing::info!(lease = %lease.short(), ?receipts, counts, "told what was delivered"),
                    Err(why) => tracing::warn!(lease = %lease.short(), %why, "what was delivered could not be told"),
                }
            }
            if let Some(returning) = returning {
                put_away(report.as_ref(), returning);
            }
        });
        Ok((session, token))
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Session>> {
        guard(&self.all).iter().find(|session| session.id == id).cloned()
    }

    pub(crate) fn of(&self, account: &str) -> Vec<Arc<Session>> {
        guard(&self.all).iter().filter(|session| session.account == account).cloned().collect()
    }

    pub(crate) fn stop_all(&self) {
        guard(&self.all).iter().for_each(|session| session.stop());
    }

    /// Waits until all are settled. No new ones should begin.
    pub(crate) async fn settled(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

/// Keeps a home folder that came back whole.
fn put_away(report: Option<&JobReport>, returning: Returning) {
    let outcome = report.and_then(|report| report.tasks.first()).map(|task| &task.outcome);
    if matches!(outcome, Some(TaskOutcome::Ended(_) | TaskOutcome::Stopped))
        && let Err(error) = returning.keep()
    {
        tracing::warn!(%error, "a save folder is not kept; the one before it stays");
    }
}

/// What opens a session to a player.
#[derive(Debug)]
pub(crate) enum Pass<'a> {
    Token(&'a str, Option<String>),
    Key(&'a str),
}

impl Session {
    pub(crate) fn state(&self) -> LiveState {
        self.state.borrow().clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().step == LiveStep::Ended
    }

    pub(crate) fn stop(&self) {
        self.control.stop();
    }

    /// Whether this secret is the link's token or a player's key: good for looking.
    pub(crate) fn admits(&self, secret: &str) -> bool {
        let (hash, door) = (hash(secret), guard(&self.door));
        let token = door.token.as_ref().is_some_and(|(known, until)| *known == hash && Instant::now() < *until);
        // Whoever has joined with it, and still waits for the answer, may look meanwhile.
        let joining = door.used.as_ref().is_some_and(|(used, _)| *used == hash);
        token || joining || door.players.iter().any(|player| player.key_hash == hash)
    }

    /// Whether this secret is a player's key: good for ending it.
    pub(crate) fn is_player(&self, secret: &str) -> bool {
        let hash = hash(secret);
        guard(&self.door).players.iter().any(|player| player.key_hash == hash)
    }

    /// Turns a pass into a player's number and, the first time, a new key.
    fn enter(&self, pass: &Pass<'_>) -> Result<(u64, String), Refusal> {
        let mut door = guard(&self.door);
        match pass {
            Pass::Key(key) => {
                let hash = hash(key);
                let known = door.players.iter().find(|player| player.key_hash == hash);
                let wrong = "this key opens nothing here; open the session's link again, or start another session";
                let known = known.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "token_wrong", wrong))?;
                Ok((known.number, (*key).to_owned()))
            }
            Pass::Token(token, public_key) => {
                let token_hash = hash(token);
                if let Some((used, number)) = door.used.clone()
                    && used == token_hash
                {
                    // The answer to the first join may have been lost on its way: the same browser, which says so with
                    // the same public key, is let in again.
                    let same = door.players.iter_mut().find(|player| player.number == number);
                    if let Some(player) = same
                        && player.public_key.is_some()
                        && player.public_key == *public_key
                    {
                        let key = secret();
                        player.key_hash = hash(&key);
                        return Ok((number, key));
                    }
                    let why = "this link was used already, and a link is good once; start another session, or ask for a new link with `muster session link`";
                    return Err(Refusal::new(StatusCode::FORBIDDEN, "token_used", why));
                }
                let Some((known, until)) = door.token.clone() else {
                    return Err(Refusal::new(StatusCode::FORBIDDEN, "token_wrong", WRONG_LINK));
                };
                if known != token_hash {
                    return Err(Refusal::new(StatusCode::FORBIDDEN, "token_wrong", WRONG_LINK));
                }
                if Instant::now() >= until {
                    let why = format!(
                        "this link was good for {} s and is no longer; ask for a new one with `muster session link`",
                        TOKEN_TTL.as_secs()
                    );
                    return Err(Refusal::new(StatusCode::FORBIDDEN, "token_expired", why));
                }
                if door.players.len() >= PLAYERS_MAX {
                    let why = format!("the session has had {PLAYERS_MAX} players; start another one");
                    return Err(Refusal::new(StatusCode::CONFLICT, "too_many_players", why));
                }
                let (key, number) = (secret(), door.next);
                door.next += 1;
                door.token = None;
                door.used = Some((token_hash, number));
                let player = Player { key_hash: hash(&key), number, public_key: public_key.clone() };
                door.players.push(player);
                Ok((number, key))
            }
        }
    }

    /// A new token for a link; the one before it is good no more.
    pub(crate) fn new_token(&self) -> String {
        let token = secret();
        guard(&self.door).token = Some((hash(&token), Instant::now() + TOKEN_TTL));
        token
    }

    /// Brings a player's offer to the Container, once the session runs.
    pub(crate) async fn join(&self, pass: &Pass<'_>, sdp: &str) -> Result<(String, String), Refusal> {
        if self.is_over() {
            return Err(self.ended());
        }
        let (number, key) = self.enter(pass)?;
        let mut state = self.state.clone();
        let answer = tokio::select! {
            answer = tokio::time::timeout(JOIN_WITHIN, self.line.offer(number, sdp)) => answer,
            _ = state.wait_for(|state| state.step == LiveStep::Ended) => return Err(self.ended()),
        };
        match answer {
            Ok(Ok(sdp)) => Ok((key, sdp)),
            Ok(Err(_)) if self.is_over() => Err(self.ended()),
            Ok(Err(refusal)) if refusal.code == "session_ended" => {
                let why = "the Container was lost, and another one is looked for; ask again in a second";
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why))
            }
            Ok(Err(refusal)) => Err(refused(&refusal)),
            Err(_) => {
                let why = format!("the session is still starting after {} s; ask again", JOIN_WITHIN.as_secs());
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why))
            }
        }
    }

    fn ended(&self) -> Refusal {
        let how = self.state().why.unwrap_or_else(|| "it is over".to_owned());
        Refusal::new(StatusCode::GONE, "session_ended", format!("the session has ended: {how}"))
    }

    /// Verifies and keeps a receipt of a player.
    pub(crate) fn keep(&self, secret: &str, receipt: Receipt) -> Result<(), Refusal> {
        let lease = self.state.borrow().lease;
        let stale = {
            let mut door = guard(&self.door);
            let hash = hash(secret);
            let Door { players, receipts, .. } = &mut *door;
            let player = players.iter().find(|player| player.key_hash == hash).ok_or_else(Refusal::unknown_session)?;
            receipts.take(&self.id, (player.number, player.public_key.as_deref()), lease, receipt)?
        };
        if stale {
            tracing::warn!(session = %self.id, "a Container does not show fresh pictures");
            let line = self.line.clone();
            tokio::spawn(async move { line.note("stale", STALE, None).await });
        }
        Ok(())
    }

    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        guard(&self.door).receipts.kept()
    }

    pub(crate) fn delivery(&self) -> DeliveryState {
        guard(&self.door).receipts.state()
    }

    fn delivered(&self) -> Vec<(LeaseId, Receipts)> {
        guard(&self.door).receipts.leases()
    }
}

const STALE: &str = "this picture does not show what it is asked to show: the Container may not be sending what the program draws now; \
     stop and start again to be given another one";

const WRONG_LINK: &str = "this link opens nothing here: it is incomplete, or a newer one has taken its place";

fn refused(refusal: &SessionRefusal) -> Refusal {
    let status = match refusal.code.as_str() {
        "no_codec" | "bad_offer" => StatusCode::BAD_REQUEST,
        "too_many_players" | "too_many_requests" => StatusCode::TOO_MANY_REQUESTS,
        "session_ended" => StatusCode::GONE,
        _ => StatusCode::BAD_GATEWAY,
    };
    Refusal::new(status, &refusal.code, refusal.why.clone())
}

/// 80 random bits: an address, no secret.
fn short_id() -> String {
    secret().chars().take(20).collect()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
