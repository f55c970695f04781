//! What a Container tells its owner, as stable field names for programs.

use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::Intent;

/// The whole status. Amounts are decimal strings in the token's smallest unit, times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The node's key.
    pub id: NodeIdText,
    /// As its owner calls it.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// `serving`, `draining` or `leaving`.
    pub intent: Intent,
    /// Its standing in the registry, in a word; `unknown` before the chain has answered.
    pub standing: String,
    /// Why no work is taken, or why the chain does not answer, as a sentence.
    pub problem: Option<String>,
    /// Who gets paid.
    pub owner: String,
    /// What it offers in all.
    pub total: CapacityStatus,
    /// What of it is free.
    pub free: CapacityStatus,
    /// The network's Indexers and whether there is a line to each.
    pub indexers: Vec<IndexerStatus>,
    /// Leases that are not finished, by name.
    pub leases: Vec<LeaseStatus>,
    /// Consumers that are attached.
    pub consumers_attached: usize,
    /// What it earned.
    pub earned: EarnedStatus,
    /// The last finished leases, newest first.
    pub history: Vec<HistoryStatus>,
}

/// A node's key as text.
pub type NodeIdText = String;

/// An amount of capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityStatus {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Cards.
    pub gpus: u32,
}

impl CapacityStatus {
    pub(crate) fn new(cpu_millis: u32, memory: Bytes, disk: Bytes, gpus: usize) -> Self {
        let gpus = u32::try_from(gpus).unwrap_or(u32::MAX);
        Self { cpu_millis, memory_bytes: memory.0, disk_bytes: disk.0, gpus }
    }
}

/// An Indexer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexerStatus {
    /// Its key.
    pub id: NodeIdText,
    /// Whether there is a line to it now.
    pub connected: bool,
}

/// A lease that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Its name.
    pub lease: String,
    /// `accepted`, `open`, `starting`, `running`, `ended` or `settling`.
    pub phase: String,
    /// Who pays.
    pub consumer: String,
    /// When the workload began.
    pub started_at_ms: Option<u64>,
    /// How long it has run.
    pub ran_ms: u64,
    /// The price of a second.
    pub rate_per_second: String,
    /// What the consumer has promised so far.
    pub paid: String,
    /// What the escrow holds for it.
    pub deposit: String,
    /// What is set aside for it.
    pub rented: CapacityStatus,
    /// Processor time that it used, in milliseconds.
    pub cpu_used_ms: Option<u64>,
    /// Most memory that it used.
    pub memory_peak_bytes: Option<u64>,
}

/// What was earned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarnedStatus {
    /// Leases that were settled.
    pub leases: u64,
    /// Of them, those that this Container interrupted.
    pub interrupted: u64,
    /// Milliseconds that workloads ran.
    pub ran_ms: u64,
    /// Paid by consumers, the network's fee included.
    pub redeemed: String,
    /// What the owner can claim now, over all its Containers; `None` while the chain does not answer.
    pub claimable: Option<String>,
    /// What the owner can claim later.
    pub pending: Option<String>,
}

/// A finished lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Its name.
    pub lease: String,
    /// Who paid.
    pub consumer: String,
    /// When the workload began.
    pub started_at_ms: Option<u64>,
    /// When it was over.
    pub ended_at_ms: u64,
    /// How long it ran.
    pub ran_ms: u64,
    /// How it ended, as a sentence.
    pub end: String,
    /// Whether this Container's fault ended it.
    pub interrupted: bool,
    /// Paid by the consumer, the network's fee included.
    pub redeemed: String,
    /// Vouchers taken.
    pub vouchers: u32,
    /// The transaction that closed it, if this Container sent it.
    pub settle_tx: Option<String>,
}

pub(crate) fn lease_text(lease: LeaseId) -> String {
    lease.to_string()
}

pub(crate) fn node_text(node: NodeId) -> NodeIdText {
    node.to_string()
}

pub(crate) fn address_text(address: Address) -> String {
    address.to_string()
}
