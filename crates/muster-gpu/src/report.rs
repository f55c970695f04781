//! The words in which cards are described.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use muster_core::hardware::GpuVendor;
use serde::{Deserialize, Serialize};

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuReport {
    /// Real cards, in the order of their PCI addresses, then of their identifiers: a lasting order.
    pub gpus: Vec<GpuDevice>,
    /// Devices that only pretend; never offered.
    pub software: Vec<SoftwareDevice>,
    /// Sentences on what could not be asked, for `muster doctor`.
    pub notes: Vec<String>,
}

/// How a card is built into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuKind {
    /// With memory of its own.
    Discrete,
    /// Sharing the processor's memory.
    Integrated,
    /// A slice of a card, given by a hypervisor.
    Virtual,
    /// Its driver does not say.
    Unknown,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuDevice {
    /// Name as its driver reports it.
    pub name: String,
    /// Who made it.
    pub vendor: GpuVendor,
    /// The driver's lasting identifier, 32 hexadecimal digits; on Vulkan-only cards some drivers derive it from the model
    /// and slot.
    pub uuid: String,
    /// Where it sits, when a driver tells.
    pub pci: Option<PciAddress>,
    /// Its own memory in bytes; for an integrated card what it may take of the machine's.
    pub vram_bytes: u64,
    /// Driver name and version.
    pub driver: String,
    /// How it is built in.
    pub kind: GpuKind,
    /// Whether NVML knows it: CUDA programs can use it.
    pub nvml: bool,
    /// Whether Vulkan knows it.
    pub vulkan: bool,
    /// Device files that a Sandbox needs to use it, those shared with other cards of the driver included.
    pub device_files: Vec<PathBuf>,
}

/// A device that computes on the processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftwareDevice {
    /// Name as its driver reports it.
    pub name: String,
    /// Driver name and version.
    pub driver: String,
}

/// A place on the PCI bus, written `0000:65:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device.
    pub device: u32,
    /// Function.
    pub function: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: Option<&str>| part.and_then(|part| u32::from_str_radix(part, 16).ok());
        let mut parts = text.split([':', '.']);
        let fields = [parse(parts.next()), parse(parts.next()), parse(parts.next()), parse(parts.next())];
        match (fields, parts.next()) {
            ([Some(domain), Some(bus), Some(device), Some(function)], None) => {
                Ok(Self { domain, bus, device, function })
            }
            _ => Err(format!("{text:?} is not a PCI address such as 0000:65:00.0")),
        }
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

/// The maker behind a PCI vendor number.
pub(crate) fn vendor(pci_vendor: u32) -> GpuVendor {
    match pci_vendor {
        0x10de => GpuVendor::Nvidia,
        0x1002 | 0x1022 => GpuVendor::Amd,
        0x8086 => GpuVendor::Intel,
        0x106b => GpuVendor::Apple,
        _ => GpuVendor::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_written_as_the_system_writes_them() {
        let address: PciAddress = "0000:65:00.0".parse().expect("an address");
        assert_eq!((address.domain, address.bus), (0, 0x65));
        assert_eq!(address.to_string(), "0000:65:00.0");
        for text in ["", "65:00.0", "0000:65:00.0.1", "x:y:z.0"] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
