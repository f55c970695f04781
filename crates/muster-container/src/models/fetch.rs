//! Weights that are fetched from elsewhere: from where they stopped on, hashed as they are written.
//!
//! Several leases that need the same wait for one fetch. What has arrived stays where a fetch ends early, whatever ended it,
//! and the next one begins behind it; bytes that an earlier process has left are hashed before more come.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_core::inference::{HubFile, WeightsId};
use muster_core::units::Bytes;
use muster_engine::hub::{Content, Hub, HubError, Token};
use muster_net::{NetError, Peer, PeerAddr, RecvHalf, StreamKind};
use muster_wire::message::weights::{WeightsGiven, WeightsWanted};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{CHUNK, Held, Inner, Models, ModelsError, Room, Wanted, failed, remove};

/// So often in a row a source may fail without having sent anything of note.
const TRIES_MAX: u32 = 5;
/// So much is of note.
const NOTE_BYTES: u64 = 256 * 1024;
/// The first pause before a source is asked anew is this part of the silence that ends it; each is twice the last.
const PAUSE_PART: u32 = 15;
/// A source that sends less than this a second, over several times that silence, is as good as silent.
const RATE_MIN: u64 = 1_024;
const RATE_OVER: u32 = 4;
/// How often it is told how far a fetch is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Where weights can be fetched from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The hub that this Container's owner has named.
    Hub {
        /// It.
        hub: Hub,
        /// Which file.
        file: HubFile,
        /// What opens it; in memory only, and gone with the fetch.
        token: Option<Token>,
        /// A hub that sends nothing for so long is given up.
        silence: Duration,
    },
    /// Another Container.
    Neighbour(Neighbour),
}

/// Another Container that is said to have them.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    /// What dials it.
    pub(crate) peer: Peer,
    /// It.
    pub(crate) addr: PeerAddr,
    /// One that sends nothing for so long is given up.
    pub(crate) silence: Duration,
}

impl Neighbour {
    async fn open(&self, wanted: WeightsWanted) -> Result<RecvHalf, NetError> {
        let connection = self.peer.connect(&self.addr).await?;
        let mut stream = connection.open_bi(StreamKind::Weights).await?.framed();
        match stream.ask(&wanted, self.silence).await? {
            WeightsGiven::Here => Ok(stream.into_raw().await?.0),
            WeightsGiven::Not { why } => Err(std::io::Error::other(why.into_string()).into()),
        }
    }
}

/// Why a source sends no more.
struct Stopped {
    why: String,
    may_pass: bool,
}

impl From<HubError> for Stopped {
    fn from(error: HubError) -> Self {
        Self { may_pass: error.may_pass(), why: error.to_string() }
    }
}

impl Source {
    fn silence(&self) -> Duration {
        match self {
            Self::Hub { silence, .. } | Self::Neighbour(Neighbour { silence, .. }) => *silence,
        }
    }

    /// Its name, for people.
    fn name(&self) -> String {
        match self {
            Self::Hub { file, .. } => file.to_string(),
            Self::Neighbour(neighbour) => format!("Container {}", neighbour.addr.id.short()),
        }
    }

    async fn open(&self, weights: WeightsId, bytes: Bytes, from: u64) -> Result<Coming, Stopped> {
        match self {
            Self::Neighbour(neighbour) => {
                let content = neighbour.open(WeightsWanted { weights, bytes, from }).await;
                // There are others: one that fails is not asked again.
                let content = content.map_err(|error| Stopped { why: error.to_string(), may_pass: false })?;
                Ok(Coming { at: from, content: Flow::Neighbour(content, neighbour.silence) })
            }
            Self::Hub { hub, file, token, .. } => {
                let content = hub.open(file, bytes, from, token.as_ref()).await?;
                Ok(Coming { at: content.at, content: Flow::Hub(content) })
            }
        }
    }
}

/// What comes from a source.
struct Coming {
    at: u64,
    content: Flow,
}

enum Flow {
    Hub(Content),
    Neighbour(RecvHalf, Duration),
}

impl Flow {
    /// Adds what comes next to what waits; whether that was the end.
    async fn next(&mut self, waiting: &mut Vec<u8>) -> Result<bool, Stopped> {
        match self {
            Self::Hub(content) => {
                let piece = content.next().await?;
                if let Some(piece) = &piece {
                    waiting.extend_from_slice(piece.as_ref());
                }
                Ok(piece.is_none())
            }
            Self::Neighbour(stream, silence) => {
                let stopped = |why: String| Stopped { why, may_pass: false };
                match timeout(*silence, stream.read_buf(waiting)).await {
                    Ok(Ok(count)) => Ok(count == 0),
                    Ok(Err(error)) => Err(stopped(error.to_string())),
                    Err(_) => Err(stopped(format!("it sent nothing for {} s", silence.as_secs()))),
                }
            }
        }
    }
}

