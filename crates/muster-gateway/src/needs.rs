//! What a model takes to be served, where its deployer says nothing.

use muster_core::demand::{Demand, TIME_LIMIT_S_MAX, WorkloadKind};
use muster_core::inference::{ModelDemand, ModelSpec};
use muster_core::units::Bytes;

/// A core, in thousandths.
const CPU_MILLIS: u32 = 1_000;
/// Memory beside weights and what a context remembers.
const MEMORY_BESIDE: u64 = 384 << 20;
/// What a token of context may take, for each GiB of weights: small models remember more for their size.
const REMEMBERED_PER_GIB: u64 = 64 * 1024;
const REMEMBERED_MIN: u64 = 16 * 1024;
/// What is rented for a provider's own engine, which runs outside of it.
const ENDPOINT_CPU_MILLIS: u32 = 100;
const ENDPOINT_MEMORY: u64 = 64 << 20;
/// Disk beside what is sent.
const DISK_BESIDE: u64 = 64 << 20;

/// A core, memory for weights and contexts, disk for weights that are `sent`, and how many tokens are paid beforehand:
/// so many may be on their way to being paid beside what the model's places can hold (`credit_beside`), and the deposit
/// pays for four times that, and for `deposit_tokens` at least.
#[must_use]
pub fn model_needs(model: &ModelSpec, sent: bool, credit_beside: u64, deposit_tokens: u64) -> Demand {
    let bytes = model.bytes;
    let remembered = (bytes.0 / (Bytes::GIB / REMEMBERED_PER_GIB)).max(REMEMBERED_MIN);
    let places = u64::from(model.context).saturating_mul(u64::from(model.parallel));
    // Each place has a context of its own.
    let context_bytes = remembered.saturating_mul(places);
    // The file is read through the page cache, which counts as the job's memory, and may be held once more.
    let memory = (bytes.0.saturating_mul(5) / 4).saturating_add(context_bytes).saturating_add(MEMORY_BESIDE);
    let disk = if sent { (bytes.0.saturating_mul(21) / 20).saturating_add(DISK_BESIDE) } else { DISK_BESIDE };
    let credit_tokens = places.saturating_mul(2).saturating_add(credit_beside);
    let endpoint = model.endpoint.is_some();
    let (kind, cpu_millis, memory) = if endpoint {
        (WorkloadKind::Endpoint, ENDPOINT_CPU_MILLIS, ENDPOINT_MEMORY)
    } else {
        (WorkloadKind::Model, CPU_MILLIS, memory)
    };
    Demand {
        kind,
        cpu_millis,
        memory: Bytes(memory),
        disk: Bytes(disk),
        // Thirty days.
        time_limit_s: TIME_LIMIT_S_MAX,
        model: Some(ModelDemand {
            weights: model.weights,
            bytes,
            endpoint,
            price_max: None,
            deposit_tokens: deposit_tokens.max(credit_tokens.saturating_mul(4)),
            credit_tokens,
        }),
        ..Demand::default()
    }
}
