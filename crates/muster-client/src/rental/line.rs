//! The control stream of one lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::ids::LeaseId;
use muster_core::inference::TokenCounts;
use muster_core::protocol::{NodeAddr, ToConsumer, ToContainer};
use muster_net::{Connection, NetError, StreamKind};
use tokio::sync::mpsc;

use super::notes::{Note, Notes};
use crate::renter::{Renter, dialable};
use crate::session::SessionKey;

/// A Container that says nothing for so long after we attached has forgotten this connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Messages that wait for the line.
const OUTGOING_MAX: usize = 64;

/// What happens on the line.
#[derive(Debug)]
pub(crate) enum LineNote {
    /// It stands, and `Attach` was sent.
    Up { connection: Connection, to: mpsc::Sender<ToContainer> },
    /// The Container says.
    Heard(ToConsumer),
    /// It broke, or could not be made.
    Down {
        why: String,
        /// The connection itself seems dead: dial anew instead of using it again.
        stale: bool,
        /// The Container cut this side off for what it said.
        cut_off: bool,
    },
}

/// Why a line broke.
struct Broken {
    why: String,
    stale: bool,
    cut_off: bool,
}

impl Broken {
    const fn here(why: String) -> Self {
        Self { why, stale: false, cut_off: false }
    }

    fn with(error: &NetError, stale: bool) -> Self {
        Self { why: error.to_string(), stale, cut_off: error.is_cut_off_there() }
    }

    fn stale(error: NetError) -> Self {
        Self::with(&error, true)
    }
}

impl From<NetError> for Broken {
    fn from(error: NetError) -> Self {
        Self::with(&error, false)
    }
}

/// The connection on which this process has proved itself the consumer of a lease.
#[derive(Clone, Debug)]
pub struct LeaseLine {
    /// Which lease.
    pub lease: LeaseId,
    /// Streams of this lease may be opened on it.
    pub connection: Connection,
    /// What answers of its model have counted.
    pub(crate) tally: Arc<Tally>,
}

/// What answers of a lease's model have counted since the driver last looked: the driver alone pays, and pays for no more
/// than stands here.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<(TokenCounts, TokenCounts)>);

impl Tally {
    fn change<T>(&self, change: impl FnOnce(&mut (TokenCounts, TokenCounts)) -> T) -> T {
        // Every change is whole, so one that panicked left nothing wrong.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An answer came to its end.
    pub(crate) fn answered(&self, counts: TokenCounts) {
        self.change(|tally| tally.0 += counts);
    }

    /// The count of an answer was lost; it was at most this.
    pub(crate) fn lost(&self, most: TokenCounts) {
        self.change(|tally| tally.1 += most);
    }

    /// What was answered, and what was lost.
    pub(super) fn take(&self) -> (TokenCounts, TokenCounts) {
        self.change(std::mem::take)
    }
}

pub(crate) struct Line {
    pub(crate) renter: Renter,
    pub(crate) lease: LeaseId,
    pub(crate) container: NodeAddr,
    pub(crate) key: SessionKey,
    pub(crate) generation: u64,
    pub(crate) fresh: bool,
    pub(crate) notes: Notes,
}

impl Line {
    /// Dials, attaches and carries messages until the line breaks or the driver drops its end.
    pub(crate) async fn run(self) {
        if let Err(Broken { why, stale, cut_off }) = self.carry().await {
            self.notes.send(Note::Line(self.generation, LineNote::Down { why, stale, cut_off })).await;
        }
    }

    async fn carry(&self) -> Result<(), Broken> {
        let addr = dialable(&self.container).map_err(Broken::here)?;
        let peer = self.renter.peer();
        let connection = if self.fresh { peer.connect_fresh(&addr).await } else { peer.connect(&addr).await }?;
        let stream = connection.open_bi(StreamKind::Lease).await.map_err(Broken::stale)?;
        let (mut from, mut to) = stream.framed().split();
        to.set_priority(10);
        let proof = self.key.attach_proof(self.lease, addr.id, peer.id());
        let attach = ToContainer::Attach { lease: self.lease, proof };
        to.send_within(&attach, ANSWER_WITHIN).await.map_err(Broken::stale)?;
        let (sender, mut outgoing) = mpsc::channel(OUTGOING_MAX);
        let up = LineNote::Up { connection: connection.clone(), to: sender };
        self.notes.send(Note::Line(self.generation, up)).await;
        let first = from.recv_within::<ToConsumer>(ANSWER_WITHIN).await.map_err(Broken::stale)?;
        self.heard(first).await;
        loop {
            tokio::select! {
                message = from.recv::<ToConsumer>() => match message? {
                    Some(message) => self.heard(message).await,
                    None => return Err(Broken::here("the Container ended the line".to_owned())),
                },
                message = outgoing.recv() => match message {
                    Some(message) => to.send_within(&message, ANSWER_WITHIN).await?,
                    None => {
                        // The driver is done; what it said last must still arrive.
                        let farewell = tokio::time::timeout(ANSWER_WITHIN, to.finish_acked()).await;
                        return Ok(farewell.unwrap_or(Ok(()))?);
                    }
                },
            }
        }
    }

    async fn heard(&self, message: ToConsumer) {
        self.notes.send(Note::Line(self.generation, LineNote::Heard(message))).await;
    }
}