/// Weights that somebody fetches.
#[derive(Debug)]
pub(super) struct Flight {
    turn: Arc<Mutex<()>>,
    said: watch::Sender<String>,
}

/// What has arrived, with its hash so far. Whoever has it is the only one to write.
struct Part {
    file: File,
    hasher: Sha256,
    len: u64,
    turn: Arc<OwnedMutexGuard<()>>,
    _room: Arc<Room>,
}

/// Notes when it is dropped that what has arrived is nobody's any more.
struct Leave {
    inner: Arc<Inner>,
    id: WeightsId,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let len = fs::metadata(self.inner.part(self.id)).map_or(0, |meta| meta.len());
        if len > 0 {
            self.inner.lock().parts.insert(self.id, len);
        }
    }
}

/// One that fetches or waits for who does; the last one takes the flight off the list.
#[derive(Debug)]
struct Aboard {
    inner: Arc<Inner>,
    id: WeightsId,
    flight: Arc<Flight>,
}

impl Aboard {
    fn new(inner: &Arc<Inner>, id: WeightsId) -> Self {
        let new = || Arc::new(Flight { turn: Arc::default(), said: watch::Sender::new(String::new()) });
        let flight = Arc::clone(inner.lock().flights.entry(id).or_insert_with(new));
        Self { inner: Arc::clone(inner), id, flight }
    }
}

impl Drop for Aboard {
    fn drop(&mut self) {
        let mut shelf = self.inner.lock();
        // The list's own and this one.
        if Arc::strong_count(&self.flight) <= 2 {
            shelf.flights.remove(&self.id);
        }
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, ModelsError> + Send + 'static,
) -> Result<T, ModelsError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(failed("write", path)(std::io::Error::other(error))))
}

impl Models {
    /// Fetches weights, unless they are here or somebody fetches them already. `tell` is told how far it is.
    ///
    /// # Errors
    /// They cannot be had from there, are not what they were said to be, or there is no room.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        source: &Source,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
        tell: impl Fn(&str),
    ) -> Result<Held, ModelsError> {
        let Wanted { id, bytes, .. } = wanted;
        let aboard = Aboard::new(&self.inner, id);
        let flight = &aboard.flight;
        let turn = wait_for_turn(flight, &tell).await;
        if let Some(held) = self.hold(id) {
            return Ok(held);
        }
        let leave = Leave { inner: Arc::clone(&self.inner), id };
        // What is here of it counts as reserved from here on.
        self.inner.lock().parts.remove(&id);
        let room = wanted.room(&self.inner)?;
        let say = |what: String| {
            tell(&what);
            flight.said.send_replace(what);
        };
        let fetch = Fetch { inner: Arc::clone(&self.inner), id, bytes, source, turn: Arc::new(turn), room };
        let held = fetch.run(check, &say).await;
        drop(leave);
        held
    }

    /// A turn to gather the files of one model: leases that need the same wait for each other here, and are told meanwhile
    /// what the one that gathers says.
    pub(crate) async fn gathering(&self, id: WeightsId, tell: impl Fn(&str)) -> Gathering {
        let aboard = Aboard::new(&self.inner, id);
        let turn = wait_for_turn(&aboard.flight, &tell).await;
        Gathering { _turn: turn, aboard }
    }
}

/// Who gathers the files of one model just now.
#[derive(Debug)]
pub(crate) struct Gathering {
    // Passed on before this one leaves.
    _turn: OwnedMutexGuard<()>,
    aboard: Aboard,
}

impl Gathering {
    /// Tells those who wait how far it is.
    pub(crate) fn say(&self, what: &str) {
        self.aboard.flight.said.send_replace(what.to_owned());
    }
}

/// Waits until nobody else fetches the same, and tells meanwhile what that one tells.
async fn wait_for_turn(flight: &Flight, tell: &impl Fn(&str)) -> OwnedMutexGuard<()> {
    let turn = Arc::clone(&flight.turn).lock_owned();
    tokio::pin!(turn);
    let mut said = flight.said.subscribe();
    loop {
        tokio::select! {
            biased;
            turn = &mut turn => return turn,
            changed = said.changed() => {
                // The sender lives as long as the flight.
                if changed.is_ok() {
                    let what = said.borrow_and_update().clone();
                    tell(&what);
                }
            }
        }
    }
}

