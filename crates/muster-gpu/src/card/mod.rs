//! Cards through wgpu: which there are, and opening one.

mod device;
mod gpu;
mod pads;

use serde::{Deserialize, Serialize};

pub(crate) use gpu::Gpu;

/// The most adapters that are looked at.
const ADAPTERS_MAX: usize = 64;

/// One thing that can prove: a card, a software driver, or the processor itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Its place in the list of [`adapters`].
    pub index: u32,
    /// Its name, as its driver tells it.
    pub name: String,
    /// Driver name and version; empty for the processor itself.
    pub driver: String,
    /// Where it sits on the PCI bus, when the driver tells.
    pub pci: String,
    /// It computes on the processor.
    pub software: bool,
    /// It is a Vulkan device; else it is the processor without any driver.
    pub vulkan: bool,
    /// The largest buffer that a shader can read, in bytes.
    pub binding_bytes_max: u64,
    /// How many such buffers a shader can read at once.
    pub bindings_max: u32,
}

impl Adapter {
    /// The processor, computing the reference itself.
    fn processor(index: u32) -> Self {
        Self {
            index,
            name: "processor".into(),
            driver: String::new(),
            pci: String::new(),
            software: true,
            vulkan: false,
            binding_bytes_max: u64::MAX,
            bindings_max: u32::MAX,
        }
    }
}

/// Why a card cannot prove. Each of these is an interruption: nothing false was said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// There is no such adapter.
    #[error("there is no adapter {index} here, only {count}: `muster gpu list` shows them")]
    NoAdapter {
        /// Which was asked for.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// The driver does not open the card.
    #[error("the driver does not open {name}: {why}")]
    Open {
        /// Its name.
        name: String,
        /// What the driver said.
        why: String,
    },
    /// The card was reset, fell out or its driver crashed.
    #[error("the card was lost while it worked: {why}")]
    Lost {
        /// What the driver said.
        why: String,
    },
    /// The card has not the memory that is claimed for it.
    #[error("the card cannot hold a pad of {bytes} bytes: {why}")]
    Memory {
        /// How large the pad is.
        bytes: u64,
        /// What failed.
        why: String,
    },
    /// A shader or a call is refused: an error of ours or of the driver.
    #[error("the driver refuses the work: {why}")]
    Refused {
        /// What it said.
        why: String,
    },
}

fn instance() -> wgpu::Instance {
    let mut wanted = wgpu::InstanceDescriptor::new_without_display_handle();
    wanted.backends = wgpu::Backends::VULKAN;
    // No validation layers and no debug output from drivers: this is no place to develop shaders.
    wanted.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(wanted)
}

fn vulkan_adapters(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let mut found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    found.truncate(ADAPTERS_MAX);
    // A lasting order: cards by their place on the bus, then software.
    found.sort_by_cached_key(|adapter| {
        let info = adapter.get_info();
        (info.device_type == wgpu::DeviceType::Cpu, info.device_pci_bus_id.clone(), info.name)
    });
    found
}

fn describe(adapter: &wgpu::Adapter, index: u32) -> Adapter {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    Adapter {
        index,
        name: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        pci: info.device_pci_bus_id,
        software: info.device_type == wgpu::DeviceType::Cpu,
        vulkan: true,
        binding_bytes_max: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        bindings_max: limits.max_storage_buffers_per_shader_stage,
    }
}

/// All that can prove on this machine: the Vulkan devices, cards first, and last the processor itself. Loads the drivers
/// into this process: call it in a child.
pub(crate) fn adapters() -> Vec<Adapter> {
    let instance = instance();
    let mut list: Vec<Adapter> =
        vulkan_adapters(&instance).iter().zip(0..).map(|(adapter, index)| describe(adapter, index)).collect();
    list.push(Adapter::processor(u32::try_from(list.len()).unwrap_or(u32::MAX)));
    list
}

/// Opens an adapter by its place in [`adapters`]; `None` for the processor, which needs no opening.
///
/// # Errors
/// [`CardError`].
pub(crate) fn open(index: u32) -> Result<Option<Gpu>, CardError> {
    let instance = instance();
    let found = vulkan_adapters(&instance);
    let count = found.len();
    match usize::try_from(index) {
        Ok(at) if at == count => Ok(None),
        Ok(at) => match found.get(at) {
            Some(adapter) => Gpu::open(adapter).map(Some),
            None => Err(CardError::NoAdapter { index, count: count + 1 }),
        },
        Err(_) => Err(CardError::NoAdapter { index, count: count + 1 }),
    }
}
