//! What this machine has: graphics cards through NVML and Vulkan, and the processor, memory and disk around them.
//!
//! Drivers are heavy, leak threads and sometimes crash. So a role never calls [`probe`] itself: it runs a short-lived child
//! through [`probe_in_child`], whose program calls [`probe_main`] for the argument [`GPU_PROBE`]. A driver that crashes or
//! hangs then costs one sentence in the report instead of a node. In the same way the prover of Proof of Rendering is a
//! child: [`CardProver`] starts it, and its program calls [`prove_main`] for the argument [`GPU_PROVE`].
//!
//! Both libraries are loaded at run time; a machine without them has no cards, which is no error. A Vulkan device that
//! computes on the processor (lavapipe, SwiftShader) is listed as software and never offered as a card.

mod card;
mod child;
mod host;
mod local;
mod merge;
mod nvml;
mod png_file;
mod prove;
mod report;
mod vulkan;

pub use card::{Adapter, CardError};
pub use child::{GPU_PROBE, ProbeError, probe_in_child, probe_main};
pub use host::{HostError, HostReport};
pub use local::{LocalError, measure, prove_locally};
pub use png_file::{PngError, write_png};
pub use prove::{CardProver, GPU_PROVE, ProveError, prove_main};
pub use report::{GpuDevice, GpuKind, GpuReport, PciAddress, SoftwareDevice};

/// Asks NVML and Vulkan in this process. Takes from milliseconds to seconds, and loads the drivers for good.
#[must_use]
pub fn probe() -> GpuReport {
    let (nvml_devices, nvml_note) = nvml::devices();
    let (vulkan_devices, vulkan_note) = vulkan::devices();
    let mut report = merge::merge(nvml_devices, vulkan_devices);
    report.notes = [nvml_note, vulkan_note].into_iter().flatten().collect();
    report
}