/// One fetch.
struct Fetch<'a> {
    inner: Arc<Inner>,
    id: WeightsId,
    bytes: Bytes,
    source: &'a Source,
    turn: Arc<OwnedMutexGuard<()>>,
    room: Arc<Room>,
}

impl Fetch<'_> {
    async fn run(
        &self,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
        say: &impl Fn(String),
    ) -> Result<Held, ModelsError> {
        let mut again = true;
        loop {
            let (part, resumed) = self.reopen(say).await?;
            let part = self.gather(part, say).await?;
            let (got, path) = (WeightsId(part.hasher.clone().finalize().into()), self.inner.part(self.id));
            if got == self.id {
                return self.place(part, check).await;
            }
            remove(&path);
            if !resumed || !again {
                return Err(ModelsError::Hash { got, said: self.id });
            }
            // What was left of an earlier fetch may be damaged, which is nobody's fault.
            info!(weights = %self.id, "what was here of some weights was damaged; they are fetched anew");
            again = false;
        }
    }

    /// What is here of it, hashed; and whether anything was.
    async fn reopen(&self, say: &impl Fn(String)) -> Result<(Part, bool), ModelsError> {
        let path = self.inner.part(self.id);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > 0) {
            say(format!("looking at what is here of {} already", self.source.name()));
        }
        let (turn, room, most) = (Arc::clone(&self.turn), Arc::clone(&self.room), self.bytes.0);
        let shown = path.clone();
        let part = blocking(&shown, move || {
            let options = OpenOptions::new().read(true).append(true).create(true).clone();
            let mut file = options.open(&path).map_err(failed("open", &path))?;
            if file.metadata().map_err(failed("look at", &path))?.len() > most {
                file.set_len(0).map_err(failed("cut", &path))?;
            }
            let (mut hasher, mut len, mut chunk) = (Sha256::new(), 0u64, vec![0; CHUNK]);
            loop {
                let count = file.read(&mut chunk).map_err(failed("read", &path))?;
                let piece = chunk.get(..count).unwrap_or_default();
                if piece.is_empty() {
                    break;
                }
                hasher.update(piece);
                len = len.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Ok(Part { file, hasher, len, turn, _room: room })
        })
        .await?;
        let resumed = part.len > 0;
        Ok((part, resumed))
    }

    /// Fetches what is missing, as often as it takes.
    async fn gather(&self, mut part: Part, say: &impl Fn(String)) -> Result<Part, ModelsError> {
        let (mut tries, mut from) = (0, part.len);
        while part.len < self.bytes.0 {
            let stopped = self.pour(&mut part, say).await?;
            let Some(Stopped { why, may_pass }) = stopped else { continue };
            if part.len.saturating_sub(from) >= NOTE_BYTES || part.len < from {
                (tries, from) = (0, part.len);
            }
            tries += 1;
            if !may_pass || tries >= TRIES_MAX {
                let kept = if part.len == 0 {
                    String::new()
                } else {
                    format!(" ({} are here, and the next try goes on behind them)", megabytes(part.len, self.bytes.0))
                };
                let tried = if may_pass { format!(", {tries} times in a row") } else { String::new() };
                return Err(ModelsError::Fetch {
                    from: self.source.name(),
                    why: format!("{why}{tried}"),
                    kept,
                    may_pass,
                });
            }
            let pause = self.source.silence() / PAUSE_PART * 2u32.saturating_pow(tries - 1);
            warn!(weights = %self.id, from = %self.source.name(), %why, "weights stopped coming");
            say(format!("{}: {why}; trying again ({tries} of {TRIES_MAX})", self.progress(part.len)));
            tokio::time::sleep(pause).await;
        }
        Ok(part)
    }

    /// Takes what one answer brings. `Some`: why there is not more.
    async fn pour(&self, part: &mut Part, say: &impl Fn(String)) -> Result<Option<Stopped>, ModelsError> {
        let path = self.inner.part(self.id);
        say(self.progress(part.len));
        let mut coming = match self.source.open(self.id, self.bytes, part.len).await {
            Ok(coming) => coming,
            Err(stopped) => return Ok(Some(stopped)),
        };
        if coming.at != part.len {
            // This source cannot go on in the middle.
            part.file.set_len(0).map_err(failed("cut", &path))?;
            (part.hasher, part.len) = (Sha256::new(), 0);
        }
        let mut pace = Pace::new(self.source.silence(), part.len);
        let mut told = Instant::now();
        let mut waiting = Vec::with_capacity(CHUNK);
        loop {
            let (end, stopped) = match coming.content.next(&mut waiting).await {
                Ok(end) => (end, None),
                Err(stopped) => (true, Some(stopped)),
            };
            let sum = part.len.saturating_add(u64::try_from(waiting.len()).unwrap_or(u64::MAX));
            if sum > self.bytes.0 {
                return Err(ModelsError::Length { got: Bytes(sum), said: self.bytes });
            }
            let slow = !end && pace.is_slow(sum);
            if end || slow || waiting.len() >= CHUNK {
                waiting = write(part, waiting, &path).await?;
            }
            if slow {
                let why = format!("it sends less than {RATE_MIN} bytes a second");
                return Ok(Some(Stopped { why, may_pass: true }));
            }
            if end {
                let hub = matches!(self.source, Source::Hub { .. });
                let short = || Stopped { why: "it broke off in the middle".to_owned(), may_pass: hub };
                return Ok(stopped.or_else(|| (part.len < self.bytes.0).then(short)));
            }
            if told.elapsed() >= TELL_EVERY {
                say(format!("{}, {}", self.progress(sum), pace.rate(sum)));
                told = Instant::now();
            }
        }
    }

    fn progress(&self, have: u64) -> String {
        let sum = megabytes(have, self.bytes.0);
        match self.source {
            Source::Hub { file, .. } => format!("fetching {} from the hub: {sum}", file.file()),
            Source::Neighbour(_) => format!("fetching the weights from {}: {sum}", self.source.name()),
        }
    }

    /// Gives a whole file its name, once it was looked at.
    async fn place(
        &self,
        part: Part,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
    ) -> Result<Held, ModelsError> {
        let (inner, id, bytes) = (Arc::clone(&self.inner), self.id, self.bytes);
        let path = inner.part(id);
        blocking(&path.clone(), move || {
            part.file.sync_all().map_err(failed("write", &path))?;
            if let Err(why) = check(&path) {
                remove(&path);
                return Err(ModelsError::Form(why));
            }
            let whole = inner.path(id);
            fs::rename(&path, &whole).map_err(failed("name", &path))?;
            File::open(&inner.dir).and_then(|dir| dir.sync_all()).map_err(failed("write", &whole))?;
            Ok(inner.keep(id, bytes))
        })
        .await
    }
}

