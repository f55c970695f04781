//! Vulkan, loaded at run time: cards of every maker, and software devices.

#![allow(unsafe_code, reason = "Vulkan is a C interface; every call is justified beside it")]

use std::ffi::CStr;

use ash::{Entry, Instance, vk};

use crate::report::{GpuDevice, GpuKind, PciAddress, vendor};

const DEVICES_MAX: usize = 64;

/// What Vulkan says about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VulkanDevice {
    pub(crate) device: GpuDevice,
    /// It computes on the processor.
    pub(crate) software: bool,
}

/// The devices Vulkan knows, and a sentence when the loader is there but fails.
pub(crate) fn devices() -> (Vec<VulkanDevice>, Option<String>) {
    // SAFETY: loading the system's Vulkan loader runs its initialisers; this is the program's only use of it, in a process
    // that does nothing else (see the crate's documentation).
    let entry = match unsafe { Entry::load() } {
        Ok(entry) => entry,
        // Without a loader there is nothing to ask; that is the ordinary state of a machine without a screen.
        Err(_) => return (Vec::new(), None),
    };
    let application = vk::ApplicationInfo::default().application_name(c"muster").api_version(vk::API_VERSION_1_1);
    let create = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: `create` and what it points to live until the call returns.
    let instance = match unsafe { entry.create_instance(&create, None) } {
        Ok(instance) => instance,
        Err(vk::Result::ERROR_INCOMPATIBLE_DRIVER) => return (Vec::new(), None),
        Err(error) => return (Vec::new(), Some(format!("Vulkan does not start: {error}"))),
    };
    // SAFETY: the instance is alive.
    let listed = unsafe { instance.enumerate_physical_devices() };
    let answer = match listed {
        Ok(handles) => {
            (handles.into_iter().take(DEVICES_MAX).map(|handle| describe(&instance, handle)).collect(), None)
        }
        Err(error) => (Vec::new(), Some(format!("Vulkan cannot list its devices: {error}"))),
    };
    // SAFETY: nothing made from the instance is used after this.
    unsafe { instance.destroy_instance(None) };
    answer
}

fn describe(instance: &Instance, handle: vk::PhysicalDevice) -> VulkanDevice {
    // SAFETY: the handle comes from this live instance.
    let extensions = unsafe { instance.enumerate_device_extension_properties(handle) }.unwrap_or_default();
    let has = |name: &CStr| extensions.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name));
    let (has_pci, has_driver) = (has(ash::ext::pci_bus_info::NAME), has(ash::khr::driver_properties::NAME));
    let mut ids = vk::PhysicalDeviceIDProperties::default();
    let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut wanted = vk::PhysicalDeviceProperties2::default().push_next(&mut ids);
    if has_pci {
        wanted = wanted.push_next(&mut pci);
    }
    if has_driver {
        wanted = wanted.push_next(&mut driver);
    }
    // SAFETY: the chain is made of structures that live on, each for an extension the device has or for Vulkan 1.1.
    unsafe { instance.get_physical_device_properties2(handle, &mut wanted) };
    let properties = wanted.properties;
    // SAFETY: the handle comes from this live instance.
    let memory = unsafe { instance.get_physical_device_memory_properties(handle) };
    let (kind, software) = match properties.device_type {
        vk::PhysicalDeviceType::DISCRETE_GPU => (GpuKind::Discrete, false),
        vk::PhysicalDeviceType::INTEGRATED_GPU => (GpuKind::Integrated, false),
        vk::PhysicalDeviceType::VIRTUAL_GPU => (GpuKind::Virtual, false),
        vk::PhysicalDeviceType::CPU => (GpuKind::Unknown, true),
        _ => (GpuKind::Unknown, false),
    };
    let text = |text: Result<&CStr, _>| text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    let driver = if has_driver {
        format!("{} {}", text(driver.driver_name_as_c_str()), text(driver.driver_info_as_c_str())).trim().to_owned()
    } else {
        format!("version {:#x}", properties.driver_version)
    };
    let device = GpuDevice {
        name: text(properties.device_name_as_c_str()),
        vendor: vendor(properties.vendor_id),
        uuid: ids.device_uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        pci: has_pci.then_some(PciAddress {
            domain: pci.pci_domain,
            bus: pci.pci_bus,
            device: pci.pci_device,
            function: pci.pci_function,
        }),
        vram_bytes: local_memory(&memory),
        driver,
        kind,
        nvml: false,
        vulkan: true,
        device_files: Vec::new(),
    };
    VulkanDevice { device, software }
}

/// The largest heap on the card: smaller ones are windows into it.
fn local_memory(memory: &vk::PhysicalDeviceMemoryProperties) -> u64 {
    let local =
        memory.memory_heaps_as_slice().iter().filter(|heap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    local.map(|heap| heap.size).max().unwrap_or(0)
}
