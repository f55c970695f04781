//! One card seen twice is one card.

use std::path::{Path, PathBuf};

use crate::report::{GpuDevice, GpuReport, PciAddress, SoftwareDevice};
use crate::vulkan::VulkanDevice;

/// Joins what both interfaces say, by identifier, else by place on the bus. NVML's figures win: they count all the memory.
pub(crate) fn merge(nvml: Vec<GpuDevice>, vulkan: Vec<VulkanDevice>) -> GpuReport {
    let mut report = GpuReport { gpus: nvml, ..GpuReport::default() };
    for VulkanDevice { device, software } in vulkan {
        if software {
            report.software.push(SoftwareDevice { name: device.name, driver: device.driver });
            continue;
        }
        match report.gpus.iter_mut().find(|known| is_same(known, &device)) {
            Some(known) => {
                known.vulkan = true;
                known.kind = device.kind;
                known.pci = known.pci.or(device.pci);
            }
            None => report.gpus.push(device),
        }
    }
    for gpu in &mut report.gpus {
        let files = gpu.pci.map(|pci| render_files(Path::new("/sys/bus/pci/devices"), pci)).unwrap_or_default();
        for file in files {
            if !gpu.device_files.contains(&file) {
                gpu.device_files.push(file);
            }
        }
    }
    report.gpus.sort_by(|a, b| (a.pci.is_none(), a.pci, &a.uuid).cmp(&(b.pci.is_none(), b.pci, &b.uuid)));
    report
}

fn is_same(known: &GpuDevice, seen: &GpuDevice) -> bool {
    let same_uuid = !seen.uuid.is_empty() && known.uuid == seen.uuid;
    // Two Vulkan drivers may serve one card under identifiers of their own; its place on the bus is one.
    let same_place = known.pci.is_some() && known.pci == seen.pci;
    same_uuid || same_place
}

/// The render nodes of a card, from the system's own tree.
fn render_files(devices: &Path, pci: PciAddress) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(devices.join(pci.to_string()).join("drm")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("renderD"));
    let mut files: Vec<PathBuf> = names.map(|name| Path::new("/dev/dri").join(name)).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use muster_core::hardware::GpuVendor;

    use super::*;
    use crate::report::GpuKind;

    fn card(uuid: &str, pci: Option<&str>) -> GpuDevice {
        GpuDevice {
            name: "card".into(),
            vendor: GpuVendor::Nvidia,
            uuid: uuid.into(),
            pci: pci.map(|text| text.parse().expect("address")),
            vram_bytes: 24 << 30,
            driver: "driver".into(),
            kind: GpuKind::Discrete,
            nvml: true,
            vulkan: false,
            device_files: Vec::new(),
        }
    }

    fn seen(uuid: &str, pci: Option<&str>, software: bool) -> VulkanDevice {
        let device = GpuDevice { nvml: false, vulkan: true, vram_bytes: 1, ..card(uuid, pci) };
        VulkanDevice { device, software }
    }

    #[test]
    fn a_card_seen_by_both_is_listed_once_with_nvmls_figures() {
        for vulkan in [seen("aa", None, false), seen("other", Some("0000:01:00.0"), false)] {
            let report = merge(vec![card("aa", Some("0000:01:00.0"))], vec![vulkan]);
            assert_eq!(report.gpus.len(), 1);
            assert!(report.gpus[0].nvml && report.gpus[0].vulkan);
            assert_eq!(report.gpus[0].vram_bytes, 24 << 30);
        }
    }

    #[test]
    fn different_cards_stay_apart_in_a_lasting_order() {
        let vulkan = vec![seen("cc", None, false), seen("bb", Some("0000:02:00.0"), false)];
        let report = merge(vec![card("aa", Some("0000:03:00.0"))], vulkan);
        let order: Vec<&str> = report.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        assert_eq!(order, ["bb", "aa", "cc"]);
    }

    #[test]
    fn software_is_no_card() {
        let report = merge(Vec::new(), vec![seen("aa", None, true)]);
        assert!(report.gpus.is_empty());
        assert_eq!(report.software.len(), 1);
    }

    #[test]
    fn render_nodes_are_found_by_place() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let drm = dir.path().join("0000:01:00.0/drm");
        for name in ["card0", "renderD129", "renderD128"] {
            std::fs::create_dir_all(drm.join(name)).expect("folder");
        }
        let files = render_files(dir.path(), "0000:01:00.0".parse().expect("address"));
        assert_eq!(files, [Path::new("/dev/dri/renderD128"), Path::new("/dev/dri/renderD129")]);
        assert!(render_files(dir.path(), "0000:09:00.0".parse().expect("address")).is_empty());
    }
}
