//! What models would run on here.

use muster_core::hardware::GpuVendor;
use muster_gpu::GpuDevice;
use serde::Serialize;

/// What llama.cpp computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Backend {
    Cuda,
    Metal,
    Vulkan,
    Cpu,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Cpu => "processor",
        }
    }
}

/// What this program can use, and what would be better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Models {
    /// What this program was built with.
    built: Vec<Backend>,
    /// What models of this machine's leases run on.
    uses: Backend,
    /// How to build a program that uses the cards; absent where this one does, or there are none.
    advice: Option<String>,
}

/// Looks at the cards.
pub(super) fn look(gpus: &[GpuDevice]) -> Models {
    let of = |built: bool, backend| built.then_some(backend);
    let built = [
        of(cfg!(feature = "cuda"), Backend::Cuda),
        of(cfg!(feature = "metal"), Backend::Metal),
        of(cfg!(feature = "vulkan"), Backend::Vulkan),
        Some(Backend::Cpu),
    ];
    choose(gpus, built.into_iter().flatten().collect())
}

/// The first that a card of this machine can be used by, the best one first.
fn choose(gpus: &[GpuDevice], built: Vec<Backend>) -> Models {
    let fits = |backend: Backend| match backend {
        Backend::Cuda => gpus.iter().any(|gpu| gpu.nvml),
        Backend::Metal => gpus.iter().any(|gpu| gpu.vendor == GpuVendor::Apple),
        Backend::Vulkan => gpus.iter().any(|gpu| gpu.vulkan),
        Backend::Cpu => true,
    };
    let best = [Backend::Cuda, Backend::Metal, Backend::Vulkan].into_iter().find(|backend| fits(*backend));
    let uses = built.iter().copied().filter(|backend| fits(*backend)).min().unwrap_or(Backend::Cpu);
    let advice = best.filter(|best| *best < uses).map(|best| {
        let name = best.name();
        let tools = match best {
            Backend::Cuda => "needs NVIDIA's CUDA toolkit",
            Backend::Metal => "needs Xcode's tools",
            Backend::Vulkan | Backend::Cpu => "needs: apt-get install libvulkan-dev glslc",
        };
        format!("models would run on the card with a program built so: make build FEATURES={name} ({tools})")
    });
    Models { built, uses, advice }
}

impl Models {
    /// For people.
    pub(super) fn lines(&self) -> String {
        let built: Vec<&str> = self.built.iter().map(|backend| backend.name()).collect();
        let mut text =
            format!("Models:\n  ok       llama.cpp on the {} (built for: {})", self.uses.name(), built.join(", "));
        if let Some(advice) = &self.advice {
            text.push_str("\n  better   ");
            text.push_str(advice);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use muster_gpu::GpuKind;

    use super::*;

    fn card(vendor: GpuVendor, nvml: bool, vulkan: bool) -> GpuDevice {
        GpuDevice {
            name: "a card".to_owned(),
            vendor,
            uuid: "0".repeat(32),
            pci: None,
            vram_bytes: 8 << 30,
            driver: "a driver".to_owned(),
            kind: GpuKind::Discrete,
            nvml,
            vulkan,
            device_files: Vec::new(),
        }
    }

    #[test]
    fn the_cards_choose_what_models_run_on() {
        let all = || vec![Backend::Cuda, Backend::Vulkan, Backend::Cpu];
        let (nvidia, amd) = (card(GpuVendor::Nvidia, true, true), card(GpuVendor::Amd, false, true));
        let of = |gpus: &[GpuDevice], built| {
            let models = choose(gpus, built);
            (models.uses, models.advice)
        };
        assert_eq!(of(std::slice::from_ref(&nvidia), all()), (Backend::Cuda, None));
        assert_eq!(of(std::slice::from_ref(&amd), all()), (Backend::Vulkan, None));
        assert_eq!(of(&[], all()), (Backend::Cpu, None));
        let (uses, advice) = of(std::slice::from_ref(&nvidia), vec![Backend::Vulkan, Backend::Cpu]);
        assert!(uses == Backend::Vulkan && advice.is_some_and(|advice| advice.contains("FEATURES=cuda")));
        let (uses, advice) = of(&[amd], vec![Backend::Cpu]);
        assert!(uses == Backend::Cpu && advice.is_some_and(|advice| advice.contains("FEATURES=vulkan")));
    }
}
