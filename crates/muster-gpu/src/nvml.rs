//! NVIDIA's management library, loaded at run time.

use std::path::PathBuf;

use muster_core::hardware::GpuVendor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::report::{GpuDevice, GpuKind, PciAddress};

/// More cards than any machine has: a bound for a library that answers nonsense.
const DEVICES_MAX: u32 = 64;

/// The cards NVML knows, and a sentence when it cannot be asked although an NVIDIA driver is loaded.
pub(crate) fn devices() -> (Vec<GpuDevice>, Option<String>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => return (Vec::new(), absence(&error)),
    };
    let driver = nvml.sys_driver_version().unwrap_or_else(|_| "of unknown version".into());
    let count = match nvml.device_count() {
        Ok(count) => count.min(DEVICES_MAX),
        Err(error) => return (Vec::new(), Some(format!("NVML cannot list the cards: {error}"))),
    };
    let mut found = Vec::new();
    let mut note = None;
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|device| describe(&device, &driver)) {
            Ok(device) => found.push(device),
            Err(error) => note = Some(format!("NVML cannot describe card {index}: {error}")),
        }
    }
    (found, note)
}

/// Nothing to say on a machine without NVIDIA's driver; where the driver is there, the library should be too.
fn absence(error: &NvmlError) -> Option<String> {
    let driver_loaded = std::path::Path::new("/proc/driver/nvidia/version").exists();
    driver_loaded.then(|| format!("an NVIDIA driver is loaded but NVML does not work: {error}; install libnvidia-ml1"))
}

fn describe(device: &Device<'_>, driver: &str) -> Result<GpuDevice, NvmlError> {
    let pci = device.pci_info()?;
    let minor = device.minor_number().ok();
    let mut device_files: Vec<PathBuf> =
        minor.map(|minor| PathBuf::from(format!("/dev/nvidia{minor}"))).into_iter().collect();
    device_files.extend(
        ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"].map(PathBuf::from),
    );
    device_files.retain(|path| path.exists());
    Ok(GpuDevice {
        name: device.name()?,
        vendor: GpuVendor::Nvidia,
        uuid: plain_uuid(&device.uuid()?),
        pci: Some(PciAddress { domain: pci.domain, bus: pci.bus, device: pci.device, function: 0 }),
        vram_bytes: device.memory_info()?.total,
        driver: format!("NVIDIA {driver}"),
        // NVML lists no integrated cards on machines with a PCI bus.
        kind: GpuKind::Discrete,
        nvml: true,
        vulkan: false,
        device_files,
    })
}

/// `GPU-` and dashes are NVML's; the digits are the same ones Vulkan reports.
fn plain_uuid(text: &str) -> String {
    text.trim_start_matches("GPU-").chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_lose_their_ornaments() {
        assert_eq!(plain_uuid("GPU-5A1B0000-0001-0002-0003-00000000000F"), "5a1b000000010002000300000000000f");
    }
}
