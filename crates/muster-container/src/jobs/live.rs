//! A lease's live session, as those see it who watch from outside: offers in, answers and news out.
//!
//! It is there before the job begins and after it has ended, so that whoever opens a stream at any time learns how things
//! stand. Offers wait here until the streaming program takes them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_stream::control::{FromStream, StreamStats, ToStream};
use muster_wire::message::session::{FromSession, OFFERS_MAX, Sdp, Sentence, SessionStats, ToSession, Word};
use tokio::sync::{broadcast, mpsc};

/// News that may wait for one who listens; who is slower misses some.
const NEWS_MAX: usize = 64;

/// Where a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Not up yet.
    #[default]
    Waiting,
    /// Offers are taken.
    Ready,
    /// The program draws.
    Drawing,
    /// It is over, or never will be.
    Over,
}

/// An offer without its answer.
#[derive(Debug)]
struct Asked {
    request: u64,
    player: u64,
    /// Until it was passed on.
    sdp: Option<Sdp>,
    reply: mpsc::Sender<FromSession>,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    to: Option<mpsc::Sender<ToStream>>,
    /// By numbers of our own: two streams may count alike.
    asked: BTreeMap<u64, Asked>,
    next: u64,
    /// What is being fetched before the program begins.
    preparing: Option<Sentence>,
    why: Option<String>,
}

/// One lease's session.
#[derive(Debug)]
pub(crate) struct Live {
    state: Mutex<State>,
    news: broadcast::Sender<FromSession>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), news: broadcast::channel(NEWS_MAX).0 }
    }

    /// Every change is whole, so one that panicked left nothing wrong.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How things stand, and what comes from now on.
    pub(crate) fn join(&self) -> (Vec<FromSession>, broadcast::Receiver<FromSession>) {
        let state = self.lock();
        let standing = match state.stage {
            Stage::Waiting => state.preparing.clone().map(|what| FromSession::Preparing { what }).into_iter().collect(),
            Stage::Ready => vec![FromSession::Ready],
            Stage::Drawing => vec![FromSession::Ready, FromSession::Drawing],
            Stage::Over => vec![FromSession::Over],
        };
        (standing, self.news.subscribe())
    }

    /// What somebody who joined says; answers to offers go to `reply`.
    pub(crate) fn take(&self, message: ToSession, reply: &mpsc::Sender<FromSession>) {
        match message {
            ToSession::Offer { request, player, sdp } => self.offer(request, player, sdp, reply),
            ToSession::Drop { player } => self.say(ToStream::Drop { player }),
            ToSession::Note { code, text, seconds } => {
                self.say(ToStream::Note { code: code.into_string(), text: text.into_string(), seconds });
            }
        }
    }

    fn offer(&self, request: u64, player: u64, sdp: Sdp, reply: &mpsc::Sender<FromSession>) {
        let mut state = self.lock();
        if state.stage == Stage::Over {
            let why = state.why.clone().unwrap_or_else(|| "the session is over".to_owned());
            tell(reply, refused(request, "session_ended", &why));
            return;
        }
        state.asked.retain(|_, asked| !asked.reply.is_closed());
        if state.asked.len() >= OFFERS_MAX {
            tell(reply, refused(request, "too_many_requests", "too many players want in at once; ask again shortly"));
            return;
        }
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        state.asked.insert(number, Asked { request, player, sdp: Some(sdp), reply: reply.clone() });
        if state.stage >= Stage::Ready {
            pass_on(&mut state);
        }
    }

    fn say(&self, message: ToStream) {
        // Before the session is up nobody is there to be told.
        if let Some(to) = &self.lock().to
            && to.try_send(message).is_err()
        {
            tracing::debug!("the streaming program takes nothing just now");
        }
    }

    /// The program has not begun: this is being done for it.
    pub(super) fn prepare(&self, what: &str) {
        let what = Sentence::truncated(what);
        let mut state = self.lock();
        if state.stage == Stage::Waiting && state.preparing.as_ref() != Some(&what) {
            state.preparing = Some(what.clone());
            // Nobody has to listen.
            let _ = self.news.send(FromSession::Preparing { what });
        }
    }

    /// The streaming program runs.
    pub(super) fn open(&self, to: mpsc::Sender<ToStream>) {
        self.lock().to = Some(to);
    }

    /// What the streaming program says.
    pub(super) fn hear(&self, message: FromStream) {
        let mut state = self.lock();
        let news = match message {
            FromStream::Ready { .. } => {
                state.stage = state.stage.max(Stage::Ready);
                pass_on(&mut state);
                FromSession::Ready
            }
            FromStream::Drawing => {
                state.stage = state.stage.max(Stage::Drawing);
                FromSession::Drawing
            }
            FromStream::Answer { request, sdp } => {
                if let Some(asked) = state.asked.remove(&request) {
                    let answer = match Sdp::new(sdp) {
                        Ok(sdp) => FromSession::Answer { request: asked.request, sdp },
                        Err(_) => refused(asked.request, "bad_offer", "the answer is longer than an answer may be"),
                    };
                    tell(&asked.reply, answer);
                }
                return;
            }
            FromStream::Refused { request, code, why } => {
                if let Some(asked) = state.asked.remove(&request) {
                    tell(&asked.reply, refused(asked.request, &code, &why));
                }
                return;
            }
            FromStream::Player { player, connected } => FromSession::Player { player, connected },
            FromStream::Idle { ms } => FromSession::Idle { ms },
            FromStream::Stats(stats) => FromSession::Stats(integers(&stats)),
            FromStream::Failed { why } => FromSession::Failed { why: Sentence::truncated(&why) },
        };
        // Nobody has to listen.
        let _ = self.news.send(news);
    }

    /// It is over, for this reason; whoever waits is told. Only the first reason counts.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.lock();
        if state.stage == Stage::Over {
            return;
        }
        state.stage = Stage::Over;
        state.why = Some(why.to_owned());
        state.to = None;
        for asked in std::mem::take(&mut state.asked).into_values() {
            tell(&asked.reply, refused(asked.request, "session_ended", why));
        }
        // Nobody has to listen.
        let _ = self.news.send(FromSession::Over);
    }
}