/// Writes and hashes what waits, and gives the emptied buffer back.
async fn write(part: &mut Part, waiting: Vec<u8>, path: &Path) -> Result<Vec<u8>, ModelsError> {
    let mut file = part.file.try_clone().map_err(failed("write", path))?;
    let (mut hasher, turn) = (std::mem::take(&mut part.hasher), Arc::clone(&part.turn));
    let place = path.to_owned();
    let (hasher, mut written) = blocking(path, move || {
        // Nobody else writes until this is done, also where nobody waits for it any more.
        let _turn = turn;
        hasher.update(&waiting);
        file.write_all(&waiting).map_err(failed("write", &place))?;
        Ok((hasher, waiting))
    })
    .await?;
    part.hasher = hasher;
    part.len = part.len.saturating_add(u64::try_from(written.len()).unwrap_or(u64::MAX));
    written.clear();
    Ok(written)
}

/// How fast something comes.
struct Pace {
    window: Duration,
    begun: Instant,
    first: u64,
    since: Instant,
    at: u64,
}

impl Pace {
    fn new(silence: Duration, at: u64) -> Self {
        let now = Instant::now();
        Self { window: silence * RATE_OVER, begun: now, first: at, since: now, at }
    }

    /// Whether too little came in the last window.
    fn is_slow(&mut self, have: u64) -> bool {
        if self.since.elapsed() < self.window {
            return false;
        }
        let slow = have.saturating_sub(self.at) < RATE_MIN.saturating_mul(self.window.as_secs());
        (self.since, self.at) = (Instant::now(), have);
        slow
    }

    fn rate(&self, have: u64) -> String {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let tenths = have.saturating_sub(self.first).saturating_mul(10) / 1_000 / millis;
        format!("{}.{} MB/s", tenths / 10, tenths % 10)
    }
}

/// `12 of 396 MB`, with a decimal where there is little.
fn megabytes(have: u64, sum: u64) -> String {
    if sum >= 10_000_000 {
        return format!("{} of {} MB", have / 1_000_000, sum / 1_000_000);
    }
    let tenths = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
    format!("{} of {} MB", tenths(have), tenths(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_megabytes() {
        assert_eq!(megabytes(34_400_000, 967_900_000), "34 of 967 MB");
        assert_eq!(megabytes(250_000, 1_230_000), "0.2 of 1.2 MB");
    }
}
