//! What the tasks of a lease report to its driver.

use muster_core::protocol::EscrowLease;
use muster_core::units::TokenAmount;
use tokio::sync::mpsc;

use super::line::LineNote;
use crate::files::{FetchError, Fetched, SendFailed, Sent};
use crate::ledger::LedgerError;

/// Reports that wait for the driver.
pub(crate) const NOTES_MAX: usize = 128;

#[derive(Debug)]
pub(crate) enum Note {
    /// From the control stream of this generation.
    Line(u64, LineNote),
    /// Inputs of this generation of the line.
    Inputs(u64, Result<Sent, SendFailed>),
    /// Names that the inputs left out.
    LeftOut(Vec<String>),
    /// Outputs.
    Outputs(Result<Fetched, FetchError>),
    /// The standard streams: over, or broken (why).
    Stdio(Result<(), String>),
    /// Bytes of a standard stream that were not kept for us.
    Missed(muster_wire::message::stdio::Stream, u64),
    /// The deposit is on its way to the chain.
    OpenSent,
    /// From the chain.
    Opened(Result<(), LedgerError>),
    Seen(Result<EscrowLease, LedgerError>),
    Closed(Result<(), LedgerError>),
    Finalized(Result<(), LedgerError>),
    ToppedUp(TokenAmount, Result<(), LedgerError>),
}

/// The way to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Notes(pub(crate) mpsc::Sender<Note>);

impl Notes {
    /// Reports; a driver that is gone hears nothing, and its tasks are being aborted.
    pub(crate) async fn send(&self, note: Note) {
        drop(self.0.send(note).await);
    }
}
