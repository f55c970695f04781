//! What is kept of a lease on the consumer's side.

use std::path::PathBuf;

use muster_core::brain::consumer::Rented;
use muster_core::ids::LeaseId;
use muster_core::protocol::JobSpec;
use muster_core::units::TimeMs;
use serde::{Deserialize, Serialize};

/// What never changes about a lease, written before its deposit is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasePlan {
    /// When it was made, by this machine's clock.
    pub created_at: TimeMs,
    /// The network it belongs to ([`Network::fingerprint`](crate::Network::fingerprint)).
    pub network: String,
    /// The key that signs its vouchers: worth this lease's deposit and no more.
    pub session_key: SessionSecret,
    /// What is to run.
    pub spec: JobSpec,
    /// What is sent before.
    pub inputs: Vec<PathBuf>,
    /// Where the outputs go; nothing is fetched if none is named.
    pub output: Option<PathBuf>,
    /// Whether the job's standard output and error are read and kept.
    pub keep_logs: bool,
    /// The job that it belongs to.
    pub job: String,
    /// Its place in an array, and how many tasks that has.
    pub task: Option<TaskPlace>,
    /// Which try of the task this is, from 1.
    pub attempt: u32,
}

/// A task's place in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskPlace {
    /// Its number, as `MUSTER_TASK_INDEX` holds it.
    pub index: u32,
    /// How many tasks there are.
    pub count: u32,
}

/// The 32 bytes of a session key. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret(pub [u8; 32]);

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

impl Serialize for SessionSecret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SessionSecret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| serde::de::Error::custom("not 64 hex digits"))?;
        Ok(Self(bytes))
    }
}

/// What changes while a lease lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseState {
    /// The brain's record.
    pub rented: Rented,
    /// Bytes of standard output that were received.
    pub out_seen: u64,
    /// Bytes of standard error that were received.
    pub err_seen: u64,
    /// Why the outputs are not (all) here, if so.
    pub outputs_note: Option<String>,
    /// What a person must do for this lease to go on, if anything.
    pub needs: Option<String>,
}

impl LeaseState {
    /// At the beginning.
    #[must_use]
    pub const fn new(rented: Rented) -> Self {
        Self { rented, out_seen: 0, err_seen: 0, outputs_note: None, needs: None }
    }
}

/// All that is kept of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// What never changes.
    pub plan: LeasePlan,
    /// What does.
    pub state: LeaseState,
}

impl LeaseRecord {
    /// The lease's name.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.state.rented.lease.terms.lease
    }

    /// Whether nothing is left to be done for it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let rented = &self.state.rented;
        let outputs_due = rented.gone.is_none() && rented.lease.end.is_some() && !rented.outputs_taken;
        rented.lease.phase.is_final() && !outputs_due
    }
}