/// Passes waiting offers on to the streaming program, and forgets those whose askers have gone.
fn pass_on(state: &mut State) {
    let Some(to) = state.to.clone() else { return };
    state.asked.retain(|number, asked| {
        let Some(sdp) = asked.sdp.take() else { return !asked.reply.is_closed() };
        let offer = ToStream::Offer { request: *number, player: asked.player, sdp: sdp.into_string() };
        let passed = to.try_send(offer).is_ok();
        if !passed {
            tell(
                &asked.reply,
                refused(asked.request, "too_many_requests", "the session is overrun; ask again shortly"),
            );
        }
        passed
    });
}

/// Answers never wait: one who does not read his answers loses them.
fn tell(reply: &mpsc::Sender<FromSession>, message: FromSession) {
    if reply.try_send(message).is_err() {
        tracing::debug!("an answer to a player's offer found nobody");
    }
}

fn refused(request: u64, code: &str, why: &str) -> FromSession {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let code = if !code.is_empty() && code.bytes().all(fits) { code } else { "refused" };
    FromSession::Refused { request, code: Word::truncated(code), why: Sentence::truncated(why) }
}

/// Figures as whole numbers; what is no number counts as none.
fn integers(stats: &StreamStats) -> SessionStats {
    SessionStats {
        fps_milli: whole(stats.fps, 1e3),
        bps: stats.bps,
        loss_ppm: whole(stats.loss, 1e6),
        rtt_us: whole(stats.rtt_ms, 1e3),
        encode_us: whole(stats.encode_ms, 1e3),
        width: stats.width,
        height: stats.height,
    }
}

fn whole(figure: f32, times: f64) -> u32 {
    let figure = f64::from(figure) * times;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded; the cast takes NaN for 0")]
    let whole = figure.clamp(0.0, f64::from(u32::MAX)) as u32;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(live: &Live, request: u64, reply: &mpsc::Sender<FromSession>) {
        live.take(ToSession::Offer { request, player: 1, sdp: Sdp::new("v=0").unwrap() }, reply);
    }

    #[test]
    fn offers_wait_until_the_session_is_up_and_not_too_many() {
        let live = Live::new();
        let (reply, mut answers) = mpsc::channel(64);
        for request in 0..17 {
            offer(&live, request, &reply);
        }
        let code = |message| match message {
            FromSession::Refused { request, code, .. } => (request, code.into_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(answers.try_recv().unwrap()), (16, "too_many_requests".to_owned()));
        let (to, mut said) = mpsc::channel(64);
        live.open(to);
        assert!(said.try_recv().is_err());
        live.hear(FromStream::Ready { listens: ([127, 0, 0, 1], 1).into() });
        for request in 0..16 {
            let sdp = "v=0".to_owned();
            assert_eq!(said.try_recv().unwrap(), ToStream::Offer { request, player: 1, sdp });
        }
        live.hear(FromStream::Answer { request: 3, sdp: "v=1".to_owned() });
        let sdp = Sdp::new("v=1").unwrap();
        assert_eq!(answers.try_recv().unwrap(), FromSession::Answer { request: 3, sdp });
        live.close("the job finished");
        assert_eq!(code(answers.try_recv().unwrap()), (0, "session_ended".to_owned()));
        let (standing, _) = live.join();
        assert_eq!(standing, [FromSession::Over]);
    }

    #[test]
    fn answers_go_to_who_asked_and_news_to_all() {
        let live = Live::new();
        let ((one, mut ones), (two, mut twos)) = (mpsc::channel(4), mpsc::channel(4));
        let (standing, mut news) = live.join();
        assert!(standing.is_empty());
        let (to, _said) = mpsc::channel(64);
        live.open(to);
        live.hear(FromStream::Ready { listens: ([127, 0, 0, 1], 1).into() });
        offer(&live, 7, &one);
        offer(&live, 7, &two);
        live.hear(FromStream::Refused { request: 1, code: "No Codec!".into(), why: "neither".into() });
        assert!(ones.try_recv().is_err());
        assert!(matches!(twos.try_recv(), Ok(FromSession::Refused { request: 7, .. })));
        live.hear(FromStream::Drawing);
        let stats = StreamStats { fps: 59.94, loss: f32::NAN, rtt_ms: -1.0, ..StreamStats::default() };
        live.hear(FromStream::Stats(stats));
        assert_eq!(news.try_recv().unwrap(), FromSession::Ready);
        assert_eq!(news.try_recv().unwrap(), FromSession::Drawing);
        let FromSession::Stats(stats) = news.try_recv().unwrap() else { panic!() };
        assert_eq!((stats.fps_milli, stats.loss_ppm, stats.rtt_us), (59_939, 0, 0));
        assert_eq!(live.join().0, [FromSession::Ready, FromSession::Drawing]);
    }
}
