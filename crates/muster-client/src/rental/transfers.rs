//! Inputs and outputs of one lease.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::consumer::Event;
use muster_core::ids::LeaseId;
use muster_core::inference::WeightsId;
use muster_core::lease::Phase;
use muster_net::{Connection, NetError, StreamKind};
use muster_wire::message::files::Transfer;
use muster_wire::message::inference::{FromInference, InferenceOpen};
use std::path::PathBuf;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::driver::Driver;
use super::notes::{Note, Notes};
use super::{RentalError, RentalEvent};
use crate::files::{self, Claims, FetchError, Fetched, Meter, SendFailed, Sent};

/// How often a transfer that failed on a standing line is tried again.
const TRIES_MAX: u32 = 4;
/// Pause before it is.
/// A Container says within this whether it has weights.
const ASK_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Pause before outputs that cannot be written here are fetched again: somebody has to free some space.
const SPACE_AGAIN_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Transfers {
    claims: Claims,
    up: Arc<Meter>,
    down: Arc<Meter>,
    inputs: Option<AbortHandle>,
    inputs_tries: u32,
    outputs: Option<AbortHandle>,
    outputs_tries: u32,
    outputs_again_at: Option<Instant>,
    /// The brain wants the outputs.
    pub(super) wanted: bool,
    /// They are here, or given up.
    fetched: bool,
    shown: (u64, u64),
}

impl Transfers {
    pub(super) fn new(claims: Claims) -> Self {
        Self {
            claims,
            up: Arc::default(),
            down: Arc::default(),
            inputs: None,
            inputs_tries: 0,
            outputs: None,
            outputs_tries: 0,
            outputs_again_at: None,
            wanted: false,
            fetched: false,
            shown: (0, 0),
        }
    }
}

impl Driver {
    /// Sends the inputs over the present connection, in place of a transfer that an earlier one carried.
    pub(super) fn send_inputs(&mut self) {
        let Some(connection) = self.connection() else { return };
        if let Some(old) = self.transfers.inputs.take() {
            old.abort();
        }
        let job = Upload {
            connection,
            lease: self.lease,
            inputs: self.plan.inputs.clone(),
            weights: self.plan.spec.model.as_ref().map(|model| model.weights),
            meter: Arc::clone(&self.transfers.up),
            notes: self.notes.clone(),
            pause: if self.transfers.inputs_tries == 0 { Duration::ZERO } else { AGAIN_AFTER },
        };
        let (generation, notes) = (self.generation(), self.notes.clone());
        self.transfers.inputs = Some(self.tasks.spawn(async move {
            let result = job.run().await;
            notes.send(Note::Inputs(generation, result)).await;
        }));
    }

    pub(super) fn on_inputs(&mut self, generation: u64, result: Result<Sent, SendFailed>) -> Option<Event> {
        if generation != self.generation() {
            return None;
        }
        self.transfers.inputs = None;
        match result {
            Ok(sent) => {
                self.tell(RentalEvent::Uploading { bytes: sent.bytes, total: sent.bytes });
                Some(Event::InputsSent)
            }
            Err(SendFailed::Here(why)) => Some(self.inputs_failed(why.to_string())),
            Err(why @ (SendFailed::Refused(_) | SendFailed::Line(_))) => {
                self.transfers.inputs_tries += 1;
                let line_lost = matches!(why, SendFailed::Line(_)) && self.connection().is_none();
                if line_lost {
                    // The brain asks again on the next line.
                    None
                } else if self.transfers.inputs_tries < TRIES_MAX {
                    tracing::info!(lease = %self.lease.short(), %why, "inputs are sent again");
                    self.send_inputs();
                    None
                } else {
                    Some(self.inputs_failed(why.to_string()))
                }
            }
        }
    }

    fn inputs_failed(&self, why: String) -> Event {
        self.tell(RentalEvent::InputsFailed { why: why.clone() });
        Event::InputsFailed { why }
    }

    /// Begins to fetch; says so when nothing is to be fetched.
    pub(super) fn take_outputs(&mut self) -> Option<Event> {
        let Some(output) = self.plan.output.clone() else {
            self.transfers.fetched = true;
            return self.outputs_all_here();
        };
        if self.transfers.fetched {
            return self.outputs_all_here();
        }
        let connection = self.connection()?;
        if let Some(old) = self.transfers.outputs.take() {
            old.abort();
        }
        self.transfers.outputs_again_at = None;
        let job = Download {
            connection,
            lease: self.lease,
            output,
            claims: self.plan.task.map_or_else(Claims::alone, |t| self.transfers.claims.of_task(t.index)),
            meter: Arc::clone(&self.transfers.down),
        };
        let notes = self.notes.clone();
        self.transfers.outputs = Some(self.tasks.spawn(async move {
            let result = job.run().await;
            notes.send(Note::Outputs(result)).await;
        }));
        None
    }

