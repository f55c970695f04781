//! The control stream of one lease.

use std::time::Duration;

use muster_core::ids::LeaseId;
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
    },
}

/// The connection on which this process has proved itself the consumer of a lease.
#[derive(Clone, Debug)]
pub struct LeaseLine {
    /// Which lease.
    pub lease: LeaseId,
    /// Streams of this lease may be opened on it.
    pub connection: Connection,
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
        if let Err((why, stale)) = self.carry().await {
            self.notes.send(Note::Line(self.generation, LineNote::Down { why, stale })).await;
        }
    }

    async fn carry(&self) -> Result<(), (String, bool)> {
        let broken = |e: NetError| (e.to_string(), false);
        let addr = dialable(&self.container).map_err(|why| (why, false))?;
        let peer = self.renter.peer();
        let connection = if self.fresh { peer.connect_fresh(&addr).await } else { peer.connect(&addr).await };
        let connection = connection.map_err(broken)?;
        let stream = connection.open_bi(StreamKind::Lease).await.map_err(|e| (e.to_string(), true))?;
        let (mut from, mut to) = stream.framed().split();
        to.set_priority(10);
        let proof = self.key.attach_proof(self.lease, addr.id, peer.id());
        let attach = ToContainer::Attach { lease: self.lease, proof };
        to.send_within(&attach, ANSWER_WITHIN).await.map_err(|e| (e.to_string(), true))?;
        let (sender, mut outgoing) = mpsc::channel(OUTGOING_MAX);
        let up = LineNote::Up { connection: connection.clone(), to: sender };
        self.notes.send(Note::Line(self.generation, up)).await;
        let first = from.recv_within::<ToConsumer>(ANSWER_WITHIN).await.map_err(|e| (e.to_string(), true))?;
        self.heard(first).await;
        loop {
            tokio::select! {
                message = from.recv::<ToConsumer>() => match message.map_err(broken)? {
                    Some(message) => self.heard(message).await,
                    None => return Err(("the Container ended the line".to_owned(), false)),
                },
                message = outgoing.recv() => match message {
                    Some(message) => to.send_within(&message, ANSWER_WITHIN).await.map_err(broken)?,
                    None => {
                        // The driver is done; what it said last must still arrive.
                        let farewell = tokio::time::timeout(ANSWER_WITHIN, to.finish_acked()).await;
                        return farewell.unwrap_or(Ok(())).map_err(broken);
                    }
                },
            }
        }
    }

    async fn heard(&self, message: ToConsumer) {
        self.notes.send(Note::Line(self.generation, LineNote::Heard(message))).await;
    }
}