    pub(super) async fn on_outputs(
        &mut self,
        result: Result<Fetched, FetchError>,
    ) -> Result<Option<Event>, RentalError> {
        self.transfers.outputs = None;
        match result {
            Ok(fetched) => {
                self.transfers.fetched = true;
                self.state.outputs_note = None;
                self.tell(RentalEvent::Outputs(fetched));
                return Ok(self.outputs_all_here());
            }
            Err(FetchError::Here(why)) => {
                self.transfers.outputs_again_at = Some(Instant::now() + SPACE_AGAIN_AFTER);
                self.note_outputs(why.to_string(), true).await?;
            }
            Err(why) => {
                self.transfers.outputs_tries += 1;
                let line_lost = matches!(why, FetchError::Line(_)) && self.connection().is_none();
                if line_lost {
                    // Fetched again when the Container says on the next line that the job is over.
                } else if self.transfers.outputs_tries < TRIES_MAX {
                    tracing::info!(lease = %self.lease.short(), %why, "outputs are fetched again");
                    self.transfers.outputs_again_at = Some(Instant::now() + AGAIN_AFTER);
                } else {
                    self.note_outputs(why.to_string(), false).await?;
                    self.transfers.fetched = true;
                    return Ok(self.outputs_all_here());
                }
            }
        }
        Ok(None)
    }

    /// Tries again what failed; gives up when the Container keeps the outputs no longer.
    pub(super) async fn retry_outputs(&mut self) -> Result<Option<Event>, RentalError> {
        if !self.transfers.wanted || self.brain.rented().outputs_taken {
            return Ok(None);
        }
        let over = self.lease_now().ended_at.unwrap_or_else(|| self.now());
        if self.now().since(over) > self.renter.params().keep_outputs_ms {
            if self.state.outputs_note.is_none() {
                let why = "the Container did not answer for as long as it keeps outputs; they are lost".to_owned();
                self.note_outputs(why, false).await?;
            }
            return Ok(Some(Event::OutputsTaken));
        }
        if self.transfers.outputs_again_at.is_some_and(|at| Instant::now() >= at) {
            return Ok(self.take_outputs());
        }
        Ok(None)
    }

    async fn note_outputs(&mut self, why: String, again: bool) -> Result<(), RentalError> {
        if self.state.outputs_note.as_ref() != Some(&why) {
            self.state.outputs_note = Some(why.clone());
            self.save().await?;
            self.tell(RentalEvent::OutputsFailed { why, again });
        }
        Ok(())
    }

    /// The Container deletes its copies at this event, so both outputs and logs must be here.
    pub(super) fn outputs_all_here(&self) -> Option<Event> {
        (self.transfers.wanted && self.transfers.fetched && self.stdio_over()).then_some(Event::OutputsTaken)
    }

    pub(super) fn show_progress(&mut self) {
        let (sent, total) = self.transfers.up.read();
        if self.transfers.inputs.is_some() && self.transfers.shown.0 != sent {
            self.transfers.shown.0 = sent;
            self.tell(RentalEvent::Uploading { bytes: sent, total });
        }
        let (got, _) = self.transfers.down.read();
        if self.transfers.outputs.is_some() && self.transfers.shown.1 != got {
            self.transfers.shown.1 = got;
            self.tell(RentalEvent::Downloading { bytes: got });
        }
        debug_assert!(self.lease_now().phase != Phase::Void || self.transfers.outputs.is_none());
    }
}

struct Upload {
    connection: Connection,
    lease: LeaseId,
    inputs: Vec<PathBuf>,
    /// What a model's inputs are: they are not sent where they are already.
    weights: Option<WeightsId>,
    meter: Arc<Meter>,
    notes: Notes,
    pause: Duration,
}

impl Upload {
    async fn run(self) -> Result<Sent, SendFailed> {
        tokio::time::sleep(self.pause).await;
        if let Some(weights) = self.weights
            && has_weights(&self.connection, self.lease, weights).await.map_err(SendFailed::Line)?
        {
            return Ok(Sent { entries: 0, bytes: 0 });
        }
        let inputs = self.inputs;
        let planned = tokio::task::spawn_blocking(move || files::plan(&inputs)).await;
        let source = planned.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        if !source.left_out.is_empty() {
            self.notes.send(Note::LeftOut(source.left_out.clone())).await;
        }
        let stream = self.connection.open_bi(StreamKind::Files).await.map_err(SendFailed::Line)?;
        let mut line = stream.framed();
        line.send(&Transfer::Inputs { lease: self.lease }).await.map_err(SendFailed::Line)?;
        files::send(line, Arc::new(source), self.meter).await
    }
}

/// Whether the Container has these weights already.
async fn has_weights(connection: &Connection, lease: LeaseId, weights: WeightsId) -> Result<bool, NetError> {
    let mut line = connection.open_bi(StreamKind::Inference).await?.framed();
    line.send(&InferenceOpen::Has { lease, weights }).await?;
    let answer = line.recv_within::<FromInference>(ASK_WITHIN).await?;
    Ok(matches!(answer, FromInference::Has(true)))
}

struct Download {
    connection: Connection,
    lease: LeaseId,
    output: PathBuf,
    claims: Claims,
    meter: Arc<Meter>,
}

impl Download {
    async fn run(self) -> Result<Fetched, FetchError> {
        let stream = self.connection.open_bi(StreamKind::Files).await.map_err(FetchError::Line)?;
        let mut line = stream.framed();
        line.send(&Transfer::Outputs { lease: self.lease }).await.map_err(FetchError::Line)?;
        files::fetch(line, self.lease, &self.output, &self.claims, self.meter).await
    }
}
